"""From what was typed to the jobs of a sweep: expanded, checked, and equal ones joined. A single run is a sweep of one.

Composing is slow (about 40 ms), so a config is composed once for each combination of choices (norm=bn,
+experiment=x, ...), the plain settings (optimizer.lr=0.1) are then set in it, and jobs that differ in their seed alone
share all but the seed.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from normbench.config import (
    GROUPS,
    NOT_IDENTITY,
    ConfigError,
    RunConfig,
    check,
    keys_of,
    load,
    ranges,
    unknown_key,
    without_ranges,
)

CONFIG_NAME = "train"


@dataclass(frozen=True)
class Job:
    """One run of a sweep: what to hand to a launcher, and the config that it makes.

    tune: where the files of its choices would have settings tuned, `optimizer.lr` -> `log(1e-5,0.1)`.
    """

    overrides: tuple[str, ...]
    config: RunConfig
    tune: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Plan:
    """The jobs of a sweep, each run once; `asked` counts them before equal ones were joined."""

    jobs: list[Job] = field(default_factory=list)
    asked: int = 0


class TooMany(ConfigError):
    """A sweep of more jobs than one may want by mistake. count: of jobs; first: one of them."""

    def __init__(self, count: int, first: Job):
        super().__init__(f"{count:,} jobs")
        self.count, self.first = count, first


def plan(loader: ConfigLoader, typed: Sequence[str], most: int | None = None) -> Plan:
    """Expand, check and join.

    A setting of a group goes to those jobs whose choice has the key, and is left out of the others; if no job
    has it, it is refused.

    Args:
        loader: Hydra's, with the search path of this command.
        typed: the overrides as typed, sweeps and all.
        most: more jobs than this are refused.

    Raises:
        TooMany: more jobs than `most`.
        ConfigError: anything about any job that can be known without loading data.
    """
    composer, parser = _Composer(loader), OverridesParser.create(config_loader=loader)
    axes = expand(loader, typed)
    count = math.prod(len(axis) for axis in axes)
    if most is not None and count > most:
        raise TooMany(count, composer.job(parser.parse_overrides([axis[0] for axis in axes])))
    combinations = enumerate(itertools.product(*map(parser.parse_overrides, axes)), 1)
    jobs = [_job(composer, overrides, number, count) for number, overrides in combinations]
    composer.refuse_without_effect()
    different: dict[Path, Job] = {}
    for job in jobs:
        first = different.setdefault(job.config.folder, job)
        _refuse_other_way(first, job)
    return Plan(list(different.values()), asked=len(jobs))


def _job(composer: "_Composer", overrides: Sequence[Override], number: int, count: int) -> Job:
    """Of a sweep's many jobs, the bad one is named."""
    try:
        return composer.job(overrides)
    except ConfigError as error:
        if count == 1:
            raise
        typed = " ".join(_text(override) for override in overrides)
        between = "\n" if "\n" in str(error) else " "
        raise ConfigError(f"{error}{between}(job {number} of {count}: {typed})") from None


def configs(loader: ConfigLoader, overrides: Sequence[Sequence[str]]) -> list[RunConfig]:
    """The config of each job, from the overrides that a sweeper gives a launcher.

    Raises:
        ConfigError: a setting that none of the jobs has, or a value that can't be.
    """
    composer = _Composer(loader)
    parser = OverridesParser.create(config_loader=loader)
    parsed: dict[str, Override] = {}
    for text in itertools.chain.from_iterable(overrides):
        if text not in parsed:
            (parsed[text],) = parser.parse_overrides([text])
    found = [composer.job([parsed[text] for text in texts]).config for texts in overrides]
    composer.refuse_without_effect()
    return found


def _refuse_other_way(first: Job, job: Job) -> None:
    """Jobs of one folder are one run; they must not ask for it to be made in different ways."""
    ways = [job.config.to_dict(), first.config.to_dict()]
    for key in NOT_IDENTITY:
        section, _, last = key.rpartition(".")
        way, before = ((config[section] if section else config).get(last) for config in ways)
        if way != before:
            raise ConfigError(
                f"{key}={before} and {key}={way} make one and the same run, so it can't be swept over; "
                f"sweep over out=FOLDER,FOLDER to make it twice"
            )


def expand(loader: ConfigLoader, typed: Sequence[str]) -> list[list[str]]:
    """The settings of each key, one a value, in the order typed; the jobs are their product, the last key fastest."""
    parser = OverridesParser.create(config_loader=loader)
    axes: dict[str, list[str]] = {}
    for text in typed:
        (override,) = parser.parse_overrides([text])  # unlike parse_override, it lets glob(*) look up the choices
        key = override.key_or_group if override.is_delete() else override.get_key_element().lstrip("+~")
        if key in axes:
            raise ConfigError(f"{key} is given twice; for a sweep write {key}=A,B with -m")
        if not override.is_sweep_override():
            axes[key] = [text]
        elif override.is_discrete_sweep():
            prefix = override.get_key_element()
            axes[key] = [f"{prefix}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(f"{text}: a sweep needs a list of values, like {key}=0.1,0.01")
        if not axes[key]:
            raise ConfigError(f"{text} is an empty sweep; write {key}=A,B")
    return list(axes.values())


class _Composer:
    """Composes jobs, remembering what equal choices gave, and which settings no job had a use for."""

    def __init__(self, loader: ConfigLoader):
        self.loader = loader
        self.groups = set(loader.list_groups(""))
        self.composed: dict[tuple[str, ...], tuple[DictConfig, dict[str, str], bool]] = {}
        self.tune: dict[tuple[str, ...], dict[str, str]] = {}
        self.bases: dict[tuple[str, ...], Job] = {}
        self.with_effect: set[str] = set()
        self.without_effect: dict[str, list[str]] = {}  # key: the keys that are there in its place

    def job(self, overrides: Sequence[Override]) -> Job:
        choosing = [o for o in overrides if not self._sets_a_value(o)]
        defaults, choices, interpolates = self._compose(tuple(_text(o) for o in choosing))
        interpolates |= any("${" in _text(o) for o in overrides)  # a value may be made of others
        plain = [] if interpolates else [o for o in overrides if _is_plain(o, defaults)]
        others = [o for o in overrides if o not in plain]
        try:
            texts = tuple(_text(o) for o in others)
            if texts not in self.bases:
                self.bases[texts] = self._loaded(others, choosing, defaults, choices)
            base = self.bases[texts]
            config = replace(base.config, **{group: dict(getattr(base.config, group)) for group in GROUPS})
            used = {*base.overrides, *(_text(o) for o in plain if self._set_plain(config, o))}
            check(config, defaults)
        except ConfigError:
            return self._loaded(overrides, choosing, defaults, choices)  # tells of all that is wrong together
        return Job(tuple(text for o in overrides if (text := _text(o)) in used), config, base.tune)

    def _loaded(
        self, overrides: Sequence[Override], choosing: Sequence[Override], defaults: DictConfig, choices: dict[str, str]
    ) -> Job:
        cfg = defaults.copy()
        used = [_text(o) for o in overrides if o in choosing or self._set(cfg, o)]
        tune = self.tune[tuple(_text(o) for o in choosing)]
        return Job(tuple(used), load(cfg, choices, used, defaults), tune)

    def refuse_without_effect(self) -> None:
        for key, keys_instead in self.without_effect.items():
            raise ConfigError(unknown_key(key, keys_instead))

    def _sets_a_value(self, override: Override) -> bool:
        """`key=value` of an existing key, as opposed to a choice, `+key=`, `~key` or Hydra's own settings."""
        key = override.get_key_element()
        return key[0] not in "+~" and "/" not in key and "@" not in key and key not in self.groups and key != "hydra"

    def _compose(self, texts: tuple[str, ...]) -> tuple[DictConfig, dict[str, str], bool]:
        """The config of these choices, their names, and whether any value in it is made of others."""
        if texts not in self.composed:
            cfg = self.loader.load_configuration(CONFIG_NAME, list(texts), run_mode=RunMode.RUN)
            choices: Any = OmegaConf.to_container(cfg.hydra.runtime.choices)
            with open_dict(cfg):
                del cfg["hydra"]
            self.tune[texts], cfg = ranges(cfg), without_ranges(cfg)
            self.composed[texts] = cfg, choices, "${" in str(cfg)
        return self.composed[texts]

    def _set(self, cfg: DictConfig, override: Override) -> bool:
        """Set the value; False if this job's choice has no such key."""
        key = override.key_or_group
        beside = _keys_beside(cfg, key)
        if beside is None:
            try:
                OmegaConf.update(cfg, key, override.value(), merge=False)
            except (OmegaConfBaseException, HydraException) as error:
                raise ConfigError(f"{_text(override)}: {str(error).splitlines()[0]}") from None
        elif key.partition(".")[0] not in GROUPS:
            raise ConfigError(unknown_key(key, beside))
        return self._noted(key, beside)

    def _set_plain(self, config: RunConfig, override: Override) -> bool:
        """The same, in a config that is already made."""
        key, value = override.key_or_group, override.value()
        group, _, setting = key.partition(".")
        if not setting:
            setattr(config, key, value)
            return True
        part = getattr(config, group)
        if there := setting in part:
            part[setting] = value
        return self._noted(key, None if there else list(part))

    def _noted(self, key: str, beside: Sequence[str] | None) -> bool:
        if beside is None:
            self.with_effect.add(key)
            self.without_effect.pop(key, None)
        elif key not in self.with_effect:
            self.without_effect[key] = sorted({*self.without_effect.get(key, ()), *beside})
        return beside is None


def _is_plain(override: Override, defaults: DictConfig) -> bool:
    """Whether its value only has to be put into a finished config: a seed, or a number or word of a part."""
    key, value = override.get_key_element(), override.value()
    group, _, setting = key.partition(".")
    if key == "seed":
        return type(value) is int and 0 <= value < 2**32
    values = value if isinstance(value, list) else [value]
    return (
        group in GROUPS
        and setting not in ("", "name", "_target_")
        and "." not in setting
        and all(type(v) in (int, float, str, bool) for v in values)
        and not OmegaConf.is_missing(defaults.get(group) or {}, setting)
    )


def _text(override: Override) -> str:
    assert override.input_line is not None
    return override.input_line


def _keys_beside(cfg: DictConfig, key: str) -> list[str] | None:
    """None if the key exists; else the keys that exist where it was looked for."""
    parent, _, last = key.rpartition(".")
    node: Any = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig):
        return []
    return None if last in node.keys() else [str(name) for name in node] if parent else keys_of(node)  # noqa: SIM118 - `in` is False for ???
