"""Baselines that do propagate: the same blocks trained end to end, with the paper's own wiring.

A readout is any module ``readout(z, W) -> class scores [B, K]``.
"""

from typing import Callable, Sequence

import torch
from torch import Tensor, nn


class BackpropNet(nn.Module):
    r"""T blocks in a row, trained by ordinary back-propagation through all of them (paper, eq. 17-19).

    From noise z_T, with time counting noise as everywhere here, and a_t = tanh(w_t) learned:

    .. math::

        z_{t-1} &= (1 - a_t) \, z_t + a_t \, \hat u_t \\
        \hat u_t &= \mathrm{softmax}(\mathrm{block}_t(x, z_t)) \, W

    - ``blocks``: T modules (images [B, C, H, W], z [B, D]) -> [B, K]; ``blocks[t - 1]`` is block t
    - ``W``: label embeddings [K, D]; an ``nn.Parameter`` if they are to be learned
    - ``readout``: z_0 -> class scores; the loss is their cross-entropy

    The paper does not say where w_t starts: here at atanh(1/2), half old state and half guess.

    Raises ValueError where there is no block, W is not finite, or its rows do not fit the blocks' scores.

    >>> net = BackpropNet([nn.Bilinear(2, 3, 3)], W=torch.eye(3), readout=nn.Identity())
    >>> net.step(1, torch.rand(5, 2), torch.randn(5, 3)).shape
    torch.Size([5, 3])
    """

    def __init__(self, blocks: Sequence[nn.Module], W: Tensor, readout: nn.Module):
        super().__init__()
        if len(blocks) == 0:
            raise ValueError("expected at least one block, got none")
        _check_table(W)
        self.blocks, self.readout, self.num_steps = nn.ModuleList(blocks), readout, len(blocks)
        if isinstance(W, nn.Parameter):
            self.W = W
        else:
            self.register_buffer("W", W)
        self.mix = nn.Parameter(torch.full((len(blocks),), 0.5).atanh())  # w_t; entry t - 1 belongs to block t

    def forward(self, images: Tensor, z_T: Tensor) -> Tensor:
        """images [B, C, H, W], z_T [B, D] -> class scores [B, K]."""
        z = z_T
        for t in range(self.num_steps, 0, -1):
            z = self.step(t, images, z)
        return self.readout(z, self.W)

    def step(self, t: int, images: Tensor, z: Tensor) -> Tensor:
        """z_t [B, D] -> z_{t-1} [B, D]. Raises ValueError on a block t that there is not."""
        if not 1 <= t <= self.num_steps:  # blocks[0 - 1] would be the last one
            raise ValueError(f"expected a block from 1 to {self.num_steps}, got {t}")
        scores = self.blocks[t - 1](images, z)
        _check_scores(scores, self.W)
        u_hat, a = scores.softmax(-1) @ self.W, self.mix[t - 1].tanh()
        return (1 - a) * z + a * u_hat


class NeuralODE(nn.Module):
    """The continuous-time baseline: dz/dt = -v(x, z, t), integrated from noise at t = 1 to t = 0 and read out.

    - ``block``: as ``TimedConvBlock``, with ``encode(images)`` and ``head(features, z, t) -> [B, K]``; v = head(...) @ W
    - ``odeint``: torchdiffeq's ``odeint_adjoint`` (memory that does not grow with the steps) or its ``odeint``
      (back-propagation through the steps), or anything of that signature
    - ``num_steps``: equal Euler steps. The paper takes 1000

    Raises ValueError unless num_steps >= 1 and W is finite, and where its rows do not fit the block's scores.

    >>> def one_euler_step(drift, state, times, **how):
    ...     return [torch.stack([s, s + (times[1] - times[0]) * d]) for s, d in zip(state, drift(times[0], state))]
    >>> block = nn.Module()
    >>> block.encode, block.head = nn.Flatten(), lambda features, z, t: z
    >>> ode = NeuralODE(block, torch.eye(2), readout=lambda z, W: z, odeint=one_euler_step, num_steps=1)
    >>> ode(torch.rand(1, 1, 4, 4), torch.ones(1, 2))  # dz/dt = -z, backwards from 1
    tensor([[2., 2.]])
    """

    def __init__(self, block: nn.Module, W: Tensor, readout: nn.Module, odeint: Callable, num_steps: int = 1000):
        super().__init__()
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
            raise ValueError(f"num_steps must be an integer, at least 1, got {num_steps!r}")
        _check_table(W)
        self.block, self.readout, self.odeint, self.num_steps = block, readout, odeint, num_steps
        if isinstance(W, nn.Parameter):
            self.W = W
        else:
            self.register_buffer("W", W)

    def forward(self, images: Tensor, z_1: Tensor) -> Tensor:
        """images [B, C, H, W], z_1 [B, D] -> class scores [B, K]."""
        drift = _Drift(self.block, self.W)
        # The features travel as part of the state, standing still, so that the adjoint carries their gradient home.
        state = (z_1, self.block.encode(images))
        times = torch.tensor([1.0, 0.0], device=z_1.device)
        z, _ = self.odeint(drift, state, times, method="euler", options={"step_size": 1 / self.num_steps})
        return self.readout(z[-1], self.W)


class _Drift(nn.Module):
    """dz/dt as torchdiffeq's solvers ask for it: a function of time and state, the features standing still."""

    def __init__(self, block: nn.Module, W: Tensor):
        super().__init__()
        self.block, self.W = block, W  # its parameters are the ones the adjoint collects

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """t [], state (z [B, D], features [B, F]) -> its rate of change: minus the head's mean embedding, and zeros."""
        z, features = state
        scores = self.block.head(features, z, t.expand(len(z)))
        _check_scores(scores, self.W)
        v = scores @ self.W
        return -v, torch.zeros_like(features)


def _check_table(W: Tensor) -> None:
    if W.ndim != 2 or not W.isfinite().all():
        raise ValueError(f"expected a table W [K, D] of finite numbers, got {W.dtype} {list(W.shape)}")


def _check_scores(scores: Tensor, W: Tensor) -> None:
    if scores.shape[-1] != len(W):
        raise ValueError(f"expected a score for each row of W {list(W.shape)}, got scores {list(scores.shape)}")
