"""Losses, one value per sample: the caller averages over the batch, and never mixes layers.

Inputs may carry the states of T layers at once, [T, B, D]; the target [B, D] or [B] is then the same for all of them.
"""

import torch
from torch import Tensor, nn


def squared_error(u_hat: Tensor, u: Tensor) -> Tensor:
    """||u_hat - u||^2 / D, the published notebook's loss: u_hat [..., B, D], u [B, D] -> [..., B].

    Raises ValueError on shapes that do not fit.

    >>> squared_error(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([0.5000])
    """
    _check_target("u_hat", u_hat, u)
    return (u_hat - u).square().sum(-1) / u.shape[-1]


def squared_error_gradient(u_hat: Tensor, u: Tensor) -> Tensor:
    """Of ``squared_error`` by u_hat: 2 (u_hat - u) / D. u_hat [..., B, D], u [B, D] -> [..., B, D].

    Raises ValueError on shapes that do not fit.

    >>> squared_error_gradient(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([[1., 0.]])
    """
    _check_target("u_hat", u_hat, u)
    return (u_hat - u) * (2 / u.shape[-1])


def dt_loss(u_hat: Tensor, u: Tensor, snr_weight: Tensor | float, num_steps: int, eta: float = 0.1) -> Tensor:
    r"""Denoising term of NoProp-DT (paper, eq. 8).

    .. math::

        \mathcal L_t &= \tfrac{T}{2} \, \eta \, w_t \, \| \hat u - u \|^2 \\
        w_t &= \mathrm{SNR}(t-1) - \mathrm{SNR}(t)

    u_hat [..., B, D], u [B, D] -> [..., B]. ``snr_weight`` is a number, or [T] for u_hat [T, B, D].

    Raises ValueError on shapes that do not fit, and on numbers of steps and factors eta that are none.

    >>> dt_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), snr_weight=4.0, num_steps=10, eta=0.1)
    tensor([2.])
    """
    _check_target("u_hat", u_hat, u)
    if not num_steps >= 1 or not 0 <= eta < float("inf"):
        raise ValueError(f"expected num_steps of at least 1 and a finite eta of at least 0, got {num_steps!r} and {eta!r}")
    if not isinstance(snr_weight, (Tensor, int, float)):
        raise ValueError(f"snr_weight must be a number or a tensor, got {snr_weight!r}")
    snr_weight = torch.as_tensor(snr_weight, dtype=u_hat.dtype, device=u_hat.device)
    if snr_weight.ndim not in (0, u_hat.ndim - 2) or snr_weight.shape != u_hat.shape[: snr_weight.ndim]:
        raise ValueError(
            f"snr_weight must be a number, or [T] for u_hat [T, B, D]; got {list(snr_weight.shape)} for {list(u_hat.shape)}"
        )
    weight = 0.5 * num_steps * eta * snr_weight
    return weight.unsqueeze(-1) * (u_hat - u).square().sum(-1)


def ct_loss(u_hat: Tensor, u: Tensor, snr_rate: Tensor, eta: float = 1.0) -> Tensor:
    r"""Denoising term of NoProp-CT (paper, eq. 9; there time runs the other way).

    .. math:: \tfrac12 \, \eta \, (-\mathrm{SNR}'(t)) \, \| \hat u - u \|^2

    u_hat, u [B, D]; snr_rate [B] holds -SNR'(t) >= 0, how fast the signal fades at each sample's time -> [B].

    Raises ValueError on shapes that do not fit.

    >>> ct_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]), snr_rate=torch.tensor([3.0]))
    tensor([1.5000])
    """
    _check_target("u_hat", u_hat, u)
    if not isinstance(snr_rate, Tensor) or snr_rate.shape != u.shape[:1]:
        found = list(snr_rate.shape) if isinstance(snr_rate, Tensor) else repr(snr_rate)
        raise ValueError(f"snr_rate must have shape [{len(u)}], one rate per sample, got {found}")
    return 0.5 * eta * snr_rate * (u_hat - u).square().sum(-1)


def fm_loss(v_hat: Tensor, velocity: Tensor) -> Tensor:
    """Flow matching: ||v_hat - velocity||^2 (paper, eq. 12). v_hat, velocity [B, D] -> [B].

    Raises ValueError on shapes that do not fit.

    >>> fm_loss(torch.tensor([[1.0, 2.0]]), velocity=torch.tensor([[0.0, 0.0]]))
    tensor([5.])
    """
    _check_target("v_hat", v_hat, velocity)
    return (v_hat - velocity).square().sum(-1)


def readout_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy -log softmax(logits)[y] in nats: logits [..., B, K], labels [B] -> [..., B] (paper, eq. 14).

    In 32 bits at least: of class scores in bfloat16, as autocast leaves them on a CPU, small losses would be rounded away.
    Raises ValueError on shapes that do not fit and, on a CPU, labels that are no class.

    >>> readout_loss(torch.zeros(1, 4), labels=torch.tensor([2]))  # four classes, no idea: log 4
    tensor([1.3863])
    """
    _check_labels(logits, labels)
    index = labels.expand(logits.shape[:-1]).unsqueeze(-1)
    try:
        precision = torch.promote_types(logits.dtype, torch.float32)
        return -logits.log_softmax(-1, dtype=precision).gather(-1, index).squeeze(-1)
    except RuntimeError:  # PyTorch looks at every label in any case
        _check_classes(logits, labels)
        raise


def readout_loss_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Of ``readout_loss`` by the logits: softmax(logits) - one_hot(y). logits [..., B, K], labels [B] -> [..., B, K].

    Raises ValueError on shapes that do not fit and, on a CPU, labels that are no class.

    >>> readout_loss_gradient(torch.zeros(1, 4), labels=torch.tensor([2]))
    tensor([[ 0.2500,  0.2500, -0.7500,  0.2500]])
    """
    _check_labels(logits, labels)
    try:
        return logits.softmax(-1) - nn.functional.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    except RuntimeError:
        _check_classes(logits, labels)
        raise


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    if labels.ndim != 1 or logits.ndim < 2 or logits.shape[-2] != len(labels):
        raise ValueError(f"expected logits [..., B, K] and labels [B], got {list(logits.shape)}, {list(labels.shape)}")
    if labels.dtype != torch.int64:
        raise ValueError(f"expected labels of type int64, got {labels.dtype}")


def _check_classes(logits: Tensor, labels: Tensor) -> None:
    """Say which label is no class, once something went wrong: a look at each of them in every step would take time."""
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or high >= logits.shape[-1]:
        wrong = low if low < 0 else high
        raise ValueError(f"expected labels in 0..{logits.shape[-1] - 1}, got {wrong}") from None


def _check_target(name: str, value: Tensor, target: Tensor) -> None:
    # (B, D) - (B, 1) would broadcast silently into a wrong loss.
    if target.ndim != 2 or value.shape[-2:] != target.shape or target.shape[1] == 0:
        raise ValueError(
            f"{name} must end in the target's shape, [B, D] with D >= 1 and here {list(target.shape)}, got {list(value.shape)}"
        )
