"""From what was typed to the jobs of a sweep: expanded, checked, and equal ones joined. A single run is a sweep of one.

Composing is slow (about 40 ms), so a config is composed once for each combination of choices (norm=bn,
+experiment=x, ...) and the plain settings (optimizer.lr=0.1) are then set in it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from normbench.config import GROUPS, NOT_IDENTITY, ConfigError, RunConfig, check_parts, load, unknown_key

CONFIG_NAME = "train"


@dataclass(frozen=True)
class Job:
    """One run of a sweep: what to hand to a launcher, and the config that it makes."""

    overrides: tuple[str, ...]
    config: RunConfig


@dataclass
class Plan:
    """The jobs of a sweep, each run once; `asked` counts them before equal ones were joined."""

    jobs: list[Job] = field(default_factory=list)
    asked: int = 0


def plan(loader: ConfigLoader, typed: Sequence[str]) -> Plan:
    """Expand, check and join.

    A setting of a group goes to those jobs whose choice has the key, and is left out of the others; if no job
    has it, it is refused.

    Args:
        loader: Hydra's, with the search path of this command.
        typed: the overrides as typed, sweeps and all.

    Raises:
        ConfigError: anything about any job that can be known without loading data.
    """
    composer = _Composer(loader)
    combinations = expand(loader, typed)
    jobs = [composer.job(overrides) for overrides in combinations]
    for key, keys_instead in composer.without_effect.items():
        raise ConfigError(unknown_key(key, keys_instead))
    different: dict[Path, Job] = {}
    for job in jobs:
        first = different.setdefault(job.config.folder, job)
        _refuse_other_way(first, job)
    return Plan(list(different.values()), asked=len(jobs))


def configs(loader: ConfigLoader, overrides: Sequence[Sequence[str]]) -> list[RunConfig]:
    """The config of each job, from the overrides that a sweeper gives a launcher."""
    composer = _Composer(loader)
    parser = OverridesParser.create(config_loader=loader)
    return [composer.job(parser.parse_overrides(list(texts))).config for texts in overrides]


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


def expand(loader: ConfigLoader, typed: Sequence[str]) -> list[list[Override]]:
    """Every combination of the swept values, in the order typed, the last key fastest."""
    parser = OverridesParser.create(config_loader=loader)
    axes: dict[str, list[Override]] = {}
    for text in typed:
        (override,) = parser.parse_overrides([text])  # unlike parse_override, it lets glob(*) look up the choices
        key = override.key_or_group if override.is_delete() else override.get_key_element().lstrip("+~")
        if key in axes:
            raise ConfigError(f"{key} is given twice; for a sweep write {key}=A,B with -m")
        if not override.is_sweep_override():
            axes[key] = [override]
        elif override.is_discrete_sweep():
            prefix = override.get_key_element()
            axes[key] = parser.parse_overrides([f"{prefix}={value}" for value in override.sweep_string_iterator()])
        else:
            raise ConfigError(f"{text}: a sweep needs a list of values, like {key}=0.1,0.01")
        if not axes[key]:
            raise ConfigError(f"{text} is an empty sweep; write {key}=A,B")
    return [list(combination) for combination in itertools.product(*axes.values())]


class _Composer:
    """Composes jobs, remembering what equal choices gave, and which settings no job had a use for."""

    def __init__(self, loader: ConfigLoader):
        self.loader = loader
        self.groups = set(loader.list_groups(""))
        self.composed: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]]] = {}
        self.with_effect: set[str] = set()
        self.without_effect: dict[str, list[str]] = {}  # key: the keys that are there in its place

    def job(self, overrides: Sequence[Override]) -> Job:
        choosing = [o for o in overrides if not self._sets_a_value(o)]
        defaults, choices = self._compose(tuple(_text(o) for o in choosing))
        cfg = defaults.copy()
        used = []
        for override in overrides:
            if override in choosing or self._set(cfg, override):
                used.append(_text(override))
        config = load(cfg, choices, used)
        check_parts(config, defaults)
        return Job(tuple(used), config)

    def _sets_a_value(self, override: Override) -> bool:
        """`key=value` of an existing key, as opposed to a choice, `+key=`, `~key` or Hydra's own settings."""
        key = override.get_key_element()
        return key[0] not in "+~" and "/" not in key and "@" not in key and key not in self.groups and key != "hydra"

    def _compose(self, texts: tuple[str, ...]) -> tuple[DictConfig, dict[str, str]]:
        if texts not in self.composed:
            cfg = self.loader.load_configuration(CONFIG_NAME, list(texts), run_mode=RunMode.RUN)
            choices: Any = OmegaConf.to_container(cfg.hydra.runtime.choices)
            with open_dict(cfg):
                del cfg["hydra"]
            self.composed[texts] = cfg, choices
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
            self.with_effect.add(key)
            self.without_effect.pop(key, None)
        elif key.partition(".")[0] not in GROUPS:
            raise ConfigError(unknown_key(key, beside))
        elif key not in self.with_effect:
            self.without_effect[key] = sorted({*self.without_effect.get(key, ()), *beside})
        return beside is None


def _text(override: Override) -> str:
    assert override.input_line is not None
    return override.input_line


def _keys_beside(cfg: DictConfig, key: str) -> list[str] | None:
    """None if the key exists; else the keys that exist where it was looked for."""
    parent, _, last = key.rpartition(".")
    node: Any = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig):
        return []
    return None if last in node.keys() else [str(name) for name in node]  # noqa: SIM118 - `in` is False for ???
