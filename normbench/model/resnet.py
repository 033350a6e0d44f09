"""The residual network for small images."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.model import ACTIVATIONS, Blocks, Model

__all__ = ["ResNet"]


class ResNet(Model):
    """Three stages of (depth - 2) / 6 residual blocks, (w, 2w, 4w) channels, global average pooling.

        block(x) = activation(shortcut(x) + norm(conv(activation(norm(conv(x))))))

    A stage after the first begins with stride 2; the shortcut then drops every second row and column and adds
    channels of zeros (option A: no parameters). Convolutions are 3x3.

    Without normalization such a network's activations double in variance at every block. Where the norm puts no
    layer after the convolutions (none, wn, ws with num_groups=0), the branch therefore ends in one learned number,
    zero at the start (SkipInit): block(x) = activation(shortcut(x) + alpha branch(x)), and the network starts as its
    shortcuts.

    Args:
        norm: normbench.norm.Norm, one layer for each convolution.
        input_shape: (C, H, W), any size.
        num_classes: outputs of the head.
        depth: 6 n + 2 with n >= 1: weight layers in all; 20, 32, 44, 56, 110 in the paper.
        width: w, the channels of the first stage; 16 in the paper.
        activation: a key of normbench.model.ACTIVATIONS.
        bias: of the convolutions; see normbench.model.Blocks.

    Shape:
        (N, C, H, W) -> (N, num_classes).

    Raises:
        ValueError: a depth that is not 6 n + 2, width < 1, or as in Blocks.

    Source:
        He, Zhang, Ren & Sun 2015, arXiv 1512.03385, section 4.2; without norm: De & Smith 2020, arXiv 2002.10444,
        section 3. Convolutions start from He's normal distribution (arXiv 1502.01852), as there.
    """

    def __init__(
        self,
        norm,
        input_shape: tuple[int, ...],
        num_classes: int,
        depth: int = 20,
        width: int = 16,
        activation: str = "relu",
        bias: bool | str = "auto",
    ):
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            near = max(8, round((depth - 2) / 6) * 6 + 2)
            raise ValueError(f"depth must be 6 n + 2 (8, 14, 20, 32, ...), got {depth}; try model.depth={near}")
        if width < 1:
            raise ValueError(f"width must be a whole number >= 1, got {width}; try model.width=16")
        block = Blocks(norm, activation, "pre", bias, dropout=0.0)
        self.stem = block("conv", partial(nn.Conv2d, input_shape[0], width, 3, padding=1), width)
        channels, stages = width, []
        for factor in (1, 2, 4):
            for number in range((depth - 2) // 6):
                stride = 2 if number == 0 and factor > 1 else 1
                stages.append(_Residual(block, channels, width * factor, stride))
                channels = width * factor
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(channels, num_classes)

    def draw(self, layer: nn.Module) -> None:
        if not isinstance(layer, nn.Conv2d):
            super().draw(layer)
        else:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class _Residual(nn.Module):
    def __init__(self, block: Blocks, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.stride, self.new_channels = stride, n_out - n_in
        self.first = block("conv", partial(nn.Conv2d, n_in, n_out, 3, stride, padding=1), n_out)
        self.second = block("conv", partial(nn.Conv2d, n_out, n_out, 3, padding=1), n_out, activate=False)
        self.activation = ACTIVATIONS[block.activation]()
        is_normalized = len(self.second) > 1  # more than the convolution
        self.alpha = None if is_normalized else nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.second(self.first(x))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            x = F.pad(x, (0, 0, 0, 0, 0, self.new_channels))
        return self.activation(x + (branch if self.alpha is None else self.alpha * branch))
