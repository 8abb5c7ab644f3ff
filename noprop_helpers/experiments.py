"""Named experiments: each one is a command, ``python -m noprop_helpers record NAME``, and a file in book/records/."""

import functools
import json
import time
from pathlib import Path
from typing import Callable, NamedTuple

import torch
from torch import Tensor, nn

from . import checkpoints, records
from .benchmark import synchronize
from .blocks import ConvEncoder, DenoisingMLP, ResidualBlock, Standardize
from .data import Dataset, crop_and_flip, dataset_checksum, load_dataset
from .diffusion import forward_chain
from .features import encode
from .noprop import NoPropDT
from .parallel import fit_rank, gather_layers, rank_file
from .samplers import sample_posterior
from .schedules import alpha_bar_from_alphas, cosine_alpha_bar, linear_alphas
from .training import EMBEDDINGS, PRESETS, VARIANTS, Model, Recipe, accuracy, fit, label_embedding


class Trained(NamedTuple):
    model: Model
    result: dict


def train_model(
    dataset: Dataset,
    preset: str = "shared",
    *,
    variant: str = "dt",
    embedding: str = "one_hot",
    seed: int = 0,
    epochs: int | None = None,
    device: str = "cpu",
    progress: Callable | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    rank: int = 0,
    world_size: int = 1,
    **options,
) -> Trained:
    """Build a preset's model for this data, train it, and measure it once on the test split.

    The preset "paper" is the paper's model of the ``variant``, with its ``embedding``; the others are NoProp-DT with
    one-hot embeddings. Seconds of training include fitting and computing features, not reading the data. ``epochs``
    None takes the preset's own number. ``checkpoint`` and ``resume`` as in ``fit``. With a ``world_size`` above 1 this is
    process ``rank`` of so many: it trains its share of the layers, waits for the others', and has the whole model.
    ``options``, as ``num_steps``, go to the preset.
    """
    if preset != "paper" and (variant != "dt" or embedding != "one_hot"):
        raise ValueError(f"the preset {preset} is dt with one_hot embeddings; for {variant}, {embedding} take the preset paper")
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    start = time.perf_counter()
    if preset == "paper":
        recipe = paper_recipe(dataset, variant, embedding, seed, **options)
    elif preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}, paper")
    else:
        with torch.random.fork_rng(devices=[]):  # initial weights from the seed, the caller's random state untouched
            torch.manual_seed(seed)
            recipe = PRESETS[preset](images, len(dataset.class_names), generator=generator, **options)
    settings = recipe._asdict()
    model = settings.pop("model").to(device)
    settings["epochs"] = epochs or settings["epochs"]
    settings["cuda_graphs"] = preset == "paper" and _recordable(variant, device)
    about = {
        "dataset": dataset.name, "preset": preset, "variant": variant, "embedding": embedding,
        "image_shape": list(images.shape[1:]), "class_names": list(dataset.class_names),
    }  # fmt: skip
    run = {"generator": generator, "progress": progress, "checkpoint": checkpoint, "resume": resume, "about": about}
    if world_size > 1:
        fit_rank(model, images, labels, rank, world_size, **settings, **run)
        gather_layers(model, rank, world_size)
    else:
        fit(model, images, labels, **settings, **run)
    synchronize(device)
    seconds = time.perf_counter() - start
    own_file = rank_file(checkpoint, rank, world_size) if world_size > 1 else checkpoint
    if resume and Path(own_file).exists():  # the time before the interruption counts too; a process without layers has no file
        seconds = checkpoints.load(own_file)["seconds"]
    test = dataset.test_images.to(device), dataset.test_labels.to(device)
    result = {"test_accuracy": accuracy(model, *test, generator)}
    if variant == "dt":
        result["top_layer_accuracy"] = accuracy(model, *test, generator, layer=model.num_layers)
        if not model.inference_noise:
            result["accuracy_with_noise"] = accuracy(model, *test, generator, noise=True)
    return Trained(model, result | {"train_seconds": seconds, "seed": seed, **settings})


def _recordable(variant: str, device: str) -> bool:
    """Whether the paper's training steps can be CUDA graphs: on a GPU, save the adjoint method's, whose solver is Python."""
    return torch.device(device).type == "cuda" and variant != "adjoint"


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


def run_audit(dataset: Dataset, seed: int, device: str, progress, checkpoint=None) -> dict:
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


def run_published_loop(dataset: Dataset, seed: int, device: str, progress, checkpoint=None, epochs: int = 2) -> dict:
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


# --- What the layers add ----------------------------------------------------------------------------------------------


def calibration(log_probabilities: Tensor, labels: Tensor, num_bins: int = 10) -> dict:
    """How right and how honest: log-probabilities [N, K], labels [N] -> accuracy, nll, ece and the bins of a diagram.

    ``nll`` is the mean of -log p(y) in nats. ``ece``, the expected calibration error (Guo et al., 2017), is the mean
    distance between confidence and accuracy over ``num_bins`` equal bins of the top probability, weighted by their
    share of the samples. ``bins`` holds share, confidence and accuracy of each bin, 0 where it is empty.
    """
    confidence, predicted = log_probabilities.double().exp().max(1)
    right = (predicted == labels).double()
    index = (confidence * num_bins).long().clamp(max=num_bins - 1)
    count = torch.bincount(index, minlength=num_bins).clamp(min=1)
    bins = {
        "share": torch.bincount(index, minlength=num_bins) / len(labels),
        "confidence": torch.bincount(index, confidence, num_bins) / count,
        "accuracy": torch.bincount(index, right, num_bins) / count,
    }
    nll = -log_probabilities.double().gather(1, labels[:, None])
    return {
        "accuracy": right.mean().item(),
        "nll": nll.mean().item(),
        "ece": (bins["share"] * (bins["confidence"] - bins["accuracy"]).abs()).sum().item(),
        "bins": {name: values.tolist() for name, values in bins.items()},
    }


def top_level_copies(num_layers: int, alpha_bar: Tensor) -> Tensor:
    """A schedule [num_layers + 1] that gives every layer the noise of the top layer of ``alpha_bar``."""
    return torch.cat([alpha_bar[:1], alpha_bar[-1:].expand(num_layers)])


class Chain:
    """The layers of a NoPropDT on cached features, walked by hand: what its ``predict`` does not show."""

    def __init__(self, model: NoPropDT, features: Tensor, labels: Tensor, generator: torch.Generator):
        self.model, self.features, self.labels, self.generator = model.eval(), features, labels, generator

    def noise(self) -> Tensor:
        shape = len(self.labels), self.model.W.shape[1]
        return torch.randn(shape, generator=self.generator, device=self.labels.device)

    @torch.no_grad()
    def says(self, t: int, z: Tensor | None = None) -> Tensor:
        """Log-probabilities of layer t [N, K] for the states z, else for pure noise."""
        return self.model.layers[t - 1](self.features, self.noise() if z is None else z).log_softmax(1)

    @torch.no_grad()
    def walk(self, noise_scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Classes [N] at the end of inference with sqrt(c_t) times ``noise_scale``, and what layer 1 said [N, K]."""
        a, b, c = self.model.posterior
        said = {}

        def denoise(t, z):
            said["last"] = self.says(t, z)
            return said["last"].exp() @ self.model.W

        z = sample_posterior(denoise, self.noise(), a, b, noise_scale**2 * c, self.generator)
        return self.model.classify(z), said["last"]

    def told(self, labels: Tensor, t: int, level: float) -> float:
        """How often layer t answers ``labels`` when its state is those labels, noised to ``level``."""
        z = level**0.5 * self.model.W[labels] + (1 - level) ** 0.5 * self.noise()
        return _share(self.says(t, z).argmax(1) == labels)


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()


VOTES = (1, 5, 25)
NOISE_SCALES = (0.0, 0.5, 1.0)
DEPTHS = (1, 2, 5, 10, 20)


def run_layers(dataset: Dataset, seed: int, device: str, progress, checkpoint=None, epochs: int = 5) -> dict:
    """A chain of ten layers on features fitted without gradient, against all that could replace it.

    All see the same features and train with the settings of the preset ``local``, for ``epochs`` passes; only
    ``one_longer``, a single layer, gets ten times the passes, and ``one_wider`` ten times the hidden units.
    """
    generator = torch.Generator(device).manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        recipe = PRESETS["local"](dataset.train_images.to(device), len(dataset.class_names), generator=generator)
    T, W, alpha_bar = recipe.model.num_layers, recipe.model.W, recipe.model.alpha_bar
    train = encode(recipe.model.encoder, dataset.train_images.to(device), progress=lambda x: progress(x, "features"))
    test = encode(recipe.model.encoder, dataset.test_images.to(device), progress=lambda x: progress(x, "features"))
    train_labels, labels = dataset.train_labels.to(device), dataset.test_labels.to(device)
    settings = recipe._asdict() | {"epochs": epochs}
    del settings["model"]

    def trained(schedule: Tensor, hidden_dim: int = 256, **changes) -> Chain:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [DenoisingMLP(train.shape[1], len(W), len(W), hidden_dim) for _ in schedule[1:]]
        model = NoPropDT(nn.Flatten(), layers, W.cpu(), schedule).to(device)
        fit(model, train[..., None, None], train_labels, **settings | changes, generator=generator, progress=progress)
        return Chain(model, test, labels, generator)

    def against_top(chain: Chain) -> dict:
        walks = [_share(chain.walk()[0] == labels) for _ in range(VOTES[1])]
        top = [_share(chain.says(chain.model.num_layers).argmax(1) == labels) for _ in range(VOTES[1])]
        return {"chain": sum(walks) / len(walks), "top": sum(top) / len(top)}

    chain = trained(alpha_bar)
    walks = [chain.walk() for _ in range(VOTES[-1])]
    votes = nn.functional.one_hot(torch.stack([classes for classes, _ in walks]), len(W)).double()  # [walks, N, K]
    top_says = chain.says(T)
    tops = trained(top_level_copies(T, alpha_bar))
    tops_say = torch.stack([tops.says(t) for t in range(1, T + 1)])  # [T, N, K]
    own_say = torch.stack([chain.says(t) for t in range(1, T + 1)])
    others = (labels + torch.randint(1, len(W), labels.shape, generator=generator, device=device)) % len(W)
    single = top_level_copies(1, alpha_bar)

    def mean_probability(says: Tensor) -> Tensor:
        return says.double().logsumexp(0) - torch.tensor(len(says)).log()

    return {
        "epochs": epochs,
        "chain": {
            "accuracy": sum(_share(classes == labels) for classes, _ in walks) / len(walks),
            "accuracy_by_votes": {str(n): _share(votes[:n].mean(0).argmax(1) == labels) for n in VOTES},
            "accuracy_by_noise_scale": {str(s): _share(chain.walk(s)[0] == labels) for s in NOISE_SCALES},
            "last_layer": calibration(walks[0][1], labels),
            # One more vote, spread over all classes: a class without any would have no logarithm.
            "vote_shares": calibration(((votes.sum(0) + 1 / len(W)) / (len(votes) + 1)).log(), labels),
        },
        "top": {**calibration(top_says, labels), "drawn_accuracy": _share_drawn(top_says, labels)},
        "layers_from_noise": [_share(says.argmax(1) == labels) for says in own_say],
        "mean_of_layers": calibration(mean_probability(own_say), labels),
        "ensemble_of_tops": calibration(mean_probability(tops_say), labels),
        "one_longer": calibration(trained(single, epochs=T * epochs).says(1), labels),
        "one_wider": calibration(trained(single, hidden_dim=T * 256).says(1), labels),
        "told_the_truth": [[chain.told(labels, t, level) for level in alpha_bar[1:].tolist()] for t in range(1, T + 1)],
        "told_a_lie": [[chain.told(others, t, level) for level in alpha_bar[1:].tolist()] for t in range(1, T + 1)],
        "by_depth": {str(n): against_top(trained(cosine_alpha_bar(n))) for n in DEPTHS},
    }


def _share_drawn(log_probabilities: Tensor, labels: Tensor) -> float:
    """Expected accuracy of a class drawn from these probabilities instead of the likeliest: the mean of p(y)."""
    return log_probabilities.gather(1, labels[:, None]).double().exp().mean().item()


# --- The paper's tables -----------------------------------------------------------------------------------------------

FLOW_STEPS = (1, 2, 5, 10, 100, 1000)
CHECKPOINT_EVERY = 60.0  # seconds; ten blocks with their optimizer states fill 240 MB, too much to write after every short epoch


def paper_recipe(dataset: Dataset, variant: str, embedding: str, seed: int, device: str = "cpu", **options) -> Recipe:
    """A model of the paper with its settings, initial weights and embeddings drawn from the seed."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    images, labels, num_classes = dataset.train_images, dataset.train_labels, len(dataset.class_names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        W = label_embedding(embedding, images, labels, num_classes, torch.Generator().manual_seed(seed))
        recipe = VARIANTS[variant](images, W, **options)
    return recipe._replace(model=recipe.model.to(device))


def _fit_or_resume(model: Model, dataset: Dataset, device: str, checkpoint, **settings) -> tuple[Tensor, float]:
    """Train, from the checkpoint on where there is one. Returns losses and seconds, those before an interruption included."""
    start, resume = time.perf_counter(), checkpoint is not None and Path(checkpoint).exists()
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    losses = fit(model, images, labels, **settings, checkpoint=checkpoint, checkpoint_every=CHECKPOINT_EVERY, resume=resume)
    synchronize(device)
    return losses, checkpoints.load(checkpoint)["seconds"] if resume else time.perf_counter() - start


def run_paper(
    dataset: Dataset,
    seed: int,
    device: str,
    progress,
    checkpoint=None,
    *,
    variant: str,
    embedding: str,
    epochs: int | None = None,
    inference_runs: int = 5,
    bf16: bool = True,
    **options,
) -> dict:
    """One cell of the paper's table 1: train, then measure the test split ``inference_runs`` times with fresh noise."""
    recipe = paper_recipe(dataset, variant, embedding, seed, device, **options)
    settings = recipe._asdict()
    model = settings.pop("model")
    settings |= {"epochs": epochs or settings["epochs"], "bf16": bf16, "cuda_graphs": _recordable(variant, device)}
    generator = torch.Generator(device).manual_seed(seed)
    losses, seconds = _fit_or_resume(model, dataset, device, checkpoint, **settings, generator=generator, progress=progress)
    test = dataset.test_images.to(device), dataset.test_labels.to(device)
    runs = [accuracy(model, *test, generator) for _ in range(inference_runs)]
    result = {
        "test_accuracy": sum(runs) / len(runs),
        "test_accuracy_by_run": runs,
        "train_seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "summed_loss_by_epoch": losses.sum(1).tolist(),
        **settings,
    }
    if model.W.requires_grad:  # learned embeddings may move together
        distance = torch.pdist(model.W.detach())
        result["embedding_distance"] = {"smallest": distance.min().item(), "mean": distance.mean().item()}
    if variant == "dt":
        result["accuracy_without_noise"] = accuracy(model, *test, generator, noise=False)
        result["top_layer_accuracy"] = accuracy(model, *test, generator, layer=model.num_layers)
    if variant in ("ct", "fm"):
        result["test_accuracy_by_steps"] = {
            str(n): accuracy(model, *test, generator, num_steps=n) for n in FLOW_STEPS if n <= model.num_steps
        }
    return result


def run_best(dataset: Dataset, seed: int, device: str, progress, checkpoint=None, *, epochs: int = 24) -> dict:
    """Beyond the paper: five layer-local residual networks, augmentation, one learning-rate cycle, bfloat16."""
    images, num_classes, T = dataset.train_images, len(dataset.class_names), 5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [ResidualBlock(images.shape[1:], num_classes, num_classes) for _ in range(T)]
    standardize = Standardize.fit(images, (0, 2, 3))
    model = NoPropDT(standardize, layers, torch.eye(num_classes), cosine_alpha_bar(T)).to(device)
    settings = {
        "epochs": epochs, "batch_size": 512, "learning_rate": 4e-3, "one_cycle": True,
        "optimizer": "adamw", "weight_decay": 0.05, "order": "layer", "bf16": True,
    }  # fmt: skip
    generator = torch.Generator(device).manual_seed(seed)
    _, seconds = _fit_or_resume(
        model, dataset, device, checkpoint, **settings, augment=crop_and_flip, generator=generator, progress=progress
    )
    test = dataset.test_images.to(device), dataset.test_labels.to(device)
    return {
        "test_accuracy": accuracy(model, *test, generator, noise=False),
        "accuracy_with_noise": accuracy(model, *test, generator),
        "layer_alone_accuracy": [accuracy(model, *test, generator, layer=t) for t in range(1, T + 1)],
        "layer_local": model.layer_local,
        "train_seconds": seconds,
        **settings,
    }


# --- Recording --------------------------------------------------------------------------------------------------------


class Experiment(NamedTuple):
    """What ``record`` runs: ``run(dataset, seed, device, progress, checkpoint)`` -> nested numbers, once per seed."""

    description: str
    dataset: str
    seeds: tuple[int, ...]
    run: Callable[..., dict]
    configuration: dict


def _preset(dataset: str, preset: str, seeds: tuple[int, ...]) -> Experiment:
    def run(data, seed, device, progress, checkpoint):
        return train_model(data, preset, seed=seed, device=device, progress=progress).result

    return Experiment(
        f"preset {preset} on {dataset}, its own epochs, test split measured once at the end",
        dataset, seeds, run, {"preset": preset},
    )  # fmt: skip


def _layers(dataset: str) -> Experiment:
    return Experiment(
        f"what the layers add on {dataset}: the chain against its top layer, ensembles, single layers, other depths",
        dataset, (0, 1, 2), run_layers, {"preset": "local", "epochs": 5, "depths": DEPTHS, "votes": VOTES},
    )  # fmt: skip


def _paper(dataset: str, variant: str, embedding: str, seeds: tuple[int, ...] = (0, 1, 2), **configuration) -> Experiment:
    configuration = {"variant": variant, "embedding": embedding, **configuration}
    epochs = configuration.get("epochs", "all its")
    return Experiment(
        f"paper's table 1: {variant}, {embedding}, {dataset}, {epochs} epoch{'s' * (epochs != 1)}",
        dataset, seeds, functools.partial(run_paper, **configuration), configuration,
    )  # fmt: skip


def _in_the_paper(variant: str, embedding: str) -> bool:
    return variant != "adjoint" or embedding == "one_hot"


# What two CPU cores can do in minutes, one seed; the full rows want a GPU.
_SHORT = {
    "dt": {"epochs": 1},
    "backprop": {"epochs": 1},
    "adjoint": {"epochs": 1, "num_steps": 20},
    "ct": {"epochs": 5},
    "fm": {"epochs": 5},
}

def _short(variant: str, embedding: str) -> dict:
    # An image-sized state goes through convolutions at every step of inference: a thousand are out of a CPU's reach.
    steps = {"num_steps": 50} if variant in ("ct", "fm") and embedding == "prototype" else {}
    return _SHORT[variant] | steps


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
    "cifar10_best": Experiment(
        "beyond the paper: five layer-local residual networks with augmentation on cifar10, inference without noise",
        "cifar10", (0, 1, 2), run_best, {"epochs": 24, "num_steps": 5},
    ),
    "mnist_layers": _layers("mnist"),
    "fashion_mnist_layers": _layers("fashion_mnist"),
    **{
        f"mnist_{variant}_{embedding}_short": _paper("mnist", variant, embedding, (0,), inference_runs=1, **_short(variant, embedding))
        for variant in _SHORT for embedding in EMBEDDINGS if _in_the_paper(variant, embedding)
    },
    # One block alone, for as many updates as the ten of mnist_dt_one_hot_short together.
    "mnist_single_one_hot_short": _paper("mnist", "dt", "one_hot", (0,), inference_runs=1, epochs=10, num_steps=1),
    **{
        f"{dataset}_{variant}_{embedding}": _paper(dataset, variant, embedding)
        for dataset in ("mnist", "cifar10", "cifar100") for variant in VARIANTS for embedding in EMBEDDINGS
        if _in_the_paper(variant, embedding)
    },
}  # fmt: skip


def record(
    name: str,
    *,
    dataset: str | None = None,
    data_root: str | None = None,
    device: str = "cpu",
    folder: str | Path = records.FOLDER,
    progress=None,
) -> dict:
    """Run a named experiment over its seeds and write ``folder/NAME.json``. ``dataset`` replaces the experiment's own.

    Each finished seed is kept in ``folder/NAME.partial``, long training in ``folder/NAME.checkpoint``, so an interrupted
    recording goes on where it stopped.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; choose one of {', '.join(EXPERIMENTS)}")
    experiment = EXPERIMENTS[name]
    target, partial, checkpoint = (Path(folder) / f"{name}.{kind}" for kind in ("json", "partial", "checkpoint"))
    records.check_writable(target)
    command = f"python -m noprop_helpers record {name}" + (f" --dataset {dataset}" if dataset else "")
    dataset = load_dataset(dataset or experiment.dataset, data_root)
    # Only seeds from the same code, data and hardware may share a record.
    origin = {
        "experiment": name,
        "description": experiment.description,
        "command": command,
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
    origin = json.loads(json.dumps(origin))  # as it will be read back: tuples become lists
    done = records.read_json(partial) if partial.exists() else None
    if done is None or done["origin"] != origin:
        done = {"origin": origin, "runs": []}
        checkpoint.unlink(missing_ok=True)
        records.write_json(partial, done)
    for seed in experiment.seeds[len(done["runs"]) :]:
        start = time.perf_counter()
        result = experiment.run(dataset, seed, device, progress or (lambda iterable, description: iterable), checkpoint)
        done["runs"].append({"seed": seed, "seconds": time.perf_counter() - start, **result})
        records.write_json(partial, done)
        checkpoint.unlink(missing_ok=True)
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
