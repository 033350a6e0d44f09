import gzip
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from normbench import data as command
from normbench.dataset import DataError, fashion_mini, fashion_mnist, fingerprint_of
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
    names = ["fashion_mini", "fashion_mnist", "imagefolder", "synthetic"]
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


# ----------------------------------------------------------------------------------------------- fashion_mnist

CONTENTS = {}  # a small set in the place of the real one: three images for training, two for testing
for split, size in (("train", 3), ("t10k", 2)):
    images = np.arange(size * 784, dtype=np.uint32).astype(np.uint8).tobytes()
    CONTENTS[f"{split}-images-idx3-ubyte"] = bytes(16) + images
    CONTENTS[f"{split}-labels-idx1-ubyte"] = bytes(8) + bytes(range(size))
FILES = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in CONTENTS.items()}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The small set takes the place of the real one, no Debian folder, and no network."""
    monkeypatch.setattr(fashion_mnist, "FILES", FILES)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist, "torchvision", no_network)


def no_network():
    def fetch(root, download):
        raise RuntimeError("Error downloading train-images:\nTried http://x, got:\nno route to host\n")

    return SimpleNamespace(datasets=SimpleNamespace(FashionMNIST=fetch))


def put(folder, packed=False, contents=CONTENTS):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


@needs_debian
def test_the_published_files_pass_and_the_constant_is_their_fingerprint(cache):
    data = FashionMNIST().load()
    check(data, 60_000, 10_000, (1, 28, 28), 10)
    assert data.fingerprint == FashionMNIST().fingerprint()
    assert np.bincount(data.train_labels).tolist() == [6_000] * 10
    assert np.bincount(data.test_labels).tolist() == [1_000] * 10
    again = FashionMNIST().load()  # from the cache folder
    assert sorted(path.name for path in (cache / "FashionMNIST" / "raw").iterdir()) == sorted(fashion_mnist.FILES)
    assert (again.train_images == data.train_images).all()


@needs_debian
@pytest.mark.parametrize("damage", ["cut", "zero", "swap", "missing"])
def test_damaged_published_files_are_named(tmp_path, damage):
    root = tmp_path / "root"
    shutil.copytree(DEBIAN, root)
    train, test = (root / f"{split}-labels-idx1-ubyte.gz" for split in ("train", "t10k"))
    content = train.read_bytes()
    if damage == "cut":
        train.write_bytes(content[:-100])
    elif damage == "zero":
        train.write_bytes(gzip.compress(bytes(60_008)))
    elif damage == "swap":
        train.write_bytes(test.read_bytes())
        test.write_bytes(content)
    else:
        train.unlink()
    words = {
        "cut": "cannot be read",
        "zero": "sha256",
        "swap": "60,008 bytes .* 10,008",
        "missing": "must hold train-l",
    }
    with pytest.raises(DataError, match=f"(?s){words[damage]}.*have them fetched anew") as error:
        FashionMNIST(str(root)).load()
    assert str(train.with_suffix("") if damage == "missing" else train).rpartition("/")[2] in str(error.value)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
def test_root_and_torchvisions_layout_below_it_are_searched(tmp_path, small, packed, below):
    put(tmp_path / "root" / below, packed)
    data = FashionMNIST(str(tmp_path / "root")).load()
    assert data.train_images.tobytes() == CONTENTS["train-images-idx3-ubyte"][16:]
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 1, 2], [0, 1])


@pytest.mark.parametrize("damage", ["cut", "longer", "zero", "missing"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", CONTENTS)
def test_each_damaged_file_is_named_with_what_to_do(tmp_path, small, damage, packed, name):
    put(tmp_path / "root", packed)
    path = tmp_path / "root" / (f"{name}.gz" if packed else name)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "longer":
        content = CONTENTS[name] + b"\0"
        path.write_bytes(gzip.compress(content) if packed else content)
    elif damage == "zero":
        put(tmp_path / "root", packed, {name: bytes(len(CONTENTS[name]))})
    else:
        path.unlink()
    with pytest.raises(DataError) as error:
        FashionMNIST(str(tmp_path / "root")).load()
    assert name in str(error.value)
    assert str(tmp_path / "root") in str(error.value)
    assert "have them fetched anew" in str(error.value)
    if damage == "zero":
        assert FILES[name][1] in str(error.value)


def test_debians_folder_is_used_and_kept_extracted(tmp_path, small, cache, caplog):
    caplog.set_level(logging.INFO, "normbench")
    put(tmp_path / "debian", packed=True)
    FashionMNIST(str(tmp_path / "elsewhere")).load()
    assert "kept extracted" in caplog.text
    assert not (tmp_path / "elsewhere").exists()
    assert sorted(path.name for path in (cache / "FashionMNIST" / "raw").iterdir()) == sorted(CONTENTS)
    shutil.rmtree(tmp_path / "debian")
    assert FashionMNIST().load().test_labels.tolist() == [0, 1]


def test_a_cache_folder_that_cannot_be_written_is_said_and_not_needed(tmp_path, small, caplog, monkeypatch):
    put(tmp_path / "debian", packed=True)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert FashionMNIST().load().test_labels.tolist() == [0, 1]
    assert "cannot be written" in caplog.text


def test_a_damaged_debian_file_names_the_package(tmp_path, small):
    put(tmp_path / "debian", packed=True)
    (tmp_path / "debian" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="apt-get install --reinstall dataset-fashion-mnist"):
        FashionMNIST().load()


def test_without_the_set_and_the_network_one_line_says_where_it_was_looked_for(tmp_path, small, cache):
    with pytest.raises(DataError) as error:
        FashionMNIST(str(tmp_path / "root")).load()
    text = str(error.value)
    assert "\n" not in text
    for word in (tmp_path / "root", cache, tmp_path / "debian", "no route to host", "apt-get install", "dataset.root"):
        assert str(word) in text
    assert not [path for path in tmp_path.rglob("*idx*")]


def serve(contents=CONTENTS):
    """A torchvision whose download writes these files."""

    def fetch(root, download):
        put(Path(root) / "FashionMNIST" / "raw", False, contents)
        put(Path(root) / "FashionMNIST" / "raw", True, contents)

    return lambda: SimpleNamespace(datasets=SimpleNamespace(FashionMNIST=fetch))


def test_a_download_lands_in_root_and_is_found_there(tmp_path, small, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "torchvision", serve())
    FashionMNIST(str(tmp_path / "root")).load()
    raw = tmp_path / "root" / "FashionMNIST" / "raw"
    assert sorted(path.name for path in raw.iterdir()) == sorted(CONTENTS)
    assert [path.name for path in raw.parent.iterdir() if path.is_dir()] == ["raw"]
    monkeypatch.setattr(fashion_mnist, "torchvision", no_network)
    FashionMNIST(str(tmp_path / "root")).load()


def test_a_wrong_download_is_refused_and_leaves_nothing(tmp_path, small, monkeypatch):
    wrong = {name: bytes(len(content)) for name, content in CONTENTS.items()}
    monkeypatch.setattr(fashion_mnist, "torchvision", serve(wrong))
    with pytest.raises(DataError, match="sha256 must be"):
        FashionMNIST(str(tmp_path / "root")).load()
    assert not [path for path in tmp_path.rglob("*idx*")]


CHILD = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from test_dataset import FILES, CONTENTS, put, serve, fashion_mnist
fashion_mnist.FILES, fashion_mnist.DEBIAN = FILES, Path("nowhere")
def torchvision():
    with open(sys.argv[2], "a") as file:
        file.write("fetch\\n")
    if sys.argv[3] == "die":
        put(Path(sys.argv[1], "FashionMNIST", ".raw.tmp", "FashionMNIST", "raw"), True)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    return serve()()
fashion_mnist.torchvision = torchvision
fashion_mnist.FashionMNIST(sys.argv[1]).load()
"""


def child(root, log, how):
    code = CHILD.format(root=str(ROOT), tests=str(ROOT / "tests"))
    return subprocess.Popen([sys.executable, "-c", code, str(root), str(log), how])


def test_after_a_kill_in_mid_download_the_next_start_fetches_anew(tmp_path, small, monkeypatch):
    killed = child(tmp_path / "root", tmp_path / "log", "die")
    assert killed.wait() == -signal.SIGKILL
    assert (tmp_path / "root" / "FashionMNIST" / ".raw.tmp").exists()
    monkeypatch.setattr(fashion_mnist, "torchvision", serve())
    assert FashionMNIST(str(tmp_path / "root")).load().test_labels.tolist() == [0, 1]
    assert not (tmp_path / "root" / "FashionMNIST" / ".raw.tmp").exists()


def test_of_two_processes_one_fetches_and_both_load(tmp_path):
    both = [child(tmp_path / "root", tmp_path / "log", "live") for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "fetch\n"


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
    with pytest.raises(DataError, match=r"nowhere/train must be a folder .*dataset\.root=FOLDER"):
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
    assert "NAME: fashion_mini, fashion_mnist, fashion_rows, imagefolder" in capsys.readouterr().out


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
