"""Kuzushiji-MNIST: handwritten characters of classical Japanese."""

from collections.abc import Mapping

from normbench.dataset._idx import Idx

__all__ = ["KMNIST"]


class KMNIST(Idx):
    """60,000 training and 10,000 test images of cursive hiragana, (1, 28, 28), ten balanced classes.

    Looked for in root/KMNIST/raw, in root and in $XDG_CACHE_HOME/normbench/KMNIST/raw, as .gz: torchvision keeps them
    beside the extracted files, of which no checksum is published; else downloaded into root or the cache folder.

    Source: Clanuwat et al. 2018, Deep learning for classical Japanese literature (arXiv:1812.01718). The md5 are
    torchvision's (datasets/mnist.py).

    Args:
        root: the folder to look in first and to download into; null: the user's cache folder.
    """

    name = "kmnist"
    folder = "KMNIST/raw"
    url = "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"
    classes = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    checksums: Mapping[str, str] = {
        "train-images-idx3-ubyte.gz": "bdb82020997e1d708af4cf47b453dcf7",
        "train-labels-idx1-ubyte.gz": "e144d726b3acfaa3e44228e80efcd344",
        "t10k-images-idx3-ubyte.gz": "5c965bf0a639b31b8f53240b1b52f4d7",
        "t10k-labels-idx1-ubyte.gz": "7320c461ea6c1c855c0b718fb2a4b134",
    }
