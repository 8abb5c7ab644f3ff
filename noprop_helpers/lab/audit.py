"""The published notebook, audited: its loop to the letter, and its model with one defect mended after another (chapter 5)."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..blocks import ConvEncoder, DenoisingMLP, Standardize
from ..data import Dataset
from ..diffusion import forward_chain
from ..features import encode
from ..noprop import NoPropDT
from ..passes import Progress, seed_of, seeded, shuffled, silent
from ..recipes import Published
from ..runs import shape_of
from ..schedules import alpha_bar_from_alphas, cosine_alpha_bar, linear_alphas
from ..training import Settings, accuracy, fit, predictions

MEASURED_EPOCHS = (1, 2, 3, 5, 10, 20, 30, 40, 50)
T = 10


def published_loop(
    cnn: nn.Module, mlps: list[nn.Module], optimizers: list, alphas: Tensor, batches, generator: torch.Generator | None = None
) -> float:
    """One epoch of the published notebook's training loop, step for step, waste included. Returns its mean summed loss.

    The label is noised by the whole chain; layer t (0-based, as there) sees state t + 1; all losses are added and one
    backward pass runs through everything, the CNN's gradients included, though no optimizer holds the CNN.
    """
    total, count = 0.0, 0
    for images, labels in batches:
        u = nn.functional.one_hot(labels, mlps[0].embed_dim).float()
        z = forward_chain(u, alphas, generator)  # [T + 1, B, D]
        features = cnn(images)
        guesses = [mlp(features, z[t + 1]) for t, mlp in enumerate(mlps)]
        loss = sum(((u_hat - u) ** 2).mean() for u_hat in guesses)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        total, count = total + loss.item(), count + 1
    return total / count


class LiteralRun:
    """The published model, trained an epoch at a time by ``published_loop``, with gradients for the CNN that nobody uses."""

    def __init__(self, dataset: Dataset, settings: Settings, device: str):
        self.images, self.labels = dataset.train_images.to(device), dataset.train_labels.to(device)
        self.model = published_model(dataset, settings.seed).to(device)
        self.model.encoder.requires_grad_(True)
        self.optimizers = [torch.optim.Adam(layer.parameters(), lr=1e-3) for layer in self.model.layers]
        self.settings, self.generator = settings, torch.Generator(device)

    def epoch(self, number: int, progress: Progress = silent) -> float:
        """Train for epoch 1, 2, ...: -> mean summed loss."""
        self.generator.manual_seed(seed_of(self.settings.seed, number))
        order = shuffled(len(self.images), self.settings, number, self.images.device)
        batches = ((self.images[i], self.labels[i]) for i in progress(order, f"loop {number}"))
        model = self.model
        return published_loop(model.encoder, model.layers, self.optimizers, model.levels, batches, self.generator)


def published_model(dataset: Dataset, seed: int) -> NoPropDT:
    """The recipe ``published``, its weights drawn from the seed."""
    with seeded(seed):
        return Published().build(shape_of(dataset))


class AuditStep(NamedTuple):
    """One model on the way from the published notebook to a correct one."""

    key: str
    title: str
    model: NoPropDT
    epochs: int


def audit_steps(images: Tensor, num_classes: int) -> list[AuditStep]:
    """The published notebook's model, then one defect mended after another; each step keeps the mends before it.

    Weights are drawn from torch's global random state. images [N, C, H, W] is the training split (for the constants of
    standardisation).
    """
    encoder = functools.partial(ConvEncoder, images.shape[1:], padding=0 if min(images.shape[2:]) >= 10 else 1)
    published, noisy = linear_alphas(T), linear_alphas(T + 1)[1:]  # 0.91 ... 0.10: the first step adds noise too
    linear, cosine = alpha_bar_from_alphas(noisy), cosine_alpha_bar(T)
    raw, pixels = encoder(), Standardize.fit(images, (0, 2, 3))
    standardized = nn.Sequential(pixels, encoder())
    standardized.append(Standardize.fit(encode(standardized, images)))
    trained = nn.Sequential(pixels, encoder())

    def model(encoder, alpha_bar, objective="squared_error", inference="sample", train_encoder=False):
        layers = [DenoisingMLP(128, num_classes, num_classes) for _ in range(T)]
        how = {"objective": objective, "inference": inference, "train_encoder": train_encoder}
        return NoPropDT(encoder, layers, torch.eye(num_classes), alpha_bar, **how)

    return [
        AuditStep("published", "as published", model(raw, alpha_bar_from_alphas(published), inference=published), 50),
        AuditStep("noisy_start", "noise in the first step", model(raw, linear, inference=noisy), 10),
        AuditStep("matched", "inference levels = training levels", model(raw, linear, inference=linear[:-1]), 10),
        AuditStep("posterior", "posterior update", model(raw, linear), 10),
        AuditStep("standardized", "standardised pixels and features", model(standardized, linear), 10),
        AuditStep("softmax", "softmax and cross-entropy", model(standardized, linear, "cross_entropy"), 10),
        AuditStep("cosine", "cosine schedule", model(standardized, cosine, "cross_entropy"), 10),
        AuditStep("trained", "encoder trained", model(trained, cosine, "cross_entropy", train_encoder=True), 10),
    ]


def run_audit(dataset: Dataset, seed: int, device: str = "cpu", progress: Progress = silent) -> tuple[dict, dict]:
    """Train every audit step with the notebook's settings (Adam 1e-3, batch 128, constant) and measure as it goes."""
    with seeded(seed):
        steps = audit_steps(dataset.train_images, len(dataset.class_names))
    results, said = {}, {}
    for step in steps:
        results[step.key], said[step.key] = _audited(step, dataset, seed, device, progress)
    return results, said


def _audited(step: AuditStep, dataset: Dataset, seed: int, device: str, progress: Progress) -> tuple[dict, Tensor]:
    """One step of the audit, trained and measured after some epochs: -> (results, classes said [N])."""
    model, curve = step.model.to(device), {}
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    test, truth = dataset.test_images.to(device), dataset.test_labels.to(device)

    def draws() -> torch.Generator:
        return torch.Generator(device).manual_seed(seed_of(seed, 0))

    def measure(epoch: int) -> None:
        if epoch in MEASURED_EPOCHS:
            curve[str(epoch)] = accuracy(model, test, truth, draws())

    losses = fit(model, images, labels, Settings(epochs=step.epochs, seed=seed), progress=progress, after_epoch=measure)
    said = predictions(model, test, draws())
    alone = [functools.partial(model.predict_alone, t=t) for t in range(1, model.num_layers + 1)]
    return {
        "test_accuracy": (said == truth).double().mean().item(),
        "test_accuracy_after_epoch": curve,
        "layer_alone_accuracy": [accuracy(model, test, truth, draws(), predict) for predict in alone],
        "summed_loss_by_epoch": losses.sum(1).tolist(),
    }, said.cpu()


def run_published_loop(dataset: Dataset, seed: int, device: str = "cpu", progress: Progress = silent) -> tuple[dict, dict]:
    """The literal loop beside the fast path for two epochs from the same initial weights: do they learn the same?

    Their noise differs (the chain against the closed form), so they agree in distribution, not bit for bit.
    """
    settings = Settings(epochs=2, seed=seed)
    literal, fast = LiteralRun(dataset, settings, device), published_model(dataset, seed).to(device)
    test, truth = dataset.test_images.to(device), dataset.test_labels.to(device)
    loop, curve = {"loss": [], "test_accuracy": []}, []

    def right(model: NoPropDT) -> float:
        return accuracy(model, test, truth, torch.Generator(device).manual_seed(seed_of(seed, 0)))

    for epoch in range(1, settings.epochs + 1):
        loop["loss"].append(literal.epoch(epoch, progress))
        loop["test_accuracy"].append(right(literal.model))
    losses = fit(
        fast, literal.images, literal.labels, settings, progress=progress, after_epoch=lambda epoch: curve.append(right(fast))
    )
    return {"loop": loop, "fast": {"loss": losses.sum(1).tolist(), "test_accuracy": curve}}, {}
