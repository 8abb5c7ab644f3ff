"""Inference: from noise ``z_T`` down to a label state ``z_0``, one layer a step.

``denoise(t, z)`` is any callable that returns u_hat [B, D], layer t's guess of the clean label given its input state
``z_t`` [B, D] (image features are the caller's business). Steps run t = T ... 1. ``callback(t, z, u_hat)``, if given,
sees each new state: ``z`` is ``z_{t-1}``, just produced by layer t from ``z_t``, and ``u_hat`` what the layer said.
In continuous time ``velocity(t, z)`` returns dz/dt [B, D] at a time t in [0, 1], and steps run from t = 1 down to 0.
Nothing here draws the start: the caller does, so that one start can be walked with several rules.
"""

import numbers
from typing import Callable

import torch
from torch import Tensor

Denoise = Callable[[int, Tensor], Tensor]
Velocity = Callable[[float, Tensor], Tensor]
Callback = Callable[[float, Tensor, Tensor], None]


def sample_posterior(
    denoise: Denoise,
    z_T: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    r"""One draw from the posterior after another (paper, eq. 3, with time counting noise). z_T [B, D] -> z_0 [B, D].

    .. math:: z_{t-1} = a_t \hat u_t(z_t, x) + b_t z_t + \sqrt{c_t} \, \varepsilon

    a, b, c are the [T] posterior coefficients of the schedule; entry t - 1 belongs to layer t. If u_hat is the true u,
    the states have exactly the marginals q(z_t | u) of the forward process.

    Raises ValueError on tables that are no vectors of one length, not finite, or hold a variance c below 0, and where a guess
    has not the shape of z.

    >>> u = torch.tensor([[0.0, 1.0]])
    >>> a, b, c = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5]), torch.tensor([0.0, 0.3])
    >>> sample_posterior(lambda t, z: u, torch.zeros(1, 2), a, b, c)  # layers that know the label give it back
    tensor([[0., 1.]])
    """
    _check(z_T, a, b, c)
    if (c < 0).any():  # its root would be imaginary, and so would be the states
        raise ValueError(f"the variances c must be at least 0, got {c.tolist()}")
    _check_generator(generator)
    z = z_T
    for t in range(len(a), 0, -1):
        u_hat = _call(denoise, t, z)
        z = float(a[t - 1]) * u_hat + float(b[t - 1]) * z + float(c[t - 1]) ** 0.5 * _noise_like(z, generator)
        if callback is not None:
            callback(t, z, u_hat)
    return z


def sample_renoise(
    denoise: Denoise,
    z_T: Tensor,
    levels: Tensor,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    r"""Throw the state away, noise the guess anew.

    .. math:: z_{t-1} = \sqrt{\ell_t} \, \hat u_t(z_t, x) + \sqrt{1 - \ell_t} \, \varepsilon

    levels [T], l_1 ... l_T; entry t - 1 is the signal level of the state that layer t produces. z_T [B, D] -> z_0 [B, D].

    - ``levels = alpha_bar[:-1]``: layer t - 1 gets the level alpha_bar_{t-1} that it was trained on.
    - ``levels = alphas``: the published notebook's rule, which feeds layers levels they never saw in training.

    Raises ValueError on levels outside [0, 1], and where a guess has not the shape of z.

    >>> u = torch.tensor([[0.0, 1.0]])
    >>> sample_renoise(lambda t, z: u, torch.zeros(1, 2), levels=torch.tensor([1.0, 0.5]))
    tensor([[0., 1.]])
    """
    _check(z_T, levels)
    _check_generator(generator)
    if not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError(f"levels must lie in [0, 1], got {levels.tolist()}")
    z = z_T
    for t in range(len(levels), 0, -1):
        u_hat = _call(denoise, t, z)
        level = float(levels[t - 1])
        z = level**0.5 * u_hat + (1 - level) ** 0.5 * _noise_like(z, generator)
        if callback is not None:
            callback(t, z, u_hat)
    return z


def sample_euler(velocity: Velocity, z_1: Tensor, num_steps: int, callback: Callback | None = None) -> Tensor:
    """Integrate dz/dt = velocity(t, z) from noise, t = 1, to the label, t = 0, in equal Euler steps (order 1).

    z_1 [B, D] -> z_0 [B, D]. ``callback(t, z, v)`` sees each new state z at its time t, and the velocity that led there.

    Raises ValueError unless num_steps >= 1, and where a velocity has not the shape of z.

    >>> sample_euler(lambda t, z: torch.full_like(z, 2 * t), torch.tensor([[1.0]]), num_steps=2)  # z = t^2 ends at 0
    tensor([[-0.5000]])
    """
    h = _step_size(z_1, num_steps)
    z = z_1
    for i in range(num_steps, 0, -1):
        v = _call(velocity, i * h, z)
        z = z - h * v
        if callback is not None:
            callback((i - 1) * h, z, v)
    return z


def sample_heun(velocity: Velocity, z_1: Tensor, num_steps: int, callback: Callback | None = None) -> Tensor:
    """As ``sample_euler``, with Heun's steps (order 2): look ahead, then go by the mean of the two velocities.

    Two calls of ``velocity`` a step, the second one at the step's end: the last is at t = 0. Flow matching's velocity has
    no meaning there (chapter 10), and Euler is the better choice for it.

    >>> sample_heun(lambda t, z: torch.full_like(z, 2 * t), torch.tensor([[1.0]]), num_steps=2)  # z = t^2 ends at 0
    tensor([[0.]])
    """
    h = _step_size(z_1, num_steps)
    z = z_1
    for i in range(num_steps, 0, -1):
        here = _call(velocity, i * h, z)
        ahead = _call(velocity, (i - 1) * h, z - h * here)
        v = (here + ahead) / 2
        z = z - h * v
        if callback is not None:
            callback((i - 1) * h, z, v)
    return z


def _step_size(z_1: Tensor, num_steps: int) -> float:
    if z_1.ndim != 2:
        raise ValueError(f"z_1 must have shape [B, D], got {list(z_1.shape)}")
    if isinstance(num_steps, bool) or not isinstance(num_steps, numbers.Integral) or num_steps < 1:
        raise ValueError(f"num_steps must be an integer, at least 1, got {num_steps!r}")
    return 1 / num_steps


def _check(z_T: Tensor, *tables: Tensor) -> None:
    if z_T.ndim != 2:
        raise ValueError(f"z_T must have shape [B, D], got {list(z_T.shape)}")
    if not all(isinstance(table, Tensor) for table in tables):
        raise ValueError(f"per-layer tables must be tensors, got {[type(table).__name__ for table in tables]}")
    shapes = [list(table.shape) for table in tables]
    if len(shapes[0]) != 1 or shapes[0][0] < 1 or shapes != shapes[:1] * len(shapes):
        raise ValueError(f"per-layer tables must all have one shape [T] with T >= 1, got {shapes}")
    for table in tables:  # once a walk, which reads every entry as a number
        if not table.isfinite().all():
            raise ValueError(f"per-layer tables must be finite, got {table.tolist()}")


def _check_generator(generator: torch.Generator | None) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}")


def _call(guess: Denoise | Velocity, t: float, z: Tensor) -> Tensor:
    """What the layer or the velocity says at time t, which must have the shape of z."""
    value = guess(t, z)
    if not isinstance(value, Tensor):
        raise ValueError(f"at time {t}, expected a tensor of the shape of z, {list(z.shape)}, got {type(value).__name__}")
    if value.shape != z.shape:
        raise ValueError(f"at time {t}, expected a value of the shape of z, {list(z.shape)}, got {list(value.shape)}")
    return value


def _noise_like(z: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
