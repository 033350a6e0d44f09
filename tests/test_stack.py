"""engine=stack: every replica is its serial run, whatever stands beside it; what can't be so is refused."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from normbench import build, catalog, run, streams
from normbench.config import ConfigError
from normbench.norm import Impossible
from normbench.stack import loop, replicas

DATA = ("dataset=synthetic", "epochs=2", "batch_size=15", "progress=false")  # 30 steps an epoch, 60 in all
ARMS = {
    "mlp": ("model=mlp", "model.hidden=[24,16]", "dataset.image_size=8"),
    "lenet": ("model=lenet", "dataset.image_size=16"),
    "cnn": ("model=cnn", "dataset.image_size=4"),  # with dropout
    "vgg": ("model=vgg", "model.width=4", "dataset.image_size=8"),
}
GROUPS = {"mlp": 2, "lenet": 2, "cnn": 8, "vgg": 4}
NORMS = ("none", "bn", "ln", "gn", "in", "rms")
OPTIMIZERS = (
    "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw", "adamax", "nadam", "radam",
    "lion",
)  # fmt: skip
EXACT = ("sgd", "momentum", "nesterov")  # the others divide by gradients that may be rounding alone
REPLICAS = (("seed=0", 1.0), ("seed=1", 0.5), ("seed=2", 1.0))  # a seed, and what the learning rate is multiplied by


class Double(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images).double()


def in_double(config):
    """What the run is made of, in float64."""
    streams.set_determinism(config.threads)
    built = build.build(config)
    built.model.double()
    for state in built.optimizer.state.values():  # adagrad's is there from the beginning
        state |= {key: value.double() for key, value in state.items() if value.dim()}
    built.inputs = dataclasses.replace(built.inputs, preprocess=Double(built.preprocess), floats=None)
    return built


def serially(config):
    attempt = run.Attempt(config, in_double(dataclasses.replace(config, engine="serial")))
    assert list(attempt.rows(bar=False)) == attempt.progress.rows
    return attempt


def together(configs):
    """The replicas, as far as their runs go, with what they learned in their own objects."""
    members = [replicas.Replica(config, in_double(config)) for config in configs]
    (group,) = replicas._at_one_step(members)
    stack = replicas.Stack(group)
    for _ in stack.rows(bar=False):
        pass
    for place in range(stack.width):
        stack.take(place)
    return members


def configs_of(compose, model, norm, optimizer, *more, lr=None):
    lr = lr or compose(f"optimizer={optimizer}").optimizer["lr"]
    arm = (*DATA, *ARMS[model], f"norm={norm}", f"optimizer={optimizer}", "engine=stack")
    if norm == "gn":
        arm += (f"norm.num_groups={GROUPS[model]}",)
    if (model, norm) == ("cnn", "in"):
        arm += ("model.norm_full=false",)
    return [compose(*arm, *more, seed, f"optimizer.lr={lr * factor}") for seed, factor in REPLICAS]


def differences(ours, theirs):
    """The largest difference of a weight or statistic, and of a number of a row but its seconds."""
    states = zip(ours.built.model.state_dict().values(), theirs.built.model.state_dict().values(), strict=True)
    weights = max((a.double() - b.double()).abs().max().item() for a, b in states)
    numbers = []
    for a, b in zip(ours.progress.rows, theirs.progress.rows, strict=True):
        assert a.keys() == b.keys()
        assert [key for key in a if a[key] is None] == [key for key in b if b[key] is None]
        numbers += [abs(a[key] - b[key]) for key in a if key != "train_s" and a[key] is not None]
    return weights, max(numbers)


def assert_equal_to_serial(configs, optimizer, exact=1e-12, in_rows=None):
    most = exact if optimizer in EXACT else 1e-6
    in_rows = in_rows or most * (1 if optimizer in EXACT else 10)
    for ours, config in zip(together(configs), configs, strict=True):
        theirs = serially(config)
        assert ours.progress.step == theirs.progress.step == 60
        assert len(ours.progress.rows) >= 3
        weights, numbers = differences(ours, theirs)
        if optimizer in EXACT and (weights > most or numbers > in_rows):  # at most a hundred times as far
            units = by_one_unit(config, theirs)
            assert weights <= max(most, min(units[0], 100 * most))
            assert numbers <= max(in_rows, min(units[1], 100 * in_rows))
            continue
        assert weights <= most
        assert numbers <= in_rows


def by_one_unit(config, theirs):
    """How far the serial run goes if its first weights are moved by one unit in the last place: three times, the most.

    Training magnifies rounding; where it does so beyond a bound, equality to rounding can mean no more than this.
    """
    found = []
    for seed in range(3):
        attempt = run.Attempt(config, in_double(dataclasses.replace(config, engine="serial")))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in attempt.built.model.parameters():
                towards = torch.where(torch.rand(p.shape, generator=generator) < 0.5, torch.inf, -torch.inf)
                p.copy_(torch.nextafter(p, towards.to(p)))
        list(attempt.rows(bar=False))
        found.append(differences(attempt, theirs))
    return [max(column) for column in zip(*found, strict=True)]


# ---------------------------------------------------------------------------------------- the cells of the table


@pytest.mark.parametrize("norm", ["none", "bn", "ln", "gn", "rms"])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_mlp_with_every_norm(compose, norm, optimizer):
    assert_equal_to_serial(configs_of(compose, "mlp", norm, optimizer), optimizer)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(compose, optimizer):
    more = ("optimizer.weight_decay=0.01", "optimizer.decay_norm_and_bias=false")
    assert_equal_to_serial(configs_of(compose, "mlp", "bn", optimizer, *more), optimizer)


@pytest.mark.parametrize("norm", NORMS)
def test_lenet_with_every_norm(compose, norm):
    assert_equal_to_serial(configs_of(compose, "lenet", norm, "momentum"), "momentum")


def test_a_network_with_dropout(compose):
    assert_equal_to_serial(configs_of(compose, "cnn", "bn", "momentum"), "momentum")


def cells():
    """All that is served; instance normalization needs two positions, which an mlp and a small vgg do not have."""
    return [
        (model, norm, optimizer)
        for model in ARMS
        for norm in NORMS
        for optimizer in OPTIMIZERS
        if not (norm == "in" and model in ("mlp", "vgg"))
    ]


@pytest.fixture
def _no_sign_of_rounding(monkeypatch, optimizer):
    """Where a gradient is zero but for rounding, lion moves a weight a whole step, either way; here it does not.

    Such are gradients of what a batch normalization behind takes out again (found: 1e-18, beside 1e-3 elsewhere).
    """

    def sign(directions):
        for direction in directions:
            direction.copy_(direction.sign() * (direction.abs() > 1e-14))

    if optimizer == "lion":
        monkeypatch.setattr(torch, "_foreach_sign_", sign)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_sign_of_rounding")
@pytest.mark.parametrize(("model", "norm", "optimizer"), cells())
def test_every_cell_of_the_table(compose, model, norm, optimizer):
    assert_equal_to_serial(configs_of(compose, model, norm, optimizer), optimizer)


@pytest.mark.slow
def test_instance_normalization_in_a_vgg(compose):
    """At its end over four positions, whose spread may be small: the gradients' norms are steep in the weights."""
    more = ("model.width=2", "dataset.image_size=32")
    assert_equal_to_serial(configs_of(compose, "vgg", "in", "momentum", *more), "momentum", in_rows=1e-10)


@pytest.mark.parametrize(
    "more",
    [
        ("clip=norm", "clip.max_norm=0.5"),
        ("clip=value", "clip.max_value=0.01"),
        ("clip=layer", "clip.max_norm=0.2"),
        ("schedule=onecycle", "schedule.warmup_epochs=0.5"),
        ("schedule=plateau", "schedule.patience=0", "schedule.threshold=0.5", "eval.every_steps=10"),
        ("loss=squared_error",),
        ("loss.label_smoothing=0.1",),
        ("augment=flip_crop", "augment.padding=2", "dataset.channels=3"),
        ("augment=noise", "preprocess=standardize"),
        ("augment=flip_crop", "augment.padding=2", "preprocess=zca"),
        ("preprocess=pca",),
        ("model.dropout=0.3", "model.placement=post", "model.activation=tanh"),
        ("norm.affine=false", "norm.momentum=0.3"),
        ("model.hidden=[]",),
        ("eval.batch_size=7", "eval.every_steps=13"),
    ],
    ids=" ".join,
)
def test_every_other_setting(compose, more):
    assert_equal_to_serial(configs_of(compose, "mlp", "bn", "momentum", *more), "momentum")


def test_each_replica_has_its_own_numbers(compose):
    """Momentum, decay, bound and the schedule's numbers differ from replica to replica."""
    base = (*DATA, *ARMS["mlp"], "optimizer=momentum", "clip=norm", "schedule=cosine", "engine=stack")
    each = [
        ("optimizer.momentum=0.9", "optimizer.weight_decay=0", "clip.max_norm=0.5"),
        ("optimizer.momentum=0", "optimizer.weight_decay=0.1", "clip.max_norm=5"),
        ("optimizer.momentum=0.5", "clip.max_norm=0.1", "schedule.warmup_epochs=1", "seed=3"),
    ]
    assert_equal_to_serial([compose(*base, *its) for its in each], "momentum")


def test_neither_width_nor_place_changes_a_replica(compose):
    one, two, three = configs_of(compose, "mlp", "bn", "momentum")
    alone, beside, last = together([one])[0], together([one, two, three])[0], together([three, two, one])[2]
    assert differences(alone, beside) < (1e-12, 1e-12)
    assert differences(alone, last) < (1e-12, 1e-12)


def test_the_loss_of_each_replica_is_its_own(compose):
    logits, labels = torch.randn(3, 10, 7, dtype=torch.float64), torch.randint(0, 10, (3, 7))
    for loss_fn in (nn.CrossEntropyLoss(label_smoothing=0.2), nn.MultiMarginLoss()):
        found = loop.each_loss(loss_fn, logits, labels)
        assert found.tolist() == pytest.approx([loss_fn(logits[n].t(), labels[n]).item() for n in range(3)], abs=1e-14)


# --------------------------------------------------------------------------------------------------- divergence


def test_a_replica_that_diverges_leaves_the_others_bit_for_bit(compose):
    base = (*DATA, *ARMS["mlp"], "optimizer=sgd", "eval.every_steps=10", "engine=stack")
    sound = [compose(*base, "optimizer.lr=0.1"), compose(*base, "optimizer.lr=0.2", "seed=1")]
    wild = compose(*base, "optimizer.lr=1e300", "seed=2")
    tame = compose(*base, "optimizer.lr=1e-3", "seed=2")
    beside_wild, beside_tame = together([*sound, wild]), together([*sound, tame])
    assert [member.progress.diverged_step is None for member in beside_wild] == [True, True, False]
    for ours, theirs in zip(beside_wild[:2], beside_tame[:2], strict=True):
        assert differences(ours, theirs) == (0, 0)
        assert ours.progress.step == 60
    alone = serially(wild).progress
    assert beside_wild[2].progress.diverged_step == alone.diverged_step
    assert beside_wild[2].progress.step == alone.step
    assert len(beside_wild[2].progress.rows) == len(alone.rows) == 1


def test_when_all_diverge_it_is_over(compose):
    wild = [compose(*DATA, *ARMS["mlp"], "optimizer=sgd", "optimizer.lr=1e300", f"seed={n}") for n in (0, 1)]
    members = together(wild)
    assert [member.progress.step for member in members] == [30, 30]  # noticed at the first row
    assert all(member.progress.diverged_step for member in members)


# ----------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("norm=brn",), "model=mlp norm=brn holds a normbench.norm.brn._Layer"),
        (("norm=dyt",), "norm=dyt holds"),
        (("norm=wn",), "norm=wn holds"),
        (("norm.ghost_size=5",), "norm=bn holds a normbench.norm.bn._InParts"),
        (("model=resnet", "model.depth=8", "model.width=4"), "model=resnet norm=bn holds"),
        (("model=vit", "norm=ln"), "model=vit norm=ln holds"),
        (("optimizer=muon",), "optimizer=muon is not known to move every entry"),
        (("clip=agc",), "clip=agc looks at parts"),
        (("clip=update",), "clip=update looks at parts"),
        (("amp=bf16",), "amp=bf16"),
        (("probe=gradients",), "probe=gradients looks into one network"),
    ],
)
def test_what_a_stack_does_not_serve_is_refused_with_the_reason(compose, overrides, words):
    config = compose(*DATA, *overrides, "engine=stack")
    with pytest.raises(Impossible, match=r"engine=stack does not serve this run.*try engine=serial") as error:
        build.build(config)
    assert words in str(error.value)
    build.build(dataclasses.replace(config, engine="serial"))


# ------------------------------------------------------------------------------------------- docs/performance.md

MODELS = ("mlp", "lenet", "cnn", "vgg", "resnet", "vit", "rnn")
PICTURES = ("dataset=synthetic", "dataset.image_size=32")
MORE = {"gn": ("norm.num_groups=2",), "cnn": ("model.norm_full=false",)}


def is_served(compose, *overrides):
    """yes, refused, or - where no engine can train it."""
    config = compose(*PICTURES, *overrides)
    try:
        build.build(config)
    except (ConfigError, Impossible):
        return "-"
    try:
        build.build(dataclasses.replace(config, engine="stack"))
    except Impossible:
        return "refused"
    return "yes"


def page():
    return (Path(__file__).parent.parent / "docs/performance.md").read_text()


def support_table():
    part = page().partition("## What it serves")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("|")]
    header, *body = [[cell.strip() for cell in line] for line in lines if line[0].strip() in ("model", *MODELS)]
    assert header[0] == "model"
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in body}


@pytest.mark.parametrize("model", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS[1:])])
def test_the_pages_table_says_what_the_engine_does(compose, model):
    found = {
        norm: is_served(compose, f"model={model}", f"norm={norm}", *MORE.get(norm, ()), *MORE.get(model, ()))
        for norm in catalog.choices("norm")
    }
    assert support_table()[model] == found


@pytest.mark.parametrize("group", ["optimizer", "clip"])
def test_the_page_lists_the_optimizers_and_clips_that_are_served(compose, group):
    found = {name: is_served(compose, f"{group}={name}") for name in catalog.choices(group)}
    yes, refused = (sorted(name for name in found if found[name] == word) for word in ("yes", "refused"))
    assert len(yes) + len(refused) == len(found)
    assert f"\n{group}: {', '.join(yes)}; refused: {', '.join(refused)}.\n" in page()


# --------------------------------------------------------------------------------------------------------- a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["mlp", "lenet", "vgg"])
@pytest.mark.parametrize("norm", ["none", "bn", "ln", "gn"])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_on_a_gpu_a_replica_is_its_serial_run(compose, model, norm, optimizer):
    """With a learning rate that float32 has exactly: a recorded step has it in float32."""
    lr = {"momentum": 2**-5, "adam": 2**-10}[optimizer]
    configs = configs_of(compose, model, norm, optimizer, "device=cuda", "schedule=constant", lr=lr)
    assert_equal_to_serial(configs, optimizer, 1e-9)


@pytest.mark.gpu
def test_on_a_gpu_dropout_is_refused(compose):
    with pytest.raises(Impossible, match="a GPU's draws for dropout"):
        build.build(compose(*DATA, *ARMS["cnn"], "device=cuda", "engine=stack"))
