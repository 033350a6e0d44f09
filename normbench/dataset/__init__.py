"""The contract of a data set: a class that loads images as uint8 arrays. Data sets never import torch.

class MySet:
def __init__(self, root: str | None = None): ...   # train_size is taken care of, unless the class asks for it
def fingerprint(self) -> str: ...      # of the content; cheap: no decoding where it can be helped
def load(self) -> Data: ...            # verified; raises DataError
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt


class DataError(RuntimeError):
    """The data are missing, incomplete or altered; the message names the file and says what to do."""


@dataclass(frozen=True)
class Data:
    """Images (N, C, H, W) uint8 and labels (N,) int64 in [0, number of classes), for training and for testing.

    masked: the last channel is no picture but a mask, 0 where an image has nothing (padding) and 255 elsewhere.
    The network does not get it: what is padding comes to it as NaN, so that it can't be taken for a value.
    """

    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    fingerprint: str
    masked: bool = False


class Dataset(Protocol):
    def fingerprint(self) -> str: ...

    def load(self) -> Data: ...


def cache_folder() -> Path:
    """The user's folder for what was fetched, unpacked or decoded.

    Raises:
        DataError: the machine knows no home of this user.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "normbench"
    except RuntimeError:
        raise DataError("no home folder is known, where data are kept; type export XDG_CACHE_HOME=FOLDER") from None


def fingerprint_of(*arrays: npt.NDArray[np.generic]) -> str:
    """sha256 over dtype, shape and bytes of the arrays: the same content gives the same text on every machine."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
