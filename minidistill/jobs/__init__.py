"""The methods that `minidistill` runs. A method is one file here, and is named nowhere else. It has

    options(add)             its options, each by add(...), argparse's add_argument: --data, --updates, and
                             what is its own
    default_updates(data)    --updates, where that has no default of its own
    minutes(args)            how long a run takes on two processor cores, about; it is said before it starts
    stages(args)             its training stages in order, {name: updates}; refuses options that do not fit
    load(args)               its data, a list of tensors
    run(args, stage, data)   trains every stage, and returns the comparison: a function, which one process
                             calls, of what to print and the files to write, {name: content}

and a docstring, which is its help. A stage is run by stage(name, train, *models_and_data), where
train(*models_and_data, steps, **options) hands the options on to minidistill.train.train; its checkpoint has
the stage's name; a second network that is trained with it has one beside it. What methods have in common is
in contest.py.
"""

import importlib
import pkgutil
from types import ModuleType

DEFAULT = "progressive"  # the table of the README


def methods() -> dict[str, ModuleType]:
    """Every method by its name. Raises ValueError where the extra `figures` is not installed."""
    names = [file.name for file in pkgutil.iter_modules(__path__)]
    try:
        modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("matplotlib", "PIL", "sklearn"):
            raise ValueError(f'{error}: the extra "figures" brings it, pip install ".[figures]"') from error
        raise
    return {name: module for name, module in modules.items() if hasattr(module, "run")}
