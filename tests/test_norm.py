"""Normalizations: the contract for every conf/norm/*.yaml, batch normalization's formula, the documents' facts."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from normbench import assembly
from normbench.norm import Impossible, Norm
from normbench.norm.bn import BatchNorm
from normbench.norm.none import NoNorm

SHAPES = [(6, 16), (5, 16, 3, 2)]  # (N, C) and (N, C, H, W)


def standardized(x, eps):
    """The formula, in float64: mean and biased variance over everything but the channels."""
    x = x.double()
    dims = [d for d in range(x.dim()) if d != 1]
    mean = x.mean(dims, keepdim=True)
    var = ((x - mean) ** 2).sum(dims, keepdim=True) / (x.numel() // x.shape[1])
    return (x - mean) / torch.sqrt(var + eps)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def per_channel(values, x):
    return values.reshape(1, -1, *[1] * (x.dim() - 2))


def give_affine(layer, dtype=None):
    """Weights and biases that are not 1 and 0."""
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter += randn(*parameter.shape, seed=100 + number).to(parameter.dtype)
    return layer


# -------------------------------------------------------------------------------------------- the contract, each choice


@pytest.fixture(params=SHAPES, ids=["NC", "NCHW"])
def shape(request):
    return request.param


@pytest.fixture(params=[(6, 4), (5, 4, 3, 2)], ids=["NC", "NCHW"])
def small(request):
    return request.param


@pytest.fixture
def norm(norm_settings, shape):
    """The choice, where it can work on such activations at all."""
    norm = assembly.normalization(norm_settings)
    try:
        norm.check(shape[1:], shape[0])
    except Impossible as refusal:
        pytest.skip(str(refusal))
    return norm


def test_shape_and_dtype_are_kept(norm, shape):
    assert isinstance(norm, Norm)
    for training in (True, False):
        for dtype in (torch.float32, torch.float64):
            layer = norm.layer(shape[1]).to(dtype).train(training)
            y = layer(randn(*shape, dtype=dtype))
            assert y.shape == shape
            assert y.dtype is dtype
            assert y.isfinite().all()


def test_constant_input_stays_finite(norm, shape):
    layer = norm.layer(shape[1]).train()
    for value in (0.0, 3.0, 1e4):
        x = torch.full(shape, value, requires_grad=True)
        y = layer(x)
        y.square().sum().backward()
        assert y.isfinite().all()
        assert x.grad.isfinite().all()


def test_gradient_is_the_derivative(norm, shape):
    layer = give_affine(norm.layer(shape[1]).double().train())
    x = randn(*shape, dtype=torch.float64).requires_grad_()
    names, parameters = zip(*layer.named_parameters(), strict=True) if list(layer.parameters()) else ((), ())

    def call(x, *values):  # a copy: a layer may remember what it saw
        return functional_call(deepcopy(layer), dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *parameters))


def test_state_dict_round_trip(norm, shape):
    layer = give_affine(norm.layer(shape[1]).train())
    for seed in range(3):
        layer(randn(*shape, seed=seed) * 2 + 1)
    other = norm.layer(shape[1])
    other.load_state_dict(layer.state_dict())
    x = randn(*shape, seed=9)
    assert torch.equal(layer.eval()(x), other.eval()(x))
    assert torch.equal(layer.train()(x), other.train()(x))


def test_evaluation_treats_each_sample_alone(norm, shape):
    layer = give_affine(norm.layer(shape[1]).train())
    layer(randn(*shape))
    x = randn(*shape, seed=1)
    alone = torch.cat([layer.eval()(sample[None]) for sample in x])
    torch.testing.assert_close(layer(x), alone, rtol=1e-6, atol=1e-6)


def test_evaluation_changes_no_state(norm, shape):
    layer = norm.layer(shape[1]).eval()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    layer(randn(*shape) + 5)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_bias_is_redundant_means_that_a_bias_before_it_changes_nothing(norm, shape):
    layer = give_affine(norm.layer(shape[1]).double().train())
    x = randn(*shape, dtype=torch.float64)
    shift = per_channel(10 * randn(16, seed=3, dtype=torch.float64), x)
    change = (deepcopy(layer)(x + shift) - layer(x)).abs().max()  # a copy: a layer may remember what it saw
    if norm.bias_is_redundant:
        assert change < 1e-9
    else:
        assert change > 1e-3


def test_two_layers_of_one_norm_share_nothing(norm_settings):
    norm = assembly.normalization(norm_settings)
    first, second = norm.layer(16), norm.layer(16)
    ids = {id(t) for t in (*first.parameters(), *first.buffers())}
    assert first is not second
    assert not ids & {id(t) for t in (*second.parameters(), *second.buffers())}


def test_reparametrize_keeps_the_layers_shape(norm_settings):
    norm = assembly.normalization(norm_settings)
    x = randn(2, 3, 8, 8)
    assert norm.reparametrize(nn.Conv2d(3, 5, 3))(x).shape == (2, 5, 6, 6)
    assert norm.reparametrize(nn.Linear(8, 5))(x).shape == (2, 3, 8, 5)


# ----------------------------------------------------------------------------------------------------------------- none


def test_none_is_the_identity(shape):
    norm = NoNorm()
    x = randn(*shape)
    assert torch.equal(norm.layer(4)(x), x)
    assert list(norm.layer(4).state_dict()) == []
    linear = nn.Linear(3, 2)
    assert norm.reparametrize(linear) is linear
    assert not norm.bias_is_redundant
    assert not norm.replaces_activation
    norm.check((4,), 1)


# ------------------------------------------------------------------------------------------------------------------- bn


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_bn_in_training_is_its_formula(small, eps):
    x = randn(*small) * 3 + 2
    torch.testing.assert_close(
        BatchNorm(eps=eps).layer(4).train()(x).double(), standardized(x, eps), rtol=1e-5, atol=1e-5
    )


def test_bn_scales_and_shifts_each_channel(small):
    layer = give_affine(BatchNorm().layer(4).double())
    x = randn(*small, dtype=torch.float64)
    expected = standardized(x, 1e-5) * per_channel(layer.weight, x) + per_channel(layer.bias, x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    assert layer.weight.unique().numel() == 4  # the four are different, so a mix-up would show


@pytest.mark.parametrize("momentum", [0.1, 0.25, 1.0])
def test_bn_running_averages_after_several_batches(small, momentum):
    """Each is (1 - momentum) old + momentum batch, from 0 and 1; the variance is the unbiased one."""
    layer = BatchNorm(momentum=momentum).layer(4).double().train()
    mean, var = torch.zeros(4).double(), torch.ones(4).double()
    for seed in range(4):
        x = randn(*small, seed=seed, dtype=torch.float64) * (seed + 1) + seed
        layer(x)
        rows = x.transpose(0, 1).reshape(4, -1)  # (C, m)
        batch_mean = rows.sum(1) / rows.shape[1]
        batch_var = ((rows - batch_mean[:, None]) ** 2).sum(1) / (rows.shape[1] - 1)
        mean = (1 - momentum) * mean + momentum * batch_mean
        var = (1 - momentum) * var + momentum * batch_var
    torch.testing.assert_close(layer.running_mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.running_var, var, rtol=1e-12, atol=1e-12)


def test_bn_in_evaluation_uses_the_running_averages(small):
    layer = give_affine(BatchNorm(eps=0.01).layer(4).double()).eval()
    layer.running_mean.copy_(torch.tensor([1.0, -2.0, 0.0, 3.0]))
    layer.running_var.copy_(torch.tensor([4.0, 0.25, 1.0, 9.0]))
    x = randn(*small, dtype=torch.float64)
    mean, var, weight, bias = (
        per_channel(t, x) for t in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    torch.testing.assert_close(layer(x), (x - mean) / torch.sqrt(var + 0.01) * weight + bias, rtol=1e-12, atol=1e-12)


def test_bn_begins_with_weight_1_and_bias_0():
    layer = BatchNorm().layer(4)
    assert layer.weight.tolist() == [1] * 4
    assert layer.bias.tolist() == [0] * 4


def test_bn_without_affine_learns_nothing(small):
    layer = BatchNorm(affine=False).layer(4)
    x = randn(*small)
    assert list(layer.parameters()) == []
    torch.testing.assert_close(layer(x).double(), standardized(x, 1e-5), rtol=1e-5, atol=1e-5)


def test_bn_half_types_have_float32_statistics():
    """4,096 values of mean 8: a sum in bfloat16 would stand still at a few hundred."""
    x = randn(4096, 4, dtype=torch.bfloat16) + 8
    layer = BatchNorm().layer(4)
    y = layer(x)
    assert y.dtype is torch.bfloat16
    expected = standardized(x, 1e-5)
    assert (y.double() - expected).abs().max() <= 2**-8 * expected.abs().max()
    torch.testing.assert_close(layer.running_mean.double(), 0.1 * x.double().mean(0), rtol=1e-5, atol=0)
    assert layer.running_var.dtype is torch.float32
    torch.testing.assert_close(layer.running_var.double(), 0.9 + 0.1 * x.double().var(0), rtol=1e-5, atol=0)


def test_bn_refuses_one_value_per_channel():
    norm = BatchNorm()
    for activations in ((4,), (4, 1, 1)):
        with pytest.raises(Impossible, match=r"norm=bn.*batch_size=1.*\(4.*try batch_size=2"):
            norm.check(activations, 1)
        norm.check(activations, 2)
    norm.check((4, 4, 4), 1)
    norm.check((4, 2, 1), 1)


@pytest.mark.parametrize("eps", [0.0, -1e-5, math.nan, math.inf])
def test_bn_refuses_an_eps(eps):
    with pytest.raises(ValueError, match=rf"eps must be .*got {eps}.*norm\.eps="):
        BatchNorm(eps=eps)


@pytest.mark.parametrize("momentum", [0.0, -0.1, 1.1, math.nan])
def test_bn_refuses_a_momentum(momentum):
    with pytest.raises(ValueError, match=rf"momentum must be .*got {momentum}.*norm\.momentum="):
        BatchNorm(momentum=momentum)


def test_bn_refuses_what_has_no_channels():
    with pytest.raises(ValueError, match=r"\(N, C, \.\.\.\).*\(4,\)"):
        BatchNorm().layer(4)(torch.zeros(4))


# ------------------------------------------------------------------------------------------ bn's parts and constants


@pytest.mark.parametrize("shape", [(12, 4), (12, 4, 3, 2)], ids=["NC", "NCHW"])
def test_ghost_batches_are_normalized_each_by_its_own(shape):
    layer = give_affine(BatchNorm(ghost_size=4, momentum=0.25).layer(4).double().train())
    plain = BatchNorm(momentum=0.25).layer(4).double().train()
    plain.load_state_dict(layer.state_dict())
    x = randn(*shape, dtype=torch.float64) * torch.arange(1, 13).reshape(-1, *[1] * (len(shape) - 1))
    y = layer(x)
    means, variances = [], []
    for part, out in zip(x.split(4), y.split(4), strict=True):
        expected = standardized(part, 1e-5) * per_channel(layer.weight, x) + per_channel(layer.bias, x)
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
        rows = part.transpose(0, 1).reshape(4, -1)
        means.append(rows.mean(1))
        variances.append(rows.var(1))  # unbiased
    torch.testing.assert_close(layer.running_mean, 0.25 * torch.stack(means).mean(0))
    torch.testing.assert_close(layer.running_var, 0.75 + 0.25 * torch.stack(variances).mean(0))
    assert layer.num_batches_tracked == 1
    assert not torch.allclose(y, plain(x))
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x), plain.eval()(x)), "evaluation is batch normalization's"


def test_a_ghost_batch_as_large_as_the_batch_is_batch_normalization(small):
    ghost, plain = BatchNorm(ghost_size=small[0]).layer(4).train(), BatchNorm().layer(4).train()
    x = randn(*small)
    assert torch.equal(ghost(x), plain(x))
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(ghost.state_dict()[key], value)


def test_a_batch_that_is_no_multiple_is_cut_into_nearly_equal_parts():
    layer = BatchNorm(ghost_size=4).layer(3).double().train()
    x = randn(10, 3, dtype=torch.float64)
    expected = torch.cat([standardized(part, 1e-5) for part in (x[:5], x[5:])])
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x[:2]), standardized(x[:2], 1e-5), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ghost_size", [0, 3])
def test_detached_statistics_change_the_gradient_alone(small, ghost_size):
    norms = [BatchNorm(detach_statistics=detach, ghost_size=ghost_size) for detach in (False, True)]
    plain, detached = (give_affine(norm.layer(4).double().train()) for norm in norms)
    x = randn(*small, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(detached(x), plain(x), rtol=1e-12, atol=1e-12)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(detached.state_dict()[key], value)
    upstream = randn(*small, seed=5, dtype=torch.float64)
    (detached(x) * upstream).sum().backward()
    parts = x.detach().tensor_split(max(1, len(x) // ghost_size)) if ghost_size else [x.detach()]
    scale = []
    for part in parts:  # as if the standard deviation were a constant
        var = part.transpose(0, 1).reshape(4, -1).var(1, correction=0)
        scale.append(per_channel(detached.weight.detach() / (var + 1e-5).sqrt(), x).expand(part.shape))
    torch.testing.assert_close(x.grad, upstream * torch.cat(scale), rtol=1e-10, atol=1e-12)
    before, x.grad = x.grad, None
    (plain(x) * upstream).sum().backward()
    assert (x.grad - before).abs().max() > 1e-3


@pytest.mark.parametrize("settings", [{"ghost_size": 2}, {"detach_statistics": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parts_and_constants_in_half_types_have_float32_statistics(settings, dtype):
    x = (randn(4096, 4) + 8).to(dtype)
    layer = BatchNorm(**{**settings, **({"ghost_size": 2048} if "ghost_size" in settings else {})}).layer(4)
    y = layer(x)
    assert y.dtype is dtype
    parts = x.split(2048) if "ghost_size" in settings else [x]
    expected = torch.cat([standardized(part, 1e-5) for part in parts])
    assert (y.double() - expected).abs().max() <= torch.finfo(dtype).eps * expected.abs().max()
    torch.testing.assert_close(layer.running_mean.double(), 0.1 * x.double().mean(0), rtol=1e-5, atol=0)


def test_ghost_batches_are_checked():
    with pytest.raises(ValueError, match=r"ghost_size must be .*got -1.*norm\.ghost_size=16"):
        BatchNorm(ghost_size=-1)
    norm = BatchNorm(ghost_size=24)
    with pytest.raises(Impossible, match=r"norm\.ghost_size=24 must divide the batch of 64; try norm\.ghost_size=8"):
        norm.check((4,), 64)
    norm.check((4,), 72)
    with pytest.raises(Impossible, match="at least 2 values per channel"):
        BatchNorm(ghost_size=1).check((4,), 64)
    BatchNorm(ghost_size=1).check((4, 3, 3), 64)


# ----------------------------------------------------------------------- the documents' facts about batch normalization

A = 0.1  # the scale of the weights


def gradients(scale, eps, of_weights=False):
    """Of a fixed function of BN(scale W u): BN's output, the gradient to u and the gradient to scale W."""
    u = randn(16, 3, seed=1, dtype=torch.float64).requires_grad_()
    weight = (scale * randn(4, 3, seed=2, dtype=torch.float64)).requires_grad_()
    y = BatchNorm(eps=eps).layer(4).double().train()(u @ weight.T)
    (y * randn(16, 4, seed=3, dtype=torch.float64)).sum().backward()
    return y.detach(), u.grad, weight.grad


@pytest.mark.parametrize("a", [0.1, 7.0])
def test_bn_of_scaled_weights_is_the_same_with_eps_scaled_too(a):
    one, scaled = gradients(1, 1e-5), gradients(a, 1e-5 * a**2)
    torch.testing.assert_close(scaled[0], one[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scaled[1], one[1], rtol=1e-9, atol=1e-12)  # gradient to u: unchanged
    torch.testing.assert_close(scaled[2] * a, one[2], rtol=1e-9, atol=1e-12)  # gradient to aW: 1/a of that to W


def test_bn_of_scaled_weights_with_the_same_eps_is_off_by_eps_over_var():
    """By the factor sqrt((v + eps) / (v + eps / a^2)), v the variance at a = 1: here 0.953."""
    eps = 1e-3
    x = standardized(randn(64, 4, seed=1), 0.0)  # variance exactly 1
    layer = BatchNorm(eps=eps).layer(4).double().train()
    ratio = layer(A * x) / layer(x)
    torch.testing.assert_close(ratio, torch.full_like(ratio, math.sqrt((1 + eps) / (1 + eps / A**2))))
    assert 0.04 < 1 - ratio.mean() < 0.05


def test_bn_can_give_back_its_input(small):
    """With gamma = sqrt(var + eps) and beta = mean."""
    x = randn(*small, dtype=torch.float64) * 3 + 2
    layer = BatchNorm(eps=0.1).layer(4).double().train()
    rows = x.transpose(0, 1).reshape(4, -1)
    with torch.no_grad():
        layer.weight.copy_((rows.var(1, correction=0) + 0.1).sqrt())
        layer.bias.copy_(rows.mean(1))
    torch.testing.assert_close(layer(x), x, rtol=1e-12, atol=1e-12)


def test_bn_makes_the_bias_before_it_useless():
    """It changes nothing, and its gradient is zero."""
    linear = nn.Linear(3, 4).double()
    layer = give_affine(BatchNorm().layer(4).double().train())
    u = randn(16, 3, dtype=torch.float64)
    before = layer(linear(u))
    with torch.no_grad():
        linear.bias += torch.tensor([1.0, -20.0, 0.0, 3.0])
    after = layer(linear(u))
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)
    (after * randn(16, 4, seed=3)).sum().backward()
    assert linear.bias.grad.abs().max() < 1e-12
    assert linear.weight.grad.abs().max() > 1e-3
