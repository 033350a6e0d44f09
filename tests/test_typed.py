"""What was typed, in the form that Hydra reads."""

import pytest

from normbench.config import ConfigError
from normbench.typed import arrange


@pytest.mark.parametrize(
    ("args", "arranged"),
    [
        (["norm=bn", "seed=1"], ["norm=bn", "seed=1"]),
        (["norm=bn", "-m", "seed=0,1"], ["-m", "norm=bn", "seed=0,1"]),
        (["seed=1", "--dry-run"], ["-m", "seed=1", "hydra.sweeper.dry_run=true"]),
        (["norm=mine", "--config-dir", "d", "epochs=1"], ["--config-dir", "d", "norm=mine", "epochs=1"]),
        (["a=1", "--config-dir=d", "--cfg", "job", "b=2"], ["--config-dir=d", "--cfg", "job", "a=1", "b=2"]),
        (["dataset.root=~/pets"], ['dataset.root="~/pets"']),
        (["out=a b"], ["out=a b"]),
        (["out=\u00fcn\u00ef"], ['out="\u00fcn\u00ef"']),
        (["name=1e3", "out=1_000"], ['name="1e3"', 'out="1_000"']),
        (["--info", "searchpath", "seed=1"], ["--info", "searchpath", "seed=1"]),
        (["norm=false"], ['norm="false"']),
        (["seed=0, 1", "optimizer.lr=1e-05", "norm.eps=0.001"], ["seed=0, 1", "optimizer.lr=1e-05", "norm.eps=0.001"]),
        (["model.hidden=[10,20]", "name=007", "seed=0"], ["model.hidden=[10,20]", "name=007", "seed=0"]),
        (["~norm.eps", "+x=1"], ["~norm.eps", "+x=1"]),
        (["-m", "clip.max_norm=1", "epochs=2"], ["-m", "clip.max_norm=choice(1)", "epochs=2"]),
        (["-m", "model.hidden=[8,8]"], ["-m", "model.hidden=choice([8,8])"]),
        (["-m", "optimizer.lr=0.1,1"], ["-m", "optimizer.lr=0.1,1"]),
    ],
)
def test_arranged(args, arranged):
    assert arrange(args) == arranged


def test_settings_with_dashes_are_refused():
    with pytest.raises(ConfigError, match=r"type lr=0\.1 instead of --lr=0\.1"):
        arrange(["--lr=0.1"])


@pytest.mark.parametrize("args", [["norm=[bn"], ["model.hidden=[08]"], ["seed=0,01"], ["seed", "=1"], ["+norm=bn"]])
def test_what_means_something_else_than_it_seems_is_refused(args):
    with pytest.raises(ConfigError):
        arrange(args)


def test_a_choice_that_would_hide_behind_ours_is_refused(tmp_path):
    (tmp_path / "norm").mkdir()
    (tmp_path / "norm" / "bn.yaml").write_text("_target_: torch.nn.Identity\n")
    for flag in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        with pytest.raises(ConfigError, match=r"norm/bn\.yaml has the name of a choice of normbench's: rename it"):
            arrange(["norm=bn", *flag])
