"""`normbench data NAME`: find or fetch a data set, verify it, and say what it holds."""

import difflib
import logging
import sys
import time
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normbench.dataset import Data

USAGE = """\
usage: normbench data NAME [dataset.KEY=VALUE ...]

Find a data set on this machine or fetch it, verify it, and say what it holds and where it lies.

  normbench data cifar10                          looked for in the user's cache folder, else downloaded into it
  normbench data cifar10 dataset.root=~/data      looked for there first, else downloaded into there
  normbench data imagefolder dataset.root=~/flowers dataset.size=32
"""


class _Printing(logging.StreamHandler):
    """Lets an error of the output through (the reader has gone), which logging would show with its traceback."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        raise


def main(args: list[str]) -> int:
    """Exit code: 0 done; 2 an unknown name or setting; 4 the data are missing, damaged or cannot be fetched."""
    if not args or args[0] in ("-h", "--help"):
        print(f"{USAGE}\nNAME: {', '.join(_choices())}")
        return 0 if args else 2
    name, *overrides = args
    if name not in _choices():
        near = difflib.get_close_matches(name, _choices(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return _refuse(f"NAME must be one of {', '.join(_choices())}; it is {name!r}{hint}", 2)

    from normbench import app, build

    handler = _Printing(sys.stdout)  # the data sets log where they found what
    log = logging.getLogger("normbench")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        start = time.perf_counter()
        data = build.dataset(_settings(name, overrides)).load()
        seconds = time.perf_counter() - start
    except Exception as error:
        code = app.exit_code(error)
        if code is None:
            raise  # a bug: its traceback helps
        return _refuse(app.in_words(error), code)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    print(describe(name, data, seconds))
    return 0


def describe(name: str, data: "Data", seconds: float) -> str:
    shape = "x".join(map(str, data.train_images.shape[1:]))
    size_mb = (data.train_images.nbytes + data.test_images.nbytes) / 1e6
    classes = ", ".join(data.classes[:10]) + (", ..." if len(data.classes) > 10 else "")
    return (
        f"{name}: {len(data.train_images):,} training and {len(data.test_images):,} test images, "
        f"{shape} uint8, {size_mb:,.1f} MB\n"
        f"  {len(data.classes)} classes: {classes}\n"
        f"  fingerprint {data.fingerprint[:12]}, loaded and verified in {seconds:.2f} s"
    )


def _choices() -> list[str]:
    folder = resources.files("normbench.conf") / "dataset"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def _settings(name: str, overrides: list[str]) -> dict[str, Any]:
    """The group `dataset` of the config, as plain values.

    Raises:
        ConfigError: a setting that this data set needs is not given.
    """
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from normbench import parts, typed
    from normbench.app import register_plugins
    from normbench.config import ConfigError

    typed.refuse_unprintable(overrides)
    overrides = [typed.quoted(setting) for setting in overrides]
    for setting in overrides:
        if not setting.lstrip("+~").startswith("dataset."):
            raise ConfigError(f"{setting}: only dataset.KEY=VALUE can be set here, see normbench data --help")
    register_plugins()
    with initialize_config_module("normbench.conf", version_base="1.3"):
        config = compose("train", overrides=[f"dataset={name}", *overrides]).dataset
    if OmegaConf.is_missing(config, "name"):
        config.name = name  # what tables call it does not matter here
    missing = [f"dataset.{key}=..." for key in config if OmegaConf.is_missing(config, key)]
    if missing:
        raise ConfigError(f"dataset={name} needs {' '.join(missing)}; `normbench data --help` shows an example")
    settings: Any = OmegaConf.to_container(config, resolve=True)
    if settings.get("train_size") is not None and not parts.offered("dataset", settings, {"train_size": 0}):
        raise ConfigError("dataset.train_size is for normbench train; here the whole set is verified")
    return settings


def _refuse(message: str, code: int) -> int:
    print(f"normbench data: {message}", file=sys.stderr)
    return code
