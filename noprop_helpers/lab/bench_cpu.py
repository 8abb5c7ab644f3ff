"""The suite cpu: the published notebook's mathematics against its own loop, and the time to accuracy of the recipes."""

import functools
import statistics
import time
from typing import NamedTuple

import torch

from ..benchmark import matmul_flops, mlp_flops, peak_memory_mib, row, seconds, synchronize
from ..data import Dataset
from ..noprop import NoPropDT
from ..passes import encode_images
from ..runs import plan, run
from ..training import Settings, accuracy, fit
from .audit import LiteralRun, published_model
from .recording import Recording

Rows = list[dict]


def published_part(dataset: Dataset, recording: Recording, repeats: int = 5) -> Rows:
    """Epochs of the published model by ``fit`` and by its own loop, in turns, and the matrix product's ceiling beside each.

    The first epoch of both is warm-up; ours also computes the frozen CNN's features there, once for the whole run, which
    is a row of its own.
    """
    turns = _Turns(dataset, recording.device)
    images, labels = turns.literal.images, turns.literal.labels
    settings = Settings(epochs=1 + repeats, precision=recording.precision or "float32")
    features_seconds = seconds(lambda: encode_images(turns.fast.encoder, images), recording.device)
    turns.start = time.perf_counter()
    fit(turns.fast, images, labels, settings, progress=recording.progress, after_epoch=turns.take)
    ours, theirs, ceiling, products = (values[1:] for values in (turns.ours, turns.theirs, turns.ceiling, turns.products))
    test = dataset.test_images.to(recording.device), dataset.test_labels.to(recording.device)
    reached = [
        accuracy(model, *test, torch.Generator(recording.device).manual_seed(2)) for model in (turns.fast, turns.literal.model)
    ]
    # The published loop also computes the first layers' input gradients, for its CNN; with fixed features nobody needs them.
    needed = operations(turns.fast, len(images), with_input_gradients=False)
    shares = {"gemm_fraction": turns.operations, "gemm_fraction_needed": needed}
    return [
        row("published_epoch", ours, "s", "published loop, one epoch", theirs),
        row("published_features", [features_seconds], "s", "published loop, one epoch", theirs[:1]),
        row("published_accuracy", reached[:1], "fraction", "published loop, as many epochs", reached[1:]),
        row("gemm_epoch", products, "s", "published_epoch", ours),
        row("gemm_float32", [c / 1e9 for c in ceiling], "GFLOP/s"),
        *(
            row(name, [flops / t / c for t, c in zip(ours, ceiling)], "of the product's speed")
            for name, flops in shares.items()
        ),
    ]


class _Turns:
    """After each epoch of ours: as many operations as large products, at once, and then an epoch of the literal loop."""

    def __init__(self, dataset: Dataset, device: str):
        self.device, self.fast = device, published_model(dataset, seed=0).to(device)
        self.literal = LiteralRun(dataset, Settings(), device)
        self.operations = operations(self.fast, len(dataset.train_labels), with_input_gradients=True)
        self.product = matmul_flops(2048, device=device)
        self.ours, self.theirs, self.ceiling, self.products = [], [], [], []
        self.start = 0.0

    def take(self, epoch: int) -> None:
        """After an epoch of ours, one of theirs, and the machine's ceiling between the two."""
        synchronize(self.device)
        self.ours.append(time.perf_counter() - self.start)
        # What slows the machine down for a moment meets both.
        speeds = [self.product() for _ in range(max(5, round(self.operations / (2 * 2048**3))))]
        self.ceiling.append(max(speeds))
        self.products.append(self.operations / statistics.harmonic_mean(speeds))
        self.theirs.append(seconds(functools.partial(self.literal.epoch, epoch), self.device))
        self.start = time.perf_counter()


def operations(model: NoPropDT, num_images: int, with_input_gradients: bool) -> int:
    """Floating-point operations of one epoch of the published layers."""
    hidden, inputs = model.layers[0].mlp[0].weight.shape
    return model.num_layers * mlp_flops(num_images, (inputs, hidden, len(model.W)), with_input_gradients)


class Target(NamedTuple):
    """A test accuracy to reach by a recipe, in so many epochs (None: the recipe's own)."""

    name: str
    recipe: str
    accuracy: float
    epochs: int | None = None


TARGETS = (
    Target("time_to_99", "shared", 0.990, 2),
    Target("time_to_993", "shared", 0.993),
    Target("time_to_99_local", "local", 0.992),
)


def target_part(target: Target, dataset: Dataset, recording: Recording, seeds: tuple[int, ...] = (0, 1, 2)) -> Rows:
    """Seconds of whole training runs whose test accuracy, the median of the seeds, is at least the target's; else None.

    The baseline, in turns, is the same recipe with one layer instead of ten. Such a layer sees nothing but noise for a
    label: it is an ordinary classifier.
    """
    results, baseline = {"ten": [], "one": []}, "one layer: an ordinary classifier"
    for seed in seeds:
        for who, changes in (("ten", {}), ("one", {"num_steps": "1"})):
            changes = changes | {"seed": str(seed)} | ({"epochs": str(target.epochs)} if target.epochs else {})
            changes |= {"precision": recording.precision} if recording.precision else {}
            done = run(plan(dataset, target.recipe, changes), dataset, device=recording.device, progress=recording.progress)
            results[who].append(done.results)
    ten, one = results["ten"], results["one"]
    line, reached = (
        row(label, [result[key] for result in ten], unit, baseline, [result[key] for result in one])
        for label, key, unit in (
            (target.name, "train_seconds", "s"),
            (f"{target.name}_accuracy", "test_accuracy", "fraction"),
        )
    )
    if reached["value"] < target.accuracy:
        line["value"] = None
    return [line, reached]


def memory_part(dataset: Dataset, recording: Recording) -> Rows:
    """Most memory that the process has held until here, where the system tells."""
    peak = peak_memory_mib(recording.device)
    return [] if peak is None else [row("peak_memory", [peak], "MiB")]


CPU_PARTS = {
    "published": published_part,
    **{target.name: functools.partial(target_part, target) for target in TARGETS},
    "memory": memory_part,
}
