"""Label embeddings: class y becomes the vector ``u_y``, row y of a table ``W`` of shape [K, D]."""

import torch
from torch import Tensor


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """u_y for the simplest table, W = I: labels [B] int64 -> [B, K] float32 with a single 1 in each row.

    Raises ValueError unless labels is an int64 vector with entries in 0..K-1.
    """
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(f"labels must have shape [B] and dtype int64, got {list(labels.shape)} {labels.dtype}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1}, got values from {int(labels.min())} to {int(labels.max())}"
        )
    return torch.nn.functional.one_hot(labels, num_classes).float()


def nearest_class(z: Tensor, W: Tensor) -> Tensor:
    """The class whose embedding is nearest to each state (squared distance): z [B, D], W [K, D] -> [B] int64.

    For one-hot embeddings this is the largest entry of z.
    """
    if z.ndim != 2 or W.ndim != 2 or z.shape[1] != W.shape[1]:
        raise ValueError(f"expected z [B, D] and W [K, D] with one D, got {list(z.shape)} and {list(W.shape)}")
    # ||z - w||^2 = ||z||^2 - 2 z.w + ||w||^2; ||z||^2 is the same for every class.
    return (W.square().sum(1) - 2 * z @ W.T).argmin(1)
