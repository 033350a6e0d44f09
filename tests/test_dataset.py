import hashlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normbench import data as command
from normbench.dataset import DataError, fashion_mini, fingerprint_of
from normbench.dataset.fashion_mini import FashionMini
from normbench.dataset.fashion_mnist import FashionMNIST
from normbench.dataset.imagefolder import ImageFolder
from normbench.dataset.synthetic import Synthetic

ROOT = Path(__file__).parents[1]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
needs_debian = pytest.mark.skipif(not DEBIAN.is_dir(), reason="apt-get install dataset-fashion-mnist")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing of the user's own cache is read or written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "normbench"


def check(data, train, test, shape, classes):
    """What every data set owes to training."""
    for images, labels, size in (
        (data.train_images, data.train_labels, train),
        (data.test_images, data.test_labels, test),
    ):
        assert images.shape == (size, *shape)
        assert images.dtype == np.uint8
        assert labels.shape == (size,)
        assert labels.dtype == np.int64
        assert set(labels.tolist()) == set(range(classes))
        assert type(images) is type(labels) is np.ndarray
        assert images.flags.c_contiguous
        assert images.flags.writeable  # torch.from_numpy warns otherwise
    assert len(data.classes) == len(set(data.classes)) == classes
    assert data.fingerprint == fingerprint_of(data.train_images, data.train_labels, data.test_images, data.test_labels)


def test_the_modules_do_not_import_torch():
    names = sorted(path.stem for path in (ROOT / "normbench" / "dataset").glob("*.py"))
    code = f"import sys, {', '.join('normbench.dataset.' + name for name in names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# ------------------------------------------------------------------------------------------------ fashion_mini


def test_fashion_mini_is_balanced_mixed_and_what_its_constant_says():
    data = FashionMini().load()
    check(data, 10_000, 2_000, (1, 28, 28), 10)
    assert data.fingerprint == FashionMini().fingerprint()
    assert np.bincount(data.train_labels).tolist() == [1_000] * 10
    assert np.bincount(data.test_labels).tolist() == [200] * 10
    for part in (data.train_labels[:1_000], data.train_labels[-1_000:]):  # 100 of each expected, deviation 9
        assert np.bincount(part, minlength=10).min() > 60
    assert fashion_mini.FILE.stat().st_size < 6_000_000
    assert "Zalando SE" in fashion_mini.FILE.with_suffix(".LICENSE").read_text()


@needs_debian
def test_fashion_mini_is_a_part_of_fashion_mnist_without_repetition():
    mini, whole = FashionMini().load(), FashionMNIST(str(DEBIAN)).load()
    for split in ("train", "test"):
        pairs = [
            [image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True)]
            for images, labels in (
                (getattr(data, f"{split}_images"), getattr(data, f"{split}_labels")) for data in (mini, whole)
            )
        ]
        assert set(pairs[0]) <= set(pairs[1])
        repeated = len(pairs[1]) - len(set(pairs[1]))  # Fashion-MNIST itself holds a few images twice
        assert len(pairs[0]) - len(set(pairs[0])) <= repeated


def test_fashion_mini_refuses_one_flipped_bit_and_a_missing_file(tmp_path, monkeypatch):
    content = bytearray(fashion_mini.FILE.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / "fashion_mini.npz"
    damaged.write_bytes(content)
    monkeypatch.setattr(fashion_mini, "FILE", damaged)
    with pytest.raises(DataError) as error:
        FashionMini().load()
    for word in (str(damaged), fashion_mini.SHA256, hashlib.sha256(content).hexdigest(), "reinstall normbench"):
        assert word in str(error.value)
    damaged.unlink()
    with pytest.raises(DataError, match=r"cannot be read .*reinstall normbench"):
        FashionMini().load()


# ------------------------------------------------------------------------------------------------- imagefolder


@pytest.fixture
def folder(tmp_path):
    """Three training and two test pictures of 4x3 pixels in each of two classes; each has a color of its own."""
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (4, 3), (label, i, count)).save(tmp_path / "set" / split / name / f"{i}.png")
    return tmp_path / "set"


@pytest.fixture
def decoded(monkeypatch):
    """The paths that were decoded, in order."""
    paths, read = [], ImageFolder._read
    monkeypatch.setattr(ImageFolder, "_read", lambda self, path: (paths.append(path), read(self, path))[1])
    return paths


def test_pictures_come_in_the_order_of_their_paths(folder):
    data = ImageFolder(str(folder)).load()
    check(data, 6, 4, (3, 3, 4), 2)
    assert data.classes == ("cat", "dog")
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train_images[:, :, 0, 0].tolist() == [[k, i, 3] for k in (0, 1) for i in range(3)]
    assert data.test_images[:, :, 2, 3].tolist() == [[k, i, 2] for k in (0, 1) for i in range(2)]


def test_a_second_load_and_a_fingerprint_come_from_the_cache(folder, decoded, cache):
    first = ImageFolder(str(folder)).load()
    assert len(decoded) == 11  # the first picture twice: it tells the size
    second = ImageFolder(str(folder)).load()
    check(second, 6, 4, (3, 3, 4), 2)
    assert second.fingerprint == first.fingerprint == ImageFolder(str(folder)).fingerprint()
    assert len(decoded) == 11
    assert len(list(cache.rglob("*.npy"))) == 1


def test_a_fingerprint_without_a_cache_decodes(folder, decoded):
    assert ImageFolder(str(folder)).fingerprint() == ImageFolder(str(folder)).load().fingerprint
    assert len(decoded) == 11


def test_a_changed_picture_or_option_is_decoded_anew(folder, decoded):
    first = ImageFolder(str(folder)).load()
    Image.new("RGB", (4, 3), (9, 9, 9)).save(folder / "test" / "dog" / "1.png")
    os.utime(folder / "test" / "dog" / "1.png", ns=(1, 1))
    second = ImageFolder(str(folder)).load()
    assert second.fingerprint != first.fingerprint
    assert second.test_images[-1].max() == 9
    check(ImageFolder(str(folder), size=2).load(), 6, 4, (3, 2, 2), 2)
    check(ImageFolder(str(folder), color="gray").load(), 6, 4, (1, 3, 4), 2)
    assert len(decoded) == 44


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "shape", "checksum"])
def test_a_damaged_cache_is_moved_aside_and_rebuilt(folder, decoded, cache, caplog, damage):
    first = ImageFolder(str(folder)).load()
    (path,) = cache.rglob("*.npy")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[200] ^= 1
    elif damage == "checksum":
        content[-1:] = b"?"
    elif damage == "shape":
        content = content.replace(b"(10, 3, 3, 4)", b"(10, 3, 4, 3)")
    content = {"cut": content[:-70], "empty": b"", "text": b"no array"}.get(damage, content)
    path.write_bytes(content)
    assert ImageFolder(str(folder)).fingerprint() == first.fingerprint or damage in ("cut", "empty", "text")
    again = ImageFolder(str(folder)).load()
    assert again.fingerprint == first.fingerprint
    assert (again.train_images == first.train_images).all()
    assert "is damaged" in caplog.text
    assert path.with_suffix(".damaged").read_bytes() == content
    count = len(decoded)
    ImageFolder(str(folder)).load()
    assert len(decoded) == count == 22


def test_a_cache_folder_that_cannot_be_written_is_said(folder, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    check(ImageFolder(str(folder)).load(), 6, 4, (3, 3, 4), 2)
    assert "every start decodes the pictures anew" in caplog.text


def test_litter_is_passed_over(folder):
    first = ImageFolder(str(folder)).load()
    for path in (
        "train/.DS_Store",
        "train/cat/.DS_Store",
        "test/dog/Thumbs.db",
        "train/dog/._0.png",
        "train/notes.txt",
    ):
        (folder / path).write_bytes(b"litter")
    (folder / "train" / ".hidden").mkdir()
    assert ImageFolder(str(folder)).load().fingerprint == first.fingerprint


def test_a_broken_or_foreign_picture_is_named(folder):
    path = folder / "train" / "dog" / "1.png"
    Image.effect_noise((40, 30), 50).save(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text", whole[:50] + bytes(100) + whole[150:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"dog/1\.png is not a whole picture .*replace it or remove it"):
            ImageFolder(str(folder), size=4).load()
    Image.fromarray(np.full((3, 4), 60_000, np.uint16)).save(path)
    with pytest.raises(DataError, match=r"dog/1\.png: a picture must have 8 bits a channel"):
        ImageFolder(str(folder)).load()


def test_an_odd_size_is_named_with_both_sizes_and_the_way_out(folder):
    Image.new("RGB", (5, 6)).save(folder / "test" / "cat" / "1.png")
    with pytest.raises(DataError, match=r"train/cat/0.png is 4x3 .*test/cat/1.png is 5x6; dataset\.size=32"):
        ImageFolder(str(folder)).load()
    check(ImageFolder(str(folder), size=32).load(), 6, 4, (3, 32, 32), 2)


def test_a_folder_of_another_form_is_refused(folder, tmp_path):
    (folder / "train" / "cow").mkdir()
    with pytest.raises(DataError, match="cow must hold pictures, it is empty"):
        ImageFolder(str(folder)).load()
    shutil.copy(folder / "train" / "cat" / "0.png", folder / "train" / "cow" / "0.png")
    with pytest.raises(DataError, match="the same classes; only once: train/cow"):
        ImageFolder(str(folder)).fingerprint()
    shutil.rmtree(folder / "train" / "cow")
    (folder / "test" / "cat" / "more").mkdir()
    with pytest.raises(DataError, match="more is a folder; a class folder must hold pictures only"):
        ImageFolder(str(folder)).load()
    with pytest.raises(
        DataError, match=r"dataset\.root=.*nowhere does not exist; it must be a folder that holds train/ and test/"
    ):
        ImageFolder(str(tmp_path / "nowhere")).load()
    (tmp_path / "bare" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="must hold one folder a class"):
        ImageFolder(str(tmp_path / "bare")).load()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"root": ""}, "needs dataset.root=FOLDER with train/ and test/"),
        ({"root": "x", "size": 0}, "dataset.size must be"),
        ({"root": "x", "size": 2.5}, "dataset.size must be"),
        ({"root": "x", "color": "cmyk"}, "dataset.color must be one of rgb, gray"),
    ],
)
def test_arguments_of_imagefolder(arguments, words):
    with pytest.raises(ValueError, match=words):
        ImageFolder(**arguments)


# --------------------------------------------------------------------------------------------------- synthetic


def test_synthetic_is_deterministic_balanced_and_learnable():
    data, again = Synthetic().load(), Synthetic().load()
    check(data, 512, 256, (1, 8, 8), 10)
    assert data.fingerprint == again.fingerprint == Synthetic().fingerprint()
    assert data.fingerprint.startswith("9b0bfd2f49bb")  # the same on every machine
    assert data.fingerprint != Synthetic(seed=1).fingerprint()
    assert set(np.bincount(data.train_labels).tolist()) == {51, 52}
    means = np.stack([data.train_images[data.train_labels == k].mean(0) for k in range(10)])
    distances = ((data.test_images[:, None] - means[None]) ** 2).sum((2, 3, 4))
    assert (distances.argmin(1) == data.test_labels).mean() > 0.95


def test_synthetic_takes_its_arguments():
    data = Synthetic(train_size=7, test_size=3, num_classes=3, image_size=5, channels=2, noise=0, seed=4).load()
    check(data, 7, 3, (2, 5, 5), 3)
    assert len(np.unique(data.train_images.reshape(7, -1), axis=0)) == 3  # without noise: the prototypes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_classes", 1), ("train_size", 9), ("test_size", 0), ("image_size", 0), ("channels", -1), ("seed", -1),
        ("noise", -0.1), ("noise", float("nan")), ("noise", float("inf")), ("noise", "much"), ("noise", True),
        ("train_size", 512.0), ("channels", True), ("seed", None),
    ],
)  # fmt: skip
def test_synthetic_names_the_argument_that_is_wrong(key, value):
    with pytest.raises(ValueError, match=rf"dataset\.{key} must be .* it is"):
        Synthetic(**{key: value})


# ------------------------------------------------------------------------------------------------ the command


def test_usage(capsys):
    assert command.main(["--help"]) == 0
    assert command.main([]) == 2
    choices = sorted(path.stem for path in (ROOT / "conf" / "dataset").glob("*.yaml"))
    assert f"NAME: {', '.join(choices)}\n" in capsys.readouterr().out


def test_an_unknown_name_is_answered_with_the_choices(capsys):
    assert command.main(["fashon_mini"]) == 2
    assert "did you mean fashion_mini?" in capsys.readouterr().err


def test_the_command_says_what_was_found_where(capsys):
    assert command.main(["fashion_mini"]) == 0
    out = capsys.readouterr().out
    for word in (str(fashion_mini.FILE), "10,000 training and 2,000 test", "1x28x28", fashion_mini.FINGERPRINT[:12]):
        assert word in out


def test_the_command_takes_settings_and_names_what_is_missing(folder, capsys):
    assert command.main(["imagefolder", f"dataset.root={folder}", "dataset.size=2"]) == 0
    assert "6 training and 4 test images, 3x2x2" in capsys.readouterr().out
    assert command.main(["imagefolder"]) == 2
    assert "needs dataset.root=" in capsys.readouterr().err
    assert command.main(["synthetic", "dataset.nois=1"]) == 2
    assert "dataset.nois" in capsys.readouterr().err
    assert command.main(["synthetic", "dataset.noise=-1"]) == 2
    assert "dataset.noise must be" in capsys.readouterr().err


def test_damaged_data_end_with_4(folder, capsys):
    (folder / "test" / "cat" / "1.png").write_bytes(b"")
    assert command.main(["imagefolder", f"dataset.root={folder}"]) == 4
    assert "cat/1.png is not a whole picture" in capsys.readouterr().err
    assert not logging.getLogger("normbench").handlers or all(
        getattr(handler, "stream", None) is not sys.stdout for handler in logging.getLogger("normbench").handlers
    )
