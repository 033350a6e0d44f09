"""Real runs of one arm against itself, on different seeds: how often does the report say that they differ?

`pytest -m slow tests/test_identical.py -s` prints the states; about 10 minutes on 2 cores.
"""

from collections import Counter

import pytest

from normbench.cli import main
from normbench.report.arms import Options
from normbench.report.collect import collect
from normbench.report.contrasts import study
from normbench.report.state import State

pytestmark = pytest.mark.slow

COMPARISONS, N = 40, 5
CLAIMS = {State.BETTER, State.WORSE, State.FASTER, State.SLOWER, State.LOWER_BOUND, State.PROBABLY}


def test_forty_comparisons_of_an_arm_with_itself(tmp_path):
    """A bound on the gradient that is never reached makes the second arm: the same training under another name.

    Both have different seeds, so they are compared unpaired (Welch). Of 40 comparisons 2 are expected to claim a
    difference at 95 %, and more than 5 in 1.4 % of cases.
    """
    common = ["train", "-m", f"out={tmp_path}", "model=mlp", "norm=bn", "checkpoint.keep=none", "progress=false"]
    half = COMPARISONS * N
    seeds = [",".join(map(str, range(first, first + half))) for first in (0, half)]
    assert main([*common, f"seed={seeds[0]}", "clip=none", "eval.every_steps=70"]) == 0
    assert main([*common, f"seed={seeds[1]}", "clip=norm", "clip.max_norm=1000000", "eval.every_steps=70"]) == 0
    runs, metrics = collect([tmp_path / "runs"])
    assert len(runs) == 2 * half
    assert not metrics["clip_frac"].fillna(0).any()
    states = {"headline": Counter(), "test_acc": Counter()}
    for k in range(COMPARISONS):
        own = runs[runs["seed"].astype(int) % half // N == k]
        rows = metrics[metrics["run_id"].isin(own["run_id"])]
        (contrast,) = study(own, rows, Options(baseline=("clip", "none"))).contrasts
        assert not contrast.rows[0].paired
        states["headline"][contrast.rows[0].state] += 1
        states["test_acc"][next(row.state for row in contrast.rows if row.metric == "test_acc")] += 1
    for name, found in states.items():
        print(f"\n{COMPARISONS} real identical arms, {name}: {dict(found)}")
        assert sum(found[state] for state in CLAIMS) <= 5
