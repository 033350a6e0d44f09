"""Which runs of a sweep are trained together: engine=stack puts those that differ only in numbers into one program."""

from collections.abc import Sequence

from normbench.config import RunConfig
from normbench.stack.support import steps_alike, structure

WIDTH = {"cpu": 16, "cuda": 64}  # runs of a stack (docs/performance.md)
WIDE = (
    256  # on CUDA, of mlps with at most WIDEST units a layer: they take 20 MB each, as much as a convolution's images
)
WIDEST = 512


def batches(configs: Sequence[RunConfig], workers: int) -> list[list[int]]:
    """The numbers of the runs that one process trains at a time: stacks, or single runs.

    There are as many stacks as workers, or a multiple, of nearly equal width; those that are stepped with the same
    numbers come into one stack where possible.
    """
    alike: dict[str, list[int]] = {}
    for number, config in enumerate(configs):
        alike.setdefault(structure(config) if config.engine == "stack" else str(number), []).append(number)
    found = []
    for numbers in alike.values():
        numbers = sorted(numbers, key=lambda n: steps_alike(configs[n]))
        count = _count(len(numbers), workers, width(configs[numbers[0]]))
        found += [numbers[i * len(numbers) // count : (i + 1) * len(numbers) // count] for i in range(count)]
    return found


def width(config: RunConfig) -> int:
    """The most runs of a stack."""
    if config.device.startswith("cuda") or (config.device == "auto" and _gpu()):
        is_small = (
            config.model["_target_"] == "normbench.model.mlp.MLP" and max(config.model["hidden"], default=0) <= WIDEST
        )
        return WIDE if is_small else WIDTH["cuda"]
    return WIDTH["cpu"]


def _gpu() -> bool:
    from torch import cuda

    return cuda.is_available()


def _count(runs: int, workers: int, width: int) -> int:
    """Of stacks: enough for their width, and a multiple of the workers, but no empty ones."""
    enough = -(-runs // width)
    return min(runs, -(-enough // workers) * workers)
