"""The hidden half of a digit: a label that is an image (chapter 15).

x is the upper half of a handwritten digit, the label its lower half, black or white pixel by pixel. Many lower halves fit an
upper one, and what binds their pixels is the stroke: where it bends, all of it bends. Layers learn from the training split
and complete digits that were held out of it.

To be right in every pixel is no aim, so completions are judged in four ways. ``log_likelihood``: of the true half, in nats
per pixel. It is a product of marginals for whoever is asked once; of a chain a lower bound, ``tasks.chain_bound``, and no
more than that is computed: to estimate it by walks there are too many halves, and with so few steps the bound is loose, so
that the one being below the other says nothing. ``recognised``: the share of completed digits in which a classifier sees the
true class; it is trained on whole training digits, in black and white below, and has nothing to do with any layer.
``doubt``: the entropy in nats of what it says, whichever class that is. ``to_nearest``: the share of pixels in which a
completed half differs from the nearest of training halves. The true halves are judged in the same way, ``true``; and halves
whose pixels are drawn one by one as the top layer says, ``top_drawn``, as the chain with noise draws them together.

Depth (of 10 and 20) and learning rate (of 0.003 and 0.005) were chosen by two tries with one seed, judged by digits of the
test split; so the recording is judged by others. Opponents take over the chain's rate and had no choice of their own. Who
distrusts a narrow win over an opponent is right.

Written down before the first recording, after those two tries. Seen in them: the chain with noise, half of it and none, its
top layer, that layer's pixels drawn one by one, the bound, and one layer asked again; so what is said of these is
what was seen, and only what is said of the three opponents is a forecast. It will be less than with Sudoku, for the
likeliest pixels make nearly a stroke. Read off pixel by pixel, halves by the chain without noise are recognised one to three
points in a hundred more often than those by its top layer, and leave less doubt. One layer trained longer or made wider
gains about as much over the top layer as the chain does; the mean of the tops, less. One layer asked twenty times does as
well as the chain. Where halves are *drawn*, the difference is large: those of the chain with noise are about as near to
training halves as true ones are, at most a third farther, and pixels drawn one by one nearly twice as far; but the chain's
are recognised less often than all others, for it also draws what is unlikely. The bound lies below the top layer's
likelihood.

Written down before ``half_digits_rates``, after that recording, in which the layer trained twenty times longer was first by
five in a hundred: at the best of four rates for each, judged by digits of their own, it stays first, by three in a hundred
or more over the chain; the wider layer and the mean of the tops come within one in a hundred of the chain.
"""

from typing import Sequence

import torch
from torch import Tensor, nn

from ..data import Dataset
from ..passes import Progress, seeded, silent
from . import structured
from .structured import Draw, Problems, Training
from .structured_study import Bench, Task
from .tasks import RATES, Perceptron, TaskPlan, at_every_rate, compared, judged_by_more, judged_by_others, on_the_cpu
from .walks import word

PLAN = TaskPlan(num_layers=20, hidden_dim=128, steps=2000, learning_rate=5e-3)
WHITE = 0.5  # a pixel this bright or brighter is white
NEIGHBOURS = 10_000  # training halves among which the nearest one is looked for
NUM_SHOWN = 10  # digits
READING = Training(steps=1500, batch_size=128, learning_rate=3e-3)  # of the classifier


def halves(images: Tensor) -> Problems:
    """Images [N, 1, H, W] in [0, 1] -> upper halves x [N, M, 1], lower ones y [N, M] of zeros and ones; all is open.

    Images of 16 pixels a side or more are made half as large first, means of 2 x 2 pixels. A row in the middle is left out.

    >>> halves(torch.ones(1, 1, 8, 8)).y.shape
    torch.Size([1, 32])
    """
    small = nn.functional.avg_pool2d(images, 2) if images.shape[2] >= 16 else images
    height = small.shape[2] // 2
    y = (small[:, 0, -height:] >= WHITE).long().flatten(1)
    return Problems(small[:, 0, :height].flatten(1).unsqueeze(2), y, torch.ones_like(y, dtype=torch.bool))


def drawn_from(all_halves: Problems) -> Draw:
    """Lessons: halves drawn at random out of all of them."""

    def draw(count: int, generator: torch.Generator) -> Problems:
        which = torch.randint(len(all_halves.y), (count,), generator=generator)
        return Problems(*(part[which] for part in all_halves))

    return draw


def drawn(u_hat: Tensor, generator: torch.Generator) -> Tensor:
    """Halves whose pixels are drawn one by one, each for itself, as a guess [N, M * 2] says: -> [N, M]."""
    white = u_hat.unflatten(1, (-1, 2))[:, :, 1]
    return (torch.rand(white.shape, generator=generator) < white).long()


# --- Measuring --------------------------------------------------------------------------------------------------------


def reader(learned: Problems, labels: Tensor, training: Training = READING) -> nn.Module:
    """A classifier of whole digits, [N, 2 M]: one hidden layer, the same for every seed."""
    whole = joined(learned.x, learned.y)
    with seeded(0):
        model = nn.Sequential(nn.Linear(whole.shape[1], 256), nn.ReLU(), nn.Linear(256, int(labels.max()) + 1))
    optimizer, generator = torch.optim.Adam(model.parameters(), training.learning_rate), torch.Generator().manual_seed(0)
    for _ in range(training.steps):
        which = torch.randint(len(labels), (training.batch_size,), generator=generator)
        loss = nn.functional.cross_entropy(model(whole[which]), labels[which])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def joined(x: Tensor, y: Tensor) -> Tensor:
    """Upper halves [N, M, 1] and lower ones [N, M] -> whole digits [N, 2 M].

    >>> joined(torch.zeros(1, 2, 1), torch.ones(1, 2))
    tensor([[0., 0., 1., 1.]])
    """
    return torch.cat([x.squeeze(2), y.float()], 1)


def to_nearest(said: Tensor, others: Tensor) -> Tensor:
    """Share of pixels in which halves [N, M] differ from the nearest of others [L, M]: -> [N].

    >>> to_nearest(torch.tensor([[1, 1, 0, 0]]), torch.tensor([[1, 0, 0, 0], [0, 0, 1, 1]]))
    tensor([0.2500])
    """
    ones, of_others = said.float(), others.float()
    both = [part @ of_others.T for part in ones.split(500)]
    return (ones.sum(1, keepdim=True) + of_others.sum(1) - 2 * torch.cat(both)).min(1).values / said.shape[1]


class HalfJudge:
    """Says how good completions are. ``labels``: the true classes; without them, those that the model sees in true ones."""

    num_symbols = 2

    def __init__(self, problems: Problems, model: nn.Module, neighbours: Tensor, labels: Tensor | None = None):
        self.problems, self.model, self.neighbours = problems, model, neighbours
        self.x, self.y, self.said = problems.x, problems.y, {}
        self.labels = self._scores(self.y).argmax(1) if labels is None else labels

    @torch.no_grad()
    def _scores(self, said: Tensor) -> Tensor:
        return self.model(joined(self.x, said))

    def of(self, problems: Problems) -> "HalfJudge":
        """The judge of other halves."""
        return HalfJudge(problems, self.model, self.neighbours)

    def mean(self, values: Tensor) -> float:
        """Of what is known of every half, a pixel."""
        return values.double().mean().item() / self.y.shape[1]

    def of_state(self, z: Tensor, name: str | None = None) -> dict:
        """States or guesses [N, M * 2] -> how good the halves are that are read off them; which digits are recognised is kept
        where named."""
        return self(structured.answers(z, 2), name)

    def __call__(self, said: Tensor, name: str | None = None) -> dict:
        """The same of halves [N, M]."""
        log_p = self._scores(said).log_softmax(1)
        recognised = log_p.argmax(1) == self.labels
        if name is not None:
            self.said[name] = recognised
        found = {
            "recognised": recognised, "doubt": -(log_p.exp() * log_p).sum(1), "to_nearest": to_nearest(said, self.neighbours),
            "pixels": said == self.y,
        }  # fmt: skip
        return {key: values.double().mean().item() for key, values in found.items()}


def task_of(dataset: Dataset, plan: TaskPlan, reading: Training) -> Task:
    """Halves of a data set's training images, judged by those of its test images."""
    learned, test = halves(dataset.train_images), halves(dataset.test_images)
    test = Problems(*(part[: plan.num_test] for part in test))
    model = reader(learned, dataset.train_labels, reading)
    judge = HalfJudge(test, model, learned.y[:NEIGHBOURS], dataset.test_labels[: plan.num_test])

    def layer(hidden_dim: int, more_features: int) -> Perceptron:
        return Perceptron((test.y.shape[1], 1 + more_features, 2), hidden_dim)

    return Task(drawn_from(learned), judge, layer)


def run_half_digits(
    dataset: Dataset,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
    plan: TaskPlan = PLAN,
    reading: Training = READING,
):
    """A chain and its opponents complete digits: -> (results, in which completed digits the true class is recognised, and some
    completions to look at)."""
    on_the_cpu(device)
    task = task_of(judged_by_others(dataset), plan, reading)
    bench, judge = Bench(plan, seed, task), task.judge
    chain = bench.chain(plan.num_layers)
    results = compared(bench, chain, "recognised", progress)
    u_hat = bench.asked(chain.layers[-1])
    top_drawn = drawn(u_hat, bench.generator)
    results["chain"]["top_drawn"] = judge(top_drawn, "top_drawn")
    results["chain"]["top"]["entropy"] = judge.mean(torch.special.entr(u_hat).sum(1))  # how unsure it is of a pixel, in nats
    said = {"true": judge.y, "top": structured.answers(u_hat, 2), "top_drawn": top_drawn}
    said |= {name: structured.answers(bench.walked(chain, scale), 2) for name, scale in (("quiet", 0.0), ("noisy", 1.0))}
    return results | {"true": judge(judge.y, "true")}, judge.said, to_look_at(judge.x, said)


def run_half_digits_rates(
    dataset: Dataset, seed: int, device: str = "cpu", progress: Progress = silent, plan: TaskPlan = PLAN,
    reading: Training = READING, rates: Sequence[float] = RATES,
):  # fmt: skip
    """Everybody at other learning rates, judged by digits of their own: -> (results, nothing more)."""
    on_the_cpu(device)
    task = task_of(judged_by_more(dataset), plan, reading)
    return {"by_rate": at_every_rate(plan, seed, task, progress, rates)}, {}


def to_look_at(x: Tensor, said: dict[str, Tensor]) -> dict:
    """The first digits as text, a sign a pixel: upper halves [N, M, 1] in ten grey levels, and lower ones [N, M] by who says
    them."""
    lower = {name: [word(half, 1) for half in many[:NUM_SHOWN]] for name, many in said.items()}
    return {"upper": [word(half, 9) for half in x[:NUM_SHOWN]]} | lower
