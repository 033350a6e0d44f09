"""channels_last=true: the same networks with another layout in memory, equal but for rounding."""

import dataclasses

import pytest
import torch

from normbench import build, checkpoint, config, records, run, streams
from normbench.norm import Impossible

DATA = ("dataset=synthetic", "dataset.image_size=8", "epochs=2", "batch_size=15", "progress=false", "device=cpu")
MODELS = {
    "cnn": ("model=cnn", "model.dropout=0"),
    "vgg": ("model=vgg", "model.width=4"),
    "resnet": ("model=resnet", "model.depth=8", "model.width=4"),
}


def trained(config, steps):
    streams.set_determinism(1)
    attempt = run.Attempt(config, build.build(config))
    attempt.stop_step = steps
    for _ in attempt.rows(bar=False):
        pass
    return attempt


@pytest.mark.parametrize("norm", ["none", "bn", "gn", "wn", "brn"])
@pytest.mark.parametrize("model", MODELS)
def test_a_network_trains_as_it_does_otherwise(compose, model, norm):
    more = ("norm.num_groups=2",) if norm == "gn" else ()
    config = compose(*DATA, *MODELS[model], f"norm={norm}", *more, "optimizer=momentum", "clip=norm")
    ours, theirs = trained(dataclasses.replace(config, channels_last=True), 5), trained(config, 5)
    kernels = [p for p in ours.built.model.parameters() if p.dim() == 4 and p.shape[2] > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    assert ours.progress.rows[0]["val_loss"] == pytest.approx(theirs.progress.rows[0]["val_loss"], rel=1e-4)
    for a, b in zip(ours.built.model.parameters(), theirs.built.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_it_goes_on_bit_for_bit(compose, tmp_path, optimizer):
    more = (f"optimizer={optimizer}", "channels_last=true")
    whole = compose(*DATA, *MODELS["resnet"], *more, f"out={tmp_path / 'whole'}")
    parts = dataclasses.replace(whole, out=str(tmp_path / "parts"), stop_epoch=1)
    folders = [
        run.run(its, lambda _: None).folder for its in (whole, parts, dataclasses.replace(parts, stop_epoch=None))
    ]
    assert records.read_run(folders[2])["state"] == "complete"
    one, other = (checkpoint.read(folder / "checkpoint.pt")["model"] for folder in (folders[0], folders[2]))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_fused_step_moves_each_weight_by_its_own_gradient(compose):
    """Its kernels walk through memory: states or gradients in another layout would move other weights."""
    its = compose(*DATA, *MODELS["vgg"], "optimizer=adam", "optimizer.lr=0.1", "optimizer.eps=0.1")
    ours, theirs = trained(dataclasses.replace(its, channels_last=True), 4), trained(its, 4)
    for a, b in zip(ours.built.model.parameters(), theirs.built.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
        assert not torch.allclose(a, a.flatten().flip(0).view_as(a), atol=1e-4) or a.dim() < 4


def test_only_the_other_layout_is_another_run(compose):
    before = compose(*DATA, *MODELS["cnn"])
    stored = before.to_dict()
    del stored["channels_last"]  # as of runs that are older than the key
    assert config.identity(stored) == config.identity(before.to_dict())
    assert config.run_id(before) != config.run_id(dataclasses.replace(before, channels_last=True))


def test_what_has_no_convolutions_is_refused(compose):
    with pytest.raises(Impossible, match=r"channels_last=true is for convolutions, and model=mlp has none"):
        build.build(compose(*DATA, "channels_last=true"))


def test_a_stack_is_refused(compose):
    with pytest.raises(Impossible, match="engine=stack does not serve this run: channels_last=true"):
        build.build(compose(*DATA, *MODELS["cnn"], "channels_last=true", "engine=stack"))
