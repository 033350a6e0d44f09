"""What a GPU alone can tell: that every part trains there, warning of nothing, and gives the same bits again.

    pytest -m gpu

Warnings are errors in the tests, and torch warns of an operation without a deterministic form (streams.py). Engines:
test_graph.py, test_stack.py.
"""

import pytest

from normbench import catalog, records, run
from normbench.norm import Impossible

pytestmark = pytest.mark.gpu

DATA = ("dataset=synthetic", "dataset.image_size=16", "epochs=1", "batch_size=15", "progress=false", "device=cuda")
MODELS = {
    "mlp": (), "lenet": (), "cnn": (), "vgg": ("model.width=4",), "resnet": ("model.depth=8", "model.width=4"),
    "vit": ("norm=ln",), "rnn": ("dataset=fashion_rows", "dataset.train_size=60"),
}  # fmt: skip
CHOICES = [
    (group, name)
    for group in ("norm", "optimizer", "clip", "augment", "preprocess", "loss", "schedule", "probe")
    for name in catalog.choices(group)
    if name != "own"
]


def trained(compose, tmp_path, *overrides):
    """The record of the whole run, and its rows without their seconds."""
    shown = [word for word in DATA if not (word.startswith("dataset") and "dataset=fashion_rows" in overrides)]
    outcome = run.run(compose(*shown, *overrides, f"out={tmp_path}"), lambda _: None)
    assert outcome.state == "complete", outcome.record.get("reason")
    rows = records.read_metrics(outcome.folder / "metrics.csv")
    return outcome.record, [{**row, "train_s": 0} for row in rows]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_trains(compose, tmp_path, group, name):
    model = {"ws": "cnn", "iternorm": "mlp"}.get(name, "lenet")
    more = {"gn": ("norm.num_groups=2",), "ws": ("model.norm_full=false",)}.get(name, ())
    trained(compose, tmp_path, f"model={model}", f"{group}={name}", *more)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ["serial", "graph"])
def test_the_same_run_gives_the_same_bits(compose, tmp_path, model, engine):
    its = (f"model={model}", *MODELS[model], f"engine={engine}", "optimizer=adam", "clip=norm")
    if (engine, model) == ("graph", "rnn"):
        with pytest.raises(Impossible, match="lengths are read"):
            trained(compose, tmp_path, *its)
        return
    (first, rows), (second, again) = (trained(compose, tmp_path / n, *its) for n in "ab")
    assert rows == again
    assert first["test_acc"] == second["test_acc"]
    assert first["test_loss"] == second["test_loss"]


@pytest.mark.parametrize(
    ("model", "setting"), [("resnet", "amp=bf16"), ("resnet", "channels_last=true"), ("vit", "amp=bf16")]
)
@pytest.mark.parametrize("engine", ["serial", "graph"])
def test_faster_arithmetic_trains(compose, tmp_path, model, setting, engine):
    record, _ = trained(compose, tmp_path, f"model={model}", *MODELS[model], setting, f"engine={engine}")
    assert record["environment"].get("graph", False) is (engine == "graph")
