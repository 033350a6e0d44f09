"""report.md: what was found, the figures, the table, and every run that is not in the numbers with its reason. Pure."""

from collections.abc import Sequence

import pandas as pd

from normbench.report.tables import escaped, markdown, settings, summary_markdown


def page(
    runs: pd.DataFrame,
    metrics: pd.DataFrame,
    table: pd.DataFrame,
    figures: Sequence[tuple[str, str]],
    notes: Sequence[str],
) -> str:
    """The report as Markdown.

    Args:
        runs: every run found.
        metrics: every row of the used ones.
        table: the summary of those that are used; empty if none is.
        figures: (name, caption) of each figure that was drawn.
        notes: what else a reader must know, such as a figure that was not drawn and why.
    """
    parts = ["# normbench report", counts(runs, table)]
    for name, caption in figures:
        text = escaped(caption)
        parts.append(f"![{text.split('. ')[0]}](figures/{name}.png)")
        parts.append(f"{text} ([PDF](figures/{name}.pdf), [SVG](figures/{name}.svg), [data](data/metrics.csv))")
    if len(table):
        parts += ["## Results", summary_markdown(table).rstrip(), TABLE_CAPTION]
    notes = [*notes, *warnings(runs), *never_clipped(runs, metrics)]
    if notes:
        parts += ["## Notes", "\n".join(f"- {escaped(note)}" for note in notes)]
    rest = runs[runs["state"].ne("complete") | ~runs["used"].astype(bool)]
    if len(rest):
        cells = {"run": rest["run_id"], "state": rest["state"], "reason": rest["reason"], "folder": rest["folder"]}
        parts += [
            "## Runs that are not complete",
            NOT_COMPLETE,
            markdown({k: list(map(str, v)) for k, v in cells.items()}),
        ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


TABLE_CAPTION = (
    "Mean ± standard deviation over the n complete runs of a setting, one run a seed (no ± with one run); n - 1 in the "
    "denominator. Accuracies are fractions. Untrained: the last validation accuracy is no more than two standard "
    "errors above that of step 0. Test: measured once, after training. train_s: seconds of training alone. All "
    "digits, and the losses, are in [tables/summary.csv](tables/summary.csv), each run in [data/runs.csv]"
    "(data/runs.csv). Means and spreads are no verdict: they do not say whether a difference is chance."
)
NOT_COMPLETE = (
    "Diverged runs are results: they are counted beside the means and drawn as far as they are finite. Nothing of the "
    "others is used."
)


def counts(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    """How many runs of what: found, used, and the rest by state."""
    used = runs[runs["used"].astype(bool)]
    states = used["state"].value_counts().sort_index()
    said = ", ".join(f"{n} {state}" for state, n in states.items()) or "none"
    left = runs[~runs["used"].astype(bool)]
    copies = left["state"].isin(["complete", "diverged"])
    others = left["state"].where(~copies, "copies").value_counts().sort_index()
    text = f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} found; used: {said}"
    text += f", in {len(table)} {'setting' if len(table) == 1 else 'settings'}" if len(table) else ""
    rest = ", ".join(f"{n} {state}" for state, n in others.items())
    return text + (f"; not used: {rest}." if rest else ".")


def warnings(runs: pd.DataFrame) -> list[str]:
    """What makes the used runs less comparable than they look."""
    used = runs[runs["used"].astype(bool)]
    if not len(used):
        return ["No complete run: nothing to compare. Train some: normbench train -m norm=none,bn seed=0,1,2"]
    setting = settings(used)
    seeds = {tuple(sorted(part["seed"])) for _, part in used.groupby([setting[key] for key in setting], sort=False)}
    notes = []
    if len(seeds) > 1:
        notes.append("Not every setting has the same seeds, so their means are not over the same draws.")
    elif (n := len(seeds.pop())) < 3:
        notes.append(f"Only {n} {'seed' if n == 1 else 'seeds'} a setting: too few to judge a difference by.")
    for key, name in (("device", "devices"), ("torch_version", "versions of torch"), ("git_commit", "git commits")):
        values = sorted(set(map(str, used[key].dropna())))
        if len(values) > 1:
            notes.append(f"The runs come from {len(values)} {name}: {', '.join(values)}.")
    return notes


def never_clipped(runs: pd.DataFrame, metrics: pd.DataFrame) -> list[str]:
    """The settings whose clipping rule was idle in every step of every run: they are their own baseline."""
    used = runs[runs["used"].astype(bool) & runs["clip"].ne("none")]
    notes = []
    for choice, part in used.groupby("clip", sort=True):
        setting = settings(part)
        for arm, index in part.groupby([setting[key] for key in setting], sort=False).groups.items():
            rows = metrics[metrics["run_id"].isin(part.loc[index, "run_id"])]
            if rows["clip_frac"].notna().any() and not rows["clip_frac"].gt(0).any():
                words = ", ".join(f"{key}={value}" for key, value in zip(setting, arm, strict=True))  # pyright: ignore[reportArgumentType] - a group of several keys is a tuple
                count = "the run" if len(index) == 1 else f"the {len(index)} runs"
                notes.append(
                    f"clip={choice} never acted in {count} of {words}: this equals clip=none. What it holds against "
                    f"its bound was {rows['clip_size_mean'].mean():.3g} on average."
                )
    return notes
