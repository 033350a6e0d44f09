"""The loop that most tutorials teach, in the manner of main.py of pytorch/examples' mnist (commit 77f55b9).

One PIL image after another through ToTensor and Normalize, a DataLoader without workers, the optimizer as it comes,
and the loss read every ten batches. Written anew; unlike there, the network, the data and Adam are those of the run
that it is compared with, nothing is printed, and the last partial batch counts as a whole one in its favour.
"""

import time

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from normbench._torchvision import torchvision

LOG_INTERVAL = 10


class Pictures(Dataset):
    """Grey uint8 images (N, 1, H, W), handed out as torchvision's MNIST does it: from array to PIL image to tensor."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], mean: float, sd: float):
        transforms = torchvision().transforms
        self.images, self.labels = images[:, 0], labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((mean,), (sd,))])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def train(model: nn.Module, pictures: Pictures, *, batch_size: int, lr: float, steps: int, warm_up: int = 0) -> float:
    """Seconds that `steps` steps take, after `warm_up` steps that are not counted."""
    loader = DataLoader(pictures, batch_size=batch_size, shuffle=True, num_workers=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    loss_fn = nn.CrossEntropyLoss()
    device = next(model.parameters()).device
    step, started = 0, time.perf_counter()
    while True:
        model.train()
        for batch, (x, y) in enumerate(loader):
            x, y = x.to(device), y.to(device)
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            if batch % LOG_INTERVAL == 0:
                loss.item()
            step += 1
            if step == warm_up:
                started = time.perf_counter()
            if step == warm_up + steps:
                return time.perf_counter() - started
