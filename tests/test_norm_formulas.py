"""Each normalization against its formula, written here in float64; equalities between them; their own bad inputs."""

import importlib
import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from normbench import assembly, build
from normbench.norm import Impossible
from normbench.norm.bn import BatchNorm
from normbench.norm.brn import BatchRenorm
from normbench.norm.dyt import DynamicTanh
from normbench.norm.frn import FilterResponseNorm
from normbench.norm.gn import GroupNorm
from normbench.norm.iternorm import IterNorm
from normbench.norm.ln import LayerNorm
from normbench.norm.none import NoNorm
from normbench.norm.rms import RMSNorm
from normbench.norm.sn import SwitchableNorm
from normbench.norm.wn import WeightNorm
from normbench.norm.ws import WeightStandardization

InstanceNorm = importlib.import_module("normbench.norm.in").InstanceNorm


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=[(5, 8), (4, 8, 3, 2)], ids=["NC", "NCHW"])
def x(request):
    return 2 * randn(*request.param) + 1


def with_parameters(layer):
    """Weights and biases that are not 1 and 0."""
    with torch.no_grad():
        for number, (name, parameter) in enumerate(layer.named_parameters()):
            if name != "alpha":
                parameter += randn(*parameter.shape, seed=50 + number).to(parameter.dtype)
    return layer


def trained(norm, channels=8):
    return with_parameters(norm.layer(channels).double().train())


# ------------------------------------------------------------------------------------------------------- the formulas
# Each gives y for float64 x from the layer's parameters p; `state`, its running averages, takes the batch in.


def channels(t, x):
    return t.reshape(1, -1, *[1] * (x.dim() - 2))


def moments(x, dims):
    mean = x.mean(dims, keepdim=True)
    return mean, ((x - mean) ** 2).mean(dims, keepdim=True)


def over_batch(x):
    return (0, *range(2, x.dim()))


def affine(y, p):
    return y * channels(p["weight"], y) + channels(p["bias"], y)


BEGIN = {"running_mean": torch.zeros(1), "running_var": torch.ones(1), "running_sigma": torch.ones(1)}


def average(state, **batch):
    """The running averages with momentum 0.25."""
    for key, new in batch.items():
        state[key] = 0.75 * state.get(key, BEGIN.get(key)) + 0.25 * new


def identity(x, p, state, training):
    return x


def batch_norm(x, p, state, training):
    mean, var = moments(x, over_batch(x))
    if training:
        m = x.numel() / x.shape[1]
        average(state, running_mean=mean.flatten(), running_var=var.flatten() * m / (m - 1))
    else:
        mean, var = channels(state["running_mean"], x), channels(state["running_var"], x)
    return affine((x - mean) / (var + 0.1).sqrt(), p)


def grouped(x, groups, eps):
    """(x - mean) / sqrt(var + eps) over C/G channels and the positions of each sample."""
    parts = []
    for part in x.split(x.shape[1] // groups, 1):
        mean, var = moments(part, tuple(range(1, x.dim())))
        parts.append((part - mean) / (var + eps).sqrt())
    return torch.cat(parts, 1)


def group_norm(groups, eps=0.1):
    return lambda x, p, state, training: affine(grouped(x, groups or x.shape[1], eps), p)


def rms(x, p, state, training):
    return x / ((x**2).mean(tuple(range(1, x.dim())), keepdim=True) + 0.1).sqrt() * channels(p["weight"], x)


def frn(x, p, state, training):
    y = affine(x / ((x**2).mean((2, 3), keepdim=True) + 0.1).sqrt(), p)
    threshold = channels(p["threshold"], x).expand_as(y)
    return torch.where(y > threshold, y, threshold)


def dyt(x, p, state, training):
    up, down = (p["alpha"] * x).exp(), (-p["alpha"] * x).exp()
    return affine((up - down) / (up + down), p)


def renorm(x, p, state, training):
    mu, running_sigma = (channels(state.get(key, BEGIN[key]), x) for key in ("running_mean", "running_sigma"))
    if not training:
        return affine((x - mu) / running_sigma, p)
    mean, var = moments(x, over_batch(x))
    sigma = (var + 0.1).sqrt()
    ramp = min(1.0, float(state.get("num_batches_tracked", 0)) / 4)
    r_max, d_max = 1 + 0.5 * ramp, 0.4 * ramp
    r = (sigma / running_sigma).clip(1 / r_max, r_max)
    d = ((mean - mu) / running_sigma).clip(-d_max, d_max)
    average(state, running_mean=mean.flatten(), running_sigma=sigma.flatten())
    state["num_batches_tracked"] = state.get("num_batches_tracked", torch.tensor(0)) + 1
    return affine((x - mean) / sigma * r + d, p)


def switchable(x, p, state, training):
    kinds = [(2, 3), (1, 2, 3), (0, 2, 3)] if x.dim() == 4 else [(1,), (0,)]
    parts = [moments(x, dims) for dims in kinds]
    w, v = (p[key][-len(kinds) :].exp() / p[key][-len(kinds) :].exp().sum() for key in ("mean_weight", "var_weight"))
    if training:
        average(state, running_mean=parts[-1][0].flatten(), running_var=parts[-1][1].flatten())
    else:
        parts[-1] = channels(state["running_mean"], x), channels(state["running_var"], x)
    mean = sum(a * m for a, (m, _) in zip(w, parts, strict=True))
    var = sum(a * s for a, (_, s) in zip(v, parts, strict=True))
    return affine((x - mean) / (var + 0.1).sqrt(), p)


def iterated(group_size):
    identity = torch.eye(group_size).double()

    def formula(x, p, state, training):
        rows = x.transpose(0, 1).reshape(x.shape[1] // group_size, group_size, -1)
        if training:
            mean, matrices = rows.mean(2, keepdim=True), []
            for centred in rows - mean:
                sigma = centred @ centred.T / rows.shape[2] + 0.1 * identity
                step = identity
                for _ in range(5):
                    step = (3 * step - torch.linalg.matrix_power(step, 3) @ sigma / sigma.trace()) / 2
                matrices.append(step / sigma.trace().sqrt())
            whitening = torch.stack(matrices)
            state.setdefault("running_whitening", identity)
            average(state, running_mean=mean, running_whitening=whitening)
        else:
            mean, whitening = state["running_mean"], state["running_whitening"]
        y = torch.stack([matrix @ group for matrix, group in zip(whitening, rows - mean, strict=True)])
        return affine(y.reshape(x.transpose(0, 1).shape).transpose(0, 1), p)

    return formula


EPS, RUN = {"eps": 0.1}, {"eps": 0.1, "momentum": 0.25}  # an eps that shows where it stands
FORMULAS = {
    "none": (NoNorm(), identity),
    "wn": (WeightNorm(), identity),
    "bn": (BatchNorm(**RUN), batch_norm),
    "ln": (LayerNorm(**EPS), group_norm(1)),
    "gn": (GroupNorm(2, **EPS), group_norm(2)),
    "gn4": (GroupNorm(4, **EPS), group_norm(4)),
    "ws": (WeightStandardization(2), group_norm(2, 1e-5)),
    "in": (InstanceNorm(**EPS), group_norm(None)),
    "rms": (RMSNorm(**EPS), rms),
    "frn": (FilterResponseNorm(**EPS), frn),
    "dyt": (DynamicTanh(alpha=0.1), dyt),
    "brn": (BatchRenorm(**RUN, r_max=1.5, d_max=0.4, ramp_steps=4), renorm),
    "sn": (SwitchableNorm(**RUN), switchable),
    "iternorm1": (IterNorm(1, **RUN), iterated(1)),
    "iternorm4": (IterNorm(4, **RUN), iterated(4)),
}


BATCH = {"bn", "brn", "sn", "iternorm1", "iternorm4"}  # statistics over the batch


def is_defined(norm, shape):
    try:
        norm.check(shape[1:], shape[0])
    except Impossible:
        return False
    return True


def cases(*shapes, names=tuple(FORMULAS)):
    """(name, shape), without the shapes that the norm refuses."""
    return [
        pytest.param(name, shape, id=f"{name}-{'x'.join(map(str, shape))}")
        for name in names
        for shape in shapes
        if is_defined(FORMULAS[name][0], shape)
    ]


SMALL = [(5, 8), (4, 8, 3, 2)]
ALONE = sorted(FORMULAS.keys() - BATCH)
# half types: relative rounding of the result, which is all that may be lost
TOLERANCE = {torch.float64: 1e-10, torch.float32: 5e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def follows_its_formula(name, batches, dtype, of_parameters):
    """Trained on the batches, then evaluated on the last one and on its first sample alone."""
    norm, formula = FORMULAS[name]
    layer = with_parameters(norm.layer(batches[0].shape[1])).to(of_parameters)
    p = {key: value.detach().double() for key, value in layer.named_parameters()}
    state = {}

    def same(y, expected):
        assert y.dtype is dtype
        torch.testing.assert_close(y.double(), expected, rtol=TOLERANCE[dtype], atol=min(TOLERANCE[dtype], 1e-4))

    for x in batches:
        x = x.to(dtype)
        if of_parameters.itemsize == 2:  # the averages themselves are rounded at each step
            state = {key: value.double() for key, value in layer.named_buffers()}
        same(layer.train()(x), formula(x.double(), p, state, True))
        for key in state:
            assert key == "num_batches_tracked" or layer.get_buffer(key).dtype is of_parameters
            close(layer.get_buffer(key).double(), state[key].double(), TOLERANCE[of_parameters])
    state = {key: value.double() for key, value in layer.named_buffers()}
    expected = formula(x.double(), p, state, False)
    same(layer.eval()(x), expected)
    same(layer(x[:1]), expected[:1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("name", "shape"), [*cases(*SMALL), *cases((1, 8, 3, 2), names=ALONE)])
def test_layer_is_its_formula(name, shape, dtype):
    """Over seven batches of different mean and scale and one of equal values; float64 stays float64."""
    batches = [(1 + 2 * (step % 3)) * randn(*shape, seed=step) + step * (-1) ** step for step in range(7)]
    batches.insert(3, torch.full(shape, 3.0))
    follows_its_formula(name, batches, dtype, dtype)


@pytest.mark.parametrize("of_parameters", [torch.float32, None], ids=["parameters float32", "parameters too"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "shape"), cases((4096, 8), (2, 8, 64, 64)))
def test_half_types_have_float32_statistics(name, shape, dtype, of_parameters):
    """Mean 8 over 4,096 values or more: the result is the formula's up to one rounding."""
    if name == "bn" and of_parameters is None:
        pytest.skip("torch rounds scale and shift as the parameters")
    if name in ALONE and len(shape) == 2:
        shape = shape[::-1]
    batches = [2 * randn(*shape, seed=seed) + 8 - seed for seed in range(2)]
    follows_its_formula(name, batches, dtype, of_parameters or dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "shape"), cases(*SMALL))
def test_autocast_rounds_nothing_inside(name, shape, dtype):
    layer, x = with_parameters(FORMULAS[name][0].layer(8)).train(), (randn(*shape) + 8).to(dtype)
    twin, expected = deepcopy(layer), layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = twin(x)
    assert y.dtype is dtype
    assert torch.equal(y, expected)
    assert all(torch.equal(a, b) for a, b in zip(twin.buffers(), layer.buffers(), strict=True))


@pytest.mark.parametrize("name", ["ln", "gn", "in", "rms", "dyt", "brn", "sn", "iternorm4"])
def test_without_affine_nothing_scales_or_shifts(name):
    """And a new layer begins with weight 1 and bias 0."""
    kind = type(FORMULAS[name][0])
    plain, layer, x = kind(affine=False).layer(16), kind().layer(16), 2 * randn(4, 16, 3, 2) + 1
    assert {"weight", "bias"}.isdisjoint(dict(plain.named_parameters()))
    close(deepcopy(plain).double()(x), layer.double()(x))
    assert plain(x.bfloat16()).dtype is torch.bfloat16


def test_sn_keeps_its_variances_on_a_large_mean():
    """A difference of squares would lose them: 1,000^2 has an ulp of 0.06 in float32."""
    for shape in SMALL:
        x, layer = randn(*shape).float() + 1000, SwitchableNorm().layer(8)
        close(deepcopy(layer)(x).double(), layer.double()(x.double()), 1e-3)


# ------------------------------------------------------------------------------------------------- equal to one another


@pytest.mark.parametrize(("twin", "shape"), [(nn.BatchNorm1d, SMALL[0]), (nn.BatchNorm2d, SMALL[1])])
def test_bn_is_torchs_bit_for_bit(twin, shape):
    ours, theirs = with_parameters(BatchNorm().layer(8)), with_parameters(twin(8))
    for training, seed in [(True, 0), (True, 1), (True, 2), (False, 3)]:
        results = []
        for layer in (ours, theirs):
            x = (3 * randn(*shape, seed=seed).float() + seed).requires_grad_()
            y = layer.train(training)(x)
            layer.zero_grad()
            (y * randn(*shape, seed=9).float()).sum().backward()
            results.append([y, x.grad, layer.weight.grad, layer.bias.grad, *layer.buffers()])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_ln_of_vectors_is_torchs_layer_norm():
    x = randn(5, 8)
    close(LayerNorm().layer(8).double()(x), nn.LayerNorm(8).double()(x))


def test_gn_with_one_group_is_ln_and_with_one_channel_a_group_is_in():
    x = randn(4, 8, 3, 2)
    close(GroupNorm(num_groups=1).layer(8).double()(x), LayerNorm().layer(8).double()(x))
    close(GroupNorm(num_groups=8).layer(8).double()(x), InstanceNorm().layer(8).double()(x))


def test_frn_takes_the_place_of_the_activation(compose):
    preprocess = build.part("preprocess", compose().preprocess)
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    network = assembly.make(compose("norm=frn", "model=lenet"), preprocess, images, 10)
    assert [name for name, _ in network.conv1.named_children()] == ["conv", "norm"]
    assert [name for name, _ in network.full1.named_children()] == ["linear", "activation"]


def test_dyt_starts_with_its_alpha():
    assert DynamicTanh(alpha=0.7).layer(3).alpha.item() == pytest.approx(0.7)


def test_brn_with_closed_bounds_is_bn_in_training(x):
    renorm, batch = trained(BatchRenorm(r_max=1.0, d_max=0.0)), trained(BatchNorm())
    for step in range(3):
        results = []
        for layer in (renorm, batch):
            z = (x + step).requires_grad_()
            y = layer(z)
            layer.zero_grad()
            (y * randn(*x.shape, seed=9)).sum().backward()
            results.append([y, z.grad, layer.weight.grad, layer.bias.grad])
        for ours, bns in zip(*results, strict=True):
            close(ours, bns)


def test_brn_has_r_and_d_outside_the_gradient():
    layer = BatchRenorm(ramp_steps=0).layer(8).double().train()
    layer(randn(5, 8))
    x = randn(5, 8, seed=1).requires_grad_()
    twin = deepcopy(layer)
    (layer(x) * randn(5, 8, seed=2)).sum().backward()
    mean, var = moments(x.detach(), 0)
    r, d = twin._correction(mean[0], (var[0] + 1e-5).sqrt())
    z = x.detach().clone().requires_grad_()
    mean, var = moments(z, 0)
    (((z - mean) / (var + 1e-5).sqrt() * r + d) * randn(5, 8, seed=2)).sum().backward()
    close(x.grad, z.grad)


@pytest.mark.parametrize(("name", "shape"), cases(*SMALL, names=["in", "ln", "bn"]))
def test_sn_with_all_weight_on_one_part_is_that_norm(name, shape):
    layer, alone = SwitchableNorm(**EPS).layer(8).double(), trained(FORMULAS[name][0])
    part, x = ["in", "ln", "bn"].index(name), 2 * randn(*shape) + 1
    with torch.no_grad():
        for logits in (layer.mean_weight, layer.var_weight):
            logits.fill_(-50)[part] = 50
        layer.weight.copy_(alone.weight)
        layer.bias.copy_(alone.bias)
    close(layer(x), alone(x))


@pytest.mark.parametrize("group_size", [2, 4, 8])
@pytest.mark.parametrize("spread", ["even", "one small", "one large"])
def test_iternorm_whitens_up_to_condition_100(group_size, spread):
    values = torch.logspace(0, 2, group_size, dtype=torch.float64)
    if spread != "even":
        values[1:-1] = 100 if spread == "one small" else 1
    rotation = torch.linalg.qr(randn(group_size, group_size)).Q
    x = randn(4000, group_size, 2, 1) * values.sqrt().reshape(-1, 1, 1) + 3
    x = torch.einsum("ij,njhw->nihw", rotation, x)
    y = IterNorm(group_size, iterations=10).layer(group_size).double().train()(x)
    covariance = y.transpose(0, 1).flatten(1).cov(correction=0)
    assert (covariance - torch.eye(group_size)).abs().max() < 0.05


# ----------------------------------------------------------------------------------------------- the documents' facts


@pytest.mark.parametrize(("name", "shape"), cases(*SMALL))
def test_one_samples_result_depends_on_the_batch_only_where_statistics_are_over_it(name, shape):
    x, other = 2 * randn(*shape) + 1, 3 * randn(*shape, seed=1)
    layer = trained(FORMULAS[name][0])
    before, after = (deepcopy(layer)(batch)[0] for batch in (x, torch.cat([x[:1], other[1:]])))
    if name in BATCH:
        assert (before - after).abs().max() > 1e-2
    else:
        close(before, after, 1e-13)


def through_weights(norm, shape, scale):
    """y = norm(scale W u) and the gradients of a fixed function of it: to u, and to scale W."""
    layer, conv = trained(norm), len(shape) == 4
    u = randn(12, 3, *([5, 4] if conv else [])).requires_grad_()
    weight = (scale * randn(8, 3, *([3, 3] if conv else []), seed=2)).requires_grad_()
    y = layer(F.conv2d(u, weight) if conv else u @ weight.T)
    (y * randn(*y.shape, seed=3)).sum().backward()
    return y, u.grad, weight.grad


BY_EPS = {
    "bn": BatchNorm, "brn": BatchRenorm, "ln": LayerNorm, "gn": partial(GroupNorm, 2), "in": InstanceNorm,
    "rms": RMSNorm, "frn": FilterResponseNorm, "sn": SwitchableNorm, "iternorm4": partial(IterNorm, 4),
}  # fmt: skip


@pytest.mark.parametrize("a", [0.1, 7.0])
@pytest.mark.parametrize(("name", "shape"), cases(*SMALL, names=BY_EPS))
def test_the_scale_of_the_weights_before_a_norm_changes_nothing(name, shape, a):
    """With eps scaled by a^2: norm(aWu) = norm(Wu), the same gradient to u, and 1/a of the gradient to the weights."""
    one, scaled = (through_weights(BY_EPS[name](eps=1e-2 * s**2), shape, s) for s in (1.0, a))
    close(scaled[0], one[0])
    close(scaled[1], one[1], 1e-9)
    close(scaled[2] * a, one[2], 1e-9)
    assert one[1].abs().max() > 1e-2
    assert one[2].abs().max() > 1e-2


@pytest.mark.parametrize("norm", [NoNorm(), DynamicTanh(), BatchRenorm(ramp_steps=0)], ids=["none", "dyt", "brn"])
@pytest.mark.parametrize("shape", SMALL, ids=["NC", "NCHW"])
def test_the_scale_of_the_weights_matters_without_statistics_and_to_brn_after_its_ramp(norm, shape):
    one, scaled = (through_weights(norm, shape, s)[0] for s in (1.0, 0.1))
    assert (one - scaled).abs().max() > 0.1


@pytest.mark.parametrize(("name", "groups"), [("ln", 1), ("rms", 1), ("gn", 2), ("in", 8), ("bn", 8), ("brn", 8)])
def test_one_sample_can_be_given_back(name, groups):
    """With weight = sqrt(var + eps) and bias = mean of its channel's group; rms: the mean square instead, no bias."""
    x, layer = 3 * randn(1, 8, 3, 2) + 2, FORMULAS[name][0].layer(8).double().train()
    values = x.reshape(groups, -1)
    mean = torch.zeros(groups).double() if name == "rms" else values.mean(1)
    with torch.no_grad():
        layer.weight.copy_((((values - mean[:, None]) ** 2).mean(1) + 0.1).sqrt().repeat_interleave(8 // groups))
        if name != "rms":
            layer.bias.copy_(mean.repeat_interleave(8 // groups))
    close(layer(x), x)


@pytest.mark.parametrize(("name", "shape"), cases(*SMALL))
def test_a_bias_before_a_norm_learns_nothing_where_it_is_redundant(name, shape):
    """brn too, after its ramp: there the bias does move d, but d is outside the gradient."""
    norm = FORMULAS[name][0]
    layer, bias = trained(norm), torch.zeros(8).double().requires_grad_()
    for seed in range(6):
        y = layer(2 * randn(*shape, seed=seed) + 1 + channels(bias, torch.empty(shape)))
    (y * randn(*shape, seed=9)).sum().backward()
    assert norm.bias_is_redundant == (name in {"bn", "in", "brn", "iternorm1", "iternorm4"})
    assert bias.grad.abs().max() < 1e-10 if norm.bias_is_redundant else bias.grad.abs().max() > 1e-2


# -------------------------------------------------------------------------------------------- weights in another form


def weighted(kind, norm, dtype=torch.float64, size=1):
    """A Linear or Conv2d layer whose weight, not near mean 0, the norm expresses another way."""
    layer = (nn.Linear(6 * size, 4) if kind == "linear" else nn.Conv2d(3 * size, 4, 2)).double()
    with torch.no_grad():
        layer.weight.copy_(2 * randn(*layer.weight.shape, seed=4) + 1)
    return norm.reparametrize(layer.to(dtype))


def raw(layer):
    """The parameter that carries the direction of the weight, and the length's, if there is one."""
    weight = layer.parametrizations.weight
    return (weight.original1, weight.original0) if hasattr(weight, "original1") else (weight.original, None)


both_kinds = pytest.mark.parametrize("kind", ["linear", "conv"])
both_norms = pytest.mark.parametrize("norm", [WeightNorm(), WeightStandardization()], ids=["wn", "ws"])


@both_kinds
@both_norms
def test_gradient_through_a_reparametrized_weight_is_the_derivative(kind, norm):
    layer = weighted(kind, norm)
    names, values = zip(*layer.named_parameters(), strict=True)
    assert len(names) == (3 if isinstance(norm, WeightNorm) else 2)
    x = randn(3, 6).requires_grad_() if kind == "linear" else randn(2, 3, 3, 2).requires_grad_()

    def call(x, *values):
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *values))


@both_kinds
def test_wn_gradients_are_the_papers(kind):
    """grad g = grad w . v / ||v||; grad v = g / ||v|| grad w - g grad g / ||v||^2 v (eq. 3)."""
    layer = weighted(kind, WeightNorm())
    v, g = raw(layer)
    with torch.no_grad():
        g.mul_(1.5)
    to_w = randn(*v.shape, seed=6)
    (layer.weight * to_w).sum().backward()
    unit = (-1, *[1] * (v.dim() - 1))
    length = (v.flatten(1) ** 2).sum(1).sqrt().reshape(unit)
    to_g = (to_w * v).flatten(1).sum(1).reshape(unit) / length
    close(g.grad, to_g)
    close(v.grad, g / length * to_w - g * to_g / length**2 * v)


@both_kinds
@pytest.mark.parametrize("name", ["wn", "ws"])
def test_scale_of_the_raw_weight_changes_nothing(kind, name):
    """Its gradient is divided by the scale; for ws with eps scaled, and a shift of a unit changes nothing either."""
    results = []
    for a in (1.0, 7.0):
        layer = weighted(kind, WeightNorm() if name == "wn" else WeightStandardization(eps=0.01 * a**2))
        with torch.no_grad():
            raw(layer)[0].mul_(a).add_(0 if name == "wn" else a - 1)
        (layer.weight * randn(*layer.weight.shape, seed=6)).sum().backward()
        results.append((layer.weight, raw(layer)[0].grad * a))
    for scaled, one in zip(*results, strict=True):
        close(scaled, one)


@both_kinds
@both_norms
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_weights_are_rounded_once(kind, norm, dtype):
    layer = weighted(kind, norm, dtype, size=600)
    v, g = (None if t is None else t.detach().double().flatten(1) for t in raw(layer))
    if g is None:
        expected = (v - v.mean(1, keepdim=True)) / (v.var(1, correction=0, keepdim=True) + 1e-8).sqrt()
    else:
        expected = g * v / (v**2).sum(1, keepdim=True).sqrt()
    assert layer.weight.dtype is dtype
    error = (layer.weight.double().flatten(1) - expected).abs()
    assert (error <= TOLERANCE[dtype] * expected.abs() + 1e-5).all()


def test_wn_is_length_times_direction():
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
    network = assembly.make(config, preprocess, images, 10)
    plain = assembly.make(compose("norm=none", *arguments), preprocess, images, 10)
    torch.testing.assert_close(network(preprocess(images)), plain(preprocess(images)), rtol=1e-4, atol=1e-5)
    seen = []
    assembly.normalization(config.norm).start(network, preprocess(images))
    for layer in network.modules():
        if nn.utils.parametrize.is_parametrized(layer, "weight"):
            layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.detach()))
    network(preprocess(images))
    assert len(seen) == 2
    for output in seen:
        mean, var = moments(output.double(), over_batch(output))
        close(mean, torch.zeros_like(mean), 1e-4)
        close(var, torch.ones_like(var), 1e-3)


@both_kinds
def test_wn_starts_from_float32_statistics_under_autocast(kind):
    layer = weighted(kind, WeightNorm(), torch.float32)
    g, b = raw(layer)[1].detach().clone().double(), layer.bias.detach().clone().double()
    x = randn(4096, 6).float() if kind == "linear" else randn(300, 3, 5, 4).float()
    with torch.autocast("cpu", torch.bfloat16):
        z = layer(x).detach()
        WeightNorm().start(layer, x)
    assert z.dtype is torch.bfloat16
    mean, var = (t.flatten() for t in moments(z.double(), over_batch(z)))
    close(raw(layer)[1].double(), g / var.sqrt().reshape(g.shape), 1e-5)
    close(layer.bias.double(), (b - mean) / var.sqrt(), 1e-5)


def test_wn_without_data_init_starts_as_it_was(compose):
    config = compose("norm=wn", "norm.data_init=false")
    preprocess = build.part("preprocess", config.preprocess)
    images = torch.ones(4, 1, 28, 28, dtype=torch.uint8)
    network = assembly.make(config, preprocess, images, 10)
    before = network(preprocess(images))
    assembly.normalization(config.norm).start(network, preprocess(images))
    assert torch.equal(network(preprocess(images)), before)


def test_ws_standardizes_each_units_weight():
    for layer in (nn.Linear(6, 4).double(), nn.Conv2d(3, 4, 2).double()):
        v = layer.weight.detach().clone()
        WeightStandardization(eps=0.01).reparametrize(layer)
        for unit, weight in zip(v, layer.weight, strict=True):
            mean = unit.sum() / unit.numel()
            var = ((unit - mean) ** 2).sum() / unit.numel()
            close(weight, (unit - mean) / (var + 0.01).sqrt())


@pytest.mark.parametrize("model", ["mlp", "lenet"])
def test_ws_in_a_model_standardizes_the_weight_and_then_the_activations_in_groups(compose, model):
    config = compose("norm=ws", "norm.num_groups=2", f"model={model}")
    preprocess = build.part("preprocess", config.preprocess)
    images = (randn(4, 1, 28, 28).abs() * 100).clamp(max=255).to(torch.uint8)
    network = assembly.make(config, preprocess, images, 10)
    x, block = preprocess(images), network.conv1 if model == "lenet" else network.blocks[0]
    x = x if model == "lenet" else x.flatten(1)
    seen = []
    block.norm.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.detach().double()))
    block(x)
    mean, var = moments(block[0].weight.detach().double().flatten(1), 1)
    close(mean, torch.zeros_like(mean), 1e-6)
    close(var, torch.ones_like(var), 1e-4)
    v = raw(block[0])[0].detach().double()
    mean, var = moments(v, tuple(range(1, v.dim())))
    w, b = (v - mean) / (var + 1e-8).sqrt(), block[0].bias.detach().double()
    z = F.conv2d(x.double(), w, b) if model == "lenet" else x.double() @ w.T + b
    close(seen[0], grouped(z, 2, 1e-5), 1e-4)


def test_ws_normalizes_activations_in_groups_or_not_at_all():
    assert isinstance(WeightStandardization(num_groups=0).layer(8), nn.Identity)
    with pytest.raises(Impossible, match=r"num_groups=8 must divide the 6 channels of a layer; try norm\.num_groups=2"):
        WeightStandardization(num_groups=8).layer(6)


@pytest.mark.parametrize("name", ["wn", "ws"])
def test_arms_with_reparametrized_weights_start_from_the_same_weights(compose, name):
    preprocess = build.part("preprocess", compose().preprocess)
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    other = assembly.make(compose(f"norm={name}", "seed=3"), preprocess, images, 10)
    plain = assembly.make(compose("norm=none", "seed=3"), preprocess, images, 10)
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
