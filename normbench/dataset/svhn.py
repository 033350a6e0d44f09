"""SVHN: house numbers photographed from the street, cropped to one digit."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from normbench.dataset import Data
from normbench.dataset._verified import Content, Verified

__all__ = ["SVHN"]


class SVHN(Verified):
    """73,257 training and 26,032 test images of a digit and its neighbours, (3, 32, 32), ten classes, not balanced.

    The 531,131 easier "extra" images are not used. Looked for in root/SVHN, in root and in
    $XDG_CACHE_HOME/normbench/SVHN; else downloaded into root/SVHN or the cache folder.

    Source: Netzer, Wang, Coates, Bissacco, Wu & Ng 2011, Reading digits in natural images with unsupervised feature
    learning (NIPS workshop on deep learning and unsupervised feature learning). The md5 are torchvision's
    (datasets/svhn.py).

    Args:
        root: the folder to look in first and to download into; null: the user's cache folder.
    """

    name = "svhn"
    folder = "SVHN"
    url = "http://ufldl.stanford.edu/housenumbers/"
    checksums: Mapping[str, str] = {
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    }

    def fetch(self, datasets: Any, root: Path) -> None:
        for split in ("train", "test"):  # torchvision puts them into root itself
            datasets.SVHN(str(root / self.folder), split=split, download=True)

    def arrays(self, contents: Mapping[str, Content]) -> Data:
        train, test = (_read(contents[name]) for name in self.names)
        return Data(*train, *test, tuple("0123456789"), self.fingerprint())


def _read(content: Content):
    """X (32, 32, 3, N) and y (N, 1), in which 10 means the digit 0, of one file."""
    from scipy.io import loadmat

    arrays = loadmat(io.BytesIO(content.data), variable_names=("X", "y"))
    return np.ascontiguousarray(arrays["X"].transpose(3, 2, 0, 1)), arrays["y"].ravel().astype(np.int64) % 10
