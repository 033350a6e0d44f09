"""Optimizers, built as a run builds them: fused, and step by step what their papers say."""

import inspect
import io
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from normbench import build, run
from normbench.config import ConfigError
from normbench.norm import Impossible
from normbench.optimizer import matrices, norms_and_biases
from normbench.optimizer.lion import Lion
from normbench.optimizer.muon import Muon

CURVATURE, MINIMUM, START = np.array([1.0, 3.0, 0.2]), np.array([1.0, -2.0, 0.5]), np.array([4.0, 1.0, -3.0])
OURS = ("name", "_target_", "tune", "decay_norm_and_bias")


class Bowl(nn.Module):
    """sum of curvature (x - minimum)^2 / 2, over two parameters."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(START[:2], dtype=dtype))
        self.b = nn.Parameter(torch.tensor(START[2:], dtype=dtype))

    def forward(self):
        x = torch.cat([self.a, self.b])
        curvature, minimum = (torch.tensor(array, dtype=x.dtype) for array in (CURVATURE, MINIMUM))
        return (curvature * (x - minimum) ** 2).sum() / 2

    @property
    def x(self):
        return torch.cat([p.detach().flatten() for p in self.parameters()]).numpy().copy()


class Net(nn.Module):
    """A network with a hidden layer: something for every optimizer."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.hidden, self.norm = nn.Linear(4, 6, dtype=dtype), nn.BatchNorm1d(6, dtype=dtype)
            self.head = nn.Linear(6, 2, dtype=dtype)
            self.data = torch.randn(16, 4, dtype=dtype)

    def forward(self):
        return (self.head(self.norm(self.hidden(self.data)).tanh()) - 1).square().mean()

    x = Bowl.x


def gradient(x):
    return CURVATURE * (x - MINIMUM)


def descend(model, optimizer, steps):
    """The places after each step."""
    places = []
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = None
        model().backward()
        optimizer.step()
        places.append(model.x)
    return np.array(places)


def made(settings, model):
    return build.optimizer(settings, model, getattr(model, "head", None))


# ------------------------------------------------------------------------------------ the formulas, written out by hand


def sgd(x, steps, lr, weight_decay):
    for _ in range(steps):
        x = x - lr * (gradient(x) + weight_decay * x)
        yield x


def heavy_ball(x, steps, lr, weight_decay, momentum):
    """v = momentum v + g, x = x - lr v; v begins as the first gradient."""
    v = np.zeros(3)
    for _ in range(steps):
        v = momentum * v + gradient(x) + weight_decay * x
        x = x - lr * v
        yield x


def nesterov(x, steps, lr, weight_decay, momentum, nesterov):
    """Heavy ball, but the step is that of g + momentum v: Sutskever et al. 2013 in the variable that looks ahead."""
    assert nesterov
    v = np.zeros(3)
    for _ in range(steps):
        g = gradient(x) + weight_decay * x
        v = momentum * v + g
        x = x - lr * (g + momentum * v)
        yield x


def adagrad(x, steps, lr, weight_decay, lr_decay, initial_accumulator_value, eps):
    s = np.full(3, initial_accumulator_value)
    for t in range(steps):
        g = gradient(x) + weight_decay * x
        s = s + g**2
        x = x - lr / (1 + t * lr_decay) * g / (np.sqrt(s) + eps)
        yield x


def rmsprop(x, steps, lr, weight_decay, alpha, eps, momentum, centered):
    s, mean, v = np.zeros(3), np.zeros(3), np.zeros(3)
    for _ in range(steps):
        g = gradient(x) + weight_decay * x
        s = alpha * s + (1 - alpha) * g**2
        mean = alpha * mean + (1 - alpha) * g
        v = momentum * v + g / (np.sqrt(s - centered * mean**2) + eps)
        x = x - lr * v
        yield x


def adadelta(x, steps, lr, weight_decay, rho, eps):
    """Zeiler 2012, algorithm 1: eps inside both roots."""
    s, a = np.zeros(3), np.zeros(3)
    for _ in range(steps):
        g = gradient(x) + weight_decay * x
        s = rho * s + (1 - rho) * g**2
        d = np.sqrt(a + eps) / np.sqrt(s + eps) * g
        a = rho * a + (1 - rho) * d**2
        x = x - lr * d
        yield x


def adam(x, steps, lr, weight_decay, betas, eps, decoupled=0.0):
    """Kingma & Ba 2015, algorithm 1, with the bias corrections; eps outside the root."""
    m, v = np.zeros(3), np.zeros(3)
    for t in range(1, steps + 1):
        g = gradient(x) + weight_decay * x
        x = x - lr * decoupled * x
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        x = x - lr * m_hat / (np.sqrt(v_hat) + eps)
        yield x


def adamw(x, steps, weight_decay, **settings):
    """Loshchilov & Hutter 2019, algorithm 2: the decay never meets the moments."""
    return adam(x, steps, weight_decay=0.0, decoupled=weight_decay, **settings)


def nadam(x, steps, lr, weight_decay, betas, eps, momentum_decay):
    """Dozat 2016, with the momentum's own schedule."""
    m, v, product = np.zeros(3), np.zeros(3), 1.0
    for t in range(1, steps + 1):
        now, following = (betas[0] * (1 - 0.5 * 0.96 ** (k * momentum_decay)) for k in (t, t + 1))
        product *= now
        g = gradient(x) + weight_decay * x
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat = following * m / (1 - product * following) + (1 - now) * g / (1 - product)
        x = x - lr * m_hat / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        yield x


def radam(x, steps, lr, weight_decay, betas, eps):
    """Liu et al. 2020, algorithm 2: no second moment until its variance is tractable, from step 6 on."""
    m, v = np.zeros(3), np.zeros(3)
    longest = 2 / (1 - betas[1]) - 1
    for t in range(1, steps + 1):
        g = gradient(x) + weight_decay * x
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        length = longest - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
        step = m / (1 - betas[0] ** t)
        if length > 5:
            r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            step = step * np.sqrt(r) * np.sqrt(1 - betas[1] ** t) / (np.sqrt(v) + eps)
        x = x - lr * step
        yield x


def adamax(x, steps, lr, weight_decay, betas, eps):
    """Kingma & Ba 2015, algorithm 2; torch adds eps to the gradient's size."""
    m, u = np.zeros(3), np.zeros(3)
    for t in range(1, steps + 1):
        g = gradient(x) + weight_decay * x
        m = betas[0] * m + (1 - betas[0]) * g
        u = np.maximum(betas[1] * u, np.abs(g) + eps)
        x = x - lr / (1 - betas[0] ** t) * m / u
        yield x


def lion(x, steps, lr, weight_decay, betas):
    """Chen et al. 2023, algorithm 2."""
    m = np.zeros(3)
    for _ in range(steps):
        g = gradient(x)
        x = x - lr * (np.sign(betas[0] * m + (1 - betas[0]) * g) + weight_decay * x)
        m = betas[1] * m + (1 - betas[1]) * g
        yield x


FORMULAS = {
    "sgd": sgd, "momentum": heavy_ball, "nesterov": nesterov, "adagrad": adagrad, "rmsprop": rmsprop,
    "adadelta": adadelta, "adam": adam, "adamw": adamw, "nadam": nadam, "radam": radam, "adamax": adamax, "lion": lion,
}  # fmt: skip
BY_MATRIX = {"muon"}
ROUNDING = {"nadam": 1e-8}  # torch keeps its product of momenta in float32


def test_every_optimizer_is_written_out(optimizer_settings):
    assert optimizer_settings["name"] in FORMULAS.keys() | BY_MATRIX


@pytest.mark.parametrize("changes", [{}, {"lr": 0.05, "weight_decay": 0.3}], ids=["defaults", "weight_decay"])
@pytest.mark.parametrize("name", FORMULAS)
def test_steps_by_hand(compose, name, changes):
    settings = compose(f"optimizer={name}").optimizer | changes
    arguments = {key: value for key, value in settings.items() if key not in OURS}
    expected = np.array(list(FORMULAS[name](START, 8, **arguments)))
    bowl = Bowl()
    np.testing.assert_allclose(descend(bowl, made(settings, bowl), 8), expected, rtol=ROUNDING.get(name, 1e-11))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("adam", {"betas": [0.5, 0.8]}), ("adam", {"eps": 0.1}), ("adamax", {"betas": [0.3, 0.7]}),
        ("rmsprop", {"momentum": 0.5, "centered": True, "alpha": 0.8}), ("adagrad", {"lr_decay": 0.2}),
        ("adagrad", {"initial_accumulator_value": 3.0}), ("adadelta", {"rho": 0.5, "eps": 0.1}),
        ("nadam", {"momentum_decay": 0.5}), ("radam", {"betas": [0.5, 0.6]}), ("lion", {"betas": [0.2, 0.7]}),
        ("nesterov", {"momentum": 0.3}),
    ],
    ids=str,
)  # fmt: skip
def test_settings_are_taken(compose, name, changes):
    settings = compose(f"optimizer={name}").optimizer | changes
    arguments = {key: value for key, value in settings.items() if key not in OURS}
    bowl = Bowl()
    expected = np.array(list(FORMULAS[name](START, 8, **arguments)))
    np.testing.assert_allclose(descend(bowl, made(settings, bowl), 8), expected, rtol=ROUNDING.get(name, 1e-11))


def test_adams_first_step_is_lr_whatever_the_gradient():
    """Bias correction: m_hat / sqrt(v_hat) is the gradient's sign at t = 1."""
    bowl = Bowl()
    optimizer = build.optimizer({"name": "adam", "_target_": "torch.optim.Adam", "lr": 0.01}, bowl)
    np.testing.assert_allclose(descend(bowl, optimizer, 1)[0], START - 0.01 * np.sign(gradient(START)), rtol=1e-8)


# ---------------------------------------------------------------------------------------------------------------- lion


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"betas": [0.9, 1.0]}, r"betas must be two numbers in \[0, 1\)"),
        ({"betas": [0.9]}, "betas must be two numbers"),
        ({"weight_decay": -1.0}, "weight_decay must be a number >= 0"),
        ({"lr": -1.0}, "lr must be a number >= 0"),
    ],
    ids=str,
)
def test_lion_refuses(compose, changes, words):
    with pytest.raises(ConfigError, match=f"optimizer=lion: {words}"):
        made(compose("optimizer=lion").optimizer | changes, Bowl())


def test_lion_runs_a_closure_and_skips_what_has_no_gradient():
    bowl = Bowl()
    optimizer = Lion([*bowl.parameters(), nn.Parameter(torch.ones(2))], lr=0.5)

    def closure():
        loss = bowl()
        loss.backward()
        return loss

    before = bowl().item()
    assert optimizer.step(closure).item() == before
    np.testing.assert_allclose(bowl.x, START - 0.5 * np.sign(gradient(START)))


# ----------------------------------------------------------------------------------------------------------------- muon


def newton_schulz(matrix, steps):
    """Jordan et al. 2024, in float64: X = a X + (b A + c A A) X with A = X X^T, from X = B / ||B||."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (3, 2, 2, 2)], ids=str)
def test_muon_by_hand(shape, nesterov):
    """Two steps of a matrix, within the rounding of bfloat16."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    optimizer = Muon([weight], [weight], lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.5)
    expected = weight.detach().numpy().reshape(len(weight), -1).copy()
    rows, columns = expected.shape
    buffer = np.zeros_like(expected)
    for _ in range(2):
        weight.grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        g = weight.grad.numpy().reshape(rows, columns)
        optimizer.step()
        # torch's buffer is the mean 0.9 B + 0.1 g: the same direction, and O does not depend on its size
        buffer = 0.9 * buffer + 0.1 * g
        direction = 0.1 * g + 0.9 * buffer if nesterov else buffer
        step = newton_schulz(direction, 5) if rows <= columns else newton_schulz(direction.T, 5).T
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * math.sqrt(max(1, rows / columns)) * step
    np.testing.assert_allclose(weight.detach().numpy().reshape(rows, columns), expected, atol=0.1 * 0.05)


def test_muon_minds_no_order_in_memory():
    generator = torch.Generator().manual_seed(0)
    value, gradient = (torch.randn(4, 3, 2, 2, generator=generator) for _ in range(2))
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(value.clone().to(memory_format=layout))
        weight.grad = gradient.clone().to(memory_format=layout)
        Muon([weight], [weight], lr=0.1).step()
        found.append(weight.detach())
    assert not torch.equal(found[0], value)
    torch.testing.assert_close(*found, rtol=0, atol=0.1 * 0.02)


def test_muons_step_has_singular_values_near_1():
    weight = nn.Parameter(torch.zeros(16, 16))
    weight.grad = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    Muon([weight], [weight], lr=1.0).step()
    singular = torch.linalg.svdvals(weight.detach())
    assert singular.max() < 1.3
    assert singular[:-2].min() > 0.5  # the smallest of a square Gaussian matrix needs more iterations


def test_muon_gives_the_rest_to_adamw():
    model, plain = Net(), Net()
    groups = [{"params": list(model.parameters())}]
    optimizer = Muon(groups, [model.hidden.weight], adamw_lr=0.01, weight_decay=0.2)
    adamw = torch.optim.AdamW(plain.parameters(), lr=0.01, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.2, fused=True)
    descend(model, optimizer, 1)
    descend(plain, adamw, 1)
    for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q) is (name != "hidden.weight"), name


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"ns_steps": 0}, "ns_steps must be"), ({"adamw_lr": 0.0}, "adamw_lr must be"), ({"adjust_lr_fn": "x"}, "Adjust")],
    ids=str,
)
def test_muon_refuses(compose, changes, words):
    with pytest.raises(ConfigError, match=f"optimizer=muon: {words}"):
        made(compose("optimizer=muon").optimizer | changes, Net())


def test_muon_needs_a_matrix(compose):
    with pytest.raises(Impossible, match=r"muon needs the weight of a hidden layer.*try optimizer=adamw"):
        made(compose("optimizer=muon").optimizer, Bowl())


# ------------------------------------------------------------------------------------------------ what a parameter is


class Drops(torch.optim.SGD):
    """Takes everything, and passes on the lr alone."""

    def __init__(self, params, lr=0.1, **kwargs):
        super().__init__(params, lr=lr)


class Zoo(nn.Module):
    """One of each kind of layer; the head is the last."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.wn = parametrizations.weight_norm(nn.Linear(4, 1))
        self.lstm = nn.LSTM(3, 5)
        self.attention = nn.MultiheadAttention(4, 2)
        self.layer_norm = nn.LayerNorm((4, 3, 3))
        self.batch_norm = nn.BatchNorm2d(4)
        self.own = nn.ParameterDict({"table": torch.ones(3, 2), "gain": torch.ones(3)})
        self.head = nn.Linear(5, 2)


def names(model, parameters):
    ids = {id(p) for p in parameters}
    return {name for name, p in model.named_parameters() if id(p) in ids}


def test_matrices_are_the_weights_of_hidden_layers():
    zoo = Zoo()
    assert names(zoo, matrices(zoo, zoo.head)) == {
        "conv.weight", "wn.parametrizations.weight.original1", "lstm.weight_ih_l0", "lstm.weight_hh_l0",
        "attention.in_proj_weight", "attention.out_proj.weight",
    }  # fmt: skip
    assert "head.weight" in names(zoo, matrices(zoo, None))


def test_norms_and_biases_are_classed_by_their_owner():
    """layer_norm's weight has three dimensions, and weight normalization's g two."""
    zoo = Zoo()
    spared = names(zoo, norms_and_biases(zoo))
    decayed = {name for name, _ in zoo.named_parameters()} - spared
    assert decayed == names(zoo, matrices(zoo, None)) | {"own.table"}
    assert {"layer_norm.weight", "wn.parametrizations.weight.original0", "wn.bias", "own.gain"} <= spared


def test_a_layer_of_the_norms_own_is_spared_whatever_its_shape():
    zoo = Zoo()
    assert "own.table" in names(zoo, norms_and_biases(zoo, [zoo.own]))


@pytest.mark.parametrize("norm", ["bn", "wn", "frn", "sn", "ws"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_decay_norm_and_bias_false_leaves_them_alone(compose, optimizer, norm):
    """With gradients of zero, a step moves what is decayed and nothing else."""
    changes = ["optimizer.weight_decay=0.5", "optimizer.decay_norm_and_bias=false", "optimizer.lr=0.1"]
    common = ("model=lenet", f"norm={norm}", "norm.num_groups=2") if norm == "ws" else ("model=lenet", f"norm={norm}")
    built = build.build(
        compose("dataset=synthetic", "dataset.image_size=28", f"optimizer={optimizer}", *common, *changes)
    )
    before = {name: p.detach().clone() for name, p in built.model.named_parameters()}
    for parameter in built.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.optimizer.step()
    moved = {name for name, p in built.model.named_parameters() if not torch.equal(p, before[name])}
    layers = ("conv.weight", "linear.weight", "head.weight", "original1", "weight.original")
    expected = {name for name, p in built.model.named_parameters() if name.endswith(layers) and p.dim() > 1}
    assert len(expected) == 5
    assert moved == expected


def test_decay_norm_and_bias_true_decays_all(compose):
    built = build.build(compose("dataset=synthetic", "optimizer=adamw", "optimizer.weight_decay=0.5"))
    before = [p.detach().clone() for p in built.model.parameters()]
    for parameter in built.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.optimizer.step()
    for p, q in zip(built.model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), q * (1 - 1e-3 * 0.5))


def test_decay_norm_and_bias_without_weight_decay_is_refused():
    settings = {"name": "sgd", "_target_": "torch.optim.SGD", "lr": 0.1, "decay_norm_and_bias": False}
    with pytest.raises(ConfigError, match=r"needs optimizer\.weight_decay"):
        made(settings, Bowl())


# ----------------------------------------------------------------------------------------- the contract, each optimizer


def test_the_loss_goes_down_at_the_default_lr(compose, optimizer_settings):
    built = build.build(compose(f"optimizer={optimizer_settings['name']}"))
    losses = []
    for x, y in built.batches(range(100)):
        for parameter in built.model.parameters():
            parameter.grad = None
        loss = built.loss_fn(built.model(x), y)
        loss.backward()
        built.optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_it_is_fused_where_its_class_can_be(optimizer_settings):
    optimizer = made(optimizer_settings, Net())
    if "fused" in inspect.signature(type(optimizer)).parameters:
        assert all(group["fused"] is True for group in optimizer.param_groups)
    else:
        assert "fused" not in getattr(optimizer, "defaults", {})


def test_fused_is_the_same_as_not(optimizer_settings):
    kind = type(made(optimizer_settings, Net()))
    if "fused" not in inspect.signature(kind).parameters:
        pytest.skip("its class has no fused form")
    fused, plain = Bowl(torch.float32), Bowl(torch.float32)
    settings = {key: value for key, value in optimizer_settings.items() if key not in OURS}
    places = descend(fused, made(optimizer_settings, fused), 20)
    np.testing.assert_allclose(
        places, descend(plain, kind(plain.parameters(), **settings, fused=False), 20), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("decay", [True, False])
def test_it_goes_on_bit_by_bit_from_a_saved_state(optimizer_settings, decay):
    settings = optimizer_settings | {"decay_norm_and_bias": decay, "weight_decay": 0.1}
    net = Net()
    optimizer = made(settings, net)
    descend(net, optimizer, 3)
    file = io.BytesIO()
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    expected = descend(net, optimizer, 3)

    file.seek(0)
    content = torch.load(file, weights_only=True)
    other = Net()
    other.load_state_dict(content["model"])
    resumed = made(settings, other)
    resumed.load_state_dict(content["optimizer"])
    assert descend(other, resumed, 3).tobytes() == expected.tobytes()


@pytest.mark.parametrize("decay", [True, False])
def test_every_parameter_is_in_it_once(optimizer_settings, decay):
    net = Net()
    optimizer = made(optimizer_settings | {"decay_norm_and_bias": decay}, net)
    held = [p.data_ptr() for group in optimizer.param_groups for p in group["params"]]  # muon holds views
    assert len(held) == len(set(held))
    assert set(held) == {p.data_ptr() for p in net.parameters()}


def test_lr_is_the_configs(optimizer_settings):
    optimizer = made(optimizer_settings | {"lr": 0.0123}, Net())
    assert optimizer.param_groups[0]["lr"] == 0.0123


# ------------------------------------------------------------------------------- any class of torch's or of a package's


def test_a_class_without_a_fused_form_works():
    assert "fused" not in inspect.signature(torch.optim.Rprop).parameters
    bowl = Bowl()
    optimizer = build.optimizer({"name": "rprop", "_target_": "torch.optim.Rprop", "lr": 0.1}, bowl)
    before = bowl().item()
    descend(bowl, optimizer, 20)
    assert type(optimizer) is torch.optim.Rprop
    assert bowl().item() < before


def test_fused_false_is_obeyed():
    settings = {"name": "sgd", "_target_": "torch.optim.SGD", "lr": 0.1, "fused": False}
    assert build.optimizer(settings, Bowl()).param_groups[0]["fused"] is False


def test_a_setting_that_the_class_does_not_take_is_refused(compose):
    settings = compose("optimizer=adam").optimizer | {"beta": 0.9}
    with pytest.raises(ConfigError, match=r"unknown key optimizer\.beta; did you mean optimizer\.betas\?"):
        build.optimizer(settings, Bowl())


def test_a_setting_that_vanishes_in_kwargs_is_refused(compose):
    sgd = {"name": "mine", "_target_": f"{__name__}.Drops", "lr": 0.1}
    assert build.optimizer(sgd | {"weight_decay": 0.0}, Net()).param_groups[0]["weight_decay"] == 0
    for setting in ({"weight_decay": 5.0}, {"momentum": 0.9}, {"foo": 1}):
        with pytest.raises(ConfigError, match=rf"optimizer\.{next(iter(setting))}=.* does nothing with it"):
            build.optimizer(sgd | setting, Net())
    settings = compose("optimizer=adam").optimizer | {"_target_": "pytorch_optimizer.SOAP", "name": "SOAP"}
    assert (
        build.optimizer(settings | {"precondition_frequency": 3}, Net()).param_groups[0]["precondition_frequency"] == 3
    )
    with pytest.raises(ConfigError, match=r"optimizer\.nonsense=1: .*SOAP.* does nothing with it"):
        build.optimizer(settings | {"nonsense": 1}, Net())


def test_a_value_that_the_class_refuses_is_told(compose):
    with pytest.raises(ConfigError, match=r"optimizer=adam: .*-1"):
        build.optimizer(compose("optimizer=adam").optimizer | {"lr": -1.0}, Bowl())


def test_one_that_needs_a_closure_is_refused():
    with pytest.raises(ConfigError, match=r"LBFGS.* calls the loss several times"):
        build.optimizer({"name": "LBFGS", "_target_": "torch.optim.LBFGS", "lr": 1.0}, Bowl())


PACKAGES = {
    "soap": ("optimizer._target_=pytorch_optimizer.SOAP",),
    "free": ("optimizer._target_=schedulefree.AdamWScheduleFree", "schedule=constant", "optimizer.lr=0.0025"),
    "muon": ("optimizer=muon", "optimizer.decay_norm_and_bias=false", "optimizer.weight_decay=0.1"),
    "update": ("optimizer=muon", "clip=update", "clip.max_norm=1"),
}


@pytest.mark.parametrize("every", [None, 5], ids=["once-an-epoch", "every-5-steps"])
@pytest.mark.parametrize("name", PACKAGES)
def test_a_pause_changes_no_bit(compose, tmp_path, name, every):
    """Also not between two evaluations, where a schedule-free optimizer has the weights at its training point."""
    common = ("dataset=synthetic", "epochs=4", f"eval.every_steps={every or 'null'}", "progress=false", *PACKAGES[name])
    whole, parts = (compose(*common, f"out={tmp_path / place}") for place in ("whole", "parts"))
    expected = run.run(whole, announce=lambda _: None).record
    parts.stop_epoch = 2
    assert run.run(parts, announce=lambda _: None).state == "paused"
    parts.stop_epoch = None
    found = run.run(parts, announce=lambda _: None).record
    assert expected["state"] == found["state"] == "complete"
    rows = [(r.folder / "metrics.csv").read_text().splitlines() for r in (whole, parts)]
    without_time = [[[c for i, c in enumerate(row.split(",")) if i != 3] for row in lines] for lines in rows]
    assert without_time[0] == without_time[1]
    assert (found["test_loss"], found["test_acc"]) == (expected["test_loss"], expected["test_acc"])


@pytest.mark.parametrize("stop_epoch", [None, 1])
def test_a_schedule_free_network_is_stored_as_it_was_evaluated(compose, tmp_path, stop_epoch):
    """Its last row's validation loss is that of the weights in the checkpoint, of a paused run, too."""
    import normbench
    from normbench.train import evaluate

    config = compose(
        "dataset=synthetic", "epochs=2", "norm=none", "progress=false", f"out={tmp_path}", *PACKAGES["free"]
    )
    config.stop_epoch = stop_epoch
    outcome = run.run(config, announce=lambda _: None)
    assert outcome.state == ("paused" if stop_epoch else "complete")
    built = build.build(config)
    network = normbench.load(outcome.folder)
    loss, _ = evaluate(network, built.preprocess, built.loss_fn, *built.data.val, batch_size=1000)
    assert loss == outcome.record["val_loss"]
