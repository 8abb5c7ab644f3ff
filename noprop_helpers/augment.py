"""Images on their way into a model: whether they fit, and the usual random changes of small colour ones in training."""

import torch
from torch import Tensor


PADDING = 4  # of images of 32 pixels, as usual


def crop_and_flip(images: Tensor, padding: int = PADDING) -> Tensor:
    """Move and mirror every image at random: images [B, C, H, W] -> the same shape.

    Every image is moved by up to ``padding`` pixels each way, what it leaves filled by reflection, and mirrored left to
    right half of the time. Draws come from torch's global random state, on the CPU.

    Raises ValueError unless images are floating point and padding is smaller than their sides.

    >>> crop_and_flip(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 3, 32, 32])
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images: expected a floating-point tensor [B, C, H, W], got {_describe(images)}")
    batch, _, height, width = images.shape
    if not isinstance(padding, int) or not 0 <= padding < min(height, width):
        raise ValueError(f"padding must be an integer from 0 to {min(height, width) - 1}, less than a side, got {padding!r}")
    padded = torch.nn.functional.pad(images, [padding] * 4, mode="reflect")
    top, left = torch.randint(2 * padding + 1, (2, batch, 1))
    rows = (top + torch.arange(height)).to(images.device)  # [B, H]
    columns = left + torch.arange(width)
    mirrored = torch.rand(batch, 1) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns).to(images.device)  # [B, W]
    sample = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def check_images(images: Tensor, labels: Tensor | None = None, num_classes: int | None = None) -> None:
    """Check that images and labels can be trained on.

    - ``images``: [B, C, H, W] floating point, not empty, every value finite
    - ``labels``: [B] int64 in 0..num_classes-1 (at least 0 where num_classes is not given)

    Raises ValueError that says what was expected and what came, with the index of the first bad value.

    >>> check_images(torch.rand(2, 1, 8, 8), labels=torch.tensor([3, 12]), num_classes=10)
    Traceback (most recent call last):
    ValueError: labels: expected labels in 0..9, got 12 at index [1]
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images: expected a floating-point tensor [B, C, H, W], got {_describe(images)}")
    if images.device.type == "meta":
        raise ValueError("images: expected values, got a tensor on the device meta, which has none")
    if images.numel() == 0:
        raise ValueError(f"images: expected at least one image and one pixel, got {_describe(images)}")
    _check_all("images", images, images.isfinite(), "finite values")
    if labels is None:
        return
    if not isinstance(labels, Tensor) or labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels: expected an int64 tensor [{len(images)}], one per image, got {_describe(labels)}")
    if num_classes is None:
        _check_all("labels", labels, labels >= 0, "labels of at least 0")
    elif num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, so that there can be labels, got {num_classes}")
    else:
        _check_all("labels", labels, (labels >= 0) & (labels < num_classes), f"labels in 0..{num_classes - 1}")


def check_like(images: Tensor, image_shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> None:
    """Check that images are like those that a model was trained on.

    - ``images``: [B, C, H, W] of this dtype, every value in [0, 1]; ``image_shape``: the (C, H, W) of the training images

    Raises ValueError that says what was expected and what came.

    >>> check_like(torch.rand(2, 1, 8, 8), (1, 8, 8))
    >>> check_like(255 * torch.ones(2, 1, 8, 8), (1, 8, 8))
    Traceback (most recent call last):
    ValueError: images: expected values from 0 to 1, as in training, got values from 255 to 255; divide by 255
    """
    expected = f"{dtype} [B, {', '.join(map(str, image_shape))}]"
    if not isinstance(images, Tensor) or tuple(images.shape[1:]) != tuple(image_shape) or images.dtype != dtype:
        raise ValueError(f"images: expected {expected} with values from 0 to 1, as in training, got {_describe(images)}")
    check_images(images)
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 1:
        hint = "; divide by 255" if low >= 0 and 2 < high <= 255 else ""
        raise ValueError(f"images: expected values from 0 to 1, as in training, got values from {low:g} to {high:g}{hint}")


def _describe(value) -> str:
    """`torch.float32 [2, 3]` for a tensor, the type's name for anything else."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _check_all(name: str, values: Tensor, good: Tensor, expected: str) -> None:
    """Raise ValueError with the index of the first value that is not good."""
    if good.all():
        return
    index = tuple((~good).nonzero()[0].tolist())
    raise ValueError(f"{name}: expected {expected}, got {values[index].item()} at index {list(index)}")
