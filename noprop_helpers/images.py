"""Images in files: one picture, or a folder of them, as tensors of one shape.

::

    folder = read_folder("my-images", size=(32, 32))
    folder.train_images                      # [N, C, 32, 32] float32 in [0, 1]
    read_picture("cat.jpg", (3, 32, 32))     # [1, 3, 32, 32], made as those were

All images become one size, and all grey or all colour. One of another size is scaled, its proportions kept, until it just
covers that size; what stands over is cut off, as much on either side. What was done is told in a ``Preparation``.
"""

import collections
import contextlib
import dataclasses
import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from . import NoPropError, needs

TEST_SHARE, SPLIT_SEED = 0.2, 0  # of a folder that comes without a split: one image in five, and what draws it
LARGEST = 256 * 256  # pixels of an image that nobody asked for by its size
MOST_SIDE = 4096  # pixels of a side that somebody asks for
MOST_PIXELS = 2**30 // 12  # of an image in a file: four colours, decoded and changed, take a third of a GiB each time

_SUFFIXES = (".png", ".jpg", ".jpeg")
_GREY_OR_COLOUR = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGB", "CMYK": "RGB"}  # Pillow's modes
_ORIENTATION = 0x0112  # the tag by which a camera says how it was held


class DataError(NoPropError):
    """The data that were asked for are missing, unreadable or inconsistent; the message is one line for the user."""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What a folder of images went through before training, as plain data.

    - ``size``: (width, height) of all images now; ``asked``: it was asked for, otherwise it is the training images' most
      common one
    - ``resized``, ``recoloured``: how many images had another size; how many were grey among colour ones, or colour among grey
    - ``test_share``, ``split_seed``: of a split that was made here; None where the folder has train and test
    - ``left_out``: files and folders beside the images that are none, unread
    - ``in_both``: test images that are in the training split too, pixel for pixel; ``example``: the first three, as paths

    >>> Preparation((16, 16), resized=3, test_share=0.2).done
    'split by file name, 20 % of every class to test on; 3 resized to 16x16, the most common size'
    """

    size: tuple[int, int]
    asked: bool = False
    resized: int = 0
    recoloured: int = 0
    test_share: float | None = None
    split_seed: int | None = None
    left_out: int = 0
    in_both: int = 0
    example: str | None = None

    @property
    def done(self) -> str:
        """What was done, in one line; empty where the images are as they were."""
        steps = []
        if self.test_share is not None:
            steps.append(f"split by file name, {100 * self.test_share:.0f} % of every class to test on")
        if self.resized:
            which = "as asked" if self.asked else "the most common size"
            steps.append(f"{self.resized:,} resized to {self.size[0]}x{self.size[1]}, {which}")
        if self.recoloured:
            steps.append(f"{self.recoloured:,} grey or colour made as the others")
        return "; ".join(steps)

    @property
    def lines(self) -> list[str]:
        """What its user should know, a line each; what was done, what was left out, what weakens the test."""
        lines = [self.done] if self.done else []
        if self.left_out:
            lines.append(f"{self.left_out:,} left out that are no {', '.join(_SUFFIXES)}")
        if self.in_both:
            copies = f"{self.in_both:,} test images are" if self.in_both > 1 else "1 test image is"
            lines.append(f"{copies} also in the training split, pixel for pixel (as {self.example}): the accuracy flatters")
        return lines


class ImageFolder(NamedTuple):
    """A folder of images, read: its two splits, the names of its classes, and what was done to it."""

    train_images: Tensor  # [N, C, H, W] float32 in [0, 1]
    train_labels: Tensor  # [N] int64
    test_images: Tensor  # [M, C, H, W] float32 in [0, 1]
    test_labels: Tensor  # [M] int64
    class_names: tuple[str, ...]  # the index is the label
    preparation: Preparation
    test_files: tuple[Path, ...]  # M, where the test images lie


def read_folder(folder: str | os.PathLike, size: tuple[int, int] | None = None, progress: bool = False) -> ImageFolder:
    """Read FOLDER/train/CLASS/* and FOLDER/test/CLASS/*, or FOLDER/CLASS/* and split it: .png, .jpg, .jpeg.

    - The split takes one image in five of every class, at least one, to test on: those whose file names come first when
      ``SPLIT_SEED`` has shuffled them. It depends on the names alone, and more images move few of the others.
    - ``size``: (width, height) for all; by default the most common one of the training images
    - All become colour if one of the training images is; transparency is dropped, a photograph's orientation heeded.
    - ``progress``: show a progress bar, if stderr is a terminal

    Raises DataError where a folder, a class or an image is missing or unreadable, where something else than a file is called
    as an image, and where nobody named a size and the most common one is over 256 x 256 pixels.

    >>> from PIL import Image
    >>> for i in range(4):
    ...     Path("ours", "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
    ...     Image.new("L", (8, 6), color=i).save(f"ours/{'ab'[i % 2]}/{i}.png")
    >>> folder = read_folder("ours")
    >>> folder.class_names, folder.train_images.shape
    (('a', 'b'), torch.Size([2, 1, 6, 8]))
    """
    check_size(size)
    folder = expanded(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of images, found {_kind(folder)}")
    laid_out = _with_split(folder) if any((folder / name).is_dir() for name in ("train", "test")) else _without_split(folder)
    train, test = ([file for files in split for file in files] for split in (laid_out.train, laid_out.test))
    looks = [_look(file) for file in _bar([*train, *test], "looking through images", progress)]
    mode = "RGB" if any(look.mode == "RGB" for look in looks[: len(train)]) else "L"
    goal = size or _most_common_size(folder, looks[: len(train)])
    pixels = _decoded(train, looks[: len(train)], goal, mode, "train", progress)
    pixels_test = _decoded(test, looks[len(train) :], goal, mode, "test", progress)
    copies = _in_both(pixels, pixels_test)
    preparation = Preparation(
        goal,
        asked=size is not None,
        resized=sum(look.size != goal for look in looks),
        recoloured=sum(look.mode != mode for look in looks),
        test_share=TEST_SHARE if laid_out.split_here else None,
        split_seed=SPLIT_SEED if laid_out.split_here else None,
        left_out=laid_out.left_out,
        in_both=len(copies),
        example=_named([test[i].relative_to(folder) for i in copies]) if copies else None,
    )
    return ImageFolder(
        as_images(pixels), _labels(laid_out.train), as_images(pixels_test), _labels(laid_out.test), laid_out.class_names,
        preparation, tuple(test),
    )  # fmt: skip


def read_picture(path: str | os.PathLike, image_shape: tuple[int, int, int]) -> Tensor:
    """One .png or .jpeg as a model's training images were: made grey or colour, scaled and cropped. -> [1, C, H, W] in [0, 1].

    ``image_shape``: (C, H, W) with C 1 or 3. Raises DataError where there is no such file or it is no image, and for other
    shapes.

    >>> from PIL import Image
    >>> Image.new("RGB", (40, 30)).save("photo.png")
    >>> read_picture("photo.png", (1, 8, 8)).shape
    torch.Size([1, 1, 8, 8])
    """
    path = expanded(path)
    if len(image_shape) != 3:
        raise DataError(f"{path}: expected the shape of an image as (C, H, W), got {tuple(image_shape)}")
    channels, height, width = image_shape
    check_size((width, height))
    if channels not in (1, 3):
        raise DataError(f"{path}: a picture is grey or colour, and cannot become an image of {channels} channels")
    try:
        return as_images(_decoded([path], [_look(path)], (width, height), "L" if channels == 1 else "RGB"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def fits(path: str | os.PathLike, image_shape: tuple[int, int, int]) -> bool:
    """Whether a picture has this shape (C, H, W) already, so that ``read_picture`` need not scale or recolour it.

    Raises DataError where there is no such file or it is no image.

    >>> from PIL import Image
    >>> Image.new("RGB", (40, 30)).save("photo.png")
    >>> fits("photo.png", (3, 30, 40)), fits("photo.png", (1, 8, 8))
    (True, False)
    """
    look = _look(expanded(path))
    return (len(look.mode), *look.size[::-1]) == tuple(image_shape)


def expanded(path: str | os.PathLike) -> Path:
    """A path, with the home folder for a ~ that it starts with. Raises DataError where nobody has that home, or it is no path.

    >>> expanded("~/cats").is_absolute()
    True
    """
    if not isinstance(path, (str, os.PathLike)):
        raise DataError(f"expected a path, got {path!r}")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(f"{path}: there is no such home folder; write the path without ~, as ./~name or /home/name") from None


def check_size(size: tuple[int, int] | None) -> None:
    """Raise DataError unless this is (width, height) in pixels, neither beyond what fits into memory, or None.

    >>> check_size((32, 24))
    """
    if size is None:
        return
    pair = isinstance(size, (tuple, list)) and len(size) == 2 and all(type(side) is int for side in size)
    if not pair or not all(1 <= side <= MOST_SIDE for side in size):
        raise DataError(f"size: expected (width, height), each from 1 to {MOST_SIDE} pixels, got {size!r}")


def as_images(pixels) -> Tensor:
    """uint8 array [N, H, W, C], 0..255 -> contiguous float32 [N, C, H, W] in [0, 1]. Raises ValueError on other types.

    >>> as_images(torch.tensor([[[[0], [255]]]], dtype=torch.uint8).numpy())
    tensor([[[[0., 1.]]]])
    """
    return as_unit_floats(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def as_unit_floats(images: Tensor) -> Tensor:
    """uint8 0..255 -> contiguous float32 in [0, 1]. Raises ValueError on other types.

    >>> as_unit_floats(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"expected pixels as uint8, from 0 to 255, got {images.dtype}")
    return images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


# --- which files ------------------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """Files of a folder, for every class a list."""

    class_names: tuple[str, ...]
    train: list[list[Path]]
    test: list[list[Path]]
    split_here: bool
    left_out: int


def _with_split(folder: Path) -> _Layout:
    """FOLDER/train/CLASS/* and FOLDER/test/CLASS/*."""
    for name, other in (("train", "test"), ("test", "train")):
        if not (folder / name).is_dir():
            raise DataError(
                f"{folder / name}: expected a folder with one folder of images per class, as {other} is, found none; "
                "or leave out both: a folder per class is split here"
            )
    class_names, test_class_names = _class_names(folder / "train"), _class_names(folder / "test")
    if class_names != test_class_names:
        only_train, only_test = set(class_names) - set(test_class_names), set(test_class_names) - set(class_names)
        raise DataError(
            f"{folder}: expected the same class folders in train and test, "
            f"found only in train: {sorted(only_train)}, only in test: {sorted(only_test)}"
        )
    found = {split: [_image_files(folder / split / name) for name in class_names] for split in ("train", "test")}
    left_out = sum(others for split in found.values() for _, others in split)
    train, test = ([files for files, _ in found[split]] for split in ("train", "test"))
    return _Layout(class_names, train, test, False, left_out)


def _without_split(folder: Path) -> _Layout:
    """FOLDER/CLASS/*, parted here."""
    class_names = _class_names(folder)
    found = [_image_files(folder / name) for name in class_names]
    parts = [split_files(files) for files, _ in found]
    return _Layout(class_names, [p[0] for p in parts], [p[1] for p in parts], True, sum(others for _, others in found))


def split_files(files: list[Path], share: float = TEST_SHARE, seed: int = SPLIT_SEED) -> tuple[list[Path], list[Path]]:
    """The files of one class, CLASS/NAME, in two lists sorted by name: to train on, and a share, at least one, to test on.

    Every file's place in the draw follows from seed, class and name. Raises DataError unless there are two files at least, and
    a share below 1.

    >>> train, test = split_files([Path(f"cat/{i}.png") for i in range(10)])
    >>> len(train), len(test)
    (8, 2)
    """
    if not 0 <= share < 1:
        raise DataError(f"share must be at least 0 and below 1, so that there is something to train on, got {share}")
    if not files:
        raise DataError("expected two images at least, one to train and one to test on, found none")
    if len(files) < 2:
        raise DataError(f"{files[0].parent}: expected two images at least, one to train and one to test on, found one")

    def drawn(file: Path) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}/{file.parent.name}/{file.name}")).digest()

    order, num_test = sorted(files, key=drawn), max(1, round(share * len(files)))
    train, test = order[num_test:], order[:num_test]  # by name, as text: Windows sorts paths as if all letters were small
    return sorted(train, key=lambda file: file.name), sorted(test, key=lambda file: file.name)


def _class_names(folder: Path) -> tuple[str, ...]:
    """The sorted names of the class folders; hidden ones (.ipynb_checkpoints) are no classes."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: expected one folder of images per class, found no folder in it")
    return tuple(names)


def _image_files(folder: Path) -> tuple[list[Path], int]:
    """The image files of one class, sorted by name, and how many other things lie beside them.

    Hidden ones (._photo.jpg) are no images, and not worth a word.
    """
    visible = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    names = [name for name in visible if name.lower().endswith(_SUFFIXES)]
    if not names:
        raise DataError(f"{folder}: expected at least one image ({', '.join(_SUFFIXES)}), found none")
    return [folder / name for name in names], len(visible) - len(names)


def _labels(split: list[list[Path]]) -> Tensor:
    return torch.arange(len(split)).repeat_interleave(torch.tensor([len(files) for files in split]))


# --- what is in them --------------------------------------------------------------------------------------------------


class _Look(NamedTuple):
    """What a file's header says of its image, the right way up."""

    size: tuple[int, int]  # width, height
    mode: str  # "L" or "RGB"
    turned: bool  # stored another way up than it is shown


@contextlib.contextmanager
def _opened(path: Path):
    """A Pillow image; whatever Pillow raises while it reads and decodes becomes one DataError that names the file."""
    with needs("pillow", "to read images"):
        from PIL import Image  # only images in files need Pillow

    if not path.is_file():  # a pipe would be waited for, for ever
        raise DataError(f"{path}: expected an image file, found {_kind(path)}")
    try:
        # By content, whatever the name says: Pillow would start Ghostscript for a PostScript file called x.png.
        with _by_us(Image), Image.open(path, formats=("PNG", "JPEG")) as image:
            _check_pixels(path, image.size)
            if image.mode not in _GREY_OR_COLOUR:
                raise DataError(f"{path}: expected 8 bits grey or colour, found Pillow's mode {image.mode}; convert it")
            yield image
    except (DataError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # OSError, SyntaxError, struct.error, ...: it depends on the format and the damage
        size = path.stat().st_size
        raise DataError(
            f"{path}: expected a whole image, found {size:,} bytes that do not decode as PNG or JPEG ({error}); "
            "replace or delete it"
        ) from error


@contextlib.contextmanager
def _by_us(Image):
    """Within it Pillow does not judge sizes: its limits are warnings or errors, as high as to take gigabytes."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_pixels(path: Path, size: tuple[int, int]) -> None:
    """A few bytes can claim to be an image that fills the memory."""
    if size[0] * size[1] > MOST_PIXELS:
        raise DataError(f"{path}: {size[0]}x{size[1]} pixels are too many to read, over {MOST_PIXELS:,}: scale it down first")


def _kind(path: Path) -> str:
    """What lies there in place of a file, in words."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "none"
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _named(files: list[Path]) -> str:
    """The first three, and that there are more."""
    return ", ".join(map(str, files[:3])) + (", ..." if len(files) > 3 else "")


def _orientation(image) -> int:
    """From 1, as it is stored, to 8; 1 also where what the file says of it cannot be read."""
    # Of a PNG only what comes before the pixels: to look behind them would decode it. A photo may be "MPO", two JPEGs in one.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises many kinds here, too; the picture itself may well be whole
        return 1


def _look(path: Path) -> _Look:
    """Reads the header alone: no pixel is decoded."""
    with _opened(path) as image:
        orientation = _orientation(image)
        size = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size  # a quarter turn
        return _Look(size, _GREY_OR_COLOUR[image.mode], orientation != 1)


def _most_common_size(folder: Path, looks: list[_Look]) -> tuple[int, int]:
    """Of as many images the smaller one, so that nothing depends on their order."""
    counts = collections.Counter(look.size for look in looks)
    width, height = min(counts, key=lambda size: (-counts[size], size[0] * size[1], size))
    if width * height > LARGEST:
        raise DataError(
            f"{folder}: the most common size, {width}x{height}, is more than these models are made for; "
            "name a smaller one for all images, as --image-size 64 (image_size=(64, 64))"
        )
    return width, height


def _decoded(
    files: list[Path], looks: list[_Look], size: tuple[int, int], mode: str, description: str = "", progress: bool = False
):
    """uint8 array [N, H, W, C]: every image the right way up, of this size and mode."""
    import numpy

    pixels = numpy.empty((len(files), size[1], size[0], len(mode)), dtype=numpy.uint8)
    for i, file in enumerate(_bar(files, f"reading {description}", progress)):
        pixels[i] = _fitted(file, looks[i], size, mode).reshape(pixels.shape[1:])
    return pixels


def _fitted(path: Path, look: _Look, size: tuple[int, int], mode: str):
    """One image as an array [H, W] or [H, W, 3], scaled to cover the size and cropped in the middle if it has another."""
    import numpy
    from PIL import Image, ImageOps

    with _opened(path) as image:
        if look.size != size:  # a large JPEG is decoded at a fraction of its size, twice what is needed at least
            image.draft(None, (2 * max(size), 2 * max(size)))
        upright = ImageOps.exif_transpose(image) if look.turned else image
        for wanted in (look.mode, mode):  # transparency and palette first, then grey or colour
            upright = upright if upright.mode == wanted else upright.convert(wanted)
        if upright.size != size:
            upright = ImageOps.fit(upright, size, Image.Resampling.BICUBIC)
        return numpy.asarray(upright)


def _in_both(train, test) -> list[int]:
    """Numbers of the test images that are in the training split too: uint8 arrays [N, ...], [M, ...]."""
    seen = {hashlib.blake2b(image, digest_size=16).digest() for image in train}
    return [i for i, image in enumerate(test) if hashlib.blake2b(image, digest_size=16).digest() in seen]


def _bar(files: list[Path], description: str, progress: bool):
    """A progress bar on standard error while it is a terminal and one is wanted."""
    if not progress or len(files) < 2:
        return files
    with needs("tqdm", "a progress bar"):
        from tqdm.auto import tqdm

    return tqdm(files, desc=description, unit=" images", disable=None)
