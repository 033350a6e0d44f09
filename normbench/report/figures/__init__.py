"""The figures of a report. Pure: a study in, figures and their captions out; nothing is read or written here.

One module a figure, with its key as name and one function `draw(study) -> list[Drawn]`, which raises NotDrawn where its
condition does not hold. A figure of one page has its key as name, further pages are `key_2`, `key_3`, ...
"""

from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

CLAIMED = ("answers", "along", "found", "importance", "shift", "ghosts")  # of runs that test a claim alone
KEYS = (
    "curves", "time_to_target", "speedup_vs_target", "paired", "lr_sensitivity", "batch_size", "grid", "stability",
    "tuning_budget", "search", "activations", "gradients", "depth", "cost", "gap", "landscape", *CLAIMED,
)  # fmt: skip


class NotDrawn(Exception):
    """The figure's condition does not hold; the message says which, and what was found."""


@dataclass(frozen=True)
class Drawn:
    """A figure, the caption that says all that a reader needs, and the numbers that were drawn (figures/NAME.csv).

    figure: None once its files are made.
    """

    name: str
    figure: Figure | None
    caption: str
    data: pd.DataFrame = field(default_factory=pd.DataFrame)
