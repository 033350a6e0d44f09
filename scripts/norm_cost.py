"""What each norm costs: a training step beside no norm, and each layer beside its formula and beside torch's module.

    python scripts/norm_cost.py                             a few minutes
    python scripts/norm_cost.py --rounds 2 --norms bn ln    a quick look
    python scripts/norm_cost.py --markdown cost.md && python scripts/norms_page.py --cost cost.md

Everything on one CPU thread, with the switches of a real run (streams.set_determinism), forward and backward.

  a step       model=cnn on fashion_mini, batch 64, Adam: forward, backward and optimizer, not the making of the batch.
  peak memory  the most that torch's allocator holds during such a step, by torch's profiler: activations, gradients
               and temporary tensors. Not in it: what is there before (weights, Adam's state, images), what oneDNN takes
               for itself, Python. It is the same number at every call.
  formula      the norm's layer against the same formula written plainly with torch's functions (PLAIN, below), both on
               the same values after a check that they agree. For wn and ws it is the making of the weight.
  torch        the norm's layer against torch's own module, where there is one (TORCH, below).

Norms take turns, step by step or call by call, so that what else the machine does falls on all of them; the clock is
the process's CPU time, which other processes do not lengthen much. A round's number is the median of its steps or
calls. Shown is the median over the rounds of the ratio within a round, with the smallest and the largest.
Timings are no tests: the exit code is 0 where a goal is missed, and the table says MISSED.
"""

import argparse
import itertools
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmark import Table, as_markdown, as_text, cpu_name, load_average
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from normbench import app, assembly, build, catalog, streams
from normbench.norm import Impossible, Norm
from normbench.sweep import jobs

SETTINGS = ("model=cnn", "dataset=fashion_mini", "batch_size=64", "optimizer=adam", "device=cpu", "threads=1")
WITHOUT_FULL = "model.norm_full=false"  # for norms that need positions: cnn's layer of 512 has none
SHAPES = ((64, 32, 28, 28), (64, 64, 14, 14), (64, 512))  # (N, C, H, W) and (N, C) where cnn normalizes
WEIGHTS = ((32, 32, 3, 3), (64, 64, 3, 3), (512, 3136))  # of the layers that make them
FORMULA_GOAL, TORCH_GOAL = 1.3, 1.05  # times the other's time, at most
STEPS = 5  # of a round
CALL_S = 0.1  # CPU seconds of one side of a layer's round, about

Call = Callable[[], object]

# ------------------------------------------------------------------------------------------------ a training step


def built(norm: str) -> tuple[build.Built, bool]:
    """The run of this norm, ready to train, and whether the layer of 512 is without norm, since it can't have it."""
    app.register_plugins()
    with initialize_config_module("normbench.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        typed = [f"norm={norm}", *SETTINGS]
        try:
            return build.build(jobs.plan(loader, typed).jobs[0].config), False
        except Impossible:
            return build.build(jobs.plan(loader, [*typed, WITHOUT_FULL]).jobs[0].config), True


def stepper(run: build.Built) -> Call:
    """One training step on the first batch, whenever it is called."""
    x, y = next(iter(run.batches(range(1))))
    run.norm.start(run.model, x)
    run.model.train()

    def step() -> None:
        loss = run.loss_fn(run.model(x), y)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()

    return step


def cpu_s(call: Call) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def in_turn(calls: Mapping[str, Call], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each call; every repeat calls all of them, forwards and backwards by turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(repeats):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            seconds[name].append(cpu_s(calls[name]))
    return {name: median(values) for name, values in seconds.items()}


def peak_mib(run: build.Built, step: Call) -> float:
    """The most that torch's allocator holds during a step, beyond what is there before and stays."""
    step()
    run.optimizer.zero_grad()
    profile: Any = torch.autograd.profiler.profile(profile_memory=True)
    with profile:
        step()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()))) / 2**20


def step_table(norms: Sequence[str], rounds: int, say: Callable[[str], None]) -> Table:
    steps, peaks, noted = {}, {}, set()
    for norm in norms:
        run, without_full = built(norm)
        steps[norm] = stepper(run)
        peaks[norm] = peak_mib(run, steps[norm])
        noted |= {norm} if without_full else set()
    found = []
    for number in range(1, rounds + 1):
        found.append(in_turn(steps, STEPS))
        say(f"steps, round {number}: " + "  ".join(f"{norm} {1000 * s:.1f}" for norm, s in found[-1].items()))
    rows = []
    for norm in norms:
        ms = median(1000 * one[norm] for one in found)
        times = "1" if norm == "none" else spread([one[norm] / one["none"] for one in found])
        rows.append((norm + " †" * (norm in noted), f"{ms:.1f}", times, f"{peaks[norm]:.0f}"))
    title = f"A training step of model=cnn, batch 64 (median of {rounds} rounds)"
    title += f"; † with {WITHOUT_FULL}" if noted else ""
    return Table(title, ("norm", "ms", "times none [range]", "peak MiB"), rows)


# ------------------------------------------------------------------------------ the formulas, written plainly
# Each gives y for x; `p` holds the parameters, running averages and settings of the norm's layer, under its names.


def per_channel(t: Tensor, x: Tensor) -> Tensor:
    return t.view(1, -1, *[1] * (x.dim() - 2))


def affine(y: Tensor, p: Any) -> Tensor:
    return y * per_channel(p.weight, y) + per_channel(p.bias, y)


def standardized(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    mean = x.mean(dims, keepdim=True)
    var = x.var(dims, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(var + eps)


def over_batch(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.dim()))


@torch.no_grad()
def average(p: Any, **batch: Tensor) -> None:
    for name, value in batch.items():
        running = getattr(p, f"running_{name}")
        running.lerp_(value.view(running.shape), p.momentum)


def bn(x: Tensor, p: Any, detach: bool = False) -> Tensor:
    statistics = x.detach() if detach else x
    mean = statistics.mean(over_batch(x), keepdim=True)
    var = statistics.var(over_batch(x), correction=0, keepdim=True)
    m = x.numel() // x.shape[1]
    average(p, mean=mean.detach(), var=var.detach() * m / (m - 1))
    return affine((x - mean) / torch.sqrt(var + p.eps), p)


def bn_in_parts(x: Tensor, p: Any) -> Tensor:
    parts = x.split(p.ghost_size)
    means = torch.stack([part.detach().mean(over_batch(x)) for part in parts])
    variances = torch.stack([part.detach().var(over_batch(x), correction=1) for part in parts])
    average(p, mean=means.mean(0), var=variances.mean(0))
    return affine(torch.cat([standardized(part, over_batch(x), p.eps) for part in parts]), p)


def brn(x: Tensor, p: Any) -> Tensor:
    mean = x.mean(over_batch(x), keepdim=True)
    sigma = torch.sqrt(x.var(over_batch(x), correction=0, keepdim=True) + p.eps)
    with torch.no_grad():
        ramp = min(1.0, p.num_batches_tracked.item() / p.ramp_steps)
        r_max, d_max = 1 + (p.r_max - 1) * ramp, p.d_max * ramp
        running_mean, running_sigma = per_channel(p.running_mean, x), per_channel(p.running_sigma, x)
        r = (sigma / running_sigma).clamp(1 / r_max, r_max)
        d = ((mean - running_mean) / running_sigma).clamp(-d_max, d_max)
        average(p, mean=mean, sigma=sigma)
        p.num_batches_tracked += 1
    return affine((x - mean) / sigma * r + d, p)


def groups(x: Tensor, p: Any) -> Tensor:
    """gn; ln with one group, in with one channel a group."""
    grouped = x.view(x.shape[0], p.num_groups, -1)
    return affine(standardized(grouped, (2,), p.eps).view(x.shape), p)


def rms(x: Tensor, p: Any) -> Tensor:
    y = x / torch.sqrt(x.pow(2).mean(tuple(range(1, x.dim())), keepdim=True) + p.eps)
    return y * per_channel(p.weight, x)


def frn(x: Tensor, p: Any) -> Tensor:
    y = x / torch.sqrt(x.pow(2).mean((2, 3), keepdim=True) + p.eps)
    return torch.max(y * p.weight + p.bias, p.threshold)


def dyt(x: Tensor, p: Any) -> Tensor:
    return affine(torch.tanh(p.alpha * x), p)


def sn(x: Tensor, p: Any) -> Tensor:
    kinds = [over_batch(x)] if x.dim() == 2 else [tuple(range(2, x.dim())), over_batch(x)]
    kinds.insert(len(kinds) - 1, tuple(range(1, x.dim())))  # in, ln, bn
    means = [x.mean(dims, keepdim=True) for dims in kinds]
    variances = [x.var(dims, correction=0, keepdim=True) for dims in kinds]
    average(p, mean=means[-1].detach(), var=variances[-1].detach())
    w, v = p.mean_weight[-len(kinds) :].softmax(0), p.var_weight[-len(kinds) :].softmax(0)
    mean = sum(w_k * mean_k for w_k, mean_k in zip(w, means, strict=True))
    var = sum(v_k * var_k for v_k, var_k in zip(v, variances, strict=True))
    return affine((x - mean) / torch.sqrt(var + p.eps), p)


def iternorm(x: Tensor, p: Any) -> Tensor:
    rows = x.transpose(0, 1).reshape(p.groups, x.shape[1] // p.groups, -1)  # (groups, d, values)
    mean = rows.mean(2, keepdim=True)
    centred = rows - mean
    identity = torch.eye(rows.shape[1])
    sigma = centred @ centred.mT / rows.shape[2] + p.eps * identity
    trace = sigma.diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1)
    p_k = identity.expand_as(sigma)
    for _ in range(p.iterations):
        p_k = 0.5 * (3 * p_k - p_k.matrix_power(3) @ (sigma / trace))
    whitening = p_k / torch.sqrt(trace)
    average(p, mean=mean.detach(), whitening=whitening.detach())
    y = whitening @ centred
    return affine(y.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1), p)


def wn(_: Tensor, p: Any) -> Tensor:
    g, v = p.parametrizations.weight.original0, p.parametrizations.weight.original1
    return g * v / torch.sqrt(v.pow(2).sum(tuple(range(1, v.dim())), keepdim=True))


def ws(_: Tensor, p: Any) -> Tensor:
    v = p.parametrizations.weight.original
    return standardized(v, tuple(range(1, v.dim())), p.parametrizations.weight[0].eps)


PLAIN: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "bn": bn,
    "bn norm.ghost_size=16": bn_in_parts,
    "bn norm.detach_statistics=true": partial(bn, detach=True),
    "brn": brn,
    "dyt": dyt,
    "frn": frn,
    "gn": groups,
    "in": groups,
    "iternorm": iternorm,
    "ln": groups,
    "rms": rms,
    "sn": sn,
    "wn": wn,
    "ws": ws,
}
TORCH: dict[str, Callable[[tuple[int, ...]], nn.Module | None]] = {
    "bn": lambda shape: (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1]),
    "gn": lambda shape: nn.GroupNorm(8, shape[1]),
    "in": lambda shape: nn.GroupNorm(shape[1], shape[1]),
    "ln": lambda shape: nn.GroupNorm(1, shape[1]) if len(shape) == 4 else nn.LayerNorm(shape[1]),
    "rms": lambda shape: None if len(shape) == 4 else nn.RMSNorm(shape[1], eps=1e-6),
    "wn": lambda shape: parametrizations.weight_norm(weighted(shape)),
}
OF_WEIGHTS = ("wn", "ws")

# ------------------------------------------------------------------------------------------------ layer by layer


def weighted(shape: tuple[int, ...]) -> nn.Module:
    """A layer without bias that has a weight of this shape."""
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0], bias=False)
    return nn.Conv2d(shape[1], shape[0], shape[2], bias=False)


def normalization(label: str) -> Norm:
    """The norm of a row: a choice of conf/norm, and perhaps a setting."""
    with initialize_config_module("normbench.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        choice, *settings = label.split()
        return assembly.normalization(jobs.plan(loader, [f"norm={choice}", *settings]).jobs[0].config.norm)


def both_ways(forward: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor, layer: nn.Module) -> Call:
    """Forward and backward, to x and to the layer's parameters."""
    leaves = [x, *layer.parameters()]

    def call() -> None:
        for leaf in leaves:
            leaf.grad = None
        forward(x).backward(gradient)

    return call


def contestants(label: str, shape: tuple[int, ...], other: str) -> dict[str, Call] | None:
    """What is timed: `ours`, and `formula` or `torch`, that is `other`; None where one of them does not exist."""
    norm, of_weights = normalization(label), label in OF_WEIGHTS
    if not of_weights and not is_possible(norm, shape):
        return None
    torch.manual_seed(0)
    ours = norm.reparametrize(weighted(shape)) if of_weights else norm.layer(shape[1])
    torch.manual_seed(0)
    theirs = deepcopy(ours) if other == "formula" else TORCH[label](shape)
    if theirs is None:
        return None

    def forward(layer: nn.Module) -> Callable[[Tensor], Tensor]:
        if layer is theirs and other == "formula":
            return lambda x: PLAIN[label](x, layer)
        return (lambda _: layer.weight) if of_weights else layer  # type: ignore[return-value]

    x, gradient = torch.randn(shape).requires_grad_(), torch.randn(shape)
    torch.testing.assert_close(forward(ours)(x), forward(theirs)(x), rtol=1e-3, atol=1e-4)
    return {name: both_ways(forward(layer), x, gradient, layer) for name, layer in (("ours", ours), (other, theirs))}


def is_possible(norm: Norm, shape: tuple[int, ...]) -> bool:
    try:
        norm.check(shape[1:], shape[0])
    except Impossible:
        return False
    return True


def times_as_long(calls: Mapping[str, Call], rounds: int) -> list[float]:
    """Of each round: ours over the other's."""
    ours, other = calls
    warm = in_turn(calls, 3)
    repeats = max(5, round(CALL_S / max(warm.values())))
    return [one[ours] / one[other] for one in (in_turn(calls, repeats) for _ in range(rounds))]


def layer_table(labels: Sequence[str], other: str, goal: float, rounds: int, say: Callable[[str], None]) -> Table:
    rows = []
    for label in labels:
        shapes = WEIGHTS if label in OF_WEIGHTS else SHAPES
        cells = []
        for shape in shapes:
            calls = contestants(label, shape, other)
            ratios = times_as_long(calls, rounds) if calls else []
            cells.append(spread(ratios) + " MISSED" * (median(ratios) > goal) if ratios else "-")
        say(f"{label} over {other}: " + "  ".join(cells))
        rows.append((label, *cells))
    words = {"formula": "the formula written plainly", "torch": "torch's module"}[other]
    header = ("norm", *(" x ".join(map(str, shape)) for shape in SHAPES))
    return Table(f"A layer's time over that of {words}; goal: at most {goal}", header, rows)


# ------------------------------------------------------------------------------------------------------------ main


def spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def conditions(words: Sequence[str], load_before: str) -> str:
    """Machine, versions, date and command, in one line."""
    machine = f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    command = " ".join(["python scripts/norm_cost.py", *words])
    load = f"load average before and after {load_before}; {load_average()}"
    return f"{machine}, torch {torch.__version__}, one thread, {date.today()}; {load}; `{command}`"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    known = list(catalog.choices("norm"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--norms", nargs="+", default=known, choices=known, metavar="NORM", help="beside none")
    parser.add_argument("--only", choices=("step", "formula", "torch"), help="one of the three tables")
    parser.add_argument("--markdown", type=Path, help="write the tables there, too")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    streams.set_determinism(threads=1)
    app.register_plugins()
    before, tables = load_average(), []
    say = partial(print, file=sys.stderr, flush=True)
    if args.only in (None, "step"):
        tables.append(step_table(list(dict.fromkeys(["none", *args.norms])), args.rounds, say))
    for other, contest, goal in (("formula", PLAIN, FORMULA_GOAL), ("torch", TORCH, TORCH_GOAL)):
        labels = [label for label in contest if label.split()[0] in args.norms]
        if args.only in (None, other) and labels:
            tables.append(layer_table(labels, other, goal, args.rounds, say))
    words = [args.markdown.name if args.markdown and word == str(args.markdown) else word for word in argv]
    where = conditions(words, before)
    print("\n\n".join([where, *map(as_text, tables)]))
    if args.markdown:
        parts = [where, *map(as_markdown, tables)]
        args.markdown.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
