"""Made-up pictures that any network can learn in seconds: for tests, and for trying a new part."""

import math

import numpy as np
import numpy.typing as npt

from normbench.dataset import Data, fingerprint_of

__all__ = ["Synthetic"]


class Synthetic:
    """Pictures (channels, image_size, image_size): one random picture a class, plus noise of its own for each image.

        image = round(255 · clip(prototype[label] + noise · u, 0, 1)),   u uniform with mean 0 and deviation 1

    Prototypes are uniform on [0, 1]. Classes are balanced to within one image and in random order. Only additions
    and multiplications of uniform draws: the same arguments give the same bytes on every machine.

    Args:
        train_size: images for training, at least num_classes.
        test_size: images for testing, at least num_classes.
        num_classes: at least 2.
        image_size: height and width in pixels, at least 1.
        channels: at least 1.
        noise: standard deviation of the noise before clipping, as a share of the range of a pixel; at least 0.
        seed: of the prototypes, the noise and the order; at least 0.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        train_size: int = 512,
        test_size: int = 256,
        num_classes: int = 10,
        image_size: int = 8,
        channels: int = 1,
        noise: float = 0.3,
        seed: int = 0,
    ):
        _whole("num_classes", num_classes, 2)
        _whole("train_size", train_size, num_classes, " (num_classes)")
        _whole("test_size", test_size, num_classes, " (num_classes)")
        _whole("image_size", image_size, 1)
        _whole("channels", channels, 1)
        _whole("seed", seed, 0)
        if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise < math.inf:
            raise ValueError(f"dataset.noise must be a number of at least 0, it is {noise!r}; for example 0.3")
        self.train_size, self.test_size, self.num_classes = train_size, test_size, num_classes
        self.shape = (channels, image_size, image_size)
        self.noise, self.seed = noise, seed

    def fingerprint(self) -> str:
        return self.load().fingerprint

    def load(self) -> Data:
        draws = np.random.Generator(np.random.PCG64(self.seed))
        prototypes = draws.random((self.num_classes, *self.shape))
        train = self._sample(draws, prototypes, self.train_size)
        test = self._sample(draws, prototypes, self.test_size)
        names = tuple(str(label) for label in range(self.num_classes))
        return Data(*train, *test, names, fingerprint_of(*train, *test))

    def _sample(
        self, draws: np.random.Generator, prototypes: npt.NDArray[np.float64], size: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        labels = draws.permutation(np.arange(size, dtype=np.int64) % self.num_classes)
        noise = (draws.random((size, *self.shape)) - 0.5) * math.sqrt(12)  # deviation 1
        images = np.clip(prototypes[labels] + self.noise * noise, 0, 1)
        return np.rint(255 * images).astype(np.uint8), labels


def _whole(key: str, value: int, least: int, why: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"dataset.{key} must be a whole number of at least {least}{why}, it is {value!r}")
