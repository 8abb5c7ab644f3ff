"""Images in files: how a folder is split, what all its images become, what is said of it, and one picture made alike."""

import json
import os
import random
from dataclasses import asdict
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from noprop_helpers import images
from noprop_helpers.data import DataError, dataset_checksum, load_dataset
from noprop_helpers.images import read_folder, read_picture, split_files


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path, size=(6, 4), mode="L", value=None, seed=0, **options):
    """A picture of noise, or of one value: -> its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = numpy.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels)).astype(numpy.uint8)
    if value is not None:
        pixels[:] = value
    Image.frombytes(mode, size, pixels.tobytes()).save(path, **options)
    return path


def write_classes(folder, number=10, names=("cat", "dog"), **options):
    """FOLDER/CLASS/NUMBER.png, each with noise of its own."""
    for name in names:
        for i in range(number):
            write(f"{folder}/{name}/{i:02}.png", seed=100 * ord(name[0]) + i, **options)
    return folder


def refused(call, *parts):
    """It fails with one line that holds all the parts."""
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


# --- A folder per class, without a split ---


def test_one_in_five_of_every_class_is_tested_on():
    write_classes("mine", number=10)
    write_classes("mine", number=3, names=("owl",))
    read = load_dataset("folder:mine")
    assert read.name == "folder:mine" and read.class_names == ("cat", "dog", "owl")
    assert read.train_labels.bincount().tolist() == [8, 8, 2] and read.test_labels.bincount().tolist() == [2, 2, 1]
    assert read.train_images.shape == (18, 1, 4, 6) and read.train_labels.tolist() == sorted(read.train_labels.tolist())
    assert read.preparation.test_share == 0.2 and read.preparation.split_seed == 0
    assert read.preparation.lines == ["split by file name, 20 % of every class to test on"]


def test_every_image_is_in_one_split():
    write_classes("mine")
    read = read_folder("mine")
    rows = torch.cat([read.train_images, read.test_images]).flatten(1)
    expected = [numpy.asarray(Image.open(path)).ravel() / 255 for path in Path("mine").rglob("*.png")]
    assert sorted(rows.mul(255).round().tolist()) == sorted((numpy.array(expected) * 255).round().tolist())


def test_the_split_follows_from_the_names_alone(monkeypatch):
    """Not from the file system's order, nor from where the folder lies, nor from what was drawn before."""
    first = dataset_checksum(load_dataset(f"folder:{write_classes('one')}"))
    torch.manual_seed(5)
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: random.Random(3).sample(listed(folder), len(listed(folder))))
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter([folder / name for name in os.listdir(folder)]))
    assert os.listdir("one/cat") != sorted(os.listdir("one/cat"))
    assert dataset_checksum(load_dataset(f"folder:{write_classes('there/two')}")) == first


def test_images_of_a_split_of_ones_own_are_in_the_order_of_their_names(monkeypatch):
    for i in range(10):
        write(f"mine/train/a/{i}.png", value=i), write(f"mine/test/a/{i}.png", value=100 + i)
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: random.Random(3).sample(listed(folder), len(listed(folder))))
    read = load_dataset("folder:mine")
    assert read.train_images[:, 0, 0, 0].mul(255).round().tolist() == list(range(10))
    assert read.test_images[:, 0, 0, 0].mul(255).round().tolist() == list(range(100, 110))


def test_the_split_is_the_same_on_every_machine():
    files = [Path("x/owl") / f"{i}.png" for i in range(10)]
    train, test = split_files(files)
    assert [file.name for file in test] == ["4.png", "6.png"] and train == [file for file in files if file not in test]
    assert split_files(files[::-1]) == (train, test)
    assert [len(part) for part in split_files(files, share=0.5)] == [5, 5]
    others = [[file.name for file in split_files(files, seed=seed)[1]] for seed in range(20)]
    assert len({tuple(names) for names in others}) > 10  # the seed draws
    classes = [[f.name for f in split_files([Path(f"x/{k}/{i}.png") for i in range(10)])[1]] for k in range(20)]
    assert len({tuple(names) for names in classes}) > 10  # and so does the class: not the same numbers everywhere


def test_more_images_move_few_of_the_others():
    files = [Path("x/cat") / f"{i}.png" for i in range(100)]
    before, after = (set(split_files(some)[1]) for some in (files[:95], files))
    assert len(before - after) <= 2 and len(before) == 19 and len(after) == 20


@pytest.mark.parametrize("change, parts", [
    (lambda: write("mine/owl/only.png"),
     ["mine/owl: expected two images at least, one to train and one to test on, found one"]),
    (lambda: Path("mine/empty").mkdir(), ["mine/empty: expected at least one image (.png, .jpg, .jpeg), found none"]),
    (lambda: Path("mine/train").mkdir(), ["mine/test: expected a folder", "as train is", "a folder per class is split here"]),
    (lambda: Path("mine/test").mkdir(), ["mine/train: expected a folder", "as test is"]),
    (lambda: write("mine/cat/bad.png").write_text("hi"), ["mine/cat/bad.png: expected a whole image, found 2 bytes"]),
    (lambda: Image.new("I;16", (6, 4)).save("mine/cat/deep.png"), ["mine/cat/deep.png: expected 8 bits grey or colour"]),
])  # fmt: skip
def test_a_folder_that_cannot_be_split_is_refused(change, parts):
    write_classes("mine")
    change()
    refused(lambda: load_dataset("folder:mine"), *parts)


def test_images_without_a_folder_per_class_are_refused():
    write("mine/1.png"), write("mine/2.png")
    refused(lambda: load_dataset("folder:mine"), "mine: expected one folder of images per class, found no folder in it")


# --- One size, one colour ---


def test_mixed_sizes_become_the_most_common_one_of_the_training_images():
    for split, sizes in (("train", [(6, 4), (6, 4), (9, 9)]), ("test", [(8, 8), (8, 8), (8, 8)])):
        for i, size in enumerate(sizes):
            write(f"mine/{split}/a/{i}.png", size=size, seed=hash((split, i)) % 1000)
    read = load_dataset("folder:mine")
    assert read.train_images.shape == (3, 1, 4, 6) and read.test_images.shape == (3, 1, 4, 6)
    assert read.preparation.size == (6, 4) and read.preparation.resized == 4 and not read.preparation.asked
    assert read.preparation.lines == ["4 resized to 6x4, the most common size"]
    as_it_is = numpy.asarray(Image.open("mine/train/a/0.png")) / numpy.float32(255)
    assert numpy.array_equal(read.train_images[0, 0], as_it_is)


def test_of_sizes_as_common_the_smaller_one_is_taken():
    for i, size in enumerate([(5, 5), (4, 6), (6, 4), (5, 5), (6, 4), (4, 6)]):
        write(f"mine/{'train' if i < 6 else 'test'}/a/{i}.png", size=size, seed=i)
    write("mine/test/a/x.png", size=(4, 6))
    assert load_dataset("folder:mine").preparation.size == (4, 6)


def test_a_size_that_was_asked_for():
    write_classes("mine", size=(12, 8))
    read = load_dataset("folder:mine", image_size=(5, 7))
    assert read.train_images.shape == (16, 1, 7, 5) and read.preparation.asked
    assert read.preparation.done == "split by file name, 20 % of every class to test on; 20 resized to 5x7, as asked"
    refused(lambda: load_dataset("digits", image_size=(5, 7)), "digits comes in its own")


def stripes(size, colours):
    """Vertical stripes of equal width."""
    image = Image.new("RGB", size)
    for i, colour in enumerate(colours):
        image.paste(colour, (i * size[0] // len(colours), 0, (i + 1) * size[0] // len(colours), size[1]))
    return image


def test_a_wide_image_keeps_its_proportions_and_loses_both_ends():
    stripes((80, 20), ["red", "lime", "blue", "white"]).save("wide.png")
    fitted, green, blue = read_picture("wide.png", (3, 20, 40)), torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 0, 1])
    assert fitted.shape == (1, 3, 20, 40)
    assert torch.equal(fitted[0, :, 10, 3], green) and torch.equal(fitted[0, :, 10, 36], blue)
    halved = read_picture("wide.png", (3, 10, 10))  # as high, and so scaled by a half; the middle of 40 pixels
    assert torch.equal(halved[0, :, 5, 0], green) and torch.equal(halved[0, :, 5, 9], blue)
    assert read_picture("wide.png", (3, 40, 160)).shape == (1, 3, 40, 160)  # a small one is enlarged
    assert 0 <= fitted.min() and fitted.max() <= 1 and fitted.dtype == torch.float32 and fitted.is_contiguous()


def test_an_image_of_the_right_size_stays_as_it_is():
    path = write("noise.png", size=(7, 5), mode="RGB")
    expected = torch.from_numpy(numpy.asarray(Image.open(path)).copy()).permute(2, 0, 1) / 255
    assert torch.equal(read_picture(path, (3, 5, 7))[0], expected)


def test_a_large_jpeg_is_shrunk_as_a_png_of_it():
    """Whichever fraction of it is decoded."""
    stripes((800, 400), ["red", "lime", "blue", "white"]).resize((1600, 800)).save("large.jpg", quality=95)
    Image.open("large.jpg").save("large.png")
    jpeg, png = (read_picture(f"large.{kind}", (3, 20, 30)) for kind in ("jpg", "png"))
    assert (jpeg - png).abs().mean() < 0.01 and (jpeg - png).abs().max() < 0.1


@pytest.mark.parametrize("shape, decoded", [
    ((3, 20, 30), (200, 100)), ((3, 30, 50), (200, 100)), ((3, 30, 51), (400, 200)), ((3, 150, 200), (800, 400)),
    ((3, 150, 400), (1600, 800)), ((3, 800, 1600), (1600, 800)),
])  # fmt: skip
def test_a_jpeg_is_decoded_at_twice_the_size_that_is_needed_or_more(shape, decoded, monkeypatch):
    from PIL.JpegImagePlugin import JpegImageFile

    sizes, load = [], JpegImageFile.load
    monkeypatch.setattr(JpegImageFile, "load", lambda image: sizes.append(image.size) or load(image))
    Image.new("RGB", (1600, 800)).save("large.jpg")
    read_picture("large.jpg", shape)
    assert sizes[-1] == decoded


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_seen_as_it_is_shown(orientation):
    """A camera may store it turned, and say so."""
    upright = stripes((64, 32), ["red", "blue"])
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save("photo.jpg", exif=exif, quality=95)
    looked = images._look(Path("photo.jpg"))
    assert looked.size == (64, 32) and looked.turned == (orientation != 1)
    for shape in ((3, 32, 64), (3, 8, 16)):
        seen = read_picture("photo.jpg", shape)[0]
        left, right = seen[:, shape[1] // 2, 1], seen[:, shape[1] // 2, -2]
        assert left[0] > 0.9 > 0.1 > left[2] and right[2] > 0.9 > 0.1 > right[0]


def test_one_colour_image_makes_all_colour():
    write_classes("mine", number=5)
    write("mine/cat/00.png", mode="RGB", seed=7)
    write("mine/cat/01.png", mode="RGBA", seed=8)
    read = load_dataset("folder:mine")
    assert read.train_images.shape[1] == read.test_images.shape[1] == 3
    assert read.preparation.recoloured == 8
    assert read.preparation.done.endswith("; 8 grey or colour made as the others")
    dog = read.train_images[read.train_labels == 1]
    assert torch.equal(dog[:, 0], dog[:, 1]) and torch.equal(dog[:, 0], dog[:, 2])


def test_a_colour_image_among_grey_ones_to_test_on_becomes_grey():
    write("mine/train/a/0.png")
    write("mine/test/a/0.png", mode="RGB", value=(255, 0, 0))
    read = load_dataset("folder:mine")
    assert read.train_images.shape == read.test_images.shape == (1, 1, 4, 6) and read.preparation.recoloured == 1
    assert torch.equal(read.test_images, torch.full((1, 1, 4, 6), 76 / 255))  # Pillow's luminance of red


def test_large_images_are_refused_unless_their_size_was_asked_for():
    for i in range(2):
        write(f"mine/cat/{i}.png", size=(300, 250), seed=i)
    refused(lambda: load_dataset("folder:mine"), "mine: the most common size, 300x250, is more", "--image-size 64")
    assert load_dataset("folder:mine", image_size=(300, 250)).train_images.shape == (1, 1, 250, 300)
    write_classes("right", number=2, size=(256, 256))
    assert load_dataset("folder:right").train_images.shape == (2, 1, 256, 256)


# --- What is said ---


def test_nothing_is_said_of_a_folder_that_was_taken_as_it_is():
    write_classes("mine/train"), write_classes("mine/test", number=2, names=("cat", "dog"), size=(6, 4))
    for path in Path("mine/test").rglob("*.png"):  # other noise than in train
        write(path, seed=ord(path.parent.name[0]) + int(path.stem))
    assert load_dataset("folder:mine").preparation.lines == []
    assert load_dataset("digits").preparation is None


def test_images_in_both_splits_are_pointed_out():
    write_classes("mine/train"), write_classes("mine/test", number=1)
    line = "2 test images are also in the training split, pixel for pixel (as test/cat/00.png, test/dog/00.png): the accuracy flatters"
    assert load_dataset("folder:mine").preparation.lines == [line]
    write("mine/test/cat/00.png", seed=999)
    one = load_dataset("folder:mine").preparation
    assert one.in_both == 1 and one.example == "test/dog/00.png"
    assert one.lines[0].startswith("1 test image is also in the training split, pixel for pixel (as test/dog/00.png)")


def test_what_is_no_image_is_counted_and_said():
    write_classes("mine")
    Path("mine/cat/notes.txt").write_text("x")
    Path("mine/dog/a.webp").write_bytes(b"x")
    Path("mine/dog/deeper").mkdir()
    Path("mine/dog/.hidden").write_text("x")
    read = load_dataset("folder:mine").preparation
    assert read.left_out == 3 and read.lines[1:] == ["3 left out that are no .png, .jpg, .jpeg"]


def test_a_preparation_is_plain_data():
    write_classes("mine")
    told = json.loads(json.dumps(asdict(load_dataset("folder:mine", image_size=(4, 4)).preparation)))
    assert told == {
        "size": [4, 4], "asked": True, "resized": 20, "recoloured": 0, "test_share": 0.2, "split_seed": 0, "left_out": 0,
        "in_both": 0, "example": None,
    }  # fmt: skip


# --- One picture ---


def test_fits_says_whether_a_picture_is_as_it_should_be():
    write("grey.png", size=(6, 4)), write("colour.png", size=(6, 4), mode="RGBA")
    assert images.fits("grey.png", (1, 4, 6)) and images.fits("colour.png", (3, 4, 6))
    assert not images.fits("grey.png", (1, 6, 4)) and not images.fits("grey.png", (3, 4, 6))


def test_a_picture_becomes_what_the_training_images_were():
    """Read from the folder and read alone: the same numbers, for every way that an image can differ."""
    write_classes("mine", number=5, size=(10, 8), mode="RGB")
    write("mine/cat/05.png", size=(31, 17), mode="RGBA", seed=1)
    write("mine/cat/06.jpg", size=(100, 90), mode="RGB", seed=2)
    write("mine/cat/07.png", size=(10, 8), mode="L", seed=3)
    read = read_folder("mine")
    files = {split: images._without_split(Path("mine"))[i + 1] for i, split in enumerate(("train", "test"))}
    assert read.test_files == tuple(file for class_files in files["test"] for file in class_files)
    for split, rows in (("train", read.train_images), ("test", read.test_images)):
        for row, file in zip(rows, [file for class_files in files[split] for file in class_files], strict=True):
            assert torch.equal(read_picture(file, (3, 8, 10))[0], row), file


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_kind_of_picture_fits_grey_and_colour_models(mode, channels):
    Image.new("RGB", (9, 9), (120, 120, 120)).convert(mode).save("picture.jpg" if mode == "CMYK" else "picture.png")
    picture = read_picture("picture.jpg" if mode == "CMYK" else "picture.png", (channels, 4, 4))
    assert picture.shape == (1, channels, 4, 4) and 0 <= picture.min() and picture.max() <= 1


def test_pictures_that_cannot_be_read_are_refused():
    Path("folder.png").mkdir()
    Path("text.png").write_text("hello")
    write("ok.png")
    refused(lambda: read_picture("none.png", (1, 4, 4)), "none.png: expected an image file, found none")
    refused(lambda: read_picture("folder.png", (1, 4, 4)), "folder.png: expected an image file, found a folder")
    refused(lambda: read_picture("text.png", (1, 4, 4)), "text.png: expected a whole image", "do not decode as PNG or JPEG")
    refused(lambda: read_picture("ok.png", (2, 4, 4)), "cannot become an image of 2 channels")


def test_a_picture_that_may_not_be_read_is_refused(monkeypatch):
    write("ok.png")
    error = PermissionError(13, "Permission denied", "ok.png")
    monkeypatch.setattr(Image, "open", lambda *a, **k: (_ for _ in ()).throw(error))
    refused(lambda: read_picture("ok.png", (1, 4, 4)), "cannot read ok.png: Permission denied")
