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
        while not stop.wait(0.002):
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
    assert_replaced_in_order(events(place()))


def assert_replaced_in_order(calls):
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
    assert after == ["checkpoint.pt", "metrics.csv", "run.json"] * 6, "every row is saved"


# ------------------------------------------------------------------------------------------------- broken disks (P10)

ERRORS = {"ENOSPC": "No space left on device", "EDQUOT": "Disk quota exceeded", "EIO": "Input/output error"}


def assert_failed(place, code, said, error, recorded):
    """Failed in words that name the disk and the folder; what was saved before is whole; nothing half-made is left."""
    folder = f"results/{place.folder.parent.name}/{place.folder.name}"
    assert code == 1, said
    assert "Traceback" not in said
    assert "Logging error" not in said
    assert f"the disk of {folder}" in said
    assert ERRORS[error] in said
    assert last_line(said).startswith(f"failed: {folder}; next: ")
    assert last_line(said).endswith(f"to try again: normbench {' '.join(map(quoted, place.command))}")
    assert place.left_over() == []
    place.saved()  # raises if the checkpoint is damaged
    if (place.folder / "run.json").exists():
        record = records.verify(place.folder)
        assert record["state"] == ("failed" if recorded else "running")
        if recorded:
            assert f"the disk of {folder}" in record["reason"]
            assert ERRORS[error] in record["reason"]
    if (place.folder / "metrics.csv").exists():
        assert_whole(place.folder)


def quoted(word):
    return f"'{word}'" if "[" in word else word


DISK = [
    # (call, error, on which file, from when on: `n` only the n-th, `n+` all from there); a few of all that are possible
    ("write", "ENOSPC", "checkpoint.pt", "3+"),
    ("fsync", "EIO", "checkpoint.pt", "2"),
    ("rename", "EIO", "metrics.csv", "4"),
    ("write", "EDQUOT", "run.json", "3+"),
]
FILES = ("config.yaml", "metrics.csv", "run.json", "checkpoint.pt")
EVERY_DISK = [
    (call, error, file, f"{n}{more}")
    for call, error in (
        ("openat", "ENOSPC"), ("write", "ENOSPC"), ("write", "EIO"), ("fsync", "EIO"), ("fsync", "ENOSPC"),
        ("rename", "ENOSPC"), ("rename", "EIO"),
    )
    for file in FILES
    for n in ((1, 4) if file != "config.yaml" else (1,))
    for more in ("", "+")
]  # fmt: skip


def fail_and_go_on(place, reference, call, error, file, when):
    broken = place()
    code, said = broken.failing(call, error, when, [f".{file}.tmp"])
    assert_failed(
        broken, code, said, error, recorded=not when.endswith("+") or file in ("checkpoint.pt", "config.yaml")
    )
    assert_goes_on(broken, reference)


@needs_strace
@pytest.mark.parametrize(("call", "error", "file", "when"), DISK)
def test_a_disk_that_fails_loses_nothing_and_is_named(place, reference, call, error, file, when):
    fail_and_go_on(place, reference, call, error, file, when)


@needs_strace
@pytest.mark.slow
def test_whatever_the_disk_refuses_nothing_is_lost(place, reference, capsys):
    for case in EVERY_DISK:
        fail_and_go_on(place, reference, *case)
    with capsys.disabled():
        print(f"\ndisk errors: {len(EVERY_DISK)}, each named, all equal after the same command again")


@needs_strace
@pytest.mark.parametrize("n", [6, pytest.param(14, marks=pytest.mark.slow), pytest.param(24, marks=pytest.mark.slow)])
def test_a_disk_that_takes_nothing_more_at_all_ends_the_run_in_words(place, reference, n):
    """Not even train.log and run.json: the folder stays as it was, and the command says it all."""
    full = place()
    code, said = full.failing("write", "ENOSPC", f"{n}+")
    assert_failed(full, code, said, "ENOSPC", recorded=False)
    assert "train.log cannot be written" in said
    assert "so this could not be recorded there" in said
    assert len(said.splitlines()) <= 5
    assert_goes_on(full, reference)


@needs_strace
def test_a_log_that_cannot_be_written_is_told_of_once_and_stops_nothing(place, reference):
    silent = place()
    code, said = silent.failing("write", "ENOSPC", "1+", ["train.log"])
    assert code == 0
    assert said.count("train.log cannot be written ([Errno 28] No space left on device)") == 1
    assert "Traceback" not in said
    assert_equal(silent, reference[1])


@needs_strace
def test_a_folder_that_cannot_be_locked_for_want_of_space_is_refused_in_words(place, reference):
    full = place()
    for call in ("openat", "write"):
        code, said = full.failing(call, "ENOSPC", "1+", [".lock"])
        assert code == 2
        assert "No space left on device" in last_line(said)
        assert f"results/{full.folder.parent.name}" in last_line(said)
        assert "Traceback" not in said
        assert "Exception ignored" not in said
    assert_goes_on(full, reference)


# ----------------------------------------------------------------------------------------------------- locks (P6, P7)


def test_of_four_started_in_the_same_moment_one_trains(server, place, reference):
    before = server.steps()
    shared = place(
        "checkpoint.keep=weights"
    )  # whoever comes late must not make it again: it could not go on from these
    waiting = [server.prepare(*shared.command) for _ in range(4)]
    for started in waiting:
        server.ask(go=started.pid)
    ends = [(started.wait(), started.said) for started in waiting]
    trained = [said for code, said in ends if code == 0 and "complete before" not in said]
    assert len(trained) == 1, ends
    for code, said in ends:
        assert code in (0, 3), said
        assert code == 0 or "is in use by process" in last_line(said)
        assert "damaged" not in said
    assert server.steps() - before == STEPS
    assert_equal(shared, reference[1])


def test_a_killed_process_gives_its_folder_free(place, server):
    busy = place("epochs=100000")
    first = busy.start()
    while " steps on cpu" not in first.said:
        assert first.server.process.poll() is None
    second = busy.start()
    assert second.wait() == 3
    assert f"is in use by process {first.pid} on" in last_line(second.said)
    assert first.kill() == -9
    third = busy.start()
    while " steps " not in third.said:
        assert "in use" not in third.said
    assert third.kill() == -9


# ------------------------------------------------------------------------------------------------- data sets (P13)

INSTALL = """
import pathlib, sys
from normbench.dataset._install import install
base, names = pathlib.Path(sys.argv[1]), ("images", "labels")
def fill(empty):
    (empty / "inside").mkdir()
    for name in names:
        (empty / "inside" / name).write_bytes(name.encode() * 30000)
    return empty / "inside"
install(base / "set", base, "set", fill, lambda folder: all((folder / name).is_file() for name in names))
"""


@needs_strace
def test_a_data_set_is_there_whole_or_not_at_all_whenever_its_installation_is_killed(tmp_path, capsys):
    calls = ("mkdir", "openat", "write", "rename", "rmdir", "unlinkat")
    inside = ("", ".set.lock", ".set.tmp", ".set.tmp/inside", ".set.tmp/inside/images", ".set.tmp/inside/labels", "set")
    points = 0
    for call in calls:
        for n in itertools.count(1):
            base = tmp_path / f"{call}{n}"
            base.mkdir()
            install = [sys.executable, "-c", INSTALL, str(base)]
            paths = [word for name in inside for word in ("-P", str(base / name) if name else str(base))]
            inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={n}"]
            code = subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", *paths, *inject, *install]).returncode
            names = ("images", "labels")
            if (base / "set").exists():
                assert sorted(path.name for path in (base / "set").iterdir()) == ["images", "labels"]
            subprocess.run(install, check=True)
            assert [(base / "set" / name).read_bytes() for name in names] == [name.encode() * 30000 for name in names]
            assert sorted(path.name for path in base.iterdir()) == [".set.lock", "set"]
            if code == 0:
                break  # there are no more calls
            points += 1
    assert points >= 8
    with capsys.disabled():
        print(f"\nkills while a data set is installed: {points}, each time whole afterwards")
