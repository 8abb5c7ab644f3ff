"""Layer-local training: the readable loop, and the same mathematics for all T layers at once.

A layer is any module ``layer(features, z) -> outputs``. A batch is ``(features, z, target)`` with ``z`` of shape
[T, B, D]: ``z[t - 1]`` is the noised state z_t that layer t learns to denoise.
"""

import copy
from typing import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

Batch = tuple[Tensor, Tensor, Tensor]


def fit_layers(
    layers: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Iterable[Batch],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """One pass over the batches, each layer trained by its own loss and its own optimizer. The reference.

    loss(outputs [B, K], target) -> [B]. Returns every layer's mean loss over the pass, shape [T].
    No layer ever waits for another: the two loops could be swapped, or the inner one spread over T machines.

    Raises ValueError unless there is a batch, an optimizer for each layer, and in z a state for each.

    >>> layers = [nn.Bilinear(3, 2, 2) for _ in range(4)]  # any modules (features, z) -> outputs
    >>> optimizers = [torch.optim.Adam(layer.parameters()) for layer in layers]
    >>> batch = torch.rand(7, 3), torch.randn(4, 7, 2), torch.rand(7, 2)  # features, a state for each layer, target
    >>> fit_layers(layers, optimizers, [batch], lambda outputs, target: (outputs - target).square().sum(-1)).shape
    torch.Size([4])
    """
    if len(layers) != len(optimizers) or len(layers) == 0:
        raise ValueError(f"expected one optimizer per layer, got {len(layers)} layers, {len(optimizers)} optimizers")
    totals, count = torch.zeros(len(layers)), 0
    for features, z, target in batches:
        _check_states(z, len(layers))
        for t, (layer, optimizer) in enumerate(zip(layers, optimizers), start=1):
            layer_loss = loss(layer(features, z[t - 1]), target).mean()
            optimizer.zero_grad()
            layer_loss.backward()
            optimizer.step()
            totals[t - 1] += layer_loss.detach().cpu()
        count += 1
    return _mean(totals, count)


class LayerStack(nn.Module):
    """T layers of one architecture as one module: every parameter gains a leading dimension T.

    forward(features [B, F], z [T, B, D]) -> outputs [T, B, K], equal to calling each layer on its own state. An
    element-wise optimizer (Adam, AdamW, SGD) on the stack is T separate optimizers; anything that mixes elements
    (gradient clipping by the global norm) is not. ``copy_to`` writes the trained slices back into plain layers.

    Raises ValueError where there is no layer, and on layers with buffers, such as BatchNorm.

    >>> layers = [nn.Bilinear(3, 2, 2) for _ in range(4)]
    >>> stack, features, z = LayerStack(layers), torch.rand(7, 3), torch.randn(4, 7, 2)
    >>> torch.allclose(stack(features, z)[1], layers[1](features, z[1]), atol=1e-5)
    True
    """

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        if len(layers) == 0:
            raise ValueError("expected at least one layer, got none")
        if any(buffer is not None for layer in layers for buffer in layer.buffers()):
            raise ValueError("layers with buffers (BatchNorm) cannot be stacked: train them with fit_layers")
        parameters, _ = stack_module_state(list(layers))
        # Dots are not allowed in parameter names; the template keeps the original ones.
        self._names = list(parameters)
        self.stacked = nn.ParameterList(parameters.values())
        # A tuple, so that the template's own (unused) weights do not count among the stack's parameters.
        self._template = (copy.deepcopy(layers[0]).to("meta"),)

    def __len__(self) -> int:
        return len(self.stacked[0])

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        """features [B, F], z [T, B, D] -> outputs [T, B, K]. Raises ValueError unless z has a state for each layer."""
        _check_states(z, len(self))

        def one_layer(parameters, state):
            return functional_call(self._template[0], parameters, (features, state))

        return vmap(one_layer, randomness="different")(dict(zip(self._names, self.stacked)), z)

    def loss_gradients(self, features: Tensor, z: Tensor, target: Tensor, loss: Callable) -> Tensor:
        """Replace every parameter's gradient by that of its own layer's mean loss: -> mean losses [T] (see ``fit_stack``)."""
        for parameter in self.stacked:
            parameter.grad = None
        layer_losses = loss(self(features, z), target).mean(-1)  # [T]
        layer_losses.sum().backward()
        return layer_losses.detach()

    @torch.no_grad()
    def copy_to(self, layers: Sequence[nn.Module]) -> None:
        """Write slice t - 1 of every stacked parameter into layer t."""
        if len(layers) != len(self):
            raise ValueError(f"expected {len(self)} layers, got {len(layers)}")
        for t, layer in enumerate(layers):
            own = dict(layer.named_parameters())
            for name, stacked in zip(self._names, self.stacked):
                own[name].copy_(stacked[t])


def fit_stack(
    stack: LayerStack,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    loss: Callable[[Tensor, Tensor], Tensor],
    after_step: Callable[[], None] | None = None,
) -> Tensor:
    """One pass that trains all T layers at once; equal to ``fit_layers`` on the same batches up to rounding.

    loss(outputs [T, B, K], target) -> [T, B]: averaged over the batch, summed over layers, so that no layer's gradient
    sees another's loss. Returns each layer's mean loss, shape [T]. ``after_step`` is called once a batch (learning-rate
    schedules, progress bars).

    Raises ValueError where there is no batch, or z has not a state for each layer.

    >>> stack = LayerStack([nn.Bilinear(3, 2, 2) for _ in range(4)])
    >>> optimizer = torch.optim.Adam(stack.parameters())
    >>> batch = torch.rand(7, 3), torch.randn(4, 7, 2), torch.rand(7, 2)  # features, a state for each layer, target
    >>> fit_stack(stack, optimizer, [batch], lambda outputs, target: (outputs - target).square().sum(-1)).shape
    torch.Size([4])
    """
    own, totals, count = set(stack.parameters()), 0.0, 0
    shared = [p for group in optimizer.param_groups for p in group["params"] if p not in own]
    for features, z, target in batches:
        for parameter in shared:
            parameter.grad = None
        layer_losses = stack.loss_gradients(features, z, target, loss)  # [T]
        optimizer.step()
        totals, count = totals + layer_losses, count + 1
        if after_step is not None:
            after_step()
    return _mean(totals, count)


def layers_for_rank(num_layers: int, rank: int, world_size: int) -> range:
    """The layers, numbered from 1, that process ``rank`` of ``world_size`` trains: contiguous, sizes differ by one at most.

    With more processes than layers the last ones get none.

    Raises ValueError unless 0 <= rank < world_size and there is a layer.

    >>> [list(layers_for_rank(10, rank, world_size=3)) for rank in range(3)]
    [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10]]
    """
    if num_layers < 1 or world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"expected layers >= 1 and 0 <= rank < world_size, got {num_layers}, {rank}, {world_size}")
    share, extra = divmod(num_layers, world_size)
    first = 1 + rank * share + min(rank, extra)
    return range(first, first + share + (rank < extra))


def _check_states(z: Tensor, num_layers: int) -> None:
    if z.ndim != 3 or len(z) != num_layers:
        raise ValueError(f"expected states z of shape [T, B, D] with T = {num_layers}, got {list(z.shape)}")


def _mean(totals: Tensor | float, count: int) -> Tensor:
    if count == 0:
        raise ValueError("expected at least one batch, got none")
    return torch.as_tensor(totals / count).cpu()
