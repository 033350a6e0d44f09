"""Any folder of pictures as a data set: decoded once, kept so in the user's cache folder, verified at each load."""

import hashlib
import json
import logging
import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from normbench.dataset import Data, DataError, cache_folder, fingerprint_of
from normbench.dataset._install import alone

__all__ = ["ImageFolder"]

log = logging.getLogger("normbench")

MODES = {"rgb": "RGB", "gray": "L"}  # what dataset.color says: PIL's name
LITTER = ("Thumbs.db", "desktop.ini")  # besides hidden files: what file managers leave behind
_FORMAT = 1  # of the cache file; raise it when decoding changes


class _Picture(NamedTuple):
    path: str  # below root
    label: int
    bytes: int
    mtime_ns: int


class _Listing(NamedTuple):
    classes: tuple[str, ...]
    train: list[_Picture]
    test: list[_Picture]


class ImageFolder:
    """Pictures of root/train/CLASS/* and root/test/CLASS/*, (1 or 3, height, width), in the order of their paths.

    Classes are the sorted names of the class folders. Hidden files, Thumbs.db and desktop.ini are passed over; any
    other file of a class folder must be a picture of 8 bits a channel that Pillow can read.

    Args:
        root: the folder that holds train/ and test/.
        size: resize every picture to size x size pixels (Pillow's bilinear filter, which averages when it makes
            pictures smaller); null: they must all have one size.
        color: rgb (3 channels) or gray (1 channel); pictures are converted.

    Raises:
        ValueError: an argument is not one of these.
    """

    def __init__(self, root: str, size: int | None = None, color: str = "rgb"):
        if not root:
            raise ValueError(
                "dataset=imagefolder needs dataset.root=FOLDER with train/ and test/ folders of class folders"
            )
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ValueError(f"dataset.size must be null or a number of pixels, it is {size!r}; for example 32")
        if color not in MODES:
            raise ValueError(f"dataset.color must be one of {', '.join(MODES)}, it is {color!r}")
        self.root = Path(root).expanduser().resolve()
        self.size = size
        self.color = color

    def fingerprint(self) -> str:
        """Read from the cache file where there is one (`load` verifies it); else the pictures are decoded."""
        path = self._cache
        try:
            with open(path, "rb") as file:
                file.seek(-64, os.SEEK_END)
                return bytes.fromhex(file.read().decode("ascii")).hex()
        except (OSError, ValueError):
            return self.load().fingerprint

    def load(self) -> Data:
        """From the cache file if the pictures' names, sizes and times are those it was made from; else decoded.

        Raises:
            DataError: the folder is not of this form, or a picture cannot be read or has another size.
        """
        data = self._load_cache()
        if data is None:
            with alone(self._cache.with_suffix(".lock")):  # a second process waits, and finds the first one's
                data = self._load_cache()
                if data is None:
                    if self._cache.exists():
                        log.warning("%s is damaged: it is moved aside, the pictures are decoded anew", self._cache)
                    data = self._decode()
        log.info("imagefolder: %s, decoded in %s", self.root, self._cache)
        return data

    @cached_property
    def _listing(self) -> _Listing:
        try:
            names, pictures = zip(*(_list(self.root, split) for split in ("train", "test")), strict=True)
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read ({error.strerror}); check its permissions") from error
        if names[0] != names[1]:
            here, there = (sorted(set(a) - set(b)) for a, b in (names, names[::-1]))
            only = [f"{split}/{n[0]}" for split, n in (("train", here), ("test", there)) if n]
            raise DataError(f"{self.root}: train/ and test/ must hold the same classes; only once: {', '.join(only)}")
        return _Listing(names[0], *pictures)

    @cached_property
    def _cache(self) -> Path:
        """Named after everything that the pixels depend on."""
        what = [_FORMAT, str(self.root), self.size, self.color, self._listing.train, self._listing.test]
        name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]
        folder = cache_folder() / "imagefolder"
        return folder / f"{name}.npy"

    def _load_cache(self) -> Data | None:
        """None where there is no cache file or a damaged one."""
        self._listing  # noqa: B018 - its errors are the user's, they are not the cache file's
        try:
            with open(self._cache, "rb") as file:
                data = self._data(np.load(file, allow_pickle=False))
                kept = file.read().decode("ascii", "replace")
        except Exception:  # bytes of any kind can stand there, and numpy's reader raises as many kinds
            return None
        return data if data.fingerprint == kept else None

    def _data(self, images: npt.NDArray[np.uint8]) -> Data:
        classes, train, test = self._listing
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(train) + len(test):
            raise ValueError(f"it holds {images.dtype} {images.shape}")
        labels = np.array([picture.label for picture in (*train, *test)], np.int64)
        arrays = images[: len(train)], labels[: len(train)], images[len(train) :], labels[len(train) :]
        return Data(*arrays, classes, fingerprint_of(*arrays))

    def _decode(self) -> Data:
        from tqdm import tqdm

        pictures = [*self._listing.train, *self._listing.test]
        shape = self._read(self.root / pictures[0].path).shape
        images = np.empty((len(pictures), *shape), np.uint8)
        for i, picture in enumerate(tqdm(pictures, "decoding", disable=None)):
            pixels = self._read(self.root / picture.path)
            if pixels.shape != shape:
                raise DataError(
                    f"{self.root}: all pictures must have one size; {pictures[0].path} is {shape[2]}x{shape[1]} "
                    f"pixels, {picture.path} is {pixels.shape[2]}x{pixels.shape[1]}; dataset.size=32 resizes them all"
                )
            images[i] = pixels
        data = self._data(images)
        self._keep(images, data.fingerprint)
        return data

    def _read(self, path: Path) -> npt.NDArray[np.uint8]:
        """One picture, (C, H, W)."""
        from PIL import Image

        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):  # Pillow would cut 16 bits down to white
                    raise DataError(f"{path}: a picture must have 8 bits a channel, its mode is {image.mode}")
                image = image.convert(MODES[self.color])
                if self.size is not None:
                    image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
                pixels = np.asarray(image)
        except DataError:
            raise
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error ... on broken files
            raise DataError(f"{path} is not a whole picture ({error}); replace it or remove it") from error
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def _keep(self, images: npt.NDArray[np.uint8], fingerprint: str) -> None:
        temporary = self._cache.with_suffix(".tmp")
        try:
            if self._cache.exists():  # it was damaged, or it would have been loaded
                os.replace(self._cache, self._cache.with_suffix(".damaged"))
            with open(temporary, "wb") as file:  # no fsync: every load compares the checksum
                np.save(file, images)
                file.write(fingerprint.encode())
            os.replace(temporary, self._cache)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            log.warning("every start decodes the pictures anew: %s cannot be written (%s)", self._cache, error)


def _list(root: Path, split: str) -> tuple[tuple[str, ...], list[_Picture]]:
    """The classes and the pictures of one split, sorted."""
    folder = root / split
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"dataset.root={root} {what}; it must be a folder that holds train/ and test/")
    if not folder.is_dir():
        raise DataError(f"{folder} must be a folder of class folders; dataset.root=FOLDER must hold train/ and test/")
    classes = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not classes:
        raise DataError(f"{folder} must hold one folder a class, it holds none")
    pictures: list[_Picture] = []
    for label, name in enumerate(classes):
        with os.scandir(folder / name) as entries:
            files = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in LITTER]
        if not files:
            raise DataError(
                f"{folder / name} must hold pictures, it is empty; fill it, or remove it in train/ and test/"
            )
        for entry in sorted(files, key=lambda entry: entry.name):
            if entry.is_dir():
                raise DataError(f"{entry.path} is a folder; a class folder must hold pictures only")
            facts = entry.stat()
            pictures.append(_Picture(f"{split}/{name}/{entry.name}", label, facts.st_size, facts.st_mtime_ns))
    return classes, pictures
