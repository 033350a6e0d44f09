"""RunConfig: what a run is, its types and ranges, read strictly; run_id: the name of a run, made from what it is."""

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

GROUPS = ("dataset", "augment", "preprocess", "model", "norm", "loss", "optimizer", "clip", "schedule", "probe")

# Raised with every change under CHANGELOG's heading "Results": runs made before then are other runs.
RESULTS_VERSION = 2

# What must not change the conclusion; recorded in run.json, but not part of a run's identity.
NOT_IDENTITY = ("out", "name", "device", "threads", "progress", "checkpoint", "stop_epoch", "dataset.root")


NO_PROBE = {"name": "none", "_target_": "normbench.probe.none.NoProbe"}
ENGINES = ("serial", "stack", "graph")
STATISTICS = ("ema", "population", "batch")  # with which normalizations may be evaluated; see evaluate.py
NAME = r"[\w.+-]{1,64}"  # it is a folder's name, or a part of one


class ConfigError(ValueError):
    """Something the user typed can't be: says what must hold, what was given, what to type instead.

    A line for each problem, if there are several.
    """


@dataclass
class Eval:
    every_steps: int | None = MISSING
    batch_size: int | None = MISSING
    statistics: list[str] = MISSING


@dataclass
class Checkpoint:
    every_s: float = MISSING
    keep: str = MISSING


@dataclass
class RunConfig:
    """One run, resolved. The parts (GROUPS) are `name`, `_target_` and the settings of their class."""

    dataset: dict[str, Any] = MISSING
    augment: dict[str, Any] = MISSING
    preprocess: dict[str, Any] = MISSING
    model: dict[str, Any] = MISSING
    norm: dict[str, Any] = MISSING
    loss: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    clip: dict[str, Any] = MISSING
    schedule: dict[str, Any] = MISSING
    probe: dict[str, Any] = MISSING
    name: str = MISSING
    seed: int = MISSING
    data_seed: int = MISSING
    val_fraction: float = MISSING
    epochs: int = MISSING
    stop_epoch: int | None = MISSING
    batch_size: int = MISSING
    engine: str = "serial"  # also of runs whose files are older than the key
    amp: str = MISSING
    channels_last: bool = False  # as engine: older than the key
    eval: Eval = MISSING
    device: str = MISSING
    threads: int = MISSING
    checkpoint: Checkpoint = MISSING
    out: str = MISSING
    progress: bool = MISSING

    @property
    def folder(self) -> Path:
        return Path(self.out).expanduser() / self.name / run_id(self)

    def to_dict(self) -> dict[str, Any]:
        """What is recorded and identified: without a probe that measures nothing.

        So such a run is the one that was made before there were probes, while one with a probe, which has a file more,
        is another.
        """
        settings = asdict(self)
        if self.probe["_target_"] == NO_PROBE["_target_"]:
            del settings["probe"]
        return settings


MAX_EPOCHS = 1_000_000  # more is a slip: 1e9 epochs of the default run take ten years
_WHOLE, _SEED = "a whole number >= 1", "a whole number from 0 to 4294967295"
_RANGES: dict[str, tuple[Callable[[Any], object], str, str]] = {  # key: what must hold, in words, what to type
    "name": (lambda v: re.fullmatch(NAME, v) and v.strip("."), "letters, digits and _ . + -", "runs"),
    "seed": (lambda v: 0 <= v < 2**32, _SEED, "0"),
    "data_seed": (lambda v: 0 <= v < 2**32, _SEED, "0"),
    "val_fraction": (lambda v: 0 < v < 1, "a number between 0 and 1", "0.1"),
    "epochs": (lambda v: 1 <= v <= MAX_EPOCHS, f"a whole number from 1 to {MAX_EPOCHS}", "5"),
    "stop_epoch": (lambda v: v is None or v >= 1, _WHOLE + " or null", "1"),
    "batch_size": (lambda v: v >= 1, _WHOLE, "64"),
    "engine": (lambda v: v in ENGINES, f"one of {', '.join(ENGINES)}", "serial"),
    "amp": (lambda v: v in ("none", "bf16"), "none or bf16", "bf16"),
    "channels_last": (lambda v: True, "true or false", "true"),
    "eval.every_steps": (lambda v: v is None or v >= 1, _WHOLE + " or null", "100"),
    "eval.batch_size": (lambda v: v is None or v >= 1, _WHOLE + " or null", "1000"),
    "eval.statistics": (
        lambda v: v and set(v) <= set(STATISTICS) and len(set(v)) == len(v),
        f"a list of {', '.join(STATISTICS)}, each at most once",
        "[ema,population]",
    ),
    "device": (lambda v: re.fullmatch(r"auto|cpu|cuda(:\d+)?", v), "auto, cpu, cuda or cuda:N", "auto"),
    "threads": (lambda v: 1 <= v <= (os.cpu_count() or 1), f"a whole number from 1 to {os.cpu_count()}", "1"),
    "checkpoint.every_s": (lambda v: v >= 0 and math.isfinite(v), "a number of seconds >= 0", "10"),
    "checkpoint.keep": (lambda v: v in ("all", "weights", "none"), "all, weights or none", "all"),
    "optimizer.lr": (lambda v: v > 0, "a number > 0", "0.01"),
    "optimizer.weight_decay": (lambda v: v >= 0, "a number >= 0", "0"),
    "optimizer.momentum": (lambda v: 0 <= v < 1, "a number >= 0 and < 1", "0.9"),
    "loss.label_smoothing": (lambda v: 0 <= v < 1, "a number >= 0 and < 1", "0.1"),
    "progress": (lambda v: True, "true or false", "true"),
    "out": (lambda v: _may_hold_runs(v), "a folder other than /", "results"),
}  # fmt: skip


def _may_hold_runs(out: str) -> bool:
    try:
        return out.strip() != "" and Path(out).expanduser().resolve() != Path("/")
    except (ValueError, RuntimeError):  # a NUL; ~nobody
        return False


def load(
    cfg: DictConfig,
    choices: Mapping[str, str] = {},
    overrides: Iterable[str] = (),
    defaults: DictConfig | None = None,
) -> RunConfig:
    """The composed config as a RunConfig.

    Args:
        cfg: the composed config, without Hydra's own node.
        choices: chosen file of each group; the name of a part whose file gives none.
        overrides: what was typed; a changed `_target_` without a `name` takes the class's name.
        defaults: the chosen files' values; the parts' settings must be of their types.

    Raises:
        ConfigError: unknown or missing keys, wrong types, numbers that are not finite or out of range.
    """
    cfg = without_ranges(cfg)
    _refuse_unknown(cfg)
    _refuse_variables(OmegaConf.to_container(cfg, resolve=False))
    typed = {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in overrides)}
    schema = OmegaConf.structured(RunConfig)
    try:
        merged = OmegaConf.merge(schema, {"probe": NO_PROBE}, cfg)  # a stored config without a probe has none
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            values = " ".join(f"{key}=VALUE" for key in missing)
            raise ConfigError(f"{' and '.join(missing)} must be given; type {values}")
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError("\n".join(_wrong_types(schema, cfg, typed) or [_explain(error, typed)])) from None
    assert isinstance(config, RunConfig)
    check(config, defaults)
    for group in GROUPS:
        _name_part(group, getattr(config, group), choices.get(group), set(typed))
    return config


def ranges(cfg: DictConfig) -> dict[str, str]:
    """Where the chosen files would have their settings tuned: `optimizer.lr` -> `log(1e-5,0.1)`."""
    found = {group: part.tune.items() for group, part in _with_ranges(cfg)}
    return {f"{group}.{key}": str(text) for group, tune in found.items() for key, text in tune}


def without_ranges(cfg: DictConfig) -> DictConfig:
    """The config of a run: how its settings would be tuned is no part of it."""
    groups = [group for group, _ in _with_ranges(cfg)]
    if groups:
        cfg = cfg.copy()
        OmegaConf.set_struct(cfg, False)
        for group in groups:
            del cfg[group]["tune"]
    return cfg


def _with_ranges(cfg: DictConfig) -> list[tuple[str, DictConfig]]:
    found = []
    for group in GROUPS:
        part = cfg._get_node(group, validate_access=False)
        if isinstance(part, DictConfig) and OmegaConf.is_dict(part._get_node("tune", validate_access=False)):
            found.append((group, part))
    return found


def _refuse_unknown(cfg: DictConfig) -> None:
    for key in cfg:
        if key not in {field.name for field in fields(RunConfig)}:
            raise ConfigError(unknown_key(str(key), keys_of(cfg)))
    for section, kind in (("eval", Eval), ("checkpoint", Checkpoint)):
        node = cfg.get(section)
        known = [field.name for field in fields(kind)]
        for key in node if isinstance(node, DictConfig) else ():
            if key not in known:
                raise ConfigError(unknown_key(f"{section}.{key}", known))


def _refuse_variables(value: Any, key: str = "") -> None:
    """An environment variable may be a secret, and what is looked up here would be written into the run's files."""
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_variables(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, str) and re.search(r"\$\{\s*(oc\.)?env\s*:", value):
        raise ConfigError(
            f"{key} must not look up an environment variable, whose text would be written into the run's files, "
            f'got {value}; let the shell do it: {key}="$VARIABLE"'
        )


def keys_of(cfg: DictConfig) -> list[str]:
    """The keys that a whole config may have, and those of its groups with the group's name before them."""
    nodes = {str(key): cfg._get_node(key) for key in cfg if key != "hydra"}
    inside = [f"{key}.{name}" for key, node in nodes.items() for name in (node if isinstance(node, DictConfig) else ())]
    return [*(field.name for field in fields(RunConfig)), *inside]


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The words for a key that does not exist, with the nearest one that does.

    Args:
        key: as typed.
        known: the keys beside it, without its group's name; for the top level, those of the groups, too (keys_of).
    """
    group, _, last = key.rpartition(".")
    known = sorted(name for name in known if not name.endswith("_target_") and (group or name != "hydra"))
    beside = [name for name in known if "." not in name]
    near = get_close_matches(last.rpartition("/")[2].lower(), {name.rpartition(".")[2] for name in known}, 1)
    meant = [name for name in known if name.rpartition(".")[2] in near]
    meant = [name for name in meant if name in beside and "/" not in key] or meant  # `name` is not model.name
    hint = f"did you mean {' or '.join(f'{group}.{name}' if group else name for name in meant)}? " if meant else ""
    return f"unknown key {key}; {hint}{group or 'the top level'} has: {', '.join(beside) or 'no keys'}"


def _wrong_types(schema: DictConfig, cfg: DictConfig, typed: Mapping[str, str]) -> list[str]:
    """What is wrong with each setting of its own, one merged without the others."""
    problems = []
    whole = OmegaConf.to_container(cfg, throw_on_missing=False)
    assert isinstance(whole, dict)
    sound: dict[str, Any] = {}
    for key, value in whole.items():
        try:
            sound[str(key)] = OmegaConf.to_container(OmegaConf.merge(schema, {key: value}), resolve=False)[key]  # type: ignore[index]
        except OmegaConfBaseException as error:
            problems.append(_explain(error, typed))
    return [*problems, *_out_of_range(sound)] if problems else []


def _explain(error: OmegaConfBaseException, typed: Mapping[str, str]) -> str:
    key = error.full_key or ""
    text = str(error).splitlines()[0]
    if isinstance(error, InterpolationResolutionError):
        return f"{key}={typed.get(key, '${...}')} refers to a key that does not exist; type a value"
    if key in _RANGES:
        value = re.search(r"[Vv]alue '(.*?)'", text)
        said = typed.get(key, value[1] if value else None)
        given = f", got {said!r}" if said is not None else ", got null" if "None" in text else ""
        return f"{key} must be {_RANGES[key][1]}{given}; try {key}={_RANGES[key][2]}"
    return f"{key}: {text}" if key else text


def check(config: RunConfig, defaults: DictConfig | None = None) -> None:
    """Raise ConfigError with a line for each value that is out of its range, or of another type than in `defaults`."""
    problems = [*_out_of_range(asdict(config)), *(_wrong_parts(config, defaults) if defaults is not None else ())]
    if problems:
        raise ConfigError("\n".join(problems))


def _out_of_range(settings: Mapping[str, Any]) -> Iterator[str]:
    """A line for each setting that is out of its range; settings that are not there are in order."""
    refused = set()
    for key, (holds, words, example) in _RANGES.items():
        section, _, last = key.rpartition(".")
        holder = settings.get(section) if section else settings
        value = holder.get(last, MISSING) if isinstance(holder, Mapping) else MISSING
        if value == MISSING or (section in GROUPS and not isinstance(value, int | float)):
            continue  # a class without this setting, or with one of another kind
        if not holds(value):
            refused.add(key)
            yield f"{key} must be {words}, got {value!r}; try {key}={example}"
    stop, epochs = settings.get("stop_epoch"), settings.get("epochs")
    if type(stop) is int and type(epochs) is int and stop > epochs:
        yield f"stop_epoch must be at most epochs={epochs}, got {stop}; try stop_epoch={epochs}"
    for group in GROUPS:
        for key, value in (settings.get(group) or {}).items():
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, dict | list):
                    yield f"{group}.{key} must be a number, text, true or false, or a flat list of them"
                elif isinstance(number, float) and not math.isfinite(number) and f"{group}.{key}" not in refused:
                    yield f"{group}.{key} must be finite, got {number}; without it the default is taken"


def _name_part(group: str, part: dict[str, Any], choice: str | None, changed: set[str]) -> None:
    """Give the part its name: the word for it in run_id and in every table."""
    target = part.get("_target_")
    if not isinstance(target, str) or not target:
        raise ConfigError(
            f"{group}._target_ must be the path of a class, got {target!r}; try {group}._target_=package.Class"
        )
    if f"{group}._target_" in changed and f"{group}.name" not in changed:
        part["name"] = target.rpartition(".")[2]
    part.setdefault("name", choice or target.rpartition(".")[2])
    if not re.fullmatch(NAME, str(part["name"])):
        raise ConfigError(
            f"{group}.name must be letters, digits and _ . + -, got {part['name']!r}; try {group}.name=mine"
        )


def _wrong_parts(config: RunConfig, defaults: DictConfig) -> Iterator[str]:
    """A line for each setting of a part that is of another type than the chosen file's value."""
    for group in GROUPS:
        chosen = defaults.get(group)
        for key, value in getattr(config, group).items():
            default = (
                chosen.get(key) if isinstance(chosen, DictConfig) and not OmegaConf.is_missing(chosen, key) else None
            )
            default = OmegaConf.to_container(default) if OmegaConf.is_list(default) else default
            words = _wrong_type(value, default)
            same_class = isinstance(chosen, DictConfig) and chosen.get("_target_") == getattr(config, group)["_target_"]
            if key.endswith("betas") and same_class and isinstance(default, list):
                wrong = words or not isinstance(value, list) or len(value) != len(default)
                words = f"a list of {len(default)} numbers" if wrong else None
            if words and not isinstance(value, dict):  # which is refused anyway
                yield f"{group}.{key} must be {words}, got {value!r}; try {group}.{key}={_show(default)}"


def _wrong_type(value: Any, default: Any) -> str | None:
    """In words, the type that `value` must have where a file says `default`, or None if it has it."""
    if default is None:
        return None
    if isinstance(default, list):
        wrong = not isinstance(value, list) or any(default and _wrong_type(v, default[0]) for v in value)
        return "a list like the default" if wrong else None
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if isinstance(default, float):
        return None if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    return None if isinstance(value, str | bool) else "a word"


def _show(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | list) else str(value)


# --------------------------------------------------------------------------------------------------- identity


def identity(config: Mapping[str, Any]) -> str:
    """What makes a run this run, as canonical text: equal for equal settings, however they were typed."""
    settings = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    for key, before in (("engine", "serial"), ("channels_last", False)):  # the reference: as if there were no other
        if settings.get(key, before) == before:
            settings.pop(key, None)
    settings["dataset"] = {k: v for k, v in settings["dataset"].items() if f"dataset.{k}" not in NOT_IDENTITY}
    return json.dumps(_numbers_as_floats(settings), sort_keys=True)


def _numbers_as_floats(value: Any) -> Any:
    """1 and 1.0 are the same setting."""
    if isinstance(value, Mapping):
        return {key: _numbers_as_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers_as_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def run_id(config: RunConfig) -> str:
    """`<model>-<norm>-<optimizer>-s<seed>-<12 hex digits of the identity's sha256>`."""
    text = f"{RESULTS_VERSION} {identity(config.to_dict())}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{config.model['name']}-{config.norm['name']}-{config.optimizer['name']}-s{config.seed}-{digest}"


def from_dict(settings: Mapping[str, Any]) -> RunConfig:
    """The RunConfig that a run folder stores.

    Raises:
        ConfigError: not such a config, or an interpolation in it (a stranger's folder must not read this machine).
    """
    if "${" in json.dumps(settings):
        raise ConfigError("a stored config holds plain values only, this one has an interpolation ${...}")
    return load(OmegaConf.create(dict(settings)))


def to_yaml(config: RunConfig) -> str:
    """The text of OmegaConf.to_yaml, by libyaml where it is there: a tenth of the time, of which a sweep takes many."""
    settings = config.to_dict()
    try:
        return yaml.dump(settings, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    except UnicodeEncodeError:  # a path that this locale has no letters for, which libyaml does not escape
        return OmegaConf.to_yaml(OmegaConf.create(settings))


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):
    pass


@lru_cache(maxsize=1024)
def _is_no_text(text: str) -> bool:
    """Whether it reads as something else: 1e-3, yes, null."""
    with contextlib.suppress(ValueError):
        return float(text) is not None
    try:
        return not isinstance(OmegaConf.create(f"is: {text}")["is"], str)
    except Exception:  # what is no plain YAML is quoted anyway
        return False


_Dumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, "'" if _is_no_text(text) else None)
)
