"""Visual Sudoku: the given cells are pictures of digits, 6 x 6 and 9 x 9, read and solved by layers trained apart (chapter 7).

How a picture is read, and how 9 x 9 is trained, was chosen by tries with ``hold_out(dataset, 10_000)`` and grids that
do not judge: neither these grids nor an image of the test split had a say. One seed each; puzzles solved by the chain
without noise.

- 6 x 6, ten layers, 600 steps, ``grids_to_try``: .52 by 128 patch features, .47 by 64, .49 by 64 components of the
  pixels, .47 by 128, .62 by symbols. All given cells were read right in .96 of the puzzles by patches, in .91 and .88
  by pixels. After 1,200 steps .68 by 128 patch features, .62 by 64 components. So patches are the way, and pixels a
  reference.
- 9 x 9, five layers, 128 patch features, 300 of the grids to learn from, judged by the other 100: 1,200 batches of 16 solved .07, .20 and
  .32 at the rates 0.005, 0.01 and 0.02, and 1,000 batches of 32, which take longer, .17 at 0.01. So batches of 16 at
  0.02.

Written down before the first recording, after these tries, none of which had a long opponent, twenty layers, or the
full time:

- 6 x 6: the chain without noise solves at least four times as many puzzles as its top layer, which stays under a fifth.
  Noise costs it a quarter of them or more. One layer trained as long as all, at the chain's rate, which was not tried
  for it, stays under two fifths.
- Pictures cost the chain no more than a tenth of the puzzles that it solves by symbols, and more than misreading
  explains: all given cells are read right in at least 95 of 100 puzzles, by patches. By pixels it reads worse and
  solves fewer.
- The top layer gives the open cells more log-likelihood than the end of a walk: a walk has decided, and where a puzzle
  has several solutions it is sure of another one. Noise makes it worse.
- 9 x 9: the top layer solves at most one puzzle in fifty, by pictures and by symbols; the chain without noise a quarter
  to two thirds by symbols, and by pictures at least two thirds of that. With 40 cells to be read, all are right in 85
  to 95 of 100.
- With four cells in ten given, the chain solves less than two thirds as many puzzles as with half; of 9 x 9 less than a
  third as many.

Written down before 9 x 9 was recorded at half the rate, 0.01, after one seed of three had fallen behind at 0.02 and one of its
layers had learned next to nothing: the rate was too large to be safe. At 0.01 no seed falls behind: by symbols the quiet chain's
three seeds lie within eight in a hundred of one another, and the noisy chain solves at least one in twenty on each. The mean by
symbols is within eight in a hundred of the 60 of the two sound seeds; by pictures at least two thirds of it, all cells are read
right in at least 85 of 100. The top layer stays under one in fifty; one layer as long as all may gain, and stays under a tenth.
"""

import functools
import random
from typing import Callable, NamedTuple, Sequence

import torch
from torch import Tensor

from .. import NoPropError
from ..data import Dataset
from ..features import encode, principal_components
from ..passes import Progress, silent
from ..recipes import Local, Shape
from . import structured
from .structured import Problems
from .structured_study import BOARD, OPPONENTS, Bench, Chain, Judge, Plan, Task, num_solutions, on_board, pictured, puzzles, split
from .sudoku import Board, solutions

LARGE_BOARD = Board(3, 3)
PLAN = Plan(num_layers=20)
LARGE_PLAN = Plan(num_layers=20, hidden_dim=64, rounds=3, steps=1400, batch_size=16, learning_rate=2e-2, num_test=1000)
NUM_GRIDS = (400, 200)  # of 9 x 9, to learn from and to judge by
NUM_IMAGES = 10_000  # of the training split, of the digits that the board has
NUM_FEATURES = {"patches": 128, "pixels": 64}  # what a layer sees of a picture, the better of 64 and 128
HARDER = (0.4,)  # shares of cells given, beside the plan's
WAYS, LARGE_WAYS = ("patches", "pixels", "symbols"), ("patches", "symbols")

Reader = Callable[[Tensor], Tensor]  # images [N, C, H, W] -> what the layers see of them [N, F]


# --- Grids ------------------------------------------------------------------------------------------------------------


def signature(board: Board, grid: Tensor) -> tuple:
    """What all grids of one class have in common, and most grids of two classes have not: [S, S] -> a tuple to compare.

    Two lines are a permutation, what stands in the one -> what stands beside it in the other. The lengths of its cycles do not
    change when values are renamed or the crossing lines reordered. Counted for all pairs of rows, those of one band apart from
    the others, and for all pairs of columns. Where boxes are square a grid has the signature of its mirror image, too.

    >>> grid = torch.tensor([[0, 1, 2, 3], [2, 3, 0, 1], [1, 0, 3, 2], [3, 2, 1, 0]])
    >>> signature(Board(2, 2), grid) == signature(Board(2, 2), grid.flip(0))
    True
    """
    ways = [_cycles(grid.tolist(), board.height), _cycles(grid.T.tolist(), board.width)]
    return tuple(sorted(ways) if board.height == board.width else ways)


def _cycles(lines: list[list[int]], size: int) -> tuple:
    """(of one band or not, lengths of the cycles) of every pair of lines, in order. ``size``: lines of a band."""
    pairs = [(i, j) for j in range(len(lines)) for i in range(j)]
    return tuple(sorted((i // size == j // size, _cycle_lengths(lines[i], lines[j])) for i, j in pairs))


def _cycle_lengths(one: list[int], other: list[int]) -> tuple[int, ...]:
    """Cycles of the permutation that takes one line to the other: their lengths stay when symbols are renamed."""
    follows, lengths = dict(zip(one, other)), []
    while follows:
        length, value = 0, next(iter(follows))
        while value in follows:
            value, length = follows.pop(value), length + 1
        lengths.append(length)
    return tuple(sorted(lengths))


@functools.lru_cache(maxsize=2)
def grids_apart(board: Board, num_learned: int, num_judged: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random grids to learn from and others to judge by, where classes cannot be listed: [G, S, S] each.

    Guaranteed: no symmetry, mirroring at the diagonal included, makes a judging grid of one to learn from, for no two of them
    have one ``signature``. Not guaranteed: that all classes are as likely, or that two grids of one part are of two classes.
    """
    chance, empty = random.Random(seed), torch.full((board.size, board.size), -1)

    def new() -> Tensor:
        return solutions(board, empty, 1, chance)[0]

    learned = [new() for _ in range(num_learned)]
    known, judged = {signature(board, grid) for grid in learned}, []
    while len(judged) < num_judged:
        grid = new()
        if signature(board, grid) not in known:
            judged.append(grid)
    return torch.stack(learned), torch.stack(judged)


def large_grids() -> tuple[Tensor, Tensor]:
    """9 x 9, to learn from and to judge by, the same for every seed: [G, 9, 9] each."""
    return grids_apart(LARGE_BOARD, *NUM_GRIDS)


def grids_to_try() -> tuple[Tensor, Tensor]:
    """6 x 6 without the classes that judge: to learn from, and of ten classes more to choose by. [G, S, S] each."""
    all_but_ten, all_but_twenty = split()[0], split(held_out=20)[0]
    return all_but_twenty, all_but_ten[: len(all_but_ten) - len(all_but_twenty)]  # in the same order, from its end


# --- Pictures ---------------------------------------------------------------------------------------------------------


def pixels(images: Tensor, generator: torch.Generator) -> Reader:
    """The leading principal components of the pixels, each of unit variance."""
    x = images.flatten(1)
    variances, directions = principal_components(x, min(NUM_FEATURES["pixels"], x.shape[1]), generator=generator)
    mean, projection = x.mean(0), directions * variances.clamp(min=1e-6).rsqrt()
    return lambda images: (images.flatten(1) - mean) @ projection


def patches(images: Tensor, generator: torch.Generator) -> Reader:
    """The leading features of preset ``local``, made without any gradient; of unit variance, they are principal components."""
    shape = Shape(tuple(images.shape[1:]), num_classes=10, num_images=len(images))
    encoder = Local(num_steps=1).build(shape).encoder.fit(images, generator=generator)
    return lambda images: encode(encoder, images)[:, : NUM_FEATURES["patches"]]


READERS = {"patches": patches, "pixels": pixels}


def pictures_of(images: Tensor, labels: Tensor, size: int, read: Reader) -> Tensor:
    """Pictures of the digits 1 ... S, as many of each, as they are read: -> [S, N, F]. Raises NoPropError if one has none."""
    counts = [int((labels == digit).sum()) for digit in range(1, size + 1)]
    if min(counts) == 0:
        raise NoPropError(f"expected images of the classes 1 to {size}, got none of class {1 + counts.index(0)}")
    chosen = torch.cat([(labels == digit).nonzero()[: min(counts), 0] for digit in range(1, size + 1)])
    return read(images[chosen]).unflatten(0, (size, -1))


def symbols(size: int) -> Tensor:
    """One picture of each symbol, which is its one-hot vector: [S, 1, S]."""
    return torch.eye(size).unsqueeze(1)


def pictures_to(way: str, size: int, dataset: Dataset, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures to learn from, of the training split, and to judge by, of the test split: [S, N, F] and [S, M, F].

    ``way``: one of ``READERS``, fitted on some images of the training split, which are those to learn from; or "symbols".
    """
    if way == "symbols":
        return symbols(size), symbols(size)
    generator = torch.Generator().manual_seed(seed)
    known = ((dataset.train_labels >= 1) & (dataset.train_labels <= size)).nonzero().squeeze(1)
    chosen = known[torch.randperm(len(known), generator=generator)[:NUM_IMAGES]]
    images, labels = dataset.train_images[chosen], dataset.train_labels[chosen]
    read = READERS[way](images, generator)
    return pictures_of(images, labels, size, read), pictures_of(dataset.test_images, dataset.test_labels, size, read)


class Source(NamedTuple):
    """What puzzles are made of: a board, grids [G, S, S], and pictures of its symbols [S, N, F]."""

    board: Board
    grids: Tensor
    pictures: Tensor

    def problems(self, count: int, share: float, generator: torch.Generator) -> Problems:
        """New puzzles, seen. What stands in them depends on the generator alone, not on the pictures."""
        return pictured(puzzles(self.board, self.grids, share, count, generator), self.pictures, generator)

    def test(self, count: int, share: float) -> Problems:
        """Puzzles to judge by: for every seed and way of reading the same, with pictures of the same images."""
        return self.problems(count, share, torch.Generator().manual_seed(0))


# --- Measuring --------------------------------------------------------------------------------------------------------


def measured(judge: Judge, u_hat: Tensor, name: str | None = None) -> dict:
    """Of guesses [N, M * K], which the end of a walk is, too: what a judge counts; ``read``, the share of puzzles whose given
    cells are all read right; ``log_likelihood``, in nats per open cell."""
    _, y, is_open = judge.problems
    log_likelihood = structured.log_probabilities(u_hat, y)[is_open].double().mean().item()
    read = ((structured.answers(u_hat, judge.board.size) == y) | is_open).all(1).double().mean().item()
    found = judge.of_state(u_hat, name)
    return found | {"read": read, "log_likelihood": log_likelihood}


def of_the_chain(bench: Bench, chain: Chain, way: str) -> dict:
    """The chain's walks without noise and with, and its top layer alone."""
    ends = {
        "quiet": bench.walked(chain),
        "noisy": bench.walked(chain, 1.0),
        "top": bench.asked(chain.layers[-1]),
    }
    return {name: measured(bench.judge, u_hat, f"{way}_{name}") for name, u_hat in ends.items()}


@torch.no_grad()
def at_share(chain: Chain, judge: Judge) -> dict:
    """The same layers on puzzles that give another share of their cells."""
    noise = structured.noise_like(judge.y, judge.board.size, torch.Generator().manual_seed(1))
    top = structured.guess(chain.layers[-1], judge.x, noise)
    return {"quiet": measured(judge, structured.walk(*chain, judge.x, noise)), "top": measured(judge, top)}


# --- Studies ----------------------------------------------------------------------------------------------------------


def run_sudoku_pictures(
    dataset: Dataset, seed: int, device: str = "cpu", progress: Progress = silent, plan: Plan = PLAN,
    grids: tuple[Tensor, Tensor] | None = None,
):  # fmt: skip
    """6 x 6, by classes of grids that nobody learns from: -> (results, whether each test puzzle is solved, by who said it).

    ``grids``: others to learn from and to judge by, as tries need them.
    """
    return solved_by_sight(BOARD, grids or split(), dataset, seed, progress, plan, WAYS)


def run_sudoku_pictures_large(
    dataset: Dataset, seed: int, device: str = "cpu", progress: Progress = silent, plan: Plan = LARGE_PLAN,
    grids: tuple[Tensor, Tensor] | None = None,
):  # fmt: skip
    """9 x 9, by grids of classes that nobody learns from: -> as ``run_sudoku_pictures``."""
    return solved_by_sight(LARGE_BOARD, grids or large_grids(), dataset, seed, progress, plan, LARGE_WAYS)


def solved_by_sight(
    board: Board, grids: tuple[Tensor, Tensor], dataset: Dataset, seed: int, progress: Progress, plan: Plan,
    ways: Sequence[str],
):  # fmt: skip
    """A chain for every way of seeing the given cells, and for the first way one layer trained as long as all."""
    results, said = {}, {}
    for way in progress(list(ways), "ways"):
        learned, judged = (Source(board, *parts) for parts in zip(grids, pictures_to(way, board.size, dataset, seed)))
        bench = Bench(plan, seed, task(learned, judged, plan))
        chain = bench.chain(plan.num_layers)
        results[way] = of_the_chain(bench, chain, way)
        results[way]["by_share"] = {
            str(share): at_share(chain, Judge(board, judged.test(plan.num_test, share))) for share in HARDER
        }
        if way == ways[0]:
            results["one_longer"] = measured(bench.judge, OPPONENTS["one_longer"](bench), "one_longer")
            said["has_one_solution"] = num_solutions(board, bench.judge.problems) == 1
        said |= bench.judge.said
    return results, said


def task(learned: Source, judged: Source, plan: Plan) -> Task:
    """New puzzles of the one, judged by those of the other."""
    test = judged.test(plan.num_test, plan.share)
    return on_board(learned.board, plan, lambda count, generator: learned.problems(count, plan.share, generator), test)
