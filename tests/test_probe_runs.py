"""A run with a probe: the same numbers as without, a file more, and the same file however often it was killed."""

import json

import pytest
import torch

import normbench
from normbench import build, catalog, checkpoint, config, evaluate, probing, records, run
from normbench.config import ConfigError
from normbench.norm import Impossible
from normbench.probe import Probe, Reading

SMALL = (
    "dataset=synthetic", "dataset.image_size=16", "dataset.train_size=200", "dataset.test_size=100", "batch_size=32",
    "eval.every_steps=4", "epochs=2", "progress=false",
)  # fmt: skip
PROBES = sorted(set(catalog.choices("probe")) - {"none"})
CHEAP = {"landscape": ["probe.images=32", "probe.step_sizes=[0.1,0.4]"]}
MODELS = {
    "mlp": ["model.hidden=[16,16]", "model.dropout=0.3"],
    "lenet": ["model.dropout=0.3"],
    "rnn": ["model.hidden=8", "model.dropout=0.3"],
    "vit": ["model.dim=8", "model.depth=1", "model.heads=2", "model.dropout=0.3"],
}


@pytest.fixture
def settings(compose, tmp_path):
    return lambda *more: compose(*SMALL, f"out={tmp_path}", *more)


def quiet(config):
    return run.run(config, announce=lambda _: None)


def metrics(folder):
    """Without the one column that a clock makes."""
    return [{k: v for k, v in row.items() if k != "train_s"} for row in records.read_metrics(folder / "metrics.csv")]


def flat(value):
    """Every tensor and number in a checkpoint's part."""
    if isinstance(value, dict):
        return [item for key in sorted(value, key=str) for item in flat(value[key])]
    if isinstance(value, list | tuple):
        return [item for part in value for item in flat(part)]
    return [value.numpy().tobytes() if isinstance(value, torch.Tensor) else value]


def trained(folder):
    content = checkpoint.read(folder / "checkpoint.pt")
    return flat([content[key] for key in ("model", "optimizer", "rng_cpu", "window", "step")])


# -------------------------------------------------------------------------------------------------------- not a number


@pytest.mark.parametrize("norm", ["bn", "wn", "sn", "brn", "iternorm"])
@pytest.mark.parametrize("model", ["mlp", "lenet", "rnn", "vit"])
def test_a_probe_changes_no_bit(settings, model, norm):
    more = [f"model={model}", f"norm={norm}", *MODELS[model], "augment=noise", "clip=norm", "clip.max_norm=0.5"]
    more += ["norm.group_size=2"] if norm == "iternorm" else ["norm.ramp_steps=5"] if norm == "brn" else []
    plain = quiet(settings(*more))
    assert plain.state == "complete", plain.record["reason"]
    for probe in PROBES:
        if (model, probe) == ("rnn", "activations"):
            continue  # refused: see below
        outcome = quiet(settings(*more, f"probe={probe}", *CHEAP.get(probe, [])))
        assert metrics(outcome.folder) == metrics(plain.folder), probe
        assert trained(outcome.folder) == trained(plain.folder), probe
        assert (outcome.record["test_loss"], outcome.record["val_acc"]) == (
            plain.record["test_loss"], plain.record["val_acc"]
        )  # fmt: skip
        read = records.read_layers(outcome.folder / "layers.csv")
        assert {row[0] for row in read} == {row["step"] for row in metrics(plain.folder)} - (
            {0} if probe == "gradients" else set()
        )


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("optimizer", ["muon", "sgd"])
def test_nor_with_other_optimizers_and_amp(settings, probe, optimizer):
    more = [f"optimizer={optimizer}", "amp=bf16", "clip=update", "optimizer.weight_decay=0.01", "schedule=plateau"]
    plain, probed = quiet(settings(*more)), quiet(settings(*more, f"probe={probe}"))
    assert metrics(probed.folder) == metrics(plain.folder)
    assert trained(probed.folder) == trained(plain.folder)


def test_the_network_is_left_as_it_was(settings):
    built = build.build(settings("norm=brn", "model.dropout=0.5"))
    model = built.model.train()
    model.blocks[0].norm.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    buffers = [id(buffer) for buffer in model.buffers()]
    torch.manual_seed(3)
    random = torch.get_rng_state()
    loss = probing.loss_of(built, 64)
    first = loss()
    assert (model.blocks[0].norm.training, model.blocks[0].dropout.training) == (False, True)
    assert [id(buffer) for buffer in model.buffers()] == buffers
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert loss().item() == first.item()  # nothing random in it
    first.backward()  # though its buffers were exchanged meanwhile


def test_norms_work_by_the_batch_while_they_are_looked_at(settings):
    """With running statistics of nonsense, the activations are those of a normalized batch all the same."""
    built = build.build(settings("norm=bn", "probe=activations"))
    built.model.blocks[0].norm.running_mean.fill_(1e6)
    found = {r.stat: r.value for r in built.probe.measure(built.model, probing.loss_of(built, 150))}
    assert found["rms"] == pytest.approx(1, abs=1e-3)


def test_the_fixed_batch_is_spread_over_the_training_subset(settings):
    built = build.build(settings())
    seen = []
    built.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = built.data.train_eval[0]
    probing.loss_of(built, 4)()
    assert torch.equal(seen[-1], built.preprocess(images[torch.arange(4) * len(images) // 4]))
    probing.loss_of(built, 10**6)()
    assert torch.equal(seen[-1], built.preprocess(images))


# ------------------------------------------------------------------------------------------------ names and records


def test_no_probe_leaves_names_and_files_as_they_were(compose, settings):
    assert config.run_id(compose()) == "mlp-bn-adam-s0-51292f3e71c3"  # as the README has it
    outcome = quiet(settings())
    assert not (outcome.folder / "layers.csv").exists()
    assert "\nprobe:" not in (outcome.folder / "config.yaml").read_text()
    assert not {"probe_s", "health"} & outcome.record.keys()
    assert "probe" not in outcome.record["config"]
    assert not {"layers", "probe", "probe_s"} & checkpoint.read(outcome.folder / "checkpoint.pt").keys()
    assert config.from_dict(outcome.record["config"]).probe == config.NO_PROBE


def test_a_finished_run_without_a_probe_is_not_taken_for_one_with_it(settings):
    plain, probed = settings(), settings("probe=gradients")
    assert plain.folder != probed.folder
    assert len({settings(f"probe={p}").folder for p in (*PROBES, "none")}) == len(PROBES) + 1
    quiet(plain)
    assert quiet(probed).new
    assert not quiet(probed).new


def test_layers_csv_is_vouched_for(settings):
    folder = quiet(settings("probe=activations")).folder
    written = (folder / "layers.csv").read_bytes()
    assert "layers.csv" in records.verify(folder)["files"]
    (folder / "layers.csv").write_bytes(written.replace(b"p50", b"p51"))
    with pytest.raises(records.Damaged, match=r"layers\.csv is damaged"):
        records.verify(folder)
    quiet(settings("probe=activations"))  # made again, from the checkpoint
    assert (folder / "layers.csv").read_bytes() == written


def test_its_time_is_recorded_within_that_of_evaluation(settings):
    record = quiet(settings("probe=landscape")).record
    assert 0 < record["probe_s"] < record["eval_s"]


@pytest.mark.parametrize("probe", PROBES)
def test_killed_and_resumed_it_writes_the_same_bytes(settings, monkeypatch, probe):
    """Ended at the 5th and the 19th step, of which neither is an evaluation, and at a write; then the rest."""
    more = [f"probe={probe}", "checkpoint.every_s=0", *(["probe.every=3"] if probe == "gradients" else [])]
    whole = quiet(settings(*more, "name=whole")).folder
    for last in (5, 9):
        real = run.Attempt.__init__

        def with_an_end(self, *args, real=real, last=last):
            real(self, *args)
            self.should_stop = lambda: self.progress.step == last

        monkeypatch.setattr(run.Attempt, "__init__", with_an_end)
        assert quiet(settings(*more, "name=killed")).state == "paused"
        monkeypatch.undo()
    killed = settings(*more, "name=killed")
    for nth in (2, 5):
        count, write = iter(range(1000)), records.write

        def dying(path, data, count=count, nth=nth, write=write):
            if next(count) == nth:
                raise KeyboardInterrupt
            write(path, data)

        monkeypatch.setattr(records, "write", dying)
        monkeypatch.setattr(run.Attempt, "give_up", lambda self, *_: run.Outcome("interrupted", self.folder, {}))
        with pytest.raises(KeyboardInterrupt):
            quiet(killed)
        monkeypatch.undo()
    folder = quiet(killed).folder
    assert (folder / "layers.csv").read_bytes() == (whole / "layers.csv").read_bytes()
    assert metrics(folder) == metrics(whole)
    assert trained(folder) == trained(whole)


def test_no_row_is_ahead_of_the_weights(settings, monkeypatch):
    """What a run that failed leaves: as far as its checkpoint, in both files."""
    real, count = build.Built.batches, iter(range(1, 100))

    def failing(self, steps):
        for batch in real(self, steps):
            if next(count) == 7:
                raise RuntimeError("out of luck")
            yield batch

    monkeypatch.setattr(build.Built, "batches", failing)
    outcome = quiet(settings("probe=activations", "checkpoint.every_s=10000"))
    assert outcome.state == "failed"
    assert records.read_layers(outcome.folder / "layers.csv") == []
    assert metrics(outcome.folder) == []


def test_a_run_that_diverges_keeps_the_rows_of_its_last_finite_evaluation(settings):
    more = ["optimizer=sgd", "norm=none", "optimizer.lr=1e30"]
    outcome = quiet(settings(*more, "probe=landscape"))
    assert outcome.state == "diverged"
    assert {row[0] for row in records.read_layers(outcome.folder / "layers.csv")} == {0}
    assert metrics(outcome.folder) == metrics(quiet(settings(*more)).folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1 must be step,layer,layer_index,kind,stat,value"),
        ("step,layer\n", "line 1 must be"),
        ("{head}\n0,a,0,grad,norm,1.0", "its last line is torn"),
        ("{head}\n0,a,0,grad,norm\n", "line 2 is '0,a,0,grad,norm'"),
        ("{head}\n0,a,0,grad,norm,1.0\nx,a,0,grad,norm,1.0\n", "line 3 is"),
        ("{head}\n4,a,0,grad,norm,1.0\n0,a,0,grad,norm,1.0\n", "line 3 goes back to step 0"),
    ],
)
def test_a_strange_layers_csv_is_refused(tmp_path, text, words):
    path = tmp_path / "layers.csv"
    path.write_text(text.replace("{head}", ",".join(records.LAYERS)))
    with pytest.raises(records.Damaged, match=words):
        records.read_layers(path)


def test_layers_csv_gives_back_every_float(tmp_path):
    rows = [(0, "a, b", 0, "grad", "norm", 0.1 + 0.2), (3, "a, b", 0, "grad", "norm", float("inf"))]
    (tmp_path / "layers.csv").write_bytes(records.layers_csv(rows))
    assert records.read_layers(tmp_path / "layers.csv") == rows


# -------------------------------------------------------------------------------------------------------- health card


def test_the_health_card_is_what_evaluate_finds(settings):
    outcome = quiet(settings("probe=gradients", "norm=sn", "eval.statistics=[ema,population,batch]"))
    card = outcome.record["health"]
    for kind, numbers in outcome.record["statistics"].items():
        assert card["val"][kind] == {key: numbers[key] for key in ("val_loss", "val_acc")}
    assert card["val"]["ema"] != card["val"]["batch"]
    assert card["norm_readings"] == outcome.record["norm_readings"] != {}
    assert (0 <= card["dead"] <= 1, card["saturated"]) == (True, None)
    assert json.loads((outcome.folder / "run.json").read_text())["health"] == card


def test_a_norm_without_running_statistics_has_one_number(settings, monkeypatch):
    real, kinds = evaluate.by_statistics, []

    def counting(built, asked, *args, **more):
        kinds.append(tuple(asked))
        return real(built, asked, *args, **more)

    monkeypatch.setattr(evaluate, "by_statistics", counting)
    card = quiet(settings("probe=gradients", "norm=ln")).record["health"]
    assert card["val"]["ema"] == card["val"]["population"] == card["val"]["batch"]
    assert [its for its in kinds if its] == [("ema",)]


def test_a_network_without_norm_layers_has_no_card(settings):
    assert "health" not in quiet(settings("probe=gradients", "norm=none")).record


def test_saturated_units_of_a_network_that_is(settings):
    more = ["model.activation=tanh", "model.init_scale=1000", "norm=bn", "model.placement=post"]
    card = quiet(settings("probe=activations", *more)).record["health"]
    assert (card["dead"], card["saturated"] > 0.9) == (None, True)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("more", "kind", "words"),
    [
        (["probe=activations", "model=rnn"], Impossible, "probe=activations with model=rnn: .* try probe=gradients"),
        (["probe=activations", "probe.unit=64"], Impossible, "unit must be less than the 64 units of blocks.0.activ"),
        (["probe=activations", "probe.images=0"], ConfigError, "probe=activations: images must be a whole number"),
        (["probe=gradients", "probe.every=0"], ConfigError, "probe=gradients: every must be"),
        (["probe=landscape", "probe.step_sizes=[-1]"], ConfigError, "step_sizes must be a list of numbers > 0"),
        (
            ["probe._target_=collections.Counter"],
            ConfigError,
            "must be a class that inherits from normbench.probe.Probe",
        ),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_written(settings, more, kind, words, tmp_path):
    with pytest.raises(kind, match=words):
        quiet(settings(*more))
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"]


class OfMyOwn(Probe):
    """The first weight of every layer."""

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def measure(self, model, loss):
        first = [(path, p.flatten()[0].item()) for path, p in model.named_parameters()]
        return [Reading(path, i, "weight", "first", self.scale * value) for i, (path, value) in enumerate(first)]


def test_a_probe_of_ones_own(settings):
    outcome = quiet(settings("probe._target_=test_probe_runs.OfMyOwn", "+probe.scale=2.0"))
    assert outcome.state == "complete"
    rows = records.read_layers(outcome.folder / "layers.csv")
    network = normbench.load(outcome.folder)  # its probe is no part of it, so no code of one's own to trust
    expected = [2 * p.flatten()[0].item() for _, p in network.named_parameters()]
    assert [row[5] for row in rows if row[0] == outcome.record["steps"]] == expected
    assert outcome.record["config"]["probe"]["name"] == "OfMyOwn"
