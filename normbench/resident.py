"""The data of a run on its device: split into training, validation and test, and kept for the runs that share it."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from normbench import streams
from normbench.config import ConfigError, RunConfig
from normbench.dataset import Data
from normbench.parts import part

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Resident:
    """The data set on the device: images uint8 (N, C, H, W), labels int64 (N,).

    `train_eval` is a fixed part of `train`, as large as `val` and balanced like it: evaluated beside it, it tells
    what the network has learned from what it can do.
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

    data: Data = part("dataset", json.loads(settings)).load()
    try:
        train, val = streams.split(data.train_labels, val_fraction, data_seed)
        share = min(0.5, len(val) / len(train))
        train_eval = train[streams.split(data.train_labels[train], share, data_seed)[1]]
    except ValueError as error:
        raise ConfigError(str(error)) from None

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
