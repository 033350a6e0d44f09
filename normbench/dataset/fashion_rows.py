"""Fashion-MNIST images cut off after a random row: sequences of varying length."""

import hashlib

import numpy as np
import numpy.typing as npt

from normbench.dataset import Data
from normbench.dataset.fashion_mini import FashionMini

__all__ = ["FashionRows"]

ROWS = 28  # of a whole image
SIZES = (10_000, 2_000)  # images for training and for testing
VERSION = 1  # of how an image is made from a picture and a length


class FashionRows:
    """The images of fashion_mini, each with its first `length` rows only; (2, 28, 28): the picture and its mask.

    Channel 0 is the picture, 0 in the rows that are cut off; channel 1 is 255 in the rows that are there and 0 in the
    others (normbench.dataset.Data: masked). Every image has a length of its own, uniform on min_rows .. 28, from a
    random stream for the training images and one for the test images.

    Args:
        min_rows: the shortest length, in 1 .. 28; 28: the whole images.
        seed: of the lengths; at least 0.

    Raises:
        ValueError: an argument is out of its range.
        DataError: fashion_mini's file is missing or altered.

    Source:
        Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747; row by row as Le, Jaitly & Hinton 2015, arXiv 1504.00941,
        feed MNIST pixel by pixel. The lengths are ours.
    """

    def __init__(self, min_rows: int = 14, seed: int = 0):
        if not (_is_whole(min_rows) and 1 <= min_rows <= ROWS):
            raise ValueError(
                f"dataset.min_rows must be a whole number from 1 to {ROWS}, it is {min_rows!r}; for example 14"
            )
        if not (_is_whole(seed) and seed >= 0):
            raise ValueError(f"dataset.seed must be a whole number of at least 0, it is {seed!r}; for example 0")
        self.min_rows, self.seed = min_rows, seed

    def fingerprint(self) -> str:
        """sha256 over fashion_mini's fingerprint, all lengths and VERSION: what the images are made from.

        No image is read. It takes in the lengths, not the seed: if another numpy drew others, it would be another.
        """
        digest = hashlib.sha256(f"fashion_rows {VERSION} {FashionMini().fingerprint()}".encode())
        for lengths in self._lengths():
            digest.update(lengths.astype("<i8").tobytes())
        return digest.hexdigest()

    def load(self) -> Data:
        whole = FashionMini().load()
        train, test = self._lengths()
        return Data(
            _cut(whole.train_images, train),
            whole.train_labels,
            _cut(whole.test_images, test),
            whole.test_labels,
            whole.classes,
            self.fingerprint(),
            masked=True,
        )

    def _lengths(self) -> list[npt.NDArray[np.int64]]:
        """The lengths of the training and of the test images, each from a stream of its own."""
        streams = [np.random.Generator(np.random.PCG64((self.seed, split))) for split in range(len(SIZES))]
        return [s.integers(self.min_rows, ROWS, n, endpoint=True) for s, n in zip(streams, SIZES, strict=True)]


def _cut(images: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """(N, 1, 28, 28) and (N,) -> (N, 2, 28, 28)."""
    there = np.arange(ROWS)[None, :] < lengths[:, None]  # (N, 28)
    mask = np.broadcast_to(there[:, None, :, None], images.shape)
    return np.concatenate([images * mask, 255 * mask.astype(np.uint8)], 1)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
