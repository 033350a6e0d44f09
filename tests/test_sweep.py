"""Sweeps: what they expand to, what is joined, skipped, refused and recorded."""

import hashlib
import shutil
import subprocess
import sys
import time

import pytest
from crash_runs import serving
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from normbench import build, records, typed
from normbench.app import register_plugins
from normbench.config import ConfigError, run_id
from normbench.sweep import estimate, jobs, session

FAST = ("dataset=synthetic", "epochs=2", "batch_size=32")


@pytest.fixture
def plan():
    register_plugins()

    def make(*typed, most=None):
        with initialize_config_module("normbench.conf", version_base="1.3"):
            return jobs.plan(GlobalHydra.instance().config_loader(), typed, most)

    return make


def test_every_combination_once_in_the_order_typed(plan):
    planned = plan("norm=none,bn", "optimizer=sgd,adam", "seed=range(0,3)")
    assert planned.asked == len(planned.jobs) == 12
    words = [(job.config.norm["name"], job.config.optimizer["name"], job.config.seed) for job in planned.jobs]
    assert words == [(n, o, s) for n in ("none", "bn") for o in ("sgd", "adam") for s in range(3)]


def test_glob_is_every_choice(plan):
    assert {job.config.clip["name"] for job in plan("clip=glob(*)").jobs} >= {"none", "norm", "value"}
    assert {job.config.clip["name"] for job in plan("clip=glob(n*)").jobs} == {"none", "norm"}


def test_a_planned_config_is_the_one_that_hydra_composes(plan, compose):
    typed = (
        "norm=bn",
        "optimizer=momentum",
        "optimizer.momentum=0.8",
        "model.hidden=[32,16]",
        "+optimizer.nesterov=true",
    )
    (job,) = plan(*typed).jobs
    assert job.config == compose(*typed)
    assert job.overrides == typed


def test_a_setting_goes_to_those_that_have_the_key(plan):
    planned = plan("norm=none,bn", "norm.momentum=0.2", "clip=none,norm", "clip.max_norm=1")
    assert len(planned.jobs) == 4
    assert [job.config.norm.get("momentum") for job in planned.jobs] == [None, None, 0.2, 0.2]
    assert [job.config.clip.get("max_norm") for job in planned.jobs] == [None, 1, None, 1]


def test_equal_jobs_are_joined(plan):
    assert [job.config.seed for job in plan("seed=1,1,1").jobs] == [1]
    planned = plan("norm=none,bn", "norm.momentum=0.1,0.2")  # none has no momentum: once
    assert (planned.asked, len(planned.jobs)) == (4, 3)
    assert len(plan("optimizer.lr=1e-3,0.001,0.0010").jobs) == 1


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["norm=none", "norm.momentum=0.2"], "unknown key norm.momentum"),
        (["clip=none,norm", "clip.max_value=1"], "unknown key clip.max_value; clip has: max_norm, name"),
        (["optimizer.lr=0.1,abc"], "optimizer.lr must be a number, got 'abc'"),
        (["epochs=1,0"], "epochs must be a whole number from 1 to 1000000, got 0"),
        (["seed=1", "seed=2"], "seed is given twice"),
        (["optimizer.lr=0.1", "+optimizer.lr=0.2"], "optimizer.lr is given twice"),
    ],
)
def test_one_bad_job_stops_the_whole_sweep(plan, typed, words):
    with pytest.raises(ConfigError) as error:
        plan(*typed)
    assert words in str(error.value)


def test_composing_a_thousand_jobs_is_quick_because_choices_are_composed_once(plan, monkeypatch):
    calls = []
    real = jobs._Composer._compose
    monkeypatch.setattr(jobs._Composer, "_compose", lambda self, texts: calls.append(texts) or real(self, texts))
    assert len(plan("norm=none,bn", "optimizer.lr=0.1,0.2", "seed=range(0,5)").jobs) == 20
    assert len(set(calls)) == 2


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def sweep(server):
    """sweep(FOLDER, KEY=VALUE, ...): normbench train -m, one run after another in the process that was typed.

    What the pool does is tests/test_pool.py's.
    """

    def start(folder, *typed, fast=FAST):
        return server.run(folder, "train", "-m", "hydra/launcher=basic", *fast, *typed)

    return start


def tree(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files}


def test_the_same_sweep_again_trains_nothing_and_changes_no_byte(tmp_path, sweep):
    first = sweep(tmp_path, "norm=none,bn", "optimizer=sgd,adam", "seed=0,1")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[0] == "8 runs: 0 done before, 8 to train, 0 impossible"
    assert first.stdout.splitlines()[-1] == "done: results/runs; next: normbench report results/runs"
    before = tree(tmp_path)
    again = sweep(tmp_path, "seed=1,0", "optimizer=adam,sgd", "norm=bn,none", "norm.eps=0.00001")
    assert again.stdout.splitlines()[0] == "8 runs: 8 done before, 0 to train, 0 impossible"
    assert tree(tmp_path) == before


def test_broken_runs_are_redone_and_whole_ones_left_alone(tmp_path, sweep):
    sweep(tmp_path, "seed=0,1,2,3")
    whole, no_status, cut, altered = records.find_runs(tmp_path)
    (no_status / "run.json").unlink()
    (cut / "checkpoint.pt").write_bytes((cut / "checkpoint.pt").read_bytes()[:-100])
    (altered / "metrics.csv").write_text("step\n")
    before = tree(whole)
    again = sweep(tmp_path, "seed=0,1,2,3")
    assert again.returncode == 0
    assert again.stdout.splitlines()[0] == "4 runs: 1 done before, 3 to train, 0 impossible"
    assert f"{cut.relative_to(tmp_path)}/checkpoint.pt is damaged" in again.stderr
    assert tree(whole) == before
    assert all(records.verify(folder)["state"] == "complete" for folder in records.find_runs(tmp_path))


def test_an_impossible_cell_is_recorded_with_its_reason(tmp_path, sweep):
    answer = sweep(
        tmp_path, "norm=none,bn", "dataset.train_size=120", fast=("dataset=synthetic", "epochs=1", "batch_size=1")
    )
    assert answer.returncode == 0, answer.stderr
    states = {r["norm"]: (r["state"], r["reason"]) for r in map(records.read_run, records.find_runs(tmp_path))}
    assert states["none"] == ("complete", None)
    assert states["bn"][0] == "skipped"
    assert "at least 2 values per channel" in states["bn"][1]


@pytest.mark.parametrize(
    ("typed", "done", "reason"),
    [
        (("optimizer=adam,muon", "model.hidden=[],[8]"), 3, "needs the weight of a hidden layer"),
        (("dataset.image_size=8,28", "augment=cutout", "augment.size=12"), 1, "size must be at most 8"),
        (("optimizer=sgd,momentum", "schedule.scales=[lr,momentum]"), 1, "schedule.scales has momentum"),
        (("preprocess=scale,pca", "model=mlp,cnn", "dataset.train_size=200"), 3, "makes vectors of 64 numbers"),
    ],
)
def test_what_one_cell_cannot_do_does_not_keep_the_others_from_it(tmp_path, typed, done, reason, sweep):
    answer = sweep(tmp_path, *typed)
    assert answer.returncode == 0, answer.stderr
    assert f"{done} to train, 1 impossible" in answer.stdout
    assert reason in answer.stdout


def test_a_job_that_cannot_be_built_is_named(tmp_path, sweep):
    answer = sweep(tmp_path, "batch_size=32,9999", fast=("dataset=synthetic", "epochs=1"))
    assert answer.returncode == 2
    assert "batch_size must be at most 462" in answer.stderr
    assert "(in dataset=synthetic epochs=1 batch_size=9999)" in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_null_can_be_given_in_a_sweep(plan, tmp_path, sweep):
    answer = sweep(
        tmp_path, "dataset=fashion_mini", "dataset.train_size=null", "seed=0,1", "--dry-run", fast=("epochs=1",)
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("2 runs:")


def test_jobs_of_one_kind_take_the_same_time(plan):
    def kinds(*typed):
        return len({estimate.kind(job.config) for job in plan("dataset=synthetic", *typed).jobs})

    assert kinds("seed=0,1", "optimizer.lr=0.1,0.2", "out=a,b") == 1
    for different in ("amp=none,bf16", "epochs=1,2", "preprocess=pca preprocess.components=2,3", "norm=bn,ln"):
        assert kinds(*different.split()) == 2


def test_failures_are_all_named_and_the_rest_is_trained(tmp_path, sweep):
    (tmp_path / "breaks.py").write_text(
        "from torch import nn\n"
        "class Breaks(nn.Module):\n"
        "    def __init__(self, num_features, at):\n"
        "        super().__init__(); self.at, self.n = at, 0\n"
        "    def forward(self, x):\n"
        "        self.n += self.training\n"
        "        if self.n == self.at: raise RuntimeError(f'broke at {self.at}')\n"
        "        return x\n"
    )
    answer = sweep(tmp_path, "norm=none", "norm._target_=breaks.Breaks", "+norm.at=3,5,999")
    assert answer.returncode == 1
    assert "RuntimeError: broke at 3" in answer.stdout
    assert "RuntimeError: broke at 5" in answer.stdout
    assert "1 complete" in answer.stdout
    assert answer.stdout.splitlines()[-1].startswith("some runs failed: results/runs")


def test_dry_run_says_what_would_run_and_writes_nothing(tmp_path, sweep):
    answer = sweep(tmp_path, "norm=none,bn", "seed=0,1", "--dry-run")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("results/runs/mlp-") == 4
    assert "nothing was started" in answer.stdout.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_runs_result_does_not_depend_on_what_ran_before_it(tmp_path, sweep):
    sweep(tmp_path, "seed=0,1", "model.dropout=0.3", "out=forward")
    sweep(tmp_path, "seed=1,0", "model.dropout=0.3", "out=backward")
    for one, other in zip(
        records.find_runs(tmp_path / "forward"), records.find_runs(tmp_path / "backward"), strict=True
    ):
        a, b = (records.read_metrics(folder / "metrics.csv") for folder in (one, other))
        assert one.name == other.name
        assert [{**row, "train_s": 0} for row in a] == [{**row, "train_s": 0} for row in b]
        assert records.read_run(one)["test_loss"] == records.read_run(other)["test_loss"]


def test_run_ids_of_a_sweep_are_those_of_single_runs(tmp_path, compose, sweep):
    sweep(tmp_path, "seed=0", "optimizer.lr=0.01,1", "norm.momentum=0.2")
    names = {path.name for path in records.find_runs(tmp_path)}
    assert names == {run_id(compose(*FAST, f"optimizer.lr={lr}", "norm.momentum=0.2")) for lr in ("0.01", "1")}


def test_a_run_that_another_process_has_is_no_failure(tmp_path, compose, sweep):
    folder = compose(*FAST, "seed=1", f"out={tmp_path}/results").folder
    with records.Lock(folder):
        answer = sweep(tmp_path, "seed=0,1")
    assert answer.returncode == 3
    assert "1 complete, 1 in use; 1 trained now" in answer.stdout
    assert answer.stdout.splitlines()[-1].startswith("some runs are in use: results/runs")


def test_two_places_are_two_runs(tmp_path, sweep):
    answer = sweep(tmp_path, "out=here,there")
    assert answer.stdout.startswith("2 runs: 0 done before, 2 to train")
    assert len(list(records.find_runs(tmp_path / "here"))) == len(list(records.find_runs(tmp_path / "there"))) == 1


# ------------------------------------------------------------------------------------------------ the check, at scale


def test_more_jobs_than_one_may_want_are_refused_with_their_cost(tmp_path, sweep):
    answer = sweep(tmp_path, "norm=none,bn", "seed=range(100000)")
    assert answer.returncode == 2
    assert "200,000 jobs; if all are like the first, they take about" in answer.stderr
    assert "add --yes" in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_yes_starts_them_all(plan, monkeypatch):
    assert plan("seed=range(7)", most=None).asked == 7
    with pytest.raises(jobs.TooMany) as error:
        plan("seed=range(7)", "norm=none,bn", most=13)
    assert (error.value.count, error.value.first.config.seed) == (14, 0)
    assert typed.arrange(["-m", "seed=range(7)", "--yes"])[-1] == "hydra.sweeper.yes=true"


@pytest.mark.parametrize(
    "others",
    [
        ("optimizer.lr=0.1,0.2", "model.hidden=[8],[4,4]", "norm=none,bn", "norm.eps=1e-3"),
        ("name=s${seed}", "norm.eps=0.1,0.2"),
        ("optimizer=sgd", "optimizer._target_=torch.optim.RMSprop", "optimizer.lr=0.1,0.2"),
        ("dataset=imagefolder", "dataset.root=x", "dataset.name=pets,cars"),
        ("epochs=1,2", "eval.batch_size=7"),
    ],
)
def test_jobs_that_share_what_is_equal_are_those_that_hydra_composes(plan, compose, others):
    for job in plan("seed=3,4", *others).jobs:
        assert job.config == compose(*job.overrides), job.overrides


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed=0,-1", "seed must be a whole number from 0 to 4294967295, got -1"),
        ("seed=0,true", "seed"),
        ("seed=0,0.5", "seed"),
        ("optimizer.lr=0.1,-1", "optimizer.lr must be a number > 0, got -1"),
        ("optimizer.lr=0.1,nan", "optimizer.lr must be"),
        ("optimizer.betas=[0.9,0.99],[0.9]", "optimizer.betas must be a list of 2 numbers"),
    ],
)
def test_no_value_escapes_the_check(plan, text, words):
    with pytest.raises(ConfigError) as error:
        plan(text)
    assert words in str(error.value)


def test_every_arm_is_built_once_and_its_seeds_are_not(plan, monkeypatch):
    built = []
    monkeypatch.setattr(build, "build", built.append)
    work = session.look_for_finished(plan("dataset=synthetic", "norm=none,bn", "optimizer.lr=0.1,0.2", "seed=range(9)"))
    session.check(work)
    assert (len(work.todo), len(built)) == (36, 4)


def test_a_long_dry_run_names_the_first_hundred(plan, monkeypatch):
    monkeypatch.setattr(estimate, "measure", lambda config, jobs: estimate.Cost(60.0, 1_000_000))
    lines = estimate.table(plan("seed=range(150)").jobs).splitlines()
    assert len(lines) == 102
    assert lines[-2:] == [
        "  ... and 50 more",
        "would take about 2:30:00 one after another, and 150.0 MB; nothing was started",
    ]


@pytest.mark.slow
def test_of_twelve_runs_four_sabotaged_those_four_are_made_again_and_a_wider_sweep_adds_what_is_new(tmp_path, sweep):
    arms = ("norm=none,bn", "optimizer=sgd,adam", "seed=0,1,2")
    assert sweep(tmp_path, *arms).returncode == 0
    folders = list(records.find_runs(tmp_path))
    state, cut_checkpoint, cut_metrics, killed = sabotaged = folders[::3]
    record = records.read_run(state)
    (state / "run.json").write_bytes(records.run_json(record | {"state": "running", "files": {}}))
    (cut_checkpoint / "checkpoint.pt").write_bytes((cut_checkpoint / "checkpoint.pt").read_bytes()[:-1000])
    (cut_metrics / "metrics.csv").write_bytes((cut_metrics / "metrics.csv").read_bytes()[:-7])
    shutil.rmtree(killed)
    untouched = {folder: tree(folder) for folder in folders if folder not in sabotaged}
    process = subprocess.Popen(  # kill -9 while the fourth is made again
        [sys.executable, "-m", "normbench", "train", "-m", *FAST, *arms], cwd=tmp_path, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (killed / "run.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    again = sweep(tmp_path, *arms)
    assert again.returncode == 0
    assert {folder: tree(folder) for folder in untouched} == untouched
    assert all(records.verify(folder)["state"] == "complete" for folder in folders)
    before = tree(tmp_path)
    wider = sweep(tmp_path, "norm=none,bn,ln", "optimizer=sgd,adam", "seed=0,1,2,3")
    assert wider.stdout.splitlines()[0] == "24 runs: 12 done before, 12 to train, 0 impossible"
    assert {path: value for path, value in tree(tmp_path).items() if path in before} == before
