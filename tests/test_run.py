"""One run: killed, paused, damaged, repeated; it ends the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import normbench
from normbench import build, catalog, checkpoint, records, resident, run
from normbench.config import ConfigError
from normbench.dataset import DataError

SMALL = ("dataset=synthetic", "model.hidden=[16]", "model.dropout=0.2", "batch_size=32", "eval.every_steps=5")


@pytest.fixture
def config(compose, tmp_path):
    return lambda *overrides: compose(*SMALL, "epochs=6", f"out={tmp_path}", "progress=false", *overrides)


def quiet(settings):
    return run.run(settings, announce=lambda _: None)


def rows(folder):
    """The metrics without the one column that a clock makes."""
    return [{k: v for k, v in row.items() if k != "train_s"} for row in records.read_metrics(folder / "metrics.csv")]


def weights(folder):
    return checkpoint.read(folder / "checkpoint.pt")["model"]


def assert_same_end(a: Path, b: Path):
    assert rows(a) == rows(b)
    for (name, x), (_, y) in zip(weights(a).items(), weights(b).items(), strict=True):
        assert torch.equal(x, y), name
    for key in ("test_acc", "test_loss", "val_acc"):
        assert records.verify(a)[key] == records.verify(b)[key]


@pytest.fixture
def reference(config):
    return quiet(config("name=reference")).folder


def test_a_run_leaves_the_folder_of_the_design(reference):
    assert sorted(p.name for p in reference.iterdir()) == [
        ".lock", "checkpoint.pt", "config.yaml", "metrics.csv", "run.json", "train.log"
    ]  # fmt: skip
    record = records.verify(reference)
    assert list(record)[: len(records.HEAD)] != []
    assert record["state"] == "complete"
    assert record["steps"] == record["total_steps"] == 6 * (462 // 32)
    assert [row["step"] for row in rows(reference)] == [*range(0, record["steps"], 5), record["steps"]]
    assert rows(reference)[0]["train_loss"] is None
    assert record["val_acc"] == rows(reference)[-1]["val_acc"]
    assert set(record["files"]) == {"config.yaml", "metrics.csv", "checkpoint.pt"}


def test_the_same_run_twice_gives_the_same_bits(config, reference):
    torch.rand(7)  # what ran before in this process does not matter
    assert_same_end(quiet(config("name=again")).folder, reference)


def test_a_complete_run_is_left_as_it_is(config, reference):
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in reference.iterdir()}
    outcome = quiet(config("name=reference", "checkpoint.keep=none", "device=auto"))
    assert not outcome.new
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in reference.iterdir()} == before


@pytest.mark.parametrize("stop_epoch", [1, 4])
def test_paused_and_continued_is_the_run_that_was_never_paused(config, reference, stop_epoch):
    paused = quiet(config("name=paused", f"stop_epoch={stop_epoch}"))
    assert (paused.state, paused.record["epochs_done"]) == ("paused", stop_epoch)
    assert not quiet(config("name=paused", f"stop_epoch={stop_epoch}")).new
    assert_same_end(quiet(config("name=paused")).folder, reference)


@pytest.mark.parametrize("norm", sorted(catalog.choices("norm")))
def test_every_norm_can_be_paused_continued_and_loaded(compose, tmp_path, norm):
    def settings(*more):
        few = [
            "dataset=synthetic",
            "dataset.image_size=16",
            "dataset.train_size=200",
            "dataset.test_size=100",
            "epochs=2",
        ]
        groups = ["norm.num_groups=2"] if norm in ("gn", "ws") else ["norm.group_size=2"] if norm == "iternorm" else []
        return compose(*few, "model=lenet", "progress=false", f"norm={norm}", *groups, f"out={tmp_path}", *more)

    whole = quiet(settings("name=whole"))
    quiet(settings("name=paused", "stop_epoch=1"))
    assert_same_end(quiet(settings("name=paused")).folder, whole.folder)
    data = build.dataset(settings().dataset).load()
    network = normbench.load(whole.folder)
    with torch.no_grad():
        hits = network(network.preprocess(torch.tensor(data.test_images))).argmax(1) == torch.tensor(data.test_labels)
    assert hits.double().mean().item() == pytest.approx(whole.record["test_acc"], abs=1e-9)


def dead_men_write_nothing(real):
    def commit(self, state, **results):
        return run.Outcome(state, self.folder, {}) if state == "interrupted" else real(self, state, **results)

    return commit


@pytest.mark.parametrize(
    "write", [*range(0, 24, 6), *(pytest.param(n, marks=pytest.mark.slow) for n in range(24) if n % 6)]
)
def test_ended_at_any_write_and_started_again_it_ends_the_same(config, reference, monkeypatch, write):
    """The process 'dies' at its n-th write, with the old file still there; and again at the second attempt."""
    settings = config("name=killed", "checkpoint.every_s=0")
    for nth in (write, max(1, write // 2)):
        count, real = iter(range(1000)), records.write

        def dying(path, data, count=count, nth=nth, real=real):
            if next(count) == nth:
                raise KeyboardInterrupt
            real(path, data)

        monkeypatch.setattr(records, "write", dying)
        monkeypatch.setattr(run.Attempt, "commit", dead_men_write_nothing(run.Attempt.commit))
        with pytest.raises(KeyboardInterrupt):
            quiet(settings)
        monkeypatch.undo()
    assert_same_end(quiet(settings).folder, reference)


def test_divergence_is_a_result(config):
    settings = config("name=diverged", "optimizer=sgd", "norm=none", "optimizer.lr=1e30")
    outcome = quiet(settings)
    assert (outcome.state, outcome.exit_code) == ("diverged", 0)
    assert outcome.record["test_acc"] is None
    assert 1 <= outcome.record["diverged_step"] <= 5
    assert all(value is None or abs(value) < float("inf") for row in rows(outcome.folder) for value in row.values())
    assert not quiet(settings).new
    with pytest.raises(records.Damaged, match="diverged at step"):
        normbench.load(outcome.folder)


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 4
    elif how == "cut":
        data = data[: len(data) // 3]
    elif how == "zeros":
        data[1000:1400] = bytes(400)
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["flip", "cut", "zeros", "empty"])
@pytest.mark.parametrize("state", ["complete", "paused"])
def test_a_damaged_checkpoint_is_named_moved_aside_and_the_run_made_again(config, reference, caplog, how, state):
    settings = config(f"name={how}")
    folder = quiet(config(f"name={how}", *(["stop_epoch=2"] if state == "paused" else []))).folder
    if how == "empty":
        (folder / "checkpoint.pt").write_bytes(b"")
    else:
        damage(folder / "checkpoint.pt", how)
    with pytest.raises(records.Damaged, match=r"checkpoint\.pt is damaged"):
        normbench.load(folder)
    quiet(settings)
    assert f"{folder / 'checkpoint.pt'} is damaged" in caplog.text
    assert (folder / "checkpoint.pt.damaged").exists()
    assert_same_end(folder, reference)


@pytest.mark.parametrize("name", ["metrics.csv", "run.json", "config.yaml"])
def test_another_damaged_file_is_made_again_from_the_checkpoint(config, reference, name):
    (reference / name).write_bytes((reference / name).read_bytes()[:-9])
    before = checkpoint.read(reference / "checkpoint.pt")["train_s"]
    outcome = quiet(config("name=reference"))
    assert outcome.state == "complete"
    records.verify(reference)
    assert outcome.record["train_s"] == pytest.approx(before, abs=0.05)  # nothing was trained again


def test_a_folder_of_another_config_is_refused(config, reference):
    record = json.loads((reference / "run.json").read_text())
    record["config"]["epochs"] = 7
    (reference / "run.json").write_bytes(records.run_json(record))
    with pytest.raises(ConfigError, match="holds a run of another config"):
        quiet(config("name=reference"))


def test_a_folder_of_a_newer_normbench_is_not_touched(config, reference):
    now, next_ = (f'"format_version": {n}' for n in (records.FORMAT_VERSION, records.FORMAT_VERSION + 1))
    text = (reference / "run.json").read_text().replace(now, next_)
    (reference / "run.json").write_text(text)
    with pytest.raises(ConfigError, match="written by a newer normbench"):
        quiet(config("name=reference"))
    assert (reference / "run.json").read_text() == text


def test_other_data_under_the_same_name_are_refused(config, monkeypatch):
    from normbench.dataset.synthetic import Synthetic

    quiet(config("name=data", "stop_epoch=2"))
    folder = quiet(config("name=whole")).folder
    real = Synthetic.load
    monkeypatch.setattr(Synthetic, "fingerprint", lambda self: "0" * 64)
    with pytest.raises(DataError, match=f"{folder} was made from other data: dataset=synthetic"):
        quiet(config("name=whole"))
    monkeypatch.setattr(Synthetic, "load", lambda self: replace(real(self), fingerprint="0" * 64))
    resident._resident.cache_clear()
    try:
        with pytest.raises(DataError, match="was made from other data"):
            quiet(config("name=data"))
    finally:
        resident._resident.cache_clear()


def test_a_failure_in_training_is_recorded_and_can_be_tried_again(config, reference, monkeypatch):
    settings = config("name=failed", "checkpoint.every_s=0")
    real = run.Attempt.measure
    calls = iter(range(1000))

    def failing(self):
        if next(calls) == 4:
            raise RuntimeError("the roof came down")
        return real(self)

    monkeypatch.setattr(run.Attempt, "measure", failing)
    outcome = quiet(settings)
    assert (outcome.state, outcome.exit_code) == ("failed", 1)
    assert outcome.record["reason"] == "RuntimeError: the roof came down (at step 20)"
    assert "Traceback" in (outcome.folder / "train.log").read_text()
    monkeypatch.undo()
    assert_same_end(quiet(settings).folder, reference)


@pytest.mark.parametrize("keep", ["weights", "none"])
def test_what_is_kept_after_the_end(config, reference, keep):
    folder = quiet(config(f"name={keep}", f"checkpoint.keep={keep}")).folder
    assert not quiet(config(f"name={keep}", f"checkpoint.keep={keep}")).new
    if keep == "none":
        assert not (folder / "checkpoint.pt").exists()
        with pytest.raises(records.Damaged, match="is missing"):
            normbench.load(folder)
    else:
        assert (folder / "checkpoint.pt").stat().st_size < (reference / "checkpoint.pt").stat().st_size
        normbench.load(folder)


def test_load_gives_the_network_that_was_tested(config, reference):
    from normbench.dataset.synthetic import Synthetic

    data = Synthetic().load()
    network = normbench.load(reference)
    assert not network.training
    assert network.classes == data.classes
    with torch.no_grad():
        hits = network(network.preprocess(torch.tensor(data.test_images))).argmax(1) == torch.tensor(data.test_labels)
    assert hits.double().mean().item() == pytest.approx(records.read_run(reference)["test_acc"], abs=1e-9)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_strangers_checkpoint_runs_no_code(reference, tmp_path):
    import io

    content = checkpoint.read(reference / "checkpoint.pt")
    content["model"]["evil"] = Evil(str(tmp_path / "touched"))
    buffer = io.BytesIO()
    torch.save(content, buffer)
    (reference / "checkpoint.pt").write_bytes(records.seal(buffer.getvalue()))
    with pytest.raises(records.Damaged, match="not a valid checkpoint"):
        normbench.load(reference)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "target",
    ["antigravity.Model", "normbench.records.os.mkdir", "torch.nn.modules.module.torch.load", "normbench.cli.main",
     "normbench.model.mlp.nn", "torch.nn.Module.__init__", "normbench.norm.bn.BatchNorm"],
)  # fmt: skip
def test_a_strangers_class_is_not_imported_unasked(reference, target):
    import io

    content = checkpoint.read(reference / "checkpoint.pt")
    stored = json.loads(content["config"])
    stored["model"]["_target_"] = target
    buffer = io.BytesIO()
    torch.save({**content, "config": json.dumps(stored)}, buffer)
    (reference / "checkpoint.pt").write_bytes(records.seal(buffer.getvalue()))
    with pytest.raises(PermissionError, match=f"{target}; if you trust it"):
        normbench.load(reference)
    assert "antigravity" not in sys.modules


def test_a_class_that_exits_is_a_failed_run(config, monkeypatch):
    monkeypatch.setattr(run.Attempt, "measure", lambda self: sys.exit(0))
    outcome = quiet(config("name=exits"))
    assert (outcome.state, outcome.exit_code) == ("failed", 1)


def test_asked_for_another_way_says_how_it_was_made(config, reference):
    outcome = quiet(config("name=reference", "checkpoint.keep=none"))
    assert outcome.note == "made with checkpoint.keep=all; to make it another way, use another out=FOLDER"
    assert quiet(config("name=reference")).note == ""


def test_a_resumed_run_began_when_it_began(config):
    started = quiet(config("name=twice", "stop_epoch=1")).record["started_at"]
    time.sleep(1.1)
    assert quiet(config("name=twice")).record["started_at"] == started


def test_nobody_listening_is_no_reason_not_to_train(config):
    def deaf(_):
        raise BrokenPipeError(32, "Broken pipe")

    assert run.run(config("name=deaf"), announce=deaf).state == "complete"


def command(*overrides, epochs=30):
    fixed = [*SMALL, f"epochs={epochs}", "progress=false", "checkpoint.every_s=0"]
    return [sys.executable, "-m", "normbench", "train", *fixed, *overrides]


@pytest.fixture(scope="module")
def long_reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    subprocess.run(command(), cwd=folder, check=True, capture_output=True)
    return next((folder / "results" / "runs").iterdir())


def wait_for_rows(folder, count):
    """Until the run has written so many evaluations; its metrics are whole whenever they are read."""
    path = folder / "metrics.csv"
    for _ in range(3000):
        if path.exists() and len(records.read_metrics(path)) >= count:
            return
        time.sleep(0.005)
    raise AssertionError("the run does not come forward")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_run_cleanly_and_nothing_is_lost(tmp_path, long_reference, number, code):
    folder = tmp_path / "results" / "stopped" / long_reference.name
    process = subprocess.Popen(
        command("name=stopped"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_rows(folder, 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in err
    assert f"interrupted: {folder.relative_to(tmp_path)}; next: to go on: normbench train" in out.splitlines()[-1]
    assert records.verify(folder)["state"] == "interrupted"
    done = subprocess.run(command("name=stopped"), cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "from step " in done.stdout
    assert_same_end(folder, long_reference)


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_as_if_never_killed(tmp_path, long_reference, kills):
    folder = tmp_path / "results" / "killed" / long_reference.name
    rng = random.Random(0)
    steps = [0]
    for kill in range(kills):
        process = subprocess.Popen(command("name=killed"), cwd=tmp_path, stdout=subprocess.DEVNULL)
        wait_for_rows(folder, 2 + kill * 60 // kills)
        time.sleep(rng.random() * 0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if folder.joinpath("checkpoint.pt").exists():
            steps.append(checkpoint.read(folder / "checkpoint.pt")["step"])
        assert records.state_now(folder, records.read_run(folder)) in ("interrupted", "complete")
    assert steps == sorted(steps)
    subprocess.run(command("name=killed"), cwd=tmp_path, check=True, capture_output=True)
    assert_same_end(folder, long_reference)


def test_the_second_process_is_told_who_has_the_folder(tmp_path):
    first = subprocess.Popen(command(epochs=3000), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        first.stdout.readline()
        second = subprocess.run(command(epochs=3000), cwd=tmp_path, capture_output=True, text=True)
        assert second.returncode == 3
        assert f"is in use by process {first.pid} on" in second.stderr
    finally:
        first.kill()
        first.wait()
        first.stdout.close()


@pytest.mark.parametrize("keep", ["all", "none"])
def test_what_another_process_ended_while_this_one_prepared_itself_is_not_made_again(config, monkeypatch, keep):
    settings, real, outcomes = config("name=raced", f"checkpoint.keep={keep}"), build.build, []

    def slow(asked):
        if not outcomes:
            outcomes.append(None)
            outcomes[0] = quiet(settings)
        return real(asked)

    monkeypatch.setattr(build, "build", slow)
    second = quiet(settings)
    assert not second.new
    assert (
        second.record == records.verify(outcomes[0].folder) == {**outcomes[0].record, "sha256": second.record["sha256"]}
    )


def test_a_killed_writers_temporary_file_is_removed(config):
    folder = quiet(config("name=killed", "stop_epoch=1", "checkpoint.keep=none")).folder
    (folder / ".checkpoint.pt.tmp").write_bytes(b"PK half a checkpoint")
    quiet(config("name=killed", "checkpoint.keep=none"))
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "config.yaml", "metrics.csv", "run.json", "train.log"]


def test_under_nohup_a_hangup_ends_nothing(tmp_path):
    process = subprocess.Popen(
        ["nohup", *command(epochs=3)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    folder = tmp_path / "results" / "runs"
    while not list(folder.glob("*/metrics.csv")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "complete" in out
