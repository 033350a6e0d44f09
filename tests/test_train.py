"""The training loop and the evaluation, on models small enough to be worked out by hand."""

import math
import time
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from normbench import records
from normbench.clip import Clip, Clipped
from normbench.clip.none import NoClip
from normbench.clip.norm import ClipNorm
from normbench.clip.update import ClipUpdate
from normbench.schedule import Schedule
from normbench.train import Progress, evaluate, train

BATCH = 8
EMPTY = ("train_loss", "train_acc", "grad_norm_mean", "grad_norm_max", "clip_frac", "clip_share", "clip_size_mean")
MEASURED = {"train_eval_loss": 1.5, "train_eval_acc": 0.25, "val_loss": 2.5, "val_acc": 0.125}


def batches_of(count, seed=0, features=4, classes=3):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(BATCH, features, generator=generator), torch.randint(classes, (BATCH,), generator=generator))
        for _ in range(count)
    ]


def linear(seed=0):
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)))
        model.bias.zero_()
    return model


def noisy():
    """With dropout and batch normalization, so that the mode shows."""
    generator = torch.Generator().manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model


class Spy:
    """Cross entropy that remembers; from call `bad_at` on (from 1) its loss is `bad`."""

    def __init__(self, bad_at=None, bad=math.nan):
        self.bad_at, self.bad, self.losses, self.hits = bad_at, bad, [], []

    def __call__(self, logits, y):
        loss = nn.functional.cross_entropy(logits, y)
        if self.bad_at is not None and len(self.losses) + 1 >= self.bad_at:
            loss = loss * self.bad
        self.losses.append(loss.detach().double())
        self.hits.append((logits.argmax(1) == y).double().mean())
        return loss


class Norms(Clip):
    """A clipping rule that only reports what it is told to: norms before the step, the others after it."""

    def __init__(self, norms, shares, sizes=None):
        self.norms, self.shares, self.sizes = iter(norms), iter(shares), iter(sizes or norms)

    def __call__(self, parameters):
        return Clipped(torch.tensor(next(self.norms)), torch.tensor(math.nan), torch.tensor(math.nan))

    def after_step(self, optimizer, clipped):
        return clipped._replace(size=torch.tensor(next(self.sizes)), share=torch.tensor(next(self.shares)))


class Spied(NoClip):
    """No clipping, but `look` is called with the parameters, gradients and all."""

    def __init__(self, look):
        self.look = look

    def __call__(self, parameters):
        self.look(parameters)
        return super().__call__(parameters)


class By(Schedule):
    """The schedule whose factor is a function of (step, total_steps, history)."""

    def __init__(self, factor, **settings):
        super().__init__(steps_per_epoch=4, **settings)
        self.factor = factor

    def __call__(self, step, total_steps, history=()):
        return self.factor(step, total_steps, history)


def constant(step, total_steps, history=()):
    return 1.0


def started(model, batches, *, total=None, loss_fn=None, clip=None, schedule=constant, measure=None, **more):
    """The generator of a run over all batches, with harmless parts where none are given, and its Progress."""
    progress = more.pop("progress", None) or Progress()
    optimizer = more.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.1)
    arguments = {"total_steps": total or len(batches), "steps_per_epoch": 4, "eval_every": 4, **more}
    rows = train(
        model,
        batches,
        loss_fn or nn.CrossEntropyLoss(),
        optimizer,
        clip or NoClip(),
        schedule if isinstance(schedule, Schedule) else By(schedule),
        measure or (lambda: dict(MEASURED)),
        progress,
        **arguments,
    )
    return rows, progress


def run(model, batches, **more):
    rows, progress = started(model, batches, **more)
    return list(rows), progress


# ----------------------------------------------------------------------------------------------------------------- rows


def test_row_0_comes_before_the_first_batch_is_asked_for():
    model, asked = linear(), []
    before = deepcopy(model.state_dict())

    def batches():
        for batch in batches_of(4):
            asked.append(batch)
            yield batch

    rows, progress = started(model, batches(), total=4, schedule=lambda *_: 0.5)
    row = next(rows)
    assert asked == []
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {**row} == {
        "step": 0, "examples": 0, "epoch": 0.0, "train_s": 0.0, "lr": 0.05, **dict.fromkeys(EMPTY), **MEASURED,
    }  # fmt: skip
    assert progress.rows == [row]


def test_a_row_has_the_columns_of_the_run_folder():
    rows, _ = run(linear(), batches_of(4))
    assert [set(row) for row in rows] == [set(records.METRICS)] * 2


@pytest.mark.parametrize(
    ("total", "eval_every", "steps"),
    [(12, 4, [0, 4, 8, 12]), (10, 4, [0, 4, 8, 10]), (3, 4, [0, 3]), (3, 1, [0, 1, 2, 3]), (4, 4, [0, 4])],
)
def test_rows_are_on_the_grid_and_at_the_end(total, eval_every, steps):
    rows, progress = run(linear(), batches_of(total), eval_every=eval_every)
    assert [row["step"] for row in rows] == steps
    assert progress.rows == rows
    assert progress.step == total
    assert progress.diverged_step is None


def test_examples_and_epochs_are_counted():
    rows, _ = run(linear(), batches_of(12), steps_per_epoch=8)
    assert [row["examples"] for row in rows] == [0, 4 * BATCH, 8 * BATCH, 12 * BATCH]
    assert [row["epoch"] for row in rows] == [0, 0.5, 1, 1.5]


def test_train_loss_and_train_acc_are_means_since_the_last_row():
    """The last window is shorter than the others."""
    spy = Spy()
    rows, _ = run(linear(), batches_of(10), loss_fn=spy)
    losses, hits = torch.stack(spy.losses).numpy(), torch.stack(spy.hits).numpy()
    windows = [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert [row["train_loss"] for row in rows[1:]] == pytest.approx([losses[w].mean() for w in windows], rel=1e-12)
    assert [row["train_acc"] for row in rows[1:]] == pytest.approx([hits[w].mean() for w in windows], rel=1e-12)
    assert len(set(losses)) == 10


def test_gradient_norms_and_the_share_of_clipped_steps():
    norms = [1.0, 2.0, 5.0, 4.0, 8.0, 1.0, 1.0, 2.0, 0.25, 0.75]
    shares = [0.0, 0.5, 1.0, 0.25, 0.0, 0.0, 0.5, 0.0, 1.0, 0.5]
    sizes = [1.0, 2.0, 3.0, 6.0, 1.0, 1.0, 1.0, 3.0, 2.0, 4.0]
    rows, _ = run(linear(), batches_of(10), clip=Norms(norms, shares, sizes))
    assert [row["clip_share"] for row in rows] == [None, 1.75 / 4, 0.5 / 4, 0.75]
    assert [row["clip_size_mean"] for row in rows] == [None, 3.0, 1.5, 3.0]
    assert [row["grad_norm_mean"] for row in rows] == [None, 3.0, 3.0, 0.5]
    assert [row["grad_norm_max"] for row in rows] == [None, 5.0, 8.0, 0.75]
    assert [row["clip_frac"] for row in rows] == [None, 0.75, 0.25, 1.0]


def test_what_is_measured_goes_into_the_row_as_it_is():
    numbers = iter([0.1, 0.2, 0.3])
    rows, _ = run(linear(), batches_of(8), measure=lambda: {**MEASURED, "val_loss": next(numbers)})
    assert [row["val_loss"] for row in rows] == [0.1, 0.2, 0.3]


# ----------------------------------------------------------------------------------------------------------- the method


def test_steps_by_hand():
    """Softmax regression by its formula in float64, with the norm rule between gradient and step."""
    batches, bound, lr = batches_of(6, seed=2), 0.75, 0.3
    model = linear().double()
    weight, bias = model.weight.detach().numpy().copy(), model.bias.detach().numpy().copy()
    rows, _ = run(
        model,
        [(x.double(), y) for x, y in batches],
        clip=ClipNorm(bound),
        optimizer=torch.optim.SGD(model.parameters(), lr=lr),
        schedule=lambda step, total, history: 1 - step / total,
        eval_every=3,
    )
    losses, norms = [], []
    for step, (x, y) in enumerate(batches):
        x, y = x.double().numpy(), y.numpy()
        z = x @ weight.T + bias
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        losses.append(-np.log(p[np.arange(BATCH), y]).mean())
        dz = (p - np.eye(3)[y]) / BATCH
        dw, db = dz.T @ x, dz.sum(0)
        norms.append(np.sqrt((dw**2).sum() + (db**2).sum()))
        scale = min(1, bound / norms[-1]) * lr * (1 - step / 6)
        weight, bias = weight - scale * dw, bias - scale * db
    np.testing.assert_allclose(model.weight.detach(), weight, rtol=1e-10)
    np.testing.assert_allclose(model.bias.detach(), bias, rtol=1e-10, atol=1e-12)
    assert [row["train_loss"] for row in rows[1:]] == pytest.approx([np.mean(losses[:3]), np.mean(losses[3:])])
    assert [row["grad_norm_max"] for row in rows[1:]] == pytest.approx([max(norms[:3]), max(norms[3:])])
    assert [row["clip_frac"] for row in rows[1:]] == [np.mean(np.array(n) > bound) for n in (norms[:3], norms[3:])]
    assert 0 < np.mean(np.array(norms) > bound) < 1, "some steps are clipped, some not"


def test_the_learning_rate_is_base_times_schedule_for_each_group():
    model, used = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), []
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[1].parameters(), "lr": 0.01}], lr=1.0
    )
    optimizer.register_step_pre_hook(lambda o, *_: used.append([group["lr"] for group in o.param_groups]))
    rows, _ = run(model, batches_of(8), optimizer=optimizer, schedule=lambda step, total, _: (total - step) / total)
    factors = [(8 - step) / 8 for step in range(8)]
    np.testing.assert_allclose(used, [[0.2 * f, 0.01 * f] for f in factors], rtol=1e-12)
    # a row tells the lr of the step that ends there; row 0 that of the first step to come
    assert [row["lr"] for row in rows] == pytest.approx([0.2 * factors[0], 0.2 * factors[3], 0.2 * factors[7]])


def test_a_schedule_may_move_weight_decay_and_momentum():
    """Of each group its own; Adam's momentum is beta1. What it does not name stays."""
    model, used = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), []
    adam = torch.optim.Adam(
        [{"params": model[0].parameters()}, {"params": model[1].parameters(), "weight_decay": 0.0}],
        lr=0.1, betas=(0.8, 0.9), weight_decay=0.5,
    )  # fmt: skip
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.6)
    for optimizer in (adam, sgd):
        optimizer.register_step_pre_hook(lambda o, *_: used.append([dict(group) for group in o.param_groups]))
        schedule = By(lambda step, total, _: 1 / (1 + step), scales=("weight_decay", "momentum"))
        rows, _ = run(model, batches_of(4), optimizer=optimizer, schedule=schedule)
        assert [row["lr"] for row in rows] == [0.1, 0.1]
    for step in range(4):
        first, second = used[step]
        assert (first["weight_decay"], second["weight_decay"]) == (0.5 / (1 + step), 0)
        assert first["betas"] == second["betas"] == (0.8 / (1 + step), 0.9)
        assert "momentum" not in first
        assert used[4 + step][0]["momentum"] == 0.6 / (1 + step)


def test_an_optimizer_with_two_modes_is_switched_around_every_evaluation():
    """In training mode for the steps, in evaluation mode for all else; it ends there, and a pause leaves it."""
    seen = []

    class Modes(torch.optim.SGD):
        def train(self):
            seen.append("train")

        def eval(self):
            seen.append("eval")

        def step(self, closure=None):
            seen.append("step")
            return super().step(closure)

    def measure():
        seen.append("measure")
        return dict(MEASURED)

    model = linear()
    run(model, batches_of(3), optimizer=Modes(model.parameters(), lr=0.1), measure=measure, total=4, eval_every=2)
    assert seen == ["measure", "train", "step", "step", "eval", "measure", "train", "step"]
    seen.clear()
    run(model, batches_of(2), optimizer=Modes(model.parameters(), lr=0.1), measure=measure, eval_every=2)
    assert seen == ["measure", "train", "step", "step", "eval", "measure"]


def test_under_amp_the_forward_pass_alone_is_in_half_precision():
    """The same as torch's own recipe, written out; the weights, their gradients and the loss stay float32."""
    types, losses = set(), []
    model, plain = noisy(), noisy()
    model[0].register_forward_hook(lambda _, inputs, output: types.add((inputs[0].dtype, output.dtype)))

    def loss_fn(logits, y):
        losses.append(logits.dtype)
        return nn.functional.cross_entropy(logits, y)

    batches = batches_of(4)
    torch.manual_seed(1)
    rows, _ = run(model, batches, loss_fn=loss_fn, amp=torch.bfloat16)
    assert types == {(torch.float32, torch.bfloat16)}
    assert set(losses) == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {torch.float32}
    assert model[1].running_var.dtype == torch.float32

    torch.manual_seed(1)
    optimizer, found = torch.optim.SGD(plain.parameters(), lr=0.1), []
    plain.train()
    for x, y in batches:
        with torch.autocast("cpu", torch.bfloat16):
            logits = plain(x)
        loss = nn.functional.cross_entropy(logits.float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert rows[1]["train_loss"] == pytest.approx(np.mean(found), rel=1e-6)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)


def test_amp_evaluates_as_it_trains():
    model = noisy()
    (images, labels), *_ = batches_of(1)
    to_the_network = nn.Linear(4, 4)  # a preprocessing is not under autocast, in training neither
    seen = []
    to_the_network.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    evaluate(model, to_the_network, nn.CrossEntropyLoss(), images, labels, 8, amp=torch.bfloat16)
    assert seen == [torch.float32]
    loss, _ = evaluate(model, nn.Identity(), nn.CrossEntropyLoss(), images, labels, 8, amp=torch.bfloat16)
    plain, _ = evaluate(model, nn.Identity(), nn.CrossEntropyLoss(), images, labels, 8)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = model.eval()(images)
    assert loss == nn.functional.cross_entropy(logits.float(), labels).item()
    assert loss != plain


def test_the_schedule_is_told_the_rows_so_far():
    seen = []

    def schedule(step, total, history):
        seen.append((step, total, [row["step"] for row in history]))
        return 1.0

    run(linear(), batches_of(6), schedule=schedule)
    assert seen[0] == (0, 6, [])
    assert seen[1:] == [(step, 6, [0] if step < 4 else [0, 4]) for step in range(6)]


def test_gradients_do_not_add_up_over_steps():
    model = linear()
    model.weight.grad = torch.full_like(model.weight, 100.0)  # left over from somewhere
    norms = []
    run(model, batches_of(2), clip=Spied(lambda ps: norms.append(ps[0].grad.clone())), eval_every=1)
    assert max(norm.abs().max() for norm in norms) < 10


def test_frozen_parameters_are_not_handed_to_the_clipping_rule():
    model = linear()
    model.bias.requires_grad_(False)
    handed = []
    run(model, batches_of(1), clip=Spied(lambda ps: handed.extend(map(id, ps))))
    assert handed == [id(model.weight)]


def test_every_step_is_in_training_mode_though_each_evaluation_is_not():
    model, modes = noisy(), []
    model[3].register_forward_hook(lambda layer, *_: modes.append(layer.training))

    def measure():
        model.eval()
        return dict(MEASURED)

    model.eval()
    run(model, batches_of(10), measure=measure)
    assert modes == [True] * 10


# ----------------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize(("bad_at", "rows_kept"), [(1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (10, 3)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_is_told_to_the_step(bad_at, rows_kept, bad):
    rows, progress = run(linear(), batches_of(10), loss_fn=Spy(bad_at, bad))
    assert progress.diverged_step == bad_at
    assert [row["step"] for row in rows] == [0, 4, 8, 10][:rows_kept]
    assert progress.rows == rows
    assert all(math.isfinite(value) for row in rows for value in row.values() if value is not None)


def test_a_gradient_norm_that_is_not_finite_is_divergence():
    norms = [1.0, 1.0, 1.0, 1.0, 1.0, math.inf, 1.0, 1.0]
    rows, progress = run(linear(), batches_of(8), clip=Norms(norms, [0.0] * 8))
    assert progress.diverged_step == 6
    assert len(rows) == 2


def test_a_measurement_that_is_not_finite_is_divergence():
    """The weights after the last step may be the first that are not: the loss was taken before it."""
    values = iter([1.0, 1.0, math.nan])
    rows, progress = run(linear(), batches_of(12), measure=lambda: {**MEASURED, "val_loss": next(values)})
    assert progress.diverged_step == 8
    assert [row["step"] for row in rows] == [0, 4]


def test_a_learning_rate_that_is_far_too_high_diverges_by_itself():
    model = nn.Sequential(linear(), nn.Linear(3, 3))
    square = lambda logits, y: (logits**2).mean()  # noqa: E731 - a parabola: grows without bound
    rows, progress = run(
        model, batches_of(400), loss_fn=square, optimizer=torch.optim.SGD(model.parameters(), lr=1e3), eval_every=20
    )
    assert 1 < progress.diverged_step <= 20
    assert [row["step"] for row in rows] == [0]


# ---------------------------------------------------------------------------------------------------------------- clock


def test_steps_are_timed_and_evaluations_are_not():
    """Slept: 0.03 s for each of 3 measurements and in each of the caller's 3 turns, 0.01 s for each of 8 batches."""
    asleep = 0.03

    def batches():
        for batch in batches_of(8):
            time.sleep(0.01)
            yield batch

    def measure():
        time.sleep(asleep)
        return dict(MEASURED)

    began = time.perf_counter()
    rows, progress = started(linear(), batches(), total=8, measure=measure)
    seconds = []
    for row in rows:
        seconds.append(row["train_s"])
        time.sleep(asleep)
    passed = time.perf_counter() - began
    assert progress.train_s >= 8 * 0.01
    assert progress.eval_s >= 3 * asleep
    assert progress.train_s + 6 * asleep <= passed  # so neither kind of sleep is in train_s
    assert seconds[0] == 0
    assert seconds[1] >= 4 * 0.01
    assert seconds[2] >= seconds[1] + 4 * 0.01
    assert progress.train_s >= seconds[2]


# ------------------------------------------------------------------------------------------------------------- no waits


class NoSync(TorchDispatchMode):
    """Fails on everything that reads a value from the device, unless it is allowed just now."""

    allowed = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert self.allowed or name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal"), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("clip", [ClipNorm(0.1), ClipUpdate(0.1)])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_a_step_never_waits_for_the_device(kind, clip):
    model, mode, steps = noisy(), NoSync(), []
    optimizer = kind(model.parameters(), lr=0.01, fused=True)

    def batches():
        for batch in batches_of(8):
            mode.allowed = False
            yield batch
            mode.allowed = True

    def after_step(*_):
        steps.append(1)
        mode.allowed = len(steps) % 4 == 0  # the row after it reads the window: that is its purpose

    optimizer.register_step_post_hook(after_step)
    with mode:
        rows, _ = run(model, batches(), total=8, optimizer=optimizer, clip=clip)
    assert [row["step"] for row in rows] == [0, 4, 8]
    assert len(steps) == 8


def test_no_sync_would_notice():
    def reads(logits, y):
        loss = nn.functional.cross_entropy(logits, y)
        loss.item()
        return loss

    mode = NoSync()
    mode.allowed = False
    with mode, pytest.raises(AssertionError, match="_local_scalar_dense"):
        run(linear(), batches_of(1), loss_fn=reads)


# ------------------------------------------------------------------------------------------------------- stop and go on


def untimed(rows):
    return [{key: value for key, value in row.items() if key != "train_s"} for row in rows]


def parts():
    model = noisy()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    images, labels = batches_of(1, seed=9)[0]

    def measure():
        loss, acc = evaluate(model, nn.Identity(), nn.CrossEntropyLoss(), images, labels, batch_size=3)
        return {"train_eval_loss": loss, "train_eval_acc": acc, "val_loss": loss, "val_acc": acc}

    schedule = lambda step, total, history: 1 - step / total  # noqa: E731 - compounding would show
    return model, {"optimizer": optimizer, "measure": measure, "schedule": schedule, "clip": ClipNorm(0.3), "total": 12}


@pytest.mark.parametrize("stop", [1, 4, 6, 11, 12])
@pytest.mark.parametrize("anew", [False, True], ids=["same-objects", "new-objects"])
def test_a_stopped_run_goes_on_bit_by_bit(stop, anew):
    batches = batches_of(12)
    whole, settings = parts()
    torch.manual_seed(3)
    expected, _ = run(whole, batches, **settings)

    model, settings = parts()
    torch.manual_seed(3)
    rows, progress = run(model, batches[:stop], **settings)
    assert progress.step == stop
    assert len(progress.window) == stop % 4
    random_state = torch.get_rng_state()
    if anew:
        saved = deepcopy((model.state_dict(), settings["optimizer"].state_dict()))
        model, settings = parts()
        model.load_state_dict(saved[0])
        settings["optimizer"].load_state_dict(saved[1])
    torch.manual_seed(0)
    torch.set_rng_state(random_state)
    more, progress = run(model, batches[stop:], progress=progress, **settings)

    assert untimed(rows + more) == untimed(expected)
    assert untimed(progress.rows) == untimed(expected)
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_run_that_has_ended_yields_nothing_more():
    model = linear()
    rows, progress = run(model, batches_of(4))
    more, _ = run(model, [], total=4, progress=progress)
    assert len(rows) == 2
    assert more == []


def test_time_adds_up_over_the_parts_of_a_run():
    model = linear()
    _, progress = run(model, batches_of(2), total=4)
    first = progress.train_s
    rows, progress = run(model, batches_of(2), total=4, progress=progress)
    assert 0 < first < rows[-1]["train_s"]


# ------------------------------------------------------------------------------------------------------------- evaluate


def by_hand(model, images, labels):
    """Mean cross entropy and accuracy over all images, in float64."""
    z = images.double().numpy() @ model.weight.detach().double().numpy().T + model.bias.detach().double().numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    y = labels.numpy()
    return -np.log(p[np.arange(len(y)), y]).mean(), (z.argmax(1) == y).mean()


def images_and_labels(count):
    images, labels = zip(*batches_of(3, seed=4), strict=True)
    return torch.cat(images)[:count], torch.cat(labels)[:count]


@pytest.mark.parametrize("batch_size", [1, 3, 7, 19, 100])
def test_evaluation_takes_every_image_once_also_with_a_ragged_last_batch(batch_size):
    """19 images: batches of 3 leave 1 over, which must weigh as much as any other."""
    images, labels = images_and_labels(19)
    seen = []
    model = linear()
    model.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    result = evaluate(model, nn.Identity(), nn.CrossEntropyLoss(), images, labels, batch_size)
    assert result == pytest.approx(by_hand(model, images, labels), rel=1e-6)
    assert torch.equal(torch.cat(seen), images)
    assert max(map(len, seen)) <= batch_size
    assert all(isinstance(number, float) for number in result)


def test_evaluation_preprocesses():
    images, labels = images_and_labels(10)
    model = linear()
    expected = by_hand(model, images * 2 + 1, labels)
    assert evaluate(model, lambda x: x * 2 + 1, nn.CrossEntropyLoss(), images, labels, 4) == pytest.approx(
        expected, rel=1e-6
    )


def test_evaluation_is_in_evaluation_mode_and_leaves_no_trace():
    images, labels = images_and_labels(19)
    model = noisy().train()
    before, random_state = deepcopy(model.state_dict()), torch.get_rng_state()
    first = evaluate(model, nn.Identity(), nn.CrossEntropyLoss(), images, labels, 5)
    assert not any(layer.training for layer in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)  # no dropout was drawn
    assert all(parameter.grad is None for parameter in model.parameters())
    other = evaluate(model, nn.Identity(), nn.CrossEntropyLoss(), images, labels, 19)
    assert first == pytest.approx(other, rel=1e-6)  # running averages: the batch does not matter


def test_evaluation_builds_no_graph():
    images, labels = images_and_labels(4)
    seen = []
    loss_fn = lambda logits, y: seen.append(logits.requires_grad) or logits.mean()  # noqa: E731
    evaluate(linear(), nn.Identity(), loss_fn, images, labels, 2)
    assert seen == [False, False]


def test_evaluation_of_a_broken_network_is_nan_not_an_error():
    images, labels = images_and_labels(4)
    model = linear()
    with torch.no_grad():
        model.weight[0, 0] = math.nan
    loss, acc = evaluate(model, nn.Identity(), nn.CrossEntropyLoss(), images, labels, 2)
    assert math.isnan(loss)
    assert 0 <= acc <= 1
