"""The reader's own answers to the book's exercises, checked: ``check("1.1", answer)`` in a cell under the exercise.

Answers are numbers, or lists of numbers. They stand in ``answers.py``, away from the page, each with the tolerance within which
it counts as right; some exercises state theirs. Solutions that compute an answer end with the same check.
"""

import torch

from .. import NoPropError
from .answers import ANSWERS


def check(exercise: str, answer) -> None:
    """Print whether ``answer`` is the one to ``exercise``, named by chapter and number as in "1.1".

    ``answer`` is a number, a list of numbers or a tensor; ``...`` stands for "not yet". Raises a ValueError where the exercise
    is not in the book, or the answer has another shape than the exercise asks for.

    >>> check("1.1", ...)
    Exercise 1.1: put your answer in the place of the dots
    """
    if exercise not in ANSWERS:
        raise NoPropError(f"no exercise {exercise!r} with an answer to check; there are {', '.join(ANSWERS)}")
    if answer is ...:
        print(f"Exercise {exercise}: put your answer in the place of the dots")
        return
    expected, tolerance = ANSWERS[exercise]
    given, wanted = _numbers(answer), _numbers(expected)
    if given.shape != wanted.shape:
        raise NoPropError(f"exercise {exercise} asks for {_shape(wanted)}, got {_shape(given)}")
    near = (given - wanted).abs() <= tolerance
    print(f"Exercise {exercise}: {'right' if near.all() else _hint(near)}")


def _numbers(answer) -> torch.Tensor:
    try:
        return torch.as_tensor(answer, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise NoPropError(f"an answer is a number or a list of numbers, got {answer!r}") from None


def _shape(value: torch.Tensor) -> str:
    return "one number" if value.ndim == 0 else f"{' x '.join(map(str, value.shape))} numbers"


def _hint(near: torch.Tensor) -> str:
    return "not yet" if near.ndim == 0 else f"not yet, {int(near.sum())} of {near.numel()} are right"
