"""engine=graph, as far as a CPU can tell: a recorded step, replayed without its Python, is the step.

On the CPU torch.fx records in the place of CUDA: what the step does to tensors, with Python's numbers as they were.
Unlike CUDA it does the step while it records, so that the first replay has nothing left to do.
"""

import dataclasses
from functools import partial

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from normbench import build, catalog, checkpoint, graph, records, run, streams
from normbench.config import ConfigError
from normbench.norm import Impossible
from normbench.stack import replicas
from normbench.train import Progress

DATA = ("dataset=synthetic", "epochs=2", "batch_size=15", "progress=false", "device=cpu")  # 30 steps an epoch
SMALL = {
    "mlp": ("model=mlp", "dataset.image_size=8"),
    "lenet": ("model=lenet", "dataset.image_size=16"),
    "cnn": ("model=cnn", "dataset.image_size=8"),  # with dropout
    "vgg": ("model=vgg", "model.width=4", "dataset.image_size=8"),
    "resnet": ("model=resnet", "model.depth=8", "model.width=4", "dataset.image_size=8"),
    "vit": ("model=vit", "norm=ln", "dataset.image_size=8"),
}


class Tape:
    """A recorder; `count` says how often it was asked to record."""

    def __init__(self):
        self.count = 0

    def __call__(self, function):
        self.count += 1
        nothing = torch.zeros(())
        done = make_fx(lambda _: function())(nothing)
        replays = [0]

        def replay():
            replays[0] += 1
            if replays[0] > 1:
                with torch.no_grad():
                    done(nothing)

        return replay


def captured_by(tape, built, optimizer, rows):
    return lambda step: graph.Captured(step, optimizer, built.device, rows, tape)


def trained(config, monkeypatch, tape=None, steps=None):
    """The run's Attempt after its training; with a tape, the step is recorded and replayed."""
    streams.set_determinism(1)
    built = build.build(config)
    attempt = run.Attempt(config, built)
    attempt.stop_step = steps or attempt.stop_step
    with monkeypatch.context() as patch:
        if tape:
            patch.setattr(graph, "capturing", partial(captured_by, tape))
        for _ in attempt.rows(bar=False):
            pass
    return attempt


def numbers(attempt):
    """Its rows, without their seconds, and what the steps since the last one measured."""
    rows = [{key: value for key, value in row.items() if key != "train_s"} for row in attempt.progress.rows]
    return rows, [[value.sum().item() for value in step] for step in attempt.progress.window]  # hits: how many


def assert_same_bits(ours, theirs):
    assert ours.progress.step == theirs.progress.step
    assert numbers(ours) == numbers(theirs)
    before, now = theirs.built.model.state_dict(), ours.built.model.state_dict()
    assert all(torch.equal(before[name], now[name]) for name in before)


# --------------------------------------------------------------------------------------------- the step, replayed


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_a_replayed_step_is_the_step(compose, monkeypatch, optimizer):
    """Bit for bit, with a learning rate that float32 has exactly: on the device it has no more digits."""
    more = (f"optimizer={optimizer}", "optimizer.lr=0.0078125", "schedule=constant", "eval.every_steps=7", "clip=norm")
    config = compose(*DATA, *SMALL["mlp"], *more)
    tape = Tape()
    ours, theirs = trained(config, monkeypatch, tape), trained(config, monkeypatch)
    assert tape.count == 1
    assert ours.progress.step == 60
    assert_same_bits(ours, theirs)


def test_the_learning_rate_of_every_step_reaches_it(compose, monkeypatch):
    config = compose(*DATA, *SMALL["mlp"], "optimizer=momentum", "schedule=cosine", "schedule.warmup_epochs=0.5")
    ours, theirs = trained(config, monkeypatch, Tape()), trained(config, monkeypatch)
    for a, b in zip(ours.built.model.parameters(), theirs.built.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)
    lrs = [row["lr"] for row in ours.progress.rows]
    assert lrs == [row["lr"] for row in theirs.progress.rows]
    assert all(type(lr) is float for lr in lrs)
    assert all(type(group["lr"]) is float for group in ours.built.optimizer.param_groups)


def test_a_number_that_stays_in_python_would_be_noticed(compose, monkeypatch):
    """The tape does not run the step's Python again: with the rates left out of it, the schedule has no effect."""
    config = compose(*DATA, *SMALL["mlp"], "optimizer=sgd", "schedule=cosine")
    monkeypatch.setattr(graph.Captured, "_give", lambda self, x, y: setattr(self, "batch", (x, y)))
    monkeypatch.setattr(graph.Captured, "_whole", bare)
    ours, theirs = trained(config, monkeypatch, Tape()), trained(config, monkeypatch)
    different = [
        not torch.equal(a, b) for a, b in zip(*(t.built.model.parameters() for t in (ours, theirs)), strict=True)
    ]
    assert any(different)


def bare(self):
    measured = self.step(*self.batch)
    self.columns = self.columns or [value.new_zeros((self.rows, *value.shape)) for value in measured]


@pytest.mark.parametrize("norm", catalog.choices("norm"))
def test_with_every_norm(compose, monkeypatch, norm):
    more = ("norm.num_groups=2",) if norm == "gn" else ()
    model = "mlp" if norm in ("ws", "iternorm") else "lenet"
    its = [word for word in (*DATA, *SMALL[model]) if not (word.startswith("norm="))]
    if norm == "ws":
        its = [*DATA, *SMALL["cnn"], "model.norm_full=false"]
    config = compose(*its, f"norm={norm}", *more, "optimizer=sgd", "optimizer.lr=0.0625", "schedule=constant")
    ours, theirs = (trained(config, monkeypatch, tape, steps=8) for tape in (Tape(), None))
    assert_same_bits(ours, theirs)


@pytest.mark.parametrize("model", [name for name in SMALL if name not in ("mlp", "lenet")])
def test_with_every_model(compose, monkeypatch, model):
    config = compose(*DATA, *SMALL[model], "optimizer=sgd", "optimizer.lr=0.0625", "schedule=constant")
    ours, theirs = (trained(config, monkeypatch, tape, steps=6) for tape in (Tape(), None))
    assert_same_bits(ours, theirs)


@pytest.mark.parametrize("clip", [name for name in catalog.choices("clip") if name != "update"])
def test_with_every_clipping_rule(compose, monkeypatch, clip):
    more = ("optimizer=sgd", "optimizer.lr=0.0625", "schedule=constant")
    config = compose(*DATA, *SMALL["mlp"], f"clip={clip}", *more)
    ours, theirs = (trained(config, monkeypatch, tape, steps=8) for tape in (Tape(), None))
    assert_same_bits(ours, theirs)


def test_what_the_steps_measured_waits_in_a_ring(compose, monkeypatch):
    """More steps than rows in it; what is read has each step once."""
    more = ("optimizer=sgd", "optimizer.lr=0.0625", "schedule=constant", "eval.every_steps=4")
    config = compose(*DATA, *SMALL["mlp"], *more)
    ours, theirs = (trained(config, monkeypatch, tape, steps=22) for tape in (Tape(), None))
    assert len(ours.progress.rows) == 6
    assert len(ours.progress.window) == 2
    assert_same_bits(ours, theirs)


def test_a_run_goes_on_where_it_was(compose, monkeypatch, tmp_path):
    more = ("optimizer=adam", "optimizer.lr=0.0078125", "schedule=constant", "eval.every_steps=8")
    whole = compose(*DATA, *SMALL["mlp"], *more, f"out={tmp_path / 'whole'}")
    parts = dataclasses.replace(whole, out=str(tmp_path / "parts"), stop_epoch=1)
    monkeypatch.setattr(graph, "capturing", partial(captured_by, Tape()))
    made = build.build
    monkeypatch.setattr(build, "build", lambda config: dataclasses.replace(made(config), captured=True))
    outcomes = [
        run.run(config, lambda _: None) for config in (whole, parts, dataclasses.replace(parts, stop_epoch=None))
    ]
    assert [outcome.state for outcome in outcomes] == ["complete", "paused", "complete"]
    rows = [records.read_metrics(outcome.folder / "metrics.csv") for outcome in (outcomes[0], outcomes[2])]
    assert [{**row, "train_s": 0} for row in rows[0]] == [{**row, "train_s": 0} for row in rows[1]]


@pytest.mark.parametrize("captured", [False, True])
def test_what_was_measured_on_one_device_is_read_on_another(compose, tmp_path, captured):
    """A recorded step keeps how many images were hit, another one which: a stack may meet both kinds."""
    config = compose(*DATA, *SMALL["mlp"], "eval.every_steps=9", f"out={tmp_path}")
    attempt = run.Attempt(config, build.build(config))
    attempt.stop_step = 13
    for _ in attempt.rows(bar=False):
        pass
    hits = [int(step[1].sum()) for step in attempt.progress.window]
    attempt.folder.mkdir(parents=True)
    attempt.save()
    content = checkpoint.read(attempt.folder / "checkpoint.pt")
    built = dataclasses.replace(build.build(config), captured=captured)
    progress = Progress()
    checkpoint.restore(content, built, progress)
    assert [tuple(step[1].shape) for step in progress.window] == [(1,) if captured else (15,)] * 4
    assert [int(step[1].sum()) for step in progress.window] == hits
    columns = [torch.stack(column) for column in zip(*progress.window, strict=True)]
    checkpoint.restore({**content, "window": columns}, dataclasses.replace(built, captured=not captured), progress)
    assert [int(step[1].sum()) for step in progress.window] == hits
    assert [tuple(step[1].shape) for step in progress.window] == [(15,) if captured else (1,)] * 4


def test_an_optimizer_goes_on_as_it_steps_on_the_new_device(compose):
    """A run begun with torch's fused Adagrad on the CPU has none of it on a GPU."""
    config = compose(*DATA, *SMALL["mlp"], "optimizer=adagrad")
    built, other = build.build(config), build.build(config)
    other.optimizer = torch.optim.Adagrad(other.model.parameters(), lr=0.01, foreach=True)
    content = {"trained": None, "model": built.model.state_dict(), "optimizer": built.optimizer.state_dict()}
    content |= {"step": 0, "train_s": 0.0, "eval_s": 0.0, "rows": [], "window": [], "rng_cuda": []}
    assert built.optimizer.param_groups[0]["fused"] is True
    checkpoint.restore({**content, "rng_cpu": torch.get_rng_state()}, other, Progress())
    assert other.optimizer.param_groups[0]["fused"] is None
    assert other.optimizer.param_groups[0]["foreach"] is True


def test_a_diverged_run_says_at_which_step(compose, monkeypatch):
    config = compose(*DATA, *SMALL["mlp"], "optimizer=sgd", "optimizer.lr=1e30", "schedule=constant")
    ours, theirs = trained(config, monkeypatch, Tape()), trained(config, monkeypatch)
    assert theirs.progress.diverged_step == ours.progress.diverged_step is not None


def test_a_stack_replayed_is_the_stack(compose, monkeypatch):
    base = (*DATA, *SMALL["mlp"], "optimizer=adam", "schedule=constant", "clip=norm", "engine=stack", "epochs=1")
    each = [("seed=0", "optimizer.lr=0.0078125"), ("seed=1", "optimizer.lr=0.015625")]
    ours, theirs = [], []
    for members, tape in ((ours, Tape()), (theirs, None)):
        streams.set_determinism(1)
        members += [replicas.Replica(config, build.build(config)) for config in (compose(*base, *its) for its in each)]
        with monkeypatch.context() as patch:
            if tape:
                patch.setattr(graph, "capturing", partial(captured_by, tape))
            stack = replicas.Stack(members)
            for _ in stack.rows(bar=False):
                pass
        for place in range(stack.width):
            stack.take(place)
    for a, b in zip(ours, theirs, strict=True):
        assert_same_bits(a, b)


# ----------------------------------------------------------------------------------------------------- refusals


def test_on_a_cpu_it_is_refused(compose):
    with pytest.raises(ConfigError, match=r"engine=graph records what a CUDA device does.*is cpu; try engine=serial"):
        build.build(compose(*DATA, "engine=graph"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("optimizer=lion",), "optimizer=lion does not take its learning rate from the device"),
        (("optimizer=muon",), "optimizer=muon does not"),
        (("optimizer=adagrad",), "optimizer=adagrad does not"),  # torch has its fused kernel for the CPU alone
        (("optimizer=momentum", "schedule.scales=[lr,momentum]"), "schedule=cosine moves momentum"),
        (("schedule=onecycle",), "schedule=onecycle moves momentum"),
        (("clip=update",), "clip=update reads the learning rate"),
        (("probe=gradients",), "probe=gradients looks into the step"),
        (("dataset=fashion_rows", "model=rnn", "dataset.train_size=100"), "lengths are read"),
        (("model=own", "model._target_=test_graph.Own", "norm=none"), "model=Own may do in Python"),
        (("loss=cross_entropy",), None),
        (("schedule=onecycle", "schedule.cycle_momentum=false"), None),
    ],
)
def test_what_can_not_be_recorded_is_refused_with_the_reason(compose, overrides, words):
    built = build.build(
        compose(
            *(word for word in DATA if not overrides[0].startswith("dataset=") or word[:7] != "dataset"), *overrides
        )
    )
    why = graph.why_not(built)
    if words is None:
        assert why is None
        graph.check(built)
        return
    assert words in why
    with pytest.raises(Impossible, match=r"engine=graph does not serve this run: .*; try engine=serial"):
        graph.check(built)


class Own(nn.Module):
    def __init__(self, num_classes, input_shape):
        super().__init__()
        self.layer = nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], num_classes)

    def forward(self, x):
        return self.layer(x.flatten(1))


# --------------------------------------------------------------------------------------------------------- a GPU

ON_GPU = ("dataset=synthetic", "epochs=2", "batch_size=15", "progress=false", "device=cuda", "eval.every_steps=10")


@pytest.mark.gpu
@pytest.mark.parametrize(
    "optimizer", ["sgd", "nesterov", "adam", "adamw", "rmsprop", "adadelta", "nadam", "radam", "adamax"]
)
def test_on_a_gpu_a_graph_is_the_serial_run(compose, optimizer):
    """But for rounding, which the learning rate's float32 adds to."""
    config = compose(*ON_GPU, *SMALL["mlp"], f"optimizer={optimizer}", "clip=norm")
    ours = run.Attempt(config, build.build(dataclasses.replace(config, engine="graph")))
    theirs = run.Attempt(config, build.build(config))
    assert ours.built.captured
    for attempt in (ours, theirs):
        for _ in attempt.rows(bar=False):
            pass
    for a, b in zip(ours.built.model.parameters(), theirs.built.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("model", SMALL)
def test_on_a_gpu_every_model_is_recorded(compose, model, tmp_path):
    config = compose(*ON_GPU, *SMALL[model], "engine=graph", f"out={tmp_path}")
    outcome = run.run(config, lambda _: None)
    assert outcome.state == "complete"
    assert outcome.record["environment"]["graph"] is True


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("engine", ["graph", "stack"])
def test_on_a_gpu_no_step_waits_for_the_device(compose, engine, monkeypatch):
    config = compose(*ON_GPU, *SMALL["mlp"], f"engine={engine}", "eval.every_steps=100")
    built = build.build(config)
    if engine == "stack":
        rows = replicas.Stack([replicas.Replica(config, built)]).rows(bar=False)
    else:
        rows = run.Attempt(config, built).rows(bar=False)
    next(rows)
    take = graph.Captured.__call__

    def watched(self, x, y):
        mode = "error" if self.taken > graph.WARM_UP else "default"
        torch.cuda.set_sync_debug_mode(mode)
        try:
            return take(self, x, y)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(graph.Captured, "__call__", watched)
    for _ in rows:
        pass
