"""Mean 0, standard deviation 1."""

import math

import torch
from torch import Tensor

from normbench.preprocess import Preprocess

__all__ = ["Standardize"]


class Standardize(Preprocess):
    """(x - mean) / (sd + eps), x = pixels / 255, with mean and sd measured on the training split.

    Args:
        per: `channel`: one mean and sd for each channel; `pixel`: for each pixel of each channel.
        eps: added to sd, in units of x; > 0. It keeps pixels that never change at 0.

    Shape:
        uint8 (N, C, H, W) -> float32, kept.

    Raises:
        ValueError: another `per`, or eps not a number > 0.

    Source:
        LeCun, Bottou, Orr & Mueller 1998, "Efficient BackProp", section 4.3.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, per: str = "channel", eps: float = 1e-3):
        super().__init__()
        if per not in ("channel", "pixel"):
            raise ValueError(f"per must be channel or pixel, got {per!r}")
        if not (eps > 0 and math.isfinite(eps)):
            raise ValueError(f"eps must be a number > 0, got {eps}; try preprocess.eps=1e-3")
        self.per, self.eps = per, eps
        self.register_buffer("scale", torch.empty(0))
        self.register_buffer("shift", torch.empty(0))

    def fit(self, images: Tensor) -> None:
        dims = (0, 2, 3) if self.per == "channel" else (0,)
        total = torch.zeros(())
        square = torch.zeros(())
        for chunk in images.split(4096):  # float64 sums of a data set that may be large
            x = chunk.double() / 255
            total = total + x.sum(dims, keepdim=True)
            square = square + (x * x).sum(dims, keepdim=True)
        count = images.numel() // total.numel()
        mean = total / count
        sd = (square / count - mean * mean).clamp_min(0).sqrt()
        self.scale = (1 / (255 * (sd + self.eps))).float()  # on pixels: x scale + shift
        self.shift = (-mean / (sd + self.eps)).float()

    def forward(self, images: Tensor) -> Tensor:
        return images.to(torch.float32, copy=True).mul_(self.scale).add_(self.shift)
