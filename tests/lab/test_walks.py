"""What the interactive figures show: walks that are those of the package, written so that they can be read again."""

import dataclasses
import functools

import pytest
import torch

from noprop_helpers.lab import walks
from noprop_helpers.lab.structured_study import BOARD, Plan, split
from noprop_helpers.lab.sudoku import solutions, solved
from noprop_helpers.lab.walks import LEVELS, Walk, interesting, line, run_digits, run_sudokus, word
from noprop_helpers.schedules import posterior_coefficients

SHORT = dataclasses.replace(walks.SETTINGS, epochs=8)


@pytest.fixture(scope="module")
def told(digits):
    return run_digits(digits, 0, settings=SHORT)


@functools.lru_cache(maxsize=1)
def sudokus():
    return run_sudokus(0, plan=Plan(num_layers=4, steps=250, num_test=800))


def numbers(lines):
    return torch.tensor([[float(number) for number in text.split()] for text in lines], dtype=torch.float64)


def test_numbers_and_pictures_as_text():
    assert line(torch.tensor([0.0, 0.9984, -1.2, -0.0001, 10.0])) == "0 0.998 -1.2 0 10"
    assert word(torch.tensor([[0.0, 0.5], [1.0, 2.0]]), 16) == "08gg"
    assert LEVELS.index(word(torch.tensor(24 / 35), 35)) == 24


def test_every_step_that_is_shown_is_the_posterior_step(told):
    """Without noise each state follows from the one before and from what the layer said: z_{t-1} = a u_hat + b z."""
    a, b, c = posterior_coefficients(walks.cosine_alpha_bar(walks.T))
    for shown in told[2]["walks"]:
        for name in ("quiet", "noisy_1", "noisy_2"):
            states, beliefs = numbers(shown[name]["states"]), numbers(shown[name]["beliefs"])
            assert states.shape == (11, 10) and beliefs.shape == (10, 10)
            torch.testing.assert_close(beliefs.sum(1), torch.ones(10, dtype=torch.float64), rtol=0, atol=6e-3)
            means = a.flip(0)[:, None] * beliefs + b.flip(0)[:, None] * states[:-1]
            off = (states[1:] - means) / c.flip(0)[:, None].sqrt()
            assert (off * c.flip(0)[:, None].sqrt()).abs().max() < 2e-3 if name == "quiet" else off.abs().max() < 5
        assert shown["quiet"]["states"][0] == shown["noisy_1"]["states"][0] != shown["noisy_2"]["states"][0]


def test_the_two_draws_of_the_noise_make_different_digits_of_the_blend(told):
    results, _, shown = told
    blend = shown["walks"][0]
    ends = [int(numbers(blend[f"noisy_{i}"]["states"])[-1].argmax()) for i in (1, 2)]
    assert (blend["why"], blend["label"], ends) == ("blend", -1, [4, 9])
    assert sum(results["blend"]["noisy"]) == pytest.approx(1) and max(results["blend"]["quiet"]) == 1.0
    assert min(results["blend"]["noisy"][k] for k in (4, 9)) > 0.1


def test_every_test_image_is_there_with_its_answer(told, digits):
    results, said, shown = told
    found = shown["predictions"]
    assert [one["label"] for one in found] == digits.test_labels.tolist()
    assert [one["says"] for one in found] == said["quiet"].tolist()
    right = sum(one["says"] == one["label"] for one in found)
    assert results["test_accuracy"]["quiet"] == pytest.approx(right / len(found)) and right / len(found) > 0.9
    for one, image in zip(found, digits.test_images):
        levels = torch.tensor([LEVELS.index(level) for level in one["image"]])
        assert torch.equal(levels, (image.flatten() * 16).round().long())  # the digits have 17 levels: nothing is lost
        assert int(numbers([one["belief"]]).argmax()) == one["says"]


def test_the_images_to_walk_are_what_they_are_called():
    labels = torch.tensor([4, 9, 3, 7, 0, 0])
    first, end = torch.tensor([4, 9, 5, 1, 0, 0]), torch.tensor([4, 9, 3, 1, 0, 0])
    hot = torch.nn.functional.one_hot(torch.cat([torch.stack([first, end]), torch.zeros(2, 1).long()], 1), 10)
    both = {name: Walk(hot, hot) for name in ("quiet", "noisy")}
    assert interesting(both, labels) == {"blend": 6, "mended": 2, "wrong": 3, "a 4": 0, "a 9": 1, "a 0": 4}
    assert len(interesting(both, labels, 4)) == 4


@pytest.mark.slow
def test_a_sudoku_walk_says_what_it_is_chosen_for():
    results, said, shown = sudokus()
    assert {"quiet", "noisy", "top"} == results.keys() == said.keys() and all(len(one) == 800 for one in said.values())
    assert [puzzle["why"] for puzzle in shown["puzzles"]] == ["one", "several", "unsolved"]
    for puzzle in shown["puzzles"]:
        given, solution = (torch.tensor([int(value) for value in puzzle[key]]) - 1 for key in ("puzzle", "solution"))
        assert torch.equal(given[given >= 0], solution[given >= 0]) and solved(BOARD, solution.view(1, 6, 6)).all()
        found = len(solutions(BOARD, given.view(6, 6)))
        assert found == {"one": 1, "several": 2}.get(puzzle["why"], found)
        for name in ("quiet", "noisy"):
            values = torch.tensor([[int(value) for value in text] for text in puzzle[name]["values"]]) - 1
            kept = ((values == given) | (given < 0)).all(1)
            ends = solved(BOARD, values.view(-1, 6, 6)) & kept
            assert values.shape == (4, 36) and len(puzzle[name]["sure"]) == 4
            assert ends[-1] == (puzzle["why"] == "one" or (puzzle["why"], name) == ("several", "quiet"))
            assert name == "noisy" or not ends[0]


@pytest.mark.slow
def test_shown_puzzles_are_of_classes_that_nobody_learned_from():
    held_out = {tuple(grid.flatten().tolist()) for grid in split()[1]}
    for puzzle in sudokus()[2]["puzzles"]:
        solution = torch.tensor([int(value) - 1 for value in puzzle["solution"]]).view(6, 6)
        renamed = solution[0].argsort()[solution]  # the first row in order
        assert tuple(renamed.flatten().tolist()) in held_out
