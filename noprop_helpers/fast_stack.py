"""A stack of two-layer perceptrons with the backward pass written by hand: what ``layerwise.LayerStack`` does, faster.

The readable version is ``LayerStack``; a test holds the two equal.
"""

from typing import Callable, Sequence

import torch
from torch import Tensor, nn


class MLPStack(nn.Module):
    """T two-layer perceptrons as one module: what ``LayerStack`` does, at the speed of its matrix products.

    ``layers`` compute second(relu(first(concat(features, z)))) and hold nothing else than ``first`` and ``second``, two
    ``nn.Linear`` with biases, in this order, as the published notebook's layers do. forward(features [B, F], z [T, B, D])
    -> outputs [T, B, K].

    ``output_gradient(outputs [T, B, K], target) -> [T, B, K]`` is the gradient of each sample's loss by the outputs, where it
    is known in closed form; otherwise automatic differentiation finds it.

    Forward and backward pass are written out, without automatic differentiation, and reuse their memory from step to step:
    on a CPU its bookkeeping, and fetching fresh memory for every intermediate result, cost a good part of such a step.

    Raises ValueError on layers of another kind, or of several shapes, on frozen ones, and on one layer that comes twice.

    >>> layers = [nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)) for _ in range(6)]
    >>> stack, features, z = MLPStack(layers), torch.rand(7, 3), torch.randn(6, 7, 2)
    >>> torch.allclose(stack(features, z)[1], layers[1](torch.cat([features, z[1]], 1)), atol=1e-5)
    True
    """

    def __init__(self, layers: Sequence[nn.Module], output_gradient: Callable[[Tensor, Tensor], Tensor] | None = None):
        super().__init__()
        self.output_gradient = output_gradient
        if len(layers) == 0:
            raise ValueError("expected at least one layer, got none")
        pairs = [_two_linear(layer) for layer in layers]
        if len({(first.weight.shape, second.weight.shape) for first, second in pairs}) > 1:
            raise ValueError("layers of different shapes cannot be stacked")
        if len({first.weight for first, _ in pairs} | {second.weight for _, second in pairs}) < 2 * len(pairs):
            raise ValueError("two layers share weights: make each layer anew, the same ones cannot be trained apart")
        if any(not parameter.requires_grad for layer in layers for parameter in layer.parameters()):
            raise ValueError("a frozen layer cannot be stacked, it would be trained with the others: leave it out")
        with torch.no_grad():
            self.first = nn.Parameter(torch.stack([first.weight.T for first, _ in pairs]))  # [T, F + D, H]
            self.first_bias = nn.Parameter(torch.stack([first.bias for first, _ in pairs]).unsqueeze(1))  # [T, 1, H]
            self.second = nn.Parameter(torch.stack([second.weight for _, second in pairs]))  # [T, K, H]
            self.second_bias = nn.Parameter(torch.stack([second.bias for _, second in pairs]).unsqueeze(1))  # [T, 1, K]
        self._memory_for = None

    def __len__(self) -> int:
        return len(self.first)

    @torch.no_grad()
    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        """features [B, F], z [T, B, D] -> outputs [T, B, K]. Raises ValueError on other shapes."""
        _check_states(z, len(self))
        size = features.shape[1] + z.shape[2]
        if size != self.first.shape[1] or z.shape[1] != len(features):
            raise ValueError(
                f"expected features [B, F] and z [T, B, D] with F + D = {self.first.shape[1]}, "
                f"got {list(features.shape)} and {list(z.shape)}"
            )
        self._remember(*features.shape)
        self._feature_part.copy_(features)  # repeated for every layer
        self._state_part.copy_(z)
        torch.baddbmm(self.first_bias, self._inputs, self.first, out=self._hidden).relu_()
        # Transposed twice: with this few outputs the product is faster so.
        return torch.baddbmm(self.second_bias.mT, self.second, self._hidden.mT).mT

    def loss_gradients(self, features: Tensor, z: Tensor, target: Tensor, loss: Callable) -> Tensor:
        """Replace every parameter's gradient by that of its own layer's mean loss: -> mean losses [T] (see ``fit_stack``).

        Raises ValueError unless the loss is one number for each layer and sample.
        """
        outputs = self(features, z).requires_grad_(self.output_gradient is None)
        losses = loss(outputs, target)  # [T, B]
        if losses.shape != z.shape[:2] or losses.numel() == 0:
            raise ValueError(
                f"expected a loss for each layer and sample, {list(z.shape[:2])}, and at least one, got {list(losses.shape)}"
            )
        if self.output_gradient is None:
            (gradient,) = torch.autograd.grad(losses, outputs, self._share.expand_as(losses))
        else:
            gradient = self.output_gradient(outputs, target) / z.shape[1]
            if gradient.shape != outputs.shape or gradient.dtype != outputs.dtype:
                raise ValueError(
                    f"expected an output_gradient of {list(outputs.shape)} in {outputs.dtype}, "
                    f"got {list(gradient.shape)} in {gradient.dtype}"
                )
        self._backward(gradient)
        if features.requires_grad:  # a trained encoder's, which learns from all layers
            features.backward(torch.bmm(self._hidden_gradient, self.first.detach()[:, : features.shape[1]].mT).sum(0))
        return losses.detach() @ self._share

    @torch.no_grad()
    def _backward(self, gradient: Tensor) -> None:
        """The weights' gradients from those of the last outputs, [T, B, K]."""
        inputs, hidden, hidden_gradient = self._inputs, self._hidden, self._hidden_gradient
        parameters = self.first, self.first_bias, self.second, self.second_bias
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
        first, first_bias, second, second_bias = (parameter.grad for parameter in parameters)
        torch.bmm(gradient, self.second, out=hidden_gradient)
        torch.ops.aten.threshold_backward.grad_input(hidden_gradient, hidden, 0, grad_input=hidden_gradient)
        torch.bmm(inputs.mT, hidden_gradient, out=first)
        torch.sum(hidden_gradient, 1, keepdim=True, out=first_bias)
        torch.bmm(gradient.mT, hidden, out=second)
        torch.sum(gradient, 1, keepdim=True, out=second_bias)

    def _remember(self, batch_size: int, feature_dim: int) -> None:
        """Memory for inputs [T, B, F + D], hidden units [T, B, H] and their gradient [T, B, H], kept while B and F stay."""
        asked = batch_size, feature_dim, self.first.device, self.first.dtype
        if self._memory_for != asked:
            T, size, hidden = self.first.shape
            self._memory_for, self._inputs = asked, self.first.new_empty(T, batch_size, size)
            self._feature_part, self._state_part = self._inputs.split((feature_dim, size - feature_dim), 2)
            self._hidden, self._hidden_gradient = (self.first.new_empty(T, batch_size, hidden) for _ in range(2))
            self._share = self.first.new_full((batch_size,), 1 / max(batch_size, 1))  # of a sample in the mean

    @torch.no_grad()
    def copy_to(self, layers: Sequence[nn.Module]) -> None:
        """Write slice t - 1 of every stacked parameter into layer t."""
        if len(layers) != len(self):
            raise ValueError(f"expected {len(self)} layers, got {len(layers)}")
        for t, (first, second) in enumerate(map(_two_linear, layers)):
            first.weight.copy_(self.first[t].T)
            first.bias.copy_(self.first_bias[t, 0])
            second.weight.copy_(self.second[t])
            second.bias.copy_(self.second_bias[t, 0])


def _two_linear(layer: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """The two linear layers of a perceptron that is built as ``MLPStack`` knows it; ValueError on any other module."""
    parts = [module for module in layer.modules() if not list(module.children())]
    own = {p for part in parts for p in part.parameters()} == set(layer.parameters())
    if (
        [type(part) for part in parts] != [nn.Linear, nn.ReLU, nn.Linear]
        or parts[0].bias is None
        or parts[2].bias is None
        or not own
    ):
        raise ValueError(
            f"expected layers of nn.Linear, nn.ReLU, nn.Linear with biases and nothing else, got {type(layer).__name__}"
        )
    return parts[0], parts[2]


def _check_states(z: Tensor, num_layers: int) -> None:
    if z.ndim != 3 or len(z) != num_layers:
        raise ValueError(f"expected states z of shape [T, B, D] with T = {num_layers}, got {list(z.shape)}")
