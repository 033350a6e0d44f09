"""A fused optimizer's quick step: the bits of torch's own, whatever happens in between."""

import copy

import pytest
import torch
from torch import nn

from normbench import build, fused

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adam, amsgrad, maximize": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, maximize=True, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.9), eps=1e-3, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1, fused=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1, fused=True),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, fused=True),
}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_adagrads_kernel_is_there_for_the_cpu_alone(device):
    assert fused.exists(torch.optim.Adagrad, device) is (device == "cpu")
    assert fused.exists(torch.optim.AdamW, device)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def groups(model):
    return [{"params": [model[0].weight, model[2].weight]}, {"params": [model[0].bias, model[2].bias], "lr": 0.003}]


def pair(make):
    """The same network and optimizer twice: as torch has it, and with the quick step."""
    plain, ours = network(), network()
    theirs, mine = make(groups(plain)), make(groups(ours))
    fused.quick(mine)
    assert isinstance(mine.step, fused._Step)
    return (plain, theirs), (ours, mine)


def step(model, optimizer, number, skip=None, **settings):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    if skip is not None:
        list(model.parameters())[skip].grad = None
    for group in optimizer.param_groups:
        group |= settings
    optimizer.step()


def assert_same(one, other):
    (plain, theirs), (ours, mine) = one, other
    assert all(map(torch.equal, plain.parameters(), ours.parameters()))
    before, now = theirs.state_dict(), mine.state_dict()
    assert before["param_groups"] == now["param_groups"]
    assert before["state"].keys() == now["state"].keys()
    for key, state in before["state"].items():
        assert state.keys() == now["state"][key].keys()
        for name, value in state.items():
            other_value = now["state"][key][name]
            assert torch.equal(value, other_value) if value is not None else other_value is None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_bits_are_those_of_torchs_own_step(name, monkeypatch):
    both = pair(OPTIMIZERS[name])
    whole = []
    mine = both[1][1].step
    monkeypatch.setattr(mine, "whole", lambda of=mine.whole: (whole.append(1), of()))
    for number in range(6):
        for each in both:
            step(*each, number, lr=0.01 / (1 + number))
    assert_same(*both)
    assert len(whole) == 1  # the first alone
    for number in (6, 7, 8, 9):  # a parameter that the loss does not reach keeps its weights and its count
        for each in both:
            step(*each, number, skip=1 if number == 7 else None)
    assert_same(*both)
    assert len(whole) == 3  # that one, and the next, which must look what states there are
    saved = copy.deepcopy(both[0][1].state_dict())
    for each in both:
        step(*each, 10)
        each[1].load_state_dict(copy.deepcopy(saved))
    for number in (11, 12):
        for each in both:
            step(*each, number)
    assert_same(*both)


def test_momentum_that_begins_later():
    both = pair(OPTIMIZERS["momentum"])
    for number, momentum in enumerate((0.0, 0.0, 0.9, 0.9, 0.0, 0.5)):
        for each in both:
            step(*each, number, momentum=momentum)
    assert_same(*both)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p),
        lambda p: torch.optim.Adagrad(p, fused=True),
        type("Own", (torch.optim.Adam,), {}),
    ],
)
def test_what_has_no_such_kernel_stays_as_it_is(make):
    optimizer = make(network().parameters())
    fused.quick(optimizer)
    assert "step" not in vars(optimizer)


def test_parameters_of_two_types_stay_with_torch():
    model = network()
    model[2].double()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    fused.quick(optimizer)
    assert "step" not in vars(optimizer)


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_a_run_has_it(compose, name):
    settings = compose(f"optimizer={name}").optimizer
    assert isinstance(build.optimizer(settings, network()).step, fused._Step)
