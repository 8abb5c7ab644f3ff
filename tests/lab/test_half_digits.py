"""The hidden half of a digit: halves, the judge, and a small study."""

import functools

import pytest
import torch
from conftest import generator

from noprop_helpers import NoPropError
from noprop_helpers.lab import structured
from noprop_helpers.lab.half_digits import HalfJudge, drawn, drawn_from, halves, joined, reader, run_half_digits, to_nearest
from noprop_helpers.lab.structured import Training
from noprop_helpers.lab.structured_study import OPPONENTS
from noprop_helpers.lab.tasks import TaskPlan, judged_by_others

TINY = TaskPlan(num_layers=2, hidden_dim=8, steps=3, learning_rate=1e-2, batch_size=4, num_test=30)
READING = Training(steps=150, batch_size=32, learning_rate=1e-2)


@functools.lru_cache(maxsize=1)
def tiny_study(digits, seed=0):
    return run_half_digits(digits, seed, plan=TINY, reading=READING)


@functools.lru_cache(maxsize=1)
def some_reader(digits):
    return reader(halves(digits.train_images), digits.train_labels, READING)


def test_a_digit_is_cut_in_two():
    image = torch.arange(64.0).view(1, 1, 8, 8) / 63
    x, y, is_open = halves(image)
    assert torch.equal(x[0, :, 0], image.flatten()[:32]) and torch.equal(y[0], (image.flatten()[32:] >= 0.5).long())
    assert is_open.all() and is_open.shape == y.shape == (1, 32)
    image[..., 7, 7] = 0.2  # the last pixel is the label's, not what is seen
    assert halves(image).y[0, -1] == 0 and torch.equal(halves(image).x, x)


def test_large_digits_are_made_half_as_large_and_a_row_in_the_middle_is_left_out():
    image = torch.zeros(1, 1, 30, 28)
    image[..., 28:, :2] = 1  # a block of 2 x 2, the first pixel of the last row
    x, y, _ = halves(image)
    assert x.shape == (1, 7 * 14, 1) and y.shape == (1, 7 * 14)  # of 15 rows
    assert y[0].nonzero().flatten().tolist() == [6 * 14]
    image[..., 14:16, :] = 1  # row 8 of 15
    assert torch.equal(halves(image).x, x) and torch.equal(halves(image).y, y)


def test_lessons_are_drawn_from_the_halves_to_learn_from(digits):
    learned = halves(digits.train_images[:20])
    x, y, _ = drawn_from(learned)(200, generator())
    whole, known = joined(x, y), joined(learned.x, learned.y)
    assert (whole.unsqueeze(1) == known).all(2).any(1).all() and len(whole.unique(dim=0)) == 20


def test_pixels_are_drawn_as_a_guess_says():
    u_hat = torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.7, 0.3]]).repeat(2000, 1)
    white = drawn(u_hat, generator()).double().mean(0)
    assert white[:2].tolist() == [1, 0] and white[2].item() == pytest.approx(0.3, abs=0.05)


def test_the_nearest_half_differs_in_a_share_of_pixels():
    others = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 0]])
    assert to_nearest(torch.tensor([[1, 1, 0, 0], [0, 0, 0, 1], [1, 1, 1, 0]]), others).tolist() == [0.25, 0.25, 0.0]


def test_the_judge_knows_true_halves_from_others(digits):
    learned, test = halves(digits.train_images), halves(digits.test_images)
    judge = HalfJudge(test, some_reader(digits), learned.y, digits.test_labels)
    true, another = judge(test.y, "true"), judge(test.y.roll(1, 0))
    assert true["pixels"] == 1 and true["recognised"] > 0.85 > 0.6 > another["recognised"] and another["pixels"] < 0.9
    assert true["to_nearest"] < 0.15 and true["doubt"] < another["doubt"]
    assert judge.said["true"].double().mean().item() == true["recognised"] and list(judge.said) == ["true"]
    assert judge.of_state(structured.embedded(test.y, 2)) == true
    coins = judge(torch.randint(2, test.y.shape, generator=generator()))
    assert coins["to_nearest"] > 2 * true["to_nearest"]
    assert judge.of(learned)(learned.y)["recognised"] == 1  # there it goes by what the classifier sees in true digits
    assert judge.mean(torch.full((len(test.y),), 64.0)) == 2  # a pixel, of 32


def test_the_record_holds_what_was_asked_for(digits):
    results, said, shown = tiny_study(digits)
    assert set(results) == {"chain", "opponents", "true"} and set(results["opponents"]) == set(OPPONENTS)
    chain = results["chain"]
    assert set(chain) == {"quiet", "noisy", "top", "top_drawn", "repeated", "bound"} and chain["bound"] < 0
    assert 0 < chain["top"]["entropy"] < 0.7 and -1 < chain["top"]["log_likelihood"] < 0
    assert set(said) == {"quiet", "noisy", "top", "top_drawn", "true", *OPPONENTS}
    assert all(flags.dtype == torch.bool and flags.shape == (30,) for flags in said.values())
    assert set(shown) == {"upper", "true", "top", "top_drawn", "quiet", "noisy"}
    assert all(len(many) == 10 and {len(half) for half in many} == {32} for many in shown.values())
    test = halves(judged_by_others(digits).test_images)
    assert "".join(shown["true"]) == "".join(map(str, test.y[:10].flatten().tolist())) != "".join(shown["top"])
    assert [int(grey) for grey in "".join(shown["upper"])] == (9 * test.x[:10]).round().long().flatten().tolist()


def test_a_seed_says_the_same_again_and_the_judge_is_the_same_for_every_seed(digits):
    assert run_half_digits(digits, 0, plan=TINY, reading=READING)[0] == tiny_study(digits)[0]
    other, *_ = run_half_digits(digits, 1, plan=TINY, reading=READING)
    assert other["true"] == tiny_study(digits)[0]["true"] and other["chain"] != tiny_study(digits)[0]["chain"]
    with pytest.raises(NoPropError, match="on the CPU alone, got device cuda"):
        run_half_digits(digits, 0, "cuda")
