"""What was typed after `normbench train`, brought into the form that Hydra's command line reads."""

import contextlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from normbench import catalog
from normbench.config import GROUPS, ConfigError

WITH_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p", "--cfg", "-c")

OURS = {"--dry-run": "hydra.sweeper.dry_run", "--yes": "hydra.sweeper.yes"}  # a flag of ours -> Hydra's key


def arrange(args: Sequence[str]) -> list[str]:
    """Flags first, as argparse wants them; our own, and values that Hydra's grammar can't read put into its words.

    Raises:
        ConfigError: a setting with dashes, or a folder of choices that would hide behind ours.
    """
    flags, settings = _split(args)
    _refuse_hidden_choices(flags)
    sweep, ours = "-m" in flags or "--multirun" in flags, [key for flag, key in OURS.items() if flag in flags]
    flags = [flag for flag in flags if flag not in ("-m", "--multirun", *OURS)]
    settings = [_quoted(setting) for setting in settings]
    if not (sweep or ours):
        return [*flags, *settings]
    if not any(re.match(r"hydra/sweeper=(?!checked$)", setting) for setting in settings):
        settings = [_for_those_that_have_it(setting) for setting in settings]
    return ["-m", *flags, *settings, *(f"{key}=true" for key in ours)]


def _split(args: Sequence[str]) -> tuple[list[str], list[str]]:
    flags: list[str] = []
    settings: list[str] = []
    rest = iter(args)
    for arg in rest:
        name, _, value = arg.partition("=")
        if not arg.startswith("-"):
            settings.append(arg)
        elif value and name not in (*WITH_VALUE, "--info", "-i"):
            raise ConfigError(f"settings have no dashes: type {arg.lstrip('-')} instead of {arg}")
        else:
            flags.append(arg)
            if arg in WITH_VALUE:
                flags.extend([value] if (value := next(rest, None)) is not None else [])
    return flags, settings


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


def _quoted(setting: str) -> str:
    """`dataset.root=~/pets`, `out=a b`, `out=ünï`: Hydra reads such words only in quotes."""
    key, _, value = setting.partition("=")
    try:
        OverridesParser.create().parse_override(setting)
    except HydraException:
        if re.fullmatch(r"[+~]{0,2}[\w.@/]+", key) and value.strip() and not re.search(r"[\[\]{}()'\",$\\=]", value):
            return f'{key}="{value}"'
    return setting


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
