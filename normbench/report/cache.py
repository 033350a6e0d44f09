"""What was read of ended runs, kept beside a report so that the next one parses only what is new.

It can't go stale: a run is looked up by the sha256 of the bytes of its run.json, which itself holds the sha256 of the
run's other files, and all of these are read and compared each time. What is saved is the parsing alone.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from normbench import __version__, config, records

NAME = ".runs.cache"
FEWEST = 500  # runs; fewer are parsed sooner than anyone notices
Read = tuple[dict[str, Any], np.ndarray]  # a row of runs.csv, and the rows of metrics.csv


class Cache:
    """sha256 of a run.json -> what was read of its folder. The file may be deleted at any time."""

    def __init__(self, path: Path):
        """Empty where there is no file, or one that is damaged or was written by other code."""
        self.path, self.known, self.found = path, {}, {}
        try:
            data = path.read_bytes()
        except OSError:
            return
        seal, body = data[: hashlib.sha256().digest_size], memoryview(data)[hashlib.sha256().digest_size :]
        if seal == _seal(body):
            self.known = _unpacked(body)

    def write(self) -> None:
        """Keep what was found this time, if that differs from what was known; nothing where it is little.

        Raises:
            OSError: the folder can't be written.
        """
        if len(self.found) < FEWEST:
            self.path.unlink(missing_ok=True)
        elif self.found.keys() != self.known.keys():
            body = _packed(self.found)
            temporary = self.path.with_name(f".{self.path.name}.tmp")
            with open(temporary, "wb") as file:  # not synced: it need not survive a power cut
                file.write(_seal(memoryview(body)))
                file.write(body)
            os.replace(temporary, self.path)


def _seal(body: memoryview) -> bytes:
    """Of these bytes as they are understood by this code."""
    digest = hashlib.sha256(__version__.encode())
    for source in (__file__, records.__file__, config.__file__, Path(__file__).with_name("collect.py")):
        digest.update(Path(source).read_bytes())
    digest.update(body)
    return digest.digest()


def _packed(found: Mapping[str, Read]) -> bytes:
    head = json.dumps([[key, run, len(rows)] for key, (run, rows) in found.items()]).encode()
    with io.BytesIO() as file:
        np.save(file, np.frombuffer(head, np.uint8), allow_pickle=False)
        np.save(file, np.concatenate([rows for _, rows in found.values()]), allow_pickle=False)
        return file.getvalue()


def _unpacked(body: memoryview) -> dict[str, Read]:
    with io.BytesIO(body) as file:
        head = json.loads(np.load(file, allow_pickle=False).tobytes())
        table = np.load(file, allow_pickle=False)
    ends = np.cumsum([count for *_, count in head])
    return {key: (run, table[end - count : end]) for (key, run, count), end in zip(head, ends, strict=True)}
