"""Models: shapes, structure, initial weights and, for small ones, the whole forward pass by hand."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from normbench.config import ConfigError
from normbench.norm import Impossible
from normbench.norm.bn import BatchNorm
from normbench.norm.none import NoNorm

GRAY, COLOR = (1, 28, 28), (3, 32, 32)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def course(model, shape=GRAY, batch=4):
    """The kinds of the layers, in the order in which an image meets them."""
    seen = []
    names = {nn.Linear: "linear", nn.Conv2d: "conv", nn.MaxPool2d: "pool", nn.Dropout: "dropout"}
    for layer in model.modules():
        if not isinstance(layer, nn.Sequential) and not list(layer.children()):
            kind = "bn" if isinstance(layer, _BatchNorm) else names.get(type(layer), type(layer).__name__.lower())
            layer.register_forward_hook(lambda *_, kind=kind: seen.append(kind))
    model.train()(torch.zeros(batch, *shape))
    return " ".join(seen)


def weight_layers(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def biases(model):
    """Which weight layers have a bias; the head is the last."""
    return [layer.bias is not None for layer in weight_layers(model)]


# --------------------------------------------------------------------------------------------- the contract, each model


@pytest.mark.parametrize("norm", ["none", "bn"])
@pytest.mark.parametrize("shape", [GRAY, COLOR, (2, 20, 17)], ids=str)
def test_images_to_logits(network, model_settings, shape, norm):
    odd = ["model.patch=1"] if "patch" in model_settings and shape == (2, 20, 17) else []  # it must divide both sides
    model = network(f"model={model_settings['name']}", f"norm={norm}", *odd, shape=shape, num_classes=7).train()
    x = torch.rand(5, *shape)
    logits = model(x)
    assert logits.shape == (5, 7)
    logits.sum().backward()
    lost = [name for name, p in model.named_parameters() if p.grad is None]
    assert lost == [], "every parameter takes part"


def test_the_head_is_the_last_layer(network, model_settings):
    model = network(f"model={model_settings['name']}", num_classes=7)
    seen = []
    model.head.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    assert model(torch.rand(3, *GRAY)) is seen[0]


def test_arms_with_equal_seeds_start_from_equal_weights(network, model_settings):
    """Whatever stands between the layers."""
    name = f"model={model_settings['name']}"
    small = ["model.width=8"] if "width" in model_settings else []
    plain = network(name, *small, "norm=none", "seed=3").state_dict()
    arms = [[f"norm={norm}"] for norm in ("bn", "ln", "dyt", "wn", "ws", "sn", "brn", "iternorm", "in", "frn")]
    arms += [
        ["norm=bn", "model.placement=post"],
        ["norm=bn", "model.bias=true"],
        ["norm=none", "model.dropout=0.5"],
        ["norm=none", "model.activation=tanh", "optimizer=sgd", "clip=norm", "epochs=9"],
    ]
    compared = 0
    for arm in arms:
        if all(key.partition("=")[0].removeprefix("model.") in model_settings for key in arm if "model." in key):
            try:
                other = drawn(network(name, *small, "seed=3", *arm))
            except Impossible:
                continue
            both = plain.keys() & other.keys()
            assert {key for key in plain if key.endswith("weight") and plain[key].dim() > 1} <= both
            assert [key for key in both if not torch.equal(plain[key], other[key])] == []
            compared += 1
    assert compared >= 5


def drawn(model):
    """Its initial values, by the names that they have without a norm."""
    for layer in model.modules():
        if parametrize.is_parametrized(layer, "weight"):
            original = layer.parametrizations.weight
            if hasattr(original, "original"):  # ws: the weight that is standardized is the one that was drawn
                layer.register_buffer("drawn", original.original.detach().clone())
            else:  # wn: g v / ||v|| is the one that was drawn, up to rounding
                g, v = original.original0.double(), original.original1.double()
                norm = v.flatten(1).norm(dim=1).view(g.shape)
                torch.testing.assert_close((g / norm).float(), torch.ones_like(g).float(), rtol=1e-6, atol=0)
                layer.register_buffer("drawn", original.original1.detach().clone())
    return {key.replace(".drawn", ".weight"): value for key, value in model.state_dict().items()}


@pytest.mark.parametrize("init", ["xavier", "he", "normal"])
def test_arms_start_from_equal_weights_with_every_init(network, init):
    """A bias that one arm has and the other has not moves no random number."""
    plain, bn = (weight_layers(network("model=cnn", f"model.init={init}", f"norm={norm}")) for norm in ("none", "bn"))
    assert all(torch.equal(one.weight, other.weight) for one, other in zip(plain, bn, strict=True))


def test_another_seed_is_other_weights(network, model_settings):
    name = f"model={model_settings['name']}"
    one, two = network(name, "norm=none", "seed=3"), network(name, "norm=none", "seed=4")
    for first, second in zip(weight_layers(one), weight_layers(two), strict=True):
        assert not torch.isclose(first.weight, second.weight, rtol=0, atol=1e-6).any(dim=-1).all()
        assert first.bias is None or not first.bias.any() or not torch.equal(first.bias, second.bias)


def test_layers_of_one_shape_differ(network):
    model = network("model=mlp", "model.hidden=[32,32,32]")
    _, second, third, _ = weight_layers(model)
    assert second.weight.shape == third.weight.shape
    assert not torch.equal(second.weight, third.weight)


def test_building_neither_reads_nor_moves_the_global_state(network, model_settings):
    name = f"model={model_settings['name']}"
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = network(name, "norm=bn").state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    torch.rand(7)
    second = network(name, "norm=bn").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_initial_weights_have_torchs_spread(network):
    """nn.Linear's default: uniform on +-1/sqrt(fan_in), whose deviation is that over sqrt(3)."""
    weight = weight_layers(network("model=mlp", "model.hidden=[256]"))[0].weight
    bound = 784**-0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


def test_initial_state_of_the_norms_is_untouched_by_the_check(network, model_settings):
    for layer in network(f"model={model_settings['name']}", "norm=bn").modules():
        if isinstance(layer, _BatchNorm):
            assert layer.num_batches_tracked == 0
            assert layer.running_mean.abs().max() == 0


# ------------------------------------------------------------------------------------------------------------ structure


def test_mlp_course(network):
    base = ("model=mlp", "model.hidden=[8,6]")
    assert course(network(*base, "norm=none")) == "linear relu linear relu linear"
    assert course(network(*base, "norm=bn")) == "linear bn relu linear bn relu linear"
    assert course(network(*base, "norm=bn", "model.placement=post")) == "linear relu bn linear relu bn linear"
    full = network(*base, "norm=bn", "model.dropout=0.5", "model.activation=tanh")
    assert course(full) == "linear bn tanh dropout linear bn tanh dropout linear"
    assert course(network("model=mlp", "model.hidden=[]")) == "linear"


def test_mlp_widths(network):
    model = network("model=mlp", "model.hidden=[8,6]", shape=COLOR, num_classes=3)
    widths = [(layer.in_features, layer.out_features) for layer in weight_layers(model)]
    assert widths == [(3072, 8), (8, 6), (6, 3)]
    assert [layer.num_features for layer in model.modules() if isinstance(layer, _BatchNorm)] == [8, 6]


def test_lenet_course(network):
    conv, full = "conv {}relu pool conv {}relu pool", "linear relu linear relu linear"
    assert course(network("model=lenet", "norm=none")) == f"{conv} {full}".replace("{}", "")
    assert course(network("model=lenet", "norm=bn")) == f"{conv} {full}".replace("{}", "bn ")
    post = network("model=lenet", "norm=bn", "model.placement=post", "model.dropout=0.1")
    assert course(post) == ("conv relu bn pool conv relu bn pool linear relu dropout linear relu dropout linear")


@pytest.mark.parametrize("probability", [0.25, 0.5])
def test_dropout_is_as_asked_and_off_in_evaluation(network, model_settings, probability):
    if "dropout" not in model_settings:
        pytest.skip(f"{model_settings['name']} has no dropout")
    model = network(f"model={model_settings['name']}", f"model.dropout={probability}")
    assert {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)} == {probability}
    x = torch.rand(4, *GRAY)
    assert torch.equal(model.eval()(x), model(x))
    assert not torch.equal(model.train()(x), model(x))


@pytest.mark.parametrize(
    ("norm", "placement", "bias", "expected"),
    [
        ("bn", "pre", "auto", [False, False, True]),  # redundant: dropped
        ("bn", "post", "auto", [True, True, True]),  # the activation stands between: needed
        ("none", "pre", "auto", [True, True, True]),
        ("bn", "pre", "true", [True, True, True]),
        ("none", "pre", "false", [False, False, True]),
        ("bn", "post", "false", [False, False, True]),
    ],
)
def test_bias_of_mlp(network, norm, placement, bias, expected):
    settings = [f"norm={norm}", f"model.placement={placement}", f"model.bias={bias}"]
    assert biases(network("model=mlp", "model.hidden=[8,6]", *settings)) == expected


@pytest.mark.parametrize(
    ("norm", "placement", "bias", "expected"),
    [
        ("bn", "pre", "auto", [False, False, True, True, True]),  # the full layers have no norm: they keep theirs
        ("bn", "post", "auto", [True] * 5),
        ("none", "pre", "auto", [True] * 5),
        ("bn", "pre", "true", [True] * 5),
        ("bn", "pre", "false", [False, False, False, False, True]),
        ("none", "pre", "false", [False, False, False, False, True]),
    ],
)
def test_bias_of_lenet(network, norm, placement, bias, expected):
    settings = [f"norm={norm}", f"model.placement={placement}", f"model.bias={bias}"]
    assert biases(network("model=lenet", *settings)) == expected


@pytest.mark.parametrize(
    ("shape", "norm", "expected"),
    [
        # 6 and 16 channels of 5x5, then 120, 84 and 10; a picture of 28 ends as 4x4, one of 32 as 5x5
        (GRAY, "none", (25 * 1 * 6 + 6) + (25 * 6 * 16 + 16) + (256 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)),
        (COLOR, "none", (25 * 3 * 6 + 6) + (25 * 6 * 16 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)),
        (GRAY, "bn", 44_426 - 22 + 2 * 22),  # 22 biases less, weight and bias of 22 channels more
    ],
)
def test_lenet_has_as_many_parameters_as_counted_by_hand(network, shape, norm, expected):
    model = network("model=lenet", f"norm={norm}", shape=shape)
    assert sum(p.numel() for p in model.parameters()) == expected


# ----------------------------------------------------------------------------------------------------- numbers, by hand


def relu(x):
    return np.maximum(x, 0)


def bn(x, layer, training):
    """Batch normalization of (N, C) by its formula."""
    mean, var = (x.mean(0), x.var(0)) if training else (layer.running_mean.numpy(), layer.running_var.numpy())
    return (x - mean) / np.sqrt(var + layer.eps) * layer.weight.detach().numpy() + layer.bias.detach().numpy()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("norm", ["none", "bn"])
def test_mlp_by_hand(network, norm, placement, training):
    shape = (2, 3, 2)
    model = network(
        "model=mlp", "model.hidden=[5,4]", f"norm={norm}", f"model.placement={placement}", shape=shape, num_classes=3
    )
    model.double().train(training)
    norms = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    with torch.no_grad():
        for number, layer in enumerate(norms):  # nothing at a value that hides a mistake
            for offset, tensor in enumerate((layer.weight, layer.bias, layer.running_mean, layer.running_var)):
                tensor.copy_(randn(*tensor.shape, seed=10 * number + offset).abs() + 0.1)
    x = randn(6, *shape, seed=77)

    value = x.numpy().reshape(6, -1)
    *hidden, head = weight_layers(model)
    for number, layer in enumerate(hidden):
        value = value @ layer.weight.detach().numpy().T
        value = value + (0 if layer.bias is None else layer.bias.detach().numpy())
        if norm == "none":
            value = relu(value)
        elif placement == "pre":
            value = relu(bn(value, norms[number], training))
        else:
            value = bn(relu(value), norms[number], training)
    expected = value @ head.weight.detach().numpy().T + head.bias.detach().numpy()

    assert len(norms) == (2 if norm == "bn" else 0)
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        ("relu", relu),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("tanh", np.tanh),
        ("silu", lambda x: x / (1 + np.exp(-x))),
        ("elu", lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)),
        ("leaky_relu", lambda x: np.where(x > 0, x, 0.01 * x)),
    ],
)
def test_activations_by_hand(network, activation, formula):
    model = network("model=mlp", "model.hidden=[5]", "norm=none", f"model.activation={activation}", shape=(1, 2, 2))
    model.double()
    first, head = ((w.weight.detach().numpy(), w.bias.detach().numpy()) for w in weight_layers(model))
    x = randn(6, 1, 2, 2) * 3
    hidden = formula(x.numpy().reshape(6, 4) @ first[0].T + first[1])
    np.testing.assert_allclose(model(x).detach().numpy(), hidden @ head[0].T + head[1], rtol=1e-10, atol=1e-12)


# --------------------------------------------------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.activation=rellu", r"activation must be one of relu, sigmoid.*'rellu'"),
        ("model.placement=before", r"placement must be pre or post.*'before'"),
        ("model.bias=maybe", r"bias must be auto, true or false.*'maybe'"),
        ("model.hidden=[0]", r"hidden must be .*\[0\].*model\.hidden=\[64\]"),
        ("model.hidden=[64,-1]", r"hidden must be .*\[64, -1\]"),
        ("model.hidden=[8.5]", r"hidden must be .*\[8\.5\]"),
        ("model.dropout=1", r"dropout must be in \[0, 1\), got 1.*model\.dropout=0\.5"),
        ("model.dropout=-0.1", r"dropout must be .*got -0\.1"),
    ],
)
def test_a_bad_setting_is_refused_in_words(network, override, words):
    with pytest.raises(ConfigError, match=f"model=mlp: {words}"):
        network("model=mlp", override)


def test_lenet_refuses_small_pictures(network):
    with pytest.raises(ConfigError, match=r"model=lenet.*at least 16 x 16.*8 x 20.*model=mlp"):
        network("model=lenet", shape=(1, 8, 20))
    assert network("model=lenet", shape=(1, 16, 16))(torch.rand(2, 1, 16, 16)).shape == (2, 10)


def test_the_norm_is_asked_about_what_its_layers_will_see(network):
    with pytest.raises(Impossible, match=r"norm=bn.*batch_size=1.*\(64,\)"):
        network("model=mlp", "norm=bn", "batch_size=1")
    network("model=mlp", "norm=none", "batch_size=1")
    network("model=lenet", "norm=bn", "batch_size=1")  # many positions: enough values


def test_blocks_work_with_the_contract_alone():
    """The norm is told the number of features of the layer that it follows."""
    from normbench.model.mlp import MLP

    class Recorder(BatchNorm):
        asked: list[int]

        def layer(self, num_features):
            self.asked.append(num_features)
            return super().layer(num_features)

    norm = Recorder()
    norm.asked = []
    MLP(norm=norm, input_shape=GRAY, num_classes=10, hidden=(9, 7, 5))
    assert norm.asked == [9, 7, 5]
    assert [
        m for m in MLP(norm=NoNorm(), input_shape=GRAY, num_classes=10).modules() if isinstance(m, _BatchNorm)
    ] == []


# ------------------------------------------------------------------------------------------- cnn, vgg and resnet, init


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_cnn_course(network):
    pair = "conv {0}relu conv {0}relu pool"
    assert course(network("model=cnn", "norm=none")) == f"{pair} {pair} linear relu dropout linear".replace("{0}", "")
    bn = f"{pair} {pair} linear {{0}}relu dropout linear".replace("{0}", "bn ")
    assert course(network("model=cnn", "norm=bn")) == bn
    assert course(network("model=cnn", "norm=bn", "model.norm_full=false")).count("bn") == 4
    document = network("model=cnn", "norm=bn", "model.placement=post")
    assert course(document) == ("conv relu bn conv relu bn pool " * 2 + "linear relu bn dropout linear")


def test_cnn_has_the_documents_sizes(network):
    """32x32x3: 3x3 convolutions 3-32-32-64-64, 64 * 8 * 8 -> 512 -> 10; biases and bn's two numbers a channel."""
    convolutions = 9 * (3 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    channels = 32 + 32 + 64 + 64 + 512
    expected = convolutions + 64 * 64 * 512 + 512 * 10 + 10 + channels
    assert parameters(network("model=cnn", "norm=none", shape=COLOR)) == expected
    assert parameters(network("model=cnn", "norm=bn", shape=COLOR)) == expected + channels  # two a channel, less a bias
    assert network("model=cnn", shape=(1, 5, 4))(torch.rand(2, 1, 5, 4)).shape == (2, 10)
    with pytest.raises(ConfigError, match=r"cnn needs images of at least 4 x 4, these are 3 x 9"):
        network("model=cnn", shape=(1, 3, 9))


@pytest.mark.parametrize(("configuration", "convolutions"), [("A", 8), ("B", 10), ("C", 13), ("D", 13)])
def test_vgg_configurations(network, configuration, convolutions):
    small = ("model=vgg", f"model.configuration={configuration}", "model.width=4")
    model = network(*small, "norm=bn", shape=COLOR)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert len(layers) == convolutions
    assert [layer.out_channels for layer in layers if layer.kernel_size == (1, 1)] == (
        [16, 32, 32] * (configuration == "C")
    )
    assert layers[-1].out_channels == 32
    kinds = course(model, COLOR).split()
    assert kinds.count("pool") == 5
    assert kinds.count("bn") == convolutions
    assert kinds[-5:] == ["linear", "relu", "linear", "relu", "linear"]
    for shape in (GRAY, (1, 20, 17)):
        assert network(*small, shape=shape)(torch.rand(2, *shape)).shape == (2, 10)


def test_vgg_a_at_full_width_has_the_papers_convolutions(network):
    """VGG-A, 3x3 weights: 3-64-128-256-256-512-512-512-512."""
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    model = network("model=vgg", "norm=none", shape=COLOR)
    assert sum(w.weight.numel() for w in weight_layers(model)[:8]) == 9 * sum(a * b for a, b in pairwise(widths))


@pytest.mark.parametrize(("depth", "expected"), [(20, 269_722), (32, 464_154), (8, 75_290)])
def test_resnet_has_as_many_parameters_as_the_paper(network, depth, expected):
    """He 2015 gives 0.27 M and 0.46 M; with option A: 3x3 convolutions, two numbers a channel of bn, and the head."""
    n = (depth - 2) // 6
    by_hand = 9 * 3 * 16 + 2 * 16 + 640 + 10
    for before, width in ((16, 16), (16, 32), (32, 64)):
        by_hand += 9 * (before * width + (2 * n - 1) * width**2) + 2 * n * 2 * width
    model = network("model=resnet", f"model.depth={depth}", "norm=bn", shape=COLOR)
    assert parameters(model) == by_hand == expected
    assert len([layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]) == depth - 1


def test_resnet_block_by_hand(network):
    """Stride 2 and more channels: every second row and column, zeros for the new channels."""
    model = network("model=resnet", "model.depth=8", "model.width=4", "norm=bn", shape=COLOR).double().eval()
    block = model.blocks[1]
    with torch.no_grad():
        for number, tensor in enumerate((*block.parameters(), *(b for b in block.buffers() if b.dim()))):
            tensor.copy_(randn(*tensor.shape, seed=number).abs() + 0.1)
    x = randn(2, 4, 6, 6)

    def normalized(x, layer):
        mean, var = layer.running_mean[:, None, None], layer.running_var[:, None, None]
        return (x - mean) / (var + layer.eps).sqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]

    y = normalized(nn.functional.conv2d(x, block.first.conv.weight, stride=2, padding=1), block.first.norm).relu()
    y = normalized(nn.functional.conv2d(y, block.second.conv.weight, padding=1), block.second.norm)
    y[:, :4] += x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), y.relu(), rtol=1e-12, atol=1e-12)


def test_resnet_without_norm_starts_as_its_shortcuts(network):
    """The branches begin at zero, so 100 layers change no more than the stem; with bn it has no such number."""
    settings = ("model=resnet", "model.width=4", "norm=none")
    deep, shallow = (network(*settings, f"model.depth={depth}", shape=COLOR) for depth in (56, 8))
    x = torch.rand(2, *COLOR)
    assert torch.equal(deep(x), shallow(x))
    alphas = [p for name, p in deep.named_parameters() if name.endswith("alpha")]
    assert len(alphas) == 27
    deep(x).square().sum().backward()
    assert all(alpha.item() == 0 and alpha.grad != 0 for alpha in alphas)
    assert not any("alpha" in name for name, _ in network("model=resnet", "norm=gn").named_parameters())
    assert any("alpha" in name for name, _ in network("model=resnet", "norm=wn").named_parameters())


@pytest.mark.parametrize("model", ["mlp", "lenet", "cnn", "vgg"])
@pytest.mark.parametrize(
    ("init", "spread"),
    [
        ("xavier", lambda n_in, n_out: (2 / (n_in + n_out)) ** 0.5),
        ("he", lambda n_in, n_out: (2 / n_in) ** 0.5),
        ("normal", lambda n_in, n_out: 0.01),
        ("default", lambda n_in, n_out: (3 * n_in) ** -0.5),
    ],
)
def test_init_has_the_formulas_spread(network, model, init, spread):
    small = ["model.width=16"] if model == "vgg" else []
    one = network(f"model={model}", f"model.init={init}", "norm=none", *small)
    three = network(f"model={model}", f"model.init={init}", "norm=none", "model.init_scale=3", *small)
    for layer, scaled in zip(weight_layers(one), weight_layers(three), strict=True):
        area = layer.weight[0, 0].numel() if layer.weight.dim() == 4 else 1
        n_in, n_out = layer.weight.shape[1] * area, layer.weight.shape[0] * area
        if layer.weight.numel() > 800:
            assert layer.weight.std().item() == pytest.approx(spread(n_in, n_out), rel=0.1)
        assert (init == "default") == bool(layer.bias.any())
        factor = 1 if scaled is three.head else 3
        assert torch.equal(scaled.weight, layer.weight * factor)


def test_bad_numbers_of_the_new_models_are_refused_in_words(network):
    for settings, words in (
        (("model=resnet", "model.depth=21"), r"depth must be 6 n \+ 2 .*got 21; try model.depth=20"),
        (("model=resnet", "model.depth=2"), r"depth must be .*got 2; try model.depth=8"),
        (("model=resnet", "model.width=0"), r"width must be .*got 0"),
        (("model=vgg", "model.configuration=E"), r"configuration must be A, B, C or D, got 'E'"),
        (("model=vgg", "model.width=0"), r"width must be .*got 0"),
        (("model=mlp", "model.init=zeros"), r"init must be one of default, xavier, he, normal; got 'zeros'"),
        (("model=mlp", "model.init_scale=0"), r"init_scale must be a number > 0, got 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            network(*settings)


@pytest.mark.parametrize("model", ["mlp", "lenet", "cnn", "vgg"])
def test_frn_after_the_activation_is_impossible(network, model):
    with pytest.raises(Impossible, match=r"placement must be pre, got 'post'; try model\.placement=pre"):
        network(f"model={model}", "norm=frn", "model.placement=post")


def test_widths_chain():
    from normbench.model.mlp import MLP

    layers = weight_layers(MLP(norm=NoNorm(), input_shape=(1, 4, 4), num_classes=2, hidden=(9, 7, 5)))
    assert all(a.out_features == b.in_features for a, b in pairwise(layers))
