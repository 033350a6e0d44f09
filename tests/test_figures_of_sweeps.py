"""What grid, stability, tuning_budget, search, gradients, cost and gap draw: coordinates, texts, captions."""

import importlib
import itertools

import numpy as np
import pytest
from drawn import paths
from fakes import write_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import StepPatch

from normbench.report.arms import Options
from normbench.report.collect import collect
from normbench.report.contrasts import study
from normbench.report.figures import KEYS, NotDrawn
from normbench.report.sheet import wrapped
from normbench.report.style import WIDTH, rendered, text_width

OURS = ("grid", "stability", "tuning_budget", "search", "gradients", "cost", "gap")


def drawn(key, root, options=None, order=None, **columns):
    """The figures of the runs below `root`; columns: of the metrics, made from their rows."""
    runs, metrics = collect([root])
    for name, made in columns.items():
        metrics[name] = [made(row) for row in metrics.to_dict("records")]
    if order is not None:
        runs = runs.sample(frac=1, random_state=order)
    module = importlib.import_module(f"normbench.report.figures.{key}")
    return module.draw(study(runs, metrics, options or Options()))


def cells(axis):
    """(row label, column label) -> the texts in the cell, the number first."""
    rows, columns = (
        [label.get_text() for label in labels] for labels in (axis.get_yticklabels(), axis.get_xticklabels())
    )
    found = {}
    for text in axis.texts:
        x, y = text.get_position()
        found.setdefault((rows[int(y)], columns[int(x)]), []).append(text.get_text())
    return found


def lines(axis, hidden=False):
    found = {line.get_label(): line for line in axis.get_lines() if line.get_label().startswith("_") == hidden}
    return {name: line.get_xydata().tolist() for name, line in found.items()}


def lost(**changes):
    return {"steps": (0, 100), "accuracies": (0.1, 0.2), "losses": (2.3, 9.0), "state": "diverged", **changes}


def square(root, seeds=(0, 1, 2), **changes):
    """none and bn with adam and sgd; test accuracies .80 .82 .84 for none, .90 .92 .94 for bn."""
    for number, norm in enumerate(("none", "bn")):
        for optimizer in ("adam", "sgd"):
            for seed in seeds:
                write_run(root, norm=norm, optimizer=optimizer, seed=seed, test_acc=0.8 + 0.1 * number + 0.02 * seed,
                          **changes)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- grid


def test_grid_writes_mean_and_sd_in_percent_and_what_diverged(tmp_path):
    square(tmp_path)
    for seed in (0, 1, 2):
        write_run(tmp_path, norm="ln", optimizer="adam", seed=seed, **(lost() if seed == 1 else {"test_acc": 0.9}))
        write_run(tmp_path, norm="ln", optimizer="sgd", seed=seed, **lost())
    (figure,) = drawn("grid", tmp_path)
    (axis,) = figure.figure.axes
    assert cells(axis) == {
        ("none", "adam"): ["82.0 ±2.0"], ("none", "sgd"): ["82.0 ±2.0"], ("bn", "adam"): ["92.0 ±2.0"],
        ("bn", "sgd"): ["92.0 ±2.0"], ("ln", "adam"): ["63.3", "1/3 ✕"],  # (.9 + .1 + .9) / 3
        ("ln", "sgd"): ["diverged", "3/3 ✕"],
    }  # fmt: skip
    row = figure.data.set_index(["row", "column"]).loc[("ln", "adam")]
    assert row["test_acc_mean"] == pytest.approx(1.9 / 3)
    assert (row["n"], row["n_diverged"]) == (3, 1)
    assert "over 3 seeds" in figure.caption
    assert "4 diverged runs" in figure.caption
    assert "from 82.0 to 92.0" in figure.caption  # the colours are for the cells without failures
    assert "Each at its one learning rate, not tuned." in figure.caption


def test_grid_is_at_the_best_rate_and_says_how_it_was_chosen(tmp_path):
    square(tmp_path, accuracies=(0.1, 0.5, 0.9), optimizer__lr=1.0)
    for norm, optimizer in itertools.product(("none", "bn"), ("adam", "sgd")):
        for seed in range(3):  # better on test data, which must not choose
            changes = {"norm": norm, "optimizer": optimizer, "optimizer__lr": 0.1, "seed": seed}
            write_run(tmp_path, **changes, accuracies=(0.1, 0.5, 0.7), test_acc=0.99)
    (figure,) = drawn("grid", tmp_path)
    assert cells(figure.figure.axes[0])["bn", "sgd"] == ["92.0 ±2.0"]
    assert "own best of 2 learning rates" in figure.caption
    assert "for each seed the best on the other seeds" in figure.caption


def test_grid_with_one_seed_has_no_sd_and_marks_what_was_not_run(tmp_path):
    square(tmp_path, seeds=(0,))
    write_run(tmp_path, norm="ln", optimizer="adam", test_acc=0.5)
    (figure,) = drawn("grid", tmp_path)
    found = cells(figure.figure.axes[0])
    assert found["none", "adam"] == ["80.0"]
    assert found["ln", "sgd"] == ["–"]
    assert "no ± with one" in figure.caption
    assert "A dash: not run." in figure.caption


def test_grid_columns_are_optimizers_with_their_clipping_and_facets_the_rest(tmp_path):
    for batch_size in (32, 64):
        for clip in ("none", "value"):
            square(tmp_path, clip=clip, batch_size=batch_size)
    (figure,) = drawn("grid", tmp_path)
    assert [axis.get_label() for axis in figure.figure.axes] == ["batch_size=32", "batch_size=64"]
    labels = [label.get_text() for label in figure.figure.axes[0].get_xticklabels()]
    assert labels == ["adam\nclip=none", "adam\nclip=value", "sgd\nclip=none", "sgd\nclip=value"]


@pytest.mark.parametrize(("norms", "optimizers"), [(("none",), ("adam", "sgd")), (("none", "bn"), ("adam",))])
def test_grid_needs_two_by_two(tmp_path, norms, optimizers):
    for norm in norms:
        for optimizer in optimizers:
            write_run(tmp_path, norm=norm, optimizer=optimizer)
    with pytest.raises(NotDrawn, match=f"needs at least 2 norms x 2 .* found {len(norms)} x {len(optimizers)}"):
        drawn("grid", tmp_path)


# ----------------------------------------------------------------------------------------------------------- stability


def test_stability_counts_the_finished_of_every_rate(tmp_path):
    for norm in ("none", "bn"):
        for lr in (0.01, 0.1, 1.0):
            for seed in range(3):
                gone = lost() if norm == "none" and (lr == 1.0 or (lr == 0.1 and seed == 0)) else {}
                write_run(tmp_path, norm=norm, optimizer__lr=lr, seed=seed, **gone)
    (figure,) = drawn("stability", tmp_path)
    (axis,) = figure.figure.axes
    assert cells(axis) == {
        ("none", "0.01"): ["3/3"], ("none", "0.1"): ["2/3"], ("none", "1"): ["0/3"],
        ("bn", "0.01"): ["3/3"], ("bn", "0.1"): ["3/3"], ("bn", "1"): ["3/3"],
    }  # fmt: skip
    assert sum(bool(patch.get_hatch()) for patch in axis.patches) == 2
    assert figure.data["n_finished"].tolist() == [3, 2, 0, 3, 3, 3]
    assert "3 runs a cell" in figure.caption
    assert "4 of 18 runs" in figure.caption


def test_stability_of_a_random_search_counts_by_half_decades(tmp_path):
    for number in range(14):
        gone = lost() if number == 13 else {}
        write_run(tmp_path, norm="bn", optimizer__lr=0.011 + 0.0001 * number if number < 13 else 2.0, **gone)
    (figure,) = drawn("stability", tmp_path)
    found = cells(figure.figure.axes[0])
    assert found == {
        ("bn", "0.01–\n0.03"): ["13/13"], ("bn", "0.03–\n0.1"): ["–"], ("bn", "0.1–\n0.3"): ["–"],
        ("bn", "0.3–\n1"): ["–"], ("bn", "1–\n3"): ["0/1"],
    }  # fmt: skip
    assert "half decades" in figure.caption


def test_stability_needs_a_diverged_run(tmp_path):
    square(tmp_path)
    with pytest.raises(NotDrawn, match="needs at least one diverged run, found none"):
        drawn("stability", tmp_path)


# ------------------------------------------------------------------------------------------------------- tuning_budget


def rates(root, accuracies, seeds=(0,), **changes):
    for number, acc in enumerate(accuracies):
        for seed in seeds:
            write_run(root, accuracies=(0.1, 0.2, acc), optimizer__lr=10.0**-number, seed=seed, **changes)


def test_tuning_budget_draws_the_expected_best(tmp_path):
    rates(tmp_path, (0.9, 0.5, 0.7, 0.8, 0.6), norm="bn")
    rates(tmp_path, (0.5, 0.5, 0.5, 0.5, 0.5, 0.5), norm="none")
    rates(tmp_path, (0.9, 0.9), norm="ln")
    (figure,) = drawn("tuning_budget", tmp_path)
    found = lines(figure.figure.axes[0])
    assert found.keys() == {"bn, adam", "none, adam"}
    assert np.array(found["bn, adam"]) == pytest.approx(np.array([[1, 0.7], [2, 0.8], [3, 0.85], [4, 0.88], [5, 0.9]]))
    assert len(found["none, adam"]) == 6  # each ends at the number that was tried
    assert "from the 5 to 6 that were tried (optimizer.lr)" in figure.caption
    assert "Not shown: 1 arm with fewer than 5" in figure.caption


def test_tuning_budget_scores_a_diverged_run_as_guessing_and_means_over_seeds(tmp_path):
    rates(tmp_path, (0.5, 0.5, 0.5, 0.5), seeds=(0, 1))
    write_run(tmp_path, optimizer__lr=7.0, seed=0, accuracies=(0.1, 0.2, 0.9))
    write_run(tmp_path, optimizer__lr=7.0, seed=1, **lost())
    (figure,) = drawn("tuning_budget", tmp_path)
    assert lines(figure.figure.axes[0])["bn, adam"][-1] == pytest.approx([5, 0.5])  # (.9 + .1) / 2
    assert "1 diverged run counts as guessing" in figure.caption
    assert "mean over 2 seeds" in figure.caption


def test_tuning_budget_counts_a_random_search_over_all_numbers_of_the_optimizer(tmp_path):
    for number in range(5):
        write_run(tmp_path, optimizer__lr=0.01 + number, optimizer__weight_decay=0.1 * number)
    (figure,) = drawn("tuning_budget", tmp_path)
    assert len(lines(figure.figure.axes[0])["bn, adam"]) == 5


def test_tuning_budget_needs_five_settings_an_arm(tmp_path):
    rates(tmp_path, (0.9, 0.5, 0.7))
    with pytest.raises(NotDrawn, match="needs >=5 configs per arm, found 3"):
        drawn("tuning_budget", tmp_path)


# -------------------------------------------------------------------------------------------------------------- search


def test_search_shows_every_setting_the_best_and_what_explains(tmp_path):
    """The accuracy follows from lr alone."""
    for lr, acc in ((0.1, 0.5), (1.0, 0.9), (2.0, 0.7)):
        for decay in (0.0, 0.01):
            write_run(tmp_path, optimizer__lr=lr, optimizer__weight_decay=decay, accuracies=(0.1, 0.2, acc))
    (figure,) = drawn("search", tmp_path)
    by_key = {axis.get_xlabel(): axis for axis in figure.figure.axes}
    assert by_key.keys() == {"optimizer.lr", "optimizer.weight_decay"}
    rate = by_key["optimizer.lr"]
    assert sorted(lines(rate)["bn"]) == [[0, 0.5], [0, 0.5], [1, 0.9], [1, 0.9], [2, 0.7], [2, 0.7]]
    assert [label.get_text() for label in rate.get_xticklabels()] == ["0.1", "1", "2"]
    assert [text.get_text() for text in rate.texts] == ["bn 100 %"]
    (best,) = (patch for patch in by_key["optimizer.weight_decay"].patches if isinstance(patch, StepPatch))
    assert best.get_data().values.tolist() == [0.9, 0.9]
    assert [text.get_text() for text in by_key["optimizer.weight_decay"].texts] == ["bn 0 %"]
    assert len(figure.data) == 6


def test_search_marks_diverged_settings_on_the_lower_edge(tmp_path):
    for lr in (0.1, 1.0):
        for decay in (0.0, 0.01):
            write_run(tmp_path, optimizer__lr=lr, optimizer__weight_decay=decay, accuracies=(0.1, 0.2, 0.8))
    write_run(tmp_path, optimizer__lr=9.0, optimizer__weight_decay=0.0, **lost())
    (figure,) = drawn("search", tmp_path)
    axis = figure.figure.axes[0]
    assert lines(axis, hidden=True)["_diverged"] == [[2, pytest.approx(axis.get_ylim()[0])]]
    assert "Crosses: 1 setting with" in figure.caption
    assert "On the lower edge: 1 setting below" in figure.caption


def test_search_needs_two_numbers_that_vary(tmp_path):
    rates(tmp_path, (0.9, 0.5, 0.7))
    with pytest.raises(NotDrawn, match=r"needs at least 2 numbers that vary .* found 1 \(optimizer.lr\)"):
        drawn("search", tmp_path)


# ----------------------------------------------------------------------------------------------------- gradients, gap


def test_gradients_norms_bound_and_share(tmp_path):
    for seed in range(2):
        write_run(tmp_path, seed=seed, norm="bn", clip="none")
        write_run(tmp_path, seed=seed, norm="bn", clip="norm", clip__max_norm=2.5, clip_frac=0.25)
    made = {
        "grad_norm_mean": lambda row: row["step"] / 10 + row["seed"] if row["step"] else np.nan,
        "grad_norm_max": lambda row: row["step"] if row["step"] else np.nan,
    }
    (figure,) = drawn("gradients", tmp_path, **made)
    plain, _, clipped, share = figure.figure.axes
    assert lines(plain)["bn, adam"] == [[100, 10.5], [200, 20.5]]
    assert lines(plain, hidden=True)["_max bn"] == [[100, 100], [200, 200]] * 2
    assert paths(plain, "_runs") == [((100, 200), (10, 20)), ((100, 200), (11, 21))]
    assert "_bound" not in lines(plain, hidden=True)
    assert {y for _, y in lines(clipped, hidden=True)["_bound"]} == {2.5}
    assert lines(share)["bn, adam"] == [[100, 0.25], [200, 0.25]]
    assert plain.get_ylim() == clipped.get_ylim()
    assert plain.get_yscale() == "log"
    assert "Dashed: the bound, 2.5." in figure.caption
    assert "2 seeds a setting" in figure.caption


def test_gradients_without_clipping_have_no_panel_for_it(tmp_path):
    square(tmp_path)
    (figure,) = drawn("gradients", tmp_path)
    assert len(figure.figure.axes) == 1
    assert "clip" not in figure.caption.replace("before clipping", "")


def test_gradients_need_a_recorded_norm(tmp_path):
    write_run(tmp_path)
    with pytest.raises(NotDrawn, match="needs grad_norm_mean"):
        drawn("gradients", tmp_path, grad_norm_mean=lambda row: np.nan)


def test_gap_is_training_minus_validation(tmp_path):
    for seed in range(2):
        write_run(tmp_path, seed=seed, accuracies=(0.1, 0.7, 0.8))
    made = {"train_eval_acc": lambda row: row["val_acc"] + 0.01 * row["seed"] + row["step"] / 1000}
    (figure,) = drawn("gap", tmp_path, **made)
    assert np.array(lines(figure.figure.axes[0])["bn, adam"]) == pytest.approx(
        np.array([[0, 0.005], [100, 0.105], [200, 0.205]])
    )
    assert figure.data["gap"].tolist() == pytest.approx([0, 0.1, 0.2, 0.01, 0.11, 0.21])
    assert "in evaluation mode" in figure.caption


def test_gap_marks_diverged_runs(tmp_path):
    write_run(tmp_path, **lost())
    (figure,) = drawn("gap", tmp_path, train_eval_acc=lambda row: row["val_acc"])
    assert lines(figure.figure.axes[0], hidden=True)["_diverged"] == [[100, 0]]
    assert "Crosses: 1 diverged run" in figure.caption


def test_gap_needs_a_training_accuracy_in_evaluation_mode(tmp_path):
    write_run(tmp_path)
    with pytest.raises(NotDrawn, match="needs train_eval_acc"):
        drawn("gap", tmp_path)


# ---------------------------------------------------------------------------------------------------------------- cost


def test_cost_is_per_run_and_relative_to_the_baselines_median(tmp_path):
    for seed, seconds in enumerate((1.0, 2.0, 4.0)):
        write_run(tmp_path, norm="none", seed=seed, train_s=seconds)  # 200 steps of 64: median 0.01 s a step
        write_run(tmp_path, norm="bn", seed=seed, train_s=3.0)
    write_run(tmp_path, norm="bn", seed=9, **lost(train_s=0.01))  # cut short: not timed
    (figure,) = drawn("cost", tmp_path)
    left, right = figure.figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["none", "bn"]
    none, bn = (part for _, part in figure.data.groupby("norm", sort=False))
    assert none["examples_per_s"].tolist() == pytest.approx([12800, 6400, 3200])
    assert none["relative_s_per_step"].tolist() == pytest.approx([0.5, 1, 2])
    assert bn["relative_s_per_step"].tolist() == pytest.approx([1.5, 1.5, 1.5])
    dots = [line.get_xdata().tolist() for line in right.get_lines() if line.get_marker() in "os"]
    assert [sorted(map(float, xs)) for xs in dots] == [pytest.approx([0.5, 1, 2]), pytest.approx([1.5, 1.5, 1.5])]
    assert "Baseline: none." in figure.caption
    assert "3 a row" in figure.caption
    assert "On cpu, 1 thread." in figure.caption


def test_cost_of_one_arm_is_relative_to_nothing(tmp_path):
    write_run(tmp_path)
    (figure,) = drawn("cost", tmp_path)
    assert len(figure.figure.axes) == 1
    assert figure.data["examples_per_s"].tolist() == pytest.approx([6400])
    assert "Baseline" not in figure.caption


def test_cost_needs_a_complete_run(tmp_path):
    write_run(tmp_path, **lost())
    with pytest.raises(NotDrawn, match="needs a complete run with a training time, found none"):
        drawn("cost", tmp_path)


# ------------------------------------------------------------------------------------------------------------- all


def everything(key, root, **options):
    made = {"train_eval_acc": lambda row: row["val_acc"] + 0.01}
    return drawn(key, root, **options, **made)


def tick_labels(axis, limits):
    """Those that are drawn: matplotlib keeps some beyond the axis' ends."""
    ticks = zip(axis.get_major_ticks(), axis.get_majorticklocs(), strict=False)
    return [tick.label1 for tick, at in ticks if min(limits) <= at <= max(limits)]


def check_texts(figure):
    """No text leaves the figure, and no two labels of an axis, nor a title and a panel's name, overlap."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, (width, height) = canvas.get_renderer(), figure.get_size_inches() * figure.dpi
    groups = [[*figure.texts, *figure.legends, *(axis.yaxis.label for axis in figure.axes)]]
    for axis in figure.axes:
        groups += [tick_labels(axis.xaxis, axis.get_xlim()), tick_labels(axis.yaxis, axis.get_ylim())]
        groups += [axis.texts, [axis.xaxis.label]]
    for group in groups:
        boxes = [one.get_window_extent(renderer) for one in group if one.get_visible()]
        boxes = [box for box in boxes if box.width > 0]
        for box in boxes:
            assert box.x0 >= -1, group
            assert box.x1 <= width + 1, group
            assert box.y0 >= -1, group
            assert box.y1 <= height + 1, group
        for one, two in itertools.combinations(boxes, 2):
            across = min(one.x1, two.x1) - max(one.x0, two.x0)
            along = min(one.y1, two.y1) - max(one.y0, two.y0)
            assert across <= 1 or along <= 3, group  # a line's box has room above and below its letters


LONG = "a_rather_long_name_of_ones_own"
CASES = {
    "one arm": dict(norms=["bn"], optimizers=["adam"]),
    "twelve arms": dict(norms=["none", "bn", "ln", "gn", "in", "rms"], optimizers=["adam", "sgd"]),
    "long names": dict(norms=["none", LONG], optimizers=["adam", LONG + "_too"]),
    "all diverged": dict(norms=["none", "bn"], optimizers=["adam", "sgd"], gone=True),
    "facets": dict(norms=["none", "bn"], optimizers=["adam", "sgd"], sizes=[16, 32, 64]),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_leaves_the_page_from_one_arm_to_many(tmp_path, case):
    asked = {"sizes": [64], "gone": False, **CASES[case]}
    for norm in asked["norms"]:
        for optimizer in asked["optimizers"]:
            for size in asked["sizes"]:
                for lr in (0.001, 0.01, 0.1, 1.0, 10.0):
                    gone = lost() if asked["gone"] or lr == 10.0 else {}
                    write_run(tmp_path, norm=norm, optimizer=optimizer, optimizer__lr=lr, batch_size=size, **gone)
    names = []
    for key in OURS:
        try:
            figures = everything(key, tmp_path)
        except NotDrawn as reason:
            assert str(reason).startswith("needs")  # noqa: PT017 - which of them are not drawn is asked below
            continue
        for one in figures:
            assert one.figure.get_size_inches()[0] == WIDTH
            assert one.figure.get_size_inches()[1] < 9
            assert len(one.data)
            check_texts(one.figure)
        names.append(key)
    without = {"one arm": {"grid", "search"}, "all diverged": {"cost", "search"}, "facets": set()}
    assert set(OURS) - set(names) == without.get(case, {"search"})


def test_the_order_of_runs_and_folders_does_not_matter(tmp_path):
    runs = [
        dict(norm=norm, optimizer__lr=lr, optimizer__weight_decay=decay, optimizer=optimizer, seed=seed,
             test_acc=0.5 + 0.07 * seed, accuracies=(0.1, 0.5, 0.6 + 0.013 * seed + 0.1 * lr), train_s=1 + lr + seed,
             **({"steps": (0, 50, 100), "state": "diverged"} if lr > 1 and norm == "none" else {}))
        for norm in ("none", "bn") for optimizer in ("adam", "sgd") for lr in (0.1, 0.3, 2.0)
        for decay in (0.0, 0.1) for seed in range(2)
    ]  # fmt: skip
    for number, run in enumerate(runs):
        write_run(tmp_path / "a", **run)
        write_run(tmp_path / "b" / str(number % 3), **runs[-1 - number])
    for key in OURS:
        first, again, other = (
            everything(key, tmp_path / "a"), everything(key, tmp_path / "a", order=3), everything(key, tmp_path / "b")
        )  # fmt: skip
        for one, two, three in zip(first, again, other, strict=True):
            assert one.caption == two.caption == three.caption
            assert one.data.equals(two.data), key
            assert one.data.equals(three.data), key
    (one,), (two,) = everything("grid", tmp_path / "a"), everything("grid", tmp_path / "b")
    assert rendered(one.figure, "grid", one.caption)["svg"] == rendered(two.figure, "grid", two.caption)["svg"]


def test_no_figure_without_runs(tmp_path):
    write_run(tmp_path, state="failed")
    for key in OURS:
        with pytest.raises(NotDrawn, match="needs"):
            drawn(key, tmp_path)


def test_every_figure_has_a_key():
    assert set(OURS) <= set(KEYS)


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("bn", 1, ["bn"]),
        ("clip=none, batch_size=128", 1.0, ["clip=none,", "batch_size=128"]),
        ("a_long_name_of_mine", 0.75, ["a_long_", "name_of_", "mine"]),
        ("", 1, []),
    ],
)
def test_wrapped(text, width, expected):
    assert wrapped(text, width) == expected
    assert all(text_width(line) <= width for line in expected)
