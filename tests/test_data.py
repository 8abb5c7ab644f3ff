"""Data sets: what is loaded, what is refused and with which words, and that a failure leaves nothing behind."""

import gzip
import hashlib
import importlib.machinery
import importlib.util
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from conftest import at_night
from PIL import Image

from noprop_helpers import data
from noprop_helpers.augment import check_images
from noprop_helpers.data import DataError, dataset_checksum, hold_out, load_dataset

# Taken before the tests set the environment aside; absolute because they also change the folder.
REAL_ROOT = Path(os.environ.get("NOPROP_DATA") or "data").resolve()
DEBIAN_FASHION_MNIST = data._DEBIAN_FASHION_MNIST
MNIST_FILES = data._IDX_FILES

DIGITS_CHECKSUM = "sha256:fd6fedd1e8223010fd5ae002f949799d845294d84c7a39fa093be05c12bb9216"
MNIST_CHECKSUM = "sha256:e0130f111822ed58de3ba94ad450971c80ee446d2ff4d08e2b4c8e8be16eae50"
FASHION_MNIST_CHECKSUM = "sha256:a06d3266794aa0147787f49603795ec5e8a32fac55270d9b4ac38d415b342e8c"


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch, tmp_path):
    """An empty current folder, no NOPROP_DATA, no Debian package and no network."""

    def no_network(*args, **kwargs):
        raise OSError("the tests use no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOPROP_DATA", raising=False)
    monkeypatch.setattr(data, "_DEBIAN_FASHION_MNIST", tmp_path / "no-debian-package")
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)


@pytest.fixture
def digits():
    return load_dataset("digits")


@pytest.fixture
def torchvision_datasets():
    return data.import_torchvision().datasets


def everything_under(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def expect_error(name, *parts, root=None):
    """Loading fails with one line that contains all the parts."""
    with pytest.raises(DataError) as caught:
        load_dataset(name, root=root)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, f"{part!r} is not in: {message}"


# --- small data sets on disk ----------------------------------------------------------------------------------------


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def tiny_mnist(num_train=30, num_test=20):
    """The bytes of the four files, by name, and the arrays."""
    random = numpy.random.default_rng(0)
    arrays = []
    for n in (num_train, num_test):
        arrays += [random.integers(0, 256, (n, 28, 28)).astype(numpy.uint8), (numpy.arange(n) % 10).astype(numpy.uint8)]
    return {name: idx_bytes(array) for name, array in zip(MNIST_FILES, arrays)}, arrays


def write_files(folder, files, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def tiny_cifar(folder, monkeypatch, cifar):
    """Two images a file; torchvision's list of checksums is made to fit them."""
    random = numpy.random.default_rng(0)
    checksums = {}
    arrays = {}
    for name in [*(entry[0] for entry in cifar.train_list + cifar.test_list), cifar.meta["filename"]]:
        if name == cifar.meta["filename"]:
            content = {cifar.meta["key"]: [f"class {i}" for i in range(10)]}
        else:
            arrays[name] = random.integers(0, 256, (2, 3072)).astype(numpy.uint8)
            content = {"data": arrays[name], "labels": [len(arrays), 0]}
        (file := folder / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(content))
        checksums[name] = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar, "train_list", [[name, checksums[name]] for name, _ in cifar.train_list])
    monkeypatch.setattr(cifar, "test_list", [[name, checksums[name]] for name, _ in cifar.test_list])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": checksums[cifar.meta["filename"]]})
    return arrays


def write_image(path, size=(5, 4), mode="RGB", value=7, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = len(Image.new(mode, (1, 1)).getbands())
    Image.new(mode, size, value if channels == 1 else (value,) * channels).save(path, **options)
    return path


def image_folder(folder, mode="RGB", classes=("1", "10", "2"), suffix=".png"):
    """Two images a class in train, one in test; every image has a value of its own."""
    for i, name in enumerate(classes):
        write_image(folder / "train" / name / f"b{suffix}", mode=mode, value=10 * i + 2)
        write_image(folder / "train" / name / f"a{suffix}", mode=mode, value=10 * i + 1)
        write_image(folder / "test" / name / f"c{suffix}", mode=mode, value=10 * i + 3)
    return folder


# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits_shapes_range_and_types(digits):
    assert digits.name == "digits" and digits.num_classes == 10 and digits.class_names == tuple("0123456789")
    assert digits.train_images.shape == (1437, 1, 8, 8) and digits.test_images.shape == (360, 1, 8, 8)
    for images, labels in [(digits.train_images, digits.train_labels), (digits.test_images, digits.test_labels)]:
        assert images.dtype == torch.float32 and images.min() == 0 and images.max() == 1
        check_images(images, labels, num_classes=10)
        assert labels.unique().tolist() == list(range(10))


def test_digits_are_the_bundled_ones_each_exactly_once(digits):
    from sklearn.datasets import load_digits

    bundled = load_digits()
    expected = sorted((tuple(image.ravel()), label) for image, label in zip(bundled.images, bundled.target))
    images = torch.cat([digits.train_images, digits.test_images]).flatten(1).mul(16).tolist()
    labels = torch.cat([digits.train_labels, digits.test_labels]).tolist()
    assert sorted((tuple(image), label) for image, label in zip(images, labels)) == expected


def test_digits_are_the_same_where_scikit_learn_keeps_them_elsewhere(digits, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert dataset_checksum(load_dataset("digits")) == dataset_checksum(digits)


DAMAGED = {
    "empty": b"", "no gzip": b"no gzip", "ragged": gzip.compress(b"1,2\n3\n"), "words": gzip.compress(b"1,x\n"),
    "cut": gzip.compress(b"1\n" * 99)[:-9],
}  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_of_digits_is_one_line(content, tmp_path, monkeypatch):
    file = tmp_path / "datasets" / "data" / "digits.csv.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    there = importlib.machinery.ModuleSpec("sklearn", None, origin=f"{tmp_path}/__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there)
    with pytest.raises(DataError, match=r"^digits: cannot read .*digits\.csv\.gz \(.*\); install scikit-learn again$"):
        load_dataset("digits")


def test_digits_split_is_the_same_everywhere(digits):
    torch.manual_seed(123)  # the split depends on no global state
    assert dataset_checksum(digits) == dataset_checksum(load_dataset("digits")) == DIGITS_CHECKSUM


@pytest.mark.slow
def test_digits_need_no_data_folder_and_no_torchvision(tmp_path):
    (tmp_path / "a file").write_text("")
    code = (
        "import sys; from noprop_helpers.data import load_dataset; load_dataset('digits', root='a file');"
        "assert 'torchvision' not in sys.modules"
    )
    run_python(code)
    assert everything_under(tmp_path) == ["a file"]


def run_python(code):
    root = Path(data.__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(root)},
                            capture_output=True, text=True)  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result


# --- hold_out, dataset_checksum ------------------------------------------------------------------------


def test_hold_out_parts_the_training_split_and_drops_the_test_split(digits):
    # Every image carries its own number, so that it can be followed.
    numbered = digits._replace(
        train_images=torch.arange(1437.0).view(-1, 1, 1, 1), train_labels=torch.arange(1437),
        test_images=torch.arange(1437.0, 1797).view(-1, 1, 1, 1), test_labels=torch.arange(1437, 1797),
    )  # fmt: skip
    tuning = hold_out(numbered, 300, seed=3)
    kept, held_out = tuning.train_labels.tolist(), tuning.test_labels.tolist()
    assert len(kept) == 1137 and len(held_out) == 300
    assert sorted(kept + held_out) == list(range(1437))  # disjoint, complete, and none of the test split
    assert torch.equal(tuning.train_images.flatten(), tuning.train_labels.float())
    assert torch.equal(tuning.test_images.flatten(), tuning.test_labels.float())
    assert (tuning.name, tuning.class_names) == (numbered.name, numbered.class_names)


def test_hold_out_follows_its_seed_alone(digits):
    torch.manual_seed(9)
    first = hold_out(digits, 100, seed=1)
    assert torch.equal(first.test_images, hold_out(digits, 100, seed=1).test_images)
    assert not torch.equal(first.test_images, hold_out(digits, 100, seed=2).test_images)


@pytest.mark.parametrize("bad", [0, -1, 1437, 0.2])
def test_hold_out_refuses_a_size_that_leaves_a_split_empty(digits, bad):
    with pytest.raises(ValueError, match=rf"num_validation: expected an integer in 1\.\.1436, got {bad}"):
        hold_out(digits, bad)


@pytest.mark.parametrize("split", ["train", "test"])
def test_checksum_sees_one_pixel_and_one_label(digits, split):
    images, labels = getattr(digits, f"{split}_images").clone(), getattr(digits, f"{split}_labels").clone()
    images[-1, 0, 7, 7] += 1 / 255
    labels[-1] = (labels[-1] + 1) % 10
    one_pixel = digits._replace(**{f"{split}_images": images})
    one_label = digits._replace(**{f"{split}_labels": labels})
    assert len({dataset_checksum(d) for d in (digits, one_pixel, one_label)}) == 3


def test_checksum_is_that_of_the_bytes():
    images, labels = torch.tensor([0, 1, 254, 255]).view(2, 1, 1, 2) / 255, torch.tensor([1, 0])
    expected = hashlib.sha256()
    for _ in range(2):
        expected.update(b"(2, 1, 1, 2)" + bytes([0, 1, 254, 255]) + struct.pack("<2q", 1, 0))
    dataset = data.Dataset("tiny", images, labels, images, labels, ("a", "b"))
    assert dataset_checksum(dataset) == f"sha256:{expected.hexdigest()}"


def test_checksum_does_not_depend_on_the_parts_it_is_taken_in():
    images = torch.arange(5000).remainder(256).view(-1, 1, 1, 1) / 255  # more than one part
    labels = torch.zeros(5000, dtype=torch.int64)
    expected = hashlib.sha256()
    for _ in range(2):
        expected.update(b"(5000, 1, 1, 1)" + bytes(i % 256 for i in range(5000)) + bytes(8 * 5000))
    dataset = data.Dataset("tiny", images, labels, images, labels, ("a",))
    assert dataset_checksum(dataset) == f"sha256:{expected.hexdigest()}"


# --- names and roots ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["minst", "", None, "Digits"])
def test_unknown_name_lists_the_known_ones(name):
    known = "expected a data set from digits, mnist, fashion_mnist, cifar10, cifar100 or folder:PATH"
    expect_error(name, known, f"got {name!r}")


def test_root_is_the_argument_else_the_environment_else_data(tmp_path, monkeypatch):
    for i, folder in enumerate(["data", "from environment", "from argument"], start=1):
        write_files(tmp_path / folder / "MNIST/raw", tiny_mnist(num_train=i)[0])
    assert len(load_dataset("mnist").train_labels) == 1
    monkeypatch.setenv("NOPROP_DATA", "from environment")
    assert len(load_dataset("mnist").train_labels) == 2
    assert len(load_dataset("mnist", root="from argument").train_labels) == 3
    monkeypatch.setenv("NOPROP_DATA", "")
    assert len(load_dataset("mnist").train_labels) == 1


def test_root_that_is_a_file(tmp_path):
    (tmp_path / "a file").write_text("content")
    expect_error("mnist", "data root: expected a folder, found a file at a file", "--data-root", root="a file")
    expect_error("mnist", "mnist: expected", "download failed", "Not a directory", root="a file/below")
    assert everything_under(tmp_path) == ["a file"]


def test_file_that_may_not_be_read(tmp_path, monkeypatch):
    raw = write_files(tmp_path / "data/MNIST/raw", tiny_mnist()[0])
    (raw / MNIST_FILES[0]).chmod(0)
    if os.access(raw / MNIST_FILES[0], os.R_OK):  # root reads everything: let the read fail as it would for others
        error = PermissionError(13, "Permission denied", str(raw / MNIST_FILES[0]))
        monkeypatch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(error))
    expect_error("mnist", f"mnist: cannot read {raw / MNIST_FILES[0]}: Permission denied", root=raw.parent.parent)


# --- MNIST: files in place -------------------------------------------------------------------------------------------


def test_mnist_files_are_used_as_they_are(tmp_path):
    files, arrays = tiny_mnist()
    write_files(tmp_path / "MNIST/raw", files)
    before = everything_under(tmp_path)
    dataset = load_dataset("mnist", root=tmp_path)
    assert dataset.name == "mnist" and dataset.class_names == tuple("0123456789")
    for images, labels, (image_array, label_array) in [
        (dataset.train_images, dataset.train_labels, arrays[:2]),
        (dataset.test_images, dataset.test_labels, arrays[2:]),
    ]:
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        assert images.shape == (len(image_array), 1, 28, 28)
        assert torch.equal(images[:, 0], torch.from_numpy(image_array) / 255)
        assert labels.tolist() == label_array.tolist()
    assert dataset_checksum(dataset) == dataset_checksum(load_dataset("mnist", root=tmp_path))
    assert everything_under(tmp_path) == before


def test_mnist_agrees_with_torchvision(tmp_path, torchvision_datasets):
    write_files(tmp_path / "MNIST/raw", tiny_mnist()[0])
    theirs, ours = torchvision_datasets.MNIST(tmp_path, train=False), load_dataset("mnist", root=tmp_path)
    assert torch.equal(ours.test_images[:, 0], theirs.data / 255)
    assert torch.equal(ours.test_labels, theirs.targets)


def test_layouts_are_those_of_torchvision(torchvision_datasets, tmp_path):
    for name in ("mnist", "fashion_mnist"):
        dataset_class = getattr(torchvision_datasets, data._LAYOUTS[name].torchvision_class)
        assert {f"{file}.gz" for file in data._LAYOUTS[name].files} == {file for file, _ in dataset_class.resources}
        assert data._LAYOUTS[name].folder == f"{dataset_class.__name__}/raw"
    assert data._FASHION_NAMES == tuple(torchvision_datasets.FashionMNIST.classes)
    for name in ("cifar10", "cifar100"):
        dataset_class = getattr(torchvision_datasets, data._LAYOUTS[name].torchvision_class)
        entries = [*dataset_class.train_list, *dataset_class.test_list, [dataset_class.meta["filename"]]]
        assert list(data._LAYOUTS[name].files) == [entry[0] for entry in entries]
        assert data._LAYOUTS[name].folder == dataset_class.base_folder


IMAGES_FILE, LABELS_FILE = MNIST_FILES[:2]


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (IMAGES_FILE, lambda b: b[:-1], "expected 23,536 bytes, found 23,535"),
        (IMAGES_FILE, lambda b: b + b"\0", "expected 23,536 bytes, found 23,537"),
        (IMAGES_FILE, lambda b: b[:9], "expected a header of 16 bytes, found 9"),
        (IMAGES_FILE, lambda b: b"", "expected an IDX file that starts with the bytes 00 00 08 03, found an empty"),
        (IMAGES_FILE, gzip.compress, "expected an IDX file that starts with the bytes 00 00 08 03, found 1f 8b 08 00"),
        (LABELS_FILE, lambda b: b[:3] + b"\3" + b[4:], "starts with the bytes 00 00 08 01, found 00 00 08 03"),
        (LABELS_FILE, lambda b: b[:-1], "expected 38 bytes, found 37"),
        (LABELS_FILE, lambda b: b[:7] + b"\x1d" + b[8:-1], "expected 30 labels"),
        (LABELS_FILE, lambda b: b[:-1] + b"\x0a", "expected labels in 0..9"),
        (IMAGES_FILE, lambda b: b[:7] + b"\0" + b[8:16], "expected at least one item, found the shape [0, 28, 28]"),
    ],
)
def test_damaged_mnist_file_is_named_with_what_was_expected(tmp_path, file, damage, message):
    files, _ = tiny_mnist()
    files[file] = damage(files[file])
    folder = write_files(tmp_path / "MNIST/raw", files)
    expect_error("mnist", folder / file, message, "fetch", root=tmp_path)


def test_label_out_of_range_and_wrong_count_say_what_was_found(tmp_path):
    files, _ = tiny_mnist()
    write_files(tmp_path / "MNIST/raw", {**files, LABELS_FILE: idx_bytes(numpy.full(30, 17, numpy.uint8))})
    expect_error("mnist", "in 0..9", "found 17", root=tmp_path)
    write_files(tmp_path / "MNIST/raw", {LABELS_FILE: idx_bytes(numpy.zeros(29, numpy.uint8))})
    expect_error("mnist", "expected 30 labels", "found 29", root=tmp_path)


# --- files that have to be unpacked ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_packed_files_beside_the_place_are_unpacked(tmp_path, name, folder):
    files, arrays = tiny_mnist()
    raw = write_files(tmp_path / folder / "raw", files, packed=True)
    assert load_dataset(name, root=tmp_path).train_labels.tolist() == arrays[1].tolist()
    assert everything_under(raw) == sorted([*MNIST_FILES, *(f"{file}.gz" for file in MNIST_FILES)])
    assert os.listdir(tmp_path) == [folder]  # the staging folder is gone


def test_fashion_mnist_is_taken_from_debian_and_unpacked_once(tmp_path, monkeypatch):
    files, arrays = tiny_mnist()
    debian = write_files(tmp_path / "debian", files, packed=True)
    monkeypatch.setattr(data, "_DEBIAN_FASHION_MNIST", debian)
    dataset = load_dataset("fashion_mnist", root="new/root")
    assert dataset.name == "fashion_mnist" and dataset.class_names[9] == "Ankle boot"
    assert dataset.train_labels.tolist() == arrays[1].tolist()
    assert everything_under(tmp_path / "new") == sorted(
        ["root", "root/FashionMNIST", "root/FashionMNIST/raw"] + [f"root/FashionMNIST/raw/{f}" for f in MNIST_FILES]
    )
    monkeypatch.setattr(data, "_DEBIAN_FASHION_MNIST", tmp_path / "gone")
    assert dataset_checksum(load_dataset("fashion_mnist", root="new/root")) == dataset_checksum(dataset)


def test_debian_is_for_fashion_mnist_only(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_DEBIAN_FASHION_MNIST", write_files(tmp_path / "debian", tiny_mnist()[0], packed=True))
    expect_error("mnist", "mnist: expected", "MNIST/raw", root=tmp_path / "root")


@pytest.mark.parametrize("damage", [lambda b: b[:-30], lambda b: b"not gzip", lambda b: b[:10] + b"\xff" + b[11:]])
def test_damaged_packed_file_is_named_and_leaves_nothing(tmp_path, monkeypatch, damage):
    debian = write_files(tmp_path / "debian", tiny_mnist()[0], packed=True)
    monkeypatch.setattr(data, "_DEBIAN_FASHION_MNIST", debian)
    damaged = debian / f"{MNIST_FILES[2]}.gz"  # the two files before it unpack
    damaged.write_bytes(damage(damaged.read_bytes()))
    size = f"{damaged.stat().st_size:,} bytes"
    expect_error("fashion_mnist", damaged, "expected a whole gzip file", size, "fetch it again", root="new/root")
    assert not (tmp_path / "new").exists()


def test_root_that_may_not_be_written_when_unpacking(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_DEBIAN_FASHION_MNIST", write_files(tmp_path / "debian", tiny_mnist()[0], packed=True))
    refuse_to_write(monkeypatch)
    expect_error("fashion_mnist", "fashion_mnist: cannot unpack", tmp_path / "debian", "new/root/FashionMNIST/raw",
                 "Permission denied", "NOPROP_DATA or --data-root", root="new/root")  # fmt: skip
    assert not (tmp_path / "new").exists()


def refuse_to_write(monkeypatch):
    """As on a read-only folder, also for root, who may write everywhere."""

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(data.tempfile, "mkdtemp", refuse)


# --- files that have to be downloaded -------------------------------------------------------------------------------


def test_download_puts_the_files_into_place_and_nothing_else(tmp_path, monkeypatch, torchvision_datasets, capfd):
    files, arrays = tiny_mnist()
    places = []

    def download(self):
        places.append(Path(self.raw_folder))
        assert socket.getdefaulttimeout() == data._DOWNLOAD_TIMEOUT
        assert not (tmp_path / "root/MNIST").exists()  # nothing is in place before everything is there
        write_files(Path(self.raw_folder), files)
        write_files(Path(self.raw_folder), files, packed=True)
        print("Downloading ...")
        print("100%", file=sys.stderr)

    monkeypatch.setattr(torchvision_datasets.MNIST, "download", download)
    dataset = load_dataset("mnist", root=tmp_path / "root", progress=True)
    assert dataset.test_labels.tolist() == arrays[3].tolist()
    assert places[0].is_relative_to(tmp_path / "root")  # the same file system: a move is all or nothing
    in_place = ["MNIST", "MNIST/raw", *(f"MNIST/raw/{file}" for file in MNIST_FILES)]
    assert everything_under(tmp_path / "root") == sorted(in_place)
    assert capfd.readouterr() == ("", "")
    assert socket.getdefaulttimeout() is None
    load_dataset("mnist", root=tmp_path / "root")
    assert len(places) == 1


def test_download_completes_a_folder_and_keeps_what_is_there(tmp_path, monkeypatch, torchvision_datasets):
    files, arrays = tiny_mnist()
    mine = idx_bytes(numpy.full(30, 4, numpy.uint8))
    write_files(tmp_path / "MNIST/raw", {LABELS_FILE: mine})
    monkeypatch.setattr(torchvision_datasets.MNIST, "download", lambda self: write_files(Path(self.raw_folder), files))
    dataset = load_dataset("mnist", root=tmp_path)
    assert dataset.train_labels.tolist() == [4] * 30
    assert dataset.test_labels.tolist() == arrays[3].tolist()


@pytest.mark.parametrize("root", ["new/root", "there"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("Tried x, got:\nbad checksum\n"), OSError("full")])
def test_broken_download_leaves_nothing(tmp_path, monkeypatch, torchvision_datasets, root, error):
    (tmp_path / "there/mine").mkdir(parents=True)

    def download(self):
        write_files(Path(self.raw_folder), {IMAGES_FILE: b"half"})
        raise error

    monkeypatch.setattr(torchvision_datasets.MNIST, "download", download)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else DataError) as caught:
        load_dataset("mnist", root=root)
    if error is not KeyboardInterrupt:
        assert f"the download failed ({str(error).strip().splitlines()[-1]})" in str(caught.value)
    assert everything_under(tmp_path) == ["there", "there/mine"]


def test_move_that_fails_leaves_nothing(tmp_path, monkeypatch, torchvision_datasets):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    files, _ = tiny_mnist()
    monkeypatch.setattr(torchvision_datasets.MNIST, "download", lambda self: write_files(Path(self.raw_folder), files))
    monkeypatch.setattr(data.os, "replace", refuse)
    expect_error("mnist", "the download failed ([Errno 13] Permission denied)", root="new/root")
    assert everything_under(tmp_path) == []


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_missing_data_without_a_network(name, tmp_path, capfd):
    layout = data._LAYOUTS[name]
    expect_error(
        name, f"{name}: expected {', '.join(layout.files)} in data/{layout.folder}, found none of them",
        "the download failed (<urlopen error the tests use no network>)", "put the files there",
        "NOPROP_DATA or --data-root", "digits", "folder:PATH",
    )  # fmt: skip
    with pytest.raises(DataError) as caught:
        load_dataset(name)
    assert ("dataset-fashion-mnist" in str(caught.value)) == (name == "fashion_mnist")
    assert "://" not in str(caught.value)
    assert everything_under(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_missing_data_says_which_files_are_there(tmp_path):
    files, _ = tiny_mnist()
    write_files(tmp_path / "MNIST/raw", {file: files[file] for file in MNIST_FILES[1:]})
    expect_error("mnist", f"found all but {IMAGES_FILE}, and the download failed", root=tmp_path)
    assert sorted(os.listdir(tmp_path / "MNIST/raw")) == sorted(MNIST_FILES[1:])


def test_root_that_may_not_be_written_when_downloading(tmp_path, monkeypatch):
    refuse_to_write(monkeypatch)
    expect_error("mnist", "the download failed ([Errno 13] Permission denied)", root="new/root")
    assert everything_under(tmp_path) == []


# --- CIFAR ----------------------------------------------------------------------------------------------------------


def test_cifar10_files_are_used_as_they_are(tmp_path, monkeypatch, torchvision_datasets):
    arrays = tiny_cifar(tmp_path / "cifar-10-batches-py", monkeypatch, torchvision_datasets.CIFAR10)
    dataset = load_dataset("cifar10", root=tmp_path)
    assert dataset.name == "cifar10" and dataset.class_names == tuple(f"class {i}" for i in range(10))
    train = numpy.concatenate([arrays[f"data_batch_{i}"] for i in range(1, 6)])
    assert torch.equal(dataset.train_images, torch.from_numpy(train).view(10, 3, 32, 32) / 255)
    assert torch.equal(dataset.test_images, torch.from_numpy(arrays["test_batch"]).view(2, 3, 32, 32) / 255)
    assert dataset.train_images.is_contiguous() and dataset.train_images.dtype == torch.float32
    assert dataset.train_labels.tolist() == [1, 0, 2, 0, 3, 0, 4, 0, 5, 0] and dataset.train_labels.dtype == torch.int64
    assert dataset.test_labels.tolist() == [6, 0]


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_damaged_cifar_file_is_named_and_never_unpickled(tmp_path, monkeypatch, torchvision_datasets, file):
    tiny_cifar(tmp_path / "cifar-10-batches-py", monkeypatch, torchvision_datasets.CIFAR10)
    path = tmp_path / "cifar-10-batches-py" / file
    expected = hashlib.md5(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-5])
    found = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(pickle, "load", lambda *args, **kwargs: pytest.fail("unpickled"))
    size = f"{path.stat().st_size:,} bytes"
    expect_error("cifar10", f"{path}: expected md5 {expected}, found {found} ({size})", root=tmp_path)


def test_cifar_download_puts_the_files_into_place(tmp_path, monkeypatch, torchvision_datasets):
    cifar = torchvision_datasets.CIFAR10
    tiny_cifar(tmp_path / "source", monkeypatch, cifar)
    files = {file.name: file.read_bytes() for file in (tmp_path / "source").iterdir()}

    def download(self):
        write_files(Path(self.root) / self.base_folder, {**files, "readme.html": b""})
        (Path(self.root) / self.filename).write_bytes(b"the archive")

    monkeypatch.setattr(cifar, "download", download)
    assert load_dataset("cifar10", root=tmp_path / "root").train_images.shape == (10, 3, 32, 32)
    assert os.listdir(tmp_path / "root") == ["cifar-10-batches-py"]
    assert sorted(os.listdir(tmp_path / "root/cifar-10-batches-py")) == sorted(data._CIFAR10_FILES)


# --- folders of images ----------------------------------------------------------------------------------------------


def test_folder_labels_follow_the_sorted_class_names(tmp_path):
    dataset = load_dataset(f"folder:{image_folder(tmp_path / 'mine')}")
    assert dataset.name == "folder:mine"
    assert dataset.class_names == ("1", "10", "2")  # as text, as torchvision's ImageFolder sorts them
    assert dataset.train_labels.tolist() == [0, 0, 1, 1, 2, 2] and dataset.test_labels.tolist() == [0, 1, 2]
    assert dataset.train_images.shape == (6, 3, 4, 5) and dataset.train_images.dtype == torch.float32
    assert dataset.train_images.is_contiguous()
    assert torch.equal(dataset.train_images[:, 0, 0, 0] * 255, torch.tensor([1.0, 2, 11, 12, 21, 22]))
    assert torch.equal(dataset.test_images[:, 2, 3, 4] * 255, torch.tensor([3.0, 13, 23]))


def test_folder_agrees_with_torchvision(tmp_path, torchvision_datasets):
    random = numpy.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "Dog"):
            for i in range(3):
                (path := tmp_path / split / name / f"{i}.png").parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 256, (4, 5, 3)).astype(numpy.uint8)).save(path)
    ours, theirs = load_dataset(f"folder:{tmp_path}"), torchvision_datasets.ImageFolder(tmp_path / "train")
    assert ours.class_names == tuple(theirs.classes) and ours.train_labels.tolist() == theirs.targets
    for image, (their_image, _) in zip(ours.train_images, theirs):
        assert numpy.array_equal((image * 255).byte().permute(1, 2, 0).numpy(), numpy.array(their_image))


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)])
def test_folder_is_grey_or_colour(tmp_path, mode, channels):
    assert load_dataset(f"folder:{image_folder(tmp_path, mode=mode)}").test_images.shape == (3, channels, 4, 5)


def test_folder_takes_jpeg_under_any_spelling_and_leaves_other_files(tmp_path):
    image_folder(tmp_path, suffix=".jpg")
    write_image(tmp_path / "train/1/c.JPEG")
    write_image(tmp_path / "train/1/._a.jpg").write_bytes(b"what macOS leaves beside a.jpg")
    (tmp_path / "train/1/notes.txt").write_text("not an image")
    (tmp_path / "train/.ipynb_checkpoints").mkdir()
    assert load_dataset(f"folder:{tmp_path}").train_labels.tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_folder_path_may_be_relative_to_the_current_folder_or_to_the_root(tmp_path, monkeypatch):
    absolute = load_dataset(f"folder:{image_folder(tmp_path / 'root/mine')}")
    for name, root in [("folder:root/mine", None), ("folder:mine", "root"), ("folder:./root/mine/../mine/", "no")]:
        dataset = load_dataset(name, root=root)
        assert dataset.name == absolute.name == "folder:mine"
        assert dataset_checksum(dataset) == dataset_checksum(absolute)
    image_folder(tmp_path / "mine", classes=("here", "there"))
    assert load_dataset("folder:mine", root="root").class_names == ("here", "there")


def test_folder_checksum_is_that_of_the_content(tmp_path):
    before = dataset_checksum(load_dataset(f"folder:{image_folder(tmp_path / 'a')}"))
    image_folder(tmp_path / "b", classes=("2", "1", "10"))  # written in another order, with other values
    for name, i in (("1", 0), ("10", 1), ("2", 2)):
        for split, file, value in (("train", "a", 1), ("train", "b", 2), ("test", "c", 3)):
            write_image(tmp_path / "b" / split / name / f"{file}.png", value=10 * i + value)
    assert dataset_checksum(load_dataset(f"folder:{tmp_path / 'b'}")) == before
    with Image.open(tmp_path / "b/test/2/c.png") as image:
        image.putpixel((4, 3), (23, 23, 24))
        image.save(tmp_path / "b/test/2/c.png")
    assert dataset_checksum(load_dataset(f"folder:{tmp_path / 'b'}")) != before


def remove_tree(path):
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda f: write_image(f / "train/1/a.png", mode="I;16"), ["train/1/a.png: expected 8 bits", "mode I"]),
        (lambda f: remove_tree(f / "test/2"),
         ["expected the same class folders in train and test, found only in train: ['2'], only in test: []"]),
        (lambda f: (f / "test/2").rename(f / "test/3"), ["only in train: ['2'], only in test: ['3']"]),
        (lambda f: (f / "train/10/a.png").unlink() or (f / "train/10/b.png").rename(f / "train/10/b.bmp"),
         ["train/10: expected at least one image (.png, .jpg, .jpeg), found none"]),
        (lambda f: (f / "test").rename(f / "other"), ["test: expected a folder with one folder of images per class"]),
        (lambda f: (f / "train").rename(f / "other") and (f / "train").mkdir(),
         ["train: expected one folder of images per class, found no folder in it"]),
        (lambda f: (f / "train/10/b.png").write_bytes(b""),
         ["train/10/b.png: expected a whole image, found 0 bytes", "replace or delete"]),
        (lambda f: (f / "train/10/b.png").write_text("hi"), ["train/10/b.png: expected a whole image, found 2 bytes"]),
        (lambda f: (f / "train/1/a.png").write_text("hi"), ["train/1/a.png: expected a whole image, found 2 bytes"]),
    ],
)  # fmt: skip
def test_inconsistent_folder_is_refused_with_the_file_that_differs(tmp_path, change, parts):
    change(image_folder(tmp_path / "mine"))
    expect_error(f"folder:{tmp_path / 'mine'}", *parts)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_image_is_named(tmp_path, suffix, share):
    noise = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(numpy.uint8))
    for path in (tmp_path / f"train/1/a{suffix}", tmp_path / f"test/1/a{suffix}"):
        path.parent.mkdir(parents=True)
        noise.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    expect_error(f"folder:{tmp_path}", path, "expected a whole image", f"found {path.stat().st_size:,} bytes")


def test_folder_that_is_not_there(tmp_path):
    expect_error("folder:no", "folder:no: expected a folder with CLASS/*.png or train/CLASS/*.png at no or data/no, found no folder")
    expect_error(f"folder:{tmp_path / 'no'}", f"at {tmp_path / 'no'}, found no folder")
    expect_error("folder:", "expected the path of a folder")


def test_no_progress_bar_where_stderr_is_no_terminal(tmp_path, capfd):
    load_dataset(f"folder:{image_folder(tmp_path)}", progress=True)
    assert capfd.readouterr() == ("", "")


def test_progress_bar_on_a_terminal_if_asked_for(tmp_path, monkeypatch, capsys):
    image_folder(tmp_path)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    load_dataset(f"folder:{tmp_path}")
    assert capsys.readouterr().err == ""
    load_dataset(f"folder:{tmp_path}", progress=True)
    assert re.search(r"reading train.*6/6", capsys.readouterr().err)


# --- torchvision beside a CPU torch ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_torchvision_is_imported_beside_any_torch():
    code = """if True:
        from noprop_helpers.data import import_torchvision
        torchvision = import_torchvision()
        assert import_torchvision() is torchvision
        image, label = torchvision.datasets.FakeData(1, (3, 8, 8))[0]
        import gc; gc.collect()
        from torchvision import transforms
        assert transforms.functional.pil_to_tensor(image).shape == (3, 8, 8)
    """
    assert run_python(code).stderr == ""


def test_other_errors_of_torchvision_are_not_hidden(monkeypatch):
    import builtins

    def broken_import(name, *args, **kwargs):
        if name == "torchvision":
            raise RuntimeError("something else")
        return real_import(name, *args, **kwargs)

    real_import = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", broken_import)
    with pytest.raises(RuntimeError, match="something else"):
        data.import_torchvision()


# --- the real data sets, where they are on disk ---------------------------------------------------------------------


def skip_without(path):
    if not path.is_dir():
        pytest.skip(f"the data are not on disk: no {path.name} in the folder that NOPROP_DATA names")


@pytest.mark.data
def test_real_mnist():
    skip_without(REAL_ROOT / "MNIST")
    dataset = load_dataset("mnist", root=REAL_ROOT)
    assert dataset.train_images.shape == (60000, 1, 28, 28) and dataset.test_images.shape == (10000, 1, 28, 28)
    assert dataset.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert abs(dataset.train_images.mean().item() - 0.1307) < 1e-4  # the mean everyone normalises with
    assert dataset_checksum(dataset) == MNIST_CHECKSUM


@pytest.mark.whole
@pytest.mark.data
def test_real_fashion_mnist(tmp_path, monkeypatch):
    if not DEBIAN_FASHION_MNIST.is_dir():
        pytest.skip("the data are not on disk: Debian's package dataset-fashion-mnist is not installed")
    monkeypatch.setattr(data, "_DEBIAN_FASHION_MNIST", DEBIAN_FASHION_MNIST)
    dataset = load_dataset("fashion_mnist", root=tmp_path / "root")
    assert dataset.train_images.shape == (60000, 1, 28, 28) and dataset.test_images.shape == (10000, 1, 28, 28)
    assert dataset.train_labels.bincount().tolist() == [6000] * 10
    assert abs(dataset.train_images.mean().item() - 0.2860) < 1e-4
    assert dataset_checksum(dataset) == FASHION_MNIST_CHECKSUM


@at_night
@pytest.mark.data
def test_real_cifar10_jpeg_copy():
    skip_without(REAL_ROOT / "cifar10-jpeg")
    dataset = load_dataset("folder:cifar10-jpeg", root=REAL_ROOT)
    assert dataset.name == "folder:cifar10-jpeg"
    assert dataset.train_images.shape == (50000, 3, 32, 32) and dataset.test_images.shape == (10000, 3, 32, 32)
    assert dataset.class_names[:3] == ("airplane", "automobile", "bird") and dataset.num_classes == 10
    assert dataset.train_labels.bincount().tolist() == [5000] * 10
    means = dataset.train_images.mean((0, 2, 3)).tolist()
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)  # CIFAR-10's; JPEG moves them little


def test_a_postscript_file_called_png_is_not_opened(tmp_path, monkeypatch):
    """Pillow would start Ghostscript for it, whatever its name."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: pytest.fail("Ghostscript was started"))
    for split in ("train", "test"):
        folder = tmp_path / split / "a"
        folder.mkdir(parents=True)
        (folder / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match="expected a whole image"):
        load_dataset(f"folder:{tmp_path}")
