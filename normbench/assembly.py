"""A run's network: the model with its initial weights, with the norm in it, tried on a few images."""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normbench import streams
from normbench.config import ConfigError, RunConfig
from normbench.parts import arguments_of, impossible, in_words, maker_of, offered, part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from normbench.norm import Norm


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


@dataclass
class Assembled:
    """A model with what was found out about it."""

    model: "nn.Module"
    head: "nn.Module | None"  # its last layer
    norm_layers: "list[nn.Module]"  # that the norm made
    swapped: int  # BatchNorm layers of the model's own, in whose place they stand
    widest: int  # numbers in the largest output of a layer, for one image


def make(config: RunConfig, preprocess: "nn.Module", images: "Tensor", num_classes: int) -> "nn.Module":
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

    from normbench.model import Model, head_of, sizes_of_outputs, swap_batch_norm
    from normbench.norm import Impossible, Norm
    from normbench.preprocess import Masked

    words = f"model={config.model['name']} with norm={config.norm['name']}"
    recorder = _Recorder(norm)
    x = preprocess(images[:2].cpu())
    runtime = {"norm": recorder, "input_shape": tuple(x.shape[1:]), "num_classes": num_classes}
    runtime = offered("model", config.model, runtime)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.derive(config.seed, "weights"))
        model = part("model", config.model, **runtime)
        if isinstance(model, torch.nn.Module) and not isinstance(model, Model):
            with told(words, x), torch.no_grad():
                model.eval()(x)  # what is made in the first call, as lazy layers are, draws its weights under this seed
        if isinstance(model, Model):
            for path, layer in model.named_modules():
                torch.default_generator.manual_seed(streams.derive(config.seed, "weights", path))  # of the CPU alone
                model.draw(layer)
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"model={config.model['name']} must be a torch.nn.Module, it is a {type(model).__name__}")
    takes_norm = "norm" in runtime
    if takes_norm and not (recorder.layers or recorder.weighted):  # it may have vanished in the class's **kwargs
        takes_norm = "norm" in inspect.signature(maker_of("model", config.model["_target_"])).parameters
    with told(words, x):
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
    with told(words, x), sizes_of_outputs(model) as sizes:
        logits = check_norm(norm, recorder.layers, model, x, config.batch_size)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ConfigError(f"model={config.model['name']} must give logits (N, {num_classes}), got {found}")
    if x.isnan().any() and not isinstance(preprocess, Masked):
        raise ConfigError(f"preprocess={config.preprocess['name']} makes numbers that are not finite of these images")
    if x.isnan().any() and logits.isnan().any():
        raise Impossible(
            f"model={config.model['name']} can't take images whose rows end early, as those of "
            f"dataset={config.dataset['name']}; try model=rnn"
        )
    widest = max([logits.numel(), *sizes]) // len(x)
    return Assembled(model, head_of(model, x), recorder.layers, swapped, widest)


def assemble_or_say_why(
    config: RunConfig, norm: "Norm", preprocess: "nn.Module", images: "Tensor", num_classes: int
) -> Assembled:
    """`assemble`; a model that takes pictures, and not the vectors that pca makes of them, is Impossible."""
    from normbench.norm import Impossible
    from normbench.preprocess.scale import Scale

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
def told(words: str, x: "Tensor") -> Iterator[None]:
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

    from normbench.model import hooked

    def ask(layer, inputs):
        rows = len(inputs[0]) // len(x)  # of each image: a transformer normalizes every patch
        norm.check(tuple(inputs[0].shape[1:]), batch_size * max(1, rows))

    hooks = [layer.register_forward_pre_hook(ask) for layer in layers]
    with hooked(hooks), torch.no_grad():
        return model.eval()(x)
