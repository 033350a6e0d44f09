"""A multilayer perceptron."""

from collections.abc import Sequence
from functools import partial
from math import prod

from torch import Tensor, nn

from normbench.model import Blocks, Initial, Model

__all__ = ["MLP"]


class MLP(Model):
    """Fully connected hidden layers, each with norm, activation and dropout, and a linear head.

    Args:
        norm: normbench.norm.Norm, one layer for each hidden layer.
        input_shape: (C, H, W); the images are flattened to C H W values.
        num_classes: outputs of the head.
        hidden: widths of the hidden layers; empty: a linear classifier.
        activation, placement, bias, dropout: see normbench.model.Blocks.
        init, init_scale: see normbench.model.Initial.

    Shape:
        (N, C, H, W) -> (N, num_classes).

    Raises:
        ValueError: a width that is not a whole number >= 1, or as in Blocks and Initial.
    """

    def __init__(
        self,
        norm,
        input_shape: tuple[int, ...],
        num_classes: int,
        hidden: Sequence[int] = (64,),
        activation: str = "relu",
        placement: str = "pre",
        bias: bool | str = "auto",
        dropout: float = 0.0,
        init: str = "default",
        init_scale: float = 1.0,
    ):
        super().__init__()
        self.initial = Initial(init, init_scale)
        if not all(isinstance(width, int) and width >= 1 for width in hidden):
            raise ValueError(f"hidden must be a list of whole numbers >= 1, got {list(hidden)}; try model.hidden=[64]")
        block = Blocks(norm, activation, placement, bias, dropout)
        widths = [prod(input_shape), *hidden]
        self.blocks = nn.Sequential(
            *(block("linear", partial(nn.Linear, n_in, n_out), n_out) for n_in, n_out in zip(widths, hidden))  # noqa: B905
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x.flatten(1)))
