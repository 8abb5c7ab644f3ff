"""Noise schedules: how much of the label is left at each time.

Time counts noise. ``t = 0`` is the clean label and ``t = T`` is noise; layer ``t`` maps ``z_t`` to ``z_{t-1}``.

- ``alphas``, shape [T]: entry ``t - 1`` is alpha_t, the fraction of signal variance that step ``t`` keeps.
- ``alpha_bar``, shape [T + 1]: entry ``t`` is alpha_bar_t = alpha_1 ... alpha_t, so an index is a time.

Tables are float64; cast them where they are used. In the NoProp paper (arXiv:2503.24322) time runs the other
way: its ``t`` is our ``T - t``.
"""

import math
import numbers
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Posterior(NamedTuple):
    """q(z_{t-1} | z_t, u) = N(a_t u + b_t z_t, c_t I). Each field has shape [T]; entry t - 1 belongs to layer t."""

    a: Tensor
    b: Tensor
    c: Tensor


def linear_alphas(num_steps: int, start: float = 1.0, end: float = 0.1) -> Tensor:
    """Evenly spaced alpha_1 = start ... alpha_T = end, the published notebook's schedule. Shape [T], float64.

    With the published ``start=1.0`` the first step adds no noise at all (chapter 5 measures what that costs).

    >>> linear_alphas(4, 1.0, 0.1)
    tensor([1.0000, 0.7000, 0.4000, 0.1000], dtype=torch.float64)

    Raises ValueError unless num_steps >= 1 and both ends lie in (0, 1].
    """
    _check_num_steps(num_steps)
    for name, value in (("start", start), ("end", end)):
        _check_number(name, value)
        if not 0.0 < value <= 1.0:
            raise ValueError(f"{name} must lie in (0, 1], got {value}")
    return torch.linspace(start, end, num_steps, dtype=torch.float64)


def alpha_bar_from_alphas(alphas: Tensor) -> Tensor:
    """Cumulative product alpha_bar_t = alpha_1 ... alpha_t with alpha_bar_0 = 1: shape [T] -> [T + 1], float64.

    >>> alpha_bar_from_alphas(torch.tensor([0.5, 0.5]))
    tensor([1.0000, 0.5000, 0.2500], dtype=torch.float64)

    Raises ValueError unless ``alphas`` is a non-empty vector with every entry in (0, 1].
    """
    alphas = _numbers("alphas", alphas)
    if alphas.ndim != 1 or len(alphas) == 0:
        raise ValueError(f"alphas must be a vector of T >= 1 entries, got shape {list(alphas.shape)}")
    alphas = alphas.double()
    if not ((alphas > 0) & (alphas <= 1)).all():
        raise ValueError(f"every alpha must lie in (0, 1], got {alphas.tolist()}")
    return torch.cat([alphas.new_ones(1), alphas.cumprod(0)])  # [T + 1]


def cosine_alpha_bar(
    num_steps: int, offset: float = 0.008, clean_end: float = 0.9999, noise_end: float = 1e-4
) -> Tensor:
    r"""The squared-cosine schedule of Nichol & Dhariwal (arXiv:2102.09672, eq. 17). Shape [T + 1], float64.

    .. math:: f(t) = \cos^2 \left( \frac{t/T + \text{offset}}{1 + \text{offset}} \cdot \frac{\pi}{2} \right)

    Here it is mapped affinely so that alpha_bar_0 = clean_end and
    alpha_bar_T = noise_end exactly. A clean end just under 1 keeps SNR(0), and with it the loss weight of layer 1,
    finite; an affine map, unlike clamping, keeps the table strictly decreasing for every T. The NoProp paper names
    the cosine schedule but neither offset nor ends: these defaults are our choice.

    Raises ValueError unless num_steps >= 1, offset >= 0 and 0 < noise_end < clean_end <= 1, and on an offset so large that
    rounding leaves no cosine.

    >>> cosine_alpha_bar(2, offset=0.0, clean_end=0.9, noise_end=0.1)
    tensor([0.9000, 0.5000, 0.1000], dtype=torch.float64)
    """
    _check_num_steps(num_steps)
    for name, value in (("offset", offset), ("clean_end", clean_end), ("noise_end", noise_end)):
        _check_number(name, value)
    if not (offset >= 0 and 0.0 < noise_end < clean_end <= 1.0):
        raise ValueError(
            "expected offset >= 0 and 0 < noise_end < clean_end <= 1, "
            f"got offset={offset}, noise_end={noise_end}, clean_end={clean_end}"
        )
    time = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    f = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
    if not f[0] > f[-1]:
        raise ValueError(f"an offset of {offset} leaves nothing of the cosine: expected one well below 1000")
    shape = (f - f[-1]) / (f[0] - f[-1])  # 1 at t = 0, 0 at t = T
    return noise_end + (clean_end - noise_end) * shape


def alphas_from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """alpha_t = alpha_bar_t / alpha_bar_{t-1}: shape [T + 1] -> [T]. The inverse of the cumulative product.

    Raises ValueError unless alpha_bar is a vector of two entries or more in (0, 1] that never increases.

    >>> alphas_from_alpha_bar(torch.tensor([1.0, 0.5, 0.25]))
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    alpha_bar = _check_alpha_bar(alpha_bar)
    return alpha_bar[1:] / alpha_bar[:-1]


def snr(alpha_bar: Tensor) -> Tensor:
    r"""Signal-to-noise ratio (VDM, arXiv:2107.00630); infinite where alpha_bar is 1.

    .. math:: \mathrm{SNR}(t) = \bar\alpha_t / (1 - \bar\alpha_t)

    Any shape. It takes alpha_bar, the signal left after all steps so far, not the alpha of one step. Raises ValueError
    outside [0, 1].

    >>> snr(torch.tensor([0.75, 0.5, 0.2]))
    tensor([3.0000, 1.0000, 0.2500])
    """
    alpha_bar = _numbers("alpha_bar", alpha_bar)
    if not ((alpha_bar >= 0) & (alpha_bar <= 1)).all():
        raise ValueError(f"alpha_bar must lie in [0, 1], got {alpha_bar.tolist()}")
    return alpha_bar / (1 - alpha_bar)


def snr_weights(alpha_bar: Tensor) -> Tensor:
    """SNR(t-1) - SNR(t) for each layer, the loss weights of NoProp-DT (paper, eq. 8). Shape [T + 1] -> [T], all >= 0.

    Raises ValueError where alpha_bar_0 = 1: SNR(0) is infinite there.

    >>> snr_weights(torch.tensor([0.75, 0.5, 0.2]))
    tensor([2.0000, 0.7500], dtype=torch.float64)
    """
    alpha_bar = _check_alpha_bar(alpha_bar)
    if alpha_bar[0] == 1:
        raise ValueError(
            "alpha_bar[0] is 1, so SNR(0) and the weight of layer 1 are infinite; "
            "use a clean end just under 1, as cosine_alpha_bar(..., clean_end=0.9999) does"
        )
    return -snr(alpha_bar).diff()


def posterior_coefficients(alpha_bar: Tensor) -> Posterior:
    r"""Coefficients of q(z_{t-1} | z_t, u) = N(a_t u + b_t z_t, c_t I) (paper, eq. 6). Shape [T + 1] -> three of [T].

    With alpha_t = alpha_bar_t / alpha_bar_{t-1}:

    .. math::

        a_t &= \sqrt{\bar\alpha_{t-1}} \, (1 - \alpha_t) / (1 - \bar\alpha_t) \\
        b_t &= \sqrt{\alpha_t} \, (1 - \bar\alpha_{t-1}) / (1 - \bar\alpha_t) \\
        c_t &= (1 - \bar\alpha_{t-1}) (1 - \alpha_t) / (1 - \bar\alpha_t)

    Exactly: a_t + b_t sqrt(alpha_bar_t) = sqrt(alpha_bar_{t-1}), b_t^2 (1 - alpha_bar_t) + c_t = 1 - alpha_bar_{t-1},
    and a_t^2 / c_t = SNR(t-1) - SNR(t).

    Raises ValueError where a noised state has alpha_bar_t = 1: a step that adds no noise has no posterior.

    >>> posterior = posterior_coefficients(torch.tensor([1.0, 0.5, 0.25]))
    >>> posterior.a  # layer 1 ends at the clean label: it takes its own guess, and nothing of z_1
    tensor([1.0000, 0.4714], dtype=torch.float64)
    >>> posterior.c
    tensor([0.0000, 0.3333], dtype=torch.float64)
    """
    alpha_bar = _check_alpha_bar(alpha_bar)
    before, after = alpha_bar[:-1], alpha_bar[1:]  # alpha_bar_{t-1}, alpha_bar_t
    if (after == 1).any():
        t = int((after == 1).nonzero()[0]) + 1
        raise ValueError(
            f"alpha_bar[{t}] is 1: step {t} adds no noise, so q(z_{t - 1} | z_{t}, u) is 0/0; "
            "start the schedule below 1, e.g. linear_alphas(T, start=0.99)"
        )
    alpha = after / before
    return Posterior(
        a=before.sqrt() * (1 - alpha) / (1 - after),
        b=alpha.sqrt() * (1 - before) / (1 - after),
        c=(1 - before) * (1 - alpha) / (1 - after),
    )


class Gamma(NamedTuple):
    """Minus the log signal-to-noise ratio at some times, and its time derivative; both of the times' shape."""

    gamma: Tensor
    rate: Tensor


class LearnedGamma(nn.Module):
    r"""A learned schedule in continuous time: gamma(t) = -log SNR(t), increasing by construction (VDM; paper, eq. 65-67).

    alpha_bar(t) = sigmoid(-gamma(t)). With g a two-layer network of positive weights, and so increasing,

    .. math:: \gamma(t) = \gamma_0 + (\gamma_1 - \gamma_0) \frac{g(t) - g(0)}{g(1) - g(0)}

    The end points gamma_0 < gamma_1 are trained too; their distance is a softplus, so that they cannot cross. As printed
    in the paper, eq. 67 swaps the two ends; its initial values are not given, ours are arguments.

    Raises ValueError unless gamma_0 < gamma_1, both finite, and there is a hidden unit.

    >>> gamma, rate = LearnedGamma(-5.0, 5.0)(torch.tensor([0.0, 0.5, 1.0]))
    >>> gamma.detach().round(decimals=2)[[0, 2]]
    tensor([-5.,  5.])
    >>> bool((rate > 0).all())
    True
    """

    def __init__(self, gamma_0: float = -5.0, gamma_1: float = 5.0, hidden_dim: int = 32):
        super().__init__()
        _check_number("gamma_0", gamma_0)
        _check_number("gamma_1", gamma_1)
        if not gamma_0 < gamma_1 or max(-gamma_0, gamma_1, gamma_1 - gamma_0) > torch.finfo(torch.float32).max:
            raise ValueError(f"expected finite gamma_0 < gamma_1 (time counts noise), got {gamma_0} and {gamma_1}")
        if isinstance(hidden_dim, bool) or not isinstance(hidden_dim, int) or hidden_dim < 1:
            raise ValueError(f"hidden_dim must be an integer >= 1, got {hidden_dim!r}")
        self.gamma_0 = nn.Parameter(torch.tensor(float(gamma_0)))
        self.raw_range = nn.Parameter(torch.tensor(_inverse_softplus(gamma_1 - gamma_0)))
        # Hidden units switch at times spread over [0, 1]; together with the linear term, g starts out nearly straight.
        slope = torch.full((hidden_dim,), 4.0)
        self.raw_linear = nn.Parameter(torch.tensor(_inverse_softplus(1.0)))
        self.raw_slope = nn.Parameter(slope + torch.log(-torch.expm1(-slope)))
        self.bias = nn.Parameter(-slope * torch.linspace(0, 1, hidden_dim))
        self.raw_out = nn.Parameter(torch.full((hidden_dim,), _inverse_softplus(0.1 / hidden_dim)))

    def forward(self, t: Tensor) -> Gamma:
        """Any shape of times in [0, 1] -> gamma(t) and gamma'(t) > 0, of that shape."""
        ends = torch.stack([torch.zeros_like(self.gamma_0), torch.ones_like(self.gamma_0)])
        (start, stop), _ = self._g(ends)
        g, rate = self._g(t)
        scale = nn.functional.softplus(self.raw_range) / (stop - start)
        return Gamma(self.gamma_0 + scale * (g - start), scale * rate)

    def _g(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """g(t) and g'(t), before they are moved to the two ends."""
        positive = nn.functional.softplus
        linear, slope, out = positive(self.raw_linear), positive(self.raw_slope), positive(self.raw_out)
        hidden = torch.sigmoid(slope * t.unsqueeze(-1) + self.bias)  # [..., hidden_dim]
        rate = linear + (out * slope * hidden * (1 - hidden)).sum(-1)
        return linear * t + (out * hidden).sum(-1), rate


def _inverse_softplus(y: float) -> float:
    return y + math.log(-math.expm1(-y))


def _check_num_steps(num_steps: int) -> None:
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"num_steps must be an integer >= 1, got {num_steps!r}")


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be a number, got {value!r}")


def _numbers(name: str, value: Tensor) -> Tensor:
    """A tensor of what can be one: a list, an array, a number."""
    try:
        value = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a tensor of numbers, got {value!r}") from None
    if value.is_complex():
        raise ValueError(f"{name} must be a tensor of real numbers, got {value.dtype}")
    return value


def _check_alpha_bar(alpha_bar: Tensor) -> Tensor:
    alpha_bar = _numbers("alpha_bar", alpha_bar)
    if alpha_bar.ndim != 1 or len(alpha_bar) < 2:
        raise ValueError(f"alpha_bar must be a vector of T + 1 >= 2 entries, got shape {list(alpha_bar.shape)}")
    alpha_bar = alpha_bar.double()
    wrong = ~((alpha_bar > 0) & (alpha_bar <= 1))
    wrong[1:] |= alpha_bar.diff() > 0
    if wrong.any():
        t = int(wrong.nonzero()[0])
        before = f" after {alpha_bar[t - 1]:g}" if t else ""
        raise ValueError(f"alpha_bar must lie in (0, 1] and never increase, got {alpha_bar[t]:g} at {t}{before}")
    return alpha_bar
