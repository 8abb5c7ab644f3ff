"""Readers' answers are checked within their tolerance, and what does not fit is said in one line."""

import pytest
import torch

from noprop_helpers.lab import exercises
from noprop_helpers.lab.exercises import check


@pytest.fixture(autouse=True)
def two_answers(monkeypatch):
    monkeypatch.setattr(exercises, "ANSWERS", {"9.1": (0.5, 0.01), "9.2": ([1.0, 2.0], 0.1)})


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
