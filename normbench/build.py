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
from normbench.parts import OURS, arguments_of, impossible, in_words, maker_of, offered, part
from normbench.resident import Resident, resident

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from normbench.norm import Norm
    from normbench.prepared import Inputs
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
    """The preprocessing, to be fitted; for a masked data set it leaves out what is padding.

    Raises:
        ConfigError: settings that its class refuses.
        normbench.norm.Impossible: it mixes the pixels of an image, and the data set is masked.
    """
    from normbench.norm import Impossible
    from normbench.preprocess import Masked

    preprocess = part("preprocess", config.preprocess)
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
) -> "torch.optim.Optimizer":
    """The optimizer over all parameters, with torch's fused kernels where its class has them.

    Raises:
        ConfigError: a setting that its class does not know, or a class that can't be stepped.
    """
    from normbench.optimizer import matrices, norms_and_biases

    maker = maker_of("optimizer", settings["_target_"])
    takes = inspect.signature(maker).parameters
    runtime: dict[str, Any] = {"matrices": matrices(model, head)} if "matrices" in takes else {}
    if "fused" in takes and "fused" not in settings:
        runtime["fused"] = True
    parameters: list[Any] = list(model.parameters())
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
    return made


def _check_optimizer(made: Any, settings: Mapping[str, Any], takes: Mapping[str, inspect.Parameter]) -> None:
    """Raise ConfigError for what would fail, or pass unnoticed, in training."""
    words = f"optimizer={settings['name']} ({settings['_target_']})"
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(
            f"{words} calls the loss several times a step, which normbench does not do; try optimizer=adam"
        )
    kept = {*takes, *getattr(made, "defaults", {}), *vars(made)}
    for key in settings.keys() - {"name", "_target_", *OURS["optimizer"]} - kept:  # it vanished in **kwargs
        raise ConfigError(f"unknown key optimizer.{key}: {words} takes it and does nothing with it; ~optimizer.{key}")


@dataclass
class Assembled:
    """A model, its last layer, the layers that the norm made, and how many BatchNorm layers were swapped for them."""

    model: "nn.Module"
    head: "nn.Module | None"
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

    from normbench.model import Model, head_of, swap_batch_norm
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
    return Assembled(model, head_of(model, x), recorder.layers, swapped)


def _assemble_on(config: RunConfig, norm: "Norm", preprocess: "nn.Module", data: Resident) -> Assembled:
    """`assemble` on the data's images; a model that takes pictures, and not vectors of pca, is Impossible."""
    from normbench.norm import Impossible
    from normbench.preprocess.scale import Scale

    images, num_classes = data.sample(), len(data.classes)
    try:
        return assemble(config, norm, preprocess, images, num_classes)
    except ConfigError:
        made = preprocess(images.cpu())
        if made.dim() != 2:
            raise
    assemble(config, norm, Scale(), images, num_classes)  # raises again what is not because of the vectors
    raise Impossible(
        f"preprocess={config.preprocess['name']} makes vectors of {made.shape[1]:,} numbers, "
        f"model={config.model['name']} needs pictures; try model=mlp or preprocess=zca"
    )


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


def _head_for(settings: Mapping[str, Any], head: "nn.Module | None") -> dict[str, Any]:
    """The last layer's parameters, for a clipping rule that takes them."""
    return offered("clip", settings, {"head": list(head.parameters()) if head is not None else []})


def _refuse_others(group: str, settings: Mapping[str, Any], made: object, method: str) -> None:
    if not callable(made) or not hasattr(made, method):
        raise ConfigError(
            f"{group}={settings['name']} ({settings['_target_']}) must be a class that inherits from "
            f"normbench.{group}.{group.capitalize()}"
        )


def _check_scales(config: RunConfig, made: "torch.optim.Optimizer") -> None:
    """Raise ConfigError if the schedule is to scale what the optimizer has not, or has as 0."""
    for name in config.schedule.get("scales", ()):
        if not any(group.get(name) or (name == "momentum" and "betas" in group) for group in made.param_groups):
            optimizer = config.optimizer["name"]
            raise ConfigError(
                f"schedule.scales has {name}, and optimizer={optimizer} has none; try schedule.scales=[lr]"
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
    loss_fn: Any
    optimizer: "torch.optim.Optimizer"
    clip: Any
    schedule: Any
    steps_per_epoch: int

    def batches(self, steps: Iterable[int]) -> "Iterator[tuple[Tensor, Tensor]]":
        """The training batches of these steps, augmented and preprocessed: the same for a step, whoever asks."""
        images, labels = self.inputs.split("train")
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
            yield self.inputs.transform(x), labels.index_select(0, order[now])


def build(config: RunConfig) -> Built:
    """Everything that the run needs, before anything is written.

    Raises:
        ConfigError, normbench.norm.Impossible, normbench.dataset.DataError.
    """
    import torch

    from normbench import prepared

    device = choose_device(config.device)
    if config.amp == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("amp=bf16 needs a GPU that computes in bfloat16, this one does not; try amp=none")
    data = resident(config, device)
    steps_per_epoch = len(data.train[1]) // config.batch_size  # the last partial batch is dropped
    if steps_per_epoch == 0:
        raise ConfigError(
            f"batch_size must be at most {len(data.train[1]):,}, the training images of "
            f"{config.dataset['name']}; got {config.batch_size}; try batch_size={min(64, len(data.train[1]))}"
        )
    augment = part("augment", config.augment)
    if data.masked and not getattr(augment, "keeps_rows", False):
        raise ConfigError(
            f"augment={config.augment['name']} changes every channel of an image, and in those of "
            f"dataset={config.dataset['name']} the last one is a mask that says where it ends; try augment=none"
        )
    draws = augment.draw(streams.generator(config.seed, "augment", 0), 2)
    if draws is not None:
        with _told(f"augment={config.augment['name']}", data.sample()):
            augment(data.sample(), draws.to(device))
    preprocess = fitting(config, data.masked)
    with _told(f"preprocess={config.preprocess['name']}", data.train[0]):
        floats = prepared.fit(preprocess, config.preprocess, data.train[0])
    schedule = part("schedule", config.schedule, steps_per_epoch=steps_per_epoch)
    if getattr(schedule, "warmup_steps", 0) >= config.epochs * steps_per_epoch:
        raise ConfigError(
            f"schedule.warmup_epochs must be less than epochs={config.epochs}, got "
            f"{config.schedule['warmup_epochs']}: the learning rate would never reach its value"
        )
    norm = normalization(config.norm)
    assembled = _assemble_on(config, norm, preprocess, data)
    model = assembled.model.to(device)
    made = optimizer(config.optimizer, model, assembled.head, assembled.norm_layers)
    _check_scales(config, made)
    clip = part("clip", config.clip, **_head_for(config.clip, assembled.head))
    _refuse_others("clip", config.clip, clip, "after_step")
    _refuse_others("schedule", config.schedule, schedule, "values")
    return Built(
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
        loss_fn=part("loss", config.loss).to(device),
        optimizer=made,
        clip=clip,
        schedule=schedule,
        steps_per_epoch=steps_per_epoch,
    )
