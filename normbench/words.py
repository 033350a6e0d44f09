"""Amounts as people read them."""

from datetime import timedelta


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else str(timedelta(seconds=round(seconds)))


def size(count: float) -> str:
    """Of so many bytes."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count / 1e3:.0f} kB"


def several(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
