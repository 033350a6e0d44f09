"""`hydra/sweeper=checked`: our sweeper, a thin shell around normbench.sweep.

It is installed as hydra_plugins.normbench_checked: Hydra starts no plugin from elsewhere. Hydra imports it at every
start of every Hydra program of the environment, so it imports nothing heavy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class CheckedSweeperConf:
    _target_: str = "hydra_plugins.normbench_checked.CheckedSweeper"
    dry_run: bool = False
    params: dict[str, Any] | None = None


class CheckedSweeper(Sweeper):
    """Composes and checks every job before the first starts, joins equal ones, skips what is done.

    Args:
        dry_run: say what would run, and stop.
        params: a sweep that an experiment brings along, `{norm: "none,bn", seed: "0,1,2"}`; what is typed wins.
    """

    def __init__(self, dry_run: bool, params: dict[str, Any] | None):
        self.dry_run, self.params = dry_run, params or {}

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
            return session.run_sweep(self.loader, [*brought, *arguments], self.launcher, self.dry_run)
        except Exception as error:
            raise Stop(error) from error


ConfigStore.instance().store(group="hydra/sweeper", name="checked", node=CheckedSweeperConf, provider="normbench")
