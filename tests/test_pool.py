"""Many runs at once: the same results as one after another, and what befalls one run befalls it alone."""

import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from normbench import checkpoint, cli, records, run
from normbench.config import ConfigError
from normbench.sweep import Stop, devices, pool

SMALL = ("dataset=synthetic", "progress=false")

# what a run does in its first training step
BAD = """
import ctypes, os, signal, time
from pathlib import Path
from torch import nn

class Net(nn.Module):
    def __init__(self, input_shape, num_classes, deed="none"):
        super().__init__()
        self.deed = deed
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(input_shape[1] * input_shape[2], num_classes))

    def forward(self, x):
        if self.training:
            if self.deed == "raise":
                raise RuntimeError("on purpose")
            if self.deed == "segfault":
                ctypes.string_at(0)
            if self.deed == "exit":
                os._exit(9)
            if self.deed == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.deed == "full":
                raise OSError(28, "No space left on device", str(next(Path.cwd().rglob("run.json"))))
            if self.deed == "diverge":
                return self.layers(x) * float("nan")
            if self.deed == "slow":
                time.sleep(0.05)
        return self.layers(x)
"""


@pytest.fixture
def bad(tmp_path, monkeypatch):
    (tmp_path / "badnet.py").write_text(BAD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def make(compose, tmp_path):
    return lambda *overrides: compose(*SMALL, "epochs=2", f"out={tmp_path}/out", *overrides)


def own(make, deed, *overrides):
    return make("model=own", "model._target_=badnet.Net", "norm=none", f"+model.deed={deed}", *overrides)


def rows(folder):
    return [{k: v for k, v in row.items() if k != "train_s"} for row in records.read_metrics(folder / "metrics.csv")]


def test_the_results_are_those_of_runs_one_after_another(compose, tmp_path):
    arms = [(f"seed={seed}", f"norm={norm}") for seed in (0, 1) for norm in ("bn", "none")]
    found = {}
    for name, order, workers in (("serial", 1, 0), ("one", 1, 1), ("two", -1, 2)):
        configs = [compose(*SMALL, f"out={tmp_path}", f"name={name}", *arm) for arm in arms][::order]
        results = pool.run_all(configs, workers) if workers else [run.run(c, announce=lambda _: None) for c in configs]
        assert [r.state for r in results] == ["complete"] * 4
        assert [r.folder for r in results] == [c.folder for c in configs]
        found[name] = {
            r.folder.name: (rows(r.folder), checkpoint.read(r.folder / "checkpoint.pt")["model"]) for r in results
        }
    for name in ("one", "two"):
        assert found[name].keys() == found["serial"].keys()
        for run_id, (lines, weights) in found["serial"].items():
            assert found[name][run_id][0] == lines
            assert all(torch.equal(w, found[name][run_id][1][key]) for key, w in weights.items())


def test_a_process_that_dies_takes_no_other_run_with_it(bad, make):
    deeds = ["none", "segfault", "raise", "exit", "killed", "diverge"]
    configs = [own(make, deed) for deed in deeds] + [own(make, "none", f"seed={seed}") for seed in range(1, 5)]
    seen = []
    results = pool.run_all(configs, 2, told=lambda number, result: seen.append(number))
    assert sorted(seen) == list(range(10))
    assert [isinstance(r, pool.Died) for r in results] == [False, True, False, True, True] + [False] * 5
    states = [r.state for r in results if isinstance(r, run.Outcome)]
    assert states == ["complete", "failed", "diverged", *["complete"] * 4]
    assert str(results[1]) == "its process died: SIGSEGV(-11)"
    assert str(results[3]) == "its process died: EXIT(9)"


def test_after_a_failure_nothing_more_is_begun(bad, make):
    configs = [own(make, "raise"), *(own(make, "none", f"seed={seed}") for seed in range(1, 4))]
    results = pool.run_all(configs, 1, fail_fast=True)
    assert results[0].state == "failed"
    assert [type(r) for r in results[1:]] == [pool.NotStarted] * 3


def test_on_a_full_disk_nothing_more_is_begun(bad, make):
    configs = [own(make, "full"), *(own(make, "none", f"seed={seed}") for seed in range(1, 4))]
    results = pool.run_all(configs, 1)
    assert results[0].record["reason"].startswith("no space left on the disk of")
    assert [type(r) for r in results[1:]] == [pool.NotStarted] * 3


def test_a_run_that_takes_too_long_is_stopped_and_can_go_on(bad, make):
    slow = own(make, "slow", "epochs=400", "eval.every_steps=2", "checkpoint.every_s=0")
    other = own(make, "none")
    results = pool.run_all([slow, other], 1, timeout_s=3.0)
    assert isinstance(results[0], pool.TooLong)
    assert results[1].state == "complete"
    record = records.read_run(slow.folder)
    assert record["state"] == "interrupted"
    assert record["steps"] > 0


def test_one_of_each_kind_first_and_then_the_longest(make):
    long, short = [make("epochs=9", f"seed={s}") for s in range(3)], [make("epochs=1", f"seed={s}") for s in range(3)]
    queue = pool._Queue([*short, *long])
    assert [queue.take(), queue.take()] == [0, 3]
    queue.took(0, 1.0)
    queue.took(3, 9.0)
    assert [queue.take() for _ in range(4)] == [4, 5, 1, 2]


def test_how_long_it_will_take(make):
    queue = pool._Queue([make(f"seed={seed}") for seed in range(4)])
    worker = pool._Worker()
    assert queue.left_s([worker]) is None
    queue.took(queue.take(), 2.0)
    assert queue.left_s([worker]) == 6.0
    assert queue.left_s([worker, worker]) == 3.0


def test_a_folder_in_use_is_no_failure_of_the_others(make):
    configs = [make(f"seed={seed}") for seed in range(2)]
    with records.Lock(configs[0].folder):
        results = pool.run_all(configs, 1)
    assert isinstance(results[0], records.InUse)
    assert results[1].state == "complete"


def test_default_workers_leave_each_run_its_threads(make):
    cores = len(os.sched_getaffinity(0))
    one = make("device=cpu")
    assert devices.default_workers([one]) == cores
    assert devices.default_workers([one, dataclasses.replace(one, threads=10_000)]) == 1


@pytest.mark.parametrize(
    ("visible", "asked", "seen"),
    [
        (None, "auto", ["0", "1", "2"]),
        (None, "cuda", ["0", "1", "2"]),
        ("4,5,6", "auto", ["4", "5", "6"]),
        ("GPU-a, GPU-b, GPU-c", "cuda", ["GPU-a", "GPU-b", "GPU-c"]),
        (None, "cpu", []),
        (None, "cuda:1", []),
    ],
)
def test_on_gpus_there_is_one_worker_for_each(make, monkeypatch, visible, asked, seen):
    monkeypatch.setattr(devices, "DRIVERS", ("/",))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    configs = [make(f"device={asked}"), make(f"device={asked}", "seed=1")]
    assert devices.gpus(configs) == seen
    cores = len(os.sched_getaffinity(0))
    assert devices.default_workers(configs) == {"cpu": cores, "cuda:1": 1}.get(asked, 3)


def test_runs_that_name_their_gpus_have_a_worker_for_each_name(make):
    assert devices.default_workers([make("device=cuda:0"), make("device=cuda:2"), make("device=cuda:2", "seed=1")]) == 2


def test_a_gpu_that_torch_can_not_use_is_none(make, monkeypatch):
    monkeypatch.setattr(devices, "DRIVERS", ("/",))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.gpus([make("device=auto")]) == []


def test_without_a_driver_torch_is_not_asked(make, monkeypatch):
    monkeypatch.setattr(devices, "DRIVERS", ())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: 1 / 0)
    assert devices.gpus([make("device=auto")]) == []


def test_each_worker_sees_its_gpu_alone():
    with pool.Workers(3, ["0", "GPU-b"]) as workers:
        assert _visible(workers) == ["0", "GPU-b", "0"]


def _visible(workers):
    return [worker.start().submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() for worker in workers]


def test_a_worker_is_there_before_the_gpus_are_counted_and_keeps_its_own_when_it_is_replaced(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pool.Workers(1) as workers:
        first = workers[0].pid.result()
        assert _visible(workers) == [None]
        workers.become(3, ["5", "6"])
        assert _visible(workers) == ["5", "6", "5"]
        assert workers[0].pid.result() == first
        workers[1].close()
        assert _visible(workers) == ["5", "6", "5"]
        workers.become(2, ["5", "6"])
        assert len(workers) == 3, "what is there stays"


@pytest.mark.parametrize("setting", ["workers=0", "timeout_s=0", "timeout_s=-1"])
def test_settings_that_cannot_be_are_refused(tmp_path, monkeypatch, capsys, setting):
    monkeypatch.chdir(tmp_path)
    code = cli.main(["train", "-m", "dataset=synthetic", "seed=0,1", f"hydra.launcher.{setting}"])
    assert code == 2
    assert f"hydra.launcher.{setting.partition('=')[0]} must be" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------- as a command


def sweep(*overrides):
    return [sys.executable, "-m", "normbench", "train", "-m", *SMALL, *overrides]


def test_the_command_names_every_failure(bad, tmp_path):
    arms = ("model=own", "model._target_=badnet.Net", "norm=none", "+model.deed=none,raise,exit,diverge")
    done = subprocess.run(sweep(*arms), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "4 runs: 0 done before, 4 to train, 0 impossible" in done.stdout
    assert "died: its process died: EXIT(9)" in done.stdout
    assert re.search(r"^  died: results/runs/Net-none-adam-s0-\w+: its process died: EXIT\(9\)$", done.stdout, re.M)
    assert "on purpose" in done.stdout
    assert "traceback in its train.log" in done.stdout
    assert "1 diverged" in done.stdout
    again = subprocess.run(sweep(*arms[:-1], "+model.deed=none,diverge"), cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0
    assert "2 runs: 2 done before, 0 to train" in again.stdout


def below(pid):
    """The processes whose ancestor this is."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
    found, new = set(), {pid}
    while new:
        found |= new
        new = {child for child, parent in parents.items() if parent in new} - found
    return found - {pid}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_all_runs_and_leaves_no_process(bad, tmp_path, number, code):
    arms = ("model=own", "model._target_=badnet.Net", "norm=none", "+model.deed=slow", "epochs=300", "seed=0,1,2,3")
    arms += ("eval.every_steps=2", "checkpoint.every_s=0", "hydra.launcher.workers=2")
    process = subprocess.Popen(
        sweep(*arms), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("results/runs/*/checkpoint.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    children = below(process.pid)
    assert len(children) >= 2
    os.killpg(process.pid, number)  # as a terminal does: to all of its group
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 10, "5 s on a machine with nothing else to do"
    assert process.returncode == code, out + err
    assert number == signal.SIGHUP or "Traceback" not in err, "a hangup also ends loky's bookkeeper, which complains"
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() - began < 10:
        time.sleep(0.1)
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    states = [records.read_run(folder)["state"] for folder in records.find_runs(tmp_path / "results")]
    assert states == ["interrupted"] * 2
    assert "to go on: normbench train -m dataset=synthetic" in out


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_no_process_outlives_a_parent_that_is_killed(bad, tmp_path):
    arms = ("model=own", "model._target_=badnet.Net", "norm=none", "+model.deed=slow", "epochs=300", "seed=0,1,2")
    arms += ("eval.every_steps=2", "checkpoint.every_s=0", "hydra.launcher.workers=2")
    process = subprocess.Popen(sweep(*arms), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("results/runs/*/checkpoint.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    children = below(process.pid)
    assert len(children) >= 2
    process.kill()
    process.wait()
    began = time.monotonic()
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() - began < 20:
        time.sleep(0.1)
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    assert [records.read_run(folder)["state"] for folder in records.find_runs(tmp_path)] == ["interrupted"] * 2


def test_processes_that_were_started_before_serve_several_times(make):
    with pool.Workers(1) as workers:
        pids = []
        for seed in range(2):
            (result,) = pool.run_all([make(f"seed={seed}")], workers)
            assert result.state == "complete"
            pids.append(workers[0].pid.result())
    assert pids[0] == pids[1]
    assert not Path(f"/proc/{pids[0]}").exists()


def test_check_launcher_is_quiet_about_what_can_be():
    from normbench import app

    app.check_launcher(None, None)
    app.check_launcher(1, 0.5)
    with pytest.raises(Stop) as stop:
        app.check_launcher(0, None)
    assert isinstance(stop.value.error, ConfigError)


def digest(folder):
    return rows(folder), {k: v.tolist() for k, v in checkpoint.read(folder / "checkpoint.pt")["model"].items()}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_interrupted_at_twenty_random_moments_a_sweep_ends_as_if_it_never_was(tmp_path):
    """With every kind of signal, at any moment from the start of Python on, the sweep is stopped and begun again."""
    arms = ("model=lenet", "optimizer=momentum", "dataset.train_size=2000", "seed=0,1,2,3", "epochs=40")
    arms += ("eval.every_steps=5", "checkpoint.every_s=0")
    command = [sys.executable, "-m", "normbench", "train", "-m", "dataset=fashion_mini", "progress=false", *arms]
    began = time.monotonic()
    assert subprocess.run([*command, "name=whole"], cwd=tmp_path, capture_output=True).returncode == 0
    whole_s = time.monotonic() - began
    rng, saved = random.Random(0), [0]
    for turn in range(20):
        number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[turn % 3]
        process = subprocess.Popen(
            [*command, "name=stopped"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        time.sleep(rng.random() * (0.2 * whole_s + 5))
        children = below(process.pid)
        os.killpg(process.pid, number)
        process.communicate(timeout=60)
        assert process.returncode in (128 + number, -number, 0), "-number: before Python was ready for it; 0: done"
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
        found = [records.read_run(folder) for folder in records.find_runs(tmp_path / "results" / "stopped")]
        assert {record["state"] for record in found} <= {"interrupted", "complete"}
        saved.append(sum(record["steps"] for record in found))
    assert saved == sorted(saved)
    assert subprocess.run([*command, "name=stopped"], cwd=tmp_path, capture_output=True).returncode == 0
    stopped, whole = (
        {folder.name: digest(folder) for folder in records.find_runs(tmp_path / "results" / name)}
        for name in ("stopped", "whole")
    )
    assert stopped == whole
    print(f"interrupted 20 times; steps saved after each: {saved[1:]}")


@pytest.mark.parametrize("delay_s", [0.0, 0.4, 1.0])
def test_a_ctrl_c_while_processes_start_is_no_traceback(tmp_path, delay_s):
    command = [sys.executable, "-m", "normbench", "train", "-m", "norm=none,bn", "hydra.launcher.workers=2"]
    with subprocess.Popen(
        command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        said = process.stdout.readline()
        time.sleep(delay_s)
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to all of them
        said += process.stdout.read()
    assert process.returncode in (130, 0), said  # 0: it was done before
    assert "Traceback" not in said


def test_the_first_process_too_is_started_deaf_to_a_ctrl_c():
    """It is the first that makes loky start Python's resource tracker, which leaves the signal unblocked."""
    script = """
import signal
from joblib.externals.loky import ProcessPoolExecutor
from normbench.sweep import pool

processes = ProcessPoolExecutor(1)
with pool._deaf_to_interrupts():
    blocked = processes.submit(signal.pthread_sigmask, signal.SIG_BLOCK, [])
print(signal.SIGINT in blocked.result(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout == "True False\n"
