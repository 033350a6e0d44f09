"""One attempt at a run, under its lock: train, checkpoint, resume, record."""

import contextlib
import json
import logging
import math
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from normbench import build, evaluate, manifest, records, streams
from normbench.config import NO_PROBE, ConfigError, RunConfig, to_yaml
from normbench.dataset import DataError
from normbench.outcome import Interrupted, Outcome, of_the_disk

log = logging.getLogger("normbench")


class Attempt:
    """One attempt at a run, under its lock: all that is written goes through here."""

    def __init__(self, config: RunConfig, built: build.Built):
        from normbench.probing import Probing
        from normbench.train import Progress

        self.config, self.built, self.folder = config, built, config.folder
        self.progress, self.saved = Progress(), Progress()  # how far it is, how far the checkpoint reaches
        # None: the run folder is to be as if there were no probes
        self.probing = Probing(built) if config.probe["_target_"] != NO_PROBE["_target_"] else None
        self.total_steps = config.epochs * built.steps_per_epoch
        self.stop_step = (config.stop_epoch or config.epochs) * built.steps_per_epoch
        self.eval_every = config.eval.every_steps or built.steps_per_epoch
        self.signum: int | None = None
        self.should_stop: Callable[[], bool] = lambda: self.signum is not None  # asked after every step
        self.saved_at = time.monotonic()
        self.started_at = datetime.now(UTC).isoformat(timespec="seconds")

    # ------------------------------------------------------------------------------------------------- course

    def run(self, announce: Callable[[str], None], bar: bool) -> Outcome:
        self.restore()
        try:
            self.begin()
            with contextlib.suppress(OSError):  # nobody listens any more: no reason not to train
                announce(manifest.headline(self.config, self.built, self.progress, self.total_steps))
            with self.signals():
                for row in self.rows(bar):
                    self.keep(row)
                return self.finish()
        except KeyboardInterrupt as error:  # the second Ctrl-C, or one outside the loop: what is saved is saved
            raise Interrupted(self.give_up("interrupted"), self.signum or signal.SIGINT) from error
        except (Exception, SystemExit) as error:  # a user's class may raise anything, even an exit
            return self.failed(error)

    def begin(self) -> None:
        records.remove_temporaries(self.folder)
        self.commit("running")  # first: an ended attempt's run.json vouches for its config.yaml
        records.write(self.folder / "config.yaml", to_yaml(self.config).encode())

    def keep(self, row: dict[str, Any]) -> None:
        log.info(" ".join(f"{key}={value:.6g}" for key, value in row.items() if value is not None))
        self.save_now_and_then()

    def failed(self, error: BaseException) -> Outcome:
        """Give up for this error, which is being handled."""
        disk = of_the_disk(error, self.folder)  # says it all on the terminal; the lines of code are no help there
        log.log(logging.INFO if disk else logging.ERROR, "%s", traceback.format_exc())
        reason = disk or f"{type(error).__name__}: {error}"
        return self.give_up("failed", f"{reason} (at step {self.progress.step})")

    def rows(self, bar: bool) -> Iterator[dict[str, Any]]:
        """Train; the rows as they are measured."""
        from normbench import graph
        from normbench.train import train

        built = self.built
        images, _ = built.inputs.split("train")  # now, if it is transformed: outside the clock
        if not self.progress.rows:
            built.norm.start(built.model, built.inputs.transform(images[: self.config.batch_size]))
        return train(
            built.model,
            self.batches(bar),
            built.loss_fn,
            built.optimizer,
            self.probing.clip if self.probing else built.clip,
            built.schedule,
            self.measure,
            self.progress,
            total_steps=self.total_steps,
            steps_per_epoch=built.steps_per_epoch,
            eval_every=self.eval_every,
            amp=built.amp,
            captured=graph.capturing(built, built.optimizer, self.eval_every),
        )

    def batches(self, bar: bool) -> Iterator[tuple]:
        """Batches from where the run stands to where it is to stop; a signal ends them early."""
        import torch
        from tqdm import tqdm

        per_epoch = self.built.steps_per_epoch
        steps = range(self.progress.step, self.stop_step)
        shown = tqdm(
            steps, desc=self.folder.name, unit="step", initial=steps.start, total=self.total_steps, leave=False,
            disable=None if bar else True,
        )  # fmt: skip
        for step, batch in zip(shown, self.built.batches(steps), strict=True):
            if step % per_epoch == 0:
                torch.manual_seed(streams.derive(self.config.seed, "dropout", step // per_epoch))
            yield batch
            if self.should_stop():
                return

    def measure(self) -> dict[str, float]:
        train_loss, train_acc = self.evaluate(self.built.inputs.split("train_eval"))
        val_loss, val_acc = self.evaluate(self.built.inputs.split("val"))
        found = {"train_eval_loss": train_loss, "train_eval_acc": train_acc, "val_loss": val_loss, "val_acc": val_acc}
        if self.probing and all(map(math.isfinite, found.values())):  # otherwise the run ends without this row
            self.probing.measure(self.progress.step)
        return found

    def evaluate(self, part: tuple) -> tuple[float, float]:
        from normbench import train

        built, size = self.built, evaluate.images_at_once(self.built)
        return train.evaluate(built.model, built.inputs.transform, built.loss_fn, *part, batch_size=size, amp=built.amp)

    def by_statistics(self) -> dict[str, dict[str, float | None]]:
        """As evaluate.by_statistics; with the running averages the last row tells of the validation images already."""
        kinds, last = self.config.eval.statistics, self.progress.rows[-1]
        found = evaluate.by_statistics(self.built, [kind for kind in kinds if kind != "ema"])
        if "ema" in kinds:
            loss, acc = self.on_test()
            found["ema"] = {"val_loss": last["val_loss"], "val_acc": last["val_acc"]}
            found["ema"] |= {"test_loss": records.finite_or_none(loss), "test_acc": acc}
        return {kind: found[kind] for kind in kinds}

    def on_test(self) -> tuple[float, float]:
        return self.evaluate(self.built.inputs.split("test"))

    def finish(self) -> Outcome:
        progress = self.progress
        if progress.diverged_step is not None:
            reason = f"loss, gradient or weights stopped being finite at step {progress.diverged_step}"
            log.info("diverged: %s", reason)
            self.save(keep="none")
            return self.commit("diverged", reason=reason, val_loss=None, val_acc=None)
        if progress.step < self.total_steps:
            self.save()
            outcome = self.commit("paused" if self.signum is None else "interrupted")
            if self.signum is not None:
                raise Interrupted(outcome, self.signum)
            return outcome
        self.save(self.config.checkpoint.keep)
        found = self.by_statistics()
        headline = found[self.config.eval.statistics[0]]
        log.info("complete: %s", " ".join(f"{key}={value}" for key, value in headline.items()))
        readings = evaluate.readings(self.built)
        card = self.probing.card() if self.probing else {}
        return self.commit("complete", **headline, statistics=found, norm_readings=readings, **card)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """The first Ctrl-C, SIGTERM or SIGHUP ends the run after its step; the second at once.

        So does SIGUSR2 where a scheduler listens to it (submitit): it comes shortly before the time is up.
        """

        def stop(signum, _frame):
            if self.signum is not None:
                raise KeyboardInterrupt
            self.signum = signum

        with handled(stop):
            yield

    # ----------------------------------------------------------------------------------------------- checkpoint

    def save(self, keep: str = "all") -> None:
        """Write the checkpoint, or remove it if nothing of it is to be kept."""
        from normbench import checkpoint

        path = self.folder / "checkpoint.pt"
        if keep == "none":
            path.unlink(missing_ok=True)
            return
        facts = {
            "run_id": self.folder.name,
            "started_at": self.started_at,
            "config": json.dumps(self.config.to_dict()),
            "environment": manifest.environment(self.config, self.built),
        }
        facts |= self.probing.state() if self.probing else {}
        records.write(path, checkpoint.pack(self.built, self.progress, facts, to_resume=keep == "all"))
        self.saved, self.saved_at = self.progress.copy(), time.monotonic()
        if self.probing:
            self.probing.saved = list(self.probing.rows)

    def save_now_and_then(self) -> None:
        if self.progress.step < self.stop_step and time.monotonic() - self.saved_at >= self.config.checkpoint.every_s:
            self.save()
            self.commit("running")

    def restore(self) -> None:
        """Take up what an earlier attempt saved; a damaged checkpoint is moved aside and the run starts again."""
        from normbench import checkpoint

        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        try:
            content = checkpoint.read(path)
        except records.Newer as error:
            raise ConfigError(f"{error}, or use another out=FOLDER") from None
        except records.Damaged as error:
            aside = path.with_name("checkpoint.pt.damaged")
            path.replace(aside)
            log.warning("%s; moved to %s, the run starts again", error, aside.name)
            return
        refuse_other_data(self.config, content["data_fingerprint"], self.built.data.fingerprint, self.folder)
        if "optimizer" not in content:  # made with checkpoint.keep=weights, then another file was damaged
            return
        if content["environment"] != manifest.environment(self.config, self.built):
            log.warning(
                "resuming with %s what began with %s: the last bits may differ",
                _words(manifest.environment(self.config, self.built)), _words(content["environment"]),
            )  # fmt: skip
        try:
            checkpoint.restore(content, self.built, self.progress)
            if self.probing:
                self.probing.restore(content)
        except Exception as error:  # torch and a user's own class raise what they like
            raise ConfigError(
                f"{path} does not fit this run ({type(error).__name__}: {' '.join(str(error).split())[:300]}): "
                "move it away to start again, or use another out=FOLDER"
            ) from error
        self.saved, self.started_at = self.progress.copy(), content["started_at"]
        log.info("resuming at step %d of %d", self.progress.step, self.total_steps)

    # --------------------------------------------------------------------------------------------------- record

    def commit(self, state: str, **results: Any) -> Outcome:
        """Write metrics.csv, then run.json: the mark that says what the folder now holds.

        A run that can go on is described as far as its checkpoint reaches: no row is ever ahead of the weights.
        """
        progress = self.progress if state in ("complete", "diverged") else self.saved
        records.write(self.folder / "metrics.csv", records.metrics_csv(progress.rows))
        record = manifest.of_run(self.config, self.built, progress, state)
        record |= {"started_at": self.started_at, **results}
        if self.probing:
            rows = self.probing.rows if progress is self.progress else self.probing.saved
            records.write(self.folder / "layers.csv", records.layers_csv(rows))
            record["probe_s"] = self.probing.seconds
        # while a run goes on, its files are replaced before run.json is: only an ended one's are vouched for
        names = () if state == "running" else ("config.yaml", "metrics.csv", "layers.csv", "checkpoint.pt")
        names = [name for name in names if (self.folder / name).exists()]
        record["files"] = {name: records.sha256((self.folder / name).read_bytes()) for name in names}
        records.write(self.folder / "run.json", records.run_json(record))
        return Outcome(state, self.folder, record)

    def give_up(self, state: str, reason: str | None = None) -> Outcome:
        """Commit; a disk that takes not even that leaves the folder as it was, and the outcome says so."""
        try:
            return self.commit(state, reason=reason)
        except OSError as error:
            words = f"{of_the_disk(error, self.folder) or error}, so this could not be recorded there"
            record = manifest.of_run(self.config, self.built, self.saved, state)
            return Outcome(state, self.folder, record | {"reason": f"{reason}; {words}" if reason else words})


def refuse_other_data(config: RunConfig, before: str, now: str, folder: Path) -> None:
    if before != now:
        raise DataError(
            f"{folder} was made from other data: dataset={config.dataset['name']} had the fingerprint {before[:12]}, "
            f"now it is {now[:12]}; give the changed data another dataset.name, or use another out=FOLDER"
        )


@contextlib.contextmanager
def handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """With this handler for what is to end a run.

    A hangup that nohup has the process ignore stays ignored; SIGUSR2 ends a run only where a scheduler listens to it.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    numbers += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    numbers += [signal.SIGUSR2] if callable(signal.getsignal(signal.SIGUSR2)) else []
    if threading.current_thread() is not threading.main_thread():  # Python allows it there alone
        numbers = []
    old = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in old.items():
            signal.signal(number, before)


def _words(environment: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in environment.items())
