"""Fashion-MNIST, whole: found on this machine where it can be, fetched where it must be, always verified."""

from collections.abc import Mapping
from pathlib import Path

from normbench.dataset._idx import Idx

__all__ = ["FashionMNIST"]


class FashionMNIST(Idx):
    """60,000 training and 10,000 test images of clothes, (1, 28, 28), ten balanced classes.

    Looked for in root/FashionMNIST/raw, in root, in $XDG_CACHE_HOME/normbench/FashionMNIST/raw and where Debian's
    package dataset-fashion-mnist puts it, extracted or as .gz; else downloaded into root or the cache folder.

    Source: Xiao, Rasul & Vollgraf 2017, Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms (arXiv:1708.07747). The checksums are those of Debian's package.

    Args:
        root: the folder to look in first and to download into; null: the user's cache folder.
    """

    name = "fashion_mnist"
    folder = "FashionMNIST/raw"
    installed: Mapping[Path, str] = {
        Path("/usr/share/datasets/fashion-mnist"): "apt-get install --reinstall dataset-fashion-mnist"
    }
    url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    classes = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    checksums: Mapping[str, str] = {  # sha256 of the extracted files
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }

    def fingerprint(self) -> str:
        """fingerprint_of the four arrays; `load` accepts no other content."""
        return "b42e0f3189f494f730119201c9e1a41654a875ffd564ea07b7cf8032d5327c02"
