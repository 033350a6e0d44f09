"""What a step asks of torch: nothing that waits for the device, and no more operators than it did.

Counted below autograd, on the CPU, without views: each is one kernel or more on a GPU, and microseconds of dispatch
anywhere.
Batches, schedule and bookkeeping are in it; evaluations are not.
"""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from normbench import build, catalog, checkpoint, evaluate, run, streams, train
from normbench.stack import replicas

DATA = ("dataset=synthetic", "epochs=2", "batch_size=15", "progress=false", "eval.every_steps=1000")
MODELS = {"mlp": ("model=mlp", "dataset.image_size=8"), "lenet": ("model=lenet", "dataset.image_size=16")}
WAIT = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_consecutive", "_unique2"}
# operators a step with torch 2.13, the stack's with 3 replicas
MOST = {
    ("serial", "mlp", "none"): 29,
    ("serial", "mlp", "norm"): 33,
    ("serial", "lenet", "none"): 53,
    ("stack", "mlp", "none"): 37,
    ("stack", "lenet", "none"): 81,
}


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[func.overloadpacket.__name__] += not func.is_view
        return func(*args, **(kwargs or {}))


def operators(make, steps):
    """What so many steps of a run do, from the first one."""
    rows = make(steps)
    next(rows)  # at step 0: an evaluation
    with Operators() as counted:
        assert list(rows) == []
    return counted.seen


def serial(config):
    def make(steps):
        streams.set_determinism(1)
        attempt = run.Attempt(config, build.build(config))
        attempt.stop_step = steps
        return attempt.rows(bar=False)

    return make


def stack(*configs):
    def make(steps):
        streams.set_determinism(1)
        its = replicas.Stack([replicas.Replica(config, build.build(config)) for config in configs])
        its.first.stop_step = steps
        return its.rows(bar=False)

    return make


def a_step_of(make):
    """The operators of a step that begins no epoch and is not the optimizer's first."""
    two, six = operators(make, 2), operators(make, 6)
    assert all((six[name] - two[name]) % 4 == 0 for name in six)
    return Counter({name: (six[name] - two[name]) // 4 for name in six})


@pytest.mark.parametrize(("engine", "model", "clip"), MOST)
def test_a_step_has_no_more_operators_than_it_had(compose, engine, model, clip):
    words = (*DATA, *MODELS[model], f"clip={clip}", f"engine={engine}")
    made = serial(compose(*words)) if engine == "serial" else stack(*(compose(*words, f"seed={n}") for n in range(3)))
    found = a_step_of(made)
    assert found.total() <= MOST[engine, model, clip], found


@pytest.mark.parametrize(
    "more",
    [
        *((f"norm={norm}",) for norm in catalog.choices("norm") if norm != "gn"),
        ("norm=gn", "norm.num_groups=2"),
        *((f"clip={clip}",) for clip in catalog.choices("clip")),
        ("loss=squared_error",),
        *((f"augment={augment}",) for augment in catalog.choices("augment")),
        ("optimizer=momentum", "optimizer.weight_decay=0.1", "optimizer.decay_norm_and_bias=false"),
        ("amp=bf16",),
    ],
    ids=" ".join,
)
def test_no_step_waits_for_the_device(compose, more):
    """Optimizers without fused kernels count their steps on the CPU, whatever the device: they are not in here."""
    model = ("model=cnn", "model.norm_full=false", "dataset.image_size=8", "dataset.channels=3")
    seen = operators(serial(compose(*DATA, *model, *more)), 3)
    assert seen.total() > 100
    assert not WAIT & seen.keys()


@pytest.mark.parametrize("clip", ["none", "norm", "value", "layer"])
def test_no_step_of_a_stack_waits_for_the_device(compose, clip):
    configs = [compose(*DATA, *MODELS["lenet"], f"clip={clip}", "engine=stack", f"seed={n}") for n in range(2)]
    assert not WAIT & operators(stack(*configs), 3).keys()


def test_a_wait_would_be_noticed(compose, monkeypatch):
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self, closure=None: bool(self.param_groups[0]["params"][0].sum())
    )
    assert "_local_scalar_dense" in operators(serial(compose(*DATA, *MODELS["mlp"])), 1)


def test_the_end_of_a_run_evaluates_the_test_images_alone(compose, tmp_path, monkeypatch):
    """The last row has the other numbers: the network is as it was evaluated."""
    real, sizes = train.evaluate, []

    def counting(model, preprocess, loss_fn, images, *args, **more):
        sizes.append(len(images))
        return real(model, preprocess, loss_fn, images, *args, **more)

    monkeypatch.setattr(train, "evaluate", counting)
    config = compose(*DATA, *MODELS["mlp"], f"out={tmp_path}")
    record = run.run(config, lambda _: None).record
    assert sizes == [record["n_val"], record["n_val"]] * 2 + [record["n_test"]]  # train_eval is as large as val
    built = build.build(config)
    built.model.load_state_dict(checkpoint.read(tmp_path / "runs" / record["run_id"] / "checkpoint.pt")["model"])
    assert evaluate.by_statistics(built, ["ema"]) == record["statistics"]
