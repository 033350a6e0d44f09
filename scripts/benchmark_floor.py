"""The least time that a training step can take on this machine: what its products and its memory traffic take alone.

    step >= max(products, bytes / copy rate)

products   every linear and convolutional layer's forward pass, gradient of the weights and (but for the first layer)
           of the inputs, each timed alone at the step's own shapes with torch's kernels, one thread, the fastest of
           several repetitions and, for pictures, of both ways to lie in memory. Other libraries may have faster
           kernels: a share of the floor above 100 % says so. On a GPU a repetition is one of twenty in a CUDA graph.
bytes      the batch as uint8; each such layer's output written and read once, and its gradient; seven passes over the
           parameters (Adam reads p, g, m, v and writes p, m, v). Copied at the rate of a tensor copy of that size.
"""

import time
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normbench.stack import layers as stacked

PASSES = 7
IN_A_GRAPH = 20


def fastest(call: Callable[[], object], seconds: float, wait: Callable[[], object]) -> float:
    """Seconds of a call, the smallest of the repetitions that fit; short calls are timed several at once."""
    best, repeats, end = float("inf"), 1, time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        wait()
        began = time.perf_counter()
        for _ in range(repeats):
            call()
        wait()
        best = min(best, (time.perf_counter() - began) / repeats)
        repeats = max(1, min(100, int(1e-3 / best)))
    return best


def on_cuda(call: Callable[[], object], seconds: float, wait: Callable[[], object]) -> float:
    """Seconds of a call by itself, without its launch."""
    call()
    wait()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(IN_A_GRAPH):
            call()
    return fastest(graph.replay, seconds, wait) / IN_A_GRAPH


def products(layer: nn.Module, x: Tensor, first: bool, seconds: float, wait: Callable[[], object]) -> float:
    """Seconds of the layer's forward pass and of its gradients, on inputs of this shape."""
    time_of = on_cuda if x.is_cuda else fastest
    x = torch.randn_like(x)
    if isinstance(layer, stacked.Linear):
        weight, n = layer.weight.detach(), layer.width
        x = x.view(len(x), n, -1) if x.shape[1] != layer.in_features else x.unsqueeze(1).expand(-1, n, -1)
        x, g = x.permute(1, 2, 0), torch.randn(n, weight.shape[1], len(x), device=x.device)
        calls: list[Callable[[], object]] = [lambda: weight.bmm(x), lambda: g.bmm(x.mT)]
        calls += [] if first else [lambda: weight.mT.bmm(g)]
        return sum(time_of(call, seconds, wait) for call in calls)
    if isinstance(layer, nn.Linear):
        weight = layer.weight.detach()
        g = torch.randn(len(x), len(weight), device=x.device)
        calls = [lambda: F.linear(x, weight), lambda: g.t() @ x]
        calls += [] if first else [lambda: g @ weight]
        return sum(time_of(call, seconds, wait) for call in calls)
    assert isinstance(layer, nn.Conv2d | stacked.Conv2d)
    layouts = (torch.contiguous_format, torch.channels_last)
    return sum(
        min(times)
        for times in zip(*(_convolutions(layer, x, first, seconds, wait, its) for its in layouts), strict=True)
    )


def _convolutions(
    layer: nn.Conv2d | stacked.Conv2d,
    x: Tensor,
    first: bool,
    seconds: float,
    wait: Callable[[], object],
    layout: torch.memory_format,
) -> list[float]:
    """Seconds of the convolution and of its gradients, with tensors that lie so in memory."""
    time_of, groups, its = on_cuda if x.is_cuda else fastest, 1, layer.weight.detach()
    if isinstance(layer, stacked.Conv2d):
        how, its = cast(Any, tuple(layer.settings.values())), its.flatten(0, 1)
        groups = x.shape[1] // layer.in_channels
    else:
        how = cast(Any, (layer.stride, layer.padding, layer.dilation))
    x, weight = x.contiguous(memory_format=layout), its.contiguous(memory_format=layout)
    g = torch.randn_like(F.conv2d(x, weight, None, *how, groups))
    wanted = [not first, True, False]
    calls: list[Callable[[], object]] = [
        lambda: F.conv2d(x, weight, None, *how, groups),
        lambda: torch.ops.aten.convolution_backward(g, x, weight, None, *how, False, [0, 0], groups, wanted),
    ]
    return [time_of(call, seconds, wait) for call in calls]


def floor_of(network: nn.Module, images: Tensor, seconds: float = 0.2) -> dict[str, Any]:
    """Measure it for this network and a batch of these float images, on their device; seconds and bytes."""
    inputs: list[tuple[nn.Module, Tensor]] = []
    outputs: list[int] = []

    def keep(layer: nn.Module, its: tuple[Tensor], output: Tensor) -> None:
        inputs.append((layer, its[0]))
        outputs.append(output.numel())

    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | stacked.Linear | stacked.Conv2d):
            layer.register_forward_hook(keep)
    wait = torch.cuda.synchronize if images.is_cuda else lambda: None
    with torch.no_grad():
        network(images)
        spent = sum(products(layer, x, i == 0, seconds, wait) for i, (layer, x) in enumerate(inputs))
        parameters = sum(p.numel() for p in network.parameters())
        moved = images.numel() + 4 * (4 * sum(outputs) + PASSES * parameters)
        source = torch.empty(moved // 8, device=images.device)  # half is read, half is written
        target = torch.empty_like(source)
        copied = (on_cuda if images.is_cuda else fastest)(lambda: target.copy_(source), seconds, wait)
    return {"products_s": spent, "bytes": moved, "copy_s": copied, "floor_s": max(spent, copied)}
