"""From the config to the live objects of one run.

torch is imported where it is needed, so that `normbench data` and a sweep that has nothing to do stay quick.
"""

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normbench import streams
from normbench.config import ConfigError, RunConfig
from normbench.dataset import Dataset
from normbench.parts import arguments_of, impossible, in_words, maker_of, offered, part
from normbench.resident import Resident, resident

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from normbench.norm import Norm
    from normbench.preprocess import Preprocess


def dataset(settings: Mapping[str, Any]) -> Dataset:
    return part("dataset", settings)


def normalization(settings: Mapping[str, Any]) -> "Norm":
    """The chosen normalization; an `nn.Module` class that takes the number of features becomes one."""
    from torch import nn

    from normbench.norm import Norm

    maker = maker_of("norm", settings["_target_"])
    if not (isinstance(maker, type) and issubclass(maker, nn.Module)):
        return part("norm", settings)
    arguments = arguments_of("norm", settings, maker, (1,), {})

    class Plain(Norm):
        def layer(self, num_features: int) -> nn.Module:
            return maker(num_features, **arguments)

    return Plain()


def fitting(config: RunConfig, masked: bool) -> "Preprocess":
    """The preprocessing, to be fitted; for a masked data set it leaves out what is padding."""
    from normbench.preprocess import Masked

    preprocess = part("preprocess", config.preprocess)
    return Masked(preprocess) if masked else preprocess


def optimizer(settings: Mapping[str, Any], model: "nn.Module") -> "torch.optim.Optimizer":
    """The optimizer over all parameters, with torch's fused kernels where its class has them."""
    signature = inspect.signature(maker_of("optimizer", settings["_target_"]))
    fused = {"fused": True} if "fused" in signature.parameters and "fused" not in settings else {}
    return part("optimizer", settings, list(model.parameters()), **fused)


@dataclass
class Assembled:
    """A model, the layers in it that the norm made, and how many BatchNorm layers of its own were swapped for them."""

    model: "nn.Module"
    norm_layers: "list[nn.Module]"
    swapped: int


def network(config: RunConfig, preprocess: "nn.Module", images: "Tensor", num_classes: int) -> "nn.Module":
    """The model alone of `assemble`."""
    return assemble(config, normalization(config.norm), preprocess, images, num_classes).model


def assemble(config: RunConfig, norm: "Norm", preprocess: "nn.Module", images: "Tensor", num_classes: int) -> Assembled:
    """The model with its initial weights, on the CPU, after asking the norm whether it can work there.

    A model whose class takes no `norm` has its BatchNorm layers swapped for the norm's.

    Args:
        norm: the object of config.norm.
        preprocess: fitted; the model sees what it makes.
        images: a few uint8 images (N >= 2, C, H, W), to learn the shapes.
        num_classes: outputs of the model.

    Raises:
        ConfigError: settings that the model refuses, or logits of another shape.
        normbench.norm.Impossible: the norm can't be trained on the activations that it would see.
    """
    import torch
    from torch.nn.parameter import is_lazy

    from normbench.model import Model, swap_batch_norm
    from normbench.norm import Impossible, Norm

    words = f"model={config.model['name']} with norm={config.norm['name']}"
    recorder = _Recorder(norm)
    x = preprocess(images[:2].cpu())
    runtime = {"norm": recorder, "input_shape": tuple(x.shape[1:]), "num_classes": num_classes}
    runtime = offered("model", config.model, runtime)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.derive(config.seed, "weights"))
        model = part("model", config.model, **runtime)
        if isinstance(model, torch.nn.Module) and any(map(is_lazy, model.parameters())):
            with _told(words, x), torch.no_grad():
                model.eval()(x)  # lazy layers draw their weights now, under this seed
        if isinstance(model, Model):
            for path, layer in model.named_modules():
                torch.manual_seed(streams.derive(config.seed, "weights", path))
                model.draw(layer)
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"model={config.model['name']} must be a torch.nn.Module, it is a {type(model).__name__}")
    takes_norm = "norm" in runtime
    if takes_norm and not (recorder.layers or recorder.weighted):  # it may have vanished in the class's **kwargs
        takes_norm = "norm" in inspect.signature(maker_of("model", config.model["_target_"])).parameters
    with _told(words, x):
        swapped = 0 if takes_norm else swap_batch_norm(model, recorder, x)
    if not takes_norm and not swapped and config.norm["name"] != "none":
        raise Impossible(
            f"{words}: its class takes no norm and holds no BatchNorm layer to swap for one, so that norm= would "
            "change nothing; try norm=none"
        )
    if type(norm).reparametrize is not Norm.reparametrize and not recorder.weighted:
        raise Impossible(
            f"{words}: the norm acts on the weights of layers, and the model hands it none (norm.reparametrize), so "
            "that it would change nothing; try norm=none"
        )
    for layer in recorder.weighted:
        norm.reparametrize(layer)
    with _told(words, x):
        logits = check_norm(norm, recorder.layers, model, x, config.batch_size)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ConfigError(f"model={config.model['name']} must give logits (N, {num_classes}), got {found}")
    if x.isnan().any() and logits.isnan().any():
        raise Impossible(
            f"model={config.model['name']} can't take images whose rows end early, as those of "
            f"dataset={config.dataset['name']}; try model=rnn"
        )
    return Assembled(model, recorder.layers, swapped)


@contextlib.contextmanager
def _told(words: str, x: "Tensor") -> Iterator[None]:
    """Whatever the model raises for these images, as a ConfigError."""
    try:
        yield
    except impossible():
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{words} fails on images {tuple(x.shape)}: {in_words(error)}") from error


class _Recorder:
    """Stands for the norm while a model is made: remembers its layers, and puts off the reparametrizing.

    That waits until the weights are drawn, so that every arm starts from the same ones.
    """

    def __init__(self, norm: "Norm"):
        self.norm = norm
        self.layers: list[nn.Module] = []
        self.weighted: list[nn.Module] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.norm, name)

    def layer(self, num_features: int) -> "nn.Module":
        self.layers.append(self.norm.layer(num_features))
        return self.layers[-1]

    def reparametrize(self, layer: "nn.Module") -> "nn.Module":
        self.weighted.append(layer)
        return layer


def check_norm(norm: "Norm", layers: list, model: "nn.Module", x: "Tensor", batch_size: int) -> "Tensor":
    """Ask the norm about every activation that one of its layers sees; the model's logits for x."""
    import torch

    def ask(layer, inputs):
        rows = len(inputs[0]) // len(x)  # of each image: a transformer normalizes every patch
        norm.check(tuple(inputs[0].shape[1:]), batch_size * max(1, rows))

    hooks = [layer.register_forward_pre_hook(ask) for layer in layers]
    try:
        with torch.no_grad():
            return model.eval()(x)
    finally:
        for hook in hooks:
            hook.remove()


def choose_device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device={name}: there is no such CUDA device here; try device=cpu")
    return device


# -------------------------------------------------------------------------------------------------------- run


@dataclass
class Built:
    """All the objects of one run."""

    config: RunConfig
    device: "torch.device"
    data: Resident
    augment: Any
    preprocess: "Preprocess"
    model: "nn.Module"
    norm: "Norm"
    norm_layers: "list[nn.Module]"
    swapped: int  # BatchNorm layers of the model's own, in whose place the norm's stand
    loss_fn: Any
    optimizer: "torch.optim.Optimizer"
    clip: Any
    schedule: Any
    steps_per_epoch: int

    def batches(self, steps: Iterable[int]) -> "Iterator[tuple[Tensor, Tensor]]":
        """The training batches of these steps, augmented and preprocessed: the same for a step, whoever asks."""
        images, labels = self.data.train
        seed, size, drawn_for = self.config.seed, self.config.batch_size, None
        for step in steps:
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != drawn_for:
                order = streams.order(seed, epoch, len(labels)).to(self.device)
                draws = self.augment.draw(streams.generator(seed, "augment", epoch), len(labels))
                draws = None if draws is None else draws.to(self.device)
                drawn_for = epoch
            now = slice(position * size, (position + 1) * size)
            x = images.index_select(0, order[now])
            if draws is not None:
                x = self.augment(x, draws[now])
            yield self.preprocess(x), labels.index_select(0, order[now])


def build(config: RunConfig) -> Built:
    """Everything that the run needs, before anything is written.

    Raises:
        ConfigError, normbench.norm.Impossible, normbench.dataset.DataError.
    """
    device = choose_device(config.device)
    data = resident(config, device)
    steps_per_epoch = len(data.train[1]) // config.batch_size  # the last partial batch is dropped
    if steps_per_epoch == 0:
        raise ConfigError(
            f"batch_size must be at most {len(data.train[1]):,}, the training images of "
            f"{config.dataset['name']}; got {config.batch_size}; try batch_size=64"
        )
    augment = part("augment", config.augment)
    if data.masked and not getattr(augment, "keeps_rows", False):
        raise ConfigError(
            f"augment={config.augment['name']} moves the rows of images, and in those of "
            f"dataset={config.dataset['name']} a mask says where each one ends; try augment=none"
        )
    preprocess = fitting(config, data.masked)
    preprocess.fit(data.train[0])
    schedule = part("schedule", config.schedule, steps_per_epoch=steps_per_epoch)
    if getattr(schedule, "warmup_steps", 0) >= config.epochs * steps_per_epoch:
        raise ConfigError(
            f"schedule.warmup_epochs must be less than epochs={config.epochs}, got "
            f"{config.schedule['warmup_epochs']}: the learning rate would never reach its value"
        )
    norm = normalization(config.norm)
    assembled = assemble(config, norm, preprocess, data.sample(), len(data.classes))
    model = assembled.model.to(device)
    return Built(
        config=config,
        device=device,
        data=data,
        augment=augment,
        preprocess=preprocess.to(device),
        model=model,
        norm=norm,
        norm_layers=assembled.norm_layers,
        swapped=assembled.swapped,
        loss_fn=part("loss", config.loss).to(device),
        optimizer=optimizer(config.optimizer, model),
        clip=part("clip", config.clip),
        schedule=schedule,
        steps_per_epoch=steps_per_epoch,
    )
