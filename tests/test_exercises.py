"""Readers' answers are checked within their tolerance, what does not fit is said in one line, and every answer is computed."""

import itertools
import math
import re
from pathlib import Path

import nbformat
import pytest
import torch

from noprop_helpers.lab import exercises
from noprop_helpers.lab.answers import ANSWERS
from noprop_helpers.lab.exercises import check
from noprop_helpers.schedules import posterior_coefficients, snr

BOOK = Path(__file__).parent.parent / "book"


@pytest.fixture
def two_answers(monkeypatch):
    monkeypatch.setattr(exercises, "ANSWERS", {"9.1": (0.5, 0.01), "9.2": ([1.0, 2.0], 0.1)})


# --- The book's answers -----------------------------------------------------------------------------------------------


def first_step(optimizer, scale):
    """How far one step moves a parameter, at a gradient of 0.3 times ``scale``."""
    w = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (scale * 0.3 * w).backward()
    optimizer([w]).step()
    return -w.item()


def factors_of_the_first_step():
    plain, adam = (lambda w: torch.optim.SGD(w, lr=0.1)), (lambda w: torch.optim.Adam(w, lr=0.1, eps=1e-30))
    return [first_step(optimizer, 4) / first_step(optimizer, 1) for optimizer in (plain, adam)]


def noise_of_a_step():
    """Fresh variance, and what is kept of the old, of a step from 0.2 to 0.5."""
    _, b, c = posterior_coefficients(torch.tensor([1, 0.5, 0.2], dtype=torch.float64))
    return [c[1].item(), b[1].item() ** 2 * (1 - 0.2)]


def louder_at_inference():
    trained, fed = math.prod(i / 10 for i in range(2, 11)), 0.1
    return (snr(torch.tensor([fed]).double()) / snr(torch.tensor([trained]).double())).item()


def divergence_of_a_noisy_end():
    gamma = torch.linspace(-3, 6, 100_001, dtype=torch.float64)
    return torch.trapezoid((-gamma).exp() * gamma.sigmoid() / 2, gamma).item()


def one_walk_and_three():
    p, vote = (0.5, 0.3, 0.2), 0.0
    for walks in itertools.product(range(3), repeat=3):
        winner = max(walks, key=walks.count)  # the first of those that tie
        vote += p[winner] * math.prod(p[k] for k in walks)
    return [sum(q * q for q in p), vote]


def ten_groups_of_six(T=10, step=1.0):
    alone, apart = T * step, step / 6  # a group has one layer and splits the batch; nothing is sent for free links
    return alone / apart


# What solutions derive in prose, computed another way.
DERIVED = {
    "0.3": lambda: math.sqrt(0.3) ** 2 * 1 + math.sqrt(1 - 0.3) ** 2 * 1,
    "1.3": lambda: 0.5 * (0.1 - 0.1**2) + (1 - 0.5),
    "2.3": lambda: next(a for a in (i / 1000 for i in range(1, 1000)) if 9 * a / (1 - a) >= 1 - 1e-9),
    "3.3": factors_of_the_first_step,
    "4.3": noise_of_a_step,
    "5.3": louder_at_inference,
    "9.3": divergence_of_a_noisy_end,
    "10.3": one_walk_and_three,
    "13.4": ten_groups_of_six,
}


@pytest.mark.parametrize("exercise", DERIVED)
def test_a_derived_answer_is_what_its_formula_gives(exercise, capsys):
    answer = torch.tensor(DERIVED[exercise](), dtype=torch.float64)
    expected, tolerance = ANSWERS[exercise]
    assert torch.allclose(answer, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=max(tolerance, 1e-9))
    check(exercise, answer.round(decimals=9))
    assert capsys.readouterr().out == f"Exercise {exercise}: right\n"


def test_every_answer_is_checked_by_a_solution_or_derived_here():
    solved = set()
    for path in BOOK.glob("[0-9][0-9]-*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and cell.source.startswith("# @title Solution "):
                solved |= set(re.findall(r"check\(\s*\"(\d+\.\d+)\"", cell.source))
    assert solved | DERIVED.keys() == ANSWERS.keys() and not solved & DERIVED.keys()


# --- Readers' answers -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("two_answers")
@pytest.mark.parametrize(
    "exercise, answer, said",
    [
        ("9.1", 0.505, "Exercise 9.1: right"),
        ("9.1", torch.tensor(0.495), "Exercise 9.1: right"),
        ("9.1", 0.52, "Exercise 9.1: not yet"),
        ("9.1", float("nan"), "Exercise 9.1: not yet"),
        ("9.1", ..., "Exercise 9.1: put your answer in the place of the dots"),
        ("9.2", [1.05, 1.95], "Exercise 9.2: right"),
        ("9.2", [1.0, 7.0], "Exercise 9.2: not yet, 1 of 2 are right"),
    ],
)
def test_says_whether_an_answer_is_right(capsys, exercise, answer, said):
    check(exercise, answer)
    assert capsys.readouterr().out == said + "\n"


@pytest.mark.usefixtures("two_answers")
@pytest.mark.parametrize(
    "exercise, answer, complaint",
    [
        ("9.3", 1, "no exercise '9.3'"),
        ("9.1", [1, 2], "asks for one number, got 2 numbers"),
        ("9.2", torch.zeros(2, 3), "asks for 2 numbers, got 2 x 3 numbers"),
        ("9.1", "five", "a number or a list of numbers, got 'five'"),
        ("9.1", None, "a number or a list of numbers, got None"),
    ],
)
def test_refuses_what_is_no_answer(exercise, answer, complaint):
    with pytest.raises(ValueError, match=complaint):
        check(exercise, answer)
