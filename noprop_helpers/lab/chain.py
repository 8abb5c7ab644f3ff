"""A chain of layers taken apart: what each one says and believes, and all that could take the chain's place (chapter 6)."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..blocks import DenoisingMLP
from ..data import Dataset
from ..diffusion import ideal_denoiser
from ..embeddings import nearest_class
from ..noprop import NoPropDT, evaluating
from ..passes import Progress, encode_images, seeded, silent
from ..recipes import Local
from ..runs import shape_of
from ..samplers import sample_posterior
from ..schedules import cosine_alpha_bar, posterior_coefficients
from ..training import Settings, fit

VOTES = (1, 5, 25)
NOISE_SCALES = (0.0, 0.5, 1.0)
DEPTHS = (1, 2, 5, 10, 20)
EPOCHS = 5


def calibration(log_probabilities: Tensor, labels: Tensor, num_bins: int = 10) -> dict:
    """How right and how honest: log-probabilities [N, K], labels [N] -> accuracy, nll, ece and the bins of a diagram.

    ``nll`` is the mean of -log p(y) in nats. ``ece``, the expected calibration error (Guo et al., 2017), is the mean
    distance between confidence and accuracy over ``num_bins`` equal bins of the top probability, weighted by their
    share of the samples. ``bins`` holds share, confidence and accuracy of each bin, 0 where it is empty.

    >>> found = calibration(torch.tensor([[0.75, 0.25], [0.75, 0.25]]).log(), torch.tensor([0, 1]))
    >>> round(found["accuracy"], 4), round(found["ece"], 4)
    (0.5, 0.25)
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
    """A schedule [num_layers + 1] that gives every layer the noise of the top layer of ``alpha_bar``.

    >>> top_level_copies(3, torch.tensor([1.0, 0.7, 0.1]))
    tensor([1.0000, 0.1000, 0.1000, 0.1000])
    """
    return torch.cat([alpha_bar[:1], alpha_bar[-1:].expand(num_layers)])


def mean_probability(says: Tensor) -> Tensor:
    """Log of the mean probability of several forecasters: log-probabilities [M, N, K] -> [N, K].

    >>> mean_probability(torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]]).log()).exp()
    tensor([[0.7500, 0.2500]], dtype=torch.float64)
    """
    return says.double().logsumexp(0) - torch.tensor(len(says)).log()


def share_drawn(log_probabilities: Tensor, labels: Tensor) -> float:
    """Expected accuracy of a class drawn from these probabilities instead of the likeliest: the mean of p(y).

    >>> round(share_drawn(torch.tensor([[0.75, 0.25]]).log(), torch.tensor([0])), 4)
    0.75
    """
    return log_probabilities.gather(1, labels[:, None]).double().exp().mean().item()


def ideal_walk(
    log_belief: Tensor, W: Tensor, alpha_bar: Tensor, noise_scale: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Where a chain of perfect layers ends that know p(k|x) to be this belief: [N, K], W [K, D] -> classes [N]."""
    a, b, c = posterior_coefficients(alpha_bar)
    z_T = torch.randn(len(log_belief), W.shape[1], generator=generator, dtype=W.dtype, device=W.device)

    def denoise(t: int, z: Tensor) -> Tensor:
        return ideal_denoiser(z, alpha_bar[t], W, log_belief)

    return nearest_class(sample_posterior(denoise, z_T, a, b, noise_scale**2 * c, generator), W)


def walk(
    model: NoPropDT, says: Callable[[int, Tensor], Tensor], z_T: Tensor, noise_scale: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Inference with sqrt(c_t) times ``noise_scale``, by what layers say of states, (t, z) -> log-probabilities [N, K]: the last
    state [N, D], and what layer 1 said."""
    a, b, c = model.posterior
    last = None

    def denoise(t: int, z: Tensor) -> Tensor:
        nonlocal last
        last = says(t, z)
        return last.exp().to(model.W.dtype) @ model.W

    return sample_posterior(denoise, z_T, a, b, noise_scale**2 * c, generator), last


class Chain:
    """The layers of a NoPropDT on cached features, walked by hand: what its ``predict`` does not show."""

    def __init__(self, model: NoPropDT, features: Tensor, labels: Tensor, generator: torch.Generator):
        self.model, self.features, self.labels, self.generator = model, features, labels, generator

    def noise(self) -> Tensor:
        """Standard normal states [N, D]."""
        shape = len(self.labels), self.model.W.shape[1]
        return torch.randn(shape, generator=self.generator, device=self.labels.device)

    @torch.no_grad()
    def says(self, t: int, z: Tensor | None = None) -> Tensor:
        """Log-probabilities of layer t [N, K] for the states z, else for pure noise."""
        with evaluating(self.model):
            return self.model.layers[t - 1](self.features, self.noise() if z is None else z).log_softmax(1)

    def each_says(self) -> Tensor:
        """Log-probabilities of every layer, given pure noise: [T, N, K]."""
        return torch.stack([self.says(t) for t in range(1, self.model.num_layers + 1)])

    @torch.no_grad()
    def walk(self, noise_scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Classes [N] at the end of inference with sqrt(c_t) times ``noise_scale``, and what layer 1 said [N, K]."""
        z, said = walk(self.model, self.says, self.noise(), noise_scale, self.generator)
        return self.model.classify(z), said

    def right(self, classes: Tensor) -> float:
        """Share of the images whose class this is: classes [N]."""
        return _share(classes == self.labels)

    def told(self, labels: Tensor) -> list[list[float]]:
        """How often layer t (row) answers ``labels`` when its state is those labels, noised to level t' (column)."""

        def repeats(t: int, level: float) -> float:
            z = level**0.5 * self.model.W[labels] + (1 - level) ** 0.5 * self.noise()
            return _share(self.says(t, z).argmax(1) == labels)

        levels = self.model.alpha_bar[1:].tolist()
        return [[repeats(t, level) for level in levels] for t in range(1, self.model.num_layers + 1)]


class Bench:
    """Features of a data set, computed once without gradients, on which chains and single layers are trained alike."""

    def __init__(self, dataset: Dataset, seed: int, device: str, progress: Progress, epochs: int):
        self.progress, self.shape = progress, shape_of(dataset)
        images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
        recipe, self.generator = Local(), torch.Generator(device).manual_seed(seed)
        self.settings = dataclasses.replace(recipe.settings(self.shape), epochs=epochs, seed=seed)
        with seeded(seed):
            encoder = recipe.build(self.shape).encoder.to(device)
        encoder.fit(images, generator=self.generator)
        self.train = encode_images(encoder, images, progress)[..., None, None], labels
        self.test = encode_images(encoder, dataset.test_images.to(device), progress), dataset.test_labels.to(device)

    def chain(self, alpha_bar: Tensor, hidden_dim: int = 256, settings: Settings | None = None) -> Chain:
        """A chain with this schedule [T + 1], trained: with one layer, a classifier that sees the noise of the top."""
        settings, (features, labels), K = settings or self.settings, self.train, self.shape.num_classes
        with seeded(settings.seed):
            layers = [DenoisingMLP(features.shape[1], K, K, hidden_dim) for _ in alpha_bar[1:]]
        model = NoPropDT(nn.Flatten(), layers, torch.eye(K), alpha_bar).to(labels.device)
        fit(model, features, labels, settings, progress=self.progress)
        return Chain(model, *self.test, self.generator)


def run_layers(
    dataset: Dataset, seed: int, device: str = "cpu", progress: Progress = silent, epochs: int = EPOCHS
) -> tuple[dict, dict]:
    """A chain of ten layers on features fitted without gradient, against all that could replace it.

    All see the same features and train with the settings of the recipe ``local``, for ``epochs`` passes; only
    ``one_longer``, a single layer, gets ten times the passes, and ``one_wider`` ten times the hidden units.
    """
    bench, T = Bench(dataset, seed, device, progress, epochs), Local().num_steps
    alpha_bar = cosine_alpha_bar(T)
    single, labels = top_level_copies(1, alpha_bar), bench.test[1]
    chain, longer = bench.chain(alpha_bar), dataclasses.replace(bench.settings, epochs=T * epochs)
    tops_say = bench.chain(top_level_copies(T, alpha_bar)).each_says()
    results, said = _of_the_chain(chain)
    opponents = {
        "ensemble_of_tops": mean_probability(tops_say),
        "one_longer": bench.chain(single, settings=longer).says(1),
        "one_wider": bench.chain(single, hidden_dim=T * 256).says(1),
    }
    results |= {name: calibration(says, labels) for name, says in opponents.items()}
    results["by_depth"] = {str(n): _by_depth(bench.chain(cosine_alpha_bar(n)), chain) for n in DEPTHS}
    return results, said | {name: says.argmax(1).cpu() for name, says in opponents.items()}


def _of_the_chain(chain: Chain) -> tuple[dict, dict]:
    """What a chain does, and what each of its layers does alone: -> (results, classes said)."""
    labels, K, T = chain.labels, len(chain.model.W), chain.model.num_layers
    walks = [chain.walk() for _ in range(VOTES[-1])]
    votes = nn.functional.one_hot(torch.stack([classes for classes, _ in walks]), K).double()  # [walks, N, K]
    # One more vote, spread over all classes: a class without any would have no logarithm.
    shares = ((votes.sum(0) + 1 / K) / (len(votes) + 1)).log()
    top_says, own_say, quiet = chain.says(T), chain.each_says(), chain.walk(0.0)[0]
    others = (labels + torch.randint(1, K, labels.shape, generator=chain.generator, device=labels.device)) % K
    results = {
        "chain": {
            "accuracy": sum(chain.right(classes) for classes, _ in walks) / len(walks),
            "accuracy_by_votes": {str(n): chain.right(votes[:n].mean(0).argmax(1)) for n in VOTES},
            "accuracy_by_noise_scale": {str(s): chain.right(chain.walk(s)[0] if s else quiet) for s in NOISE_SCALES},
            "last_layer": calibration(walks[0][1], labels),
            "vote_shares": calibration(shares, labels),
        },
        "top": {**calibration(top_says, labels), "drawn_accuracy": share_drawn(top_says, labels)},
        "layers_from_noise": [chain.right(says.argmax(1)) for says in own_say],
        "mean_of_layers": calibration(mean_probability(own_say), labels),
        "told_the_truth": chain.told(labels),
        "told_a_lie": chain.told(others),
    }
    said = {"chain": walks[0][0], "quiet_chain": quiet, "top": top_says.argmax(1), "votes": votes.mean(0).argmax(1)}
    return results, {name: classes.cpu() for name, classes in said.items()}


def _by_depth(chain: Chain, ten_layers: Chain) -> dict:
    """Accuracies of a chain and of its top layer, the means of five walks and of five answers; and what perfect layers would
    reach that believe what the top of ``ten_layers`` says, which has seen nothing of this chain."""
    T, alpha_bar = ten_layers.model.num_layers, chain.model.alpha_bar
    walks, tops, predicted = [], [], []
    for _ in range(VOTES[1]):
        walks.append(chain.right(chain.walk()[0]))
        tops.append(chain.right(chain.says(chain.model.num_layers).argmax(1)))
        ideal = ideal_walk(ten_layers.says(T), chain.model.W, alpha_bar, generator=chain.generator)
        predicted.append(chain.right(ideal))
    return {name: sum(said) / len(said) for name, said in (("chain", walks), ("top", tops), ("predicted", predicted))}


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()
