"""Augmentations: the contract for every conf/augment/*.yaml, flip_crop by hand, the same after a resume."""

import numpy as np
import pytest
import torch

from normbench import build, run
from normbench.config import ConfigError


def images(n=6, c=3, h=5, w=4):
    return torch.arange(n * c * h * w).remainder(251).add(1).to(torch.uint8).view(n, c, h, w)  # nothing is 0


def flip_crop(**changes):
    settings = {"name": "flip_crop", "_target_": "normbench.augment.flip_crop.FlipCrop", **changes}
    return build.part("augment", settings)


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


def test_flip_crop_draws_all_places_evenly():
    draws = flip_crop(padding=1).draw(torch.Generator().manual_seed(0), 18_000)
    counts = torch.unique(draws, dim=0, return_counts=True)[1]
    assert len(counts) == 18  # 3 rows, 3 columns, mirrored or not
    assert (counts - 1000).abs().max() < 160  # five standard deviations
    assert not flip_crop(flip=False).draw(torch.Generator().manual_seed(0), 100)[:, 2].any()
    assert not flip_crop(padding=0).draw(torch.Generator().manual_seed(0), 100)[:, :2].any()


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


SMALL = ("dataset=synthetic", "augment=flip_crop", "augment.padding=1", "model.hidden=[8]", "device=cpu")


def test_batches_are_those_of_the_step_whoever_asks(compose):
    built = build.build(compose(*SMALL))
    whole = list(built.batches(range(3 * built.steps_per_epoch)))
    late = list(built.batches(range(10, 12)))
    assert all(
        torch.equal(a, b) for one, two in zip(whole[10:12], late, strict=True) for a, b in zip(one, two, strict=True)
    )
    assert not torch.equal(whole[0][0], whole[built.steps_per_epoch][0])


def test_arms_see_the_same_augmented_batches_and_other_seeds_others(compose):
    one, two, other = (
        next(build.build(compose(*SMALL, *arm)).batches([9]))[0]
        for arm in (["norm=bn"], ["norm=none", "model=mlp", "optimizer=sgd"], ["norm=bn", "seed=1"])
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_a_paused_run_goes_on_as_if_it_had_not_stopped(compose, tmp_path):
    whole = run.run(compose(*SMALL, "epochs=2", f"out={tmp_path}/a"), bar=False, announce=lambda _: None)
    paused = compose(*SMALL, "epochs=2", f"out={tmp_path}/b", "stop_epoch=1")
    assert run.run(paused, bar=False, announce=lambda _: None).state == "paused"
    resumed = run.run(compose(*SMALL, "epochs=2", f"out={tmp_path}/b"), bar=False, announce=lambda _: None)
    assert [resumed.record[key] for key in ("test_loss", "test_acc")] == [
        whole.record[key] for key in ("test_loss", "test_acc")
    ]


def test_evaluation_is_not_augmented(compose, tmp_path):
    """Rows at step 0 are equal with and without."""
    from normbench import records

    first = []
    for number, augment in enumerate(("none", "flip_crop")):
        config = compose(
            "dataset=synthetic", f"augment={augment}", "epochs=1", f"out={tmp_path}/{number}", "device=cpu"
        )
        first.append(
            records.read_metrics(run.run(config, bar=False, announce=lambda _: None).folder / "metrics.csv")[0]
        )
    assert first[0]["val_loss"] == first[1]["val_loss"]
    assert first[0]["train_eval_loss"] == first[1]["train_eval_loss"]


def test_images_with_padding_keep_their_rows(compose):
    rows = ("dataset=fashion_rows", "model=rnn", "model.hidden=4", "augment=flip_crop", "device=cpu")
    with pytest.raises(ConfigError, match=r"augment=flip_crop moves the rows.*fashion_rows.*try augment=none"):
        build.build(compose(*rows))
    x, _ = next(build.build(compose(*rows, "augment.padding=0")).batches([0]))
    assert not x[:, :, 0].isnan().any()
    assert x[:, :, -1].isnan().any()
