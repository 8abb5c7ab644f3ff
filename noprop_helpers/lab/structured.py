"""Layers for a label of many coordinates, each one of K symbols: a chain of them, and all that could take its place.

A label y [B, M] is embedded coordinate by coordinate, u [B, M * K] of M one-hot blocks. A layer maps (x, z) to scores
[B, M, K] of what stands at each coordinate, its guess u_hat are their softmaxes, and its loss is the coordinates' mean
cross-entropy. Nothing is lost by that: the mean of u given x and z is the coordinates' marginal distributions, whatever binds
them to one another.
"""

from typing import Callable, Iterable, Iterator, NamedTuple, Sequence

import torch
from torch import Tensor, nn

from ..diffusion import q_sample
from ..layerwise import Batch, LayerStack, fit_layers, fit_stack
from ..passes import one_cycle
from ..samplers import sample_posterior

Layer = Callable[[Tensor, Tensor], Tensor]  # (x, z [B, M * K]) -> scores [B, M, K]


class Problems(NamedTuple):
    """What the layers see, x [B, M, F]; the label that it comes from, y [B, M]; and which of its coordinates x leaves open,
    [B, M] bool."""

    x: Tensor
    y: Tensor
    open: Tensor


Draw = Callable[[int, torch.Generator], Problems]  # draw(n, generator): n new problems to learn from
LARGE = 2_000_000  # parameters of a layer: from about here on the loop was faster than a stack, when both were tried


class Training(NamedTuple):
    """``steps`` updates on ``batch_size`` new problems each, by Adam, its rate one cycle up to ``learning_rate``."""

    steps: int
    batch_size: int = 32
    learning_rate: float = 1e-2


def size(layer: nn.Module) -> int:
    """How many parameters a layer has.

    >>> size(nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in layer.parameters())


def embedded(y: Tensor, num_symbols: int) -> Tensor:
    """One-hot blocks: y [B, M] -> u [B, M * K].

    >>> embedded(torch.tensor([[1, 0]]), num_symbols=3)
    tensor([[0., 1., 0., 1., 0., 0.]])
    """
    return nn.functional.one_hot(y, num_symbols).flatten(1).float()


def denoised(scores: Tensor) -> Tensor:
    """The mean embedding of every coordinate: scores [..., M, K] -> u_hat [..., M * K].

    >>> denoised(torch.zeros(1, 2, 4))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500, 0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return scores.softmax(-1).flatten(-2)


def log_probabilities(u_hat: Tensor, y: Tensor) -> Tensor:
    """Of every coordinate of a label, as a guess says: u_hat [B, M * K], y [B, M] -> nats [B, M].

    What float32 rounds to 0 counts as its smallest normal number: 87 nats.

    >>> log_probabilities(torch.tensor([[0.5, 0.5, 1.0, 0.0]]), torch.tensor([[1, 0]]))
    tensor([[-0.6931,  0.0000]])
    """
    said = u_hat.unflatten(1, (y.shape[1], -1)).gather(2, y.unsqueeze(2)).squeeze(2)
    return said.clamp(torch.finfo(said.dtype).tiny, 1.0).log()


def answers(z: Tensor, num_symbols: int) -> Tensor:
    """The likeliest symbol of every coordinate: a state or u_hat [B, M * K] -> [B, M].

    >>> answers(torch.tensor([[0.2, 0.8, 0.9, 0.1]]), num_symbols=2)
    tensor([[1, 0]])
    """
    return z.unflatten(1, (-1, num_symbols)).argmax(2)


def coordinate_loss(scores: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy in nats, the mean over coordinates: scores [..., B, M, K], y [B, M] -> [..., B].

    >>> coordinate_loss(torch.zeros(1, 3, 2), torch.tensor([[0, 1, 0]]))  # log 2
    tensor([0.6931])
    """
    y = y.expand(scores.shape[:-1])
    return nn.functional.cross_entropy(scores.flatten(0, -2), y.flatten(), reduction="none").view(y.shape).mean(-1)


# --- Training ---------------------------------------------------------------------------------------------------------


def train_apart(
    layers: Sequence[nn.Module], levels: Tensor, draw: Draw, training: Training, generator: torch.Generator
) -> Tensor:
    """Train layer i on states of signal level ``levels[i]``, each by its own loss alone: -> mean losses [T].

    A chain's levels are ``alpha_bar[1:]``; copies of its top layer have ``alpha_bar[-1]`` every time. Small ones are trained as
    one stack, which is faster than chapter 3's loop, ``LARGE`` ones by the loop; a test holds both to the same weights.
    """
    if size(layers[0]) > LARGE:
        return _one_by_one(layers, levels, draw, training, generator)
    stack = LayerStack(layers)
    optimizer = torch.optim.Adam(stack.parameters(), fused=True)
    batches = noised_lessons(levels, layers[0].num_symbols, _lessons(draw, training, [optimizer], generator), generator)
    losses = fit_stack(stack, optimizer, batches, coordinate_loss)
    stack.copy_to(layers)
    return losses


def train_alone(layer: nn.Module, level: Tensor, draw: Draw, training: Training, generator: torch.Generator) -> Tensor:
    """Train one layer on states of one signal level [1]: -> mean loss [1]."""
    return _one_by_one([layer], level, draw, training, generator)


def _one_by_one(
    layers: Sequence[nn.Module], levels: Tensor, draw: Draw, training: Training, generator: torch.Generator
) -> Tensor:
    """Layers trained apart by chapter 3's loop, an optimizer for each: -> mean losses [T]."""
    optimizers = [torch.optim.Adam(layer.parameters(), fused=True) for layer in layers]
    batches = noised_lessons(levels, layers[0].num_symbols, _lessons(draw, training, optimizers, generator), generator)
    return fit_layers(layers, optimizers, batches, coordinate_loss)


def noised_lessons(
    levels: Tensor, num_symbols: int, lessons: Iterable[Problems], generator: torch.Generator
) -> Iterator[Batch]:
    """(x [B, M, F], states of every level [T, B, M * K], y [B, M]) of every lesson."""
    for x, y, _ in lessons:
        u = embedded(y, num_symbols)
        yield x, q_sample(u, levels, torch.randn(len(levels), *u.shape, generator=generator)), y


def train_tied(layer: nn.Module, levels: Tensor, draw: Draw, training: Training, generator: torch.Generator) -> Tensor:
    """Train one layer for all levels [T], drawn at random and told it as one more feature of x: -> mean loss [1]."""
    optimizer = torch.optim.Adam(layer.parameters(), fused=True)

    def batches() -> Iterator[Batch]:
        for x, y, _ in _lessons(draw, training, [optimizer], generator):
            u, level = embedded(y, layer.num_symbols), levels[torch.randint(len(levels), (len(y),), generator=generator)]
            yield told(x, level), q_sample(u, level, torch.randn(u.shape, generator=generator)).unsqueeze(0), y

    return fit_layers([layer], [optimizer], batches(), coordinate_loss)


def train_through(
    layers: Sequence[nn.Module],
    posterior: Sequence[Tensor],
    draw: Draw,
    training: Training,
    generator: torch.Generator,
    every_step: bool = False,
    cut: bool = False,
) -> Tensor:
    """Back-propagation through the whole walk without noise: -> mean loss [].

    By the loss of what the last layer says, or the mean loss of what each says, ``every_step``. ``cut``: a state is taken as
    given, so no gradient crosses from a layer to the one above, and each learns by the loss of what it says alone.
    """
    optimizer = torch.optim.Adam([p for layer in layers for p in layer.parameters()], fused=True)
    said = []  # scores, from the top layer down

    def listened_to(layer: nn.Module) -> Layer:
        return lambda x, z: said.append(layer(x, z.detach() if cut else z)) or said[-1]

    total = torch.zeros(())
    for x, y, _ in _lessons(draw, training, [optimizer], generator):
        said.clear()
        walk([listened_to(layer) for layer in layers], posterior, x, noise_like(y, layers[0].num_symbols, generator))
        loss = torch.stack([coordinate_loss(scores, y).mean() for scores in said[0 if every_step else -1 :]]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return total / training.steps


def _lessons(
    draw: Draw, training: Training, optimizers: Sequence[torch.optim.Optimizer], generator: torch.Generator
) -> Iterator[Problems]:
    """New problems for every step, the optimizers' rate set for it."""
    for step in range(training.steps):
        rate, decay = one_cycle(step, training.steps, training.learning_rate)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"], group["betas"] = rate, (decay, group["betas"][1])
        yield draw(training.batch_size, generator)


# --- Answering --------------------------------------------------------------------------------------------------------


def noise_like(y: Tensor, num_symbols: int, generator: torch.Generator | None = None) -> Tensor:
    """Pure noise in the place of an embedded label: y [B, M] -> [B, M * K].

    >>> noise_like(torch.zeros(5, 36, dtype=torch.int64), num_symbols=6).shape
    torch.Size([5, 216])
    """
    return torch.randn(len(y), y.shape[1] * num_symbols, generator=generator)


def guess(layer: Layer, x: Tensor, z: Tensor) -> Tensor:
    """What a layer says the embedded label is: x [B, M, F], z [B, M * K] -> u_hat [B, M * K].

    Some hundred problems at a time, so that what is computed of them stays in a processor's cache.
    """
    return torch.cat([denoised(layer(*part)) for part in zip(x.split(250), z.split(250))])


def walk(
    layers: Sequence[Layer],
    posterior: Sequence[Tensor],
    x: Tensor,
    z_T: Tensor,
    noise_scale: float = 0.0,
    generator: torch.Generator | None = None,
    callback: Callable | None = None,
) -> Tensor:
    """Inference, ``noise_scale`` 1 with the posterior's noise, 0 without: -> z_0 [B, M * K].

    ``posterior``: the schedule's tables (a, b, c), [T] each; some layers of a chain go with their rows of the tables.
    """
    a, b, c = posterior

    def denoise(t: int, z: Tensor) -> Tensor:
        return guess(layers[t - 1], x, z)

    return sample_posterior(denoise, z_T, a, b, noise_scale**2 * c, generator, callback)


def intervened(
    layers: Sequence[Layer], posterior: Sequence[Tensor], x: Tensor, z_T: Tensor, t: int, change: Callable[[Tensor], Tensor]
) -> Tensor:
    """A walk without noise in which layer t, and all after it, find ``change(z_t)`` instead of z_t: -> z_0 [B, M * K]."""
    z = walk(layers[t:], [table[t:] for table in posterior], x, z_T) if t < len(layers) else z_T
    return walk(layers[:t], [table[:t] for table in posterior], x, change(z))


def told(x: Tensor, level: Tensor) -> Tensor:
    """x [B, M, F] and the signal level of each one's state [B] -> [B, M, F + 1].

    >>> told(torch.zeros(1, 2, 1), torch.tensor([0.5]))
    tensor([[[0.0000, 0.5000],
             [0.0000, 0.5000]]])
    """
    return torch.cat([x, level.view(-1, 1, 1).expand(*x.shape[:2], 1)], 2)


def tied_layers(layer: nn.Module, levels: Tensor) -> list[Layer]:
    """A chain of the one layer that ``train_tied`` trained: levels [T] -> T layers."""
    return [lambda x, z, level=level: layer(told(x, level.expand(len(x))), z) for level in levels]


def mean_guess(layers: Sequence[Layer], x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """The mean of what several layers say to pure noise: -> u_hat [B, M * K]."""
    said = [guess(layer, x, noise_like(y, layer.num_symbols, generator)) for layer in layers]
    return torch.stack(said).mean(0)


def repeated(layer: nn.Module, level: float, x: Tensor, z: Tensor, times: int) -> Tensor:
    """One layer, asked again and again about its own answer, scaled as its states are: z_T -> u_hat [B, M * K]."""
    for _ in range(times):
        u_hat = guess(layer, x, z)
        z = level**0.5 * u_hat
    return u_hat
