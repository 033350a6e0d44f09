"""The documents' claims: every file of conf/claim is one, its sweep can be made, the command ends with a verdict."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from omegaconf import OmegaConf

from normbench import claim, draws, reproduce
from normbench.app import register_plugins
from normbench.report.answers import _text
from normbench.report.collect import flatten
from normbench.report.figures import KEYS
from normbench.report.measures import FOUND, IMPORTANCE, MEASURES
from normbench.report.shares import MADE_OF
from normbench.sweep import jobs, loading, session

CONF = Path(__file__).resolve().parent.parent / "conf"
CLAIMS = sorted(name for name, data in reproduce.known().items() if "quick" in data)
PAPERS = sorted(name for name, data in reproduce.known().items() if "paper" in data)
SEEDS = {"quick": 3, "full": 6}


def planned(name, budget, *more):
    """The jobs that the command would train, as CheckedSweeper makes them."""
    register_plugins()
    experiment = OmegaConf.load(CONF / "experiment" / f"{name}.yaml")
    brought = OmegaConf.to_container(OmegaConf.select(experiment, "hydra.sweeper.params", default=OmegaConf.create()))
    found, data = [], reproduce.known()[name]
    for typed in reproduce.sweeps(name, data, budget):
        own = {word.partition("=")[0].lstrip("+") for word in typed}
        params = [f"{key}={value}" for key, value in brought.items() if key not in own]
        with TemporaryDirectory() as folder:
            draws.write(Path(folder), reproduce.drawn(data, budget))
            with loading.opened(Path(folder)) as loader:
                found += jobs.plan(loader, [*params, *typed, *more]).jobs
    return found


def cells(configs, ask, side, tuned):
    """What the runs of a side have beside what the question names: each a group that is compared within itself."""
    named = {word.partition("=")[0] for text in (ask.of, ask.than) for word in text.split()}
    named |= {ask.along, "seed", *(part.partition("=")[0] for part in ask.where)}
    there = [config for config in configs if has(config, " ".join([side, *ask.where]))]
    return {
        frozenset((k, str(v)) for k, v in flatten(config).items() if not {k, k.partition(".")[0]} & {*named, *tuned})
        for config in there
    }


def value(config, key):
    """Of a setting, as the report's tables have it; None where there is none."""
    flat = flatten(config)
    return flat.get(f"{key}.name", flat.get(key))


def has(config, typed):
    wanted = dict(part.split("=", 1) for part in typed.split())
    return all(_text(value(config, key)) == _text(text) for key, text in wanted.items())


@pytest.mark.parametrize("name", CLAIMS)
def test_every_file_is_a_claim_with_its_sweep_and_its_cost(name):
    data = reproduce.known()[name]
    for budget in reproduce.BUDGETS[:2]:
        made = claim.made(name, data, budget)
        assert made.claim.endswith(".")
        assert made.source.startswith("document") == bool(made.words)
        assert made.words or made.claim.startswith("Beyond the documents")
        assert made.figure in KEYS
        assert bool(made.targets) == any(ask.measure in claim.TIMES for ask in made.asks)
        assert made.targets in ((), claim.TARGETS)
    assert data["quick"], "the small budget is another than the full one"
    assert {"quick", "full"} <= set(data["cost"])
    assert all(isinstance(seconds, int | float) and seconds > 0 for seconds in data["cost"].values())
    for ask in made.asks:
        assert ask.measure in {*MEASURES, *claim.TIMES, FOUND, IMPORTANCE}
        along = ask.measure in (FOUND, IMPORTANCE) or (ask.measure in MEASURES and MEASURES[ask.measure].along)
        assert bool(ask.along) == along
    experiment = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert (experiment[0], experiment[1][:2]) == ("# @package _global_", "# ")


@pytest.mark.parametrize("budget", ["quick", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CLAIMS)
def test_every_budget_has_runs_for_both_sides_of_every_question(name, budget):
    configs = [job.config.to_dict() for job in planned(name, budget)]
    assert len({config["seed"] for config in configs}) >= SEEDS[budget]
    for ask in claim.made(name, reproduce.known()[name], budget).asks:
        if ask.measure == FOUND:  # both sides search the same runs
            assert all(len({value(config, key) for config in configs}) >= 3 for key in ask.along.split())
            continue
        if ask.measure == IMPORTANCE:
            own = [config for config in configs if has(config, " ".join(ask.where))]
            places = {MADE_OF.get(key, (key,))[0] for key in ask.along.split()}
            assert all(len({str(value(config, place)) for config in own}) > 3 for place in places)
            continue
        sides = [cells(configs, ask, side, {"optimizer.lr"}) for side in (ask.of, ask.than)]
        assert sides[0] & sides[1], f"{ask}: what else differs must be named, too"
        for side in (ask.of, ask.than):
            there = [config for config in configs if has(config, " ".join([side, *ask.where]))]
            assert len({config["seed"] for config in there}) >= SEEDS[budget], f"{side} {ask.where}"
            assert not ask.along or ask.along in side or len({str(value(config, ask.along)) for config in there}) > 1
    assert all(config["checkpoint"]["keep"] == "none" for config in configs)
    folder = {config["name"] for config in configs}
    assert folder == {reproduce.folder_name(name, budget)}


@pytest.mark.parametrize("name", PAPERS)
def test_the_runs_of_a_papers_budget_have_its_setting(name):
    made = claim.made(name, reproduce.known()[name], "paper")
    configs = [job.config.to_dict() for job in planned(name, "paper")]
    assert len({config["seed"] for config in configs}) >= 3
    for typed in made.paper.setting:
        assert all(has(config, typed) for config in configs), typed
    for ask in made.asks:
        assert all(any(has(config, side) for config in configs) for side in (ask.of, ask.than))
    assert made.paper.value is None or all(has(config, made.paper.of) for config in configs)
    assert "an estimate" in made.paper.cost


def test_the_papers_that_can_be_met_each_have_a_budget():
    assert PAPERS == ["covariate_shift", "resnet20_cifar10", "small_batches"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_every_quick_run_can_be_built(name, tmp_path):
    work = session.Sorted(todo=planned(name, "quick", f"out={tmp_path}"))
    session.check(work)
    assert work.todo
    assert not work.impossible


# --------------------------------------------------------------------------------------------------------- the command


def normbench(*words, cwd):
    done = subprocess.run([sys.executable, "-m", "normbench", *words], capture_output=True, text=True, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """One claim on 500 images, one epoch: what was printed, and the folder."""
    folder = tmp_path_factory.mktemp("reproduced")
    tiny = ("dataset.train_size=500", "epochs=1", "eval.every_steps=2", "out=here")
    code, out, err = normbench("reproduce", "bn_speeds_training", *tiny, cwd=folder)
    assert code == 0, err
    (made,) = (folder / "here").glob("bn_speeds_training_quick_*")  # other settings, another folder
    return out, made


def test_a_claim_ends_with_the_verdict_of_its_report(reproduced):
    out, folder = reproduced
    report = json.loads((folder / "report" / "report.json").read_text())
    sentence = " ".join(reproduce.known()["bn_speeds_training"]["claim"].split())
    assert report["claim"]["verdict"] in ("supported", "contradicted", "in part", "undecided")
    assert out.splitlines()[0] == sentence
    assert out.splitlines()[-1] == f"{report['claim']['verdict']}: {sentence}"
    assert (folder / "report" / "report.md").read_text().startswith(f"# {sentence}\n")
    assert claim.read(folder).budget == "quick"


def test_what_is_typed_wins_over_the_budget(reproduced):
    configs = [json.loads(path.read_text())["config"] for path in reproduced[1].glob("*/run.json")]
    assert len(configs) == 2 * 6 * 3  # norms, learning rates, seeds
    assert {(config["epochs"], config["dataset"]["train_size"], config["dataset"]["name"]) for config in configs} == {
        (1, 500, "fashion_mini")
    }


def test_the_list_has_every_claim_and_what_it_costs(capsys):
    assert reproduce.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(reproduce.known())
    assert len(CLAIMS) == 35
    assert {
        line.split()[0] for line in lines if line.endswith("(an estimate), not run)") or ", not run)" in line
    } == set(PAPERS)
    assert not any("not measured" in line for line in lines)


def test_claims_are_experiments_too():
    from normbench import catalog

    assert set(CLAIMS) <= {path.stem for path in (CONF / "experiment").glob("*.yaml")}
    assert "experiment" in catalog.LISTED


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bn_speed_training"], "no claim 'bn_speed_training'; did you mean bn_speeds_training?"),
        (["qqq"], "no claim 'qqq'; normbench reproduce --list tells them"),
        (["bn_speeds_training", "budget=huge"], "budget must be one of quick, full, paper, got 'huge'"),
        (["bn_speeds_training", "budget=paper"], "bn_speeds_training has no budget=paper"),
        (["budget=quick"], "name a claim, or all"),
        (["bn_speeds_training", "--fast"], "unknown option --fast"),
        (["bn_speeds_training", "seed=1"], "seed is a part of what bn_speeds_training tests"),
    ],
)
def test_bad_input_is_named_before_anything_runs(words, said, capsys):
    assert reproduce.main(words) == 2
    assert said in capsys.readouterr().err


def test_a_claim_without_a_verdict_does_not_keep_the_others_from_theirs(monkeypatch, capsys, tmp_path):
    for name in ("scale_invariance_quick", "bn_cost_quick"):
        (tmp_path / name).mkdir()

    def write(args):
        if "scale_invariance" in args[0]:
            return 2
        report = Path(args[0]) / "report" / "report.json"
        report.parent.mkdir()
        report.write_text('{"claim": {"verdict": "supported"}}')
        return 0

    monkeypatch.setattr("normbench.app.train", lambda words: 0)
    monkeypatch.setattr("normbench.report.main", write)
    assert reproduce.main(["scale_invariance", "bn_cost", f"out={tmp_path}"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in said[-2:]] == [
        ["scale_invariance", "no", "verdict"], ["bn_cost", "supported", "0"],
    ]  # fmt: skip
    monkeypatch.setattr("normbench.app.train", lambda words: 2)  # what is wrong for one is wrong for all
    assert reproduce.main(["scale_invariance", "bn_cost", f"out={tmp_path}"]) == 2


@pytest.mark.parametrize("typed", ["norm=none", "seed=0,1", "name=mine"])
def test_what_a_claim_tests_is_not_typed(capsys, typed):
    assert reproduce.main(["bn_speeds_training", typed]) == 2
    assert "is a part of what bn_speeds_training tests" in capsys.readouterr().err


def test_runs_with_other_settings_have_a_folder_of_their_own():
    made = claim.made("it", {"claim": "So.", "source": "x", "asks": [
        {"measure": "test_acc", "of": "norm=bn", "than": "norm=none", "expect": "higher"}]}, "quick")  # fmt: skip
    plain = reproduce._folder(made, ["out=here", "device=cpu", "hydra.launcher.workers=1"])
    assert plain.as_posix() == "here/it_quick"
    one, other = (reproduce._folder(made, [word]) for word in ("epochs=1", "epochs=2"))
    assert len({plain.name, one.name, other.name}) == 3
    assert one.name.startswith("it_quick_")
