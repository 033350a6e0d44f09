"""Optimizers, built as a run builds them: fused, and step by step what their papers say."""

import inspect
import io

import numpy as np
import pytest
import torch
from torch import nn

from normbench import build
from normbench.config import ConfigError

CURVATURE, MINIMUM, START = np.array([1.0, 3.0, 0.2]), np.array([1.0, -2.0, 0.5]), np.array([4.0, 1.0, -3.0])


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
        return torch.cat([self.a, self.b]).detach().numpy().copy()


def gradient(x):
    return CURVATURE * (x - MINIMUM)


def descend(bowl, optimizer, steps):
    """The places after each step."""
    places = []
    for _ in range(steps):
        optimizer.zero_grad()
        bowl().backward()
        optimizer.step()
        places.append(bowl.x)
    return np.array(places)


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


def adam(x, steps, lr, weight_decay, betas, eps):
    """Kingma & Ba 2015, algorithm 1, with the bias corrections; eps outside the root."""
    m, v = np.zeros(3), np.zeros(3)
    for t in range(1, steps + 1):
        g = gradient(x) + weight_decay * x
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        x = x - lr * m_hat / (np.sqrt(v_hat) + eps)
        yield x


FORMULAS = {"sgd": sgd, "momentum": heavy_ball, "adam": adam}


@pytest.mark.parametrize("changes", [{}, {"lr": 0.05, "weight_decay": 0.3}], ids=["defaults", "weight_decay"])
@pytest.mark.parametrize("name", FORMULAS)
def test_steps_by_hand(compose, name, changes):
    settings = compose(f"optimizer={name}").optimizer | changes
    arguments = {key: value for key, value in settings.items() if key not in ("name", "_target_")}
    expected = np.array(list(FORMULAS[name](START, 3, **arguments)))
    bowl = Bowl()
    np.testing.assert_allclose(descend(bowl, build.optimizer(settings, bowl), 3), expected, rtol=1e-12)


@pytest.mark.parametrize("changes", [{"betas": [0.5, 0.8]}, {"eps": 0.1}], ids=str)
def test_adam_takes_its_settings(compose, changes):
    settings = compose("optimizer=adam").optimizer | changes
    arguments = {key: value for key, value in settings.items() if key not in ("name", "_target_")}
    bowl = Bowl()
    expected = np.array(list(adam(START, 5, **arguments)))
    np.testing.assert_allclose(descend(bowl, build.optimizer(settings, bowl), 5), expected, rtol=1e-12)


def test_adams_first_step_is_lr_whatever_the_gradient():
    """Bias correction: m_hat / sqrt(v_hat) is the gradient's sign at t = 1."""
    bowl = Bowl()
    optimizer = build.optimizer({"name": "adam", "_target_": "torch.optim.Adam", "lr": 0.01}, bowl)
    np.testing.assert_allclose(descend(bowl, optimizer, 1)[0], START - 0.01 * np.sign(gradient(START)), rtol=1e-8)


# ----------------------------------------------------------------------------------------- the contract, each optimizer


def test_it_goes_down(optimizer_settings):
    bowl = Bowl()
    before = bowl().item()
    optimizer = build.optimizer(optimizer_settings | {"lr": 0.01}, bowl)
    descend(bowl, optimizer, 50)
    assert bowl().item() < before


def test_it_is_fused_where_its_class_can_be(optimizer_settings):
    optimizer = build.optimizer(optimizer_settings, Bowl())
    if "fused" in inspect.signature(type(optimizer)).parameters:
        assert all(group["fused"] is True for group in optimizer.param_groups)
    else:
        assert "fused" not in optimizer.defaults


def test_fused_is_the_same_as_not(optimizer_settings):
    kind = type(build.optimizer(optimizer_settings, Bowl()))
    if "fused" not in inspect.signature(kind).parameters:
        pytest.skip("its class has no fused form")
    fused, plain = Bowl(torch.float32), Bowl(torch.float32)
    settings = {key: value for key, value in optimizer_settings.items() if key not in ("name", "_target_")}
    places = descend(fused, build.optimizer(optimizer_settings, fused), 20)
    np.testing.assert_allclose(
        places, descend(plain, kind(plain.parameters(), **settings, fused=False), 20), rtol=1e-6, atol=1e-6
    )


def test_it_goes_on_bit_by_bit_from_a_saved_state(optimizer_settings):
    bowl = Bowl(torch.float32)
    optimizer = build.optimizer(optimizer_settings, bowl)
    descend(bowl, optimizer, 3)
    file = io.BytesIO()
    torch.save({"model": bowl.state_dict(), "optimizer": optimizer.state_dict()}, file)
    expected = descend(bowl, optimizer, 3)

    file.seek(0)
    content = torch.load(file, weights_only=True)
    other = Bowl(torch.float32)
    other.load_state_dict(content["model"])
    resumed = build.optimizer(optimizer_settings, other)
    resumed.load_state_dict(content["optimizer"])
    assert descend(other, resumed, 3).tobytes() == expected.tobytes()


def test_every_parameter_is_in_it_once(optimizer_settings):
    bowl = Bowl()
    optimizer = build.optimizer(optimizer_settings, bowl)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == 2
    assert {id(p) for p in held} == {id(p) for p in bowl.parameters()}


def test_lr_is_the_configs(optimizer_settings):
    optimizer = build.optimizer(optimizer_settings | {"lr": 0.0123}, Bowl())
    assert {group["lr"] for group in optimizer.param_groups} == {0.0123}


# ------------------------------------------------------------------------------------------------- any class of torch's


def test_a_class_without_a_fused_form_works():
    assert "fused" not in inspect.signature(torch.optim.RAdam).parameters
    bowl = Bowl()
    optimizer = build.optimizer({"name": "radam", "_target_": "torch.optim.RAdam", "lr": 0.1}, bowl)
    before = bowl().item()
    descend(bowl, optimizer, 20)
    assert type(optimizer) is torch.optim.RAdam
    assert bowl().item() < before


def test_fused_false_is_obeyed():
    settings = {"name": "sgd", "_target_": "torch.optim.SGD", "lr": 0.1, "fused": False}
    assert build.optimizer(settings, Bowl()).param_groups[0]["fused"] is False


def test_a_setting_that_the_class_does_not_take_is_refused(compose):
    settings = compose("optimizer=adam").optimizer | {"beta": 0.9}
    with pytest.raises(ConfigError, match=r"unknown key optimizer\.beta; did you mean optimizer\.betas\?"):
        build.optimizer(settings, Bowl())


def test_a_value_that_the_class_refuses_is_told(compose):
    with pytest.raises(ConfigError, match=r"optimizer=adam: .*-1"):
        build.optimizer(compose("optimizer=adam").optimizer | {"lr": -1.0}, Bowl())
