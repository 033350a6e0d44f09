"""Each normalization against its formula, written here in float64, and its own bad inputs."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from normbench import build
from normbench.norm import Impossible
from normbench.norm.brn import BatchRenorm
from normbench.norm.dyt import DynamicTanh
from normbench.norm.frn import FilterResponseNorm
from normbench.norm.gn import GroupNorm
from normbench.norm.iternorm import IterNorm
from normbench.norm.ln import LayerNorm
from normbench.norm.rms import RMSNorm
from normbench.norm.sn import SwitchableNorm

InstanceNorm = __import__("importlib").import_module("normbench.norm.in").InstanceNorm


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def per_sample_and_group(x, groups, eps):
    """(x - mean) / sqrt(var + eps) over C/G channels and the positions, value by value."""
    y = torch.empty_like(x)
    for n in range(x.shape[0]):
        for channels in torch.arange(x.shape[1]).chunk(groups):
            part = x[n, channels]
            mean = part.sum() / part.numel()
            var = ((part - mean) ** 2).sum() / part.numel()
            y[n, channels] = (part - mean) / (var + eps).sqrt()
    return y


@pytest.fixture(params=[(5, 8), (4, 8, 3, 2)], ids=["NC", "NCHW"])
def x(request):
    return 2 * randn(*request.param) + 1


def trained(norm, channels=8):
    layer = norm.layer(channels).double().train()
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter += randn(*parameter.shape, seed=50 + number)
    return layer


def scaled(layer, y):
    per_channel = (1, -1, *[1] * (y.dim() - 2))
    return y * layer.weight.reshape(per_channel) + layer.bias.reshape(per_channel)


def test_ln(x):
    layer = trained(LayerNorm(eps=0.1))
    close(layer(x), scaled(layer, per_sample_and_group(x, 1, 0.1)))


def test_ln_of_vectors_is_torchs_layer_norm():
    x = randn(5, 8)
    close(LayerNorm().layer(8).double()(x), nn.LayerNorm(8).double()(x))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gn(x, groups):
    layer = trained(GroupNorm(num_groups=groups, eps=0.1))
    close(layer(x), scaled(layer, per_sample_and_group(x, groups, 0.1)))


def test_gn_with_one_group_is_ln_and_with_one_channel_a_group_is_in():
    x = randn(4, 8, 3, 2)
    close(GroupNorm(num_groups=1).layer(8).double()(x), LayerNorm().layer(8).double()(x))
    close(GroupNorm(num_groups=8).layer(8).double()(x), InstanceNorm().layer(8).double()(x))


def test_in():
    x = randn(4, 8, 3, 2)
    layer = trained(InstanceNorm(eps=0.1))
    close(layer(x), scaled(layer, per_sample_and_group(x, 8, 0.1)))


@pytest.mark.parametrize("norm", [LayerNorm(), GroupNorm(2), InstanceNorm()], ids=["ln", "gn", "in"])
def test_one_samples_result_does_not_depend_on_the_batch(norm):
    x = randn(4, 8, 3, 2)
    layer = trained(norm)
    close(layer(x)[:1], layer(x[:1]), 1e-13)


def test_rms(x):
    layer = trained(RMSNorm(eps=0.1))
    square = torch.stack([(sample**2).sum() / sample.numel() for sample in x]).reshape(-1, *[1] * (x.dim() - 1))
    close(layer(x), x / (square + 0.1).sqrt() * layer.weight.reshape(1, -1, *[1] * (x.dim() - 2)))


def test_frn():
    x = randn(4, 8, 3, 2)
    layer = trained(FilterResponseNorm(eps=0.1))
    square = (x**2).sum((2, 3), keepdim=True) / 6
    y = x / (square + 0.1).sqrt() * layer.weight + layer.bias
    threshold = layer.threshold.expand_as(y)
    close(layer(x), torch.where(y > threshold, y, threshold))


def test_frn_takes_the_place_of_the_activation(compose):
    preprocess = build.part("preprocess", compose().preprocess)
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    network = build.network(compose("norm=frn", "model=lenet"), preprocess, images, 10)
    assert [name for name, _ in network.conv1.named_children()] == ["conv", "norm"]
    assert [name for name, _ in network.full1.named_children()] == ["linear", "activation"]


def test_dyt(x):
    layer = trained(DynamicTanh(alpha=0.7))
    alpha = layer.alpha.detach()
    close(layer(x), scaled(layer, (alpha * x).exp().sub((-alpha * x).exp()) / ((alpha * x).exp() + (-alpha * x).exp())))
    assert DynamicTanh(alpha=0.7).layer(3).alpha.item() == pytest.approx(0.7)


def batch_moments(x):
    dims = [d for d in range(x.dim()) if d != 1]
    mean = x.mean(dims)
    return mean, ((x - mean.reshape(1, -1, *[1] * (x.dim() - 2))) ** 2).mean(dims)


def test_brn_over_its_ramp(x):
    settings = {"eps": 0.01, "momentum": 0.2, "r_max": 1.5, "d_max": 0.4, "ramp_steps": 4}
    layer = BatchRenorm(**settings).layer(8).double().train()
    mu, sigma = torch.zeros(8).double(), torch.ones(8).double()
    view = (1, -1, *[1] * (x.dim() - 2))
    for step in range(7):
        batch = x * (1 + 0.3 * step) + 0.5 * step
        mean, var = batch_moments(batch)
        s = (var + 0.01).sqrt()
        ramp = min(1.0, step / 4)
        r_max, d_max = 1 + 0.5 * ramp, 0.4 * ramp
        r, d = (s / sigma).clip(1 / r_max, r_max), ((mean - mu) / sigma).clip(-d_max, d_max)
        close(layer(batch), (batch - mean.reshape(view)) / s.reshape(view) * r.reshape(view) + d.reshape(view))
        mu, sigma = mu + 0.2 * (mean - mu), sigma + 0.2 * (s - sigma)
    close(layer.running_sigma, sigma)
    close(layer.eval()(x), (x - mu.reshape(view)) / sigma.reshape(view))


def test_brn_with_closed_bounds_is_bn_in_training(x):
    from normbench.norm.bn import BatchNorm

    renorm, batch = BatchRenorm(r_max=1.0, d_max=0.0).layer(8).double(), BatchNorm().layer(8).double()
    for step in range(3):
        close(renorm.train()(x + step), batch.train()(x + step))


def test_brn_has_r_and_d_outside_the_gradient():
    layer = BatchRenorm(ramp_steps=0).layer(8).double().train()
    layer(randn(5, 8))
    x = randn(5, 8, seed=1).requires_grad_()
    twin = deepcopy(layer)
    (layer(x) * randn(5, 8, seed=2)).sum().backward()
    mean, var = batch_moments(x.detach())
    r, d = twin._correction(mean, (var + 1e-5).sqrt())
    z = x.detach().clone().requires_grad_()
    mean, var = batch_moments(z)
    (((z - mean) / (var + 1e-5).sqrt() * r + d) * randn(5, 8, seed=2)).sum().backward()
    close(x.grad, z.grad)


def test_sn(x):
    layer = trained(SwitchableNorm(eps=0.1, momentum=0.25))
    kinds = 3 if x.dim() == 4 else 2
    w, v = layer.mean_weight.detach()[-kinds:].exp(), layer.var_weight.detach()[-kinds:].exp()
    w, v = w / w.sum(), v / v.sum()
    moments = [
        (x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True))
        for dims in ([(2, 3), (1, 2, 3), (0, 2, 3)] if x.dim() == 4 else [(1,), (0,)])
    ]
    mean = sum(a * m for a, (m, _) in zip(w, moments, strict=True))
    var = sum(a * s for a, (_, s) in zip(v, moments, strict=True))
    close(layer(x), scaled(layer, (x - mean) / (var + 0.1).sqrt()))
    close(layer.running_mean, 0.25 * moments[-1][0].flatten())
    close(layer.running_var, 0.75 + 0.25 * moments[-1][1].flatten())
    moments[-1] = tuple(b.reshape(moments[-1][0].shape) for b in (layer.running_mean, layer.running_var))
    mean = sum(a * m for a, (m, _) in zip(w, moments, strict=True))
    var = sum(a * s for a, (_, s) in zip(v, moments, strict=True))
    close(layer.eval()(x), scaled(layer, (x - mean) / (var + 0.1).sqrt()))


def values_by_channel(x, channels):
    return x.transpose(0, 1).reshape(x.shape[1], -1)[channels]


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_iternorm_is_newtons_recursion(group_size):
    x = 2 * randn(40, 8, 2, 3) + 1
    layer = trained(IterNorm(group_size=group_size, iterations=5, eps=0.01))
    y = torch.empty(8, 240).double()
    for channels in torch.arange(8).split(group_size):
        rows = values_by_channel(x, channels)
        centred = rows - rows.mean(1, keepdim=True)
        sigma = centred @ centred.T / 240 + 0.01 * torch.eye(group_size)
        p = torch.eye(group_size).double()
        for _ in range(5):
            p = (3 * p - torch.linalg.matrix_power(p, 3) @ sigma / sigma.trace()) / 2
        y[channels] = p @ centred / sigma.trace().sqrt()
    close(layer(x), scaled(layer, y.reshape(8, 40, 2, 3).transpose(0, 1)))


def test_iternorm_whitens():
    mix = torch.eye(8).double() + 0.2 * randn(8, 8)
    x = randn(5000, 8) @ mix.T
    assert torch.linalg.cond(x.T.cov()) < 100
    y = IterNorm(group_size=8, iterations=10).layer(8).double().train()(x)
    close(y.T.cov(correction=0), torch.eye(8).double(), 0.05)


def test_iternorm_evaluates_with_running_averages():
    layer = IterNorm(group_size=4, momentum=1.0).layer(8).double()
    x = randn(50, 8)
    in_training = layer.train()(x)
    close(layer.eval()(x), in_training)


def test_wn_is_length_times_direction():
    from normbench.norm.wn import WeightNorm

    for layer in (nn.Linear(6, 4).double(), nn.Conv2d(3, 4, 2).double()):
        before = layer.weight.detach().clone()
        WeightNorm().reparametrize(layer)
        close(layer.weight, before)  # it starts where it was
        g, v = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
        with torch.no_grad():
            g.add_(randn(*g.shape))
            v.add_(randn(*v.shape, seed=1))
        length = (v.flatten(1) ** 2).sum(1).sqrt().reshape(-1, *[1] * (v.dim() - 1))
        close(layer.weight, g * v / length)


@pytest.mark.parametrize("model", ["mlp", "lenet"])
def test_wn_starts_from_standardized_preactivations(compose, model):
    arguments = [f"model={model}", *(["model.hidden=[32,16]"] if model == "mlp" else [])]
    config = compose("norm=wn", *arguments)
    preprocess = build.part("preprocess", config.preprocess)
    images = (randn(64, 1, 28, 28).abs() * 100).clamp(max=255).to(torch.uint8)
    network = build.network(config, preprocess, images, 10)
    plain = build.network(compose("norm=none", *arguments), preprocess, images, 10)
    torch.testing.assert_close(network(preprocess(images)), plain(preprocess(images)), rtol=1e-4, atol=1e-5)
    seen = []
    build.normalization(config.norm).start(network, preprocess(images))
    for layer in network.modules():
        if nn.utils.parametrize.is_parametrized(layer, "weight"):
            layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.detach()))
    network(preprocess(images))
    assert len(seen) == 2
    for output in seen:
        mean, var = batch_moments(output.double())
        close(mean, torch.zeros_like(mean), 1e-4)
        close(var, torch.ones_like(var), 1e-3)


def test_wn_without_data_init_starts_as_it_was(compose):
    config = compose("norm=wn", "norm.data_init=false")
    preprocess = build.part("preprocess", config.preprocess)
    images = torch.ones(4, 1, 28, 28, dtype=torch.uint8)
    network = build.network(config, preprocess, images, 10)
    before = network(preprocess(images))
    build.normalization(config.norm).start(network, preprocess(images))
    assert torch.equal(network(preprocess(images)), before)


def test_ws_standardizes_each_units_weight():
    from normbench.norm.ws import WeightStandardization

    for layer in (nn.Linear(6, 4).double(), nn.Conv2d(3, 4, 2).double()):
        v = layer.weight.detach().clone()
        WeightStandardization(eps=0.01).reparametrize(layer)
        for unit, weight in zip(v, layer.weight, strict=True):
            mean = unit.sum() / unit.numel()
            var = ((unit - mean) ** 2).sum() / unit.numel()
            close(weight, (unit - mean) / (var + 0.01).sqrt())


def test_ws_normalizes_activations_in_groups_or_not_at_all():
    from normbench.norm.ws import WeightStandardization

    x = randn(4, 8, 3, 2)
    close(WeightStandardization(num_groups=2).layer(8).double()(x), per_sample_and_group(x, 2, 1e-5))
    assert isinstance(WeightStandardization(num_groups=0).layer(8), nn.Identity)
    with pytest.raises(Impossible, match=r"num_groups=8 must divide the 6 channels of a layer; try norm\.num_groups=2"):
        WeightStandardization(num_groups=8).layer(6)


@pytest.mark.parametrize("name", ["wn", "ws"])
def test_arms_with_reparametrized_weights_start_from_the_same_weights(compose, name):
    preprocess = build.part("preprocess", compose().preprocess)
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    other = build.network(compose(f"norm={name}", "seed=3"), preprocess, images, 10)
    plain = build.network(compose("norm=none", "seed=3"), preprocess, images, 10)
    drawn = other.blocks[0].linear.parametrizations.weight
    raw = drawn.original1 if name == "wn" else drawn.original
    assert torch.equal(raw, plain.blocks[0].linear.weight)
    assert torch.equal(other.blocks[0].linear.bias, plain.blocks[0].linear.bias)
    assert torch.equal(other.head.weight, plain.head.weight)


BAD = [
    (GroupNorm, {"num_groups": 0}), (RMSNorm, {"eps": 0.0}), (LayerNorm, {"eps": -1.0}),
    (InstanceNorm, {"eps": math.nan}),
    (FilterResponseNorm, {"eps": math.inf}), (DynamicTanh, {"alpha": 0.0}), (BatchRenorm, {"r_max": 0.5}),
    (BatchRenorm, {"d_max": -1.0}), (BatchRenorm, {"momentum": 0.0}), (BatchRenorm, {"ramp_steps": -1}),
    (BatchRenorm, {"eps": 0.0}), (SwitchableNorm, {"momentum": 1.5}), (SwitchableNorm, {"eps": 0.0}),
    (IterNorm, {"group_size": 0}), (IterNorm, {"iterations": 0}), (IterNorm, {"eps": 0.0}),
    (IterNorm, {"momentum": 0.0}), (GroupNorm, {"eps": 0.0}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings"), BAD, ids=lambda v: v.__name__ if isinstance(v, type) else str(v))
def test_numbers_out_of_range_are_named(kind, settings):
    (value,) = settings.values()
    with pytest.raises(ValueError, match="must be") as error:
        kind(**settings)
    assert str(value) in str(error.value)
    assert "try norm." in str(error.value)


@pytest.mark.parametrize(
    ("norm", "shape", "batch_size", "words"),
    [
        (InstanceNorm(), (8,), 64, "at least 2 positions"),
        (InstanceNorm(), (8, 1, 1), 64, "at least 2 positions"),
        (FilterResponseNorm(), (8,), 64, "at least 2 positions"),
        (GroupNorm(8), (8,), 64, "one value a group"),
        (BatchRenorm(), (8,), 1, "batch_size=1"),
        (SwitchableNorm(), (8,), 1, "batch_size=1"),
        (IterNorm(), (8,), 1, "batch_size=1"),
    ],
)
def test_what_is_undefined_is_refused_with_the_reason(norm, shape, batch_size, words):
    with pytest.raises(Impossible, match=words):
        norm.check(shape, batch_size)
    norm.check((8, 4, 4), 2)


def test_groups_that_do_not_divide_the_channels_are_refused_with_both_numbers():
    with pytest.raises(Impossible, match=r"num_groups=8 must divide the 6 channels of a layer; try norm\.num_groups=2"):
        GroupNorm(8).layer(6)
    with pytest.raises(Impossible, match=r"group_size=4 must divide the 6 channels of a layer; try norm\.group_size=2"):
        IterNorm(4).layer(6)
