"""Anybody's NoProp against the book's equations: ``python -m noprop_helpers.lab.conformance ADAPTER.py``.

An adapter is a Python file with a function for each group of vectors that is to be checked, of the group's name; the inputs'
names are its arguments. It gets plain numbers and lists of them, and returns such, or arrays and tensors that have
``tolist()``. What it lacks is "not checked". Where answers are wrong, they are compared with what every known mistake would
have answered to all the group's vectors, and a mistake that fits is named. Exit code 0: all that is checked passes; 1:
something fails; 2: the adapter can't be used, and one line says why. The standard library is enough for all of it.
"""

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Callable, NamedTuple

from .. import NoPropError
from .conformance_formulas import GROUPS
from .conformance_mistakes import MISTAKES
from .conformance_vectors import FILE, answer, leaves

__all__ = ["Verdict", "read_vectors", "examine", "check"]

USAGE = "usage: python -m noprop_helpers.lab.conformance ADAPTER.py"


class Raised(NamedTuple):
    """An answer that did not come: the exception in words."""

    message: str


class Verdict(NamedTuple):
    """How a group went: how many answers are right, of how many; if not all, the mistakes that explain them all, or none."""

    group: str
    right: int
    asked: int
    mistakes: list[str]
    example: str  # the first wrong answer in words, or ""


def read_vectors(path: Path = FILE) -> dict[str, list[dict]]:
    """Vectors by group, in the file's order."""
    grouped = {}
    for vector in json.loads(path.read_text(encoding="utf-8"))["vectors"]:
        grouped.setdefault(vector["group"], []).append(vector)
    return grouped


def load_adapter(path: str) -> dict[str, Callable]:
    """The functions of an adapter: group -> function. Raises NoPropError where there is none, or the file can't be run."""
    if not Path(path).is_file():
        raise NoPropError(f"{path} is not a file; expected a Python file with functions such as q_sample")
    sys.path.insert(0, str(Path(path).resolve().parent))  # as python does, so that it can import what lies beside it
    try:
        names = runpy.run_path(path)
    except (Exception, SystemExit) as error:
        raise NoPropError(f"{path} can't be run: {_said(error)}") from error
    finally:
        sys.path.pop(0)
    found = {group: names[group] for group in GROUPS if group in names}
    for group, function in found.items():
        if not callable(function):
            raise NoPropError(f"{path}: {group} must be a function, got {type(function).__name__}")
    if not found:
        raise NoPropError(f"{path} has none of the functions that can be checked: {', '.join(GROUPS)}")
    return found


def examine(group: str, function: Callable, vectors: list[dict]) -> Verdict:
    """Ask a function all vectors of its group. Raises NoPropError where it answers none of them, or no numbers."""
    answers = [_ask(group, function, vector["inputs"]) for vector in vectors]
    if all(isinstance(given, Raised) for given in answers):
        raise NoPropError(f"{group} answers nothing, its first vector raises {answers[0].message}")
    wrong = [i for i, vector in enumerate(vectors) if not agrees(answers[i], vector["expected"], vector["tolerance"])]
    if not wrong:
        return Verdict(group, len(vectors), len(vectors), [], "")
    fitting = [name for name, mistake in MISTAKES[group].items() if explains(mistake, vectors, answers, wrong)]
    example = _differs(vectors[wrong[0]], answers[wrong[0]])
    return Verdict(group, len(vectors) - len(wrong), len(vectors), fitting, example)


def agrees(given: list | Raised, expected, tolerance: float) -> bool:
    """Whether an answer, as its numbers in a row, is the expected one.

    >>> agrees([0.5, 1.0], [[0.5], [1.0]], tolerance=1e-6), agrees([0.5], [0.5, 1.0], tolerance=1e-6)
    (True, False)
    """
    wanted = leaves(expected)
    if isinstance(given, Raised) or len(given) != len(wanted):
        return False
    return all(abs(a - b) <= tolerance * max(1, abs(b)) for a, b in zip(given, wanted))


def explains(mistake: Callable, vectors: list[dict], answers: list[list | Raised], wrong: list[int]) -> bool:
    """Whether an implementation with this mistake would have given all these answers, right ones and wrong ones.

    Where it has no answer itself, as after dividing by 0, any will do, but for one of the wrong ones it must have one.
    """
    expected = [_mistaken(mistake, vector["inputs"]) for vector in vectors]
    fits = (
        there is None or agrees(given, there, vector["tolerance"]) for given, there, vector in zip(answers, expected, vectors)
    )
    return any(expected[i] is not None for i in wrong) and all(fits)


def line(verdict: Verdict) -> str:
    """A verdict in one line, and under it the mistake by name, or the first wrong answer."""
    if verdict.right == verdict.asked:
        return f"{verdict.group:22} passes, {verdict.asked} of {verdict.asked}"
    why = verdict.mistakes or [f"no mistake that we know; {verdict.example}"]
    return f"{verdict.group:22} FAILS, {verdict.right} of {verdict.asked} right\n    " + "\n    or ".join(why)


def check(path: str) -> int:
    """Check an adapter, a line for every group: -> 0 if nothing fails, else 1. Raises NoPropError on a bad adapter."""
    functions, verdicts = load_adapter(path), []
    for group, vectors in read_vectors().items():
        if group in functions:
            verdicts.append(examine(group, functions[group], vectors))
            print(line(verdicts[-1]))
        else:
            print(f"{group:22} not checked, the adapter has no function of this name")
    failed = [verdict.group for verdict in verdicts if verdict.right < verdict.asked]
    print(f"groups: {len(verdicts) - len(failed)} pass, {len(failed)} fail, {len(GROUPS) - len(verdicts)} not checked")
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    """Run the command: -> exit code 0, 1 or 2."""
    try:
        if len(arguments) != 1 or arguments[0].startswith("-"):
            raise NoPropError(USAGE)
        code = check(arguments[0])
        sys.stdout.flush()
        return code
    except NoPropError as error:
        print(f"conformance: {error}", file=sys.stderr)
    except OSError as error:  # a full disk, or a pipe that nobody reads: what is still to be written goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"conformance: cannot write the verdicts: {error.strerror}", file=sys.stderr)
    return 2


def _ask(group: str, function: Callable, inputs: dict) -> list[float] | Raised:
    """The numbers of an answer in a row."""
    try:
        value = function(**json.loads(json.dumps(inputs)))  # its own copy, which it may change
    except (Exception, SystemExit) as error:  # an adapter that leaves has not answered
        return Raised(_said(error))
    numbers = leaves(_plain(value))
    if not all(isinstance(number, int | float) for number in numbers):
        raise NoPropError(f"{group} must return a number or lists of numbers, got {value!r:.80}")
    return numbers


def _plain(value):
    value = value.tolist() if hasattr(value, "tolist") else value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _mistaken(mistake: Callable, inputs: dict):
    """What a mistake answers, or None where it can't: it divides by 0, or takes a root or a logarithm of what has none."""
    try:
        return answer(mistake, inputs)
    except (ArithmeticError, IndexError):
        return None


def _differs(vector: dict, given: list[float] | Raised) -> str:
    """The first thing, in one line, in which an answer is not what its vector expects."""
    wanted = leaves(vector["expected"])
    if isinstance(given, Raised):
        return f"{vector['id']} raises {given.message}"
    if len(given) != len(wanted):
        return f"{vector['id']} expects {len(wanted)} numbers, got {len(given)}"
    pairs = zip(given, wanted)
    place, (got, expected) = next(
        (i, pair) for i, pair in enumerate(pairs) if not agrees([pair[0]], pair[1], vector["tolerance"])
    )
    return f"{vector['id']}, number {place}: expected {expected:.6g}, got {got:.6g}"


def _said(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' if text else ''}{text[0] if text else ''}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
