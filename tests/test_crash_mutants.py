"""The checks can fail: each mutant of normbench (mutants.py) is caught, and normbench is not."""

import contextlib
import os
import subprocess
import sys

import mutants
import pytest
from crash_runs import SMALL, Place, needs_strace, result, serving
from test_crash import assert_goes_on, assert_replaced_in_order, events

from normbench import checkpoint, records, run

HOLD = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[1])
import mutants
mutants.apply(sys.argv[2])
from normbench.records import Lock
with Lock(pathlib.Path(sys.argv[3])):
    print("held", flush=True)
    time.sleep(60)
"""


class Scene:
    """Where a check takes place: a folder, and runs in it."""

    def __init__(self, compose, folder, mutant):
        self.compose, self.folder, self.mutant = compose, folder, mutant

    def run(self, name, *overrides):
        settings = self.compose(*SMALL, f"out={self.folder}", f"name={name}", *overrides)
        return run.run(settings, announce=lambda _: None).folder


def order(scene):
    """Every file is replaced, between the flushes of its content and of the folder; checkpoint first, run.json last."""
    calls, fsync, replace = [], os.fsync, os.replace

    def flushed(descriptor):
        calls.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def replaced(source, target):
        calls.append(("rename", os.path.basename(target)))
        replace(source, target)

    os.fsync, os.replace = flushed, replaced
    try:
        folder = scene.run("order")
    finally:
        os.fsync, os.replace = fsync, replace
    names = [name for call, name in calls if call == "rename"]
    assert "checkpoint.pt" in names
    assert names[names.index("checkpoint.pt") :] == ["checkpoint.pt", "metrics.csv", "run.json"] * 6
    for name in set(names):
        at = calls.index(("rename", name))
        assert calls[at - 1] == ("fsync", f".{name}.tmp")
        assert calls[at + 1] == ("fsync", folder.name)


def resume(scene):
    """Died after the checkpoint of step 10, in the middle of the second epoch, it ends as the whole run does."""
    count, real = iter(range(1, 99)), run.Attempt.save

    def dying(self, keep="all"):
        real(self, keep)
        if next(count) == 3:
            raise Dead

    run.Attempt.save = dying
    give_up, run.Attempt.give_up = run.Attempt.give_up, lambda *_: None  # the dead write nothing
    try:
        with contextlib.suppress(run.Interrupted):
            scene.run("killed")
    finally:
        run.Attempt.save, run.Attempt.give_up = real, give_up
    assert checkpoint.read(next((scene.folder / "killed").iterdir()) / "checkpoint.pt")["step"] == 10
    assert result(scene.run("killed")) == result(scene.run("whole"))


class Dead(KeyboardInterrupt):
    pass


def flipped(scene):
    """One bit of a weight: the file still loads, with another number in it."""
    path = scene.run("flipped", "stop_epoch=1") / "checkpoint.pt"
    data, weight = path.read_bytes(), checkpoint.read(path)["model"]["head.weight"]
    at = data.index(weight.numpy().tobytes())
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(records.Damaged):
        checkpoint.read(path)


def unpickled(scene):
    path = scene.folder / "checkpoint.pt"
    path.write_bytes(mutants.payload(scene.folder / "touched"))
    with pytest.raises(records.Damaged):
        checkpoint.read(path)
    assert not (scene.folder / "touched").exists()


def lock(scene):
    """A killed process does not block the next one."""
    command = [sys.executable, "-c", HOLD, os.path.dirname(__file__), scene.mutant, str(scene.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    try:
        with records.Lock(scene.folder):
            pass
    except records.InUse as error:
        raise AssertionError from error


def temporaries(scene):
    seldom = ("checkpoint.keep=none", "checkpoint.every_s=1000")
    folder = scene.run("stale", "stop_epoch=1", *seldom)
    (folder / ".checkpoint.pt.tmp").write_bytes(b"half a checkpoint")
    scene.run("stale", *seldom)
    assert not (folder / ".checkpoint.pt.tmp").exists()


CAUGHT_BY = {
    "save in place": order,
    "no fsync": order,
    "no checksum": flipped,
    "any pickle": unpickled,
    "metrics.csv before the checkpoint": order,
    "run.json before the checkpoint": order,
    "lock by existence": lock,
    "temporary files stay": temporaries,
    "no random state": resume,
    "no optimizer state": resume,
    "no history in the checkpoint": resume,
}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", mutants.MUTANTS)
def test_each_mutant_is_caught_and_normbench_is_not(compose, tmp_path, mutant):
    check = CAUGHT_BY[mutant]
    for name in ("", mutant):
        folder = tmp_path / (name or "sound")
        folder.mkdir()
        with mutants.broken(name):
            if name:
                with pytest.raises((AssertionError, pytest.fail.Exception)):
                    check(Scene(compose, folder, name))
            else:
                check(Scene(compose, folder, name))


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("mutant", ["", "save in place", "no fsync"])
def test_the_harness_itself_can_fail(tmp_path, mutant):
    """The kills and the trace of test_crash.py, on a broken normbench."""
    with serving(tmp_path, mutant) as server:
        whole = Place(server, "", "whole")
        whole.run()
        (folder,) = (tmp_path / "results" / "whole").iterdir()
        traced, killed = (Place(server, folder.name, name) for name in ("traced", "killed"))
        caught = []
        try:
            assert_replaced_in_order(events(traced))
        except AssertionError:
            caught.append("order")
        assert killed.killed(10, "write")  # of .lock, the log, ...: the second checkpoint's
        try:
            assert_goes_on(killed, (folder.name, result(folder)))
        except AssertionError:
            caught.append("kill")
    expected = {"": [], "save in place": ["order", "kill"], "no fsync": ["order"]}
    assert caught == expected[mutant]
