"""Named experiments: each one is a command, ``python -m noprop_helpers record NAME``, and a file in book/records/."""

import time
from pathlib import Path
from typing import Callable, NamedTuple

import torch
from torch import Tensor, nn

from . import records
from .blocks import ConvEncoder, DenoisingMLP, Standardize
from .data import Dataset, dataset_checksum, load_dataset
from .diffusion import forward_chain
from .features import encode
from .noprop import NoPropDT
from .training import PRESETS, accuracy, fit
from .schedules import alpha_bar_from_alphas, cosine_alpha_bar, linear_alphas


class Trained(NamedTuple):
    model: NoPropDT
    result: dict


def train_preset(
    dataset: Dataset,
    preset: str = "shared",
    *,
    seed: int = 0,
    epochs: int | None = None,
    device: str = "cpu",
    progress: Callable | None = None,
) -> Trained:
    """Build a preset's model for this data, train it, and measure it once on the test split.

    Seconds of training include fitting and computing features, not reading the data. ``epochs`` None takes the
    preset's own number.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):  # initial weights from the seed, the caller's random state untouched
        torch.manual_seed(seed)
        recipe = PRESETS[preset](images, len(dataset.class_names), generator=generator)
    model, settings = recipe.model.to(device), recipe._asdict()
    del settings["model"]
    settings["epochs"] = epochs or settings["epochs"]
    fit(model, images, labels, **settings, generator=generator, progress=progress)
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    test = dataset.test_images.to(device), dataset.test_labels.to(device)
    result = {
        "test_accuracy": accuracy(model, *test, generator),
        "top_layer_accuracy": accuracy(model, *test, generator, layer=model.num_layers),
        "train_seconds": seconds,
        "seed": seed,
        **settings,
    }
    return Trained(model, result)


# --- The published notebook -------------------------------------------------------------------------------------------


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
    T, shape, W = 10, images.shape[1:], torch.eye(num_classes)
    padding = 0 if min(shape[1:]) >= 10 else 1
    published = linear_alphas(T)
    noisy = linear_alphas(T + 1)[1:]  # 0.91 ... 0.10: the first step adds noise too
    raw = ConvEncoder(shape, padding=padding)
    pixels = Standardize.fit(images, (0, 2, 3))
    standardized = nn.Sequential(pixels, ConvEncoder(shape, padding=padding))
    standardized.append(Standardize.fit(encode(standardized, images)))
    trained = nn.Sequential(pixels, ConvEncoder(shape, padding=padding))

    def step(key, title, encoder, alpha_bar, epochs=10, train_encoder=False, **options):
        layers = [DenoisingMLP(128, num_classes, num_classes) for _ in range(T)]
        model = NoPropDT(encoder, layers, W.clone(), alpha_bar, train_encoder=train_encoder, **options)
        return AuditStep(key, title, model, epochs)

    def squared(**options):
        return {"objective": "squared_error", **options}

    linear = alpha_bar_from_alphas(noisy)
    cosine = cosine_alpha_bar(T)
    return [
        step("published", "as published", raw, alpha_bar_from_alphas(published), epochs=50, **squared(levels=published)),
        step("noisy_start", "noise in the first step", raw, linear, **squared(levels=noisy)),
        step("matched", "inference levels = training levels", raw, linear, **squared(levels=linear[:-1])),
        step("posterior", "posterior update", raw, linear, **squared()),
        step("standardized", "standardised pixels and features", standardized, linear, **squared()),
        step("softmax", "softmax and cross-entropy", standardized, linear),
        step("cosine", "cosine schedule", standardized, cosine),
        step("trained", "encoder trained", trained, cosine, train_encoder=True),
    ]


MEASURED_EPOCHS = (1, 2, 3, 5, 10, 20, 30, 40, 50)


def run_audit(dataset: Dataset, seed: int, device: str, progress) -> dict:
    """Train every audit step with the notebook's settings (Adam 1e-3, batch 128, constant) and measure as it goes."""
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    test = dataset.test_images.to(device), dataset.test_labels.to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        steps = audit_steps(dataset.train_images, len(dataset.class_names))
    result = {}
    for step in steps:
        model, generator, curve = step.model.to(device), torch.Generator(device).manual_seed(seed), {}

        def measure(epoch):
            if epoch in MEASURED_EPOCHS:
                curve[str(epoch)] = accuracy(model, *test, generator)

        losses = fit(
            model, images, labels, epochs=step.epochs, generator=generator, progress=progress, after_epoch=measure
        )
        result[step.key] = {
            "title": step.title,
            "epochs": step.epochs,
            "test_accuracy": accuracy(model, *test, generator),
            "test_accuracy_after_epoch": curve,
            "layer_alone_accuracy": [accuracy(model, *test, generator, layer=t) for t in range(1, model.num_layers + 1)],
            "summed_loss_by_epoch": losses.sum(1).tolist(),
        }
    return result


def run_published_loop(dataset: Dataset, seed: int, device: str, progress, epochs: int = 2) -> dict:
    """The literal loop beside the fast path from the same initial weights: do they learn the same?

    Their noise differs (the chain against the closed form), so they agree in distribution, not bit for bit.
    """
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    test = dataset.test_images.to(device), dataset.test_labels.to(device)
    models, generators = [], []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models.append(PRESETS["published"](dataset.train_images, len(dataset.class_names)).model.to(device))
        generators.append(torch.Generator(device).manual_seed(seed))
    (literal, fast), (g_literal, g_fast) = models, generators

    literal.encoder.requires_grad_(True)  # the notebook's CNN takes gradients that nobody uses
    optimizers = [torch.optim.Adam(layer.parameters(), lr=1e-3) for layer in literal.layers]
    loop = {"loss": [], "test_accuracy": []}
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(images), generator=g_literal, device=device).split(128)
        batches = ((images[i], labels[i]) for i in progress(order, f"loop {epoch}/{epochs}"))
        loop["loss"].append(
            published_loop(literal.encoder, literal.layers, optimizers, literal.levels, batches, g_literal)
        )
        loop["test_accuracy"].append(accuracy(literal, *test, g_literal))

    curve = []
    losses = fit(
        fast, images, labels, epochs=epochs, generator=g_fast, progress=progress,
        after_epoch=lambda epoch: curve.append(accuracy(fast, *test, g_fast)),
    )  # fmt: skip
    return {"loop": loop, "fast": {"loss": losses.sum(1).tolist(), "test_accuracy": curve}}


# --- Recording --------------------------------------------------------------------------------------------------------


class Experiment(NamedTuple):
    """What ``record`` runs: ``run(dataset, seed, device, progress)`` -> nested numbers, once per seed."""

    description: str
    dataset: str
    seeds: tuple[int, ...]
    run: Callable[..., dict]
    configuration: dict


def _preset(dataset: str, preset: str, seeds: tuple[int, ...]) -> Experiment:
    def run(data, seed, device, progress):
        return train_preset(data, preset, seed=seed, device=device, progress=progress).result

    return Experiment(
        f"preset {preset} on {dataset}, its own epochs, test split measured once at the end",
        dataset, seeds, run, {"preset": preset},
    )  # fmt: skip


EXPERIMENTS = {
    "mnist_shared": _preset("mnist", "shared", seeds=(0, 1, 2, 3, 4)),
    "mnist_local": _preset("mnist", "local", seeds=(0, 1, 2)),
    "fashion_mnist_shared": _preset("fashion_mnist", "shared", seeds=(0, 1, 2)),
    "mnist_audit": Experiment(
        "the published notebook's algorithm, then one defect mended after another",
        "mnist", (0, 1, 2), run_audit,
        {"optimizer": "Adam", "learning_rate": 1e-3, "batch_size": 128, "num_steps": 10},
    ),
    "mnist_published_loop": Experiment(
        "the published training loop, literally, beside the fast path",
        "mnist", (0, 1, 2), run_published_loop,
        {"optimizer": "Adam", "learning_rate": 1e-3, "batch_size": 128, "num_steps": 10, "epochs": 2},
    ),
}  # fmt: skip


def record(
    name: str, *, data_root: str | None = None, device: str = "cpu", folder: str | Path = records.FOLDER, progress=None
) -> dict:
    """Run a named experiment over its seeds and write ``folder/NAME.json``.

    Each finished seed is kept in ``folder/NAME.partial``, so an interrupted recording goes on where it stopped.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; choose one of {', '.join(EXPERIMENTS)}")
    experiment = EXPERIMENTS[name]
    target, partial = Path(folder) / f"{name}.json", Path(folder) / f"{name}.partial"
    records.check_writable(target)
    dataset = load_dataset(experiment.dataset, data_root)
    # Only seeds from the same code, data and hardware may share a record.
    origin = {
        "experiment": name,
        "description": experiment.description,
        "command": f"python -m noprop_helpers record {name}",
        "configuration": experiment.configuration,
        "dataset": {
            "name": dataset.name,
            "checksum": dataset_checksum(dataset),
            "train": len(dataset.train_labels),
            "test": len(dataset.test_labels),
        },
        "environment": records.environment(device),
        "git_commit": records.git_commit(),
    }
    done = records.read_json(partial) if partial.exists() else None
    if done is None or done["origin"] != origin:
        done = {"origin": origin, "runs": []}
    for seed in experiment.seeds[len(done["runs"]) :]:
        start = time.perf_counter()
        result = experiment.run(dataset, seed, device, progress or (lambda iterable, description: iterable))
        done["runs"].append({"seed": seed, "seconds": time.perf_counter() - start, **result})
        records.write_json(partial, done)
    value = {
        **origin,
        "date": records.today(),
        "peak_memory_mib": round(records.peak_memory_mib(device), 1),
        "runs": done["runs"],
        "summary": records.summarize(done["runs"]),
    }
    records.write_json(target, value)
    partial.unlink()
    return value
