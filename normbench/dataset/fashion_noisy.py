"""Fashion-MNIST images of which the test images alone are noisy: what does a network make of noise it never saw?"""

import hashlib
import math

import numpy as np
import numpy.typing as npt

from normbench.dataset import Data
from normbench.dataset.fashion_mini import FashionMini

__all__ = ["FashionNoisy"]

TERMS = 12  # of the sum that stands for a normal number: its variance is 1
VERSION = 1  # of how an image is made from a picture and the noise


class FashionNoisy:
    """The images of fashion_mini, with noise on every pixel of the test images alone, (1, 28, 28).

        image = clip(picture + round(255 · noise · z), 0, 255),   z the sum of 12 uniform numbers, less 6

    z has mean 0 and deviation 1, is nearly normal and at most 6; only additions, so that every machine has the same
    bytes. z is the same for every `noise`, which makes results at several noises comparable image by image.

    Args:
        noise: standard deviation before clipping, as a share of the range of a pixel; 0: fashion_mini.
        seed: of the noise; at least 0.

    Raises:
        ValueError: an argument is out of its range.
        DataError: fashion_mini's file is missing or altered.

    Source:
        Additive Gaussian noise of the test images, as in Hendrycks & Dietterich 2019, arXiv 1903.12261.
    """

    def __init__(self, noise: float = 0.2, seed: int = 0):
        if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise < math.inf:
            raise ValueError(f"dataset.noise must be a number of at least 0, it is {noise!r}; for example 0.2")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"dataset.seed must be a whole number of at least 0, it is {seed!r}; for example 0")
        self.noise, self.seed = float(noise), seed

    def fingerprint(self) -> str:
        """sha256 over fashion_mini's fingerprint, the arguments and VERSION: what the images are made from."""
        made_from = f"fashion_noisy {VERSION} {FashionMini().fingerprint()} {self.noise!r} {self.seed}"
        return hashlib.sha256(made_from.encode()).hexdigest()

    def load(self) -> Data:
        clean = FashionMini().load()
        return Data(
            clean.train_images,
            clean.train_labels,
            self._noisy(clean.test_images),
            clean.test_labels,
            clean.classes,
            self.fingerprint(),
        )

    def _noisy(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        draws = np.random.Generator(np.random.PCG64(self.seed))
        z = np.full(images.shape, -TERMS / 2)
        for _ in range(TERMS):
            z += draws.random(images.shape)
        return np.clip(images + np.rint(255 * self.noise * z), 0, 255).astype(np.uint8)
