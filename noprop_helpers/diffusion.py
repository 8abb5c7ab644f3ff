"""Forward diffusion of a label embedding: from ``z_0 = u`` (clean) to ``z_T`` (noise).

Time counts noise; ``alphas`` has shape [T] and ``alpha_bar`` shape [T + 1] (see the schedules module). Noise comes
from the caller or from an explicit ``generator``; dtype and device follow the label embedding.
"""

from typing import NamedTuple

import torch
from torch import Tensor


def q_sample(u: Tensor, alpha_bar_t: Tensor | float, noise: Tensor) -> Tensor:
    r"""One draw from q(z_t | u), any t at once (DDPM, eq. 4).

    .. math:: z_t = \sqrt{\bar\alpha_t} \, u + \sqrt{1 - \bar\alpha_t} \, \varepsilon

    - ``u``: label embeddings, [B, D]; repeated over any leading dimensions that ``noise`` has beyond these
    - ``alpha_bar_t``: a number, or a tensor that fits the leading dimensions of ``noise``: [B] for noise [B, D],
      [T] or [T, B] for noise [T, B, D] (the states of T layers at once)
    - ``noise``: standard normal draws, [B, D] or [T, B, D]

    Returns z_t, of the shape of ``noise``.

    Raises ValueError on shapes and types that do not fit or alpha_bar outside [0, 1].

    >>> q_sample(torch.eye(2), alpha_bar_t=0.25, noise=torch.zeros(2, 2))  # half of the label is left
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    """
    if u.ndim < 2 or noise.shape[-u.ndim :] != u.shape:
        raise ValueError(
            f"noise must end in the shape of u, {list(u.shape)} (at least [B, D]), got {list(noise.shape)}"
        )
    _check_floating("u", u)
    if noise.dtype != u.dtype:
        raise ValueError(f"expected u and noise of one type, got {u.dtype} and {noise.dtype}")
    # A number is as exact as u, and never less than float32; a table keeps its own precision.
    dtype = None if isinstance(alpha_bar_t, Tensor) else torch.promote_types(u.dtype, torch.float32)
    alpha_bar_t = _level("alpha_bar_t", alpha_bar_t, noise.device, dtype)
    if alpha_bar_t.shape != noise.shape[: alpha_bar_t.ndim]:
        raise ValueError(
            f"alpha_bar_t must be a number or fit the leading dimensions of noise {list(noise.shape)}, "
            f"got shape {list(alpha_bar_t.shape)}"
        )
    # On an accelerator this look at the values would stall the queue; tables are checked where they are made.
    if alpha_bar_t.device.type == "cpu" and not ((alpha_bar_t >= 0) & (alpha_bar_t <= 1)).all():
        raise ValueError(f"alpha_bar_t must lie in [0, 1], got {alpha_bar_t.tolist()}")
    alpha_bar_t = alpha_bar_t.reshape(alpha_bar_t.shape + (1,) * (noise.ndim - alpha_bar_t.ndim))
    signal, sigma = alpha_bar_t.sqrt().to(u.dtype), (1 - alpha_bar_t).sqrt().to(u.dtype)
    return torch.addcmul(signal * u, sigma, noise)


def ideal_denoiser(z_t: Tensor, alpha_bar_t: Tensor | float, W: Tensor, log_prior: Tensor) -> Tensor:
    r"""E[u | z_t], where u is row k of W with the prior's probability: no guess has a smaller squared error.

    Bayes' rule over a list of labels (Karras et al., arXiv:2206.00364, eq. 57); u_hat is the mean of W under

    .. math::

        p(k \mid z_t) &\propto p(k) \, e^{-d_k} \\
        d_k &= \frac{\| z_t - \sqrt{\bar\alpha_t} \, W_k \|^2}{2 \, (1 - \bar\alpha_t)}

    - ``z_t``: states [B, D]
    - ``alpha_bar_t``: one number in [0, 1)
    - ``W``: label embeddings [K, D]
    - ``log_prior``: log p(k | x), one for all states [K] or their own [B, K]

    Returns u_hat [B, D]. Raises ValueError on shapes and types that do not fit, alpha_bar_t outside [0, 1), and a log_prior
    that is NaN or finds no label possible.

    >>> W, even = torch.eye(2), torch.tensor([0.5, 0.5]).log()
    >>> ideal_denoiser(torch.tensor([[0.0, 0.0], [0.0, 2.0]]), 0.5, W, even).round(decimals=2)  # undecided; nearly sure
    tensor([[0.5000, 0.5000],
            [0.0600, 0.9400]])
    """
    alpha_bar_t = float(_level("alpha_bar_t", alpha_bar_t, dtype=torch.float64))
    if z_t.ndim != 2 or W.ndim != 2 or z_t.shape[1] != W.shape[1]:
        raise ValueError(f"expected z_t [B, D] and W [K, D], got {list(z_t.shape)} and {list(W.shape)}")
    if not z_t.dtype == W.dtype == log_prior.dtype:
        raise ValueError(f"expected z_t, W and log_prior of one type, got {z_t.dtype}, {W.dtype} and {log_prior.dtype}")
    if log_prior.shape not in ((len(W),), (len(z_t), len(W))):
        raise ValueError(f"expected log_prior [K] or [B, K] for {len(W)} labels, got {list(log_prior.shape)}")
    if not 0 <= alpha_bar_t < 1:
        raise ValueError(f"alpha_bar_t must lie in [0, 1), got {alpha_bar_t}")
    if not log_prior.logsumexp(-1).isfinite().all():
        raise ValueError("expected a log_prior without NaN that finds one label possible at least, got no such")
    # |z - sqrt(alpha_bar) W_k|^2 without |z|^2, which is the same for all k.
    fit = alpha_bar_t**0.5 * z_t @ W.T - alpha_bar_t / 2 * W.square().sum(1)  # [B, K]
    return (log_prior + fit / (1 - alpha_bar_t)).softmax(1) @ W


class FlowPath(NamedTuple):
    """A state on a straight path and how fast it moves: ``z`` and ``velocity`` dz/dt, both [B, D]."""

    z: Tensor
    velocity: Tensor


def flow_path(u: Tensor, t: Tensor | float, noise: Tensor, jitter: Tensor | None = None) -> FlowPath:
    r"""The straight path of flow matching from label to noise (paper, eq. 10-11).

    .. math::

        z_t &= (1 - t) \, u + t \, \varepsilon \\
        dz/dt &= \varepsilon - u

    - ``u``: label embeddings, where the path is at t = 0, [B, D]
    - ``t``: time in [0, 1], a number or [B]
    - ``noise``: where the path ends, at t = 1, [B, D]
    - ``jitter``: sigma times standard normal draws, [B, D], if the path is to have the paper's width sigma; else none

    The velocity dz/dt = noise - u does not depend on t. The paper's time runs the other way: its target is u - noise.
    Raises ValueError on shapes that do not fit, integers, and a time outside [0, 1].

    >>> path = flow_path(torch.tensor([[1.0, 0.0]]), 0.25, noise=torch.tensor([[-1.0, 2.0]]))
    >>> path.z, path.velocity
    (tensor([[0.5000, 0.5000]]), tensor([[-2.,  2.]]))
    """
    _check_floating("u", u)
    t = _level("t", t, u.device, u.dtype)
    if u.ndim != 2 or noise.shape != u.shape or t.shape not in ((), u.shape[:1]):
        raise ValueError(
            f"expected u and noise [B, D], t a number or [B]; got {list(u.shape)}, {list(noise.shape)}, {list(t.shape)}"
        )
    if jitter is not None and jitter.shape != u.shape:
        raise ValueError(f"expected a jitter of the shape of u, {list(u.shape)}, got {list(jitter.shape)}")
    if t.device.type == "cpu" and not ((t >= 0) & (t <= 1)).all():  # as in ``q_sample``
        raise ValueError(f"t must lie in [0, 1], got {t.tolist()}")
    t = t.unsqueeze(-1)
    z = (1 - t) * u + t * noise
    return FlowPath(z if jitter is None else z + jitter, noise - u)


def forward_chain(u: Tensor, alphas: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""The Markov chain that noises step by step, started at z_0 = u (DDPM, eq. 2).

    .. math:: z_t = \sqrt{\alpha_t} \, z_{t-1} + \sqrt{1 - \alpha_t} \, \varepsilon_t

    u [B, D], alphas [T] -> all states z_0 ... z_T, shape [T + 1, B, D].

    Raises ValueError unless u is a matrix of floating-point numbers and every alpha lies in (0, 1].

    >>> forward_chain(torch.eye(3), torch.tensor([0.9, 0.5])).shape  # z_0, z_1, z_2
    torch.Size([3, 3, 3])
    """
    if u.ndim != 2:
        raise ValueError(f"u must have shape [B, D], got {list(u.shape)}")
    _check_floating("u", u)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}")
    alphas = _level("alphas", alphas)
    if alphas.ndim != 1 or len(alphas) == 0 or not ((alphas > 0) & (alphas <= 1)).all():
        raise ValueError(f"alphas must be a vector of T >= 1 entries in (0, 1], got {alphas.tolist()}")
    states = [u]
    for alpha in alphas.tolist():
        noise = torch.randn(u.shape, generator=generator, dtype=u.dtype, device=u.device)
        states.append(alpha**0.5 * states[-1] + (1 - alpha) ** 0.5 * noise)
    return torch.stack(states)  # [T + 1, B, D]


def kl_to_prior(u: Tensor, alpha_bar_T: Tensor | float) -> Tensor:
    r"""KL( q(z_T | u) || N(0, I) ) in nats, per sample: what the start of inference does not know it is missing.

    .. math::

        & \tfrac{D}{2} \left( -\log(1 - \bar\alpha_T) - \bar\alpha_T \right) \\
        & {} + \tfrac12 \, \bar\alpha_T \| u \|^2

    The KL of two Gaussians; the paper's eq. 8 holds this term. u [B, D] -> [B].

    Raises ValueError unless u is a matrix of floating-point numbers and alpha_bar_T is one number in [0, 1).

    >>> kl_to_prior(torch.tensor([[1.0, 0.0]]), 0.5)
    tensor([0.4431])
    """
    _check_floating("u", u)
    alpha_bar_T = _level("alpha_bar_T", alpha_bar_T, u.device, u.dtype)
    on_cpu = alpha_bar_T.device.type == "cpu"  # elsewhere a look at the value would stall the queue
    if u.ndim != 2 or alpha_bar_T.ndim != 0 or (on_cpu and not 0 <= alpha_bar_T < 1):
        raise ValueError(
            f"expected u of shape [B, D] and one alpha_bar_T in [0, 1), got u {list(u.shape)}, alpha_bar_T {alpha_bar_T}"
        )
    dim = u.shape[1]
    return 0.5 * (dim * (-torch.log1p(-alpha_bar_T) - alpha_bar_T) + alpha_bar_T * u.square().sum(1))


def _level(
    name: str, value: Tensor | float, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """A tensor of numbers, of what can be one. Without a type of its own, a float would be rounded to 32 bits."""
    try:
        return torch.as_tensor(value, dtype=dtype, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a number or a tensor of numbers, got {value!r}") from None


def _check_floating(name: str, value: Tensor) -> None:
    # In integers the noise would be rounded away without a word.
    if not value.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor, got {value.dtype}")
