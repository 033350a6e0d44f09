"""dataset=fashion_noisy: noise of the deviation that is asked for, on the test images alone."""

import numpy as np
import pytest

from normbench.dataset.fashion_mini import FashionMini
from normbench.dataset.fashion_noisy import FashionNoisy


@pytest.fixture(scope="module")
def mini():
    return FashionMini().load()


def test_only_the_test_images_are_noisy(mini):
    data = FashionNoisy(noise=0.1).load()
    assert (data.train_images == mini.train_images).all()
    assert (data.train_labels == mini.train_labels).all()
    assert (data.test_labels == mini.test_labels).all()
    assert (data.test_images != mini.test_images).mean() > 0.5
    assert (data.test_images.dtype, data.test_images.shape) == (np.uint8, mini.test_images.shape)
    assert (FashionNoisy(noise=0).load().test_images == mini.test_images).all()


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_the_noise_has_its_deviation_where_nothing_is_cut_off(mini, noise):
    middle = (mini.test_images > 120) & (mini.test_images < 135)  # 4.7 deviations from both ends at 0.1
    change = FashionNoisy(noise=noise).load().test_images[middle].astype(float) - mini.test_images[middle]
    assert abs(change.mean()) < 4 * change.std() / change.size**0.5
    assert change.std() == pytest.approx(255 * noise, rel=0.03)


def test_stronger_noise_is_the_same_noise_and_another_seed_is_another(mini):
    change = [FashionNoisy(noise=n, seed=s).load().test_images.astype(int) - mini.test_images
              for n, s in ((0.1, 0), (0.2, 0), (0.1, 1))]  # fmt: skip
    there = (mini.test_images > 100) & (mini.test_images < 155)
    assert np.corrcoef(change[0][there], change[1][there])[0, 1] > 0.95
    assert abs(np.corrcoef(change[0][there], change[2][there])[0, 1]) < 0.05


def test_the_bytes_and_the_fingerprint_are_the_same_everywhere():
    data = FashionNoisy().load()
    assert data.test_images[0, 0, 14, 6:14].tolist() == [16, 0, 0, 54, 16, 2, 122, 234]
    made = [FashionNoisy(), FashionNoisy(noise=0.3), FashionNoisy(seed=1)]
    assert len({one.fingerprint() for one in made}) == 3
    assert data.fingerprint == FashionNoisy(noise=0.2).fingerprint()


@pytest.mark.parametrize(
    ("key", "value"),
    [("noise", -0.1), ("noise", float("nan")), ("noise", "much"), ("noise", True), ("seed", -1), ("seed", 0.5),
     ("seed", None)],
)  # fmt: skip
def test_arguments(key, value):
    with pytest.raises(ValueError, match=rf"dataset\.{key} must be a .*number of at least 0, it is {value!r}"):
        FashionNoisy(**{key: value})
