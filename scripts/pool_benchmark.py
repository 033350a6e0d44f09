"""How much sooner a sweep is done with hydra/launcher=pool than with Hydra's basic launcher.

    python scripts/pool_benchmark.py                      24 runs of mlp on Fashion-MNIST, three rounds: half an hour
    python scripts/pool_benchmark.py --runs 6 --rounds 1 dataset=fashion_mini

Both train the same runs, in turn, as whole processes of their own. Shown, for every round: the wall seconds of each,
their ratio, and what a run costs the pool beside its training (evaluations, records, the start and the end of all
processes): wall seconds times workers, less the sum of train_s, divided by the runs. Timings are no tests.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from normbench import records
from normbench.sweep import devices

GOALS = {"ratio": 1.8, "cost": 0.35}


def sweep(launcher: str, runs: int, settings: list[str], out: Path) -> tuple[float, float, str]:
    """Wall seconds, the sum of train_s, and a digest of what came out but for the times."""
    seeds = f"seed=range({runs})"
    command = [sys.executable, "-m", "normbench", "train", "-m", f"hydra/launcher={launcher}", seeds, *settings]
    began = time.perf_counter()
    subprocess.run(
        [*command, f"out={out}"], check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    seconds, trained, digest = time.perf_counter() - began, 0.0, hashlib.sha256()
    for folder in records.find_runs(out):
        trained += records.verify(folder)["train_s"]
        for row in records.read_metrics(folder / "metrics.csv"):
            digest.update(repr({**row, "train_s": None}).encode())
    return seconds, trained, digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("settings", nargs="*", default=["dataset=fashion_mnist"])
    args = parser.parse_args()
    workers, ratios, costs = devices.cores(), [], []
    for number in range(1, args.rounds + 1):
        found = {}
        for launcher in ("basic", "pool") if number % 2 else ("pool", "basic"):
            with tempfile.TemporaryDirectory() as out:
                found[launcher] = sweep(launcher, args.runs, args.settings, Path(out))
        (basic, _, before), (pool, trained, after) = found["basic"], found["pool"]
        assert before == after, "the launchers gave different results"
        ratios.append(basic / pool)
        costs.append((pool * min(workers, args.runs) - trained) / args.runs)
        print(
            f"round {number}: basic {basic:.1f} s, pool of {workers} {pool:.1f} s: {ratios[-1]:.2f} times as fast; "
            f"{trained / args.runs:.2f} s of training a run, {costs[-1]:.2f} s beside it",
            flush=True,
        )
    print(
        f"median: {median(ratios):.2f} times as fast (goal {GOALS['ratio']}), {median(costs):.2f} s a run beside "
        f"training (goal {GOALS['cost']}); equal results"
    )


if __name__ == "__main__":
    main()
