"""The peers of the benchmark train normbench's own networks, and all do the same steps."""

import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from normbench.app import register_plugins

PEERS = Path(__file__).resolve().parent.parent / "scripts" / "peers"
MODULES = ("contract", "architectures", "networks", "bare_loop", "examples_loop", "loader_loop", "hydra_sweep")
MODELS = ("mlp", "lenet", "cnn", "resnet")


@pytest.fixture(scope="module")
def peers():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PEERS)
        yield Namespace(**{name: import_module(name) for name in MODULES})
        for name in MODULES:
            del sys.modules[name]  # such names are nobody's alone


@pytest.fixture(scope="module")
def data(peers, tmp_path_factory):
    """Bars of light on noise, one place a class: soon learned."""
    rng, arrays = np.random.default_rng(0), {"mean": np.array([0.3]), "sd": np.array([0.25])}
    for name, count in (("train", 640), ("val", 100), ("test", 100)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 100, (count, 1, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[0, 2 * label : 2 * label + 4] += 100
        arrays |= {f"{name}_images": images.astype(np.uint8), f"{name}_labels": labels}
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, **arrays)
    return peers.contract.Data(path)


@pytest.fixture(scope="module")
def network_of():
    """normbench's own network of a name, as the benchmark has it trained."""
    register_plugins()

    def made(model):
        its = benchmark_processes.Workload(model, "fashion_mini", None, 1)
        return benchmark_processes.built(its).model.train()

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PEERS.parent)
        import benchmark_processes

        yield made


def test_the_sweeps_cache_is_where_the_processes_of_joblib_find_it(peers):
    """A function of a script travels to them whole, but for a cached one: that is looked for in its module."""
    cached = [value for value in vars(peers.hydra_sweep).values() if hasattr(value, "cache_info")]
    assert [value.__module__ for value in cached] == ["contract"]


@pytest.mark.parametrize("model", MODELS)
def test_the_network_is_normbenchs(peers, model, network_of):
    theirs = network_of(model)
    network = peers.networks.make(model, (1, 28, 28), 10)
    peers.networks.begin_from(network, [w.detach().numpy() for w in peers.networks.weights(theirs)])
    assert peers.networks.count(network) == sum(p.numel() for p in theirs.parameters())
    x = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network(x), theirs(x), rtol=1e-5, atol=1e-5)  # by the statistics of the batch
    torch.testing.assert_close(network.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)  # and by the running ones


@pytest.mark.parametrize("model", MODELS)
def test_weights_are_drawn_alike(peers, model, network_of):
    """Where a peer draws its own: the same shapes, and every layer's spread, as torch and normbench have them."""
    theirs = [w.detach().numpy() for w in peers.networks.weights(network_of(model))]
    torch.manual_seed(0)
    in_torch = [w.detach().numpy() for w in peers.networks.weights(peers.networks.make(model, (1, 28, 28), 10))]
    for drawn in (peers.architectures.drawn(model, (1, 28, 28), 10, seed=0), in_torch):
        assert [a.shape for a in drawn] == [a.shape for a in theirs]
        for ours, its in zip(drawn, theirs, strict=True):
            if ours.size > 1000:
                assert ours.std() == pytest.approx(its.std(), rel=0.1)


def test_channels_last_is_the_same_network(peers):
    arrays = peers.architectures.drawn("lenet", (1, 28, 28), 10, seed=0)
    placed = peers.architectures.channels_last("lenet", arrays, (1, 28, 28))
    assert placed[1].shape == (5, 5, 6, 16)
    x = np.random.default_rng(1).normal(size=(2, 16, 4, 4))
    flat_first, flat_last = x.reshape(2, -1), x.transpose(0, 2, 3, 1).reshape(2, -1)
    np.testing.assert_allclose(flat_last @ placed[2], flat_first @ arrays[2].T, rtol=1e-5, atol=1e-6)


def losses(peers, data, name, start, option=""):
    job = peers.contract.Job("lenet", data, epochs=1, seed=0, start=start, option=option)
    result = getattr(peers, name).train(job)
    assert len(result.epochs_s) == 1
    return result.losses


def test_the_loops_do_the_same_steps(peers, data):
    order = np.random.default_rng(0).permutation(640)[:320].reshape(5, 64)
    start = peers.contract.Start(peers.architectures.drawn("lenet", data.shape, 10, seed=1), order)
    careful = losses(peers, data, "bare_loop", start)
    assert len(careful) == 5
    np.testing.assert_allclose(losses(peers, data, "examples_loop", start), careful, rtol=1e-3)
    for option in ("items:0", "batches:0"):
        np.testing.assert_allclose(losses(peers, data, "loader_loop", start, option), careful, rtol=1e-3)
    other = peers.contract.Start(start.arrays, order[::-1].copy())
    assert not np.allclose(losses(peers, data, "bare_loop", other), careful, rtol=1e-2)  # the check can fail


@pytest.mark.parametrize(("name", "option"), [("bare_loop", ""), ("examples_loop", ""), ("loader_loop", "batches:0")])
def test_a_loop_learns_and_tells(peers, data, name, option, tmp_path):
    job = peers.contract.Job("mlp", data, 3, seed=0, log=tmp_path / "log.csv", option=option)
    result = getattr(peers, name).train(job)
    line = result.line(job, {})
    assert line["test_acc"] > 0.95
    assert line["parameters"] == 50_954
    assert line["samples_per_s"] == pytest.approx(2 * 640 / sum(result.epochs_s[1:]))
    assert "losses" not in line
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert rows[0] == "epoch,train_loss,val_acc"
    assert len(rows) == 4


def test_the_rate_falls_after_every_epoch(peers, data, monkeypatch):
    rates = []
    step = torch.optim.Adam.step

    def noted(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    peers.bare_loop.train(peers.contract.Job("mlp", data, 3, seed=0))
    assert rates == pytest.approx([1e-3] * 10 + [0.7e-3] * 10 + [0.49e-3] * 10)


def test_the_clock_leaves_out_what_is_between(peers, monkeypatch):
    times = iter([0.0, 1.0, 5.0, 7.0, 20.0, 21.0])
    monkeypatch.setattr(peers.contract.time, "perf_counter", lambda: next(times))
    clock = peers.contract.Clock()
    clock.go()
    clock.halt()  # evaluates from 1 to 5
    clock.go()
    clock.lap()
    clock.go()
    clock.lap()
    assert clock.epochs == [3.0, 1.0]
