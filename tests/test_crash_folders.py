"""Run folders that are damaged, forged, of another version, moved or not ours to write: named, never believed or run.

docs/reliability.md says which promise each test holds.
"""

import ast
import io
import json
import os
import random
import re
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from crash_runs import SMALL, result

import normbench
from normbench import checkpoint, cli, records, run
from normbench.config import ConfigError
from normbench.report.collect import collect

VERSIONS = [0, 999, None, "abc"]  # None: there is none


@pytest.fixture(scope="module")
def made(compose, tmp_path_factory):
    """A complete run and one that was paused after its first epoch, of one command."""
    out = tmp_path_factory.mktemp("made")
    whole = run.run(compose(*SMALL, f"out={out}", "name=whole"), announce=lambda _: None)
    paused = run.run(compose(*SMALL, f"out={out}", "name=paused", "stop_epoch=1"), announce=lambda _: None)
    return {"whole": whole.folder, "paused": paused.folder}


@pytest.fixture
def copy(made, tmp_path):
    """copy("whole") -> a copy of that run, in tmp_path/whole."""

    def make(kind):
        return shutil.copytree(made[kind], tmp_path / kind / made[kind].name)

    return make


@pytest.fixture
def again(compose, tmp_path):
    """again("paused") -> the outcome of its command without stop_epoch."""
    return lambda kind: run.run(compose(*SMALL, f"out={tmp_path}", f"name={kind}"), announce=lambda _: None)


def change_record(folder, change):
    """Forge run.json: its own checksum is right."""
    record = json.loads((folder / "run.json").read_text())
    change(record)
    record.pop("sha256")
    text = {**record, "sha256": records._own_sha256(record)}
    (folder / "run.json").write_text(json.dumps(text))


def change_checkpoint(folder, change):
    """Forge checkpoint.pt: its seal is right, and run.json lists it."""
    content = checkpoint.read(folder / "checkpoint.pt")
    change(content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    (folder / "checkpoint.pt").write_bytes(records.seal(buffer.getvalue()))

    def list_it(record):
        record["files"]["checkpoint.pt"] = records.sha256((folder / "checkpoint.pt").read_bytes())

    change_record(folder, list_it)


def tree(folder):
    """Names, bytes and times of all that is there."""
    paths = sorted(folder.rglob("*"))
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in [folder, *paths]}


# ------------------------------------------------------------------------------------------ damaged checkpoints (P4)


def damages():
    """(how, function of the whole file's bytes to the damaged ones)."""
    rng = random.Random(0)
    for share in range(50):
        yield f"cut at {2 * share} %", lambda data, share=share: data[: len(data) * share // 50]
    for number in range(100):
        place, bit = rng.random(), rng.randrange(8)

        def flip(data, place=place, bit=bit):
            at = int(place * len(data))
            return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]

        yield f"bit {number}", flip
    for start in range(0, 24576, 4096):
        yield f"zeros from {start}", lambda data, at=start: (data[:at] + bytes(4096) + data[at + 4096 :])[: len(data)]
    yield "more bytes", lambda data: data + b"\0"


def test_no_damaged_checkpoint_is_ever_loaded(copy):
    path = copy("whole") / "checkpoint.pt"
    whole, tried = path.read_bytes(), 0
    for how, damage in damages():
        damaged = damage(whole)
        if damaged == whole:
            continue  # there were zeros
        path.write_bytes(damaged)
        with pytest.raises(records.Damaged) as error:
            checkpoint.read(path)
        assert f"{path} is damaged: " in str(error.value), how
        tried += 1
    assert tried >= 155


@pytest.mark.slow
def test_from_any_damage_the_run_is_made_again_and_ends_the_same(made, copy, again, tmp_path, caplog):
    expected = result(made["whole"])
    for number, (how, damage) in enumerate(damages()):
        if number % 8:
            continue
        folder = copy("paused")
        path = folder / "checkpoint.pt"
        damaged = damage(path.read_bytes())
        path.write_bytes(damaged)
        again("paused")
        assert f"{path} is damaged" in caplog.text or damaged == (made["paused"] / "checkpoint.pt").read_bytes(), how
        assert result(folder) == expected, how
        caplog.clear()
        shutil.rmtree(folder)


# ------------------------------------------------------------------------------------------ strangers' folders (P9)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


PLACES = {
    "the model": lambda content, evil: content["model"].update(evil=evil),
    "the optimizer": lambda content, evil: content["optimizer"].update(evil=evil),
    "a key of its own": lambda content, evil: content.update(evil=evil),
    "the history": lambda content, evil: content["rows"].append(evil),
    "the config": lambda content, evil: content.update(config=evil),
}


def commands(folder):
    """What may be typed about a folder that somebody sent."""
    yield ["status", str(folder.parent)]
    yield ["report", str(folder.parent), "--out", str(folder.parent.parent / "report")]
    yield ["evaluate", str(folder)]


@contextmanager
def nothing_runs(monkeypatch, tmp_path):
    """Whatever a file could have run leaves a mark: os.system, a payload's file, or the text of a variable."""
    called = []
    monkeypatch.setattr(os, "system", called.append)
    monkeypatch.setenv("NORMBENCH_SECRET", "swordfish")
    yield
    assert called == []
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["whole", "paused"])
def test_a_payload_in_a_checkpoint_is_not_run(copy, again, monkeypatch, tmp_path, capsys, place, kind):
    folder = copy(kind)
    change_checkpoint(folder, lambda content: PLACES[place](content, Evil(str(tmp_path / "touched"))))
    with nothing_runs(monkeypatch, tmp_path):
        with pytest.raises(records.Damaged, match="not a valid checkpoint"):
            normbench.load(folder)
        assert cli.main(["evaluate", str(folder)]) == 2
        assert f"{folder / 'checkpoint.pt'} is not a valid checkpoint" in capsys.readouterr().err
        again(kind)  # goes by run.json if it is complete, and else starts again, with the file moved aside
        assert (folder / "checkpoint.pt.damaged").exists() == (kind == "paused")


def set_target(record):
    record["config"]["norm"] = {"name": "bn", "_target_": "os.system", "command": "touch touched"}


def set_variable(record):
    record["config"]["dataset"]["root"] = "${oc.env:NORMBENCH_SECRET}"


@pytest.mark.parametrize("forge", [set_target, set_variable])
def test_what_a_strangers_config_names_is_neither_called_nor_looked_up(
    copy, again, monkeypatch, tmp_path, capfd, forge
):
    folder = copy("whole")
    (folder / "config.yaml").write_text(
        'norm: !!python/object/apply:os.system ["touch touched"]\nout: ${oc.env:HOME}\n'
    )

    def change(record):
        forge(record)
        record["files"]["config.yaml"] = records.sha256((folder / "config.yaml").read_bytes())

    change_record(folder, change)
    stored = json.loads((folder / "run.json").read_text())["config"]
    change_checkpoint(folder, lambda content: content.update(config=json.dumps(stored)))
    before = tree(folder)
    with nothing_runs(monkeypatch, tmp_path):
        for args in commands(folder):
            code = cli.main(args)
            assert code == (2 if args[0] == "evaluate" else 0)
        with pytest.raises((ConfigError, PermissionError)):
            normbench.load(folder)
        if forge is set_target:
            with pytest.raises(ConfigError, match="holds a run of another config"):
                again("whole")
        else:
            assert not again("whole").new  # dataset.root is no part of a run's identity
    told = capfd.readouterr()
    assert "swordfish" not in told.out + told.err
    assert "Traceback" not in told.err
    for path in (tmp_path / "report").rglob("*"):
        assert path.is_dir() or b"swordfish" not in path.read_bytes(), path
    assert tree(folder) == before


# ------------------------------------------------------------------------------------ what is never written down (P9)


BREAKS = """
from torch import nn
class Breaks(nn.Module):
    def __init__(self, num_features):
        super().__init__()
    def forward(self, x):
        if self.training:
            raise RuntimeError("on purpose")
        return x
"""


def test_no_environment_variable_gets_into_a_runs_files(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "TOKEN", "USER", "HYDRA_X"):
        monkeypatch.setenv(name, "swordfish")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "breaks.py").write_text(BREAKS)
    assert cli.main(["train", *SMALL]) == 0
    assert cli.main(["train", *SMALL, "norm=none", "norm._target_=breaks.Breaks"]) == 1
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert len(files) == 12
    assert [path for path in files if b"swordfish" in path.read_bytes()] == []


@pytest.mark.parametrize(
    "typed",
    [
        ["dataset=fashion_mnist", "dataset.root=${oc.env:NORMBENCH_SECRET}"],
        ["dataset=fashion_mnist", "dataset.root=${oc.env:NORMBENCH_NOT_SET,/data}"],
        ["out=${oc.env:NORMBENCH_SECRET}/x"],
        ["name=a${oc.env:NORMBENCH_SECRET}"],
        ["+model.note=${oc.env:NORMBENCH_SECRET}"],
        ["-m", "seed=0,1", "out=${oc.env:NORMBENCH_SECRET}"],
    ],
    ids=" ".join,
)
def test_a_variable_is_the_shells_to_look_up(typed, tmp_path, monkeypatch, capsys):
    """What is looked up here would be written into run.json without anybody having typed it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NORMBENCH_SECRET", "swordfish")
    given = [text for text in SMALL if not text.startswith("dataset")]
    assert cli.main(["train", *given, *typed]) == 2
    told = capsys.readouterr()
    assert "swordfish" not in told.out + told.err
    assert "let the shell" in told.err
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------- other versions (P18)


def set_version(holder, version):
    if version is None:
        del holder["format_version"]
    else:
        holder["format_version"] = version


@pytest.mark.parametrize("version", VERSIONS)
def test_a_record_of_another_version_is_named_and_no_traceback(made, copy, again, capsys, version):
    folder = copy("paused")
    change_record(folder, lambda record: set_version(record, version))
    words = "written by a newer normbench" if version == 999 else "format_version must be 2, it is "
    for args in commands(folder):
        code = cli.main(args)
        told = capsys.readouterr()
        assert code == (2 if args[0] == "evaluate" else 0)
        if args[0] != "report":
            assert words in told.out + told.err
    assert words in (folder.parent.parent / "report" / "data" / "runs.csv").read_text()
    if version == 999:
        before = tree(folder)
        with pytest.raises(ConfigError, match=r"newer normbench \(format_version 999\): upgrade"):
            again("paused")
        assert tree(folder) == before
    else:
        again("paused")
        assert result(folder) == result(made["whole"])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_checkpoint_of_another_version_is_named_and_no_traceback(made, copy, again, capsys, caplog, version):
    folder = copy("paused")
    change_checkpoint(folder, lambda content: set_version(content, version))
    words = "written by a newer normbench" if version == 999 else "is not a checkpoint of format_version 2"
    with pytest.raises(records.Damaged, match=words):
        normbench.load(folder)
    assert cli.main(["evaluate", str(folder)]) == 2
    assert words in capsys.readouterr().err
    if version == 999:  # it may be worth hours: it is not thrown away
        with pytest.raises(ConfigError, match="newer normbench"):
            again("paused")
        assert not (folder / "checkpoint.pt.damaged").exists()
    else:
        again("paused")
        assert words in caplog.text
        assert result(folder) == result(made["whole"])


@pytest.mark.parametrize("kind", ["whole", pytest.param("paused", marks=pytest.mark.slow)])
def test_a_record_that_lacks_anything_is_no_traceback(made, copy, again, capsys, kind):
    keys = list(json.loads((made[kind] / "run.json").read_text()))
    keys.remove("sha256")
    inner = [("config", key) for key in ("threads", "checkpoint", "device", "dataset", "epochs")]
    for path in [*((key,) for key in keys), *inner]:
        folder = copy(kind)

        def remove(record, path=path):
            holder = record if len(path) == 1 else record[path[0]]
            del holder[path[-1]]

        change_record(folder, remove)
        assert cli.main(["status", str(folder.parent)]) == 0
        assert len(collect([folder.parent])[0]) == 1
        assert cli.main(["evaluate", str(folder), "--statistics", "ema"]) in (0, 2)
        assert capsys.readouterr().out
        try:
            assert again(kind).state == "complete", path
        except ConfigError as error:
            assert "holds a run of another config" in str(error), path  # noqa: PT017 - or it is made again
        shutil.rmtree(folder)


def test_a_checkpoint_that_lacks_anything_is_named(made, copy, again):
    needed = list(checkpoint.read(made["paused"] / "checkpoint.pt"))
    for key in needed:
        folder = copy("paused")
        change_checkpoint(folder, lambda content, key=key: content.pop(key))
        try:
            assert again("paused").state == "complete", key
            assert result(folder) == result(made["whole"]), key
        except ConfigError as error:
            assert "checkpoint.pt" in str(error), key  # noqa: PT017 - or refused in words
        shutil.rmtree(folder)


def test_a_checkpoint_that_does_not_fit_the_network_is_refused_in_words(copy, again):
    folder = copy("paused")

    def shrink(content):
        content["model"] = {name: value[:1] for name, value in content["model"].items() if value.ndim}

    change_checkpoint(folder, shrink)
    with pytest.raises(ConfigError, match=r"checkpoint\.pt does not fit this run .*: move it away to start"):
        again("paused")
    assert (folder / "checkpoint.pt").exists()


# ------------------------------------------------------------------------------------- moved, and not ours (P16, P19)


@pytest.mark.parametrize("kind", ["whole", "paused"])
def test_a_moved_folder_that_nobody_may_write_is_read_and_left_alone(made, tmp_path, capsys, kind):
    """For root, whom no mode keeps from writing, the unchanged times stand for it."""
    folder = shutil.copytree(made[kind], tmp_path / "far" / "away" / made[kind].name)
    inside = [folder, *folder.iterdir()]
    for path in inside:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    before = tree(tmp_path / "far")
    try:
        for args in commands(folder):
            args = [str(tmp_path / "report") if "report" in arg and arg != "report" else arg for arg in args]
            assert cli.main(args) == 0, capsys.readouterr().err
        assert isinstance(normbench.load(folder), torch.nn.Module)
        assert tree(tmp_path / "far") == before
    finally:
        folder.chmod(0o755)
    told = capsys.readouterr()
    record = records.verify(folder)
    assert f"{record['test_acc']:.4f}" in told.out if kind == "whole" else "paused" in told.out
    assert str(made[kind].parent) not in told.out + told.err


@pytest.mark.parametrize(("key", "value"), [("threads", 2), ("torch", "2.11.0"), ("device", "NVIDIA H200")])
def test_going_on_under_other_conditions_is_said(copy, again, monkeypatch, caplog, key, value):
    folder = copy("paused")
    now = json.loads((folder / "run.json").read_text())["environment"]
    assert set(now) == {"threads", "torch", "device"}
    change_checkpoint(folder, lambda content: content["environment"].update({key: value}))
    again("paused")
    assert f"{key}={value}" in caplog.text
    assert "the last bits may differ" in caplog.text
    assert records.verify(folder)["environment"] == now


def test_going_on_under_the_same_conditions_is_not(copy, again, caplog):
    copy("paused")
    again("paused")
    assert "may differ" not in caplog.text


# ------------------------------------------------------------------------------------------------- docs/reliability.md


def test_every_promise_of_the_page_names_tests_that_exist():
    tests = Path(__file__).parent
    text = (tests.parent / "docs" / "reliability.md").read_text()
    promises = re.findall(r"^\| (P\d+) \|.*\|(.*)\|$", text, re.MULTILINE)
    assert [name for name, _ in promises] == [f"P{number}" for number in range(1, 21)]
    assert all("test_" in named or "the same test" in named for _, named in promises)
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", text)
    assert len(named) > 40
    for file, name in named:
        functions = {node.name for node in ast.parse((tests / file).read_text()).body if hasattr(node, "name")}
        assert name in functions, f"{file}::{name}"
