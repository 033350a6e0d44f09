"""Runs in and out of a stack: what a replica reads and writes is what any run does (normbench/attempt.py)."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from normbench import attempt, evaluate, graph, manifest, run, streams
from normbench.config import RunConfig
from normbench.stack import layers, loop, support
from normbench.stack.clips import Clips
from normbench.stack.optimizers import Optimizers

Result = run.Outcome | Exception | run.Interrupted


def run_all(
    configs: Sequence[RunConfig], announce: Callable[[str], None] = lambda _: None, bar: bool = False
) -> list[Result]:
    """Train these runs to their ends, together where they stand at the same step; what came of each, in their order.

    Args:
        configs: equal in support.structure.
        announce, bar: as for run.run.

    Returns:
        Outcomes; what run.run would raise stands in the place of the run that it is about.
    """
    results: dict[int, Result] = {}
    replicas: dict[int, Replica] = {}
    with contextlib.ExitStack() as held:
        for number, config in enumerate(configs):
            try:
                found = run.take(config, held)
                if isinstance(found, run.Outcome):
                    results[number] = found
                else:
                    replicas[number] = Replica(config, found)
            except Exception as error:
                results[number] = error
        for number, replica in list(replicas.items()):
            replica.built.stack = len(replicas)
            try:
                with run.logging_to(replica.config):
                    replica.restore()
            except Exception as error:
                results[number] = error
                del replicas[number]
        with _signals(list(replicas.values())):
            for together in _at_one_step(list(replicas.values())):
                Stack(together).run(announce, bar and configs[0].progress)
    return [results[n] if n in results else replicas[n].result for n in range(len(configs))]


def _at_one_step(replicas: "Sequence[Replica]") -> "list[list[Replica]]":
    """Those that can go on together; among them, those that are stepped alike are neighbours."""
    stacks: dict[Any, list[Replica]] = {}
    for replica in sorted(replicas, key=lambda its: support.steps_alike(its.config)):
        stacks.setdefault((replica.progress.step, bool(replica.progress.rows)), []).append(replica)
    return list(stacks.values())


@contextlib.contextmanager
def _signals(replicas: "Sequence[Replica]") -> Iterator[None]:
    """As Attempt.signals, for all of them."""

    def stop(signum, _frame):
        if any(replica.signum is not None for replica in replicas):
            raise KeyboardInterrupt
        for replica in replicas:
            replica.signum = signum

    with attempt.handled(stop):
        yield


class Replica(run.Attempt):
    """An attempt at a run whose weights are in a stack; they are taken from there when something is written."""

    result: Result
    stack: "Stack"
    place: int  # in the stack
    is_over = False
    row: loop.Row | None  # the latest
    tested: tuple[float, float]  # loss and accuracy on the test images

    random: Tensor | None = None  # the state of its own draws, where it goes on in the middle of an epoch

    def restore(self) -> None:
        super().restore()
        if self.progress.step:
            self.random = torch.get_rng_state()

    def after(self) -> None:
        """Keep the row; a run that has diverged gets none, and is over."""
        if self.row is None:
            self.end(self.finish())
        else:
            self.keep(self.row)

    def end(self, result: Result) -> None:
        self.result, self.is_over = result, True

    def save(self, keep: str = "all") -> None:
        if keep != "none":
            self.stack.take(self.place)
        super().save(keep)

    def by_statistics(self) -> dict[str, dict[str, float | None]]:
        self.stack.take(self.place)
        return super().by_statistics()

    def on_test(self) -> tuple[float, float]:
        return self.tested


class Stack:
    """Replicas that stand at the same step, as one network."""

    def __init__(self, replicas: Sequence[Replica]):
        self.replicas = replicas
        self.first, width = replicas[0], len(replicas)
        builts = [replica.built for replica in replicas]
        for place, replica in enumerate(replicas):
            replica.stack, replica.place, replica.built.stack = self, place, width
        self.builts, self.built, self.width = builts, builts[0], width
        self.network = layers.stacked(self.built.model, width)
        self.generators = [torch.Generator() for _ in builts]
        layers.generators_for(self.network, self.generators)
        models = [built.model for built in builts]
        self.optimizers = Optimizers(
            self.network, models, [b.optimizer for b in builts], [b.schedule for b in builts],
            support.ends_of_blocks(builts),
        )  # fmt: skip
        self.clips = Clips([built.clip for built in builts])
        self.window: list[tuple[Tensor, ...]] = []
        self.put()

    # ------------------------------------------------------------------------------------------------------ state

    def put(self) -> None:
        """Take up where the replicas stand."""
        for place, replica in enumerate(self.replicas):
            layers.put(self.network, place, replica.built.model)
            if replica.random is not None:
                self.generators[place].set_state(replica.random)
        self.optimizers.put()
        windows = [replica.progress.window for replica in self.replicas]
        self.window = [tuple(map(torch.stack, zip(*steps, strict=True))) for steps in zip(*windows, strict=True)]

    def take(self, place: int) -> None:
        """Bring a replica's own objects to where it stands in the stack; what a checkpoint is made of."""
        replica = self.replicas[place]
        layers.take(self.network, place, replica.built.model)
        self.optimizers.take(place)
        replica.progress.window = [tuple(column[place] for column in step) for step in self.window]
        torch.set_rng_state(self.generators[place].get_state())

    # ----------------------------------------------------------------------------------------------------- course

    def run(self, announce: Callable[[str], None], bar: bool) -> None:
        """Train; every replica has its result then."""
        try:
            self.each(run.Attempt.begin)
            with contextlib.suppress(OSError):
                announce(manifest.headline(self.first.config, self.built, self.first.progress, self.first.total_steps))
            for rows in self.rows(bar):
                for replica, row in zip(self.replicas, rows, strict=True):
                    replica.row = row
                self.each(Replica.after)
            if any(r.progress.step == r.total_steps and not r.is_over for r in self.replicas):
                for replica, found in zip(self.replicas, self.evaluate("test"), strict=True):
                    replica.tested = found
            self.each(lambda replica: replica.end(replica.finish()))
        except KeyboardInterrupt:
            for replica in self.left():
                signum = replica.signum or signal.SIGINT
                replica.end(run.Interrupted(replica.give_up("interrupted"), signum))
        except (Exception, SystemExit) as error:
            for replica in self.left():
                with run.logging_to(replica.config):
                    replica.end(replica.failed(error))

    def left(self) -> list[Replica]:
        return [replica for replica in self.replicas if not replica.is_over]

    def each(self, act: Callable[[Replica], None]) -> None:
        """For those that are not over, with their logs open; what one's disk does not take is no other's affair."""
        for replica in self.left():
            with run.logging_to(replica.config):
                try:
                    act(replica)
                except run.Interrupted as stop:
                    replica.end(stop)
                except OSError as error:
                    replica.end(replica.failed(error))

    def rows(self, bar: bool) -> Iterator[list[loop.Row | None]]:
        first, built = self.first, self.built
        built.inputs.split("train")  # now, if it is transformed: outside the clock
        return loop.train(
            self.network,
            self.batches(bar),
            built.loss_fn,
            self.optimizers,
            self.clips,
            self.measure,
            [replica.progress for replica in self.replicas],
            self.window,
            total_steps=first.total_steps,
            steps_per_epoch=built.steps_per_epoch,
            eval_every=first.eval_every,
            captured=graph.capturing(built, self.optimizers.optimizer, first.eval_every),
        )

    def batches(self, bar: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Every replica's batches, side by side, (B, N C, ...) and (N, B); a signal ends them early."""
        images, labels = self.built.inputs.split("train")
        per_epoch, size, drawn_for = self.built.steps_per_epoch, self.first.config.batch_size, None
        steps = range(self.first.progress.step, self.first.stop_step)
        shown = tqdm(
            steps, desc=self.first.folder.name, unit="step", initial=steps.start, total=self.first.total_steps,
            leave=False, disable=None if bar else True,
        )  # fmt: skip
        for step in shown:
            epoch, position = divmod(step, per_epoch)
            if epoch != drawn_for:
                order, draws = self._drawn(epoch, len(labels))
                drawn_for = epoch
            if position == 0:
                for generator, built in zip(self.generators, self.builts, strict=True):
                    generator.manual_seed(streams.derive(built.config.seed, "dropout", epoch))
            now = slice(position * size, (position + 1) * size)
            index = order[now].flatten()
            x = images.index_select(0, index)
            if draws is not None:
                x = self.built.augment(x, draws[now].flatten(0, 1))
            x = self.built.inputs.transform(x)
            yield x.view(size, -1, *x.shape[2:]), labels.index_select(0, index).view(size, -1).t()
            if self.first.should_stop():
                return

    def _drawn(self, epoch: int, count: int) -> tuple[Tensor, Tensor | None]:
        """An epoch's order (count, N), and the augmentation's draws in it (count, N, ...)."""
        seeds = [built.config.seed for built in self.builts]
        many = ThreadPoolExecutor() if self.built.device.type == "cuda" else contextlib.nullcontext()
        with many as pool:  # on a GPU an epoch of 256 small networks takes no longer than drawing their orders in turn
            drawn = (pool.map if pool else map)(lambda seed: streams.order(seed, epoch, count), seeds)
            order = torch.stack(list(drawn)).to(self.built.device).t().contiguous()
        draws = [self.built.augment.draw(streams.generator(seed, "augment", epoch), count) for seed in seeds]
        return order, None if draws[0] is None else torch.stack(draws, 1).to(self.built.device)

    def measure(self) -> list[dict[str, float]]:
        found = zip(self.evaluate("train_eval"), self.evaluate("val"), strict=True)
        keys = ("train_eval_loss", "train_eval_acc", "val_loss", "val_acc")
        return [dict(zip(keys, (*on_train, *on_val), strict=True)) for on_train, on_val in found]

    def evaluate(self, split: str) -> list[tuple[float, float]]:
        built, size = self.built, evaluate.images_at_once(self.built, self.width)
        return loop.evaluate(
            self.network, built.inputs.transform, built.loss_fn, *built.inputs.split(split), self.width, size
        )
