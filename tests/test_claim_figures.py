"""The figures of claims, on made-up runs: what is drawn is what the runs say, and what can't be drawn says why."""

import itertools
from dataclasses import replace
from importlib import import_module

import pandas as pd
import pytest
from fakes import write_run
from test_probe_report import inputs, lines, probed, seen

from normbench.claim import Claim, Question
from normbench.report.arms import Options
from normbench.report.collect import collect
from normbench.report.contrasts import study
from normbench.report.figures import CLAIMED, NotDrawn

SEEDS = range(3)
BN = {"of": "norm=bn", "than": "norm=none"}


def claim(*asks):
    return Claim("name", "It is so.", "somewhere", "quick", asks)


def read(root, *asks, **options):
    return study(*collect([root]), Options(claim=claim(*asks), **options))


def drawn(name, made):
    return import_module(f"normbench.report.figures.{name}").draw(made)


def run(root, final, seed, **settings):
    write_run(root, steps=(0, 50, 100, 200), accuracies=(0.1, final, final, final), losses=(2.3, 0.9, 0.7, 0.6),
              seed=seed, **settings)  # fmt: skip


@pytest.mark.parametrize("name", CLAIMED)
def test_without_a_claim_there_is_nothing_to_draw(tmp_path, name):
    run(tmp_path, 0.8, 0)
    with pytest.raises(NotDrawn, match="needs a claim"):
        drawn(name, study(*collect([tmp_path]), Options()))


def test_answers_shows_every_seed_of_both_sides_and_the_effect(tmp_path):
    for seed in SEEDS:
        run(tmp_path, 0.8 + seed / 1000, seed, norm="none")
        run(tmp_path, 0.83 + seed / 1000, seed, norm="bn")
    (figure,) = drawn("answers", read(tmp_path, Question("test_acc", expect="higher", **BN)))
    left, right = figure.figure.axes
    assert lines(left, "_side 1") == [pytest.approx((1, 1, 1))]
    seeds = [line.get_xdata() for line in left.get_lines() if line.get_label() == "_side 0"]
    assert list(seeds[0]) == pytest.approx([80.0, 80.1, 80.2])
    (effect,) = (line.get_xdata() for line in right.get_lines() if line.get_label() == "_effect")
    assert list(effect) == pytest.approx([3.0])
    assert len([line for line in left.get_lines() if str(line.get_label()).startswith("_pair")]) == 3
    assert any("✓ supported" in text.get_text() for text in figure.figure.texts)
    assert figure.data["verdict"].unique().tolist() == ["supported"]


def test_answers_that_cannot_be_told_are_shown_as_such(tmp_path):
    for seed in SEEDS[:2]:
        for norm in ("none", "bn"):
            run(tmp_path, 0.8, seed, norm=norm)
    (figure,) = drawn("answers", read(tmp_path, Question("saturated", expect="lower", **BN)))
    told = " ".join(text.get_text().replace("\n", "") for text in figure.figure.axes[1].texts)
    assert "not told: 0 seeds" in told


def test_along_has_a_line_for_each_side_at_the_best_setting(tmp_path):
    for seed, scale in itertools.product(SEEDS, (0.1, 1.0, 100.0)):
        run(tmp_path, 0.8 if scale == 1 else 0.5, seed, norm="none", model__init_scale=scale)
        run(tmp_path, 0.85, seed, norm="bn", model__init_scale=scale)
    made = read(tmp_path, Question("fall", expect="higher", along="model.init_scale", **BN))
    (figure,) = drawn("along", made)
    (axis,) = figure.figure.axes
    assert lines(axis, "norm=none") == [pytest.approx((50.0, 80.0, 50.0))]
    assert lines(axis, "norm=bn") == [pytest.approx((85.0, 85.0, 85.0))]
    assert axis.get_xscale() == "log"
    assert "n = 3 a point" in figure.caption
    with pytest.raises(NotDrawn, match="needs a question along a number"):
        drawn("along", read(tmp_path, Question("test_acc", expect="higher", **BN)))


def test_ghosts_places_runs_by_the_images_of_their_statistics(tmp_path):
    errors = {("bn", 8, 0): 0.3, ("bn", 32, 0): 0.2, ("bn", 32, 2): 0.4, ("gn", 8, None): 0.25, ("gn", 32, None): 0.25}
    for seed, ((norm, size, ghost), error) in itertools.product(SEEDS, errors.items()):
        ghosts = {} if ghost is None else {"norm__ghost_size": ghost}
        run(tmp_path, 1 - error, seed, norm=norm, batch_size=size, **ghosts)
    (figure,) = drawn("ghosts", read(tmp_path, Question("test_acc", expect="higher", **BN)))
    told = figure.data.groupby(["line", "images"])["test_error"].mean().round(6).to_dict()
    assert told == {
        ("bn", 8): 0.3, ("bn", 32): 0.2, ("gn", 8): 0.25, ("gn", 32): 0.25,
        ("bn, batches of 32 in parts", 2): 0.4, ("bn, batches of 32 in parts", 32): 0.2,
    }  # fmt: skip
    (axis,) = figure.figure.axes
    assert axis.get_xlim()[0] > axis.get_xlim()[1], "from large to small, as in the paper"
    assert "Wu & He 2018" in figure.caption


def test_shift_has_the_three_panels_of_the_paper(tmp_path):
    for norm, drift in (("none", 5.0), ("bn", 0.0)):
        for seed in SEEDS:
            probed(tmp_path, inputs(drift), norm=norm, seed=seed)
    made = replace(seen(tmp_path), options=Options(claim=claim()))
    (figure,) = drawn("shift", made)
    accuracy, without, with_bn = figure.figure.axes
    assert lines(accuracy, "none") == [pytest.approx((0.1, 0.7, 0.8))]
    assert lines(without, "unit_p50") == [pytest.approx((5.0, 5.0, 5.0))]
    assert lines(with_bn, "unit_p85") == [pytest.approx((1.0, 1.0, 1.0))]
    assert without.get_ylim() == with_bn.get_ylim()
    assert "Ioffe & Szegedy 2015, figure 1: there 50,000 steps on MNIST" in figure.caption


def test_shift_of_arms_that_differ_in_more_than_the_norm_is_not_drawn(tmp_path):
    for seed, size in itertools.product(SEEDS, (8, 16)):
        probed(tmp_path, inputs(1.0), norm="bn", seed=seed, batch_size=size)
    with pytest.raises(NotDrawn, match="differ in their norm alone, found"):
        drawn("shift", replace(seen(tmp_path), options=Options(claim=claim())))


def test_found_draws_both_ways_of_searching(tmp_path):
    for seed, lr, eps in itertools.product(SEEDS, (1e-4, 1e-3, 1e-2, 1e-1), (1e-9, 1e-8, 1e-7)):
        run(tmp_path, 0.8 if lr == 1e-3 else 0.5, seed, optimizer__lr=lr, optimizer__eps=eps)
    keys = ("optimizer.lr", "optimizer.eps")
    ask = Question("found", "search=random", "search=grid", "higher", ("trials=4",), " ".join(keys))
    (figure,) = drawn("found", read(tmp_path, ask, tuned=keys))
    assert set(figure.data["way"]) == {"search=random", "search=grid"}
    assert set(figure.data.loc[figure.data["way"] == "search=grid", "trials"]) == {4, 9}
    assert figure.data["test_acc"].between(0.5, 0.8).all()
    (axis,) = figure.figure.axes
    (judged,) = [line for line in axis.lines if line.get_label() == "_judged"]
    assert set(judged.get_xdata()) == {4}
    grid = figure.data[(figure.data["way"] == "search=grid") & (figure.data["trials"] == 4)]["test_acc"].mean()
    (band,) = [shape for shape in axis.collections if shape.get_label() == "_margin"]
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((100 * grid - 0.5, 100 * grid + 0.5))


def test_importance_has_a_row_a_setting_in_the_order_asked(tmp_path):
    keys = ("optimizer.lr", "batch_size")
    for seed, lr, size, again in itertools.product(SEEDS, (1e-3, 1e-2), (8, 16), range(3)):
        run(tmp_path, 0.8 if lr == 1e-3 else 0.5, seed, optimizer__lr=lr, batch_size=size, optimizer__eps=10.0**-again)
    ask = Question(
        "importance", "share=optimizer.lr", "share=batch_size", "higher", ("optimizer=adam",), " ".join(keys)
    )
    (figure,) = drawn("importance", read(tmp_path, ask, tuned=(*keys, "optimizer.eps")))
    (axis,) = figure.figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(keys)
    shares = figure.data.groupby("setting")["share"].mean()
    assert shares["optimizer.lr"] == pytest.approx(100.0)
    assert shares["batch_size"] < 0
    assert isinstance(figure.data, pd.DataFrame)
