"""One epoch of training: the small layers all at once, as one stack, or a layer's step after another's; or layers solved.

A pass is called with the number of the epoch and returns every trained layer's mean loss. Between two epochs it keeps nothing
but its optimizer's state: whatever is drawn follows from seed, epoch, batch and layer, and so training can be broken off and
taken up again, and layers can be trained in any company.
"""

import contextlib
import math
import random
from typing import Callable, Iterator

import torch
from torch import Tensor, nn

from . import NoPropError
from .augment import PADDING, crop_and_flip
from .blocks import DenoisingMLP, LinearDenoiser
from .fast_stack import MLPStack
from .features import encode
from .graphs import ReplayedSteps
from .layerwise import Batch, Diverged, LayerStack, check_finite, fit_stack
from .normal_equations import Moments, denoiser_at, ridge_regression
from .noprop import NoPropCT, NoPropDT, NoPropFM, Propagated, evaluating
from .settings import Settings

Model = NoPropDT | NoPropCT | NoPropFM | Propagated
Progress = Callable  # progress(iterable, description) -> iterable


def silent(iterable, description: str):
    """No progress shown.

    >>> list(silent([1, 2], "two steps"))
    [1, 2]
    """
    return iterable


# --- Draws ------------------------------------------------------------------------------------------------------------


def seed_of(*numbers: int) -> int:
    """One seed made from several numbers, the same on every machine.

    >>> seed_of(0, 1, 2) == seed_of(0, 1, 2) != seed_of(0, 12)
    True
    """
    return random.Random(",".join(map(str, numbers))).getrandbits(62)


def reseed(seed: int, device: torch.device | str = "cpu") -> None:
    """Set torch's global random state on the CPU and, where that is another one, on this device; on no other.

    Raises TypeError on a seed that is no integer.

    >>> reseed(3)
    >>> first = torch.rand(2)
    >>> reseed(3)
    >>> torch.equal(torch.rand(2), first)
    True
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """torch's global random state from a seed, on the CPU and this device; afterwards it is as it was.

    >>> with seeded(3):
    ...     first = torch.rand(2)
    >>> with seeded(3):
    ...     torch.equal(torch.rand(2), first)
    True
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        reseed(seed, device)
        yield


def shuffled(num_images: int, settings: Settings, epoch: int, device: torch.device) -> list[Tensor]:
    """The batches of an epoch, as indices; the last one is shorter, but not of one image, of which
    BatchNorm makes nothing, unless all are.

    Raises ValueError where there is no image.

    >>> [len(batch) for batch in shuffled(9, Settings(batch_size=4), epoch=1, device="cpu")]
    [4, 5]
    """
    if num_images < 1:
        raise ValueError(f"expected at least one image to train on, got {num_images}")
    generator = torch.Generator().manual_seed(seed_of(settings.seed, epoch))
    order = torch.randperm(num_images, generator=generator, device="cpu").to(device)
    parts = list(order.split(settings.batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def check_batch_size(model: Model, settings: Settings, num_images: int) -> None:
    """Raises NoPropError where a model with BatchNorm is to learn from one image at a time.

    >>> from noprop_helpers.recipes import RECIPES, Shape
    >>> model = RECIPES["shared"](num_steps=4).build(Shape((1, 8, 8), num_classes=2, num_images=20))
    >>> check_batch_size(model, Settings(batch_size=1), num_images=20)
    Traceback (most recent call last):
    noprop_helpers.NoPropError: batch_size must be at least 2: BatchNorm takes mean and deviation over the images of a batch
    """
    if min(settings.batch_size, num_images) > 1:
        return
    if any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules()):
        what = "batch_size must be at least 2" if num_images > 1 else "one image is too few to train on"
        raise NoPropError(f"{what}: BatchNorm takes mean and deviation over the images of a batch")


@contextlib.contextmanager
def diverging(numbers: list[int], epoch: int) -> Iterator[None]:
    """Within it, a loss that is not finite is one line that names the layer, by its own number, the step and the epoch.

    >>> with diverging([4, 5], epoch=3):
    ...     raise Diverged(layer=2, batch=7)
    Traceback (most recent call last):
    noprop_helpers.NoPropError: training diverged: the loss of layer 5 is not finite at step 7 of epoch 3; try a smaller learning_rate
    """
    try:
        yield
    except Diverged as error:
        raise NoPropError(
            f"training diverged: the loss of layer {numbers[error.layer - 1]} is not finite at step {error.batch} "
            f"of epoch {epoch}; try a smaller learning_rate"
        ) from None


# --- What every pass is made of ---------------------------------------------------------------------------------------


class Inputs:
    """The layers' view of the images: features computed once where they stay the same, else anew for every batch.

    >>> from noprop_helpers.recipes import RECIPES, Shape
    >>> model = RECIPES["shared"](num_steps=4).build(Shape((1, 8, 8), num_classes=2, num_images=20))
    >>> inputs = Inputs(model, torch.rand(20, 1, 8, 8), Settings(), silent)
    >>> inputs.fixed  # its encoder is trained
    False
    >>> inputs.features(inputs.values[:3]).shape
    torch.Size([3, 128])
    """

    def __init__(self, model: Model, images: Tensor, settings: Settings, progress: Progress):
        self.encoder, self.augment, self.dropout = model.encoder, settings.augment, settings.feature_dropout
        self.fixed = not (model.train_encoder or settings.augment)
        self.values = encode_images(model.encoder, images, progress) if self.fixed else images
        if settings.augment and min(images.shape[2:]) <= PADDING:
            raise NoPropError(f"augment crops {PADDING} pixels at a side, of images that have {list(images.shape[2:])}: leave it out")
        if self.fixed and not self.values.any():
            raise NoPropError("the encoder makes 0 of every image: fit it first, as a recipe's prepare does, or look at the images")

    def features(self, values: Tensor) -> Tensor:
        """Some of ``self.values`` [B, ...] -> features [B, F]; draws from torch's global random state."""
        x = values
        if not self.fixed:
            x = self.encoder(crop_and_flip(x) if self.augment else x)
        if self.dropout:
            x = x * (torch.rand_like(x) >= self.dropout) / (1 - self.dropout)
        return x


@torch.no_grad()
def encode_images(encoder: nn.Module, images: Tensor, progress: Progress = silent) -> Tensor:
    """Features of a frozen encoder for all images: [N, C, H, W] -> [N, F].

    >>> encode_images(nn.Flatten(), torch.rand(5, 1, 8, 8)).shape
    torch.Size([5, 64])
    """
    with evaluating(encoder):
        return encode(encoder, images, progress=lambda chunks: progress(chunks, "features"))


def layers_to_train(model: Model, settings: Settings) -> list[int]:
    """Numbers, from 1, of the layers that the settings name and nobody has frozen.

    Raises NoPropError where these cannot be trained apart, do not exist, or are all frozen, or one in part.

    >>> from noprop_helpers.recipes import RECIPES, Shape
    >>> model = RECIPES["local"](num_steps=4).build(Shape((1, 8, 8), num_classes=2, num_images=20))
    >>> layers_to_train(model, Settings()), layers_to_train(model, Settings(layers=(2, 3)))
    ([1, 2, 3, 4], [2, 3])
    """
    numbers = list(settings.layers or range(1, model.num_layers + 1))
    if settings.layers is not None and not (isinstance(model, NoPropDT) and model.layer_local):
        raise NoPropError(f"layers can be trained apart only where nothing is trained by several of them: {model.locality}")
    if numbers[-1] > model.num_layers:
        raise NoPropError(f"expected layers out of 1 to {model.num_layers}, got {numbers[-1]}")
    learns = {t: _learns(model, t) for t in numbers}
    if any(len(kinds) > 1 for kinds in learns.values()):
        raise NoPropError("a layer is frozen in part: freeze whole layers, with layer.requires_grad_(False)")
    if not any(True in kinds for kinds in learns.values()):
        raise NoPropError("all layers are frozen: there is nothing to train")
    return [t for t in numbers if True in learns[t]]


def _learns(model: Model, t: int) -> set[bool]:
    """Whether the parameters of part t are to be trained; both, where a layer is frozen in part."""
    if isinstance(model, NoPropDT):
        return {p.requires_grad for p in model.layers[t - 1].parameters()}
    return {any(p.requires_grad for p in model.parameters())}  # one block: a part of it, as a schedule, may stay as it is


def adam(parameters: list[Tensor], settings: Settings, capturable: bool = False) -> torch.optim.Optimizer:
    """Adam or AdamW with the settings' rate and decay, one kernel for all parameters.

    >>> adam([nn.Parameter(torch.zeros(1))], Settings(optimizer="adamw", weight_decay=0.1)).param_groups[0]["weight_decay"]
    0.1
    """
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    rates = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    return kind(parameters, **rates, fused=True, capturable=capturable)


def one_cycle(step: int, num_steps: int, peak: float) -> tuple[float, float]:
    """Learning rate and Adam's first-moment decay at step 0 ... num_steps - 1 of one cycle (arXiv:1708.07120).

    The rate goes from peak / 25 up to the peak in 30 % of the steps, and down to peak / 250,000; the decay from 0.95 down to
    0.85 and up again; both along a cosine. Raises ValueError on a step that is not in the cycle.

    >>> [round(one_cycle(step, 100, peak=1.0)[0], 2) for step in (0, 29, 99)]
    [0.04, 1.0, 0.0]
    """

    if num_steps < 1 or not 0 <= step < num_steps:
        raise ValueError(f"expected num_steps of at least 1 and a step from 0 to {num_steps - 1}, got {num_steps} and {step}")

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    turn = 0.3 * num_steps - 1
    if step <= turn:
        return between(peak / 25, peak, step / turn), between(0.95, 0.85, step / turn)
    share = (step - turn) / (num_steps - 1 - turn)
    return between(peak, peak / 250_000, share), between(0.85, 0.95, share)


@torch.no_grad()
def forget_old_moments(optimizer: torch.optim.Optimizer) -> None:
    """Set Adam's first moments below 1e-20 to zero: with Adam's epsilon of 1e-8 they move a weight by less than 1e-11 rates.

    Of a hidden unit that has died they shrink by a tenth a step, down to the denormal numbers below 1e-38, and stay there:
    some processors compute far more slowly with these, and a few of them in a thousand hold up the whole step.

    >>> w = nn.Parameter(torch.zeros(1))
    >>> w.grad, optimizer = torch.full((1,), 1e-30), adam([w], Settings())
    >>> optimizer.step()
    >>> forget_old_moments(optimizer)
    >>> optimizer.state[w]["exp_avg"]
    tensor([0.])
    """
    for state in optimizer.state.values():
        state["exp_avg"].masked_fill_(state["exp_avg"].abs() < 1e-20, 0.0)


class Schedule:
    """Sets the learning rate of a step: constant, or one cycle over the run.

    >>> optimizer = adam([nn.Parameter(torch.zeros(1))], Settings())
    >>> set_rate = Schedule(optimizer, Settings(one_cycle=True, learning_rate=1.0, epochs=2), num_batches=50)
    >>> set_rate(epoch=1, batch=29)
    >>> round(optimizer.param_groups[0]["lr"], 2)  # at the top, after 30 % of the steps
    1.0
    """

    def __init__(self, optimizer: torch.optim.Optimizer, settings: Settings, num_batches: int):
        self.optimizer, self.settings, self.num_batches = optimizer, settings, num_batches

    def __call__(self, epoch: int, batch: int) -> None:
        """Before batch 0, 1, ... of epoch 1, 2, ..."""
        if not self.settings.one_cycle:
            return
        step, total = (epoch - 1) * self.num_batches + batch, self.settings.epochs * self.num_batches
        rate, decay = one_cycle(step, total, self.settings.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = rate, (decay, group["betas"][1])


def autocast(settings: Settings, device: torch.device) -> torch.autocast:
    """The precision that the settings ask for. Without autocast's cache, which would keep the copies of an epoch's first
    weights for all of the epoch.

    >>> with autocast(Settings(precision="bfloat16"), torch.device("cpu")):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16", cache_enabled=False)


# --- The passes -------------------------------------------------------------------------------------------------------


class Together:
    """Trains the small layers of a NoPropDT as one stack, and with them its encoder, if that is to be trained.

    Raises NoPropError on a model whose layers are no stack, and on learned embeddings.

    >>> from noprop_helpers.recipes import RECIPES, Shape
    >>> model = RECIPES["shared"](num_steps=4).build(Shape((1, 8, 8), num_classes=2, num_images=20))
    >>> one_epoch = Together(model, torch.rand(20, 1, 8, 8), torch.arange(20) % 2, Settings())
    >>> one_epoch(1).shape
    torch.Size([4])
    """

    def __init__(self, model: Model, images: Tensor, labels: Tensor, settings: Settings, progress: Progress = silent):
        if not isinstance(model, NoPropDT) or model.objective == "elbo":
            raise NoPropError("only the small layers of a NoPropDT can be trained together; use order layer or interleaved")
        if model.W.requires_grad:
            raise NoPropError("learned embeddings are not trained together with the layers; use order layer or interleaved")
        self.model, self.labels, self.settings, self.progress = model, labels, settings, progress
        self.numbers = layers_to_train(model, settings)
        self.inputs = Inputs(model, images, settings, progress)
        self.layers = [model.layers[t - 1].train() for t in self.numbers]  # a stack stays in the mode that it is made in
        # The hand-written stack has no bfloat16, and knows the one architecture of the recipes.
        known = all(type(layer) is DenoisingMLP for layer in self.layers) and settings.precision == "float32"
        try:
            self.stack = MLPStack(self.layers, model.output_gradients) if known else LayerStack(self.layers)
        except ValueError as error:  # layers with BatchNorm, as those of residual
            raise NoPropError(f"these layers cannot be trained together; use order layer or interleaved ({error})") from None
        self.optimizer = adam([*self.stack.parameters(), *_trained(model.encoder)], settings)
        self.set_rate = Schedule(self.optimizer, settings, len(shuffled(len(labels), settings, 0, labels.device)))

    def __call__(self, epoch: int) -> Tensor:
        """Train for one epoch, from 1: -> mean losses [layers]."""
        settings, device = self.settings, self.labels.device
        batches = shuffled(len(self.labels), settings, epoch, device)
        bar = self.progress(batches, f"epoch {epoch}/{settings.epochs}")
        with diverging(self.numbers, epoch), seeded(0, device), autocast(settings, device):
            losses = fit_stack(self.stack, self.optimizer, self._noised(epoch, batches, bar), self.model.layer_losses)
        forget_old_moments(self.optimizer)
        self.stack.copy_to(self.layers)
        return losses

    def _noised(self, epoch: int, batches: list[Tensor], bar) -> Iterator[Batch]:
        """(features [B, F], states [T, B, D], labels [B]) of every batch."""
        rows = [t - 1 for t in self.numbers]
        for i, _ in enumerate(bar):
            if i % 8 == 0:
                # Eight batches at once: on a CPU these many small calls take the time, not the numbers. The noise of all
                # layers is drawn, whichever are trained: a layer sees the same states in any company.
                reseed(seed_of(self.settings.seed, epoch, i), self.labels.device)
                sizes, group = [len(part) for part in batches[i : i + 8]], torch.cat(batches[i : i + 8])
                labels = self.labels[group]
                states = self.model.noised_states(labels)
                states = states if len(rows) == self.model.num_layers else states[rows]
                values = self.inputs.values.index_select(0, group)  # several times as fast as values[group]
                drawn = zip(values.split(sizes), states.split(sizes, 1), labels.split(sizes))
            x, z, y = next(drawn)
            self.set_rate(epoch, i)
            yield self.inputs.features(x), z, y


class InTurn:
    """Trains one layer at a time: a pass over the data for each, or every batch through all of them. The reference.

    Raises NoPropError where CUDA graphs are asked for with a trained encoder or a learning-rate cycle.

    >>> from noprop_helpers.recipes import RECIPES, Shape
    >>> model = RECIPES["shared"](num_steps=4).build(Shape((1, 8, 8), num_classes=2, num_images=20))
    >>> one_epoch = InTurn(model, torch.rand(20, 1, 8, 8), torch.arange(20) % 2, Settings(order="layer"))
    >>> one_epoch(1).shape
    torch.Size([4])
    """

    def __init__(self, model: Model, images: Tensor, labels: Tensor, settings: Settings, progress: Progress = silent):
        graphed = settings.cuda_graphs and images.device.type == "cuda"
        if graphed and (model.train_encoder or settings.one_cycle):
            raise NoPropError("cuda_graphs needs a frozen encoder and a constant learning rate")
        self.model, self.labels, self.settings, self.progress = model, labels, settings, progress
        self.numbers = layers_to_train(model, settings)
        self.inputs = Inputs(model, images, settings, progress)
        self.optimizer = adam(_trained(model), settings, capturable=graphed)
        self.set_rate = Schedule(self.optimizer, settings, len(shuffled(len(labels), settings, 0, labels.device)))
        self.step = ReplayedSteps(self._step) if graphed else self._step

    def __call__(self, epoch: int) -> Tensor:
        """Train for one epoch, from 1: -> mean losses [layers]."""
        settings, device = self.settings, self.labels.device
        batches = shuffled(len(self.labels), settings, epoch, device)
        steps = [(t, i) for t in self.numbers for i in range(len(batches))]
        if settings.order == "interleaved":
            steps.sort(key=lambda step: step[1])
        losses = {t: torch.empty(len(batches), device=device) for t in self.numbers}
        with seeded(0, device):
            for t, i in self.progress(steps, f"epoch {epoch}/{settings.epochs}"):
                reseed(seed_of(settings.seed, epoch, t, i), device)
                self.set_rate(epoch, i)  # every layer goes through a cycle of its own
                with autocast(settings, device):
                    x = self.inputs.features(self.inputs.values[batches[i]])
                losses[t][i] = self.step(t, x, self.labels[batches[i]])
        every = torch.stack(list(losses.values()), 1).cpu()  # [batches, layers]
        with diverging(self.numbers, epoch):
            for k in range(1, len(self.numbers) + 1) if settings.order == "layer" else [len(self.numbers)]:
                check_finite(every[:, :k])  # the first one in time, where layer follows on layer
        forget_old_moments(self.optimizer)
        return every.mean(0)

    def _step(self, t: int, x: Tensor, y: Tensor) -> Tensor:
        """Train layer t on one batch: -> its mean loss."""
        with autocast(self.settings, y.device):
            loss = self.model.layer_loss(t, x, y).mean()
        self.optimizer.zero_grad(set_to_none=True)  # the other layers' weights have no gradient, and so stay as they are
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class Solved:
    """Solves the linear layers of a NoPropDT by their normal equations, in one pass over the images: nothing is trained.

    The features come and go batch by batch: what is kept of them is one matrix, F x F.

    Raises NoPropError on layers that are not linear, or not judged by squared error.

    >>> from noprop_helpers.recipes import RECIPES, Shape
    >>> images, labels, recipe = torch.rand(20, 1, 8, 8), torch.arange(20) % 2, RECIPES["closed_form"](num_steps=4)
    >>> model = recipe.build(Shape((1, 8, 8), num_classes=2, num_images=20))
    >>> recipe.prepare(model, images, labels, torch.Generator().manual_seed(0))
    >>> Solved(model, images, labels, recipe.settings(Shape((1, 8, 8), 2, 20)))(1).shape
    torch.Size([4])
    """

    def __init__(self, model: Model, images: Tensor, labels: Tensor, settings: Settings, progress: Progress = silent):
        if not isinstance(model, NoPropDT) or not all(type(layer) is LinearDenoiser for layer in model.layers):
            raise NoPropError("only linear layers, as those of the preset closed_form, can be solved; others are trained")
        if model.objective != "squared_error" or not model.layer_local:
            raise NoPropError("layers are solved for squared error, with a frozen encoder and fixed embeddings")
        self.model, self.images, self.labels, self.settings, self.progress = model, images, labels, settings, progress
        self.numbers = layers_to_train(model, settings)
        self.optimizer = adam(_trained(model), settings)  # takes no step: files of all orders have one form

    @torch.no_grad()
    def __call__(self, epoch: int) -> Tensor:
        """-> mean losses of the solved layers on the images [layers]."""
        try:
            regression = ridge_regression(self._gathered().covariances(), self.settings.weight_decay)
        except ValueError as error:
            raise NoPropError(f"{error} (weight_decay)") from None
        solved = [denoiser_at(regression, self.model.alpha_bar[t].item()) for t in self.numbers]
        for t, (from_x, from_z, bias, _) in zip(self.numbers, solved):
            layer = self.model.layers[t - 1]
            layer.features.weight.copy_(from_x)
            layer.features.bias.copy_(bias)
            layer.state.weight.copy_(from_z)
        return torch.stack([layer.loss for layer in solved]).cpu()

    def _gathered(self) -> Moments:
        """The moments of all images' features, computed in the settings' precision and summed in 32 bits."""
        batches = list(zip(self.images.split(self.settings.batch_size), self.labels.split(self.settings.batch_size)))
        moments = None
        for images, labels in self.progress(batches, "features"):
            with evaluating(self.model.encoder), autocast(self.settings, images.device):
                x = self.model.encoder(images).float()
            if moments is None:
                moments = Moments(x.shape[1], self.model.W.shape[1], images.device)
            moments.add(x, self.model.W[labels])
        return moments


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
