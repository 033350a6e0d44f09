"""The squared error of the softmax."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SquaredError"]


class SquaredError(nn.Module):
    """1/2 sum_k (p_k - y_k)^2 with p = softmax(z), and the mean over the batch.

    Its gradient to z_j is p_j (e_j - sum_k p_k e_k), e = p - y. Where p is near a corner it vanishes, near a wrong one,
    too: there p_j is 0 for every class but one, and the bracket for that one. cross_entropy's is e_j itself.

    Args:
        label_smoothing: y is 1 - label_smoothing at the label, plus label_smoothing / K everywhere; in [0, 1).

    Shape:
        Logits z (N, K) and labels (N,) to a scalar, computed in float32 at least.

    Raises:
        ValueError: label_smoothing out of range.

    Source:
        The quadratic cost of document 004, 7.9.3, as in Nielsen 2015, neuralnetworksanddeeplearning.com, chapter 3.
        Smoothing: Szegedy et al. 2016, arXiv 1512.00567, section 7, as in torch.nn.CrossEntropyLoss.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"label_smoothing must be a number >= 0 and < 1, got {label_smoothing}; try loss.label_smoothing=0.1"
            )
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        p = logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
        share = self.label_smoothing / p.shape[1]
        y = torch.full_like(p, share).scatter_(1, labels.unsqueeze(1), 1 - self.label_smoothing + share)
        return F.mse_loss(p, y, reduction="sum") / (2 * len(p))
