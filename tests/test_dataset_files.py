"""The data sets that are published as files: small sets in their formats take the places of the real ones."""

import gzip
import hashlib
import io
import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.io import savemat

from normbench import data as command
from normbench._torchvision import torchvision
from normbench.dataset import DataError, _cifar, _install, _verified, fingerprint_of
from normbench.dataset.cifar10 import CIFAR10
from normbench.dataset.cifar100 import CIFAR100
from normbench.dataset.fashion_mnist import FashionMNIST
from normbench.dataset.kmnist import KMNIST
from normbench.dataset.mnist import MNIST
from normbench.dataset.svhn import SVHN

ROOT = Path(__file__).parents[1]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
needs_debian = pytest.mark.skipif(not DEBIAN.is_dir(), reason="apt-get install dataset-fashion-mnist")

IDX, CIFAR = (MNIST, KMNIST, FashionMNIST), (CIFAR10, CIFAR100)
ALL = (*IDX, *CIFAR, SVHN)
KINDS = "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
NAMES = {CIFAR10: KINDS, CIFAR100: tuple(f"kind {i}" for i in range(100))}

# --------------------------------------------------------------------------------------------- the formats, written


def pictures(cls, split):
    """Random images (N, C, H, W) with labels of all classes: what the files of a small set say."""
    rng = np.random.default_rng([ALL.index(cls), split])
    classes = 100 if cls is CIFAR100 else 10
    labels = np.concatenate([rng.permutation(classes), rng.integers(0, classes, 5 * classes * (1 - split))])
    shape = (1, 28, 28) if cls in IDX else (3, 32, 32)
    return rng.integers(0, 256, (len(labels), *shape), np.uint8), labels.astype(np.int64)


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def python2(value):
    """What Python 2's cPickle made of it with protocol 2, as the published files have it: text is bytes, no `bytes`."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value):
    if isinstance(value, dict):
        return b"}(" + b"".join(_opcodes(k) + _opcodes(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_opcodes, value)) + b"e"
    if isinstance(value, int):
        return b"J" + value.to_bytes(4, "little", signed=True)
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode("ascii")
    rows, columns = map(_opcodes, value.shape)
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    content = value.tobytes()
    return (
        made
        + b"(K\x01"
        + rows
        + columns
        + b"\x86"
        + dtype
        + b"\x89T"
        + len(content).to_bytes(4, "little")
        + content
        + b"tb"
    )


def batch(cls, images, labels):
    keys = ("fine_labels", "coarse_labels") if cls is CIFAR100 else ("labels",)
    rows = images.reshape(len(images), -1)
    return python2(
        {"data": rows, "batch_label": "a batch", **{key: (labels // (1 + i)).tolist() for i, key in enumerate(keys)}}
    )


def mat(images, labels):
    file = io.BytesIO()
    numbers = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    savemat(file, {"X": images.transpose(2, 3, 1, 0), "y": numbers}, do_compression=True)
    return file.getvalue()


def published(cls):
    """The files of the small set: name -> content."""
    (images, labels), (test_images, test_labels) = pictures(cls, 0), pictures(cls, 1)
    if cls in IDX:
        contents = [idx(images[:, 0]), idx(labels), idx(test_images[:, 0]), idx(test_labels)]
        names = [f"{s}-{k}-ubyte" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")]
        return dict(zip(names, contents, strict=True))
    if cls is SVHN:
        return {"train_32x32.mat": mat(images, labels), "test_32x32.mat": mat(test_images, test_labels)}
    parts = np.array_split(np.arange(len(labels)), len(cls.train))
    files = {file: batch(cls, images[i], labels[i]) for file, i in zip(cls.train, parts, strict=True)}
    files[cls.test] = batch(cls, test_images, test_labels)
    files[cls.meta] = python2({cls.label_names: list(NAMES[cls]), "num_vis": 3072})
    return files


FILES = {cls: published(cls) for cls in ALL}
GZ = {cls: {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in FILES[cls].items()} for cls in IDX}
MD5, SHA256 = (lambda content, kind=kind: hashlib.new(kind, content).hexdigest() for kind in ("md5", "sha256"))
CHECKSUMS = {cls: {name: MD5(content) for name, content in FILES[cls].items()} for cls in (*CIFAR, SVHN)}
for cls in IDX:
    extracted = {name: SHA256(content) for name, content in FILES[cls].items()} if cls is not KMNIST else {}
    packed = {name: MD5(content) for name, content in GZ[cls].items()} if cls is not FashionMNIST else {}
    CHECKSUMS[cls] = {**packed, **extracted}


def as_published(cls):
    """The files as they are to be had: MNIST's kinds are packed."""
    return GZ[cls] if cls in IDX else FILES[cls]


def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def tar(path, folder, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"readme.html": b"<p>", **files}.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def no_network():
    def fetch(root, **_):
        raise RuntimeError("Error downloading train-images:\nTried http://x, got:\nno route to host\n")

    return SimpleNamespace(datasets=SimpleNamespace(**{cls.__name__: fetch for cls in ALL}))


def serve(changes=()):
    """A torchvision whose downloads write the small sets as torchvision lays them out."""

    def fetch(cls):
        def write(root, split="", download=False):
            files = {**FILES[cls], **(GZ[cls] if cls in IDX else {})}
            if cls is SVHN:
                assert split in ("train", "test")
                files = {f"{split}_32x32.mat": files[f"{split}_32x32.mat"]}
            put(
                Path(root) / ("" if cls is SVHN else cls.folder),
                files | {k: v for k, v in changes if k in files},
            )
            if cls in CIFAR:
                tar(Path(root) / cls.archive, cls.folder, FILES[cls])

        return write

    return lambda: SimpleNamespace(datasets=SimpleNamespace(**{cls.__name__: fetch(cls) for cls in ALL}))


# -------------------------------------------------------------------------------------------------------- fixtures


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "normbench"


@pytest.fixture
def small(tmp_path, monkeypatch, cache):
    """The small sets take the places of the real ones; no folder of Debian's, and no network."""
    for cls in ALL:
        monkeypatch.setattr(cls, "checksums", CHECKSUMS[cls])
    monkeypatch.setattr(FashionMNIST, "installed", {tmp_path / "debian": "apt-get install --reinstall the-package"})
    monkeypatch.setattr(_verified, "torchvision", no_network)


def check(cls, data):
    """It is the small set, in the form that training wants."""
    got = (data.train_images, data.train_labels), (data.test_images, data.test_labels)
    for split, (images, labels) in enumerate(got):
        expected = pictures(cls, split)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert images.shape == expected[0].shape
        assert (images == expected[0]).all()
        assert labels.tolist() == expected[1].tolist()
        assert images.flags.c_contiguous
        assert images.flags.writeable  # torch.from_numpy warns otherwise
    assert data.fingerprint == cls().fingerprint()
    assert len(data.classes) == len(set(data.classes)) == labels.max() + 1


each = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
each_idx = pytest.mark.parametrize("cls", IDX, ids=lambda cls: cls.__name__)
each_cifar = pytest.mark.parametrize("cls", CIFAR, ids=lambda cls: cls.__name__)

# ------------------------------------------------------------------------------------------- what we say is published


def test_our_checksums_and_names_are_torchvisions():
    datasets = torchvision().datasets
    for cls in (MNIST, KMNIST):
        theirs = getattr(datasets, cls.__name__)
        assert {name: md5 for name, md5 in cls.checksums.items() if name.endswith(".gz")} == dict(theirs.resources)
        assert cls.folder == f"{theirs.__name__}/raw"
        assert theirs.mirrors[0] == cls.url
    for cls in CIFAR:
        theirs = getattr(datasets, cls.__name__)
        meta = theirs.meta["filename"], theirs.meta["md5"]
        assert cls.checksums == dict([*theirs.train_list, *theirs.test_list, meta])
        assert cls.train == tuple(name for name, _ in theirs.train_list)
        assert [cls.test] == [name for name, _ in theirs.test_list]
        assert (cls.meta, cls.label_names) == (theirs.meta["filename"], theirs.meta["key"])
        assert (cls.folder, cls.archive) == (theirs.base_folder, theirs.filename)
        assert theirs.url == cls.url + cls.archive
    for split in ("train", "test"):
        url, name, md5 = datasets.SVHN.split_list[split]
        assert (SVHN.checksums[name], SVHN.url + name) == (md5, url)
    assert FashionMNIST.classes == tuple(datasets.FashionMNIST.classes)
    assert KMNIST.classes == tuple(datasets.KMNIST.classes)


def test_fingerprints_are_cheap_and_never_change():
    """Runs refer to them."""
    fingerprints = {cls.name: cls().fingerprint()[:12] for cls in ALL}
    assert fingerprints == {
        "mnist": "c503b7fc2e74", "kmnist": "ff90dd426f30", "fashion_mnist": "b42e0f3189f4",
        "cifar10": "226826127b29", "cifar100": "52f5fc3ec2d8", "svhn": "cfa611b6b66d",
    }  # fmt: skip


@needs_debian
def test_debians_fashion_mnist_passes_and_its_constant_is_its_fingerprint(cache):
    data = FashionMNIST().load()
    assert (data.train_images.shape, data.test_images.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    arrays = data.train_images, data.train_labels, data.test_images, data.test_labels
    assert data.fingerprint == FashionMNIST().fingerprint() == fingerprint_of(*arrays)
    assert np.bincount(data.train_labels).tolist() == [6_000] * 10
    assert np.bincount(data.test_labels).tolist() == [1_000] * 10
    again = FashionMNIST().load()  # from the cache folder
    assert sorted(path.name for path in (cache / "FashionMNIST" / "raw").iterdir()) == sorted(FashionMNIST.checksums)
    assert (again.train_images == data.train_images).all()


# ------------------------------------------------------------------------------------------------------ where, what


@each
@pytest.mark.parametrize("place", ["root", "below", "cache"])
def test_it_is_found_in_root_in_torchvisions_layout_and_in_the_cache(tmp_path, small, cache, cls, place):
    folder = {"root": tmp_path / "root", "below": tmp_path / "root" / cls.folder, "cache": cache / cls.folder}[place]
    put(folder, as_published(cls))
    data = cls(None if place == "cache" else str(tmp_path / "root")).load()
    check(cls, data)
    assert data.classes == NAMES.get(cls, getattr(cls, "classes", tuple("0123456789")))


@each
def test_the_arrays_are_those_of_torchvisions_reader(tmp_path, small, monkeypatch, cls):
    """Both read the same folder, as torchvision lays it out; its pictures are HWC."""
    theirs = getattr(torchvision().datasets, cls.__name__)
    files = {**FILES[cls], **(GZ[cls] if cls in IDX else {})}
    put(tmp_path / ("" if cls is SVHN else cls.folder), files)
    sums = {name: MD5(content) for name, content in files.items()}
    if cls in CIFAR:
        monkeypatch.setattr(theirs, "train_list", [[name, sums[name]] for name in cls.train])
        monkeypatch.setattr(theirs, "test_list", [[cls.test, sums[cls.test]]])
        monkeypatch.setattr(theirs, "meta", {**theirs.meta, "md5": sums[cls.meta]})
    elif cls is SVHN:
        split_list = {s: ["", f"{s}_32x32.mat", sums[f"{s}_32x32.mat"]] for s in ("train", "test")}
        monkeypatch.setattr(theirs, "split_list", split_list)
    ours = cls(str(tmp_path)).load()
    for split, images, labels in (
        ("train", ours.train_images, ours.train_labels),
        ("test", ours.test_images, ours.test_labels),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy 2.4 about the pickles
            data = theirs(str(tmp_path), split=split) if cls is SVHN else theirs(str(tmp_path), train=split == "train")
        pixels = [np.atleast_3d(np.asarray(picture)) for picture, _ in data]
        assert (np.stack(pixels).transpose(0, 3, 1, 2) == images).all()
        assert [label for _, label in data] == labels.tolist()


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST], ids=lambda cls: cls.__name__)
def test_extracted_files_are_read_and_preferred_where_their_checksum_is_known(tmp_path, small, cls):
    put(tmp_path, FILES[cls])
    check(cls, cls(str(tmp_path)).load())
    put(tmp_path, {name: b"no gzip" for name in GZ[cls]})
    check(cls, cls(str(tmp_path)).load())


def test_extracted_files_without_a_known_checksum_are_refused_and_the_gz_is_asked_for(tmp_path, small):
    put(tmp_path / KMNIST.folder, FILES[KMNIST])
    with pytest.raises(DataError, match=r"must hold train-images-idx3-ubyte\.gz .* no checksum is published; put"):
        KMNIST(str(tmp_path)).load()
    put(tmp_path / KMNIST.folder, GZ[KMNIST])
    check(KMNIST, KMNIST(str(tmp_path)).load())


def test_a_repacked_gz_passes_by_what_it_holds_or_not_at_all(tmp_path, small):
    """Debian packs Fashion-MNIST anew; of the others the md5 of the .gz is what is published."""
    for cls in IDX:
        put(tmp_path / cls.name, {f"{name}.gz": gzip.compress(content, 1) for name, content in FILES[cls].items()})
    check(FashionMNIST, FashionMNIST(str(tmp_path / "fashion_mnist")).load())
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: its md5 must be"):
        MNIST(str(tmp_path / "mnist")).load()


def test_a_root_that_is_no_folder_is_refused(tmp_path, capsys):
    (tmp_path / "cifar.tar.gz").touch()
    assert command.main(["cifar10", f"dataset.root={tmp_path / 'cifar.tar.gz'}"]) == 2
    assert f"cifar.tar.gz' is none; try dataset.root={tmp_path}\n" in capsys.readouterr().err
    assert command.main(["mnist", "dataset.root="]) == 2
    assert "dataset.root must be a folder, '' is none; try dataset.root=~/data" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_named(tmp_path, small, monkeypatch):
    put(tmp_path, FILES[SVHN])

    def denied(path, _):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(np, "fromfile", denied)
    with pytest.raises(DataError, match=r"svhn cannot be read \(.*Permission denied: '.*/train_32x32\.mat'\)"):
        SVHN(str(tmp_path)).load()


def test_the_command_says_what_was_found_where(tmp_path, small, capsys):
    put(tmp_path / CIFAR10.folder, FILES[CIFAR10])
    assert command.main(["cifar10", f"dataset.root={tmp_path}"]) == 0
    out = capsys.readouterr().out
    for words in (f"verified files in {tmp_path / CIFAR10.folder}", "60 training and 10 test", "3x32x32", "truck"):
        assert words in out


# ----------------------------------------------------------------------------------------------------------- damage

CASES = [(cls, name) for cls in ALL for name in as_published(cls)] + [
    (cls, name) for cls in (MNIST, FashionMNIST) for name in FILES[cls]
]


def damaged(content, how):
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    return {
        "cut": content[:-9],
        "longer": content + b"\0",
        "flip": bytes(flipped),
        "zero": bytes(len(content)),
        "empty": b"",
    }[how]


@pytest.mark.parametrize("how", ["cut", "longer", "flip", "zero", "empty", "missing", "swap"])
@pytest.mark.parametrize(("cls", "name"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_each_damaged_file_is_named_with_what_to_do(tmp_path, small, cls, name, how):
    files = dict(GZ[cls] if name.endswith(".gz") else FILES[cls])
    other = next(n for n in files if n != name)
    if how == "missing":
        del files[name]
    elif how == "swap":
        files[name], files[other] = files[other], files[name]
    else:
        files[name] = damaged(files[name], how)
    put(tmp_path, files)
    if cls is FashionMNIST and name.endswith(".gz") and how == "longer":  # a zero after the end of a .gz is no content
        return check(cls, cls(str(tmp_path)).load())
    with pytest.raises(DataError) as error:
        cls(str(tmp_path)).load()
    text = str(error.value)
    assert "\n" not in text
    assert any(str(tmp_path / n) in text for n in (name, other)[: 1 + (how == "swap")]) or how == "missing"
    assert name in text or how == "swap"
    for words in (str(tmp_path), cls.url, "have them fetched anew"):
        assert words in text
    expected = CHECKSUMS[cls].get(name)
    if expected and how not in ("missing", "swap"):
        assert expected in text


# ------------------------------------------------------------------------------------------------- the .tar.gz form


@each_cifar
def test_the_archive_is_read_and_kept_extracted_in_the_cache(tmp_path, small, cache, caplog, cls):
    caplog.set_level(logging.INFO, "normbench")
    tar(tmp_path / "root" / cls.archive, cls.folder, FILES[cls])
    check(cls, cls(str(tmp_path / "root")).load())
    assert f"verified files in {tmp_path / 'root' / cls.archive}" in caplog.text
    assert [path.name for path in (tmp_path / "root").iterdir()] == [cls.archive]
    assert sorted(path.name for path in (cache / cls.folder).iterdir()) == sorted(FILES[cls])
    caplog.clear()
    check(cls, cls(str(tmp_path / "root")).load())
    assert f"verified files in {cache / cls.folder}" in caplog.text
    check(cls, cls().load())


def test_a_cache_folder_that_cannot_be_written_is_said_and_not_needed(tmp_path, small, caplog, monkeypatch):
    tar(tmp_path / "root" / CIFAR10.archive, CIFAR10.folder, FILES[CIFAR10])
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    check(CIFAR10, CIFAR10(str(tmp_path / "root")).load())
    assert "every start unpacks cifar10 anew" in caplog.text
    assert "cannot be written" in caplog.text


@each_cifar
@pytest.mark.parametrize("how", ["cut", "no archive", "altered", "missing", "elsewhere", "link"])
def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path, small, cache, cls, how):
    path, files = tmp_path / cls.archive, dict(FILES[cls])
    if how == "altered":
        files[cls.test] = damaged(files[cls.test], "flip")
    elif how == "missing":
        del files[cls.test]
    tar(path, "elsewhere" if how == "elsewhere" else cls.folder, files)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-5_000])
    elif how == "no archive":
        path.write_bytes(b"<html>404</html>")
    elif how == "link":
        with tarfile.open(path, "w:gz") as archive:
            entry = tarfile.TarInfo(f"{cls.folder}/{cls.meta}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(entry)
    with pytest.raises(DataError, match="remove it from there to have them fetched anew") as error:
        cls(str(tmp_path)).load()
    assert str(path) in str(error.value)
    expected = {
        "altered": f"{cls.test}: its md5 must be {CHECKSUMS[cls][cls.test]}",
        "missing": f"{cls.folder}/{cls.test}",
    }
    assert expected.get(how, "") in str(error.value)
    assert not cache.exists()


# ---------------------------------------------------------------------------------------------------------- pickles


def test_a_pickle_is_opened_only_after_its_checksum(tmp_path, small):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    put(tmp_path / "root", {**FILES[CIFAR10], "batches.meta": pickle.dumps(Evil())})
    with pytest.raises(DataError, match=r"batches\.meta: its md5 must be"):
        CIFAR10(str(tmp_path / "root")).load()
    assert not (tmp_path / "evil").exists()
    with pytest.raises(pickle.UnpicklingError, match=r"a CIFAR file needs no posix\.mkdir"):
        _cifar.unpickle(np.frombuffer(pickle.dumps(Evil()), np.uint8))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("name", ["numpy\nfromfile", "builtins\neval", "numpy.core.multiarray\nscalar", "numpy\nload"])
def test_only_what_arrays_are_made_of_is_unpickled(name):
    with pytest.raises(pickle.UnpicklingError, match="a CIFAR file needs no"):
        _cifar.unpickle(np.frombuffer(b"\x80\x02c" + name.encode() + b"\n.", np.uint8))


# ---------------------------------------------------------------------------------------------------- Debian's folder


def test_debians_folder_is_used_and_kept_extracted(tmp_path, small, cache, caplog):
    caplog.set_level(logging.INFO, "normbench")
    put(tmp_path / "debian", GZ[FashionMNIST])
    check(FashionMNIST, FashionMNIST(str(tmp_path / "elsewhere")).load())
    assert "kept extracted" in caplog.text
    assert not (tmp_path / "elsewhere").exists()
    assert sorted(path.name for path in (cache / "FashionMNIST" / "raw").iterdir()) == sorted(FILES[FashionMNIST])
    shutil.rmtree(tmp_path / "debian")
    check(FashionMNIST, FashionMNIST().load())


def test_a_damaged_debian_file_names_the_package(tmp_path, small):
    put(tmp_path / "debian", {**GZ[FashionMNIST], "t10k-labels-idx1-ubyte.gz": b"no gzip"})
    with pytest.raises(DataError, match=r"cannot be read .*apt-get install --reinstall the-package"):
        FashionMNIST().load()


# --------------------------------------------------------------------------------------------------------- download


@each
def test_offline_one_line_says_where_it_was_looked_for_and_what_to_put_there(tmp_path, small, cache, cls):
    with pytest.raises(DataError) as error:
        cls(str(tmp_path / "root")).load()
    text = str(error.value)
    assert "\n" not in text
    places = [tmp_path / "root" / cls.folder, tmp_path / "root", cache / cls.folder]
    needed = [cls.archive] if cls in CIFAR else list(as_published(cls))
    if cls is FashionMNIST:
        places, needed = [*places, tmp_path / "debian"], [*needed, "apt-get install"]
    if cls in CIFAR:
        places += [tmp_path / "root" / cls.archive, cache / cls.archive]
    for word in (*places, *needed, cls.url, "no route to host", "dataset.root=FOLDER"):
        assert str(word) in text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


@each
def test_a_download_lands_in_root_and_is_found_there(tmp_path, small, cache, monkeypatch, cls):
    monkeypatch.setattr(_verified, "torchvision", serve())
    check(cls, cls(str(tmp_path / "root")).load())
    assert set(as_published(cls)) <= {path.name for path in (tmp_path / "root" / cls.folder).iterdir()}
    assert not cache.exists()
    monkeypatch.setattr(_verified, "torchvision", no_network)
    check(cls, cls(str(tmp_path / "root")).load())
    hidden = [path.name for path in (tmp_path / "root").iterdir() if path.name.startswith(".")]
    assert hidden == [f".{cls.name}.lock"]
    monkeypatch.setattr(_verified, "torchvision", serve())
    check(cls, cls().load())
    assert (cache / cls.folder).is_dir()


@each
def test_a_wrong_download_is_refused_and_leaves_nothing(tmp_path, small, monkeypatch, cls):
    changes = {name: bytes(len(content)) for name, content in [*FILES[cls].items(), *as_published(cls).items()]}
    monkeypatch.setattr(_verified, "torchvision", serve(tuple(changes.items())))
    with pytest.raises(DataError, match=r"its (md5|sha256) must be") as error:
        cls(str(tmp_path / "root")).load()
    assert "dataset.root=FOLDER" in str(error.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_download_that_brings_nothing_is_refused(tmp_path, small, monkeypatch):
    monkeypatch.setattr(SVHN, "fetch", lambda self, datasets, root: (root / SVHN.folder).mkdir())
    with pytest.raises(DataError, match=r"downloading it into .* failed"):
        SVHN(str(tmp_path)).load()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """server(cls): torchvision's own code downloads the small set from this machine."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setattr(_verified, "torchvision", torchvision)
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, args=[0.01]).start()
        yield partial(divert, monkeypatch, tmp_path / "web", f"http://127.0.0.1:{http.server_port}/")
        http.shutdown()


def divert(monkeypatch, web, url, cls):
    """Put the files onto the server, and give its address and their checksums to torchvision's class."""
    theirs = getattr(torchvision().datasets, cls.__name__)
    put(web, as_published(cls))
    sums = {name: MD5(content) for name, content in as_published(cls).items()}
    if cls in IDX:
        monkeypatch.setattr(theirs, "mirrors", [url])
        monkeypatch.setattr(theirs, "resources", list(sums.items()))
    elif cls in CIFAR:
        tar(web / cls.archive, cls.folder, FILES[cls])
        monkeypatch.setattr(theirs, "url", url + cls.archive)
        monkeypatch.setattr(theirs, "tgz_md5", MD5((web / cls.archive).read_bytes()))
        monkeypatch.setattr(theirs, "train_list", [[name, sums[name]] for name in cls.train])
        monkeypatch.setattr(theirs, "test_list", [[cls.test, sums[cls.test]]])
        monkeypatch.setattr(theirs, "meta", {**theirs.meta, "md5": sums[cls.meta]})
    else:
        split_list = {name.partition("_")[0]: [url + name, name, md5] for name, md5 in sums.items()}
        monkeypatch.setattr(theirs, "split_list", split_list)


@each
def test_torchvision_itself_downloads_what_we_then_find(tmp_path, small, server, cls):
    server(cls)
    check(cls, cls(str(tmp_path / "root")).load())
    assert set(as_published(cls)) <= {path.name for path in (tmp_path / "root" / cls.folder).iterdir()}


def test_a_connection_without_a_byte_is_given_up(tmp_path, small, server, monkeypatch):
    monkeypatch.setattr(_install, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "copyfile", lambda *_: time.sleep(1))  # the head is sent, no content
    server(SVHN)
    with pytest.raises(DataError, match=r"downloading it into .* failed \(.*timed out"):
        SVHN(str(tmp_path / "root")).load()
    assert socket.getdefaulttimeout() is None
    assert not list(tmp_path.rglob("root/**/*.mat"))


def test_a_connection_that_ends_early_is_a_failed_download(tmp_path, small, server, monkeypatch):
    monkeypatch.setattr(
        SimpleHTTPRequestHandler, "copyfile", lambda self, source, out: out.write(source.read()[:9_000])
    )
    server(CIFAR10)
    with pytest.raises(DataError, match=r"downloading it into .* failed"):
        CIFAR10(str(tmp_path / "root")).load()
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file() and path.suffix != ".lock"]


CHILD = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import test_dataset_files as t
t.CIFAR10.checksums = t.CHECKSUMS[t.CIFAR10]
def torchvision():
    with open(sys.argv[2], "a") as file:
        file.write("fetch\\n")
    if sys.argv[3] == "die":
        t.put(Path(sys.argv[1], ".cifar10.tmp", t.CIFAR10.folder), t.FILES[t.CIFAR10])
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    return t.serve()()
t._verified.torchvision = torchvision
t.check(t.CIFAR10, t.CIFAR10(sys.argv[1]).load())
"""


def child(root, log, how):
    code = CHILD.format(root=str(ROOT), tests=str(ROOT / "tests"))
    return subprocess.Popen([sys.executable, "-c", code, str(root), str(log), how])


def test_after_a_kill_in_mid_download_the_next_start_fetches_anew(tmp_path, small, monkeypatch):
    killed = child(tmp_path / "root", tmp_path / "log", "die")
    assert killed.wait() == -signal.SIGKILL
    assert (tmp_path / "root" / ".cifar10.tmp" / CIFAR10.folder).exists()
    with pytest.raises(DataError, match="is in none of"):
        CIFAR10(str(tmp_path / "root")).load()
    monkeypatch.setattr(_verified, "torchvision", serve())
    check(CIFAR10, CIFAR10(str(tmp_path / "root")).load())
    assert not (tmp_path / "root" / ".cifar10.tmp").exists()


def test_of_two_processes_one_fetches_and_both_load(tmp_path):
    both = [child(tmp_path / "root", tmp_path / "log", "live") for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "fetch\n"


def test_who_waits_is_told(tmp_path, caplog):
    done = []

    def second():
        with _install.alone(tmp_path / "lock"):
            done.append("second")

    with _install.alone(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        while "waiting for another process" not in caplog.text:
            time.sleep(0.01)
        done.append("first")
    thread.join()
    assert done == ["first", "second"]
