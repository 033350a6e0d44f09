"""pca and zca: the formula in float64, what they refuse, what is kept of a fit, each image whitened only once."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from torch import nn

import normbench
from normbench import build, evaluate, prepared, resident, run, streams
from normbench.app import register_plugins
from normbench.config import ConfigError
from normbench.dataset.fashion_mini import FashionMini
from normbench.norm import Impossible
from normbench.preprocess import Preprocess
from normbench.preprocess._whitening import principal
from normbench.preprocess.pca import PCA
from normbench.preprocess.zca import ZCA
from normbench.sweep import jobs, session

SMALL = ("dataset=synthetic", "model.hidden=[8]", "device=cpu")
QUIET = {"announce": lambda _: None, "bar": False}


@pytest.fixture(autouse=True)
def _nothing_in_memory():
    prepared._kept.cache_clear()
    resident._resident.cache_clear()
    yield
    prepared._kept.cache_clear()
    resident._resident.cache_clear()


def correlated(count=400, shape=(2, 4, 5), seed=0):
    """Pictures whose pixels vary together, some much and some little."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    mixing = rng.normal(size=(size, size)) * np.geomspace(30, 1, size)[:, None]
    x = 128 + rng.normal(size=(count, size)) @ mixing / size**0.5
    return torch.tensor(np.clip(np.rint(x), 0, 255).reshape(count, *shape), dtype=torch.uint8)


def as_numbers(images):
    return images.flatten(1).numpy().astype(np.float64) / 255


def covariance(x):
    return np.cov(x, rowvar=False, bias=True)


def fitted(cls, images, **settings):
    preprocess = cls(**settings)
    preprocess.fit(images)
    return preprocess


# ------------------------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("eps", [1e-4, 1e-2])
def test_zca_is_the_inverse_root_of_the_covariance(eps):
    train, test = correlated(), correlated(seed=1)
    x = as_numbers(train)
    values, vectors = np.linalg.eigh(covariance(x) + eps * np.eye(40))
    root = vectors / np.sqrt(values) @ vectors.T
    zca = fitted(ZCA, train, eps=eps)
    for images in (train, test):
        expected = ((as_numbers(images) - x.mean(0)) @ root).reshape(images.shape)
        np.testing.assert_allclose(zca(images).numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("components", [None, 1, 7, 40])
def test_pca_is_its_formula(components):
    train, test = correlated(), correlated(seed=1)
    x, eps = as_numbers(train), 1e-3
    values, vectors = np.linalg.eigh(covariance(x))
    values, vectors = values[::-1], vectors[:, ::-1]
    largest = vectors[np.abs(vectors).argmax(0), np.arange(40)]
    directions = vectors * np.sign(largest)
    pca = fitted(PCA, train, components=components, eps=eps)
    for images in (train, test):
        expected = (as_numbers(images) - x.mean(0)) @ directions / np.sqrt(values + eps)
        found = pca(images)
        assert found.shape == (len(images), components or 40)
        np.testing.assert_allclose(found, expected[:, : components or 40], rtol=1e-4, atol=1e-4)


def test_pca_turned_back_is_zca():
    images = correlated()
    directions = principal(images)[2]
    back = fitted(PCA, images)(images).double() @ directions.T
    torch.testing.assert_close(back.view(images.shape).float(), fitted(ZCA, images)(images), rtol=1e-4, atol=1e-5)


def is_whitened(images, eps):
    """Training variances lambda / (lambda + eps) and no correlations, within 1e-3; by numpy, in float64."""
    values = np.linalg.eigvalsh(covariance(as_numbers(images)))[::-1].clip(0)
    size = len(values)
    inputs = prepared._transformed(fitted(PCA, images, eps=eps), images)
    found = covariance(inputs.double().numpy())
    np.testing.assert_allclose(np.diag(found), values / (values + eps), atol=1e-3)
    assert np.abs(found - np.diag(np.diag(found))).max() < 1e-3
    directions = principal(images)[2].numpy()
    pictures = prepared._transformed(fitted(ZCA, images, eps=eps), images)
    turned = covariance(pictures.flatten(1).double().numpy() @ directions)
    np.testing.assert_allclose(turned, np.diag(values / (values + eps)), atol=1e-3)
    assert found.shape == turned.shape == (size, size)


@pytest.mark.parametrize("eps", [0.1, 1e-6])
def test_fashion_images_are_whitened(eps):
    is_whitened(torch.tensor(FashionMini().load().train_images[:2000]), eps)


@pytest.mark.slow
def test_images_like_those_of_cifar10_are_whitened():
    """3,072 numbers, neighbours alike, more images than numbers."""
    coarse = torch.rand(4000, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    fine = torch.rand(4000, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    smooth = nn.functional.interpolate(coarse, size=32, mode="bilinear")
    is_whitened((255 * (0.9 * smooth + 0.1 * fine)).byte(), 1e-2)


def test_the_covariance_is_that_of_whole_numbers():
    """Several chunks of the largest products there are: nothing is rounded; what never varies has variance 0."""
    images = torch.zeros(5000, 1, 2, 2, dtype=torch.uint8)
    images[1234, 0, 0, 0] = 255
    images[:, 0, 1, 1] = 255
    mean, variances, directions = principal(images)
    assert mean.tolist() == [255 / 5000, 0, 0, 255]
    assert variances.tolist() == [(5000 * 1 - 1) / 5000**2, 0, 0, 0]
    assert directions[:, 0].tolist() == [1, 0, 0, 0]


def test_falling_variances_and_signs_that_do_not_depend_on_rounding():
    images = correlated()
    _, variances, directions = principal(images)
    assert (variances.diff() <= 0).all()
    assert (directions.max(0).values == directions.abs().max(0).values).all()
    twice = correlated(shape=(1, 2, 3))
    twice = torch.cat([twice, twice.flip(3)])  # mirror images: entries come in pairs of one size
    _, _, directions = principal(twice)
    for column in directions.T:
        first = next(entry for entry in column if entry.abs() >= column.abs().max() - 1e-9)
        assert first > 0


def test_threads_change_no_bit():
    images, found = correlated(count=2000, shape=(1, 12, 12)), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(fitted(ZCA, images).rotation)
        assert torch.get_num_threads() == threads
    assert torch.equal(*found)


# ------------------------------------------------------------------------------------------------------- hard cases


@pytest.mark.parametrize("cls", [PCA, ZCA])
def test_fewer_images_than_pixels_and_pixels_that_never_change(cls):
    images = correlated(count=10)
    images[:, :, 0] = 7
    preprocess = fitted(cls, images, eps=1e-4)
    x = preprocess(images).flatten(1).double().numpy()
    values = np.linalg.eigvalsh(covariance(as_numbers(images)))[::-1].clip(0)
    assert np.isclose(np.trace(covariance(x)), (values / (values + 1e-4)).sum(), atol=1e-3)
    other = preprocess(correlated(seed=1)).flatten(1)
    assert other.isfinite().all()
    if cls is PCA:  # 9 directions; the others could be any
        assert (other[:, :9] != 0).all()
        assert not other[:, 9:].any()


@pytest.mark.parametrize("cls", [PCA, ZCA])
def test_one_image_and_images_of_one_pixel(cls):
    assert not fitted(cls, correlated(count=1))(correlated(count=1)).any()
    dots = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    assert fitted(cls, dots, eps=1e-9)(dots).flatten().tolist() == pytest.approx([-1, 1])


@pytest.mark.parametrize("cls", [PCA, ZCA])
@pytest.mark.parametrize("eps", [0.0, -1.0, float("nan"), float("inf")])
def test_eps_is_refused(cls, eps):
    with pytest.raises(ValueError, match=rf"eps must be .*got {eps}.*preprocess\.eps="):
        cls(eps=eps)


@pytest.mark.parametrize("components", [0, -3, 2.5, True, "many"])
def test_components_are_refused(components):
    with pytest.raises(ValueError, match=f"components must be a whole number >= 1 or null, got {components!r}"):
        PCA(components=components)


def test_more_components_than_numbers_are_refused_before_training(compose):
    words = r"preprocess=pca .*components must be at most 64, the numbers of an image, got 65"
    with pytest.raises(ConfigError, match=words):
        build.build(compose(*SMALL, "preprocess=pca", "preprocess.components=65"))


@pytest.mark.parametrize("cls", [PCA, ZCA])
def test_images_too_large_are_refused(cls):
    with pytest.raises(ValueError, match=r"at most 8,192 numbers.*have 8,281.*try smaller images"):
        cls().fit(torch.zeros(2, 1, 91, 91, dtype=torch.uint8))


# ------------------------------------------------------------------------------------------------------ in a run


class Vectors(nn.Module):
    """A user's network that takes whatever comes."""

    def __init__(self, input_shape, num_classes):
        super().__init__()
        self.head = nn.Linear(int(np.prod(input_shape)), num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))


def test_pca_goes_with_models_that_take_vectors(compose, model_settings):
    name = model_settings["name"]
    arm = ("dataset=synthetic", "dataset.image_size=32", f"model={name}", "norm=none", "preprocess=pca")
    config = compose(*arm, "preprocess.components=5", "device=cpu")
    if name == "mlp":
        assert next(build.build(config).batches([0]))[0].shape == (64, 5)
        return
    words = rf"preprocess=pca makes vectors of 5 numbers, model={name} needs pictures; try model=mlp or preprocess=zca"
    with pytest.raises(Impossible, match=words):
        build.build(config)


def test_a_sweep_runs_what_it_can(tmp_path):
    register_plugins()
    typed = ["preprocess=scale,pca,zca", "model=mlp,lenet", "dataset=synthetic", "dataset.image_size=32"]
    with initialize_config_module("normbench.conf", version_base="1.3"):
        planned = jobs.plan(GlobalHydra.instance().config_loader(), [*typed, f"out={tmp_path}"])
        work = session.look_for_finished(planned)
        session.check(work)
    assert len(work.todo) == 5
    [(job, reason)] = work.impossible
    assert (job.config.preprocess["name"], job.config.model["name"]) == ("pca", "lenet")
    assert "try model=mlp or preprocess=zca" in reason


def test_pca_goes_with_a_network_of_ones_own(compose):
    own = f"model._target_={__name__}.Vectors"
    build.build(compose("dataset=synthetic", "model=own", own, "norm=none", "preprocess=pca", "device=cpu"))


def test_what_is_wrong_without_pca_is_no_impossible_cell(compose):
    with pytest.raises(ConfigError, match="hidden"):
        build.build(compose("dataset=synthetic", "model.hidden=[0]", "preprocess=pca"))


@pytest.mark.parametrize("choice", ["pca", "zca"])
def test_only_training_images_are_measured(compose, monkeypatch, choice, tmp_path):
    from normbench.dataset.synthetic import Synthetic

    config, load = compose(*SMALL, f"preprocess={choice}"), Synthetic.load

    def rotation(change_of):
        def changed(self):
            data = load(self)
            train, val = streams.split(data.train_labels, config.val_fraction, config.data_seed)
            change_of(data, train, val)
            return data

        monkeypatch.setattr(Synthetic, "load", changed)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / change_of.__name__))
        prepared._kept.cache_clear()
        resident._resident.cache_clear()
        return build.build(config).preprocess.rotation

    def nothing(data, train, val):
        pass

    def held_out(data, train, val):
        data.train_images[val] = 255 - data.train_images[val]
        data.test_images[:] = 0

    def one_pixel(data, train, val):
        data.train_images[train[0], 0, 0, 0] ^= 128

    assert torch.equal(rotation(nothing), rotation(held_out))
    assert not torch.equal(rotation(nothing), rotation(one_pixel))


def test_each_image_is_whitened_once_for_all_runs_that_share_it(compose, monkeypatch):
    calls, forward = [], ZCA.forward

    def counted(self, images):
        if len(images) > 2:  # not those that are tried for their shape
            calls.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(ZCA, "forward", counted)
    for seed in (0, 1):
        built = build.build(compose(*SMALL, "preprocess=zca", f"seed={seed}"))
        calls.clear()
        list(built.batches(range(20)))
        for name in ("train_eval", "val", "test"):
            built.inputs.split(name)
        sizes = [len(getattr(built.data, name)[1]) for name in ("train", "train_eval", "val", "test")]
        assert calls == (sizes if seed == 0 else [])
    build.build(compose(*SMALL, "preprocess=zca", "preprocess.eps=1")).inputs.split("val")
    assert calls == [sizes[2]]


def test_other_data_with_the_same_training_images_are_not_taken_for_these(compose, monkeypatch):
    from normbench.dataset.synthetic import Synthetic

    load, found = Synthetic.load, []
    for value in (0, 255):

        def changed(self, value=value):
            data = load(self)
            data.test_images[:] = value
            return data

        monkeypatch.setattr(Synthetic, "load", changed)
        resident._resident.cache_clear()
        built = build.build(compose(*SMALL, "preprocess=zca"))
        found.append(built.inputs.split("test")[0])
        torch.testing.assert_close(found[-1], built.preprocess(built.data.test[0]), rtol=1e-5, atol=1e-5)
    assert not torch.equal(*found)


def test_whitened_beforehand_is_whitened_by_batch_but_for_rounding(compose):
    built = build.build(compose(*SMALL, "preprocess=zca"))
    images, labels = built.data.train
    order = streams.order(0, 0, len(labels))[64:128]
    x, y = next(built.batches([1]))
    assert x.dtype is torch.float32
    torch.testing.assert_close(x, built.preprocess(images[order]), rtol=1e-5, atol=1e-5)
    assert torch.equal(y, labels[order])


def test_with_augmentation_each_batch_is_whitened(compose):
    built = build.build(compose(*SMALL, "preprocess=zca", "augment=flip_crop"))
    images, labels = built.data.train
    order = streams.order(0, 0, len(labels))[:64]
    draws = built.augment.draw(streams.generator(0, "augment", 0), len(labels))[:64]
    x, _ = next(built.batches([0]))
    assert torch.equal(x, built.preprocess(built.augment(images[order], draws)))
    assert built.inputs.split("train")[0].dtype is torch.uint8
    assert built.inputs.split("val")[0].dtype is torch.float32


def test_floats_of_an_evaluation_can_be_trained_on(compose):
    built = build.build(compose(*SMALL, "preprocess=zca"))
    with torch.inference_mode():
        images, _ = built.inputs.split("train")
    assert not images.is_inference()


@pytest.mark.parametrize("arm", [["preprocess=zca"], ["preprocess=pca", "preprocess.components=9"]])
def test_a_paused_run_goes_on_without_the_kept_fit_and_is_given_back(compose, tmp_path, monkeypatch, arm):
    arm = (*SMALL, *arm, "epochs=2", "norm=bn", "eval.statistics=[ema,population,batch]")
    whole = run.run(compose(*arm, f"out={tmp_path}/a"), **QUIET)
    assert run.run(compose(*arm, f"out={tmp_path}/b", "stop_epoch=1"), **QUIET).state == "paused"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    prepared._kept.cache_clear()
    resumed = run.run(compose(*arm, f"out={tmp_path}/b"), **QUIET)
    for key in ("test_loss", "test_acc", "val_loss", "statistics"):
        assert resumed.record[key] == whole.record[key]

    built = evaluate._restored(resumed.folder, evaluate._options(["x"]))
    assert evaluate.by_statistics(built, ["ema", "population", "batch"]) == whole.record["statistics"]
    network = normbench.load(resumed.folder)
    images, labels = built.data.test
    with torch.inference_mode():
        loss = nn.functional.cross_entropy(network(network.preprocess(images)), labels).item()
    assert loss == pytest.approx(whole.record["test_loss"], rel=1e-5)


# ----------------------------------------------------------------------------------------------------------- kept fits


def kept(folder=None):
    folder = folder or Path(prepared.cache_folder()) / "preprocess"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def fit(**changes):
    """What a new process would fit, or read."""
    prepared._kept.cache_clear()
    settings = {"name": "zca", "_target_": "normbench.preprocess.zca.ZCA", "eps": 0.1, **changes}
    preprocess = build.part("preprocess", settings)
    prepared.fit(preprocess, settings, correlated())
    return preprocess.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_kept_fit_is_read_instead_and_has_the_same_bits(monkeypatch):
    fresh = fit()
    assert len(kept()) == 1
    monkeypatch.setattr(ZCA, "fit", None)
    assert same(fit(), fresh)
    assert same(fit(name="called_otherwise"), fresh)


def test_other_settings_and_other_images_are_other_fits(monkeypatch):
    fit()
    fit(eps=0.2)
    assert len(kept()) == 2
    fit(_target_="normbench.preprocess.pca.PCA")
    assert len(kept()) == 3
    monkeypatch.setattr(ZCA, "version", 99)
    fit()
    assert len(kept()) == 4
    prepared.fit(ZCA(), {"_target_": "normbench.preprocess.zca.ZCA", "eps": 0.1}, correlated(seed=5))
    assert len(kept()) == 5


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:300] + b"?" + b[301:], lambda b: b""])
def test_a_damaged_fit_is_moved_aside_and_made_anew(damage, caplog):
    fresh = fit()
    [path] = (Path(prepared.cache_folder()) / "preprocess").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "normbench"):
        assert same(fit(), fresh)
    assert f"{path} is damaged" in caplog.text
    assert "fitted anew" in caplog.text
    assert kept() == [f"{path.stem}.damaged", path.name]
    caplog.clear()
    assert same(fit(), fresh)
    assert caplog.text == ""


def test_a_cache_folder_that_cannot_be_written_is_said_and_not_needed(tmp_path, monkeypatch, caplog):
    fresh = fit()
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert same(fit(), fresh)
    assert "every start fits the preprocessing anew" in caplog.text


def test_nothing_is_left_of_a_write_that_failed(monkeypatch, caplog):
    monkeypatch.setattr(prepared.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    fit()
    assert kept() == []
    assert "No space left" in caplog.text


def test_another_process_that_keeps_the_same_fit_first(monkeypatch):
    """It happens while this one is still fitting."""
    whole = ZCA.fit

    def meanwhile(self, images):
        monkeypatch.setattr(ZCA, "fit", whole)
        others.append(fit())
        whole(self, images)

    others = []
    monkeypatch.setattr(ZCA, "fit", meanwhile)
    assert same(fit(), others[0])
    assert len(kept()) == 1
    assert same(fit(), others[0])


@pytest.mark.slow
def test_two_processes_at_once(tmp_path):
    code = (
        "import hashlib, pathlib, time; import test_whitening as t\n"
        f"ready = pathlib.Path({str(tmp_path)!r}) / 'NAME'; ready.touch()\n"
        "while len(list(ready.parent.glob('ready*'))) < 2: time.sleep(0.001)\n"
        "print(hashlib.sha256(t.fit()['rotation'].numpy().tobytes()).hexdigest())"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code.replace("NAME", name)],
            cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True,
        )
        for name in ("ready1", "ready2")
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert said[0] == said[1] != ""
    assert [name.partition(".")[2] for name in kept()] == ["pt"]


class Twice(Preprocess):
    """A user's: applied once, but no fit of it is kept, since its code may change."""

    once = True

    def forward(self, images):
        return images * 2.0


def test_a_fit_without_a_version_is_not_kept(compose):
    built = build.build(compose(*SMALL, f"preprocess._target_={__name__}.Twice"))
    x, _ = next(built.batches([0]))
    assert x.max() > 255
    assert built.inputs.split("train")[0].dtype is torch.float32
    assert kept() == []
