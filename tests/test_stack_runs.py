"""Runs of engine=stack as users meet them: records, resume, sweeps, `normbench verify`."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

import normbench
from normbench import checkpoint, cli, config, records, run, verify
from normbench.config import run_id
from normbench.stack import replicas, support
from normbench.sweep import estimate, pool, stacks

FAST = ("dataset=synthetic", "dataset.image_size=8", "batch_size=32", "epochs=2", "progress=false")
NET = ("model=mlp", "model.hidden=[16]", "model.dropout=0.2", "eval.every_steps=7")
STATED = {"run_id", "train_s", "eval_s", "started_at", "finished_at", "config", "environment", "files", "sha256"}


@pytest.fixture
def make(compose, tmp_path):
    return lambda *overrides: compose(*FAST, *NET, f"out={tmp_path}/out", *overrides)


@pytest.fixture
def three(make):
    numbers = ("optimizer.lr=1e-3", "optimizer.lr=3e-3", "optimizer.weight_decay=0.1")
    return [make("engine=stack", f"seed={n}", its) for n, its in enumerate(numbers)]


def rows(folder):
    return [{k: v for k, v in row.items() if k != "train_s"} for row in records.read_metrics(folder / "metrics.csv")]


def weights(folder):
    return checkpoint.read(folder / "checkpoint.pt")["model"]


def close(ours, theirs):
    """Nested values, equal but for rounding in float32."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(close(ours[key], theirs[key]) for key in ours)
    return ours == (pytest.approx(theirs, rel=1e-4, abs=1e-6) if isinstance(ours, float) else theirs)


def test_the_records_are_those_of_the_serial_run_in_every_key_but_the_stated(three):
    assert [result.state for result in replicas.run_all(three)] == ["complete"] * 3
    for its in three:
        serial = dataclasses.replace(its, engine="serial")
        theirs = run.run(serial, announce=lambda _: None, bar=False).record
        ours = records.verify(its.folder)
        assert list(ours) == [key for key in json.loads((serial.folder / "run.json").read_text())]
        assert {key for key in ours if not close(ours[key], theirs.get(key))} <= STATED
        assert ours["config"] == theirs["config"] | {"engine": "stack"}
        assert ours["environment"] == theirs["environment"] | {"stack": 3}
        assert set(os.listdir(its.folder)) == set(os.listdir(serial.folder))
        for a, b in zip(rows(its.folder), rows(serial.folder), strict=True):
            assert close(a, b)
        a, b = (checkpoint.read(c.folder / "checkpoint.pt") for c in (its, serial))
        assert a.keys() == b.keys()
        assert a["optimizer"]["param_groups"] == b["optimizer"]["param_groups"]
        for key, state in b["optimizer"]["state"].items():
            for name, value in state.items():
                torch.testing.assert_close(a["optimizer"]["state"][key][name], value, rtol=1e-3, atol=1e-5)
        for name, value in b["model"].items():
            torch.testing.assert_close(a["model"][name], value, rtol=1e-3, atol=1e-5)
        assert a["rng_cpu"].equal(b["rng_cpu"])
        network = normbench.load(its.folder)
        assert network(network.preprocess(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))).shape == (2, 10)


def test_other_statistics_are_found_for_each_replica(make):
    both = [make("engine=stack", "eval.statistics=[population,ema]", f"seed={n}") for n in (0, 1)]
    for its, outcome in zip(both, replicas.run_all(both), strict=True):
        theirs = run.run(dataclasses.replace(its, engine="serial"), announce=lambda _: None, bar=False).record
        assert close(outcome.record["statistics"], theirs["statistics"])
        assert list(outcome.record["statistics"]) == ["population", "ema"]
        assert outcome.record["test_loss"] == outcome.record["statistics"]["population"]["test_loss"]


def interrupt_at(monkeypatch, step):
    real = replicas.Stack.batches

    def batches(self, bar):
        for number, batch in enumerate(real(self, bar), self.first.progress.step):
            if number == step:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    monkeypatch.setattr(replicas.Stack, "batches", batches)


def test_an_interrupted_stack_goes_on_bit_by_bit(three, monkeypatch, tmp_path):
    whole = [dataclasses.replace(its, out=f"{tmp_path}/whole") for its in three]
    replicas.run_all(whole)
    with monkeypatch.context() as patched:
        interrupt_at(patched, 17)  # between two rows, in the second epoch
        results = replicas.run_all(three)
    assert [(type(r), r.exit_code, r.outcome.state) for r in results] == [(run.Interrupted, 130, "interrupted")] * 3
    assert [records.verify(its.folder)["steps"] for its in three] == [18] * 3
    assert [result.state for result in replicas.run_all(three)] == ["complete"] * 3
    for its, theirs in zip(three, whole, strict=True):
        assert rows(its.folder) == rows(theirs.folder)
        assert all(value.equal(weights(theirs.folder)[name]) for name, value in weights(its.folder).items())
    assert [result.new for result in replicas.run_all(three)] == [False] * 3


def test_replicas_at_different_steps_are_each_finished(three, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt_at(patched, 17)
        replicas.run_all(three[:2])
    results = replicas.run_all(three)
    assert [result.state for result in results] == ["complete"] * 3
    assert [result.record["environment"]["stack"] for result in results] == [2, 2, 1]


def test_a_stack_pauses_and_goes_on(three):
    stop = [dataclasses.replace(its, stop_epoch=1) for its in three]
    assert [result.state for result in replicas.run_all(stop)] == ["paused"] * 3
    assert [result.new for result in replicas.run_all(stop)] == [False] * 3
    assert [result.record["epochs_done"] for result in replicas.run_all(three)] == [2] * 3


def test_a_replica_that_diverges_is_recorded_and_the_others_are_complete(make):
    base = ("engine=stack", "optimizer=sgd")
    configs = [make(*base), make(*base, "optimizer.lr=1e30"), make(*base, "seed=1")]
    results = replicas.run_all(configs)
    assert [result.state for result in results] == ["complete", "diverged", "complete"]
    record = records.verify(configs[1].folder)
    assert (record["val_acc"], record["test_acc"]) == (None, None)
    assert 1 <= record["diverged_step"] <= 7
    assert not (configs[1].folder / "checkpoint.pt").exists()
    assert len(rows(configs[1].folder)) == 1
    assert rows(configs[0].folder)[-1]["step"] == 28


def test_what_befalls_one_replica_befalls_it_alone(three, monkeypatch):
    real = records.write

    def write(path, data):
        if path.parent == three[2].folder and path.name == "checkpoint.pt":
            raise OSError(28, "No space left on device", str(path))
        real(path, data)

    monkeypatch.setattr(records, "write", write)
    with records.Lock(three[0].folder):
        results = replicas.run_all(three)
    assert isinstance(results[0], records.InUse)
    assert results[1].state == "complete"
    assert results[2].state == "failed"
    assert results[2].disk_is_full
    monkeypatch.undo()
    assert [result.state for result in replicas.run_all(three)] == ["complete"] * 3


class Breaks(nn.CrossEntropyLoss):
    def forward(self, logits, labels):
        raise RuntimeError("on purpose")


def test_an_error_in_the_step_fails_every_replica_with_its_traceback(make):
    configs = [make("engine=stack", f"loss._target_={__name__}.Breaks", f"seed={n}") for n in (0, 1)]
    results = replicas.run_all(configs)
    assert [result.state for result in results] == ["failed"] * 2
    for its in configs:
        assert "on purpose" in records.read_run(its.folder)["reason"]
        assert "Traceback" in (its.folder / "train.log").read_text()


def test_each_log_tells_of_its_own_run(three):
    replicas.run_all(three)
    logs = [(its.folder / "train.log").read_text() for its in three]
    assert len(set(logs)) == 3
    for its, text in zip(three, logs, strict=True):
        assert text.count("step=") == len(rows(its.folder))
        assert f"val_acc={rows(its.folder)[-1]['val_acc']:.6g}" in text


# ------------------------------------------------------------------------------------------------------- identity


def test_the_serial_engine_is_no_part_of_a_runs_name(compose):
    default = compose()
    assert run_id(default) == run_id(compose("engine=serial")) == "mlp-bn-adam-s0-51292f3e71c3"
    assert run_id(compose("engine=stack")) != run_id(default)
    stored = {key: value for key, value in default.to_dict().items() if key != "engine"}  # an older run's
    assert config.from_dict(stored) == default


# --------------------------------------------------------------------------------------------------------- sweeps


def test_what_differs_only_in_numbers_may_be_stacked(make):
    base = support.structure(make("clip=norm"))
    same = ("seed=5", "optimizer.lr=0.1", "optimizer.betas=[0.5,0.9]", "clip.max_norm=3", "name=other")
    assert {support.structure(make("clip=norm", other)) for other in same} == {base}
    others = ("norm=ln", "batch_size=16", "epochs=3", "data_seed=1", "model.hidden=[8]", "norm.momentum=0.2",
              "eval.every_steps=2", "clip=value", "optimizer=adamw", "+optimizer.amsgrad=true", "schedule=step",
              "dataset.train_size=100", "threads=2", "stop_epoch=1", "loss.label_smoothing=0.1")  # fmt: skip
    for other in others:
        assert support.structure(make(*([] if other == "clip=value" else ["clip=norm"]), other)) != base


def test_stacks_are_of_nearly_equal_width_and_as_many_as_workers(make, monkeypatch):
    monkeypatch.setitem(stacks.WIDTH, "cpu", 4)
    stack = [make("engine=stack", "device=cpu", f"seed={n}") for n in range(10)]
    assert list(map(len, stacks.batches(stack, 2))) == [2, 3, 2, 3]
    assert list(map(len, stacks.batches(stack[:3], 2))) == [1, 2]
    assert list(map(len, stacks.batches(stack[:1], 2))) == [1]
    assert list(map(len, stacks.batches(stack, 1))) == [3, 3, 4]
    mixed = [*stack[:2], *(dataclasses.replace(its, engine="serial") for its in stack[:3])]
    assert sorted(stacks.batches(mixed, 1)) == [[0, 1], [2], [3], [4]]
    rates = [make("engine=stack", "device=cpu", f"seed={n}", f"optimizer.lr={lr}") for n in (0, 1) for lr in (0.1, 1)]
    assert stacks.batches(rates, 2) == [[0, 2], [1, 3]]  # one rate each


def test_a_gpu_takes_wider_stacks_of_networks_without_convolutions(make):
    its = [make("engine=stack", f"seed={n}", "device=cuda") for n in range(300)]
    assert list(map(len, stacks.batches(its, 1))) == [150, 150]
    model = {"name": "lenet", "_target_": "normbench.model.lenet.LeNet"}
    lenet = [dataclasses.replace(one, model=model) for one in its[:66]]
    assert list(map(len, stacks.batches(lenet, 1))) == [33, 33]


def test_the_pool_trains_stacks_beside_serial_runs(make):
    configs = [make(f"engine={engine}", f"seed={n}") for n in (0, 1, 2) for engine in ("stack", "serial")]
    told = []
    results = pool.run_all(configs, 2, told=lambda number, result: told.append(number))
    assert [result.folder for result in results] == [its.folder for its in configs]
    assert [result.state for result in results] == ["complete"] * 6
    assert sorted(told) == list(range(6))
    for stacked, serial in zip(results[::2], results[1::2], strict=True):
        for a, b in zip(rows(stacked.folder), rows(serial.folder), strict=True):
            assert close(a, b)


def test_a_sweep_from_the_command_line(tmp_path):
    command = [sys.executable, "-m", "normbench", "train", "-m", *FAST, "engine=stack", "norm=bn,brn", "seed=range(3)"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "6 runs: 0 done before, 3 to train, 3 impossible" in done.stdout
    assert "engine=stack does not serve this run: model=mlp norm=brn" in done.stdout
    states = [records.read_run(folder)["state"] for folder in records.find_runs(tmp_path)]
    assert sorted(states) == ["complete"] * 3 + ["skipped"] * 3
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "6 runs: 3 done before, 0 to train, 3 impossible" in again.stdout


def test_one_run_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *FAST, "engine=stack", "model=resnet"]) == 2
    assert "engine=stack does not serve this run: model=resnet" in capsys.readouterr().err
    assert not list(tmp_path.rglob("run.json"))
    assert cli.main(["train", *FAST, "engine=vector"]) == 2
    assert "engine must be one of serial, stack, graph, got 'vector'" in capsys.readouterr().err
    assert cli.main(["train", *FAST, "engine=stack"]) == 0
    (folder,) = records.find_runs(tmp_path / "results")
    assert records.verify(folder)["environment"]["stack"] == 1


# --------------------------------------------------------------------------------------------------------- verify


def test_verify_agrees_with_what_was_made_and_changes_nothing(three, capsys):
    replicas.run_all(three)
    before = {path: path.read_bytes() for path in three[0].folder.parent.rglob("*") if path.is_file()}
    assert cli.main(["verify", str(three[0].folder.parent)]) == 0
    out = capsys.readouterr().out
    assert out.count("agrees") == 3
    assert out.splitlines()[-1] == "3 of 3 runs agree with their serial runs"
    assert before == {path: path.read_bytes() for path in three[0].folder.parent.rglob("*") if path.is_file()}
    assert cli.main(["verify", str(three[0].folder.parent), "--at-most", "1"]) == 0
    assert "1 of 1 runs agree" in capsys.readouterr().out


def test_verify_tells_where_runs_differ(three, make, monkeypatch, capsys):
    replicas.run_all(three[:2])
    found = verify.compare(three[0].folder, three[1].folder)  # another seed: other weights before the first step
    assert found.first_loss > verify.FIRST
    assert len(found.problems) >= 1
    assert found.weights > 0.1
    assert verify._too_far("val_acc", 0.5, 0.9, 100)
    assert not verify._too_far("val_acc", 0.5, 0.55, 100)
    monkeypatch.setattr(verify, "_alone", lambda its, out: dataclasses.replace(its, engine="serial", seed=9, out=out))
    assert cli.main(["verify", str(three[0].folder)]) == 1
    assert "differs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no runs found under nowhere"),
        (["nowhere", "--at-most", "0"], "--at-most must be a whole number >= 1, got 0"),
        (["nowhere", "--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_verify_refuses(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["verify", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_verify_refuses_a_serial_run(make, capsys):
    outcome = run.run(make(), announce=lambda _: None, bar=False)
    assert cli.main(["verify", str(outcome.folder)]) == 2
    assert "was made with engine=serial" in capsys.readouterr().err
    assert cli.main(["verify", str(outcome.folder.parent)]) == 2
    assert "none of the runs is a finished one of engine=stack" in capsys.readouterr().err


def test_a_dry_run_tells_what_a_run_of_a_stack_takes(tmp_path, make, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "-m", *FAST, "engine=stack", "seed=range(3)", "--dry-run"]) == 0
    assert "would take about" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(stacks.WIDTH, "cpu", 3)
    attempt, rows, width = estimate._stack(make("engine=stack", "device=cpu"), None)
    assert estimate._stack(make("engine=stack", "device=cpu"), jobs=2)[2] == 2  # as wide as the sweep would make it
    attempt.should_stop = lambda: attempt.progress.step == 9
    list(rows(bar=False))
    assert (width, attempt.progress.step) == (3, 9)
