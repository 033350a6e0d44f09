"""The coordinates along the principal directions, whitened."""

import torch
from torch import Tensor

from normbench.preprocess._whitening import Whitening

__all__ = ["PCA"]


class PCA(Whitening):
    """y_k = v_k (x - mean) / sqrt(lambda_k + eps), x = pixels / 255: vectors without correlations.

    lambda_k and v_k are the eigenvalues, falling, and eigenvectors of the training split's covariance; y_k has the
    variance lambda_k / (lambda_k + eps) there. The sign of v_k makes its largest entry positive. Directions in which
    no training image varies (lambda_k = 0 but for rounding) could be any: their y_k are 0.

    Args:
        components: how many of the y_k, from the first; 1 .. D = C H W. None: all D.
        eps: added to the variances, in units of x^2; > 0. Directions of less variance than that are held back: see
            zca.

    Shape:
        uint8 (N, C, H, W) -> float32 (N, components): no pictures, so that convolutions are refused. Its buffers,
        and with them each checkpoint, take 4 (components + 1) D bytes: 2.5 MB for all of 28x28, 38 MB of 3x32x32.

    Raises:
        ValueError: components not in 1 .. D, eps not a number > 0, images of more than 8,192 numbers.

    Source:
        Kessy, Lewin & Strimmer 2018, arXiv 1512.00809 (PCA whitening); eps as in zca.
    """

    def __init__(self, components: int | None = None, eps: float = 0.1):
        super().__init__(eps)
        whole = isinstance(components, int) and not isinstance(components, bool)
        if components is not None and not (whole and components >= 1):
            raise ValueError(
                f"components must be a whole number >= 1 or null, got {components!r}; try preprocess.components=50"
            )
        self.components = components

    def rotated(self, variances: Tensor, directions: Tensor) -> Tensor:
        count = len(variances) if self.components is None else self.components
        if count > len(variances):
            raise ValueError(
                f"components must be at most {len(variances):,}, the numbers of an image, got {count:,}; "
                "try preprocess.components=null, which is all of them"
            )
        rounding = variances[0] * len(variances) * torch.finfo(variances.dtype).eps
        scale = torch.where(variances > rounding, (variances + self.eps).rsqrt(), 0)
        return (directions * scale).T[:count]
