"""One sweep from the command line: say what will run, run it, say how it went."""

import contextlib
import json
import os
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from normbench import build, records, run
from normbench.config import ConfigError, RunConfig, identity
from normbench.sweep import elsewhere, estimate, jobs

MOST = 10_000  # jobs that are started without a further question
HOW = "to start them all the same, add --yes"


class SweepFailed(Exception):
    """At least one run of the sweep failed; all of them are named in the summary that was printed."""


class InUseElsewhere(Exception):
    """Another process still trains some runs of the sweep; they are named in the summary that was printed."""


@dataclass
class Sorted:
    """What has to be done: nothing, nothing but to say why not, or training."""

    done: list[run.Outcome] = field(default_factory=list)
    impossible: list[tuple[jobs.Job, str]] = field(default_factory=list)
    todo: list[jobs.Job] = field(default_factory=list)


def look_for_finished(planned: jobs.Plan) -> Sorted:
    """The runs that were finished before, and all others as something to do.

    Raises:
        ConfigError: a folder that holds something else. DataError: a run of other data.
    """
    result = Sorted()
    for job in planned.jobs:
        outcome = run.finished(job.config)
        if outcome:
            result.done.append(outcome)
        else:
            result.todo.append(job)
    return result


def check(work: Sorted) -> None:
    """Build a job of every arm once, so that nothing starts if anything can't be; what is impossible is sorted out.

    An arm is what is left of a config without its seed.

    Raises:
        ConfigError, DataError: a job that can't be built. All jobs impossible: the first one's reason.
    """
    from normbench.norm import Impossible

    reasons: dict[str, str | None] = {}
    for job in sorted(work.todo, key=lambda job: json.dumps(job.config.dataset)):  # each data set is loaded once
        if (arm := _arm(job)) in reasons:
            continue
        _refuse_unwritable(job.config)
        try:
            build.build(job.config)
            reasons[arm] = None
        except Impossible as error:
            reasons[arm] = str(error)
        except ConfigError as error:
            raise ConfigError(
                f"{error} (in {' '.join(job.overrides)})" if len(work.todo) > 1 else str(error)
            ) from error
    work.impossible = [(job, reason) for job in work.todo if (reason := reasons[_arm(job)])]
    work.todo = [job for job in work.todo if reasons[_arm(job)] is None]
    if work.impossible and not work.todo and not work.done:
        raise ConfigError(work.impossible[0][1])


def _arm(job: jobs.Job) -> str:
    return identity(replace(job.config, seed=0).to_dict())


def _refuse_unwritable(config: RunConfig) -> None:
    """Raise ConfigError now for a place that no run could be written to, not once a run."""
    place = next(place for place in (config.folder, *config.folder.absolute().parents) if os.path.lexists(place))
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        why = "cannot be written to" if place.is_dir() else "is no folder"
        raise ConfigError(f"out={config.out}: {place} {why}; try another out=FOLDER")


def run_sweep(
    loader: ConfigLoader, typed: Sequence[str], launcher: Launcher, dry_run: bool, yes: bool
) -> Sequence[JobReturn]:
    """Check everything, then train what is left to train.

    Raises:
        ConfigError, DataError: before anything is written.
        SweepFailed: a run failed; the others were run all the same.
    """
    try:
        planned = jobs.plan(loader, typed, most=None if yes else MOST)
    except jobs.TooMany as error:
        raise ConfigError(f"{error}; {estimate.of_many(error.count, error.first)}; {HOW}") from None
    work = look_for_finished(planned)
    with contextlib.ExitStack() as held:
        # a launcher that has processes to start does so while the jobs are checked
        ready = getattr(launcher, "ready", None) if work.todo and not dry_run else None
        if ready:
            held.enter_context(ready([job.config for job in work.todo]))
        check(work)
        joined = f" ({planned.asked} asked for, equal ones joined)" if planned.asked > len(planned.jobs) else ""
        parts = f"{len(work.done)} done before, {len(work.todo)} to train, {len(work.impossible)} impossible"
        print(f"{len(planned.jobs)} run{'s' * (len(planned.jobs) != 1)}{joined}: {parts}", flush=True)
        for job, reason in work.impossible:
            print(f"  impossible: {' '.join(job.overrides)}: {reason}")
        if dry_run:
            print(estimate.table(work.todo))
            return []
        for job, reason in work.impossible:
            run.record_skipped(job.config, reason)
        started = time.monotonic()
        returns = elsewhere.launch(launcher, work.todo) if work.todo else []
    _summarize(work, returns, time.monotonic() - started)
    return returns


def _summarize(work: Sorted, returns: Sequence[JobReturn], seconds: float) -> None:
    states = Counter(outcome.state for outcome in work.done)
    states["skipped"] += len(work.impossible)
    lines, in_use, trained = [], 0, 0
    for job, result in zip(work.todo, returns, strict=True):
        state, line = _how_it_went(job, result)
        states[state] += 1
        lines += [line] if line else []
        in_use += state == "in use"
        trained += result.status is JobStatus.COMPLETED
    counts = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    print("\n".join([f"{counts}; {trained} trained now in {seconds:.0f} s", *lines]))
    folders = {str(o.folder.parent) for o in work.done} | {str(job.config.folder.parent) for job in work.todo}
    failed = len(lines) > in_use
    word = "some runs failed" if failed else "some runs are in use" if in_use else "done"
    print(f"{word}: {' '.join(sorted(folders))}; next: {shlex.join(['normbench', 'report', *sorted(folders)])}")
    if failed:
        raise SweepFailed
    if in_use:
        raise InUseElsewhere


def _how_it_went(job: jobs.Job, result: JobReturn) -> tuple[str, str]:
    """The state of a job that was launched, and what to say of it if something is wrong."""
    value = result._return_value
    if result.status is JobStatus.COMPLETED:
        reason = " ".join((value.record["reason"] or "").split())
        lines = {
            "failed": f"  failed: {value.folder}: {reason} (traceback in its train.log)",
            "interrupted": f"  interrupted: {value.folder}; the same command goes on with it",
        }
        return value.state, lines.get(value.state, "")
    if isinstance(value, records.InUse):  # another process has it; perhaps it is done by now
        outcome = run.finished(job.config)
        return (outcome.state, "") if outcome else ("in use", f"  in use: {value}")
    from normbench.sweep.pool import ending

    word, folder = ending(value), job.config.folder
    return word, f"  {word}: {folder if folder.exists() else ' '.join(job.overrides)}: {value}"
