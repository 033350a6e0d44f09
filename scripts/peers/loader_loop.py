"""P1, the best that a DataLoader gives: tensors standardized beforehand, and one of four ways to make batches of them.

    --option items:0    a TensorDataset, image by image, collated; no worker process
    --option items:2    the same in two worker processes
    --option batches:0  whole batches: the sampler draws lists of indices, the data set is indexed with a list
    --option batches:2

All else is as in the careful loop (bare_loop.py). The benchmark takes the fastest option.
"""

import networks
import torch
from bare_loop import accuracy
from contract import Clock, Job, Result, main
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

OPTIONS = ("items:0", "items:2", "batches:0", "batches:2")


def loader_of(job: Job) -> DataLoader:
    images, labels = map(torch.from_numpy, job.data.floats("train"))
    way, workers = job.option.split(":")
    data, count = TensorDataset(images, labels), int(workers)
    more = {"num_workers": count, "persistent_workers": count > 0, "pin_memory": job.device == "cuda"}
    if job.start:
        sampler = job.start.order.tolist()
    else:
        sampler = BatchSampler(RandomSampler(data), job.batch_size, drop_last=True)
    if way == "batches":
        return DataLoader(data, sampler=sampler, batch_size=None, **more)
    return DataLoader(data, batch_sampler=sampler, **more)


def train(job: Job) -> Result:
    torch.manual_seed(job.seed)
    loader = loader_of(job)
    held = {name: tuple(torch.from_numpy(a).to(job.device) for a in job.data.floats(name)) for name in ("val", "test")}
    network = networks.make(job.model, job.data.shape, job.data.classes)
    if job.start:
        networks.begin_from(network, job.start.arrays)
    network.to(job.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.Adam(network.parameters(), lr=job.lr, fused=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=job.gamma)
    loss_fn = nn.CrossEntropyLoss()
    clock = Clock(torch.cuda.synchronize if job.device == "cuda" else lambda: None)
    val_acc, losses = 0.0, torch.empty(0)
    for epoch in range(1, job.epochs + 1):
        clock.go()
        network.train()
        window = []
        for x, y in loader:
            x = x.to(job.device, non_blocking=True, memory_format=torch.channels_last)
            y = y.to(job.device, non_blocking=True)
            loss = loss_fn(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            window.append(loss.detach())
        losses = torch.stack(window).cpu()
        clock.lap()
        schedule.step()
        val_acc = accuracy(network, *held["val"])
        job.row(epoch=epoch, train_loss=losses.mean().item(), val_acc=val_acc)
    test_acc = accuracy(network, *held["test"])
    return Result(networks.count(network), clock.epochs, val_acc, test_acc, losses.tolist())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(train, lambda: {"torch": torch.__version__}, OPTIONS)
