"""What a report makes of layers.csv, from made-up runs whose numbers are known by hand."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from drawn import assert_inside, read, texts
from fakes import write_run

from normbench import records
from normbench.report import layers, main, tables
from normbench.report.collect import collect
from normbench.report.figures import KEYS, NotDrawn, activations, landscape

ROOT = Path(__file__).resolve().parent.parent
STEPS = (0, 100, 200)
LANDSCAPE = ("loss", "loss_min", "loss_max", "grad_norm", "gdiff_min", "gdiff_max", "beta_max")


def probed(root, rows, probe="activations", **settings):
    """A run with this layers.csv, which run.json vouches for."""
    settings["probe"] = {"name": probe, "_target_": f"normbench.probe.{probe}.X", **settings.pop("keys", {"unit": 0})}
    data = records.layers_csv(rows)
    folder = write_run(root, **settings)
    record = records.read_run(folder)
    record["files"]["layers.csv"] = records.sha256(data)
    records.write(folder / "layers.csv", data)
    records.write(folder / "run.json", records.run_json(record))
    return folder


def inputs(shift, steps=STEPS):
    """Of two layers; in the last one the unit's percentiles are shift - 1, shift and shift + 1 at every step."""
    return [
        (step, f"blocks.{index}.activation", index, "pre_act", f"unit_p{p}", (shift + move) * index)
        for step in steps
        for index in (0, 1)
        for p, move in ((15, -1.0), (50, 0.0), (85, 1.0))
    ]


def along(low, high, steps=STEPS):
    values = dict.fromkeys(LANDSCAPE, 1.0) | {"loss_min": low, "loss_max": high, "gdiff_min": 0.1, "gdiff_max": 0.4}
    return [(step, "all", 0, "landscape", stat, value) for step in steps for stat, value in values.items()]


def seen(root):
    runs, _ = collect([root])
    return replace(read(root), layers=layers.read([root], runs) if layers.has_probes(runs) else pd.DataFrame())


def lines(axis, label):
    return [tuple(line.get_ydata()) for line in axis.get_lines() if line.get_label() == label]


def probed_pair(root, **more):
    for seed in (0, 1):
        probed(root, inputs(2.0 + seed), norm="none", seed=seed, **more)
        probed(root, inputs(0.0 + seed), norm="bn", seed=seed, **more)


# --------------------------------------------------------------------------------------------------------- activations


def test_percentiles_of_the_last_layer_of_the_first_seed_on_one_axis(tmp_path):
    probed_pair(tmp_path)
    (made,) = activations.draw(seen(tmp_path))
    none, bn = made.figure.axes
    assert lines(none, "unit_p50") == [(2, 2, 2)]
    assert lines(none, "unit_p15") == [(1, 1, 1)]
    assert lines(bn, "unit_p85") == [(1, 1, 1)]
    assert none.get_ylim() == bn.get_ylim()
    assert none.get_ylim()[0] < -1 < 3 < none.get_ylim()[1]
    assert {"none", "bn"} <= set(texts(made.figure))
    for said in ("blocks.1.activation, unit 0", "seed 0", "15th, 50th and 85th", "on fashion_mini"):
        assert said in made.caption
    assert set(made.data["layer"]) == {"blocks.1.activation"}
    assert (made.data["run_id"].nunique(), len(made.data)) == (2, 2 * 3 * 3)
    assert_inside(made.figure)


def test_a_diverged_run_is_drawn_as_far_as_it_goes_and_sets_no_limits(tmp_path):
    probed(tmp_path, inputs(0.0), norm="bn")
    probed(tmp_path, inputs(1e9, STEPS[:2]), norm="none", state="diverged")
    (made,) = activations.draw(seen(tmp_path))
    assert 3 < made.figure.axes[0].get_ylim()[1] < 4  # thrice the range of the other, -1 to 1, upwards
    assert "Diverged runs end in a cross; lines of 1 run leave the axis." in made.caption
    assert [line.get_marker() for line in made.figure.axes[0].get_lines()][-1] == "x"


@pytest.mark.parametrize("count", [1, 4, 5, 12])
def test_any_number_of_arms_fits(tmp_path, count):
    for number in range(count):
        probed(tmp_path, inputs(float(number)), norm="bn", norm__eps=10.0**-number, batch_size=64)
    made = activations.draw(seen(tmp_path))
    assert [len(item.figure.axes) for item in made] == ([6, 6] if count == 12 else [count])
    for item in made:
        assert_inside(item.figure)


def test_values_that_are_none_leave_their_step_out(tmp_path):
    rows = [(*row[:5], float("nan") if row[0] == 100 else row[5]) for row in inputs(0.0)]
    probed(tmp_path, rows, norm="bn")
    (made,) = activations.draw(seen(tmp_path))
    assert lines(made.figure.axes[0], "unit_p50") == [(0, 0)]


# ----------------------------------------------------------------------------------------------------------- landscape


SIZES = {"step_sizes": [0.1, 0.4], "images": 256}


def test_bands_of_the_first_seed_and_no_mean(tmp_path):
    for seed in (0, 1):
        probed(tmp_path, along(1.0 + seed, 2.0 + seed), "landscape", norm="none", seed=seed, keys=SIZES)
        probed(tmp_path, along(0.5, 0.75), "landscape", norm="bn", seed=seed, keys=SIZES)
    (made,) = landscape.draw(seen(tmp_path))
    loss, change, beta = made.figure.axes
    assert [axis.get_ylabel() for axis in made.figure.axes] == [
        "Loss range", "Gradient predictiveness", "Effective β-smoothness"
    ]  # fmt: skip
    assert lines(loss, "_edge") == [(1, 1, 1), (2, 2, 2), (0.5, 0.5, 0.5), (0.75, 0.75, 0.75)]
    assert len(loss.collections) == len(change.collections) == 2
    assert lines(beta, "beta_max") == [(1, 1, 1), (1, 1, 1)]
    for said in ("s = 0.1, 0.4", "seed 0; no mean is taken", "||g_s - g|| / ||s g||"):
        assert said in made.caption
    assert made.data["run_id"].nunique() == 2
    assert_inside(made.figure)


def test_what_else_varies_has_rows_of_its_own(tmp_path):
    for batch_size in (32, 64, 128, 256, 512):
        for norm in ("none", "bn"):
            probed(tmp_path, along(1.0, 2.0), "landscape", norm=norm, batch_size=batch_size, keys=SIZES)
    first, second = landscape.draw(seen(tmp_path))
    assert (first.name, second.name) == ("landscape", "landscape_2")
    assert len(first.figure.axes) + len(second.figure.axes) == 15
    assert "batch_size=32" in texts(first.figure)
    assert_inside(first.figure)
    assert_inside(second.figure)


@pytest.mark.parametrize("beyond", [float("inf"), float("nan")])
def test_a_loss_beyond_all_numbers_fills_the_axis_to_its_top(tmp_path, beyond):
    """Left out, the worst case of all would be what is not seen."""
    probed(tmp_path, along(1.0, beyond), "landscape", norm="none", keys=SIZES)
    probed(tmp_path, along(0.5, 2.0), "landscape", norm="bn", keys=SIZES)
    (made,) = landscape.draw(seen(tmp_path))
    axis = made.figure.axes[0]
    assert 2 < axis.get_ylim()[1] < 3
    assert min(lines(axis, "_edge")[1]) > axis.get_ylim()[1]
    assert "Bands that reach the top of an axis go on above it" in made.caption


# --------------------------------------------------------------------------------------------------------- the tables


@pytest.mark.parametrize("key", ["activations", "landscape"])
def test_not_drawn_without_such_a_probe(tmp_path, key):
    assert key in KEYS
    draw = {"activations": activations, "landscape": landscape}[key].draw
    write_run(tmp_path / "a")
    with pytest.raises(NotDrawn, match=f"needs .* found none; train them with probe={key}"):
        draw(seen(tmp_path / "a"))
    probed(tmp_path / "b", [(100, "head", 0, "grad", "norm_mean", 1.0)], "gradients", keys={"every": 10})
    with pytest.raises(NotDrawn, match=f"found none; train them with probe={key}"):
        draw(seen(tmp_path / "b"))


def test_the_table_has_the_columns_of_the_schema(tmp_path):
    probed_pair(tmp_path)
    text = (ROOT / "docs/schema.md").read_text().partition("## data/layers.csv")[2].partition("\n## ")[0]
    promised = re.findall(r"^\| `(\w+)` \| (\w+) ", text, flags=re.M)
    assert main([str(tmp_path), "--format", "csv"]) == 0
    table = pd.read_csv(tmp_path / "report/data/layers.csv", keep_default_na=False)
    assert list(table) == [name for name, _ in promised] == [*layers.COLUMNS]
    assert len(table) == 4 * len(inputs(0.0))
    kinds = {"text": "O", "whole": "i", "number": "f"}
    for name, kind in promised:
        assert table[name].dtype.kind in (kinds[kind], "T") or (kind == "text" and table[name].dtype == "str"), name


def test_without_probes_there_is_no_table_and_nothing_is_read(tmp_path, monkeypatch):
    write_run(tmp_path)
    monkeypatch.setattr(records, "read_layers", lambda path: pytest.fail("read"))
    assert main([str(tmp_path), "--format", "csv"]) == 0
    assert not (tmp_path / "report/data/layers.csv").exists()


def test_a_table_of_an_earlier_report_is_taken_away(tmp_path):
    folder = probed(tmp_path / "runs", inputs(0.0))
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--format", "csv"]) == 0
    assert (tmp_path / "out/data/layers.csv").exists()
    folder.rename(tmp_path / "elsewhere")
    write_run(tmp_path / "runs")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--format", "csv"]) == 0
    assert not (tmp_path / "out/data/layers.csv").exists()


def test_runs_in_several_folders_and_a_run_folder_itself_are_found(tmp_path):
    one = probed(tmp_path / "a", inputs(0.0), norm="bn")
    probed(tmp_path / "b", inputs(1.0), norm="none")
    roots = [one, tmp_path / "b"]
    table = layers.read(roots, collect(roots)[0])
    assert table.groupby("norm")["value"].max().to_dict() == {"bn": 1.0, "none": 2.0}
    assert tables.as_csv(table) == tables.as_csv(layers.read(roots[::-1], collect(roots[::-1])[0]))


def test_a_damaged_layers_csv_is_a_damaged_run(tmp_path):
    folder = probed(tmp_path, inputs(0.0))
    (folder / "layers.csv").write_bytes((folder / "layers.csv").read_bytes()[:-3])
    (run,) = collect([tmp_path])[0].to_dict("records")
    assert (run["state"], run["used"]) == ("damaged", False)
    assert "layers.csv is damaged" in run["reason"]


def test_a_layers_csv_of_another_kind_is_named(tmp_path, capsys):
    folder = probed(tmp_path, inputs(0.0))
    record, text = records.read_run(folder), b"step,what\n0,1\n"
    record["files"]["layers.csv"] = records.sha256(text)
    records.write(folder / "layers.csv", text)
    records.write(folder / "run.json", records.run_json(record))
    assert main([str(tmp_path)]) == 2
    assert "layers.csv is damaged: line 1 must be" in capsys.readouterr().err
