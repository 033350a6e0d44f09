"""torch.optim imports torch's compiler at its first step, only to ask it to stay away: a second of every start.

A stand-in takes the compiler's place until anybody wants more of it than the two functions that torch.optim calls.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


class _StandIn(ModuleType):
    @staticmethod
    def graph_break(msg: str = "") -> None:
        """Nothing is being compiled, so there is no graph to break."""

    @staticmethod
    def disable(fn: Any = None, recursive: bool = True, **_: Any) -> Any:
        """Nothing is being compiled: the function as it is."""
        return fn if fn is not None else lambda function: function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # whoever looks through all modules wants nothing of this one
            raise AttributeError(name)
        return getattr(_real(), name)


class _Finder:
    """For `import torch._dynamo.config`: the real package first, which brings most of what is in it."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if name.startswith(f"{NAME}.") and isinstance(sys.modules.get(NAME), _StandIn):
            _real()
            if name in sys.modules:
                return spec_from_loader(name, _There(sys.modules[name]))  # type: ignore[arg-type]
        return None


class _There:
    """Loads a module that is loaded."""

    def __init__(self, module: ModuleType):
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


def _real() -> ModuleType:
    if isinstance(sys.modules.get(NAME), _StandIn):
        del sys.modules[NAME]
    return importlib.import_module(NAME)


def leave_out() -> None:
    """Put the stand-in where the compiler is not loaded yet."""
    import torch

    if NAME in sys.modules:
        return
    spec = find_spec(NAME)
    if spec is None or spec.submodule_search_locations is None:
        return  # another torch: it will do without us
    module: Any = _StandIn(NAME)
    module.__spec__, module.__file__ = spec, spec.origin
    module.__path__, module.__package__ = list(spec.submodule_search_locations), NAME
    sys.modules[NAME] = torch._dynamo = module
    sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
