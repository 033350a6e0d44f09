"""`hydra/sweeper=checked` and `hydra/launcher=pool`: thin shells around normbench.sweep.

They are installed as hydra_plugins.normbench_checked: Hydra starts no plugin from elsewhere. It imports this
whenever any Hydra program of the environment starts, so nothing heavy is imported here.
"""

import atexit
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from normbench.sweep import pool


@dataclass
class CheckedSweeperConf:
    _target_: str = "hydra_plugins.normbench_checked.CheckedSweeper"
    dry_run: bool = False
    yes: bool = False
    params: dict[str, Any] | None = None


class CheckedSweeper(Sweeper):
    """Composes and checks every job before the first starts, joins equal ones, skips what is done.

    Args:
        dry_run: say what would run, and stop.
        yes: start it, however many jobs it has.
        params: a sweep that an experiment brings along, `{norm: "none,bn", seed: "0,1,2"}`; what is typed wins.
    """

    def __init__(self, dry_run: bool, yes: bool, params: dict[str, Any] | None):
        self.dry_run, self.yes, self.params = dry_run, yes, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader = hydra_context.config_loader
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Sequence[Any]:
        from normbench.sweep import Stop, session

        typed = {argument.partition("=")[0].lstrip("+") for argument in arguments}
        brought = [f"{key}={value}" for key, value in self.params.items() if key not in typed]
        try:
            return session.run_sweep(self.loader, [*brought, *arguments], self.launcher, self.dry_run, self.yes)
        except Exception as error:
            raise Stop(error) from error


@dataclass
class PoolLauncherConf:
    _target_: str = "hydra_plugins.normbench_checked.PoolLauncher"
    workers: int | None = None
    timeout_s: float | None = None
    fail_fast: bool = False


class PoolLauncher(Launcher):
    """Several runs at once, each in a process that serves many.

    Args:
        workers: processes; null: the cores of this machine, divided by the threads of a run, or its GPUs.
        timeout_s: a run that takes longer is stopped; the same command goes on with it. null: none is.
        fail_fast: after a failure nothing more is begun.
    """

    def __init__(self, workers: int | None, timeout_s: float | None, fail_fast: bool):
        self.workers, self.timeout_s, self.fail_fast = workers, timeout_s, fail_fast

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from normbench import app

        app.check_launcher(self.workers, self.timeout_s)  # before the sweeper writes anything
        self.loader = hydra_context.config_loader
        self.started: pool.Workers | None = None

    def _start(self, configs: Sequence[Any]) -> "pool.Workers":
        from normbench.sweep import devices, pool

        workers = pool.Workers(1)  # one is needed in any case: it imports torch while this process asks it for GPUs
        workers.become(min(self.workers or devices.default_workers(configs), len(configs)), devices.gpus(configs))
        return workers

    @contextlib.contextmanager
    def ready(self, configs: Sequence[Any]) -> Iterator[None]:
        """With processes for these runs, which start while the sweeper looks at them."""
        with self._start(configs) as self.started:
            try:
                yield
            finally:
                self.started = None

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from normbench import app
        from normbench.sweep import jobs, pool

        configs = jobs.configs(self.loader, job_overrides)
        if self.started is None:  # a search launches one batch after another: its processes stay
            self.started = self._start(configs)
            atexit.register(self.started.close)
        with app.told(len(configs), initial_job_idx) as (told, looked):
            results = pool.run_all(
                configs, self.started, timeout_s=self.timeout_s, fail_fast=self.fail_fast, told=told, looked=looked
            )
        returns = []
        for overrides, result in zip(job_overrides, results, strict=True):
            failed = isinstance(result, Exception)
            returns.append(JobReturn(overrides=overrides, status=JobStatus.FAILED if failed else JobStatus.COMPLETED))
            returns[-1].return_value = result
        return returns


ConfigStore.instance().store(group="hydra/launcher", name="pool", node=PoolLauncherConf, provider="normbench")
ConfigStore.instance().store(group="hydra/sweeper", name="checked", node=CheckedSweeperConf, provider="normbench")
