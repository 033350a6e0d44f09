"""P2, the careful loop: what somebody who knows torch writes for one run, without a compiler or a graph.

All images are standardized once and stay on the device as floats; a batch is one index_select of each tensor; Adam is
the fused one; gradients are dropped, not zeroed; the device is read once an epoch. Images lie channels last in memory,
which makes larger convolutions faster. Evaluations take 1,000 images at once.
"""

from functools import lru_cache

import contract
import networks
import torch
from contract import Job, Result, main
from torch import Tensor, nn


@lru_cache(maxsize=1)  # the runs of one process share them
def resident(data: contract.Data, device: str) -> dict[str, tuple[Tensor, Tensor]]:
    parts = {name: data.floats(name) for name in ("train", "val", "test")}
    return {n: (torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)) for n, (x, y) in parts.items()}


@torch.inference_mode()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    network.eval()
    hits = torch.zeros((), dtype=torch.int64, device=images.device)
    for x, y in zip(images.split(1000), labels.split(1000), strict=True):
        hits += (network(x).argmax(1) == y).sum()
    return hits.item() / len(labels)


def train(job: Job) -> Result:
    torch.manual_seed(job.seed)
    parts = resident(job.data, job.device)
    images, labels = parts["train"]
    network = networks.make(job.model, job.data.shape, job.data.classes)
    if job.start:
        networks.begin_from(network, job.start.arrays)
    network.to(job.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, lr=job.lr, fused=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=job.gamma)
    loss_fn = nn.CrossEntropyLoss()
    clock = contract.Clock(torch.cuda.synchronize if job.device == "cuda" else lambda: None)
    steps, val_acc, losses = job.steps_per_epoch, 0.0, torch.empty(0)
    for epoch in range(1, job.epochs + 1):
        clock.go()
        network.train()
        order = torch.from_numpy(job.start.order).view(-1) if job.start else torch.randperm(len(labels))
        window = []
        for index in order.to(job.device)[: steps * job.batch_size].split(job.batch_size):
            x, y = images.index_select(0, index), labels.index_select(0, index)
            loss = loss_fn(network(x.contiguous(memory_format=torch.channels_last)), y)
            for parameter in parameters:
                parameter.grad = None
            loss.backward()
            optimizer.step()
            window.append(loss.detach())
        losses = torch.stack(window).cpu()
        clock.lap()
        schedule.step()
        val_acc = accuracy(network, *parts["val"])
        job.row(epoch=epoch, train_loss=losses.mean().item(), val_acc=val_acc)
    test_acc = accuracy(network, *parts["test"])
    return Result(networks.count(network), clock.epochs, val_acc, test_acc, losses.tolist())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(train, lambda: {"torch": torch.__version__})
