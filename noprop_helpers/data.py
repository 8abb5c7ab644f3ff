"""Image data sets as tensors: bundled digits, MNIST, Fashion-MNIST, CIFAR, and folders of your own images.

::

    dataset = load_dataset("digits")
    dataset.train_images                    # [1437, 1, 8, 8] float32 in [0, 1]

Everything is held in memory. Data that cannot be found or read raises `DataError` with one line that says what was
expected, what was there, and what to do; other data never take its place.
"""

import contextlib
import gzip
import hashlib
import importlib.util
import io
import math
import os
import shutil
import socket
import struct
import sys
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import needs
from .augment import check_images, check_like
from .images import DataError, Preparation, as_unit_floats, check_size, expanded, read_folder

__all__ = ["DataError", "Dataset", "load_dataset", "hold_out", "check_dataset", "dataset_checksum"]


class Dataset(NamedTuple):
    """A data set with its training and test split, all in memory."""

    name: str  # "digits", "mnist", ..., "folder:NAME"
    train_images: Tensor  # [N, C, H, W] float32 in [0, 1]
    train_labels: Tensor  # [N] int64 in 0..K-1
    test_images: Tensor  # [M, C, H, W] float32 in [0, 1]
    test_labels: Tensor  # [M] int64 in 0..K-1
    class_names: tuple[str, ...]  # K names; the index is the label
    preparation: Preparation | None = None  # what a folder of images went through

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)

    @property
    def prepared(self) -> str:
        """What was done to a folder of images, in a line; empty where nothing was."""
        return self.preparation.done if self.preparation is not None else ""


class _Layout(NamedTuple):
    """How torchvision lays a data set out under its root."""

    torchvision_class: str
    folder: str
    files: tuple[str, ...]


_DIGIT_NAMES = tuple("0123456789")
_FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_IDX_FILES = (
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
)  # fmt: skip
_CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
_LAYOUTS = {
    "mnist": _Layout("MNIST", "MNIST/raw", _IDX_FILES),
    "fashion_mnist": _Layout("FashionMNIST", "FashionMNIST/raw", _IDX_FILES),
    "cifar10": _Layout("CIFAR10", "cifar-10-batches-py", _CIFAR10_FILES),
    "cifar100": _Layout("CIFAR100", "cifar-100-python", ("train", "test", "meta")),
}
_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist puts it
_DOWNLOAD_TIMEOUT = 20  # seconds without an answer before a download counts as failed


def load_dataset(
    name: str,
    root: str | os.PathLike | None = None,
    progress: bool = False,
    image_size: tuple[int, int] | None = None,
) -> Dataset:
    """Load a data set with its training and test split.

    - ``name``: ``digits`` (bundled with scikit-learn, needs no network), ``mnist``, ``fashion_mnist``, ``cifar10``,
      ``cifar100``, or ``folder:PATH`` with images in PATH/CLASS, of which one in five of every class is tested on, or
      in PATH/train/CLASS and PATH/test/CLASS, each a .png, .jpg or .jpeg. They become one size and all grey or all
      colour (``images.read_folder`` says how), and ``Dataset.preparation`` tells what was done. Labels follow the sorted
      class names. A relative PATH is looked up in the current folder, then under the root.
    - ``root``: the folder that holds torchvision's layout (``MNIST/raw/...``); by default the environment variable
      NOPROP_DATA, else ``./data``. Files that are not there are unpacked from the ``.gz`` files beside them or, for
      Fashion-MNIST, from Debian's package, and otherwise downloaded.
    - ``progress``: show a progress bar for a download and for a folder of images, if stderr is a terminal.
    - ``image_size``: (width, height) that the images of a folder become; by default their most common size

    Raises DataError if the name is unknown, a size is asked of data that have their own, or the data are missing, damaged
    or inconsistent.

    >>> load_dataset("digits").train_images.shape
    torch.Size([1437, 1, 8, 8])
    """
    if image_size is not None and not str(name).startswith("folder:"):
        raise DataError(f"a size can be asked of the images of folder:PATH; {name} comes in its own")
    check_size(image_size)
    try:
        if name == "digits":
            return _load_digits()
        root = _data_root(root)
        if name in ("mnist", "fashion_mnist"):
            return _load_idx(name, root, progress)
        if name in ("cifar10", "cifar100"):
            return _load_cifar(name, root, progress)
        if isinstance(name, str) and name.startswith("folder:"):
            return _load_folder(name.removeprefix("folder:"), root, image_size, progress)
    except OSError as error:
        raise DataError(f"{name}: cannot read {error.filename or 'the data'}: {error.strerror or error}") from error
    raise DataError(f"expected a data set from digits, {', '.join(_LAYOUTS)} or folder:PATH, got {name!r}")


def hold_out(dataset: Dataset, num_validation: int, seed: int = 0) -> Dataset:
    """The tuning set: the test split is replaced by images held out of the training split.

    `num_validation` of the N training images, drawn with `seed`, become the test split; the other N - num_validation
    stay for training. The real test split is not in the result, so choices made on it cannot leak into a test score.

    Raises ValueError unless 1 <= num_validation <= N - 1, and on a seed that is no integer.

    >>> tuning = hold_out(load_dataset("digits"), num_validation=300)
    >>> len(tuning.train_labels), len(tuning.test_labels)
    (1137, 300)
    """
    num_train = len(dataset.train_labels)
    if type(seed) is not int:
        raise ValueError(f"seed must be an integer, got {seed!r}")
    if type(num_validation) is not int or not 1 <= num_validation < num_train:
        raise ValueError(f"num_validation: expected an integer in 1..{num_train - 1}, got {num_validation!r}")
    held_out, kept = _random_split(num_train, num_validation, seed)
    return dataset._replace(
        train_images=dataset.train_images[kept],
        train_labels=dataset.train_labels[kept],
        test_images=dataset.train_images[held_out],
        test_labels=dataset.train_labels[held_out],
    )


def check_dataset(dataset: Dataset) -> None:
    """Raise DataError unless both splits can be used by a model of the training split, now and not after hours of training.

    They must hold at least one image each, all of the training images' shape, float32 in [0, 1], and labels in 0..K-1.

    >>> check_dataset(load_dataset("digits"))
    """
    for split, images, labels in (
        ("train", dataset.train_images, dataset.train_labels),
        ("test", dataset.test_images, dataset.test_labels),
    ):
        try:
            check_images(images, labels, dataset.num_classes)
            check_like(images, tuple(dataset.train_images.shape[1:]))
        except ValueError as error:
            raise DataError(f"{dataset.name}, {split} split: {error}") from None


def dataset_checksum(dataset: Dataset) -> str:
    """`sha256:<hex>` of the shapes, the images as uint8 and the labels of both splits, in their order.

    The same files give the same checksum on every machine (for JPEG: with the same decoder). Raises ValueError on images that
    are not finite.

    >>> dataset_checksum(load_dataset("digits")) == dataset_checksum(load_dataset("digits"))
    True
    """
    digest = hashlib.sha256()
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        digest.update(repr(tuple(images.shape)).encode())
        for part in images.split(4096):  # a whole split at once would double the memory in use
            if not part.isfinite().all():
                raise ValueError(f"{dataset.name}: expected finite images, got NaN or infinity")
            digest.update(part.cpu().mul(255).round().to(torch.uint8).contiguous().numpy())
        digest.update(labels.cpu().numpy().astype("<i8").tobytes())
    return f"sha256:{digest.hexdigest()}"


def _random_split(num_items: int, num_first: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two disjoint index tensors, [num_first] and the rest, the same on every machine."""
    order = torch.randperm(num_items, generator=torch.Generator().manual_seed(seed))
    return order[:num_first], order[num_first:]


def _data_root(root: str | os.PathLike | None) -> Path:
    """The argument, else NOPROP_DATA, else ./data."""
    if root is not None and not isinstance(root, (str, os.PathLike)):
        raise DataError(f"data root: expected the path of a folder, got {root!r}")
    root = expanded(root if root is not None else os.environ.get("NOPROP_DATA") or "data")
    if root.exists() and not root.is_dir():
        raise DataError(f"data root: expected a folder, found a file at {root}; set NOPROP_DATA or --data-root")
    return root


# --- digits ---------------------------------------------------------------------------------------------------------


def _load_digits() -> Dataset:
    """scikit-learn's 1,797 digits of 8x8 pixels, one fixed 80/20 split."""
    pixels, labels = _bundled_digits()
    images = pixels.to(torch.float32).div_(16).view(-1, 1, 8, 8)
    test, train = _random_split(len(labels), 360, seed=0)
    return Dataset("digits", images[train], labels[train], images[test], labels[test], _DIGIT_NAMES)


def _bundled_digits() -> tuple[Tensor, Tensor]:
    """-> pixels [1797, 64] of 0..16, labels [1797] int64.

    Read from scikit-learn's file where it lies: to import all of scikit-learn takes many times as long.
    """
    spec = importlib.util.find_spec("sklearn")
    file = Path(spec.origin if spec and spec.origin else "").parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        try:
            with gzip.open(file, "rt") as lines:
                table = torch.tensor([[int(float(value)) for value in line.split(",")] for line in lines])
            return table[:, :64], table[:, 64]
        except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
            raise DataError(f"digits: cannot read {file} ({error}); install scikit-learn again") from None
    with needs("scikit-learn", "the data set digits"):
        from sklearn.datasets import load_digits

    return tuple(torch.from_numpy(array) for array in load_digits(return_X_y=True))


# --- MNIST and Fashion-MNIST: four IDX files -------------------------------------------------------------------------


def _load_idx(name: str, root: Path, progress: bool) -> Dataset:
    """MNIST or Fashion-MNIST from torchvision's layout; torchvision itself is imported only to download."""
    folder = _find_or_fetch(name, root, progress)
    class_names = _DIGIT_NAMES if name == "mnist" else _FASHION_NAMES
    splits = []
    for images_file, labels_file in (_IDX_FILES[:2], _IDX_FILES[2:]):
        images = _read_idx(folder / images_file, num_dimensions=3)
        labels = _read_idx(folder / labels_file, num_dimensions=1)
        if len(images) != len(labels):
            raise DataError(
                f"{name}: expected {len(images):,} labels in {folder / labels_file}, one for each image in "
                f"{images_file}, found {len(labels):,}; fetch both files again"
            )
        if labels.max() >= len(class_names):
            raise DataError(
                f"{name}: expected labels in 0..{len(class_names) - 1} in {folder / labels_file}, "
                f"found {labels.max().item()}; fetch the file again"
            )
        splits += [as_unit_floats(images.unsqueeze(1)), labels.to(torch.int64)]
    return Dataset(name, *splits, class_names)


def _read_idx(path: Path, num_dimensions: int) -> Tensor:
    """The uint8 tensor in an IDX file: magic 0, 0, 8 (uint8), num_dimensions; big-endian sizes; the values."""
    content = bytearray(path.read_bytes())
    magic = bytes([0, 0, 8, num_dimensions])
    header_bytes = 4 + 4 * num_dimensions
    if content[:4] != magic:
        raise DataError(
            f"{path}: expected an IDX file that starts with the bytes {magic.hex(' ')}, "
            f"found {content[:4].hex(' ') or 'an empty file'}; fetch the file again"
        )
    if len(content) < header_bytes:
        raise DataError(f"{path}: expected a header of {header_bytes} bytes, found {len(content)}; fetch it again")
    shape = struct.unpack(f">{num_dimensions}I", content[4:header_bytes])
    expected_bytes = header_bytes + math.prod(shape)
    if len(content) != expected_bytes:
        raise DataError(f"{path}: expected {expected_bytes:,} bytes, found {len(content):,}; fetch the file again")
    if math.prod(shape) == 0:
        raise DataError(f"{path}: expected at least one item, found the shape {list(shape)}; fetch the file again")
    return torch.frombuffer(content, dtype=torch.uint8, offset=header_bytes).reshape(shape)


# --- CIFAR ----------------------------------------------------------------------------------------------------------


def _load_cifar(name: str, root: Path, progress: bool) -> Dataset:
    """CIFAR-10 or CIFAR-100 (fine labels) from torchvision's layout."""
    folder = _find_or_fetch(name, root, progress)
    datasets = import_torchvision().datasets
    cifar = getattr(datasets, _LAYOUTS[name].torchvision_class)
    # Before torchvision unpickles: a foreign pickle can run code, and torchvision does not say which file is damaged.
    for file_name, expected in [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]:
        path = folder / file_name
        found = datasets.utils.calculate_md5(path)
        if found != expected:
            size = path.stat().st_size
            raise DataError(f"{path}: expected md5 {expected}, found {found} ({size:,} bytes); fetch the file again")
    train, test = cifar(root, train=True), cifar(root, train=False)
    splits = []
    for split in (train, test):
        splits += [as_unit_floats(torch.from_numpy(split.data).permute(0, 3, 1, 2)), torch.tensor(split.targets)]
    return Dataset(name, *splits, tuple(train.classes))


def import_torchvision():
    """The torchvision package, also where its compiled operators do not fit the installed torch.

    >>> import_torchvision().__name__
    'torchvision'
    """
    try:
        with needs("torchvision", "to read CIFAR, and to download"):
            import torchvision
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        # The torchvision wheel built for CUDA cannot load its operators beside a CPU torch, and the import stops where
        # it describes two of them. Declared, they can be described; data sets never call them.
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision._declared_operators = library  # the declarations last as long as this object
    return torchvision


# --- finding, unpacking and downloading files ------------------------------------------------------------------------


def _find_or_fetch(name: str, root: Path, progress: bool) -> Path:
    """The folder that holds the data set's files: as found, else unpacked, else downloaded."""
    layout = _LAYOUTS[name]
    folder = root / layout.folder
    if not _missing(folder, layout.files):
        return folder
    packed_files = [f"{file}.gz" for file in layout.files]
    for source in [folder, _DEBIAN_FASHION_MNIST] if name == "fashion_mnist" else [folder]:
        if not _missing(source, packed_files):
            _unpack(name, source, root)
            return folder
    try:
        with _staging_folder(root, folder) as staging:
            _download(layout.torchvision_class, staging, progress)
            _move_into_place(staging / layout.folder, folder, layout.files)
    except Exception as error:  # no network, a server's refusal, a wrong checksum, a full or read-only disk
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        missing = _missing(folder, layout.files)
        found = f"all but {', '.join(missing)}" if len(missing) < len(layout.files) else "none of them"
        debian = "install Debian's package dataset-fashion-mnist, " if name == "fashion_mnist" else ""
        raise DataError(
            f"{name}: expected {', '.join(layout.files)} in {folder}, found {found}, and the download failed "
            f"({reason}). Without a network: put the files there, {debian}set NOPROP_DATA or --data-root to a folder "
            f"that has {layout.folder}, or use digits or folder:PATH"
        ) from error
    return folder


def _missing(folder: Path, files) -> list[str]:
    return [file for file in files if not (folder / file).is_file()]


def _unpack(name: str, source: Path, root: Path) -> None:
    """Unpack the data set's .gz files from `source` into torchvision's layout under `root`."""
    layout = _LAYOUTS[name]
    folder = root / layout.folder
    try:
        with _staging_folder(root, folder) as staging:
            for file in layout.files:
                _gunzip(source / f"{file}.gz", staging / file)
            _move_into_place(staging, folder, layout.files)
    except OSError as error:
        raise DataError(
            f"{name}: cannot unpack {source} into {folder}: {error.strerror or error}; "
            "set NOPROP_DATA or --data-root to a folder you can write to"
        ) from error


def _gunzip(source: Path, target: Path) -> None:
    """Unpack a .gz file; DataError where it is damaged."""
    try:
        with gzip.open(source) as packed, open(target, "wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        size = source.stat().st_size
        raise DataError(
            f"{source}: expected a whole gzip file, found {size:,} bytes that do not unpack ({error}); fetch it again"
        ) from error


@contextlib.contextmanager
def _staging_folder(root: Path, destination: Path):
    """A temporary folder inside `root`, so that complete files can be moved from it to `destination`.

    It goes on every way out, an interrupt included, and with it those of the folders down to `destination` that were
    not there before and that nothing was put into.
    """
    created = [folder for folder in (destination, *destination.parents) if not folder.exists()]  # deepest first
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".incoming-", dir=root) as staging:
            yield Path(staging)
    finally:
        for folder in created:
            with contextlib.suppress(OSError):  # not empty: then it is to stay
                folder.rmdir()


def _move_into_place(staged: Path, folder: Path, files) -> None:
    """Move complete files from `staged` to `folder`; files that stand there already are left as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        if not (folder / file).is_file():
            os.replace(staged / file, folder / file)


def _download(torchvision_class: str, folder: Path, progress: bool) -> None:
    """Let torchvision download, check and unpack a data set into `folder`."""
    dataset_class = getattr(import_torchvision().datasets, torchvision_class)
    timeout_before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)  # torchvision sets none: behind some firewalls it would wait for ever
    try:
        with contextlib.ExitStack() as quiet:
            quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
            if not (progress and sys.stderr.isatty()):
                quiet.enter_context(contextlib.redirect_stderr(io.StringIO()))
            dataset_class(folder, download=True)
    finally:
        socket.setdefaulttimeout(timeout_before)


# --- a folder of images ---------------------------------------------------------------------------------------------


def _load_folder(path: str, root: Path, image_size: tuple[int, int] | None, progress: bool) -> Dataset:
    """The images of a folder: see ``images.read_folder``."""
    if not path:
        raise DataError("folder:PATH: expected the path of a folder with train/CLASS/*.png, got none")
    folder = expanded(path)
    if not folder.is_dir():
        if not (root / folder).is_dir():
            places = folder if folder.is_absolute() else f"{folder} or {root / folder}"
            raise DataError(
                f"folder:{path}: expected a folder with CLASS/*.png or train/CLASS/*.png at {places}, found no folder"
            )
        folder = root / folder
    *found, _ = read_folder(folder, image_size, progress)  # all but where the test images lie
    return Dataset(f"folder:{folder.resolve().name}", *found)
