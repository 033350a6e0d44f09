"""What a reader must know beside the numbers: what makes runs less comparable than they look. Pure."""

import pandas as pd

from normbench.report.selection import noun
from normbench.report.stats import binomial_se
from normbench.report.study import Study
from normbench.report.tables import settings

NOTHING = "no complete run, so nothing can be compared. Train some: normbench train -m norm=none,bn seed=0,1,2"
FEWEST_EXACT = 6  # pairs from which on an exact sign-flip test can give p < 0.05: 2 / 2**6 = 0.031


def all_notes(study: Study) -> list[str]:
    return [
        *study.notes, *unselected(study), *warnings(study),
        *few_pairs(study), *resolution(study), *no_better(study), *never_clipped(study),
    ]  # fmt: skip


def counts(runs: pd.DataFrame, n_arms: int) -> str:
    """How many runs of what: found, used, and the rest by state."""
    used = runs[runs["used"].astype(bool)]
    states = used["state"].value_counts().sort_index()
    said = ", ".join(f"{n} {state}" for state, n in states.items()) or "none"
    left = runs[~runs["used"].astype(bool)]
    copies = left["state"].isin(["complete", "diverged"])
    others = left["state"].where(~copies, "copies").value_counts().sort_index()
    text = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} found; used: {said}"
    text += f", in {n_arms} {'arm' if n_arms == 1 else 'arms'}" if n_arms else ""
    rest = ", ".join(f"{n} {state}" for state, n in others.items())
    return text + (f"; not used: {rest}." if rest else ".")


def unselected(study: Study) -> list[str]:
    return [
        f"{study.name(arm)}: no {noun(study.options.tuned)[:-1]} could be chosen: {arm.why}."
        for arm in study.arms
        if arm.why
    ]


def warnings(study: Study) -> list[str]:
    """Unequal or few seeds, but where some only choose; runs of several devices or versions."""
    used, setting, two_phases = study.used, study.setting, study.options.tune_seeds is not None
    if not len(used):
        return []
    seeds = {tuple(sorted(part["seed"])) for _, part in used.groupby([setting[key] for key in setting], sort=False)}
    notes = []
    if len(seeds) > 1 and two_phases:
        pass
    elif len(seeds) > 1:
        notes.append("Not every setting has the same seeds, so their means are not over the same draws.")
    elif (n := len(seeds.pop())) < 3:
        notes.append(f"Only {n} {'seed' if n == 1 else 'seeds'} a setting: too few to judge a difference by.")
    for key, name in (("device", "devices"), ("torch_version", "versions of torch"), ("git_commit", "git commits")):
        values = sorted(set(map(str, used[key].dropna())))
        if len(values) > 1:
            notes.append(f"The runs come from {len(values)} {name}: {', '.join(values)}.")
    return notes


def few_pairs(study: Study) -> list[str]:
    n = [row.n_pairs for contrast in study.contrasts for row in contrast.rows if 2 < row.n_pairs < FEWEST_EXACT]
    if not n:
        return []
    return [
        f"With {min(n)} pairs an exact sign-flip test cannot give a p value below {2 / 2 ** min(n):.2g}, whatever the "
        f"runs; with {FEWEST_EXACT} seeds it can give {2 / 2**FEWEST_EXACT:.2g}. The intervals here are t intervals."
    ]


def resolution(study: Study) -> list[str]:
    """What a finite test set adds, which seeds do not shrink."""
    notes = []
    for dataset, part in study.used.groupby("dataset", sort=True):
        scores, n = part["test_acc"].dropna().astype(float), part["n_test"].iloc[0]
        if len(scores) and n:
            best = float(scores.max())
            notes.append(
                f"The {int(n):,} test images of {dataset} alone leave a standard error of "
                f"{100 * binomial_se(best, int(n)):.2g} pp on an accuracy of {100 * best:.1f}%. All arms share it; "
                "more seeds do not shrink it."
            )
    return notes


def no_better(study: Study) -> list[str]:
    if not study.arms:
        return []
    weak = study.untrained
    notes = []
    for arm in study.arms:
        own = [i for i in arm.runs["run_id"] if i in weak]
        if own:
            rates = sorted({f"{lr:g}" for lr in arm.runs.loc[arm.runs["run_id"].isin(own), "lr"]}, key=float)
            notes.append(
                f"{study.name(arm)}: {len(own)} of {len(arm.runs)} runs are untrained, at learning rate "
                f"{', '.join(rates)}: their last validation accuracy is no more than two standard errors above that of "
                "step 0."
            )
    return notes


def never_clipped(study: Study) -> list[str]:
    """The settings whose clipping rule was idle in every step of every run: they are their own baseline."""
    used = study.used[study.used["clip"].ne("none")]
    notes = []
    for choice, part in used.groupby("clip", sort=True):
        setting = settings(part)
        for arm, index in part.groupby([setting[key] for key in setting], sort=False).groups.items():
            rows = study.metrics[study.metrics["run_id"].isin(part.loc[index, "run_id"])]
            if rows["clip_frac"].notna().any() and not rows["clip_frac"].gt(0).any():
                words = ", ".join(f"{key}={value}" for key, value in zip(setting, arm, strict=True))  # pyright: ignore[reportArgumentType] - a group of several keys is a tuple
                count = "the run" if len(index) == 1 else f"the {len(index)} runs"
                notes.append(
                    f"clip={choice} never acted in {count} of {words}: this equals clip=none. What it holds against "
                    f"its bound was {rows['clip_size_mean'].mean():.3g} on average."
                )
    return notes
