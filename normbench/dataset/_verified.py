"""Data sets whose files are published with checksums: found on this machine or fetched, verified at each load."""

import hashlib
import logging
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from normbench._torchvision import torchvision
from normbench.dataset import Data, DataError, cache_folder
from normbench.dataset._install import downloading, install

log = logging.getLogger("normbench")

Content = npt.NDArray[np.uint8]  # the bytes of one file, extracted, (size,), writable


class Wrong(DataError):
    """What is wrong with the files of a place: a folder or an archive."""

    def __init__(self, place: Path, words: str):
        super().__init__(words)
        self.place = place


class Verified:
    """What such data sets have in common; a subclass says which files they are and how these become arrays.

    They are looked for in root/`folder`, in `root`, in the user's cache folder, in `installed`; then as `archive` in
    root and in the cache folder. Else they are downloaded into root or, without one, into the cache folder.

    name: the choice, dataset=NAME.
    checksums: file -> md5 (32 digits) or sha256 (64 digits) of its bytes.
    folder: where torchvision keeps the files, below root.
    archive: the .tar.gz that holds `folder`, if there is one.
    installed: folders of the system's packages -> the command that installs or repairs them.
    url: of the files, without their names.
    """

    name: str
    checksums: Mapping[str, str]
    folder: str
    archive: str = ""
    installed: Mapping[Path, str] = {}
    url: str

    def __init__(self, root: str | None = None):
        self.root = None if root is None else Path(str(root)).expanduser().absolute()
        if root == "" or (self.root and self.root.is_file()):
            folder = self.root.parent if root and self.root else "~/data"
            raise ValueError(f"dataset.root must be a folder, {root!r} is none; try dataset.root={folder}")

    def arrays(self, contents: Mapping[str, Content]) -> Data:
        """The verified contents of all files, by name, as arrays."""
        raise NotImplementedError

    def forms(self, name: str) -> list[str]:
        """The names under which a file may lie in a folder, the one to be preferred first."""
        return [name]

    def fetch(self, datasets: Any, root: Path) -> None:
        """Have torchvision.datasets download the set into root/`folder`."""
        getattr(datasets, type(self).__name__)(str(root), download=True)

    @property
    def names(self) -> list[str]:
        return list(self.checksums)

    def fingerprint(self) -> str:
        """Of the published checksums, since `load` accepts no other content."""
        known = [self.checksums[self.forms(name)[-1]] for name in self.names]
        return hashlib.sha256(" ".join([self.name, *known]).encode()).hexdigest()

    def load(self) -> Data:
        """Find or fetch the files, and compare each with its published checksum.

        Raises:
            DataError: a file is missing, cut or altered, or the download failed.
        """
        try:
            place = self._find() or self._download()
            contents = self._unpacked(place) if place.is_file() else self._contents(place)
        except Wrong as error:
            raise DataError(f"{error}; {self._remedy(error.place)}") from error
        except OSError as error:
            raise DataError(f"{self.name} cannot be read ({error}); check the permissions") from error
        log.info("%s: verified files in %s", self.name, place)
        if place.is_file() or place in self.installed:
            self._keep(contents)
        return self.arrays(contents)

    # ------------------------------------------------------------------------------------------------------- find

    def _folders(self) -> list[Path]:
        own = [self.root / self.folder, self.root] if self.root else []
        return [*own, cache_folder() / self.folder, *self.installed]

    def _archives(self) -> list[Path]:
        return [base / self.archive for base in (self.root, cache_folder()) if base and self.archive]

    def _find(self) -> Path | None:
        """The first folder that holds the files, or else the first archive."""
        folders = (folder for folder in self._folders() if self._holds(folder))
        return next(folders, None) or next((path for path in self._archives() if path.is_file()), None)

    def _holds(self, folder: Path) -> bool:
        """Whether all files are there; some and not all is an error, never passed over."""
        if not any((folder / f"{name}{end}").is_file() for name in self.names for end in ("", ".gz")):
            return False
        for name in self.names:
            if not self._path(folder, name).is_file():
                why = ": of the extracted file no checksum is published" if (folder / name).is_file() else ""
                raise Wrong(folder, f"{folder} must hold {' or '.join(self.forms(name))} beside the others{why}")
        return True

    def _path(self, folder: Path, name: str) -> Path:
        forms = [folder / form for form in self.forms(name)]
        return next((path for path in forms if path.is_file()), forms[-1])

    def _remedy(self, place: Path) -> str:
        if place in self.installed:
            return self.installed[place]
        files = "it" if place in self._archives() else f"the files of {self.name}"
        return (
            f"put the published file there (from {self.url}), remove {files} from there to have them fetched anew, "
            "or give another dataset.root=FOLDER"
        )

    # ----------------------------------------------------------------------------------------------- read and verify

    def _contents(self, folder: Path) -> dict[str, Content]:
        return {name: self._content(self._path(folder, name), name) for name in self.names}

    def _content(self, path: Path, name: str) -> Content:
        """What `path` holds of the file `name`, verified."""
        content = np.fromfile(path, np.uint8)
        compare(path.parent, str(path), content, self.checksums[name])
        return content

    def _unpacked(self, archive: Path) -> dict[str, Content]:
        """The files inside an archive, verified; nothing is written."""
        inside = {f"{self.folder}/{name}": name for name in self.names}
        contents: dict[str, Content] = {}
        try:
            with tarfile.open(archive, "r:gz") as tar:
                for member in tar:
                    name = inside.get(member.name.removeprefix("./"))
                    file = tar.extractfile(member) if name and member.isfile() else None
                    if name and file:
                        contents[name] = np.frombuffer(bytearray(file.read()), np.uint8)
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            raise Wrong(archive, f"{archive} cannot be read ({error})") from error
        for path, name in inside.items():
            if name not in contents:
                raise Wrong(archive, f"{archive} must hold {path}")
            compare(archive, f"{archive}: {name}", contents[name], self.checksums[name])
        return contents

    # --------------------------------------------------------------------------------------------- download and keep

    def _download(self) -> Path:
        base = self.root or cache_folder()
        target = base / self.folder

        def fill(empty: Path) -> Path:
            with downloading():
                self.fetch(torchvision().datasets, empty)
            self._contents(empty / self.folder)
            return empty / self.folder

        log.warning("%s is not on this machine: downloading it into %s", self.name, target)
        try:
            install(target, base, self.name, fill, self._holds)
        except Exception as error:  # no network, a stalled or cut transfer, a wrong file, a full disk: one answer
            looked = ", ".join(map(str, [*self._folders(), *self._archives()]))
            files = self.archive or ", ".join(self.forms(name)[-1] for name in self.names)
            packages = "".join(f"{command}, or " for command in self.installed.values())
            raise DataError(
                f"{self.name} is in none of {looked}, and downloading it into {target} failed "
                f"({' '.join(str(error).split())}); {packages}put {files} (from {self.url}) into a folder and give "
                "dataset.root=FOLDER"
            ) from error
        return target

    def _keep(self, contents: Mapping[str, Content]) -> None:
        """Keep what was unpacked in the cache folder: the next start is quicker, and needs no root."""
        kept = cache_folder() / self.folder

        def fill(empty: Path) -> Path:
            for name, content in contents.items():
                content.tofile(empty / name)
            return empty

        try:
            install(kept, cache_folder(), self.name, fill, self._holds)
            log.info("%s: kept extracted in %s", self.name, kept)
        except OSError as error:
            log.warning("every start unpacks %s anew: %s cannot be written (%s)", self.name, kept, error)


def compare(place: Path, what: str, content: Content, expected: str) -> None:
    """Raise if the content is not what was published.

    Args:
        place: the folder or archive that holds it.
        what: names it in the message.
        expected: md5 or sha256.
    """
    kind = "md5" if len(expected) == 32 else "sha256"
    found = hashlib.new(kind, content.data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise Wrong(place, f"{what}: its {kind} must be {expected}, that of its {content.size:,} bytes is {found}")
