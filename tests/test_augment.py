import pytest
import torch
from conftest import generator

from noprop_helpers.augment import check_images, check_like, crop_and_flip

IMAGES = torch.rand(3, 1, 2, 2, generator=generator())


# --- crop_and_flip ---


def test_crop_and_flip_moves_and_mirrors_every_image_on_its_own():
    """Each result is one of the 2 * 9 * 9 shifted and mirrored versions of its image, and all of these occur."""
    torch.manual_seed(0)
    image = torch.arange(2 * 6 * 7, dtype=torch.float32).view(2, 6, 7)
    padded = torch.nn.functional.pad(image[None], [4] * 4, mode="reflect")[0]
    versions = {}
    for top in range(9):
        for left in range(9):
            crop = padded[:, top : top + 6, left : left + 7]
            versions[tuple(crop.flatten().tolist())] = versions[tuple(crop.flip(2).flatten().tolist())] = 0
    augmented = crop_and_flip(image.expand(5000, -1, -1, -1))
    assert augmented.shape == (5000, 2, 6, 7)
    for one in augmented:
        versions[tuple(one.flatten().tolist())] += 1
    assert min(versions.values()) > 0


def test_every_image_stays_its_own():
    """Not one is mixed up with another, and the originals are left alone."""
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 9, 9).contiguous()
    before = images.clone()
    assert torch.equal(crop_and_flip(images), before) and torch.equal(images, before)


def test_draws_come_from_the_global_random_state_of_the_cpu():
    images = torch.rand(20, 1, 8, 8, generator=generator())
    torch.manual_seed(1)
    first, second = crop_and_flip(images), crop_and_flip(images)
    torch.manual_seed(1)
    assert torch.equal(crop_and_flip(images), first) and not torch.equal(first, second)


def test_without_padding_images_are_mirrored_alone():
    torch.manual_seed(0)
    images = torch.rand(40, 1, 4, 5, generator=generator())
    augmented = crop_and_flip(images, padding=0)
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(augmented, images)]
    assert 10 < sum(mirrored) < 30
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, augmented, images))


# --- check_images ---


def with_value(value):
    images = IMAGES.clone()
    images[1, 0, 1, 0] = images[2, 0, 0, 0] = value
    return images


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[0], None, "images: expected a floating-point tensor [B, C, H, W], got torch.float32 [1, 2, 2]"),
        (IMAGES.byte(), None, "images: expected a floating-point tensor [B, C, H, W], got torch.uint8 [3, 1, 2, 2]"),
        (IMAGES.numpy(), None, "images: expected a floating-point tensor [B, C, H, W], got ndarray"),
        (IMAGES[:0], None, "images: expected at least one image and one pixel, got torch.float32 [0, 1, 2, 2]"),
        (with_value(float("nan")), None, "images: expected finite values, got nan at index [1, 0, 1, 0]"),
        (with_value(float("inf")), None, "images: expected finite values, got inf at index [1, 0, 1, 0]"),
        (IMAGES, torch.tensor([0, 1]), "labels: expected an int64 tensor [3], one per image, got torch.int64 [2]"),
        (IMAGES, torch.zeros(3, 1), "labels: expected an int64 tensor [3], one per image, got torch.float32 [3, 1]"),
        (IMAGES, torch.zeros(3), "labels: expected an int64 tensor [3], one per image, got torch.float32 [3]"),
        (IMAGES, [0, 1, 2], "labels: expected an int64 tensor [3], one per image, got list"),
        (IMAGES, torch.tensor([0, 4, 5]), "labels: expected labels in 0..3, got 4 at index [1]"),
        (IMAGES, torch.tensor([0, 1, -1]), "labels: expected labels in 0..3, got -1 at index [2]"),
    ],
)
def test_check_images_says_what_was_expected_and_what_came(images, labels, message):
    with pytest.raises(ValueError) as caught:
        check_images(images, labels, num_classes=4)
    assert str(caught.value) == message


def test_check_images_accepts_good_input():
    check_images(IMAGES)
    check_images(IMAGES.double(), torch.tensor([0, 3, 1]), num_classes=4)
    check_images(IMAGES, torch.tensor([0, 3, 1]))
    with pytest.raises(ValueError, match=r"labels of at least 0, got -1 at index \[0\]"):
        check_images(IMAGES, torch.tensor([-1, 3, 1]))


# --- check_like ---


@pytest.mark.parametrize("images, message", [
    (IMAGES[:, :, :1],
     "images: expected torch.float32 [B, 1, 2, 2] with values from 0 to 1, as in training, got torch.float32 [3, 1, 1, 2]"),
    (IMAGES.expand(3, 3, 2, 2), "got torch.float32 [3, 3, 2, 2]"),
    (IMAGES[0], "got torch.float32 [1, 2, 2]"),
    (IMAGES.double(), "as in training, got torch.float64 [3, 1, 2, 2]"),
    ((IMAGES * 255).byte(), "got torch.uint8 [3, 1, 2, 2]"),
    (IMAGES.numpy(), "got ndarray"),
    (IMAGES[:0], "expected at least one image"),
    (with_value(float("nan")), "expected finite values"),
    (with_value(255.0), "images: expected values from 0 to 1, as in training, got values from 0.0884774 to 255; divide by 255"),
    (with_value(1.5), "got values from 0.0884774 to 1.5"),
    (with_value(-0.5), "got values from -0.5 to"),
])  # fmt: skip
def test_check_like_says_what_was_expected_and_what_came(images, message):
    with pytest.raises(ValueError) as caught:
        check_like(images, (1, 2, 2))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert ("divide by 255" in str(caught.value)) == ("divide by 255" in message)


def test_check_like_accepts_what_is_like_it():
    check_like(IMAGES, (1, 2, 2))
    check_like(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).double(), [1, 1, 2], torch.float64)
