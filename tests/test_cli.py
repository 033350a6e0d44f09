"""The command line as a user meets it, in processes of its own."""

import builtins
import os
import re
import signal
import subprocess
import sys

import pytest

from normbench import app, cli, records
from normbench.config import GROUPS
from normbench.sweep import Stop

FAST = ("dataset=synthetic", "epochs=2", "batch_size=32")


@pytest.fixture
def normbench(tmp_path):
    def call(*args, cwd=tmp_path, **env):
        environment = {k: v for k, v in os.environ.items() if k not in ("HYDRA_FULL_ERROR", "COMP_LINE")}
        command = [sys.executable, "-m", "normbench", *args]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**environment, **env})

    return call


def runs(folder):
    return sorted(path.name for path in records.find_runs(folder))


def test_train_ends_with_the_accuracy_the_folder_and_what_to_do_next(normbench, tmp_path):
    done = normbench("train", *FAST)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bar in a pipe
    *_, result, last = done.stdout.splitlines()
    (name,) = runs(tmp_path)
    assert re.match(r"complete  test accuracy 0\.\d{4}  test loss \d\.\d{4}  0\.\d s of training", result)
    assert last == f"complete: results/runs/{name}; next: normbench report results/runs"
    again = normbench("train", "epochs=2", "batch_size=32", "dataset=synthetic", "optimizer.lr=1e-3")
    assert again.stdout.splitlines()[-2].startswith("complete before")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results"]  # Hydra leaves nothing


# what is typed; words that the answer must hold (tests/test_errors.py has the rows of docs/errors.md)
REFUSED = {
    "norm=foo": "no norm=foo; choose one of: bn, ",
    "norm=off": "no norm=off",
    "optimizer.lrr=1": "unknown key optimizer.lrr; did you mean optimizer.lr?",
    "++optimizer.lrr=1": "unknown key optimizer.lrr; did you mean optimizer.lr?",
    "epoch=3": "unknown key epoch; did you mean epochs?",
    "optimizer.lr=abc": "optimizer.lr must be a number, got 'abc'",
    "optimizer.lr=": "optimizer.lr must be a number, got ''",
    "optimizer.lr=nan": "optimizer.lr must be a number > 0, got nan",
    "optimizer.lr=-1": "optimizer.lr must be a number > 0, got -1",
    "optimizer.betas=[1]": "beta",
    "epochs=2.5": "epochs must be a whole number from 1 to 1000000, got '2.5'",
    "epochs=0": "epochs must be a whole number from 1 to 1000000, got 0",
    "epochs=null": "epochs must be a whole number from 1 to 1000000",
    "~epochs": "epochs must be given",
    "batch_size=0": "batch_size must be a whole number >= 1, got 0",
    "batch_size=999999": "batch_size must be at most 9,000, the training images of fashion_mini; got 999999",
    "schedule.scales=[lr,weight_decay]": "schedule.scales has weight_decay, and that of optimizer=adam is 0",
    "optimizer=sgd schedule.scales=[momentum]": "schedule.scales has momentum, and that of optimizer=sgd is 0",
    "schedule.scales=[rate]": "scales must be a list out of lr, weight_decay, momentum",
    "optimizer.betas=[0.9,0.99,0.9]": "optimizer.betas must be a list of 2 numbers, got [0.9, 0.99, 0.9]",
    "optimizer=muon optimizer.adamw_betas=[0.9]": "optimizer.adamw_betas must be a list of 2 numbers",
    "optimizer=muon optimizer.ns_steps=200": "ns_steps must be a whole number from 1 to 99",
    "augment=flip_crop augment.padding=100000": "padding must be at most 28",
    "augment._target_=torch.nn.ReLU": "must be a class that inherits from normbench.augment.Augment",
    "preprocess._target_=torch.nn.ReLU": "must be a class that inherits from normbench.preprocess.Preprocess",
    "amp=fp16": "amp must be none or bf16, got 'fp16'; try amp=bf16",
    "optimizer=sgd optimizer._target_=torch.optim.LBFGS ~optimizer.weight_decay": "LBFGS) calls the loss several times",
    "clip=norm clip.max_norm=-1": "max_norm must be a number > 0, got -1",
    "norm=none norm._target_=torch.nn.Bilinear": "missing a required argument",
    "loss.label_smoothing=2": "loss.label_smoothing must be a number >= 0 and < 1, got 2",
    "schedule.warmup_epochs=5": "schedule.warmup_epochs must be less than epochs=5",
    "clip=norm clip.max_norm=true": "clip.max_norm must be a number, got True",
    "out=" + "x" * 300: "File name too long",
    "-m device=cpu,auto": "device=cpu and device=auto make one and the same run",
    "-m checkpoint.keep=all,none": "make one and the same run",
    "-m dataset=fashion_mnist dataset.root=a,b": "dataset.root=a and dataset.root=b make one and the same run",
    "-m loss.label_smoothing=0.1,2": "loss.label_smoothing must be",
    "threads=9999": "threads must be a whole number from 1 to",
    "optimizer.lr=1 optimizer.lr=2": "optimizer.lr is given twice",
    "--lr=0.1": "settings have no dashes: type lr=0.1",
    "model.activation=swish": "activation must be one of relu, sigmoid",
    "norm._target_=nowhere.Norm": "norm._target_=nowhere.Norm can't be used",
    "norm._target_=os.system": "can't be used",
    "optimizer._target_=torch.optim.SGD": "to leave out what it lacks: ~optimizer.betas ~optimizer.eps",
    "name=../x": "name must be letters",
    "out=/proc/nowhere": "out=/proc/nowhere",
    "--config-dir=nowhere": "nowhere' not found",
    "-m norm=foo,bn": "no norm=foo",
    "-m norm=none norm.momentum=0.2": "unknown key norm.momentum",
    "-m seed=0 norm.momentumm=0.2": "unknown key norm.momentumm; did you mean norm.momentum?",
    "-m optimizer.lr=interval(0,1)": "needs a list of values",
    "-m norm=bn batch_size=1": "norm=bn needs at least 2 values per channel",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_bad_input_is_refused_in_one_line_before_anything_is_written(tmp_path, monkeypatch, capsys, typed):
    monkeypatch.chdir(tmp_path)
    code = cli.main(["train", *typed.split()])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("normbench: ")
    assert err.count("\n") == 1
    assert REFUSED[typed] in err
    assert list(tmp_path.iterdir()) == []


def test_so_it_is_in_a_process_of_its_own(normbench, tmp_path):
    for typed in ("norm=foo", "optimizer.lrr=1", "batch_size=999999"):
        answer = normbench("train", typed)
        assert (answer.returncode, answer.stdout) == (2, "")
        assert answer.stderr.count("\n") == 1
        assert REFUSED[typed] in answer.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["rnu"], 2, "unknown command 'rnu'; there are: train"),
        (["trian"], 2, "did you mean train?"),
        (["report", "."], 2, "no runs found under"),
        (["report", "nowhere"], 2, "nowhere"),
        (["status", "."], 2, "no runs under ."),
        (["list", "nrom"], 2, "did you mean norm?"),
        (["data", "fashion_min"], 2, "fashion_mini"),
    ],
)
def test_the_other_commands_refuse_in_words_too(normbench, tmp_path, args, code, words):
    answer = normbench(*args)
    assert (answer.returncode, answer.stdout) == (code, "")
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_data_file_is_exit_4_and_nothing_is_written(normbench, tmp_path):
    raw = tmp_path / "data"
    raw.mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(b"\0\0\x08\x03")
    answer = normbench("train", "dataset=fashion_mnist", f"dataset.root={raw}")
    assert answer.returncode == 4
    assert "-ubyte" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "results").exists()


def test_help_version_list_and_status(normbench, tmp_path):
    for args in ([], ["--help"], ["train", "--help"], ["report", "--help"], ["list", "--help"], ["status", "--help"]):
        answer = normbench(*args)
        assert (answer.returncode, answer.stderr) == (0, "")
        assert "usage: normbench" in answer.stdout
    assert re.fullmatch(r"normbench \d+\.\d+\.\d+\n", normbench("--version").stdout)
    listed = normbench("list", "norm").stdout
    assert re.search(r"^  none +no normalization: the baseline$", listed, re.M)
    assert "[default]" in listed
    assert set(re.findall(r"^\w+", normbench("list").stdout, re.M)) == {*GROUPS, "experiment"}
    assert re.search(r"^  resnet20_cifar10 +ResNet-20", normbench("list", "experiment").stdout, re.M)
    (tmp_path / "mine/norm").mkdir(parents=True)
    (tmp_path / "mine/norm/odd.yaml").write_text("# an odd one\n_target_: torch.nn.Identity\n")
    assert re.search(r"^  odd +an odd one  \[yours\]$", normbench("list", "norm", "--config-dir", "mine").stdout, re.M)
    assert normbench("list", "--config-dir", "nowhere").returncode == 2
    normbench("train", *FAST)
    assert re.fullmatch(r"results: 1 run: 1 complete; 0 s of training, \d+ kB\n", normbench("status").stdout)


def test_bash_completion_knows_commands_choices_and_keys(normbench):
    def answer(line):
        return normbench("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line))).stdout.split()

    assert "complete" in normbench("-sc", "install=bash").stdout
    assert answer("normbench tr") == ["train"]
    assert {"norm=bn", "norm=none"} <= set(answer("normbench train norm="))
    assert "optimizer.lr=" in answer("normbench train optimizer.")


MINE = """
from torch import nn

class Mine(nn.Module):
    def __init__(self, num_features, gain=2.0):
        super().__init__()
        self.gain = gain

    def forward(self, x):
        return self.gain * x
"""


def test_a_users_own_class_needs_one_python_file_and_one_yaml(normbench, tmp_path):
    (tmp_path / "own.py").write_text(MINE)
    (tmp_path / "mine" / "norm").mkdir(parents=True)
    (tmp_path / "mine" / "norm" / "mine.yaml").write_text("_target_: own.Mine\ngain: 2.0\n")
    assert normbench("train", "--config-dir", "mine", "norm=mine", *FAST).returncode == 0
    assert normbench("train", "optimizer._target_=torch.optim.RAdam", *FAST).returncode == 0
    words = sorted(name.rpartition("-s0-")[0] for name in runs(tmp_path))
    assert words == ["mlp-bn-RAdam", "mlp-mine-adam"]
    answer = normbench("train", "--config-dir", "mine", "norm=mime")
    assert "did you mean mine?" in answer.stderr
    answer = normbench("train", "--config-dir", "mine", "norm=mine", "norm.gain=x")
    assert "norm.gain must be a number, got 'x'" in answer.stderr
    assert normbench("report", "results/runs").returncode == 0
    assert "mine" in (tmp_path / "results" / "runs" / "report" / "data" / "runs.csv").read_text()


def test_a_ctrl_c_that_a_library_turns_into_another_error_is_an_interrupt(monkeypatch, capsys, request):
    def interrupted():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise Stop(AttributeError()) from None

    monkeypatch.setattr(app, "_main", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "\ninterrupted before a run began\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_ctrl_c_while_a_command_is_imported_is_told_in_a_line(monkeypatch, capsys, command):
    def interrupted(name, *_):
        if name in ("normbench", "normbench.app"):
            raise KeyboardInterrupt
        return real(name, *_)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", interrupted)
    code = cli.main([command])
    monkeypatch.undo()
    assert (code, capsys.readouterr().err) == (130, "\ninterrupted\n")


def test_a_ctrl_c_waits_until_torch_is_imported(tmp_path):
    """torch's start aborts the process (a C++ exception), or swallows it, when it is interrupted."""
    (tmp_path / "torch.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(0.3)\nprint('whole', flush=True)\n"
    )
    script = """
import signal, time
from normbench import cli

def slow(args):
    import torch
    time.sleep(5)

signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
cli._dispatch = slow
raise SystemExit(cli.main([]))
"""
    answer = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout, answer.stderr) == (130, "whole\n", "\ninterrupted\n")
