"""Figures of times to a target: what is drawn, from runs whose answers are known by hand."""

import re
import shutil
from dataclasses import replace

import matplotlib.colors
import matplotlib.figure
import numpy as np
import pytest
from drawn import assert_inside, dots, marks, read, texts
from fakes import write_run

from normbench.report import panels
from normbench.report.arms import Options
from normbench.report.collect import collect
from normbench.report.contrasts import study
from normbench.report.figures import NotDrawn, speedup_vs_target, time_to_target
from normbench.report.style import NORMS, WIDTH

STEPS = tuple(range(0, 1001, 100))


def reaching(at, top=0.9):
    """Accuracies on STEPS: .1 until `at`, then `top`."""
    return tuple(top if step >= at else 0.1 for step in STEPS)


def run(root, at, top=0.9, accuracies=None, optimizer="sgd", **settings):
    accuracies = accuracies or reaching(at, top)
    losses = tuple(2.3 * (1 - a) for a in accuracies)
    write_run(root, steps=STEPS, accuracies=accuracies, losses=losses, top={"total_steps": 1000}, optimizer=optimizer,
              optimizer__lr=0.1, **settings)  # fmt: skip


def pair(root, none=(400, 500, 600), bn=(200, 250, 300)):
    for seed, (a, b) in enumerate(zip(none, bn, strict=True)):
        run(root, a, norm="none", seed=seed)
        run(root, b, norm="bn", seed=seed)


# --------------------------------------------------------------------------------------------------- time_to_target


def test_times_worked_by_hand(tmp_path):
    pair(tmp_path, bn=(200, 200, 300))
    (made,) = time_to_target.draw(read(tmp_path, target=0.85))
    (axis,) = made.figure.axes
    assert [x for x, _ in dots(axis, "_seeds")] == [400, 500, 600, 200, 200, 300]
    assert [x[0] for x, _ in marks(axis, "_median")] == [500, 200]
    assert marks(axis, "_missed") == []
    assert texts(made.figure) == ["median", "reached", "none", "500", "3/3", "bn", "200", "3/3"]
    assert axis.get_xlabel() == "Optimizer steps to validation accuracy 0.85 (log scale)"
    assert made.data["step"].tolist() == [400, 500, 600, 200, 200, 300]
    assert made.data["seed"].tolist() == [0, 1, 2, 0, 1, 2]
    assert "n = 3 a row, seeds 0-2" in made.caption
    assert "2 consecutive evaluations" in made.caption
    assert "after the runs" not in made.caption
    assert "on fashion_mini" in made.caption
    assert_inside(made.figure)


def test_the_seeds_of_a_row_are_where_its_name_is(tmp_path):
    pair(tmp_path)
    (made,) = time_to_target.draw(read(tmp_path, target=0.85))
    (axis,) = made.figure.axes
    at = {t.get_text(): t.xy[1] for t in axis.texts}
    seeds = [
        (line.get_color(), y) for line in axis.get_lines() if "_seeds" in line.get_label() for y in line.get_ydata()
    ]
    assert len(seeds) == 6
    for color, y in seeds:
        norm = "none" if color == NORMS["none"][0] else "bn"
        assert abs(y - at[norm]) < 0.1
        assert color == NORMS[norm][0]


def test_runs_that_never_reached_it_are_open_triangles_at_the_budget(tmp_path):
    for seed, at in enumerate((400, 500, 5000, 5000, 5000)):
        run(tmp_path, at, norm="none", seed=seed)
        run(tmp_path, 200, norm="bn", seed=seed)
    (made,) = time_to_target.draw(read(tmp_path, target=0.85))
    (axis,) = made.figure.axes
    missed = [line for line in axis.get_lines() if str(line.get_label()).startswith("_missed")]
    assert [x for x, _ in dots(axis, "_missed")] == [1000] * 3
    assert {(line.get_marker(), line.get_markerfacecolor()) for line in missed} == {(">", "white")}
    assert [x[0] for x, _ in marks(axis, "_median")] == [200]  # of none: later than any time
    assert texts(made.figure)[2:8] == ["none", "–", "2/5", "bn", "200", "5/5"]
    assert marks(axis, "_budget")[0][0] == (1000, 1000)
    assert "3 runs that never reached it, at the budget of 1,000 steps" in made.caption
    assert made.data["reached"].tolist() == [True] * 2 + [False] * 3 + [True] * 5
    assert made.data["step"].isna().sum() == 3


def test_diverged_runs_are_counted_beside_the_row(tmp_path):
    for seed in range(3):
        run(tmp_path, 400, norm="bn", seed=seed)
        lost = {"steps": (0, 100), "accuracies": (0.1, 0.1), "losses": (2.3, 9.0)}
        write_run(
            tmp_path, **lost, state="diverged", norm="none", seed=seed, optimizer="sgd", optimizer__lr=0.1,
            top={"total_steps": 1000},
        )  # fmt: skip
    (made,) = time_to_target.draw(read(tmp_path, target=0.85))
    assert texts(made.figure)[3:7] == ["none", "–", "0/3", "3/3"]
    assert [x for x, _ in dots(made.figure.axes[0], "_missed")] == [1000] * 3
    assert_inside(made.figure)


def test_a_target_found_after_the_runs_is_told(tmp_path):
    pair(tmp_path)
    (made,) = time_to_target.draw(read(tmp_path))
    assert "validation accuracy 0.9:" in made.caption
    assert "chosen after the runs" in made.caption


def test_blocks_with_targets_of_their_own_say_so(tmp_path):
    for seed in range(3):
        for optimizer, top in (("sgd", 0.9), ("adam", 0.72)):
            for norm in ("none", "bn"):
                run(tmp_path, 300, top, norm=norm, optimizer=optimizer, seed=seed)
    (made,) = time_to_target.draw(read(tmp_path))
    heads = [text for text in texts(made.figure) if "target" in text]
    assert heads == ["optimizer=adam, target 0.7", "optimizer=sgd, target 0.9"]
    assert "compare within a block" in made.caption
    assert made.figure.axes[0].get_xlabel() == "Optimizer steps to the target (log scale)"


def test_times_in_examples_and_seconds(tmp_path):
    pair(tmp_path)
    for x, factor in (("examples", 64), ("train_s", 0.01)):
        (made,) = time_to_target.draw(read(tmp_path, target=0.85, x=x))
        assert [x for x, _ in dots(made.figure.axes[0], "_seeds")][:3] == pytest.approx(
            [400 * factor, 500 * factor, 600 * factor]
        )


def test_without_a_target_there_is_no_figure_of_times(tmp_path):
    run(tmp_path, 400, norm="bn")
    with pytest.raises(NotDrawn, match=re.escape("needs a target (--target 0.85)")):
        time_to_target.draw(read(tmp_path))
    (made,) = time_to_target.draw(read(tmp_path, target=0.85))  # declared: one arm is enough, and one seed
    assert texts(made.figure) == ["median", "reached", "bn", "400", "1/1"]


def test_steps_of_several_batch_sizes_are_refused(tmp_path):
    for seed in range(3):
        for size in (32, 64):
            run(tmp_path, 400, norm="bn", seed=seed, batch_size=size)
    runs, metrics = collect([tmp_path])
    sizes = metrics["run_id"].map(runs.set_index("run_id")["batch_size"].astype(int))
    metrics = metrics.assign(examples=metrics["step"] * sizes)
    with pytest.raises(NotDrawn, match=re.escape("(--x examples), found 32, 64")):
        time_to_target.draw(study(runs, metrics, Options(target=0.85)))
    (made,) = time_to_target.draw(study(runs, metrics, Options(target=0.85, x="examples")))
    assert [x for x, _ in dots(made.figure.axes[0], "_seeds")] == [400 * 32] * 3 + [400 * 64] * 3


def test_twelve_arms_with_long_names_fit(tmp_path):
    for norm in ("none", *(f"a_very_long_name_of_a_normalization_layer_number_{i}_of_twelve" for i in range(11))):
        for seed in range(2):
            run(tmp_path, 300 + 100 * seed, norm=norm, seed=seed)
    (made,) = time_to_target.draw(read(tmp_path, target=0.85))
    assert len(dots(made.figure.axes[0], "_seeds")) == 24
    assert made.figure.get_size_inches()[0] == WIDTH
    assert_inside(made.figure)


def test_many_blocks_are_several_pages(tmp_path):
    for i in range(24):
        for norm in ("none", "bn"):
            run(tmp_path, 300, norm=norm, optimizer=f"o{i:02}")
    pages = time_to_target.draw(read(tmp_path, target=0.85))
    assert [page.name for page in pages] == ["time_to_target", "time_to_target_2", "time_to_target_3"]
    assert sum(len(page.data) for page in pages) == 48
    assert max(page.figure.get_size_inches()[1] for page in pages) < 9


def test_more_rows_than_ten_pages_hold_are_refused(tmp_path):
    run(tmp_path, 300, norm="none")
    made = read(tmp_path, target=0.85)
    crowd = replace(made, arms=made.arms * 330, contrasts=())
    with pytest.raises(NotDrawn, match="needs at most 10 pages of rows, found 11; give folders with fewer"):
        time_to_target.draw(crowd)


# ------------------------------------------------------------------------------------------------ speedup_vs_target


def rising(at):
    """Accuracies on STEPS that pass .1 k after k times `at` / 5 steps, up to .9."""
    return tuple(min(0.1 + 0.5 * step / at, 0.9) for step in STEPS)


def test_the_ratio_is_drawn_at_every_target(tmp_path):
    pair(tmp_path, none=(400, 400, 400), bn=(200, 200, 200))
    (made,) = speedup_vs_target.draw(read(tmp_path, target=0.85))
    (axis,) = made.figure.axes
    ((x, y),) = marks(axis, "ratio")
    assert y == pytest.approx([2.0] * len(y))
    assert (min(x), max(x)) == pytest.approx((0.12, 0.9))
    assert axis.get_yscale() == "log"
    assert axis.get_ylim()[0] < 1 < axis.get_ylim()[1]
    assert marks(axis, "_target") == [((0.85, 0.85), (0, 1))]
    assert set(made.data["ratio"].round(9)) == {2.0}
    assert made.data[["baseline", "variant"]].drop_duplicates().to_numpy().tolist() == [["none", "bn"]]
    assert "95% paired t interval" in made.caption
    assert "n = 3 paired seeds" in made.caption
    assert_inside(made.figure)


def test_a_baseline_that_misses_the_target_gives_a_bound(tmp_path):
    for seed in range(3):
        run(tmp_path, 400, top=0.5, norm="none", seed=seed)
        run(tmp_path, 100, norm="bn", seed=seed)
    (made,) = speedup_vs_target.draw(read(tmp_path, target=0.85))
    (axis,) = made.figure.axes
    ((x, y),) = marks(axis, "ratio")
    assert max(x) == pytest.approx(0.5)
    assert y[0] == pytest.approx(4.0)
    ((x, y),) = marks(axis, "_low")
    assert min(x) > 0.5
    assert y == pytest.approx([10.0] * len(y))  # the budget, 1000, over 100
    (line,) = [line for line in axis.get_lines() if line.get_label() == "_low"]
    assert line.get_marker() == "^"
    (grey,) = [patch for patch in axis.patches if patch.get_label() == "_low"]
    assert matplotlib.colors.to_hex(grey.get_facecolor()).upper() == speedup_vs_target.GREY
    assert "the ratio is a bound" in made.caption
    assert set(made.data["bound"]) == {"", "low"}


def test_where_the_faster_arm_misses_too_there_is_no_ratio(tmp_path):
    for seed in range(3):
        run(tmp_path, 400, top=0.5, norm="none", seed=seed)
        run(tmp_path, 100, top=0.9 if seed else 0.6, norm="bn", seed=seed)
    (made,) = speedup_vs_target.draw(read(tmp_path, target=0.4))
    axis = made.figure.axes[0]
    assert [patch.get_label() for patch in axis.patches] == ["_low", "_none"]
    assert "no ratio" in made.caption
    none = made.data[made.data["ratio"].isna()]
    assert none["target"].min() > 0.6
    assert all("no ratio can be given" in why for why in none["refused"])


def test_budgets_that_differ_give_no_ratio_and_say_why(tmp_path):
    pair(tmp_path)
    runs, metrics = collect([tmp_path])
    runs.loc[runs["norm"] == "bn", "total_steps"] = 2000
    (made,) = speedup_vs_target.draw(study(runs, metrics, Options(target=0.85)))
    assert marks(made.figure.axes[0], "ratio") == []
    assert texts(made.figure)[1] == "no ratio at any target"
    assert "Grey without a line: the budgets differ (1,000 to 2,000 steps)." in made.caption


def test_targets_that_all_reach_at_once_are_left_out(tmp_path):
    for seed in range(3):
        run(tmp_path, 0, accuracies=rising(500), norm="none", seed=seed)
        run(tmp_path, 0, accuracies=rising(250), norm="bn", seed=seed)
    (made,) = speedup_vs_target.draw(read(tmp_path, target=0.5))
    assert made.data["target"].min() > 0.2  # none has .2 after 100 steps, bn .3
    at_half = made.data[made.data["target"].between(0.499, 0.501)]["ratio"].tolist()
    assert at_half == [pytest.approx(2.0)]


@pytest.mark.parametrize(("norms", "seeds", "said"), [
    (("bn",), 3, "needs a baseline and a variant, found one setting"),
    (("none", "bn"), 2, "needs >=3 seeds that baseline and variant share, found 2"),
])  # fmt: skip
def test_when_there_is_no_figure_of_ratios(tmp_path, norms, seeds, said):
    for norm in norms:
        for seed in range(seeds):
            run(tmp_path, 400, norm=norm, seed=seed)
    with pytest.raises(NotDrawn, match=re.escape(said)):
        speedup_vs_target.draw(read(tmp_path))


def test_no_target_that_takes_longer_than_one_evaluation(tmp_path):
    for norm in ("none", "bn"):
        for seed in range(3):
            run(tmp_path, 5000, norm=norm, seed=seed)
    with pytest.raises(NotDrawn, match="that some run reaches after its first evaluation, found none"):
        speedup_vs_target.draw(read(tmp_path))


def test_a_panel_each_contrast_all_on_one_scale(tmp_path):
    for i, norm in enumerate(("none", "bn", "ln", "gn", "rms")):
        for seed in range(3):
            run(tmp_path, 600 - 100 * i, norm=norm, seed=seed)
    (made,) = speedup_vs_target.draw(read(tmp_path, target=0.85))
    assert len(made.figure.axes) == 4
    assert len({axis.get_ylim() for axis in made.figure.axes}) == 1
    assert texts(made.figure) == [f"{norm} against none" for norm in ("bn", "gn", "ln", "rms")]
    assert_inside(made.figure)


@pytest.mark.parametrize("figure", [time_to_target, speedup_vs_target])
def test_order_does_not_matter(tmp_path, figure):
    pair(tmp_path / "a")
    folders = sorted((tmp_path / "a").iterdir())
    for i, folder in enumerate(reversed(folders)):
        shutil.copytree(folder, tmp_path / "b" / str(i) / folder.name)
    (one,), (other,) = figure.draw(read(tmp_path / "a")), figure.draw(read(tmp_path / "b"))
    runs, metrics = collect([tmp_path / "a"])
    (third,) = figure.draw(study(runs[::-1], metrics[::-1], Options()))
    for again in (other, third):
        assert again.caption == one.caption
        assert again.data.equals(one.data)
        for label in ("_seeds", "_median", "ratio"):
            assert marks(again.figure.axes[0], label) == marks(one.figure.axes[0], label)


@pytest.mark.parametrize(("low", "high"), [(790, 2600), (1, 1000), (0.3, 30), (400, 700), (5e-5, 2)])
def test_labels_of_a_log_axis_stand_apart(low, high):
    """800, 850, 900, 950 and 1,000 on an axis to 2,600 would be written over each other."""
    axis = matplotlib.figure.Figure().add_axes((0.1, 0.1, 0.8, 0.8))
    axis.set(xscale="log", xlim=(low, high))
    panels.plain_log_ticks(axis, "x")
    ticks = np.log(axis.get_xticks()) / np.log(high / low)
    assert len(ticks) >= 3
    assert min(np.diff(ticks)) >= panels.NEAREST
