"""What was typed after `normbench train`, brought into the form that Hydra's command line reads."""

import contextlib
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from normbench import catalog
from normbench.config import GROUPS, ConfigError, RunConfig

WITH_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p", "--cfg", "-c")
TEXT = ("out", "name", "dataset.root", "dataset.name", "model.name")  # 007 and 1e3 are folders or names here
OURS = {"--dry-run": "hydra.sweeper.dry_run", "--yes": "hydra.sweeper.yes"}  # a flag of ours -> Hydra's key


def arrange(args: Sequence[str]) -> list[str]:
    """Flags first, as argparse wants them; our own, and values that Hydra's grammar can't read put into its words.

    Raises:
        ConfigError: a setting with dashes or of no readable form, or a folder of choices that would hide behind ours.
    """
    refuse_unprintable(args)
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ConfigError("the folder that you are in does not exist any more; cd into another one") from None
    flags, settings = _split(args)
    _refuse_hidden_choices(flags)
    _refuse_wrong_flags([flag for flag in flags if flag not in OURS])
    sweep, ours = "-m" in flags or "--multirun" in flags, [key for flag, key in OURS.items() if flag in flags]
    flags = [flag for flag in flags if flag not in ("-m", "--multirun", *OURS)]
    _refuse_blanks(settings)
    settings = [quoted(setting) for setting in settings]
    if not (sweep or ours):
        return [*flags, *settings]
    if not any(re.match(r"hydra/sweeper=(?!checked$)", setting) for setting in settings):
        settings = [_for_those_that_have_it(setting) for setting in settings]
    return ["-m", *flags, *settings, *(f"{key}=true" for key in ours)]


def refuse_unprintable(args: Sequence[str]) -> None:
    """Raise ConfigError for an argument that no message, table or file name can hold."""
    for arg in args:
        try:
            text = os.fsencode(arg).decode()  # the bytes that were typed, whatever the locale made of them
        except UnicodeDecodeError:
            raise ConfigError(f"{arg[:60]!r} is not UTF-8 text; type it in another encoding") from None
        if odd := re.search(r"[\x00-\x1f\x7f-\x9f]", text):
            raise ConfigError(f"{arg[:60]!r} holds a line break or another control character, {odd[0]!r}; leave it out")


# ------------------------------------------------------------------------------------------------------------ flags


def _split(args: Sequence[str]) -> tuple[list[str], list[str]]:
    flags: list[str] = []
    settings: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        name, _, value = arg.partition("=")
        if not arg.startswith("-"):
            settings.append(arg)
        elif value and name not in (*WITH_VALUE, "--info", "-i"):
            raise ConfigError(f"settings have no dashes: type {arg.lstrip('-')} instead of {arg}")
        elif re.fullmatch(r"--[\w.]+", arg) and _is_setting(arg[2:]):
            value = rest[0] if rest else "VALUE"
            raise ConfigError(f"settings have no dashes: type {arg[2:]}={value} instead of {arg} {value}")
        else:
            flags.append(arg)
            if arg in WITH_VALUE or (arg in ("--info", "-i") and rest and "=" not in rest[0]):
                flags += rest[:1]
                rest = rest[1:]
    return flags, settings


def _is_setting(key: str) -> bool:
    """`epochs`, `norm`, `optimizer.lr`, even mistyped behind the point: not by its value, only by its first word."""
    return key.partition(".")[0] in {field.name for field in fields(RunConfig)}


def _refuse_wrong_flags(flags: Sequence[str]) -> None:
    parser = get_args_parser()

    def refuse(message: str) -> None:
        raise ConfigError(f"{message}; settings are typed as key=value, and normbench train --help shows the flags")

    parser.error = refuse  # type: ignore[assignment] - argparse would print the whole usage
    if "--version" not in flags:  # it would be answered here
        parser.parse_args(list(flags))


def _refuse_hidden_choices(flags: Sequence[str]) -> None:
    """Hydra takes our norm/bn.yaml and not the user's, without a word."""
    pairs = [flag.partition("=")[::2] for flag in flags] + list(itertools.pairwise(flags))
    for flag, folder in pairs:
        if flag in ("--config-dir", "-cd") and folder:
            for group in GROUPS:
                mine = {path.stem for path in (Path(folder) / group).glob("*.yaml")}
                for name in sorted(mine & catalog.choices(group).keys()):
                    raise ConfigError(
                        f"{folder}/{group}/{name}.yaml has the name of a choice of normbench's: rename it"
                    )


# --------------------------------------------------------------------------------------------------------- settings


def _refuse_blanks(settings: Sequence[str]) -> None:
    """`lr = 0.1` arrives as three arguments."""
    for first, second, third in zip(settings, settings[1:], [*settings[2:], ""], strict=False):
        if (first.endswith("=") and "=" not in second) or second.startswith("="):
            together = f"{first}{second}" if second != "=" else f"{first}={third}"
            raise ConfigError(f"type {together}, without blanks around the =")


def quoted(setting: str) -> str:
    """`dataset.root=~/pets`, `out=a b`, `out=ünï`, `name=1e3`, `norm=false`: Hydra reads them only in quotes as meant.

    Raises:
        ConfigError: no setting, or its value can't be read or means something else than it seems to.
    """
    key, equals, value = setting.partition("=")
    plain, bare = value.strip(), key.lstrip("+~")
    if not setting.startswith("~") or equals:
        _refuse_form(setting, key, equals, value)
    if bare in GROUPS and re.match(r"\[|\{|.*\$\{", plain):
        choice = catalog.default(bare)
        raise ConfigError(
            f"{setting}: {bare} takes the name of one choice, like {bare}={choice}; for several -m {bare}=A,B"
        )
    if bare in GROUPS and max(map(len, plain.split(","))) > 64:  # too long for a file's name, where Hydra looks
        raise ConfigError(f"no {setting}; normbench list {bare} shows the choices")
    if bare in GROUPS and key[0] == "+":
        raise ConfigError(f"{setting}: every run has a choice of {bare}; type {bare}={plain}")
    override = _parsed(setting)
    if override is None:
        if re.fullmatch(r"[+~]{0,2}[\w.@/]+", key) and plain and not re.search(r"[\[\]{}()'\",$\\=]", value):
            return f'{key}="{value}"'
        raise ConfigError(_why_unreadable(setting, value))
    is_word = override.is_delete() or override.is_sweep_override() or isinstance(override.value(), str)
    if (bare in TEXT and not is_word and plain != "null") or (bare in GROUPS and not is_word):
        return f'{key}="{plain}"'
    if bare not in TEXT and re.search(r"(?<![\w.'\"-])(?<!\w )[+-]?0[\d_]+(?![\w.'\"-])", value):
        wrong = re.sub(r"\b0+(?=\d)", "", plain)
        raise ConfigError(f"{setting}: numbers have no leading zeros (YAML reads 010 as 8); type {key}={wrong}")
    return setting


def _refuse_form(setting: str, key: str, equals: str, value: str) -> None:
    if not equals:
        groups = [group for group in GROUPS if setting in catalog.choices(group)]
        hint = (
            f"did you mean {' or '.join(f'{group}={setting}' for group in groups)}?" if groups else "for example seed=1"
        )
        raise ConfigError(f"{setting!r} is no setting: type key=value, without blanks around the =; {hint}")
    if not key.strip():
        raise ConfigError(f"{setting!r} has no key before the =; type key=value without blanks, for example seed=1")
    if value.startswith("="):
        raise ConfigError(f"{setting} has one = too many; type {key}={value.lstrip('=')}")
    if key != key.strip():
        raise ConfigError(f"{setting!r}: type {key.strip()}={value.strip()}, without blanks around the =")


def _parsed(setting: str) -> Override | None:
    """None: Hydra's grammar does not have it."""
    try:
        return OverridesParser.create().parse_override(setting)
    except HydraException:
        return None
    except ValueError:  # Python reads no number of more than 4,300 digits
        key, _, value = setting.partition("=")
        raise ConfigError(f"{key} can't be a number of {len(value):,} digits; type {key}=1") from None


def _why_unreadable(setting: str, value: str) -> str:
    for opening, closing in ("[]", "()", "{}"):
        if value.count(opening) != value.count(closing):
            missing = closing if value.count(opening) > value.count(closing) else opening
            return f"{setting!r} lacks a {missing}; in a shell put lists in quotes: 'model.hidden=[64]'"
    if re.search(r"(^|,)\s*(,|$)", value):
        return f"{setting!r} has a comma with nothing before or after it; write key=A,B for a sweep"
    return f"{setting!r} can't be read; write key=value without blanks, lists in quotes: 'model.hidden=[64]'"


def _for_those_that_have_it(setting: str) -> str:
    """In a sweep, `clip.max_norm=1` as a list of one value.

    Hydra sets single values in the config of the whole sweep, where clip=none may stand; a list it leaves to the
    sweeper, which gives the value to the jobs that have the key.
    """
    key, _, value = setting.partition("=")
    if not value or key.partition(".")[0] not in GROUPS or "." not in key:
        return setting
    with contextlib.suppress(HydraException):  # the sweeper says what is wrong with it
        if not OverridesParser.create().parse_override(setting).is_sweep_override():
            return f"{key}=choice('null')" if value.strip() == "null" else f"{key}=choice({value})"
    return setting
