"""engine=stack: every replica is its serial run, whatever stands beside it; what can't be so is refused."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from normbench import build, run, streams
from normbench.norm import Impossible
from normbench.stack import layers, optimizers, replicas, support

DATA = ("dataset=synthetic", "epochs=2", "batch_size=15", "progress=false")  # 30 steps an epoch
IMAGE = {"mlp": 8, "lenet": 16, "cnn": 8, "vgg": 8}
SMALL = {"mlp": ("model.hidden=[12,8]",), "vgg": ("model.width=8",)}
NORMS = ("none", "bn", "ln", "gn", "in", "rms")
OPTIMIZERS = (
    "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw", "adamax", "nadam", "radam", "lion",
)  # fmt: skip
EXACT = ("sgd", "momentum", "nesterov")  # the others divide by gradients that may be rounding alone
PEOPLE = (("seed=0", 1.0), ("seed=1", 0.5), ("seed=2", 1.0))  # replicas: a seed, and what the rate is multiplied by


class Double(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images).double()


def in_double(config):
    """What the run is made of, in float64."""
    streams.set_determinism(config.threads)
    built = build.build(config)
    built.model.double()
    built.inputs = dataclasses.replace(built.inputs, preprocess=Double(built.preprocess), floats=None)
    return built


def serially(config):
    attempt = run.Attempt(config, in_double(config))
    rows = list(attempt.rows(bar=False))
    return attempt, rows


def stacked(configs, stop_after=None):
    together = [replicas.Replica(config, in_double(config)) for config in configs]
    (group,) = replicas._at_one_step(together)
    stack = replicas.Stack(group)
    for number, _ in enumerate(stack.rows(bar=False), 1):
        if number == stop_after:
            break
    for place in range(stack.width):
        stack.take(place)
    return together


def configs_of(compose, model, norm, optimizer, *more, people=PEOPLE):
    base = compose(f"optimizer={optimizer}")
    size = f"dataset.image_size={IMAGE[model]}"
    numbers = [(seed, f"optimizer.lr={base.optimizer['lr'] * factor}") for seed, factor in people]
    arm = (*DATA, size, f"model={model}", *SMALL.get(model, ()), f"norm={norm}", f"optimizer={optimizer}", *more)
    return [compose(*arm, *its) for its in numbers]


def differences(ours, theirs):
    """The largest difference of a weight or statistic, and of a number of a row but its seconds."""
    weights = max(
        (a.double() - b.double()).abs().max().item()
        for a, b in zip(ours.built.model.state_dict().values(), theirs.built.model.state_dict().values(), strict=True)
    )
    numbers = [0.0]
    assert len(ours.progress.rows) == len(theirs.progress.rows) == 3
    for a, b in zip(ours.progress.rows, theirs.progress.rows, strict=True):
        assert a.keys() == b.keys()
        assert [key for key in a if a[key] is None] == [key for key in b if b[key] is None]
        numbers += [abs(a[key] - b[key]) for key in a if key != "train_s" and a[key] is not None]
    return weights, max(numbers)


def compare(configs, weights, numbers):
    for ours, config in zip(stacked(configs), configs, strict=True):
        theirs, _ = serially(config)
        found = differences(ours, theirs)
        assert found[0] <= weights, found
        assert found[1] <= numbers, found
        assert ours.progress.step == theirs.progress.step == 60


def possible(model, norm):
    return not (norm == "in" and model == "mlp")
