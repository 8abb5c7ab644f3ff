"""The three NoProp models composed from the leaf modules: discrete time, continuous time, flow matching.

Data flows one way: images -> encoder -> features; labels -> embeddings -> noised states; layers map both to a denoised
label; a loss per layer to train, a sampler over the layers to predict. All models, the baseline included, offer

- ``num_layers``, how many parts train apart from one another: T, or 1 where one block serves all times
- ``layer_loss(t, features, labels, generator) -> [B]``, the loss of part t alone
- ``loss(images, labels, generator)``, their sum over parts, mean over the batch; ``predict(images, generator) -> [B]``
- ``probabilities(images, generator) -> [B, K]``, how likely the model finds each class
- ``save(path)`` and ``load(path)``, and ``identity()``, what a file's weights are worth nothing without

Prediction does not depend on training mode and does not change it.
"""

import contextlib
import math
import numbers
from pathlib import Path
from typing import Callable, Iterator

import torch
from torch import Tensor, nn

from . import NoPropError, checkpoints
from .augment import check_images, check_like
from .backprop import BackpropNet, NeuralODE
from .blocks import expected_embedding
from .diffusion import flow_path, kl_to_prior, q_sample
from .embeddings import nearest_class, nearest_distribution
from .losses import ct_loss, dt_loss, fm_loss, readout_loss, readout_loss_gradient, squared_error, squared_error_gradient
from .samplers import sample_euler, sample_posterior, sample_renoise
from .schedules import LearnedGamma, alphas_from_alpha_bar, posterior_coefficients, snr_weights


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model as it predicts, dropout off and BatchNorm on its running averages; afterwards its modes are as they were.

    >>> layer = nn.Dropout(0.5)
    >>> with evaluating(layer):
    ...     layer.training
    False
    >>> layer.training
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected an nn.Module to evaluate, got {type(model).__name__}")
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _Model(nn.Module):
    """What the models share: label embeddings, given or learned, what is known of their data, and files of weights.

    ``image_shape`` (C, H, W) and ``class_names`` are of the data that a run trained the model on, see ``trained_on``; ``fit`` by
    itself tells the shape and the ``pixel_range`` alone. Where nobody said so, None.
    """

    image_shape: tuple[int, int, int] | None = None
    class_names: tuple[str, ...] | None = None
    pixel_range: tuple[float, float] | None = None

    num_layers = 1
    layer_local = True  # one block that takes every step: no step's loss reaches another step
    locality = "one block for all times, no gradient between steps"

    def __init__(self, encoder: nn.Module, W: Tensor, train_encoder: bool = False):
        super().__init__()
        if not isinstance(encoder, nn.Module):
            raise NoPropError(f"encoder must be an nn.Module, as nn.Identity(), got {type(encoder).__name__}")
        _check_table(W)
        self.encoder, self.train_encoder = encoder.requires_grad_(train_encoder), train_encoder
        if isinstance(W, nn.Parameter):
            self.W = W
        else:
            self.register_buffer("W", W)

    def loss(self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sum over layers of the batch-mean loss: images [B, C, H, W], labels [B] -> scalar."""
        self._check(images, self.image_shape)
        check_images(images, labels, len(self.W))
        features = self.encoder(images)
        losses = [self.layer_loss(t, features, labels, generator).mean() for t in range(1, self.num_layers + 1)]
        return torch.stack(losses).sum()

    def trained_on(self, image_shape: tuple[int, int, int], class_names: tuple[str, ...]) -> "_Model":
        """Say what it is trained on: from now on it refuses images of another shape or type, or with values outside [0, 1].

        Returns the model itself. Raises NoPropError where these are not as many classes as it has, or the shape is no
        (C, H, W).
        """
        if not isinstance(image_shape, (tuple, list)) or len(image_shape) != 3:
            raise NoPropError(f"expected the images' shape as (C, H, W), got {image_shape!r}")
        if len(class_names) != len(self.W):
            raise NoPropError(f"expected {len(self.W)} class names, got {len(class_names)}")
        self.image_shape, self.class_names = tuple(image_shape), tuple(class_names)
        return self

    @torch.no_grad()
    def probabilities(self, images: Tensor, generator: torch.Generator | None = None, num_walks: int = 10) -> Tensor:
        """How likely the model finds each class: images [B, C, H, W] -> [B, K], rows at least 0 with sum 1.

        The mean over ``num_walks`` walks, each from fresh noise, of the distribution at their ends (``nearest_distribution``
        of it, or the softmax of a readout). It says how sure the model is, not how often it is right.
        """
        walks = [self._distribution(images, generator) for _ in range(_at_least_one(num_walks, "num_walks"))]
        return torch.stack(walks).mean(0)

    def check_training(self, images: Tensor, labels: Tensor) -> None:
        """Raise ValueError unless these can be trained on: images [N, C, H, W], labels [N].

        From now on the model refuses images of another shape, or with values far outside the range of these. One that was told
        more, see ``trained_on``, refuses them already.
        """
        self._check(images, self.image_shape if self.class_names else None)  # else it may be trained anew, on other images
        check_images(images, labels, len(self.W))
        self.image_shape, self.pixel_range = tuple(images.shape[1:]), (images.min().item(), images.max().item())

    def _check(self, images: Tensor, image_shape: tuple[int, int, int] | None) -> None:
        """That images can be used and, as far as it is known what the model was trained on, are like those."""
        if self.class_names is None:
            check_images(images)
        else:
            check_like(images, image_shape, self.W.dtype)
        if images.device != self.W.device:
            raise ValueError(f"images: expected them where the model is, on {self.W.device}, got them on {images.device}")
        if images.dtype != self.W.dtype:
            raise ValueError(f"images: expected {self.W.dtype}, as the model's weights are, got {images.dtype}")
        if image_shape is not None and images.shape[1:] != image_shape:
            expected = ", ".join(map(str, image_shape))
            raise ValueError(f"images: expected [B, {expected}], as the model was trained on, got {list(images.shape)}")
        if image_shape is not None and self.pixel_range is not None:
            least, most = self.pixel_range
            low, high, width = images.min().item(), images.max().item(), most - least
            if width > 0 and (low < least - width or high > most + width):  # a little outside is a picture of the same kind
                raise ValueError(f"images: expected values from {least:g} to {most:g}, as in training, got from {low:g} to {high:g}")

    def identity(self) -> dict:
        """What the weights alone do not tell, as plain data: the kind of model, and the numbers that it computes with."""
        return {"kind": type(self).__name__, "num_classes": len(self.W)}

    def save(self, path: str | Path) -> None:
        """Write the weights to a file that ``load`` reads without executing anything in it."""
        checkpoints.save(path, {"model": self.identity(), "state": self.state_dict()})

    def load(self, path: str | Path) -> "_Model":
        """Take the weights from a file that ``save`` wrote for a model built alike. Returns the model itself.

        Raises CheckpointError where the file's model is another one: kind, schedule, objective, number of steps, shapes.
        """
        content = checkpoints.load(path, self.W.device)
        checkpoints.expect(content, {"model": dict, "state": dict}, path)
        checkpoints.check_same(content["model"], self.identity(), path)
        checkpoints.load_state(self, content["state"], path)
        return self

    def _expected(self, scores: Tensor) -> Tensor:
        """u_hat from class scores [..., B, K], in full precision also where autocast is on."""
        with torch.autocast(self.W.device.type, enabled=False):
            return expected_embedding(scores.to(self.W.dtype), self.W)

    def _embedded(self, labels: Tensor) -> Tensor:
        """u_y: labels [B] -> [B, D]. A label of -1 would be the last class, by Python's way to count."""
        # On an accelerator this look at the values would stall the queue; ``fit`` and ``loss`` have looked before.
        if labels.device.type == "cpu" and labels.numel() > 0:
            low, high = (value.item() for value in labels.aminmax())
            if low < 0 or high >= len(self.W):
                raise ValueError(f"labels: expected labels in 0..{len(self.W) - 1}, got {low if low < 0 else high}")
        return self.W[labels]

    def _noise(self, batch_size: int, generator: torch.Generator | None) -> Tensor:
        """Standard normal label states [B, D]."""
        _check_generator(generator)
        size = batch_size, self.W.shape[1]
        return torch.randn(size, generator=generator, dtype=self.W.dtype, device=self.W.device)

    def _check_layer(self, t: int) -> None:
        # layers[0 - 1] would be the last one, and True the first.
        if isinstance(t, bool) or not isinstance(t, numbers.Integral) or not 1 <= t <= self.num_layers:
            raise NoPropError(f"expected a layer from 1 to {self.num_layers}, got {t!r}")


class NoPropDT(_Model):
    """Discrete-time NoProp: T layers, each trained alone to denoise the label at its own noise level.

    - ``encoder``: images [B, C, H, W] -> features [B, F]
    - ``layers``: T modules (features [B, F], z [B, D]) -> [B, K]; ``layers[t - 1]`` is layer t
    - ``W``: label embeddings [K, D]; an ``nn.Parameter`` if they are to be learned
    - ``alpha_bar``: schedule [T + 1]
    - ``train_encoder``: True, the encoder learns from the sum of all layers' losses, so training is not layer-local;
      False, it stays as it is, and its features can be computed once
    - ``objective``: "cross_entropy", outputs are class scores, u_hat = softmax(outputs) @ W, loss -log p(y);
      "squared_error", outputs are u_hat itself (the published notebook; needs D = K);
      "elbo", the paper's eq. 8: u_hat as for cross_entropy, SNR-weighted squared error, read-out and prior
    - ``readout``: for "elbo", a module (z_0 [B, D], W) -> class scores [B, K]; it also decides what is predicted
    - ``eta``: for "elbo", weight of the denoising term (0.1 in the paper)
    - ``inference``: what ``predict`` does unless told otherwise: "sample" draws a label, by steps from the posterior; "answer"
      leaves the posterior's noise out, and is right more often (chapter 6); levels [T] re-noise to these (``sample_renoise``)

    Raises NoPropError where these do not fit each other, and on a layer t that there is not.

    >>> from noprop_helpers.blocks import DenoisingMLP
    >>> from noprop_helpers.schedules import cosine_alpha_bar
    >>> layers = [DenoisingMLP(feature_dim=64, embed_dim=3, num_classes=3) for _ in range(5)]
    >>> model = NoPropDT(nn.Flatten(), layers, W=torch.eye(3), alpha_bar=cosine_alpha_bar(5))
    >>> images, labels = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    >>> model.loss(images, labels).backward()  # each layer's gradient is that of its own term
    >>> model.predict(images).shape, model.locality
    (torch.Size([4]), 'layer-local')
    """

    def __init__(
        self,
        encoder: nn.Module,
        layers: list[nn.Module],
        W: Tensor,
        alpha_bar: Tensor,
        *,
        train_encoder: bool = False,
        objective: str = "cross_entropy",
        readout: nn.Module | None = None,
        eta: float = 0.1,
        inference: str | Tensor = "sample",
    ):
        super().__init__(encoder, W, train_encoder)
        alpha_bar = _checked_schedule(alpha_bar, layers)
        if objective not in ("cross_entropy", "squared_error", "elbo"):
            raise NoPropError(f"objective must be cross_entropy, squared_error or elbo, got {objective!r}")
        if (objective == "elbo") != (readout is not None):
            raise NoPropError("the objective elbo needs a readout, and no other objective takes one")
        levels = _levels(inference, len(layers))
        self.layers, self.readout = nn.ModuleList(layers), readout
        self.objective, self.eta = objective, _at_least_zero(eta, "eta")
        # Tables stay float64 on the CPU: the samplers read them as numbers, whatever device the model is on.
        self.alpha_bar = alpha_bar.double()
        self.levels, self.inference_noise = levels, levels is not None or inference == "sample"
        self.posterior = posterior_coefficients(alpha_bar) if levels is None else None
        # What training reads at every step lives beside the weights.
        self.register_buffer("_signal", alpha_bar.float(), persistent=False)
        weights = snr_weights(alpha_bar) if objective == "elbo" else torch.ones(len(layers))
        self.register_buffer("_weights", weights.float(), persistent=False)

    @property
    def num_layers(self) -> int:
        """T."""
        return len(self.layers)

    @property
    def layer_local(self) -> bool:
        """Whether no parameter that a layer's output depends on is trained by more than one layer's loss."""
        return not self.train_encoder and not self.W.requires_grad and not self._layers_share()

    def _layers_share(self) -> bool:
        """Whether two layers have a trained weight in common, as one layer that comes twice."""
        own = [p for layer in self.layers for p in set(layer.parameters()) if p.requires_grad]
        return len(own) > len(set(own))

    @property
    def locality(self) -> str:
        """``layer_local`` in words."""
        if self.layer_local:
            return "layer-local"
        if self._layers_share():
            return "not layer-local: some weights are trained by several layers"
        return f"not layer-local: one {'encoder' if self.train_encoder else 'embedding'} is trained by all layers"

    def identity(self) -> dict:
        return super().identity() | {
            "num_steps": self.num_layers,
            "objective": self.objective,
            "eta": self.eta if self.objective == "elbo" else None,
            "alpha_bar": self.alpha_bar.tolist(),
            "levels": None if self.levels is None else self.levels.tolist(),
            "inference_noise": self.inference_noise,
        }

    def noised_states(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A fresh z_t ~ q(z_t | u_y) for every layer: labels [B] -> [T, B, D]; entry t - 1 is layer t's input."""
        _check_generator(generator)
        u = self._embedded(labels)  # [B, D]
        noise = torch.randn(self.num_layers, *u.shape, generator=generator, dtype=u.dtype, device=u.device)
        return q_sample(u, self._signal[1:], noise)

    def denoised(self, outputs: Tensor) -> Tensor:
        """Layer outputs [..., B, K] -> u_hat [..., B, D]."""
        return outputs if self.objective == "squared_error" else self._expected(outputs)

    def layer_losses(self, outputs: Tensor, labels: Tensor, t: int | None = None) -> Tensor:
        """Per-sample loss of all layers' outputs [T, B, K] -> [T, B], or of layer t's [B, K] -> [B]; labels [B]."""
        if self.objective == "squared_error":
            return squared_error(outputs, self.W.index_select(0, labels))
        if outputs.shape[-1] != len(self.W):
            raise NoPropError(f"expected a class score for each row of W {list(self.W.shape)}, got {list(outputs.shape)}")
        if self.objective == "cross_entropy":
            return readout_loss(outputs, labels)
        weights = self._weights if t is None else self._weights[t - 1]
        return dt_loss(self.denoised(outputs), self.W[labels], weights, self.num_layers, self.eta)

    def output_gradients(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``layer_losses`` differentiated by the outputs, [T, B, K] -> [T, B, K]; for objectives other than "elbo"."""
        if self.objective == "squared_error":
            return squared_error_gradient(outputs, self.W.index_select(0, labels))
        return readout_loss_gradient(outputs, labels)

    def label_loss(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The two terms of eq. 8 that no layer enters: read-out of a sampled z_0, divergence of z_T: labels [B] -> [B]."""
        u = self._embedded(labels)
        z_0 = q_sample(u, self._signal[0], self._noise(len(u), generator))
        return readout_loss(self.readout(z_0, self.W), labels) + kl_to_prior(u, self._signal[-1])

    def layer_loss(self, t: int, features: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Loss of layer t alone, at a freshly noised state: features [B, F], labels [B] -> [B]."""
        self._check_layer(t)
        u = self._embedded(labels)
        z_t = q_sample(u, self._signal[t], self._noise(len(u), generator))
        loss = self.layer_losses(self.layers[t - 1](features, z_t), labels, t)
        return loss + self.label_loss(labels, generator) if self.objective == "elbo" else loss

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        generator: torch.Generator | None = None,
        callback: Callable | None = None,
        *,
        noise: bool | None = None,
    ) -> Tensor:
        """Walk the layers from pure noise: images [B, C, H, W] -> predicted classes [B] int64.

        ``callback(t, z, u_hat)`` sees every new state, as in the samplers. ``noise=False`` leaves out the sqrt(c_t) eps
        of every posterior step: the chain then answers, where otherwise it samples (chapter 6). None is the model's own way.
        """
        self._check(images, self.image_shape)
        noise = self.inference_noise if noise is None else noise
        _check_noise(self.levels, noise)
        z = self._noise(len(images), generator)
        with evaluating(self):
            features = self.encoder(images)

            def denoise(t: int, z: Tensor) -> Tensor:
                return self.denoised(self.layers[t - 1](features, z))

            if self.levels is not None:
                z = sample_renoise(denoise, z, self.levels, generator, callback)
            else:
                a, b, c = self.posterior
                z = sample_posterior(denoise, z, a, b, c if noise else torch.zeros_like(c), generator, callback)
            return self.classify(z)

    def classify(self, z: Tensor) -> Tensor:
        """Class of a clean state: what the readout says, else the nearest embedding. z [B, D] -> [B] int64."""
        return nearest_class(z, self.W) if self.readout is None else self.readout(z, self.W).argmax(1)

    def _distribution(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Of the last layer's u_hat, or what the readout makes of z_0: images [B, C, H, W] -> [B, K]."""
        end = {}
        self.predict(images, generator, lambda t, z, u_hat: end.update(z=z, u_hat=u_hat))
        if self.readout is None:
            return nearest_distribution(end["u_hat"], self.W)
        return self.readout(end["z"], self.W).softmax(1)

    @torch.no_grad()
    def predict_alone(self, images: Tensor, t: int, generator: torch.Generator | None = None) -> Tensor:
        """Layer t alone, given pure noise instead of its usual input: images -> classes [B] int64.

        For the top layer, t = T, pure noise is the usual input: this is inference stopped after one step.
        """
        self._check(images, self.image_shape)
        self._check_layer(t)
        z = self._noise(len(images), generator)
        with evaluating(self):
            return self.classify(self.denoised(self.layers[t - 1](self.encoder(images), z)))


def _at_least_one(number: int, name: str = "num_steps") -> int:
    if isinstance(number, bool) or not isinstance(number, numbers.Integral):
        raise NoPropError(f"{name} must be an integer, got {number!r}")
    if number < 1:
        raise NoPropError(f"{name} must be at least 1, got {number}")
    return number


def _at_least_zero(number: float, name: str) -> float:
    if isinstance(number, bool) or not isinstance(number, numbers.Real) or not 0 <= number < math.inf:
        raise NoPropError(f"{name} must be a finite number, at least 0, got {number!r}")
    return number


def _check_table(W: Tensor) -> None:
    if not isinstance(W, Tensor) or W.ndim != 2 or W.numel() == 0 or not W.is_floating_point():
        came = f"{W.dtype} {list(W.shape)}" if isinstance(W, Tensor) else type(W).__name__
        raise NoPropError(f"W must be a floating-point table [K, D] of label embeddings, as torch.eye(K), got {came}")
    if not W.isfinite().all():
        raise NoPropError("W must be finite, got NaN or infinity among the label embeddings")


def _check_generator(generator: torch.Generator | None) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}")


def _checked_schedule(alpha_bar: Tensor, layers: list[nn.Module]) -> Tensor:
    """alpha_bar [T + 1] of T layers, whatever rule walks them."""
    if not isinstance(layers, (list, tuple, nn.ModuleList)):
        raise NoPropError(f"layers must be a list of nn.Module, got {type(layers).__name__}")
    if wrong := [type(layer).__name__ for layer in layers if not isinstance(layer, nn.Module)]:
        raise NoPropError(f"layers must be a list of nn.Module, got a {wrong[0]} in it")
    try:
        alpha_bar = torch.as_tensor(alpha_bar)
    except (TypeError, ValueError, RuntimeError):
        raise NoPropError(f"alpha_bar must be a tensor [T + 1], as cosine_alpha_bar(T), got {alpha_bar!r}") from None
    if alpha_bar.ndim != 1 or len(alpha_bar) != len(layers) + 1 or not layers:
        raise NoPropError(
            f"{len(layers)} layers, of which there must be one at least, need alpha_bar [{len(layers) + 1}], "
            f"got {list(alpha_bar.shape)}"
        )
    try:
        alphas_from_alpha_bar(alpha_bar)  # raises on what lies outside (0, 1] or rises
    except ValueError as error:
        raise NoPropError(str(error)) from None
    return alpha_bar


def _levels(inference: str | Tensor, num_layers: int) -> Tensor | None:
    """The levels of inference [T], or None where it is one of the two ways through the posterior."""
    if isinstance(inference, Tensor):
        if inference.shape != (num_layers,):
            raise NoPropError(f"expected one level per layer, [{num_layers}], got {list(inference.shape)}")
        if inference.is_complex() or not ((inference >= 0) & (inference <= 1)).all():
            raise NoPropError(f"levels must lie in [0, 1], got {inference.tolist()}")
        return inference
    if inference not in ("sample", "answer"):
        raise NoPropError(f"inference must be sample, answer or levels [T], got {inference!r}")
    return None


def _check_noise(levels: Tensor | None, noise: bool) -> None:
    if levels is not None and not noise:
        raise NoPropError("re-noising is noise alone; only the posterior rule can do without")


class _Flow(_Model):
    """What the two continuous-time models share: one block, and inference along ``velocity`` from noise to label."""

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        generator: torch.Generator | None = None,
        callback: Callable | None = None,
        *,
        sampler: Callable = sample_euler,
        num_steps: int | None = None,
    ) -> Tensor:
        """Integrate from pure noise: images [B, C, H, W] -> predicted classes [B] int64.

        ``num_steps`` replaces the model's own number of steps; ``callback(t, z, v)`` sees every new state.
        """
        self._check(images, self.image_shape)
        num_steps = self.num_steps if num_steps is None else _at_least_one(num_steps)
        with evaluating(self):
            features = self.block.encode(self.encoder(images))
            z = sampler(self.velocity(features), self._noise(len(images), generator), num_steps, callback)
            return self.classify(z)

    def _distribution(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Of the state that a walk ends in: images [B, C, H, W] -> [B, K]."""
        end = {}
        self.predict(images, generator, lambda t, z, v: end.update(z=z))
        return self.distribution(end["z"])

    def _times(self, batch_size: int, generator: torch.Generator | None) -> Tensor:
        """Random times in [0, 1), [B]."""
        _check_generator(generator)
        return torch.rand(batch_size, generator=generator, dtype=self.W.dtype, device=self.W.device)

    def identity(self) -> dict:
        return super().identity() | {"num_steps": self.num_steps}


class NoPropCT(_Flow):
    """Continuous-time NoProp: one block, told the time, denoises at every noise level; the schedule is learned.

    - ``encoder``: applied to the images first and never trained, e.g. ``Standardize``
    - ``block``: with ``encode(images) -> [B, F]`` and ``head(features, z [B, D], t [B]) -> [B, K]``, as ``TimedConvBlock``
    - ``W``: label embeddings [K, D]; an ``nn.Parameter`` if they are to be learned
    - ``gamma``: the schedule; ``readout``: (z_0 [B, D], W) -> class scores [B, K]; ``eta`` as in eq. 9
    - ``num_steps``: Euler steps of inference (1000 in the paper)

    >>> from noprop_helpers.blocks import LinearReadout, TimedConvBlock
    >>> block = TimedConvBlock((1, 8, 8), embed_dim=3, num_classes=3)
    >>> model = NoPropCT(nn.Identity(), block, torch.eye(3), LearnedGamma(), LinearReadout(3, 3), num_steps=2)
    >>> model.loss(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])).shape, model.predict(torch.rand(4, 1, 8, 8)).shape
    (torch.Size([]), torch.Size([4]))
    """

    def __init__(
        self,
        encoder: nn.Module,
        block: nn.Module,
        W: Tensor,
        gamma: LearnedGamma,
        readout: nn.Module,
        *,
        eta: float = 1.0,
        num_steps: int = 1000,
    ):
        super().__init__(encoder, W)
        self.block, self.gamma, self.readout = block, gamma, readout
        self.eta, self.num_steps = _at_least_zero(eta, "eta"), _at_least_one(num_steps)

    def identity(self) -> dict:
        return super().identity() | {"eta": self.eta}

    def layer_loss(self, t: int, features: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The paper's eq. 9 at one random time per sample: features [B, ...], labels [B] -> [B]. ``t`` is 1, the one block."""
        self._check_layer(t)
        u = self._embedded(labels)
        time = self._times(len(u), generator)
        gamma, rate = self.gamma(time)
        z = q_sample(u, torch.sigmoid(-gamma), self._noise(len(u), generator))
        u_hat = self._expected(self.block(features, z, time))
        # SNR = exp(-gamma), so -SNR' = gamma' exp(-gamma).
        denoising = ct_loss(u_hat, u, rate * torch.exp(-gamma), self.eta)
        (start, end), _ = self.gamma(torch.arange(2, dtype=u.dtype, device=u.device))
        z_0 = q_sample(u, torch.sigmoid(-start), self._noise(len(u), generator))
        return denoising + readout_loss(self.readout(z_0, self.W), labels) + kl_to_prior(u, torch.sigmoid(-end))

    def velocity(self, features: Tensor) -> Callable[[float, Tensor], Tensor]:
        """dz/dt of the probability-flow ODE for these images, 1/2 gamma' alpha (alpha z - u_hat), alpha = sqrt(alpha_bar).

        features: what ``block.encode`` returns, [B, F]. The result is a function (t, z [B, D]) -> [B, D].
        """
        return lambda t, z: probability_flow(
            self._expected(self.block.head(features, z, z.new_full((len(z),), t))),
            z,
            *self.gamma(z.new_tensor(t)),
        )

    def classify(self, z: Tensor) -> Tensor:
        """Class of an end state by the readout: z [B, D] -> [B] int64."""
        return self.readout(z, self.W).argmax(1)

    def distribution(self, z: Tensor) -> Tensor:
        """What the readout finds likely of an end state: z [B, D] -> [B, K]."""
        return self.readout(z, self.W).softmax(1)


def probability_flow(u_hat: Tensor, z: Tensor, gamma: Tensor, rate: Tensor) -> Tensor:
    r"""dz/dt of the probability-flow ODE: u_hat, z [B, D], gamma and its rate gamma' at this time -> [B, D].

    .. math::

        dz/dt &= \tfrac12 \, \gamma' \alpha \, (\alpha z - \hat u) \\
        \alpha &= \sqrt{\mathrm{sigmoid}(-\gamma)}

    The ODE whose solutions from N(0, I) have at every time the marginals q(z_t | u), if u_hat is the true u. Raises ValueError
    unless u_hat has the shape of z.

    >>> probability_flow(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor(0.0), torch.tensor(4.0)).round(decimals=2)
    tensor([[1., 1.]])
    """
    if u_hat.shape != z.shape:
        raise ValueError(f"expected u_hat and z of one shape [B, D], got {list(u_hat.shape)} and {list(z.shape)}")
    alpha = torch.sigmoid(-gamma).sqrt()
    return 0.5 * rate * alpha * (alpha * z - u_hat)


class NoPropFM(_Flow):
    """Flow-matching NoProp: one block learns the velocity of straight paths from label to noise.

    Arguments as for ``NoPropCT``, without schedule and eta. The block's class scores weigh the embeddings as they are,
    without softmax: v = scores @ W. ``readout`` is needed where W is learned: without its cross-entropy the embeddings
    shrink towards one point, which is easy to predict. ``sigma`` is the width of the path, 0 in our experiments.

    Raises NoPropError where W is learned and there is no readout.

    >>> from noprop_helpers.blocks import TimedConvBlock
    >>> model = NoPropFM(nn.Identity(), TimedConvBlock((1, 8, 8), embed_dim=3, num_classes=3), torch.eye(3), num_steps=2)
    >>> model.loss(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])).shape, model.predict(torch.rand(4, 1, 8, 8)).shape
    (torch.Size([]), torch.Size([4]))
    """

    def __init__(
        self,
        encoder: nn.Module,
        block: nn.Module,
        W: Tensor,
        readout: nn.Module | None = None,
        *,
        sigma: float = 0.0,
        num_steps: int = 1000,
    ):
        super().__init__(encoder, W)
        if self.W.requires_grad and readout is None:
            raise NoPropError("learned embeddings need a readout, whose cross-entropy keeps them apart")
        self.block, self.readout = block, readout
        self.sigma, self.num_steps = _at_least_zero(sigma, "sigma"), _at_least_one(num_steps)

    def identity(self) -> dict:
        return super().identity() | {"sigma": self.sigma}

    def layer_loss(self, t: int, features: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Flow matching at one random time per sample (paper, eq. 12-13): features [B, ...], labels [B] -> [B]."""
        self._check_layer(t)
        u = self._embedded(labels)
        time = self._times(len(u), generator)
        noise, jitter = self._noise(len(u), generator), None
        if self.sigma > 0:
            jitter = self.sigma * self._noise(len(u), generator)
        z, velocity = flow_path(u, time, noise, jitter)
        v = self._combined(self.block(features, z, time))
        loss = fm_loss(v, velocity)
        if self.readout is not None:
            # From z_t straight on along v to t = 0: where the path would end if v were right.
            loss = loss + readout_loss(self.readout(z - time[:, None] * v, self.W), labels)
        return loss

    def velocity(self, features: Tensor) -> Callable[[float, Tensor], Tensor]:
        """dz/dt for these images: features [B, F], as ``block.encode`` returns them -> a function (t, z [B, D]) -> [B, D]."""
        return lambda t, z: self._combined(self.block.head(features, z, z.new_full((len(z),), t)))

    def _combined(self, scores: Tensor) -> Tensor:
        """v = scores @ W, in full precision also where autocast is on: [B, K] -> [B, D]."""
        if scores.shape[-1] != len(self.W):
            raise NoPropError(f"expected a class score for each row of W {list(self.W.shape)}, got {list(scores.shape)}")
        with torch.autocast(self.W.device.type, enabled=False):
            return scores.to(self.W.dtype) @ self.W

    def classify(self, z: Tensor) -> Tensor:
        """Class with the nearest embedding: z [B, D] -> [B] int64."""
        return nearest_class(z, self.W)

    def distribution(self, z: Tensor) -> Tensor:
        """How near the embeddings are to an end state: z [B, D] -> [B, K]."""
        return nearest_distribution(z, self.W)


class Propagated(_Model):
    """A baseline trained end to end, ``BackpropNet`` or ``NeuralODE``, with the models' interface.

    ``net(images, z) -> class scores [B, K]``; its start z is drawn from N(0, I), in training as in inference.

    >>> from noprop_helpers.blocks import ConvBlock, LinearReadout
    >>> net = BackpropNet([ConvBlock((1, 8, 8), 3, 3) for _ in range(2)], torch.eye(3), LinearReadout(3, 3))
    >>> model = Propagated(nn.Identity(), net)
    >>> model.predict(torch.rand(4, 1, 8, 8)).shape, model.layer_local
    (torch.Size([4]), False)
    """

    layer_local = False
    locality = "not layer-local: gradients pass through all steps"

    def __init__(self, encoder: nn.Module, net: BackpropNet | NeuralODE):
        super().__init__(encoder, net.W)
        self.net = net

    def layer_loss(self, t: int, features: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Cross-entropy of the whole net: features [B, ...], labels [B] -> [B]. ``t`` is 1, for there are no parts."""
        self._check_layer(t)
        return readout_loss(self.net(features, self._noise(len(labels), generator)), labels)

    @torch.no_grad()
    def predict(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """images [B, C, H, W] -> predicted classes [B] int64."""
        self._check(images, self.image_shape)
        return self._scores(images, generator).argmax(1)

    def _scores(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        with evaluating(self):
            return self.net(self.encoder(images), self._noise(len(images), generator))

    def _distribution(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """images [B, C, H, W] -> [B, K]."""
        self._check(images, self.image_shape)
        return self._scores(images, generator).softmax(1)

    def identity(self) -> dict:
        return super().identity() | {"net": type(self.net).__name__, "num_steps": self.net.num_steps}
