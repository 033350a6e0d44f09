"""Whitened pictures."""

from torch import Tensor

from normbench.preprocess._whitening import Whitening

__all__ = ["ZCA"]


class ZCA(Whitening):
    """y = (Sigma + eps)^(-1/2) (x - mean), x = pixels / 255: of all whitened images those nearest to x.

    That is pca with all components, rotated back: Sigma = V diag(lambda) V^T is the training split's covariance, and
    the variance of y along v_k is lambda_k / (lambda_k + eps) there.

    Args:
        eps: added to the variances, in units of x^2; > 0. Directions of less variance than that are held back, which
            in pictures are the fine ones and noise. 0.1 is chosen on Fashion-MNIST, where 53 of the 784 variances are
            above it: edges without a grain, and mlp and lenet validate better with it than with 1e-2 and 1e-3.

    Shape:
        uint8 (N, C, H, W) -> float32, kept. Its buffers, and with them each checkpoint, take 4 (D + 1) D bytes,
        D = C H W: 2.5 MB for 28x28, 38 MB for 3x32x32.

    Raises:
        ValueError: eps not a number > 0, images of more than 8,192 numbers.

    Source:
        Kessy, Lewin & Strimmer 2018, arXiv 1512.00809; for pictures Krizhevsky 2009, "Learning multiple layers of
        features from tiny images", appendix A, without eps.
    """

    def __init__(self, eps: float = 0.1):
        super().__init__(eps)

    def rotated(self, variances: Tensor, directions: Tensor) -> Tensor:
        return (directions * (variances + self.eps).rsqrt()) @ directions.T

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).view(images.shape)
