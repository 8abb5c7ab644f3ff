import dataclasses
import math
import re

import pytest
import torch
from conftest import K, built, dropout_stack, generator, small_dt, small_stack, states_equal, unchanged
from torch import nn

from noprop_helpers import NoPropError, checkpoints
from noprop_helpers.blocks import ConvEncoder, DenoisingMLP, LinearReadout, RadialReadout
from noprop_helpers.checkpoints import CheckpointError
from noprop_helpers.noprop import NoPropCT, NoPropDT, NoPropFM, Propagated, evaluating, probability_flow
from noprop_helpers.recipes import RECIPES
from noprop_helpers.samplers import sample_heun
from noprop_helpers.schedules import LearnedGamma, cosine_alpha_bar, linear_alphas, snr_weights
from noprop_helpers.settings import Settings
from noprop_helpers.training import fit

T = 4


# --- Losses ---


@pytest.mark.parametrize("objective", ["cross_entropy", "squared_error"])
def test_loss_is_the_sum_of_the_layers_own_losses(few_digits, objective):
    model = small_stack(T, objective=objective)
    images, labels = few_digits.train_images[:32], few_digits.train_labels[:32]
    total = model.loss(images, labels, generator(3))
    features, u, draws = model.encoder(images), torch.eye(K)[labels], generator(3)
    by_hand = 0.0
    for t in range(1, T + 1):
        alpha_bar, noise = model.alpha_bar[t].float(), torch.randn(32, K, generator=draws)
        outputs = model.layers[t - 1](features, alpha_bar.sqrt() * u + (1 - alpha_bar).sqrt() * noise)
        if objective == "cross_entropy":
            by_hand += nn.functional.cross_entropy(outputs, labels)
        else:
            by_hand += nn.functional.mse_loss(outputs, u)
    torch.testing.assert_close(total, by_hand)


def test_losses_of_all_layers_are_those_of_each(few_digits):
    """``layer_losses``, which a stack is trained by, against ``layer_loss``, which a layer alone is trained by."""
    labels = few_digits.train_labels[:32]
    for model in (
        small_stack(T),
        small_stack(T, objective="squared_error"),
        small_dt(few_digits.train_images, T=T).eval(),
    ):
        x = model.encoder(few_digits.train_images[:32])
        states = model.noised_states(labels, generator(1))
        outputs = torch.stack([layer(x, z) for layer, z in zip(model.layers, states)])
        together = model.layer_losses(outputs, labels)
        assert together.shape == (T, 32)
        for t in range(1, T + 1):
            torch.testing.assert_close(model.layer_losses(outputs[t - 1], labels, t), together[t - 1])
        if model.objective != "elbo":
            (expected,) = torch.autograd.grad(together.sum(), outputs)
            torch.testing.assert_close(model.output_gradients(outputs, labels), expected)


def test_noised_states_have_each_layers_own_level():
    """Eq. (8.1)."""
    model = small_stack(T)
    z = model.noised_states(torch.zeros(20_000, dtype=torch.int64), generator())
    assert z.shape == (T, 20_000, K)
    for t in range(1, T + 1):
        alpha_bar = model.alpha_bar[t].item()
        assert z[t - 1, :, 0].mean().item() == pytest.approx(alpha_bar**0.5, abs=5 * ((1 - alpha_bar) / 20_000) ** 0.5)
        assert z[t - 1, :, 1].var().item() == pytest.approx(1 - alpha_bar, rel=0.06)


def test_a_step_of_layer_t_leaves_every_other_layer_alone(few_digits):
    model = small_dt(few_digits.train_images)
    model.layer_loss(2, model.encoder(few_digits.train_images), few_digits.train_labels).mean().backward()
    touched = {t for t, layer in enumerate(model.layers, 1) if any(p.grad is not None for p in layer.parameters())}
    assert touched == {2}


def test_an_encoder_is_trained_only_where_somebody_says_so():
    layers = [DenoisingMLP(64, K, K, hidden_dim=8)]
    for make in (
        lambda encoder: NoPropDT(encoder, layers, torch.eye(K), cosine_alpha_bar(1)),
        lambda encoder: NoPropCT(encoder, nn.Identity(), torch.eye(K), LearnedGamma(), LinearReadout(K, K)),
        lambda encoder: NoPropFM(encoder, nn.Identity(), torch.eye(K)),
    ):
        model = make(nn.Linear(2, 2))
        assert not model.train_encoder and model.layer_local
        assert not any(p.requires_grad for p in model.encoder.parameters())


@pytest.mark.parametrize("train_encoder", [True, False])
def test_the_loss_reaches_an_encoder_that_is_to_be_trained_and_no_other(train_encoder, few_digits):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
    layers = [DenoisingMLP(16, K, K, hidden_dim=8) for _ in range(T)]
    model = NoPropDT(encoder, layers, torch.eye(K), cosine_alpha_bar(T), train_encoder=train_encoder)
    model.loss(few_digits.train_images, few_digits.train_labels, generator()).backward()
    assert all((p.grad is not None) == train_encoder for p in encoder.parameters())
    assert model.layer_local == (not train_encoder) == (model.locality == "layer-local")


def test_layer_loss_is_equation_8(few_digits):
    """Denoising, readout and prior written out, with the draws in the order the model makes them."""
    images, labels = few_digits.train_images[:32], few_digits.train_labels[:32]
    W = nn.Parameter(torch.randn(K, 6, generator=generator()))
    model, T, eta = small_dt(images, W, eta=0.3).eval(), 3, 0.3
    alpha_bar, u, x = cosine_alpha_bar(T).float(), W[labels], model.encoder(images)
    for t in range(1, T + 1):
        total = model.layer_loss(t, x, labels, generator(5))
        g = generator(5)
        z_t = alpha_bar[t].sqrt() * u + (1 - alpha_bar[t]).sqrt() * torch.randn(32, 6, generator=g)
        z_0 = alpha_bar[0].sqrt() * u + (1 - alpha_bar[0]).sqrt() * torch.randn(32, 6, generator=g)
        u_hat = model.layers[t - 1](x, z_t).softmax(1) @ W
        denoising = T / 2 * eta * snr_weights(cosine_alpha_bar(T))[t - 1].float() * (u_hat - u).square().sum(1)
        readout = nn.functional.cross_entropy(model.readout(z_0, W), labels, reduction="none")
        q = torch.distributions.Normal(alpha_bar[T].sqrt() * u, (1 - alpha_bar[T]).sqrt())
        prior = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
        torch.testing.assert_close(total, denoising + readout + prior, rtol=1e-4, atol=1e-4)


def test_ct_layer_loss_is_equation_9(few_digits):
    """Eq. (9.2)."""
    images, labels = few_digits.train_images[:32], few_digits.train_labels[:32]
    model = built("paper-ct", images, labels, num_steps=2, embedding="learned").eval()
    x, W = model.encoder(images), model.W
    total = model.layer_loss(1, x, labels, generator(5))
    g = generator(5)
    time = torch.rand(32, generator=g).requires_grad_()
    snr = torch.exp(-model.gamma(time).gamma)
    rate = -torch.autograd.grad(snr.sum(), time, retain_graph=True)[0]
    alpha_bar = (snr / (1 + snr))[:, None]
    z = alpha_bar.sqrt() * W[labels] + (1 - alpha_bar).sqrt() * torch.randn(32, 20, generator=g)
    u_hat = model.block(x, z, time).softmax(1) @ W
    ends = torch.sigmoid(-model.gamma(torch.tensor([0.0, 1.0])).gamma)
    z_0 = ends[0].sqrt() * W[labels] + (1 - ends[0]).sqrt() * torch.randn(32, 20, generator=g)
    readout = nn.functional.cross_entropy(model.readout(z_0, W), labels, reduction="none")
    q = torch.distributions.Normal(ends[1].sqrt() * W[labels], (1 - ends[1]).sqrt())
    prior = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
    expected = 0.5 * rate * (u_hat - W[labels]).square().sum(1) + readout + prior
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)


def test_fm_layer_loss_is_equations_10_to_13(few_digits):
    """Eq. (10.12), with the draws in the order the model makes them."""
    images, labels = few_digits.train_images[:32], few_digits.train_labels[:32]
    model = built("paper-fm", images, labels, num_steps=2, embedding="learned").eval()
    x, W = model.encoder(images), model.W
    total = model.layer_loss(1, x, labels, generator(5))
    g = generator(5)
    time, noise = torch.rand(32, generator=g), torch.randn(32, 20, generator=g)
    z = torch.stack([(1 - t) * W[y] + t * e for t, y, e in zip(time, labels, noise)])
    v = model.block(x, z, time) @ W  # no softmax
    guess = torch.stack([z_i - t * v_i for z_i, t, v_i in zip(z, time, v)])
    anchor = nn.functional.cross_entropy(model.readout(guess, W), labels, reduction="none")
    torch.testing.assert_close(total, (v - (noise - W[labels])).square().sum(1) + anchor, rtol=1e-4, atol=1e-4)


def test_a_wide_flow_path_moves_the_state_and_not_the_target(few_digits):
    """sigma jitters z by its own draw: the loss of a block that answers 0 is the same, the state it sees is not."""
    images, labels, seen = few_digits.train_images[:8], few_digits.train_labels[:8], []

    class Zero(nn.Module):
        def forward(self, x, z, t):
            seen.append(z)
            return torch.zeros(len(z), K)

    losses = [
        NoPropFM(nn.Identity(), Zero(), torch.eye(K), sigma=s).layer_loss(1, images, labels, generator())
        for s in (0.0, 0.5)
    ]
    assert torch.equal(*losses) and 0.3 < (seen[1] - seen[0]).std() < 0.7


# --- Prediction ---


def test_predict_uses_no_label_and_shows_every_state(few_digits):
    model, seen = small_stack(T), []
    predicted = model.predict(few_digits.test_images[:5], generator(), lambda t, z, u_hat: seen.append((t, z.shape)))
    assert seen == [(t, (5, K)) for t in (4, 3, 2, 1)]
    assert predicted.shape == (5,) and predicted.dtype == torch.int64


def test_predict_alone_of_the_top_layer_is_the_chains_first_guess(few_digits):
    for model in (small_stack(T), small_dt(few_digits.train_images, T=T)):
        guesses = {}
        model.predict(few_digits.test_images, generator(4), lambda t, z, u_hat: guesses.update({t: u_hat}))
        alone = model.predict_alone(few_digits.test_images, T, generator(4))
        assert torch.equal(alone, model.classify(guesses[T]))


def test_a_chain_without_inference_noise_draws_nothing_but_its_start(few_digits):
    """z_{t-1} = a u_hat + b z alone: the same start gives the same answer, whatever the generator draws later."""
    model, images, states = small_dt(few_digits.train_images), few_digits.test_images, []
    model.predict(images[:9], generator(), lambda t, z, u_hat: states.append((z, u_hat)), noise=False)
    z = torch.randn(9, K, generator=generator())
    a, b, _ = (x.float() for x in model.posterior)
    for t, (state, u_hat) in zip((3, 2, 1), states):
        z = a[t - 1] * u_hat + b[t - 1] * z
        torch.testing.assert_close(state, z)
    model.inference_noise = False

    def last_state(noise):
        model.predict(images, generator(), lambda t, z, u_hat: states.append(z), noise=noise)
        return states[-1]

    own_way, quiet, noisy = map(last_state, (None, False, True))
    assert torch.equal(own_way, quiet) and not torch.equal(own_way, noisy)


def test_a_chain_that_renoises_cannot_do_without_noise(few_digits):
    published = built("published", few_digits.train_images, few_digits.train_labels)
    with pytest.raises(NoPropError, match="^re-noising is noise alone; only the posterior rule can do without$"):
        published.predict(few_digits.test_images[:9], noise=False)


@pytest.mark.parametrize("name", ["paper-ct", "paper-fm"])
def test_a_flow_takes_as_many_steps_as_it_is_told(name, few_digits):
    """Its own number, unless another one is asked for; none at all is not its own number."""
    model, images, seen = (
        built(name, few_digits.train_images, few_digits.train_labels, num_steps=4),
        few_digits.test_images,
        [],
    )

    def times(**options):
        seen.clear()
        model.predict(images, generator(), lambda t, z, v: seen.append(t), **options)
        return list(seen)

    assert times() == pytest.approx([0.75, 0.5, 0.25, 0])
    assert times(num_steps=2) == times(num_steps=2, sampler=sample_heun) == [0.5, 0]
    with pytest.raises(ValueError, match="got 0"):
        times(num_steps=0)


class OracleBlock(nn.Module):
    """Knows the label: images are the labels' embeddings."""

    def encode(self, images):
        return images.flatten(1)

    def head(self, features, z, t):
        return 1e4 * features


@pytest.mark.whole
def test_ct_with_an_oracle_follows_the_schedule_at_every_time():
    """Eq. (9.7): With u_hat = u, states of the probability-flow ODE have mean alpha u and variance 1 - alpha^2 at every time."""
    torch.manual_seed(0)
    N, gamma = 20_000, LearnedGamma(-5.0, 5.0)
    for parameter in (gamma.raw_out, gamma.bias):  # a schedule that is not nearly straight
        parameter.data += torch.randn_like(parameter)
    u = torch.eye(3)[torch.full((N,), 1)]
    model, checked = NoPropCT(nn.Identity(), OracleBlock(), torch.eye(3), gamma, LinearReadout(3, 3), num_steps=300), []

    def check(t, z, v):
        alpha_bar = torch.sigmoid(-gamma(torch.tensor(t)).gamma).item()
        # 5 standard errors, 1 % for the 300 steps, and the trace of the label that a start from N(0, I) lacks
        missing = torch.sigmoid(-gamma(torch.tensor(1.0)).gamma).item()
        assert (z.mean(0) - alpha_bar**0.5 * u[0]).abs().max() < 5 * ((1 - alpha_bar) / N) ** 0.5 + 0.01 + missing**0.5
        assert (z.var(0) - (1 - alpha_bar)).abs().max() < (1 - alpha_bar) * 5 * (2 / N) ** 0.5 + 0.01
        checked.append(t)

    model.predict(u[:, None, None], generator(), check)
    assert len(checked) == 300


@pytest.mark.parametrize("objective", ["squared_error", "cross_entropy"])
def test_what_a_layer_says_is_read_as_its_objective_means(objective, few_digits):
    """Squared error: the outputs are the label itself, as in the published notebook, with no softmax between; cross-entropy:
    they are class scores. In the walk, alone, and where the loss asks for it."""
    W = torch.eye(K) if objective == "squared_error" else torch.randn(K, 5, generator=generator())
    torch.manual_seed(0)
    layers = [DenoisingMLP(64, W.shape[1], K, hidden_dim=16) for _ in range(T)]
    model = NoPropDT(nn.Flatten(), layers, W, cosine_alpha_bar(T), objective=objective)
    images, states = few_digits.test_images[:6], {}
    model.predict(images, generator(), lambda t, z, u_hat: states.update({t: (z, u_hat)}))
    states[T + 1] = (torch.randn(6, W.shape[1], generator=generator()), None)
    for t in range(T, 0, -1):
        outputs = layers[t - 1](images.flatten(1), states[t + 1][0])
        expected = outputs if objective == "squared_error" else outputs.softmax(1) @ W
        torch.testing.assert_close(states[t][1], expected)
        torch.testing.assert_close(model.denoised(outputs), expected)
    alone = layers[1](images.flatten(1), states[T + 1][0])
    alone = alone if objective == "squared_error" else alone.softmax(1) @ W
    assert torch.equal(model.predict_alone(images, 2, generator()), torch.cdist(alone, W).argmin(1))


def flows(W, readout, **options):
    """A model of continuous time and one of flow matching, with small blocks that look at image, state and time."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64 + W.shape[1] + 1, len(W))

        def encode(self, images):
            return images.flatten(1)

        def head(self, features, z, t):
            return self.linear(torch.cat([features, z, t[:, None]], 1))

        def forward(self, images, z, t):
            return self.head(self.encode(images), z, t)

    torch.manual_seed(0)
    ct = NoPropCT(nn.Identity(), Block(), W, LearnedGamma(), readout, num_steps=3, **options)
    return ct, NoPropFM(nn.Identity(), Block(), W, readout, num_steps=3)


def test_a_readout_is_told_the_embeddings(few_digits):
    """By all models, in the loss and in all that they say: one that measures distances to them cannot do without."""
    W = torch.randn(K, 6, generator=generator())
    images, labels = few_digits.train_images[:8], few_digits.train_labels[:8]

    class Distances(RadialReadout):
        def forward(self, z, given):
            assert given is W
            return super().forward(z, given)

    dt, *others = small_dt(images, W, readout=Distances(6, K)), *flows(W, Distances(6, K))
    for model in (dt.eval(), *others):
        assert model.loss(images, labels, generator()).isfinite()
        assert model.predict(images, generator()).shape == (8,)
        torch.testing.assert_close(model.probabilities(images, generator(), 1).sum(1), torch.ones(8))


def test_all_that_is_drawn_comes_from_the_generator_and_is_made_where_the_model_is(few_digits):
    """Not from torch's global state, and whatever the device where tensors are made that do not say."""
    images, labels = few_digits.train_images[:8], few_digits.train_labels[:8]
    backprop = built("paper-backprop", images, labels, num_steps=2).eval()
    models = [small_stack(T), small_dt(images, T=2).eval(), *flows(torch.eye(K), LinearReadout(K, K)), backprop]
    wide = flows(torch.eye(K), LinearReadout(K, K))[1]
    wide.sigma = 0.5
    models.append(wide)

    def said(model):
        yield model.loss(images, labels, generator(3)).detach()
        yield model.predict(images, generator(3))
        yield model.probabilities(images, generator(3), 2)
        if isinstance(model, NoPropDT):
            yield model.noised_states(labels, generator(3))

    for model in models:
        expected, state = list(said(model)), torch.get_rng_state()
        with torch.device("meta"):
            found = list(said(model))
        assert torch.equal(torch.get_rng_state(), state)
        for a, b in zip(found, expected, strict=True):
            assert a.device.type == "cpu" and torch.equal(a, b)


def test_what_a_flow_is_where_nobody_says(few_digits):
    """1000 steps, eta 1 and no width of the path, as in the paper; and a path without width takes no draw for it."""
    images, labels = few_digits.train_images[:8], few_digits.train_labels[:8]
    readout = LinearReadout(K, K)
    ct = NoPropCT(nn.Identity(), nn.Identity(), torch.eye(K), LearnedGamma(), readout)
    fm = NoPropFM(nn.Identity(), nn.Identity(), torch.eye(K))
    assert (ct.eta, ct.num_steps, fm.sigma, fm.num_steps) == (1.0, 1000, 0.0, 1000)
    terms = [flows(torch.eye(K), readout, eta=eta)[0].layer_loss(1, images, labels, generator()) for eta in (0.0, 1.0, 3.0)]
    torch.testing.assert_close(terms[2] - terms[0], 3 * (terms[1] - terms[0]))
    assert (terms[1] > terms[0]).all()
    draws, same = generator(), generator()
    flows(torch.eye(K), readout)[1].layer_loss(1, images, labels, draws)
    torch.rand(8, generator=same), torch.randn(8, K, generator=same)
    assert torch.equal(draws.get_state(), same.get_state())


def test_scores_become_states_in_full_precision(few_digits):
    """Under autocast, too: a velocity and a guess are sums of embeddings, and bfloat16 has three digits."""
    W = torch.randn(K, 6, generator=generator())
    scores = torch.randn(5, K, generator=generator(1))
    ct, fm = flows(W, LinearReadout(6, K))
    dt = NoPropDT(nn.Flatten(), [nn.Identity()], W, cosine_alpha_bar(1))
    with torch.autocast("cpu", torch.bfloat16):
        combined, guess, chain = fm._combined(scores), ct._expected(scores), dt.denoised(scores)
    torch.testing.assert_close(combined, scores @ W, rtol=1e-6, atol=1e-6)
    for u_hat in (guess, chain):
        torch.testing.assert_close(u_hat, scores.softmax(1) @ W, rtol=1e-6, atol=1e-6)
    assert fm._combined(scores.bfloat16()).dtype == ct._expected(scores.bfloat16()).dtype == torch.float32


def test_the_probability_flow_at_numbers_worked_out_by_hand():
    """alpha_bar = 0.64 and gamma' = 5: the velocity is 1/2 x 5 x 0.8 (0.8 z - u_hat)."""
    z, u_hat = torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    gamma, rate = torch.tensor([math.log(0.36 / 0.64), 5.0], dtype=torch.float64)
    torch.testing.assert_close(probability_flow(u_hat, z, gamma, rate), torch.tensor([[1.0, -4.0]], dtype=torch.float64))


def test_what_a_model_in_float64_draws_and_tells_its_parts_is_float64(few_digits):
    """The noise, and the times: a schedule or a block of other layers would take no other type, nor whole numbers."""
    images, labels, heard = few_digits.train_images[:4].double(), few_digits.train_labels[:4], set()

    def listen(module, told):
        heard.update((type(model), x.dtype) for x in told)

    models = small_stack(T).double(), *(model.double() for model in flows(torch.eye(K), LinearReadout(K, K)))
    for model in models:
        for module in model.modules():
            module.register_forward_pre_hook(listen)
        assert model.loss(images, labels, generator()).dtype == torch.float64
        model.predict(images, generator())
    assert heard == {(type(model), torch.float64) for model in models}
    assert models[0].noised_states(labels, generator()).dtype == torch.float64


# --- Prediction and training mode ---


def worn(model):
    """BatchNorm with the running averages of some use, not the 0 and 1 that would be nearly right for any batch."""
    draws = generator(8)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=draws))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=draws) + 0.5)
    return model


def norm_and_dropout_in_the_encoder():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), ConvEncoder((1, 8, 8), padding=1, norm=True))
    layers = [DenoisingMLP(128, K, K, hidden_dim=8) for _ in range(2)]
    return NoPropDT(encoder, layers, torch.eye(K), cosine_alpha_bar(2))


MODELS = {name: None for name in RECIPES} | {"dropout": dropout_stack, "encoder": norm_and_dropout_in_the_encoder}


@pytest.mark.parametrize("name", MODELS)
def test_prediction_neither_depends_on_the_mode_nor_changes_it(name, few_digits):
    """Every kind of model, many images and one: classes, weights, running averages and every submodule's mode."""
    if name == "paper-adjoint":
        pytest.importorskip("torchdiffeq")
    images, one = few_digits.test_images, few_digits.test_images[:1]
    model = (
        MODELS[name]() if MODELS[name] else built(name, few_digits.train_images, few_digits.train_labels, num_steps=2)
    )
    worn(model)
    ways = [model.predict]
    if isinstance(model, NoPropDT):
        ways += [lambda x, g, t=t: model.predict_alone(x, t, g) for t in (1, 2)]
    model.eval()
    expected = [way(x, generator(3)) for x in (images, one) for way in ways]
    for in_training in ([], list(model.modules()), list(model.modules())[::2]):
        model.eval()
        for module in in_training:
            module.training = True
        with unchanged(model):
            said = [way(x, generator(3)) for x in (images, one) for way in ways]
        assert all(map(torch.equal, said, expected))


def test_modes_come_back_also_from_an_error(few_digits):
    model = small_dt(few_digits.train_images).train()
    model.layers[1].eval()
    with unchanged(model), pytest.raises(KeyboardInterrupt), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyboardInterrupt
    with unchanged(model), pytest.raises(ValueError, match="expected images"):
        model.predict(torch.rand(2, 1, 9, 9))


def test_a_saved_model_answers_one_image_at_a_time_as_it_did(digits, tmp_path):
    """Loaded into a new model, which is in training mode, as every new module is."""
    images, labels = digits.train_images[:512], digits.train_labels[:512]
    trained, loaded = (built("shared", images, labels, num_steps=2) for _ in range(2))
    fit(trained, images, labels, Settings(epochs=8, learning_rate=8e-3, one_cycle=True))
    trained.save(tmp_path / "model.pt")
    loaded.load(tmp_path / "model.pt")
    assert loaded.training and not trained.training
    at_once = trained.predict(digits.test_images[:100], generator())
    one_by_one = torch.cat([loaded.predict(x, generator(i)) for i, x in enumerate(digits.test_images[:100].split(1))])
    # A chain without noise hardly depends on where it starts.
    assert (at_once == one_by_one).double().mean() > 0.97
    assert (one_by_one == digits.test_labels[:100]).double().mean() > 0.85
    assert states_equal(trained, loaded)


# --- Probabilities ---


@pytest.mark.parametrize("name", MODELS)
def test_probabilities_are_distributions_whose_largest_entry_is_the_class(name, few_digits):
    """Of one walk: what ``predict`` says from the same noise, before the last step of a chain adds its own."""
    if name == "paper-adjoint":
        pytest.importorskip("torchdiffeq")
    images, labels = few_digits.train_images, few_digits.train_labels
    model = worn(MODELS[name]() if MODELS[name] else built(name, images, labels, num_steps=2)).train()
    with unchanged(model):
        p = model.probabilities(few_digits.test_images, generator(3), num_walks=1)
    assert p.shape == (20, K) and p.min() >= 0 and not p.requires_grad
    torch.testing.assert_close(p.sum(1), torch.ones(20))
    if isinstance(model, NoPropDT) and model.readout is None:
        ends = {}
        model.predict(few_digits.test_images, generator(3), lambda t, z, u_hat: ends.update(last=u_hat))
        assert torch.equal(p.argmax(1), model.classify(ends["last"]))
    else:
        assert torch.equal(p.argmax(1), model.predict(few_digits.test_images, generator(3)))


def test_probabilities_are_the_softmax_of_the_last_layer(few_digits):
    """Of one-hot labels and class scores, where no noise is left: computed by hand."""
    model, images, ends = small_stack(T, inference="answer"), few_digits.test_images, {}
    model.predict(images, generator(1), lambda t, z, u_hat: ends.update({t: (z, u_hat)}))
    last = model.layers[0](model.encoder(images), ends[2][0]).softmax(1)
    torch.testing.assert_close(model.probabilities(images, generator(1), num_walks=1), last, rtol=1e-4, atol=1e-6)


def test_probabilities_are_the_mean_of_walks(few_digits):
    model, images = small_stack(T), few_digits.test_images
    draws = generator(2)
    walks = [model.probabilities(images, draws, num_walks=1) for _ in range(5)]
    assert not torch.equal(walks[0], walks[1])
    torch.testing.assert_close(model.probabilities(images, generator(2), num_walks=5), torch.stack(walks).mean(0))
    with pytest.raises(NoPropError, match="num_walks must be at least 1, got 0"):
        model.probabilities(images, num_walks=0)


# --- What a model was trained on ---


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_knows_its_images_refuses_others(name, few_digits):
    """Wherever images go in: another shape or type, or values from 0 to 255, is one clear line."""
    if name == "paper-adjoint":
        pytest.importorskip("torchdiffeq")
    images, labels = few_digits.train_images[:8], few_digits.train_labels[:8]
    model = MODELS[name]() if MODELS[name] else built(name, images, labels, num_steps=2)
    assert model.image_shape is None and model.class_names is None
    model.predict(images * 255)  # nobody said what it was trained on
    assert model.trained_on([1, 8, 8], list("0123456789")) is model
    assert model.image_shape == (1, 8, 8) and model.class_names == tuple("0123456789")
    ways = [model.predict, model.probabilities, lambda x: model.loss(x, labels)]
    ways += [lambda x: model.predict_alone(x, 1)] if isinstance(model, NoPropDT) else []
    for way in ways:
        way(images)
        for wrong, message in [
            (images.expand(8, 3, 8, 8), r"expected torch.float32 \[B, 1, 8, 8\] .*, got torch.float32 \[8, 3, 8, 8\]"),
            (torch.rand(8, 1, 9, 9), r"got torch.float32 \[8, 1, 9, 9\]"),
            (images * 255, "expected values from 0 to 1, as in training, got values from 0 to 255; divide by 255"),
            ((images * 255).byte(), "got torch.uint8"),
            (images.double(), "got torch.float64"),
        ]:
            with pytest.raises(ValueError, match=message):
                way(wrong)


def test_a_model_in_float64_asks_for_images_in_float64(few_digits):
    model = small_stack(T).double().trained_on((1, 8, 8), list("0123456789"))
    with pytest.raises(ValueError, match=r"expected torch.float64 \[B, 1, 8, 8\] .*, got torch.float32"):
        model.loss(few_digits.train_images[:8], few_digits.train_labels[:8])


def test_a_model_is_trained_anew_on_other_images_unless_it_was_told_what_it_is_for():
    model, labels = small_stack(T), torch.tensor([0, 1])
    for shape, other in (((1, 8, 8), (1, 4, 16)), ((1, 4, 16), (1, 8, 8))):
        model.check_training(torch.zeros(2, *shape), labels)
        assert model.image_shape == shape
        with pytest.raises(ValueError) as error:
            model.predict(torch.zeros(2, *other))
        expected = f"[B, {shape[0]}, {shape[1]}, {shape[2]}], as the model was trained on, got {[2, *other]}"
        assert str(error.value) == f"images: expected {expected}"
        with pytest.raises(ValueError, match="expected labels in 0..9, got 12"):
            model.check_training(torch.zeros(2, *other), torch.tensor([12, 0]))
        assert model.image_shape == shape  # what is refused is not trained on
    model.trained_on((1, 8, 8), list("0123456789")).check_training(torch.zeros(2, 1, 8, 8), labels)
    with pytest.raises(ValueError, match=r"^images: expected torch.float32 \[B, 1, 8, 8\] .*, got .* \[2, 1, 4, 16\]$"):
        model.check_training(torch.zeros(2, 1, 4, 16), labels)


def test_a_model_refuses_pixels_far_outside_those_that_it_was_trained_on():
    model, labels = small_stack(T), torch.arange(20) % 10
    images = torch.linspace(0, 1, 20 * 64).view(20, 1, 8, 8)
    model.predict(255 * images)  # nobody has said anything yet
    for scale, others in ((1, {"0 to 255": 255 * images, "-9 to 1": 10 * images - 9}), (255, {"0 to 65025": 255 * 255 * images})):
        fit(model, scale * images, labels, Settings(epochs=1, batch_size=10))  # trained anew, on other pixels
        model.predict(scale * (1.5 * images - 0.2))  # a little outside is a picture of the same kind
        for got, other in others.items():
            for use in (model.predict, model.probabilities, lambda images: model.predict_alone(images, t=1)):
                with pytest.raises(ValueError) as error:
                    use(other)
                assert str(error.value) == f"images: expected values from 0 to {scale}, as in training, got from {got}"
    fit(model, torch.ones(20, 1, 8, 8), labels, Settings(epochs=1, batch_size=10))
    model.predict(-images)  # blank images tell of no range
    model.check_training(0.5 + images / 2, labels)  # from 0.5 to 1, so at most from 0 to 1.5
    model.predict(1.5 * images)
    for other in (1.52 * images, 1.52 * images - 0.02):
        with pytest.raises(ValueError, match="expected values from 0.5 to 1, as in training"):
            model.predict(other)


def test_a_schedule_that_rises_is_refused_in_the_words_of_the_schedule():
    with pytest.raises(NoPropError, match="^alpha_bar must lie in .* and never increase, got 0.9 at 1 after 0.5$"):
        NoPropDT(nn.Flatten(), [nn.Identity()], EYE, torch.tensor([0.5, 0.9]))


def test_a_file_of_weights_holds_no_tables():
    """What the schedule is stands in the model's identity; a copy among the weights could say something else."""
    assert {name.split(".")[0] for name in small_stack(T).state_dict()} == {"W", "layers"}


def test_a_model_has_as_many_names_as_classes():
    with pytest.raises(NoPropError, match="expected 10 class names, got 2"):
        small_stack(T).trained_on((1, 8, 8), ("cat", "dog"))


# --- Files ---


def test_a_file_is_of_one_model_and_refused_for_any_other(few_digits, tmp_path):
    """Weights of the right shapes are not enough: schedule, objective, steps and kind decide what they compute."""
    images, labels = few_digits.train_images, few_digits.train_labels
    eye, file = torch.eye(K), tmp_path / "model.pt"

    def dt(alpha_bar=None, T=3, **options):
        alpha_bar = cosine_alpha_bar(T) if alpha_bar is None else alpha_bar
        return NoPropDT(
            nn.Flatten(), [DenoisingMLP(64, K, K, hidden_dim=4) for _ in range(T)], eye, alpha_bar, **options
        )

    def flow(name, **options):
        return built(name, images, labels, **{"num_steps": 20} | options)

    readout = LinearReadout(K, K)
    for own, others in [
        (dt(), [
            (dt(cosine_alpha_bar(3, offset=0.1)), "alpha_bar"), (dt(T=4), "num_steps 3, expected 4"),
            (dt(objective="squared_error"), "objective cross_entropy, expected squared_error"),
            (dt(inference=linear_alphas(3)), "levels None"), (dt(inference="answer"), "inference_noise True"),
            (flow("paper-fm"), "kind NoPropDT, expected NoPropFM"),
        ]),
        (dt(objective="elbo", readout=readout), [
            (dt(objective="elbo", readout=readout, eta=0.5), "eta 0.1, expected 0.5"), (dt(), "objective elbo"),
        ]),
        (dt(inference=linear_alphas(3)), [(dt(inference=linear_alphas(3, 0.9)), "levels")]),
        (flow("paper-ct"), [
            (flow("paper-ct", num_steps=1000), "num_steps 20, expected 1000"),
            (flow("paper-ct", eta=0.5), "eta 1.0, expected 0.5"),
            (flow("paper-fm"), "kind NoPropCT, expected NoPropFM"),
        ]),
        (flow("paper-fm"), [
            (flow("paper-fm", num_steps=10), "num_steps 20, expected 10"),
            (flow("paper-fm", sigma=0.1), "sigma 0.0, expected 0.1"),
        ]),
        (flow("paper-backprop", num_steps=2), [(flow("paper-backprop", num_steps=3), "num_steps 2, expected 3")]),
    ]:  # fmt: skip
        own.save(file)
        for other, message in others:
            with unchanged(other), pytest.raises(CheckpointError, match=f"^{re.escape(str(file))} has {message}"):
                other.load(file)
        assert own.load(file) is own


def test_a_readout_of_another_kind_does_not_fit(few_digits, tmp_path):
    linear, radial = (small_dt(few_digits.train_images, readout=kind(K, K)) for kind in (LinearReadout, RadialReadout))
    linear.save(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="model.pt does not fit this model.* readout"):
        radial.load(tmp_path / "model.pt")


def test_a_file_without_a_model_is_none_of_ours(tmp_path):
    checkpoints.save(tmp_path / "other.pt", {"state": small_stack().state_dict()})
    with pytest.raises(CheckpointError, match="other.pt does not say its model: expected a dict, got nothing"):
        small_stack().load(tmp_path / "other.pt")


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta")
def test_weights_are_read_to_where_the_model_is(tmp_path, monkeypatch):
    small_stack().save(tmp_path / "model.pt")
    load, devices = checkpoints.load, []
    monkeypatch.setattr(checkpoints, "load", lambda path, device: devices.append(device) or load(path, "cpu"))
    small_stack(W=torch.eye(K)).load(tmp_path / "model.pt")
    small_stack().to("meta").load(tmp_path / "model.pt")
    assert [device.type for device in devices] == ["cpu", "meta"]


@pytest.mark.parametrize("name", RECIPES)
def test_an_identity_is_plain_data_and_tells_its_settings(name, few_digits):
    """What a file's weights do not tell by their shapes."""
    if name == "paper-adjoint":
        pytest.importorskip("torchdiffeq")
    recipe = RECIPES[name](num_steps=2)
    model = built(name, few_digits.train_images, few_digits.train_labels, num_steps=2)
    identity = model.identity()
    assert (identity["kind"], identity["num_classes"], identity["num_steps"]) == (type(model).__name__, K, 2)
    if isinstance(model, NoPropDT):  # a weight that enters no loss makes no other model
        assert (identity["eta"] is None) == (model.objective != "elbo")
    if isinstance(model, Propagated):
        assert identity["net"] == {"paper-backprop": "BackpropNet", "paper-adjoint": "NeuralODE"}[name]
    for field in {field.name for field in dataclasses.fields(recipe)} & {"eta", "sigma"}:
        assert identity[field] == getattr(recipe, field)

    def plain(value):
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or isinstance(value, (bool, int, float, str))

    assert all(map(plain, identity.values()))


# --- Errors ---


def test_what_does_not_make_a_model_is_refused():
    def layers(n):
        return [DenoisingMLP(64, K, K) for _ in range(n)]

    eye, readout = torch.eye(K), LinearReadout(K, K)
    for call, message in [
        (lambda: small_stack(objective="mse"), "cross_entropy, squared_error or elbo, got 'mse'"),
        (lambda: small_stack(objective="elbo"), "elbo needs a readout"),
        (lambda: small_stack(readout=readout), "^the objective elbo needs a readout, and no other objective takes one$"),
        (lambda: small_stack(inference=torch.ones(2)), r"one level per layer, \[3\], got \[2\]"),
        (lambda: small_stack(inference="quiet"), r"inference must be sample, answer or levels \[T\], got 'quiet'"),
        (lambda: small_stack(inference=None), r"inference must be sample, answer or levels \[T\], got None"),
        (
            lambda: NoPropDT(nn.Flatten(), layers(4), eye, cosine_alpha_bar(3)),
            r"4 layers, .* need alpha_bar \[5\], got \[4\]",
        ),
        (lambda: NoPropDT(nn.Flatten(), [], eye, torch.ones(1)), "0 layers, of which there must be one at least"),
        (
            lambda: NoPropFM(nn.Identity(), nn.Identity(), nn.Parameter(eye)),
            "^learned embeddings need a readout, whose cross-entropy keeps them apart$",
        ),
        (lambda: NoPropFM(nn.Identity(), nn.Identity(), eye, num_steps=0), "num_steps must be at least 1, got 0"),
        (
            lambda: NoPropCT(nn.Identity(), nn.Identity(), eye, LearnedGamma(), readout, num_steps=0),
            "at least 1, got 0",
        ),
    ]:
        with pytest.raises(NoPropError, match=message):
            call()


EYE, IMAGES, LABELS = torch.eye(K), torch.zeros(2, 1, 8, 8), torch.tensor([3, 12])


def plain_ct(**options):
    return NoPropCT(nn.Identity(), nn.Identity(), EYE, LearnedGamma(), LinearReadout(K, K), **options)


def plain_fm(**options):
    return NoPropFM(nn.Identity(), nn.Identity(), EYE, **options)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: NoPropFM("pixels", nn.Identity(), EYE), "encoder must be an nn.Module, as nn.Identity(), got str"),
        *(
            (
                lambda W=W: small_stack(W=W),
                f"W must be a floating-point table [K, D] of label embeddings, as torch.eye(K), got {came}",
            )
            for W, came in (
                ([[1.0]], "list"), (torch.ones(3), "torch.float32 [3]"), (torch.ones(0, 3), "torch.float32 [0, 3]"),
                (torch.ones(3, 3, dtype=torch.int64), "torch.int64 [3, 3]"),
            )
        ),
        *(
            (lambda W=W: small_stack(W=W), "W must be finite, got NaN or infinity among the label embeddings")
            for W in (torch.tensor([[0.0, math.nan]]), torch.tensor([[math.inf], [0.0]]))
        ),
        (lambda: NoPropDT(nn.Flatten(), "abc", EYE, cosine_alpha_bar(3)), "layers must be a list of nn.Module, got str"),
        (
            lambda: NoPropDT(nn.Flatten(), [nn.Identity(), 0.5], EYE, cosine_alpha_bar(2)),
            "layers must be a list of nn.Module, got a float in it",
        ),
        (
            lambda: NoPropDT(nn.Flatten(), [nn.Identity()], EYE, "cosine"),
            "alpha_bar must be a tensor [T + 1], as cosine_alpha_bar(T), got 'cosine'",
        ),
        *(
            (lambda levels=levels: small_stack(inference=torch.tensor(levels)), f"levels must lie in [0, 1], got {levels}")
            for levels in ([1.5, 0.5, 0.0], [1.0, 0.5, -0.5], [0.5j, 0.5j, 0.5j])
        ),
        *(
            (lambda shape=shape: small_stack(inference=torch.ones(shape)), f"expected one level per layer, [3], got {shape}")
            for shape in ([], [3, 2])
        ),
        *(
            (lambda t=t: small_stack().layer_loss(t, IMAGES, LABELS), f"expected a layer from 1 to 3, got {t}")
            for t in (True, 0, 4, 1.0)
        ),
        *(
            (lambda make=make, name=name, n=n: make(**{name: n}), f"{name} must be a finite number, at least 0, got {n!r}")
            for make, name in ((small_stack, "eta"), (plain_ct, "eta"), (plain_fm, "sigma"))
            for n in ("0.1", -0.5, math.inf, math.nan, True)
        ),
        *(
            (lambda make=make, n=n: make(num_steps=n), f"num_steps must be an integer, got {n!r}")
            for make in (plain_ct, plain_fm)
            for n in (True, 2.5, "2")
        ),
        *(
            (
                lambda shape=shape: small_stack().trained_on(shape, "0123456789"),
                f"expected the images' shape as (C, H, W), got {shape}",
            )
            for shape in ((8, 8), 8)
        ),
        *(
            (lambda say=say: say(small_stack()), "labels: expected labels in 0..9, got 12 at index [1]")
            for say in (lambda model: model.loss(IMAGES, LABELS), lambda model: model.check_training(IMAGES, LABELS))
        ),
        (
            lambda: small_stack().to("meta").predict(IMAGES),
            "images: expected them where the model is, on meta, got them on cpu",
        ),
        (
            lambda: small_stack().double().predict(IMAGES),
            "images: expected torch.float64, as the model's weights are, got torch.float32",
        ),
        *(
            (
                lambda use=use, shape=shape: use(torch.zeros(shape)),
                f"expected a class score for each row of W [10, 10], got {shape}",
            )
            for use, shape in (
                (lambda scores: small_stack().layer_losses(scores, LABELS), [3, 2, 4]),
                (lambda scores: plain_fm()._combined(scores), [2, 4]),
                (lambda scores: plain_fm()._combined(scores), [4]),
            )
        ),
        (
            lambda: probability_flow(torch.zeros(2, 3), torch.zeros(2, 4), torch.tensor(0.0), torch.tensor(1.0)),
            "expected u_hat and z of one shape [B, D], got [2, 3] and [2, 4]",
        ),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize("labels, wrong", [([10], 10), ([0, 10], 10), ([-1, 3], -1), ([-2, 12], -2)])
def test_a_label_that_is_no_class_is_named(labels, wrong):
    with pytest.raises(ValueError, match=f"^labels: expected labels in 0..9, got {wrong}$"):
        small_stack().noised_states(torch.tensor(labels))


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: small_stack().noised_states(LABELS % K, seed),
        lambda seed: small_stack().loss(IMAGES, LABELS % K, seed),
        lambda seed: plain_ct().loss(IMAGES, LABELS % K, seed),
        lambda seed: plain_fm().loss(IMAGES, LABELS % K, seed),
    ],
)
def test_a_seed_is_no_generator(draw):
    with pytest.raises(TypeError, match="^generator must be a torch.Generator or None, got 0$"):
        draw(0)


def test_what_is_just_not_refused():
    """One class in one dimension, levels at both their ends, and no labels at all."""
    assert NoPropDT(nn.Flatten(), [nn.Identity()], torch.ones(1, 1), cosine_alpha_bar(1)).W.shape == (1, 1)
    assert small_stack(inference=torch.tensor([1.0, 0.5, 0.0])).levels.tolist() == [1.0, 0.5, 0.0]
    assert small_stack().noised_states(LABELS[:0]).shape == (3, 0, K)


def test_there_is_no_layer_0(few_digits):
    """It would be the last one, by Python's way to count from the end."""
    model, images, labels = small_stack(T), few_digits.train_images[:8], few_digits.train_labels[:8]
    for t in (0, -1, T + 1):
        with pytest.raises(NoPropError, match=f"expected a layer from 1 to 4, got {t}"):
            model.predict_alone(images, t)
        with pytest.raises(NoPropError, match=f"expected a layer from 1 to 4, got {t}"):
            model.layer_loss(t, model.encoder(images), labels)


def test_images_and_labels_are_checked(few_digits):
    model, images, labels = small_stack(T), few_digits.train_images[:8], few_digits.train_labels[:8]
    bad_pixel = images.clone()
    bad_pixel[3, 0, 1, 1] = float("nan")
    for call, message in [
        (lambda: model.predict(bad_pixel), "finite"),
        (lambda: model.predict_alone(bad_pixel, 1), "finite"),
        (lambda: model.predict(images[0]), r"\[B, C, H, W\]"),
        (lambda: model.loss(images, labels[:3]), r"\[8\]"),
        (lambda: model.loss(images, labels + 10), r"labels in 0\.\.9"),
        (lambda: model.loss(bad_pixel, labels), "finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
