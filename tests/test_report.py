import io
import itertools
import math
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from drawn import paths
from fakes import write_run

from normbench import records
from normbench.report import captions, facets, main, panels, tables
from normbench.report.arms import Options
from normbench.report.collect import collect
from normbench.report.contrasts import study
from normbench.report.figures import NotDrawn, curves
from normbench.report.style import NORMS, norm_looks, optimizer_dashes


def report(root, *options):
    assert main([str(root), *map(str, options)]) == 0
    out = Path(options[1]) if options else root / "report"
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def table(files, name):
    return pd.read_csv(io.BytesIO(files[name]), keep_default_na=False, na_values=[""])


def scores(files, metric="val_acc"):
    """The rows of one metric of data/summary.csv."""
    found = table(files, "data/summary.csv")
    return found[found["metric"] == metric].reset_index(drop=True)


def drawn(root):
    runs, metrics = collect([root])
    used = runs[runs["used"].astype(bool)]
    return curves.curves(used, tables.settings(used), metrics)


def lines(axis):
    return {line.get_label(): line for line in axis.get_lines() if not line.get_label().startswith("_")}


def pair(root):
    """none and bn, three seeds each: accuracies .78 .80 .82 and .86 .87 .88."""
    for seed in range(3):
        write_run(root, norm="none", seed=seed, accuracies=(0.1, 0.6, 0.78 + 0.02 * seed), test_acc=0.7 + 0.1 * seed)
        write_run(root, norm="bn", seed=seed, accuracies=(0.1, 0.8, 0.86 + 0.01 * seed), train_s=1.0 + seed**2)


# ------------------------------------------------------------------------------------------------------- numbers


def test_numbers_worked_by_hand(tmp_path):
    pair(tmp_path)
    files = report(tmp_path)
    none, bn = scores(files).to_dict("records")
    assert (none["norm"], none["n"], none["n_ok"], bn["norm"]) == ("none", 3, 3, "bn")
    assert none["mean"] == pytest.approx(0.80)
    assert none["sd"] == pytest.approx(0.02)
    assert bn["sd"] == pytest.approx(0.01)
    none, bn = scores(files, "test_acc").to_dict("records")
    assert (none["mean"], none["sd"]) == pytest.approx((0.80, 0.1))
    assert table(files, "tables/cost.csv")["s_per_step_median"].tolist() == [0.01, 0.01]  # of 1, 2, 5 s, 200 steps
    markdown = files["tables/main.md"].decode()
    assert "| **80 ± 10** " in markdown
    assert "| **87 ± 1** " in markdown
    assert markdown in files["report.md"].decode()


def test_a_clipping_rule_that_never_acted_is_told(tmp_path):
    """In no step of no run of its setting; of norm=none it acted in one run, of clip=value in all."""
    for seed in range(2):
        write_run(tmp_path, seed=seed, norm="bn", clip="norm", clip_frac=0.0)
        write_run(tmp_path, seed=seed, norm="none", clip="norm", clip_frac=0.5 * seed)
        write_run(tmp_path, seed=seed, norm="bn", clip="value", clip_frac=1.0)
        write_run(tmp_path, seed=seed, norm="bn", clip_frac=0.0)
    said = [line for line in report(tmp_path)["report.md"].decode().splitlines() if "never acted" in line]
    assert said == [
        "- clip=norm never acted in the 2 runs of norm=bn, optimizer=adam: this equals clip=none. "
        "What it holds against its bound was 1.5 on average."
    ]


def test_one_run_has_a_mean_and_no_sd(tmp_path):
    write_run(tmp_path)
    row = scores(report(tmp_path)).iloc[0]
    assert row["n"] == 1
    assert row["mean"] == 0.8
    assert math.isnan(row["sd"])
    assert b"| 80.0 " in (tmp_path / "report/tables/main.md").read_bytes()


def test_a_score_that_one_run_lacks_has_no_mean(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, top={"test_acc": None})
    files = report(tmp_path)
    row = scores(files, "test_acc").iloc[0]
    assert (row["n"], row["n_ok"]) == (2, 2)
    assert math.isnan(row["mean"])
    assert b"not measured in every run" in files["tables/main.md"]


def test_diverged_runs_count_as_guessing(tmp_path):
    """With 10 classes, as 0.1; their loss as at step 0. bn: (.86 + .87 + .88 + .1 + .1) / 5 = .562."""
    pair(tmp_path)
    for seed in (3, 4):
        write_run(
            tmp_path, norm="bn", seed=seed, steps=(0, 100), accuracies=(0.1, 0.2), losses=(2.3, 5.0), state="diverged"
        )
    files = report(tmp_path)
    bn = scores(files, "test_acc").iloc[1]
    assert (bn["n"], bn["n_ok"]) == (5, 3)
    assert bn["mean"] == pytest.approx(0.562)
    assert scores(files, "val_loss").iloc[1]["max"] == 2.3
    assert table(files, "tables/main.csv").loc[1, ["n", "n_finished"]].tolist() == [5, 3]
    assert "| 3/5 " in files["tables/main.md"].decode()
    assert "at step 107" in files["report.md"].decode()


def test_losses_without_a_finite_square_have_no_finite_spread(tmp_path):
    for seed in range(2):
        write_run(tmp_path, seed=seed, losses=(2.3, 1e200, (1 + seed) * 1e200))
    assert scores(report(tmp_path), "val_loss").iloc[0]["sd"] == math.inf


def test_a_run_no_better_than_at_step_0_is_called_untrained(tmp_path):
    """Two standard errors of 0.1 in 1000 images, twice: 2 sqrt(2 * 0.09 / 1000) = 0.0268."""
    for seed, end in enumerate((0.1, 0.126, 0.128)):
        write_run(tmp_path, accuracies=(0.1, 0.1, end), losses=(2.3, 2.29, 2.2), seed=seed)
    files = report(tmp_path)
    assert b"| 3/3, 2 untrained |" in files["report.md"]
    assert b"2 of 3 runs are untrained, at learning rate 0.001" in files["report.md"]


@pytest.mark.parametrize(
    ("sds", "expected"),
    [([0.02, 0.004], 3), ([0.1], 1), ([3.0], 0), ([], 3), ([0.0, math.nan], 3), ([1e-9], 3), ([2e-4, 1e-17], 4)],
)
def test_decimals(sds, expected):
    assert tables.decimals(sds) == expected


# ------------------------------------------------------------------------------------------------------ settings


def test_a_key_of_some_choices_only_does_not_split(tmp_path):
    for seed in range(2):
        write_run(tmp_path, norm="gn", norm__num_groups=4, seed=seed)
        write_run(tmp_path, norm="none", seed=seed)
        write_run(
            tmp_path, norm="none", optimizer="sgd", optimizer__lr=0.1, seed=seed, device="cuda", threads=2, out="x"
        )
    rows = scores(report(tmp_path))
    assert list(rows)[:5] == ["norm", "optimizer", "lr", "metric", "n"]  # the lr goes with its optimizer, and is shown
    assert rows[["norm", "optimizer", "lr", "n"]].to_numpy().tolist() == [
        ["none", "adam", 0.001, 2], ["none", "sgd", 0.1, 2], ["gn", "adam", 0.001, 2],
    ]  # fmt: skip


def test_long_lists_of_equal_values_are_short_in_titles():
    assert facets.brief("model.activation=relu, model.hidden=[64, 64, 64, 64]") == (
        "model.activation=relu, model.hidden=4 x [64]"
    )
    assert facets.brief("model.hidden=[6, 64, 64], x=[8,8]") == "model.hidden=[6, 64, 64], x=[8,8]"


def test_varied_keys_are_columns_and_facets(tmp_path):
    for groups in (2, 4):
        write_run(tmp_path, norm="gn", norm__num_groups=groups)
    for rate in (0.01, 0.001):
        write_run(tmp_path, norm="none", optimizer__lr=rate, model__hidden=[64] if rate > 0.005 else [8, 8])
    runs, _ = collect([tmp_path])
    setting = tables.settings(runs)
    assert list(setting) == ["norm", "optimizer", "optimizer.lr", "model.hidden", "norm.num_groups"]
    titles = [row.title for row in facets.rows(runs, setting)]
    assert titles == [
        "optimizer.lr=0.001, model.hidden=[64], norm.num_groups=2",
        "optimizer.lr=0.001, model.hidden=[64], norm.num_groups=4",
        "optimizer.lr=0.001, model.hidden=[8, 8]",
        "optimizer.lr=0.01, model.hidden=[64]",
    ]


def test_runs_without_a_norms_key_are_in_every_row_of_it(tmp_path):
    write_run(tmp_path, norm="none")
    for groups in (2, 4):
        write_run(tmp_path, norm="gn", norm__num_groups=groups)
    [figure] = drawn(tmp_path)
    assert [sorted(lines(axis)) for axis in figure.figure.axes[::2]] == [["gn, adam", "none, adam"]] * 2
    assert "repeated in each" in figure.caption


def test_data_sets_and_fingerprints_are_never_averaged_together(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, top={"data_fingerprint": "e" * 64})
    write_run(tmp_path, seed=0, dataset="mnist", top={"data_fingerprint": "d" * 64})
    rows = scores(report(tmp_path))
    assert rows[["dataset", "n"]].to_numpy().tolist() == [["fashion_mini", 1], ["fashion_mini", 1], ["mnist", 1]]
    assert list(rows["data_fingerprint"]) == ["e" * 12, "f" * 12, "d" * 12]


def test_different_code_of_one_name_is_another_setting(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, norm___target_="mine.BN")
    assert list(scores(report(tmp_path))["n"]) == [1, 1]


# --------------------------------------------------------------------------------------------------- odd folders


def break_all(root):
    """One run of each broken kind, each of a norm of its own; gives the words that the report must say of each."""
    said = {}

    def run(norm, reason, **options):
        folder = write_run(root, norm=norm, **options)
        said[folder.name] = reason
        return folder

    folder = run("torn", "damaged")
    (folder / "run.json").write_text((folder / "run.json").read_text()[:200])
    (run("altered", "metrics.csv is damaged: its sha256") / "metrics.csv").write_text("step\n1\n")
    (run("missing", "metrics.csv is missing") / "metrics.csv").unlink()
    run("newer", "run.json was written by a newer normbench (format_version 999): upgrade",
        top={"format_version": 999})  # fmt: skip
    run("text", f"format_version must be {records.FORMAT_VERSION}, it is 'abc'", top={"format_version": "abc"})
    run("interrupted", "after step 200 of 200", state="running")
    run("failed", "out of memory", state="failed", top={"reason": "out of memory"})
    run("skipped", "needs a picture | shape", state="skipped", top={"reason": "needs a picture | shape"})
    run("paused", "after step 200 of 200", state="paused")
    run("numberless", "val_acc is 'high'", top={"val_acc": "high"})
    run("fileless", "files is None", top={"files": None})
    run("unlisted", "files does not list the metrics.csv", top={"files": {}})
    run("configless", "config is []", top={"config": []})
    folder = root / "began"
    folder.mkdir()
    for name in (".lock", "config.yaml"):
        (folder / name).touch()
    said["began"] = "run.json is missing"
    return said


def test_broken_runs_are_listed_and_change_no_number(tmp_path):
    pair(tmp_path / "good")
    pair(tmp_path / "all")
    said = break_all(tmp_path / "all")
    good, everything = report(tmp_path / "good"), report(tmp_path / "all")
    same = [name for name in good if name != "data/runs.csv" and not name.startswith("report.")]
    assert {name: everything[name] == good[name] for name in same} == dict.fromkeys(same, True)
    text = everything["report.md"].decode()
    listed = text.partition("## Runs that are not complete")[2].partition("\n## ")[0]
    for run_id, reason in said.items():
        [line] = [line for line in listed.splitlines() if f"| {run_id} " in line]
        assert reason.replace("|", "\\|") in line
    assert f"{6 + len(said)} runs found; used: 6 complete, in 2 arms" in text
    runs = table(everything, "data/runs.csv")
    assert len(runs) == 6 + len(said)
    assert runs.loc[~runs["used"], ["val_acc", "test_acc"]].isna().all(axis=None)
    assert str(tmp_path) not in text + everything["data/runs.csv"].decode()


def test_a_run_that_is_being_written_is_listed_as_running(tmp_path):
    folder = write_run(tmp_path, state="running")
    (folder / "metrics.csv").write_text("between two writes")
    write_run(tmp_path, norm="ln")
    with records.Lock(folder):
        text = report(tmp_path)["report.md"].decode()
    assert "1 running" in text
    assert "being written now, after step 200 of 200" in text


def test_nothing_complete_is_a_report_too(tmp_path):
    write_run(tmp_path, state="paused")
    files = report(tmp_path)
    assert not [name for name in files if name.startswith(("figures/", "tables/"))]
    assert {name: len(table(files, name)) for name in files if name.endswith(".csv")} == {
        "data/runs.csv": 1, "data/metrics.csv": 0, "data/summary.csv": 0, "data/time_to_target.csv": 0,
        "data/comparisons.csv": 0,
    }  # fmt: skip
    text = files["report.md"].decode()
    assert text.splitlines()[2].startswith("**No verdict: no complete run")
    assert "- curves: needs at least one complete" in text


def test_copies_of_a_run_count_once(tmp_path):
    write_run(tmp_path / "a", seed=0)
    write_run(tmp_path / "b", seed=0, out="elsewhere")
    write_run(tmp_path / "c", seed=0, name="other", accuracies=(0.1, 0.7, 0.9))
    files = report(tmp_path)
    assert scores(files).iloc[0]["n"] == 1
    assert "2 copies" in files["report.md"].decode()
    assert "with OTHER numbers" in files["report.md"].decode()


def test_folders_inside_each_other_count_once(tmp_path):
    pair(tmp_path / "runs")
    assert main([str(tmp_path), str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert len(pd.read_csv(tmp_path / "out/data/runs.csv")) == 6


def test_bad_input_is_exit_2_and_says_what_to_type(tmp_path, capsys, monkeypatch):
    assert main([str(tmp_path)]) == 2
    assert "(looked for run.json); train some: normbench train -m norm=none,bn seed=0,1,2" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "must be an existing folder" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert "results/runs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    write_run(tmp_path)
    (tmp_path / "file").touch()
    assert main([str(tmp_path), "--out", str(tmp_path / "file")]) == 2
    assert "--out DIR" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- bytes


def test_same_runs_give_the_same_bytes_anywhere(tmp_path):
    def fill(root, order):
        for seed in order:
            for norm in ("none", "mine", "bn")[:: 1 if seed else -1]:
                write_run(root, norm=norm, seed=seed)

    fill(tmp_path / "a", (0, 1))
    first = report(tmp_path / "a")
    assert report(tmp_path / "a") == first
    fill(tmp_path / "b", (1, 0))
    assert report(tmp_path / "b") == first
    moved = tmp_path / "deep" / "moved"
    shutil.copytree(tmp_path / "b", moved, ignore=shutil.ignore_patterns("report"))
    for path in [moved, *moved.rglob("*")]:
        path.chmod(path.stat().st_mode & 0o555)
    before = sorted(moved.rglob("*"))
    assert report(moved, "--out", tmp_path / "out") == first
    assert sorted(moved.rglob("*")) == before
    for path in [moved, *moved.rglob("*")]:
        path.chmod(0o755)
    assert b"1970" not in first["figures/curves.pdf"]
    assert b"CreationDate" not in first["figures/curves.pdf"]


def test_figures_of_an_earlier_report_do_not_stay(tmp_path):
    pair(tmp_path)
    report(tmp_path)
    for name in ("curves_2.svg", "mine.svg"):
        (tmp_path / "report/figures" / name).touch()
    kept = {name for name in report(tmp_path) if name.startswith(("figures/curves", "figures/mine"))}
    kept.discard("figures/curves.csv")
    assert kept == {"figures/curves.pdf", "figures/curves.png", "figures/curves.svg", "figures/mine.svg"}


def test_the_data_are_all_there(tmp_path):
    pair(tmp_path)
    files = report(tmp_path)
    metrics = table(files, "data/metrics.csv")
    assert list(metrics)[:7] == ["run_id", "model", "norm", "optimizer", "clip", "lr", "seed"]
    assert len(metrics) == 18
    assert metrics["norm"].value_counts().to_dict() == {"bn": 9, "none": 9}
    runs = table(files, "data/runs.csv")
    assert list(runs["run_id"]) == sorted(runs["run_id"])
    assert (runs["lr"] == 0.001).all()
    assert (runs["cfg.optimizer.lr"] == 0.001).all()
    assert not [name for name in runs if name.startswith(("cfg.checkpoint", "cfg.out", "cfg.dataset.root"))]
    assert b",true,true,," in files["data/runs.csv"]


def test_what_makes_runs_less_comparable_is_said(tmp_path):
    write_run(tmp_path, norm="none", seed=0)
    write_run(tmp_path, norm="bn", seed=1, top={"environment": {"torch": "2.12.0"}, "device": "cuda"})
    text = report(tmp_path)["report.md"].decode()
    assert "Not every setting has the same seeds" in text
    assert "2 versions of torch: 2.12.0, 2.13.0" in text
    assert "2 devices: cpu, cuda" in text


def test_torch_is_never_imported(tmp_path):
    pair(tmp_path)
    code = "import sys; from normbench.report import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "0 False"


# ------------------------------------------------------------------------------------------------------- figures


def test_what_is_drawn(tmp_path):
    pair(tmp_path)
    [item] = drawn(tmp_path)
    accuracy, loss = item.figure.axes
    assert (accuracy.get_ylabel(), loss.get_yscale()) == ("Validation accuracy", "log")
    mean = lines(accuracy)["none, adam"]
    assert mean.get_xdata().tolist() == [0, 100, 200]
    assert mean.get_ydata() == pytest.approx([0.1, 0.6, 0.8])
    assert (mean.get_color(), mean.get_marker(), mean.get_linestyle()) == ("#000000", "o", "-")
    assert lines(accuracy)["bn, adam"].get_color() == "#0072B2"
    assert lines(loss)["bn, adam"].get_xdata().tolist() == [100, 200]  # nothing was trained before step 0
    assert len(paths(accuracy, "_runs")) == 6
    assert {c.get_linewidth().item() for c in accuracy.collections} == {0.5}
    assert sorted(text.get_text() for text in accuracy.texts) == ["bn", "none"]
    assert "Thin lines: single seeds (3 a setting); thick lines: their mean." in item.caption
    assert "Model mlp, on fashion_mini, 5 epochs, batch size 64, optimizer adam, lr 0.001." in item.caption


def test_a_mean_stops_where_a_run_diverges_and_a_cross_is_there(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, steps=(0, 100), accuracies=(0.1, 0.72), losses=(2.3, 1.0), state="diverged")
    [item] = drawn(tmp_path)
    accuracy = item.figure.axes[0]
    assert lines(accuracy)["bn, adam"].get_xdata().tolist() == [0, 100]
    [cross] = [line for line in accuracy.get_lines() if line.get_label() == "_diverged"]
    assert (cross.get_xdata().tolist(), cross.get_ydata().tolist(), cross.get_marker()) == ([100], [0.72], "x")
    assert accuracy.get_xlim()[1] > 200
    assert "Crosses: 1 diverged run" in item.caption


def test_runs_at_other_steps_share_a_mean_only_as_far_as_they_agree():
    parts = [(np.array([0.0, 10, 20, 30]), np.arange(4.0)), (np.array([0.0, 10, 25]), np.arange(3.0) + 2)]
    x, y = panels.mean_of(parts)
    assert (x.tolist(), y.tolist()) == ([0, 10], [1, 2])


def test_a_run_with_only_step_0(tmp_path):
    write_run(tmp_path, steps=(0,), accuracies=(0.1,), losses=(2.3,))
    [item] = drawn(tmp_path)
    assert "not measured after step 0" in [text.get_text() for text in item.figure.axes[1].texts]


def test_names_with_signs_of_markup_are_drawn_and_written_as_they_are(tmp_path):
    write_run(tmp_path, norm="a$b^$|<c>", accuracies=(0.1, 0.5, 0.6))
    write_run(tmp_path, norm="none")
    files = report(tmp_path)
    assert "| a\\$b^\\$\\|&lt;c>" in files["report.md"].decode()
    assert "a$b^$|<c>" in [text.get_text() for text in drawn(tmp_path)[0].figure.axes[0].texts]


def test_no_panel_has_more_lines_than_six(tmp_path):
    for norm in (*list(NORMS)[:8], "mine"):
        for optimizer in ("sgd", "adam"):
            write_run(tmp_path, norm=norm, optimizer=optimizer)
    [item] = drawn(tmp_path)
    rows = [lines(axis) for axis in item.figure.axes[::2]]
    assert [len(row) for row in rows] == [5, 5, 5, 5]
    assert all(any(name.startswith("none") for name in row) for row in rows)
    assert {name for row in rows for name in row} == {
        f"{n}, {o}" for n in (*list(NORMS)[:8], "mine") for o in ("sgd", "adam")
    }
    assert [len(legend.get_texts()) for legend in item.figure.legends] == [9, 2]


def test_many_facets_are_several_figures_and_too_many_are_refused(tmp_path):
    for number in range(7):
        write_run(tmp_path, batch_size=16 + number)
    assert [(item.name, len(item.figure.axes)) for item in drawn(tmp_path)] == [("curves", 8), ("curves_2", 6)]
    for number in range(7, 41):
        write_run(tmp_path, batch_size=16 + number)
    with pytest.raises(NotDrawn, match=r"at most 40 .*\(batch_size\), found 41; give folders"):
        drawn(tmp_path)


def test_colours_do_not_depend_on_what_else_is_there():
    alone, together = norm_looks(["bn", "mine"]), norm_looks(["zz", "mine", "bn", "none"])
    assert {norm: together[norm] for norm in alone} == alone
    assert optimizer_dashes(["adam"]) == {"adam": "-"}
    assert optimizer_dashes(["adam", "sgd"]) == {"adam": (0, (1, 1.5)), "sgd": "-"}


def test_accuracy_limits_do_not_exaggerate_and_keep_every_end():
    flat = {"a": (np.array([0.0, 1, 2]), np.array([0.1, 0.801, 0.802]))}
    low, high = panels.accuracy_limits(flat, {"a"})
    assert high - low >= 0.05
    ended_low = flat | {"b": (np.array([0.0, 1, 2]), np.array([0.1, 0.9, 0.3]))}
    assert panels.accuracy_limits(ended_low, {"a", "b"})[0] < 0.3


def test_first_steps_are_cut_from_long_curves_only_and_the_caption_says_how_many():
    def one(points):
        return {"a": (np.arange(points, dtype=float), np.linspace(0.1, 0.9, points))}

    assert panels.accuracy_limits(one(6), {"a"})[0] < 0.26
    assert panels.accuracy_limits(one(101), {"a"})[0] > 0.1
    line = facets.Line("bn", "adam", ("a",))
    assert captions._outside([facets.Row("", (line,))], one(5), [(0.2, 0.8)]) == [2, 1, 5]


def test_an_exploding_start_does_not_flatten_the_loss_panel():
    losses = {"a": (np.arange(100.0), np.r_[1e6, np.linspace(2, 1, 99)]), "b": (np.array([1.0]), np.array([1e30]))}
    assert panels.loss_limits(losses, {"a"})[1] < 10


def test_labels_at_line_ends_never_overlap(tmp_path):
    for norm, end in (("none", 0.80), ("bn", 0.836), ("ln", 0.87), ("gn", 0.5)):
        write_run(tmp_path, norm=norm, accuracies=(0.1, 0.4, end))
    [item] = drawn(tmp_path)
    assert not item.figure.legends
    item.figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in item.figure.axes[0].texts), key=lambda box: box.y0)
    assert all(high.y0 - low.y0 >= 8 * item.figure.dpi / 72 for low, high in itertools.pairwise(boxes))
    assert max(box.x1 for box in boxes) < item.figure.axes[1].get_window_extent().x0


def test_the_svg_carries_its_caption_and_fonts_and_no_id_twice(tmp_path):
    pair(tmp_path)
    files = report(tmp_path)
    svg = ElementTree.fromstring(files["figures/curves.svg"])
    [item] = curves.draw(study(*collect([tmp_path]), Options()))
    assert svg.find("{http://www.w3.org/2000/svg}desc").text == item.caption
    ids = [node.get("id") for node in svg.iter() if node.get("id")]
    assert len(ids) == len(set(ids))
    assert b">Validation accuracy</text>" in files["figures/curves.svg"]
    assert b"/Type3" not in files["figures/curves.pdf"]


def test_the_curves_are_those_of_each_arms_own_best_rate_with_the_target(tmp_path):
    """bn is best at lr 1 and reaches 0.6 at step 100, none at lr 0.1 and step 200; a tick is a median."""
    for seed in range(3):
        for norm, best, slow in (("none", 0.1, True), ("bn", 1.0, False)):
            for lr in (0.1, 1.0):
                top = 0.7 if lr == best else 0.3
                way = (0.1, 0.2 if slow else top, top, top)
                write_run(tmp_path, norm=norm, optimizer="sgd", optimizer__lr=lr, seed=seed, steps=(0, 100, 150, 200),
                          accuracies=way, losses=(2.3, 1.0, 0.9, 0.8))  # fmt: skip
    made = study(*collect([tmp_path]), Options(target=0.6))
    [item] = curves.draw(made)
    axis = item.figure.axes[0]
    assert lines(axis)["bn, sgd"].get_ydata()[-1] == pytest.approx(0.7)
    assert lines(axis)["none, sgd"].get_ydata()[-1] == pytest.approx(0.7)
    found = [line for line in axis.get_lines() if line.get_label() == "_target"]
    assert [list(line.get_ydata()) for line in found] == [[0.6, 0.6]]
    ticks = [line for line in axis.get_lines() if line.get_label() == "_reached"]
    assert {(line.get_color(), *line.get_xydata()[0]) for line in ticks} == {
        (norm_looks(["none", "bn"])["bn"][0], 100.0, 0.6), (norm_looks(["none", "bn"])["none"][0], 150.0, 0.6),
    }  # fmt: skip
    assert "Dotted: the target, 0.6" in item.caption
    assert "Each at its own best of 2 learning rates" in item.caption


def test_of_many_seeds_the_first_are_drawn_and_the_mean_is_that_of_all(tmp_path):
    for seed in range(60):
        write_run(tmp_path, norm="bn", seed=seed, accuracies=(0.1, 0.7, 0.8 if seed < 50 else 0.5))
        write_run(tmp_path, norm="none", seed=seed)
    (item,) = drawn(tmp_path)
    axis = item.figure.axes[0]
    assert len(paths(axis, "_runs")) == 2 * 50
    assert lines(axis)["bn, adam"].get_ydata()[-1] == pytest.approx((50 * 0.8 + 10 * 0.5) / 60)
    assert "Thin lines: the first 50 of 60 seeds; thick lines: the mean of all." in item.caption
