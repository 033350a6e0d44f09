"""P0, the loop that most tutorials teach, in the manner of main.py of pytorch/examples' mnist (commit 77f55b9).

One PIL image after another through ToTensor and Normalize, a DataLoader (no workers on the CPU; on CUDA one, with
pinned memory, as there), the optimizer as it comes, the loss read every ten batches, evaluations that read every batch.
Written anew; other than there, the network, the optimizer and the number of epochs are those of all peers, the last
partial batch is dropped, and nothing is printed.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import networks
import numpy as np
import torch
import torch.nn.functional as F
from contract import Clock, Job, Result, main
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

LOG_INTERVAL = 10


def torchvision():
    """The package, with the help that it needs beside a CPU-only torch; see normbench/_torchvision.py."""
    path = Path(__file__).resolve().parents[2] / "normbench" / "_torchvision.py"
    spec = spec_from_file_location("_torchvision", path)
    assert spec is not None
    assert spec.loader is not None
    helper = module_from_spec(spec)
    spec.loader.exec_module(helper)
    return helper.torchvision()


class Pictures(Dataset):
    """Grey uint8 images (N, 1, H, W), handed out as torchvision's MNIST does it: from array to PIL image to tensor."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, mean: np.ndarray, sd: np.ndarray):
        transforms = torchvision().transforms
        self.images, self.labels = torch.from_numpy(images[:, 0]), torch.from_numpy(labels)
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean.tolist(), sd.tolist())])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.labels[index])


def test(network: nn.Module, device: torch.device, loader: DataLoader) -> float:
    network.eval()
    correct = 0
    with torch.no_grad():
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            prediction = network(x).argmax(dim=1, keepdim=True)
            correct += prediction.eq(y.view_as(prediction)).sum().item()
    return correct / len(loader.dataset)  # type: ignore[arg-type]


def train(job: Job) -> Result:
    torch.manual_seed(job.seed)
    device, data = torch.device(job.device), job.data
    more = {"num_workers": 1, "persistent_workers": True, "pin_memory": True} if device.type == "cuda" else {}
    sets = {name: Pictures(*data.parts[name], data.mean, data.sd) for name in ("train", "val", "test")}
    if job.start:
        train_loader = DataLoader(sets["train"], batch_sampler=job.start.order.tolist(), **more)
    else:
        train_loader = DataLoader(sets["train"], batch_size=job.batch_size, shuffle=True, drop_last=True, **more)
    loaders = {name: DataLoader(sets[name], batch_size=1000, **more) for name in ("val", "test")}
    network = networks.make(job.model, data.shape, data.classes)
    if job.start:
        networks.begin_from(network, job.start.arrays)
    network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=job.lr)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=job.gamma)
    clock, val_acc, losses = Clock(torch.cuda.synchronize if device.type == "cuda" else lambda: None), 0.0, []
    interval = 1 if job.start else LOG_INTERVAL
    for epoch in range(1, job.epochs + 1):
        losses = []
        clock.go()
        network.train()
        for batch_idx, (x, y) in enumerate(train_loader):
            x, y = x.to(device), y.to(device)
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            if batch_idx % interval == 0:
                losses.append(loss.item())
        clock.lap()
        val_acc = test(network, device, loaders["val"])
        scheduler.step()
        job.row(epoch=epoch, train_loss=sum(losses) / len(losses), val_acc=val_acc)
    return Result(networks.count(network), clock.epochs, val_acc, test(network, device, loaders["test"]), losses)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(train, lambda: {"torch": torch.__version__, "torchvision": sys.modules["torchvision"].__version__})
