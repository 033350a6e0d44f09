"""The careful loop: all that training needs and nothing else; no records, no telemetry, no evaluation, no seeds."""

import time

import torch
from torch import Tensor, nn


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    lr: float,
    max_norm: float,
    steps: int,
    warm_up: int = 0,
) -> float:
    """Seconds that `steps` steps take, after `warm_up` steps that are not counted.

    Args:
        images: float (N, C, H, W), all of them, preprocessed, on the model's device.
        labels: int64 (N,), there too.
    """
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=lr, fused=True)
    loss_fn = nn.CrossEntropyLoss()
    model.train()
    step, started = 0, time.perf_counter()
    while True:
        order = torch.randperm(len(labels))
        for index in order[: len(order) // batch_size * batch_size].split(batch_size):
            loss = loss_fn(model(images.index_select(0, index)), labels.index_select(0, index))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, max_norm)
            optimizer.step()
            step += 1
            if step == warm_up:
                started = time.perf_counter()
            if step == warm_up + steps:
                return time.perf_counter() - started
