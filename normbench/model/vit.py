"""A small vision transformer."""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.model import ACTIVATIONS, Model

__all__ = ["ViT"]


class ViT(Model):
    """Patches as tokens, `depth` blocks of self-attention and a two-layer mlp, the mean over the tokens, a linear head.

        x = patches @ W + b + position                                              T tokens of D values
        pre:  x = x + attention(norm(x)), x = x + mlp(norm(x)); after the last block x = norm(x)
        post: x = norm(x + attention(x)), x = norm(x + mlp(x))
        attention(x) = concatenated heads softmax(q k^T / sqrt(D / heads)) v, times W_out; (q, k, v) = x W_qkv
        mlp(x) = activation(x W_up) W_down

    Tokens are normalized one by one: (N, T, D) goes through the norm's layer as (N T, D), as if every token were a
    sample. So `ln` is the transformer's own LayerNorm(D) and `rms` its RMSNorm; the batch statistics of `bn` are over
    N and T, and a `norm.ghost_size` counts tokens. Norms that need positions (in, frn) are refused.

    Args:
        norm: normbench.norm.Norm, two layers for each block, and one more for placement=pre. Where it
            reparametrizes weights, these are the blocks' linear layers.
        input_shape: (C, H, W).
        num_classes: outputs of the head.
        patch: P, the side of a patch; must divide H and W. T = H W / P^2.
        dim: D, the values of a token.
        depth: number of blocks.
        heads: of the attention; must divide D.
        mlp_ratio: the mlp's inner layer has mlp_ratio D units.
        placement: `pre`: norm before each branch; `post`: after the sum of branch and shortcut.
        activation: a key of normbench.model.ACTIVATIONS.
        dropout: probability of dropping a unit, in [0, 1): of the tokens with their positions, of each branch's output
            and of the mlp's inner layer; none on the attention's weights.

    Shape:
        (N, C, H, W) -> (N, num_classes).

    Raises:
        ValueError: a patch that does not divide the images, heads that do not divide dim, a number < 1, a choice that
            does not exist, or dropout out of range.

    Source:
        Dosovitskiy et al. 2021, arXiv 2010.11929, eq. 1 to 4 and appendix B.1; post: Vaswani et al. 2017, arXiv
        1706.03762, section 3.1; the two compared: Xiong et al. 2020, arXiv 2002.04745, table 1. Differences: the mean
        over the tokens instead of a class token; weights start as torch's layers draw themselves, positions normal
        with standard deviation 0.02; far smaller, for small images.
    """

    def __init__(
        self,
        norm,
        input_shape: tuple[int, ...],
        num_classes: int,
        patch: int = 4,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: int = 2,
        placement: str = "pre",
        activation: str = "gelu",
        dropout: float = 0.0,
    ):
        super().__init__()
        sizes = {"patch": patch, "dim": dim, "depth": depth, "heads": heads, "mlp_ratio": mlp_ratio}
        for key, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{key} must be a whole number >= 1, got {value}; try model.{key}=4")
        channels, height, width = input_shape
        if height % patch or width % patch:
            fits = max(p for p in range(1, patch + 1) if height % p == 0 and width % p == 0)
            raise ValueError(
                f"patch must divide the height and the width of the images, got patch={patch} for {height} x {width}; "
                f"try model.patch={fits}"
            )
        if dim % heads:
            raise ValueError(f"heads must divide dim={dim}, got {heads}; try model.heads={math.gcd(heads, dim)}")
        if placement not in ("pre", "post"):
            raise ValueError(f"placement must be pre or post (norm before each branch or after it), got {placement!r}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}; try model.dropout=0.1")
        self.tokens = (height // patch) * (width // patch)
        self.embed = nn.Conv2d(channels, dim, patch, stride=patch)
        self.position = _Position(self.tokens, dim)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        block = {"heads": heads, "mlp_ratio": mlp_ratio, "placement": placement, "activation": activation}
        self.blocks = nn.Sequential(*(_Block(norm, self.tokens, dim, dropout=dropout, **block) for _ in range(depth)))
        self.norm = norm.layer(dim) if placement == "pre" else nn.Identity()
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.position(self.embed(x).flatten(2).transpose(1, 2))
        x = self.norm(self.blocks(self.dropout(x.flatten(0, 1))))
        return self.head(x.unflatten(0, (-1, self.tokens)).mean(1))


class _Position(nn.Module):
    """x + weight: (N, T, D), a learned vector for each of the T positions."""

    def __init__(self, tokens: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class _Block(nn.Module):
    """(N T, D), kept. All linear layers see rows, so that a norm's start on the first batch can tell the units."""

    def __init__(
        self,
        norm,
        tokens: int,
        dim: int,
        *,
        heads: int,
        mlp_ratio: int,
        placement: str,
        activation: str,
        dropout: float,
    ):
        super().__init__()
        self.is_pre = placement == "pre"
        self.attention = _Attention(norm, tokens, dim, heads)
        layers: list[tuple[str, nn.Module]] = [
            ("up", norm.reparametrize(nn.Linear(dim, mlp_ratio * dim))),
            ("activation", ACTIVATIONS[activation]()),
            ("dropout", nn.Dropout(dropout)),
            ("down", norm.reparametrize(nn.Linear(mlp_ratio * dim, dim))),
        ]
        self.mlp = nn.Sequential(OrderedDict((name, layer) for name, layer in layers if dropout or name != "dropout"))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.norm1, self.norm2 = norm.layer(dim), norm.layer(dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_pre:
            x = x + self.dropout(self.attention(self.norm1(x)))
            return x + self.dropout(self.mlp(self.norm2(x)))
        x = self.norm1(x + self.dropout(self.attention(x)))
        return self.norm2(x + self.dropout(self.mlp(x)))


class _Attention(nn.Module):
    """Self-attention among the T tokens of each sample: (N T, D), kept."""

    def __init__(self, norm, tokens: int, dim: int, heads: int):
        super().__init__()
        self.split = (tokens, 3, heads, dim // heads)
        self.qkv = norm.reparametrize(nn.Linear(dim, 3 * dim))
        self.out = norm.reparametrize(nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).view(-1, *self.split)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (N, heads, T, D / heads)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
