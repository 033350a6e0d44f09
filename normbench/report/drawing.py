"""Figures drawn and written in every format; of many runs in processes beside this one. Pure."""

import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from importlib import import_module
from multiprocessing import get_context

from tqdm import tqdm

from normbench.report import style
from normbench.report.figures import Drawn, NotDrawn
from normbench.report.study import Study

MANY = 1000  # runs; of fewer, figures are soon drawn by this process alone

Pages = list[tuple[Drawn, dict[str, bytes]]]  # without the figure itself, which is in its files
_study: Study  # in a process that draws


@dataclass
class Figures:
    """What was drawn, in the report's order; of each, by its name, its files by format; of what was not: the reason."""

    drawn: list[Drawn] = field(default_factory=list)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    missing: list[tuple[str, str]] = field(default_factory=list)


class Drawing:
    """The figures of these keys, begun at once where they are drawn by other processes: `figures` waits for them."""

    def __init__(self, study: Study, keys: Sequence[str]):
        self._study, self._keys, self._pool = study, keys, None
        count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1  # elsewhere a fork is not safe
        if len(study.runs) >= MANY and count > 1 and len(keys) > 1:
            # forked, the processes have the study at hand, and share its memory
            self._pool = ProcessPoolExecutor(min(count, len(keys)), get_context("fork"), _begin, (study,))
            self._futures = {self._pool.submit(_made, key): key for key in keys}

    def figures(self) -> Figures:
        made = self._waited() if self._pool else {key: pages(self._study, key) for key in _bar(self._keys, self._keys)}
        found = Figures()
        for key in self._keys:
            if isinstance(answer := made[key], str):
                found.missing.append((key, answer))
            else:
                found.drawn += [drawn for drawn, _ in answer]
                found.files |= {drawn.name: files for drawn, files in answer}
        return found

    def _waited(self) -> dict[str, Pages | str]:
        assert self._pool
        with self._pool:
            done: Iterable[Future] = _bar(as_completed(self._futures), self._keys)
            return {self._futures[future]: future.result() for future in done}


def _bar(items: Iterable, keys: Sequence[str]) -> Iterable:
    return tqdm(items, "drawing figures", len(keys), unit="", leave=False, delay=2, disable=None)


def pages(study: Study, key: str) -> Pages | str:
    """Every page of a figure, or why there is none."""
    with warnings.catch_warnings():
        # a letter that the font lacks is a box in png and pdf; the svg, the caption and the tables have it
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        try:
            drawn = import_module(f"normbench.report.figures.{key}").draw(study)
        except NotDrawn as reason:
            return str(reason)
        return [(replace(d, figure=None), style.rendered(d.figure, d.name, d.caption)) for d in drawn if d.figure]


def _begin(study: Study) -> None:
    global _study
    _study = study


def _made(key: str) -> Pages | str:
    return pages(_study, key)
