"""How many runs are trained at once, and on which GPU each: one a core, or one a GPU."""

import os
import sys
from collections.abc import Iterable, Sequence

from normbench.config import RunConfig

DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA's, that of Windows' Linux, AMD's


def default_workers(configs: Iterable[RunConfig]) -> int:
    """Of runs on the CPU as many as this process has cores for their threads; on GPUs one on each."""
    configs = list(configs)
    named = {config.device for config in configs if ":" in config.device}
    on_gpus = len(named) or len(gpus(configs))
    return on_gpus or max(1, cores() // max(config.threads for config in configs))


def cores() -> int:
    """Of the CPU, those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus(configs: Iterable[RunConfig]) -> Sequence[str]:
    """What CUDA_VISIBLE_DEVICES is to be in one worker after another; none: they are not to be told.

    So for runs on the CPU, and for those that name their GPU (device=cuda:1).
    """
    if any(config.device == "cpu" or ":" in config.device for config in configs):
        return []
    count, visible = _count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in visible.split(",")][:count] if visible else [str(n) for n in range(count)]


def _count() -> int:
    """GPUs that this process may use. Torch takes a second to import, and is asked only where there may be any."""
    if sys.platform == "darwin" or (sys.platform == "linux" and not any(map(os.path.exists, DRIVERS))):
        return 0
    from torch import cuda

    return cuda.device_count() if cuda.is_available() else 0  # the driver may be too old for this torch
