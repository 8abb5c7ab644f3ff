"""NoProp-DT composed from the leaf modules: the model, its training, and three ready presets.

Data flows one way: images -> encoder -> features; labels -> embeddings -> noised states; layers map both to a denoised
label; a loss per layer to train, a sampler over the layers to predict.
"""

from typing import Callable, NamedTuple

import torch
from torch import Tensor, nn

from .blocks import ConvEncoder, DenoisingMLP, Standardize, expected_embedding
from .data import check_images
from .diffusion import q_sample
from .embeddings import nearest_class
from .features import PatchFeatures, encode
from .layerwise import LayerStack, fit_stack
from .losses import readout_loss, squared_error
from .samplers import sample_posterior, sample_renoise
from .schedules import alpha_bar_from_alphas, cosine_alpha_bar, linear_alphas, posterior_coefficients


class NoPropDT(nn.Module):
    """Discrete-time NoProp: T layers, each trained alone to denoise the label at its own noise level.

    - ``encoder``: images [B, C, H, W] -> features [B, F]
    - ``layers``: T modules (features [B, F], z [B, D]) -> [B, K]; ``layers[t - 1]`` is layer t
    - ``W``: label embeddings [K, D]
    - ``alpha_bar``: schedule [T + 1]
    - ``train_encoder``: True, the encoder learns from the sum of all layers' losses, so training is not layer-local;
      False, it stays as it is, and its features can be computed once
    - ``objective``: "cross_entropy", outputs are class scores, u_hat = softmax(outputs) @ W, loss -log p(y);
      "squared_error", outputs are u_hat itself (the published notebook; needs D = K)
    - ``levels``: None, inference draws from the posterior; [T], it re-noises to these levels (see ``sample_renoise``)
    """

    def __init__(
        self,
        encoder: nn.Module,
        layers: list[nn.Module],
        W: Tensor,
        alpha_bar: Tensor,
        *,
        train_encoder: bool,
        objective: str = "cross_entropy",
        levels: Tensor | None = None,
    ):
        super().__init__()
        if len(alpha_bar) != len(layers) + 1:
            raise ValueError(f"{len(layers)} layers need alpha_bar [{len(layers) + 1}], got {list(alpha_bar.shape)}")
        if objective not in ("cross_entropy", "squared_error"):
            raise ValueError(f"objective must be cross_entropy or squared_error, got {objective!r}")
        if levels is not None and len(levels) != len(layers):
            raise ValueError(f"expected one level per layer, [{len(layers)}], got {list(levels.shape)}")
        self.encoder = encoder.requires_grad_(train_encoder)
        self.layers = nn.ModuleList(layers)
        self.train_encoder, self.objective = train_encoder, objective
        self.register_buffer("W", W)
        # Tables stay float64 on the CPU: the samplers read them as numbers, whatever device the model is on.
        self.alpha_bar = alpha_bar.double()
        self.levels = levels
        self.posterior = posterior_coefficients(alpha_bar) if levels is None else None

    @property
    def num_steps(self) -> int:
        return len(self.layers)

    @property
    def layer_local(self) -> bool:
        """Whether no parameter is trained by more than one layer's loss."""
        return not self.train_encoder

    def noised_states(self, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A fresh z_t ~ q(z_t | u_y) for every layer: labels [B] -> [T, B, D]; entry t - 1 is layer t's input."""
        u = self.W[labels]  # [B, D]
        noise = torch.randn(self.num_steps, *u.shape, generator=generator, device=u.device)
        return q_sample(u, self.alpha_bar[1:].to(u), noise)

    def denoised(self, outputs: Tensor) -> Tensor:
        """Layer outputs [..., B, K] -> u_hat [..., B, D]."""
        return outputs if self.objective == "squared_error" else expected_embedding(outputs, self.W)

    def layer_losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Per-sample loss of each layer: outputs [..., B, K], labels [B] -> [..., B]."""
        if self.objective == "squared_error":
            return squared_error(outputs, self.W[labels])
        return readout_loss(outputs, labels)

    def loss(self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sum over layers of the batch-mean loss: images [B, C, H, W], labels [B] -> scalar."""
        check_images(images, labels, len(self.W))
        features, z = self.encoder(images), self.noised_states(labels, generator)
        outputs = torch.stack([layer(features, z_t) for layer, z_t in zip(self.layers, z)])  # [T, B, K]
        return self.layer_losses(outputs, labels).mean(-1).sum()

    @torch.no_grad()
    def predict(self, images: Tensor, generator: torch.Generator | None = None, callback: Callable | None = None):
        """Walk the layers from pure noise: images [B, C, H, W] -> predicted classes [B] int64.

        ``callback(t, z, u_hat)`` sees every new state, as in the samplers.
        """
        check_images(images)
        features = self.encoder(images)
        z = torch.randn(len(images), self.W.shape[1], generator=generator, device=images.device)

        def denoise(t: int, z: Tensor) -> Tensor:
            return self.denoised(self.layers[t - 1](features, z))

        if self.posterior is None:
            z = sample_renoise(denoise, z, self.levels, generator, callback)
        else:
            z = sample_posterior(denoise, z, *self.posterior, generator, callback)
        return nearest_class(z, self.W)

    @torch.no_grad()
    def predict_alone(self, images: Tensor, t: int, generator: torch.Generator | None = None) -> Tensor:
        """Layer t alone, given pure noise instead of its usual input: images -> classes [B] int64.

        For the top layer, t = T, pure noise is the usual input: this is inference stopped after one step.
        """
        check_images(images)
        z = torch.randn(len(images), self.W.shape[1], generator=generator, device=images.device)
        return nearest_class(self.denoised(self.layers[t - 1](self.encoder(images), z)), self.W)


class Recipe(NamedTuple):
    """A model with the settings that train it well."""

    model: NoPropDT
    epochs: int
    batch_size: int
    learning_rate: float
    one_cycle: bool  # rise to learning_rate and fall to 0 over the run (Smith & Topin, 2019); else constant


def published(images: Tensor, num_classes: int, num_steps: int = 10, generator=None) -> Recipe:
    """The published notebook's algorithm as it is: frozen random CNN, raw pixels, squared error, linear schedule
    from 1.0, inference re-noised to alpha. Images under 10 pixels, which the notebook never met, are padded."""
    alphas = linear_alphas(num_steps)
    encoder = ConvEncoder(images.shape[1:], padding=0 if min(images.shape[2:]) >= 10 else 1)
    model = NoPropDT(
        encoder,
        [DenoisingMLP(128, num_classes, num_classes) for _ in range(num_steps)],
        torch.eye(num_classes),
        alpha_bar_from_alphas(alphas),
        train_encoder=False,
        objective="squared_error",
        levels=alphas,
    )
    return Recipe(model, epochs=50, batch_size=128, learning_rate=1e-3, one_cycle=False)


def shared(images: Tensor, num_classes: int, num_steps: int = 10, generator=None) -> Recipe:
    """One encoder trained by all layers, and so not layer-local."""
    model = NoPropDT(
        nn.Sequential(Standardize.fit(images, (0, 2, 3)), ConvEncoder(images.shape[1:], padding=1)),
        [DenoisingMLP(128, num_classes, num_classes) for _ in range(num_steps)],
        torch.eye(num_classes),
        cosine_alpha_bar(num_steps),
        train_encoder=True,
    )
    return Recipe(model, _epochs(images, 128, at_least=2), batch_size=128, learning_rate=4e-3, one_cycle=True)


def local(images: Tensor, num_classes: int, num_steps: int = 10, generator=None) -> Recipe:
    """Nothing trained across layers: k-means patch features fitted without gradient, and T independent layers."""
    small = min(images.shape[2:]) < 20
    encoder = PatchFeatures.fit(
        images, num_centres=100 if small else 400, patch_size=3 if small else 6, generator=generator
    )
    feature_dim = encoder.projection.shape[1]
    model = NoPropDT(
        encoder,
        [DenoisingMLP(feature_dim, num_classes, num_classes) for _ in range(num_steps)],
        torch.eye(num_classes),
        cosine_alpha_bar(num_steps),
        train_encoder=False,
    )
    return Recipe(model, _epochs(images, 256, at_least=5), batch_size=256, learning_rate=4e-3, one_cycle=True)


def _epochs(images: Tensor, batch_size: int, at_least: int) -> int:
    # ``at_least`` suffices on the 60,000 images of MNIST; a small data set needs some 600 updates as well.
    num_batches = -(-len(images) // batch_size)
    return max(at_least, -(-600 // num_batches))


PRESETS = {"published": published, "shared": shared, "local": local}


def fit(
    model: NoPropDT,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    one_cycle: bool = False,
    generator: torch.Generator | None = None,
    progress: Callable | None = None,
    after_epoch: Callable[[int], None] | None = None,
) -> Tensor:
    """Train with Adam, all layers at once: images [N, C, H, W], labels [N] -> mean loss per epoch and layer [epochs, T].

    A frozen encoder is run over the images once. ``generator`` (on the images' device) orders the batches and draws the
    noise. ``progress(iterable, description)`` may wrap long loops; ``after_epoch(epoch)`` sees the updated model.
    """
    check_images(images, labels, len(model.W))
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
    progress = progress or (lambda iterable, description: iterable)
    inputs = images if model.train_encoder else encode_images(model.encoder, images, progress)
    stack = LayerStack(model.layers)
    parameters = [*stack.parameters(), *(p for p in model.encoder.parameters() if p.requires_grad)]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    num_batches = -(-len(images) // batch_size)
    scheduler = None
    if one_cycle:
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * num_batches)

    def batches(epoch: int):
        order = torch.randperm(len(images), generator=generator, device=images.device).split(batch_size)
        for index in progress(order, f"epoch {epoch}/{epochs}"):
            x, y = inputs[index], labels[index]
            yield (model.encoder(x) if model.train_encoder else x), model.noised_states(y, generator), y

    history = []
    for epoch in range(1, epochs + 1):
        model.train()
        losses = fit_stack(stack, optimizer, batches(epoch), model.layer_losses, scheduler.step if scheduler else None)
        stack.copy_to(model.layers)
        model.eval()
        history.append(losses)
        if after_epoch is not None:
            after_epoch(epoch)
    return torch.stack(history)


def encode_images(encoder: nn.Module, images: Tensor, progress: Callable) -> Tensor:
    """Features of a frozen encoder for all images: [N, C, H, W] -> [N, F]."""
    encoder.eval()
    return encode(encoder, images, progress=lambda chunks: progress(chunks, "features"))


def accuracy(model: NoPropDT, images: Tensor, labels: Tensor, generator=None, layer: int | None = None) -> float:
    """Fraction of images classified correctly, by the whole chain or by one ``layer`` alone."""
    check_images(images, labels, len(model.W))
    correct = 0
    for x, y in zip(images.split(200), labels.split(200)):
        predicted = model.predict(x, generator) if layer is None else model.predict_alone(x, layer, generator)
        correct += int((predicted == y).sum())
    return correct / len(labels)
