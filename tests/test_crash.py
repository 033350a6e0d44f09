"""A run that is killed, or whose disk fails, at every system call on its folder: the same command again ends the same.

docs/reliability.md says which promise each test holds.
"""

import itertools
import random
import re
import subprocess
import sys
import threading

import pytest
from crash_runs import SMALL, Place, assert_equal, needs_strace, result, serving

from normbench import records

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="starts runs by fork")
STEPS = 21  # of SMALL


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("crash")) as server:
        yield server


@pytest.fixture(scope="module")
def reference(server):
    """(run_id, result) of the undisturbed command, started as everybody starts it."""
    command = [sys.executable, "-m", "normbench", "train", *SMALL, "name=reference"]
    subprocess.run(command, cwd=server.folder, check=True, capture_output=True)
    (folder,) = (server.folder / "results" / "reference").iterdir()
    return folder.name, result(folder)


@pytest.fixture
def place(server, reference):
    """place(*overrides) -> the place of a new run of the command."""
    numbers = itertools.count()

    def make(*overrides, run_id=reference[0]):
        name = f"p{server.count}.{next(numbers)}"
        return Place(server, run_id, name, *overrides)

    return make


def last_line(said):
    return said.splitlines()[-1]


def assert_goes_on(place, reference):
    """The same command, started again, ends equal to the undisturbed one, raises no false alarm and leaves nothing."""
    said = place.run()
    assert "damaged" not in said
    assert "Traceback" not in said
    assert last_line(said) == f"complete: results/{place.folder.parent.name}/{place.folder.name}; " + (
        f"next: normbench report results/{place.folder.parent.name}"
    )
    assert_equal(place, reference[1])


# ------------------------------------------------------------------------------------------------- kills (P1, P2, P3)


def test_a_start_by_fork_is_the_command(place, reference):
    assert_goes_on(place(), reference)


def counted(place):
    """How often an undisturbed run makes each call on its folder."""
    names = [line.partition("(")[0] for line in place().traced()]
    return {name: names.count(name) for name in sorted(set(names))}


@needs_strace
@pytest.mark.parametrize(("call", "n"), [("openat", 4), ("write", 9), ("fsync", 11), ("rename", 8), ("rename", 21)])
def test_killed_before_a_call_it_ends_as_if_never_killed(place, reference, call, n):
    killed = place()
    assert killed.killed(n, call)
    assert_goes_on(killed, reference)


@needs_strace
@pytest.mark.slow
def test_killed_before_every_single_call_it_ends_as_if_never_killed(place, reference, capsys):
    counts, points = counted(place), 0
    for call, count in counts.items():
        for n in range(1, count + 1):
            killed = place()
            assert killed.killed(n, call), f"{call} {n}"
            if killed.folder.exists():
                assert_whole(killed.folder)
            assert_goes_on(killed, reference)
            points += 1
        assert not place().killed(count + 1, call), f"there are more than {count} calls of {call}"
    with capsys.disabled():
        print(f"\nkill points: {points} ({', '.join(f'{n} {call}' for call, n in counts.items())}), all equal")


@needs_strace
@pytest.mark.slow
def test_when_the_recovery_is_killed_too_it_ends_as_if_never_killed(place, reference, capsys):
    rng, kills = random.Random(0), 0
    for call, count in counted(place).items():
        for n in range(1, count + 1, 3):
            killed = place()
            assert killed.killed(n, call)
            kills += 1
            for second in ("fsync", "rename"):
                kills += killed.killed(rng.randint(1, 12), second)
            assert_goes_on(killed, reference)
    with capsys.disabled():
        print(f"\nkills in recoveries of recoveries: {kills}, all equal")


def assert_whole(folder):
    """Whatever stands in the folder at this moment is whole."""
    if (folder / "metrics.csv").exists():
        steps = [row["step"] for row in records.read_metrics(folder / "metrics.csv")]
        assert steps == [step for step in (0, 5, 10, 15, 20, 21)][: len(steps)]
    if (folder / "run.json").exists():
        records.verify(folder)


@needs_strace
def test_ten_kills_in_a_row_lose_one_interval_each_and_a_reader_never_sees_half_a_file(server, place):
    """Evaluated, and so saved, every second step: each kill costs two steps at most."""
    overrides = ("eval.every_steps=2",)
    Place(server, "", "often", *overrides).run()
    (often,) = (server.folder / "results" / "often").iterdir()
    killed, rng = place(*overrides, run_id=often.name), random.Random(1)
    stop, seen, saved, before = threading.Event(), [], [0], server.steps()

    def read():
        path = killed.folder / "metrics.csv"
        while not stop.is_set():
            if path.exists():
                seen.append([row["step"] for row in records.read_metrics(path)])  # strict: raises on half a row

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(10):
            assert killed.killed(rng.randint(6, 10), "fsync")
            saved.append(killed.saved())
        killed.run()
    finally:
        stop.set()
        reader.join()
    assert_equal(killed, result(often))
    assert saved == sorted(saved), "progress was thrown away"
    assert server.steps() - before <= STEPS + 10 * 2 <= 2 * STEPS
    whole = [0, *range(2, STEPS, 2), STEPS]
    assert len(seen) > 100
    assert all(steps == whole[: len(steps)] for steps in seen)


# ------------------------------------------------------------------------------------------- order of the calls (P1)


def events(place):
    """(what, file) of the calls that replace files, from the trace of an undisturbed run."""
    found = []
    for line in place.traced("openat,write,fsync,rename,unlink"):
        call = line.partition("(")[0]
        patterns = {"openat": r', "([^"]*)"', "rename": r', "([^"]*)"', "unlink": r'\("([^"]*)"'}
        path = re.search(patterns.get(call, r"\(\d+<([^<>]*)>"), line)
        assert path, line
        name = path[1].rpartition("/")[2]
        found.append((call, "FOLDER" if name == place.folder.name else name))
    return found


@needs_strace
def test_file_before_name_before_folder_and_checkpoint_before_metrics_before_the_mark(place):
    """What survives a power cut, which no kill tests: the order in which things are told to the disk."""
    calls = events(place())
    replaced = []
    for at, (call, name) in enumerate(calls):
        if call == "rename":
            temporary = f".{name}.tmp"
            assert calls[at - 3 : at] == [("openat", temporary), ("write", temporary), ("fsync", temporary)]
            assert calls[at + 1 : at + 3] == [("openat", "FOLDER"), ("fsync", "FOLDER")]
            replaced.append(name)
        if call in ("write", "unlink"):
            assert name.startswith(".") or name == "train.log", f"{name} is changed in its place"
    after = replaced[replaced.index("checkpoint.pt") :]
    assert after == ["checkpoint.pt", "metrics.csv", "run.json"] * (len(after) // 3)
    assert len(after) // 3 == 6, "every row is saved"
