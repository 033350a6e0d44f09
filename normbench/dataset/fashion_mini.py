"""A balanced part of Fashion-MNIST that ships inside the package: no download, and small enough to be quick."""

import hashlib
import io
import logging
from pathlib import Path

import numpy as np

from normbench.dataset import Data, DataError

__all__ = ["FashionMini"]

log = logging.getLogger("normbench")

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FILE = Path(__file__).with_name("fashion_mini.npz")  # made by scripts/make_fashion_mini.py
SHA256 = "7c381cb03f9a4a9cc4c5ee4166ee79e2fb083c14c1a9ce83921934436c4fa6db"  # of the file
FINGERPRINT = "541cecf789440850a3dd2d332a8b5201cbffccebeabec11fb4095a66f5373b57"  # fingerprint_of the four arrays


class FashionMini:
    """10,000 training and 2,000 test images of clothes, (1, 28, 28): 1,000 and 200 of each of ten classes.

    Real images, chosen by a stated seed from the training and the test images of Fashion-MNIST respectively.

    Source: Xiao, Rasul & Vollgraf 2017, Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms (arXiv:1708.07747).
    """

    def fingerprint(self) -> str:
        return FINGERPRINT  # `load` accepts no other content

    def load(self) -> Data:
        """Read the package's file.

        Raises:
            DataError: the file is missing, or is not the one that was published.
        """
        try:
            packed = FILE.read_bytes()
        except OSError as error:
            raise DataError(f"{FILE} cannot be read ({error.strerror}); reinstall normbench") from error
        found = hashlib.sha256(packed).hexdigest()
        if found != SHA256:
            raise DataError(f"{FILE}: its sha256 must be {SHA256}, it is {found}; reinstall normbench")
        log.info("fashion_mini: verified file %s", FILE)
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            return Data(
                arrays["train_images"],
                arrays["train_labels"].astype(np.int64),
                arrays["test_images"],
                arrays["test_labels"].astype(np.int64),
                CLASSES,
                FINGERPRINT,
            )
