"""The contract of a preprocessing: an `nn.Module` that makes floats for the network from uint8 images.

`fit(images)` is called once with the training split's uint8 images (N, C, H, W); what it measures lies in buffers,
so that it travels with the checkpoint. `forward` maps a uint8 batch (N, C, H, W) to float32, batch by batch.
"""

from torch import Tensor, nn


class Preprocess(nn.Module):
    """Base class; nothing to fit."""

    def fit(self, images: Tensor) -> None:
        """Measure what is needed on the training split's images, uint8 (N, C, H, W)."""
