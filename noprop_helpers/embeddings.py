"""Label embeddings: class y becomes the vector ``u_y``, row y of a table ``W`` of shape [K, D]."""

import numbers

import torch
from torch import Tensor


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """u_y for the simplest table, W = I: labels [B] int64 -> [B, K] float32 with a single 1 in each row.

    Raises ValueError unless labels is an int64 vector with entries in 0..K-1, and K >= 1.

    >>> one_hot(torch.tensor([2, 0]), num_classes=3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    _check_counts(num_classes)
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be a tensor [B], got {type(labels).__name__}")
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(f"labels must have shape [B] and dtype int64, got {list(labels.shape)} {labels.dtype}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1}, got values from {int(labels.min())} to {int(labels.max())}"
        )
    return torch.nn.functional.one_hot(labels, num_classes).float()


def gaussian(num_classes: int, embed_dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Random rows of squared length about 1: a table [K, D] with independent entries N(0, 1/D).

    Raises ValueError unless K and D are integers of at least 1.

    >>> W = gaussian(10, 1000, torch.Generator().manual_seed(0))
    >>> W.shape, round(W.square().sum(1).mean().item(), 1)
    (torch.Size([10, 1000]), 1.0)
    """
    _check_counts(num_classes, embed_dim)
    _check_generator(generator)
    return torch.randn(num_classes, embed_dim, generator=generator) / embed_dim**0.5


def orthogonal(num_classes: int, embed_dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Random orthonormal rows: a table [K, D] with W @ W.T = I. Raises ValueError unless D >= K >= 1.

    >>> W = orthogonal(3, 5)
    >>> torch.allclose(W @ W.T, torch.eye(3), atol=1e-5)
    True
    """
    _check_counts(num_classes, embed_dim)
    _check_generator(generator)
    if embed_dim < num_classes:
        raise ValueError(f"{num_classes} orthogonal rows need embed_dim >= {num_classes}, got {embed_dim}")
    basis, triangle = torch.linalg.qr(torch.randn(embed_dim, num_classes, generator=generator))
    # QR alone favours some directions; the signs of the diagonal make every rotation as likely (Mezzadri, 2007).
    return (basis * triangle.diagonal().sign()).T.contiguous()


@torch.no_grad()
def prototypes(images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Each class's medoid: its image with the smallest median distance to all images of the class (paper, section 4).

    images [N, C, H, W], labels [N], training split only -> [K, C*H*W], rows as the images are given (standardise first
    if the network sees standardised pixels). Raises ValueError where a class has no image, a label no class, and on images
    that are integers or not finite.

    >>> images = torch.tensor([0.0, 0.4, 0.5, 0.7, 1.5, 9.0]).view(6, 1, 1, 1)  # of one pixel each
    >>> prototypes(images, labels=torch.tensor([0, 0, 0, 0, 0, 1]), num_classes=2)
    tensor([[0.5000],
            [9.0000]])
    """
    if images.ndim != 4 or labels.shape != (len(images),):
        raise ValueError(f"expected images [N, C, H, W] and labels [N], got {list(images.shape)}, {list(labels.shape)}")
    _check_counts(num_classes)
    if not images.is_floating_point() or not images.isfinite().all():
        raise ValueError(f"expected floating-point images, all values finite, got {images.dtype}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"expected labels in 0..{num_classes - 1}, got {labels.min().item()} to {labels.max().item()}")
    rows = []
    for k in range(num_classes):
        own = images[labels == k].flatten(1)  # [n, C*H*W]
        if len(own) == 0:
            raise ValueError(f"class {k} has no image to be its prototype")
        medians = [torch.cdist(chunk, own).median(1).values for chunk in own.split(1000)]
        rows.append(own[torch.cat(medians).argmin()])
    return torch.stack(rows)


def nearest_class(z: Tensor, W: Tensor) -> Tensor:
    """The class whose embedding is nearest to each state (squared distance): z [B, D], W [K, D] -> [B] int64.

    For one-hot embeddings this is the largest entry of z.

    Raises ValueError unless both have one D and one type and, looked at on the CPU alone, are finite.

    >>> nearest_class(torch.tensor([[0.9, 0.2], [0.1, 0.4]]), W=torch.eye(2))
    tensor([0, 1])
    """
    _check_state(z, W)
    # ||z - w||^2 = ||z||^2 - 2 z.w + ||w||^2; ||z||^2 is the same for every class.
    return (W.square().sum(1) - 2 * z @ W.T).argmin(1)


def nearest_distribution(z: Tensor, W: Tensor) -> Tensor:
    """How likely each class is for a label state: z [B, D], W [K, D] -> p [B, K], rows at least 0 with sum 1.

    p is the distribution nearest to ``-||z - W_k||^2 / 2`` (sparsemax, arXiv:1602.02068). Its largest entry
    is the nearest class. With orthonormal rows, one-hot ones among them, a state that is a mixture ``p @ W`` gives back p.
    Raises ValueError as ``nearest_class`` does.

    >>> nearest_distribution(torch.tensor([[0.75, 0.25, 0.0], [9.0, 0.0, 0.0]]), torch.eye(3))
    tensor([[0.7500, 0.2500, 0.0000],
            [1.0000, 0.0000, 0.0000]])
    """
    _check_state(z, W)
    scores = z @ W.T - W.square().sum(1) / 2  # up to a number per row, which changes nothing
    scores = scores - scores.amax(1, keepdim=True)  # so that of large ones rounding leaves what sets them apart
    ordered = scores.sort(1, descending=True).values
    rank = torch.arange(1, len(W) + 1, device=z.device)
    excess = ordered.cumsum(1) - 1  # of the sum over 1, had only the first so many classes a share
    num_classes = (ordered * rank > excess).sum(1, keepdim=True)  # that have one
    return (scores - excess.gather(1, num_classes - 1) / num_classes).clamp(min=0)


def _check_state(z: Tensor, W: Tensor) -> None:
    if z.ndim != 2 or W.ndim != 2 or z.shape[1] != W.shape[1]:
        raise ValueError(f"expected z [B, D] and W [K, D] with one D, got {list(z.shape)} and {list(W.shape)}")
    if z.dtype != W.dtype:
        raise ValueError(f"expected z and W of one type, got {z.dtype} and {W.dtype}")
    # The class of NaN would be class 0. On an accelerator this look at the values would stall the queue.
    if z.device.type == "cpu" and not (z.isfinite().all() and W.isfinite().all()):
        raise ValueError("expected finite z and W: these labels or the layers' weights are NaN or infinite")


def _check_counts(num_classes: int, embed_dim: int = 1) -> None:
    for name, value in (("num_classes", num_classes), ("embed_dim", embed_dim)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {value!r}")


def _check_generator(generator: torch.Generator | None) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}")
