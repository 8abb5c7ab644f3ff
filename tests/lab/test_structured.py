"""Labels of several coordinates: what the layers see, learn and say."""

import itertools

import pytest
import torch
from conftest import generator
from torch import nn

from noprop_helpers.diffusion import ideal_denoiser
from noprop_helpers.lab import structured
from noprop_helpers.lab.structured import (
    Problems,
    Training,
    answers,
    coordinate_loss,
    denoised,
    embedded,
    guess,
    intervened,
    mean_guess,
    noise_like,
    noised_lessons,
    repeated,
    tied_layers,
    told,
    train_alone,
    train_apart,
    train_through,
    train_tied,
    walk,
)
from noprop_helpers.layerwise import LayerStack, fit_layers, fit_stack
from noprop_helpers.schedules import cosine_alpha_bar, posterior_coefficients

WORDS = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1]])  # three coordinates of two symbols
P = torch.tensor([0.34, 0.33, 0.33])
QUICK = Training(steps=150, batch_size=64)


class WordLayer(nn.Module):
    """A perceptron for three bits; x says nothing but what is told in its features."""

    num_symbols = 2

    def __init__(self, more_features=0):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(6 + 3 * more_features, 32), nn.ReLU(), nn.Linear(32, 6))

    def forward(self, x, z):
        return self.mlp(torch.cat([x.flatten(1), z], 1)).unflatten(1, (3, 2))


def draw(count, draws):
    y = WORDS[torch.multinomial(P, count, replacement=True, generator=draws)]
    return Problems(torch.zeros(count, 3, 0), y, torch.ones_like(y, dtype=torch.bool))


def built(count, more_features=0):
    torch.manual_seed(0)
    return [WordLayer(more_features) for _ in range(count)]


def tables(T):
    return posterior_coefficients(cosine_alpha_bar(T))


def share_of_words(said):
    return (said.unsqueeze(1) == WORDS).all(2).any(1).double().mean().item()


def test_a_label_is_embedded_symbol_by_symbol_and_read_back():
    y = torch.tensor([[2, 0], [1, 1]])
    u = embedded(y, 3)
    assert u.tolist() == [[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 1, 0]]
    assert torch.equal(answers(u, 3), y) and torch.equal(answers(0.1 * u + 0.3, 3), y)


def test_the_loss_is_the_mean_cross_entropy_of_the_coordinates():
    scores, y = torch.randn(4, 3, 5, generator=generator()), torch.randint(5, (4, 3), generator=generator())
    by_hand = [-sum(scores[i, m].log_softmax(0)[y[i, m]].item() for m in range(3)) / 3 for i in range(4)]
    assert coordinate_loss(scores, y).tolist() == pytest.approx(by_hand, rel=1e-5)


def test_the_best_guess_is_the_marginals():
    """Eq. (7.1), (7.2): of all guesses u_hat the loss is smallest at each coordinate's own distribution, though the bits hang
    together; and the state decides by its product with the embeddings alone."""
    u, log_p = embedded(WORDS, 2), P.log()
    z = torch.randn(1, 6, generator=generator())
    best = ideal_denoiser(z, 0.4, u, log_p)
    posterior = (log_p - (z - 0.4**0.5 * u).square().sum(1) / 1.2).softmax(0)
    torch.testing.assert_close(posterior, (log_p + 0.4**0.5 / 0.6 * u @ z[0]).softmax(0))
    marginals = torch.stack([posterior @ (WORDS == k).float() for k in (0, 1)], 1)  # [3, 2]
    torch.testing.assert_close(best, marginals.flatten()[None])

    def expected_loss(scores):
        return (posterior * coordinate_loss(scores.expand(3, -1, -1), WORDS)).sum()

    least = expected_loss(marginals.log())
    for _ in range(20):
        assert expected_loss(marginals.log() + 0.3 * torch.randn(3, 2)) > least


def test_a_guess_is_a_distribution_at_every_coordinate():
    u_hat = denoised(torch.randn(2, 4, 3, 5, generator=generator()))
    assert u_hat.shape == (2, 4, 15)
    torch.testing.assert_close(u_hat.unflatten(2, (3, 5)).sum(3), torch.ones(2, 4, 3))


# --- Training ---


def test_trained_layers_end_at_words_and_their_top_layer_does_not():
    """The example of the chapter, learned instead of given."""
    layers, T = built(10), 10
    losses = train_apart(layers, cosine_alpha_bar(T)[1:].float(), draw, QUICK, generator())
    assert losses.shape == (T,) and losses[0] < 0.3 < losses[-1]  # a clean state is copied; noise tells nothing
    x, y, _ = draw(1000, generator(1))
    noise = noise_like(y, 2, generator(2))
    with torch.no_grad():
        top = answers(denoised(layers[-1](x, noise)), 2)
        noisy = answers(walk(layers, tables(T), x, noise, 1.0, generator(3)), 2)
    assert share_of_words(top) < 0.3 and share_of_words(noisy) > 0.9


def test_no_layer_learns_anything_of_another():
    """Frozen, replaced, or absent: what the others are changes nothing in a layer."""

    def second(others):
        layers = built(2)
        with torch.no_grad():
            layers[0].mlp[0].weight.mul_(others)
        train_apart(layers, cosine_alpha_bar(2)[1:].float(), draw, Training(10), generator())
        return [p.detach().clone() for p in layers[1].parameters()]

    assert all(torch.equal(p, q) for p, q in zip(second(1.0), second(5.0)))


def test_a_stack_learns_as_its_layers_do_each_by_itself():
    """As chapter 3's loop trains them: every layer with an optimizer of its own, on the same states."""
    levels, stacked, plain = cosine_alpha_bar(3)[1:].float(), built(3), built(3)
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in plain]
    draws = generator()
    lessons = [draw(8, draws) for _ in range(4)]
    stack = LayerStack(stacked)
    one = torch.optim.SGD(stack.parameters(), lr=0.1)
    together = fit_stack(stack, one, noised_lessons(levels, 2, lessons, generator(1)), coordinate_loss)
    stack.copy_to(stacked)
    apart = fit_layers(plain, optimizers, noised_lessons(levels, 2, lessons, generator(1)), coordinate_loss)
    torch.testing.assert_close(together, apart)
    for a, b in zip(stacked, plain):
        torch.testing.assert_close(dict(a.named_parameters()), dict(b.named_parameters()))


def test_one_layer_alone_learns_what_it_learns_in_a_stack():
    level, (alone,), stacked = torch.tensor([0.5]), built(1), built(1)
    train_alone(alone, level, draw, Training(10), generator())
    train_apart(stacked, level, draw, Training(10), generator())
    torch.testing.assert_close(alone.mlp[0].weight, stacked[0].mlp[0].weight)


def test_large_layers_learn_what_small_ones_do(monkeypatch):
    """By the loop, in the place of the stack: for speed alone."""
    levels, stacked, looped = cosine_alpha_bar(3)[1:].float(), built(3), built(3)
    together = train_apart(stacked, levels, draw, Training(10), generator())
    monkeypatch.setattr(structured, "LARGE", 100)
    monkeypatch.setattr(structured, "LayerStack", None)
    apart = train_apart(looped, levels, draw, Training(10), generator())
    torch.testing.assert_close(together, apart)
    for a, b in zip(stacked, looped):
        torch.testing.assert_close(dict(a.named_parameters()), dict(b.named_parameters()))


def test_a_guess_about_many_is_that_about_each():
    (layer,), (x, y, _) = built(1), draw(600, generator())
    z = noise_like(y, 2, generator(1))
    torch.testing.assert_close(guess(layer, x, z), denoised(layer(x, z)))


def test_training_repeats_and_follows_its_generator():
    def weights(seed):
        layers = built(1)
        train_apart(layers, torch.tensor([0.5]), draw, Training(5), generator(seed))
        return layers[0].mlp[0].weight

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))


def test_one_layer_can_be_trained_for_all_levels():
    (layer,), levels = built(1, more_features=1), cosine_alpha_bar(10)[1:].float()
    before = layer.mlp[0].weight.detach().clone()
    train_tied(layer, levels, draw, Training(400, 64), generator())
    assert (layer.mlp[0].weight[:, :3] != before[:, :3]).any()  # it has seen the level
    x, y, _ = draw(500, generator(1))
    with torch.no_grad():
        z_0 = walk(tied_layers(layer, levels), tables(10), x, noise_like(y, 2, generator(2)), 1.0, generator(3))
    assert share_of_words(answers(z_0, 2)) > 0.8


def test_tied_layers_are_told_each_its_own_level():
    seen = []

    def layer(x, z):
        seen.append(x[:, :, -1].unique().tolist())
        return z.unflatten(1, (3, 2))

    levels = torch.tensor([0.9, 0.5, 0.25])
    for one in tied_layers(layer, levels):
        one(torch.zeros(2, 3, 4), torch.zeros(2, 6))
    assert seen == [[pytest.approx(level)] for level in levels.tolist()]
    assert told(torch.zeros(2, 3, 4), torch.tensor([0.1, 0.2])).shape == (2, 3, 5)


def test_back_propagation_reaches_every_layer_of_the_walk():
    layers = built(3)
    before = [layer.mlp[0].weight.detach().clone() for layer in layers]
    first = train_through(layers, tables(3), draw, Training(1), generator())
    assert all((layer.mlp[0].weight != old).any() for layer, old in zip(layers, before))
    assert train_through(layers, tables(3), draw, Training(100), generator()) < first


def test_the_loss_of_every_step_is_the_mean_of_what_each_layer_says():
    """The first step's loss by hand: from the same noise, layer after layer."""
    layers, (a, b, _), draws = built(3), tables(3), generator()
    x, y, _ = draw(Training(1).batch_size, draws)
    z, losses = noise_like(y, 2, draws), []
    with torch.no_grad():
        for t in (3, 2, 1):
            scores = layers[t - 1](x, z)
            losses.append(coordinate_loss(scores, y).mean().item())
            z = a[t - 1] * denoised(scores) + b[t - 1] * z
    every, last = (train_through(built(3), tables(3), draw, Training(1), generator(), way).item() for way in (True, False))
    assert every == pytest.approx(sum(losses) / 3, rel=1e-5) and last == pytest.approx(losses[-1], rel=1e-5)


def test_a_cut_gradient_leaves_the_loss_and_reaches_each_layer_from_what_it_says_alone():
    """The first update by hand: the states of the same walk, each layer trained on its own as if they were given."""
    layers, (a, b, _), draws = built(3), tables(3), generator()
    x, y, _ = draw(Training(1).batch_size, draws)
    z, expected = noise_like(y, 2, draws), {}
    for t in (3, 2, 1):
        scores = layers[t - 1](x, z)
        coordinate_loss(scores, y).mean().div(3).backward()
        expected[t], z = scores, (a[t - 1] * denoised(scores) + b[t - 1] * z).detach()
    whole, cut = built(3), built(3)
    losses = [
        train_through(one, tables(3), draw, Training(1), generator(), every_step=True, cut=one is cut).item()
        for one in (whole, cut)
    ]
    assert losses[0] == losses[1] == pytest.approx(sum(coordinate_loss(s, y).mean().item() for s in expected.values()) / 3)
    for layer, trained in zip(layers, cut):
        for p, q in zip(layer.parameters(), trained.parameters()):
            torch.testing.assert_close(q.grad, p.grad)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(whole[0].parameters(), cut[0].parameters()))  # nothing comes after it
    assert any((p.grad - q.grad).abs().max() > 1e-6 for p, q in zip(whole[2].parameters(), cut[2].parameters()))


# --- Walks ---


def test_a_walk_is_the_rule_of_the_posterior():
    """By hand: z_{t-1} = a u_hat + b z + noise_scale sqrt(c) eps."""
    layers, (a, b, c) = built(4), tables(4)
    x, z = torch.zeros(5, 3, 0), torch.randn(5, 6, generator=generator())
    draws, expected = generator(7), z
    with torch.no_grad():
        for t in range(4, 0, -1):
            eps = torch.randn(5, 6, generator=draws)
            expected = a[t - 1] * denoised(layers[t - 1](x, expected)) + b[t - 1] * expected + 0.5 * c[t - 1].sqrt() * eps
        torch.testing.assert_close(walk(layers, (a, b, c), x, z, 0.5, generator(7)), expected.float())


def test_an_intervention_changes_what_one_layer_and_those_after_it_find():
    layers, x, z = built(4), torch.zeros(5, 3, 0), torch.randn(5, 6, generator=generator())
    with torch.no_grad():
        plain = walk(layers, tables(4), x, z)
        for t in range(1, 5):
            torch.testing.assert_close(intervened(layers, tables(4), x, z, t, lambda state: state), plain)
            states = []
            walk(layers, tables(4), x, z, callback=lambda _, state, __: states.append(state))
            found = []
            intervened(layers, tables(4), x, z, t, lambda state: found.append(state) or state + 1)
            torch.testing.assert_close(found[0], [z, *states][4 - t])  # z_t, before layer t has seen it
        other = intervened(layers, tables(4), x, z, 4, lambda state: state + 1)
        torch.testing.assert_close(other, walk(layers, tables(4), x, z + 1))


def test_a_mean_guess_is_the_mean_and_repeating_starts_from_the_noise():
    layers, (x, y) = built(3), draw(4, generator())[:2]
    with torch.no_grad():
        draws = generator(1)
        each = [denoised(layer(x, noise_like(y, 2, draws))) for layer in layers]
        torch.testing.assert_close(mean_guess(layers, x, y, generator(1)), sum(each) / 3)
        z = noise_like(y, 2, generator(2))
        once = denoised(layers[0](x, z))
        torch.testing.assert_close(repeated(layers[0], 0.25, x, z, 1), once)
        torch.testing.assert_close(repeated(layers[0], 0.25, x, z, 2), denoised(layers[0](x, 0.5 * once)))


def test_words_are_all_that_is_counted_as_words():
    everything = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    assert share_of_words(everything) == 3 / 8
