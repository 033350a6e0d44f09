"""Settings drawn at random, as files that a sweep takes: results/NAME_draws/draw/SET_s0_00.yaml, `+draw=glob(SET_*)`.

For claims about random search (`draws:` in conf/claim): every seed is a search of its own, with settings of its own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from normbench import records
from normbench.plan import SCALES, Range

GROUP = "draw"
DIGITS = 3  # significant
IN_A_LIST = {"width": "model.hidden", "depth": "model.hidden", "beta1": "optimizer.betas", "beta2": "optimizer.betas"}


@dataclass(frozen=True)
class Drawn:
    """One run's settings: the name of its file, its seed, and key -> value."""

    name: str
    seed: int
    settings: Mapping[str, Any]


def drawn(name: str, ranges: Mapping[str, Any], seeds: Sequence[int], trials: int) -> list[Drawn]:
    """`trials` draws for each seed, each setting independent of the others.

    Args:
        ranges: key -> list of values, each as likely, or `log(LOW,HIGH)`, `linear(...)`, `one_minus_log(...)`: uniform
            on that scale. width and depth make model.hidden, beta1 and beta2 optimizer.betas.

    Raises:
        ValueError: a range that can't be read.
    """
    spans = {key: _span(key, value) for key, value in ranges.items()}
    found = []
    for seed in seeds:
        stream = np.random.Generator(np.random.PCG64([seed, trials]))
        for number in range(trials):
            places = stream.random(len(spans))
            values = {key: _at(span, place) for (key, span), place in zip(spans.items(), places, strict=True)}
            found.append(Drawn(f"{name}_s{seed}_{number:02}", seed, _joined(values)))
    return found


def _span(key: str, value: Any) -> Range | list[Any]:
    if isinstance(value, list) and len(value) > 1:
        return value
    call = re.fullmatch(r"(\w+)\((\S+),\s*(\S+)\)", str(value))
    if call is None or call[1] not in SCALES:
        raise ValueError(
            f"{key} must be a list of values or {', '.join(f'{s}(LOW,HIGH)' for s in SCALES)}, got {value}"
        )
    return Range(key, call[1], float(call[2]), float(call[3]))


def _at(span: Range | list[Any], place: float) -> Any:
    if isinstance(span, list):
        return span[int(place * len(span))]
    value = span.value(float(place))
    if span.scale == "one_minus_log":
        return round(1 - float(f"{1 - value:.{DIGITS}g}"), 12)
    return float(f"{value:.{DIGITS}g}")


def _joined(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in values.items() if key not in IN_A_LIST}
    if "width" in values:
        found["model.hidden"] = [values["width"]] * values["depth"]
    if "beta1" in values:
        found["optimizer.betas"] = [values["beta1"], values["beta2"]]
    return found


def write(folder: Path, draws: Sequence[Drawn]) -> None:
    """A file a draw, in `folder`/draw, that sets its values wherever `+draw=NAME` is typed."""
    place = folder / GROUP
    place.mkdir(parents=True, exist_ok=True)
    for draw in draws:
        lines = ["# @package _global_", f"seed: {draw.seed}"]
        groups: dict[str, list[str]] = {}
        for key, value in draw.settings.items():
            group, dot, rest = key.partition(".")
            if dot:
                groups.setdefault(group, []).append(f"{rest}: {value!r}")
            else:
                lines.append(f"{key}: {value!r}")
        lines += [f"{group}: {{{', '.join(own)}}}" for group, own in groups.items()]
        records.write(place / f"{draw.name}.yaml", ("\n".join(lines) + "\n").encode())
