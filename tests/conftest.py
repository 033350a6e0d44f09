"""What the tests share.

A test that takes an argument `<group>_settings` (`norm_settings`, `clip_settings`, ...) runs once for every file of
conf/<group>, with the file's content: a new part is tested without editing a test.
"""

import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hypothesis import settings
from omegaconf import OmegaConf

from normbench import assembly, config
from normbench.app import register_plugins
from normbench.preprocess.scale import Scale

CONF = Path(__file__).resolve().parent.parent / "conf"

# the same examples at every run; a slow machine is no failure
settings.register_profile("normbench", database=None, deadline=None, derandomize=True, max_examples=50)
settings.load_profile("normbench")


def pytest_generate_tests(metafunc):
    for argument in metafunc.fixturenames:
        group = argument.removesuffix("_settings")
        if argument.endswith("_settings") and (CONF / group).is_dir():
            paths = sorted((CONF / group).glob("*.yaml"))
            # not torchvision's networks, whose name is not the choice's, and not the user's own: see tests/test_swap.py
            paths = [path for path in paths if path.stem not in ("torchvision", "own")]
            choices = [{"name": path.stem, **OmegaConf.to_container(OmegaConf.load(path))} for path in paths]
            metafunc.parametrize(argument, choices, ids=[path.stem for path in paths])


@pytest.fixture(autouse=True)
def _torch_as_it_was():
    """One thread, and none of what a run in this process sets (streams.set_determinism) is left for the next test.

    Flushed denormals, above all: hypothesis refuses to make floats under them.
    """
    torch.set_num_threads(1)
    yield
    torch.set_flush_denormal(False)
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cuda.enable_mem_efficient_sdp(True)
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_cudnn_sdp(True)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def compose():
    """compose("norm=none", "model.hidden=[8]", ...) -> RunConfig, as `normbench train` would make it."""
    register_plugins()
    seen = {}

    def make(*overrides: str) -> config.RunConfig:
        if overrides not in seen:
            with initialize_config_module("normbench.conf", version_base="1.3"):
                cfg = hydra_compose("train", overrides=list(overrides), return_hydra_config=True)
            choices = OmegaConf.to_container(cfg.hydra.runtime.choices)
            OmegaConf.set_struct(cfg, False)
            del cfg["hydra"]
            seen[overrides] = config.load(cfg, choices, overrides)
        return deepcopy(seen[overrides])

    return make


@pytest.fixture
def network(compose):
    """network("model=mlp", ..., shape=(C, H, W)) -> the model that a run would have on such images."""

    def make(*overrides: str, shape=(1, 28, 28), num_classes=10):
        images = torch.arange(2 * math.prod(shape)).reshape(2, *shape).remainder(256).to(torch.uint8)
        return assembly.make(compose(*overrides), Scale(), images, num_classes)

    return make
