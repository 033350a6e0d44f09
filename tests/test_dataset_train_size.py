"""dataset.train_size: a part of the training split, the same for every arm."""

import functools

import numpy as np
import pytest
import torch

from normbench import data as command
from normbench.config import ConfigError
from normbench.dataset.fashion_mini import FashionMini
from normbench.resident import _resident, resident, stratified

CPU = torch.device("cpu")


WHOLE = functools.cache(lambda: FashionMini().load())


@pytest.fixture(autouse=True)
def _read_once(monkeypatch):
    whole = WHOLE()
    monkeypatch.setattr(FashionMini, "load", lambda self: whole)
    yield
    _resident.cache_clear()


@pytest.fixture
def kept(compose):
    """kept("dataset.train_size=50", ...) -> the resident data; fashion_mini unless told."""
    return lambda *overrides: resident(compose(*overrides), CPU)


def rows(split):
    """Images with their labels, as things that can be compared: fashion_mini has no image twice in one split."""
    return [image.numpy().tobytes() + bytes([label]) for image, label in zip(*split, strict=True)]


# ----------------------------------------------------------------------------------------------------- which images


@pytest.mark.parametrize("counts", [[100] * 10, [5000, 500, 50, 5, 1], [7, 7, 7], [1, 1, 1], [30_000, 2]])
def test_each_class_has_its_share_and_at_least_one_and_larger_parts_contain_smaller_ones(counts):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    before = set()
    for size in sorted({*range(len(counts), min(60, len(labels)) + 1), len(labels) // 2, len(labels)} - {1}):
        index = stratified(labels, size, data_seed=3)
        assert len(set(index.tolist())) == len(index) == size
        assert (np.diff(index) > 0).all()
        assert before <= set(index.tolist())
        before = set(index.tolist())
        found = np.bincount(labels[index], minlength=len(counts))
        assert found.min() >= 1
        shares = size * np.array(counts) / len(labels)
        assert (abs(found - shares) <= 1 + len(counts) / 2).all()
        if len(set(counts)) == 1:
            assert found.max() - found.min() <= 1
    assert before == set(range(len(labels)))


def test_the_draw_depends_on_data_seed_alone_and_never_changes(kept):
    labels = np.arange(1_000) % 10
    assert stratified(labels, 12, 0).tolist() == [138, 160, 287, 329, 355, 419, 473, 490, 672, 766, 841, 914]
    first = rows(kept("dataset.train_size=50").train)
    assert rows(kept("dataset.train_size=50", "seed=7", "norm=none", "optimizer=sgd").train) == first
    assert rows(kept("dataset.train_size=50", "data_seed=1").train) != first


def test_validation_and_test_are_the_same_for_every_train_size(kept):
    whole = kept()
    everything, before = set(rows(whole.train)), set()
    for size in (10, 95, 1_000, 4_000, 9_000):
        data = kept(f"dataset.train_size={size}")
        assert torch.equal(data.val[0], whole.val[0])
        assert torch.equal(data.val[1], whole.val[1])
        assert torch.equal(data.test[0], whole.test[0])
        assert data.fingerprint == whole.fingerprint
        train, train_eval = set(rows(data.train)), set(rows(data.train_eval))
        assert len(train) == size
        assert before <= train <= everything
        assert train_eval <= train
        assert len(data.train_eval[1]) == min(size, 1_000)
        assert torch.bincount(data.train_eval[1]).tolist() == [min(size, 1_000) // 10] * 10 or size == 95
        before = train
    assert rows(data.train) == rows(whole.train)  # 9,000 is all of them, in the same order


def test_without_it_nothing_changes(kept):
    data = kept()
    assert len(data.train[1]) == 9_000
    assert len(data.train_eval[1]) == len(data.val[1]) == 1_000
    assert rows(kept("dataset.train_size=null").train_eval) == rows(data.train_eval)


def test_masked_images_keep_their_masks(kept):
    data = kept("dataset=fashion_rows", "dataset.train_size=30")
    assert data.masked
    assert data.train[0].shape == (30, 2, 28, 28)


# ---------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("value", ["0", "-1", "9", "9001", "1.5", "50.0", "true", "many", "[50]"])
def test_a_size_that_cannot_be_is_refused_with_the_limits(kept, value):
    with pytest.raises(ConfigError) as error:
        kept(f"dataset.train_size={value}")
    for words in (
        "dataset.train_size must be",
        "from 10, one image of each class, to 9,000",
        "val_fraction=0.1 leaves of 10,000",
    ):
        assert words in str(error.value)
    _, _, advice = str(error.value).rpartition("try ")
    kept(advice)


# ------------------------------------------------------------------------------------------- classes that ask for it


def test_a_class_with_a_train_size_of_its_own_gets_it(kept):
    data = kept("dataset=synthetic", "dataset.train_size=200")
    assert len(data.train[1]) + len(data.val[1]) == 200


OWN = """
from normbench.dataset.synthetic import Synthetic
class Plain:
    def fingerprint(self): return "own"
    def load(self): return Synthetic().load()
class Anything(Plain):
    def __init__(self, **settings): assert "train_size" not in settings, settings
"""


@pytest.mark.parametrize("name", ["Plain", "Anything"])
def test_a_users_class_needs_to_know_nothing_of_it(kept, tmp_path, monkeypatch, name):
    (tmp_path / f"own_{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = kept(f"dataset._target_=own_{name}.{name}", "dataset.train_size=40")
    assert len(data.train[1]) == 40


def test_the_data_command_says_that_the_key_is_not_for_it(capsys):
    assert command.main(["fashion_mini", "dataset.train_size=50"]) == 2
    assert "dataset.train_size is for normbench train" in capsys.readouterr().err
