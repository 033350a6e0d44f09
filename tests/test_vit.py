"""The vision transformer: its whole forward pass by hand in float64, its start, every norm in it."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn
from torch.nn.utils import parametrize

from normbench import assembly
from normbench.config import ConfigError
from normbench.norm import Impossible
from normbench.preprocess.scale import Scale

GRAY = (1, 28, 28)
TINY = ("model=vit", "model.patch=2", "model.dim=16", "model.depth=2", "model.heads=2", "model.mlp_ratio=3")
TINY_SHAPE = (2, 4, 6)  # six patches


@pytest.fixture
def network(network):
    """That of conftest.py, on tiny images."""
    return partial(network, shape=TINY_SHAPE, num_classes=3)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def array(tensor):
    return tensor.detach().double().numpy()


# ------------------------------------------------------------------------------------------------------------- by hand


def linear(rows, layer):
    return rows @ array(layer.weight).T + array(layer.bias)


def normalized(tokens, layer, norm, training):
    """(N, T, D): ln over D, bn over N and T."""
    if norm == "none":
        return tokens
    if norm == "ln":
        mean, var = tokens.mean(-1, keepdims=True), tokens.var(-1, keepdims=True)
    elif training:
        mean, var = tokens.mean((0, 1)), tokens.var((0, 1))
    else:
        mean, var = array(layer.running_mean), array(layer.running_var)
    return (tokens - mean) / np.sqrt(var + layer.eps) * array(layer.weight) + array(layer.bias)


def attended(tokens, attention, heads):
    """Each head by itself, with its own columns of q, k and v."""
    n, t, d = tokens.shape
    size, found = d // heads, []
    q, k, v = np.split(linear(tokens, attention.qkv), 3, axis=-1)
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        scores = np.einsum("nid,njd->nij", q[..., own], k[..., own]) / np.sqrt(size)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        found.append(np.einsum("nij,njd->nid", scores / scores.sum(-1, keepdims=True), v[..., own]))
    assert (n, t) == found[0].shape[:2]
    return linear(np.concatenate(found, -1), attention.out)


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def by_hand(model, images, patch, heads, placement, norm, training):
    n, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    patches = images.reshape(n, channels, rows, patch, columns, patch).transpose(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(n, rows * columns, channels * patch**2)
    x = patches @ array(model.embed.weight).reshape(-1, channels * patch**2).T + array(model.embed.bias)
    x = x + array(model.position.weight)
    for block in model.blocks:

        def mlp(tokens, block=block):
            return linear(gelu(linear(tokens, block.mlp.up)), block.mlp.down)

        if placement == "pre":
            x = x + attended(normalized(x, block.norm1, norm, training), block.attention, heads)
            x = x + mlp(normalized(x, block.norm2, norm, training))
        else:
            x = normalized(x + attended(x, block.attention, heads), block.norm1, norm, training)
            x = normalized(x + mlp(x), block.norm2, norm, training)
    if placement == "pre":
        x = normalized(x, model.norm, norm, training)
    return linear(x.mean(1), model.head)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("norm", ["none", "ln", "bn"])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_the_forward_pass_by_hand(network, placement, norm, heads, training):
    model = network(*TINY, f"model.heads={heads}", f"model.placement={placement}", f"norm={norm}")
    model.double().train(training)
    with torch.no_grad():  # nothing at a value that hides a mistake
        for number, (name, tensor) in enumerate([*model.named_parameters(), *model.named_buffers()]):
            if "norm" in name and tensor.is_floating_point():
                tensor.copy_(randn(*tensor.shape, seed=number).abs() + 0.3)
        model.position.weight.copy_(randn(6, 16, seed=50))
    images = randn(5, *TINY_SHAPE, seed=9)
    expected = by_hand(model, images.numpy(), 2, heads, placement, norm, training)
    np.testing.assert_allclose(array(model(images)), expected, rtol=1e-10, atol=1e-10)


def test_it_has_as_many_parameters_as_counted_by_hand(network):
    """49 tokens of 64 values, four blocks, 128 units inside the mlp; two numbers a value of ln."""
    embed, position, head = 16 * 64 + 64, 49 * 64, 64 * 10 + 10
    block = (64 * 192 + 192) + (64 * 64 + 64) + (64 * 128 + 128) + (128 * 64 + 64)
    for settings, norms in (("norm=none", 0), ("norm=ln", 9), ("norm=rms", 4.5)):
        model = network("model=vit", settings, shape=GRAY, num_classes=10)
        expected = embed + position + head + 4 * block + norms * 128
        assert sum(p.numel() for p in model.parameters()) == expected
    post = network("model=vit", "norm=ln", "model.placement=post", shape=GRAY, num_classes=10)
    assert sum(p.numel() for p in post.parameters()) == embed + position + head + 4 * block + 8 * 128  # no final norm


def test_positions_learn_each_their_own(network):
    model = network(*TINY, "norm=ln")
    model(randn(3, *TINY_SHAPE, dtype=torch.float32)).square().sum().backward()
    gradient = model.position.weight.grad
    assert gradient.shape == (6, 16)
    assert (gradient.abs().amax(1) > 0).all()
    assert not torch.allclose(gradient[0], gradient[1])


def test_positions_start_normal_with_a_deviation_of_002(network):
    weight = network("model=vit", "model.patch=2", shape=GRAY).position.weight
    assert weight.shape == (196, 64)
    assert weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert abs(weight.mean().item()) < 0.001


def test_without_positions_the_order_of_the_patches_is_lost(network):
    model = network(*TINY, "norm=ln").double()
    images = randn(2, *TINY_SHAPE)
    moved = torch.cat([images[..., 2:], images[..., :2]], -1)  # whole patches
    assert (model(images) - model(moved)).abs().max() > 1e-4
    with torch.no_grad():
        model.position.weight.zero_()
    torch.testing.assert_close(model(images), model(moved), rtol=1e-10, atol=1e-10)


def test_dropout_stands_behind_positions_branches_and_inside_the_mlp(network):
    model = network(*TINY, "norm=ln", "model.dropout=0.5").train()
    calls = []
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.register_forward_hook(lambda layer, _, output: calls.append((layer.p, tuple(output.shape))))
    model(randn(3, *TINY_SHAPE, dtype=torch.float32))
    assert calls == [(0.5, (18, 16))] + [(0.5, (18, 16)), (0.5, (18, 48)), (0.5, (18, 16))] * 2
    assert not any(isinstance(layer, nn.Dropout) for layer in network(*TINY, "norm=ln").modules())


# ------------------------------------------------------------------------------------------------------- with each norm


def drawn(layer):
    """The weight that was drawn, whatever it is expressed by now."""
    if not parametrize.is_parametrized(layer, "weight"):
        return layer.weight
    by = layer.parametrizations.weight
    return by.original if hasattr(by, "original") else by.original0 * by.original1 / by.original1.norm(dim=1)[:, None]


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_every_norm_starts_from_the_same_weights(network, norm_settings, placement):
    plain = network(*TINY, "norm=none", "seed=3")
    try:
        other = network(*TINY, f"norm={norm_settings['name']}", f"model.placement={placement}", "seed=3")
    except Impossible:
        pytest.skip("refused")
    layers, compared = dict(other.named_modules()), 0
    for path, layer in plain.named_modules():
        if isinstance(getattr(layer, "weight", None), torch.Tensor):
            found = drawn(layers[path])
            if norm_settings["name"] == "wn":  # g v / ||v||
                torch.testing.assert_close(found, layer.weight, rtol=1e-6, atol=1e-7)
            else:
                assert torch.equal(found, layer.weight), path
            assert getattr(layer, "bias", None) is None or torch.equal(layers[path].bias, layer.bias), path
            compared += 1
    assert compared == 1 + 1 + 2 * 4 + 1


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_every_norm_trains_or_says_why_not(compose, norm_settings, placement):
    config = compose(*TINY, f"norm={norm_settings['name']}", f"model.placement={placement}", "seed=3")
    images = torch.randint(0, 256, (8, *TINY_SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    norm = assembly.normalization(config.norm)
    try:
        assembled = assembly.assemble(config, norm, Scale(), images, 3)
    except Impossible as refusal:
        assert norm_settings["name"] in ("in", "frn"), refusal  # noqa: PT017
        assert "position" in str(refusal)  # noqa: PT017
        return
    model, x, y = assembled.model, Scale()(images), torch.arange(8) % 3
    assert len(assembled.norm_layers) == 2 * 2 + (placement == "pre")
    assert assembled.swapped == 0
    norm.start(model, x)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert model.eval()(x).isfinite().all()


def test_the_norm_sees_every_token_as_a_sample(network):
    model = network(*TINY, "norm=bn").train()
    seen = []
    for layer in (model.blocks[0].norm1, model.blocks[1].norm2, model.norm):
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    model(randn(4, *TINY_SHAPE, dtype=torch.float32))
    assert seen == [(24, 16)] * 3


def test_a_batch_of_one_image_has_many_tokens(network):
    network(*TINY, "norm=bn", "batch_size=1")
    with pytest.raises(Impossible, match=r"norm=bn.*batch_size=1.*\(16,\)"):
        network(*TINY, "norm=bn", "batch_size=1", shape=(1, 2, 2))  # one patch


@pytest.mark.parametrize("norm", ["wn", "ws"])
def test_the_blocks_linear_layers_are_reparametrized_and_no_others(network, norm):
    model = network(*TINY, f"norm={norm}")
    paths = [path for path, layer in model.named_modules() if parametrize.is_parametrized(layer, "weight")]
    layers = ["attention.qkv", "attention.out", "mlp.up", "mlp.down"]
    assert paths == [f"blocks.{number}.{layer}" for number in range(2) for layer in layers]


def test_the_start_of_wn_gives_each_unit_mean_0_and_variance_1_over_all_tokens(compose):
    config = compose(*TINY, "norm=wn")
    images = torch.randint(0, 256, (16, *TINY_SHAPE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    norm = assembly.normalization(config.norm)
    model = assembly.assemble(config, norm, Scale(), images, 3).model
    norm.start(model, Scale()(images))
    outputs = []
    for layer in model.modules():
        if parametrize.is_parametrized(layer, "weight"):
            layer.register_forward_hook(lambda *call: outputs.append(call[2]))
    model(Scale()(images))
    assert len(outputs) == 8
    for output in outputs:
        torch.testing.assert_close(output.mean(0), torch.zeros(output.shape[1]), rtol=0, atol=1e-4)
        torch.testing.assert_close(output.var(0, correction=0), torch.ones(output.shape[1]), rtol=1e-3, atol=0)


# --------------------------------------------------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    ("override", "shape", "words"),
    [
        ("model.patch=5", GRAY, r"patch must divide .*got patch=5 for 28 x 28; try model\.patch=4"),
        ("model.patch=4", (1, 28, 30), r"patch must divide .*got patch=4 for 28 x 30; try model\.patch=2"),
        ("model.patch=4", (1, 20, 17), r".*patch=4 for 20 x 17; try model\.patch=1"),
        ("model.patch=56", GRAY, r".*patch=56 for 28 x 28; try model\.patch=28"),
        ("model.patch=0", GRAY, r"patch must be a whole number >= 1, got 0"),
        ("model.dim=0", GRAY, r"dim must be a whole number >= 1, got 0"),
        ("model.dim=8.5", GRAY, r"dim must be a whole number >= 1, got 8\.5"),
        ("model.depth=0", GRAY, r"depth must be a whole number >= 1, got 0"),
        ("model.heads=-1", GRAY, r"heads must be a whole number >= 1, got -1"),
        ("model.mlp_ratio=0", GRAY, r"mlp_ratio must be a whole number >= 1, got 0"),
        ("model.heads=6", GRAY, r"heads must divide dim=64, got 6; try model\.heads=2"),
        ("model.placement=before", GRAY, r"placement must be pre or post.*'before'"),
        ("model.activation=glu", GRAY, r"activation must be one of relu.*'glu'"),
        ("model.dropout=1", GRAY, r"dropout must be in \[0, 1\), got 1.*model\.dropout=0\.1"),
    ],
)
def test_a_bad_setting_is_refused_in_words(network, override, shape, words):
    with pytest.raises(ConfigError, match=f"model=vit: {words}"):
        network("model=vit", override, shape=shape)
