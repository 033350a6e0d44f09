"""From the config to the live objects of one run.

torch is imported where it is needed, so that `normbench data` and a sweep that has nothing to do stay quick.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normbench import _dynamo, assembly, streams
from normbench.config import ConfigError, RunConfig
from normbench.dataset import Dataset
from normbench.parts import OURS, in_words, maker_of, offered, part
from normbench.resident import Resident, resident
from normbench.stack import support

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from normbench.norm import Norm
    from normbench.prepared import Inputs
    from normbench.preprocess import Preprocess
    from normbench.probe import Probe


def dataset(settings: Mapping[str, Any]) -> Dataset:
    return part("dataset", settings)


def fitting(config: RunConfig, masked: bool) -> "Preprocess":
    """The preprocessing, to be fitted; for a masked data set it leaves out what is padding.

    Raises:
        ConfigError: settings that its class refuses.
        normbench.norm.Impossible: it mixes the pixels of an image, and the data set is masked.
    """
    from normbench.norm import Impossible
    from normbench.preprocess import Masked

    preprocess = part("preprocess", config.preprocess)
    _refuse_others("preprocess", config.preprocess, preprocess, "__call__", "fit")
    if masked and getattr(preprocess, "mixes_pixels", False):
        raise Impossible(
            f"preprocess={config.preprocess['name']} mixes all pixels of an image, and those of "
            f"dataset={config.dataset['name']} end after different rows: they have no common covariance; "
            "try preprocess=standardize"
        )
    return Masked(preprocess) if masked else preprocess


def optimizer(
    settings: Mapping[str, Any],
    model: "nn.Module",
    head: "nn.Module | None" = None,
    norm_layers: "Iterable[nn.Module]" = (),
    capturable: bool = False,
) -> "torch.optim.Optimizer":
    """The optimizer over all parameters, with torch's fused kernels where its class has them.

    Args:
        capturable: its steps are to be recorded (normbench/graph.py), if its class can.

    Raises:
        ConfigError: a setting that its class does not know, or a class that can't be stepped.
        normbench.norm.Impossible: it is for matrices, and the network has none.
    """
    from normbench import fused
    from normbench.norm import Impossible
    from normbench.optimizer import matrices, norms_and_biases

    _dynamo.leave_out()
    maker = maker_of("optimizer", settings["_target_"])
    takes = inspect.signature(maker).parameters
    runtime: dict[str, Any] = {"matrices": matrices(model, head)} if "matrices" in takes else {}
    if runtime.get("matrices") == []:
        raise Impossible(
            f"optimizer={settings['name']} needs the weight of a hidden layer (linear, convolutional, recurrent), and "
            "this network has none; try optimizer=adamw"
        )
    parameters: list[Any] = list(model.parameters())
    device = next((parameter.device.type for parameter in parameters), "cpu")
    if "fused" in takes and not {"fused", "foreach"} & settings.keys() and fused.exists(maker, device):
        runtime["fused"] = True
    if capturable and "capturable" in takes:
        runtime["capturable"] = True
    if "lr" in takes and "lr" not in settings:  # its class has a default, which no table would show
        raise ConfigError("optimizer.lr must be given; type optimizer.lr=0.01")
    if not settings.get("decay_norm_and_bias", True):
        if "weight_decay" not in settings:
            raise ConfigError("optimizer.decay_norm_and_bias=false needs optimizer.weight_decay, which is not given")
        spared = set(norms_and_biases(model, norm_layers))
        kinds = [p for p in parameters if p not in spared], [p for p in parameters if p in spared]
        parameters = [
            {"params": kind} | more for kind, more in zip(kinds, ({}, {"weight_decay": 0.0}), strict=True) if kind
        ]
    made = part("optimizer", settings, parameters, **runtime)
    _check_optimizer(made, settings, takes)
    if not capturable:  # what is recorded costs its Python once
        fused.quick(made)
    return made


def _check_optimizer(made: Any, settings: Mapping[str, Any], takes: Mapping[str, inspect.Parameter]) -> None:
    """Raise ConfigError for what would fail, or pass unnoticed, in training."""
    words = f"optimizer={settings['name']} ({settings['_target_']})"
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(
            f"{words} calls the loss several times a step, which normbench does not do; try optimizer=adam"
        )
    for key in settings.keys() - {"name", "_target_", *OURS["optimizer"], *takes}:  # what went into **kwargs
        value = tuple(settings[key]) if isinstance(settings[key], list) else settings[key]
        places = [vars(made), *made.param_groups]
        if not any(key in place and place[key] == value for place in places):
            raise ConfigError(
                f"optimizer.{key}={value}: {words} takes it and does nothing with it; type ~optimizer.{key}"
            )
    if not all("lr" in group for group in made.param_groups):
        raise ConfigError(f"{words} must have lr in its param_groups, which the schedule sets; try optimizer=adam")


def choose_device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device={name}: there is no such CUDA device here; try device=cpu")
    return device


def _head_for(settings: Mapping[str, Any], head: "nn.Module | None") -> dict[str, Any]:
    """The last layer's parameters, for a clipping rule that takes them."""
    return offered("clip", settings, {"head": list(head.parameters()) if head is not None else []})


def _refuse_others(group: str, settings: Mapping[str, Any], made: object, *methods: str) -> None:
    if not all(hasattr(made, method) for method in methods):
        raise ConfigError(
            f"{group}={settings['name']} ({settings['_target_']}) must be a class that inherits from "
            f"normbench.{group}.{group.capitalize()}"
        )


def _try_augment(config: RunConfig, augment: Any, images: "Tensor", draws: "Tensor") -> None:
    """Raise Impossible if it can't be applied to images of this size, ConfigError if it makes others of them."""
    from normbench.norm import Impossible

    words = f"augment={config.augment['name']}"
    with assembly.told(words, images):
        try:
            made = augment(images, draws)
        except ValueError as error:
            raise Impossible(f"{words}: {in_words(error)}") from error
    if getattr(made, "shape", None) != images.shape or made.dtype != images.dtype:
        found = f"{made.dtype} {tuple(made.shape)}" if hasattr(made, "shape") else type(made).__name__
        raise ConfigError(f"{words} must give uint8 images of the shape {tuple(images.shape)}, it gives {found}")


def _check_scales(config: RunConfig, made: "torch.optim.Optimizer") -> None:
    """Raise Impossible if the schedule is to scale what the optimizer has not, or has as 0."""
    from normbench.norm import Impossible

    for name in config.schedule.get("scales", ()):
        if not any(group.get(name) or (name == "momentum" and "betas" in group) for group in made.param_groups):
            raise Impossible(
                f"schedule.scales has {name}, and that of optimizer={config.optimizer['name']} is 0 or not there: "
                f"nothing would be scaled; give it optimizer.{name}, or take it out of schedule.scales"
            )


# -------------------------------------------------------------------------------------------------------- run


@dataclass
class Built:
    """All the objects of one run."""

    config: RunConfig
    device: "torch.device"
    amp: "torch.dtype | None"  # of the forward pass, where torch's autocast says that it may
    data: Resident
    augment: Any
    preprocess: "Preprocess"
    inputs: "Inputs"  # the data on their way through the preprocessing
    model: "nn.Module"
    norm: "Norm"
    norm_layers: "list[nn.Module]"
    swapped: int  # BatchNorm layers of the model's own, in whose place the norm's stand
    widest: int  # numbers in the largest output of a layer, for one image
    loss_fn: Any
    optimizer: "torch.optim.Optimizer"
    clip: Any
    schedule: Any
    probe: "Probe"
    steps_per_epoch: int
    stack: int | None = None  # so many runs are trained together with it, itself among them (engine=stack)
    captured: bool = False  # its step is recorded and replayed: engine=graph, and stacks on CUDA that can be

    def batches(self, steps: Iterable[int]) -> "Iterator[tuple[Tensor, Tensor]]":
        """The training batches of these steps, augmented and preprocessed: the same for a step, whoever asks."""
        images, labels = self.inputs.split("train")
        seed, size, drawn_for = self.config.seed, self.config.batch_size, None
        for step in steps:
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != drawn_for:
                order = streams.order(seed, epoch, len(labels)).to(self.device)
                draws = self.augment.draw(streams.generator(seed, "augment", epoch), len(labels))
                draws = None if draws is None else draws.to(self.device).split(size)
                indices, targets, drawn_for = order.split(size), labels.index_select(0, order).split(size), epoch
            x = images.index_select(0, indices[position])
            if draws is not None:
                x = self.augment(x, draws[position])
            yield self.inputs.transform(x), targets[position]


def build(config: RunConfig) -> Built:
    """Everything that the run needs, before anything is written.

    Raises:
        ConfigError, normbench.norm.Impossible, normbench.dataset.DataError.
    """
    import torch

    from normbench import graph, prepared
    from normbench.norm import Impossible

    device = choose_device(config.device)
    streams.set_attention(device)
    if config.amp == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("amp=bf16 needs a GPU that computes in bfloat16, this one does not; try amp=none")
    if config.engine == "graph" and device.type != "cuda":
        raise ConfigError(
            f"engine=graph records what a CUDA device does, and this run's is {device}; try engine=serial"
        )
    data = resident(config, device)
    steps_per_epoch = len(data.train[1]) // config.batch_size  # the last partial batch is dropped
    if steps_per_epoch == 0:
        raise ConfigError(
            f"batch_size must be at most {len(data.train[1]):,}, the training images of "
            f"{config.dataset['name']}; got {config.batch_size}; try batch_size={min(64, len(data.train[1]))}"
        )
    augment = part("augment", config.augment)
    if data.masked and not getattr(augment, "keeps_rows", False):
        raise Impossible(
            f"augment={config.augment['name']} changes every channel of an image, and in those of "
            f"dataset={config.dataset['name']} the last one is a mask that says where it ends; try augment=none"
        )
    _refuse_others("augment", config.augment, augment, "__call__", "draw")
    draws = augment.draw(streams.generator(config.seed, "augment", 0), 2)
    if draws is not None:
        _try_augment(config, augment, data.sample(), draws.to(device))
    preprocess = fitting(config, data.masked)
    with assembly.told(f"preprocess={config.preprocess['name']}", data.train[0]):
        floats = prepared.fit(preprocess, config.preprocess, data.train[0])
    schedule = part("schedule", config.schedule, steps_per_epoch=steps_per_epoch)
    if getattr(schedule, "warmup_steps", 0) >= config.epochs * steps_per_epoch:
        raise ConfigError(
            f"schedule.warmup_epochs must be less than epochs={config.epochs}, got "
            f"{config.schedule['warmup_epochs']}: the learning rate would never reach its value"
        )
    norm = assembly.normalization(config.norm)
    assembled = assembly.assemble_or_say_why(config, norm, preprocess, data.sample(), len(data.classes))
    model = assembled.model.to(device)
    if config.channels_last:
        _lay_out(model, config.model["name"])
    capturable = device.type == "cuda" and config.engine != "serial"
    made = optimizer(config.optimizer, model, assembled.head, assembled.norm_layers, capturable)
    _check_scales(config, made)
    loss_fn = part("loss", config.loss)
    clip = part("clip", config.clip, **_head_for(config.clip, assembled.head))
    _refuse_others("clip", config.clip, clip, "__call__", "after_step")
    _refuse_others("schedule", config.schedule, schedule, "__call__", "values")
    probe = part("probe", config.probe)
    _refuse_others("probe", config.probe, probe, "watch", "measure", "state", "restore", "images")
    built = Built(
        config=config,
        device=device,
        amp=torch.bfloat16 if config.amp == "bf16" else None,
        data=data,
        augment=augment,
        preprocess=preprocess.to(device),
        inputs=prepared.Inputs(data, preprocess, draws is not None, floats),
        model=model,
        norm=norm,
        norm_layers=assembled.norm_layers,
        swapped=assembled.swapped,
        widest=assembled.widest,
        loss_fn=loss_fn.to(device) if isinstance(loss_fn, torch.nn.Module) else loss_fn,
        optimizer=made,
        clip=clip,
        schedule=schedule,
        probe=probe,
        steps_per_epoch=steps_per_epoch,
    )
    _try_probe(built)
    if config.engine == "stack":
        support.check(built)
    if config.engine == "graph":
        graph.check(built)
    built.captured = capturable and graph.why_not(built) is None
    if capturable and not built.captured:
        built.optimizer = optimizer(config.optimizer, model, assembled.head, assembled.norm_layers)
    return built


def _lay_out(model: "nn.Module", name: str) -> None:
    """Put the channels of its kernels innermost in memory; what a convolution makes of an image is laid out like them.

    Raises:
        normbench.norm.Impossible: it has no convolutions.
    """
    import torch

    from normbench.norm import Impossible

    if not any(parameter.dim() == 4 for parameter in model.parameters()):
        raise Impossible(f"channels_last=true is for convolutions, and model={name} has none; try channels_last=false")
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - not in torch's stubs


def _try_probe(built: Built) -> None:
    """Raise Impossible if it can't measure this network."""
    from normbench import probing
    from normbench.norm import Impossible

    words = f"probe={built.config.probe['name']} with model={built.config.model['name']}"
    with assembly.told(words, built.data.train[0]):
        try:
            probing.try_out(built)
        except ValueError as error:
            raise Impossible(f"{words}: {in_words(error)}") from error
