import copy
import types

import pytest
import torch
from torch import nn

from noprop_helpers import experiments, training
from noprop_helpers.blocks import ConvBlock, DenoisingMLP, LinearReadout, RadialReadout, Standardize
from noprop_helpers.data import load_dataset
from noprop_helpers.noprop import NoPropCT, NoPropDT, NoPropFM
from noprop_helpers.schedules import LearnedGamma, cosine_alpha_bar, snr_weights
from noprop_helpers.training import EMBEDDINGS, VARIANTS, accuracy, fit, label_embedding, load_trained, shared

K = 10


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_dt(images, W=None, T=3, **options):
    """Figure 6 blocks, dropout and BatchNorm included, on 8 x 8 images."""
    torch.manual_seed(0)
    W = torch.eye(K) if W is None else W
    options = {"objective": "elbo", "readout": LinearReadout(W.shape[1], K)} | options
    layers = [ConvBlock((1, 8, 8), W.shape[1], K) for _ in range(T)]
    return NoPropDT(Standardize.fit(images, (0, 2, 3)), layers, W, cosine_alpha_bar(T), **options)


def states_equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def recipe(images, labels, variant, embedding, T=2):
    torch.manual_seed(0)
    W = label_embedding(embedding, images, labels, K, generator())
    return VARIANTS[variant](images, W, num_steps=T)


# --- Algorithm 1 and the interleaved order ---


def test_both_orders_give_the_same_weights(digits):
    """With fixed embeddings no layer depends on another: a layer at a time or a batch at a time, bit for bit."""
    images, labels = digits.train_images[:300], digits.train_labels[:300]
    layerwise, interleaved = small_dt(images), small_dt(images)
    losses = [
        fit(model, images, labels, epochs=2, batch_size=100, order=order, generator=generator(3))
        for model, order in ((layerwise, "layer"), (interleaved, "interleaved"))
    ]
    # The readout is shared, but only sees sampled clean states: it and its loss may differ, the layers may not.
    torch.testing.assert_close(losses[0], losses[1], rtol=0.01, atol=0)
    assert losses[0].shape == (2, 3)
    assert states_equal(layerwise.layers, interleaved.layers)
    assert not states_equal(layerwise.layers, small_dt(images).layers)


def test_a_layer_learns_the_same_with_and_without_the_others(digits):
    """Layer 2 of 3 trained in company equals layer 2 trained while its neighbours stay as they are."""
    images, labels = digits.train_images[:200], digits.train_labels[:200]
    company, alone = small_dt(images), small_dt(images)
    for t in (1, 3):
        alone.layers[t - 1].requires_grad_(False)
    alone_loss = alone.layer_loss
    alone.layer_loss = lambda t, x, y, g=None: (
        alone_loss(t, x, y, g) if t == 2 else torch.zeros(len(y), requires_grad=True)
    )
    for model in (company, alone):
        fit(model, images, labels, epochs=2, order="layer", generator=generator(1))
    assert states_equal(company.layers[1], alone.layers[1])


def test_a_step_of_layer_t_leaves_every_other_layer_alone(digits):
    images, labels = digits.train_images[:64], digits.train_labels[:64]
    model = small_dt(images)
    model.layer_loss(2, model.encoder(images), labels).mean().backward()
    touched = {t for t, layer in enumerate(model.layers, 1) if any(p.grad is not None for p in layer.parameters())}
    assert touched == {2}


def test_layer_loss_is_equation_8(digits):
    """Denoising, readout and prior written out, with the draws in the order the model makes them."""
    images, labels = digits.train_images[:32], digits.train_labels[:32]
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


# --- Continuous time and flow matching ---


def test_ct_layer_loss_is_equation_9(digits):
    """Eq. (8.2)."""
    images, labels = digits.train_images[:32], digits.train_labels[:32]
    model = recipe(images, labels, "ct", "learned").model.eval()
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


def test_fm_layer_loss_is_equations_10_to_13(digits):
    """Eq. (9.12), with the draws in the order the model makes them."""
    images, labels = digits.train_images[:32], digits.train_labels[:32]
    model = recipe(images, labels, "fm", "learned").model.eval()
    x, W = model.encoder(images), model.W
    total = model.layer_loss(1, x, labels, generator(5))
    g = generator(5)
    time, noise = torch.rand(32, generator=g), torch.randn(32, 20, generator=g)
    z = torch.stack([(1 - t) * W[y] + t * e for t, y, e in zip(time, labels, noise)])
    v = model.block(x, z, time) @ W  # no softmax
    guess = torch.stack([z_i - t * v_i for z_i, t, v_i in zip(z, time, v)])
    anchor = nn.functional.cross_entropy(model.readout(guess, W), labels, reduction="none")
    torch.testing.assert_close(total, (v - (noise - W[labels])).square().sum(1) + anchor, rtol=1e-4, atol=1e-4)


def test_a_wide_flow_path_moves_the_state_and_not_the_target(digits):
    """sigma jitters z by its own draw: the loss of a block that answers 0 is the same, the state it sees is not."""
    images, labels, seen = digits.train_images[:8], digits.train_labels[:8], []

    class Zero(nn.Module):
        def forward(self, x, z, t):
            seen.append(z)
            return torch.zeros(len(z), K)

    losses = [
        NoPropFM(nn.Identity(), Zero(), torch.eye(K), sigma=s).layer_loss(1, images, labels, generator())
        for s in (0.0, 0.5)
    ]
    assert torch.equal(*losses) and 0.3 < (seen[1] - seen[0]).std() < 0.7


def test_learned_flow_embeddings_need_an_anchor():
    with pytest.raises(ValueError, match="learned embeddings need a readout"):
        NoPropFM(nn.Identity(), nn.Identity(), nn.Parameter(torch.eye(3)))


class OracleBlock(nn.Module):
    """Knows the label: images are the labels' embeddings."""

    def encode(self, images):
        return images.flatten(1)

    def head(self, features, z, t):
        return 1e4 * features


def test_ct_with_an_oracle_follows_the_schedule_at_every_time():
    """Eq. (8.7): With u_hat = u, states of the probability-flow ODE have mean alpha u and variance 1 - alpha^2 at every time."""
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


# --- All variants ---


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_variants_train_predict_save_and_load(variant, embedding, digits, tmp_path):
    if variant == "adjoint":
        pytest.importorskip("torchdiffeq")
    images, labels = digits.train_images[:120], digits.train_labels[:120]
    one, other = (recipe(images, labels, variant, embedding).model for _ in range(2))
    before = copy.deepcopy(one.W)
    losses = fit(one, images, labels, epochs=1, order="layer", generator=generator())
    assert losses.isfinite().all() and losses.shape == (1, one.num_layers)
    # Learned embeddings receive gradients, frozen ones do not.
    assert torch.equal(one.W, before) == (embedding == "one_hot") == (not one.W.requires_grad)
    one.save(tmp_path / "model.pt")
    other.load(tmp_path / "model.pt")
    assert states_equal(one, other)
    predicted = [model.eval().predict(digits.test_images[:50], generator(2)) for model in (one, other)]
    assert torch.equal(*predicted) and predicted[0].dtype == torch.int64
    wrong = small_dt(images, T=1) if variant != "dt" else recipe(images, labels, "ct", embedding).model
    with pytest.raises(ValueError, match="holds a"):
        wrong.load(tmp_path / "model.pt")


@pytest.mark.parametrize("variant", ["dt", "fm"])
def test_the_papers_models_learn_digits(variant, digits):
    model = recipe(digits.train_images, digits.train_labels, variant, "one_hot", T=3 if variant == "dt" else 20).model
    chance = accuracy(model.eval(), digits.test_images, digits.test_labels, generator())
    fit(
        model,
        digits.train_images,
        digits.train_labels,
        epochs=15 if variant == "dt" else 25,
        order="layer",
        generator=generator(),
    )
    assert accuracy(model, digits.test_images, digits.test_labels, generator()) > 0.9 > 0.5 > chance


@pytest.mark.parametrize("which", ["together", "layer", "shared"])
def test_bfloat16_learns_as_float32_does(which, digits):
    """Every step must see the weights of the step before, the encoder's too: a stale copy would not learn within an epoch."""
    images, labels, losses = digits.train_images[:512], digits.train_labels[:512], []
    for bf16 in (False, True):
        torch.manual_seed(0)
        if which == "shared":
            model = shared(images, K, num_steps=2).model
        else:
            layers = [DenoisingMLP(64, K, K, hidden_dim=32) for _ in range(2)]
            model = NoPropDT(nn.Flatten(), layers, torch.eye(K), cosine_alpha_bar(2))
        settings = {"epochs": 2, "batch_size": 16, "learning_rate": 2e-3 if which == "shared" else 1e-2}
        settings["order"] = "layer" if which == "layer" else "together"
        losses.append(fit(model, images, labels, **settings, bf16=bf16, generator=generator()))
    torch.testing.assert_close(losses[0], losses[1], rtol=0.1, atol=0.02)
    assert (losses[1][1] < 0.8 * losses[1][0]).all()


def test_radial_readout_reaches_the_prediction(digits):
    images, labels = digits.train_images[:200], digits.train_labels[:200]
    model = VARIANTS["dt"](images, torch.eye(K), num_steps=2, radial=True).model
    assert isinstance(model.readout, RadialReadout)
    fit(model, images, labels, epochs=1, order="layer", generator=generator())
    z = torch.randn(9, K, generator=generator())
    assert torch.equal(model.classify(z), model.readout(z, model.W).argmax(1))


# --- Interruption ---


def interrupted(epoch):
    def stop(finished):
        if finished == epoch:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("which", ["stack", "shared", "layer", "interleaved", "ct", "backprop"])
def test_resumed_training_gives_the_uninterrupted_weights(which, digits, tmp_path):
    images, labels = digits.train_images[:260], digits.train_labels[:260]

    def build():
        torch.manual_seed(0)
        if which == "shared":
            return shared(images, K, num_steps=2).model
        if which == "stack":
            layers = [DenoisingMLP(64, K, K, hidden_dim=16) for _ in range(3)]
            return NoPropDT(nn.Flatten(), layers, torch.eye(K), cosine_alpha_bar(3))
        if which in VARIANTS:
            return recipe(images, labels, which, "learned").model
        return small_dt(images, nn.Parameter(torch.eye(K)), T=2)

    order = "together" if which in ("stack", "shared") else which if which in ("layer", "interleaved") else "layer"
    settings = {"epochs": 4, "order": order, "one_cycle": True, "optimizer": "adamw", "weight_decay": 1e-3}
    straight, cut, resumed = build(), build(), build()
    losses = fit(straight, images, labels, **settings, generator=generator(7))
    file = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(cut, images, labels, **settings, generator=generator(7), checkpoint=file, after_epoch=interrupted(2))
    torch.rand(13)  # another process has another random state
    again = fit(resumed, images, labels, **settings, generator=generator(7), checkpoint=file, resume=True)
    assert states_equal(straight, resumed) and torch.equal(losses, again)
    assert not states_equal(straight, cut)


def test_checkpoints_may_be_written_less_often(digits, tmp_path, monkeypatch):
    """By a clock that stands still but for 30 seconds an epoch: with a minute between them, after epochs 2, 4 and the last."""
    images, labels, now, saved = digits.train_images[:40], digits.train_labels[:40], [0.0], []
    monkeypatch.setattr(training, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(training.checkpoints, "save", lambda path, content: saved.append(len(content["history"])))

    def train(**settings):
        saved.clear()
        fit(
            small_dt(images, T=1), images, labels, epochs=5, order="layer", checkpoint=tmp_path / "run.pt", **settings,
            progress=lambda steps, description: now.__setitem__(0, now[0] + 30) or steps,
        )  # fmt: skip
        return list(saved)

    assert train(checkpoint_every=60) == [2, 4, 5]
    assert train() == [1, 2, 3, 4, 5]


def test_resuming_another_run_is_refused(digits, tmp_path):
    images, labels = digits.train_images[:200], digits.train_labels[:200]
    settings = {"epochs": 2, "order": "layer", "checkpoint": tmp_path / "run.pt"}
    fit(small_dt(images), images, labels, **settings, generator=generator())
    for changes, message in [
        ({"generator": generator(1)}, "with seed 0; this one has 1"),
        ({"epochs": 3}, "with epochs 2; this one has 3"),
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"about": {"dataset": "mnist"}}, "with dataset None; this one has mnist"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(small_dt(images), images, labels, **{"generator": generator(), **settings, **changes}, resume=True)
    with pytest.raises(ValueError, match="resume needs the checkpoint"):
        fit(small_dt(images), images, labels, epochs=2, order="layer", resume=True)


@pytest.mark.parametrize("preset, variant, embedding", [
    ("shared", "dt", "one_hot"), ("local", "dt", "one_hot"), ("published", "dt", "one_hot"),
    ("paper", "dt", "prototype"), ("paper", "ct", "learned"), ("paper", "fm", "one_hot"), ("paper", "backprop", "one_hot"),
])  # fmt: skip
def test_a_trained_model_comes_back_from_its_file_alone(preset, variant, embedding, digits, tmp_path):
    small = digits._replace(train_images=digits.train_images[:150], train_labels=digits.train_labels[:150])
    trained = experiments.train_model(
        small, preset, variant=variant, embedding=embedding, epochs=1, checkpoint=tmp_path / "m.pt"
    )
    loaded = load_trained(tmp_path / "m.pt")
    assert states_equal(trained.model, loaded)
    options = {"num_steps": 5} if variant in ("ct", "fm") else {}
    predicted = [m.predict(digits.test_images[:20], generator(), **options) for m in (trained.model, loaded)]
    assert torch.equal(*predicted)


def test_weights_without_a_description_are_not_guessed(digits, tmp_path):
    small_dt(digits.train_images).save(tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="does not say what model it holds"):
        load_trained(tmp_path / "weights.pt")


# --- The rest ---


def test_a_last_batch_of_one_does_not_break_batch_norm(digits):
    images, labels = digits.train_images[:65], digits.train_labels[:65]
    fit(small_dt(images, T=1), images, labels, epochs=1, batch_size=32, order="layer", generator=generator())


def test_bf16_trains_to_nearly_the_same_loss(digits):
    images, labels = digits.train_images[:256], digits.train_labels[:256]
    full, half = (
        fit(small_dt(images, T=1), images, labels, epochs=3, order="layer", bf16=bf16, generator=generator())
        for bf16 in (False, True)
    )
    torch.testing.assert_close(half, full, rtol=0.05, atol=0)
    assert not torch.equal(half, full)


@pytest.mark.parametrize("preset, variant", [("shared", "dt"), ("local", "dt"), ("paper", "dt"), ("paper", "ct"), ("paper", "fm"), ("paper", "backprop")])  # fmt: skip
def test_nothing_of_the_test_split_reaches_training(preset, variant, digits):
    """Another test split, the same weights: training and its choices see the training split alone."""
    small = digits._replace(train_images=digits.train_images[:150], train_labels=digits.train_labels[:150])
    small = small._replace(test_images=digits.test_images[:20], test_labels=digits.test_labels[:20])
    garbled = small._replace(test_images=1 - small.test_images, test_labels=small.test_labels.flip(0))
    embedding = "prototype" if preset == "paper" else "one_hot"
    models = [
        experiments.train_model(data, preset, variant=variant, embedding=embedding, epochs=1).model
        for data in (small, garbled)
    ]
    assert states_equal(*models)


def test_augmented_images_reach_the_layers_and_frozen_constants_still_apply(digits):
    """Upside-down images through ``augment`` train the same weights as upside-down images given directly."""
    images, labels = digits.train_images[:100], digits.train_labels[:100]
    plain, flipped = small_dt(images, T=1), small_dt(images, T=1)
    fit(plain, images.flip(2), labels, epochs=1, order="layer", generator=generator())
    fit(flipped, images, labels, epochs=1, order="layer", augment=lambda x: x.flip(2), generator=generator())
    assert states_equal(plain.layers, flipped.layers)


@pytest.mark.parametrize("order", ["together", "layer", "interleaved"])
def test_feature_dropout_zeroes_a_share_and_keeps_the_mean(order, digits):
    """Every batch anew, in training alone; the same seed gives the same weights."""
    seen, images, labels = [], torch.ones(300, 1, 8, 8), digits.train_labels[:300]

    class Spy(DenoisingMLP):
        def forward(self, features, z):
            seen.append(features)
            return super().forward(features, z)

    def train():
        torch.manual_seed(0)
        model = NoPropDT(
            nn.Flatten(), [Spy(64, K, K, hidden_dim=4) for _ in range(2)], torch.eye(K), cosine_alpha_bar(2)
        )
        fit(model, images, labels, epochs=2, batch_size=100, order=order, feature_dropout=0.25, generator=generator(3))
        return model

    first = train()
    values = torch.cat([x.detach().flatten() for x in seen])
    assert set(values.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (values == 0).double().mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / len(values)) ** 0.5)
    assert not torch.equal(seen[0], seen[-1])
    torch.manual_seed(99)
    assert states_equal(first, train())
    seen.clear()
    first.predict(images[:5], generator())
    assert all((x == 1).all() for x in seen)


def test_a_frozen_encoder_stays_as_it_predicts(digits):
    images, labels = digits.train_images[:100], digits.train_labels[:100]
    model = small_dt(images, T=1)
    model.encoder = nn.BatchNorm2d(1).requires_grad_(False)
    fit(model, images, labels, epochs=1, order="layer", augment=lambda x: x, generator=generator())
    assert model.encoder.num_batches_tracked == 0


def test_a_chain_without_inference_noise_draws_nothing_but_its_start(digits):
    """z_{t-1} = a u_hat + b z alone: the same start gives the same answer, whatever the generator draws later."""
    model, states = small_dt(digits.train_images).eval(), []
    model.predict(digits.test_images[:9], generator(), lambda t, z, u_hat: states.append((z, u_hat)), noise=False)
    z = torch.randn(9, K, generator=generator())
    a, b, _ = (x.float() for x in model.posterior)
    for t, (state, u_hat) in zip((3, 2, 1), states):
        z = a[t - 1] * u_hat + b[t - 1] * z
        torch.testing.assert_close(state, z)
    model.inference_noise = False

    def last_state(noise):
        model.predict(digits.test_images, generator(), lambda t, z, u_hat: states.append(z), noise=noise)
        return states[-1]

    own_way, quiet, noisy = map(last_state, (None, False, True))
    assert torch.equal(own_way, quiet) and not torch.equal(own_way, noisy)
    with pytest.raises(ValueError, match="only the posterior rule"):
        NoPropDT(
            model.encoder,
            list(model.layers),
            torch.eye(K),
            model.alpha_bar,
            levels=torch.rand(3),
            inference_noise=False,
        )
    published = experiments.PRESETS["published"](digits.train_images, K).model
    with pytest.raises(ValueError, match="only the posterior rule"):
        published.predict(digits.test_images[:9], noise=False)


def test_errors(digits):
    images, labels = digits.train_images[:20], digits.train_labels[:20]
    for changes, message in [
        ({"order": "random"}, "order must be together, layer or interleaved, got 'random'"),
        ({"order": "together"}, "use order='layer'"),
        ({"feature_dropout": 1.0}, "feature_dropout must be at least 0 and below 1, got 1.0"),
        ({"optimizer": "sgd"}, "optimizer must be adam or adamw, got 'sgd'"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(small_dt(images, T=1), images, labels, epochs=1, **{"order": "layer", **changes})
    learned = NoPropDT(nn.Flatten(), [DenoisingMLP(64, K, K)], nn.Parameter(torch.eye(K)), cosine_alpha_bar(1))
    with pytest.raises(ValueError, match="learned embeddings are not trained together"):
        fit(learned, images, labels, epochs=1)
    with pytest.raises(ValueError, match="embedding must be one of one_hot"):
        label_embedding("best", images, labels, K)
    with pytest.raises(ValueError, match="elbo needs a readout"):
        small_dt(images, readout=None)
    with pytest.raises(ValueError, match="take the preset paper"):
        experiments.train_model(digits, "shared", variant="ct")
    with pytest.raises(ValueError, match="unknown variant 'vae'"):
        experiments.train_model(digits, "paper", variant="vae")
