"""checkpoint.pt: what is in it, how it is made, how it is read without running any code, and `normbench.load`."""

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from normbench import assembly, build, config, parts, prepared, records

if TYPE_CHECKING:
    from normbench.train import Progress

PROGRESS = ("step", "train_s", "eval_s", "rows")  # plain values of Progress
TO_RESUME = ("optimizer", "trained", "window", "rng_cpu", "rng_cuda")
OF_THE_DEVICE = ("fused", "foreach", "capturable")  # how an optimizer steps here; a run may go on on another device
ALWAYS = (
    *PROGRESS, "config", "environment", "started_at", "data_fingerprint", "input_shape", "masked", "classes", "model",
    "preprocess",
)  # fmt: skip


def pack(built: build.Built, progress: "Progress", facts: dict[str, Any], to_resume: bool) -> bytes:
    """A sealed checkpoint.

    Args:
        built: its weights and states are taken.
        progress: its history goes in, so that a row is never ahead of the weights.
        facts: plain values to keep beside them.
        to_resume: with the optimizer and the random state, so that the run can go on bit by bit.
    """
    content = {
        "format_version": records.FORMAT_VERSION,
        **facts,
        **{key: getattr(progress, key) for key in PROGRESS},
        "data_fingerprint": built.data.fingerprint,
        "input_shape": list(built.data.input_shape),
        "masked": built.data.masked,
        "classes": list(built.data.classes),
        "model": _evaluated(built),
        "preprocess": built.preprocess.state_dict(),
    }
    if to_resume:
        content |= {
            "optimizer": built.optimizer.state_dict(),
            "trained": built.model.state_dict() if hasattr(built.optimizer, "eval") else None,
            "window": [torch.stack(column).cpu() for column in zip(*progress.window, strict=True)],
            "rng_cpu": torch.get_rng_state(),
            "rng_cuda": [torch.cuda.get_rng_state(built.device)] if built.device.type == "cuda" else [],
        }
    return _sealed(content)


def without_what_resumes(path: Path) -> bytes:
    """The checkpoint of a finished run as checkpoint.keep=weights would have made it.

    Raises:
        Damaged: see `read`.
    """
    return _sealed({key: value for key, value in read(path).items() if key not in TO_RESUME})


def _sealed(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return records.seal(buffer.getvalue())


def _evaluated(built: build.Built) -> dict[str, torch.Tensor]:
    """The weights as an evaluation has them; a schedule-free optimizer is switched there and back, to the same bits."""
    optimizer: Any = built.optimizer
    if not hasattr(optimizer, "eval"):
        return built.model.state_dict()
    weights = {name: value.clone() for name, value in built.model.state_dict().items()}
    settings, groups = dict(vars(optimizer)), [dict(group) for group in optimizer.param_groups]
    optimizer.eval()
    evaluated = {name: value.clone() for name, value in built.model.state_dict().items()}
    built.model.load_state_dict(weights)
    vars(optimizer).update(settings)
    for group, before in zip(optimizer.param_groups, groups, strict=True):
        group.update(before)
    return evaluated


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, verified by its checksum.

    Raises:
        Newer: of a newer format.
        Damaged: altered, torn, or not a checkpoint of this format.
    """
    payload = records.unseal(path)
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what it likes; a stranger's file must not end in a traceback
        reason = " ".join(str(error).split())[:300]
        raise records.Damaged(f"{path} is not a valid checkpoint: {reason}") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if type(version) is int and version > records.FORMAT_VERSION:
        raise records.Newer(f"{path} was written by a newer normbench (format_version {version}): upgrade")
    if type(version) is not int or version != records.FORMAT_VERSION:
        raise records.Damaged(f"{path} is not a checkpoint of format_version {records.FORMAT_VERSION}")
    missing = [key for key in ALWAYS if key not in content]
    if missing:
        raise records.Damaged(f"{path} is not a valid checkpoint: it lacks {', '.join(missing)}")
    return content


def restore(content: dict[str, Any], built: build.Built, progress: "Progress") -> None:
    """Put everything back as it was when the checkpoint was packed."""
    built.model.load_state_dict(content["trained"] or content["model"])
    groups = content["optimizer"].get("param_groups", ())  # torch.optim's; others keep what they like
    for saved, group in zip(groups, built.optimizer.param_groups, strict=False):
        saved |= {key: group[key] for key in OF_THE_DEVICE if key in group}
    built.optimizer.load_state_dict(content["optimizer"])
    for key in PROGRESS:
        setattr(progress, key, content[key])
    columns = [column.to(built.device) for column in content["window"]]
    if columns:
        columns[1] = _hits(columns[1], built)
    progress.window = list(zip(*columns, strict=True))  # type: ignore[arg-type]
    torch.set_rng_state(content["rng_cpu"])
    if content["rng_cuda"] and built.device.type == "cuda":
        torch.cuda.set_rng_state(content["rng_cuda"][0], built.device)


def _hits(saved: torch.Tensor, built: build.Built) -> torch.Tensor:
    """As this engine keeps them on this device: which images were hit, (steps, B), or only how many, (steps, 1)."""
    counted = saved.dtype != torch.bool
    if counted == built.captured:
        return saved
    return torch.arange(built.config.batch_size, device=saved.device) < saved if counted else saved.sum(1, keepdim=True)


def of_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's record, and the content of its checkpoint.

    Raises:
        Damaged: there is no trained network, or a file is not what was written.
    """
    record = records.read_run(folder)
    if record["state"] == "diverged":
        raise records.Damaged(f"{folder} diverged at step {record.get('diverged_step')}: there is no trained network")
    path = folder / "checkpoint.pt"
    if not path.exists():
        kept = record["config"].get("checkpoint", {}).get("keep")
        why = "it was made with checkpoint.keep=none" if kept == "none" else f"the run is {record['state']}"
        why = "`normbench clean --keep none` removed it" if record.get("cleaned") == "none" else why
        raise records.Damaged(f"{path} is missing: {why}")
    return record, read(path)


def load(folder: str | Path, trust_code: bool = False) -> nn.Module:
    """See normbench.load."""
    folder = Path(folder).expanduser()
    _, content = of_run(folder)
    settings = config.from_dict(json.loads(content["config"]))
    if not trust_code:
        how = "normbench.load(folder, trust_code=True)"
        parts.refuse_unknown(settings, ("preprocess", "norm", "model"), folder, how)
    preprocess = build.fitting(settings, content["masked"])
    prepared.put(preprocess, content["preprocess"])
    images = torch.full((2, *content["input_shape"]), 255, dtype=torch.uint8)
    network: Any = assembly.make(settings, preprocess, images, len(content["classes"]))
    network.load_state_dict(content["model"])
    network.classes = tuple(content["classes"])
    network.preprocess = preprocess.forward  # the method, not the module: it is no part of the network
    return network.eval()
