"""Labels of many coordinates other than Sudoku: their layers, a chain beside its opponents, and likelihoods.

A study says what there is to learn, by which layers, and how answers are judged (``structured_study.Task``); the chain, what is
taken from it and its opponents are the same for all.

Likelihoods are in nats, sums over a label's coordinates, of the symbols drawn from what is said last. Whoever is asked once
says a product of marginals, so his is exact but for the noise that he is given (the mean over the noise of its logarithm,
which is a bound from below; he hardly looks at it). A chain's is a mean over all its walks. It is bounded from below
(``chain_bound``), as diffusion models' are, or estimated by many walks (``chain_estimate``), where labels are few enough.
"""

import dataclasses
import math
from typing import Sequence

import torch
from torch import Tensor, nn

from .. import NoPropError
from ..data import Dataset, hold_out
from ..diffusion import kl_to_prior, q_sample
from ..passes import Progress
from ..schedules import cosine_alpha_bar
from . import structured
from .structured import Training
from .structured_study import OPPONENTS, Bench, Chain, Task, best_repeated

RATES = (1e-3, 2e-3, 5e-3, 1e-2)


@dataclasses.dataclass(frozen=True)
class TaskPlan:
    """How the chain of a study is made and trained; opponents have the same updates, or the same parameters, in all."""

    num_layers: int
    hidden_dim: int
    steps: int
    learning_rate: float
    batch_size: int = 64
    num_test: int = 2000

    @property
    def training(self) -> Training:
        """Steps, batch size and learning rate."""
        return Training(self.steps, self.batch_size, self.learning_rate)


class Perceptron(nn.Module):
    """Two hidden layers over all coordinates at once: x [B, M, F] and the state z [B, M * K] -> scores [B, M, K].

    ``look_dim``: so many units first look at each coordinate's features, with the same weights wherever it stands.
    """

    def __init__(self, shape: tuple[int, int, int], hidden_dim: int, look_dim: int | None = None):
        super().__init__()
        self.num_coordinates, num_features, self.num_symbols = shape  # M, F, K
        self.look = nn.Identity() if look_dim is None else nn.Sequential(nn.Linear(num_features, look_dim), nn.ReLU())
        said = self.num_coordinates * self.num_symbols
        self.think = nn.Sequential(
            nn.Linear(self.num_coordinates * (look_dim or num_features) + said, hidden_dim), nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, said),
        )  # fmt: skip

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x [B, M, F], z [B, M * K] -> scores [B, M, K]."""
        scores = self.think(torch.cat([self.look(x).flatten(1), z], 1))
        return scores.unflatten(1, (self.num_coordinates, self.num_symbols))


def compared(bench: Bench, chain: Chain, by: str, progress: Progress) -> dict:
    """A chain with and without noise, its top layer, its best layer asked as often as there are layers, and the opponents of
    one layer. Each is judged; whoever is asked once also says how likely the truth is. The best layer is chosen ``by`` a
    number of the judge's, whose ``mean(values)`` is that of what is known of every problem."""
    judge = bench.judge

    def once(name: str, u_hat: Tensor) -> dict:
        return judge.of_state(u_hat, name) | {"log_likelihood": judge.mean(log_probability(u_hat, judge.y))}

    names = progress(list(OPPONENTS), "opponents")
    return {
        "chain": {
            "quiet": judge.of_state(bench.walked(chain), "quiet"),
            "noisy": judge.of_state(bench.walked(chain, 1.0), "noisy"),
            "top": once("top", bench.asked(chain.layers[-1])),
            "repeated": best_repeated(bench, chain, by),
            "bound": judge.mean(chain_bound(chain, judge.x, judge.y, bench.generator)),
        },
        "opponents": {name: once(name, OPPONENTS[name](bench)) for name in names},
    }


def at_every_rate(plan: TaskPlan, seed: int, task: Task, progress: Progress, rates: Sequence[float] = RATES) -> dict:
    """The chain without noise and with, its top layer, and the opponents of one layer, trained at every learning rate, each
    opponent by draws of its own: rate -> who -> the judge's numbers."""

    def met(rate: float) -> dict:
        """A chain and its opponents, each trained at this rate from the same seed: -> what each comes to."""
        def bench() -> Bench:
            return Bench(dataclasses.replace(plan, learning_rate=rate), seed, task)

        walked = bench()
        chain = walked.chain(plan.num_layers)
        said = {"quiet": walked.walked(chain), "noisy": walked.walked(chain, 1.0), "top": walked.asked(chain.layers[-1])}
        said |= {name: opponent(bench()) for name, opponent in OPPONENTS.items()}
        return {name: task.judge.of_state(z) for name, z in said.items()}

    return {str(rate): met(rate) for rate in progress(rates, "rates")}


# --- Likelihoods ------------------------------------------------------------------------------------------------------


def log_probability(u_hat: Tensor, y: Tensor) -> Tensor:
    """Of a label, if each coordinate is drawn by itself as a guess says: u_hat [B, M * K], y [B, M] -> nats [B].

    >>> log_probability(torch.tensor([[0.5, 0.5, 0.25, 0.75]]), torch.tensor([[0, 0]])).exp()
    tensor([0.1250])
    """
    return structured.log_probabilities(u_hat, y).sum(1)


@torch.no_grad()
def chain_bound(chain: Chain, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    r"""A lower bound on log p(y | x) of a chain with noise whose layer 1 has the last word: -> nats [B], each term drawn once.

    The bound of diffusion models: what the start misses, ``kl_to_prior``; for every step but the last the divergence of the
    posterior from the layer's, :math:`\tfrac12 (\text{SNR}(t-1) - \text{SNR}(t)) \| u - \hat u \|^2`; and the probability of
    y in layer 1's softmaxes, at a state z_1 of its own label.
    """
    alpha_bar = cosine_alpha_bar(len(chain.layers))
    u, snr = structured.embedded(y, chain.layers[0].num_symbols), (alpha_bar / (1 - alpha_bar)).tolist()

    def said(t: int) -> Tensor:
        z = q_sample(u, float(alpha_bar[t]), torch.randn(u.shape, generator=generator))
        return structured.guess(chain.layers[t - 1], x, z)

    missed = kl_to_prior(u, float(alpha_bar[-1]))
    for t in range(len(chain.layers), 1, -1):
        missed += (snr[t - 1] - snr[t]) / 2 * (said(t) - u).square().sum(1)
    return log_probability(said(1), y) - missed


@torch.no_grad()
def chain_estimate(chain: Chain, x: Tensor, y: Tensor, walks: int, generator: torch.Generator) -> Tensor:
    """The same log p(y | x), estimated: the logarithm of what layer 1 gives y, on average over walks to its z_1. -> nats [B].

    With few walks it is too low: in expectation it is another lower bound, and the more walks, the closer.
    """
    above = [table[1:] for table in chain.posterior]
    num_symbols, found = chain.layers[0].num_symbols, []
    for _ in range(walks):
        z_T = structured.noise_like(y, num_symbols, generator)
        z = structured.walk(chain.layers[1:], above, x, z_T, 1.0, generator)
        found.append(log_probability(structured.guess(chain.layers[0], x, z), y))
    return torch.stack(found).logsumexp(0) - math.log(walks)


def judged_by_others(dataset: Dataset) -> Dataset:
    """A quarter of the training images in the place of the test images, which have judged the tries that chose the settings."""
    return hold_out(dataset, len(dataset.train_labels) // 4)


def judged_by_more(dataset: Dataset) -> Dataset:
    """Images that neither those who learn nor the judge of the recordings have seen: for choices, such as a learning rate."""
    return judged_by_others(judged_by_others(dataset))


def on_the_cpu(device: str) -> None:
    """Raise NoPropError for any device but "cpu", on which alone these studies compute."""
    if device != "cpu":
        raise NoPropError(f"studies of structured labels compute on the CPU alone, got device {device}")
