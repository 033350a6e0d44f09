"""What stands in run.json: what the run is, how far it came, and what it was made from."""

import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench import __version__, records
from normbench.build import Built
from normbench.config import RESULTS_VERSION, RunConfig

if TYPE_CHECKING:
    from normbench.train import Progress


def of_run(config: RunConfig, built: Built, progress: "Progress", state: str) -> dict[str, Any]:
    """The record of a run, without the results that only its end gives and without `files`."""
    last = progress.rows[-1] if progress.rows else {}
    return {
        **_head(config, state),
        "val_loss": last.get("val_loss"),
        "val_acc": last.get("val_acc"),
        "train_s": progress.train_s,
        "steps": progress.step,
        "total_steps": config.epochs * built.steps_per_epoch,
        "epochs": config.epochs,
        "epochs_done": progress.step // built.steps_per_epoch,
        "batch_size": config.batch_size,
        "diverged_step": progress.diverged_step,
        "eval_s": progress.eval_s,
        "n_params": count_parameters(built),
        "swapped_layers": built.swapped,
        "n_train": len(built.data.train[1]),
        "n_val": len(built.data.val[1]),
        "n_test": len(built.data.test[1]),
        "n_classes": len(built.data.classes),
        "data_fingerprint": built.data.fingerprint,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(built.device),
        "environment": environment(config, built),
        **_tail(config),
    }


def skipped(config: RunConfig, reason: str) -> dict[str, Any]:
    """The record of an impossible cell of a sweep."""
    return {**_head(config, "skipped"), "reason": reason, "files": {}, **_tail(config)}


def _head(config: RunConfig, state: str) -> dict[str, Any]:
    return {
        "run_id": config.folder.name,
        "name": config.name,
        "state": state,
        **{group: getattr(config, group)["name"] for group in ("model", "norm", "optimizer", "clip", "dataset")},
        "seed": config.seed,
        **dict.fromkeys((*records.NUMBERS, "reason")),
    }


def _tail(config: RunConfig) -> dict[str, Any]:
    return {
        "versions": {"normbench": __version__, "python": platform.python_version()},
        "git_commit": git_commit(),
        "results_version": RESULTS_VERSION,
        "format_version": records.FORMAT_VERSION,
        "config": config.to_dict(),
    }


def environment(config: RunConfig, built: Built) -> dict[str, Any]:
    """What bits depend on, beside the config."""
    import torch

    name = torch.cuda.get_device_name(built.device) if built.device.type == "cuda" else "cpu"
    its = {"stack": built.stack} if built.stack else {}
    its |= {"graph": True} if built.captured else {}
    return {"torch": str(torch.__version__), "device": name, "threads": config.threads, **its}


def count_parameters(built: Built) -> int:
    return sum(p.numel() for p in built.model.parameters())


def headline(config: RunConfig, built: Built, progress: "Progress", total_steps: int) -> str:
    """One line for the user when training starts."""
    swapped = f" ({built.swapped} BatchNorm layers swapped)" if built.swapped else ""
    where = f" from step {progress.step:,}" if progress.step else ""
    return (
        f"{config.model['name']} ({count_parameters(built):,} parameters) norm={config.norm['name']}{swapped} "
        f"optimizer={config.optimizer['name']} clip={config.clip['name']} on {config.dataset['name']} "
        f"({len(built.data.train[1]):,} training images), seed {config.seed}: "
        f"{total_steps:,} steps{where} on {built.device}"
    )


@lru_cache
def git_commit() -> str | None:
    """The commit of the checkout that normbench runs from, with `-dirty` where files differ from it; None elsewhere."""
    git = ["git", "-C", str(Path(__file__).parent)]
    with suppress(OSError):
        if subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True).returncode == 0:
            describe = [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
            return subprocess.run(describe, capture_output=True, text=True).stdout.strip() or None
    return None
