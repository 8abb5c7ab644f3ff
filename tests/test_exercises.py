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
from noprop_helpers.lab.sudoku import Board, BoardLayer
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


def cells_heard_of():
    """On how many other cells what live layers say of the first one depends: after one layer, and after a second."""
    torch.manual_seed(0)
    board = Board(height=2, width=2)
    upper, lower = (BoardLayer(board, num_features=4, hidden_dim=32, rounds=1) for _ in range(2))
    x, found = torch.rand(50, 16, 4), []
    z = torch.rand(50, 64, requires_grad=True)
    after_upper = upper(x, z)
    for said in (after_upper, lower(x, after_upper.flatten(1))):
        (slope,) = torch.autograd.grad(said[:, 0].square().sum(), z, retain_graph=True)
        found.append((slope.view(50, 16, 4).abs().sum((0, 2)) > 0)[1:].sum().item())
    return found


def largest_entry_at(delta, classes=5):
    """Of the softmax's derivatives where one class has 1 - delta, over many ways in which the others share the rest."""
    draws, largest = torch.Generator().manual_seed(0), 0.0
    for sharpness in (0.1, 1.0, 10.0, 100.0):
        rest = (sharpness * torch.randn(classes - 1, generator=draws, dtype=torch.float64)).softmax(0)
        scores = torch.cat([torch.tensor([1 - delta], dtype=torch.float64), delta * rest]).log()
        slopes = torch.autograd.functional.jacobian(lambda s: s.softmax(0), scores)
        largest = max(largest, slopes.abs().max().item())
    return largest


def races_in_a_row(rarer_than=0.01):
    """The least number of fair tosses of which fewer than so many of all outcomes are nothing but wins."""
    return next(n for n in range(1, 20) if sum(map(all, itertools.product((0, 1), repeat=n))) < rarer_than * 2**n)


def directions_left_open(images=600, features=1000, alpha_bar_t=0.5):
    """In which a covariance is zero: of features of so many images, and of ten classes' noisy labels."""
    draws = torch.Generator().manual_seed(0)
    G = torch.cov(torch.randn(images, features, generator=draws, dtype=torch.float64).T)
    D = torch.cov(torch.eye(10, dtype=torch.float64).repeat(60, 1).T)
    of_state = alpha_bar_t * D + (1 - alpha_bar_t) * torch.eye(10, dtype=torch.float64)
    return [len(M) - torch.linalg.matrix_rank(M, hermitian=True).item() for M in (G, of_state)]


def best_score(share):
    """The s that minimises the cross-entropy of scores s and 0, by Newton's method."""
    s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for _ in range(50):
        loss = -(share * torch.nn.functional.logsigmoid(s) + (1 - share) * torch.nn.functional.logsigmoid(-s))
        (slope,) = torch.autograd.grad(loss, s, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, s)
        s = (s - slope / curvature).detach().requires_grad_()
    return s.item()


# What solutions derive in prose, computed another way.
DERIVED = {
    "0.3": lambda: math.sqrt(0.3) ** 2 * 1 + math.sqrt(1 - 0.3) ** 2 * 1,
    "1.3": lambda: 0.5 * (0.1 - 0.1**2) + (1 - 0.5),
    "2.3": lambda: next(a for a in (i / 1000 for i in range(1, 1000)) if 9 * a / (1 - a) >= 1 - 1e-9),
    "3.3": factors_of_the_first_step,
    "4.3": noise_of_a_step,
    "5.3": louder_at_inference,
    "7.2": cells_heard_of,
    "9.3": divergence_of_a_noisy_end,
    "10.3": one_walk_and_three,
    "11.4": lambda: [largest_entry_at(delta) for delta in (0.1, 0.001)],
    "12.5": races_in_a_row,
    "13.4": ten_groups_of_six,
    "14.4": directions_left_open,
    "14.5": lambda: best_score(0.99) / best_score(0.9),
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
