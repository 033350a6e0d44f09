"""Whole comparisons of tiny runs: from the command to the report, killed and started again, out of time."""

import csv
import json
import signal
import subprocess
import sys
import time

import pytest

from normbench import plan as plans
from normbench import records
from normbench.cli import main
from normbench.sweep import pool
from normbench.verify import verify

TINY = ["norm=none,bn", "dataset=synthetic", "batch_size=32", "epochs=2", "model.hidden=[8]"]


def accuracies(folder):
    """What the report says but for times, which no two runs have in common."""
    with open(folder / "report/data/comparisons.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "test_acc"]
    keys = ("baseline", "variant", "n_pairs", "effect", "ci_low", "ci_high", "p")
    return [{key: row[key] for key in keys} for row in rows]


def test_a_comparison_from_the_command_to_its_verdict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = ["compare", *TINY, "trials=4", "tune_seeds=1", "tune.optimizer.lr=log(1e-4,1)"]
    assert main([*args, "seeds=3"]) == 0
    said, folder = capsys.readouterr().out, tmp_path / "results/compare"
    kept = plans.read(folder)
    assert kept.tuned == ("optimizer.lr",)
    assert (kept.trials, kept.zoom, kept.tune_seeds, kept.seeds) == (4, 1, (1000,), (0, 1, 2))
    assert [arm.choices["norm"] for arm in kept.arms] == ["none", "bn"]
    assert "round 1 of 2: 4 runs, 0 done before" in said
    assert said.count("best of 4 trials") == 2
    assert "On synthetic (mlp, 2 epochs" in said
    verdicts = json.loads((folder / "report/report.json").read_text())["verdicts"]
    assert {verdict["n_pairs"] for verdict in verdicts if verdict["metric"] == "test_acc"} == {3}
    assert any(verdict["lr_choice"] != verdicts[0]["lr_choice"] for verdict in verdicts)  # at the same rate, too
    runs = {path.name: path.stat().st_mtime_ns for path in folder.glob("*/run.json")}
    assert main([*args, "--dry-run"]) == 0  # the seeds are those of the plan
    said = capsys.readouterr().out
    assert "then: 3 fresh seeds each" in said
    assert f"{folder.relative_to(tmp_path)} holds this comparison: {len(list(folder.glob('*/run.json')))} of" in said
    assert main([*args, "seeds=2"]) == 0  # seeds are never taken away
    said = capsys.readouterr().out
    assert "seeds=2: it has 3 seeds, and all of them are reported" in said
    assert "confirmation on fresh seeds: 9 runs, 9 done before" in said
    assert plans.read(folder).seeds == (0, 1, 2)
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*/run.json")} == runs
    assert main([*args, "zoom=0"]) == 2
    assert "it had zoom=1, now zoom=0" in capsys.readouterr().err


def test_as_stacks_every_trial_is_its_serial_run(tmp_path, monkeypatch, capsys):
    """Rounds, halving and confirmation: the runs of an arm are trained together, and come out as by themselves."""
    monkeypatch.chdir(tmp_path)
    args = ["engine=stack", "trials=3", "zoom=0", "tune_seeds=1", "seeds=3", "halving=2", "hydra.launcher.workers=1"]
    assert main(["compare", *TINY, *args]) == 0
    assert "trials, to epoch 1: 6 runs, 0 done before" in capsys.readouterr().out
    folder = tmp_path / "results/compare"
    records_ = {path.parent: records.read_run(path.parent) for path in sorted(folder.glob("*/run.json"))}
    complete = [place for place, record in records_.items() if record["state"] == "complete"]
    assert {record["environment"]["stack"] for record in records_.values()} > {3}
    for place in complete[::4]:
        found = verify(place)
        assert found.problems == ()
        assert found.last_loss < 1e-4
    with open(folder / "report/data/comparisons.csv") as file:
        assert {row["n_pairs"] for row in csv.DictReader(file) if row["metric"] == "test_acc"} == {"3"}


def test_at_the_deadline_what_is_trained_is_stopped(compose, tmp_path):
    config = compose("dataset=synthetic", "batch_size=32", "epochs=100000", f"out={tmp_path}")
    with pytest.raises(pool.TimeUp):
        pool.run_all([config], 1, until=time.monotonic())
    assert not records.Lock.is_held(config.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "after"),
    [(signal.SIGKILL, 2), (signal.SIGTERM, 6), (signal.SIGKILL, 6), (signal.SIGKILL, 10), (signal.SIGKILL, "report"),
     (signal.SIGTERM, "report")],
)  # fmt: skip
def test_killed_in_each_phase_and_started_again_the_report_is_the_same(number, after, tmp_path, uninterrupted):
    """4 runs in round 1, 4 in round 2, then at least 6 for the confirmation, then the report's files."""
    command, expected, runs = uninterrupted
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    folder = tmp_path / "results/compare"
    while not any(folder.glob("report/*")) if after == "report" else done(folder) < after:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert after == "report" or not (folder / "report").exists()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert accuracies(folder) == expected
    assert {path.parent.name for path in folder.glob("*/run.json")} == runs


@pytest.mark.slow
def test_seeds_can_become_more_and_what_is_done_stays(tmp_path):
    command = [sys.executable, "-m", "normbench", "compare", *TINY, "trials=2", "zoom=0", "tune_seeds=1"]
    folder = tmp_path / "results/compare"
    before = {}
    for seeds in (3, 5):
        subprocess.run([*command, f"seeds={seeds}"], cwd=tmp_path, check=True, capture_output=True, timeout=300)
        assert all(path.read_bytes() == data for path, data in before.items())
        before = {path: path.read_bytes() for path in folder.glob("*/run.json")}
        assert {records.read_run(path.parent)["seed"] for path in before} == {*range(seeds), 1000}
        assert {row["n_pairs"] for row in accuracies(folder)} == {str(seeds)}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    tuning = ["trials=4", "tune_seeds=1", "seeds=3", "tune.optimizer.lr=log(1e-4,1)"]
    command = [sys.executable, "-m", "normbench", "compare", *TINY, *tuning]
    subprocess.run(command, cwd=place, check=True, capture_output=True, timeout=300)
    folder = place / "results/compare"
    return command, accuracies(folder), {path.parent.name for path in folder.glob("*/run.json")}


def done(folder):
    count = 0
    for path in folder.glob("*/run.json"):
        count += '"state": "complete"' in path.read_text()
    return count


@pytest.mark.slow
def test_where_every_trial_fails_the_arm_is_told_and_there_is_no_verdict(tmp_path):
    """A class of one's own that breaks in training."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/norm").mkdir()
    (tmp_path / "breaks.py").write_text(
        "from torch import nn\n\n\nclass Breaks(nn.Module):\n    def __init__(self, num_features):\n"
        "        super().__init__()\n        self.seen = 0\n\n    def forward(self, x):\n        self.seen += 1\n"
        "        if self.seen > 12 and self.training:\n            raise RuntimeError('it broke')\n        return x\n"
    )
    (tmp_path / "mine/norm/breaks.yaml").write_text("# breaks in training\nname: breaks\n_target_: breaks.Breaks\n")
    command = [sys.executable, "-m", "normbench", "compare", "norm=none,breaks", *TINY[1:], "trials=2", "zoom=0"]
    command += ["tune_seeds=1", "seeds=3", "--config-dir", "mine"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert found.returncode == 1, found.stderr
    assert "breaks  nothing: none of its 2 trials finished" in found.stdout
    assert "2 runs failed; the same command tries again" in found.stdout
    assert "RuntimeError: it broke" in found.stdout
    assert "Traceback" not in found.stdout + found.stderr
