"""MNIST's format: four files of images and labels, (1, 28, 28), extracted or as .gz."""

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from normbench.dataset import Data
from normbench.dataset._verified import Content, Verified, Wrong, compare

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class Idx(Verified):
    """A set in this format. An extracted file is read only if its checksum is known.

    checksums: of NAME.gz as it is published, of the extracted NAME, or of both. A .gz without a checksum of its own
        is verified by what it holds.
    classes: the names of the classes.
    """

    classes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        return list(FILES)

    def forms(self, name: str) -> list[str]:
        return [*([name] if name in self.checksums else []), f"{name}.gz"]

    def _content(self, path: Path, name: str) -> Content:
        if path.suffix != ".gz":
            return super()._content(path, name)
        packed = np.fromfile(path, np.uint8)
        if path.name in self.checksums:
            compare(path.parent, str(path), packed, self.checksums[path.name])
        try:
            content = np.frombuffer(bytearray(gzip.decompress(packed.data)), np.uint8)
        except (OSError, EOFError, zlib.error) as error:
            raise Wrong(path.parent, f"{path} cannot be read ({error})") from error
        if path.name not in self.checksums:
            compare(path.parent, f"{path}, extracted", content, self.checksums[name])
        return content

    def arrays(self, contents: Mapping[str, Content]) -> Data:
        train_images, train_labels, test_images, test_labels = (contents[name] for name in FILES)
        return Data(  # idx: a head of 4 bytes plus 4 a dimension, then the values
            train_images[16:].reshape(-1, 1, 28, 28),
            train_labels[8:].astype(np.int64),
            test_images[16:].reshape(-1, 1, 28, 28),
            test_labels[8:].astype(np.int64),
            self.classes,
            self.fingerprint(),
        )
