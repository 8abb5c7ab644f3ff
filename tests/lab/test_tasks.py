"""What all studies of structured labels have in common: the perceptron, the bench, and likelihoods against sums and lists."""

import dataclasses
import functools
import math

import numpy
import pytest
import torch
from conftest import generator

from noprop_helpers import NoPropError
from noprop_helpers.diffusion import ideal_denoiser
from noprop_helpers.lab import half_digits, records, strings, structured
from noprop_helpers.lab.experiments import EXPERIMENTS
from noprop_helpers.lab.recording import STUDIES, Recording, record
from noprop_helpers.lab.schema import problems
from noprop_helpers.lab.structured import Problems, Training
from noprop_helpers.lab.structured_study import OPPONENTS, Bench, Chain, Task
from noprop_helpers.lab.tasks import (
    Perceptron,
    TaskPlan,
    at_every_rate,
    chain_bound,
    chain_estimate,
    judged_by_more,
    judged_by_others,
    log_probability,
)
from noprop_helpers.schedules import cosine_alpha_bar, posterior_coefficients

WORDS = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1]])
P = torch.tensor([0.5, 0.3, 0.2])
TINY = TaskPlan(num_layers=2, hidden_dim=8, steps=3, learning_rate=5e-3, batch_size=4, num_test=30)


class Perfect:
    """The layer for a state of one level, by Bayes' rule over the words."""

    num_symbols = 2

    def __init__(self, level):
        self.level = level

    def __call__(self, x, z):
        return ideal_denoiser(z, self.level, structured.embedded(WORDS, 2), P.log()).log().unflatten(1, (3, 2))


def perfect(num_layers):
    alpha_bar = cosine_alpha_bar(num_layers)
    return Chain([Perfect(float(level)) for level in alpha_bar[1:]], posterior_coefficients(alpha_bar))


def test_a_perceptron_looks_at_every_coordinate_with_the_same_weights():
    torch.manual_seed(0)
    layer = Perceptron((3, 5, 2), 16, look_dim=4)
    x, z = torch.randn(7, 3, 5), torch.randn(7, 6)
    assert layer(x, z).shape == (7, 3, 2) and (layer.num_coordinates, layer.num_symbols) == (3, 2)
    assert torch.equal(layer.look(x)[:, 1], layer.look(x[:, 1]))
    assert sum(p.numel() for p in layer.look.parameters()) == 5 * 4 + 4
    assert not torch.allclose(layer(x, z), layer(x.flip(1), z))  # but it knows where each stands
    plain = Perceptron((3, 5, 2), 16)
    assert plain.think[0].in_features == 3 * 5 + 3 * 2


def test_a_product_of_marginals():
    y, u_hat = torch.tensor([[1, 0]]), torch.tensor([[0.25, 0.75, 0.5, 0.5]])
    assert log_probability(u_hat, y).item() == pytest.approx(math.log(0.75 * 0.5))
    assert log_probability(torch.tensor([[1.0, 0.0, 1.0, 0.0]]), y).isfinite().all()


def test_a_chain_of_perfect_layers_is_as_likely_to_say_a_word_as_it_is():
    y = WORDS.repeat(50, 1)
    x, exact = torch.zeros(len(y), 3, 0), P.log().repeat(50)
    chain = perfect(20)
    estimate = chain_estimate(chain, x, y, 40, generator())
    of_words = estimate.exp().unflatten(0, (50, 3)).mean(0)
    torch.testing.assert_close(of_words, P, atol=0.04, rtol=0)
    assert of_words.sum().item() == pytest.approx(1, abs=0.03)
    few, many = (chain_bound(perfect(n), x, y, generator()) for n in (5, 40))
    gap_of_few, gap_of_many = ((exact - bound).mean().item() for bound in (few, many))
    assert 0 < gap_of_many < 0.3 and gap_of_many < gap_of_few / 4
    top = log_probability(structured.guess(chain.layers[-1], x, torch.randn(len(y), 6, generator=generator())), y)
    assert top.mean() < estimate.mean() - 0.5  # as a product of marginals


def test_the_bound_of_one_layer_is_its_own_likelihood_less_what_the_start_misses():
    y, x = WORDS.repeat(400, 1), torch.zeros(1200, 3, 0)
    chain = perfect(1)
    said = log_probability(structured.guess(chain.layers[0], x, torch.randn(1200, 6, generator=generator())), y).mean()
    assert chain_bound(chain, x, y, generator(1)).mean().item() == pytest.approx(said.item(), abs=0.02)


def test_the_bench_trains_layers_of_the_task_the_same_for_the_same_seed():
    drawn = []

    def draw(count, draws):
        y = WORDS[torch.randint(3, (count,), generator=draws)]
        drawn.append(count)
        return Problems(torch.zeros(count, 3, 1), y, torch.ones(count, 3, dtype=torch.bool))

    class Judge:
        num_symbols = 2
        x, y = torch.zeros(9, 3, 1), WORDS.repeat(3, 1)

    plan = TaskPlan(num_layers=3, hidden_dim=8, steps=4, learning_rate=1e-2, batch_size=5)
    task = Task(draw, Judge(), lambda hidden_dim, more: Perceptron((3, 1 + more, 2), hidden_dim))
    one, same, other = (Bench(plan, seed, task) for seed in (0, 0, 1))
    chain = one.chain(3)
    assert drawn == [5] * 4 and len(chain.layers) == 3
    ends = one.walked(chain), same.walked(same.chain(3)), other.walked(other.chain(3))
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2]) and ends[0].shape == (9, 6)
    assert one.layers(1, 11)[0].think[0].out_features == 11
    assert one.layers(1, more_features=2)[0].think[0].in_features == 3 * (1 + 2) + 3 * 2


def test_everybody_is_trained_at_every_rate_by_draws_of_his_own(digits):
    task, seen = strings.task_of(judged_by_more(digits), TINY), []
    found = at_every_rate(TINY, 0, task, lambda items, what: seen.append((what, tuple(items))) or items, rates=(1e-3, 1e-2))
    assert seen == [("rates", (1e-3, 1e-2))] and set(found) == {"0.001", "0.01"}
    assert all(set(one) == {"quiet", "noisy", "top", *OPPONENTS} for one in found.values())
    alone = Bench(dataclasses.replace(TINY, learning_rate=1e-2), 0, task)
    assert found["0.01"]["one_wider"] == task.judge.of_state(OPPONENTS["one_wider"](alone))
    assert found["0.001"]["one_wider"] != found["0.01"]["one_wider"]


def test_who_chooses_is_judged_by_images_that_no_recording_is_judged_by(digits):
    others, more = judged_by_others(digits), judged_by_more(digits)
    known = {tuple(image.flatten().tolist()) for image in others.test_images}
    assert not known & {tuple(image.flatten().tolist()) for image in more.test_images}
    assert not known & {tuple(image.flatten().tolist()) for image in more.train_images}
    assert len(more.test_labels) == len(others.train_labels) // 4


@pytest.mark.parametrize("name", ["strings", "half_digits"])
def test_rates_are_recorded_with_what_they_were(name, monkeypatch, tmp_path, digits):
    full = {"strings": strings.run_strings_rates, "half_digits": half_digits.run_half_digits_rates}[name]
    small = {"strings": {"lengths": (1, 2)}, "half_digits": {"reading": Training(steps=5)}}[name]
    tiny = functools.partial(full, plan=TINY, rates=(1e-3, 1e-2), **small)
    monkeypatch.setitem(STUDIES, f"{name}_rates", STUDIES[f"{name}_rates"]._replace(run=lambda e, data, seed, *_: tiny(data, seed)))
    monkeypatch.setitem(EXPERIMENTS, f"{name}_rates", EXPERIMENTS[f"{name}_rates"]._replace(seeds=(0, 1), dataset="digits"))
    value = record(f"{name}_rates", Recording(tmp_path, commit="0" * 12))
    assert problems(records.read_json(tmp_path / f"{name}_rates.json")) == []
    assert value["run"]["rates"] == [0.001, 0.002, 0.005, 0.01] and set(value["summary"]["by_rate"]) == {"0.001", "0.01"}
    with pytest.raises(NoPropError, match="on the CPU alone, got device cuda"):
        full(digits, 0, "cuda")


@pytest.mark.parametrize("name", ["strings", "half_digits"])
def test_a_recording_of_it_passes_the_schema_and_says_how_layers_were_trained(name, monkeypatch, tmp_path):
    """With tiny layers and the bundled digits: what is written is read back, seeds and what each said included."""
    study = {"strings": strings.run_strings, "half_digits": half_digits.run_half_digits}[name]
    tiny = TaskPlan(num_layers=2, hidden_dim=8, steps=2, learning_rate=1e-2, batch_size=4, num_test=20)
    last = {"strings": 2, "half_digits": Training(steps=5)}[name]  # walks; of the classifier
    monkeypatch.setattr(study, "__defaults__", (*study.__defaults__[:2], tiny, last))
    monkeypatch.setitem(EXPERIMENTS, name, EXPERIMENTS[name]._replace(seeds=(0,), dataset="digits"))
    value = record(name, Recording(tmp_path, commit="0" * 12))  # whatever has been changed here
    assert problems(records.read_json(tmp_path / f"{name}.json")) == []
    settings = value["run"]["settings"]
    assert (settings["num_layers"], settings["hidden_dim"], settings["steps"]) == (20, 128, 2000)
    assert value["summary"]["opponents"].keys() == OPPONENTS.keys()
    said = numpy.load(tmp_path / f"{name}.npz")
    assert {"0/quiet", "0/one_longer"} <= set(said.files) - {"labels"} == set(said.files) and said["0/quiet"].shape == (20,)
