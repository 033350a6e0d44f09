"""CIFAR-10: small colour photographs."""

from collections.abc import Mapping

from normbench.dataset._cifar import Cifar

__all__ = ["CIFAR10"]


class CIFAR10(Cifar):
    """50,000 training and 10,000 test photographs, (3, 32, 32), ten balanced classes of animals and vehicles.

    Looked for in root/cifar-10-batches-py, in root and in $XDG_CACHE_HOME/normbench/cifar-10-batches-py; then as
    cifar-10-python.tar.gz in root and in the cache folder; else downloaded into root or the cache folder.

    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images (technical report, University of
    Toronto). The md5 are torchvision's (datasets/cifar.py).

    Args:
        root: the folder to look in first and to download into; null: the user's cache folder.
    """

    name = "cifar10"
    folder = "cifar-10-batches-py"
    archive = "cifar-10-python.tar.gz"
    url = "https://www.cs.toronto.edu/~kriz/"
    train = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
    test, meta = "test_batch", "batches.meta"
    labels, label_names = "labels", "label_names"
    checksums: Mapping[str, str] = {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    }
