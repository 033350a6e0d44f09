"""The data of a run on its device: split into training, validation and test, and kept for the runs that share it."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from normbench import streams
from normbench.config import ConfigError, RunConfig
from normbench.dataset import Data
from normbench.parts import maker_of, part

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Resident:
    """The data set on the device: images uint8 (N, C, H, W), labels int64 (N,).

    `train_eval` is a fixed part of `train`, as large as `val` and balanced like it (all of `train`, where that is
    smaller): evaluated beside it, it tells what the network has learned from what it can do.
    """

    train: "tuple[Tensor, Tensor]"
    train_eval: "tuple[Tensor, Tensor]"
    val: "tuple[Tensor, Tensor]"
    test: "tuple[Tensor, Tensor]"
    classes: tuple[str, ...]
    fingerprint: str
    masked: bool = False

    def sample(self) -> "Tensor":
        """Two training images, to try a network on; where images have padding, those that have the most of it."""
        images = self.train[0]
        return images[images[:, -1].flatten(1).count_nonzero(1).argsort()[:2]] if self.masked else images[:2]

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train[0].shape[1:])


def resident(config: RunConfig, device: "torch.device") -> Resident:
    """The data of this run; runs of one process that use the same data share them."""
    return _resident(json.dumps(config.dataset, sort_keys=True), config.val_fraction, config.data_seed, str(device))


@lru_cache(maxsize=1)
def _resident(settings: str, val_fraction: float, data_seed: int, device: str) -> Resident:
    import torch

    group = json.loads(settings)
    data: Data = part("dataset", group).load()
    labels, size = data.train_labels, _train_size(group)
    try:
        train, val = streams.split(labels, val_fraction, data_seed)
        if size is None:
            share = min(0.5, len(val) / len(train))
            train_eval = train[streams.split(labels[train], share, data_seed)[1]]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if size is not None:
        _check_train_size(size, labels[train], len(labels), val_fraction)
        train = train[stratified(labels[train], size, data_seed)]
        train_eval = train[stratified(labels[train], min(len(val), size), data_seed)]

    def take(images: np.ndarray, labels: np.ndarray, index: np.ndarray | slice = slice(None)):
        return torch.tensor(images[index], device=device), torch.tensor(labels[index], device=device)

    return Resident(
        train=take(data.train_images, data.train_labels, train),
        train_eval=take(data.train_images, data.train_labels, train_eval),
        val=take(data.train_images, data.train_labels, val),
        test=take(data.test_images, data.test_labels),
        classes=data.classes,
        fingerprint=data.fingerprint,
        masked=data.masked,
    )


def _train_size(settings: Mapping[str, Any]) -> Any:
    """The number of training images to keep, or None: all, or a class that has a train_size of its own."""
    try:
        its_own = "train_size" in inspect.signature(maker_of("dataset", settings["_target_"])).parameters
    except (ValueError, TypeError):  # a class without a signature: parts.arguments_of gives it none of our keys
        its_own = False
    return None if its_own else settings.get("train_size")


def _check_train_size(size: Any, labels: npt.NDArray[np.int64], count: int, val_fraction: float) -> None:
    classes = len(np.unique(labels))
    if isinstance(size, bool) or not isinstance(size, int) or not classes <= size <= len(labels):
        raise ConfigError(
            f"dataset.train_size must be null or a whole number from {classes:,}, one image of each class, to "
            f"{len(labels):,}, what val_fraction={val_fraction} leaves of {count:,}; got {size!r}; try "
            f"dataset.train_size={max(classes, len(labels) // 10)}"
        )


def stratified(labels: npt.NDArray[np.int64], size: int, data_seed: int) -> npt.NDArray[np.int64]:
    """Indices, in rising order, of `size` images drawn from data_seed: of each class its share, and at least one.

    A larger part contains the smaller ones: the images stand in one order, in which the classes are mixed as evenly
    as can be, and the first `size` are taken.
    """
    drawn = np.random.default_rng(streams.derive(data_seed, "train_size")).permutation(len(labels))
    place = np.empty(len(labels))  # of an image in its class, in [0, 1)
    for label in np.unique(labels):
        members = drawn[labels[drawn] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
        place[members[0]] = 0
    return np.sort(drawn[np.argsort(place[drawn], kind="stable")][:size])
