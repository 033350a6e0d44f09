"""What report.json says of made-up runs, every number worked by hand; and the columns that docs/schema.md promises."""

import csv
import io
import json
import math
import re
import shutil
from pathlib import Path

import pytest
from fakes import write_run

from normbench.report import main
from normbench.report.options import FORMATS

ROOT = Path(__file__).resolve().parent.parent
T4 = 2.7764451051977987  # t quantile .975 of 4 degrees of freedom: 5 pairs
SEEDS = range(5)
STEPS = tuple(range(0, 2001, 50))


def run(root, norm, lr, seed, *, cross, end=0.9, test=None, upto=2000, **options):
    """Validation accuracy .5 up to the step `cross` (None: for ever), .86 from there on, `end` at the end."""
    steps = tuple(step for step in STEPS if step <= upto)
    accuracies = [0.86 if cross is not None and step >= cross else 0.5 for step in steps[:-1]] + [end]
    write_run(
        root, norm=norm, optimizer="sgd", optimizer__lr=lr, seed=seed, steps=steps, accuracies=accuracies,
        losses=[2.3 - a for a in accuracies], test_acc=test,
        top={"total_steps": 2000, "steps": steps[-1], **options.pop("top", {})}, **options,
    )  # fmt: skip


def arm(root, norm, *, cross, test, lrs=(0.01, 0.1, 1), end=0.9, **options):
    """Five seeds at each rate; 0.1 is the best. Test accuracy: `test`, and .001 more with each seed."""
    for lr in lrs:
        for seed in SEEDS:
            best = lr == 0.1
            run(root, norm, lr, seed, cross=cross if best else None, end=end if best else 0.6,
                test=test + 0.001 * seed if best else 0.55, **options)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Against none: bn 2.1 times as fast, gn never there, ln tuned with a rate more, wn of another commit.

    Of rms one run diverged; one folder of bn is damaged.
    """
    root = tmp_path_factory.mktemp("runs")
    arm(root, "none", cross=1050, test=0.80)
    arm(root, "bn", cross=500, test=0.82)
    arm(root, "gn", cross=None, end=0.8, test=0.75)
    arm(root, "ln", cross=500, test=0.82, lrs=(0.01, 0.1, 1, 10))
    arm(root, "wn", cross=500, test=0.82, top={"git_commit": "def"})
    for seed in SEEDS:
        run(root, "rms", 0.01, seed, cross=None, end=0.6, test=0.55)
        run(root, "rms", 1, seed, cross=None, end=0.6, test=0.55)
        if seed < 4:
            run(root, "rms", 0.1, seed, cross=500, test=0.82 + 0.001 * seed)
    run(root, "rms", 0.1, 4, cross=None, end=0.3, upto=300, state="diverged")
    folder = write_run(root, norm="bn", optimizer="sgd", optimizer__lr=0.1, seed=77)
    (folder / "run.json").write_text("{")
    return root


@pytest.fixture(scope="module")
def files(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert main([str(root), "--target", "0.85", "--out", str(out)]) == 0
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def told(files):
    return json.loads(files["report.json"])


def verdicts(told, variant):
    found = [v for v in told["verdicts"] if v["variant"].startswith(f"norm={variant}")]
    return {(v["metric"], v["lr_choice"]): v for v in found}


def test_the_known_speed_up(told):
    """Steps 1050 and 500 for every seed: 2.1, and half of an evaluation's worth as the spread of the logs."""
    v = verdicts(told, "bn")["steps_to_0.85", "own_best"]
    spread = 0.5 * math.hypot(50 / 1050, 50 / 500)
    half = T4 * spread / math.sqrt(5)
    assert v["effect"] == pytest.approx(2.1)
    assert (v["ci_low"], v["ci_high"]) == pytest.approx((2.1 * math.exp(-half), 2.1 * math.exp(half)))
    exact = {
        "state": "FASTER", "flags": [], "headline": True, "paired": True, "n_pairs": 5, "wins": 5, "censored_a": 0,
        "censored_b": 0, "corr": None, "p_exact": 0.0625, "p_exact_floor": 0.0625, "ci_level": 0.95, "target": 0.85,
        "target_post_hoc": False, "effect_kind": "ratio", "baseline": "norm=none", "variant": "norm=bn", "where": {},
        "key": "norm", "contrast": 0,
    }  # fmt: skip
    assert {key: v[key] for key in exact} == exact
    assert v["sentence"] == (
        "On fashion_mini (mlp, 5 epochs, 2,000 steps): norm=bn needs 2.10x fewer steps than norm=none to reach 85% "
        "validation accuracy, 48% of them (geometric mean of per-seed ratios, norm=none to norm=bn: 2.10x, 95% CI "
        "1.96x to 2.25x, 5 paired seeds, each at its best of 3 learning rates (for each seed the best on the other "
        "seeds); 10/10 runs reached it). In seconds of training: 2.10x [1.96x, 2.25x]. Test accuracy: +2.00 pp "
        "[+1.97, +2.03]. At the same learning rate, steps: 2.10x [1.96x, 2.25x]. At the same learning rate, test "
        "accuracy: +2.00 pp [+1.97, +2.03]."
    )
    assert told["verdict"] == v["sentence"]


def test_the_known_difference(told):
    """+2 pp for every seed; the spread is half a test image of 2000."""
    half = T4 * 0.5 / 2000 / math.sqrt(5)
    for choice in ("own_best", "same"):
        v = verdicts(told, "bn")["test_acc", choice]
        assert (v["effect"], v["ci_low"], v["ci_high"]) == pytest.approx((0.02, 0.02 - half, 0.02 + half))
        assert (v["state"], v["headline"], v["effect_kind"]) == ("BETTER", False, "difference")


def test_each_question_is_asked_at_both_choices_of_the_rate(told):
    assert list(verdicts(told, "bn")) == [
        ("steps_to_0.85", "own_best"), ("train_s_to_0.85", "own_best"), ("test_acc", "own_best"),
        ("steps_to_0.85", "same"), ("test_acc", "same"),
    ]  # fmt: skip


def test_an_arm_that_never_arrives_is_a_bound(told):
    """At least 2000 steps against 1050: a ratio of at most .525, with no lower end."""
    v = verdicts(told, "gn")["steps_to_0.85", "own_best"]
    assert v["effect"] == pytest.approx(1050 / 2000)
    assert (v["state"], v["ci_low"], v["censored_a"], v["censored_b"], v["wins"]) == ("LOWER BOUND", 0.0, 0, 5, 0)
    assert "at least 1.90x as many steps" in v["sentence"]
    assert "norm=none reached it in 5/5 runs, norm=gn in 0/5" in v["sentence"]


def test_unequal_tuning_is_refused_a_verdict(told):
    for metric in ("steps_to_0.85", "test_acc"):
        v = verdicts(told, "ln")[metric, "own_best"]
        assert (v["state"], v["flags"]) == ("REFUSED", [])
        assert "norm=ln was tuned with 4 learning rates and norm=none with 3" in v["sentence"]
        assert v["sentence"].endswith("for a verdict train norm=none with optimizer.lr=10, too.")
    assert verdicts(told, "ln")["steps_to_0.85", "same"]["state"] == "FASTER"  # at one rate nothing was tuned


def test_mixed_commits_lower(told):
    for choice in ("own_best", "same"):
        v = verdicts(told, "wn")["steps_to_0.85", choice]
        assert (v["state"], v["flags"]) == ("PROBABLY", ["mixed_origin"])
    assert told["versions"]["git_commit"] == ["abc", "def"]
    assert "The runs come from 2 git commits: abc, def." in told["notes"]


def test_a_diverged_run_is_a_run_that_never_arrives_and_guesses(told):
    """4 of 5 at 500 steps and one never: no ratio. Test accuracy .1 instead of .824: mean difference -.1248."""
    found = verdicts(told, "rms")
    v = found["steps_to_0.85", "own_best"]
    assert (v["state"], v["effect"], v["censored_b"], v["wins"]) == ("REFUSED", None, 1, 4)
    v = found["test_acc", "own_best"]
    assert v["effect"] == pytest.approx((4 * 0.02 + 0.1 - 0.804) / 5)
    assert (v["state"], v["wins"]) == ("UNCLEAR", 4)
    assert "diverged: 0/5 runs of norm=none, 1/5 of norm=rms, counted as untrained" in v["sentence"]
    [rms] = [a for a in told["arms"] if a["setting"]["norm"] == "rms"]
    assert rms["diverged"] == 1
    assert [run["test_acc"] for run in rms["reported"]] == pytest.approx([0.82, 0.821, 0.822, 0.823, 0.1])


def test_p_values_are_adjusted_over_the_contrasts(told):
    """Holm by hand: the k-th smallest of m times m - k + 1, never smaller than the one before."""
    for metric, choice in (("steps_to_0.85", "own_best"), ("test_acc", "own_best"), ("test_acc", "same")):
        family = [v for v in told["verdicts"] if (v["metric"], v["lr_choice"]) == (metric, choice)]
        known = sorted((v for v in family if v["p"] is not None), key=lambda v: v["p"])
        largest = 0.0
        for number, v in enumerate(known):
            largest = max(largest, min(1.0, v["p"] * (len(known) - number)))
            assert v["p_holm"] == pytest.approx(largest)
        assert len(known) >= 3


def test_arms_counts_and_what_is_not_complete(told):
    assert told["counts"] == {"found": 96, "used": 95, "states": {"complete": 94, "damaged": 1, "diverged": 1}}
    assert [a["setting"]["norm"] for a in told["arms"]] == ["none", "bn", "gn", "ln", "rms", "wn"]
    none = told["arms"][0]
    assert none["lrs"] == [0.01, 0.1, 1.0]
    assert none["selection"] == {
        "metric": "val_acc", "how": "leave-one-seed-out", "best": [0.1], "n_settings": 3, "n_finished": 3,
        "tuned": ["optimizer.lr"],
        "counts": [{"setting": [0.1], "n": 5}], "at_edge": [], "unstable": False,
    }  # fmt: skip
    assert [(r["seed"], r["lr"], r["test_acc"]) for r in none["reported"]] == [
        (seed, 0.1, pytest.approx(0.8 + 0.001 * seed)) for seed in SEEDS
    ]
    assert sorted(item["state"] for item in told["not_complete"]) == ["damaged", "diverged"]
    assert told["options"] | {"figures": [], "formats": []} == {
        "target": 0.85, "baseline": None, "x": "step", "tuned": ["optimizer.lr"], "tune_seeds": None,
        "compared_by": None, "figures": [], "formats": [],
    }  # fmt: skip
    assert told["options"]["formats"] == list(FORMATS)
    assert told["newest_run"] == "2025-01-01T00:00:02Z"


def test_every_figure_is_there_or_has_a_reason(told, files):
    names = [item["name"] for item in told["figures"]]
    assert "curves" in names
    assert {name for item in told["figures"] for name in item["files"]} == {f for f in files if f[:8] == "figures/"}
    asked = {re.sub(r"_\d+$", "", name) for name in names} | {item["name"] for item in told["not_drawn"]}
    assert asked == set(told["options"]["figures"])


def test_verdicts_are_the_rows_of_comparisons_csv(told, files):
    rows = read(files["data/comparisons.csv"])[1]
    assert len(rows) == len(told["verdicts"])
    for row, v in zip(rows, told["verdicts"], strict=True):
        assert row["sentence"] == v["sentence"]
        assert row["flags"] == ";".join(v["flags"])
        assert row["effect"] == ("" if v["effect"] is None else repr(v["effect"]))


def test_the_main_table_by_hand(files):
    rows = {row["norm"]: row for row in read(files["tables/main.csv"])[1]}
    assert float(rows["bn"]["test_acc_mean"]) == pytest.approx(0.822)
    assert float(rows["bn"]["test_acc_sd"]) == pytest.approx(0.001 * math.sqrt(2.5))
    assert (rows["bn"]["step_to_target_median"], rows["gn"]["step_to_target_median"]) == ("500.0", "inf")
    assert (rows["rms"]["n_reached"], rows["rms"]["n_finished"]) == ("4", "4")
    text = {line.split("|")[1].strip(): line for line in files["tables/main.md"].decode().splitlines()}
    assert "| **82.2 ± 0.2** " in text["bn"]
    assert "| 500 [500, never] " in text["rms"].replace("**", "")
    assert "| never " in text["gn"]
    assert "**" not in text["none"]
    assert [norm for norm, line in text.items() if "**82" in line] == ["bn", "ln", "wn"]


# ------------------------------------------------------------------------------------------------------- nothing pooled


def test_data_sets_models_and_rates_are_never_pooled(tmp_path):
    for dataset in ("fashion_mini", "mnist"):
        for lr in (0.01, 0.1, 1):
            for norm in ("none", "bn"):
                for seed in range(3):
                    end = 0.9 if lr == 0.1 else 0.7
                    write_run(tmp_path, dataset=dataset, norm=norm, optimizer__lr=lr, seed=seed,
                              accuracies=(0.1, 0.5, end), top={"data_fingerprint": dataset * 5})  # fmt: skip
    assert main([str(tmp_path), "--format", "json,csv"]) == 0
    told = json.loads((tmp_path / "report/report.json").read_text())
    assert [(a["setting"]["norm"], a["setting"]["dataset"]) for a in told["arms"]] == [
        ("none", "fashion_mini"), ("none", "mnist"), ("bn", "fashion_mini"), ("bn", "mnist"),
    ]  # fmt: skip
    assert [len(a["reported"]) for a in told["arms"]] == [3, 3, 3, 3]
    assert {r["lr"] for a in told["arms"] for r in a["reported"]} == {0.1}
    heads = [v for v in told["verdicts"] if v["headline"]]
    assert [v["where"]["dataset"] for v in heads] == ["fashion_mini", "mnist"]
    assert [v["sentence"][:16] for v in heads] == ["On fashion_mini ", "On mnist (mlp, 5"]
    _, rows = read((tmp_path / "report/data/summary.csv").read_bytes())
    assert {row["n"] for row in rows} == {"3"}
    assert len(rows) == 2 * 2 * 3 * 4
    assert told["title"] == "norm: bn against none on fashion_mini, mnist"


# ---------------------------------------------------------------------------------------------------------- equal bytes


def test_equal_bytes_in_any_order_of_folders_and_at_any_place(tmp_path):
    for name, norm in (("a", "none"), ("b", "bn"), ("c", "mine")):
        for seed in range(3):
            run(tmp_path / "runs" / name, norm, 0.1, seed, cross=500 + 50 * seed, test=0.8)
    shutil.copytree(tmp_path / "runs", tmp_path / "else/where")

    def made(folders, out):
        assert main([*map(str, folders), "--out", str(out), "--target", "0.85"]) == 0
        return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    first = made([tmp_path / "runs" / name for name in "abc"], tmp_path / "out1")
    assert made([tmp_path / "else/where" / name for name in "cab"], tmp_path / "elsewhere") == first
    assert len(first) > 15
    assert str(tmp_path).encode() not in b"".join(first.values())


# --------------------------------------------------------------------------------------------------------------- schema


def read(data):
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    return list(rows[0]) if rows else [], rows


def promised():
    """File -> (column, type) of docs/schema.md."""
    found = {}
    for part in re.split(r"^## ", (ROOT / "docs/schema.md").read_text(), flags=re.M)[1:]:
        name = part.split("\n")[0]
        if name.endswith(".csv"):
            cells = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("| ")][1:]
            found[name] = [(cell[0].strip().strip("`"), cell[1].strip()) for cell in cells]
    return found


KINDS = {
    "text": r".*", "whole": r"-?\d*", "number": r"(-?\d+(\.\d+)?(e[+-]?\d+)?|inf|-inf)?", "bool": r"true|false",
}  # fmt: skip


def test_the_schema_lists_every_table(files):
    written = {name for name in files if name.endswith(".csv") and not name.startswith("figures/")}
    assert written == set(promised())


@pytest.mark.parametrize("name", promised())
def test_columns_and_types_are_those_of_the_schema(files, name):
    columns, rows = read(files[name])
    expected = []
    for column, kind in promised()[name]:
        if column == "(settings)":
            expected.append(("norm", "text"))
            expected += [("optimizer", "text")]
        elif column == "cfg.*":
            expected += [(c, "text") for c in columns if c.startswith("cfg.")]
        else:
            expected.append((column, kind))
    assert columns == [column for column, _ in expected]
    for column, kind in expected:
        values = {row[column] for row in rows}
        bad = [value for value in values if not re.fullmatch(KINDS[kind], value, flags=re.S)]
        assert not bad, f"{column} is {kind}: {bad[:3]}"


def test_the_schema_lists_the_keys_of_report_json(told):
    text = (ROOT / "docs/schema.md").read_text().partition("## report.json")[2]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert {key for cell in cells for key in re.findall(r"`(\w+)`", cell)} == set(told)
