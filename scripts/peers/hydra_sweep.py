"""P5: a sweep as Hydra's users make it, with Hydra's own launchers around a loop of another peer.

    python hydra_sweep.py -m peer=examples_loop seed=range(8) model=mlp data=FILE.npz epochs=3
    python hydra_sweep.py -m peer=bare_loop seed=range(8) ... hydra/launcher=joblib hydra.launcher.n_jobs=2

The basic launcher trains one run after another in this process, joblib's in n_jobs processes (extra package
hydra-joblib-launcher). Each run has the folder that Hydra makes, with the log of its epochs and result.json.
"""

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import hydra
import torch
from contract import Job, load
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig


@dataclass
class Config:
    peer: str = "bare_loop"
    model: str = "mlp"
    data: str = "???"
    epochs: int = 1
    seed: int = 0
    device: str = "cpu"


ConfigStore.instance().store("config", Config)


@hydra.main(config_name="config", version_base="1.3")
def app(config: Config) -> None:
    torch.set_num_threads(1)
    folder = Path(HydraConfig.get().runtime.output_dir)
    job = Job(config.model, load(config.data), config.epochs, config.seed, config.device, folder / "log.csv")
    line = import_module(config.peer).train(job).line(job, {"torch": torch.__version__})
    (folder / "result.json").write_text(json.dumps(line))


if __name__ == "__main__":
    app()
