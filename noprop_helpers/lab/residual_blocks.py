"""A chain of large blocks for colour images, beside as many blocks that all see what its top layer sees (chapter 11)."""

import dataclasses

import torch
from torch import Tensor

from ..data import Dataset
from ..noprop import NoPropDT, evaluating
from ..passes import Progress, seed_of, seeded, silent
from ..runs import Run, shape_of
from ..training import Keeper, fit
from .chain import calibration, mean_probability, walk

Views = tuple[Tensor, ...]  # the images alone, or with their mirror images: then the mean of what is said of both counts
BATCH = 200


def chain_and_tops(run: Run, dataset: Dataset) -> tuple[NoPropDT, NoPropDT]:
    """A chain of T layers, and the model to be trained: the same layers and T - 1 more, which see the noise of the top one."""
    T, shape = run.model.num_steps, shape_of(dataset)
    with seeded(run.settings.seed):
        every = dataclasses.replace(run.model, num_steps=2 * T - 1).build(shape)
    alpha_bar = run.model.build(shape).alpha_bar
    levels = torch.cat([alpha_bar, alpha_bar[-1:].expand(T - 1)])
    parts = ((list(every.layers)[:T], alpha_bar), (list(every.layers), levels))
    chain, both = (NoPropDT(every.encoder, layers, every.W, levels, inference="answer") for layers, levels in parts)
    return chain, both


@torch.no_grad()
def says(model: NoPropDT, t: int, views: Views, z: Tensor) -> Tensor:
    """Log-probabilities of layer t for the states z [N, D], the mean over the views [N, C, H, W]: -> [N, K]."""

    def of_view(images: Tensor) -> Tensor:
        batches = zip(images.split(BATCH), z.split(BATCH))
        return torch.cat([model.layers[t - 1](model.encoder(x), state).log_softmax(1) for x, state in batches])

    with evaluating(model):
        return mean_probability(torch.stack([of_view(images) for images in views]))


def walked(chain: NoPropDT, views: Views, noise_scale: float, generator: torch.Generator) -> Tensor:
    """Log-probabilities of layer 1 at the end of inference, with sqrt(c_t) times ``noise_scale``: -> [N, K]."""
    z_T = torch.randn(len(views[0]), chain.W.shape[1], generator=generator, device=chain.W.device)
    return walk(chain, lambda t, z: says(chain, t, views, z), z_T, noise_scale, generator)[1]


def run_blocks(
    run: Run, dataset: Dataset, device: str = "cpu", keeper: Keeper | None = None, progress: Progress = silent
) -> tuple[dict, dict]:
    """Train a chain and its opponents, and measure them on the test split: -> (results, what was said of the test images).

    Of one view and of two, the image and its mirror image: the chain without noise and with, its top layer alone, all T blocks
    that see pure noise, and the mean of the chain's layers, given pure noise.
    """
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    chain, both = chain_and_tops(run, dataset)
    chain.to(device), both.to(device)
    run.model.prepare(both, images, labels, torch.Generator(device).manual_seed(run.settings.seed))
    keeper = keeper or Keeper()
    losses = fit(both, images, labels, run.settings, keeper=keeper, progress=progress)
    test_images, test_labels = dataset.test_images.to(device), dataset.test_labels.to(device)
    views = {"one_view": (test_images,), "two_views": (test_images, test_images.flip(3))}
    results, said = {"train_seconds": keeper.seconds, "loss_by_epoch": losses.tolist()}, {}
    for name, seen in views.items():
        # The same noise for both.
        generator = torch.Generator(device).manual_seed(seed_of(run.settings.seed, 0))
        forecasts = _forecasts(chain, both, seen, generator)
        results[name] = {way: calibration(log_p, test_labels) for way, log_p in forecasts.items()}
        said |= {f"{name}/{way}": log_p.argmax(1).cpu() for way, log_p in forecasts.items()}
    return {"test_accuracy": results["one_view"]["chain"]["accuracy"]} | results, said


def _forecasts(chain: NoPropDT, both: NoPropDT, views: Views, generator: torch.Generator) -> dict[str, Tensor]:
    """What every way of answering says of the images: name -> log-probabilities [N, K]."""
    T, W = chain.num_layers, chain.W
    noise = torch.randn(2 * T - 1, len(views[0]), W.shape[1], generator=generator, device=W.device)
    alone = torch.stack([says(both, t, views, z) for t, z in enumerate(noise, start=1)])  # [2 T - 1, N, K]
    return {
        "chain": walked(chain, views, 0.0, generator),
        "chain_with_noise": walked(chain, views, 1.0, generator),
        "top": alone[T - 1],
        "ensemble_of_tops": mean_probability(alone[T - 1 :]),
        "mean_of_layers": mean_probability(alone[:T]),
    }
