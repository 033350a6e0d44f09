"""A small convolutional network of four convolutions."""

import itertools
from functools import partial

from torch import Tensor, nn

from normbench.model import Blocks, Initial, Model

__all__ = ["CNN"]


class CNN(Model):
    """Two pairs of 3x3 convolutions (32, 32 and 64, 64 channels), each pair with 2x2 max-pooling; a layer of 512.

    Args:
        norm: normbench.norm.Norm, one layer for each convolution and one for the fully connected layer.
        input_shape: (C, H, W), H and W at least 4.
        num_classes: outputs of the head.
        activation, placement, bias: see normbench.model.Blocks.
        dropout: on the fully connected layer.
        norm_full: false: no norm on the fully connected layer, for norms that need positions.
        init, init_scale: see normbench.model.Initial.

    Shape:
        (N, C, H, W) -> (N, num_classes). Convolutions keep the size, each pooling halves it.

    Raises:
        ValueError: images too small, or as in Blocks and Initial.

    Source:
        Document 001, section 4.2, whose Keras code normalizes after the activation (placement=post).
    """

    def __init__(
        self,
        norm,
        input_shape: tuple[int, ...],
        num_classes: int,
        activation: str = "relu",
        placement: str = "pre",
        bias: bool | str = "auto",
        dropout: float = 0.5,
        norm_full: bool = True,
        init: str = "default",
        init_scale: float = 1.0,
    ):
        super().__init__()
        channels, height, width = input_shape
        if min(height, width) < 4:
            raise ValueError(f"cnn needs images of at least 4 x 4, these are {height} x {width}; try model=mlp")
        self.initial = Initial(init, init_scale)
        conv = Blocks(norm, activation, placement, bias, dropout=0.0)
        full = Blocks(norm, activation, placement, bias, dropout)
        widths = [channels, 32, 32, 64, 64]
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            conv("conv", partial(nn.Conv2d, n_in, n_out, 3, padding=1), n_out)
            for n_in, n_out in itertools.pairwise(widths)
        )
        self.pool = nn.MaxPool2d(2)
        self.full = full("linear", partial(nn.Linear, 64 * (height // 4) * (width // 4), 512), 512, normalize=norm_full)
        self.head = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv2(self.conv1(x)))
        x = self.pool(self.conv4(self.conv3(x)))
        return self.head(self.full(x.flatten(1)))
