"""Hydra's loader of configs outside of `normbench train`: for commands that make many runs by themselves."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra

__all__ = ["ConfigLoader", "opened"]


@contextlib.contextmanager
def opened(config_dir: Path | None) -> Iterator[ConfigLoader]:
    """With the choices of conf/, those of a folder of one's own, and classes found where the command is started."""
    places = create_config_search_path("pkg://normbench.conf")
    if config_dir is not None:
        schema = SearchPathQuery(provider="schema")  # which must stay the last
        places.prepend("command-line", f"file://{config_dir.absolute()}", anchor=schema)
    before = list(sys.path)
    sys.path.append(os.getcwd())
    GlobalHydra.instance().clear()
    try:
        yield Hydra.create_main_hydra2("normbench", places).config_loader
    finally:
        GlobalHydra.instance().clear()
        sys.path[:] = before
