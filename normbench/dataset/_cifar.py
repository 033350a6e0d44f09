"""CIFAR's format: pickled batches of images, (3, 32, 32), and a pickled file with the names of the classes."""

import io
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np

from normbench.dataset import Data
from normbench.dataset._verified import Content, Verified


class Cifar(Verified):
    """A set in this format.

    train: the files for training, in order; every other one but `meta` is for testing.
    meta: the file with the names.
    labels: the key of the labels in a batch.
    label_names: the key of the names in `meta`.
    """

    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    label_names: str

    def arrays(self, contents: Mapping[str, Content]) -> Data:
        return Data(
            *self._split(contents, *self.train),
            *self._split(contents, self.test),
            tuple(unpickle(contents[self.meta])[self.label_names]),
            self.fingerprint(),
        )

    def _split(self, contents: Mapping[str, Content], *files: str):
        batches = [unpickle(contents[file]) for file in files]
        images = np.concatenate([batch["data"] for batch in batches])  # a row: 32 x 32 red, then green, then blue
        labels = np.concatenate([np.array(batch[self.labels], np.int64) for batch in batches])
        return images.reshape(-1, 3, 32, 32), labels


def unpickle(content: Content) -> dict[str, Any]:
    """A dictionary of numbers, text, lists and arrays that Python 2 pickled; anything else is refused.

    Raises:
        pickle.UnpicklingError: it needs another class or function.
    """
    return _Unpickler(io.BytesIO(content.data), encoding="latin1").load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if f"{module_name}.{global_name}" not in _KNOWN:
            raise pickle.UnpicklingError(f"a CIFAR file needs no {module_name}.{global_name}")
        return _KNOWN[f"{module_name}.{global_name}"]


_KNOWN: dict[str, Any] = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": lambda kind, align, copy: np.dtype(kind, align=bool(align), copy=bool(copy)),  # numbers in the files
    "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
}
