"""The exported event files, read back by TensorBoard itself."""

import builtins

import pytest
from fakes import write_run

from normbench import export
from normbench.report.collect import collect

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.fixture
def runs(tmp_path):
    for norm in ("none", "bn"):
        write_run(tmp_path / "runs", norm=norm, optimizer="sgd", optimizer__lr=0.1, seed=3)
    write_run(tmp_path / "runs", norm="ln", optimizer="sgd", optimizer__lr=0.1, seed=3, state="diverged",
              losses=(2.3, 9.9, 99.0))  # fmt: skip
    write_run(tmp_path / "runs", norm="gn", seed=3, state="failed")
    return tmp_path / "runs"


def read(folder):
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return events


def test_every_number_of_the_records_is_there(runs, capsys):
    assert export.main([str(runs)]) == 0
    assert "exported 3 runs of 4; normbench status" in capsys.readouterr().out
    found, metrics = collect([runs])
    folders = sorted(path.name for path in (runs / "tensorboard").iterdir() if path.is_dir())
    assert folders == sorted(found.loc[found["used"].astype(bool), "run_id"])
    for run_id, rows in metrics.groupby("run_id"):
        events = read(runs / "tensorboard" / run_id)
        assert {"accuracy/val_acc", "loss/val_loss", "loss/train_loss", "progress/lr"} <= set(events.Tags()["scalars"])
        got = [(event.step, event.value) for event in events.Scalars("accuracy/val_acc")]
        assert got == [(step, pytest.approx(value)) for step, value in zip(rows["step"], rows["val_acc"], strict=True)]


def test_the_settings_are_hyper_parameters(runs):
    assert export.main([str(runs)]) == 0
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    (folder,) = (runs / "tensorboard").glob("mlp-bn-*")
    content = read(folder).PluginTagToContent("hparams")
    start = plugin_data_pb2.HParamsPluginData.FromString(content[metadata.SESSION_START_INFO_TAG]).session_start_info
    values = {key: value.string_value or value.number_value for key, value in start.hparams.items()}
    assert values == {"norm": "bn", "optimizer": "sgd", "seed": 3.0}
    names = plugin_data_pb2.HParamsPluginData.FromString(content[metadata.EXPERIMENT_TAG]).experiment.metric_infos
    assert {info.name.tag for info in names} == {f"final/{name}" for name in export.RESULTS}
    assert {"final/test_acc", "final/test_loss"} <= set(read(folder).Tags()["scalars"])


def test_an_earlier_export_is_replaced_and_nothing_else_is(runs, tmp_path, capsys):
    assert export.main([str(runs)]) == 0
    (runs / "tensorboard" / "old").mkdir()
    assert export.main([str(runs)]) == 0
    assert not (runs / "tensorboard" / "old").exists()
    assert not list(runs.glob(".*.tmp"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    assert export.main([str(runs), "--out", str(mine)]) == 2
    assert "must be new, empty or an earlier export" in capsys.readouterr().err
    assert (mine / "thesis.tex").exists()


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_nothing_to_export_is_said(tmp_path, capsys, place):
    (tmp_path / "empty").mkdir()
    assert export.main([str(tmp_path / place)]) == 2
    assert capsys.readouterr().err.startswith("normbench export: ")
    assert not (tmp_path / place / "tensorboard").exists()


def test_without_the_extra_it_says_what_to_install(runs, capsys, monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "tensorboard":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert export.main([str(runs)]) == 2
    assert "pip install 'normbench[tensorboard]'" in capsys.readouterr().err


def test_the_folder_of_a_run_stays_as_it_is(runs):
    (folder,) = runs.glob("mlp-bn-*")
    before = sorted(path.name for path in folder.iterdir())
    assert export.main([str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == before
    assert (runs / "tensorboard" / folder.name).is_dir()
