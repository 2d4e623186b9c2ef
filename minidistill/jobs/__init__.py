"""The methods that `minidistill` runs. A method is one file here, and is named nowhere else. It has

    options(add)             its options, each by add(...), which is argparse's add_argument
    stages(args)             its training stages in order, {name: updates}; refuses options that do not fit
    load(args)               its data, a list of tensors
    run(args, stage, data)   trains every stage by stage(name, train, *models_and_data), then compares;
                             returns what to print, and the files to write, {name: content}

and a docstring, which is its help. What methods have in common is in contest.py.
"""

import importlib
import pkgutil
from types import ModuleType

DEFAULT = "progressive"  # the table of the README


def methods() -> dict[str, ModuleType]:
    """Every method by its name. Raises ImportError where what draws and what loads data is not installed."""
    names = [file.name for file in pkgutil.iter_modules(__path__)]
    try:
        modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}; pip install -r requirements.txt brings it") from error
    return {name: module for name, module in modules.items() if hasattr(module, "run")}
