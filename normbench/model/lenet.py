"""LeNet-5 with rectifiers and max-pooling."""

from functools import partial

from torch import Tensor, nn

from normbench.model import Blocks, Initial, Model

__all__ = ["LeNet"]


class LeNet(Model):
    """Two 5x5 convolutions (6 and 16 channels), each with norm, activation and 2x2 max-pooling; layers of 120 and 84.

    Args:
        norm: normbench.norm.Norm, one layer after each convolution; the fully connected layers have none.
        input_shape: (C, H, W), H and W at least 16.
        num_classes: outputs of the head.
        activation, placement, bias: see normbench.model.Blocks.
        dropout: on the two fully connected layers.
        init, init_scale: see normbench.model.Initial.

    Shape:
        (N, C, H, W) -> (N, num_classes).

    Raises:
        ValueError: images too small, or as in Blocks and Initial.

    Source:
        LeCun, Bottou, Bengio & Haffner 1998, in today's form: max-pooling, full connection between the
        convolutions, no Gaussian connections at the end.
    """

    def __init__(
        self,
        norm,
        input_shape: tuple[int, ...],
        num_classes: int,
        activation: str = "relu",
        placement: str = "pre",
        bias: bool | str = "auto",
        dropout: float = 0.0,
        init: str = "default",
        init_scale: float = 1.0,
    ):
        super().__init__()
        self.initial = Initial(init, init_scale)
        channels, height, width = input_shape
        if min(height, width) < 16:
            raise ValueError(f"lenet needs images of at least 16 x 16, these are {height} x {width}; try model=mlp")
        conv = Blocks(norm, activation, placement, bias, dropout=0.0)
        full = Blocks(norm, activation, placement, bias, dropout)
        self.conv1 = conv("conv", partial(nn.Conv2d, channels, 6, 5), 6)
        self.conv2 = conv("conv", partial(nn.Conv2d, 6, 16, 5), 16)
        self.pool = nn.MaxPool2d(2)
        flat = 16 * self._after(height) * self._after(width)
        self.full1 = full("linear", partial(nn.Linear, flat, 120), 120, normalize=False)
        self.full2 = full("linear", partial(nn.Linear, 120, 84), 84, normalize=False)
        self.head = nn.Linear(84, num_classes)

    @staticmethod
    def _after(size: int) -> int:
        """Size of a picture after both convolutions and poolings."""
        return ((size - 4) // 2 - 4) // 2

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv1(x))
        x = self.pool(self.conv2(x))
        return self.head(self.full2(self.full1(x.flatten(1))))
