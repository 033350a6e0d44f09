"""From the config to live objects; every call of Hydra's instantiate is here.

torch is imported where it is needed, so that `normbench data` and a sweep that has nothing to do stay quick.
"""

import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.errors import HydraException
from hydra.utils import instantiate

from normbench import streams
from normbench.config import ConfigError, RunConfig, unknown_key
from normbench.dataset import Data, DataError, Dataset

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from normbench.norm import Norm

OURS = ("name", "_target_")  # keys of a part that are not arguments of its class


# ------------------------------------------------------------------------------------------------------ parts


def part(group: str, settings: Mapping[str, Any], *args: Any, **runtime: Any) -> Any:
    """An object of the part's class, from its settings and what only this run knows (`args`, `runtime`).

    Raises:
        ConfigError: the class can't be imported, does not take a setting, or refuses a value.
    """
    maker = _maker(group, settings["_target_"])
    arguments = _arguments(group, settings, maker, args, runtime)
    try:
        return maker(*args, **arguments, **runtime)
    except (ConfigError, DataError, *impossible()):
        raise
    except (Exception, SystemExit) as error:  # a user's class may raise anything
        raise ConfigError(f"{group}={settings['name']}: {_in_words(error)}") from error


def impossible() -> tuple[type[Exception], ...]:
    """normbench.norm.Impossible, if torch is there at all: a data set must not import it."""
    module = sys.modules.get("normbench.norm")
    return (module.Impossible,) if module else ()


def _in_words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"


def _maker(group: str, target: str) -> Callable[..., Any]:
    try:
        return instantiate({"_target_": target, "_partial_": True}).func
    except (HydraException, ValueError, ImportError) as error:
        reason = str(error.__cause__ or " ".join(str(error).split()))
        raise ConfigError(
            f"{group}._target_={target} can't be used: {reason}; it must be the path of a class in an installed "
            "package or in the folder where you start normbench"
        ) from None


def is_known(group: str, settings: Mapping[str, Any]) -> bool:
    """Whether the part is a class of normbench's own group, or a layer of torch.nn: code that a stranger may name."""
    target = settings["_target_"]
    if not re.fullmatch(rf"normbench\.{group}\.\w+\.\w+|torch\.nn\.\w+", target):
        return False  # by its text, before anything of it is imported
    try:
        maker = _maker(group, target)
    except ConfigError:
        return False
    return isinstance(maker, type) and maker.__module__.startswith((f"normbench.{group}.", "torch.nn.modules."))


def _arguments(group: str, settings: Mapping, maker: Callable, args: tuple, runtime: Mapping) -> dict[str, Any]:
    """The settings as keyword arguments of the class, checked against its signature."""
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if k not in OURS}
    try:
        signature = inspect.signature(maker)
    except (ValueError, TypeError):  # a class written in C: it will say itself what it does not take
        return given
    parameters = signature.parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        keys = [p.name for p in list(parameters)[len(args) :] if p.name not in runtime]
        unknown = [key for key in given if key not in keys]
        if unknown:
            words = unknown_key(f"{group}.{unknown[0]}", keys)
            remove = " ".join(f"~{group}.{key}" for key in unknown)
            raise ConfigError(f"{words} ({settings['_target_']}); to leave out what it lacks: {remove}")
    try:
        signature.bind(*args, **given, **runtime)
    except TypeError as error:
        raise ConfigError(f"{group}={settings['name']} ({settings['_target_']}): {error}") from None
    return given


def dataset(settings: Mapping[str, Any]) -> Dataset:
    return part("dataset", settings)


def normalization(settings: Mapping[str, Any]) -> "Norm":
    """The chosen normalization; an `nn.Module` class that takes the number of features becomes one."""
    from torch import nn

    from normbench.norm import Norm

    maker = _maker("norm", settings["_target_"])
    if not (isinstance(maker, type) and issubclass(maker, nn.Module)):
        return part("norm", settings)
    arguments = _arguments("norm", settings, maker, (1,), {})

    class Plain(Norm):
        def layer(self, num_features: int) -> nn.Module:
            return maker(num_features, **arguments)

    return Plain()


def optimizer(settings: Mapping[str, Any], model: "nn.Module") -> "torch.optim.Optimizer":
    """The optimizer over all parameters, with torch's fused kernels where its class has them."""
    signature = inspect.signature(_maker("optimizer", settings["_target_"]))
    fused = {"fused": True} if "fused" in signature.parameters and "fused" not in settings else {}
    return part("optimizer", settings, list(model.parameters()), **fused)


# ------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Resident:
    """The data set on the device: images uint8 (N, C, H, W), labels int64 (N,).

    `train_eval` is a fixed part of `train`, as large as `val` and balanced like it: evaluated beside it, it tells
    what the network has learned from what it can do.
    """

    train: "tuple[Tensor, Tensor]"
    train_eval: "tuple[Tensor, Tensor]"
    val: "tuple[Tensor, Tensor]"
    test: "tuple[Tensor, Tensor]"
    classes: tuple[str, ...]
    fingerprint: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train[0].shape[1:])


def resident(config: RunConfig, device: "torch.device") -> Resident:
    """The data of this run; runs of one process that use the same data share them."""
    return _resident(json.dumps(config.dataset, sort_keys=True), config.val_fraction, config.data_seed, str(device))


@lru_cache(maxsize=1)
def _resident(settings: str, val_fraction: float, data_seed: int, device: str) -> Resident:
    import torch

    data: Data = dataset(json.loads(settings)).load()
    try:
        train, val = streams.split(data.train_labels, val_fraction, data_seed)
        share = min(0.5, len(val) / len(train))
        train_eval = train[streams.split(data.train_labels[train], share, data_seed)[1]]
    except ValueError as error:
        raise ConfigError(str(error)) from None

    def take(images: np.ndarray, labels: np.ndarray, index: np.ndarray | slice = slice(None)):
        return torch.tensor(images[index], device=device), torch.tensor(labels[index], device=device)

    return Resident(
        train=take(data.train_images, data.train_labels, train),
        train_eval=take(data.train_images, data.train_labels, train_eval),
        val=take(data.train_images, data.train_labels, val),
        test=take(data.test_images, data.test_labels),
        classes=data.classes,
        fingerprint=data.fingerprint,
    )


# ---------------------------------------------------------------------------------------------------- network


def network(config: RunConfig, preprocess: "nn.Module", images: "Tensor", num_classes: int) -> "nn.Module":
    """The model with its initial weights, on the CPU, after asking the norm whether it can work there.

    Args:
        preprocess: fitted; the model sees what it makes.
        images: a few uint8 images (N >= 2, C, H, W), to learn the shapes.
        num_classes: outputs of the model.

    Raises:
        ConfigError: settings that the model refuses, or logits of another shape.
        normbench.norm.Impossible: the norm can't be trained on the activations that it would see.
    """
    import torch

    from normbench.model import Model
    from normbench.norm import Impossible

    norm = normalization(config.norm)
    layers: list[nn.Module] = []  # of the norm; and those whose weights it will express another way
    weighted: list[nn.Module] = []
    make_layer, reparametrize = norm.layer, norm.reparametrize
    norm.layer = lambda num_features: layers.append(make_layer(num_features)) or layers[-1]  # type: ignore[method-assign]
    norm.reparametrize = lambda layer: weighted.append(layer) or layer  # type: ignore[method-assign]
    x = preprocess(images[:2].cpu())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.derive(config.seed, "weights"))
        shape = {"input_shape": tuple(x.shape[1:]), "num_classes": num_classes}
        model = part("model", config.model, norm=norm, **shape)
        if isinstance(model, Model):
            for path, layer in model.named_modules():
                if hasattr(layer, "reset_parameters"):
                    torch.manual_seed(streams.derive(config.seed, "weights", path))
                    layer.reset_parameters()  # type: ignore[operator]
    for layer in weighted:
        reparametrize(layer)
    try:
        logits = _check_norm(norm, layers, model, x, config.batch_size)
    except Impossible:
        raise
    except (Exception, SystemExit) as error:
        words = f"model={config.model['name']} with norm={config.norm['name']}"
        raise ConfigError(f"{words} fails on images {tuple(x.shape)}: {_in_words(error)}") from error
    if logits.shape != (2, num_classes):
        raise ConfigError(
            f"model={config.model['name']} must give logits (N, {num_classes}), got {tuple(logits.shape)}"
        )
    return model


def _check_norm(norm: "Norm", layers: list, model: "nn.Module", x: "Tensor", batch_size: int) -> "Tensor":
    """Ask the norm about every activation that one of its layers sees; the model's logits for x."""
    import torch

    def ask(layer, inputs):
        norm.check(tuple(inputs[0].shape[1:]), batch_size)

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

    device: "torch.device"
    data: Resident
    preprocess: "nn.Module"
    model: "nn.Module"
    norm: "Norm"
    loss_fn: Any
    optimizer: "torch.optim.Optimizer"
    clip: Any
    schedule: Any
    steps_per_epoch: int


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
    preprocess = part("preprocess", config.preprocess)
    preprocess.fit(data.train[0])
    schedule = part("schedule", config.schedule, steps_per_epoch=steps_per_epoch)
    if getattr(schedule, "warmup_steps", 0) >= config.epochs * steps_per_epoch:
        raise ConfigError(
            f"schedule.warmup_epochs must be less than epochs={config.epochs}, got "
            f"{config.schedule['warmup_epochs']}: the learning rate would never reach its value"
        )
    model = network(config, preprocess, data.train[0], len(data.classes)).to(device)
    return Built(
        device=device,
        data=data,
        preprocess=preprocess.to(device),
        model=model,
        norm=normalization(config.norm),
        loss_fn=part("loss", config.loss).to(device),
        optimizer=optimizer(config.optimizer, model),
        clip=part("clip", config.clip),
        schedule=schedule,
        steps_per_epoch=steps_per_epoch,
    )
