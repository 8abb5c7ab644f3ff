"""Strings under a checksum: the code, what is shown, what is possible, and a small study of them."""

import functools
import itertools
import math

import pytest
import torch
from conftest import generator

from noprop_helpers import NoPropError
from noprop_helpers.lab import structured
from noprop_helpers.lab.experiments import EXPERIMENTS
from noprop_helpers.lab.recording import STUDIES, Recording
from noprop_helpers.lab.strings import (
    LENGTH,
    MODULUS,
    StringJudge,
    are_words,
    broken_tie,
    by_shown,
    completions,
    exact,
    is_completed,
    perfect_top,
    pictures_of,
    run_strings,
    run_strings_rates,
    run_strings_rates_larger,
    seen,
    strings,
    words,
)
from noprop_helpers.lab.structured_study import NOISE_SCALES, OPPONENTS
from noprop_helpers.lab.tasks import TaskPlan

TINY = TaskPlan(num_layers=2, hidden_dim=8, steps=3, learning_rate=1e-2, batch_size=4, num_test=30)


@functools.lru_cache(maxsize=1)
def tiny_study(digits, seed=0):
    return run_strings(digits, seed, plan=TINY, walks=3)


def test_the_words_are_all_that_keep_the_checks_and_any_two_digits_tell_which():
    all_strings = torch.cartesian_prod(*[torch.arange(MODULUS)] * 4)  # of four digits: the checks speak of three neighbours
    kept = ((all_strings[:, :-2] - 2 * all_strings[:, 1:-1] + all_strings[:, 2:]) % MODULUS == 0).all(1)
    assert {tuple(word[:4].tolist()) for word in words()} == {tuple(word.tolist()) for word in all_strings[kept]}
    assert words().shape == (49, LENGTH) and are_words(words()).all()
    for i, j in itertools.combinations(range(LENGTH), 2):
        assert len(words()[:, [i, j]].unique(dim=0)) == 49
    for i in range(LENGTH):  # a checksum notices any one wrong digit
        wrong = words().clone()
        wrong[:, i] = (wrong[:, i] + 1) % MODULUS
        assert not are_words(wrong).any()


def test_a_string_shows_no_digit_one_or_two_and_nothing_of_the_others():
    x, y, is_open = strings(900, generator())
    assert are_words(y).all() and len(y.unique(dim=0)) == 49
    shown = ~is_open
    assert torch.equal(x[shown].argmax(1), y[shown]) and (x[shown].sum(1) == 1).all() and (x[is_open] == 0).all()
    counts = shown.sum(1).bincount()
    assert counts.tolist() == pytest.approx([300, 300, 300], abs=75)
    assert (shown.sum(0) > 75).all()  # every place
    assert not torch.equal(y, strings(900, generator(1)).y)


def test_pictures_to_learn_from_and_to_test_with_are_different_ones_of_the_right_digits(digits):
    to_learn, to_test = pictures_of(digits)
    assert to_learn.shape[::2] == to_test.shape[::2] == (MODULUS, 64)
    assert torch.cdist(to_learn.flatten(0, 1), to_test.flatten(0, 1)).min() > 0.1
    of_threes = digits.test_images[digits.test_labels == 3].flatten(1)
    whole = digits.train_images.flatten(1)
    assert torch.cdist(to_test[3], (of_threes - whole.mean(0)) / whole.std(0).clamp_min(1e-6)).min(1).values.median() < 1
    few = digits._replace(train_labels=digits.train_labels.clamp(min=1))
    with pytest.raises(NoPropError, match="digits 0 to 6, training and test, got none of 0"):
        pictures_of(few)


def test_what_is_seen_are_the_same_strings_and_which_digits_are_hidden():
    pictures = torch.arange(1.0, 15).view(7, 2, 1)  # digit k has the pictures 2 k + 1 and 2 k + 2
    plain, x = strings(200, generator()), seen(200, pictures, generator()).x
    assert x.shape == (200, LENGTH, 2) and torch.equal(x[..., 1].bool(), plain.open)
    assert torch.equal(((x[..., 0] - 1) // 2)[~plain.open].long(), plain.y[~plain.open])


def test_what_is_possible_against_counting_it():
    problems = strings(40, generator())
    found = exact(problems, 20, generator(1))
    logs, products, right = [], [], []
    for y, is_open in zip(problems.y, problems.open):
        fits = [word for word in words() if all(word[i] == y[i] for i in range(LENGTH) if not is_open[i])]
        assert len(fits) == {0: 49, 1: 7, 2: 1}[int((~is_open).sum())]
        logs.append(-math.log(len(fits)))
        right.append(1 / len(fits))
        shares = [sum(word[i] == y[i] for word in fits) / len(fits) for i in range(LENGTH)]
        products.append(sum(math.log(share) for share in shares))
    assert completions(problems).sum(1).tolist() == [round(1 / share) for share in right]
    for name, values in (("log_likelihood", logs), ("best_product", products), ("right", right)):
        assert found[name]["all"] == pytest.approx(sum(values) / 40, abs=1e-5), name
    product = found["best_product"]
    assert (product["0"], product["1"]) == pytest.approx((-7 * math.log(7), -6 * math.log(7)))


def test_what_coherence_can_be_worth():
    """Eqs. (15.1) and (15.2): no product of answers part by part comes above the marginals' entropies, and what is missing to the
    joint is the total correlation, five digits' worth of these strings if one is shown or none, and nothing if two are."""
    found = exact(strings(300, generator()), 2, generator(1))
    worth = [found["log_likelihood"][shown] - found["best_product"][shown] for shown in "012"]
    assert worth == pytest.approx([5 * math.log(7), 5 * math.log(7), 0], abs=1e-5)

    p = torch.rand(len(words()), generator=generator(2), dtype=torch.float64)
    p /= p.sum()  # any other belief about the strings
    parts = structured.embedded(words(), MODULUS).double()  # [49, 7 * 7]
    q = (p @ parts).view(LENGTH, MODULUS)
    once, joint = (q * q.log()).sum(), (p * p.log()).sum()
    assert (p * (parts @ q.log().flatten())).sum() == pytest.approx(once.item())  # the marginals themselves reach it
    for seed in range(5):
        other = torch.rand(q.shape, generator=generator(seed), dtype=q.dtype).softmax(1)
        assert (p * (parts @ other.log().flatten())).sum() < once < joint


def test_perfect_layers_write_words_where_a_perfect_top_layer_alone_does_not():
    found = exact(strings(300, generator()), 20, generator(1))
    assert found["top"]["0"] < 0.05 and found["quiet"]["0"] > 0.9 and found["noisy"]["all"] > 0.99
    # With one digit shown the seven words differ in every other digit: whatever leads in one place leads in all.
    assert found["top"]["1"] == found["top"]["2"] == 1


def test_perfect_layers_without_noise_need_many_steps():
    few = exact(strings(300, generator()), 10, generator(1))
    assert few["quiet"]["0"] < 0.2 and few["noisy"]["0"] > 0.99


def test_the_judge_counts_words_that_agree_with_what_is_shown():
    problems = strings(60, generator())
    judge, said = StringJudge(problems), problems.y.clone()
    nothing = problems.open.all(1)
    said[nothing] = words()[0]  # another word is as good where nothing is shown
    said[~nothing] = (said[~nothing] + 1) % MODULUS  # also words, but not what is shown
    assert torch.equal(is_completed(problems, said), nothing)
    result = judge.of_state(structured.embedded(said, MODULUS), "mine")
    assert torch.equal(judge.said["mine"], nothing) and result["valid"] == pytest.approx(nothing.double().mean().item())
    assert result["by_shown"] == {"0": 1, "1": 0, "2": 0} and result["read"] == 0 and result["right"] < 0.2
    true = judge.of(problems).of_state(structured.embedded(problems.y, MODULUS))
    assert true["valid"] == true["right"] == true["read"] == 1
    assert by_shown(problems, nothing) == {"all": result["valid"], "0": 1, "1": 0, "2": 0}


def test_how_a_tie_is_broken_is_told_of_strings_with_one_digit_shown():
    problems = strings(300, generator())
    one, others = (~problems.open).sum(1) == 1, (~problems.open).sum(1) != 1
    right = structured.embedded(problems.y, MODULUS)
    blurred = 0.3 * right + 0.1  # 0.4 for one symbol and 0.1 for the others: it leads by 0.3
    blurred[others] = 1 / MODULUS
    again = right.roll(1, 0)
    found = broken_tie(problems, blurred, torch.where(torch.rand(300, 1, generator=generator()) < 0.5, right, again))
    assert found["completed"] == 1 and found["lead"] == pytest.approx(0.3)
    assert 0.3 < found["same"] < 0.7 and one.sum() > 80
    assert broken_tie(problems, again, again)["completed"] < 0.5 and broken_tie(problems, again, again)["same"] == 1


def test_a_perfect_top_layer_breaks_the_tie_by_its_noise_and_by_little():
    problems = strings(600, generator())
    found = broken_tie(problems, *(perfect_top(problems, 20, generator(seed)) for seed in (1, 2)))
    assert found["completed"] == 1 and found["same"] == pytest.approx(1 / 7, abs=0.1) and 0.001 < found["lead"] < 0.01


def test_the_rates_and_the_times_of_everybody(digits):
    results, said = run_strings_rates(digits, 0, plan=TINY, rates=(1e-2,), lengths=(1, 3))
    assert set(results) == {"by_rate", "by_length", "perfect"} and said == {}
    assert set(results["by_rate"]) == {"0.01"} and set(results["by_length"]) == {"1", "3"}
    assert results["by_length"]["1"] != results["by_length"]["3"]
    larger, said = run_strings_rates_larger(digits, 0, plan=TINY)
    assert set(larger) == {"by_rate"} and set(larger["by_rate"]) == {"0.02", "0.04"} and said == {}
    assert larger["by_rate"]["0.02"].keys() == results["by_rate"]["0.01"].keys()
    told = STUDIES["strings_rates_larger"].describe(EXPERIMENTS["strings_rates_larger"], None, Recording())
    assert told["rates"] == (0.02, 0.04) and told["settings"]["num_layers"] == 20 and "lengths" not in told


def test_the_record_holds_what_was_asked_for(digits):
    results, said = tiny_study(digits)
    chain = results["chain"]
    assert set(results) == {"chain", "opponents", "exact"} and set(results["opponents"]) == set(OPPONENTS)
    assert set(chain) == {"quiet", "noisy", "top", "repeated", "bound", "by_noise_scale", "likelihood"}
    assert set(chain["by_noise_scale"]) == {str(scale) for scale in NOISE_SCALES}
    assert set(chain["likelihood"]) == {"estimate", "bound", "top"}
    for one in (chain["top"], *results["opponents"].values()):
        assert set(one["log_likelihood"]) == {"all", "0", "1", "2"} and one["log_likelihood"]["all"] < 0
    assert set(said) == {"quiet", "noisy", "top", *OPPONENTS, "shown"}
    assert all(flags.dtype == torch.bool and flags.shape == (30,) for name, flags in said.items() if name != "shown")
    assert set(said["shown"].tolist()) == {0, 1, 2}


def test_a_seed_says_the_same_again_of_the_same_test_strings(digits):
    assert run_strings(digits, 0, plan=TINY, walks=3)[0] == tiny_study(digits)[0]
    other, said = run_strings(digits, 1, plan=TINY, walks=3)
    assert torch.equal(said["shown"], tiny_study(digits)[1]["shown"]) and other["chain"] != tiny_study(digits)[0]["chain"]
    with pytest.raises(NoPropError, match="on the CPU alone, got device cuda"):
        run_strings(digits, 0, "cuda")
