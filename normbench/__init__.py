"""normbench: does a normalization, an optimizer or a clipping rule help? Honest comparisons from the shell."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

__version__ = "0.1.0"


def load(folder: "str | Path", trust_code: bool = False) -> "nn.Module":
    """Give back the trained network of a finished (or paused) run, in evaluation mode, on the CPU.

    Args:
        folder: a run folder, `results/<name>/<run_id>`.
        trust_code: import the classes that the run names even if they are neither normbench's nor torch's.

    Returns:
        The network. It takes preprocessed images; `network.preprocess(uint8_images)` makes them from
        uint8 images (N, C, H, W) as the data set stores them; `network.classes` names its outputs.

    Raises:
        normbench.records.Damaged: a file of the folder is missing, torn, altered, or holds no trained weights.
        PermissionError: the run used code of somebody's own, and trust_code is not set.
    """
    from normbench.checkpoint import load as load_checkpoint  # torch is imported only when it is needed

    return load_checkpoint(folder, trust_code)
