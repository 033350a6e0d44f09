"""Figures of final accuracies and losses: what is drawn, from runs whose answers are known by hand."""

import re
import shutil

import pytest
from drawn import assert_inside, dots, marks, paths, read, texts
from fakes import write_run

from normbench.report.arms import Options
from normbench.report.collect import collect
from normbench.report.contrasts import study
from normbench.report.figures import NotDrawn, batch_size, lr_sensitivity, paired
from normbench.report.style import COLUMN, NORMS, WIDTH


def run(root, score, loss=0.5, lr=0.1, **settings):
    """A run that ends at this test accuracy and, .01 higher, validation accuracy; an initial loss of 2.3."""
    settings.setdefault("optimizer", "sgd")
    write_run(root, accuracies=(0.1, 0.5, round(score + 0.01, 6)), losses=(2.3, 1.0, loss), test_acc=score,
              optimizer__lr=lr, **settings)  # fmt: skip


def lost(root, lr=0.1, **settings):
    """A run that diverged, at a last loss that looks well."""
    settings.setdefault("optimizer", "sgd")
    write_run(root, accuracies=(0.1, 0.5), losses=(2.3, 0.4), steps=(0, 100), state="diverged", optimizer__lr=lr,
              **settings)  # fmt: skip


def pair(root, none=(0.80, 0.81, 0.82), bn=(0.82, 0.84, 0.83)):
    for seed, (a, b) in enumerate(zip(none, bn, strict=True)):
        run(root, a, norm="none", seed=seed)
        run(root, b, norm="bn", seed=seed)


# ------------------------------------------------------------------------------------------------------------ paired


def test_pairs_worked_by_hand(tmp_path):
    pair(tmp_path)
    (made,) = paired.draw(read(tmp_path))
    left, right = made.figure.axes
    assert [y for _, y in paths(left, "_seeds")] == [pytest.approx(p) for p in ((80, 82), (81, 84), (82, 83))]
    assert marks(right, "_mean")[0][1] == pytest.approx((2.0,))
    # differences .02 .03 .01: SD .01, t(2) = 4.3027, half width 4.3027 * .01 / sqrt(3) = .02484
    assert marks(right, "_interval")[0][1] == pytest.approx((2 - 2.484, 2 + 2.484), abs=1e-3)
    zone = right.patches[0].get_extents().transformed(right.transData.inverted())
    assert (zone.y0, zone.y1) == pytest.approx((-0.5, 0.5))
    low, high = left.get_ylim()
    assert right.get_ylim() == pytest.approx((low - 81, high - 81))  # one scale, zero at the baseline's mean
    assert "+2.0" in texts(made.figure)
    assert made.data["difference"].tolist() == pytest.approx([0.02, 0.03, 0.01])
    assert set(made.data["effect"].round(9)) == {0.02}
    for said in ("n = 3 pairs, seeds 0-2", "95% paired t interval", "bn 3 of 3", "±0.5 pp", "on fashion_mini"):
        assert said in made.caption
    assert made.figure.get_size_inches()[0] == COLUMN
    assert_inside(made.figure)


def test_only_shared_seeds_are_pairs(tmp_path):
    pair(tmp_path)
    run(tmp_path, 0.99, norm="bn", seed=7)
    (made,) = paired.draw(read(tmp_path))
    assert len(paths(made.figure.axes[0], "_seeds")) == 3
    assert "n = 3 pairs" in made.caption


def test_equal_arms_have_an_interval_of_no_width_at_zero(tmp_path):
    pair(tmp_path, (0.8,) * 3, (0.8,) * 3)
    (made,) = paired.draw(read(tmp_path))
    left, right = made.figure.axes
    assert marks(right, "_interval")[0][1] == (0, 0)
    assert left.get_ylim()[1] - left.get_ylim()[0] == pytest.approx(100 * paired.LEAST_SPAN)
    assert "bn 0 of 3" in made.caption
    assert_inside(made.figure)


def test_a_diverged_run_is_a_cross_at_guessing(tmp_path):
    pair(tmp_path)
    run(tmp_path, 0.9, norm="none", seed=3)
    lost(tmp_path, norm="bn", seed=3)
    (made,) = paired.draw(read(tmp_path))
    (cross,) = [line for line in made.figure.axes[0].get_lines() if line.get_marker() == "x"]
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (1, pytest.approx(10.0))
    assert "Crosses: diverged (1), counted as guessing" in made.caption


def test_where_all_diverged_there_is_no_verdict(tmp_path):
    for norm in ("none", "bn"):
        for seed in range(3):
            lost(tmp_path, norm=norm, seed=seed)
    (made,) = paired.draw(read(tmp_path))
    assert "no verdict" in texts(made.figure)
    assert "No verdict can be given for bn" in made.caption
    assert_inside(made.figure)


def test_many_contrasts_have_a_panel_each_and_further_pages(tmp_path):
    for i in range(14):
        for seed in range(3):
            run(tmp_path, 0.8 + 0.01 * seed + 0.002 * i, norm="none" if i == 0 else f"norm_number_{i}", seed=seed)
    pages = paired.draw(read(tmp_path))
    assert [page.name for page in pages] == ["paired", "paired_2"]
    assert [len(page.figure.axes) for page in pages] == [12, 14]  # two axes a panel, 13 panels
    for page in pages:
        assert len({round(hi - lo, 9) for lo, hi in (a.get_ylim() for a in page.figure.axes)}) == 1
        assert "All panels have one scale" in page.caption
        assert page.figure.get_size_inches()[0] == WIDTH
        assert_inside(page.figure)


def test_scales_that_differ_are_told(tmp_path):
    for seed in range(3):
        run(tmp_path, 0.8 + 0.001 * seed, norm="none", seed=seed)
        run(tmp_path, 0.801 + 0.001 * seed, norm="bn", seed=seed)
        run(tmp_path, 0.2 + 0.001 * seed, norm="ln", seed=seed)
    (made,) = paired.draw(read(tmp_path))
    assert "scales differ" in made.caption
    spans = [hi - lo for lo, hi in (axis.get_ylim() for axis in made.figure.axes[:2])]
    assert spans[0] < spans[1] / paired.ALIKE


@pytest.mark.parametrize(("norms", "seeds", "said"), [
    (("bn",), 3, "needs a baseline and a variant, found one setting"),
    (("none", "bn"), 2, "needs >=3 seeds that baseline and variant share, found 2"),
    (("none", "bn"), 1, "needs >=3 seeds that baseline and variant share, found 1"),
])  # fmt: skip
def test_when_there_is_no_figure_of_pairs(tmp_path, norms, seeds, said):
    for norm in norms:
        for seed in range(seeds):
            run(tmp_path, 0.8, norm=norm, seed=seed)
    with pytest.raises(NotDrawn, match=re.escape(said)):
        paired.draw(read(tmp_path))


# ---------------------------------------------------------------------------------------------------- lr_sensitivity


def sweep(root, norm="none", scores=(0.7, 0.8, 0.75), losses=(0.9, 0.5, 0.7), seeds=3, **settings):
    for lr, score, loss in zip((0.01, 0.1, 1.0), scores, losses, strict=True):
        for seed in range(seeds):
            run(root, score + 0.001 * seed, loss + 0.01 * seed, lr, norm=norm, seed=seed, **settings)


def test_losses_against_rates_worked_by_hand(tmp_path):
    sweep(tmp_path)
    sweep(tmp_path, "bn", scores=(0.7, 0.8, 0.85), losses=(0.8, 0.4, 5.0))
    (made,) = lr_sensitivity.draw(read(tmp_path))
    (axis,) = made.figure.axes
    ((x, y),) = marks(axis, "none")
    assert (x, y) == ((0.01, 0.1, 1.0), pytest.approx((0.91, 0.51, 0.71)))
    ((x, y),) = marks(axis, "bn")
    assert y == pytest.approx((0.81, 0.41, 2.3))  # no worse than before training
    assert marks(axis, "_chosen none") == [((0.1,), (pytest.approx(0.51),))]
    assert marks(axis, "_edge none") == []
    assert marks(axis, "_chosen bn") == marks(axis, "_edge bn") == [((1.0,), (pytest.approx(2.3),))]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert {line.get_color() for line in axis.get_lines() if "bn" in line.get_label()} == {NORMS["bn"][0]}
    assert "n = 3 a rate, seeds 0-2" in made.caption
    assert "also try optimizer.lr=" in made.caption
    assert "none 0.0 decades, bn at least 0.0 decades" in made.caption
    assert len(made.data) == 18
    assert made.data[made.data["best_lr"]]["lr"].tolist() == [0.1] * 3 + [1.0] * 3
    assert_inside(made.figure)


def test_diverged_runs_are_counted_above_and_score_as_untrained(tmp_path):
    sweep(tmp_path, seeds=2)
    for seed in (2, 3, 4):
        run(tmp_path, 0.7, 0.9, 0.01, norm="none", seed=seed)
        run(tmp_path, 0.8, 0.5, 0.1, norm="none", seed=seed)
        lost(tmp_path, 1.0, norm="none", seed=seed)
    (made,) = lr_sensitivity.draw(read(tmp_path))
    (axis,) = made.figure.axes
    assert marks(axis, "_diverged none") == [((1.0,) * 3, (2.3,) * 3)]
    assert marks(axis, "none")[0][1][-1] == pytest.approx((0.7 + 0.71 + 3 * 2.3) / 5)
    (number,) = [text for text in axis.texts if text.get_text() == "3/5"]
    assert number.xy[0] == 1.0
    assert "none" in texts(made.figure)
    assert "Crosses: 3 diverged runs, at the initial loss" in made.caption
    assert_inside(made.figure)


def test_rates_that_only_some_seeds_choose_are_open_stars(tmp_path):
    for lr, scores in ((0.01, (0.5,) * 3), (0.1, (0.90, 0.70, 0.70)), (1.0, (0.60, 0.75, 0.80))):
        for seed, score in enumerate(scores):
            run(tmp_path, score, 1 - score, lr, norm="none", seed=seed)
    # without seed 0: 1.0 is the best (.775 against .70), without 1 or 2: .1 (.80 and .80 against .70 and .675)
    (made,) = lr_sensitivity.draw(read(tmp_path))
    (axis,) = made.figure.axes
    assert [x for (x,), _ in marks(axis, "_chosen none")] == [0.1]
    assert [x for (x,), _ in marks(axis, "_some none")] == [1.0]
    assert "Open stars" in made.caption


def test_a_panel_for_each_optimizer_and_those_with_few_rates_are_named(tmp_path):
    sweep(tmp_path)
    sweep(tmp_path, "bn")
    sweep(tmp_path, optimizer="adam")
    for seed in range(3):
        run(tmp_path, 0.8, norm="none", optimizer="lion", seed=seed)
    (made,) = lr_sensitivity.draw(read(tmp_path))
    assert texts(made.figure) == ["optimizer=adam", "optimizer=sgd"]
    assert "fewer than 3 learning rates: optimizer=lion" in made.caption
    assert made.figure.get_size_inches()[0] == WIDTH


@pytest.mark.parametrize(
    ("changes", "names"),
    [(({}, {"optimizer": "adam"}), ["adam", "sgd"]), (({"epochs": 2}, {"epochs": 9}), ["epochs=2", "epochs=9"])],
)
def test_of_one_norm_all_are_lines_of_one_panel(tmp_path, changes, names):
    for change, losses in zip(changes, ((0.9, 0.5, 0.7), (0.8, 0.4, 0.6)), strict=True):
        sweep(tmp_path, losses=losses, **change)
    (made,) = lr_sensitivity.draw(read(tmp_path))
    (axis,) = made.figure.axes
    shown = {name: [line for line in axis.get_lines() if line.get_label() == name] for name in names}
    assert [len(lines) for lines in shown.values()] == [1, 1]
    assert len({lines[0].get_color() for lines in shown.values()} - {color for color, _ in NORMS.values()}) == 2
    assert [text.get_text() for text in made.figure.legends[0].get_texts()][:2] == names
    assert f"{names[0]} 0.0 decades, {names[1]} 0.0 decades" in made.caption
    assert_inside(made.figure)


def test_twelve_norms_are_several_panels_with_the_baseline_in_each(tmp_path):
    for i, norm in enumerate(NORMS):
        sweep(tmp_path, norm, losses=(0.9 + 0.01 * i, 0.5, 0.7), seeds=2)
        lost(tmp_path, 1.0, norm=norm, seed=2)
    (made,) = lr_sensitivity.draw(read(tmp_path))
    assert [len(marks(axis, "none")) for axis in made.figure.axes] == [1, 1, 1]
    assert len(made.data) == len(made.data["run_id"].unique()) == 12 * 7
    assert "repeated in each" in made.caption
    assert_inside(made.figure)


def test_all_diverged_and_a_single_seed_are_drawn(tmp_path):
    for lr in (0.01, 0.1, 1.0):
        lost(tmp_path, lr, norm="none", seed=0)
    (made,) = lr_sensitivity.draw(read(tmp_path))
    (axis,) = made.figure.axes
    assert marks(axis, "none") == [((0.01, 0.1, 1.0), (2.3,) * 3)]
    assert axis.get_ylim()[0] < 2.3 < axis.get_ylim()[1]
    assert "n = 1 a rate, seed 0" in made.caption
    assert "Usable range" not in made.caption  # equal guesses are no range of rates that work
    assert_inside(made.figure)


def test_fewer_than_three_rates_are_no_figure(tmp_path):
    for lr in (0.1, 1.0):
        run(tmp_path, 0.8, lr=lr, norm="none")
    with pytest.raises(NotDrawn, match="needs >=3 learning rates, found 2"):
        lr_sensitivity.draw(read(tmp_path))


# -------------------------------------------------------------------------------------------------------- batch_size


def test_errors_against_batch_sizes_worked_by_hand(tmp_path):
    for size, middle in ((2, 0.70), (32, 0.85), (256, 0.80)):
        for seed in range(3):
            run(tmp_path, middle + 0.01 * (seed - 1), norm="bn", seed=seed, batch_size=size)
            run(tmp_path, 0.8 + 0.01 * (seed - 1), norm="none", seed=seed, batch_size=size)
    (made,) = batch_size.draw(read(tmp_path))
    (axis,) = made.figure.axes
    ((x, y),) = marks(axis, "bn")
    assert y == pytest.approx((30, 15, 20))
    assert x == pytest.approx((2, 32, 256), rel=0.15)  # moved sideways a little
    (bars,) = [c for c in axis.collections if c.get_label() == "_interval bn"]
    # SD .01 of three seeds: half width 2.484 pp
    assert bars.get_segments()[1][:, 1] == pytest.approx([15 - 2.484, 15 + 2.484], abs=1e-3)
    assert axis.get_xticks().tolist() == [2, 32, 256]
    assert axis.get_yscale() == "linear"
    row = made.data[(made.data["norm"] == "bn") & (made.data["batch_size"] == 32)].iloc[0]
    assert (row["mean"], row["n"], row["n_ok"]) == (pytest.approx(0.85), 3, 3)
    assert "bars: its 95% t interval" in made.caption
    assert "n = 3 a point, seeds 0-2" in made.caption
    assert_inside(made.figure)


def test_each_batch_size_is_at_its_own_best_rate(tmp_path):
    for size, best in ((2, 0.01), (64, 0.1)):
        for lr in (0.01, 0.1):
            for seed in range(3):
                run(tmp_path, 0.8 if lr == best else 0.6, lr=lr, norm="bn", seed=seed, batch_size=size)
    (made,) = batch_size.draw(read(tmp_path))
    assert marks(made.figure.axes[0], "bn")[0][1] == pytest.approx((20, 20))
    assert made.data["lr"].tolist() == ["0.01", "0.1"]
    assert "Each point at its own best of 2 learning rates" in made.caption


def test_seeds_that_choose_and_seeds_that_are_shown_are_named(tmp_path):
    for size in (2, 64):
        for lr in (0.01, 0.1):
            for seed in (0, 1, 7, 8, 9):
                run(tmp_path, 0.8 + 0.01 * seed * lr, lr=lr, norm="bn", seed=seed, batch_size=size)
    (made,) = batch_size.draw(read(tmp_path, tune_seeds=frozenset({0, 1})))
    assert "(chosen on seeds 0, 1)" in made.caption
    assert "n = 3 a point, seeds 7-9" in made.caption


def test_a_single_seed_has_no_bar(tmp_path):
    for size in (2, 64):
        run(tmp_path, 0.8, norm="bn", batch_size=size)
    (made,) = batch_size.draw(read(tmp_path))
    (bars,) = made.figure.axes[0].collections
    assert not any(len(segment) for segment in bars.get_segments())
    assert "no interval" in made.caption
    assert "bars" not in made.caption
    assert_inside(made.figure)


def test_diverged_runs_of_a_batch_size_are_counted_above(tmp_path):
    for seed in range(3):
        lost(tmp_path, norm="none", seed=seed, batch_size=2)
        run(tmp_path, 0.9 + 0.01 * seed, norm="none", seed=seed, batch_size=64)
    (made,) = batch_size.draw(read(tmp_path))
    (axis,) = made.figure.axes
    assert len(dots(axis, "_diverged none")) == 3
    assert marks(axis, "none")[0][1] == pytest.approx((90, 9))
    assert "3/3" in texts(made.figure)
    assert axis.get_yscale() == "log"
    assert "Crosses: 3 diverged runs, counted as guessing" in made.caption
    assert_inside(made.figure)


def test_each_optimizer_has_a_panel_of_batch_sizes(tmp_path):
    for norm in ("none", "bn", "gn", "ln"):
        for optimizer in ("sgd", "adam"):
            for size in (2, 64):
                run(tmp_path, 0.8, norm=norm, optimizer=optimizer, batch_size=size)
    (made,) = batch_size.draw(read(tmp_path))
    assert texts(made.figure) == ["optimizer=adam", "optimizer=sgd"]
    assert len(made.data) == 16
    assert_inside(made.figure)


def test_long_names_above_a_panel_fit(tmp_path):
    name = "a_norm_with_a_name_of_many_long_words"
    for norm in (name, "bn"):
        for size in (2, 64):
            run(tmp_path, 0.8, norm=norm, batch_size=size)
            lost(tmp_path, norm=norm, batch_size=size, seed=1)
    (made,) = batch_size.draw(read(tmp_path))
    assert name in texts(made.figure)
    assert_inside(made.figure)


def test_one_batch_size_is_no_figure(tmp_path):
    pair(tmp_path)
    with pytest.raises(NotDrawn, match="needs >=2 batch sizes, found 1"):
        batch_size.draw(read(tmp_path))


# --------------------------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("figure", [paired, lr_sensitivity, batch_size])
def test_nothing_found_is_no_figure(tmp_path, figure):
    tmp_path.joinpath("empty").mkdir()
    with pytest.raises(NotDrawn, match="found"):
        figure.draw(read(tmp_path))


@pytest.mark.parametrize("figure", [paired, lr_sensitivity, batch_size])
def test_order_does_not_matter(tmp_path, figure):
    for size in (2, 64):
        for norm in ("none", "bn"):
            sweep(tmp_path / "a", norm, batch_size=size)
    for i, folder in enumerate(reversed(sorted((tmp_path / "a").iterdir()))):
        shutil.copytree(folder, tmp_path / "b" / str(i) / folder.name)
    (one,), (other,) = figure.draw(read(tmp_path / "a")), figure.draw(read(tmp_path / "b"))
    runs, metrics = collect([tmp_path / "a"])
    (third,) = figure.draw(study(runs[::-1], metrics[::-1], Options()))
    for again in (other, third):
        assert again.caption == one.caption
        assert again.data.equals(one.data)
        for label in ("_", "none", "bn"):
            assert marks(again.figure.axes[0], label) == marks(one.figure.axes[0], label)
