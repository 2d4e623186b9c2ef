"""What holds for every check: the package's own function passes it, whatever the inputs are."""

import importlib
import inspect
import pkgutil

import pytest

from minidistill import checks

MODULES = [
    importlib.import_module(f"minidistill.checks.{name}")
    for _, name, _ in pkgutil.iter_modules(checks.__path__)
]
CHECKS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": check
    for module in MODULES
    for name, check in vars(module).items()
    if name.startswith("check_")
    and check.__module__ == module.__name__
    and next(iter(inspect.signature(check).parameters.values())).default is not inspect.Parameter.empty
}  # without those that are a part of others, whose first argument has no default


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_ours_passes_at_200_seeds(name, unchecked_shapes):
    for seed in range(200):
        CHECKS[name](seed=seed)
