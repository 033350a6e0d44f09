"""P3, Lightning's Trainer.

    --option default     as it comes: logger, checkpoints, progress bar, summary
    --option stripped    without logger, checkpoints, progress bar and summary; a row is logged every 50 steps

Batches come from a DataLoader of whole batches of standardized tensors (the fastest way of loader_loop.py), so that
what is measured beside it is Lightning.
"""

import contextlib
import io
import tempfile
import warnings
from typing import Any

import networks
import torch
from contract import Clock, Job, Result, main
from examples_loop import torchvision
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

with contextlib.suppress(ImportError):  # Lightning imports it where it is there
    torchvision()
import lightning  # pyright: ignore[reportMissingImports]

OPTIONS = ("default", "stripped")


class Classifier(lightning.LightningModule):
    def __init__(self, job: Job):
        super().__init__()
        self.network = networks.make(job.model, job.data.shape, job.data.classes)
        self.loss_fn = nn.CrossEntropyLoss()
        self.job, self.window = job, []

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = self.loss_fn(self(x), y)
        self.log("train_loss", loss)
        if self.job.start:
            self.window.append(loss.detach())
        return loss

    def _held_out(self, name: str, batch: Any) -> None:
        x, y = batch
        self.log(name, (self(x).argmax(1) == y).float().mean(), batch_size=len(y))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._held_out("val_acc", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._held_out("test_acc", batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.job.lr, fused=True)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=self.job.gamma)]


class Timer(lightning.Callback):
    """The clock stands still while the Trainer validates; a row is written after that."""

    def __init__(self, job: Job, clock: Clock):
        self.job, self.clock = job, clock

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.clock.go()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.clock.halt()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.clock.lap()
        found = trainer.callback_metrics
        epoch = trainer.current_epoch + 1
        self.job.row(epoch=epoch, train_loss=found["train_loss"].item(), val_acc=found["val_acc"].item())


def train(job: Job) -> Result:
    lightning.seed_everything(job.seed, verbose=False)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # more of them are slower here
    data = {n: TensorDataset(*map(torch.from_numpy, job.data.floats(n))) for n in ("train", "val", "test")}
    if job.start:
        sampler = job.start.order.tolist()
    else:
        sampler = BatchSampler(RandomSampler(data["train"]), job.batch_size, drop_last=True)
    held = {n: BatchSampler(SequentialSampler(data[n]), 1000, drop_last=False) for n in ("val", "test")}
    loaders = {
        n: DataLoader(data[n], sampler=its, batch_size=None, pin_memory=job.device == "cuda")
        for n, its in {"train": sampler, **held}.items()
    }
    model = Classifier(job)
    if job.start:
        networks.begin_from(model.network, job.start.arrays)
    clock = Clock(torch.cuda.synchronize if job.device == "cuda" else lambda: None)
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    more: dict[str, Any] = {"log_every_n_steps": 50, **dict.fromkeys(off, False)} if job.option == "stripped" else {}
    device = "gpu" if job.device == "cuda" else job.device
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = lightning.Trainer(
            accelerator=device, devices=1, max_epochs=job.epochs, callbacks=[Timer(job, clock)],
            default_root_dir=folder, **more,
        )  # fmt: skip
        trainer.fit(model, loaders["train"], loaders["val"])
        val_acc = trainer.callback_metrics["val_acc"].item()
        (tested,) = trainer.test(model, loaders["test"], verbose=False)
    losses = [loss.item() for loss in model.window]
    return Result(networks.count(model.network), clock.epochs, val_acc, tested["test_acc"], losses)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(train, lambda: {"torch": torch.__version__, "lightning": lightning.__version__}, OPTIONS)
