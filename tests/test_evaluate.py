"""Evaluation with running, population and batch statistics: by hand, at the end of a run, and from its checkpoint."""

import csv
import json
from copy import deepcopy

import pytest
import torch
from torch import nn

from normbench import build, cli, evaluate, records, run, streams
from normbench.norm.bn import BatchNorm
from normbench.norm.brn import BatchRenorm

SMALL = ("dataset=synthetic", "model.hidden=[16]", "epochs=2", "device=cpu")


@pytest.fixture
def trained(compose, tmp_path):
    """trained("norm=bn", ...) -> the outcome of a small run."""

    def make(*overrides):
        config = compose(*SMALL, *overrides, f"out={tmp_path}/{len(list(tmp_path.iterdir()))}")
        return run.run(config, announce=lambda _: None, bar=False)

    return make


def read(table):
    return list(csv.DictReader(table.read_text().splitlines()))


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------- population


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 2)], ids=str)
def test_population_statistics_are_the_papers(shape):
    """Algorithm 2: the mean of the batches' means, m/(m-1) times the mean of their biased variances."""
    model = nn.Sequential(BatchNorm().layer(4)).double()
    model(randn(*shape, seed=99) * 7)  # running averages that must not matter
    batches = [randn(*shape, seed=seed) * (seed + 1) + seed for seed in range(5)]
    evaluate.recalibrate(model, batches)
    rows = torch.stack([x.transpose(0, 1).reshape(4, -1) for x in batches])  # (batches, C, m)
    m = rows.shape[2]
    torch.testing.assert_close(model[0].running_mean, rows.mean(2).mean(0), rtol=1e-12, atol=1e-12)
    biased = ((rows - rows.mean(2, keepdim=True)) ** 2).sum(2) / m
    torch.testing.assert_close(model[0].running_var, m / (m - 1) * biased.mean(0), rtol=1e-12, atol=1e-12)
    assert model[0].momentum == 0.1
    assert not model.training


def test_population_statistics_of_a_deep_layer_are_those_of_what_training_sends_it():
    """The second layer sees what the first makes with each batch's own statistics."""
    first, linear, second = BatchNorm().layer(4), nn.Linear(4, 3), BatchNorm().layer(3)
    model = nn.Sequential(first, linear, second).double()
    batches = [randn(8, 4, seed=seed) * (seed + 1) for seed in range(3)]
    means = [linear((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()).mean(0) for x in batches]
    evaluate.recalibrate(model, batches)
    torch.testing.assert_close(second.running_mean, torch.stack(means).mean(0).detach(), rtol=1e-12, atol=1e-12)


def test_population_statistics_of_renormalization_are_gathered_without_its_correction():
    """Else the layers behind it would see what the old running averages make of the batches."""
    layer = BatchRenorm(ramp_steps=0).layer(4).double()
    for seed in range(20):
        layer.train()(randn(16, 4, seed=seed) + 2)
    tracked = layer.num_batches_tracked.item()
    batches = [randn(16, 4, seed=seed) * 3 for seed in range(4)]
    outputs = []
    layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output.clone()))
    evaluate.recalibrate(layer, batches)
    for x, output in zip(batches, outputs, strict=True):
        expected = (x - x.mean(0)) / (x.var(0, correction=0) + layer.eps).sqrt()
        torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    sigmas = torch.stack([(x.var(0, correction=0) + layer.eps).sqrt() for x in batches])
    torch.testing.assert_close(layer.running_sigma, sigmas.mean(0), rtol=1e-12, atol=1e-12)
    assert layer.num_batches_tracked == tracked
    corrected = layer.train()(batches[0] * 5)
    expected = (batches[0] - batches[0].mean(0)) / (batches[0].var(0, correction=0) + layer.eps / 25).sqrt()
    assert (corrected - expected).abs().max() > 0.1, "training has it again"


def test_population_statistics_take_in_every_batch_once_and_no_dropout(compose):
    built = build.build(compose(*SMALL, "model.dropout=0.5", "norm=bn"))
    with evaluate._statistics("population", built):
        found = next(m for m in built.model.modules() if isinstance(m, nn.BatchNorm1d | type(BatchNorm().layer(1))))
        mean = found.running_mean.clone()
    linear = built.model.blocks[0].linear
    last = built.config.epochs * built.steps_per_epoch
    outputs = [linear(x.flatten(1)).mean(0) for x, _ in built.batches(range(last, last + built.steps_per_epoch))]
    torch.testing.assert_close(mean, torch.stack(outputs).mean(0).detach(), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- images at once


@pytest.mark.parametrize(
    ("overrides", "widest", "count"),
    [
        (("model=mlp", "model.hidden=[16]"), 16, 1000),
        (("model=mlp", "model.hidden=[10000]"), 10000, 419),
        (("model=cnn", "dataset.image_size=28"), 32 * 28 * 28, 167),
        (("model=lenet", "dataset.image_size=28"), 6 * 24 * 24, 1000),
        (("model=mlp", "model.hidden=[5000000]", "dataset.image_size=2"), 5000000, 1),
        (("model=cnn", "dataset.image_size=28", "eval.batch_size=77"), 32 * 28 * 28, 77),
    ],
    ids=str,
)
def test_an_evaluation_takes_so_many_images_that_no_layer_gives_more_than_16_megabytes(
    compose, overrides, widest, count
):
    built = build.build(compose("dataset=synthetic", "device=cpu", *overrides))
    assert built.widest == widest
    assert evaluate.images_at_once(built) == evaluate.images_at_once(built, width=16) == count
    seen = []
    first = next(layer for layer in built.model.modules() if isinstance(layer, nn.Linear | nn.Conv2d))
    first.register_forward_pre_hook(lambda _layer, inputs: seen.append(len(inputs[0])))
    run.Attempt(built.config, built).measure()
    assert max(seen) <= count
    assert min(seen) >= min(count, len(built.data.val[1])) - count // 2, "in parts of nearly equal size"


def test_on_a_gpu_an_evaluation_takes_more_at_once(compose):
    built = build.build(compose("dataset=synthetic", "device=cpu", "batch_size=32"))
    built.device = torch.device("cuda")
    assert evaluate.images_at_once(built) == 1000
    assert evaluate.images_at_once(built, width=64) == 4 * 32 * 64


# ------------------------------------------------------------------------------------------------------------ the kinds


def test_batch_statistics_are_those_of_the_evaluated_batch(compose):
    """By hand, in the order drawn from data_seed, in batches of the training's size, what is left over joined."""
    built = build.build(compose(*SMALL, "norm=bn", "batch_size=48"))
    built.norm.start(built.model, None)
    found = evaluate.by_statistics(built, ["batch"])["batch"]
    images, labels = built.data.test  # 256: five batches of 51 or 52
    order = streams.shuffle(0, len(labels))
    hits, model = 0, built.model
    for part in order.tensor_split(5):
        assert len(part) >= 48
        x = model.blocks[0].linear(built.preprocess(images[part]).flatten(1))
        x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
        hits += (model.head(x.relu()).argmax(1) == labels[part]).sum().item()
    assert found["test_acc"] == hits / 256


@pytest.mark.parametrize("kind", ["ema", "population", "batch"])
def test_the_network_stays_as_it_was(compose, norm_settings, kind):
    from normbench.norm import Impossible

    try:
        built = build.build(compose(*SMALL, f"norm={norm_settings['name']}"))
    except Impossible as refusal:
        pytest.skip(str(refusal))
    x, _ = next(built.batches([0]))
    built.model.train()(x)
    before = deepcopy(built.model.state_dict())
    momenta = [getattr(layer, "momentum", None) for layer in built.model.modules()]
    found = evaluate.by_statistics(built, [kind])[kind]
    assert set(found) == {"val_loss", "val_acc", "test_loss", "test_acc"}
    assert all(torch.equal(value, before[key]) for key, value in built.model.state_dict().items())
    assert momenta == [getattr(layer, "momentum", None) for layer in built.model.modules()]


@pytest.mark.parametrize("norm", ["none", "ln", "gn", "rms", "dyt", "wn"])
def test_without_batch_statistics_all_kinds_agree(trained, norm):
    found = trained(f"norm={norm}", "eval.statistics=[ema,population,batch]")
    first, *others = found.record["statistics"].values()
    for other in others:
        assert other == pytest.approx(first, rel=1e-5)


def test_the_first_is_the_headline_and_training_is_the_same(trained):
    plain = trained("norm=bn").record
    first = trained("norm=bn", "eval.statistics=[population,batch]")
    assert set(plain["statistics"]) == {"ema"}
    assert list(first.record["statistics"]) == ["population", "batch"]
    assert {key: first.record[key] for key in first.record["statistics"]["population"]} == (
        first.record["statistics"]["population"]
    )
    assert first.record["test_loss"] != plain["test_loss"]
    rows = records.read_metrics(first.folder / "metrics.csv")
    assert rows[-1]["val_loss"] == plain["val_loss"], "rows on the way have the running averages"


def test_statistics_are_checked(compose):
    for value in ("[]", "[emma]", "[ema,ema]"):
        with pytest.raises(ValueError, match=r"eval\.statistics must be a list of ema, population, batch"):
            compose(f"eval.statistics={value}")


def test_switchable_weights_are_in_the_record(trained):
    outcome = trained("norm=sn")
    ((path, numbers),) = json.loads((outcome.folder / "run.json").read_text())["norm_readings"].items()
    assert path == "blocks.0.norm"
    assert set(numbers) == {f"{moment}_{kind}" for moment in ("mean", "var") for kind in ("in", "ln", "bn")}
    for moment in ("mean", "var"):
        assert sum(numbers[f"{moment}_{kind}"] for kind in ("in", "ln", "bn")) == pytest.approx(1, abs=1e-6)
    assert numbers["var_ln"] != pytest.approx(1 / 3, abs=1e-6), "they are learned"
    assert trained("norm=bn").record["norm_readings"] == {}


def test_layers_that_share_their_weights_are_read_once(compose):
    built = build.build(compose("dataset=synthetic", "model=rnn", "model.hidden=4", "norm=sn", "device=cpu"))
    assert len(built.norm_layers) > 20
    assert len(evaluate.readings(built)) == 3


# ---------------------------------------------------------------------------------------------------------- the command


def test_the_command_finds_what_the_run_recorded_and_changes_nothing(trained, tmp_path, capsys):
    kinds = ["ema", "population", "batch"]
    outcome = trained("norm=bn", f"eval.statistics=[{','.join(kinds)}]", "augment=flip_crop", "augment.padding=1")
    before = {path: path.read_bytes() for path in outcome.folder.iterdir()}
    table = tmp_path / "table.csv"
    assert cli.main(["evaluate", str(outcome.folder), "--csv", str(table), "--device", "cpu"]) == 0
    rows = read(table)
    assert [row["statistics"] for row in rows] == kinds
    for row in rows:
        for key, value in outcome.record["statistics"][row["statistics"]].items():
            assert float(row[key]) == value
    assert [row["batch_size"] for row in rows] == ["", "", "64"]
    printed = capsys.readouterr().out
    assert f"{outcome.record['test_acc']:.4f}" in printed
    assert {path: path.read_bytes() for path in outcome.folder.iterdir()} == before


def test_a_small_batch_hurts_batch_statistics(trained, tmp_path):
    folder, table = trained("norm=bn", "epochs=6", "optimizer.lr=0.01").folder, tmp_path / "t.csv"
    accuracies = []
    for size in ("2", "64"):
        given = ["--statistics", "batch", "--batch-size", size, "--csv", str(table)]
        assert cli.main(["evaluate", str(folder), *given]) == 0
        accuracies.append(float(read(table)[0]["test_acc"]))
    assert accuracies[0] < accuracies[1] - 0.05


def test_bad_input_of_the_command(trained, tmp_path, capsys):
    folder = str(trained("norm=bn").folder)
    diverged = trained("norm=none", "optimizer=sgd", "optimizer.lr=1e30")
    assert diverged.state == "diverged"
    for args, words in (
        ([folder, "--statistics", "emma"], "must be some of ema, population, batch with commas between, got 'emma'"),
        ([folder, "--statistics", ","], "got nothing"),
        ([folder, "--batch-size", "0"], "--batch-size must be a whole number >= 1, got 0"),
        ([folder, "--batch-size", "x"], "invalid int value: 'x'"),
        ([folder, "--batch-size", "1"], "norm=bn needs at least 2 values per channel"),
        ([folder, "--statistics", "ema", "--batch-size", "2"], "add batch to --statistics"),
        ([folder, "--nonsense"], "--nonsense"),
        (["--statistics", "ema"], "runs"),
        ([folder, "--device", "cuda:99"], "no such CUDA device"),
        ([str(tmp_path / "nowhere")], "run.json is missing"),
        ([str(diverged.folder)], "diverged at step"),
        ([folder, "--device", "gpu"], "device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
    ):
        assert cli.main(["evaluate", *args]) == 2, args
        captured = capsys.readouterr()
        assert words in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
    assert cli.main(["evaluate", "--help"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", folder, "--csv", str(tmp_path / "no" / "file.csv")]) == 2
    captured = capsys.readouterr()
    assert "No such file" in captured.err
    assert "population" in captured.out, "the table is not lost"


def test_the_good_runs_of_a_folder_are_evaluated_and_the_others_named(compose, tmp_path, capsys):
    for name, more in (("a", ()), ("b", ("checkpoint.keep=none",)), ("c", ("seed=1",))):
        config = compose(*SMALL, "norm=bn", *more, f"name={name}", f"out={tmp_path}")
        run.run(config, announce=lambda _: None, bar=False)
    assert cli.main(["evaluate", str(tmp_path), "--statistics", "ema"]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3
    assert "checkpoint.keep=none" in captured.err


def test_other_data_are_refused(trained, capsys):
    outcome = trained("norm=bn")
    record = json.loads((outcome.folder / "run.json").read_text())
    record["data_fingerprint"] = "0" * 64
    (outcome.folder / "run.json").write_bytes(records.run_json({k: v for k, v in record.items() if k != "sha256"}))
    assert cli.main(["evaluate", str(outcome.folder)]) == 4
    assert "was made from other data" in capsys.readouterr().err


def test_code_of_a_strangers_own_is_not_run(trained, capsys):
    outcome = trained("norm=bn")
    record = json.loads((outcome.folder / "run.json").read_text())
    for group, target in (
        ("clip", "os.system"),
        ("optimizer", "subprocess.Popen"),
        ("loss", "torch.nn.functional.eval"),
    ):
        changed = deepcopy({k: v for k, v in record.items() if k != "sha256"})
        changed["config"][group]["_target_"] = target
        (outcome.folder / "run.json").write_bytes(records.run_json(changed))
        assert cli.main(["evaluate", str(outcome.folder)]) == 2
        assert "--trust-code" in capsys.readouterr().err


def test_trusted_code_is_found_where_the_command_is_started(tmp_path):
    import subprocess
    import sys

    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, num_classes))\n"
    )

    def normbench(*args):
        command = [sys.executable, "-m", "normbench", *args]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    trained = normbench("train", "model=own", "model._target_=mynet.Net", "dataset=synthetic", "epochs=1", "device=cpu")
    assert "(1 BatchNorm layers swapped)" in trained.stdout, trained.stderr
    assert normbench("evaluate", "results").returncode == 2
    found = normbench("evaluate", "results", "--trust-code", "--statistics", "ema")
    assert found.returncode == 0, found.stderr
    assert "Net-bn-adam-s0" in found.stdout
