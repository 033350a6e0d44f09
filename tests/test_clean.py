"""normbench clean: it says what, removes that alone, and at every moment the folder is that of a whole run."""

import shutil

import pytest

import normbench
from normbench import checkpoint, clean, cli, records, run, status


def quiet(config):
    return run.run(config, announce=lambda _: None)


@pytest.fixture(scope="module")
def made(compose, tmp_path_factory):
    """One complete run, one paused."""
    out = tmp_path_factory.mktemp("made")
    small = ("dataset=synthetic", "epochs=2", "progress=false", f"out={out}")
    quiet(compose(*small))
    quiet(compose(*small, "seed=1", "stop_epoch=1"))
    return out / "runs"


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "runs")


@pytest.fixture
def complete(folder):
    return next(path for path in records.find_runs(folder) if records.read_run(path)["state"] == "complete")


def files(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"}


def test_nothing_is_removed_without_yes(folder, complete, capsys):
    (complete / "checkpoint.pt.damaged").write_bytes(b"x" * 5000)
    before = files(folder)
    assert cli.main(["clean", str(folder), "--keep", "none", "--states", "paused"]) == 0
    out = capsys.readouterr().out
    assert files(folder) == before
    assert "2 runs: 1 complete, 1 paused" in out
    assert "would remove 1 left-over file (about 5 kB)" in out
    assert "would remove 1 checkpoint" in out
    assert "nothing was removed: add --yes to do it" in out


def test_left_over_files_go_and_nothing_else(folder, complete, capsys):
    before = files(folder)
    for name in (".run.json.tmp", ".checkpoint.pt.tmp", "checkpoint.pt.damaged"):
        (complete / name).write_bytes(b"left")
    assert cli.main(["clean", str(folder), "--yes"]) == 0
    assert files(folder) == before
    assert "removing 3 left-over files" in capsys.readouterr().out
    assert cli.main(["clean", str(folder), "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_weights_are_kept_and_still_load(folder, complete):
    before, size = records.read_run(complete), (complete / "checkpoint.pt").stat().st_size
    weights = checkpoint.read(complete / "checkpoint.pt")["model"]
    assert cli.main(["clean", str(folder), "--keep=weights", "--yes"]) == 0
    record = records.verify(complete)
    assert (complete / "checkpoint.pt").stat().st_size < size
    assert not set(checkpoint.TO_RESUME) & checkpoint.read(complete / "checkpoint.pt").keys()
    kept = normbench.load(complete).state_dict()
    assert all((kept[name] == value).all() for name, value in weights.items())
    without = {"files", "sha256", "cleaned"}
    assert {k: v for k, v in record.items() if k not in without} == {
        k: v for k, v in before.items() if k not in without
    }
    assert (status.look(complete)[0], record["cleaned"]) == ("complete", "weights")


def test_a_run_without_its_checkpoint_is_complete_and_says_where_it_went(folder, complete, compose):
    assert cli.main(["clean", str(folder), "--keep", "none", "--yes"]) == 0
    assert records.verify(complete)["state"] == "complete"
    with pytest.raises(records.Damaged, match="`normbench clean --keep none` removed it"):
        normbench.load(complete)
    again = compose("dataset=synthetic", "epochs=2", "progress=false", f"out={folder.parent}")
    assert again.folder == complete
    assert not quiet(again).new


def test_states_are_removed_whole(folder, complete, capsys):
    broken = shutil.copytree(complete, folder / "broken")
    (broken / "metrics.csv").write_text("step\n")
    assert cli.main(["clean", str(folder), "--states", "damaged,paused", "--yes"]) == 0
    assert list(records.find_runs(folder)) == [complete]
    out = capsys.readouterr().out.splitlines()
    assert "3 runs: 1 complete, 1 damaged, 1 paused" in out[0]
    assert "1 run: 1 complete" in out[-1]


def test_a_run_in_use_is_left_alone(folder, complete, capsys):
    before = files(complete)
    with records.Lock(complete):
        assert cli.main(["clean", str(folder), "--keep", "none", "--yes"]) == 3
    assert files(complete) == before
    assert "left as it is" in capsys.readouterr().err


def test_a_run_of_a_newer_normbench_is_never_removed(folder, complete):
    text = (complete / "run.json").read_text()
    now, later = (f'"format_version": {n}' for n in (records.FORMAT_VERSION, records.FORMAT_VERSION + 1))
    (complete / "run.json").write_text(text.replace(now, later))
    assert status.look(complete)[0] == "newer"
    cli.main(["clean", str(folder), "--keep", "none", "--states", ",".join(clean.STATES), "--yes"])
    assert (complete / "checkpoint.pt").exists()


@pytest.mark.parametrize("keep", ["weights", "none"])
@pytest.mark.parametrize("nth", range(4))
def test_stopped_at_any_moment_the_run_is_complete(folder, complete, monkeypatch, keep, nth):
    count, write = iter(range(100)), records.write

    def dying(path, data):
        if next(count) == nth:
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(records, "write", dying)
    try:
        clean.main([str(folder), "--keep", keep, "--yes"])
    except KeyboardInterrupt:
        monkeypatch.undo()
        assert status.look(complete)[0] == "complete"
        clean.main([str(folder), "--keep", keep, "--yes"])
    assert records.verify(complete)["cleaned"] == keep
    assert (complete / "checkpoint.pt").exists() == (keep == "weights")
    if keep == "weights":
        assert "optimizer" not in checkpoint.read(complete / "checkpoint.pt")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "a folder must be given"),
        (["nowhere"], "nowhere is no folder"),
        ([".", "--states", "broken"], "--states must be of damaged, failed"),
        ([".", "--keep", "some"], "invalid choice: 'some'"),
        ([".", "--force"], "unrecognized arguments: --force"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, monkeypatch, capsys, args, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["clean", *args]) == 2
    assert words in capsys.readouterr().err
