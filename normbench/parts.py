"""From a part's settings to an object of its class; every call of Hydra's instantiate is here."""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate

from normbench.config import ConfigError, RunConfig, unknown_key
from normbench.dataset import DataError

OURS = {
    "dataset": ("train_size",),
    "optimizer": ("decay_norm_and_bias", "tune"),
}  # keys that the class gets only if it asks
WELL_KNOWN = ("normbench.", "torch.nn", "torch.optim")


def part(group: str, settings: Mapping[str, Any], *args: Any, **runtime: Any) -> Any:
    """An object of the part's class, from its settings and what only this run knows (`args`, `runtime`).

    Raises:
        ConfigError: the class can't be imported, does not take a setting, or refuses a value.
    """
    maker = maker_of(group, settings["_target_"])
    arguments = arguments_of(group, settings, maker, args, runtime)
    try:
        return maker(*args, **arguments, **runtime)
    except (ConfigError, DataError, *impossible()):
        raise
    except (Exception, SystemExit) as error:  # a user's class may raise anything
        raise ConfigError(f"{group}={settings['name']}: {in_words(error)}") from error


def impossible() -> tuple[type[Exception], ...]:
    """normbench.norm.Impossible, if torch is there at all: a data set must not import it."""
    module = sys.modules.get("normbench.norm")
    return (module.Impossible,) if module else ()


def in_words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"


def maker_of(group: str, target: str) -> Callable[..., Any]:
    module, _, name = target.rpartition(".")
    if module.startswith(WELL_KNOWN):  # as Hydra would find it: a run asks a dozen times, 0.9 ms each with Hydra
        found = getattr(sys.modules.get(module), name, None)
        if callable(found):
            return found
    try:
        return instantiate({"_target_": target, "_partial_": True}).func
    except (HydraException, ValueError, ImportError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(
            f"{group}._target_={target} can't be used: {reason}; it must be the path of a class in an installed "
            "package or in the folder where you start normbench"
        ) from None


def is_known(group: str, settings: Mapping[str, Any]) -> bool:
    """Whether the part is a class of normbench's own group, or of torch: code that a stranger may name."""
    target = settings["_target_"]
    if not re.fullmatch(rf"normbench\.{group}\.\w+\.\w+|torch\.(nn|optim)\.\w+", target):
        return False  # by its text, before anything of it is imported
    try:
        maker = maker_of(group, target)
    except ConfigError:
        return False
    ours = (f"normbench.{group}.", "torch.nn.modules.", "torch.optim.")
    return (isinstance(maker, type) or inspect.isfunction(maker)) and maker.__module__.startswith(ours)


def refuse_unknown(config: RunConfig, groups: Iterable[str], folder: object, how_to_trust: str) -> None:
    """Raise PermissionError if a part of a run's config is code that a stranger may not name (see is_known)."""
    for group in groups:
        settings = getattr(config, group)
        if not is_known(group, settings):
            raise PermissionError(
                f"{folder} needs code of its own, {settings['_target_']}; if you trust it: {how_to_trust}"
            )


def offered(group: str, settings: Mapping[str, Any], offers: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the offers that the class takes by name."""
    try:
        parameters = inspect.signature(maker_of(group, settings["_target_"])).parameters
    except (ValueError, TypeError):
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(offers)
    return {key: value for key, value in offers.items() if key in parameters}


def arguments_of(group: str, settings: Mapping, maker: Callable, args: tuple, runtime: Mapping) -> dict[str, Any]:
    """The settings as keyword arguments of the class, checked against its signature."""
    ours = ("name", "_target_", *OURS.get(group, ()))
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if k not in ours}
    try:
        signature = inspect.signature(maker)
    except (ValueError, TypeError):  # a class written in C: it will say itself what it does not take
        return given
    parameters = signature.parameters.values()
    given |= {k: settings[k] for k in ours if k in signature.parameters and k in settings and k not in runtime}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        keys = [p.name for p in list(parameters)[len(args) :] if p.name not in runtime]
        unknown = [key for key in given if key not in keys]
        if unknown:
            words = unknown_key(f"{group}.{unknown[0]}", keys)
            remove = " ".join(f"~{group}.{key}" for key in unknown)
            raise ConfigError(f"{words} ({settings['_target_']}); to leave out what it lacks: {remove}")
    try:
        signature.bind(*args, **given, **runtime)
    except TypeError as error:
        raise ConfigError(f"{group}={settings['name']} ({settings['_target_']}): {error}") from None
    return given
