"""Preprocessing: uint8 pictures in, float32 out, measured on the training split alone."""

import math

import numpy as np
import pytest
import torch

from normbench import build
from normbench.norm import Impossible
from normbench.preprocess.none import NoPreprocess
from normbench.preprocess.scale import Scale
from normbench.preprocess.standardize import Standardize


def pictures(count=50, shape=(3, 4, 5), seed=0):
    """Channels and pixels with means and spreads of their own; every value from 0 to 255 can occur."""
    rng = np.random.default_rng(seed)
    center, spread = rng.uniform(60, 200, shape), rng.uniform(5, 60, shape)
    return torch.tensor(
        np.clip(np.rint(center + spread * rng.standard_normal((count, *shape))), 0, 255), dtype=torch.uint8
    )


def as_numbers(images):
    return images.numpy().astype(np.float64) / 255


# -------------------------------------------------------------------------------------------- the contract, each choice


@pytest.fixture
def fitted(preprocess_settings):
    preprocess = build.part("preprocess", preprocess_settings)
    preprocess.fit(pictures())
    return preprocess


def test_uint8_in_float32_out(fitted):
    images = pictures(seed=1)
    before = images.clone()
    x = fitted(images)
    assert x.dtype is torch.float32
    assert len(x) == len(images)
    assert x.isfinite().all()
    assert torch.equal(images, before)


def test_each_picture_is_treated_alone(fitted):
    images = pictures(count=6, seed=1)
    together, alone = fitted(images), torch.cat([fitted(image[None]) for image in images])
    if fitted.mixes_pixels:  # a product of matrices sums in another order for another number of images
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(together, alone)


def test_what_was_measured_lies_in_buffers(fitted, preprocess_settings):
    """A fresh one with the same buffers does the same: so it is given back from a checkpoint."""
    other = build.part("preprocess", preprocess_settings)
    for name, value in fitted.state_dict().items():
        other.register_buffer(name, value.clone())
    images = pictures(seed=1)
    assert torch.equal(other(images), fitted(images))
    assert list(fitted.parameters()) == []


def test_fit_uses_what_it_is_given_and_forgets_what_was_before(fitted, preprocess_settings):
    fresh = build.part("preprocess", preprocess_settings)
    fresh.fit(pictures(seed=2))
    fitted(pictures(seed=3))  # using it fits nothing
    fitted.fit(pictures(seed=2))
    assert torch.equal(fitted(pictures(seed=1)), fresh(pictures(seed=1)))


def test_black_and_white_pictures_stay_finite(preprocess_settings):
    """Pixels that never change: no division by zero."""
    for value in (0, 255):
        preprocess = build.part("preprocess", preprocess_settings)
        images = torch.full((8, 1, 4, 4), value, dtype=torch.uint8)
        preprocess.fit(images)
        assert preprocess(images).isfinite().all()
        assert preprocess(torch.full_like(images, 77)).isfinite().all()


# ------------------------------------------------------------------------------------------------------------- formulas


def test_none_keeps_the_pixels():
    every_value = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert NoPreprocess()(every_value).flatten().tolist() == list(range(256))


def test_scale_is_a_division_by_255():
    every_value = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    x = Scale()(every_value)
    np.testing.assert_allclose(x.numpy(), as_numbers(every_value), rtol=2e-7)
    assert x.min() == 0
    assert x.max() == 1


AXES = {"channel": (0, 2, 3), "pixel": (0,)}


@pytest.mark.parametrize("eps", [1e-3, 0.5])
@pytest.mark.parametrize("per", AXES)
def test_standardize_is_its_formula(per, eps):
    """(x - mean) / (sd + eps), with the biased sd, in float64."""
    train, test = pictures(), pictures(seed=1)
    preprocess = Standardize(per=per, eps=eps)
    preprocess.fit(train)
    x = as_numbers(train)
    mean, sd = x.mean(AXES[per], keepdims=True), x.std(AXES[per], keepdims=True)
    for images in (train, test):
        expected = (as_numbers(images) - mean) / (sd + eps)
        np.testing.assert_allclose(preprocess(images).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("per", AXES)
def test_standardized_training_pictures_have_mean_0_and_deviation_1(per):
    train = pictures()
    preprocess = Standardize(per=per, eps=1e-9)
    preprocess.fit(train)
    x = preprocess(train).double().numpy()
    np.testing.assert_allclose(x.mean(AXES[per]), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(AXES[per]), 1, rtol=1e-5)


def test_standardize_counts_every_picture_of_a_large_set():
    """More than one chunk, the last one ragged: the mean is that of all."""
    images = torch.cat([torch.zeros(5000, 1, 1, 1), torch.full((3333, 1, 1, 1), 255)]).to(torch.uint8)
    preprocess = Standardize(eps=1e-9)
    preprocess.fit(images)
    mean = 3333 / 8333
    sd = math.sqrt(mean * (1 - mean))
    x = preprocess(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)).flatten().tolist()
    assert x == pytest.approx([-mean / sd, (1 - mean) / sd], rel=1e-6)


def test_standardize_keeps_constant_pixels_at_0():
    images = pictures()
    images[:, :, 0, 0] = 200
    preprocess = Standardize(per="pixel")
    preprocess.fit(images)
    assert preprocess(images)[:, :, 0, 0].abs().max() < 1e-3
    # one level away: 1/255 over eps, not infinity
    images[:, :, 0, 0] = 201
    np.testing.assert_allclose(preprocess(images)[:, :, 0, 0], 1 / 255 / 1e-3, rtol=1e-3)


@pytest.mark.parametrize("eps", [0.0, -1.0, math.nan, math.inf])
def test_standardize_refuses_an_eps(eps):
    with pytest.raises(ValueError, match=rf"eps must be .*got {eps}.*preprocess\.eps="):
        Standardize(eps=eps)


def test_standardize_refuses_another_per():
    with pytest.raises(ValueError, match="per must be channel or pixel, got 'row'"):
        Standardize(per="row")


# ------------------------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize("per", ["channel", "pixel"])
def test_padding_enters_no_statistic_and_leaves_as_nan(per):
    """Rows beyond an image's length: not measured whatever stands in them, and never a number for the network."""
    from normbench.preprocess import Masked
    from normbench.preprocess.standardize import Standardize

    draws = torch.Generator().manual_seed(0)
    images = torch.randint(256, (20, 3, 6, 4), generator=draws).to(torch.uint8)  # two channels and the mask
    lengths = torch.randint(1, 7, (20,), generator=draws)
    there = torch.arange(6) < lengths[:, None]  # (N, H)
    images[:, 2] = there[:, :, None] * 255
    preprocess = Masked(Standardize(per=per, eps=1e-3))
    preprocess.fit(images)
    rows = images[:, :2].movedim(1, 2)[there].double() / 255  # (rows that are there, C, W)
    dims = (0, 2) if per == "channel" else (0,)
    mean, sd = rows.mean(dims, keepdim=True), rows.std(dims, correction=0, keepdim=True)
    y = preprocess(images)
    assert y.shape == (20, 2, 6, 4)
    assert y.isnan().any(1).any(-1).eq(~there).all()
    torch.testing.assert_close(y.movedim(1, 2)[there].double(), (rows - mean) / (sd + 1e-3), rtol=1e-5, atol=1e-5)

    other = images.clone()
    other[:, :2].movedim(1, 2)[~there] = 77
    again = Masked(Standardize(per=per, eps=1e-3))
    again.fit(other)
    assert torch.equal(again(other).nan_to_num(9), y.nan_to_num(9))


@pytest.mark.parametrize("preprocess", ["none", "scale", "standardize"])
def test_a_masked_data_set_takes_it(compose, preprocess):
    built = build.build(compose("dataset=fashion_rows", "model=rnn", "model.hidden=4", f"preprocess={preprocess}"))
    x, _ = next(built.batches([0]))
    assert x.shape == (64, 1, 28, 28)
    assert x.isnan().any()


@pytest.mark.parametrize("preprocess", ["pca", "zca"])
def test_a_masked_data_set_has_no_common_covariance(compose, preprocess):
    words = rf"preprocess={preprocess} mixes all pixels.*dataset=fashion_rows.*try preprocess=standardize"
    with pytest.raises(Impossible, match=words):
        build.build(compose("dataset=fashion_rows", "model=rnn", "model.hidden=4", f"preprocess={preprocess}"))


def test_runs_of_one_process_measure_the_same_images_once(compose, monkeypatch):
    from normbench import build
    from normbench.preprocess.standardize import Standardize

    fits, real = [], Standardize.fit
    monkeypatch.setattr(Standardize, "fit", lambda self, images: fits.append(self.eps) or real(self, images))
    monkeypatch.setattr("normbench.prepared._latest", {})
    of = {"dataset=synthetic", "preprocess=standardize"}
    first, second = (build.build(compose(*sorted(of), f"seed={n}")).preprocess.state_dict() for n in (0, 1))
    assert len(fits) == 1
    assert first.keys() == second.keys()
    assert all(value.equal(second[name]) for name, value in first.items())
    build.build(compose(*sorted(of), "preprocess.eps=0.1"))
    build.build(compose(*sorted(of), "preprocess.eps=0.1", "data_seed=1"))  # other settings, other images
    assert fits == [1e-3, 0.1, 0.1]
