"""`depth`: the size of activations and gradients by layer, from made-up runs whose numbers are known by hand."""

import numpy as np
import pytest
from drawn import assert_inside, marks, paths, read
from fakes import write_run

from normbench import records
from normbench.report import layers, main
from normbench.report.collect import collect
from normbench.report.figures import NotDrawn, depth

STEPS = (0, 10, 100)


def probed(root, size, probe="activations", kind="pre_act", stat="rms", steps=STEPS, depths=(0, 1, 2), **settings):
    """A run whose layer i has `size(step, i)`."""
    settings["probe"] = {"name": probe, "_target_": f"normbench.probe.{probe}.X"}
    rows = [(step, f"blocks.{i}", i, kind, stat, size(step, i)) for step in steps for i in depths]
    data = records.layers_csv(rows)
    folder = write_run(root, steps=(0, 10, 100), **settings)
    record = records.read_run(folder)
    record["files"]["layers.csv"] = records.sha256(data)
    records.write(folder / "layers.csv", data)
    records.write(folder / "run.json", records.run_json(record))


def seen(root):
    return read(root).but(layers=layers.read([root], collect([root])[0]))


def test_a_panel_a_moment_and_the_mean_is_geometric(tmp_path):
    for seed in range(2):
        probed(tmp_path, lambda step, i, seed=seed: 2.0 ** (i * (1 + step)) * 4**seed, norm="none", seed=seed)
        probed(tmp_path, lambda step, i: 1.0, norm="bn", seed=seed)
    (made,) = depth.draw(seen(tmp_path))
    first, _, last = made.figure.axes
    assert [axis.get_ylabel() for axis in made.figure.axes] == [
        f"RMS of an activation's input, step {step}" for step in STEPS
    ]
    assert {axis.get_yscale() for axis in made.figure.axes} == {"log"}
    assert len({axis.get_ylim() for axis in made.figure.axes}) == 1
    assert marks(first, "none, adam") == [((0, 1, 2), pytest.approx((2, 4, 8)))]  # of 1, 2, 4 and 4, 8, 16
    assert marks(last, "bn, adam") == [((0, 1, 2), pytest.approx((1, 1, 1)))]
    assert paths(first, "_runs none") == [((0, 1, 2), (1, 2, 4)), ((0, 1, 2), (4, 8, 16))]
    for said in ("goes into each activation", "thick lines: their mean, geometric", "2 seeds a setting", "On fashion"):
        assert said.lower() in made.caption.lower()
    assert "Gaps" not in made.caption
    assert len(made.data) == 2 * 2 * 3 * 3
    assert_inside(made.figure)


def test_gradients_have_it_too_and_what_is_not_finite_is_a_gap(tmp_path):
    more = {"probe": "gradients", "kind": "grad", "stat": "norm_mean", "steps": (10, 100)}
    probed(tmp_path, lambda step, i: 0.0 if i == 1 else 3.0, **more)
    (made,) = depth.draw(seen(tmp_path))
    _, last = made.figure.axes
    ((_, values),) = marks(last, "bn, adam")
    assert np.array(values) == pytest.approx(np.array([3, np.nan, 3]), nan_ok=True)
    assert "Gaps: 0, or not finite." in made.caption
    assert "before clipping" in made.caption
    assert "single run" in made.caption


def test_no_mean_where_a_run_had_ended(tmp_path):
    probed(tmp_path, lambda step, i: 1.0, seed=0)
    lost = {"accuracies": (0.1, 0.2), "losses": (2.3, 9.0), "state": "diverged"}
    settings = {"probe": {"name": "activations", "_target_": "normbench.probe.activations.X"}}
    data = records.layers_csv([(0, "blocks.0", i, "pre_act", "rms", 5.0) for i in (0, 1, 2)])
    folder = write_run(tmp_path, seed=1, steps=(0, 10), **lost, **settings)
    record = records.read_run(folder)
    record["files"]["layers.csv"] = records.sha256(data)
    records.write(folder / "layers.csv", data)
    records.write(folder / "run.json", records.run_json(record))
    (made,) = depth.draw(seen(tmp_path))
    first, _, last = made.figure.axes
    assert len(marks(first, "bn, adam")) == 1
    assert marks(last, "bn, adam") == []
    assert len(paths(last, "_runs")) == 1
    assert "it has no mean" in made.caption


def test_one_layer_tells_nothing(tmp_path):
    probed(tmp_path, lambda step, i: 1.0, depths=(0,))
    with pytest.raises(NotDrawn, match="two layers or more, found none; train them with probe=activations or"):
        depth.draw(seen(tmp_path))
    write_run(tmp_path / "plain")
    with pytest.raises(NotDrawn, match="two layers or more"):
        depth.draw(read(tmp_path / "plain"))


def test_the_page_links_the_layers_only_where_there_are_any(tmp_path):
    write_run(tmp_path / "plain")
    probed(tmp_path / "probed", lambda step, i: 1.0)
    for name in ("plain", "probed"):
        assert main([str(tmp_path / name), "--only", "gap", "--format", "html,md,csv"]) == 0
        out = tmp_path / name / "report"
        for page in ("report.html", "report.md"):
            assert (
                ("data/layers.csv" in (out / page).read_text())
                == (name == "probed")
                == (out / "data/layers.csv").exists()
            )
