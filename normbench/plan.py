"""The plan of a comparison, `compare.json` beside its runs: written by compare before the first run, read by report.

It says what the runs alone do not: what was tuned and in which range, and which seeds chose. Never imports torch.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from normbench import records

FILE = "compare.json"
VERSION = 1
SCALES = ("linear", "log", "one_minus_log")  # one_minus_log: 1 - value is on a log scale, as for a momentum


@dataclass(frozen=True)
class Range:
    """Where a tuned setting was searched; key as in the config: `optimizer.lr`."""

    key: str
    scale: str
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.key}={self.scale}({self.low:g},{self.high:g})"

    def value(self, place: float) -> float:
        """The value at a place from 0 (low) to 1 (high), evenly on the scale; also beyond the ends."""
        if self.scale == "linear":
            return self.low + place * (self.high - self.low)
        if self.scale == "log":
            return self.low * (self.high / self.low) ** place
        return 1 - (1 - self.low) * ((1 - self.high) / (1 - self.low)) ** place

    def place(self, value: float) -> float:
        """Where a value lies: the inverse of `value`."""
        if self.scale == "linear":
            return (value - self.low) / (self.high - self.low)
        if self.scale == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return math.log((1 - value) / (1 - self.low)) / math.log((1 - self.high) / (1 - self.low))


@dataclass(frozen=True)
class Arm:
    """choices: what was typed for it, as {"norm": "bn", "optimizer": "sgd"}. ranges: what was tuned in it; values: what
    was tuned among these values alone. like: the run_id that it has untuned, for all that was not typed.
    """

    choices: Mapping[str, str]
    ranges: tuple[Range, ...]
    values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    like: str = ""

    @property
    def tuned(self) -> tuple[str, ...]:
        return (*(part.key for part in self.ranges), *self.values)


@dataclass(frozen=True)
class Plan:
    """command: what was typed. trials: settings that each arm is given, over all rounds: one over the whole ranges and
    `zoom` in narrower ones, drawn from search_seed. tune_seeds choose the setting, seeds are reported. more: what else
    is worth telling, as words. halving: 0, or that of each `halving` settings one is trained on, at each of the epochs
    where a search that halves looks.
    """

    command: str
    arms: tuple[Arm, ...]
    search: str
    trials: int
    zoom: int
    tune_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    more: tuple[str, ...] = ()
    search_seed: int = 0
    halving: int = 0

    @property
    def tuned(self) -> tuple[str, ...]:
        """Every setting that is tuned in some arm, the first arm's first."""
        return tuple(dict.fromkeys(key for arm in self.arms for key in arm.tuned))

    def ranges(self, arm: Arm) -> dict[str, Range]:
        """Where an arm was searched, by key; each with the key that is typed for those arms alone that share it:
        `optimizer.sgd.lr`, where other optimizers have other ranges.
        """
        found = {}
        for span in arm.ranges:
            group, _, name = span.key.partition(".")
            shared = len({other for one in self.arms for other in one.ranges if other.key == span.key}) == 1
            own = span.key if shared or group not in arm.choices else f"{group}.{arm.choices[group]}.{name}"
            found[span.key] = replace(span, key=own)
        return found


def write(folder: Path, plan: Plan) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = {"format_version": VERSION} | asdict(plan)
    records.write(folder / FILE, (json.dumps(data, indent=1) + "\n").encode())


def read(folder: Path) -> Plan | None:
    """The plan in this folder; None where there is none.

    Raises:
        records.Damaged: the file is there and is no plan.
    """
    path = folder / FILE
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise records.Damaged(f"{path} is damaged: {error}") from None
    try:
        if data["format_version"] != VERSION:
            raise records.Damaged(f"{path} has format_version {data['format_version']}, this normbench reads {VERSION}")
        return _plan({key: value for key, value in data.items() if key != "format_version"})
    except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError) as error:
        raise records.Damaged(f"{path} is damaged: it is not a plan ({error!r})") from None


def _plan(data: dict[str, Any]) -> Plan:
    arms = tuple(_arm(arm) for arm in data["arms"])
    lists = {key: tuple(data[key]) for key in ("tune_seeds", "seeds", "more")}
    full: dict[str, Any] = data | {"arms": arms} | lists
    if not all(isinstance(full[key], int) for key in ("trials", "zoom", "search_seed", "halving")):
        raise TypeError("trials, zoom, search_seed and halving must be whole numbers")
    if not all(isinstance(seed, int) for seed in (*full["tune_seeds"], *full["seeds"])) or not full["seeds"]:
        raise TypeError("tune_seeds and seeds must be whole numbers")
    return Plan(**full)


def _arm(data: dict[str, Any]) -> Arm:
    values = {key: tuple(listed) for key, listed in data.get("values", {}).items()}
    ranges = tuple(Range(**part) for part in data["ranges"])
    for span in ranges:
        if span.scale not in SCALES or not 0 <= span.place((span.low + span.high) / 2) <= 1:
            raise TypeError(f"{span} is no range")
    return Arm(dict(data["choices"]), ranges, values, data.get("like", ""))
