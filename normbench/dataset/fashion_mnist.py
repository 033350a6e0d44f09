"""Fashion-MNIST, whole: found on this machine where it can be, fetched where it must be, always verified."""

import gzip
import hashlib
import logging
import os
import shutil
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from normbench._torchvision import torchvision
from normbench.dataset import Data, DataError, cache_folder

__all__ = ["FashionMNIST"]

log = logging.getLogger("normbench")

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FILES = {  # name: size in bytes and sha256 of the content, that is, after gunzip
    "train-images-idx3-ubyte": (47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    "train-labels-idx1-ubyte": (60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "t10k-images-idx3-ubyte": (7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    "t10k-labels-idx1-ubyte": (10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}
FINGERPRINT = "b42e0f3189f494f730119201c9e1a41654a875ffd564ea07b7cf8032d5327c02"  # fingerprint_of the four arrays
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
TIMEOUT_S = 30.0


class FashionMNIST:
    """60,000 training and 10,000 test images of clothes, (1, 28, 28), ten balanced classes.

    It is looked for in `root` (and in torchvision's layout below it, root/FashionMNIST/raw), in the user's cache
    folder ($XDG_CACHE_HOME/normbench), in the folder of Debian's package dataset-fashion-mnist, as .gz files or
    extracted; else it is downloaded into `root` or, without one, into the cache folder.

    Source: Xiao, Rasul & Vollgraf 2017, Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms (arXiv:1708.07747).

    Args:
        root: the folder to look in first and to download into; null: the user's cache folder.
    """

    def __init__(self, root: str | None = None):
        self.root = None if root is None else Path(root).expanduser()

    def fingerprint(self) -> str:
        return FINGERPRINT  # `load` accepts no other content

    def load(self) -> Data:
        """Find or fetch the four files and compare each with its published checksum: 0.1 s extracted, 1 s as .gz.

        Raises:
            DataError: a file is missing, cut or altered, or the download failed.
        """
        folder = self._find() or self._download()
        log.info("fashion_mnist: verified files in %s", folder)
        contents = {name: _read(folder, name) for name in FILES}
        if folder == DEBIAN:
            self._keep_extracted(contents)
        train_images, train_labels, test_images, test_labels = contents.values()
        return Data(  # idx: a head of 4 bytes plus 4 a dimension, then the values
            train_images[16:].reshape(-1, 1, 28, 28),
            train_labels[8:].astype(np.int64),
            test_images[16:].reshape(-1, 1, 28, 28),
            test_labels[8:].astype(np.int64),
            CLASSES,
            FINGERPRINT,
        )

    def _places(self) -> list[Path]:
        own = [] if self.root is None else [self.root, self.root / "FashionMNIST" / "raw"]
        return [*own, cache_folder() / "FashionMNIST" / "raw", DEBIAN]

    def _find(self) -> Path | None:
        """The first place that holds any of the files; holding some and not all is an error, never passed over."""
        for folder in self._places():
            lacking = [n for n in FILES if not (folder / n).is_file() and not (folder / f"{n}.gz").is_file()]
            if not lacking:
                return folder
            if len(lacking) < len(FILES):
                raise DataError(f"{folder} must hold {lacking[0]} (or .gz) beside the others; {_remedy(folder)}")
        return None

    def _download(self) -> Path:
        raw = (self.root or cache_folder()) / "FashionMNIST" / "raw"
        looked = ", ".join(map(str, self._places()))
        try:
            _install(raw, _fetch)
        except Exception as error:  # no network, a stalled or cut transfer, a wrong file, a full disk: one answer
            raise DataError(
                f"Fashion-MNIST is in none of {looked}, and downloading it into {raw} failed "
                f"({' '.join(str(error).split())}); apt-get install dataset-fashion-mnist, "
                f"or put {', '.join(f'{name}.gz' for name in FILES)} into a folder and give dataset.root=FOLDER"
            ) from error
        return raw

    def _keep_extracted(self, contents: dict[str, npt.NDArray[np.uint8]]) -> None:
        """Keep what was unpacked (55 MB) in the cache folder: the next start takes 0.1 s instead of 1 s."""

        def fill(folder: Path) -> None:
            for name, content in contents.items():
                content.tofile(folder / name)

        raw = cache_folder() / "FashionMNIST" / "raw"
        if raw.exists():
            return
        try:
            _install(raw, fill)
            log.info("fashion_mnist: kept extracted in %s", raw)
        except OSError as error:
            log.warning("fashion_mnist: every start unpacks it anew, %s cannot be written (%s)", raw, error)


def _read(folder: Path, name: str) -> npt.NDArray[np.uint8]:
    """The content of one of FILES, extracted, as bytes of shape (size,), after comparing it with what was published.

    Raises:
        DataError: it cannot be read or unpacked, or is not what was published.
    """
    size, expected = FILES[name]
    path = folder / name
    try:
        if path.is_file():
            content = np.fromfile(path, np.uint8)
        else:
            path = folder / f"{name}.gz"
            content = np.frombuffer(bytearray(gzip.decompress(path.read_bytes())), np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); {_remedy(folder)}") from error
    if content.size != size:
        raise DataError(f"{path} must hold {size:,} bytes extracted, it holds {content.size:,}; {_remedy(folder)}")
    found = hashlib.sha256(content.data).hexdigest()
    if found != expected:
        raise DataError(f"{path}: the content's sha256 must be {expected}, it is {found}; {_remedy(folder)}")
    return content


def _remedy(folder: Path) -> str:
    if folder == DEBIAN:
        return "apt-get install --reinstall dataset-fashion-mnist"
    return f"put the published file there, or remove {', '.join(FILES)} (and .gz) from it to have them fetched anew"


def _install(raw: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder beside `raw`, verify it, and only then name it `raw`: after a kill there is all or nothing.

    Two processes at once are safe: the second waits and finds the folder of the first.
    """
    raw.parent.mkdir(parents=True, exist_ok=True)
    with _alone(raw.with_name(".lock")):
        if raw.is_dir() and any(raw.iterdir()):
            return
        temporary = raw.with_name(".raw.tmp")
        shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
        try:
            temporary.mkdir()
            fill(temporary)
            for name in FILES:
                _read(temporary, name)
            os.replace(temporary, raw)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; the kernel drops the lock when its process ends, however it ends."""
    import fcntl

    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(folder: Path) -> None:
    """Download the four files, extracted, into `folder`; torchvision compares the .gz files with their md5."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)  # torchvision sets none: a stalled connection would hang forever
    try:
        torchvision().datasets.FashionMNIST(str(folder), download=True)
    finally:
        socket.setdefaulttimeout(before)
    for name in FILES:
        os.replace(folder / "FashionMNIST" / "raw" / name, folder / name)
    shutil.rmtree(folder / "FashionMNIST")
