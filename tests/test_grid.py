"""scripts/grid_check.py: every norm with every model trains, or is refused with a reason; and it sees what is wrong."""

import importlib
from pathlib import Path

import pytest

from normbench.config import ConfigError
from normbench.outcome import Outcome

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
FINITE = {"state": "complete", "reason": None, "val_acc": 0.5, "statistics": {"ema": {"val_loss": 1.0, "val_acc": 0.5}}}


@pytest.fixture(scope="module")
def grid():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        return importlib.import_module("grid_check")


@pytest.fixture
def ended_as(grid, monkeypatch, tmp_path):
    """Every run ends with this record and this last value of train_loss, without training."""

    def end(record, train_loss="0.5"):
        (tmp_path / "metrics.csv").write_text(f"step,train_loss\n0,\n28,{train_loss}\n")
        outcome = Outcome(record["state"], tmp_path, record)
        monkeypatch.setattr(grid.run, "run", lambda *args, **kwargs: outcome)
        return grid.check(["bn"], ["mlp"])[0]

    return end


@pytest.mark.slow
def test_every_norm_trains_with_every_model_or_is_refused(grid):
    cells = grid.check(grid.choices("norm"), grid.choices("model"))
    assert [f"{c.norm} x {c.model}: {c.state}: {c.reason}" for c in cells if c.is_wrong] == []
    refused = [c for c in cells if c.state == grid.REFUSED]
    assert len(refused) < len(cells) / 4
    assert all(c.norm != "none" and "try " in c.reason for c in refused)


def test_a_cell_that_trains_and_one_that_is_refused(grid, tmp_path, capsys):
    assert grid.main(["--norms", "none", "in", "--models", "mlp", "--markdown", str(tmp_path / "grid.md")]) == 0
    text, markdown = capsys.readouterr().out, (tmp_path / "grid.md").read_text()
    assert "2 cells" in text
    assert "1 complete, 1 refused" in text
    assert "refused, in x mlp: norm=in needs at least 2 positions" in text
    assert "| in | refused |" in markdown
    assert "- refused, in x mlp: norm=in needs" in markdown


def test_finite_numbers_are_complete(ended_as):
    cell = ended_as(FINITE)
    assert (cell.state, cell.mark, cell.is_wrong) == ("complete", "0.50", False)


@pytest.mark.parametrize("train_loss", ["", "nan", "inf"])
def test_a_number_that_is_not_finite_is_seen(ended_as, train_loss):
    cell = ended_as(FINITE, train_loss)
    assert (cell.state, cell.reason, cell.is_wrong) == ("non-finite", "no finite train_loss", True)
    cell = ended_as(FINITE | {"statistics": {"population": {"test_loss": None}}})
    assert (cell.state, cell.reason) == ("non-finite", "no finite test_loss (population)")


@pytest.mark.parametrize(("state", "mark"), [("diverged", "diverged"), ("failed", "failed"), ("paused", "failed")])
def test_a_run_that_did_not_complete_is_wrong(ended_as, state, mark):
    cell = ended_as(FINITE | {"state": state, "reason": "why"})
    assert (cell.mark, cell.reason, cell.is_wrong) == (mark, "why", True)


def test_what_is_raised_is_a_failed_cell_and_the_exit_code_1(grid, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise ConfigError("no good")

    monkeypatch.setattr(grid.run, "run", fail)
    assert grid.main(["--norms", "bn", "ln", "--models", "mlp"]) == 1
    assert "failed, bn x mlp, ln x mlp: ConfigError: no good" in capsys.readouterr().out
