"""Hydra's plugins for engines that are not ours (Slurm, Ray, Optuna), with the defaults that fit a run of normbench.

Each is an extra to install; what is not installed is not there. Everything in them can be set as their pages say.
"""

import logging
import sys
from collections.abc import Sequence
from textwrap import shorten

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigLoadError
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from normbench import records, run
from normbench.config import ConfigError
from normbench.sweep.jobs import Job

EXTRAS = {"submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray", "optuna": "optuna"}

_JOBS_OF_SUBMITIT = {"submitit_folder": "${out}/.submitit", "cpus_per_task": "${threads}", "name": "${name}"}
DEFAULTS = {
    "hydra/launcher/submitit_local": _JOBS_OF_SUBMITIT,
    # a run that reaches its time limit saves what it has, is queued again and goes on
    "hydra/launcher/submitit_slurm": {**_JOBS_OF_SUBMITIT, "max_num_timeout": 3},
    # the plugin fills in a size where none is set, and Ray refuses one together with the address of a cluster
    "hydra/launcher/ray": {"ray": {"init": {"object_store_memory": None}, "remote": {"num_cpus": "${threads}"}}},
    # a run's score is its validation accuracy; a failed trial is shown, and the search goes on
    "hydra/sweeper/optuna": {"direction": "maximize", "max_failure_rate": 1.0},
}


def fit_plugins() -> None:
    """Put our defaults into the plugins' own; Hydra must have found them before."""
    store = ConfigStore.instance()
    for path, ours in DEFAULTS.items():
        group, _, name = path.rpartition("/")
        try:
            found = store.load(f"{path}.yaml")
        except ConfigLoadError:
            continue  # not installed
        store.store(group=group, name=name, node=OmegaConf.merge(found.node, ours), provider=found.provider)
    _show_what_optuna_says()


def _show_what_optuna_says() -> None:
    """What failed, and what was best; the whole sweep's log is off (hydra_logging: none)."""
    log = logging.getLogger("hydra_plugins.hydra_optuna_sweeper")
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler(sys.stdout)]
    log.propagate = False


def launch(launcher: Launcher, todo: Sequence[Job]) -> Sequence[JobReturn]:
    """What the launcher says of each job; where it has no answer, what the run's folder says.

    Launchers that are not ours raise if the process of one job has died (killed, out of time), whatever came of
    the others.

    Raises:
        ConfigError: the launcher could not begin, and nothing was written.
    """
    try:
        return launcher.launch([job.overrides for job in todo], initial_job_idx=1)
    except (ConfigError, HydraException, OmegaConfBaseException):
        raise
    except Exception as error:
        if type(launcher).__module__.startswith(("hydra_plugins.normbench", "hydra._internal")):
            raise
        if not any(job.config.folder.exists() for job in todo):
            raise ConfigError(f"{type(launcher).__name__} could not begin: {_in_words(error)}") from error
        return [_from_folder(job, error) for job in todo]


def _from_folder(job: Job, error: Exception) -> JobReturn:
    outcome = run.finished(job.config)
    if outcome:
        return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=outcome)
    value: Exception = RuntimeError(
        f"no result; its launcher says: {_in_words(error)}; the same command goes on with it"
    )
    if records.Lock.is_held(job.config.folder):
        value = records.InUse(f"{job.config.folder} is still being trained")
    return JobReturn(overrides=job.overrides, status=JobStatus.FAILED, _return_value=value)


def _in_words(error: Exception) -> str:
    return shorten(str(error), 200, placeholder=" ...") or type(error).__name__
