"""Make normbench/dataset/fashion_mini.npz: 10,000 + 2,000 images of Fashion-MNIST, the same number of each class.

    apt-get install dataset-fashion-mnist
    python scripts/make_fashion_mini.py

Chosen are each class's first images in the order of sha256(SEED, "choice", split, number in Fashion-MNIST); they are
stored in the order of sha256(SEED, "order", ...), which mixes the classes evenly: the same with every numpy. The
file's bytes, too, are the same with the same zlib.
After a change of SEED or of the sizes, copy the printed checksums into normbench/dataset/fashion_mini.py.
"""

import hashlib
import io
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from normbench.dataset import fingerprint_of
from normbench.dataset.fashion_mnist import FashionMNIST
from normbench.records import write

SEED = 2017
PER_CLASS = {"train": 1_000, "test": 200}
LIMIT = 6_000_000  # bytes; it travels in every wheel
TARGET = Path(__file__).resolve().parents[1] / "normbench" / "dataset" / "fashion_mini.npz"


def chosen(labels: npt.NDArray[np.int64], split: str) -> list[int]:
    """The numbers of the chosen images, in their new order."""

    def draw(purpose: str, number: int) -> bytes:
        return hashlib.sha256(f"{SEED} {purpose} {split} {number}".encode()).digest()

    left = dict.fromkeys(range(10), PER_CLASS[split])
    numbers = []
    for number in sorted(range(len(labels)), key=partial(draw, "choice")):
        if left[int(labels[number])] > 0:
            left[int(labels[number])] -= 1
            numbers.append(number)
    assert not any(left.values()), f"{split}: too few images of a class"
    return sorted(numbers, key=partial(draw, "order"))  # as they were chosen, the last ones would be of few classes


def main() -> None:
    whole = FashionMNIST().load()
    train, test = chosen(whole.train_labels, "train"), chosen(whole.test_labels, "test")
    arrays = {
        "train_images": whole.train_images[train],
        "train_labels": whole.train_labels[train].astype(np.uint8),
        "test_images": whole.test_images[test],
        "test_labels": whole.test_labels[test].astype(np.uint8),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    data = buffer.getvalue()
    assert len(data) <= LIMIT, f"{len(data):,} bytes, at most {LIMIT:,} are wanted"
    write(TARGET, data)
    loaded = [a.astype(np.int64) if name.endswith("labels") else a for name, a in arrays.items()]
    print(f"{TARGET.name}: {len(data):,} bytes")
    print(f"sha256       {hashlib.sha256(data).hexdigest()}")
    print(f"fingerprint  {fingerprint_of(*loaded)}")


if __name__ == "__main__":
    main()
