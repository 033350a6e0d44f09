"""Reports of many runs: what was read is kept and never stale, several processes draw, pages stay small."""

import importlib
import io
import json
import math
import os
import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn import dots, read
from fakes import write_run
from fontTools.subset import Options
from fontTools.ttLib import TTFont
from matplotlib.figure import Figure

from normbench import app, records, report
from normbench.report import cache, captions, collect, drawing, style, tables, web
from normbench.report.captions import MOST_SEED_LINES
from normbench.report.figures import _arms


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch):
    monkeypatch.setattr(cache, "FEWEST", 1)


@pytest.fixture
def parsed(monkeypatch):
    """The folders that were parsed, and not known."""
    found, parse = [], collect._parsed
    monkeypatch.setattr(collect, "_parsed", lambda folder, *rest: found.append(folder.name) or parse(folder, *rest))
    return found


def runs(root, seeds=3, **changes):
    return [write_run(root, seed=seed, norm=norm, **changes) for norm in ("none", "bn") for seed in range(seeds)]


def made(root, *options, out=None):
    """The files of a report without its cache."""
    out = out or root / "report"
    assert report.main([str(root), "--out", str(out), "--format", "csv,json,md,html", *options]) == 0
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*")) if path.is_file() and path.name != cache.NAME
    }  # fmt: skip


def table_of(files):
    return files["data/runs.csv"].decode()


# --------------------------------------------------------------------------------------------------------------- cache


def test_a_report_with_the_cache_equals_one_without_and_parses_nothing(tmp_path, parsed):
    runs(tmp_path, state="complete")
    write_run(tmp_path, seed=9, norm="gn", state="diverged")
    first = made(tmp_path, "--only", "gap")
    assert len(parsed) == 7
    assert (tmp_path / "report" / cache.NAME).is_file()
    assert made(tmp_path, "--only", "gap") == first
    assert len(parsed) == 7
    (tmp_path / "report" / cache.NAME).unlink()
    assert made(tmp_path, "--only", "gap") == first
    assert len(parsed) == 14


def test_one_new_run_is_the_only_one_that_is_parsed(tmp_path, parsed):
    runs(tmp_path)
    made(tmp_path, "--only", "gap")
    parsed.clear()
    new = write_run(tmp_path, seed=3, norm="bn")
    with_cache = made(tmp_path, "--only", "gap")
    assert parsed == [new.name]
    assert with_cache == made(tmp_path, "--only", "gap", out=tmp_path / "elsewhere")
    parsed.clear()
    made(tmp_path, "--only", "gap")
    assert parsed == []


def edit_metrics(folder):
    path = folder / "metrics.csv"
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"0.7", b"0.8", 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as large and as old as before


def edit_record(folder):
    path = folder / "run.json"
    path.write_bytes(path.read_bytes().replace(b'"test_acc": 0.8', b'"test_acc": 0.9', 1))


def lose_metrics(folder):
    (folder / "metrics.csv").unlink()


@pytest.mark.parametrize("damage", [edit_metrics, edit_record, lose_metrics])
def test_what_is_damaged_after_a_report_is_damaged_in_the_next(tmp_path, damage):
    folders = runs(tmp_path)
    assert "damaged" not in table_of(made(tmp_path, "--only", "gap"))
    damage(folders[0])
    files = made(tmp_path, "--only", "gap")
    assert table_of(files).count("damaged") >= 1
    assert files == made(tmp_path, "--only", "gap", out=tmp_path / "elsewhere")


def test_a_replaced_and_a_removed_run_are_noticed(tmp_path):
    folders = runs(tmp_path)
    made(tmp_path, "--only", "gap")
    for name in ("metrics.csv", "run.json"):
        (folders[1] / name).unlink()
    folders[1].rmdir()
    for path in sorted(folders[0].iterdir()):
        path.unlink()
    folders[0].rmdir()
    write_run(tmp_path, seed=0, norm="none", accuracies=(0.1, 0.5, 0.6))
    files = made(tmp_path, "--only", "gap")
    table = pd.read_csv(tmp_path / "report/data/runs.csv").set_index("run_id")
    assert len(table) == 5
    assert table.loc[folders[0].name, "test_acc"] == 0.6
    assert files == made(tmp_path, "--only", "gap", out=tmp_path / "elsewhere")


@pytest.mark.parametrize("spoil", [
    lambda data: b"", lambda data: data[:-1], lambda data: data + b"x", lambda data: b"x" * len(data),
    lambda data: data.replace(b"0.8", b"0.9", 1),
])  # fmt: skip
def test_a_damaged_cache_is_ignored_and_written_anew(tmp_path, parsed, spoil):
    runs(tmp_path)
    first = made(tmp_path, "--only", "gap")
    path = tmp_path / "report" / cache.NAME
    whole = path.read_bytes()
    path.write_bytes(spoil(whole))
    assert path.read_bytes() != whole
    parsed.clear()
    assert made(tmp_path, "--only", "gap") == first
    assert len(parsed) == 6
    assert path.read_bytes() == whole


def test_a_cache_of_another_version_is_ignored(tmp_path, parsed, monkeypatch):
    runs(tmp_path)
    made(tmp_path, "--only", "gap")
    parsed.clear()
    monkeypatch.setattr(cache, "__version__", "99")
    made(tmp_path, "--only", "gap")
    assert len(parsed) == 6


def test_few_runs_leave_no_cache_behind(tmp_path, monkeypatch):
    runs(tmp_path)
    made(tmp_path, "--only", "gap")
    monkeypatch.setattr(cache, "FEWEST", 7)
    made(tmp_path, "--only", "gap")
    assert not (tmp_path / "report" / cache.NAME).exists()


# -------------------------------------------------------------------------------------------------------------- tables


def test_a_table_is_written_as_pandas_would_but_for_booleans():
    odd = ["plain", "", 'a "b", c', "two\nlines", " space", "\u4e2d"]
    table = pd.DataFrame({
        "word": odd, "x": [0.1, -0.0, math.inf, math.nan, 1e-300, 1e22], "n": [0, -1, 2**53 + 1, 3, 3, 3],
        "y": [0.0, -math.inf, 1 / 3, 5e-324, 100000.0, 123456789012345680.0],
        "any": pd.Series([None, 1, math.nan, 2.5, "x", np.float64(1e-7)], dtype=object),
        "count": pd.array([1, None, 3, 4, 5, 6], dtype="Int64"), "nothing": [None] * 6,
    })  # fmt: skip
    for some in (table, table[:0], table[["x"]], table[["word"]]):
        assert tables.as_csv(some) == some.to_csv(index=False, lineterminator="\n").encode()
    for answers in ([True, False, None], [np.True_, 1, "x"], pd.array([True, None, False], dtype="boolean")):
        written = tables.as_csv(pd.DataFrame({"n": [0, 0, 0], "yes": answers}))
        assert b"0,true\n" in written
        assert not {b"True", b"False"} & set(written.replace(b",", b"\n").split(b"\n"))


def test_metrics_csv_is_the_table_of_metrics(tmp_path):
    """Its lines are those of the runs' files, so that nothing is written anew."""
    runs(tmp_path, optimizer__lr=1.0)
    write_run(tmp_path, norm='a "b", c', seed=9, accuracies=(0.1, 1 / 3, 1e-7), state="diverged")
    write_run(tmp_path, norm="gn", state="failed")
    found = collect.collected([tmp_path])
    assert len(found.metrics) == 7 * 3
    assert found.text == tables.as_csv(found.metrics)
    assert made(tmp_path, "--only", "gap")["data/metrics.csv"] == found.text


# ------------------------------------------------------------------------------------------------------------- figures


def test_figures_of_several_processes_are_the_same_in_the_same_order(tmp_path, monkeypatch):
    runs(tmp_path)
    alone = made(tmp_path)
    monkeypatch.setattr(drawing, "MANY", 1)
    monkeypatch.setattr(drawing.os, "sched_getaffinity", lambda _: {0, 1})
    assert made(tmp_path, out=tmp_path / "elsewhere") == alone


def test_of_many_seeds_no_figure_draws_more_than_so_many_lines(tmp_path, monkeypatch):
    seeds = MOST_SEED_LINES // 2 + 10
    root = tmp_path / "runs"
    for folder in runs(root, seeds):
        path = folder / "metrics.csv"
        rows = [row | {"train_eval_acc": 0.5} for row in records.read_metrics(path)]
        record = records.read_run(folder)
        path.write_bytes(records.metrics_csv(rows))
        record["files"]["metrics.csv"] = records.sha256(path.read_bytes())
        (folder / "run.json").write_bytes(records.run_json(record))
    files = made(root, "--only", "gap,gradients,paired")
    told = {item["name"]: item["caption"] for item in json.loads(files["report.json"])["figures"]}
    assert f"Thin lines: the first 100 of {seeds} seeds; thick lines: the mean of all." in told["gap"]
    assert f"thin for the first 100 of {seeds} seeds, thick for the mean of all" in told["gradients"]
    assert "Dots: their maximum, of the same seeds." in told["gradients"]
    assert f"n = {seeds} pairs" in told["paired"]
    assert "the first" not in told["paired"]  # one panel of 110 pairs
    assert len(pd.read_csv(root / "report/figures/gap.csv")["run_id"].unique()) == 2 * seeds


def test_of_many_runs_no_figure_draws_more_than_so_many_dots(tmp_path, monkeypatch):
    monkeypatch.setattr(captions, "MOST_DOTS", 12)
    for norm in ("none", "bn"):
        for seed in range(4):
            for lr in (0.1, 0.2, 0.3):
                lost = {"state": "diverged"} if lr == 0.3 and seed == 3 else {}
                write_run(tmp_path, norm=norm, seed=seed, optimizer__lr=lr, batch_size=32, **lost)
                write_run(tmp_path, norm=norm, seed=seed, optimizer__lr=lr, batch_size=64, **lost)
    wanted = ("lr_sensitivity", "cost", "time_to_target", "batch_size")
    made = read(tmp_path, target=0.65, x="examples")
    drawn = {key: importlib.import_module(f"normbench.report.figures.{key}").draw(made)[0] for key in wanted}
    rates, cost, times, sizes = (drawn[key].figure.axes[0] for key in wanted)
    assert len(dots(rates, "_runs none")) == 3  # of one seed, at each of three rates
    assert (
        "Dots: the first seed of a line (n = 4 a rate, seeds 0-3); lines: the mean of all." in drawn[wanted[0]].caption
    )
    assert (
        "Crosses: those that diverged, at the initial loss; all 4 diverged runs are in the mean."
        in drawn[wanted[0]].caption
    )
    assert {len(line.get_xdata()) for line in cost.get_lines() if line.get_label()[:6] == "_child"} == {1}
    assert "dots: the first complete run of a row (of 11, of every seed" in drawn["cost"].caption
    assert len(dots(times, "_seeds")) == 4 * 3
    assert (
        "Dots: the first 3 seeds of a row (n = 4 a row, seeds 0-3); bars: the median of all."
        in drawn[wanted[2]].caption
    )
    assert len(dots(sizes, "_runs none")) == 2 * 3
    assert (
        "Small dots: the first 3 seeds of a point (n = 4 a point, seeds 0-3); lines: the mean of all"
        in drawn[wanted[3]].caption
    )


def test_counts_above_a_panel_are_as_short_as_they_must_be():
    axis = Figure(figsize=(3, 2)).add_axes((0.1, 0.1, 0.8, 0.8))
    axis.set(xlim=(0, 100))
    far, near, nearest = (
        [("bn", "#000000", {float(x): (20, 60) for x in places}), ("none", "#000000", {1.0: (5, 60)})]
        for places in ((1, 50), (1, 10), (1, 2))
    )  # fmt: skip
    assert _arms._strip_texts(axis, far) == ([{1.0: "20/60", 50.0: "20/60"}, {1.0: "5/60"}], "diverged runs")
    assert _arms._strip_texts(axis, near) == ([{1.0: "20", 10.0: "20"}, {1.0: "5"}], "diverged runs of 60")
    assert _arms._strip_texts(axis, nearest) == ([{2.0: "40/120"}, {2.0: "5/60"}], "diverged runs, where any did")


def test_a_page_with_too_many_figures_leaves_out_the_last_and_says_where_they_are(tmp_path, monkeypatch):
    for size in range(32, 32 + 9):
        write_run(tmp_path, batch_size=size)
    monkeypatch.setattr(web, "MOST_BYTES", 100_000)
    text = made(tmp_path, "--only", "curves", "--format", "html,png")["report.html"].decode()
    assert text.count("<svg") + text.count("<img") >= 1
    assert "see figures/curves_3.png." in text
    assert "see figures/curves.png." not in text


def test_letters_that_the_font_lacks_are_no_error(tmp_path):
    root = tmp_path / "runs"
    for seed in range(3):
        for norm in ("none", "\u5f52\u4e00\u5316"):
            write_run(root, seed=seed, norm=norm)
    assert "\u5f52\u4e00\u5316" in made(root)["report.html"].decode()


def test_the_fonts_of_a_pdf_are_whole_but_for_the_layout_of_text():
    figure = Figure()
    figure.text(0.1, 0.5, "Steps", weight="bold")
    streams = re.findall(rb"stream\r?\n(.*?)endstream", style.rendered(figure, "one", "One.")["pdf"], re.S)
    data = [zlib.decompress(stream) for stream in streams if stream[:1] == b"x"]
    (font,) = (TTFont(io.BytesIO(one)) for one in data if one[:4] == b"\0\1\0\0")
    assert {"glyf", "hmtx", "loca"} <= set(font.keys())
    assert not {"GSUB", "GPOS", "GDEF"} & set(font.keys())
    assert "GSUB" not in Options._drop_tables_default


# --------------------------------------------------------------------------------------------------- the cost script


def test_the_runs_that_the_cost_is_measured_on_are_whole_and_come_out_equal(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent / "scripts")
    report_cost = importlib.import_module("report_cost")
    app.register_plugins()
    for name in ("one", "two"):
        report_cost.write_runs(tmp_path / name, 17, "seeds")
        report_cost.write_runs(tmp_path / name / "new", 17, "seeds", new=True)
    (one, rows), (two, _) = (collect.collect([tmp_path / name]) for name in ("one", "two"))
    assert one.equals(two)
    assert len(one) == 18
    assert set(one["state"]) <= {"complete", "diverged"}
    assert one["used"].all()
    assert rows.groupby("run_id").size().between(3, 101).all()
