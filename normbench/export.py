"""`normbench export FOLDER`: the runs as event files that TensorBoard shows, curves and table of settings.

Reads what the report reads. The only part that needs the extra `tensorboard`.
"""

import argparse
import math
import shutil
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from normbench import records

DEFAULT = Path("results/runs")
RESULTS = ("test_acc", "test_loss", "val_acc", "val_loss")
INSTALL = "pip install 'normbench[tensorboard]'"
MARK = ".normbench"  # in a folder of ours: only such a folder is replaced
BAD_INPUT = 2


def main(args: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="normbench export",
        description="Write the complete and diverged runs below some folders as TensorBoard's event files: a curve for "
        "each column of metrics.csv, the final numbers, and every setting that differs in the HParams tab.",
        epilog=f"Then: tensorboard --logdir DIR. Needs TensorBoard: {INSTALL}.",
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="*", type=Path, default=[DEFAULT],
                        help=f"where runs are (default: {DEFAULT})")  # fmt: skip
    parser.add_argument("--out", metavar="DIR", type=Path, help="default: FIRST_FOLDER/tensorboard; is made anew")
    given = parser.parse_args(args)
    try:
        first = given.folders[0]
        inside = first.parent if (first / "run.json").exists() else first  # never into a run's own folder
        return _export(given.folders, given.out or inside / "tensorboard")
    except InputError as error:
        print(f"normbench export: {error}", file=sys.stderr)
        return BAD_INPUT


class InputError(ValueError):
    """The command cannot be carried out as typed; the message says what to type instead."""


def _export(folders: list[Path], out: Path) -> int:
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"FOLDER must be an existing folder, given {str(folder)!r}")
    if out.exists() and not (out / MARK).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out must be new, empty or an earlier export, given {str(out)!r}; type --out DIR")
    try:
        import tensorboard  # noqa: F401 - torch's own words for its absence name no extra
    except ModuleNotFoundError:
        raise InputError(f"TensorBoard is not installed; type {INSTALL}") from None
    from normbench.report.collect import collect

    runs, metrics = collect(folders)
    used = runs[runs["used"].astype(bool)]
    if not len(used):
        raise InputError(f"no complete run found under {', '.join(map(str, folders))}")
    from normbench.report.tables import settings

    varied = settings(used)
    fresh = out.with_name(f".{out.name}.tmp")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        records.write(fresh / MARK, b"made by normbench export, which replaces this folder\n")
        rows = dict(iter(metrics.groupby("run_id", sort=False)))
        for (_, run), (_, setting) in zip(used.iterrows(), varied.iterrows(), strict=True):
            _write(fresh / str(run["run_id"]), run, dict(setting.items()), rows[run["run_id"]])
        shutil.rmtree(out, ignore_errors=True)
        fresh.replace(out)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise InputError(f"the export must go to a folder that can be written ({error}); type --out DIR") from None
    left = "" if len(used) == len(runs) else f" of {len(runs)}; normbench status {folders[0]} tells of the others"
    print(f"exported {len(used)} runs{left}")
    print(f"now: tensorboard --logdir {out}")
    return 0


def _write(folder: Path, run: Any, setting: Mapping[Any, Any], rows: Any) -> None:
    """One run: a scalar a column of metrics.csv and row, and its settings with what came out, for the HParams tab."""
    from torch.utils.tensorboard.summary import hparams
    from torch.utils.tensorboard.writer import SummaryWriter

    began = datetime.fromisoformat(run["started_at"]).timestamp()
    words = {str(key): value if isinstance(value, int | float | str) else str(value) for key, value in setting.items()}
    final = {f"final/{name}": float(run[name]) for name in RESULTS if _is_finite(run[name])}
    with SummaryWriter(str(folder)) as writer:
        for summary in hparams(words | {"seed": int(run["seed"])}, final):
            writer._get_file_writer().add_summary(summary)  # add_hparams would put them in a run of their own
        for row in rows.to_dict("records"):
            when = began + (row["train_s"] or 0.0)
            for name in records.METRICS:
                value = row["lr_now" if name == "lr" else name]
                if name not in ("step", "train_s") and _is_finite(value):
                    writer.add_scalar(_tag(name), value, int(row["step"]), walltime=when)
        for tag, value in final.items():
            writer.add_scalar(tag, value, int(run["steps"]), walltime=began + float(run["train_s"] or 0.0))


def _tag(name: str) -> str:
    """Beside each other what belongs together: val_acc -> accuracy/val_acc."""
    kinds = {"_acc": "accuracy", "_loss": "loss"}
    kind = next((kind for end, kind in kinds.items() if name.endswith(end)), None)
    if kind is None:
        kind = "gradient" if name.startswith(("grad_", "clip_")) else "progress"
    return f"{kind}/{name}"


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(float(value))
