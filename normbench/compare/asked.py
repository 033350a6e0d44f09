"""What is typed after `normbench compare`, and what of it can't be: its own keys, and settings of `normbench train`."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from normbench import typed
from normbench.compare.search import METHODS
from normbench.config import GROUPS, ConfigError, RunConfig, unknown_key

FIRST_TUNE_SEED = 1000  # tune seeds begin so far behind the first that is reported, of at most as many: they never meet
UNITS = {"s": 1, "min": 60, "h": 3600}
FLAGS = ("--dry-run", "--yes", "--config-dir", "-cd")
_WORKERS, _TIMEOUT = "hydra.launcher.workers", "hydra.launcher.timeout_s"


@dataclass(frozen=True)
class Asked:
    """The command. settings: of `normbench train -m`, as Hydra reads them. tune: key -> range as typed.

    given: own keys that were typed; the others have their defaults. budget_s: None: no limit.
    """

    settings: tuple[str, ...]
    tune: Mapping[str, str]
    given: frozenset[str]
    trials: int
    tune_seeds: int
    seeds: int
    first_seed: int
    zoom: int
    halving: int
    search: str
    search_seed: int
    budget_s: float | None
    workers: int | None
    timeout_s: float | None
    config_dir: Path | None
    dry_run: bool
    yes: bool

    @property
    def leaves_rounds_open(self) -> bool:
        """Whether the plan's trials and rounds are chosen by the budget alone."""
        return self.budget_s is not None and not {"trials", "zoom", "halving"} & self.given


def _at_least(least: int, most: int = 1_000_000) -> tuple[Callable[[str], Any], str]:
    def read(text: str) -> int | None:
        return int(text) if re.fullmatch(r"\d{1,9}", text) and least <= int(text) <= most else None

    return read, f"a whole number from {least} to {most:,}"


def _seconds(text: str) -> float | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", text)
    return (float(found[1]) * UNITS[found[2]] or None) if found else None


def _above_zero(text: str) -> float | None:
    found = re.fullmatch(r"\d+(\.\d+)?", text)
    return float(text) or None if found else None


_OWN: dict[str, tuple[Callable[[str], Any], str, str, Any]] = {  # key: reader, what must hold, an example, default
    "trials": (*_at_least(1), "16", 16),
    "tune_seeds": (*_at_least(1, 1000), "2", 2),
    "seeds": (*_at_least(1, FIRST_TUNE_SEED), "6", 6),
    "first_seed": (*_at_least(0), "100", 0),
    "zoom": (*_at_least(0, 5), "1", 1),
    "halving": (lambda text: int(text) if text in ("0", "2", "3", "4") else None, "0 (off), 2, 3 or 4", "3", 0),
    "search": (lambda text: text if text in METHODS else None, ", ".join(METHODS), METHODS[0], METHODS[0]),
    "search_seed": (*_at_least(0), "0", 0),
    "budget": (_seconds, "a time as 90s, 30min or 2h", "30min", None),
    _WORKERS: (*_at_least(1), "2", None),
    _TIMEOUT: (_above_zero, "a number of seconds > 0", "3600", None),
}  # fmt: skip
_TAKEN = {  # settings of a run that the comparison sets itself
    "seed": "the runs' seeds are the comparison's: type seeds=6 and tune_seeds=2",
    "stop_epoch": "every run goes to its end; type epochs=N, or halving=3 to stop what is behind",
}


def read(args: Sequence[str]) -> Asked:
    """The command as typed, over what its study file says.

    Raises:
        ConfigError: anything that can't be.
    """
    typed.refuse_unprintable(args)
    flags, pairs = _split(args)
    pairs = _study(pairs.pop("study", None)) | pairs
    own = {key: value for key, value in pairs.items() if key in _OWN}
    tune = {key.removeprefix("tune."): _range(key, v) for key, v in pairs.items() if key.startswith("tune.")}
    rest = {key: value for key, value in pairs.items() if key not in own and not key.startswith("tune.")}
    for key, words in _TAKEN.items():
        if key in rest:
            raise ConfigError(f"{key}={rest[key]}: {words}")
    if wrong := next((key for key in rest if key.startswith("hydra")), None):
        raise ConfigError(f"{wrong}: a comparison has no settings of Hydra's but {_WORKERS} and {_TIMEOUT}")
    known = [field.name for field in fields(RunConfig)]
    for key, value in rest.items():
        if value is not None and re.fullmatch(r"\w+", key) and key not in known:
            raise ConfigError(unknown_key(key, [*(own for own in _OWN if "." not in own), "study", *known]))
    rest.setdefault("name", "compare")
    folder = flags.get("--config-dir")
    settings = [f"{key}={value}" if value is not None else key for key, value in rest.items()]
    arranged = typed.arrange(["-m", *(["--config-dir", folder] if folder else []), *settings])
    values = {key: _own(key, own.get(key)) for key in _OWN}
    workers, timeout_s, budget = values.pop(_WORKERS), values.pop(_TIMEOUT), values.pop("budget")
    return Asked(
        tuple(arranged[3 if folder else 1 :]), tune, frozenset(own), **values, budget_s=budget, workers=workers,
        timeout_s=timeout_s, config_dir=Path(folder) if folder else None,
        dry_run="--dry-run" in flags, yes="--yes" in flags,
    )  # fmt: skip


def _split(args: Sequence[str]) -> tuple[dict[str, str], dict[str, str | None]]:
    """Flags with their values, and settings by key, in the order typed."""
    flags: dict[str, str] = {}
    pairs: dict[str, str | None] = {}
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        name, equals, value = arg.partition("=")
        if arg.startswith("-"):
            if name not in FLAGS:
                raise ConfigError(f"unknown option {name}; normbench compare --help shows what there is")
            if name in ("--dry-run", "--yes"):
                flags[name] = ""
                continue
            if not equals and not rest:
                raise ConfigError(f"{name} needs a folder; type --config-dir FOLDER")
            flags["--config-dir"] = value if equals else rest.pop(0)
            if not Path(flags["--config-dir"]).is_dir():
                raise ConfigError(f"--config-dir must be a folder, got {flags['--config-dir']}")
            continue
        key = name.removeprefix("+") if name.lstrip("+") in ("study", *_OWN) else name
        if key in pairs:
            raise ConfigError(f"{key} is given twice; type it once")
        pairs[key] = value if equals else None
    return flags, pairs


def _study(path: str | None) -> dict[str, str | None]:
    """The settings of a study file: YAML with what is typed, `norm: none,bn`."""
    if path is None:
        return {}
    try:
        node = yaml.compose(text := Path(path).read_text(), Loader=yaml.BaseLoader)
        found = yaml.load(text, Loader=yaml.BaseLoader)  # text alone
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ConfigError(f"study={path} can't be read: {reason}") from None
    if not isinstance(found, dict) or not all(_is_flat(value) for value in found.values()):
        raise ConfigError(f"study={path} must hold lines of key: value, as on the command line; as norm: none,bn")
    keys = Counter(key.value for key, _ in node.value)  # of two equal ones YAML would take the second
    if twice := [key for key, count in keys.items() if count > 1]:
        raise ConfigError(f"study={path}: {twice[0]} is given twice; type it once")
    if "study" in found:
        raise ConfigError(f"study={path} names another study; put all of it into one file")
    return {str(key): _as_typed(key, value) for key, value in found.items()}


def _as_typed(key: str, value: str | list[str]) -> str:
    """Of a group a list is its choices, of anything else a value: `norm: [none, bn]`, `model.hidden: [32, 16]`."""
    if isinstance(value, str):
        return value
    listed = ",".join(value)
    return listed if key in GROUPS else f"[{listed}]"


def _is_flat(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _range(key: str, text: str | None) -> str:
    plain = (text or "").strip().strip("'\"")
    if not plain:
        raise ConfigError(f"{key} needs a range, as {key}='log(1e-4,1)', or {key}=null: not tuned")
    return plain


def _own(key: str, text: str | None) -> Any:
    reader, words, example, default = _OWN[key]
    if text is None:
        return default
    if text == "null" and default is None:
        return None
    found = reader(text.strip())
    if found is None:
        raise ConfigError(f"{key} must be {words}, got {text}; try {key}={example}")
    return found
