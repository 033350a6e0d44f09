"""Which setting matters most: the share of the variance of the accuracy that each explains, in random searches. Pure.

Every seed is a search of its own: its runs have settings drawn anew, so that seeds are independent searches. The share
of a setting is that of `search.importance`, in percent: of the variance of the final validation accuracy between groups
of its values, less what chance explains (it can be below 0). A diverged run is scored as guessing.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from normbench.claim import Question
from normbench.report import search
from normbench.report.study import Refused

FEWEST = 10  # runs of a search; of fewer the shares are noise
MARGIN = 5.0  # percentage points, a convention
SIDES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "share": lambda found: math.fsum(found) / len(found), "largest": max,
}  # fmt: skip
MADE_OF: Mapping[str, tuple[str, Callable[[Sequence[float]], float]]] = {  # settings that stand in a list
    "width": ("model.hidden", lambda hidden: hidden[0]), "depth": ("model.hidden", len),
    "beta1": ("optimizer.betas", lambda betas: betas[0]), "beta2": ("optimizer.betas", lambda betas: betas[1]),
}  # fmt: skip


def margin(question: Question) -> float:
    """The smallest difference of shares that matters."""
    return question.margin or MARGIN


def sides(question: Question, runs: pd.DataFrame) -> tuple[dict[int, float], dict[int, float]]:
    """Seed -> percent, of both sides. along: all settings that were drawn, with spaces between.

    of, than: `share=A,B`, the mean share of these settings, or `largest=A,B`, the largest of theirs.

    Raises:
        Refused: these can't be told.
    """
    keys = question.along.split()
    found = table(runs, keys)
    values = []
    for side in (question.of, question.than):
        kind, _, names = side.partition("=")
        if kind not in SIDES or (unknown := [name for name in names.split(",") if name not in keys]):
            what = f"one of {', '.join(SIDES)}, given {kind!r}" if kind not in SIDES else f"along, {unknown[0]} is not"
            raise Refused(f"importance: of and than must be {what}")
        values.append({seed: SIDES[kind]([own[name] for name in names.split(",")]) for seed, own in found.items()})
    return values[0], values[1]


def table(runs: pd.DataFrame, keys: Sequence[str]) -> dict[int, dict[str, float]]:
    """Seed -> setting -> percent. runs: one row a run, with seed, score and its settings, of one arm.

    Raises:
        Refused: a setting that the runs don't have, or that does not vary in a search.
    """
    full = pd.DataFrame({key: _values(runs, key) for key in keys}).assign(
        seed=runs["seed"].astype(int), score=runs["score"].astype(float)
    )
    found = {}
    for seed, own in full.groupby("seed"):
        if len(own) < FEWEST:
            raise Refused(f"importance: a search needs at least {FEWEST} runs, seed {seed} has {len(own)}")
        if still := [key for key in keys if own[key].nunique() < 2]:
            raise Refused(f"importance: {still[0]} must vary; it has one value in all runs of seed {seed}")
        shares = search.importance(own, keys).set_index("setting")["adjusted"]
        found[int(str(seed))] = {key: 100 * float(shares[key]) for key in keys}
    return found


def _values(runs: pd.DataFrame, key: str) -> pd.Series:
    place, read = MADE_OF.get(key, (key, None))
    column = place if place in runs else f"cfg.{place}"
    if column not in runs:
        raise Refused(f"importance: no run has a setting {place}")
    return runs[column].map(lambda text: read(json.loads(str(text)))) if read else runs[column].astype(float)
