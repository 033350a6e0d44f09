"""P6, JAX: an epoch is one jitted scan over its steps, gathering included; the layers and Adam are written out.

The highest anchor on an mlp. On the CPU XLA's convolutions are many times slower inside a scan than outside: networks
that have some are trained there with one jitted step after another. Images lie on the device as floats, channels last.
A process trains many seeds with what it compiled once.
"""

from functools import partial
from typing import Any

import architectures
import jax  # pyright: ignore[reportMissingImports]
import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
import numpy as np
from contract import Clock, Data, Job, Result, main
from jax import lax  # pyright: ignore[reportMissingImports]

Arrays = list[Any]
EPS, MOMENTUM = architectures.BN_EPS, architectures.BN_MOMENTUM
BETA1, BETA2, ADAM_EPS = 0.9, 0.999, 1e-8


class Pass:
    """One pass through the network: takes weights in the order of the layers, keeps the new running averages."""

    def __init__(self, weights: Arrays, norms: Arrays, running: Arrays, training: bool):
        self.weights, self.norms, self.running = iter(weights), iter(norms), iter(running)
        self.training, self.new = training, []

    def conv(self, x, padding: int, stride: int = 1):
        pads = [(padding, padding)] * 2
        return lax.conv_general_dilated(
            x, next(self.weights), (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def bn(self, x):
        gain, bias = next(self.norms)
        mean, var = running = next(self.running)
        if self.training:
            axes = tuple(range(x.ndim - 1))
            mean, var = x.mean(axes), x.var(axes)
            count = x.size // x.shape[-1]
            now = mean, var * (count / (count - 1))
            running = tuple((1 - MOMENTUM) * old + MOMENTUM * new for old, new in zip(running, now, strict=True))
        self.new.append(running)
        return (x - mean) * (lax.rsqrt(var + EPS) * gain) + bias

    def block(self, x, channels: int, stride: int):
        branch = self.bn(self.conv(jax.nn.relu(self.bn(self.conv(x, 1, stride))), 1))
        x = jnp.pad(x[:, ::stride, ::stride], [(0, 0)] * 3 + [(0, channels - x.shape[-1])])
        return jax.nn.relu(x + branch)

    def __call__(self, model: str, classes: int, x):
        for kind, *numbers in architectures.layers(model, classes):
            if kind == "conv":
                x = self.conv(x, numbers[2])
            elif kind == "linear":
                x = x @ next(self.weights)
                x = x + next(self.weights) if numbers[1] else x
            elif kind == "bn":
                x = self.bn(x)
            elif kind == "relu":
                x = jax.nn.relu(x)
            elif kind == "block":
                x = self.block(x, *numbers)
            elif kind == "pool":
                x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
            else:
                x = x.mean((1, 2)) if kind == "mean" else x.reshape(len(x), -1)
        return x


def loss_of(weights: Arrays, norms: Arrays, running: Arrays, x, y, model: str, classes: int):
    its = Pass(weights, norms, running, training=True)
    logits = its(model, classes, x)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean(), its.new


@partial(jax.jit, static_argnames=("model", "classes"), donate_argnums=(0,))
def step_of(state: Any, images, labels, index, lr, model: str, classes: int):
    """One step on the images of these indices; the new state and the loss."""
    learned, first, second, running, t = state
    of = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
    (loss, running), grads = of(*learned, running, images[index], labels[index], model, classes)
    t = t + 1
    first = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, grads)
    second = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, second, grads)
    rate, root = lr / (1 - BETA1**t), jnp.sqrt(1 - BETA2**t)
    learned = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + ADAM_EPS), learned, first, second)
    return (learned, first, second, running, t), loss


@partial(jax.jit, static_argnames=("model", "classes"), donate_argnums=(0,))
def epoch_of(state: Any, images, labels, order, lr, model: str, classes: int):
    """All steps of an epoch; order: (steps, batch). The new state and the loss of every step."""
    return lax.scan(lambda its, index: step_of(its, images, labels, index, lr, model, classes), state, order)


def steps_of(state: Any, images, labels, order, lr, model: str, classes: int):
    """As `epoch_of`, but one jitted step after another."""
    losses = []
    for index in order:
        state, loss = step_of(state, images, labels, index, lr, model, classes)
        losses.append(loss)
    return state, jnp.stack(losses)


@partial(jax.jit, static_argnames=("model", "classes"))
def hits_of(learned: Any, running: Arrays, x, y, model: str, classes: int):
    logits = Pass(learned[0], learned[1], running, training=False)(model, classes, x)
    return (logits.argmax(1) == y).sum()


PLACED: dict[int, dict[str, Any]] = {}


def placed(data: Data) -> dict[str, Any]:
    """The parts on the device, once for all runs of the process."""
    if id(data) not in PLACED:
        parts = ((name, data.floats(name)) for name in data.parts)
        PLACED[id(data)] = {n: (jnp.asarray(x.transpose(0, 2, 3, 1)), jnp.asarray(y)) for n, (x, y) in parts}
    return PLACED[id(data)]


def train(job: Job) -> Result:
    data, same = job.data, {"model": job.model, "classes": job.data.classes}
    parts = placed(data)
    images, labels = parts["train"]
    arrays = job.start.arrays if job.start else architectures.drawn(job.model, data.shape, data.classes, job.seed)
    weights = [jnp.asarray(a) for a in architectures.channels_last(job.model, arrays, data.shape)]
    widths = norm_widths(job.model, data.shape, data.classes)
    learned = weights, [(jnp.ones(n), jnp.zeros(n)) for n in widths]
    running = [(jnp.zeros(n), jnp.ones(n)) for n in widths]
    zeros = partial(jax.tree.map, jnp.zeros_like)
    state = learned, zeros(learned), zeros(learned), running, jnp.zeros((), jnp.int32)
    rng = np.random.default_rng(job.seed)
    epoch = steps_of if job.model != "mlp" and jax.default_backend() == "cpu" else epoch_of
    clock, val_acc, losses = Clock(), 0.0, []

    def accuracy(name: str) -> float:
        x, y = parts[name]
        found = [hits_of(state[0], state[3], x[i : i + 1000], y[i : i + 1000], **same) for i in range(0, len(y), 1000)]
        return int(sum(found)) / len(y)

    for number in range(1, job.epochs + 1):
        clock.go()
        shuffled = rng.permutation(len(labels))[: job.steps_per_epoch * job.batch_size]
        order = job.start.order if job.start else shuffled.reshape(-1, job.batch_size)
        state, found = epoch(state, images, labels, order, job.lr * job.gamma ** (number - 1), **same)
        losses = np.asarray(found).tolist()  # waits for it
        clock.lap()
        val_acc = accuracy("val")
        job.row(epoch=number, train_loss=sum(losses) / len(losses), val_acc=val_acc)
    count = sum(a.size for a in jax.tree.leaves(state[0]))
    return Result(count, clock.epochs, val_acc, accuracy("test"), losses)


def norm_widths(model: str, shape: tuple[int, ...], classes: int) -> list[int]:
    """Features of each batch normalization, in the order of the layers."""
    found, before = [], 0
    for kind, *numbers in architectures.layers(model, classes):
        if kind == "bn":
            found.append(before)
        elif kind == "block":
            found += [numbers[0]] * 2
        before = numbers[0] if kind in ("conv", "linear") else before
    return found


if __name__ == "__main__":
    main(train, lambda: {"jax": jax.__version__})
