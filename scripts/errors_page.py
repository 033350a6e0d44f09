"""Write docs/errors.md: what normbench answers to what can't be, each answer by really running the command.

    python scripts/errors_page.py            after a change of a message (about a minute)

Every row is run in a folder of its own that is thrown away; tests/test_errors.py runs the same rows, compares them with
the page, and says for each what its answer must hold. A row of the environment runs in a shell, every other one inside
this process.
"""

import atexit
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from normbench import cli, records

PAGE = Path(__file__).resolve().parents[1] / "docs" / "errors.md"
QUICK = ("dataset=synthetic", "epochs=1", "batch_size=32")  # of a run that is to be trained
HEAD = """\
# What normbench answers to what can't be

Made by `python scripts/errors_page.py`, which runs every command below and writes down what it really prints. Hashes,
and what depends on the machine, stand as `<hash>`, `<cores>`, `<number>`. The arguments are as normbench gets them: in
a shell, blanks, brackets and `$` need quotes.

Exit codes: 0 done; 1 a run failed; 2 bad input, nothing written; 3 the folder is in use; 4 damaged or missing data;
129, 130, 143 interrupted; 141 whoever read the output has gone. Several bad values of one command are told together.
`HYDRA_FULL_ERROR=1` shows the traceback behind an answer.
"""


def _nothing(folder: Path) -> None:
    """A row that needs nothing on the disk."""


@dataclass(frozen=True)
class Row:
    """One question: what is typed, where; `args` where blanks do not part the arguments, `shell` for a real shell."""

    typed: str  # after `normbench`; in a shell the whole line
    given: str = ""  # in words, what `prepare` puts on the disk
    prepare: Callable[[Path], None] = _nothing
    args: tuple[str, ...] | None = None
    shell: bool = False

    @property
    def name(self) -> str:
        return f"{self.typed} ({self.given})" if self.given else self.typed


@dataclass(frozen=True)
class Answer:
    code: int
    lines: list[str]


# ------------------------------------------------------------------------------------------------- what is prepared


def run_in(folder: Path) -> Path:
    """A finished run in folder/results, made once and copied from then on."""
    if not _made:
        made = Path(tempfile.mkdtemp(prefix="errors_page"))
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        with contextlib.chdir(made), contextlib.redirect_stdout(io.StringIO()):
            assert cli.main(["train", *QUICK]) == 0
        _made.append(made)
    shutil.copytree(_made[0] / "results", folder / "results")
    return next(records.find_runs(folder / "results"))


_made: list[Path] = []


def with_run(name: str, change: Callable[[bytes], bytes] | None = None) -> Callable[[Path], None]:
    """A finished run whose file `name` is changed; None: it is removed."""

    def prepare(folder: Path) -> None:
        path = run_in(folder) / name
        data = path.read_bytes()
        path.unlink()
        if change:
            path.write_bytes(change(data))

    return prepare


def _whole_run(folder: Path) -> None:
    run_in(folder)


def _run_and_file(folder: Path) -> None:
    run_in(folder)
    _file(folder)


def _two_copies(folder: Path) -> None:
    run = run_in(folder)
    shutil.copytree(run, run.with_name("copy"))


def _circle(folder: Path) -> None:
    run = run_in(folder)
    (run.parent / "circle").symlink_to(run.parent)


def _others(folder: Path) -> None:
    run = run_in(folder)
    for path, text in (("wandb/run.json", "{}"), ("lightning_logs/version_0/metrics.csv", "a,b\n")):
        (run.parent / path).parent.mkdir(parents=True)
        (run.parent / path).write_text(text)


def _another_config(folder: Path) -> None:
    run = run_in(folder)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(["train", *QUICK, "seed=1"]) == 0
    other = next(path for path in records.find_runs(folder / "results") if path.name != run.name)
    shutil.rmtree(run)
    shutil.copytree(other, run)


def _empty(folder: Path) -> None:
    (folder / "empty").mkdir()


def _file(folder: Path) -> None:
    (folder / "file").write_text("no folder")


def pictures(folder: Path) -> Path:
    """Two classes of two pictures each, to train and to test on."""
    noise = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (folder / "pets" / split / label).mkdir(parents=True)
            for number in range(2):
                picture = Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                picture.save(folder / "pets" / split / label / f"{number}.png")
    return folder / "pets"


def _broken_picture(folder: Path) -> None:
    path = pictures(folder) / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:60])


def _empty_class(folder: Path) -> None:
    for path in (pictures(folder) / "train" / "dog").iterdir():
        path.unlink()


def _one_class_less(folder: Path) -> None:
    shutil.rmtree(pictures(folder) / "test" / "dog")


def _other_size(folder: Path) -> None:
    Image.new("RGB", (9, 8)).save(pictures(folder) / "train" / "dog" / "1.png")


def _short_mnist(folder: Path) -> None:
    (folder / "data").mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / "data" / f"{name}-ubyte.gz").write_bytes(b"\x1f\x8b cut")


def _broken_yaml(folder: Path) -> None:
    (folder / "mine" / "norm").mkdir(parents=True)
    (folder / "mine" / "norm" / "mine.yaml").write_text("_target_: [torch.nn\n\tx: 1\n")


# --------------------------------------------------------------------------------------------------------- the rows

PETS = "dataset=imagefolder dataset.name=pets dataset.root=pets batch_size=2"
TRAIN = f"normbench train {' '.join(QUICK)}"
ROWS: dict[str, tuple[Row, ...]] = {
    "Command line": (
        Row("rnu"),
        Row("trian"),
        Row("norm=bn"),
        Row("train lrr=0.1"),
        Row("train +lrr=0.1"),
        Row("train ++lrr=0.1"),
        Row("train optimizer.nmae=adam"),
        Row("train optimizer/lr=0.1"),
        Row("train SEED=3"),
        Row("train optimizer=adma"),
        Row("train norm=batchnrom"),
        Row("train norm=BN"),
        Row("train norm=no"),
        Row("train norm=false"),
        Row("train norm=null"),
        Row("train clip=-1"),
        Row("train norm=[bn"),
        Row("train norm=${oops}"),
        Row("train optimizer.lr=${oops}"),
        Row("train +norm=ln"),
        Row("train bn"),
        Row("train optimizer.lr = 0.1"),
        Row("train optimizer.lr= 0.1"),
        Row("train optimizer.lr==0.1"),
        Row("train =0.1"),
        Row("train --optimizer.lr=0.1"),
        Row("train --epochs 3"),
        Row("train -x"),
        Row("train --cfg jobs"),
        Row("train ~optimizer"),
        Row("train ~optimizer.lr"),
        Row("train optimizer.lr=0.1 optimizer.lr=0.2"),
        Row("train model.hidden=[64"),
        Row("train 'norm=b\\nn'", args=("train", "norm=b\nn")),
        Row("train 'out=\\xff'", args=("train", "out=\udcff")),
        Row("train norm=🎉"),
        Row("train optimizer.lr=xxx... (5,000 letters)", args=("train", "optimizer.lr=" + "x" * 5000)),
        Row("train seed=999... (5,000 digits)", args=("train", "seed=" + "9" * 5000)),
        Row("train --config-dir mine norm=mine", "mine/norm/mine.yaml is no YAML", _broken_yaml),
        Row("list nrom"),
        Row("data fashion_min"),
        Row("data fashion_mini epochs=3"),
        Row("data fashion_mini dataset.train_size=10"),
        Row("status --bogus"),
        Row("report --bogus"),
        Row("evaluate nowhere"),
    ),
    "Values": (
        Row("train optimizer.lr=1e"),
        Row("train optimizer.lr=0"),
        Row("train optimizer.lr=inf"),
        Row("train optimizer.lr=0,1"),
        Row("train 'optimizer.lr=1 000'", args=("train", "optimizer.lr=1 000")),
        Row("train optimizer.betas=0.9"),
        Row("train epochs=1e9"),
        Row("train epochs=1000000000"),
        Row("train epochs=-3"),
        Row("train seed=010"),
        Row("train seed=-1"),
        Row("train seed=None"),
        Row("train seed=true"),
        Row("train progress=maybe"),
        Row("train eval.statistics=emma"),
        Row("train epochs=0 batch_size=0 optimizer.lr=-1"),
        Row("train epochs=2.5 seed=x norm.eps=inf stop_epoch=0"),
        Row("train batch_size=100000"),
        Row("train batch_size=1"),
        Row("train clip=norm clip.max_norm=0"),
        Row("train norm=gn norm.num_groups=7"),
        Row("train device=cuda:99"),
        Row("train device=gpu"),
        Row("train threads=99999"),
        Row("train model.hidden=[0]"),
    ),
    "Sweeps": (
        Row("train -m optimizer.lr=abc,0.1"),
        Row("train -m norm=bn,lnn seed=0,1"),
        Row("train -m seed=0,1 epochs=0,1 batch_size=0"),
        Row("train -m norm=bn norm.momentumm=0.1,0.2"),
        Row("train -m lr=0.1,0.2"),
        Row("train -m seed=range(5,5)"),
        Row("train -m seed=0,1,"),
        Row("train -m seed=01,02"),
        Row("train -m norm=[bn,ln]"),
        Row("train -m seed=0,1 seed=2"),
        Row("train seed=range(3)"),
        Row("train -m norm=gn norm.num_groups=7"),
        Row(f"train -m {' '.join(QUICK)} out=file seed=0,1", "file is a file", _file),
        Row(f"train -m {' '.join(QUICK)} seed=1,1,1 --dry-run"),
    ),
    "Data": (
        Row("train dataset=mnist dataset.root=file", "file is a file", _file),
        Row("train dataset=mnist dataset.root=data", "the four files of data/ are cut", _short_mnist),
        Row("train dataset=imagefolder"),
        Row(f"train {PETS}", "there is no pets"),
        Row(f"train {PETS}", "a picture is cut", _broken_picture),
        Row(f"train {PETS}", "a class folder is empty", _empty_class),
        Row(f"train {PETS}", "a class is missing in test/", _one_class_less),
        Row(f"train {PETS}", "pictures of two sizes", _other_size),
        Row("train model=lenet dataset=synthetic"),
    ),
    "Results folder": (
        Row("train out=/"),
        Row("train out=~nobody_here/results"),
        Row("train out=file", "file is a file", _file),
        Row("report nowhere"),
        Row("report empty", "empty is a folder", _empty),
        Row("status empty", "empty is a folder", _empty),
        Row("evaluate empty", "empty is a folder", _empty),
        Row("report results --out file", "a finished run; file is a file", _run_and_file),
        Row(f"train {' '.join(QUICK)}", "it is complete", _whole_run),
        Row(f"train {' '.join(QUICK)}", "its folder holds a run of other settings", _another_config),
        Row("status results", "metrics.csv cut", with_run("metrics.csv", lambda data: data[:-9])),
        Row("report results", "metrics.csv cut", with_run("metrics.csv", lambda data: data[:-9])),
        Row("status results", "config.yaml edited", with_run("config.yaml", lambda d: d.replace(b"0.001", b"0.002"))),
        Row("status results", "run.json cut", with_run("run.json", lambda data: data[:40])),
        Row("evaluate results", "run.json cut", with_run("run.json", lambda data: data[:40])),
        Row("status results", "run.json of a newer normbench", with_run("run.json", lambda d: _version(d, 999))),
        Row(f"train {' '.join(QUICK)}", "run.json of a newer one", with_run("run.json", lambda d: _version(d, 999))),
        Row("evaluate results", "checkpoint.pt is empty", with_run("checkpoint.pt", lambda data: b"")),
        Row("evaluate results", "a bit of checkpoint.pt flipped", with_run("checkpoint.pt", lambda d: _flipped(d))),
        Row("evaluate results", "checkpoint.pt removed", with_run("checkpoint.pt")),
        Row("evaluate results --data-root x", "a finished run", _whole_run),
        Row("status results", "two copies of one run", _two_copies),
        Row("report results", "two copies of one run", _two_copies),
        Row("status results", "a link that goes in a circle", _circle),
        Row("status results", "folders of other tools", _others),
    ),
    "Environment": (
        Row(f"LC_ALL=POSIX PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {TRAIN} out=ünï norm=foo", shell=True),
        Row(f"LC_ALL=POSIX PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {TRAIN} out=ünï | tail -1; ls", shell=True),
        Row(f"XDG_CACHE_HOME=$PWD/file {TRAIN} preprocess=zca out=o | tail -1", "file is a file", _file, shell=True),
        Row("mkdir gone; cd gone; rmdir ../gone; normbench train", shell=True),
        Row(f"{TRAIN} > /dev/full", shell=True),
        Row("normbench list > /dev/full", shell=True),
        Row(f"{TRAIN} >&- 2>&- <&-; normbench status", shell=True),
        Row("normbench data fashion_mini | head -0; echo ${PIPESTATUS[0]}", shell=True),
        Row(f"{TRAIN} | head -0; echo ${{PIPESTATUS[0]}}", shell=True),
    ),
}


def _version(data: bytes, number: int) -> bytes:
    return re.sub(rb'"format_version": \d+', f'"format_version": {number}'.encode(), data)


def _flipped(data: bytes) -> bytes:
    return data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]


# ---------------------------------------------------------------------------------------------------------- answers


def answer(row: Row, folder: Path) -> Answer:
    """What is said in a folder that the row has prepared."""
    code, text = _in_a_shell(row, folder) if row.shell else _here(row, folder)
    return Answer(code, [_anywhere(line, folder) for line in text.splitlines()])


def _here(row: Row, folder: Path) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = cli.main(list(row.args or row.typed.split()))
        except SystemExit as exit_:  # argparse's, of the commands that use it
            code = int(exit_.code or 0)
    return code, said.getvalue()


def _in_a_shell(row: Row, folder: Path) -> tuple[int, str]:
    line = re.sub(r"\bnormbench\b", lambda _: f"{shlex.quote(sys.executable)} -m normbench", row.typed)
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr + done.stdout


def _anywhere(line: str, folder: Path) -> str:
    """Without what another machine, or another day, would have otherwise."""
    line = line.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "").replace(str(folder), ".")
    line = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12,64}\b", "<hash>", line)
    line = re.sub(r"(accuracy|loss) \d\.\d{4}", r"\1 <number>", line)
    line = re.sub(r"process \d+ on .*? since [\d: -]+", "<process>", line)
    line = re.sub(r"\d+\.\d+ s of training", "<seconds> s of training", line)
    line = re.sub(r"\b\d+ kB\b", "<number> kB", line)
    line = re.sub(r"about \d+ s one", "about <seconds> s one", re.sub(r"  \d+ s$", "  <seconds> s", line))
    return re.sub(rf"^(.*threads .* from 1 to ){os.cpu_count()}\b", r"\1<cores>", line)


# ------------------------------------------------------------------------------------------------------------- page


def page() -> str:
    return "\n".join([HEAD, *_sections()])


def _sections() -> Iterator[str]:
    cache = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = str(Path(place) / "cache")
        try:
            for title, rows in ROWS.items():
                yield f"## {title}\n"
                yield "| typed | exit code | answer |\n|---|---|---|"
                for number, row in enumerate(rows):
                    folder = Path(place) / f"{title} {number}"
                    folder.mkdir()
                    row.prepare(folder)
                    yield _line(row, answer(row, folder))
                yield ""
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            os.environ |= {"XDG_CACHE_HOME": cache} if cache is not None else {}


def _line(row: Row, given: Answer) -> str:
    typed = _code(row.typed if row.shell else f"normbench {row.typed}") + (f"<br>{row.given}" if row.given else "")
    return f"| {typed} | {given.code} | {'<br>'.join(map(_code, given.lines))} |"


def _code(text: str) -> str:
    """As code in a cell of a Markdown table."""
    return f"`{text.replace('|', chr(92) + '|').strip()}`"


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.name}: {sum(map(len, ROWS.values()))} rows")


if __name__ == "__main__":
    main()
