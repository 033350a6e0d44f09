"""Networks that take no norm, a user's own and torchvision's: their BatchNorm layers swapped for the norm's."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

import normbench
from normbench import assembly, checkpoint, records, run, streams
from normbench._torchvision import torchvision
from normbench.config import ConfigError
from normbench.model import Shift
from normbench.model.torchvision import classifier
from normbench.norm import Impossible
from normbench.preprocess.scale import Scale

SHAPE = (1, 12, 12)

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, ARGUMENTS):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(CHANNELS, 8, 3, 2, 1, bias=False),
            nn.Sequential(nn.Sequential(nn.BatchNorm2d(8)), nn.ReLU(inplace=True)),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.BatchNorm2d(16, affine=False),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.full = nn.ModuleDict({"linear": nn.Linear(64, 32, bias=False), "bn": nn.BatchNorm1d(32)})
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x):
        x = self.full["bn"](self.full["linear"](self.features(x)))
        return self.head(torch.relu(x))
"""


def net(arguments="num_classes", channels="1", classes="num_classes"):
    return NET.replace("ARGUMENTS", arguments).replace("CHANNELS", channels).replace("CLASSES", classes)


@pytest.fixture
def user(tmp_path, monkeypatch):
    """user(source) -> the name of a module of the user's own, in the folder where normbench is started."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def write(source):
        made.append(f"module_{tmp_path.name.replace('-', '_')}_{len(made)}")
        (tmp_path / f"{made[-1]}.py").write_text(source)
        return made[-1]

    yield write
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture
def own(user):
    """own(source) -> what to type for the class Net of that source."""
    return lambda source: ("model=own", f"model._target_={user(source)}.Net")


@pytest.fixture
def assemble(compose):
    """assemble("model=...", ..., shape=(C, H, W)) -> assembly.Assembled."""

    def make(*overrides, shape=SHAPE, num_classes=10):
        config = compose(*overrides)
        return assembly.assemble(config, assembly.normalization(config.norm), Scale(), pictures(2, shape), num_classes)

    return make


def pictures(count, shape=SHAPE):
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *shape), generator=draws, dtype=torch.uint8)


def batch_norms(model):
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]


def of_kind(model, kind):
    return [path for path, layer in model.named_modules() if isinstance(layer, kind)]


def step(model, x, y):
    """The logits and every gradient in training mode."""
    model.train().zero_grad()
    logits = model(x)
    nn.functional.cross_entropy(logits, y).backward()
    return logits.detach(), [p.grad for p in model.parameters()]


# -------------------------------------------------------------------------------------------- a user's own network


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        (net("num_classes"), SHAPE),
        (net("num_classes=3, width=8"), SHAPE),
        (net("", classes="10").replace("__init__(self, )", "__init__(self)"), SHAPE),
        (net("**kwargs", classes="kwargs['num_classes']", channels="kwargs['input_shape'][0]"), (3, 12, 12)),
        (net("*, input_shape, **rest", classes="rest.get('num_classes')", channels="input_shape[0]"), (3, 12, 12)),
        (net("input_shape, num_classes", channels="input_shape[0]"), (2, 12, 12)),
    ],
    ids=["num_classes", "defaults", "nothing", "kwargs", "some and kwargs", "input_shape"],
)
def test_whatever_its_class_takes(assemble, own, source, shape):
    target = own(source)
    found = assemble(*target, "norm=gn", shape=shape)
    assert found.swapped == 3
    assert batch_norms(found.model) == []
    assert [layer.num_channels for layer in found.norm_layers] == [8, 16, 32]
    assert of_kind(found.model, nn.GroupNorm) == ["features.1.0.0", "features.3", "full.bn"]
    assert found.model(torch.rand(2, *shape)).shape == (2, 10)


def test_settings_of_its_own_reach_it(assemble, own, compose):
    target = own(net("num_classes, seen=()").replace("super()", "self.seen = seen; super()"))
    assert assemble(*target, "norm=gn", "+model.seen=[3,4]").model.seen == (3, 4)
    config = compose(*target, "norm=gn")
    assert config.model["name"] == "Net"
    assert config.folder.name.startswith("Net-gn-")


def test_every_norm_works_in_it_or_says_why_not(assemble, own, norm_settings):
    y = torch.tensor([1, 2, 0, 1])
    whole, worked = net(), 0
    pictures_only = whole.replace('self.full["bn"](', "(").replace(', "bn": nn.BatchNorm1d(32)', "")
    for source, count in ((whole, 3), (pictures_only, 2)):
        try:
            found = assemble(*own(source), f"norm={norm_settings['name']}")
        except Impossible as refusal:
            assert "position" in str(refusal), refusal  # noqa: PT017
            continue
        worked += 1
        assert found.swapped == count
        assert found.model.training is False
        own_kind = [layer for layer in batch_norms(found.model) if type(layer).__module__.startswith("torch.")]
        assert own_kind == []
        for layer in found.norm_layers:
            assert isinstance(layer, nn.Identity) or any(layer is made for made in found.model.modules())
        logits, gradients = step(found.model, torch.rand(4, *SHAPE), y)
        assert logits.isfinite().all()
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert worked >= 1


def test_every_norm_starts_from_the_same_weights(assemble, own, norm_settings):
    source = net().replace('self.full["bn"](', "(").replace(', "bn": nn.BatchNorm1d(32)', "")
    target = own(source)
    plain = dict(assemble(*target, "norm=none", "seed=3").model.named_parameters())
    other = assemble(*target, f"norm={norm_settings['name']}", "seed=3").model
    torch.manual_seed(streams.derive(3, "weights"))
    original = sys.modules[target[-1].split("=")[1].removesuffix(".Net")].Net(10)
    compared = 0
    for path, layer in original.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            found = other.get_submodule(path)
            assert torch.equal(plain[f"{path}.weight"], layer.weight)
            assert layer.bias is None or torch.equal(found.bias, layer.bias)
            if not parametrize.is_parametrized(found, "weight"):
                assert torch.equal(found.weight, layer.weight)
            elif norm_settings["name"] == "ws":
                assert torch.equal(found.parametrizations.weight.original, layer.weight)
            else:
                torch.testing.assert_close(found.weight, layer.weight, rtol=1e-6, atol=1e-7)
            compared += 1
    assert compared == 4


def test_another_seed_is_other_weights(assemble, own):
    target = own(net())
    one, two = (assemble(*target, "norm=gn", f"seed={seed}").model for seed in (3, 4))
    assert not torch.equal(one.head.weight, two.head.weight)


def test_building_neither_reads_nor_moves_the_global_state(assemble, own):
    target = own(net())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = assemble(*target, "norm=gn").model.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    second = assemble(*target, "norm=gn").model.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_bn_is_the_original_network_bit_by_bit(assemble, own):
    """Where the original has torch's settings: eps=1e-5, momentum=0.1, weight and bias."""
    target = own(net().replace(", affine=False", ""))
    swapped = assemble(*target, "norm=bn").model
    torch.manual_seed(streams.derive(0, "weights"))
    original = sys.modules[target[-1].split("=")[1].removesuffix(".Net")].Net(10)
    assert_same_training(original, swapped, SHAPE)


def assert_same_training(original, swapped, shape, steps=3):
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (original, swapped)]
    for seed in range(steps):
        x = torch.rand(8, *shape, generator=torch.Generator().manual_seed(seed))
        results = [step(model, x, torch.arange(8)) for model in (original, swapped)]
        assert torch.equal(results[0][0], results[1][0])
        assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(original.eval()(x), swapped.eval()(x))
    ours, theirs = swapped.state_dict(), original.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_shared_layer_is_one_layer_everywhere(assemble, own):
    source = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        bn = nn.BatchNorm2d(8)
        block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3), bn, block, nn.Conv2d(8, 8, 3), bn, block)
        self.again = bn
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(self.again(self.layers(x)).mean((2, 3)))
"""
    found = assemble(*own(source), "norm=gn")
    model = found.model
    assert found.swapped == len(found.norm_layers) == 2
    assert model.layers[1] is model.layers[4] is model.again is found.norm_layers[0]
    assert model.layers[2] is model.layers[5]
    assert model.layers[2][1] is found.norm_layers[1]
    calls = []
    for layer in found.norm_layers:
        layer.register_forward_hook(lambda layer, *_: calls.append(found.norm_layers.index(layer)))
    model(torch.rand(2, *SHAPE))
    assert calls == [0, 1, 0, 1, 0]


ORDER = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(8, num_classes)
        self.bn2 = nn.BatchNorm2d(8)
        self.bn1 = nn.BatchNorm2d(8)
        self.bn0 = nn.BatchNorm2d(1)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.conv1 = nn.Conv2d(1, 8, 3, bias=False)

    def forward(self, x):
        x = self.bn1(self.conv1(self.bn0(x)))
        return self.head(self.bn2(self.conv2(x)).mean((2, 3)))
"""


@pytest.mark.parametrize("norm", ["none", "wn", "ws"])
def test_without_a_layer_a_shift_stands_where_the_layer_before_has_no_bias(assemble, own, norm):
    norm = [f"norm={norm}", *(["norm.num_groups=0"] if norm == "ws" else [])]
    model = assemble(*own(net()), *norm).model
    assert of_kind(model, Shift) == ["features.1.0.0", "full.bn"]
    assert of_kind(model, nn.Identity) == ["features.3"]
    assert [layer.bias.shape for layer in model.modules() if isinstance(layer, Shift)] == [(8,), (32,)]
    assert batch_norms(model) == []


def test_the_layer_before_is_the_one_that_was_called_before(assemble, own):
    """However they are registered."""
    model = assemble(*own(ORDER), "norm=none").model
    assert sorted(of_kind(model, Shift)) == ["bn0", "bn1"]
    assert of_kind(model, nn.Identity) == ["bn2"]


def test_a_shift_is_a_bias_for_each_channel():
    shift = Shift(3)
    assert shift.bias.tolist() == [0, 0, 0]
    with torch.no_grad():
        shift.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    for shape in ((2, 3), (2, 3, 4), (2, 3, 4, 5)):
        x = torch.rand(shape)
        expected = x + torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, *[1] * (len(shape) - 2))
        assert torch.equal(shift(x), expected)
    shift(torch.rand(2, 3, 4, 5)).sum().backward()
    assert shift.bias.grad.tolist() == [40, 40, 40]


@pytest.mark.parametrize("norm", ["wn", "ws"])
def test_all_weights_but_those_of_the_last_layer_are_reparametrized(assemble, own, norm):
    def reparametrized(model):
        return [path for path, layer in model.named_modules() if parametrize.is_parametrized(layer, "weight")]

    assert reparametrized(assemble(*own(net()), f"norm={norm}").model) == ["features.0", "features.2", "full.linear"]
    ordered = assemble(*own(ORDER), "norm=wn").model
    assert sorted(reparametrized(ordered)) == ["conv1", "conv2"]  # the head is the last one called


@pytest.mark.parametrize("arguments", ["num_classes", "num_classes, **kwargs"])
def test_a_network_without_batch_norm_is_one_arm_alone(assemble, own, arguments):
    """norm= would change nothing in it."""
    source = net(arguments).replace('self.full["bn"](', "(").replace(', "bn": nn.BatchNorm1d(32)', "")
    source = source.replace("nn.BatchNorm2d(8)", "nn.Identity()").replace(
        "nn.BatchNorm2d(16, affine=False)", "nn.ELU()"
    )
    assert "BatchNorm" not in source
    target = own(source)
    found = assemble(*target, "norm=none")
    assert (found.swapped, found.norm_layers) == (0, [])
    for norm in ("bn", "wn"):
        with pytest.raises(Impossible, match=rf"model=Net with norm={norm}: .*no norm.*no BatchNorm.*try norm=none"):
            assemble(*target, f"norm={norm}")


def test_a_norm_of_weights_needs_a_model_that_hands_it_weights(assemble, own):
    """A class that takes `norm` but asks it for activation layers alone would be norm=none under another name."""
    source = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, norm, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(144, 8), norm.layer(8), nn.ReLU(), nn.Linear(8, num_classes))
"""
    target = own(source)
    assemble(*target, "norm=bn")
    for norm in ("wn", "ws"):
        with pytest.raises(Impossible, match=rf"model=Net with norm={norm}: .*norm\.reparametrize.*try norm=none"):
            assemble(*target, f"norm={norm}")


def test_a_class_that_hands_its_kwargs_on_takes_the_norm(assemble, own):
    source = """
from normbench.model.mlp import MLP

class Net(MLP):
    def __init__(self, **kwargs):
        super().__init__(hidden=(16, 16), **kwargs)
"""
    found = assemble(*own(source), "norm=gn")
    assert (found.swapped, len(found.norm_layers)) == (0, 2)


def test_an_activation_in_place_no_longer_overwrites_a_shortcut(assemble, own):
    """With BatchNorm it works on a new tensor; without a layer there it would work on the shortcut's."""
    source = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.branch = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.conv(x)
        return self.head((x + self.branch(x)).mean((2, 3)))
"""
    model = assemble(*own(source), "norm=none").model
    x = torch.rand(2, *SHAPE)
    shortcut = model.conv(x)
    expected = model.head((shortcut + model.branch[2](shortcut.clamp(min=0))).mean((2, 3)))
    torch.testing.assert_close(model(x), expected)
    for settings in (["norm=dyt", "norm.affine=false"], ["norm=rms", "norm.affine=false"], ["norm=sn"]):
        step(assemble(*own(source), *settings).model, x, torch.tensor([0, 1]))  # nothing that backward needs is lost


def test_a_layer_that_is_kept_beside_the_modules_is_no_silent_batch_norm(assemble, own):
    source = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.steps = [self.conv, self.bn]
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return self.head(x.mean((2, 3)))
"""
    with pytest.raises(
        ConfigError, match=r"model=Net with norm=gn fails.*BatchNorm layer that was swapped.*ModuleList"
    ):
        assemble(*own(source), "norm=gn")


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_layers_draw_under_the_seed(assemble, own):
    source = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(
            nn.LazyConv2d(8, 3, 2), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(num_classes)
        )
"""
    target = own(source)
    plain, seeded = (assemble(*target, "norm=none", f"seed={seed}").model for seed in (0, 1))
    torch.rand(7)
    found = assemble(*target, "norm=gn")
    assert found.swapped == 1
    assert found.norm_layers[0].num_channels == 8
    assert torch.equal(plain[0].weight, found.model[0].weight)
    assert torch.equal(plain[4].weight, found.model[4].weight)
    assert not torch.equal(plain[0].weight, seeded[0].weight)


def test_a_layer_that_is_made_in_the_first_call_draws_under_the_seed(assemble, own):
    source = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.classes, self.head = num_classes, None

    def forward(self, x):
        x = x.flatten(1)
        if self.head is None:
            self.head = nn.Linear(x.shape[1], self.classes)
        return self.head(x)
"""
    target = own(source)
    first = assemble(*target, "norm=none").model.head.weight
    torch.rand(7)
    assert torch.equal(first, assemble(*target, "norm=none").model.head.weight)
    assert not torch.equal(first, assemble(*target, "norm=none", "seed=1").model.head.weight)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("whole", [True, False])
def test_scripted_layers_are_taken(assemble, own, whole):
    source = """
import torch
from torch import nn

def Net(num_classes, input_shape):
    size = input_shape[1] * input_shape[2]
    layers = [nn.Flatten(), nn.Linear(size, 20), nn.ReLU(), nn.Linear(20, num_classes)]
    WHOLE
"""
    made = "return torch.jit.script(nn.Sequential(*layers))"
    if not whole:
        made = "return nn.Sequential(layers[0], torch.jit.script(nn.Sequential(*layers[1:])))"
    found = assemble(*own(source.replace("WHOLE", made)), "norm=none")
    assert found.widest == (10 if whole else SHAPE[1] * SHAPE[2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("nn.Linear(64, 32", "nn.Linear(65, 32"),
            r"model=Net with norm=gn fails on images \(2, 1, 12, 12\): .*shapes",
        ),
        (("nn.Linear(32, num_classes)", "nn.Linear(32, 7)"), r"model=Net must give logits \(N, 10\), got \(2, 7\)"),
        (("super().__init__()", "super().__init__(); self.bn = 1 / 0"), r"model=Net: ZeroDivisionError"),
        (("return self.head(", "return x.bn, ("), r"model=Net with norm=gn fails.*AttributeError.*bn"),
    ],
)
def test_a_broken_network_is_refused_in_words(assemble, own, change, words):
    source = net()
    assert change[0] in source
    with pytest.raises(ConfigError, match=words):
        assemble(*own(source.replace(*change)), "norm=gn")


def test_a_layer_that_the_norm_cannot_have_is_refused(assemble, own):
    with pytest.raises(Impossible, match=r"norm\.num_groups=7 must divide the 8 channels"):
        assemble(*own(net()), "norm=gn", "norm.num_groups=7")
    with pytest.raises(Impossible, match=r"norm=bn.*batch_size=1.*\(32,\)"):
        assemble(*own(net()), "norm=bn", "batch_size=1")
    assert assemble(*own(net()), "norm=gn", "batch_size=1").swapped == 3


# ------------------------------------------------------------------------------------------------------- torchvision's

COLOR, GRAY = (3, 32, 32), (1, 28, 28)
LIGHT = "shufflenet_v2_x0_5"  # 56 BatchNorm layers, 0.35 million parameters


def refused(words, *arguments):
    with pytest.raises(ValueError, match=words) as raised:
        classifier(*arguments)
    assert type(raised.value) is ValueError  # told without a class's name


def first_conv(model):
    return next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))


def test_the_models_name_is_its_word_in_every_table(compose):
    config = compose("model=torchvision", f"model.name={LIGHT}", "norm=gn")
    assert config.model["name"] == LIGHT
    assert config.folder.name.startswith(f"{LIGHT}-gn-adam-s0-")
    assert compose("model=torchvision").model["name"] == "resnet18"


@pytest.mark.parametrize("shape", [COLOR, GRAY, (2, 20, 17)], ids=str)
@pytest.mark.parametrize("norm", ["none", "ws"])
def test_images_to_logits(assemble, shape, norm):
    found = assemble("model=torchvision", f"model.name={LIGHT}", f"norm={norm}", shape=shape, num_classes=7)
    assert found.swapped == 56
    logits, gradients = step(found.model, torch.rand(3, *shape), torch.tensor([0, 1, 6]))
    assert logits.shape == (3, 7)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_it_is_torchvisions_network_bit_by_bit(assemble):
    """Three channels and no small stem: nothing of it is changed but its norm, and bn is the same."""
    found = assemble("model=torchvision", f"model.name={LIGHT}", "model.small_images=false", "norm=bn", shape=COLOR)
    torch.manual_seed(streams.derive(0, "weights"))
    original = torchvision().models.get_model(LIGHT, weights=None, num_classes=10)
    assert_same_training(original, found.model, COLOR, steps=2)


def test_torchvisions_networks_start_alike_with_every_norm(assemble, norm_settings):
    base = ("model=torchvision", f"model.name={LIGHT}", "seed=3")
    plain = assemble(*base, "norm=none", shape=COLOR).model
    other = assemble(*base, f"norm={norm_settings['name']}", shape=COLOR).model
    layers = dict(other.named_modules())
    for path, layer in plain.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            found = layers[path]
            if not parametrize.is_parametrized(found, "weight"):
                assert torch.equal(found.weight, layer.weight), path
            elif norm_settings["name"] == "ws":
                assert torch.equal(found.parametrizations.weight.original, layer.weight), path
            else:
                torch.testing.assert_close(found.weight, layer.weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "conv", "pool"),
    [
        ("resnet18", "conv1", "maxpool"),
        ("densenet121", "features.conv0", "features.pool0"),
        ("mobilenet_v3_small", "features.0.0", None),
        (LIGHT, "conv1.0", "maxpool"),
        ("squeezenet1_1", "features.0", "features.2"),
    ],
)
def test_the_stem_for_small_images(name, conv, pool):
    whole, small = classifier(COLOR, 10, name, False), classifier(COLOR, 10, name)
    before, after = whole.get_submodule(conv), small.get_submodule(conv)
    assert first_conv(small) is after
    assert (after.kernel_size, after.stride, after.padding) == ((3, 3), (1, 1), (1, 1))
    assert before.stride == (2, 2)
    assert (after.in_channels, after.out_channels) == (3, before.out_channels)
    assert (after.bias is None) == (before.bias is None)
    changed = [
        path
        for (path, layer), (_, other) in zip(whole.named_modules(), small.named_modules(), strict=True)
        if str(layer) != str(other) and not list(layer.children())
    ]
    assert changed == [conv, pool][: 1 if pool is None else 2]
    if pool:
        assert isinstance(whole.get_submodule(pool), nn.MaxPool2d)
        assert isinstance(small.get_submodule(pool), nn.Identity)


def test_auto_means_small_images_below_64_pixels():
    for shape, stride in (((3, 63, 64), 1), ((3, 64, 63), 1), ((3, 64, 64), 2), ((3, 96, 80), 2)):
        assert first_conv(classifier(shape, 10, LIGHT)).stride == (stride, stride)
    assert first_conv(classifier((3, 64, 64), 10, LIGHT, True)).stride == (1, 1)
    assert first_conv(classifier((3, 32, 32), 10, LIGHT, False)).stride == (2, 2)


def test_a_first_convolution_that_is_made_anew_keeps_its_outputs_variance():
    """For independent inputs it is fan_in times the weights' variance times the inputs'."""
    original = torchvision().models.resnet18(weights=None).conv1.weight
    expected = original.var() * original[0].numel()
    for shape in (COLOR, GRAY, (5, 40, 40), (1, 64, 64)):
        weight = classifier(shape, 10, "resnet18").conv1.weight
        assert weight.shape[1] == shape[0]
        torch.testing.assert_close(weight.var() * weight[0].numel(), expected, rtol=0.2, atol=0)
        assert abs(weight.mean()) < 0.1 * weight.std()
    squeezenet = classifier(GRAY, 10, "squeezenet1_1")
    assert not first_conv(squeezenet).bias.any()


def test_a_network_without_batch_norm_takes_norm_none(assemble):
    base = ("model=torchvision", "model.name=squeezenet1_1")
    assert assemble(*base, "norm=none", shape=GRAY).swapped == 0
    with pytest.raises(Impossible, match=r"model=squeezenet1_1 with norm=gn: .*no BatchNorm.*try norm=none"):
        assemble(*base, "norm=gn", shape=GRAY)


def test_what_a_network_cannot_take_is_refused_in_words(assemble):
    refused(r"name must be .*got 'resnet19'; try model\.name=resnet18 or resnet", COLOR, 10, "resnet19")
    refused(r"got 'zzz'; there are: alexnet, .*resnet18, ", COLOR, 10, "zzz")
    refused(r"got 'fasterrcnn_resnet50_fpn'", COLOR, 10, "fasterrcnn_resnet50_fpn")  # no classification
    refused(r"small_images must be auto, true or false, got 'yes'", COLOR, 10, "resnet18", "yes")
    no_effect = r"small_images=true changes .*{} has none.*would change nothing; try model\.small_images=false"
    refused(no_effect.format("swin_t"), COLOR, 10, "swin_t", True)  # its first convolution cuts patches
    refused(r"maxvit_t can't take images of 3 x 32 x 32 \(.*partition.*larger images", COLOR, 10, "maxvit_t")
    with pytest.raises(ConfigError, match=r"model=resnet19: name must be .*'resnet19'; try model\.name=resnet18"):
        assemble("model=torchvision", "model.name=resnet19", "norm=gn")


def test_auxiliary_classifiers_are_left_out():
    model = classifier(COLOR, 10, "googlenet").train()
    assert model(torch.rand(2, *COLOR)).shape == (2, 10)
    assert model.aux1 is model.aux2 is None


# --------------------------------------------------------------------------------------------------------- whole runs

TRAIN = (
    "dataset=synthetic", "dataset.train_size=60", "dataset.test_size=20", "dataset.image_size=16", "batch_size=16",
    "epochs=2", "val_fraction=0.2", "progress=false",
)  # fmt: skip


def quiet(settings):
    return run.run(settings, announce=lambda _: None)


def weights(folder):
    return checkpoint.read(folder / "checkpoint.pt")["model"]


def test_a_paused_run_ends_as_one_that_was_not(compose, tmp_path):
    config = ("model=torchvision", f"model.name={LIGHT}", "norm=bn", *TRAIN, f"out={tmp_path}")
    whole = quiet(compose(*config, "name=whole"))
    parts = [quiet(compose(*config, "name=parts", *stop)) for stop in (["stop_epoch=1"], [])]
    assert [outcome.state for outcome in (whole, *parts)] == ["complete", "paused", "complete"]
    assert parts[0].folder == parts[1].folder
    one, two = weights(whole.folder), weights(parts[1].folder)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert whole.record["test_acc"] == parts[1].record["test_acc"]


def test_a_run_of_torchvisions_is_loaded_without_trust(compose, tmp_path):
    settings = compose("model=torchvision", f"model.name={LIGHT}", "norm=gn", *TRAIN, f"out={tmp_path}")
    outcome = quiet(settings)
    model = normbench.load(outcome.folder)
    stored = weights(outcome.folder)
    assert all(torch.equal(value, stored[key]) for key, value in model.state_dict().items())
    assert first_conv(model).stride == (1, 1)
    assert model(torch.rand(2, 1, 16, 16)).shape == (2, 10)


def test_a_run_of_a_users_own_is_loaded_with_trust(compose, own, tmp_path):
    settings = compose(*own(net()), "norm=gn", *TRAIN, f"out={tmp_path}")
    outcome = quiet(settings)
    assert outcome.record["model"] == "Net"
    with pytest.raises(PermissionError, match=r"needs code of its own, module_\w+\.Net.*trust_code=True"):
        normbench.load(outcome.folder)
    model = normbench.load(outcome.folder, trust_code=True)
    stored = weights(outcome.folder)
    assert all(torch.equal(value, stored[key]) for key, value in model.state_dict().items())
    assert of_kind(model, nn.GroupNorm) == ["features.1.0.0", "features.3", "full.bn"]


def train(folder, *arguments):
    command = [sys.executable, "-m", "normbench", "train", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_headline_counts_the_swapped_layers(tmp_path):
    images = ("dataset=synthetic", "dataset.train_size=40", "dataset.test_size=20", "dataset.num_classes=2")
    done = train(tmp_path, "model=torchvision", "norm=gn", *images, "batch_size=16", "epochs=1", "val_fraction=0.2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("resnet18 (11,168,")
    assert "norm=gn (20 BatchNorm layers swapped) optimizer=adam" in done.stdout
    (folder,) = (tmp_path / "results/runs").iterdir()
    assert folder.name.startswith("resnet18-gn-adam-s0-")
    assert records.verify(folder)["model"] == "resnet18"


def test_a_users_own_yaml_beside_his_module(tmp_path):
    (tmp_path / "mine.py").write_text(net("num_classes, width: int = 8"))
    (tmp_path / "choices/model").mkdir(parents=True)
    (tmp_path / "choices/model/mynet.yaml").write_text("# mine\nname: mynet\n_target_: mine.Net\nwidth: 8\n")
    done = train(tmp_path, "--config-dir", "choices", "model=mynet", "norm=none", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mynet (")
    assert "norm=none (3 BatchNorm layers swapped)" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "norm"), list(itertools.product((COLOR, GRAY), ("bn", "gn"))), ids=str)
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 20), ("resnet50", 53), ("mobilenet_v2", 52), ("mobilenet_v3_small", 34), ("efficientnet_b0", 49),
        ("densenet121", 121), (LIGHT, 56), ("mnasnet0_5", 52), ("regnet_y_400mf", 53), ("googlenet", 57),
    ],
)  # fmt: skip
def test_the_usual_networks_train(assemble, name, count, shape, norm):
    found = assemble("model=torchvision", f"model.name={name}", f"norm={norm}", shape=shape)
    assert found.swapped == count
    logits, gradients = step(found.model, torch.rand(4, *shape), torch.arange(4))
    assert logits.isfinite().all()
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
