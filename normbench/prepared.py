"""The preprocessing of a run, fitted, and the images it makes: each kept where it is dear to make.

A kept fit is a file of preprocess/ in the user's cache folder, named after everything that it depends on.
"""

import hashlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normbench import records
from normbench.dataset import DataError, cache_folder, fingerprint_of
from normbench.parts import is_known
from normbench.resident import Resident

log = logging.getLogger("normbench")

CHUNK = 1024  # images that are transformed at once
ON_A_GPU = 2**28  # numbers of a training split

Floats = dict[str, tuple[Tensor, Tensor]]  # by split: its images, and what was made from them


@dataclass
class Inputs:
    """The images of a run as its batches take them, and the way from there to what the network takes.

    Where the preprocessing is applied once, a split's floats are made when they are first asked for and kept for the
    runs of this process that use the same: 4 bytes a number, beside the 1 of uint8 (all splits of Fashion-MNIST
    240 MB, of CIFAR-10 800 MB). The training split is kept so only if no augmentation changes its images. So
    is any of normbench's own on a GPU, up to ON_A_GPU numbers: a batch of a stack is moved once in place of four times.
    """

    data: Resident
    preprocess: nn.Module  # fitted, on the data's device
    augmented: bool
    floats: Floats | None  # None: every batch is transformed

    def split(self, name: str) -> tuple[Tensor, Tensor]:
        """Images and labels of train, train_eval, val or test; the images are uint8, or floats made beforehand."""
        images, labels = getattr(self.data, name)
        if self.floats is None or (self.augmented and name == "train"):
            return images, labels
        made_from, made = self.floats.get(name, (None, None))
        if made is None or made_from is not images:  # other data may have the same training images
            made = _transformed(self.preprocess, images)
            self.floats[name] = images, made
        return made, labels

    def transform(self, images: Tensor) -> Tensor:
        """What the network takes, from images of a split."""
        return images if images.is_floating_point() else self.preprocess(images)


@torch.inference_mode(False)  # floats made in it, by an evaluation, could not be trained on
@torch.no_grad()
def _transformed(preprocess: nn.Module, images: Tensor) -> Tensor:
    one = preprocess(images[:1])
    made = one.new_empty((len(images), *one.shape[1:]))
    for part, chunk in zip(made.split(CHUNK), images.split(CHUNK), strict=True):
        part.copy_(preprocess(chunk))
    return made


# ------------------------------------------------------------------------------------------------------------ fits


@dataclass
class _Kept:
    state: Mapping[str, Tensor] | None = None
    floats: Floats = field(default_factory=dict)


@lru_cache(maxsize=1)
def _kept(key: str, device: str) -> _Kept:
    """What the latest run of this process left for the next one."""
    return _Kept()


def fit(preprocess: Any, settings: Mapping[str, Any], images: Tensor) -> Floats | None:
    """Fit the preprocessing on the training split's images; it is on the CPU then.

    Args:
        preprocess: an object of its class (normbench.preprocess.Preprocess).
        settings: that it was made from.
        images: uint8 (N, C, H, W).

    Returns:
        The place for Inputs.floats, if it is to be applied once, or on a GPU; floats of an earlier run of the process
        may be there.
    """
    made_from = {k: v for k, v in settings.items() if k != "name"}
    if not getattr(preprocess, "once", False):
        floats = _fit_or_recall(preprocess, json.dumps(made_from, sort_keys=True), images)
        return floats if images.is_cuda and images.numel() <= ON_A_GPU and is_known("preprocess", settings) else None
    version = getattr(preprocess, "version", None)
    measured = fingerprint_of(images.cpu().numpy())  # the very images: data set, split and seeds are all in them
    what = [version, made_from, str(torch.__version__), measured]
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]
    kept = _kept(key, str(images.device))
    path = None if version is None else _place(f"{key}.pt")
    state = kept.state or (path and _read(path))
    if state:
        put(preprocess, state)
    else:
        _fit(preprocess, images)
        state = preprocess.state_dict()
        if path:
            _write(path, state)
    kept.state = state
    return kept.floats


def _place(name: str) -> Path | None:
    try:
        return cache_folder() / "preprocess" / name
    except DataError as error:
        log.warning("every start fits the preprocessing anew: %s", error)
        return None


_latest: dict[str, tuple[Tensor, _Kept]] = {}  # by its settings: the images, and what was made of them


def _fit_or_recall(preprocess: Any, settings: str, images: Tensor) -> Floats:
    """Runs of one process that follow each other have the same images, as a rule, and need not measure them anew."""
    before, kept = _latest.get(settings, (None, _Kept()))
    if before is images and kept.state:  # a class with nothing in its buffers keeps it elsewhere
        put(preprocess, kept.state)
        return kept.floats
    _fit(preprocess, images)
    _latest.clear()
    _latest[settings] = images, _Kept(preprocess.state_dict())
    return _latest[settings][1].floats


def _fit(preprocess: Any, images: Tensor) -> None:
    preprocess.fit(images)
    preprocess.cpu()  # what is measured on a GPU lies there, and the network is tried on the CPU


def put(preprocess: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a preprocessing what another one of its class and settings measured."""
    for name, value in state.items():
        owner, _, last = name.rpartition(".")
        preprocess.get_submodule(owner).register_buffer(last, value)


def _read(path: Path) -> dict[str, Tensor] | None:
    """None where there is no kept fit or a damaged one."""
    try:
        return torch.load(io.BytesIO(records.unseal(path)), weights_only=True)
    except Exception as error:  # bytes of any kind can stand there, and torch's reader raises as many kinds
        if os.path.exists(path):  # not Path.exists, which may raise
            log.warning("%s: it is moved aside, the preprocessing is fitted anew", error)
            with suppress(OSError):
                path.replace(path.with_suffix(".damaged"))
        return None


def _write(path: Path, state: Mapping[str, Tensor]) -> None:
    buffer, temporary = io.BytesIO(), None
    torch.save(state, buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a name of its own, since another process may write the same; no fsync: every reading compares the checksum
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.stem, suffix=".tmp", delete=False) as file:
            temporary = file.name
            file.write(records.seal(buffer.getvalue()))
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)
        log.warning("every start fits the preprocessing anew: %s cannot be written (%s)", path, error)
