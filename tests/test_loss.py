"""Losses: the contract for every conf/loss/*.yaml, then each loss's formula."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from normbench import build, records, run
from normbench.config import ConfigError
from normbench.loss.squared_error import SquaredError


class NoSync(TorchDispatchMode):
    """Fails on everything that reads a value from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"), name
        return func(*args, **(kwargs or {}))


def batch(n=12, classes=5, scale=2.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.randint(classes, (n,), generator=generator)


def gradient(loss, logits, labels):
    return torch.autograd.grad(loss(logits, labels), logits)[0]


def wrong(gap, classes):
    """One sample whose wrong class leads by `gap`."""
    logits = torch.zeros(1, classes, dtype=torch.float64)
    logits[0, 1] = gap
    return logits.requires_grad_(), torch.tensor([0])


@pytest.fixture(params=[0.0, 0.1])
def loss(request, loss_settings):
    return build.part("loss", {**loss_settings, "label_smoothing": request.param})


# -------------------------------------------------------------------------------------------- the contract, each choice


def test_it_is_the_mean_over_the_batch(loss):
    logits, labels = batch()
    alone = [loss(z.unsqueeze(0), y.unsqueeze(0)).item() for z, y in zip(logits, labels, strict=True)]
    assert loss(logits, labels).shape == ()
    assert loss(logits, labels).item() == pytest.approx(np.mean(alone), rel=1e-12)


def test_the_gradient_is_right(loss):
    logits, labels = batch(n=4, classes=3)
    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits)


def test_a_constant_added_to_all_logits_changes_nothing(loss):
    logits, labels = batch()
    assert loss(logits + 100, labels).item() == pytest.approx(loss(logits, labels).item(), rel=1e-11)


@pytest.mark.parametrize("largest", [1e3, 1e30, 3e38])
def test_very_large_logits_stay_numbers(loss, largest):
    logits = torch.tensor([[largest, -largest, 0.0], [-largest, largest, 0.0]], requires_grad=True)
    assert gradient(loss, logits, torch.tensor([0, 0])).isfinite().all()
    assert not loss(logits, torch.tensor([0, 0])).isnan()


def test_a_logit_that_is_not_finite_does_not_pass_unnoticed(loss):
    logits, labels = batch()
    logits = logits.detach().index_fill(0, torch.tensor([3]), math.nan)
    assert loss(logits, labels).isnan()


def test_it_never_waits_for_the_device(loss):
    logits, labels = batch()
    with NoSync():
        loss(logits, labels).backward()


# -------------------------------------------------------------------------------------------------------- squared error


def by_formula(logits, labels, smoothing):
    """Loss and its gradient to the logits, in numpy and float64."""
    z = logits.detach().double().numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    y = (1 - smoothing) * np.eye(z.shape[1])[labels.numpy()] + smoothing / z.shape[1]
    e = p - y
    gradient = p * (e - (p * e).sum(1, keepdims=True)) / len(z)
    return (e**2).sum(1).mean() / 2, gradient


@given(
    n=st.integers(1, 20), classes=st.integers(2, 12), scale=st.floats(0, 30), smoothing=st.floats(0, 0.99),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_loss_and_gradient_by_their_formulas(n, classes, scale, smoothing, seed):
    logits, labels = batch(n, classes, scale, seed)
    loss = SquaredError(smoothing)
    expected, slope = by_formula(logits, labels, smoothing)
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    np.testing.assert_allclose(gradient(loss, logits, labels).numpy(), slope, rtol=1e-9, atol=1e-15)


def test_by_hand():
    """softmax(ln 3, 0) = (3/4, 1/4): 1/2 (1/16 + 1/16) if the first class is right, 1/2 (9/16 + 9/16) if not."""
    logits = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    assert SquaredError()(logits, torch.tensor([0])).item() == pytest.approx(1 / 16)
    assert SquaredError()(logits, torch.tensor([1])).item() == pytest.approx(9 / 16)
    assert SquaredError(0.5)(logits, torch.tensor([0])).item() == pytest.approx(0)  # y is (3/4, 1/4) as well


def test_its_targets_are_smoothed_as_those_of_cross_entropy():
    """torch's loss with y written out, at the same smoothing."""
    logits, labels = batch()
    y = torch.from_numpy((1 - 0.3) * np.eye(5)[labels.numpy()] + 0.3 / 5)
    theirs = nn.CrossEntropyLoss(label_smoothing=0.3)(logits, labels)
    assert theirs.item() == pytest.approx(nn.CrossEntropyLoss()(logits, y).item(), rel=1e-12)
    ours = (logits.softmax(1) - y).square().sum(1).mean() / 2
    assert SquaredError(0.3)(logits, labels).item() == pytest.approx(ours.item(), rel=1e-12)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("gap", [12.0, 15.0, 20.0, 30.0])
def test_its_gradient_vanishes_where_a_wrong_output_saturates(gap, classes):
    """Document 004, 7.9.3: about K e^-gap is left of it, while cross entropy's is y_hat - y, as large as it can be."""
    logits, labels = wrong(gap, classes)
    assert gradient(SquaredError(), logits, labels).abs().max() == pytest.approx(classes * math.exp(-gap), rel=0.01)
    assert gradient(nn.CrossEntropyLoss(), logits, labels).norm() == pytest.approx(math.sqrt(2), rel=1e-3)


def test_how_little_is_left_of_its_gradient():
    """What docs/schedules.md says."""
    left = {
        (gap, classes): gradient(SquaredError(), *wrong(gap, classes)).abs().max().item()
        for gap in (5.0, 10.0, 15.0)
        for classes in (2, 10)
    }
    assert left[10.0, 2] < 1e-4
    assert left[5.0, 10] == pytest.approx(5.7e-2, rel=0.01)
    assert left[10.0, 10] == pytest.approx(4.5e-4, rel=0.01)
    assert left[15.0, 10] == pytest.approx(3.1e-6, rel=0.02)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_at_the_start_its_gradient_is_that_of_cross_entropy_over_the_classes(classes):
    logits, labels = wrong(0.0, classes)
    expected = gradient(nn.CrossEntropyLoss(), logits, labels) / classes
    torch.testing.assert_close(gradient(SquaredError(), logits, labels), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype):
    logits, labels = batch(n=512, dtype=dtype)
    loss = SquaredError()(logits, labels)
    expected, slope = by_formula(logits, labels, 0.0)  # of the same rounded logits
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    found = gradient(SquaredError(), logits, labels)
    assert found.dtype is dtype
    np.testing.assert_allclose(found.double().numpy(), slope, rtol=torch.finfo(dtype).eps, atol=1e-7)


def test_autocast_does_not_lower_it():
    logits, labels = batch(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = SquaredError()(logits, labels)
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(by_formula(logits, labels, 0.0)[0], rel=1e-6)


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0, math.nan])
def test_label_smoothing_is_refused(label_smoothing):
    with pytest.raises(
        ValueError, match=rf"label_smoothing must be .*got {label_smoothing}; try loss\.label_smoothing"
    ):
        SquaredError(label_smoothing)


@pytest.mark.parametrize("label_smoothing", ["-0.1", "1"])
def test_label_smoothing_of_a_run_is_refused(compose, label_smoothing):
    with pytest.raises(ConfigError, match=r"loss\.label_smoothing must be a number >= 0 and < 1"):
        compose("loss=squared_error", f"loss.label_smoothing={label_smoothing}")


def test_a_run_learns_by_it_and_reports_it(compose, tmp_path):
    few = ("dataset=synthetic", "model.hidden=[16]", "epochs=5", "progress=false", f"out={tmp_path}")
    outcome = run.run(compose(*few, "loss=squared_error", "optimizer.lr=0.03"), announce=lambda _: None)
    rows = records.read_metrics(outcome.folder / "metrics.csv")
    assert 0.3 < rows[0]["val_loss"] < 0.6  # 0.45 where all ten classes are equally likely
    assert outcome.record["test_loss"] < 0.2
    assert outcome.record["test_acc"] > 0.7
