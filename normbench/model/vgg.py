"""VGG at any width."""

from functools import partial

from torch import Tensor, nn

from normbench.model import Blocks, Initial, Model

__all__ = ["VGG"]

# Kernel sizes of the convolutions of each of the five stages
CONFIGURATIONS = {
    "A": [[3], [3], [3, 3], [3, 3], [3, 3]],
    "B": [[3, 3], [3, 3], [3, 3], [3, 3], [3, 3]],
    "C": [[3, 3], [3, 3], [3, 3, 1], [3, 3, 1], [3, 3, 1]],
    "D": [[3, 3], [3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
}


class VGG(Model):
    """Five stages of 3x3 convolutions (w, 2w, 4w, 8w, 8w channels) with 2x2 max-pooling; two layers of 8w.

    Args:
        norm: normbench.norm.Norm, one layer for each convolution; the fully connected layers have none.
        input_shape: (C, H, W), any size; a pooling of an odd size keeps the last row or column.
        num_classes: outputs of the head.
        configuration: A, B, C or D: 8, 10, 13 or 13 convolutions (three of C's are 1x1).
        width: w, the channels of the first stage; 64 in the paper.
        activation, placement, bias: see normbench.model.Blocks.
        dropout: on the two fully connected layers.
        init, init_scale: see normbench.model.Initial.

    Shape:
        (N, C, H, W) -> (N, num_classes). 32x32 and 28x28 images end as 1x1.

    Raises:
        ValueError: another configuration, width < 1, or as in Blocks and Initial.

    Source:
        Simonyan & Zisserman 2015, arXiv 1409.1556, table 1. Differences, for small images: fully connected layers of
        8w instead of 4,096, as is usual on CIFAR-10.
    """

    def __init__(
        self,
        norm,
        input_shape: tuple[int, ...],
        num_classes: int,
        configuration: str = "A",
        width: int = 64,
        activation: str = "relu",
        placement: str = "pre",
        bias: bool | str = "auto",
        dropout: float = 0.0,
        init: str = "default",
        init_scale: float = 1.0,
    ):
        super().__init__()
        if configuration not in CONFIGURATIONS:
            raise ValueError(f"configuration must be A, B, C or D, got {configuration!r}")
        if width < 1:
            raise ValueError(f"width must be a whole number >= 1, got {width}; try model.width=64")
        self.initial = Initial(init, init_scale)
        conv = Blocks(norm, activation, placement, bias, dropout=0.0)
        full = Blocks(norm, activation, placement, bias, dropout)
        channels, height, size = input_shape
        self.stages = nn.ModuleList()
        for kernels, factor in zip(CONFIGURATIONS[configuration], (1, 2, 4, 8, 8), strict=True):
            layers = []
            for kernel in kernels:
                made = partial(nn.Conv2d, channels, width * factor, kernel, padding=kernel // 2)
                layers.append(conv("conv", made, width * factor))
                channels = width * factor
            self.stages.append(nn.Sequential(*layers))
            height, size = -(-height // 2), -(-size // 2)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.full1 = full("linear", partial(nn.Linear, channels * height * size, 8 * width), 8 * width, normalize=False)
        self.full2 = full("linear", partial(nn.Linear, 8 * width, 8 * width), 8 * width, normalize=False)
        self.head = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = self.pool(stage(x))
        return self.head(self.full2(self.full1(x.flatten(1))))
