"""Every random stream of a run, each derived from (seed, purpose, where): nothing depends on what ran before.

weights    (seed, "weights", path of the layer)
order      (seed, "order", epoch)
dropout    (seed, "dropout", epoch)
augment    (seed, "augment", epoch)
evaluation (data_seed, "evaluation"): the order for batch statistics
split      (data_seed, "split", label)
train_size (data_seed, "train_size"): which training images are kept; see resident.py
"""

import ctypes
import hashlib
import sys
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def derive(*key: int | str) -> int:
    """A seed in [0, 2^63) made from the key; different keys give unrelated seeds."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def order(seed: int, epoch: int, count: int):
    """The order in which an epoch takes the training images: a permutation of 0 .. count - 1, on the CPU."""
    import torch

    return torch.randperm(count, generator=generator(seed, "order", epoch))


def shuffle(data_seed: int, count: int):
    """A fixed order for evaluating with batch statistics, the same for every arm."""
    import torch

    return torch.randperm(count, generator=generator(data_seed, "evaluation"))


def generator(*key: int | str):
    """A random generator on the CPU, seeded from the key."""
    import torch

    return torch.Generator().manual_seed(derive(*key))


def split(labels: npt.NDArray[np.int64], fraction: float, data_seed: int) -> tuple[npt.NDArray, npt.NDArray]:
    """Indices (train, held out): `fraction` of every class is held out, drawn from data_seed; both in rising order.

    Raises:
        ValueError: a class has so few images that one part would have none of it.
    """
    held_out = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(fraction * len(members))
        if not 0 < count < len(members):
            raise ValueError(
                f"val_fraction={fraction} of the {len(members)} training images of class {label} is {count}: every "
                f"class must be in both parts; try val_fraction={min(0.5, 1.5 / len(members)):.2g} or a larger data set"
            )
        rng = np.random.default_rng(derive(data_seed, "split", int(label)))
        held_out.append(rng.permutation(members)[:count])
    held = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), held, assume_unique=True), held


def set_determinism(threads: int) -> None:
    """The same config gives the same bits: on one machine, with one torch, and `threads` CPU threads.

    An operation that has no deterministic form warns when it is used. Denormal numbers are flushed to zero:
    networks without normalization make them, and they are many times slower. What a layer frees is kept for the next.
    """
    import os

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    import torch

    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms() would import torch's compiler, too
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] - costs time, changes no bit
    torch.backends.cudnn.benchmark = False
    torch.set_flush_denormal(True)
    _keep_freed_memory()


@cache
def _keep_freed_memory() -> None:
    """Have glibc give blocks of up to 32 MB back to the system when the process ends, and not after every layer.

    Getting them anew, page by page, is a tenth of a small residual network's time. Other C libraries stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest that it takes
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def set_attention(device: "torch.device") -> None:
    """On a GPU without the kernels whose gradients add up in any order: what is left is products and a softmax."""
    from torch.backends import cuda

    for switch in (cuda.enable_mem_efficient_sdp, cuda.enable_flash_sdp, cuda.enable_cudnn_sdp):
        switch(device.type != "cuda")  # the CPU's kernel called flash is deterministic, and has the same switch
