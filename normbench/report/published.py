"""Runs against what a paper has published: PASS, FAIL or NOT COMPARABLE, by rules fixed beforehand. Pure.

A number is met (PASS) where the 95% interval of the runs' mean test accuracy lies wholly within the tolerance of the
published one, and missed (FAIL) where it lies wholly outside. An order is met where the questions of the claim support
it, and missed where they contradict it. NOT COMPARABLE is what was made in another setting than the paper's, and what
is too few or too uncertain to tell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from normbench.claim import Claim, Paper
from normbench.report import stats
from normbench.report.answers import CONTRADICTED, IN_PART, SUPPORTED, UNDECIDED, arms_where, has_value
from normbench.report.planning import FEWEST
from normbench.report.study import Study

PASS, FAIL, NOT_COMPARABLE = "PASS", "FAIL", "NOT COMPARABLE"
VERDICTS = {PASS: SUPPORTED, FAIL: CONTRADICTED, NOT_COMPARABLE: UNDECIDED}  # of a claim that is the number alone


@dataclass(frozen=True)
class Published:
    state: str
    words: str


def judged(study: Study, claim: Claim, verdict: str) -> Published | None:
    """verdict: of the claim's questions together. None where the runs are not of budget=paper.

    Raises:
        Refused: no run is of the arm that has published the number.
    """
    paper = claim.paper
    if paper is None:
        return None
    if other := differing(study, paper.setting):
        return Published(NOT_COMPARABLE, f"the setting is not the paper's: {'; '.join(other)}")
    if paper.value is not None:
        return _number(study, paper)
    states = {SUPPORTED: PASS, CONTRADICTED: FAIL, IN_PART: FAIL}
    words = {PASS: "the order is that of the paper", FAIL: "the order is not that of the paper"}
    state = states.get(verdict, NOT_COMPARABLE)
    return Published(state, words.get(state, "the runs cannot tell the order"))


def differing(study: Study, setting: Sequence[str]) -> list[str]:
    """Where runs have another value than a setting says, in words."""
    found = []
    for typed in setting:
        key, _, value = typed.partition("=")
        other = sum(not has_value(row, key, value) for _, row in study.used.iterrows())
        if other:
            found.append(f"{other} of {len(study.used)} runs have another {key} than {value}")
    return found


def _number(study: Study, paper: Paper) -> Published:
    assert paper.value is not None
    arms = arms_where(study, paper.of.split())
    scores = {seed: score for arm in arms for seed, score in arm.column("test_score", arm.reported).items()}
    if len(arms) > 1 or len(scores) < FEWEST:
        what = f"{len(arms)} arms" if len(arms) > 1 else f"{len(scores)} seed{'s' * (len(scores) != 1)}"
        return Published(NOT_COMPARABLE, f"{what} of {paper.of}; one arm of at least {FEWEST} seeds is needed")
    mean = stats.accuracy_mean(scores.values(), int(arms[0].runs["n_test"].iloc[0]))
    low, high = paper.value - paper.tolerance, paper.value + paper.tolerance
    said = (
        f"{100 * mean.estimate:.2f}% [{100 * mean.low:.2f}, {100 * mean.high:.2f}] over {mean.n} seeds against the "
        f"published {100 * paper.value:.2f}%, within {100 * paper.tolerance:g} pp"
    )
    if not math.isfinite(mean.low):
        return Published(NOT_COMPARABLE, f"{said}: there is no interval")
    if low <= mean.low and mean.high <= high:
        return Published(PASS, said)
    if mean.high < low or mean.low > high:
        return Published(FAIL, said)
    return Published(NOT_COMPARABLE, f"{said}: the interval reaches over the edge of it; more seeds would tell")
