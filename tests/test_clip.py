"""Clipping rules: the contract for every conf/clip/*.yaml, then each rule's formula."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from normbench import build
from normbench.clip.agc import ClipAGC, of_units
from normbench.clip.layer import ClipLayer
from normbench.clip.none import NoClip
from normbench.clip.norm import ClipNorm
from normbench.clip.update import ClipUpdate
from normbench.clip.value import ClipValue
from normbench.config import ConfigError
from normbench.optimizer.lion import Lion
from normbench.optimizer.muon import Muon

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
    return math.sqrt(sum((g.detach().double().numpy() ** 2).sum() for g in gradients))


def grads(parameters):
    return [p.grad for p in parameters if p.grad is not None]


def bits(gradients):
    return [g.numpy().tobytes() for g in gradients]


@pytest.fixture
def rule(clip_settings):
    return build.part("clip", clip_settings)


def in_order(parameters):
    return [p.detach().clone() for p in parameters]


# ---------------------------------------------------------------------------------------------- the contract, each rule


@pytest.mark.parametrize("scale", [1e-6, 1.0, 100.0])
def test_the_norm_before_clipping_comes_back(rule, scale):
    parameters = parameters_with(*random(scale))
    clipped = rule(parameters)
    assert [value.shape for value in clipped] == [()] * 3
    assert clipped.grad_norm.item() == pytest.approx(norm_of(random(scale)), rel=1e-6)


def test_tiny_gradients_keep_every_bit(rule):
    gradients = random(1e-6)
    parameters = parameters_with(*gradients)
    clipped = rule(parameters)
    assert bits(grads(parameters)) == bits(gradients)
    assert clipped.share == 0


@pytest.mark.parametrize("scale", [1e-6, 0.01, 1.0, 100.0])
def test_a_share_above_0_says_whether_anything_changed(rule, scale):
    """Of the step with sgd at lr 1, where the rule acts after the step: that is the gradient."""
    parameters = parameters_with(*random(scale))
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    before = in_order(parameters)
    clipped = rule(parameters)
    optimizer.step()
    clipped = rule.after_step(optimizer, clipped)
    plain = [p - gradient for p, gradient in zip(before, random(scale), strict=True)]
    assert bool(clipped.share > 0) == (bits(in_order(parameters)) != bits(plain))
    assert 0 <= clipped.share <= 1


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
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    clipped = rule(parameters)
    assert all((g == 0).all() for g in grads(parameters))
    optimizer.step()
    assert [value.item() for value in rule.after_step(optimizer, clipped)] == [0, 0, 0]
    assert all((p == 1).all() for p in parameters)


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
    assert not rule(parameters_with(*gradients)).grad_norm.isfinite()


@pytest.mark.parametrize("scale", [1e-6, 100.0])
def test_the_device_is_never_waited_for(rule, scale):
    parameters = parameters_with(*random(scale))
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    with NoSync():
        clipped = rule(parameters)
        optimizer.step()
        rule.after_step(optimizer, clipped)


def test_no_sync_notices():
    with NoSync(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        torch.ones(()).item()


def test_the_parameters_themselves_stay_until_the_step(rule):
    parameters = parameters_with(*random(100.0))
    rule(parameters)
    assert all((p == 1).all() for p in parameters)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_that_is_none_is_refused(clip_settings, bound):
    """Every number of a rule is a bound."""
    for key in clip_settings.keys() - {"name", "_target_"}:
        with pytest.raises(ConfigError, match=rf"{key} must be a number > 0, got {bound}; try clip\.{key}=.*clip=none"):
            build.part("clip", clip_settings | {key: bound})


# ----------------------------------------------------------------------------------------------------------------- none


def test_none_leaves_everything():
    gradients = random(1e4)
    parameters = parameters_with(*gradients)
    norm, size, share = NoClip()(parameters)
    assert bits(grads(parameters)) == bits(gradients)
    assert share == 0
    assert size == norm


# ----------------------------------------------------------------------------------------------------------------- norm


@pytest.mark.parametrize("bound", [0.1, 1.0, 3.7])
@pytest.mark.parametrize("scale", [10.0, 1e6])
def test_norm_scales_to_the_bound(bound, scale):
    gradients = random(scale)
    parameters = parameters_with(*gradients)
    _, size, acted = ClipNorm(bound)(parameters)
    factor = bound / norm_of(gradients)
    assert acted
    assert size.item() == pytest.approx(norm_of(gradients), rel=1e-6)
    assert norm_of(grads(parameters)) == pytest.approx(bound, rel=1e-6)
    for before, after in zip(gradients, grads(parameters), strict=True):  # one factor: the direction stays
        np.testing.assert_allclose(after.double(), before.double() * factor, rtol=1e-6)


def test_norm_takes_all_parameters_together():
    """Three gradients of norm 1 have norm sqrt(3): above 1.5, though each of them is below."""
    parameters = parameters_with(*[torch.tensor([0.6, 0.8])] * 3)
    norm, _, acted = ClipNorm(1.5)(parameters)
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
    norm, _, acted = ClipNorm(bound)(parameters)
    assert norm == 5
    assert bool(acted) is acts
    assert (bits(grads(parameters)) != bits(gradients)) is acts


# ---------------------------------------------------------------------------------------------------------------- value


def test_value_clamps_every_entry():
    gradients = random(1.0)
    assert min(g.min() for g in gradients) < -0.5
    assert max(g.max() for g in gradients) > 0.5
    parameters = parameters_with(*gradients)
    _, size, share = ClipValue(0.5)(parameters)
    entries = np.abs(np.concatenate([g.numpy().ravel() for g in gradients]))
    assert size == entries.max()
    assert share.item() == pytest.approx((entries > 0.5).mean())
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
    _, _, acted = ClipValue(0.5)(parameters)
    assert bool(acted) is acts
    assert (bits(grads(parameters)) != bits(gradients)) is acts


# ---------------------------------------------------------------------------------------------------------------- layer


def test_layer_takes_each_tensor_on_its_own():
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([[0.6], [0.8]]), torch.tensor([0.3])]
    parameters = parameters_with(*gradients)
    norm, size, share = ClipLayer(1.0)(parameters)
    assert norm.item() == pytest.approx(math.sqrt(25 + 1 + 0.09))
    assert size == 5
    assert share.item() == pytest.approx(1 / 3)  # ||(0.6, 0.8)|| = 1 is at the bound, not above it
    assert grads(parameters)[0].tolist() == pytest.approx([0.6, 0.8])
    assert bits(grads(parameters)[1:]) == bits(gradients[1:])


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_layer_scales_each_to_the_bound(scale):
    gradients = random(scale)
    parameters = parameters_with(*gradients)
    ClipLayer(0.25)(parameters)
    for before, after in zip(gradients, grads(parameters), strict=True):
        factor = min(1, 0.25 / norm_of([before]))
        np.testing.assert_allclose(after.double(), before.double() * factor, rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------------ agc


def agc_by_hand(weight, gradient, clipping, eps):
    """Eq. 3 of the paper, unit by unit, in float64; the gradient after it and every unit's ratio."""
    w, g = weight.double().numpy(), gradient.double().numpy().copy()
    is_vector = sum(size > 1 for size in g.shape) < 2
    rows = [(w, g)] if is_vector else [(w[i], g[i]) for i in range(len(g))]
    ratios = []
    for w_i, g_i in rows:
        largest = max(np.sqrt((w_i**2).sum()), eps)
        ratios.append(np.sqrt((g_i**2).sum()) / largest)
        if ratios[-1] > clipping:
            g_i *= clipping * largest / np.sqrt((g_i**2).sum())
    return g, ratios


@pytest.mark.parametrize("clipping", [0.01, 0.5, 3.0])
def test_agc_by_its_formula(clipping):
    shapes = [(5, 3), (5,), (4, 3, 2, 2), (6, 1), (1, 7), ()]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    weights[0][2] = 0  # a unit whose weights are zero goes by eps
    gradients = [torch.randn(shape, generator=generator) for shape in shapes]
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    norm, size, share = ClipAGC(clipping, 1e-3)(parameters)
    expected = [agc_by_hand(w, g, clipping, 1e-3) for w, g in zip(weights, gradients, strict=True)]
    for (gradient, _), after in zip(expected, grads(parameters), strict=True):
        np.testing.assert_allclose(after.double(), gradient, rtol=1e-5)
    ratios = np.concatenate([ratio for _, ratio in expected])
    assert len(ratios) == 5 + 1 + 4 + 1 + 1 + 1
    assert norm.item() == pytest.approx(norm_of(gradients), rel=1e-6)
    assert size.item() == pytest.approx(ratios.max(), rel=1e-5)
    assert share.item() == pytest.approx((ratios > clipping).mean())


def test_agc_keeps_every_bit_of_a_unit_at_the_bound():
    weight = nn.Parameter(torch.tensor([[3.0, 4.0], [3.0, 4.0]]))
    weight.grad = torch.tensor([[0.0, 2.5], [0.0, 2.75]])  # ratios 0.5 exactly, 0.55
    _, size, share = ClipAGC(0.5)([weight])
    assert weight.grad.tolist() == [[0.0, 2.5], [0.0, 2.5]]
    assert (size.item(), share.item()) == (pytest.approx(0.55), 0.5)


def test_agc_leaves_the_head_alone():
    body, head = parameters_with(*random(100.0)[:2])
    before = head.grad.clone()
    _, _, share = ClipAGC(0.01, head=[head])([body, head])
    assert share == 1
    assert torch.equal(head.grad, before)
    assert norm_of([body.grad]) < 1
    assert [v.item() for v in ClipAGC(0.01, head=[head])([head])] == [pytest.approx(norm_of([before])), 0, 0]


@pytest.mark.parametrize("model", ["mlp", "lenet", "resnet", "vit", "rnn"])
def test_a_run_tells_agc_the_head(compose, model):
    built = build.build(compose(f"model={model}", "clip=agc", "dataset=synthetic", "dataset.image_size=28"))
    assert built.clip.head == set(built.model.head.parameters())


def test_a_head_by_the_order_of_calls(compose):
    name = "model=torchvision"
    built = build.build(compose(name, "model.name=mobilenet_v3_small", "clip=agc", "dataset=synthetic"))
    assert built.clip.head == set(built.model.classifier[-1].parameters())


def test_units_of_a_vector_are_one():
    shapes = [(5,), (5, 1), (1, 5), (), (5, 2), (4, 3, 2, 2), (1, 3, 2)]
    assert [of_units(torch.ones(shape)).numel() for shape in shapes] == [1, 1, 1, 1, 5, 4, 1]


def test_agc_minds_no_order_in_memory():
    generator = torch.Generator().manual_seed(0)
    weight, gradient = (torch.randn(4, 3, 2, 2, generator=generator) for _ in range(2))
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        parameter = nn.Parameter(weight.clone().to(memory_format=layout))
        parameter.grad = gradient.clone().to(memory_format=layout)
        ClipAGC(0.5)([parameter])
        found.append(parameter.grad)
    torch.testing.assert_close(*found)


# --------------------------------------------------------------------------------------------------------------- update


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


OPTIMIZERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    "adamw": lambda model: torch.optim.AdamW(
        [{"params": list(model[0].parameters()), "lr": 0.01}, {"params": list(model[2].parameters()), "lr": 0.05}]
    ),
    "lion": lambda model: Lion(model.parameters(), lr=0.01),
    "muon": lambda model: Muon(model.parameters(), [model[0].weight], lr=0.02, adamw_lr=0.003),
}


def lr_of(optimizer, parameter):
    """By place in memory: Muon's matrices are views."""
    (lr,) = [g["lr"] for g in optimizer.param_groups for p in g["params"] if p.data_ptr() == parameter.data_ptr()]
    return lr


@pytest.mark.parametrize("bound", [0.3, 1e9])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_scales_the_finished_step(name, bound):
    """Against the same optimizer without it: its direction, with a norm of `bound` after dividing by each lr."""
    model, plain = net(), net()
    optimizer, other = OPTIMIZERS[name](model), OPTIMIZERS[name](plain)
    rule = ClipUpdate(bound)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        plain.load_state_dict(model.state_dict())
        before = in_order(model.parameters())
        for network in (model, plain):
            network.zero_grad()
            network(x).square().sum().backward()
        clipped = rule(list(model.parameters()))
        untouched = [p.grad.clone() for p in plain.parameters()]
        assert bits(grads(model.parameters())) == bits(untouched)
        optimizer.step()
        other.step()
        grad_norm, size, acted = rule.after_step(optimizer, clipped)

        lrs = [lr_of(optimizer, p) for p in model.parameters()]
        steps = [(p - b).double() for p, b in zip(plain.parameters(), before, strict=True)]
        norm = norm_of([step / lr for step, lr in zip(steps, lrs, strict=True)])
        assert grad_norm.item() == pytest.approx(norm_of(untouched), rel=1e-5)
        assert size.item() == pytest.approx(norm, rel=1e-3)
        assert bool(acted) is (norm > bound)
        if norm <= bound:
            assert bits(in_order(model.parameters())) == bits(in_order(plain.parameters()))
            continue
        taken = [(p - b).double() for p, b in zip(model.parameters(), before, strict=True)]
        after = norm_of([(step / lr).detach() for step, lr in zip(taken, lrs, strict=True)])
        assert after == pytest.approx(bound, rel=1e-3)
        again = rule.after_step(optimizer, clipped)  # a second application: rounding only
        assert again.size.item() == pytest.approx(bound, rel=1e-3)
        for step, whole in zip(taken, steps, strict=True):
            np.testing.assert_allclose(step.detach(), whole.detach() * bound / norm, atol=3e-7)
    assert bound < 1e9 or not acted


def test_update_under_sgd_is_the_norm_rule():
    model, plain = net().double(), net().double()
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for network, rule in ((model, ClipUpdate(0.5)), (plain, ClipNorm(0.5))):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        network(x).square().sum().backward()
        clipped = rule(list(network.parameters()))
        optimizer.step()
        clipped = rule.after_step(optimizer, clipped)
        assert clipped.share == 1
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-15)


def test_update_at_a_learning_rate_of_0():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    before = in_order(model.parameters())
    model(torch.ones(2, 6)).sum().backward()
    rule = ClipUpdate(1.0)
    clipped = rule(list(model.parameters()))
    optimizer.step()
    assert [v.item() for v in rule.after_step(optimizer, clipped)][1:] == [0, 0]
    assert bits(in_order(model.parameters())) == bits(before)


@pytest.mark.parametrize("target", ["torch.nn.ReLU", "builtins.len"])
def test_what_is_no_clipping_rule_is_refused(compose, target):
    config = compose("dataset=synthetic")
    config.clip = {"name": "mine", "_target_": target}
    with pytest.raises(ConfigError, match="clip=mine"):
        build.build(config)
