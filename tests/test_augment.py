"""Augmentations: the contract for every conf/augment/*.yaml, each by hand, the same after a resume."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from normbench import build, run
from normbench.config import ConfigError
from normbench.norm import Impossible


def images(n=6, c=3, h=5, w=4):
    return torch.arange(n * c * h * w).remainder(251).add(1).to(torch.uint8).view(n, c, h, w)  # nothing is 0


def made(name, cls, **changes):
    return build.part("augment", {"name": name, "_target_": f"normbench.augment.{name}.{cls}", **changes})


flip_crop, cutout, noise = (
    partial(made, *words) for words in (("flip_crop", "FlipCrop"), ("cutout", "Cutout"), ("noise", "Noise"))
)


def draws_of(augment, count, seed=0):
    return augment.draw(torch.Generator().manual_seed(seed), count)


def is_uniform(values, cells):
    """Pearson's chi-square on whole numbers 0 .. cells - 1, at a level that one correct test in 10,000 misses."""
    return stats.chisquare(np.bincount(np.asarray(values).ravel(), minlength=cells)).pvalue > 1e-4


def test_shape_and_type_are_kept_and_every_image_has_its_own_draw(augment_settings):
    augment = build.part("augment", augment_settings)
    draws = augment.draw(torch.Generator().manual_seed(0), 64)
    again = augment.draw(torch.Generator().manual_seed(0), 64)
    if draws is None:
        assert augment_settings["name"] == "none"
        assert again is None
        return
    assert torch.equal(draws, again)
    assert len(draws) == 64
    assert draws.device.type == "cpu"
    x = images(1, 3, 12, 12).expand(64, -1, -1, -1)
    y = augment(x, draws)
    assert y.shape == x.shape
    assert y.dtype is torch.uint8
    assert len({image.numpy().tobytes() for image in y}) > 8
    alone = torch.cat([augment(x[i : i + 1], draws[i : i + 1]) for i in range(64)])
    assert torch.equal(alone, y), "an image does not depend on its batch"


@pytest.mark.parametrize(("row", "column", "mirrored"), [(0, 0, 0), (2, 2, 0), (4, 3, 0), (2, 2, 1), (1, 4, 1)])
def test_flip_crop_by_hand(row, column, mirrored):
    """Pad 2 with black, cut 5x4 at (row, column), mirror; (2, 2, 0) is the image itself."""
    x = images()
    y = flip_crop(padding=2)(x, torch.tensor([[row, column, mirrored]]).expand(6, 3))
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    expected = padded[:, :, row : row + 5, column : column + 4]
    np.testing.assert_array_equal(y.numpy(), expected[..., ::-1] if mirrored else expected)
    assert torch.equal(y, x) == ((row, column, mirrored) == (2, 2, 0))


@pytest.mark.parametrize("padding", [1, 4])
def test_flip_crop_draws_all_places_evenly(padding):
    draws, places = draws_of(flip_crop(padding=padding), 40_000), 2 * padding + 1
    row, column, mirrored = draws.T
    assert is_uniform((row * places + column) * 2 + mirrored, places * places * 2)
    assert not draws_of(flip_crop(flip=False), 100)[:, 2].any()
    assert not draws_of(flip_crop(padding=0), 100)[:, :2].any()


def test_flip_crop_shifts_pictures_evenly_in_every_direction():
    """Seen on the pictures: where a single white pixel ends up."""
    x = torch.zeros(20_000, 1, 9, 7, dtype=torch.uint8)
    x[:, 0, 4, 3] = 255
    augment = flip_crop(padding=2, flip=False)
    y = augment(x, draws_of(augment, len(x)))
    row, column = y[:, 0].nonzero()[:, 1:].T
    assert len(row) == len(x)
    assert is_uniform((row - 2) * 5 + column - 1, 25)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"padding": -1}, r"padding must be .*got -1.*augment\.padding=4"),
        ({"padding": 0, "flip": False}, "augment=none"),
    ],
)
def test_flip_crop_refuses(changes, words):
    with pytest.raises(ConfigError, match=words):
        flip_crop(**changes)


# --------------------------------------------------------------------------------------------------------------- cutout


def cutout_plainly(image, row, column, size, fill):
    """One pixel after the other."""
    image = image.clone()
    channels, height, width = image.shape
    for i in range(row - size // 2, row - size // 2 + size):
        for j in range(column - size // 2, column - size // 2 + size):
            if 0 <= i < height and 0 <= j < width:
                for c in range(channels):
                    image[c, i, j] = fill
    return image


@pytest.mark.parametrize(("size", "fill"), [(1, 0), (2, 0), (3, 255), (5, 7)])
def test_cutout_by_hand(size, fill):
    """Every pixel of 5x4 once as the centre; a draw is the share of the side, in 2^31."""
    x = images(n=20)
    places = [(row, column) for row in range(5) for column in range(4)]
    draws = torch.tensor([(-(-row * 2**31 // 5), (column + 1) * 2**31 // 4 - 1) for row, column in places])
    expected = [cutout_plainly(image, *place, size, fill) for image, place in zip(x, places, strict=True)]
    before = x.clone()
    assert torch.equal(cutout(size=size, fill=fill)(x, draws), torch.stack(expected))
    assert torch.equal(x, before)


def test_cutout_has_its_centre_on_every_pixel_evenly():
    x = torch.full((30_000, 1, 6, 5), 9, dtype=torch.uint8)
    augment = cutout(size=1, fill=0)
    y = augment(x, draws_of(augment, len(x)))
    row, column = (y == 0)[:, 0].nonzero()[:, 1:].T
    assert len(row) == len(x)
    assert is_uniform(row * 5 + column, 30)


def test_cutout_reaches_the_last_pixel_and_not_beyond():
    ends = torch.tensor([[0, 0], [2**31 - 1, 2**31 - 1]])
    y = cutout(size=1, fill=0)(images(n=2), ends)
    assert (y == 0).nonzero()[:, 2:].unique(dim=0).tolist() == [[0, 0], [4, 3]]


# ---------------------------------------------------------------------------------------------------------------- noise


def noise_plainly(image, seeds, std):
    """One number after the other, in Python: Wellons' triple32, with the second seed added after its first round."""
    count, flat = image.numel(), image.flatten().tolist()
    half, found = -(-count // 2), []
    for number, pixel in enumerate(flat):
        x = (seeds[0] + number % half) % 2**32
        x = (x ^ x >> 17) * 0xED5AD4BB % 2**32
        x = (x + seeds[1]) % 2**32
        x = (x ^ x >> 11) * 0xAC4C1B51 % 2**32
        x = (x ^ x >> 15) * 0x31848BAB % 2**32
        x = x ^ x >> 14
        bits = x % 2**16 if number < half else x >> 16
        found.append(min(255, max(0, pixel + round(255 * std * stats.norm.ppf((bits + 0.5) / 2**16)))))
    return torch.tensor(found, dtype=torch.uint8).view(image.shape)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 3)])  # an even and an odd number of pixels
def test_noise_by_hand(shape):
    draws = torch.tensor([[0, 0], [2**32 - 1, 2**32 - 1], [123456789, 987654321]])
    x = torch.randint(256, (3, *shape), generator=torch.Generator().manual_seed(0)).byte()
    expected = [noise_plainly(image, seeds, 0.2) for image, seeds in zip(x, draws.tolist(), strict=True)]
    assert torch.equal(noise(std=0.2)(x, draws), torch.stack(expected))


def noise_alone(count=4000, std=0.1, seed=0, shape=(1, 8, 8)):
    """The noise in units of std, on gray, where it is not cut off: (count, pixels)."""
    augment = noise(std=std)
    gray = torch.full((count, *shape), 128, dtype=torch.uint8)
    return (augment(gray, draws_of(augment, count, seed)).double() - 128).flatten(1) / (255 * std)


@pytest.mark.parametrize("std", [0.02, 0.1])
def test_noise_is_normal(std):
    """Moments within five standard errors of those of the normal distribution; rounding adds 1/12 of a step squared."""
    z = noise_alone(std=std)
    n = z.numel()
    var = 1 + 1 / 12 / (255 * std) ** 2
    assert abs(z.mean()) < 5 / n**0.5
    assert abs(z.var() / var - 1) < 5 * (2 / n) ** 0.5
    assert abs((z**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((z**4).mean() / var**2 - 3) < 5 * (96 / n) ** 0.5
    assert 3.9 < z.abs().max() < 4.4


def test_noise_of_the_least_deviation_changes_something_and_less_is_refused():
    assert noise_alone(std=0.002).any()
    assert not noise_alone(std=0.002).all()


def are_uncorrelated(z):
    """No correlation between columns beyond chance: the largest one, and the mean of the squares."""
    count, columns = z.shape
    pairs = torch.triu_indices(columns, columns, 1)
    correlations = torch.corrcoef(z.T)[pairs[0], pairs[1]] * count**0.5  # nearly standard normal
    level = stats.norm.isf(1e-4 / len(correlations))
    square = correlations.square()
    return correlations.abs().max() < level and abs(square.mean() - 1) < 4 * (2 / len(correlations)) ** 0.5


def test_pixels_images_and_epochs_have_noise_of_their_own():
    z = noise_alone()
    assert are_uncorrelated(z), "pixels"
    assert are_uncorrelated(z[:64].T.contiguous().view(64, 64)), "images"
    assert are_uncorrelated(torch.stack([noise_alone(seed=epoch).flatten() for epoch in range(5)], 1)), "epochs"
    squares = (z.square() - 1) / 2**0.5
    assert are_uncorrelated(squares), "nor is it large where other noise is large"


@pytest.mark.parametrize("place", [0, 1])
def test_images_whose_seeds_are_alike_have_noise_of_their_own(place):
    draws = torch.full((200, 2), 5)
    draws[:, place] = torch.arange(200) * (5000 if place == 0 else 1)  # not so near that they share numbers
    gray = torch.full((200, 1, 40, 40), 128, dtype=torch.uint8)
    z = noise(std=0.1)(gray, draws).double().flatten(1)
    assert are_uncorrelated(z.T)


def test_noise_is_cut_off_at_black_and_white():
    augment = noise(std=1)
    for value in (0, 255):
        y = augment(torch.full((50, 1, 9, 9), value, dtype=torch.uint8), draws_of(augment, 50))
        assert 0.45 < (y == value).double().mean() < 0.55
        assert y.min() == 0
        assert y.max() == 255


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("make", "changes", "words"),
    [
        (cutout, {"size": 0}, r"size must be a whole number >= 1, got 0; try augment\.size=8"),
        (cutout, {"size": 2.5}, "size must be .*got 2.5"),
        (cutout, {"fill": 256}, r"fill must be .*0 to 255, got 256; try augment\.fill=0"),
        (cutout, {"fill": -1}, "fill must be .*got -1"),
        (cutout, {"fill": 0.5}, "fill must be .*got 0.5"),
        (noise, {"std": 0.001}, r"std must be from 0\.002.*to 1, got 0\.001; try augment\.std=0\.1"),
        (noise, {"std": 0}, "std must be .*got 0"),
        (noise, {"std": -0.1}, "std must be .*got -0.1"),
        (noise, {"std": 1.5}, "std must be .*got 1.5"),
        (noise, {"std": float("nan")}, "std must be .*got nan"),
    ],
)
def test_settings_out_of_range_are_refused(make, changes, words):
    with pytest.raises(ConfigError, match=words):
        make(**changes)


def test_a_square_larger_than_the_images_is_refused_before_training(compose):
    with pytest.raises(Impossible, match=r"augment=cutout.*size must be at most 8, the side of the images, got 9"):
        build.build(compose("dataset=synthetic", "augment=cutout", "augment.size=9", "device=cpu"))


# ------------------------------------------------------------------------------------------------------------ in a run


SMALL = ("dataset=synthetic", "model.hidden=[8]", "device=cpu")
EACH = pytest.mark.parametrize(
    "augment",
    [("augment=flip_crop", "augment.padding=1"), ("augment=cutout", "augment.size=3"), ("augment=noise",)],
    ids=lambda arm: arm[0].partition("=")[2],
)


@EACH
def test_batches_are_those_of_the_step_whoever_asks(compose, augment):
    built = build.build(compose(*SMALL, *augment))
    whole = list(built.batches(range(3 * built.steps_per_epoch)))
    late = list(built.batches(range(10, 12)))
    assert all(
        torch.equal(a, b) for one, two in zip(whole[10:12], late, strict=True) for a, b in zip(one, two, strict=True)
    )
    assert not torch.equal(whole[0][0], whole[built.steps_per_epoch][0])


@EACH
def test_an_image_does_not_depend_on_the_batch_size(compose, augment):
    whole, halves = (build.build(compose(*SMALL, *augment, f"batch_size={size}")) for size in (64, 32))
    x, y = (torch.cat(parts) for parts in zip(*halves.batches([0, 1]), strict=True))
    assert torch.equal(x, next(whole.batches([0]))[0])
    assert torch.equal(y, next(whole.batches([0]))[1])


@EACH
def test_arms_see_the_same_augmented_batches_and_other_seeds_others(compose, augment):
    one, two, other = (
        next(build.build(compose(*SMALL, *augment, *arm)).batches([9]))[0]
        for arm in (["norm=bn"], ["norm=none", "model=mlp", "optimizer=sgd"], ["norm=bn", "seed=1"])
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@EACH
def test_a_paused_run_goes_on_as_if_it_had_not_stopped(compose, tmp_path, augment):
    arm = (*SMALL, *augment, "epochs=2")
    whole = run.run(compose(*arm, f"out={tmp_path}/a"), bar=False, announce=lambda _: None)
    paused = compose(*arm, f"out={tmp_path}/b", "stop_epoch=1")
    assert run.run(paused, bar=False, announce=lambda _: None).state == "paused"
    resumed = run.run(compose(*arm, f"out={tmp_path}/b"), bar=False, announce=lambda _: None)
    assert [resumed.record[key] for key in ("test_loss", "test_acc")] == [
        whole.record[key] for key in ("test_loss", "test_acc")
    ]


def test_evaluation_is_not_augmented(compose, tmp_path):
    """Rows at step 0 are equal with and without."""
    from normbench import records

    first = []
    for number, augment in enumerate(("none", "flip_crop", "cutout", "noise")):
        config = compose(
            "dataset=synthetic", f"augment={augment}", "epochs=1", f"out={tmp_path}/{number}", "device=cpu"
        )
        first.append(
            records.read_metrics(run.run(config, bar=False, announce=lambda _: None).folder / "metrics.csv")[0]
        )
    assert len({row["val_loss"] for row in first}) == 1
    assert len({row["train_eval_loss"] for row in first}) == 1


@EACH
def test_images_with_padding_keep_their_mask(compose, augment):
    rows = ("dataset=fashion_rows", "model=rnn", "model.hidden=4", "device=cpu")
    with pytest.raises(Impossible, match=rf"{augment[0]} changes every channel.*fashion_rows.*try augment=none"):
        build.build(compose(*rows, *augment))


def test_mirror_images_keep_their_mask(compose):
    rows = ("dataset=fashion_rows", "model=rnn", "model.hidden=4", "device=cpu")
    x, _ = next(build.build(compose(*rows, "augment=flip_crop", "augment.padding=0")).batches([0]))
    assert not x[:, :, 0].isnan().any()
    assert x[:, :, -1].isnan().any()
