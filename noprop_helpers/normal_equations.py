r"""Layers that are solved, not trained: least squares by normal equations, of all layers at once.

A layer that is linear in features x and state z, with squared error, asks for the (A, B, c) that make

.. math:: E \| u - A x - B z - c \|^2 + \text{ridge} \, \| A \|^2

as small as can be, where z = sqrt(alpha_bar) u + sqrt(1 - alpha_bar) noise. The noise knows nothing of the image, so what
this asks of the images is the same at every noise level: the covariances G of x, C of x with u, D of u. Gather them
(``Moments``), solve them once (``ridge_regression``: V = (G + ridge I)^{-1} C predicts u from x alone and leaves
R = D - C^T V), and every layer follows by a few products of D x D matrices (``denoiser_at``):

.. math::

    B &= \sqrt{\bar\alpha} \, R \, (\bar\alpha R + (1 - \bar\alpha) I)^{-1} \\
    A &= (I - \sqrt{\bar\alpha} B) \, V^T

So u_hat = V^T x + B (z - sqrt(alpha_bar) V^T x) but for constants: the image's own prediction, corrected by what the state
says beyond it, with the gain of a Kalman filter.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Moments:
    """Covariances of features x [B, F] and label embeddings u [B, D], gathered batch by batch.

    They are summed about the first batch's mean, so that large constants in x leave the sums' digits to what varies.
    Raises ValueError unless both sizes are at least 1.

    >>> x, moments = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), Moments(feature_dim=1, embed_dim=1)
    >>> moments.add(x[:2], 2 * x[:2])
    >>> moments.add(x[2:], 2 * x[2:])
    >>> moments.covariances().xu
    tensor([[2.5000]])
    """

    def __init__(self, feature_dim: int, embed_dim: int, device: torch.device | str = "cpu"):
        if feature_dim < 1 or embed_dim < 1:
            raise ValueError(f"feature_dim and embed_dim must be at least 1, got {feature_dim} and {embed_dim}")
        self.count = 0
        self.origin = torch.zeros(feature_dim, device=device)
        self.sum_x, self.sum_u = torch.zeros(feature_dim, device=device), torch.zeros(embed_dim, device=device)
        self.xx = torch.zeros(feature_dim, feature_dim, device=device)  # above the diagonal only, block by block
        self.xu = torch.zeros(feature_dim, embed_dim, device=device)
        self.uu = torch.zeros(embed_dim, embed_dim, device=device)

    def add(self, x: Tensor, u: Tensor, block: int = 1024) -> None:
        """Take in a batch: x [B, F], u [B, D].

        Raises ValueError on other shapes and types, and on no sample.
        """
        if x.shape != (len(u), len(self.sum_x)) or u.shape[1:] != self.sum_u.shape:
            expected = f"x [B, {len(self.sum_x)}] and u [B, {len(self.sum_u)}]"
            raise ValueError(f"expected {expected}, got {list(x.shape)} and {list(u.shape)}")
        if len(x) == 0 or not x.dtype == u.dtype == self.xx.dtype:
            raise ValueError(f"expected at least one sample of {self.xx.dtype}, got {list(x.shape)} of {x.dtype} and {u.dtype}")
        if self.count == 0:
            self.origin = x.mean(0)
        x = x - self.origin
        for i in range(0, x.shape[1], block):  # a symmetric matrix: half of the work
            self.xx[i : i + block, i:].addmm_(x[:, i : i + block].T, x[:, i:])
        self.xu.addmm_(x.T, u)
        self.uu.addmm_(u.T, u)
        self.sum_x += x.sum(0)
        self.sum_u += u.sum(0)
        self.count += len(x)

    def covariances(self) -> "Covariances":
        """What was gathered. Raises ValueError before the first batch, and where it is not finite."""
        if self.count == 0:
            raise ValueError("no batch was added: there is nothing to solve")
        mean_x, mean_u = self.sum_x / self.count, self.sum_u / self.count
        xx = (self.xx / self.count).addr_(mean_x, mean_x, alpha=-1).triu_()
        xu, uu = self.xu / self.count - torch.outer(mean_x, mean_u), self.uu / self.count - torch.outer(mean_u, mean_u)
        if not (xx.isfinite().all() and xu.isfinite().all() and uu.isfinite().all()):
            raise ValueError("expected features and labels that are finite: NaN or infinity came in with one of the batches")
        return Covariances(self.origin + mean_x, mean_u, xx, xu, uu)


class Covariances(NamedTuple):
    """Means x [F] and u [D]; covariances G [F, F], of which the upper triangle counts, C [F, D] and D [D, D]."""

    mean_x: Tensor
    mean_u: Tensor
    xx: Tensor
    xu: Tensor
    uu: Tensor


class Regression(NamedTuple):
    """u_hat = mean_u + (x - mean_x) @ V: ``weight`` V [F, D], and what it leaves. D is the covariance of u.

    ``left``: R = D - C^T V [D, D]. ``error``: the covariance of u - u_hat, R - ridge V^T V.
    """

    mean_x: Tensor
    mean_u: Tensor
    weight: Tensor
    left: Tensor
    error: Tensor


def ridge_regression(covariances: Covariances, ridge: float) -> Regression:
    """Solve (G + ridge * m I) V = C, where m is the mean variance of a feature: ``ridge`` has no unit.

    One Cholesky factor, F^3 / 3 operations. Raises ValueError where the features depend on each other so nearly that
    rounding leaves no factor: a larger ridge helps.

    >>> x, moments = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), Moments(1, 1)
    >>> moments.add(x, 2 * x)
    >>> ridge_regression(moments.covariances(), ridge=1.0).weight  # a ridge as large as the variance takes half
    tensor([[1.]])
    """
    mean_x, mean_u, xx, xu, uu = covariances
    added = ridge * xx.diagonal().mean()
    if not 0 < added < float("inf"):
        raise ValueError(f"expected features that vary and a finite ridge above 0, got a ridge of {ridge:g}")
    system = xx.clone()
    system.diagonal().add_(added)
    factor, info = torch.linalg.cholesky_ex(system, upper=True)  # reads the upper triangle alone
    if info.item():
        raise ValueError(f"the features depend on each other too nearly to be told apart at a ridge of {ridge:g}: raise it")
    weight = torch.cholesky_solve(xu, factor, upper=True)  # [F, D]
    left = uu - xu.T @ weight
    left = (left + left.T) / 2  # but for rounding it is symmetric
    return Regression(mean_x, mean_u, weight, left, left - added * weight.T @ weight)


class LinearLayer(NamedTuple):
    """u_hat = x @ from_x.T + z @ from_z.T + bias: A [D, F], B [D, D], c [D]; ``loss``, its mean ||u_hat - u||^2 / D."""

    from_x: Tensor
    from_z: Tensor
    bias: Tensor
    loss: Tensor


def denoiser_at(regression: Regression, alpha_bar_t: float) -> LinearLayer:
    """The best linear layer for states of signal level ``alpha_bar_t``, below 1. Raises ValueError at others.

    >>> x, moments = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), Moments(1, 1)
    >>> moments.add(x, 2 * x)
    >>> layer = denoiser_at(ridge_regression(moments.covariances(), ridge=1e-6), alpha_bar_t=0.5)
    >>> layer.from_x.round(decimals=2)  # the features say all: the state has nothing to add
    tensor([[2.]])
    """
    if not 0 <= alpha_bar_t < 1:
        raise ValueError(f"alpha_bar_t must lie in [0, 1), got {alpha_bar_t}")
    mean_x, mean_u, V, R, error = regression
    identity, signal = torch.eye(len(R), dtype=R.dtype, device=R.device), alpha_bar_t**0.5
    # B solves B (alpha_bar R + (1 - alpha_bar) I) = sqrt(alpha_bar) R; both matrices are symmetric.
    gain = torch.linalg.solve(alpha_bar_t * R + (1 - alpha_bar_t) * identity, signal * R).T
    trust = identity - signal * gain  # in the image's prediction
    from_x = trust @ V.T
    bias = trust @ mean_u - from_x @ mean_x
    loss = (trust @ error @ trust.T).trace() + (1 - alpha_bar_t) * gain.square().sum()
    return LinearLayer(from_x, gain, bias, loss / len(R))
