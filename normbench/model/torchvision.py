"""torchvision's classification networks, by their names."""

import contextlib
import difflib
import inspect
import math
import typing
from collections.abc import Iterator

import torch
from torch import nn

from normbench._torchvision import torchvision

__all__ = ["classifier"]

SMALL = 64  # pixels


def classifier(
    input_shape: tuple[int, ...], num_classes: int, name: str = "resnet18", small_images: bool | str = "auto"
) -> nn.Module:
    """One of torchvision's classification networks, with its own initial weights; never pretrained.

    It takes no `norm`: its BatchNorm layers are swapped for the norm's, with the norm's eps and momentum (torchvision
    has eps=1e-3 and other momenta in some networks). Its activations stay, also behind a norm that has one of its own.
    A network without BatchNorm works with norm=none alone. Auxiliary classifiers are left out.

    The first convolution is made anew where it must take other channels than 3 or be smaller. Its weights are then
    normal, with such a variance that a unit's output has the variance that the old one's had for independent inputs.

    Args:
        input_shape: (C, H, W), any C. Networks for one image size are made for H and W.
        num_classes: outputs of the last layer.
        name: a name of torchvision.models.list_models(module=torchvision.models).
        small_images: true: a stem for small images: the first convolution, where it has a stride and overlapping
            windows, becomes 3x3 with stride 1 and padding 1, and no max-pooling follows it before the second
            convolution. false: the network as it is. `auto`: true where images are lower or narrower than 64 pixels
            and the network has such a stem.

    Shape:
        (N, C, H, W) -> (N, num_classes).

    Raises:
        ValueError: no such name; small_images=true for a network without such a stem; images that the network can't
            take.

    Source:
        torchvision's documentation names each network's paper. The small stem: He, Zhang, Ren & Sun 2015, arXiv
        1512.03385, section 4.2, which begins with a 3x3 convolution on 32x32 images, instead of 7x7 with stride 2 and
        pooling in section 3.4.
    """
    if small_images not in ("auto", True, False):
        raise ValueError(f"small_images must be auto, true or false, got {small_images!r}")
    models = torchvision().models
    names = models.list_models(module=models)
    if name not in names:
        near = difflib.get_close_matches(str(name), names, 3, 0.5)
        words = f"try model.name={' or '.join(near)}" if near else f"there are: {', '.join(names)}"
        raise ValueError(f"name must be a classification network of torchvision, got {name!r}; {words}")
    channels, height, width = input_shape
    builder = models.get_model_builder(name)
    taken = inspect.signature(typing.get_type_hints(builder)["return"]).parameters
    given = {"aux_logits": False, "init_weights": True, "image_size": height, "input_size": (height, width)}
    if "image_size" in taken and height != width:
        raise ValueError(f"{name} takes square images, these are {height} x {width}; try model.name=resnet18")
    with _told(name, input_shape):
        network = builder(weights=None, num_classes=num_classes, **{k: v for k, v in given.items() if k in taken})
    is_fixed = "image_size" in taken or "input_size" in taken  # made for this size: another stem would not fit
    _fit_stem(network, name, channels, min(height, width), small_images, is_fixed)
    with _told(name, input_shape), torch.no_grad():
        network.eval()(torch.zeros(1, *input_shape))
    return network.train()


@contextlib.contextmanager
def _told(name: str, input_shape: tuple[int, ...]) -> Iterator[None]:
    """Errors in words: torchvision checks sizes by asserts, or leaves them to torch."""
    try:
        yield
    except Exception as error:
        size, why = " x ".join(map(str, input_shape)), " ".join(str(error).split())
        raise ValueError(
            f"{name} can't take images of {size} ({why}); try model.name=resnet18, or larger images"
        ) from error


def _fit_stem(network: nn.Module, name: str, channels: int, size: int, small: bool | str, is_fixed: bool) -> None:
    """Give the network a first convolution for these images, in place."""
    layers = list(network.named_modules())
    number, path, first = next((i, path, m) for i, (path, m) in enumerate(layers) if isinstance(m, nn.Conv2d))
    overlaps = first.kernel_size[0] > first.stride[0] > 1
    if small is True and (is_fixed or not overlaps):
        raise ValueError(
            f"small_images=true changes a first convolution with a stride and overlapping windows, {name} has none: "
            "it would change nothing; try model.small_images=false"
        )
    if small and (small is True or size < SMALL) and overlaps and not is_fixed:
        _put(network, path, _like(first, channels, kernel_size=3, stride=1, padding=1))
        for path, layer in layers[number + 1 :]:
            if isinstance(layer, nn.Conv2d):
                break
            if isinstance(layer, nn.MaxPool2d):
                _put(network, path, nn.Identity())
    elif channels != first.in_channels:
        _put(network, path, _like(first, channels, first.kernel_size, first.stride, first.padding))


def _like(conv: nn.Conv2d, channels: int, kernel_size, stride, padding) -> nn.Conv2d:
    """A convolution of as many outputs, whose outputs vary as much."""
    made = nn.Conv2d(channels, conv.out_channels, kernel_size, stride, padding, bias=conv.bias is not None)
    fan_ins = conv.weight[0].numel() / made.weight[0].numel()
    nn.init.normal_(made.weight, std=conv.weight.std().item() * math.sqrt(fan_ins))
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made


def _put(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)
