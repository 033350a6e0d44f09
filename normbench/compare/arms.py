"""From what was typed to the arms of a comparison: their configs, what is tuned in each, and the plan to be kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from normbench.compare import space
from normbench.config import GROUPS, NOT_IDENTITY, ConfigError, RunConfig, check, run_id, unknown_key
from normbench.plan import Arm, Plan
from normbench.sweep import jobs
from normbench.sweep.loading import ConfigLoader

PLAIN = ("norm", "optimizer")  # named by their value alone, as in the report


@dataclass(frozen=True)
class Contender:
    """An arm, and the config that its runs have but for seed and tuned settings. name: what tells it from the others.

    whole: tuned keys whose values are whole numbers.
    """

    name: str
    arm: Arm
    config: RunConfig
    whole: Mapping[str, bool]

    def at(self, setting: Sequence[Any], seed: int, stop_epoch: int | None = None) -> RunConfig:
        """The run with these values of what is tuned."""
        parts = {group: dict(getattr(self.config, group)) for group in GROUPS}
        for key, value in zip(self.arm.tuned, setting, strict=True):
            group, _, name = key.partition(".")
            parts[group][name] = value
        stop = stop_epoch if stop_epoch and stop_epoch < self.config.epochs else None
        return replace(self.config, **parts, seed=seed, stop_epoch=stop)

    def words(self, setting: Sequence[Any]) -> str:
        """As what would be typed."""
        return " ".join(f"{key}={value}" for key, value in zip(self.arm.tuned, setting, strict=True)) or "as it is"


def contenders(loader: ConfigLoader, typed: Sequence[str], tune: Mapping[str, str]) -> list[Contender]:
    """The arms: every combination of the choices typed, equal ones joined.

    Args:
        loader: Hydra's.
        typed: settings of `normbench train -m`, lists and all.
        tune: `optimizer.lr`, or `optimizer.sgd.lr` for one choice alone -> a range as typed.

    Raises:
        ConfigError: about any of it that can be known without loading data.
    """
    planned = jobs.plan(loader, typed).jobs
    _refuse_swept_places(planned)
    choices = [_choices(job) for job in planned]
    keys = dict.fromkeys(key for found in choices for key in found)
    varied = [key for key in keys if len({found.get(key) for found in choices}) > 1]
    if len(planned) < 2:
        raise ConfigError("a comparison needs at least two arms; type for example norm=none,bn")
    _refuse_unknown(planned, tune)
    made = []
    for job, found in zip(planned, choices, strict=True):
        arm, whole = _arm(job, found, tune)
        made.append(Contender(_name(found, varied), arm, job.config, whole))
    return made


def _refuse_swept_places(planned: Sequence[jobs.Job]) -> None:
    for key in ("out", "name"):
        if len({getattr(job.config, key) for job in planned}) > 1:
            raise ConfigError(f"{key} is where the comparison goes, so it can't be a list; type {key}=ONE")
    if len({job.config.epochs for job in planned}) > 1:
        raise ConfigError(
            "every arm gets the same epochs, so epochs can't be a list; type epochs=ONE, and for a sweep over epochs "
            "normbench train -m"
        )
    if len({job.config.dataset["name"] for job in planned}) > 1:
        raise ConfigError(
            "arms are compared on the same test images, so dataset can't be a list; type dataset=ONE, and one "
            "comparison for each"
        )


def _choices(job: jobs.Job) -> dict[str, str]:
    """What was typed for this arm, as its runs have it; without what does not change them."""
    settings: Any = job.config.to_dict()
    found = {}
    for text in job.overrides:
        typed, _, value = text.partition("=")
        key = typed.lstrip("+~")
        group, _, name = key.partition(".")
        if key in GROUPS:
            found[key] = str(settings[key]["name"])
        elif group in settings and key not in NOT_IDENTITY:
            held = settings[group].get(name) if name else settings[group]
            found[key] = value if held is None else str(held)
    return found


def _name(choices: Mapping[str, str], varied: Sequence[str]) -> str:
    there = [key for key in varied if key in choices]
    return ", ".join(choices[key] if key in PLAIN else f"{key}={choices[key]}" for key in there) or "default"


def _arm(job: jobs.Job, choices: dict[str, str], tune: Mapping[str, str]) -> tuple[Arm, dict[str, bool]]:
    """What is tuned in it: the ranges of its files, where nothing was typed."""
    texts = {key: text for key, text in job.tune.items() if key not in choices}
    for length in (2, 3):  # of one choice alone last: it goes before
        for key, text in tune.items():
            group, *choice, name = key.split(".")
            part: dict[str, Any] = getattr(job.config, group)
            if len(key.split(".")) == length and name in part and choice in ([], [part["name"]]):
                texts[f"{group}.{name}"] = text
    ranges, values, whole = [], {}, {}
    for key, text in texts.items():
        if key in choices:
            raise ConfigError(f"{key}={choices[key]} is typed and tune.{key} too; leave one of them out")
        group, _, name = key.partition(".")
        default = getattr(job.config, group)[name]
        found = space.read(key, text, default)
        if isinstance(found, tuple):
            values[key] = found
        elif found is not None:
            ranges.append(found)
            whole[key] = isinstance(default, int)
    arm = Arm(choices, tuple(ranges), values, run_id(replace(job.config, seed=0)))
    _refuse_ends(job, arm)
    return arm, whole


def _refuse_ends(job: jobs.Job, arm: Arm) -> None:
    """Raise ConfigError for a range whose ends a run may not have: optimizer.momentum=1."""
    ends = [[span.low for span in arm.ranges], [span.high for span in arm.ranges]]
    lists = [[values[i] for values in arm.values.values()] for i in (0, -1)]
    for spans, listed in zip(ends, lists, strict=True):
        try:
            check(Contender("", arm, job.config, {}).at([*spans, *listed], 0))
        except ConfigError as error:
            raise ConfigError(f"an end of what is tuned can't be: {error}") from None


def _refuse_unknown(planned: Sequence[jobs.Job], tune: Mapping[str, str]) -> None:
    """Raise ConfigError for what no arm has."""
    for key in tune:
        group, _, rest = key.partition(".")
        *choice, name = rest.split(".")
        if group not in GROUPS or not name or len(choice) > 1:
            known = {f"{g}.{inside}" for job in planned for g in GROUPS for inside in getattr(job.config, g)}
            near = [full for full in sorted(known) if full.partition(".")[2] == key] or get_close_matches(key, known, 1)
            hint = f"did you mean tune.{near[0]}? " if near else ""
            raise ConfigError(
                f"tune.{key}: {hint}what is tuned is a setting of a group, as tune.optimizer.lr, or of one choice, as "
                f"tune.optimizer.sgd.lr; several values of another key are arms, as batch_size=32,128"
            )
        parts = [getattr(job.config, group) for job in planned]
        if choice and not (parts := [part for part in parts if part["name"] == choice[0]]):
            raise ConfigError(f"tune.{key}: no arm has {group}={choice[0]}; type tune.{group}.{name}")
        if not any(name in part for part in parts):
            keys = {inside for part in parts for inside in part if inside != "name"}
            raise ConfigError(f"tune.{key}: no arm has it: {unknown_key(f'{group}.{name}', keys)}")


# ---------------------------------------------------------------------------------------------------------------- plan


def differences(before: Plan, now: Plan) -> list[str]:
    """In words, where a plan that is kept is another one; seeds may have become more."""
    found = []
    arms = [{tuple(sorted(arm.choices.items())): arm for arm in plan.arms} for plan in (before, now)]
    for one, other, word in ((arms[0], arms[1], "had"), (arms[1], arms[0], "had not")):
        gone = [" ".join(f"{key}={value}" for key, value in choices) for choices in one if choices not in other]
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        found += [f"it {word} the arm {gone[0]}{more}"] if gone else []
    for choices in sorted(arms[0].keys() & arms[1].keys()):
        words = [space.in_words(made[choices]) for made in arms]
        if words[0] != words[1]:
            found.append(f"it tuned {words[0]}, now {words[1]}")
            break
    if not found and {arm.like for arm in before.arms} != {arm.like for arm in now.arms}:
        found.append("its runs had other settings, which are not typed now, or were made by another normbench")
    for key in ("search", "search_seed", "trials", "zoom", "halving"):
        if getattr(before, key) != getattr(now, key):
            found.append(f"it had {key}={getattr(before, key)}, now {key}={getattr(now, key)}")
    if before.seeds[0] != now.seeds[0]:
        found.append(f"it had first_seed={before.seeds[0]}, now first_seed={now.seeds[0]}")
    elif before.tune_seeds != now.tune_seeds:
        found.append(f"it had tune_seeds={len(before.tune_seeds)}, now tune_seeds={len(now.tune_seeds)}")
    return found
