"""The states of a verdict, and the flags that lower them. Pure.

| state           | the interval of the effect                            |
|-----------------|-------------------------------------------------------|
| FASTER, BETTER  | lies wholly beyond the margin; SLOWER, WORSE mirrored |
| LOWER BOUND     | so does that of a ratio whose slower arm was censored |
| SAME            | lies wholly inside the margins, with 0 or without it  |
| PROBABLY        | excludes no effect, and is not SAME                   |
| UNCLEAR         | none of these                                         |
| REFUSED         | is not there, or must not be read: `verdict.judge`    |

Each flag lowers one level: FASTER, BETTER, LOWER BOUND -> PROBABLY -> UNCLEAR; SAME -> UNCLEAR.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from normbench.report.stats import Effect

ACCURACY_MARGIN = 0.005
LOSS_MARGIN = 0.01  # in nats; a convention, as the other two
TIME_MARGIN = 1.1


class State(StrEnum):
    FASTER = "FASTER"
    SLOWER = "SLOWER"
    BETTER = "BETTER"
    WORSE = "WORSE"
    LOWER_BOUND = "LOWER BOUND"
    PROBABLY = "PROBABLY"
    SAME = "SAME"
    UNCLEAR = "UNCLEAR"
    REFUSED = "REFUSED"


class Flag(StrEnum):
    """Why a verdict is worth one level less; `sentence` says it to the reader."""

    LR_AT_EDGE = "lr_at_edge"
    UNEQUAL_TUNING = "unequal_tuning"
    SAME_SEEDS = "same_seeds"
    UNSTABLE_CHOICE = "unstable_choice"
    DIVERGED_IN_WINNER = "diverged_in_winner"
    COARSE_EVALUATION = "coarse_evaluation"
    MIXED_ORIGIN = "mixed_origin"
    POST_HOC_TARGET = "post_hoc_target"
    ONLY_UNADJUSTED = "only_unadjusted"

    @property
    def sentence(self) -> str:
        return SENTENCES[self]


SENTENCES = {
    Flag.LR_AT_EDGE: "a chosen setting lies at an end of what was tried",
    Flag.UNEQUAL_TUNING: "not as many settings finished in one arm as in the other",
    Flag.SAME_SEEDS: "settings were chosen and are reported on the same seeds, which flatters them",
    Flag.UNSTABLE_CHOICE: "which setting is best depends on the seed that is left out",
    Flag.DIVERGED_IN_WINNER: "runs of the arm that is ahead diverged",
    Flag.COARSE_EVALUATION: "evaluations are more than 10% of the time to target apart",
    Flag.MIXED_ORIGIN: "the runs come from several versions of the code, several devices or uncommitted code",
    Flag.POST_HOC_TARGET: "the target was chosen after the runs, from the baseline's own",
    Flag.ONLY_UNADJUSTED: "the difference does not outlast the adjustment for the number of comparisons",
}
OF_TIMES = (Flag.COARSE_EVALUATION, Flag.POST_HOC_TARGET)  # they say nothing of a final accuracy

LOWER = {
    State.FASTER: State.PROBABLY, State.SLOWER: State.PROBABLY, State.BETTER: State.PROBABLY,
    State.WORSE: State.PROBABLY, State.LOWER_BOUND: State.PROBABLY, State.PROBABLY: State.UNCLEAR,
    State.SAME: State.UNCLEAR,
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """What is compared, and where: every sentence names all of it.

    metric: "test_acc", "val_loss", ... ; "step", "examples" or "train_s" of a time to `target`; any other name is said
    as it is, with spaces. budget: as in "2,000 steps"; tuning: as `tuning_words` says it. less_is_better: of a
    difference; None: of losses.
    """

    metric: str
    baseline: str
    variant: str
    dataset: str
    model: str
    budget: str
    tuning: str = ""
    target: float | None = None
    less_is_better: bool | None = None

    @property
    def column(self) -> str:
        """The metric's name in comparisons.csv: steps_to_0.85, test_acc."""
        return self.metric if self.target is None else f"{self.metric.removesuffix('s')}s_to_{self.target:g}"

    @property
    def lower_is_better(self) -> bool:
        return self.metric.endswith("_loss") if self.less_is_better is None else self.less_is_better


def default_margin(effect: Effect, subject: Subject) -> float:
    if effect.kind == "ratio":
        return TIME_MARGIN
    for suffix, margin in (("_acc", ACCURACY_MARGIN), ("_loss", LOSS_MARGIN)):
        if subject.metric.endswith(suffix):
            return margin
    raise ValueError(f"no margin is known for {subject.metric}; give the smallest difference that matters as `margin`")


def state_of(effect: Effect, margin: float, lower_is_better: bool = False) -> State:
    """The state that the interval alone gives, before any flag; `effect` has an interval."""
    ratio = effect.kind == "ratio"
    if not margin > (1 if ratio else 0):
        raise ValueError(f"the margin of a {effect.kind} must be above {1 if ratio else 0}, given {margin!r}")
    low, high = gains(effect, lower_is_better)
    m = math.log(margin) if ratio else margin
    if low > m or high < -m:
        if effect.bound:
            return State.LOWER_BOUND
        return ((State.FASTER, State.SLOWER) if ratio else (State.BETTER, State.WORSE))[high < -m]
    if -m <= low and high <= m:
        return State.SAME
    return State.PROBABLY if low > 0 or high < 0 else State.UNCLEAR


def gains(effect: Effect, lower_is_better: bool = False) -> tuple[float, float]:
    """The interval on a scale on which 0 is no effect and more is better for the variant; ratios as logs."""
    low, high = effect.interval.low, effect.interval.high
    if effect.kind == "ratio":
        return (math.log(low) if low else -math.inf), math.log(high)
    return (-high, -low) if lower_is_better else (low, high)


def lowered(state: State, flags: int) -> State:
    for _ in range(flags):
        state = LOWER.get(state, state)
    return state
