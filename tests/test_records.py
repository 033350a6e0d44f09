"""The run folder's files: written whole, read strictly."""

import io
import json
import os
import subprocess
import sys
import zipfile

import pytest

from normbench import records

ROW = dict.fromkeys(records.METRICS)


def row(step, **values):
    return {**ROW, "step": step, "examples": 8 * step, **values}


def test_metrics_round_trip_to_the_last_bit(tmp_path):
    rows = [row(0, val_loss=2.302585092994046), row(7, lr=1e-3, train_loss=0.1 + 0.2, val_acc=1 / 3)]
    records.write(tmp_path / "metrics.csv", records.metrics_csv(rows))
    assert records.read_metrics(tmp_path / "metrics.csv") == rows


def test_metrics_cut_anywhere_are_refused_or_a_whole_prefix(tmp_path):
    path = tmp_path / "metrics.csv"
    rows = [row(step, lr=0.0015625, train_loss=1.25 / (step + 1)) for step in range(6)]
    whole = records.metrics_csv(rows)
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        try:
            assert records.read_metrics(path) == rows[: whole[:cut].count(b"\n") - 1]
            assert whole[:cut].endswith(b"\n")
        except records.Damaged as error:
            assert str(path) in str(error)  # noqa: PT017 - a cut may also leave a whole prefix


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n8,", b"\n7,"),  # a repeated step
        (b"0.5", b"oops"),
        (b"8,64", b",64"),
        (b"step,", b"\xef\xbb\xbfstep,"),
        (b"8,64", b"8;64"),
        (b"8,64", b"8.5,64"),
        (b"8,64", b"\0\0\0\0"),
        (b"8,64", b"8,64,64"),
    ],
)
def test_metrics_altered_are_refused(tmp_path, old, new):
    whole = records.metrics_csv([row(0), row(7), row(8, lr=0.5)])
    assert old in whole
    (tmp_path / "metrics.csv").write_bytes(whole.replace(old, new))
    with pytest.raises(records.Damaged, match="is damaged: "):
        records.read_metrics(tmp_path / "metrics.csv")


def sealed_zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data", bytes(range(256)) * 8)
    return buffer.getvalue(), records.seal(buffer.getvalue())


def test_a_sealed_file_is_still_a_zip_file_and_gives_its_payload_back(tmp_path):
    payload, sealed = sealed_zip()
    (tmp_path / "c").write_bytes(sealed)
    assert records.unseal(tmp_path / "c") == payload
    assert zipfile.ZipFile(tmp_path / "c").read("data") == bytes(range(256)) * 8


def test_every_cut_and_every_flipped_byte_of_a_sealed_file_is_noticed(tmp_path):
    _, sealed = sealed_zip()
    path = tmp_path / "c"
    for cut in range(0, len(sealed), 37):
        path.write_bytes(sealed[:cut])
        with pytest.raises(records.Damaged, match="is damaged"):
            records.unseal(path)
    for position in range(0, len(sealed), 11):
        damaged = bytearray(sealed)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(records.Damaged, match="is damaged"):
            records.unseal(path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    records.write(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        records.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_flushed_to_the_disk_in_the_right_order(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: calls.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file") or fsync(fd)
    )
    monkeypatch.setattr(os, "replace", lambda a, b: calls.append("replace") or replace(a, b))
    records.write(tmp_path / "run.json", b"{}")
    assert calls == ["file", "replace", "folder"]


def record(**values):
    good = {"state": "complete", "format_version": records.FORMAT_VERSION, "files": {"metrics.csv": ""}}
    good["data_fingerprint"] = "0" * 64
    words = {**dict.fromkeys(records.WORDS, "x"), "seed": 0, "config": {}}
    return {**dict.fromkeys(records.HEAD), **words, **good, **values}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ("[]", "must hold an object"),
        ('{"a": NaN}', "not a number of JSON"),
        (json.dumps(record(format_version=999)), "written by a newer normbench"),
        (json.dumps(record(format_version="abc")), f"format_version must be {records.FORMAT_VERSION}"),
        (json.dumps({"format_version": records.FORMAT_VERSION}), "no run_id"),
        (json.dumps(record(format_version=True)), f"format_version must be {records.FORMAT_VERSION}"),
        (json.dumps(record(state="done")), "state is 'done'"),
        (json.dumps(record(files=None)), "files is "),
        (json.dumps(record(files={"a": 1})), "files is "),
        (json.dumps(record(files={})), "does not list the metrics"),
        (json.dumps(record(test_acc=0)).replace('"test_acc": 0', '"test_acc": 1e999'), "test_acc is inf"),
        (json.dumps(record(val_acc="0.9")), "val_acc is '0.9'"),
    ],
)
def test_run_json_is_read_strictly(tmp_path, text, words):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(records.Damaged, match=words):
        records.read_run(tmp_path)


def test_a_run_json_that_is_a_folder_is_damaged(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(records.Damaged, match="is damaged"):
        records.read_run(tmp_path)


def test_verify_names_the_file_that_was_altered_or_is_missing(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"x")
    (tmp_path / "run.json").write_bytes(records.run_json(record(files={"metrics.csv": records.sha256(b"x")})))
    assert records.verify(tmp_path)["state"] == "complete"
    (tmp_path / "metrics.csv").write_bytes(b"y")
    with pytest.raises(records.Damaged, match=r"metrics\.csv is damaged: its sha256"):
        records.verify(tmp_path)
    (tmp_path / "metrics.csv").unlink()
    with pytest.raises(records.Damaged, match=r"metrics\.csv is missing"):
        records.verify(tmp_path)


HOLD = """
import pathlib, sys, time
from normbench.records import Lock
with Lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_writer_a_folder_and_a_killed_one_does_not_block(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert records.Lock.is_held(tmp_path)
        with pytest.raises(records.InUse, match=f"in use by process {holder.pid} on "), records.Lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert not records.Lock.is_held(tmp_path)
    with records.Lock(tmp_path):
        assert records.Lock.is_held(tmp_path)


def test_an_edited_run_json_is_not_believed(tmp_path):
    (tmp_path / "run.json").write_bytes(records.run_json(record(test_acc=0.5)))
    assert records.read_run(tmp_path)["test_acc"] == 0.5
    (tmp_path / "run.json").write_text((tmp_path / "run.json").read_text().replace("0.5", "0.9"))
    with pytest.raises(records.Damaged, match="it is not what was written"):
        records.read_run(tmp_path)


def test_runs_behind_links_are_found_once_even_if_links_go_in_circles(tmp_path):
    (tmp_path / "far" / "run").mkdir(parents=True)
    (tmp_path / "far" / "run" / "run.json").write_text("{}")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "near" / "circle").symlink_to(tmp_path / "near")
    assert [p.name for p in records.find_runs(tmp_path / "near")] == ["run"]


def test_runs_are_found_in_a_fixed_order_and_not_inside_runs(tmp_path):
    for name in ("b/2", "a/1", "a/1/deeper", "a/3"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text("{}")
    assert [str(p.relative_to(tmp_path)) for p in records.find_runs(tmp_path)] == ["a/1", "a/3", "b/2"]
