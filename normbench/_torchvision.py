"""The one place that imports torchvision, and only when it is called: the import takes about a second."""

import importlib
import sys
from types import ModuleType

_MISSING = "operator torchvision::nms does not exist"
_FAKES = "torchvision._meta_registrations"


def torchvision() -> ModuleType:
    """The package torchvision: its Python parts (datasets, models, transforms).

    The package index's torchvision is built for CUDA. Beside a CPU-only torch its C++ operators cannot load and,
    in 0.26 to 0.29, `import torchvision` fails while it describes these operators to the compiler. normbench uses
    none of them: after that very error an empty module takes the place of the descriptions.

    Raises:
        ImportError: torchvision is not installed; any other error of the import passes through, too.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if _MISSING not in str(error):
            raise
    _forget()
    sys.modules[_FAKES] = ModuleType(_FAKES)
    try:
        return importlib.import_module("torchvision")
    except BaseException:
        _forget()  # nobody shall meet the empty module, nor a half-imported package
        raise


def _forget() -> None:
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
