"""model=rnn and dataset=fashion_rows: the formulas in float64, sequences of varying length, statistics of each step."""

import math
import os
import subprocess
import sys
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import normbench
from normbench import assembly, build, checkpoint, evaluate, records, run
from normbench.config import ConfigError
from normbench.dataset import fashion_rows
from normbench.dataset.fashion_mini import FashionMini
from normbench.dataset.fashion_rows import FashionRows
from normbench.model.rnn import GATES, RNN
from normbench.norm import Impossible
from normbench.norm.bn import BatchNorm
from normbench.norm.ln import LayerNorm
from normbench.norm.none import NoNorm
from normbench.preprocess import Masked
from normbench.preprocess.scale import Scale

SHAPE = (2, 6, 3)  # six steps of six features
VARIED = (3, 6, 1, 5, 5, 2)  # in no order; at the last step a single sequence is there
NORMS = {"none": NoNorm, "bn": BatchNorm, "ln": LayerNorm}
SMALL = {"gn": "norm.num_groups=2", "ws": "norm.num_groups=2", "iternorm": "norm.group_size=2"}
cells = pytest.mark.parametrize("cell", GATES)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def network(network):
    """network("norm=bn", ...) -> a small model=rnn, by that of conftest.py."""
    return partial(network, "model=rnn", "model.hidden=4", shape=SHAPE, num_classes=3)


def stirred(model, seed=0):
    """In float64, and nothing at a value that hides a mistake: neither gains of 1, biases of 0 nor fresh statistics."""
    model.double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter += 0.5 * randn(*parameter.shape, seed=seed + number)
        for number, (name, buffer) in enumerate(model.named_buffers()):
            if "running_" in name:
                buffer.copy_(randn(*buffer.shape, seed=seed + 100 + number).abs() + 0.5)
    return model


def batch(lengths=VARIED, shape=SHAPE, seed=7):
    """Images whose rows end early."""
    x = randn(len(lengths), *shape, seed=seed)
    for image, length in zip(x, lengths, strict=True):
        image[:, length:] = torch.nan
    return x


# ---------------------------------------------------------------------------------------------- the formulas, by hand


class ByHand:
    """The docstring's formulas in numpy, one sequence set a step; `running` holds the statistics after the pass."""

    def __init__(self, model, cell, norm, training):
        self.of = {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}
        self.cell, self.norm, self.training = cell, norm, training
        self.running = {name: value for name, value in self.of.items() if "running_" in name}

    def normalized(self, x, place, step):
        if self.norm == "none":
            return x
        at = f"{place}.{step if self.norm == 'bn' else 0}"
        if self.norm == "ln":
            mean, var = x.mean(1, keepdims=True), x.var(1, keepdims=True)
        elif self.training and len(x) > 1:
            mean, var = x.mean(0), x.var(0)
            for key, now in (("running_mean", mean), ("running_var", var * len(x) / (len(x) - 1))):
                self.running[f"{at}.{key}"] = 0.9 * self.running[f"{at}.{key}"] + 0.1 * now
        else:
            mean, var = self.running[f"{at}.running_mean"], self.running[f"{at}.running_var"]
        shift = self.of[f"{at}.bias"] if place == "cell_norm" else 0
        return (x - mean) / np.sqrt(var + 1e-5) * self.of[f"{at}.weight"] + shift

    def logits(self, x):
        n, _, height, _ = x.shape
        lengths = (~np.isnan(x[:, 0, :, 0])).sum(1)
        size = self.of["recurrent.weight"].shape[1]
        h, c = np.zeros((n, size)), np.zeros((n, size))
        for step in range(height):
            there = np.flatnonzero(lengths > step)
            if len(there):
                rows = x[there, :, step].reshape(len(there), -1)
                h[there], c[there] = self.step(step, rows, h[there], c[there])
        return h @ self.of["head.weight"].T + self.of["head.bias"]

    def step(self, step, x, h, c):
        a = self.normalized(x @ self.of["input.weight"].T, "input_norm", step) + self.of["bias"]
        u = self.normalized(h @ self.of["recurrent.weight"].T, "recurrent_norm", step - 1) if step else 0 * a
        sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
        if self.cell == "rnn":
            return np.tanh(a + u), c
        if self.cell == "lstm":
            i, f, g, o = np.split(a + u, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            return sigmoid(o) * np.tanh(self.normalized(c, "cell_norm", step)), c
        (a_r, a_z, a_n), (u_r, u_z, u_n) = np.split(a, 3, axis=1), np.split(u, 3, axis=1)
        r, z = sigmoid(a_r + u_r), sigmoid(a_z + u_z)
        return (1 - z) * np.tanh(a_n + r * u_n) + z * h, c


@pytest.mark.parametrize("lengths", [(6,) * 5, (4,) * 5, VARIED], ids=["whole", "all-shorter", "varied"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", NORMS)
@cells
def test_the_network_is_its_formulas(network, cell, norm, training, lengths):
    model = stirred(network(f"model.cell={cell}", f"norm={norm}")).train(training)
    x = batch(lengths)
    by_hand = ByHand(model, cell, norm, training)
    expected = by_hand.logits(x.numpy())
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    state = model.state_dict()
    assert bool(by_hand.running) == (norm == "bn")
    for name, value in by_hand.running.items():
        np.testing.assert_allclose(state[name].numpy(), value, rtol=1e-12, atol=1e-12, err_msg=name)


@cells
def test_without_a_norm_it_is_torchs_own_cell(cell):
    model = stirred(RNN(NoNorm(), (1, 9, 5), 3, cell=cell, hidden=7))
    theirs = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell](5, 7, batch_first=True).double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(model.input.weight)
        theirs.weight_hh_l0.copy_(model.recurrent.weight)
        theirs.bias_ih_l0.copy_(model.bias)
        theirs.bias_hh_l0.zero_()
    x = randn(6, 1, 9, 5)
    expected = model.head(theirs(x[:, 0])[0][:, -1])
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    ours, other = (torch.autograd.grad(y.sum(), model.head.weight)[0] for y in (model(x), expected))
    torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@cells
def test_gradient_is_the_derivative(cell, norm):
    model = stirred(RNN(NORMS[norm](), (1, 3, 2), 2, cell=cell, hidden=2)).train()
    names, parameters = zip(*model.named_parameters(), strict=True)
    x = batch((2, 3, 1, 3), (1, 3, 2)).requires_grad_()

    def call(pixels, *values):
        return functional_call(deepcopy(model), dict(zip(names, values, strict=True)), (pixels,))

    assert torch.autograd.gradcheck(lambda *values: call(x.detach(), *values), parameters)
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x)
    assert gradient.isfinite().all()
    assert torch.equal(gradient != 0, ~x.isnan()), "what is there counts, what is not does not"


@pytest.mark.parametrize("norm", ["none", "ln", "rms", "gn"])
@cells
def test_gradients_stay_small_behind_many_black_rows(network, cell, norm):
    """Where every hidden state is 0 until something shows, ln's derivative is 1/sqrt(eps) at each step."""
    model = network(f"model.cell={cell}", f"norm={norm}", "model.hidden=16", shape=(1, 28, 5)).train()
    x = torch.zeros(8, 1, 28, 5)
    x[:, :, 24:] = torch.rand(8, 1, 4, 5, generator=torch.Generator().manual_seed(1))
    nn.functional.cross_entropy(model(x), torch.arange(8) % 3).backward()
    assert max(p.grad.abs().max().item() for p in model.parameters()) < 10


# -------------------------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize("norm", NORMS)
@cells
def test_what_stands_under_the_mask_changes_no_bit(network, cell, norm):
    model = network(f"model.cell={cell}", f"norm={norm}", shape=(1, 6, 3)).train()
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (5, 2, 6, 3), dtype=torch.uint8, generator=generator)
    for image, length in zip(images, (2, 6, 4, 1, 4), strict=True):
        image[1] = 255
        image[1, length:] = 0
    preprocess = Masked(Scale())
    seen = []
    for _ in range(3):
        changed = torch.where(images[:, 1:] == 0, torch.randint(256, images.shape, generator=generator), images)
        changed = torch.cat([changed[:, :1].to(torch.uint8), images[:, 1:]], 1)
        preprocess.fit(changed)
        copy = deepcopy(model)
        logits = copy(preprocess(changed))
        logits.square().sum().backward()
        seen.append([logits, *(p.grad for p in copy.parameters()), *copy.state_dict().values()])
        assert all(value.isfinite().all() for value in seen[-1])
    assert all(torch.equal(a, b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True))


@pytest.mark.parametrize("norm", NORMS)
def test_the_order_of_the_batch_is_given_back(network, norm):
    model = stirred(network(f"norm={norm}")).train()
    x, order = batch(), torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(deepcopy(model)(x[order]), model(x)[order], rtol=1e-10, atol=1e-10)


def test_a_sequence_is_what_it_is_alone(network):
    """In evaluation: neither the others nor how many rows could follow it matter."""
    model = stirred(network("norm=bn")).eval()
    x = batch()
    together = model(x)
    for image, length, logits in zip(x, VARIED, together, strict=True):
        torch.testing.assert_close(model(image[None]), logits[None], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(model(image[None, :, :length]), logits[None], rtol=1e-12, atol=1e-12)


def test_a_sequence_ends_before_its_first_missing_row(network):
    model = stirred(network())
    x, gap = batch((2, 6)), batch((6, 6))
    gap[0, :, 2] = torch.nan
    assert torch.equal(model(gap), model(x))
    x[1, 1, 3, 2] = torch.nan  # one number of a row is no padding, but a broken network
    assert model(x).isnan().any(1).tolist() == [False, True]


def test_an_image_without_a_row_is_refused(network):
    model = network().double()
    for lengths in ((3, 0), (0, 0)):
        with pytest.raises(ValueError, match="at least one row of every image"):
            model(batch(lengths))


# ---------------------------------------------------------------------------------------------- statistics of each step


def layers_of(model, place):
    return list(getattr(model, place))


@pytest.mark.parametrize(("norm", "layers"), [("bn", (6, 5, 6)), ("ln", (1, 1, 1)), ("none", (0, 0, 0))])
def test_layers_with_statistics_stand_at_every_step_and_share_their_weights(network, norm, layers):
    model = network("model.cell=lstm", f"norm={norm}")
    for place, count in zip(("input_norm", "recurrent_norm", "cell_norm"), layers, strict=True):
        made = layers_of(model, place)
        assert len(made) == count
        assert len({id(layer) for layer in made}) == count
        assert len({id(layer.weight) for layer in made}) <= 1
        if norm == "bn":
            assert len({id(layer.running_mean) for layer in made}) == count


def test_whether_a_norm_of_torchs_own_gets_a_layer_for_each_step_is_told_by_its_buffers(network):
    torchs = ("norm._target_=torch.nn.BatchNorm1d", "~norm.ghost_size", "~norm.detach_statistics")
    assert len(network(*torchs).input_norm) == 6
    assert len(network(*torchs, "+norm.track_running_stats=false").input_norm) == 1


def test_every_layer_is_one_that_the_norm_made(compose):
    config = compose("model=rnn", "norm=bn", "model.hidden=4")
    images = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    assembled = assembly.assemble(config, assembly.normalization(config.norm), Scale(), images, 3)
    inside = [layer for layer in assembled.model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert len(inside) == 6 + 5 + 6
    assert {id(layer) for layer in inside} == {id(layer) for layer in assembled.norm_layers}


@pytest.mark.parametrize("settings", [(), ("norm.ghost_size=2",), ("norm.detach_statistics=true",)], ids=str)
def test_a_single_sequence_is_normalized_by_the_running_statistics(network, settings):
    """And they are not told of it, nor does the layer stay in evaluation."""
    model = stirred(network("norm=bn", *settings)).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    assert model(batch()).isfinite().all()
    for name, value in model.named_buffers():
        if "running_" in name or "tracked" in name:
            last = name.split(".")[1] == ("4" if name.startswith("recurrent") else "5")
            assert torch.equal(value, before[name]) == last, name
    assert all(layer.training for layer in model.modules())
    model(batch((6, 6, 2)))
    assert not torch.equal(model.input_norm[5].running_mean, before["input_norm.5.running_mean"])


def test_a_layer_that_fails_does_not_stay_in_evaluation(network):
    model = network("norm=bn").train()
    hook = model.input_norm[5].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(batch().float())
    hook.remove()
    assert all(layer.training for layer in model.modules())


def test_ghost_batches_are_parts_of_the_sequences_that_are_there(network):
    """Seven at the first step in parts of 4 and 3; then five, whose only part is all of them."""
    model = network("norm=bn", "norm.ghost_size=3", "batch_size=63", "model.cell=rnn").double().train()
    x = batch((2, 1, 2, 2, 2, 2, 1))
    model(x)
    order = [0, 2, 3, 4, 5, 1, 6]  # the longest first, otherwise as they came
    first = x[order, :, 0].flatten(1) @ model.input.weight.T
    expected = 0.1 * (first[:4].mean(0) + first[4:].mean(0)) / 2
    torch.testing.assert_close(model.input_norm[0].running_mean, expected.detach(), rtol=1e-10, atol=1e-12)
    second = (x[order[:5], :, 1].flatten(1) @ model.input.weight.T).detach()
    torch.testing.assert_close(model.input_norm[1].running_mean, 0.1 * second.mean(0), rtol=1e-10, atol=1e-12)


def test_recalibrated_statistics_are_the_means_over_the_batches(network):
    model = stirred(network("norm=bn", "model.cell=gru")).train()
    batches = [batch((6, 4, 6, 5), seed=1), batch((6, 6, 2, 1), seed=2), batch((4, 6, 5, 1), seed=3)]
    before = {name: value.clone() for name, value in model.named_buffers()}
    evaluate.recalibrate(model, batches)
    projected = [x.transpose(1, 2).flatten(2) @ model.input.weight.detach().T for x in batches]
    for step, layer in enumerate(model.input_norm):
        found = []
        for y in projected:
            there = y[:, step][~y[:, step].isnan().any(1)]
            # a batch with one sequence tells nothing: it counts with what was there
            one = len(there) == 1
            found.append((before[f"input_norm.{step}.running_mean"], before[f"input_norm.{step}.running_var"]) if one
                         else (there.mean(0), there.var(0)))  # fmt: skip
        mean, var = (torch.stack(values).mean(0) for values in zip(*found, strict=True))
        torch.testing.assert_close(layer.running_mean, mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(layer.running_var, var, rtol=1e-10, atol=1e-12)
    assert all(layer.momentum == 0.1 for layer in evaluate.with_statistics(model))
    assert len(evaluate.with_statistics(model)) == 11


# -------------------------------------------------------------------------------------------------------------- weights


def test_every_norm_starts_from_the_same_weights(network, norm_settings):
    norm = norm_settings["name"]
    plain = network("norm=none", "seed=5")
    try:
        model = network(f"norm={norm}", "seed=5", *filter(None, [SMALL.get(norm)]))
    except Impossible:
        assert norm in ("in", "frn")
        return
    for name in ("input", "recurrent", "head"):
        ours, theirs = getattr(model, name), getattr(plain, name).weight
        reparametrized = getattr(getattr(ours, "parametrizations", None), "weight", None)
        drawn = ours.weight
        if norm in ("wn", "ws") and name != "head":
            drawn = reparametrized.original1 if norm == "wn" else reparametrized.original
        else:
            assert reparametrized is None
        assert torch.equal(drawn, theirs)
    assert torch.equal(model.bias, plain.bias)


def test_weights_are_drawn_as_stated(network):
    model = network("model.hidden=32", "model.cell=lstm", shape=(1, 4, 100))
    for gate in model.recurrent.weight.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(32), rtol=0, atol=1e-5)
    assert model.input.weight.abs().max() <= 0.1  # 1/sqrt(100)
    assert model.input.weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    i, f, g, o = model.bias.chunk(4)
    assert f.tolist() == [1] * 32
    for bias in (i, g, o, *network("model.hidden=32", "model.cell=gru").bias.chunk(3)):
        assert bias.abs().max() <= 32**-0.5
        assert bias.std().item() == pytest.approx((32 * 3) ** -0.5, rel=0.3)


@pytest.mark.parametrize("norm", ["bn", "ln", "rms", "gn", "sn", "brn", "iternorm", "dyt"])
def test_gains_start_where_gain_init_says_and_there_is_one_shift(network, norm):
    model = network("model.cell=lstm", f"norm={norm}", "model.gain_init=0.25", *filter(None, [SMALL.get(norm)]))
    for place in ("input_norm", "recurrent_norm", "cell_norm"):
        for layer in layers_of(model, place):
            assert layer.weight.unique().tolist() == [0.25]
            if norm != "rms":
                assert not layer.bias.any()
                assert isinstance(layer.bias, nn.Parameter) == (place == "cell_norm")
    assert not [name for name in model.state_dict() if name.startswith(("input_norm", "rec")) and "bias" in name]


def test_parameters_are_counted_once(network):
    """lstm: 6 and 4 to 16, 16 biases; gains for 16, 16 and 4, shifts for 4; 4 to 3 and 3 biases."""
    for norm in ("bn", "ln"):
        model = network("model.cell=lstm", f"norm={norm}")
        assert sum(p.numel() for p in model.parameters()) == (6 + 4) * 16 + 16 + (16 + 16 + 4 + 4) + 4 * 3 + 3


@pytest.mark.parametrize("norm", ["bn", "ln", "sn", "brn", "iternorm", "wn", "ws"])
def test_state_dict_round_trip(network, norm, tmp_path):
    small = [f"norm={norm}", *filter(None, [SMALL.get(norm)])]
    model = network(*small).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for seed in range(3):
        model(batch(seed=seed).float()).square().sum().backward()
        optimizer.step()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = network(*small, "seed=9")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x = batch(seed=9).float()
    assert torch.equal(model.eval()(x), other.eval()(x))
    assert torch.equal(model.train()(x), other.train()(x))
    assert sum(1 for _ in other.parameters()) == sum(1 for _ in network(*small).parameters())  # still tied


def test_copies_keep_the_ties(network):
    copy = deepcopy(network("norm=bn")).double()
    assert len({id(layer.weight) for layer in copy.input_norm}) == 1
    assert copy.input_norm[0].weight is not network("norm=bn").input_norm[0].weight


def test_wn_starts_from_the_weights_that_were_drawn(compose):
    """Its data-dependent start is not for recurrent layers."""
    built = build.build(compose("model=rnn", "dataset=synthetic", "norm=wn", "model.hidden=4"))
    before = {name: value.clone() for name, value in built.model.state_dict().items()}
    built.norm.start(built.model, built.preprocess(built.data.train[0][:64]))
    assert all(torch.equal(value, before[name]) for name, value in built.model.state_dict().items())


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_dropout_is_on_the_last_hidden_state(network, probability):
    model = network(f"model.dropout={probability}", "model.hidden=64").train()
    seen = []
    model.head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model(batch().float())
    assert bool((seen[0] == 0).any()) == bool(probability)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.cell=tanh", r"cell must be one of rnn, lstm, gru; got 'tanh'"),
        ("model.hidden=0", r"hidden must be .*got 0; try model\.hidden=64"),
        ("model.hidden=[8]", r"hidden must be a whole number >= 1, got \(8,\)"),
        ("model.dropout=1.0", r"dropout must be in \[0, 1\), got 1\.0; try model\.dropout=0\.5"),
        ("model.gain_init=0.0", r"gain_init must be a number > 0, got 0\.0; try model\.gain_init=1"),
        ("model.gain_init=-1.0", r"gain_init must be .*got -1\.0"),
    ],
)
def test_a_bad_setting_is_refused_in_words(network, override, words):
    with pytest.raises(ConfigError, match=f"model=rnn: {words}"):
        network(override)


def test_images_of_one_row_are_refused(network):
    with pytest.raises(ConfigError, match="rnn needs images of at least 2 rows, these are 1 x 5; try model=mlp"):
        network(shape=(1, 1, 5))
    assert network("norm=bn", shape=(1, 2, 5)).train()(torch.rand(4, 1, 2, 5)).shape == (4, 3)


# ------------------------------------------------------------------------------------------------------------- the runs


def quiet(config):
    return run.run(config, announce=lambda _: None)


def finite(*numbers):
    return all(number is not None and math.isfinite(number) for number in numbers)


def test_every_norm_trains_or_is_impossible(compose, tmp_path, norm_settings):
    norm = norm_settings["name"]
    small = ["dataset=synthetic", "model=rnn", "model.hidden=16", "epochs=1", "batch_size=32", "progress=false"]
    config = compose(*small, f"norm={norm}", f"out={tmp_path}")
    if norm in ("in", "frn"):
        with pytest.raises(Impossible, match="try norm="):
            quiet(config)
        assert not list(tmp_path.iterdir())
        return
    outcome = quiet(config)
    assert outcome.state == "complete"
    assert finite(*(outcome.record[key] for key in ("test_loss", "test_acc", "val_loss", "val_acc")))


def test_every_norm_takes_sequences_that_end_early(network, norm_settings):
    norm = norm_settings["name"]
    if norm in ("in", "frn"):
        pytest.skip("undefined there")
    model = network(f"norm={norm}", "model.cell=lstm", *filter(None, [SMALL.get(norm)])).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for seed in range(5):
        optimizer.zero_grad()
        model(batch(seed=seed).float()).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    assert model.eval()(batch().float()).isfinite().all()
    assert all(value.isfinite().all() for value in model.state_dict().values())


ROWS = ("dataset=fashion_rows", "model=rnn", "model.hidden=8", "val_fraction=0.02", "batch_size=980", "progress=false")


@pytest.fixture(scope="module")
def whole(compose, tmp_path_factory):
    """A run of two epochs of bn that was never paused."""
    folder = tmp_path_factory.mktemp("rnn")
    torch.set_num_threads(1)
    return quiet(compose(*ROWS, "norm=bn", "epochs=2", "eval.statistics=[ema,population,batch]", f"out={folder}"))


def test_a_run_ends_with_every_kind_of_statistics(whole):
    assert whole.state == "complete"
    assert set(whole.record["statistics"]) == {"ema", "population", "batch"}
    for numbers in whole.record["statistics"].values():
        assert finite(numbers["test_loss"], numbers["test_acc"])


def test_paused_and_continued_is_the_run_that_was_never_paused(compose, tmp_path, whole):
    settings = (*ROWS, "norm=bn", "epochs=2", "eval.statistics=[ema,population,batch]", f"out={tmp_path}")
    assert quiet(compose(*settings, "stop_epoch=1")).state == "paused"
    again = quiet(compose(*settings))
    ends = [checkpoint.read(outcome.folder / "checkpoint.pt")["model"] for outcome in (whole, again)]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert again.record["statistics"] == whole.record["statistics"]
    metrics = [records.read_metrics(outcome.folder / "metrics.csv") for outcome in (whole, again)]
    assert [{**row, "train_s": 0} for row in metrics[0]] == [{**row, "train_s": 0} for row in metrics[1]]


def test_the_network_that_is_given_back_is_the_one_that_was_trained(whole):
    model = normbench.load(whole.folder)
    data = FashionRows().load()
    images, labels = torch.tensor(data.test_images), torch.tensor(data.test_labels)
    with torch.no_grad():
        logits = model(model.preprocess(images))
    assert (logits.argmax(1) == labels).double().mean().item() == pytest.approx(whole.record["test_acc"], abs=1e-9)
    assert nn.functional.cross_entropy(logits, labels).item() == pytest.approx(whole.record["test_loss"], rel=1e-5)


def test_a_norm_that_is_undefined_here_is_one_line_and_nothing_is_written(tmp_path):
    command = [sys.executable, "-m", "normbench", "train", "model=rnn", "norm=in", "dataset=fashion_rows"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "norm=in needs at least 2 positions a channel" in done.stderr
    assert "try norm=ln" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_batch_of_one_is_impossible_for_bn(compose):
    with pytest.raises(Impossible, match="norm=bn needs at least 2 values"):
        build.build(compose(*ROWS, "norm=bn", "batch_size=1"))


@pytest.mark.parametrize("model", ["mlp", "lenet"])
def test_other_models_on_sequences_are_refused_with_the_way_out(compose, model):
    with pytest.raises(Impossible, match=f"model={model} can't take .*dataset=fashion_rows; try model=rnn"):
        build.build(compose("dataset=fashion_rows", f"model={model}"))


def test_whole_images_are_for_every_model(compose):
    built = build.build(compose("dataset=fashion_rows", "dataset.min_rows=28", "model=mlp"))
    x, _ = next(iter(built.batches(range(1))))
    assert x.shape == (64, 1, 28, 28)
    assert x.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["none", "bn", "ln", "wn"])
@cells
def test_it_learns_what_the_rows_show(compose, tmp_path, norm, cell):
    """Chance is 0.1."""
    settings = ("dataset=fashion_rows", "model=rnn", f"model.cell={cell}", f"norm={norm}", "epochs=2", "progress=false")
    assert quiet(compose(*settings, f"out={tmp_path}")).record["test_acc"] > 0.4


def test_it_learns_in_seconds(compose, tmp_path):
    settings = (*ROWS, "model.cell=gru", "norm=ln", "epochs=1", "batch_size=98", "optimizer.lr=1e-2")
    assert quiet(compose(*settings, f"out={tmp_path}")).record["test_acc"] > 0.3


# --------------------------------------------------------------------------------------------------------- fashion_rows


@pytest.fixture(scope="module")
def mini():
    return FashionMini().load()


def lengths_of(images):
    """The number of rows whose mask is set; the mask is a prefix of whole rows of 255."""
    mask = images[:, 1]
    assert (mask == mask[:, :, :1]).all()
    assert set(np.unique(mask).tolist()) <= {0, 255}
    there = mask[:, :, 0] == 255
    lengths = there.sum(1)
    assert (there == (np.arange(28) < lengths[:, None])).all()
    return lengths


def test_images_are_those_of_fashion_mini_cut_off(mini):
    data = FashionRows().load()
    assert data.masked
    assert data.classes == mini.classes
    for images, labels, pictures, wanted in (
        (data.train_images, data.train_labels, mini.train_images, mini.train_labels),
        (data.test_images, data.test_labels, mini.test_images, mini.test_labels),
    ):
        assert images.shape == (len(pictures), 2, 28, 28)
        assert images.dtype == np.uint8
        assert images.flags.c_contiguous
        assert images.flags.writeable
        assert (labels == wanted).all()
        there = np.arange(28)[:, None] < lengths_of(images)[:, None, None]
        assert (images[:, 0] == np.where(there, pictures[:, 0], 0)).all()


def test_lengths_are_uniform_and_of_a_stream_for_each_part():
    data = FashionRows().load()
    train, test = lengths_of(data.train_images), lengths_of(data.test_images)
    assert set(train.tolist()) == set(test.tolist()) == set(range(14, 29))
    counts = np.bincount(train)[14:]  # 667 each expected, deviation 25
    assert counts.min() > 560
    assert counts.max() < 770
    assert (train[:2000] != test).mean() > 0.9
    other = lengths_of(FashionRows(seed=1).load().train_images)
    assert 0.9 < (train != other).mean() < 0.96


def test_lengths_are_the_same_on_every_machine():
    train, test = FashionRows()._lengths()
    assert train[:8].tolist() == [26, 23, 21, 18, 18, 14, 15, 14]
    assert test[:8].tolist() == [21, 27, 28, 22, 18, 26, 17, 28]
    assert FashionRows().fingerprint().startswith("afe792c7de19")


def test_min_rows_28_is_the_whole_image_and_1_is_a_row(mini):
    data = FashionRows(min_rows=28).load()
    assert (data.train_images[:, :1] == mini.train_images).all()
    assert (data.test_images[:, 1] == 255).all()
    assert lengths_of(FashionRows(min_rows=1).load().test_images).min() == 1


def test_the_fingerprint_is_of_what_the_images_are_made_from(monkeypatch):
    made = [FashionRows(), FashionRows(seed=1), FashionRows(min_rows=13), FashionRows(min_rows=28)]
    found = [data.fingerprint() for data in made]
    assert len(set(found)) == 4
    assert found == [data.load().fingerprint for data in made]
    assert found[0] == FashionRows().fingerprint()
    assert found[3] == FashionRows(min_rows=28, seed=1).fingerprint()  # the same images
    monkeypatch.setattr(fashion_rows, "VERSION", 2)
    assert FashionRows().fingerprint() != found[0]
    monkeypatch.undo()
    monkeypatch.setattr(FashionMini, "fingerprint", lambda _: "other pictures")
    assert FashionRows().fingerprint() != found[0]


def test_a_fingerprint_reads_no_image(monkeypatch):
    monkeypatch.setattr(FashionMini, "load", lambda _: 1 / 0)
    assert len(FashionRows().fingerprint()) == 64


@pytest.mark.parametrize(
    ("key", "value"),
    [("min_rows", 0), ("min_rows", 29), ("min_rows", 14.0), ("min_rows", True), ("min_rows", None), ("min_rows", "all"),
     ("seed", -1), ("seed", 0.5), ("seed", False), ("seed", None)],
)  # fmt: skip
def test_arguments_of_fashion_rows(key, value):
    with pytest.raises(ValueError, match=rf"dataset\.{key} must be a whole number .*it is {value!r}"):
        FashionRows(**{key: value})
