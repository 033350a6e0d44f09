"""RunConfig: what is refused, and the identity of a run."""

import dataclasses

import pytest
from omegaconf import OmegaConf

from normbench import config


def test_equal_settings_are_one_run_however_they_were_typed(compose):
    base = config.run_id(compose("optimizer.lr=0.001", "model.hidden=[64]"))
    for same in (
        ("optimizer.lr=1e-3",),
        ("optimizer.lr=0.0010", "epochs=5"),
        ("out=elsewhere",),
        ("threads=1", "device=cpu"),
    ):
        assert config.run_id(compose(*same)) == base
    for free in ("name=other", "progress=false", "checkpoint.keep=none", "checkpoint.every_s=0", "stop_epoch=2"):
        assert config.run_id(compose(free)) == base


def test_a_whole_number_is_the_same_setting_as_its_float(compose):
    assert config.run_id(compose("optimizer.lr=1")) == config.run_id(compose("optimizer.lr=1.0"))


@pytest.mark.parametrize(
    "change",
    ["seed=1", "data_seed=1", "epochs=6", "norm=none", "optimizer.lr=0.0011", "norm.eps=1e-4", "batch_size=32",
     "model.hidden=[64,64]", "clip=norm", "eval.every_steps=10", "val_fraction=0.2", "schedule.warmup_epochs=1"],
)  # fmt: skip
def test_every_setting_that_matters_makes_another_run(compose, change):
    assert config.run_id(compose(change)) != config.run_id(compose())


def test_run_id_is_readable_and_stable(compose):
    words, _, digest = config.run_id(compose("seed=3", "norm=none")).rpartition("-")
    assert words == "mlp-none-adam-s3"
    assert len(digest) == 12
    assert int(digest, 16) >= 0


def test_results_version_is_part_of_the_identity(compose, monkeypatch):
    before = config.run_id(compose())
    monkeypatch.setattr(config, "RESULTS_VERSION", config.RESULTS_VERSION + 1)
    assert config.run_id(compose()) != before


def test_a_changed_target_takes_the_name_of_its_class(compose):
    cfg = OmegaConf.create(compose().to_dict())
    cfg.optimizer._target_ = "torch.optim.RAdam"
    assert config.load(cfg, {}, ["optimizer._target_=torch.optim.RAdam"]).optimizer["name"] == "RAdam"
    typed = ["optimizer._target_=torch.optim.RAdam", "optimizer.name=adam"]
    assert config.load(cfg, {}, typed).optimizer["name"] == "adam"


def test_a_file_without_a_name_is_called_by_its_stem(compose):
    cfg = OmegaConf.create(compose().to_dict())
    del cfg.norm["name"]
    assert config.load(cfg, {"norm": "mine"}).norm["name"] == "mine"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("epochs", 0, "epochs must be a whole number from 1 to 1000000, got 0; try epochs=5"),
        ("epochs", None, "epochs must be a whole number from 1 to 1000000"),
        ("seed", -1, "seed must be a whole number from 0"),
        ("seed", 2**32, "seed must be a whole number from 0"),
        ("val_fraction", 1.0, "val_fraction must be a number between 0 and 1, got 1.0"),
        ("name", "../x", "name must be letters"),
        ("name", "..", "name must be letters"),
        ("device", "gpu", "device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("optimizer.lr", float("nan"), "optimizer.lr must be a number > 0, got nan"),
        ("optimizer.lr", float("inf"), "optimizer.lr must be finite, got inf"),
        ("norm.eps", float("inf"), "norm.eps must be finite"),
        ("norm.name", "a b", "norm.name must be letters"),
        ("stop_epoch", 6, "stop_epoch must be at most epochs=5, got 6"),
        ("extra", 1, "unknown key extra"),
        ("epoch", 1, "unknown key epoch; did you mean epochs?"),
        ("eval.every_step", 1, "unknown key eval.every_step; did you mean eval.every_steps?"),
        ("optimizer.nested", {"a": 1}, "optimizer.nested must be a number, text"),
    ],
)
def test_what_can_not_be_is_refused_in_words(compose, key, value, words):
    cfg = OmegaConf.create(compose().to_dict())
    OmegaConf.update(cfg, key, value, force_add=True)
    with pytest.raises(config.ConfigError) as error:
        config.load(cfg)
    assert words in str(error.value)


def test_a_stored_config_gives_the_same_run_and_reads_nothing_of_this_machine(compose):
    stored = compose("seed=4").to_dict()
    assert config.run_id(config.from_dict(stored)) == config.run_id(compose("seed=4"))
    stored["dataset"]["root"] = "${oc.env:HOME}"
    with pytest.raises(config.ConfigError, match="interpolation"):
        config.from_dict(stored)


@pytest.mark.parametrize(
    "text",
    ["runs", "1e-3", "yes", "null", "~", "", " a", "a: b", "a #b", "- a", "0x10", "1_000", "1.", "nan", "-inf", "12:30",
     "2026-11-27", "é x", "\udcc3 of a path in another locale", "x" * 200, "a\nb", "*a", "{a}", "?", "<<", "'q'"],
)  # fmt: skip
def test_yaml_is_written_as_omegaconf_writes_it(compose, text):
    its = dataclasses.replace(compose(), out=text, dataset={"name": text, "numbers": [1, 2.5, 1e-20, None, True, text]})
    written = config.to_yaml(its)
    assert written == OmegaConf.to_yaml(OmegaConf.create(its.to_dict()))
    assert OmegaConf.to_container(OmegaConf.create(written))["out"] == text
