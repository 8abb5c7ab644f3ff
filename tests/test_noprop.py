import copy

import pytest
import torch
from torch import nn

from noprop_helpers.blocks import DenoisingMLP, Standardize
from noprop_helpers.data import load_dataset
from noprop_helpers.noprop import NoPropDT
from noprop_helpers.schedules import cosine_alpha_bar
from noprop_helpers.training import PRESETS, accuracy, fit

T, K = 4, 10


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def pixel_model(images, seed=0, train_encoder=False, **options):
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Flatten(), Standardize.fit(images.flatten(1)))
    layers = [DenoisingMLP(64, K, K, hidden_dim=32) for _ in range(T)]
    return NoPropDT(encoder, layers, torch.eye(K), cosine_alpha_bar(T), train_encoder=train_encoder, **options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_fit_learns_digits_and_is_reproducible(digits):
    models = [pixel_model(digits.train_images) for _ in range(2)]
    for model in models:
        fit(model, digits.train_images, digits.train_labels, epochs=15, learning_rate=5e-3, generator=generator())
    scores = [accuracy(model, digits.test_images, digits.test_labels, generator(1)) for model in models]
    assert scores[0] == scores[1] > 0.93
    for a, b in zip(models[0].parameters(), models[1].parameters()):
        assert torch.equal(a, b)


def test_untrained_model_guesses(digits):
    """The check that the test above can fail: without training the same pipeline scores near chance."""
    assert accuracy(pixel_model(digits.train_images), digits.test_images, digits.test_labels, generator()) < 0.35


@pytest.mark.parametrize("objective", ["cross_entropy", "squared_error"])
def test_loss_is_the_sum_of_the_layers_own_losses(digits, objective):
    model = pixel_model(digits.train_images, objective=objective)
    images, labels = digits.train_images[:32], digits.train_labels[:32]
    total = model.loss(images, labels, generator(3))
    features, u, draws = model.encoder(images), torch.eye(K)[labels], generator(3)
    by_hand = 0.0
    for t in range(T):
        alpha_bar, noise = model.alpha_bar[t + 1].float(), torch.randn(32, K, generator=draws)
        outputs = model.layers[t](features, alpha_bar.sqrt() * u + (1 - alpha_bar).sqrt() * noise)
        if objective == "cross_entropy":
            by_hand += nn.functional.cross_entropy(outputs, labels)
        else:
            by_hand += nn.functional.mse_loss(outputs, torch.eye(K)[labels])
    torch.testing.assert_close(total, by_hand)


def test_noised_states_have_each_layers_own_level(digits):
    """Eq. (7.1)."""
    model = pixel_model(digits.train_images)
    z = model.noised_states(torch.zeros(20_000, dtype=torch.int64), generator())
    assert z.shape == (T, 20_000, K)
    for t in range(1, T + 1):
        alpha_bar = model.alpha_bar[t].item()
        assert z[t - 1, :, 0].mean().item() == pytest.approx(alpha_bar**0.5, abs=5 * ((1 - alpha_bar) / 20_000) ** 0.5)
        assert z[t - 1, :, 1].var().item() == pytest.approx(1 - alpha_bar, rel=0.06)


def test_a_trained_encoder_is_trained_and_a_frozen_one_is_not(digits):
    images, labels = digits.train_images[:256], digits.train_labels[:256]
    for train_encoder in (True, False):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
        before = copy.deepcopy(encoder.state_dict())
        layers = [DenoisingMLP(16, K, K, hidden_dim=8) for _ in range(T)]
        model = NoPropDT(encoder, layers, torch.eye(K), cosine_alpha_bar(T), train_encoder=train_encoder)
        model.loss(images, labels, generator()).backward()
        assert all((p.grad is not None) == train_encoder for p in encoder.parameters())
        model.zero_grad()
        fit(model, images, labels, epochs=1, generator=generator())
        moved = any(not torch.equal(before[key], value) for key, value in encoder.state_dict().items())
        assert moved == train_encoder == (not model.layer_local)


def test_predict_uses_no_label_and_shows_every_state(digits):
    model = pixel_model(digits.train_images)
    seen = []
    predicted = model.predict(digits.test_images[:5], generator(), lambda t, z, u_hat: seen.append((t, z.shape)))
    assert seen == [(t, (5, K)) for t in (4, 3, 2, 1)]
    assert predicted.shape == (5,) and predicted.dtype == torch.int64


def test_predict_alone_of_the_top_layer_is_the_chains_first_guess(digits):
    model, guesses = pixel_model(digits.train_images), {}
    model.predict(digits.test_images[:20], generator(4), lambda t, z, u_hat: guesses.update({t: u_hat}))
    assert torch.equal(model.predict_alone(digits.test_images[:20], T, generator(4)), guesses[T].argmax(1))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_build_on_small_and_coloured_images(preset):
    images = torch.rand(80, 3, 9, 12, generator=generator())
    model = PRESETS[preset](images, 3, num_steps=2, generator=generator()).model
    assert model.layer_local == (preset != "shared")
    fit(model, images, torch.arange(80) % 3, epochs=1, generator=generator())
    assert model.predict(images[:4], generator()).shape == (4,)


def test_published_preset_is_the_notebooks_schedule_and_rule(digits):
    model = PRESETS["published"](digits.train_images, K).model
    assert model.alpha_bar[1] == 1  # the first step adds no noise
    assert model.posterior is None and model.levels[0] == 1 and model.objective == "squared_error"


def test_errors(digits):
    model, images, labels = pixel_model(digits.train_images), digits.train_images[:8], digits.train_labels[:8]
    bad_pixel, bad_label = images.clone(), labels.clone()
    bad_pixel[3, 0, 1, 1] = float("nan")
    bad_label[2] = 10
    for call, message in [
        (lambda: fit(model, bad_pixel, labels, epochs=1), "finite"),
        (lambda: fit(model, images, bad_label, epochs=1), r"labels in 0\.\.9"),
        (lambda: fit(model, images[:0], labels[:0], epochs=1), "at least one image"),
        (lambda: fit(model, images, labels, epochs=0), "at least 1, got 0"),
        (lambda: model.predict(bad_pixel), "finite"),
        (lambda: model.predict(images[0]), r"\[B, C, H, W\]"),
        (lambda: model.loss(images, labels[:3]), r"\[8\]"),
        (lambda: pixel_model(images, objective="mse"), "squared_error or elbo, got 'mse'"),
        (lambda: pixel_model(images, levels=torch.ones(3)), r"\[4\], got \[3\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=r"4 layers need alpha_bar \[5\], got \[4\]"):
        NoPropDT(nn.Flatten(), list(model.layers), torch.eye(K), cosine_alpha_bar(3), train_encoder=False)
