"""MNIST: handwritten digits."""

from collections.abc import Mapping

from normbench.dataset._idx import Idx

__all__ = ["MNIST"]


class MNIST(Idx):
    """60,000 training and 10,000 test images of handwritten digits, (1, 28, 28), ten classes, nearly balanced.

    Looked for in root/MNIST/raw, in root and in $XDG_CACHE_HOME/normbench/MNIST/raw, extracted or as .gz; else
    downloaded into root or the cache folder.

    Source: LeCun, Bottou, Bengio & Haffner 1998, Gradient-based learning applied to document recognition, Proceedings
    of the IEEE 86(11). The md5 of the .gz files are torchvision's (datasets/mnist.py); the sha256 of the extracted
    ones are those that a dozen public repositories agree on, some beside these md5.

    Args:
        root: the folder to look in first and to download into; null: the user's cache folder.
    """

    name = "mnist"
    folder = "MNIST/raw"
    url = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    classes = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    checksums: Mapping[str, str] = {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }
