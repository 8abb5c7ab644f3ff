"""Walks to look at: what every layer says and hands on, of a few digits (chapter 4) and of a few Sudokus (chapter 7).

What is shown is text, as short as it can be: ten numbers of three decimals in a line, a picture of 64 grey levels or a board
of 36 values in one word.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..blocks import DenoisingMLP, Standardize
from ..data import Dataset
from ..noprop import NoPropDT
from ..passes import Progress, seeded, silent
from ..schedules import cosine_alpha_bar
from ..training import Settings, fit
from .structured import Problems, answers
from .structured_study import BOARD, Bench, Plan, num_solutions

T = 10
SETTINGS = Settings(epochs=30, learning_rate=3e-3)
BLEND = (4, 9)  # 45 parts of the first test image of the one, 55 of the other: chapter 4's first exercise
SHARE = 0.45
NUM_BLENDS = 500
LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Walk(NamedTuple):
    """Some images on their way: ``states`` z_T ... z_0, [T + 1, N, K], and ``beliefs`` of the layers T ... 1, [T, N, K]."""

    states: Tensor
    beliefs: Tensor


# --- As text ----------------------------------------------------------------------------------------------------------


def line(values: Tensor) -> str:
    """Numbers of three decimals: [K] -> "0 0.998 -1.2".

    >>> line(torch.tensor([0.0, 0.9984, -1.2]))
    '0 0.998 -1.2'
    """
    return " ".join(f"{round(value, 3) + 0.0:.3f}".rstrip("0").rstrip(".") for value in values.tolist())


def word(numbers: Tensor, highest: int) -> str:
    """Numbers from 0 to 1 as one character each, 0 ... ``highest`` in the digits "0" ... "9", "a" ... "z": any shape.

    >>> word(torch.tensor([0.0, 0.5, 1.0]), highest=16)
    '08g'
    """
    return "".join(LEVELS[i] for i in (numbers.double() * highest).round().clamp(0, highest).long().flatten().tolist())


# --- Digits -----------------------------------------------------------------------------------------------------------


def pixel_chain(dataset: Dataset, seed: int, progress: Progress = silent, settings: Settings = SETTINGS) -> NoPropDT:
    """Chapter 4's chain: ten layers that look at the pixels themselves and share nothing that is trained."""
    K, num_pixels = dataset.num_classes, dataset.train_images[0].numel()
    encoder = nn.Sequential(nn.Flatten(), Standardize.fit(dataset.train_images.flatten(1)))
    with seeded(seed):
        layers = [DenoisingMLP(num_pixels, K, K, hidden_dim=64) for _ in range(T)]
    model = NoPropDT(encoder, layers, torch.eye(K), cosine_alpha_bar(T))
    fit(model, dataset.train_images, dataset.train_labels, settings, progress=progress)
    return model


def walked(model: NoPropDT, images: Tensor, seed: int, noise: bool) -> Walk:
    """Walk images from the noise of a seed; with and without noise on the way, they start alike."""
    start = torch.randn(len(images), len(model.W), generator=torch.Generator().manual_seed(seed))
    states, beliefs = [start], []

    def remember(t: int, z: Tensor, u_hat: Tensor) -> None:
        states.append(z)
        beliefs.append(u_hat)

    model.predict(images, torch.Generator().manual_seed(seed), remember, noise=noise)
    return Walk(torch.stack(states), torch.stack(beliefs))


def blend_of(dataset: Dataset) -> Tensor:
    """45 parts of a 4 laid over 55 parts of a 9: an image [1, 1, 8, 8] that nobody can read."""
    one, other = (dataset.test_images[dataset.test_labels == label][:1] for label in BLEND)
    return SHARE * one + (1 - SHARE) * other


def run_digits(dataset: Dataset, seed: int, device: str = "cpu", progress: Progress = silent, settings: Settings = SETTINGS):
    """Train, walk the test digits and the blend of a 4 and a 9: -> (results, classes said, what is shown).

    Shown are walks without noise and with two draws of it: the first that makes a 4 of the blend, the first that makes a 9.
    """
    model = pixel_chain(dataset, seed, progress, dataclasses.replace(settings, seed=seed))
    blend, labels = blend_of(dataset), dataset.test_labels
    images = torch.cat([dataset.test_images, blend])  # the blend comes last
    draws = [_first_seed(model, images, label) for label in BLEND]
    walks = {"quiet": walked(model, images, draws[0], False)}
    walks |= {f"noisy_{i + 1}": walked(model, images, draw, True) for i, draw in enumerate(draws)}
    said = {name: walk.states[-1, :-1].argmax(1) for name, walk in walks.items()}
    said["top"] = walks["quiet"].beliefs[0, :-1].argmax(1)
    results = {"test_accuracy": {name: _share(classes == labels) for name, classes in said.items()}}
    results["blend"] = {name: _blend_says(model, blend, seed, noise) for name, noise in (("quiet", False), ("noisy", True))}
    shown = {
        "walks": [_shown_walk(images, labels, walks, index, why) for why, index in interesting(walks, labels).items()],
        "predictions": [
            {"image": word(image, 16), "label": label, "says": says, "belief": line(belief)}
            for image, label, says, belief in zip(
                dataset.test_images, labels.tolist(), said["quiet"].tolist(), walks["quiet"].beliefs[-1]
            )
        ],
    }
    return results, said, shown


def interesting(walks: dict[str, Walk], labels: Tensor, count: int = 8) -> dict[str, int]:
    """Which images to walk, {why: index}: the blend; the first that all walks get right though the top layer does not; the
    first that all get wrong; and the first of some classes that all get right from the beginning.
    """
    first = torch.stack([walk.beliefs[0, :-1].argmax(1) == labels for walk in walks.values()])
    end = torch.stack([walk.states[-1, :-1].argmax(1) == labels for walk in walks.values()])
    found = {"blend": len(labels)}
    for why, which in (("mended", ~first.any(0) & end.all(0)), ("wrong", ~end.any(0))):
        found |= {why: int(index) for index in which.nonzero()[:1]}
    right = (first.all(0) & end.all(0)).nonzero().flatten().tolist()
    of_class = {int(labels[i]): i for i in reversed(right)}  # the first of every class
    known = {int(labels[i]) for i in found.values() if i < len(labels)}
    order = sorted(of_class, key=lambda label: (label not in BLEND, label))  # what was blended comes first
    ordinary = {f"a {label}": of_class[label] for label in order if label not in known}
    return found | dict(list(ordinary.items())[: count - len(found)])


def _first_seed(model: NoPropDT, images: Tensor, label: int, tries: int = 100) -> int:
    """The first seed whose noise makes the last image this class; else 0."""
    ends = (seed for seed in range(tries) if int(walked(model, images, seed, True).states[-1, -1].argmax()) == label)
    return next(ends, 0)


def _blend_says(model: NoPropDT, blend: Tensor, seed: int, noise: bool) -> list[float]:
    """How often walks of the blend from different noise end at each class: [K]."""
    classes = model.predict(blend.expand(NUM_BLENDS, -1, -1, -1), torch.Generator().manual_seed(seed), noise=noise)
    return (classes.bincount(minlength=len(model.W)).double() / NUM_BLENDS).tolist()


def _shown_walk(images: Tensor, labels: Tensor, walks: dict[str, Walk], index: int, why: str) -> dict:
    """One image and its walks, from the noisy end: the blend's label is -1."""
    shown = {
        name: {
            "states": [line(state) for state in walk.states[:, index]],
            "beliefs": [line(belief) for belief in walk.beliefs[:, index]],
        }
        for name, walk in walks.items()
    }
    label = int(labels[index]) if index < len(labels) else -1
    return {"why": why, "label": label, "image": word(images[index], 16), **shown}


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()


# --- Sudoku -----------------------------------------------------------------------------------------------------------


def run_sudokus(seed: int, progress: Progress = silent, plan: Plan = Plan()):
    """The chain of ``run_sudoku``, its walks with and without noise: -> (results, whether each test puzzle is solved, what is
    shown of three of them)."""
    bench = Bench(plan, seed)
    chain = bench.chain(plan.num_layers)
    guesses = {"quiet": [], "noisy": []}  # of the layers, the top one first: [N, 36 * 6] each

    def ended(name: str, noise_scale: float) -> dict:
        return bench.judge.of_state(bench.walked(chain, noise_scale, lambda t, z, u_hat: guesses[name].append(u_hat)), name)

    results = {"quiet": ended("quiet", 0.0), "noisy": ended("noisy", 1.0)}
    results["top"] = bench.judge.of_state(guesses["quiet"][0], "top")  # what the walk without noise begins with
    chosen = puzzles_to_show(bench, answers(guesses["quiet"][0], BOARD.size))
    shown = [_shown_puzzle(bench, guesses, index, why) for why, index in chosen.items()]
    return results, bench.judge.said, {"puzzles": shown}


def puzzles_to_show(bench: Bench, top_says: Tensor) -> dict[str, int]:
    """{why: index}: a puzzle of one solution that the chain solves with and without noise, though its top layer does not; one
    of several solutions that it solves only without; one that it solves neither way. Of all such puzzles, the one for which
    the top layer gets the fewest cells right.
    """
    quiet, noisy, top = (bench.judge.said[name] for name in ("quiet", "noisy", "top"))
    order = (top_says == bench.judge.y).sum(1).argsort(stable=True).tolist()
    wanted = {"one": quiet & noisy & ~top, "several": quiet & ~noisy & ~top, "unsolved": ~quiet & ~noisy & ~top}
    found = {}
    for why, which in wanted.items():
        for index in filter(which.tolist().__getitem__, order):
            several = num_solutions(BOARD, Problems(*(part[index : index + 1] for part in bench.judge.problems))) > 1
            if why == "unsolved" or bool(several) == (why == "several"):
                found[why] = index
                break
    return found


def _shown_puzzle(bench: Bench, guesses: dict[str, list[Tensor]], index: int, why: str) -> dict:
    """One puzzle, "0" where a cell is open, and what every layer says of it, the top one first: values in one word of 36, and
    in another how sure of each it is, in steps of 1/35."""
    S, problems = BOARD.size, bench.judge.problems
    puzzle = (problems.y[index] + 1) * ~problems.open[index]
    shown = {"why": why, "puzzle": word(puzzle / 35, 35), "solution": word((problems.y[index] + 1) / 35, 35)}
    for name, said in guesses.items():
        tables = [u_hat[index].unflatten(0, (-1, S)) for u_hat in said]  # [36, 6] each
        values = [word((table.argmax(1) + 1) / 35, 35) for table in tables]
        shown[name] = {"values": values, "sure": [word(table.max(1).values, 35) for table in tables]}
    return shown
