"""Engines that are not ours: the same runs, the same folders, and what goes wrong is said. See docs/scaling.md.

The tests of an engine are slow and need its extra: pip install 'normbench[slurm]' (or ray, or optuna), then
`pytest -m slow tests/test_launchers.py`.
"""

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobStatus
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from normbench import app, checkpoint, records, run, typed
from normbench.config import ConfigError
from normbench.sweep import elsewhere
from normbench.sweep.jobs import Job

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("dataset=synthetic", "epochs=2")
ARMS = ("norm=none,bn", "seed=0,1")

OWN = """
import os, signal, time
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
            if self.deed == "diverge":
                return self.layers(x) * float("nan")
            if self.deed == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.deed == "killed_once" and not os.path.exists("killed"):
                open("killed", "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.deed == "slow":
                time.sleep(0.02)
        return self.layers(x)
"""
OWN_NET = ("model=own", "model._target_=ownnet.Net", "norm=none")


@pytest.fixture
def folder(tmp_path):
    """A user's folder, with a class of its own in it."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "ownnet.py").write_text(OWN)
    return tmp_path / "here"


def start(folder, *args, **settings):
    """`normbench train -m ...` there, as a process."""
    command = [sys.executable, "-m", "normbench", "train", "-m", *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
    return subprocess.Popen(command, cwd=folder, text=True, stdout=-1, stderr=-1, env=environment)


def sweep(folder, *args, **settings):
    process = start(folder, *args, **settings)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def runs(root):
    """What must not depend on the engine: the rows without times, and the weights."""
    found = {}
    for path in records.find_runs(root):
        rows = [{k: v for k, v in r.items() if k != "train_s"} for r in records.read_metrics(path / "metrics.csv")]
        found[path.name] = records.verify(path)["state"], rows, checkpoint.read(path / "checkpoint.pt")["model"]
    return found


def assert_same(one, other, count):
    assert one.keys() == other.keys()
    assert len(one) == count
    for name, (state, rows, weights) in one.items():
        assert (state, rows) == other[name][:2]
        assert weights.keys() == other[name][2].keys()
        assert all(torch.equal(weights[key], other[name][2][key]) for key in weights)


def names(folder):
    return {path.name for path in folder.iterdir()} - {"__pycache__", "ownnet.py"}


def needs(module):
    return pytest.mark.skipif(find_spec(module) is None, reason=f"the extra that brings {module} is not installed")


# -------------------------------------------------------------------------------------- without any of them


def test_the_score_of_a_run_is_its_validation_accuracy(compose, tmp_path):
    outcome = run.run(compose(*SMALL, "norm=none", f"out={tmp_path}"), announce=lambda _: None)
    assert float(outcome) == outcome.record["val_acc"] > 0
    none = {"val_acc": None, "reason": "loss stopped being finite"}
    assert float(run.Outcome("diverged", tmp_path, none)) == 0
    with pytest.raises(RuntimeError, match=r"failed: .*: on purpose"):
        float(run.Outcome("failed", tmp_path, {"val_acc": 0.5, "reason": "on purpose"}))
    with pytest.raises(RuntimeError, match="paused"):
        float(run.Outcome("paused", tmp_path, none))


def test_only_our_sweeper_gets_settings_as_lists():
    assert typed.arrange(["-m", "optimizer.lr=0.1"]) == ["-m", "optimizer.lr=choice(0.1)"]
    assert typed.arrange(["-m", "optimizer.lr=0.1", "hydra/sweeper=checked"])[1] == "optimizer.lr=choice(0.1)"
    other = ["hydra/sweeper=optuna", "model.hidden=[8]"]
    assert typed.arrange(["-m", *other]) == ["-m", *other]


def test_a_launcher_refuses_a_setting_that_no_job_has():
    """The sweeper has checked it, if it is ours: Optuna's has not, and would search over nothing."""
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    from normbench.sweep import jobs

    app.register_plugins()
    with initialize_config_module("normbench.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        (config,) = jobs.configs(loader, [["norm=none", "optimizer.lr=0.5"]])
        assert config.optimizer["lr"] == 0.5
        with pytest.raises(ConfigError, match=r"did you mean optimizer\.lr"):
            jobs.configs(loader, [["norm=none", "optimizer.lrr=0.5"]])


def test_an_engine_that_is_not_installed_is_named_with_its_extra():
    error = MissingConfigException("no such file", "hydra/launcher/ray", options=["basic", "pool"])
    assert app.in_words(error) == "hydra/launcher=ray is not installed; type pip install 'normbench[ray]'"


def test_our_defaults_go_into_those_of_a_plugin(monkeypatch):
    store = ConfigStore.instance()
    store.store(group="hydra/launcher", name="pretended", node={"submitit_folder": "%j", "nodes": 1}, provider="them")
    try:
        monkeypatch.setattr(elsewhere, "DEFAULTS", {"hydra/launcher/pretended": {"submitit_folder": "here"}, "a/b": {}})
        elsewhere.fit_plugins()
        assert store.load("hydra/launcher/pretended.yaml").node == {"submitit_folder": "here", "nodes": 1}
    finally:
        del store.repo["hydra"]["launcher"]["pretended.yaml"]


class Broken:
    """A launcher that raises after the first job."""

    def __init__(self, config=None, error="the job died\nand a long story"):
        self.config, self.error = config, error

    def launch(self, job_overrides, initial_job_idx):
        if self.config:
            run.run(self.config, announce=lambda _: None)
        raise RuntimeError(self.error)


def test_where_a_launcher_gives_no_answer_the_folders_do(compose, tmp_path):
    configs = [compose(*SMALL, "norm=none", f"out={tmp_path}", f"seed={seed}") for seed in range(3)]
    todo = [Job((f"seed={config.seed}",), config) for config in configs]
    with records.Lock(configs[2].folder):
        done, gone, held = elsewhere.launch(Broken(configs[0]), todo)
    assert (done.status, done.return_value.state) == (JobStatus.COMPLETED, "complete")
    assert gone.status is held.status is JobStatus.FAILED
    with pytest.raises(RuntimeError, match="says: the job died and a long story; the same command goes on with it"):
        _ = gone.return_value
    with pytest.raises(records.InUse, match="still being trained"):
        _ = held.return_value


def test_a_launcher_that_can_not_begin_is_bad_input(compose, tmp_path):
    todo = [Job((), compose(*SMALL, "norm=none", f"out={tmp_path}/none"))]
    with pytest.raises(ConfigError, match="Broken could not begin: no srun here"):
        elsewhere.launch(Broken(error="no srun here"), todo)
    with pytest.raises(ConfigError, match="as it was"):
        elsewhere.launch(
            type("L", (), {"launch": lambda *_, **__: (_ for _ in ()).throw(ConfigError("as it was"))})(), todo
        )
    ours = type("Ours", (Broken,), {"__module__": "hydra_plugins.normbench_checked"})
    with pytest.raises(RuntimeError, match="a bug"):  # with its traceback
        elsewhere.launch(ours(error="a bug"), todo)


def test_a_scheduler_s_signal_saves_the_run_before_the_scheduler_acts(compose, tmp_path, monkeypatch):
    config = compose(*SMALL, "norm=none", f"out={tmp_path}", "checkpoint.every_s=1000")
    seen = []

    def requeue(signum, frame):
        seen.append(records.state_now(config.folder, records.verify(config.folder)))
        raise SystemExit(144)

    steps = []
    real = run.Attempt.batches

    def batches(self, bar):
        for batch in real(self, bar):
            steps.append(1)
            if len(steps) == 5:
                signal.raise_signal(signal.SIGUSR2)
            yield batch

    monkeypatch.setattr(run.Attempt, "batches", batches)
    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with pytest.raises(SystemExit):
            run.run(config, announce=lambda _: None)
        assert seen == ["interrupted"]
        assert signal.getsignal(signal.SIGUSR2) is requeue
        outcome = run.run(config, announce=lambda _: None)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert (outcome.state, outcome.record["steps"]) == ("complete", len(steps))  # none was made twice


def test_a_file_system_without_locks_is_no_run_in_use(compose, tmp_path, monkeypatch):
    import fcntl

    def flock(file, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ConfigError, match="Function not implemented"):
        run.run(compose(*SMALL, "norm=none", f"out={tmp_path}"), announce=lambda _: None)


def test_a_run_is_logged_in_whatever_process_it_is(compose, tmp_path, monkeypatch):
    monkeypatch.setattr(run.log, "level", 0)
    outcome = run.run(compose(*SMALL, "norm=none", f"out={tmp_path}"), announce=lambda _: None)
    log = (outcome.folder / "train.log").read_text()
    assert "val_acc=" in log
    assert "complete: " in log


def test_a_run_that_another_process_ended_meanwhile_is_not_made_again(compose, tmp_path, monkeypatch):
    config = compose(*SMALL, "norm=none", f"out={tmp_path}", "checkpoint.keep=none")
    real, others = run.build.build, []

    def build(config):
        built = real(config)
        if not others:
            others.append(None)
            others.append(run.run(config, announce=lambda _: None))
        return built

    monkeypatch.setattr(run.build, "build", build)
    outcome = run.run(config, announce=lambda _: None)
    assert (outcome.state, outcome.new) == ("complete", False)
    assert outcome.record == records.verify(config.folder)


@pytest.mark.slow
def test_the_same_command_on_two_machines_shares_the_work(folder):
    arms = (*SMALL, *OWN_NET, "+model.deed=slow", "seed=range(0,8)", "hydra/launcher=pool", "hydra.launcher.workers=1")
    machines = [start(folder, *arms), start(folder, *arms)]
    ends = [(*machine.communicate(timeout=300), machine.returncode) for machine in machines]
    assert {code for _, _, code in ends} <= {0, 3}, ends  # 3: the last run is still the other's
    trained = [len(re.findall(r"complete  test", out)) for out, _, _ in ends]
    assert sum(trained) == 8, ends
    assert min(trained) >= 2, ends
    assert all(state == "complete" for state, _, _ in runs(folder / "results").values())


# ------------------------------------------------------------------------------------------ slurm, by submitit


@pytest.mark.slow
@needs("submitit")
def test_submitit_makes_the_runs_that_the_plain_launcher_makes(folder):
    assert sweep(folder, *SMALL, *ARMS, "hydra/launcher=basic", "out=plain")[0] == 0
    code, out, err = sweep(folder, *SMALL, *ARMS, "hydra/launcher=submitit_local", "out=local")
    assert code == 0, err
    assert "4 complete; 4 trained now" in out
    assert_same(runs(folder / "plain"), runs(folder / "local"), 4)
    assert names(folder) == {"plain", "local"}
    assert names(folder / "local") == {"runs", ".submitit"}
    assert len(list((folder / "local" / ".submitit").glob("*_0_log.out"))) == 4


@pytest.mark.slow
@needs("submitit")
def test_submitit_what_goes_wrong_is_said(folder):
    deeds = (*SMALL, *OWN_NET, "hydra/launcher=submitit_local")
    code, out, err = sweep(folder, *deeds, "+model.deed=none,raise,diverge")
    assert code == 1, err
    assert "1 complete, 1 failed, 1 diverged; 3 trained now" in out
    assert re.search(r"failed: results/runs/Net-none-adam-s0-\w+: RuntimeError: on purpose", out)
    code, out, err = sweep(folder, *deeds, "+model.deed=none,diverge")
    assert code == 0, err
    assert "2 done before" in out
    code, out, err = sweep(folder, *deeds, "+model.deed=killed,none")
    assert code == 1, err
    assert "1 complete, 1 not run" in out
    assert re.search(r"not run: .*: no result; its launcher says: Job .*the same command goes on", out)
    assert "Traceback" not in err


@pytest.mark.slow
@needs("submitit")
def test_submitit_out_of_time_is_queued_again_and_goes_on(folder):
    slow = ("dataset=synthetic", "epochs=20", "eval.every_steps=10", "checkpoint.every_s=0", "+model.deed=slow")
    process = start(folder, *slow, *OWN_NET, "hydra/launcher=submitit_local")
    signal_the_run(process, folder, signal.SIGUSR2)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "1 complete; 1 trained now" in out
    (path,) = records.find_runs(folder)
    assert "resuming at step" in (path / "train.log").read_text()


def signal_the_run(process, folder, signum):
    """Once the one run there has saved something."""
    while process.poll() is None:
        time.sleep(0.1)
        for path in records.find_runs(folder):
            if (path / "checkpoint.pt").exists():
                os.kill(int((path / ".lock").read_text().split()[1]), signum)
                return
    raise AssertionError(process.communicate())


# What Slurm's commands do, as far as submitit sees it: `sbatch FILE` runs the tasks of the array, one after another.
SBATCH = """#!/bin/bash
cp "$1" "{folder}/batch.sh"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
(for i in $(seq 0 "$last"); do
  SLURM_JOB_ID=$((100 + i)) SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=$i bash "$1"
done) >/dev/null 2>&1 &
echo "Submitted batch job 77"
"""
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do
  [[ "$1" == --output || "$1" == --error ]] && shift
  shift
done
exec "$@"
"""
SACCT = """#!/bin/bash
echo "JobID|State|NodeList"
for i in $(seq 0 3); do echo "77_$i|RUNNING|node"; done
"""


@pytest.mark.slow
@needs("submitit")
def test_slurm_gets_one_array_of_one_core_tasks(folder, tmp_path):
    slurm = tmp_path / "slurm"
    slurm.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (slurm / name).write_text(text.replace("{folder}", str(tmp_path)))
        (slurm / name).chmod(0o755)
    assert sweep(folder, *SMALL, *ARMS, "hydra/launcher=basic", "out=plain")[0] == 0
    settings = ("hydra.launcher.partition=short", "hydra.launcher.timeout_min=30", "hydra.launcher.array_parallelism=3")
    code, out, err = sweep(
        folder, *SMALL, *ARMS, "hydra/launcher=submitit_slurm", "out=slurm", *settings,
        PATH=f"{slurm}:{os.environ['PATH']}",
    )  # fmt: skip
    assert code == 0, out + err
    assert "4 complete; 4 trained now" in out
    assert_same(runs(folder / "plain"), runs(folder / "slurm"), 4)
    batch = (tmp_path / "batch.sh").read_text()
    for flag in ("array=0-3%3", "cpus-per-task=1", "ntasks-per-node=1", "nodes=1", "time=30", "partition=short"):
        assert f"#SBATCH --{flag}\n" in batch
    assert "#SBATCH --signal=USR2@120\n" in batch
    assert f"--output={folder}/slurm/.submitit/%A_%a_0_log.out" in batch
    assert names(folder) == {"plain", "slurm"}


@pytest.mark.slow
@needs("submitit")
@pytest.mark.skipif(shutil.which("srun") is not None, reason="there is a Slurm")
def test_without_slurm_there_is_one_line(folder):
    code, _, err = sweep(folder, *SMALL, *ARMS, "hydra/launcher=submitit_slurm")
    assert code == 2
    assert 'SlurmLauncher could not begin: Could not detect "srun"' in err
    assert len(err.splitlines()) == 1
    assert not list(records.find_runs(folder))


# --------------------------------------------------------------------------------------------------------- ray


@pytest.fixture
def cluster(tmp_path):
    """A cluster of Ray's, started where no user is; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "there").mkdir()
    quiet = {**os.environ, "RAY_DISABLE_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}
    begin = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=2", f"--port={port}"]
    with open(tmp_path / "ray.log", "w+") as log:
        head = subprocess.Popen([*begin, "--block"], cwd=tmp_path / "there", env=quiet, stdout=log, stderr=log)
        for _ in range(600):
            time.sleep(0.1)
            if "Ray runtime started" in (tmp_path / "ray.log").read_text():
                break
        yield f"127.0.0.1:{port}"
        head.terminate()  # ends what it started; `ray stop` would end every cluster of this machine
        head.wait(60)


@pytest.mark.slow
@needs("ray")
def test_ray_makes_the_runs_that_the_plain_launcher_makes(folder, cluster, tmp_path):
    ray = ("hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster}")
    assert sweep(folder, *SMALL, *OWN_NET, "seed=0,1", "hydra/launcher=basic", "out=plain")[0] == 0
    code, out, err = sweep(folder, *SMALL, *OWN_NET, "seed=0,1", *ray, "out=ray")
    assert code == 0, out + err
    assert "2 complete; 2 trained now" in out
    assert_same(runs(folder / "plain"), runs(folder / "ray"), 2)
    assert names(folder) == {"plain", "ray"}
    code, out, err = sweep(folder, *SMALL, *OWN_NET, *ray, "out=ray", "+model.deed=raise,diverge,killed_once")
    assert code == 1, out + err
    assert "1 failed, 1 diverged, 1 complete; 3 trained now" in out  # Ray begins again what lost its process
    assert (folder / "killed").exists()
    assert not list(records.find_runs(tmp_path / "there"))


# ------------------------------------------------------------------------------------------------------ optuna

SEARCH = (
    "hydra/sweeper=optuna",
    "hydra.sweeper.sampler.seed=1",
    "norm=none",
    "optimizer.lr=tag(log, interval(1e-4, 1))",
)


def best(folder):
    found = OmegaConf.load(folder / "results" / "runs" / "optimization_results.yaml")
    return found.best_params["optimizer.lr"], found.best_value


@pytest.mark.slow
@needs("optuna")
@pytest.mark.parametrize("launcher", ["basic", "pool"])
def test_optuna_finds_the_highest_validation_accuracy(folder, launcher):
    trials = ("hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=2", f"hydra/launcher={launcher}")
    code, out, err = sweep(folder, *SEARCH, *trials, "dataset=fashion_mini", "epochs=1", "model.hidden=[8]")
    assert code == 0, err
    found = [records.verify(path) for path in records.find_runs(folder)]
    assert [record["state"] for record in found] == ["complete"] * 8
    highest = max(found, key=lambda record: record["val_acc"])
    assert best(folder) == (highest["config"]["optimizer"]["lr"], highest["val_acc"])
    assert f"Best value: {highest['val_acc']}" in out
    assert names(folder) == {"results"}
    # one of its trials, made again the plain way
    lr = highest["config"]["optimizer"]["lr"]
    arms = ("norm=none", "dataset=fashion_mini", "epochs=1", "model.hidden=[8]", f"optimizer.lr={lr!r}")
    assert sweep(folder, *arms, "hydra/launcher=basic", "out=plain")[0] == 0
    (name,) = runs(folder / "plain")
    assert_same(runs(folder / "plain"), {name: runs(folder / "results")[name]}, 1)


@pytest.mark.slow
@needs("optuna")
@pytest.mark.parametrize("launcher", ["basic", "pool"])
def test_optuna_a_diverged_trial_is_the_worst_and_a_failed_one_is_said(folder, launcher):
    # of the random sampler, whose seed=0 draws all three; after a failed last trial its grid sampler gives up
    random = ("hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=0", "+model.deed=choice(none,raise,diverge)")
    trials = ("hydra.sweeper.n_trials=8", "hydra.sweeper.n_jobs=2", f"hydra/launcher={launcher}")
    code, out, err = sweep(folder, SEARCH[0], SEARCH[3], *random, *trials, *SMALL, *OWN_NET)
    assert code == 0, err
    states = Counter(records.verify(path)["state"] for path in records.find_runs(folder))
    assert states == {"complete": 3, "diverged": 4, "failed": 1}
    assert re.search(r"Failed experiment: failed: results/runs/Net-none-adam-s0-\w+: RuntimeError: on purpose", out)
    assert best(folder)[1] > 0


@pytest.mark.slow
@needs("optuna")
@pytest.mark.parametrize("launcher", ["basic", "pool"])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("optimizer.lrr=interval(0.1, 1)", "did you mean optimizer.lr?"),
        ("optimizer.momentum=0.9", "unknown key optimizer.momentum"),
        ("optimizer.lr=interval(-2.0, -1.0)", "optimizer.lr must be a number > 0"),
    ],
)
def test_optuna_settings_that_can_not_be_are_refused(folder, launcher, setting, words):
    key = setting.partition("=")[0]
    search = [word for word in SEARCH if not word.startswith(f"{key}=")]
    trials = ("hydra.sweeper.n_trials=2", f"hydra/launcher={launcher}")
    code, out, err = sweep(folder, *search, *trials, *SMALL, setting)
    assert code == 2, out + err
    assert words in out + err
    assert "Traceback" not in err
    assert not list(records.find_runs(folder))
