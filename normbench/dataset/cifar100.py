"""CIFAR-100: small colour photographs of a hundred kinds."""

from collections.abc import Mapping

from normbench.dataset._cifar import Cifar

__all__ = ["CIFAR100"]


class CIFAR100(Cifar):
    """50,000 training and 10,000 test photographs, (3, 32, 32), a hundred balanced classes (the fine labels).

    Looked for in root/cifar-100-python, in root and in $XDG_CACHE_HOME/normbench/cifar-100-python; then as
    cifar-100-python.tar.gz in root and in the cache folder; else downloaded into root or the cache folder.

    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images (technical report, University of
    Toronto). The md5 are torchvision's (datasets/cifar.py).

    Args:
        root: the folder to look in first and to download into; null: the user's cache folder.
    """

    name = "cifar100"
    folder = "cifar-100-python"
    archive = "cifar-100-python.tar.gz"
    url = "https://www.cs.toronto.edu/~kriz/"
    train, test, meta = ("train",), "test", "meta"
    labels, label_names = "fine_labels", "fine_label_names"
    checksums: Mapping[str, str] = {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    }
