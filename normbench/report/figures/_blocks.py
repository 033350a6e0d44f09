"""Which arms are compared at which target, in the order in which `time_to_target` shows them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from normbench.report import target
from normbench.report.arms import Arm
from normbench.report.figures import NotDrawn, _arms
from normbench.report.sheet import MOST_FIGURES, page_names
from normbench.report.study import Study

MOST_ROWS = 32  # a page


@dataclass(frozen=True)
class Block:
    """Arms that are compared at one target: the baseline first."""

    title: str
    goal: float
    post_hoc: bool
    rows: tuple[tuple[str, Arm, Mapping[int, target.Crossing]], ...]


def blocks(study: Study) -> list[Block]:
    together: dict[int, list] = {}
    for contrast in study.contrasts:
        if contrast.target is not None:
            together.setdefault(id(contrast.baseline), []).append(contrast)
    found = []
    for some in together.values():
        first = some[0]
        rows = [(_arms.arm_name(study, first, first.baseline), first.baseline, first.crossings[0])]
        rows += [(_arms.arm_name(study, c, c.variant), c.variant, c.crossings[1]) for c in some]
        found.append(Block(_arms.words(first.where), first.target, first.post_hoc, tuple(rows)))
    goal = study.options.target
    compared = {id(arm) for c in study.contrasts for arm in (c.baseline, c.variant)}
    alone = [arm for arm in study.arms if id(arm) not in compared]
    if goal is not None and alone:
        rows = [(study.name(arm), arm, crossings(study, arm, goal)) for arm in alone]
        found.append(Block("without a baseline" if found else "", goal, False, tuple(rows)))
    return [block for block in found if any(times for *_, times in block.rows)]


def batch_sizes(block: Block) -> set[int]:
    return {round(c.batch_size) for *_, times in block.rows for c in times.values() if c.batch_size > 0}


def crossings(study: Study, arm: Arm, goal: float) -> dict[int, target.Crossing]:
    return {seed: study.crossing(i, goal) for seed, i in arm.reported.items()}


def pages(found: Sequence[Block]) -> list[tuple[str, list[Block]]]:
    """Blocks stay whole as far as a page holds them."""
    parts = [(block, i) for block in found for i in range(0, len(block.rows), MOST_ROWS)]
    made: list[list[Block]] = []
    for block in (replace(block, rows=block.rows[i : i + MOST_ROWS]) for block, i in parts):
        if not made or sum(len(b.rows) + 1.4 for b in made[-1]) + len(block.rows) > MOST_ROWS:
            made.append([])
        made[-1].append(block)
    if len(made) > MOST_FIGURES:
        raise NotDrawn(
            f"needs at most {MOST_FIGURES} pages of rows, found {len(made)}; give folders with fewer: "
            "normbench report FOLDER/..."
        )
    return list(zip(page_names("time_to_target", len(made)), made, strict=True))
