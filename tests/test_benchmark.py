"""The benchmark measures what it says, tells what it could not, and goes on where it was; speeds are no test."""

import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        import benchmark
        import benchmark_estimates
        import benchmark_figure
        import benchmark_floor
        import benchmark_processes
        import benchmark_tables
        import gpu_benchmark

        yield Namespace(
            benchmark=benchmark,
            estimates=benchmark_estimates,
            figure=benchmark_figure,
            floor=benchmark_floor,
            gpu=gpu_benchmark,
            processes=benchmark_processes,
            tables=benchmark_tables,
        )


def line(part, results, number=1, model="mlp", **more):
    its = {
        "part": part, "model": model, "quick": False, "round": number, "results": results,
        "workload": {"model": model, "dataset": "fashion_mini", "train_size": None, "epochs": 2},
        "machine": {"CPU": "one", "system": "it"}, "load": ["0.10 0 0", "0.30 0 0"], "at": "2026-01-02T03:04:05",
    }  # fmt: skip
    return its | more


def ran(speed, wall=1.0, acc=0.8, **more):
    return {"samples_per_s": speed, "wall_s": wall, "test_acc": acc, **more}


def row(table, who, column=0):
    (found,) = [row for row in table.rows if row[column] == who]
    return found


def test_ratios_are_taken_within_a_round(scripts):
    # the machine was half as fast in the second round: the ratio of the medians would not be 2
    lines = [
        line("run", {"normbench": ran(s, 4 / s), "careful": ran(s / r, 4 * r / s)}, n)
        for n, (s, r) in enumerate([(1000, 2), (500, 2), (800, 4)], 1)
    ]
    found = row(scripts.tables.run_table(lines, "mlp"), "P2 careful loop")
    assert found[1] == "250"
    assert found[3] == found[5] == "2 [2, 4]"
    assert "3 rounds" in scripts.tables.run_table(lines, "mlp").title


def test_the_share_of_the_floor_is_of_the_fastest_floor(scripts):
    floors = [{"floor": {"floor_s": s, "products_s": s, "copy_s": 1e-6, "bytes": 100}} for s in (128e-6, 64e-6)]
    lines = [line("run", {"normbench": ran(250_000)}), *[line("floor", f, n) for n, f in enumerate(floors, 1)]]
    assert row(scripts.tables.run_table(lines, "mlp"), "normbench, engine=serial")[2] == "25%"
    assert scripts.tables.floor_table(lines).rows[0][-1] == "1,000,000"


def test_the_floor_counts_every_product_and_byte_of_a_step(scripts, monkeypatch):
    called = []
    monkeypatch.setattr(scripts.floor, "fastest", lambda call, *_: called.append(call()) or 1.0)
    network = scripts.processes.module_of("networks").make("lenet", (1, 28, 28), 10)
    found = scripts.floor.floor_of(network, torch.randn(64, 1, 28, 28))
    assert found["products_s"] == 2 + 2 + 3 * 3  # a convolution's gradients are one call
    assert len(called) == 2 * (2 + 2) + 3 * 3 + 1  # pictures lie in two ways; a copy
    outputs = 64 * (6 * 24 * 24 + 16 * 8 * 8 + 120 + 84 + 10)
    assert found["bytes"] == 64 * 784 + 4 * (4 * outputs + 7 * 44_448)
    assert found["floor_s"] == found["products_s"]


def test_the_fastest_repetition_counts(scripts, monkeypatch):
    times = iter([0.0, 0.0, 3.0, 3.0, 3.0, 5.0, 5.0, 5.0, 9.0, 9.0, 11.0])  # 3, 2 and 4 seconds
    monkeypatch.setattr(scripts.floor.time, "perf_counter", lambda: next(times, 99.0))
    assert scripts.floor.fastest(lambda: None, 8.0, lambda: None) == 2.0


def test_what_could_not_be_measured_is_told(scripts):
    results = {"normbench": ran(9.0), "keras_jax": {"missing": "keras"}, "normbench graph": {"refused": "no GPU"}}
    table = scripts.tables.run_table([line("run", results)], "mlp")
    assert row(table, "P4 Keras on JAX")[1] == "not installed (keras)"
    assert row(table, "normbench, engine=graph")[1] == "refused"


def test_a_peer_that_was_installed_later_has_the_rounds_that_it_was_there(scripts):
    lines = [
        line("run", {"normbench": ran(100.0), "jax": {"missing": "jax"}}, 1),
        line("run", {"normbench": ran(50.0), "jax": ran(100.0)}, 2),
    ]
    assert row(scripts.tables.run_table(lines, "mlp"), "P6 JAX")[3] == "0.5"


def swept(walls, acc=0.8):
    return {str(runs): {"wall_s": wall, "test_acc": [acc + 0.001 * i for i in range(runs)]} for runs, wall in walls}


def test_a_sweep_is_a_line_in_the_number_of_runs(scripts):
    results = {
        "normbench serial": swept([(4, 6.0), (8, 10.0), (16, 18.0)]),
        "normbench stack": swept([(4, 4.0), (8, 6.0), (16, 10.0)]),
        "hydra_basic": swept([(1, 13.0), (2, 23.0), (4, 43.0)]),
    }
    lines = [line("sweep", results)]
    table = scripts.tables.sweep_table(lines, "mlp")
    basic = row(table, "P5 Hydra basic, P0 in sequence")
    assert basic[2].startswith("3.0 + 10.00 R")
    assert basic[3] == "≈ 163.0"  # read off the line, not measured, and said so
    assert basic[5] == "≈ 16.3"  # over the stack, our fastest
    stack = row(table, "normbench, engine=stack")
    assert (stack[3], stack[4], stack[5]) == ("10.0", "5,760", "1")
    assert row(table, "normbench, engine=serial")[5] == "1.8"
    found = {(its[0], its[2], its[3]): its[-1] for its in scripts.tables.goals_table(lines).rows}
    assert found["sweep", "normbench, engine=stack", "P5 Hydra basic, P0 in sequence"] == "PASS"
    assert found["sweep", "normbench, engine=serial", "P5 Hydra basic, P0 in sequence"] == "below"


def test_accuracies_are_equal_only_where_the_interval_says_so(scripts):
    tight, wide = np.array([0.8, 0.8005, 0.801, 0.8, 0.8005]), np.array([0.79, 0.81, 0.80, 0.795, 0.805])
    difference = scripts.estimates.difference
    assert difference(tight, tight[::-1]).endswith(": equal")
    assert difference(wide, tight).endswith(": not shown to be equal")
    assert difference(tight + 0.01, tight).endswith(": DIFFERENT")
    assert difference(tight + 0.01, tight).startswith("+1.00 [+0.9")
    assert "nothing to say" in difference(tight[:1], tight)
    assert "nothing to say" in difference([0.2, 0.4], [0.3, 0.5])


def test_the_accuracies_of_a_sweep_are_those_of_one_round(scripts):
    lines = [line("sweep", {"careful_pool": swept([(4, 1.0), (8, 2.0)])}, n) for n in (1, 2)]  # the same seeds twice
    assert len(scripts.estimates.accuracies(lines, "careful_pool")) == 8


def test_two_machines_are_not_mixed(scripts):
    lines = [line("run", {"normbench": ran(1.0)}), line("run", {"normbench": ran(1.0)}, 2, machine={"CPU": "another"})]
    with pytest.raises(ValueError, match=r"one machine.*--out"):
        scripts.tables.tables(lines)


def test_only_the_rounds_of_the_last_workload_count(scripts):
    old = line("run", {"normbench": ran(1.0)})
    new = line("run", {"normbench": ran(3.0)}, workload={**old["workload"], "epochs": 9})
    assert scripts.estimates.chosen([old, new], "run", "mlp") == [new]


def test_what_was_measured_is_not_measured_again(scripts, tmp_path):
    out = tmp_path / "lines.jsonl"
    arguments = ["--out", str(out), "--models", "mlp", "lenet", "--rounds", "2", "--quick"]
    args = scripts.benchmark.parse(arguments)
    sitting = scripts.benchmark.Sitting(args, tmp_path)
    workload = scripts.benchmark.amounts("mlp", True).run
    assert [(n, m) for n, m, _ in sitting.rounds("run")] == [(1, "mlp"), (1, "lenet"), (2, "mlp"), (2, "lenet")]
    sitting.keep("run", "mlp", 1, workload, "0 0 0", {"normbench": ran(1.0)})
    with out.open("a") as file:
        file.write('{"part": "run", "mod')  # killed while it wrote
    again = scripts.benchmark.Sitting(args, tmp_path)
    assert [(n, m) for n, m, _ in again.rounds("run")] == [(1, "lenet"), (2, "mlp"), (2, "lenet")]
    whole = scripts.benchmark.Sitting(scripts.benchmark.parse(arguments[:-1]), tmp_path)  # quick passes are apart
    assert len(list(whole.rounds("run"))) == 4


def test_a_killed_sitting_leaves_the_next_line_whole(scripts, tmp_path):
    args = scripts.benchmark.parse(["--out", str(tmp_path / "lines.jsonl"), "--quick"])
    args.out.write_text('{"part": "run", "mod')
    sitting = scripts.benchmark.Sitting(args, tmp_path)
    sitting.keep("run", "mlp", 1, scripts.benchmark.amounts("mlp", True).run, "0 0 0", {"normbench": ran(1.0)})
    assert len(scripts.benchmark.Sitting(args, tmp_path).lines) == 1


def test_the_page_keeps_what_is_around_the_marks(scripts, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{scripts.benchmark.BEGIN}\nold\n{scripts.benchmark.END}\nafter\n")
    scripts.benchmark.write_page(page, "new")
    assert page.read_text() == f"before\n{scripts.benchmark.BEGIN}\nnew\n{scripts.benchmark.END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="must have the marks"):
        scripts.benchmark.write_page(page, "new")


def test_the_page_of_the_repository_has_the_marks(scripts):
    text = (SCRIPTS.parent / "docs" / "performance.md").read_text()
    assert text.count(scripts.benchmark.BEGIN) == 1
    assert scripts.benchmark.END in text.partition(scripts.benchmark.BEGIN)[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--quick", "--table"], "no measurement"),
        (["--rounds", "0"], "above 0"),
        (["--models", "vgg"], "vgg"),
    ],
)
def test_what_can_not_be_is_refused(scripts, capsys, arguments, words):
    with pytest.raises(SystemExit, match="2"):
        scripts.benchmark.parse(arguments)
    assert words in capsys.readouterr().err


def test_the_picture_has_a_panel_a_model_and_sweep(scripts):
    lines = [
        line("run", {"normbench": ran(900.0), "careful": ran(300.0), "jax": {"missing": "jax"}}, n) for n in (1, 2)
    ]
    lines += [line("run", {"normbench": ran(90.0)}, model="lenet"), line("floor", {"floor": {"floor_s": 0.01}})]
    lines.append(line("sweep", {"normbench serial": swept([(2, 1.0), (4, 2.0)]), "hydra_basic": swept([(1, 9.0)])}))
    figure = scripts.figure.picture(lines)
    axes = [axes for part in figure.subfigs for axes in part.axes]
    assert [its.get_title(loc="left").split(",")[0] for its in axes] == ["mlp", "lenet", "mlp"]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["P2 careful loop", "normbench, engine=serial"]


def test_a_process_that_fails_is_named_with_its_error(scripts):
    with pytest.raises(scripts.processes.Failed, match=r"(?s)ended with 3:.*broken"):
        scripts.processes.timed([sys.executable, "-c", "import sys; sys.stderr.write('broken'); sys.exit(3)"], [])


@pytest.mark.parametrize(("model", "expected"), [("cnn", 1), ("mlp", 0)])
def test_channels_last_is_tried_where_it_can_pay(scripts, model, expected):
    names = scripts.processes.also(model)
    assert len(names) == expected
    for name in names:
        assert scripts.processes.way_of(name) == ("serial", ["channels_last=true"])
        assert scripts.tables.label(name) == "normbench, channels_last=true"
    assert scripts.processes.way_of("normbench") == scripts.processes.way_of("normbench serial") == ("serial", [])
    assert scripts.processes.way_of("normbench stack") == ("stack", [])


def test_only_an_engine_may_refuse(scripts, monkeypatch):
    monkeypatch.setattr(scripts.processes, "timed", lambda *_, **__: (1.0, "", "no form for it"))
    workload = scripts.processes.Workload("mlp", "fashion_mini", None, 1)
    assert scripts.processes.our_run("stack", workload, 0, "cpu", []) == {"refused": "no form for it"}
    with pytest.raises(scripts.processes.Failed, match="no form for it"):
        scripts.processes.our_run("serial", workload, 0, "cpu", [])


def test_a_missing_package_is_found_missing(scripts):
    machine = scripts.processes.Machine(sys.executable, ())
    peer = scripts.processes.Peer("", "bare_loop", ("torch", "no_such_package.within"))
    assert machine.missing(peer) == "no_such_package.within"
    assert machine.missing(scripts.processes.PEERS["careful"]) is None
    workload = scripts.processes.Workload("mlp", "fashion_mini", None, 1)
    assert scripts.processes.peer_run(peer, machine, Path(), workload, 0, []) == {"missing": "no_such_package.within"}


def test_normbench_and_the_careful_loop_do_the_same(scripts, tmp_path):
    """The whole way: a real run of normbench and a peer's process, from the same weights on the same batches."""
    out = tmp_path / "lines.jsonl"
    options = f"--quick --parts same --models mlp --peers careful --out {out}"
    process = subprocess.run(
        [sys.executable, str(SCRIPTS / "benchmark.py"), *options.split()], capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 0, process.stderr
    (found,) = map(json.loads, out.read_text().splitlines())
    results = found["results"]
    assert results["careful"]["parameters"] == results["normbench"]["parameters"] == 50_954
    assert len(results["normbench"]["losses"]) == scripts.benchmark.STEPS
    np.testing.assert_allclose(results["careful"]["losses"], results["normbench"]["losses"], rtol=1e-3)
    assert "A quick pass" in process.stdout
    assert found["workload"] == asdict(scripts.benchmark.amounts("mlp", True).run)


# ---------------------------------------------------------------------------------------------- on a GPU: the tables


def of_a_gpu(part, **its):
    return {"part": part, "model": "mlp", "quick": False, "machine": "G", "torch": "2", "at": "2026-01-02T03:04"} | its


def test_on_a_gpu_ratios_are_taken_within_a_round(scripts):
    lines = [of_a_gpu("run", careful=s, serial=s / 2, graph=s * r) for s, r in ((100.0, 6), (50.0, 4), (80.0, 9))]
    (table,) = scripts.gpu.tables(lines)
    assert table.title == "One run on a GPU, 3 rounds"
    assert row(table, "normbench, engine=graph", 1) == [
        "mlp", "normbench, engine=graph", "600", "6.00 [4.00, 9.00]", ">= 5: PASS"
    ]  # fmt: skip
    assert row(table, "normbench, engine=serial", 1)[3:] == ["0.50 [0.50, 0.50]", ""]


def test_on_a_gpu_a_stack_is_compared_with_the_line_through_the_runs_alone(scripts):
    made = [("graph", 2, 14.0), ("graph", 8, 20.0), ("stack", 90, 34.0)]  # alone: 12 s and 1 s a run
    lines = [
        of_a_gpu("sweep", epochs=10, engine=engine, R=n, wall_s=s, test_acc=[0.8, 0.9] * n) for engine, n, s in made
    ]
    (table,) = scripts.gpu.tables(lines)
    assert [line[6] for line in table.rows] == ["", "", "≈ 3.0 (>= 15: below)"]
    assert table.rows[2][5] == "9,529"


def test_on_a_gpu_a_step_is_told_for_each_run(scripts):
    line = of_a_gpu("curve", R=64, rates=1, step_s=64e-6, floor_s=16e-6, memory=2**20)
    (table,) = scripts.gpu.tables([line])
    assert table.rows == [["mlp", "64", "1", "64", "1.0", "64.00", "25%", "1.0"]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure")
def test_without_a_gpu_nothing_is_measured(scripts, tmp_path, capsys):
    with pytest.raises(SystemExit):
        scripts.gpu.main(["--out", str(tmp_path / "none.jsonl")])
    assert "needs a CUDA device" in capsys.readouterr().err


def test_the_floor_of_a_stack_of_one_is_that_of_its_network(scripts):
    """But for timing: the same products are timed, and as many bytes counted."""
    from normbench.stack import layers

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    images = torch.randn(5, 2, 2, 2)
    stacked = layers.stacked(network, 1)
    its, alone = (scripts.floor.floor_of(each, images, seconds=0.001) for each in (stacked, network))
    assert its["bytes"] == alone["bytes"]
    assert its["products_s"] > 0
