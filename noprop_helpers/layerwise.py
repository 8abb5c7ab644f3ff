"""Layer-local training: the readable loop, and the same mathematics for all T layers at once.

A layer is any module ``layer(features, z) -> outputs``. A batch is ``(features, z, target)`` with ``z`` of shape
[T, B, D]: ``z[t - 1]`` is the noised state z_t that layer t learns to denoise.
"""

import copy
import math
from typing import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

Batch = tuple[Tensor, Tensor, Tensor]


class Diverged(ValueError):
    """A loss that is NaN or infinite: of layer ``layer``, in batch ``batch`` of the pass, both numbered from 1.

    >>> Diverged(layer=2, batch=7)
    Diverged('the loss of layer 2 is not finite at batch 7: lower the learning rate, or look for NaN in the data')
    """

    def __init__(self, layer: int, batch: int):
        super().__init__(
            f"the loss of layer {layer} is not finite at batch {batch}: lower the learning rate, or look for NaN in the data"
        )
        self.layer, self.batch = layer, batch


def check_finite(losses: Tensor) -> None:
    """Raise ``Diverged``, of the first batch and in it the first layer, unless all losses [batches, T] are finite.

    >>> try:
    ...     check_finite(torch.tensor([[0.5, 0.5], [0.5, float("nan")]]))
    ... except Diverged as error:
    ...     print(error.layer, error.batch)
    2 2
    """
    if not losses.isfinite().all():
        batch, layer = (~losses.isfinite()).nonzero()[0].tolist()
        raise Diverged(layer + 1, batch + 1)


def fit_layers(
    layers: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Iterable[Batch],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """One pass over the batches, each layer trained by its own loss and its own optimizer. The reference.

    loss(outputs [B, K], target) -> [B]. Returns every layer's mean loss over the pass, shape [T].
    No layer ever waits for another: the two loops could be swapped, or the inner one spread over T machines.

    Raises ValueError unless there is a batch, an optimizer for each layer, and in z a state for each, where two layers are one,
    and ``Diverged`` at the first loss that is not finite.

    >>> layers = [nn.Bilinear(3, 2, 2) for _ in range(4)]  # any modules (features, z) -> outputs
    >>> optimizers = [torch.optim.Adam(layer.parameters()) for layer in layers]
    >>> batch = torch.rand(7, 3), torch.randn(4, 7, 2), torch.rand(7, 2)  # features, a state for each layer, target
    >>> fit_layers(layers, optimizers, [batch], lambda outputs, target: (outputs - target).square().sum(-1)).shape
    torch.Size([4])
    """
    if len(layers) != len(optimizers) or len(layers) == 0:
        raise ValueError(f"expected one optimizer per layer, got {len(layers)} layers, {len(optimizers)} optimizers")
    check_distinct(layers)
    totals, count = torch.zeros(len(layers)), 0
    for features, z, target in batches:
        _check_states(z, len(layers))
        for t, (layer, optimizer) in enumerate(zip(layers, optimizers), start=1):
            layer_loss = loss(layer(features, z[t - 1]), target).mean()
            optimizer.zero_grad()
            layer_loss.backward()
            optimizer.step()
            totals[t - 1] += layer_loss.detach().cpu()
            if not math.isfinite(totals[t - 1]):
                raise Diverged(t, count + 1)
        count += 1
    return _mean(totals, count)


class LayerStack(nn.Module):
    """T layers of one architecture as one module: every parameter gains a leading dimension T.

    forward(features [B, F], z [T, B, D]) -> outputs [T, B, K], equal to calling each layer on its own state. An
    element-wise optimizer (Adam, AdamW, SGD) on the stack is T separate optimizers; anything that mixes elements
    (gradient clipping by the global norm) is not. ``copy_to`` writes the trained slices back into plain layers.

    Raises ValueError where there is no layer, on layers with buffers, such as BatchNorm, on frozen ones, on one layer that comes
    twice, and on layers of several kinds or shapes.

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
        check_distinct(layers)
        if any(not parameter.requires_grad for layer in layers for parameter in layer.parameters()):
            raise ValueError("a frozen layer cannot be stacked, it would be trained with the others: leave it out")
        _check_alike(layers, layers[0])
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
        """Replace every parameter's gradient by that of its own layer's mean loss: -> mean losses [T] (see ``fit_stack``).

        Raises ValueError unless the loss is one number for each layer and sample.
        """
        for parameter in self.stacked:
            parameter.grad = None
        losses = loss(self(features, z), target)
        if losses.shape != z.shape[:2]:
            raise ValueError(f"expected a loss for each layer and sample, {list(z.shape[:2])}, got {list(losses.shape)}")
        layer_losses = losses.mean(-1)  # [T]
        layer_losses.sum().backward()
        return layer_losses.detach()

    @torch.no_grad()
    def copy_to(self, layers: Sequence[nn.Module]) -> None:
        """Write slice t - 1 of every stacked parameter into layer t. Raises ValueError on other layers than were stacked."""
        if len(layers) != len(self):
            raise ValueError(f"expected {len(self)} layers, got {len(layers)}")
        _check_alike(layers, self._template[0])
        for t, layer in enumerate(layers):
            own = dict(layer.named_parameters())
            for name, stacked in zip(self._names, self.stacked):
                own[name].copy_(stacked[t])


def fit_stack(
    stack: LayerStack,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """One pass that trains all T layers at once; equal to ``fit_layers`` on the same batches up to rounding.

    loss(outputs [T, B, K], target) -> [T, B]: averaged over the batch, summed over layers, so that no layer's gradient
    sees another's loss. Returns each layer's mean loss, shape [T].

    Raises ValueError where there is no batch, or z has not a state for each layer, and ``Diverged`` after a pass in which a
    loss was not finite: looked at before, on an accelerator, every step would wait for it.

    >>> stack = LayerStack([nn.Bilinear(3, 2, 2) for _ in range(4)])
    >>> optimizer = torch.optim.Adam(stack.parameters())
    >>> batch = torch.rand(7, 3), torch.randn(4, 7, 2), torch.rand(7, 2)  # features, a state for each layer, target
    >>> fit_stack(stack, optimizer, [batch], lambda outputs, target: (outputs - target).square().sum(-1)).shape
    torch.Size([4])
    """
    own, totals, every = set(stack.parameters()), 0.0, []
    shared = [p for group in optimizer.param_groups for p in group["params"] if p not in own]
    for features, z, target in batches:
        for parameter in shared:
            parameter.grad = None
        layer_losses = stack.loss_gradients(features, z, target, loss)  # [T]
        optimizer.step()
        totals = totals + layer_losses
        every.append(layer_losses)
    means = _mean(totals, len(every))
    if not means.isfinite().all():
        check_finite(torch.stack(every))
    return means


def layers_for_rank(num_layers: int, rank: int, world_size: int) -> range:
    """The layers, numbered from 1, that process ``rank`` of ``world_size`` trains: contiguous, sizes differ by one at most.

    With more processes than layers the last ones get none.

    Raises ValueError unless these are integers, 0 <= rank < world_size, and there is a layer.

    >>> [list(layers_for_rank(10, rank, world_size=3)) for rank in range(3)]
    [[1, 2, 3, 4], [5, 6, 7], [8, 9, 10]]
    """
    if not all(isinstance(number, int) for number in (num_layers, rank, world_size)):
        raise ValueError(f"expected integers as layers, rank and world_size, got {num_layers!r}, {rank!r}, {world_size!r}")
    if num_layers < 1 or world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"expected layers >= 1 and 0 <= rank < world_size, got {num_layers}, {rank}, {world_size}")
    share, extra = divmod(num_layers, world_size)
    first = 1 + rank * share + min(rank, extra)
    return range(first, first + share + (rank < extra))


def check_distinct(layers: Sequence[nn.Module]) -> None:
    """Raise ValueError where two layers are one, or share a parameter: each would be trained by the other's loss, too.

    >>> layer = nn.Linear(2, 2)
    >>> check_distinct([layer, layer])
    Traceback (most recent call last):
    ValueError: layer 1 and layer 2 share weights: make each layer anew, the same ones cannot be trained apart
    """
    owner = {}
    for t, layer in enumerate(layers, start=1):
        for parameter in layer.parameters():
            first = owner.setdefault(parameter, t)
            if first != t:
                raise ValueError(
                    f"layer {first} and layer {t} share weights: make each layer anew, the same ones cannot be trained apart"
                )


def _check_alike(layers: Sequence[nn.Module], model: nn.Module) -> None:
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    for t, layer in enumerate(layers, start=1):
        if type(layer) is not type(model):
            raise ValueError(f"expected layers of one kind, {type(model).__name__}, got {type(layer).__name__} as layer {t}")
        if {name: parameter.shape for name, parameter in layer.named_parameters()} != expected:
            raise ValueError(f"expected layers whose weights have the same names and shapes, got others in layer {t}")


def _check_states(z: Tensor, num_layers: int) -> None:
    if z.ndim != 3 or len(z) != num_layers or z.shape[1] == 0:
        raise ValueError(
            f"expected at least one sample and states z of shape [T, B, D] with T = {num_layers}, got {list(z.shape)}"
        )


def _mean(totals: Tensor | float, count: int) -> Tensor:
    if count == 0:
        raise ValueError("expected at least one batch, got none")
    return torch.as_tensor(totals / count).cpu()
