"""What the user sees who types what can't be, or has it on the disk: every row of scripts/errors_page.py, and more."""

import importlib
import json
import os
import pwd
from pathlib import Path

import pytest
import torch

import normbench
from normbench import records

ROOT = Path(__file__).resolve().parent.parent
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "scripts")
    page = importlib.import_module("errors_page")

PAGE = page.PAGE.read_text(encoding="utf-8")
QUICK = " ".join(page.QUICK)
KNOWN_TOP = "the top level has: amp, augment, batch_size"
NORMS = "choose one of: bn, brn, dyt, frn, gn, in, iternorm, ln, none, rms, sn, wn, ws"
# row -> exit code, and what its answer must hold: the key, the value, what was meant or what to type
EXPECTED = {
    "rnu": (2, "unknown command 'rnu'", "there are: train, report"),
    "trian": (2, "unknown command 'trian'; did you mean train?"),
    "norm=bn": (2, "did you mean normbench train norm=bn?"),
    "train lrr=0.1": (2, "unknown key lrr; did you mean optimizer.lr?", KNOWN_TOP),
    "train +lrr=0.1": (2, "unknown key lrr; did you mean optimizer.lr?"),
    "train ++lrr=0.1": (2, "unknown key lrr; did you mean optimizer.lr?"),
    "train optimizer.nmae=adam": (2, "unknown key optimizer.nmae; did you mean optimizer.name?"),
    "train optimizer/lr=0.1": (2, "unknown key optimizer/lr; did you mean optimizer.lr?"),
    "train SEED=3": (2, "unknown key SEED; did you mean seed?"),
    "train optimizer=adma": (2, "no optimizer=adma (did you mean adam or adamax?)"),
    "train norm=batchnrom": (2, "no norm=batchnrom (did you mean bn?)", NORMS),
    "train norm=BN": (2, "no norm=BN (did you mean bn or brn?)"),
    "train norm=no": (2, "no norm=no (did you mean none?)"),
    "train norm=false": (2, "no norm=false", NORMS),
    "train norm=null": (2, "no norm=null", NORMS),
    "train clip=-1": (2, "no clip=-1; choose one of: agc"),
    "train norm=[bn": (2, "norm=[bn: norm takes the name of one choice, like norm=bn"),
    "train norm=${oops}": (2, "norm=${oops}: norm takes the name of one choice"),
    "train optimizer.lr=${oops}": (2, "optimizer.lr=${oops} refers to a key that does not exist; type a value"),
    "train +norm=ln": (2, "type norm=ln"),
    "train bn": (2, "'bn' is no setting", "did you mean norm=bn?"),
    "train optimizer.lr = 0.1": (2, "type optimizer.lr=0.1, without blanks"),
    "train optimizer.lr= 0.1": (2, "type optimizer.lr=0.1, without blanks"),
    "train optimizer.lr==0.1": (2, "one = too many; type optimizer.lr=0.1"),
    "train =0.1": (2, "'=0.1' has no key"),
    "train --optimizer.lr=0.1": (2, "type optimizer.lr=0.1 instead of --optimizer.lr=0.1"),
    "train --epochs 3": (2, "type epochs=3 instead of --epochs 3"),
    "train -x": (2, "unrecognized arguments: -x", "normbench train --help"),
    "train --cfg jobs": (2, "invalid choice: 'jobs'", "'job'"),
    "train ~optimizer": (2, "optimizer must be given"),
    "train ~optimizer.lr": (2, "optimizer.lr must be given; type optimizer.lr=0.01"),
    "train optimizer.lr=0.1 optimizer.lr=0.2": (2, "optimizer.lr is given twice"),
    "train model.hidden=[64": (2, "'model.hidden=[64' lacks a ]", "'model.hidden=[64]'"),
    "train 'norm=b\\nn'": (2, r"'norm=b\nn' holds a line break"),
    "train 'out=\\xff'": (2, "is not UTF-8 text"),
    "train norm=🎉": (2, "no norm=🎉", NORMS),
    "train optimizer.lr=xxx... (5,000 letters)": (2, "optimizer.lr must be a number, got 'xxx", "(5,000 characters)"),
    "train seed=999... (5,000 digits)": (2, "seed can't be a number of 5,000 digits; type seed=1"),
    "train --config-dir mine norm=mine (mine/norm/mine.yaml is no YAML)": (2, "mine/norm/mine.yaml", "line 2"),
    "list nrom": (2, "no group 'nrom'; did you mean norm?"),
    "data fashion_min": (2, "it is 'fashion_min'; did you mean fashion_mini?"),
    "data fashion_mini epochs=3": (2, "epochs=3: only dataset.KEY=VALUE"),
    "data fashion_mini dataset.train_size=10": (2, "dataset.train_size is for normbench train"),
    "status --bogus": (2, "unknown option --bogus; type normbench status FOLDER"),
    "report --bogus": (2, "unrecognized arguments: --bogus"),
    "evaluate nowhere": (2, "no runs found under nowhere"),
    "train optimizer.lr=1e": (2, "optimizer.lr must be a number, got '1e'; try optimizer.lr=0.001"),
    "train optimizer.lr=0": (2, "optimizer.lr must be a number > 0, got 0; try"),
    "train optimizer.lr=inf": (2, "optimizer.lr must be finite, got inf"),
    "train optimizer.lr=0,1": (2, "for a sweep add -m, for a decimal number write a point"),
    "train 'optimizer.lr=1 000'": (2, "optimizer.lr must be a number, got '1 000'"),
    "train optimizer.betas=0.9": (2, "optimizer.betas must be a list of 2 numbers, got 0.9; try"),
    "train epochs=1e9": (2, "epochs must be a whole number from 1 to 1000000, got '1e9'; try epochs=5"),
    "train epochs=1000000000": (2, "epochs must be a whole number from 1 to 1000000, got 1000000000"),
    "train epochs=-3": (2, "epochs must be a whole number from 1 to 1000000, got -3"),
    "train seed=010": (2, "seed=010: numbers have no leading zeros", "type seed=10"),
    "train seed=-1": (2, "seed must be a whole number from 0 to 4294967295, got -1; try seed=0"),
    "train seed=None": (2, "got 'None'; try seed=0"),
    "train seed=true": (2, "got 'true'; try seed=0"),
    "train progress=maybe": (2, "progress must be true or false, got 'maybe'; try progress=true"),
    "train eval.statistics=emma": (2, "eval.statistics must be a list of ema, population, batch", "got 'emma'; try"),
    "train epochs=0 batch_size=0 optimizer.lr=-1": (
        2,
        "epochs must be a whole number from 1 to 1000000, got 0",
        "batch_size must be a whole number >= 1, got 0",
        "optimizer.lr must be a number > 0, got -1",
    ),
    "train epochs=2.5 seed=x norm.eps=inf stop_epoch=0": (
        2,
        "epochs must be a whole number from 1 to 1000000, got '2.5'",
        "seed must be a whole number from 0 to 4294967295, got 'x'",
        "norm.eps must be finite, got inf",
        "stop_epoch must be a whole number >= 1 or null, got 0",
    ),
    "train batch_size=100000": (2, "at most 9,000, the training images of fashion_mini; got 100000; try batch_size=64"),
    "train batch_size=1": (2, "norm=bn needs at least 2 values", "batch_size=1", "try batch_size=2"),
    "train clip=norm clip.max_norm=0": (2, "max_norm must be a number > 0, got 0; try clip.max_norm=1, or clip=none"),
    "train norm=gn norm.num_groups=7": (2, "norm.num_groups=7 must divide the 64 channels", "try norm.num_groups=1"),
    "train device=cuda:99": (2, "device=cuda:99: there is no such CUDA device here; try device=cpu"),
    "train device=gpu": (2, "device must be auto, cpu, cuda or cuda:N, got 'gpu'; try device=auto"),
    "train threads=99999": (2, "threads must be a whole number from 1 to <cores>, got 99999; try threads=1"),
    "train model.hidden=[0]": (2, "hidden must be a list of whole numbers >= 1, got [0]; try model.hidden=[64]"),
    "train -m optimizer.lr=abc,0.1": (
        2,
        "optimizer.lr must be a number, got 'abc'",
        "job 1 of 2",
        "nothing was started",
    ),
    "train -m norm=bn,lnn seed=0,1": (2, "no norm=lnn (did you mean ln?)", "nothing was started"),
    "train -m seed=0,1 epochs=0,1 batch_size=0": (2, "epochs must", "batch_size must", "(job 1 of 4: seed=0 epochs=0"),
    "train -m norm=bn norm.momentumm=0.1,0.2": (2, "did you mean norm.momentum?", "nothing was started"),
    "train -m lr=0.1,0.2": (2, "unknown key lr; did you mean optimizer.lr?", "nothing was started"),
    "train -m seed=range(5,5)": (2, "seed=range(5,5) is an empty sweep; write seed=A,B; nothing was started"),
    "train -m seed=0,1,": (2, "'seed=0,1,' has a comma with nothing", "nothing was started"),
    "train -m seed=01,02": (2, "type seed=1,2; nothing was started"),
    "train -m norm=[bn,ln]": (2, "for several -m norm=A,B", "nothing was started"),
    "train -m seed=0,1 seed=2": (2, "seed is given twice", "nothing was started"),
    "train seed=range(3)": (2, "seed=range(3) gives several values; for a sweep add -m"),
    "train -m norm=gn norm.num_groups=7": (2, "norm.num_groups=7 must divide the 64", "nothing was started"),
    f"train -m {QUICK} out=file seed=0,1 (file is a file)": (2, "file is no folder; try another out=", "nothing was"),
    f"train -m {QUICK} seed=1,1,1 --dry-run": (0, "1 run (3 asked for, equal ones joined)", "nothing was started"),
    "train dataset=mnist dataset.root=file (file is a file)": (2, "dataset.root must be a folder, 'file' is none"),
    "train dataset=mnist dataset.root=data (the four files of data/ are cut)": (
        4,
        "data/train-images-idx3-ubyte.gz: its md5 must be",
        "put the published file there",
    ),
    "train dataset=imagefolder": (2, "type dataset.name=VALUE dataset.root=VALUE"),
    f"train {page.PETS} (there is no pets)": (4, "dataset.root=pets does not exist; it must be a folder that holds"),
    f"train {page.PETS} (a picture is cut)": (4, "pets/train/dog/1.png is not a whole picture", "replace it or remove"),
    f"train {page.PETS} (a class folder is empty)": (4, "pets/train/dog must hold pictures, it is empty; fill it"),
    f"train {page.PETS} (a class is missing in test/)": (4, "must hold the same classes; only once: train/dog"),
    f"train {page.PETS} (pictures of two sizes)": (4, "train/dog/1.png is 9x8; dataset.size=32 resizes them all"),
    "train model=lenet dataset=synthetic": (2, "lenet needs images of at least 16 x 16", "try model=mlp"),
    "train out=/": (2, "out must be a folder other than /, got '/'; try out=results"),
    "train out=~nobody_here/results": (2, "got '~nobody_here/results'; try out=results"),
    "train out=file (file is a file)": (2, "out=file: Not a directory", "try another out=FOLDER"),
    "report nowhere": (2, "FOLDER must be an existing folder, given 'nowhere'", "normbench train"),
    "report empty (empty is a folder)": (2, "no runs found under empty (looked for run.json)", "normbench train"),
    "status empty (empty is a folder)": (2, "no runs under empty (looked for */run.json)", "normbench train"),
    "evaluate empty (empty is a folder)": (2, "no runs found under empty (empty/run.json is missing)"),
    "report results --out file (a finished run; file is a file)": (2, "Not a directory: 'file", "type --out DIR"),
    f"train {QUICK} (it is complete)": (0, "complete before"),
    f"train {QUICK} (its folder holds a run of other settings)": (2, "holds a run of another config: move it away"),
    "status results (metrics.csv cut)": (0, "1 damaged", "metrics.csv is damaged: its sha256 is"),
    "report results (metrics.csv cut)": (0, "0 of 1 runs used, the others are listed"),
    "status results (config.yaml edited)": (0, "1 damaged", "config.yaml is damaged: its sha256 is"),
    "status results (run.json cut)": (0, "1 damaged", "run.json is damaged"),
    "evaluate results (run.json cut)": (2, "run.json is damaged"),
    "status results (run.json of a newer normbench)": (0, "a newer normbench (format_version 999): upgrade"),
    f"train {QUICK} (run.json of a newer one)": (2, "(format_version 999): upgrade, or use another out=FOLDER"),
    "evaluate results (checkpoint.pt is empty)": (2, "checkpoint.pt is damaged", "(0 bytes)"),
    "evaluate results (a bit of checkpoint.pt flipped)": (2, "checkpoint.pt is damaged: its sha256 is"),
    "evaluate results (checkpoint.pt removed)": (2, "checkpoint.pt is missing"),
    "evaluate results --data-root x (a finished run)": (2, "dataset=synthetic is in no folder; leave out --data-root"),
    "status results (two copies of one run)": (0, "2 runs: 2 complete"),
    "report results (two copies of one run)": (0, "1 of 2 runs used"),
    "status results (a link that goes in a circle)": (0, "1 run: 1 complete"),
    "status results (folders of other tools)": (0, "1 complete, 1 damaged", "wandb/run.json: format_version must be 2"),
    f"LC_ALL=POSIX PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {page.TRAIN} out=ünï norm=foo": (2, "no norm=foo"),
    f"LC_ALL=POSIX PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {page.TRAIN} out=ünï | tail -1; ls": (
        0,
        "complete: ünï/runs/",
        "next: normbench report 'ünï/runs'",
        "ünï",
    ),
    f"XDG_CACHE_HOME=$PWD/file {page.TRAIN} preprocess=zca out=o | tail -1 (file is a file)": (
        0,
        "every start fits the preprocessing anew",
        "complete: o/runs/",
    ),
    "mkdir gone; cd gone; rmdir ../gone; normbench train": (2, "does not exist any more; cd into another one"),
    f"{page.TRAIN} > /dev/full": (1, "what is printed cannot be written: No space left on device"),
    "normbench list > /dev/full": (1, "what is printed cannot be written: No space left on device"),
    f"{page.TRAIN} >&- 2>&- <&-; normbench status": (0, "results: 1 run: 1 complete"),
    "normbench data fashion_mini | head -0; echo ${PIPESTATUS[0]}": (0, "141"),
    f"{page.TRAIN} | head -0; echo ${{PIPESTATUS[0]}}": (0, "141"),
}
ROWS = {row.name: row for rows in page.ROWS.values() for row in rows}


def on_disk(folder):
    return {str(path): path.is_file() and path.read_bytes() for path in folder.rglob("*") if not path.is_symlink()}


def test_every_row_of_the_page_is_tested_and_every_test_is_on_the_page():
    assert list(EXPECTED) == list(ROWS)
    assert len(ROWS) == sum(map(len, page.ROWS.values())), "two rows of one name"
    assert PAGE.startswith(page.HEAD), "run python scripts/errors_page.py"
    assert PAGE.count("\n| `") == len(ROWS)
    assert "/tmp" not in PAGE


@pytest.mark.parametrize("name", ROWS)
def test_the_answer_says_what_is_wrong_and_what_to_type(tmp_path, name):
    row, (code, *words) = ROWS[name], EXPECTED[name]
    folder = tmp_path / "here"
    folder.mkdir()
    row.prepare(folder)
    before = on_disk(folder)
    answer = page.answer(row, folder)
    said = "\n".join(answer.lines)
    assert answer.code == code, said
    assert "Traceback" not in said
    assert len(answer.lines) <= max(3, len(words)), said  # a line for each of several problems
    assert all(len(line) < 500 for line in answer.lines), said
    assert [word for word in words if word not in said] == [], said
    if not torch.cuda.is_available():  # the page is made on the CPU, and a run says where it trains
        assert f"\n{page._line(row, answer)}\n" in PAGE, "run python scripts/errors_page.py"
    if code in (2, 4) and "mkdir" not in name:
        assert on_disk(folder) == before


# ---------------------------------------------------------------------------------------------- files of a run


def lines(change):
    """A change of metrics.csv's lines, whose line ends stay."""
    return lambda data: b"".join(change(data.splitlines(keepends=True)))


def second_line(old, new):
    return lines(lambda rows: [*rows[:-1], rows[-1].replace(old, new, 1)])


# what another program could make of metrics.csv; with the right checksum in run.json, so that it is read
METRICS = {
    "empty": (lambda data: b"", "line 1 must be step,examples"),
    "header only": (lines(lambda rows: rows[:1]), "it holds no row"),
    "no header": (lines(lambda rows: rows[1:]), "line 1 must be step,examples"),
    "two headers": (lines(lambda rows: [rows[0], *rows]), "line 2 is 'step,examples"),
    "a short last row": (lambda data: data.rstrip().rpartition(b",")[0] + b"\n", "line 3 is"),
    "no last line end": (lambda data: data[:-1], "its last line is torn"),
    "glued rows": (lambda data: data[:-1].replace(b"\n14,", b"14,") + b"\n", "line 2 is"),
    "NULs at the end": (lambda data: data[:-20] + 20 * b"\0", "its last line is torn"),
    "a word for a number": (second_line(b"14,", b"oops,"), "line 3 is 'oops,"),
    "Windows line ends": (lambda data: data.replace(b"\n", b"\r\n"), "line 1 must be"),
    "a byte order mark": (lambda data: b"\xef\xbb\xbf" + data, "line 1 must be"),
    "semicolons": (lambda data: data.replace(b",", b";"), "line 1 must be"),
    "a row twice": (lines(lambda rows: [*rows, rows[-1]]), "line 4 repeats or goes back to step 14"),
    "not text": (lambda data: b"\xff" + data, "not UTF-8 text"),
}


def reported(folder):
    """What the report lists about the only run, and what status says of it."""
    said = {}
    for command in ("report", "status"):
        answer = page.answer(page.Row(f"{command} results"), folder)
        assert answer.code == 0
        said[command] = "\n".join(answer.lines)
    assert said["report"].startswith("0 of 1 runs used")
    assert "1 run: 1 damaged" in said["status"]
    return (folder / "results/report/report.md").read_text(), said["status"]


@pytest.mark.parametrize("kind", METRICS)
def test_metrics_that_another_program_wrote_are_named_by_line(tmp_path, kind):
    change, words = METRICS[kind]
    run = page.run_in(tmp_path)
    data = change((run / "metrics.csv").read_bytes())
    (run / "metrics.csv").write_bytes(data)
    record = json.loads((run / "run.json").read_bytes())
    record["files"]["metrics.csv"] = records.sha256(data)
    (run / "run.json").write_bytes(records.run_json({k: v for k, v in record.items() if k != "sha256"}))
    assert page.answer(page.Row("report results"), tmp_path).lines[0].startswith("0 of 1 runs used")
    listed = (tmp_path / "results/report/report.md").read_text()
    assert "metrics.csv is damaged: " in listed
    assert words in listed.replace("\\", "")


ALTERED = {
    "run.json: empty": ("run.json", lambda data: b""),
    "run.json: a brace": ("run.json", lambda data: b"{"),
    "run.json: not a number": ("run.json", lambda data: data.replace(b'"seed": 0', b'"seed": NaN')),
    "run.json: edited": ("run.json", lambda data: data.replace(b'"seed": 0', b'"seed": 7')),
    "run.json: of an older format": ("run.json", lambda data: page._version(data, 0)),
    "run.json: of no format": ("run.json", lambda data: data.replace(b'"format_version"', b'"format"')),
    "config.yaml: cut": ("config.yaml", lambda data: data[:60]),
    "metrics.csv: cut": ("metrics.csv", lambda data: data[:-9]),
    "checkpoint.pt: text": ("checkpoint.pt", lambda data: b"weights"),
    "checkpoint.pt: HTML": ("checkpoint.pt", lambda data: b"<html>not found</html>"),
    "checkpoint.pt: cut": ("checkpoint.pt", lambda data: data[: len(data) // 2]),
    "checkpoint.pt: longer": ("checkpoint.pt", lambda data: data + b"\0"),
    "checkpoint.pt: a bit flipped": ("checkpoint.pt", lambda data: page._flipped(data)),
}


@pytest.mark.parametrize("kind", ALTERED)
def test_a_damaged_file_is_named_by_all_who_read_it(tmp_path, kind):
    name, change = ALTERED[kind]
    page.with_run(name, change)(tmp_path)
    run = next(records.find_runs(tmp_path / "results"))
    for said in reported(tmp_path):
        assert name in said
    evaluated = page.answer(page.Row("evaluate results --statistics ema"), tmp_path)
    if name in ("config.yaml", "metrics.csv"):  # the weights, their config and their checksum are whole
        assert (evaluated.code, len(evaluated.lines)) == (0, 2)
        normbench.load(run)
        return
    assert evaluated.code == 2
    assert name in "\n".join(evaluated.lines)
    with pytest.raises(records.Damaged, match=name):
        normbench.load(run)


def test_a_folder_in_the_place_of_the_checkpoint_is_no_traceback(tmp_path):
    page.with_run("checkpoint.pt")(tmp_path)
    run = next(records.find_runs(tmp_path / "results"))
    (run / "checkpoint.pt").mkdir()
    answer = page.answer(page.Row("evaluate results"), tmp_path)
    assert (answer.code, len(answer.lines)) == (2, 1)
    assert "checkpoint.pt is damaged: Is a directory" in answer.lines[0]
    answer = page.answer(page.Row(f"train {QUICK}"), tmp_path)
    assert answer.code == 0
    assert answer.lines[-1].startswith("complete: ")


# --------------------------------------------------------------------------------------------------- environment


def test_a_user_without_a_home_is_told_where_to_say_it(tmp_path, monkeypatch):
    def nobody(_):
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    words = "no home folder is known, where data are kept; type export XDG_CACHE_HOME=FOLDER"
    answer = page.answer(page.Row("data mnist"), tmp_path)
    assert (answer.code, answer.lines) == (4, [f"normbench data: {words}"])
    answer = page.answer(page.Row(f"train {QUICK} preprocess=zca"), tmp_path)
    assert answer.code == 0, "it is fitted all the same"
    assert f"normbench: every start fits the preprocessing anew: {words}" in answer.lines
    assert len(page.answer(page.Row(f"train {QUICK}"), tmp_path).lines) == 3, "without a need of it, no word about it"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
@pytest.mark.parametrize("command", [f"train {QUICK} out=shut", f"train -m {QUICK} out=shut seed=0,1"])
def test_a_folder_that_may_not_be_written_is_said_before_training(tmp_path, command):
    (tmp_path / "shut").mkdir(mode=0o555)
    answer = page.answer(page.Row(command), tmp_path)
    assert answer.code == 2
    assert "out=shut: " in answer.lines[0]
    assert list((tmp_path / "shut").iterdir()) == []


def test_a_sweep_says_once_that_its_place_may_not_be_written(tmp_path, monkeypatch):
    (tmp_path / "shut").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "shut" and access(path, mode))
    answer = page.answer(page.Row(f"train -m {QUICK} out=shut seed=0,1"), tmp_path)
    assert answer.code == 2
    assert answer.lines == [
        "normbench: out=shut: shut cannot be written to; try another out=FOLDER; nothing was started"
    ]
    assert list((tmp_path / "shut").iterdir()) == []


def test_words_that_look_like_numbers_are_names_where_a_name_belongs(tmp_path):
    for typed, made in (("name=1e3", "results/1e3"), ("out=1_000", "1_000/runs"), ("name=007", "results/007")):
        assert page.answer(page.Row(f"train {QUICK} {typed}"), tmp_path).code == 0
        assert len(list((tmp_path / made).iterdir())) == 1
