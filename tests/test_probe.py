"""Each probe against its formula, in float64, and what it refuses."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from normbench.clip import Clip
from normbench.clip.norm import ClipNorm
from normbench.probe import Probe
from normbench.probe.activations import Activations
from normbench.probe.gradients import Gradients, layers_of
from normbench.probe.landscape import Landscape


def told(readings, layer=None):
    return {(r.kind, r.stat): r.value for r in readings if layer in (None, r.layer)}


# ----------------------------------------------------------------------------------------------------------- landscape


class Quadratic(nn.Module):
    """L(w) = 1/2 sum a w^2: its gradient is a w, everywhere."""

    def __init__(self, a, w):
        super().__init__()
        self.a, self.w = torch.tensor(a, dtype=torch.float64), nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def loss(self):
        return (self.a * self.w**2).sum() / 2


def test_landscape_of_a_quadratic_by_hand():
    """a = (1, 2), w = (4, 1): L = 9, g = (4, 2). w_s = (4 - 4 s, 1 - 2 s), g_s = (4 - 4 s, 2 - 4 s),
    g_s - g = (-4 s, -4 s), whose norm is 4 sqrt(2) s, over s ||g|| = s sqrt(20) it is sqrt(8/5) for every s.

    s = 1/4: L = (9 + 2/4) / 2 = 4.75. s = 1/2: L = (4 + 0) / 2 = 2. s = 1: L = (0 + 2) / 2 = 1. s = 2: (16 + 18) / 2.
    Every number here is a sum of powers of 2, so that the losses are exact.
    """
    model = Quadratic([1.0, 2.0], [4.0, 1.0])
    found = told(Landscape(step_sizes=(0.25, 0.5, 1.0, 2.0)).measure(model, model.loss))
    assert found["landscape", "loss"] == 9
    assert found["landscape", "loss_min"] == 1
    assert found["landscape", "loss_max"] == 17
    assert found["landscape", "grad_norm"] == math.sqrt(20)
    assert found["landscape", "gdiff_min"] == pytest.approx(4 * math.sqrt(2) / 4, rel=1e-15)
    assert found["landscape", "gdiff_max"] == pytest.approx(4 * math.sqrt(2) * 2, rel=1e-15)
    assert found["landscape", "beta_max"] == pytest.approx(math.sqrt(8 / 5), rel=1e-15)
    assert model.w.tolist() == [4.0, 1.0]
    assert model.w.grad is None


def test_effective_smoothness_is_the_largest_curvature_along_its_eigenvector():
    model = Quadratic([3.0, 7.0], [0.0, 1.0])
    assert told(Landscape().measure(model, model.loss))["landscape", "beta_max"] == pytest.approx(7, rel=1e-14)


def small_network():
    torch.manual_seed(0)
    layers = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
    return nn.Sequential(*layers).double(), torch.randn(32, 5).double(), torch.randint(3, (32,))


def test_landscape_of_a_network_against_a_plain_script():
    model, x, y = small_network()
    sizes = (0.1, 0.7, 1.5)
    found = told(Landscape(step_sizes=sizes).measure(model, lambda: nn.functional.cross_entropy(model(x), y)))

    losses, changes, betas = [], [], []
    plain, _, _ = small_network()
    loss = nn.functional.cross_entropy(plain(x), y)
    loss.backward()
    first = [p.grad.clone() for p in plain.parameters()]
    for size in sizes:
        other, _, _ = small_network()
        with torch.no_grad():
            for p, g in zip(other.parameters(), first, strict=True):
                p -= size * g
        moved = nn.functional.cross_entropy(other(x), y)
        moved.backward()
        change = sum(((p.grad - g) ** 2).sum() for p, g in zip(other.parameters(), first, strict=True)) ** 0.5
        distance = size * sum((g**2).sum() for g in first) ** 0.5
        losses.append(moved.item())
        changes.append(change.item())
        betas.append((change / distance).item())
    expected = [loss.item(), min(losses), max(losses), min(changes), max(changes), max(betas)]
    stats = ("loss", "loss_min", "loss_max", "gdiff_min", "gdiff_max", "beta_max")
    assert [found["landscape", stat] for stat in stats] == pytest.approx(expected, rel=1e-12)


def test_a_loss_beyond_all_numbers_is_told():
    model = Quadratic([1e200], [1e100])
    assert told(Landscape().measure(model, model.loss))["landscape", "loss_max"] == math.inf


# --------------------------------------------------------------------------------------------------------- activations


def act(module, x, **settings):
    model = nn.Sequential(module)
    return told(Activations(**settings).measure(model, lambda: model(x).sum()))


def test_percentiles_are_those_of_numpy():
    x = torch.randn(50, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = act(nn.Tanh(), x, unit=4)
    for p in (15, 50, 85):
        assert found["pre_act", f"p{p}"] == pytest.approx(np.percentile(x.numpy(), p), rel=1e-12)
        assert found["pre_act", f"unit_p{p}"] == pytest.approx(np.percentile(x[:, 4].numpy(), p), rel=1e-12)
    assert found["pre_act", "rms"] == pytest.approx(float((x**2).mean() ** 0.5), rel=1e-12)


def test_percentiles_of_many_values_meet_every_unit_and_position():
    x = torch.zeros(300, 16, 12, 12, dtype=torch.float64)
    x[:, 5] = 1  # 1/16 of all
    x[:, :, 3] = 2  # 1/12 of all
    found = act(nn.ReLU(), x + torch.rand(x.shape, dtype=x.dtype) * 1e-3)
    assert found["pre_act", "p85"] < 1.01
    shares = torch.tensor([15 / 16 * 11 / 12 - 0.02, 11 / 12 - 0.02, 11 / 12 + 0.02])
    low, middle, high = np.quantile(x.flatten()[:: math.ceil(x.numel() / 2**15) + 1].numpy(), shares)
    assert (low, middle, high) == (0, 1, 2)


@pytest.mark.parametrize(("kind", "dead"), [(nn.ReLU, 0.25), (nn.GELU, 0.25), (nn.SiLU, 0.25), (nn.ELU, None)])
def test_a_unit_is_dead_if_it_is_off_for_every_image_and_position(kind, dead):
    x = torch.ones(3, 4, 2)
    x[:, 1] = -1  # off everywhere
    x[0, 2], x[:, 3, 0] = -1, -1  # on for other images; at another position
    assert act(kind(), x).get(("act", "dead")) == dead


@pytest.mark.parametrize(
    ("kind", "x", "share"),
    [
        (nn.Sigmoid(), [-3.0, -2.9, 0, 2.9, 3.0], 0.4),  # sigmoid(2.944) = 0.95
        (nn.Tanh(), [-1.9, -1.8, 0, 1.8, 1.9], 0.4),  # tanh(1.832) = 0.95
        (nn.ReLU(), [-9.0, 9.0], None),
    ],
)
def test_a_value_is_saturated_within_a_twentieth_of_a_bound(kind, x, share):
    assert act(kind, torch.tensor(x)[:, None]).get(("act", "saturated")) == share


def test_what_works_in_place_is_seen_before_and_every_call_is_a_layer():
    relu = nn.ReLU(inplace=True)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = relu

        def forward(self, x):
            return self.relu(self.relu(x) - 1)

    model, x = Twice(), torch.tensor([[-2.0], [4.0]])
    found = Activations().measure(model, lambda: model(x.clone()).sum())
    assert {(r.layer, r.index) for r in found} == {("relu", 0), ("relu:2", 1)}
    assert told(found, "relu")["pre_act", "p50"] == 1
    assert told(found, "relu:2")["pre_act", "p50"] == 1  # of -1 and 3
    assert not relu._forward_pre_hooks


def test_half_types_are_measured():
    assert act(nn.ReLU(), torch.tensor([[1.0], [3.0]], dtype=torch.bfloat16))["pre_act", "p50"] == 2


# ----------------------------------------------------------------------------------------------------------- gradients


def trained(probe, clip, steps, lr=0.5):
    """Weights before and after, and the gradient before clipping, of every step of sgd on a small network."""
    model, x, y = small_network()
    optimizer, seen = torch.optim.SGD(model.parameters(), lr), []
    watched = probe.watch(model, clip)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        before = {name: (p.detach().clone(), p.grad.clone()) for name, p in model.named_parameters()}
        clipped = watched(list(model.parameters()))
        optimizer.step()
        watched.after_step(optimizer, clipped)
        seen.append({name: (*before[name], p.detach().clone(), p.grad.clone()) for name, p in model.named_parameters()})
    return model, seen


@pytest.mark.parametrize("every", [1, 3])
def test_gradients_by_layer_against_the_formulas(every):
    probe = Gradients(every=every)
    model, seen = trained(probe, ClipNorm(0.15), 8)  # clips some
    found = probe.measure(model, lambda: torch.zeros(()))
    assert {(r.layer, r.index) for r in found} == {("0", 0), ("3", 1), ("5", 2)}
    for layer in ("0", "3", "5"):
        steps = [step[f"{layer}.weight"] for step in seen[::every]]
        norms = [g.norm().item() for _, g, _, _ in steps]
        stats = told(found, layer)
        assert stats["grad", "norm_mean"] == pytest.approx(np.mean(norms), rel=1e-12)
        assert stats["grad", "norm_max"] == pytest.approx(max(norms), rel=1e-12)
        assert stats["grad", "clipped"] == np.mean([(after.norm() < g.norm()).item() for _, g, _, after in steps])
        ratio = sum((new - old).norm() for old, _, new, _ in steps) / sum(old.norm() for old, _, _, _ in steps)
        assert stats["update", "ratio"] == pytest.approx(ratio.item(), rel=1e-12)
        assert stats["weight", "norm_mean"] == pytest.approx(np.mean([w.norm() for w, *_ in steps]), rel=1e-12)
    assert told(found, "5")["grad", "clipped"] in (5 / 8, 2 / 3)


def test_without_clipping_nothing_is_clipped():
    probe = Gradients(every=1)
    model, _ = trained(probe, Clip(), 3)
    assert {r.value for r in probe.measure(model, lambda: torch.zeros(())) if r.stat == "clipped"} == {0.0}


def test_a_window_begins_at_each_evaluation():
    probe = Gradients(every=4)
    model, _ = trained(probe, Clip(), 3)
    assert len(probe.seen) == 1
    first = probe.measure(model, lambda: torch.zeros(()))
    assert first
    assert probe.measure(model, lambda: torch.zeros(())) == []
    trained(probe, Clip(), 1)
    assert probe.measure(model, lambda: torch.zeros(())) == first


def test_a_state_brings_back_a_window_that_was_not_over():
    whole, half, rest = Gradients(every=2), Gradients(every=2), Gradients(every=2)
    model, _ = trained(whole, Clip(), 3)
    trained(half, Clip(), 3)
    rest.watch(model, Clip())
    rest.restore(half.state())
    assert (rest.step, rest.measure(model, lambda: torch.zeros(()))) == (
        whole.step, whole.measure(model, lambda: torch.zeros(()))
    )  # fmt: skip


class NoWaiting(TorchDispatchMode):
    """Refuses to read a number from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device():
    with pytest.raises(AssertionError), NoWaiting():  # it can fail
        float(torch.ones(()) * 2)
    probe = Gradients(every=1)
    model, x, y = small_network()
    optimizer, watched = torch.optim.SGD(model.parameters(), 0.5), probe.watch(model, ClipNorm(0.15))
    nn.functional.cross_entropy(model(x), y).backward()
    with NoWaiting():
        watched.after_step(optimizer, watched(list(model.parameters())))
    assert len(probe.seen) == 1


def test_a_reparametrized_weight_is_one_layer():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.BatchNorm1d(3), nn.Linear(3, 2))
    assert {path: len(tensors) for path, tensors in layers_of(model).items()} == {"0": 2, "2": 1}


@pytest.mark.parametrize("norm", ["none", "bn", "wn", "ws", "sn", "iternorm", "dyt"])
def test_the_layers_are_the_same_with_every_norm(network, norm):
    groups = ["norm.num_groups=2"] if norm == "ws" else ["norm.group_size=2"] if norm == "iternorm" else []
    made = layers_of(network("model=lenet", f"norm={norm}", *groups))
    assert list(made) == ["conv1.conv", "conv2.conv", "full1.linear", "full2.linear", "head"]


def test_frozen_weights_are_no_layer():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].requires_grad_(False)
    assert list(layers_of(model)) == ["1"]


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Activations(images=0), "images must be a whole number >= 1, got 0; try probe.images=256"),
        (lambda: Activations(unit=-1), "unit must be a whole number >= 0, got -1; try probe.unit=0"),
        (lambda: Gradients(every=0), "every must be a whole number >= 1, got 0; try probe.every=10"),
        (lambda: Landscape(images=0), "images must be"),
        (lambda: Landscape(step_sizes=()), r"step_sizes must be a list of numbers > 0, got \[\]; try probe.step_sizes"),
        (lambda: Landscape(step_sizes=(0.1, 0.0)), r"got \[0.1, 0.0\]"),
        (lambda: Landscape(step_sizes=(math.inf,)), r"got \[inf\]"),
        (lambda: act(nn.ReLU(), torch.ones(2, 3), unit=3), "unit must be less than the 3 units of 0, got 3"),
        (lambda: act(nn.Linear(3, 3), torch.ones(2, 3)), "needs activations that are modules"),
        (lambda: Gradients().watch(nn.BatchNorm1d(3), Clip()), "needs parameters of two or more dimensions"),
    ],
)
def test_refusals_say_what_must_hold(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_the_base_class_does_nothing():
    clip, probe = Clip(), Probe()
    assert probe.watch(nn.Linear(2, 2), clip) is clip
    assert (probe.measure(nn.Linear(2, 2), lambda: torch.zeros(())), probe.state()) == ([], None)


def test_default_step_sizes_grow():
    assert all(a < b for a, b in pairwise(Landscape().step_sizes))
