"""What the layers are for: chains on 6 x 6 Sudoku against all that could take their place (chapters 7 and 15).

Written down before the first recording, after tries with one seed each of the chain alone: it was not known what the opponents
would do. A chain without noise solves several times as many puzzles as its top layer, at least nine of ten, and more than
every opponent of one layer, however long, wide or often it is asked, but for the iterative decoder, which does as well; noise
costs the chain a third or more of them; a state lost half-way costs most of what has been solved, and another puzzle's state
all of it; one layer trained for all levels, and back-propagation through all layers, do as well or better. More layers help as
far as they go, more hidden units do not, more rounds within a layer help its top layer most.
(Added later, each before its first recording: twice the training brings a few more puzzles, and half of it costs a few;
back-propagation that hears a loss at every step does better than by the loss at its end; the gradient that crosses its steps is
worth little: without it the layers solve within five in a hundred of what they solve with it, at either rate, and at least ten in
a hundred fewer than the chain, so that noised labels make the difference. At 0.003 both solved more than at 0.01: at 0.001, it
was then expected, neither is above what it solves at 0.003 by more than two in a hundred, and the chain stays ahead. It was not
so, the first seed gained nine: at 0.0003 both are expected within four in a hundred of what they solve at 0.001. Most did best at
the largest of three rates, 0.01, on puzzles of the classes that they learn from. At 0.02 and 0.04 the chain gains no more than two
in a hundred, nobody who answers in one go solves more than a third, and the order of all stays as it is. Ten layers of 384 hidden
units solved fewer than such of 192, by two in a hundred: it is expected to be the rate's doing, which was chosen with 48. Then, at
0.003, one seed, 384 solve at least as many as 192, and at least as many as 192 do at 0.01, while 48 solve one to six in a hundred
fewer than at 0.01. It was so, and 48 lost twelve. (512 at 0.01, expected to lose one to five more, were not run.) Of 512 at 0.003,
one seed each, as many are expected as of 384 within two in a hundred; of 1,024 one to five fewer, the rate again, as for 384 at
0.01: the best rate falls as a layer grows wider.

Layers of two rounds were all that had been asked once, and a top layer of three solves 37 in a hundred after a fiftieth of the
training. Is the chain owed to depth alone, which one layer could have? One layer of 5, 10 and 20 rounds, trained for as many rounds
in all as the chain, at the best of three rates for each, chosen on known classes: of puzzles with one solution it is expected to
solve more the deeper it is, above 80 in a hundred at best, or as many as the chain; of puzzles with several, under 5 however deep it
is, for it still answers part by part; so of all, fewer than two in three.

The layer that did best when it alone was asked 50 times was always in the middle. Each layer, asked so: expected are at least 80 in a
hundred for signal levels from 0.4 to 0.6, under 5 for the ten lowest layers, which have learned to copy, and for the ten uppermost no
more than five in a hundred above what they solve when asked once.

One layer of five rounds has nearly all of the chain's depth and next to none of its coherence. How many layers does coherence want?
Chains of 2, 5, 10 and 20 layers of five rounds, trained for as many rounds in all as the one layer and as the fifty, at the one
layer's rate: each is expected to solve as many puzzles with one solution as the one layer, within three in a hundred; of those with
several two layers 20 in a hundred or more, five 50, ten as many as the fifty, 79, or more, and twenty no more than ten do.)
"""

import dataclasses
import functools
from typing import Callable, NamedTuple, Sequence

import torch
from torch import Tensor, nn

from .. import NoPropError
from ..passes import Progress, seeded, silent
from ..schedules import cosine_alpha_bar, posterior_coefficients
from . import structured
from .structured import Layer, Problems, Training
from .sudoku import Board, BoardLayer, classes, shuffled, solutions, solved

BOARD = Board(2, 3)
HELD_OUT = 10  # of the 49 classes of grids
NOISE_SCALES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
DEPTHS = (1, 2, 5, 10, 20)
WIDTHS = (12, 24, 48, 96, 192)  # of ten layers
# Of ten layers, recorded apart: they take long. All but the first at a smaller rate: does the width cost puzzles, or the rate?
WIDE = {"sudoku_wide": (384,), "sudoku_widths": (48, 96, 192, 384), "sudoku_wider": (512,), "sudoku_widest": (1024,)}
ROUNDS = (1, 2, 3)  # of ten layers
STEPS = (500, 1000, 2000, 4000)  # of training, each of ten layers
FEW = (2, 5, 10, 20)  # layers of more rounds, which share out one training
RATES = (1e-3, 3e-3, 1e-2)
LARGER = (2e-2, 4e-2)  # recorded later, of those that did best at the largest


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the chains of a study are made and trained; opponents have the same updates, or the same parameters, in all."""

    num_layers: int = 50
    hidden_dim: int = 48
    rounds: int = 2  # messages that the cells exchange within a layer
    share: float = 0.5  # of the cells that is given, each cell by itself
    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 1e-2
    num_test: int = 2000

    @property
    def training(self) -> Training:
        """Steps, batch size and learning rate."""
        return Training(self.steps, self.batch_size, self.learning_rate)


# --- Puzzles ----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def split(board: Board = BOARD, held_out: int = HELD_OUT) -> tuple[Tensor, Tensor]:
    """All grids whose first row is in order, by class: those to learn from, and those of classes held out. [G, S, S] each."""
    members = classes(board)
    order = torch.randperm(len(members), generator=torch.Generator().manual_seed(0)).tolist()
    return tuple(torch.cat([members[i] for i in part]) for part in (order[held_out:], order[:held_out]))


def puzzles(board: Board, grids: Tensor, share: float, count: int, generator: torch.Generator) -> Problems:
    """Puzzles out of grids [G, S, S], moved by a random symmetry: x [B, M, S], one-hot where a cell is given and else 0."""
    y = shuffled(board, grids[torch.randint(len(grids), (count,), generator=generator)], generator).flatten(1)  # [B, M]
    given = torch.rand(y.shape, generator=generator) < share
    return Problems(nn.functional.one_hot(y, board.size) * given.unsqueeze(2).float(), y, ~given)


def pictured(problems: Problems, pictures: Tensor, generator: torch.Generator) -> Problems:
    """The same puzzles, seen: a given cell shows a random one of its symbol's pictures [S, N, F], an open one zeros."""
    if len(pictures) != problems.x.shape[2]:
        raise NoPropError(f"expected pictures of {problems.x.shape[2]} symbols, got {len(pictures)}")
    which = torch.randint(pictures.shape[1], problems.y.shape, generator=generator)
    return problems._replace(x=pictures[problems.y, which] * ~problems.open.unsqueeze(2))


def is_valid(board: Board, problems: Problems, said: Tensor) -> Tensor:
    """Whether an answer keeps the rules and what is given, be it the grid that the puzzle was made of or not. -> [B] bool."""
    kept = ((said == problems.y) | problems.open).all(1)
    return kept & solved(board, said.unflatten(1, (board.size, board.size)))


def num_solutions(board: Board, problems: Problems, limit: int = 2) -> Tensor:
    """Of every puzzle, up to a limit: -> [B]."""
    grids = problems.y.masked_fill(problems.open, -1).unflatten(1, (board.size, board.size))
    return torch.tensor([len(solutions(board, grid, limit)) for grid in grids])


@torch.no_grad()
def filled_in(layer: Layer, board: Board, problems: Problems, generator: torch.Generator) -> Tensor:
    """One layer as an iterative decoder: the surest open cell becomes a given one, until none is open: -> answers [B, M]."""
    x, y, is_open = (part.clone() for part in problems)
    for _ in range(int(is_open.sum(1).max())):
        sure, symbol = layer(x, structured.noise_like(y, board.size, generator)).softmax(2).max(2)  # [B, M]
        rows = is_open.any(1).nonzero().squeeze(1)
        cell = sure.masked_fill(~is_open, -1.0).argmax(1)[rows]
        x[rows, cell] = nn.functional.one_hot(symbol[rows, cell], board.size).to(x)
        is_open[rows, cell] = False
    return x.argmax(2)


# --- Measuring --------------------------------------------------------------------------------------------------------


class Judge:
    """Counts what is solved of the test puzzles, which are the same for every seed."""

    def __init__(self, board: Board, problems: Problems):
        self.board, self.num_symbols = board, board.size
        self.problems, self.said = problems, {}
        self.x, self.y = problems.x, problems.y

    def __call__(self, said: Tensor, name: str | None = None) -> dict:
        """Answers [N, M] -> shares of puzzles solved and of open cells as in the grid; kept for paired tests where named."""
        valid = is_valid(self.board, self.problems, said)
        if name is not None:
            self.said[name] = valid
        return {"valid": _share(valid), "cells": _share((said == self.y)[self.problems.open])}

    def of(self, problems: Problems) -> "Judge":
        """The judge of other puzzles."""
        return Judge(self.board, problems)

    def of_state(self, z: Tensor, name: str | None = None) -> dict:
        """The same of states or guesses [N, M * K]."""
        return self(structured.answers(z, self.board.size), name)


class Chain(NamedTuple):
    """Layers and the tables of their schedule."""

    layers: Sequence[Layer]
    posterior: tuple[Tensor, Tensor, Tensor]


class Task(NamedTuple):
    """What a study is about.

    ``draw(n, generator)``: new problems to learn from. ``judge``: of the test problems, with ``x``, ``y``, ``said``,
    ``num_symbols``, ``of_state(z, name)`` -> numbers, and ``of(problems)``, the judge of others. ``layer(hidden_dim,
    more_features)``: an untrained layer, which sees so many features more than there are.
    """

    draw: structured.Draw
    judge: object
    layer: Callable[[int, int], nn.Module]


def on_board(board: Board, plan: Plan, draw: structured.Draw, test: Problems) -> Task:
    """Puzzles of a board: those to learn from, and those that all are judged by."""

    def layer(hidden_dim: int, more_features: int) -> BoardLayer:
        return BoardLayer(board, test.x.shape[2] + more_features, hidden_dim, plan.rounds)

    return Task(draw, Judge(board, test), layer)


def of_symbols(plan: Plan) -> Task:
    """6 x 6, given cells as symbols, judged by classes of grids that nobody learns from."""
    learned, held_out = split()
    test = puzzles(BOARD, held_out, plan.share, plan.num_test, torch.Generator().manual_seed(0))
    return on_board(BOARD, plan, lambda count, generator: puzzles(BOARD, learned, plan.share, count, generator), test)


class Bench:
    """One seed of a study: its problems, puzzles ``of_symbols`` unless a task is named, its draws, and what is trained of it.

    ``plan``: with ``num_layers``, ``hidden_dim``, ``training`` and ``num_test``.
    """

    def __init__(self, plan: Plan, seed: int, task: Task | None = None):
        self.plan, self.seed = plan, seed
        self.draw, self.judge, self.layer = task or of_symbols(plan)
        self.generator = torch.Generator().manual_seed(seed)

    def layers(self, count: int, hidden_dim: int | None = None, more_features: int = 0) -> list[nn.Module]:
        """So many untrained layers, the same for the same seed."""
        with seeded(self.seed):
            return [self.layer(hidden_dim or self.plan.hidden_dim, more_features) for _ in range(count)]

    def chain(self, num_layers: int) -> Chain:
        """A chain of this many layers, each trained alone."""
        alpha_bar, layers = cosine_alpha_bar(num_layers), self.layers(num_layers)
        structured.train_apart(layers, alpha_bar[1:].float(), self.draw, self.plan.training, self.generator)
        return Chain(layers, posterior_coefficients(alpha_bar))

    def known(self) -> object:
        """A judge of new problems of the kind that is learned from, the same for every seed: to choose by."""
        return self.judge.of(self.draw(self.plan.num_test, torch.Generator().manual_seed(1)))

    def noise(self) -> Tensor:
        """Where walks of the test problems start."""
        return structured.noise_like(self.judge.y, self.judge.num_symbols, self.generator)

    @torch.no_grad()
    def walked(self, chain: Chain, noise_scale: float = 0.0, callback: Callable | None = None) -> Tensor:
        """Where a chain's walks of the test problems end: -> z_0 [N, M * K]."""
        return structured.walk(*chain, self.judge.x, self.noise(), noise_scale, self.generator, callback)

    @torch.no_grad()
    def asked(self, layer: Layer) -> Tensor:
        """What one layer says to pure noise: -> u_hat [N, M * K]."""
        return structured.guess(layer, self.judge.x, self.noise())


# --- Studies ----------------------------------------------------------------------------------------------------------


def run_sudoku(seed: int, progress: Progress = silent, plan: Plan = Plan()):
    """A chain, its interventions, and opponents of one layer: -> (results, whether each test puzzle is solved, by who said
    it)."""
    bench = Bench(plan, seed)
    results = {"chain": of_the_chain(bench, bench.chain(plan.num_layers)), "opponents": _met(bench, OPPONENTS, progress)}
    bench.judge.said["has_one_solution"] = num_solutions(BOARD, bench.judge.problems) == 1
    return results, bench.judge.said


def run_sudoku_rivals(seed: int, progress: Progress = silent, plan: Plan = Plan()):
    """Opponents that take several steps too, on the puzzles of ``run_sudoku``: -> (results, who solved which)."""
    bench = Bench(plan, seed)
    return {"opponents": _met(bench, RIVALS, progress)}, bench.judge.said


def run_sudoku_cut(seed: int, progress: Progress = silent, plan: Plan = Plan()):
    """A loss at every step of the walk, with the gradient that crosses its steps and without: -> (results, who solved which)."""
    bench = Bench(plan, seed)
    return {"opponents": _met(bench, WHOLE_AND_CUT, progress)}, bench.judge.said


def run_sudoku_rates(
    seed: int,
    progress: Progress = silent,
    plan: Plan = Plan(),
    rates: Sequence[float] = RATES,
    names: Sequence[str] | None = None,
):
    """Learning rates for the chain and its opponents, all or the named ones, judged by puzzles of the classes that they learn
    from: -> (results, nothing more)."""
    ways = {"chain": lambda bench: bench.walked(bench.chain(plan.num_layers))} | OPPONENTS | RIVALS

    def measured(way: Callable, rate: float) -> dict:
        bench = Bench(dataclasses.replace(plan, learning_rate=rate), seed)
        bench.judge = bench.known()
        return bench.judge.of_state(way(bench))

    names = progress(list(names or ways), "ways")
    return {name: {str(rate): measured(ways[name], rate) for rate in rates} for name in names}, {}


def run_sudoku_deeper(seed: int, progress: Progress = silent, plan: Plan = Plan(), rates: Sequence[float] = RATES):
    """One layer of more rounds than the chain's have, asked once, trained for as many rounds in all as the chain is, at several
    learning rates: -> (results by puzzles of known classes and of those held out, who solved which of these)."""
    steps = _shared_out(plan)
    results, said = {}, {}
    for rate in progress(list(rates), "rates"):
        bench = Bench(dataclasses.replace(plan, learning_rate=rate), seed)
        layer = trained_top(bench, bench.draw, steps=steps)
        answered = bench.judge.of_state(bench.asked(layer), f"at_{rate}")
        said |= bench.judge.said
        bench.judge = bench.known()
        results[str(rate)] = {"known": bench.judge.of_state(bench.asked(layer)), "held_out": answered}
    return results, said


def run_sudoku_few(seed: int, progress: Progress = silent, plan: Plan = Plan(), counts: Sequence[int] = FEW):
    """Chains of fewer layers of more rounds than the chain's, each trained for as many rounds in all as the chain is: -> (results,
    who solved which)."""
    results, said = {}, {}
    for count in progress(list(counts), "chains"):
        bench = Bench(dataclasses.replace(plan, steps=_shared_out(plan) // count), seed)
        ways = _asked_and_walked(bench, count)
        results[str(count)] = {name: bench.judge.of_state(z, f"{count}_layers/{name}") for name, z in ways.items()}
        said |= bench.judge.said
    return results, said


def _shared_out(plan: Plan) -> int:
    """How many updates of one layer are as many rounds as all layers of the chain compute in training."""
    return plan.num_layers * plan.steps * Plan().rounds // plan.rounds


def _asked_and_walked(bench: Bench, num_layers: int) -> dict[str, Tensor]:
    chain = bench.chain(num_layers)
    return {"top": bench.asked(chain.layers[-1]), "quiet": bench.walked(chain), "noisy": bench.walked(chain, 1.0)}


def run_sudoku_again(seed: int, progress: Progress = silent, plan: Plan = Plan()):
    """Each layer of a chain, asked once and as often as there are layers about its own answer, from layer 1: -> (results, nothing
    more)."""
    bench = Bench(plan, seed)
    chain, T = bench.chain(plan.num_layers), plan.num_layers
    alpha_bar = cosine_alpha_bar(T).tolist()

    @torch.no_grad()
    def asked(t: int, times: int) -> dict:
        said = structured.repeated(chain.layers[t - 1], alpha_bar[t], bench.judge.x, bench.noise(), times)
        return bench.judge.of_state(said)

    layers = progress(range(1, T + 1), "layers")
    return {"by_layer": [{"once": asked(t, 1), "again": asked(t, T)} for t in layers]}, {}


def _met(bench: Bench, opponents: dict[str, Callable], progress: Progress) -> dict:
    names = progress(list(opponents), "opponents")
    return {name: bench.judge.of_state(opponents[name](bench), name) for name in names}


def run_sudoku_sizes(
    seed: int,
    progress: Progress = silent,
    plan: Plan = Plan(),
    sizes: dict[str, Sequence[int]] = {"by_depth": DEPTHS, "by_width": WIDTHS, "by_rounds": ROUNDS, "by_steps": STEPS},
):
    """Chains of other depths; of ten layers of other widths, other rounds, and trained for shorter or longer: -> (results,
    nothing more)."""
    changes = {
        "by_depth": lambda n: {"num_layers": n},
        "by_width": lambda n: {"num_layers": 10, "hidden_dim": n},
        "by_rounds": lambda n: {"num_layers": 10, "rounds": n},
        "by_steps": lambda n: {"num_layers": 10, "steps": n},
    }

    @functools.cache  # the plan's own ten layers are among the widths, the rounds and the steps
    def measured(plan: Plan) -> dict:
        bench = Bench(plan, seed)
        return {name: bench.judge.of_state(z) for name, z in _asked_and_walked(bench, plan.num_layers).items()}

    return {
        kind: {str(n): measured(dataclasses.replace(plan, **changes[kind](n))) for n in progress(values, kind)}
        for kind, values in sizes.items()
    }, {}


def of_the_chain(bench: Bench, chain: Chain) -> dict:
    """What a chain solves, and what is left of it when it is cut, disturbed, or asked in another way."""
    judge, T = bench.judge, len(chain.layers)
    by_layer = []
    quiet = bench.walked(chain, callback=lambda t, z, u_hat: by_layer.insert(0, judge.of_state(u_hat)))
    return {
        "quiet": judge.of_state(quiet, "quiet"),
        "noisy": judge.of_state(bench.walked(chain, 1.0), "noisy"),
        "top": judge.of_state(bench.asked(chain.layers[-1]), "top"),
        "mean_of_layers": judge.of_state(_mean_guess(bench, chain.layers), "mean_of_layers"),
        "repeated": best_repeated(bench, chain),
        "by_noise_scale": {str(scale): judge.of_state(bench.walked(chain, scale)) for scale in NOISE_SCALES},
        "by_layer": by_layer,
        "by_share": {str(share): _by_share(bench, chain, share) for share in SHARES},
        "state_lost": [judge.of_state(_disturbed(bench, chain, t, torch.randn_like)) for t in range(1, T + 1)],
        "state_of_another": [judge.of_state(_disturbed(bench, chain, t, _next_ones)) for t in range(1, T + 1)],
    }


def _next_ones(z: Tensor) -> Tensor:
    return z.roll(1, 0)


@torch.no_grad()
def _disturbed(bench: Bench, chain: Chain, t: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    with seeded(bench.seed):  # randn_like draws from torch's global state
        return structured.intervened(*chain, bench.judge.x, bench.noise(), t, change)


@torch.no_grad()
def _by_share(bench: Bench, chain: Chain, share: float) -> dict:
    """The chain, trained at the plan's share, on puzzles that give another one."""
    fresh = torch.Generator().manual_seed(1)
    judge = Judge(BOARD, puzzles(BOARD, split()[1], share, bench.plan.num_test, fresh))
    noise = structured.noise_like(judge.y, BOARD.size, fresh)
    quiet = structured.walk(*chain, judge.x, noise)
    return {"quiet": judge.of_state(quiet), "top": judge.of_state(structured.guess(chain.layers[-1], judge.x, noise))}


@torch.no_grad()
def best_repeated(bench: Bench, chain: Chain, by: str = "valid") -> dict:
    """The layer of the chain that does best when it alone is asked T times about its own answer, chosen on new puzzles of
    the classes that training sees, ``by`` one of the judge's numbers."""
    T, alpha_bar = len(chain.layers), cosine_alpha_bar(len(chain.layers)).tolist()
    known = bench.judge.of(bench.draw(bench.plan.num_test // 2, bench.generator))

    def ended(t: int, judge: Judge) -> dict:
        noise = structured.noise_like(judge.y, judge.num_symbols, bench.generator)
        return judge.of_state(structured.repeated(chain.layers[t - 1], alpha_bar[t], judge.x, noise, T))

    best = max(range(1, T + 1), key=lambda t: ended(t, known)[by])
    return ended(best, bench.judge) | {"layer": best}


def _one_longer(bench: Bench) -> Tensor:
    return bench.asked(trained_top(bench, bench.draw, steps=bench.plan.num_layers * bench.plan.steps))


def _one_wider(bench: Bench) -> Tensor:
    return bench.asked(trained_top(bench, bench.draw, hidden_dim=as_many_parameters(bench)))


def trained_top(bench: Bench, draw: structured.Draw, hidden_dim: int | None = None, steps: int | None = None) -> Layer:
    """One layer that learns alone, from the states of the top layer: wider than the plan's, or longer."""
    (layer,) = bench.layers(1, hidden_dim)
    training = bench.plan.training._replace(steps=steps or bench.plan.steps)
    structured.train_alone(layer, _top_level(bench), draw, training, bench.generator)
    return layer


def _ensemble_of_tops(bench: Bench) -> Tensor:
    """Mean guess [N, M * K] of as many layers as the chain has, trained apart, all at its top level."""
    T = bench.plan.num_layers
    layers = bench.layers(T)
    structured.train_apart(layers, _top_level(bench).expand(T), bench.draw, bench.plan.training, bench.generator)
    return _mean_guess(bench, layers)


@torch.no_grad()
def _mean_guess(bench: Bench, layers: Sequence[Layer]) -> Tensor:
    return structured.mean_guess(layers, bench.judge.x, bench.judge.y, bench.generator)


def _tied(bench: Bench, hidden_dim: int | None = None, steps: int | None = None) -> Tensor:
    """One layer, told the level, in the place of all."""
    alpha_bar = cosine_alpha_bar(bench.plan.num_layers)
    (layer,), levels = bench.layers(1, hidden_dim, more_features=1), alpha_bar[1:].float()
    training = bench.plan.training._replace(steps=steps or bench.plan.steps)
    structured.train_tied(layer, levels, bench.draw, training, bench.generator)
    return bench.walked(Chain(structured.tied_layers(layer, levels), posterior_coefficients(alpha_bar)))


def _through_all(bench: Bench, every_step: bool = False, cut: bool = False) -> Tensor:
    """Where quiet walks end, z_0 [N, M * K], of layers trained by `structured.train_through`."""
    chain = Chain(bench.layers(bench.plan.num_layers), posterior_coefficients(cosine_alpha_bar(bench.plan.num_layers)))
    structured.train_through(*chain, bench.draw, bench.plan.training, bench.generator, every_step, cut)
    return bench.walked(chain)


def _iterative(bench: Bench) -> Tensor:
    """Answers, as z_0 [N, M * K], of one layer that fills in its surest cell and looks again; trained as long as a chain."""
    def any_share(count: int, generator: torch.Generator) -> Problems:  # from the plan's to all cells: what it will meet
        share = bench.plan.share + (1 - bench.plan.share) * float(torch.rand((), generator=generator))
        return puzzles(BOARD, split()[0], share, count, generator)

    layer = trained_top(bench, any_share, steps=bench.plan.num_layers * bench.plan.steps)
    return structured.embedded(filled_in(layer, BOARD, bench.judge.problems, bench.generator), BOARD.size)


# Name -> what it answers, trained with as many updates or as many parameters as the chain's layers have together.
OPPONENTS = {"one_longer": _one_longer, "one_wider": _one_wider, "ensemble_of_tops": _ensemble_of_tops}
RIVALS = {
    "tied": lambda bench: _tied(bench, steps=bench.plan.num_layers * bench.plan.steps),
    "tied_wider": lambda bench: _tied(bench, hidden_dim=as_many_parameters(bench)),
    "through_all": _through_all,
    "through_all_heard_at_every_step": lambda bench: _through_all(bench, every_step=True),
    "iterative_decoder": _iterative,
}
AT_THE_LARGEST = ("chain", *OPPONENTS, "tied")  # of three rates these did best at the largest (and the decoder, which solves all)
WHOLE_AND_CUT = {
    "whole": lambda bench: _through_all(bench, every_step=True),
    "cut": lambda bench: _through_all(bench, every_step=True, cut=True),
}


def _top_level(bench: Bench) -> Tensor:
    """The signal level of the top layer's states, [1]."""
    return cosine_alpha_bar(bench.plan.num_layers)[-1:].float()


def as_many_parameters(bench: Bench) -> int:
    """Hidden units of one layer with at least as many parameters as all of a chain's together."""
    wanted, hidden_dim = bench.plan.num_layers * structured.size(bench.layers(1)[0]), bench.plan.hidden_dim
    while structured.size(bench.layers(1, hidden_dim)[0]) < wanted:
        hidden_dim += 1
    return hidden_dim


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()
