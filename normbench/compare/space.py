"""Where a setting is tuned: `log(1e-4,1)`, read strictly; from places in the unit cube to what can be typed. Pure."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from normbench.config import ConfigError
from normbench.plan import SCALES, Arm, Range

FORMS = "log(LOW,HIGH), linear(LOW,HIGH), one_minus_log(LOW,HIGH), a list of values or null"
EXAMPLE = {"one_minus_log": "'one_minus_log(0.8,0.99)'", "linear": "'linear(0,0.5)'"}
DIGITS = 3  # significant, of a value that is tried: it can be typed
Box = Mapping[str, tuple[float, float]]  # a key's places, from 0 to 1, that are searched


def read(key: str, text: str, default: Any) -> Range | tuple[Any, ...] | None:
    """A range, values to choose among, or None: not tuned.

    Args:
        key: as in `optimizer.lr`.
        text: as typed.
        default: the value that the setting has where it is not tuned; what is tried must be of its type.

    Raises:
        ConfigError: it can't be read, or is no range.
    """
    plain = text.strip()
    if plain in ("null", "None", ""):
        return None
    call = re.fullmatch(r"(\w+)\s*\((.*)\)", plain)
    if isinstance(default, list | dict):
        raise ConfigError(f"tune.{key}: {key} is a list, which can't be tuned; type {key}=... for every arm")
    if call is None:
        return _values(key, plain, default)
    scale, ends = call[1], [_number(part) for part in call[2].split(",")]
    if scale not in SCALES or len(ends) != 2 or None in ends:
        raise ConfigError(f"tune.{key} must be {FORMS}, got {text}; try tune.{key}={EXAMPLE.get(scale, _LOG)}")
    if isinstance(default, bool | str):
        raise ConfigError(f"tune.{key}: {key} is no number, so it has no range; try tune.{key}={default},OTHER")
    span = Range(key, scale, *map(float, ends))  # type: ignore[arg-type]
    _refuse_empty(span, text)
    return span


_LOG = "'log(1e-4,1)'"


def _refuse_empty(span: Range, text: str) -> None:
    low, high = span.low, span.high
    swapped = f"tune.{span.key}='{span.scale}({high:g},{low:g})'"
    if low >= high:
        instead = swapped if low > high else f"{span.key}={low:g}, which is no tuning"
        raise ConfigError(f"tune.{span.key} must have LOW below HIGH, got {text}; try {instead}")
    if span.scale == "log" and low <= 0:
        raise ConfigError(f"tune.{span.key}: both ends of log must be above 0, got {text}; try tune.{span.key}={_LOG}")
    if span.scale == "one_minus_log" and not (low >= 0 and high < 1):
        raise ConfigError(
            f"tune.{span.key}: one_minus_log needs 0 <= LOW and HIGH < 1, got {text}; try {EXAMPLE[span.scale]}"
        )


def _values(key: str, text: str, default: Any) -> tuple[Any, ...]:
    parts = [part.strip().strip("'\"") for part in text.strip("[]").split(",")]
    values = tuple(dict.fromkeys(_as(key, part, default, text) for part in parts))
    if len(values) < 2:
        raise ConfigError(
            f"tune.{key} must be {FORMS}, got {text}; to give {key} one value in every arm type {key}={parts[0]}"
        )
    return tuple(sorted(values, key=lambda v: (isinstance(v, str), v)))


def _as(key: str, part: str, default: Any, text: str) -> Any:
    """The value that was typed, of the default's type."""
    number = _number(part)
    if isinstance(default, bool):
        found = {"true": True, "false": False}.get(part.lower())
    elif isinstance(default, int | float):
        found = number if number is None or isinstance(default, float) else int(number) if number % 1 == 0 else None
    elif isinstance(default, str):
        found = part or None
    else:
        found = {"true": True, "false": False}.get(part.lower(), (part or None) if number is None else number)
    if found is None:
        raise ConfigError(
            f"tune.{key} must be {FORMS}, got {text}: {part!r} is no value like the default {default}; "
            f"try tune.{key}={_LOG}"
        )
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


# -------------------------------------------------------------------------------------------------------------- places


def setting(arm: Arm, keys: Sequence[str], box: Box, point: Sequence[float], whole: Mapping[str, bool]) -> tuple:
    """The arm's tuned settings at a point of the unit cube, one coordinate for each of `keys`, the whole comparison's.

    Args:
        box: what is searched of each range.
        whole: keys whose values are whole numbers.
    """
    found = []
    spans = {span.key: span for span in arm.ranges}
    for key in arm.tuned:
        place = min(max(float(point[list(keys).index(key)]), 0.0), 1.0)
        if key in spans:
            low, high = box.get(key, (0.0, 1.0))
            found.append(typed_value(spans[key], low + place * (high - low), whole.get(key, False)))
        else:
            values = arm.values[key]
            found.append(values[min(int(place * len(values)), len(values) - 1)])
    return tuple(found)


def typed_value(span: Range, place: float, whole: bool) -> float | int:
    """The value at a place from 0 to 1, rounded to what is typed easily, never beyond the ends."""
    value = span.value(place)
    if whole:
        return int(min(max(round(value), math.ceil(span.low)), math.floor(span.high)))
    if span.scale == "one_minus_log":
        value = float(f"{1 - float(f'{1 - value:.{DIGITS}g}'):.12g}")
    else:
        value = float(f"{value:.{DIGITS}g}")
    return min(max(value, span.low), span.high)


def in_words(arm: Arm) -> str:
    """As in `optimizer.lr log(0.001,10), norm.momentum of 0.1, 0.2`; "nothing" where nothing is tuned."""
    spans = [f"{span.key} {span.scale}({span.low:g},{span.high:g})" for span in arm.ranges]
    lists = [f"{key} of {', '.join(map(str, values))}" for key, values in arm.values.items()]
    return ", ".join([*spans, *lists]) or "nothing"
