"""Clipping rules: the contract for every conf/clip/*.yaml, then each rule's formula."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from normbench import build
from normbench.clip.none import NoClip
from normbench.clip.norm import ClipNorm
from normbench.clip.value import ClipValue

SHAPES = [(5, 3), (5,), (2, 3, 2, 2)]


class NoSync(TorchDispatchMode):
    """Fails on everything that reads a value from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"), name
        return func(*args, **(kwargs or {}))


def parameters_with(*gradients):
    """Parameters with these gradients (None: none)."""
    made = []
    for gradient in gradients:
        made.append(nn.Parameter(torch.ones(2) if gradient is None else torch.ones_like(gradient)))
        made[-1].grad = None if gradient is None else gradient.clone()
    return made


def random(scale, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * scale for shape in SHAPES]


def norm_of(gradients):
    """The L2 norm in float64, by its formula."""
    return math.sqrt(sum((g.double().numpy() ** 2).sum() for g in gradients))


def grads(parameters):
    return [p.grad for p in parameters if p.grad is not None]


def bits(gradients):
    return [g.numpy().tobytes() for g in gradients]


@pytest.fixture
def rule(clip_settings):
    return build.part("clip", clip_settings)


# ---------------------------------------------------------------------------------------------- the contract, each rule


@pytest.mark.parametrize("scale", [1e-6, 1.0, 100.0])
def test_the_norm_before_clipping_comes_back(rule, scale):
    parameters = parameters_with(*random(scale))
    norm, acted = rule(parameters)
    assert norm.shape == acted.shape == ()
    assert norm.item() == pytest.approx(norm_of(random(scale)), rel=1e-6)


def test_tiny_gradients_keep_every_bit(rule):
    gradients = random(1e-6)
    parameters = parameters_with(*gradients)
    _, acted = rule(parameters)
    assert bits(grads(parameters)) == bits(gradients)
    assert not acted


@pytest.mark.parametrize("scale", [1e-6, 0.01, 1.0, 100.0])
def test_acted_says_whether_anything_changed(rule, scale):
    gradients = random(scale)
    parameters = parameters_with(*gradients)
    _, acted = rule(parameters)
    assert bool(acted) == (bits(grads(parameters)) != bits(gradients))


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_a_second_application_changes_rounding_only(rule, scale):
    parameters = parameters_with(*random(scale))
    rule(parameters)
    once = [g.clone() for g in grads(parameters)]
    rule(parameters)
    for first, second in zip(once, grads(parameters), strict=True):
        torch.testing.assert_close(second, first, rtol=1e-6, atol=0)


def test_zero_gradients_stay_zero(rule):
    parameters = parameters_with(*[torch.zeros(shape) for shape in SHAPES])
    norm, acted = rule(parameters)
    assert norm == 0
    assert not acted
    assert all((g == 0).all() for g in grads(parameters))


def test_parameters_without_a_gradient_are_passed_over(rule):
    a, b, c = random(100.0)
    some, all_ = parameters_with(None, a, None, b, c), parameters_with(a, b, c)
    assert [t.item() for t in rule(some)] == [t.item() for t in rule(all_)]
    assert bits(grads(some)) == bits(grads(all_))
    assert [p.grad is None for p in some] == [True, False, True, False, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_gives_such_a_norm(rule, bad):
    gradients = random(1.0)
    gradients[1][2] = bad
    norm, _ = rule(parameters_with(*gradients))
    assert not norm.isfinite()


@pytest.mark.parametrize("scale", [1e-6, 100.0])
def test_the_device_is_never_waited_for(rule, scale):
    parameters = parameters_with(*random(scale))
    with NoSync():
        rule(parameters)


def test_no_sync_notices():
    with NoSync(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        torch.ones(()).item()


def test_the_parameters_themselves_stay(rule):
    parameters = parameters_with(*random(100.0))
    rule(parameters)
    assert all((p == 1).all() for p in parameters)


# ----------------------------------------------------------------------------------------------------------------- none


def test_none_leaves_everything():
    gradients = random(1e4)
    parameters = parameters_with(*gradients)
    norm, acted = NoClip()(parameters)
    assert bits(grads(parameters)) == bits(gradients)
    assert acted == 0
    assert acted.device == norm.device


# ----------------------------------------------------------------------------------------------------------------- norm


@pytest.mark.parametrize("bound", [0.1, 1.0, 3.7])
@pytest.mark.parametrize("scale", [10.0, 1e6])
def test_norm_scales_to_the_bound(bound, scale):
    gradients = random(scale)
    parameters = parameters_with(*gradients)
    _, acted = ClipNorm(bound)(parameters)
    factor = bound / norm_of(gradients)
    assert acted
    assert norm_of(grads(parameters)) == pytest.approx(bound, rel=1e-6)
    for before, after in zip(gradients, grads(parameters), strict=True):  # one factor: the direction stays
        np.testing.assert_allclose(after.double(), before.double() * factor, rtol=1e-6)


def test_norm_takes_all_parameters_together():
    """Three gradients of norm 1 have norm sqrt(3): above 1.5, though each of them is below."""
    parameters = parameters_with(*[torch.tensor([0.6, 0.8])] * 3)
    norm, acted = ClipNorm(1.5)(parameters)
    assert norm.item() == pytest.approx(math.sqrt(3))
    assert acted
    assert grads(parameters)[0].tolist() == pytest.approx([0.6 * 1.5 / math.sqrt(3), 0.8 * 1.5 / math.sqrt(3)])


@pytest.mark.parametrize(
    ("bound", "acts"),
    [(5.0, False), (5.000001, False), (5.1, False), (4.999999, True)],
    ids=["equal", "just-above", "above", "just-below"],
)
def test_norm_acts_strictly_above_the_bound(bound, acts):
    """||(3, 4)|| = 5 exactly; torch's own rule would scale by 5 / (5 + 1e-6) at the bound."""
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    parameters = parameters_with(*gradients)
    norm, acted = ClipNorm(bound)(parameters)
    assert norm == 5
    assert bool(acted) is acts
    assert (bits(grads(parameters)) != bits(gradients)) is acts


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_norm_refuses_a_bound(bound):
    with pytest.raises(ValueError, match=rf"max_norm must be .*got {bound}.*clip\.max_norm=1"):
        ClipNorm(bound)


# ---------------------------------------------------------------------------------------------------------------- value


def test_value_clamps_every_entry():
    gradients = random(1.0)
    assert min(g.min() for g in gradients) < -0.5
    assert max(g.max() for g in gradients) > 0.5
    parameters = parameters_with(*gradients)
    _, acted = ClipValue(0.5)(parameters)
    assert acted
    for before, after in zip(gradients, grads(parameters), strict=True):
        expected = np.minimum(np.maximum(before.numpy(), np.float32(-0.5)), np.float32(0.5))
        assert after.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("entries", "acts"),
    [([0.5, -0.5], False), ([0.5000001, 0], True), ([0, -0.5000001], True), ([0.4, 0.4], False)],
)
def test_value_acts_strictly_outside_the_bound(entries, acts):
    """The norm of (0.4, 0.4) is 0.57: it is the entries that count."""
    gradients = [torch.tensor(entries), torch.zeros(3)]
    parameters = parameters_with(*gradients)
    _, acted = ClipValue(0.5)(parameters)
    assert bool(acted) is acts
    assert (bits(grads(parameters)) != bits(gradients)) is acts


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_value_refuses_a_bound(bound):
    with pytest.raises(ValueError, match=rf"max_value must be .*got {bound}.*clip\.max_value=0\.1"):
        ClipValue(bound)
