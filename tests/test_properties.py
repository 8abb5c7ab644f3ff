"""What holds for every number of layers, every schedule, shape and type: the mathematics is tried where nobody looked.

Hypothesis makes the cases up, the same ones each time, and shrinks what fails to its smallest form.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noprop_helpers import checkpoints
from noprop_helpers.diffusion import flow_path, forward_chain, ideal_denoiser, kl_to_prior, q_sample
from noprop_helpers.embeddings import nearest_class, nearest_distribution, orthogonal
from noprop_helpers.features import extract_patches, kmeans
from noprop_helpers.layerwise import layers_for_rank
from noprop_helpers.losses import (
    ct_loss,
    dt_loss,
    fm_loss,
    readout_loss,
    readout_loss_gradient,
    squared_error,
    squared_error_gradient,
)
from noprop_helpers.samplers import sample_euler, sample_heun, sample_posterior, sample_renoise
from noprop_helpers.schedules import (
    LearnedGamma,
    alpha_bar_from_alphas,
    alphas_from_alpha_bar,
    cosine_alpha_bar,
    posterior_coefficients,
    snr,
    snr_weights,
)

# Nothing by chance, nothing kept on disk, no clock: what a suite must be that runs everywhere.
every = settings(derandomize=True, max_examples=30, deadline=None, database=None)

FLOATS = st.sampled_from([torch.float32, torch.float64])
SMALL = st.integers(1, 5)
LEVELS = st.floats(0.0, 1.0)
SEEDS = st.integers(0, 10**6)


@st.composite
def cosines(draw):
    """Any cosine schedule of this book, with the ends that it was asked for."""
    noise_end = draw(st.floats(1e-6, 0.4))
    clean_end = draw(st.floats(noise_end + 0.1, 1 - 1e-6))
    return cosine_alpha_bar(draw(st.integers(1, 60)), draw(st.floats(0.0, 0.5)), clean_end, noise_end), clean_end, noise_end


@st.composite
def schedules(draw):
    """alpha_bar of any cosine, or of any steps: each keeps between 1 and 99.9 % of the signal."""
    if draw(st.booleans()):
        return draw(cosines())[0]
    alphas = draw(st.lists(st.floats(0.01, 0.999), min_size=1, max_size=20))
    return draw(st.floats(0.5, 0.999)) * alpha_bar_from_alphas(torch.tensor(alphas, dtype=torch.float64))


def normal(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def close(dtype):
    """Rounding, with room for a few dozen operations."""
    return {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}


# --- Schedules ---


@every
@given(cosines())
def test_a_cosine_runs_down_between_its_ends(made):
    table, clean_end, noise_end = made
    assert table.dtype == torch.float64 and (table.diff() < 0).all()
    assert abs(table[0] - clean_end) < 1e-12 and abs(table[-1] - noise_end) < 1e-12


@every
@given(schedules())
def test_a_posterior_keeps_signal_variance_and_information(alpha_bar):
    """Eqs. (1.7), (1.8), (1.9)."""
    a, b, c = posterior_coefficients(alpha_bar)
    before, after = alpha_bar[:-1], alpha_bar[1:]
    torch.testing.assert_close(a + b * after.sqrt(), before.sqrt(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(b**2 * (1 - after) + c, 1 - before, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(a**2, c * snr_weights(alpha_bar), rtol=1e-6, atol=1e-9)
    assert min(a.min(), b.min(), c.min()) >= 0


@every
@given(schedules())
def test_weights_add_up_to_what_the_schedule_loses(alpha_bar):
    weights = snr_weights(alpha_bar)
    assert len(weights) == len(alpha_bar) - 1 and (weights >= 0).all()
    torch.testing.assert_close(weights.sum(), snr(alpha_bar[0]) - snr(alpha_bar[-1]), rtol=1e-9, atol=1e-9)


@every
@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20), FLOATS)
def test_steps_and_their_product_are_inverse(alphas, dtype):
    alphas = torch.tensor(alphas, dtype=dtype)
    alpha_bar = alpha_bar_from_alphas(alphas)
    assert alpha_bar[0] == 1 and (alpha_bar.diff() <= 0).all()
    torch.testing.assert_close(alphas_from_alpha_bar(alpha_bar), alphas.double(), rtol=1e-9, atol=0)


@every
@given(st.floats(-10, 5), st.floats(0.1, 15), st.integers(1, 40), SEEDS)
def test_a_learned_schedule_increases_from_end_to_end(gamma_0, distance, hidden_dim, seed):
    gamma = LearnedGamma(gamma_0, gamma_0 + distance, hidden_dim).double()
    with torch.no_grad():
        gamma.bias += normal(seed, hidden_dim)
        values, rate = gamma(torch.linspace(0, 1, 33, dtype=torch.float64))
    assert (values.diff() > 0).all() and (rate > 0).all()
    ends = torch.tensor([gamma_0, gamma_0 + distance], dtype=torch.float64)
    torch.testing.assert_close(values[[0, -1]], ends, rtol=1e-4, atol=1e-4)


# --- Diffusion ---


@every
@given(schedules(), SMALL, SMALL, FLOATS, SEEDS)
def test_all_layers_states_at_once_are_each_layers_own(alpha_bar, B, D, dtype, seed):
    levels = alpha_bar[1:]
    u, noise = normal(seed, B, D, dtype=dtype), normal(seed + 1, len(levels), B, D, dtype=dtype)
    states = q_sample(u, levels, noise)
    assert states.dtype == dtype and states.shape == noise.shape
    for t, level in enumerate(levels.tolist()):
        torch.testing.assert_close(states[t], level**0.5 * u + (1 - level) ** 0.5 * noise[t], **close(dtype))
        torch.testing.assert_close(q_sample(u, level, noise[t]), states[t], **close(dtype))


@every
@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=10), SMALL, SMALL, FLOATS)
def test_a_chain_carries_the_label_at_the_schedules_size(alphas, B, D, dtype):
    """What a label adds to the states of the same draws is sqrt(alpha_bar_t) of it."""
    u, alphas = torch.zeros(B, D, dtype=dtype), torch.tensor(alphas, dtype=torch.float64)
    states = forward_chain(u, alphas, torch.Generator().manual_seed(0))
    assert states.shape == (len(alphas) + 1, B, D) and states.dtype == dtype and torch.equal(states[0], u)
    shifted = forward_chain(u + 1, alphas, torch.Generator().manual_seed(0))
    signal = alpha_bar_from_alphas(alphas).sqrt().to(dtype)
    torch.testing.assert_close(shifted - states, signal[:, None, None].expand_as(states), **close(dtype))


@every
@given(st.floats(0.0, 0.99), SMALL, SMALL, st.integers(1, 6), SEEDS)
def test_the_best_guess_is_a_mixture_of_labels(alpha_bar, B, D, K, seed):
    """And the label itself where one class is all there is; the classes' order does not matter."""
    z, W, prior = normal(seed, B, D), normal(seed + 1, K, D), normal(seed + 2, K).log_softmax(0)
    guess = ideal_denoiser(z, alpha_bar, W, prior)
    assert (guess <= W.max(0).values + 1e-9).all() and (guess >= W.min(0).values - 1e-9).all()
    torch.testing.assert_close(ideal_denoiser(z, alpha_bar, W.flip(0), prior.flip(0)), guess)
    torch.testing.assert_close(ideal_denoiser(z, alpha_bar, W[:1], prior[:1]), W[:1].expand(B, D))


@every
@given(LEVELS, SMALL, SMALL, FLOATS, SEEDS)
def test_a_straight_path_leads_to_both_its_ends(t, B, D, dtype, seed):
    u, noise = normal(seed, B, D, dtype=dtype), normal(seed + 1, B, D, dtype=dtype)
    z, velocity = flow_path(u, t, noise)
    torch.testing.assert_close(z - t * velocity, u, **close(dtype))
    torch.testing.assert_close(z + (1 - t) * velocity, noise, **close(dtype))


@every
@given(st.floats(0.0, 0.999), st.floats(0.0, 0.999), SMALL, SMALL, SEEDS)
def test_less_signal_is_nearer_to_the_prior(one, other, B, D, seed):
    u, (less, more) = normal(seed, B, D), sorted((one, other))
    near, far = kl_to_prior(u, less), kl_to_prior(u, more)
    assert near.shape == (B,) and (near >= -1e-9).all() and (near <= far + 1e-9).all()


# --- Losses ---


@every
@given(st.integers(1, 4), SMALL, SMALL, FLOATS, SEEDS)
def test_losses_of_a_stack_are_its_layers_losses(T, B, D, dtype, seed):
    """And nothing where the guess is right; a sample's loss stays with it wherever it stands in the batch."""
    u_hat, u = normal(seed, T, B, D, dtype=dtype), normal(seed + 1, B, D, dtype=dtype)
    weights, order = normal(seed, T).abs(), torch.randperm(B, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(B) % D
    for loss in (squared_error, lambda a, b: dt_loss(a, b, weights[: len(a)] if a.ndim == 3 else 1.0, T), fm_loss):
        stacked = loss(u_hat, u)
        assert stacked.shape == (T, B) and stacked.dtype == dtype and (stacked >= 0).all()
        assert (loss(u, u) == 0).all()
        torch.testing.assert_close(loss(u_hat[:, order], u[order]), stacked[:, order])
    torch.testing.assert_close(squared_error(u_hat, u), fm_loss(u_hat, u) / D, **close(dtype))
    torch.testing.assert_close(ct_loss(u_hat[0], u, torch.ones(B, dtype=dtype)), fm_loss(u_hat[0], u) / 2, **close(dtype))
    for t in range(T):
        one = dt_loss(u_hat[t], u, float(weights[t]), T)
        torch.testing.assert_close(dt_loss(u_hat, u, weights, T)[t], one, **close(dtype))
        torch.testing.assert_close(readout_loss(u_hat, labels)[t], readout_loss(u_hat[t], labels))


@every
@given(st.integers(1, 4), SMALL, st.integers(1, 6), st.floats(-30, 30), SEEDS)
def test_readout_depends_on_differences_of_logits_alone(T, B, K, shift, seed):
    logits = 3 * normal(seed, T, B, K)
    labels = torch.randint(K, (B,), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(readout_loss(logits + shift, labels), readout_loss(logits, labels))
    gradient = readout_loss_gradient(logits, labels)
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(T, B, dtype=torch.float64))
    assert (gradient.gather(-1, labels.expand(T, B)[..., None]) <= 0).all()


@every
@given(SMALL, SMALL, st.floats(0.01, 0.4), SEEDS)
def test_a_step_down_the_gradient_lowers_the_loss(B, D, rate, seed):
    u_hat, u = normal(seed, B, D), normal(seed + 1, B, D)
    stepped = u_hat - rate * squared_error_gradient(u_hat, u)
    assert (squared_error(stepped, u) < squared_error(u_hat, u)).all()


# --- Samplers ---


@every
@given(schedules(), SMALL, SMALL, SEEDS)
def test_who_knows_the_label_walks_along_the_schedule(alpha_bar, B, D, seed):
    """Eq. (1.7) all the way: without noise the state is sqrt(alpha_bar_t) u at every time."""
    u = normal(seed, B, D)
    a, b, c = posterior_coefficients(alpha_bar)

    def check(t, z, u_hat):
        torch.testing.assert_close(z, alpha_bar[t - 1].sqrt() * u, rtol=1e-6, atol=1e-6)

    sample_posterior(lambda t, z: u, alpha_bar[-1].sqrt() * u, a, b, torch.zeros_like(c), callback=check)


@every
@given(schedules(), SMALL, SMALL, FLOATS, SEEDS)
def test_a_walk_has_a_state_for_every_layer_of_the_starts_type(alpha_bar, B, D, dtype, seed):
    z_T, T, seen = normal(seed, B, D, dtype=dtype), len(alpha_bar) - 1, []
    draw = torch.Generator().manual_seed(seed)
    for walk in (
        lambda callback: sample_posterior(lambda t, z: z, z_T, *posterior_coefficients(alpha_bar), draw, callback),
        lambda callback: sample_renoise(lambda t, z: z, z_T, alpha_bar[:-1], draw, callback),
    ):
        seen.clear()
        z_0 = walk(lambda t, z, u_hat: seen.append(t))
        assert seen == list(range(T, 0, -1)) and z_0.dtype == dtype and z_0.shape == z_T.shape


@every
@given(st.integers(1, 30), SMALL, SMALL, SEEDS)
def test_solvers_are_exact_where_they_should_be(steps, B, D, seed):
    """Euler where the velocity does not change, Heun where it changes evenly in time."""
    z_1, v, w = normal(seed, B, D), normal(seed + 1, B, D), normal(seed + 2, B, D)
    for solver in (sample_euler, sample_heun):
        torch.testing.assert_close(solver(lambda t, z: v, z_1, steps), z_1 - v)
    torch.testing.assert_close(sample_heun(lambda t, z: v + t * w, z_1, steps), z_1 - v - w / 2)
    torch.testing.assert_close(sample_euler(lambda t, z: t * w, z_1, steps), z_1 - (steps + 1) / (2 * steps) * w)


# --- Embeddings, features, shares, files ---


@every
@given(st.integers(1, 6), st.integers(0, 4), SMALL, SEEDS)
def test_a_label_is_its_own_nearest_and_a_mixture_its_own_shares(K, extra, B, seed):
    W = orthogonal(K, K + extra, torch.Generator().manual_seed(seed)).double()
    assert torch.equal(nearest_class(W, W), torch.arange(K))
    shares = normal(seed, B, K).softmax(1)
    torch.testing.assert_close(nearest_distribution(shares @ W, W), shares, rtol=1e-4, atol=1e-5)
    p = nearest_distribution(3 * normal(seed, B, K + extra), W)
    assert (p >= 0).all() and torch.allclose(p.sum(1), torch.ones(B, dtype=torch.float64))


@every
@given(SMALL, st.integers(1, 3), st.integers(1, 4), st.integers(0, 4), st.integers(0, 4), SEEDS)
def test_patches_are_windows_in_reading_order(B, C, size, more_rows, more_columns, seed):
    images = normal(seed, B, C, size + more_rows, size + more_columns)
    patches = extract_patches(images, size)
    assert patches.shape == (B, (more_rows + 1) * (more_columns + 1), C * size**2)
    windows = [
        images[:, :, y : y + size, x : x + size].flatten(1) for y in range(more_rows + 1) for x in range(more_columns + 1)
    ]
    expected = torch.stack([(w - w.mean(1, True)) / (w.std(1, correction=0, keepdim=True) + 0.1) for w in windows], 1)
    torch.testing.assert_close(patches, expected, rtol=1e-6, atol=1e-6)


@every
@given(st.integers(1, 5), st.integers(0, 20), SMALL, SEEDS)
def test_a_round_of_kmeans_never_comes_out_worse(k, more, d, seed):
    x = normal(seed, k + more, d)
    spread = [
        torch.cdist(x, kmeans(x, k, rounds, torch.Generator().manual_seed(seed))).min(1).values.square().sum().item()
        for rounds in range(4)
    ]
    assert all(later <= earlier + 1e-9 for earlier, later in zip(spread, spread[1:]))


@every
@given(st.integers(1, 40), st.integers(1, 50))
def test_every_layer_has_one_process(num_layers, world_size):
    shares = [layers_for_rank(num_layers, rank, world_size) for rank in range(world_size)]
    assert [t for share in shares for t in share] == list(range(1, num_layers + 1))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@every
@given(st.dictionaries(st.text(max_size=6).filter(lambda name: name != "format"), PLAIN, max_size=4))
def test_what_is_saved_is_what_is_read(folder, content):
    checkpoints.save(folder / "a.pt", content)
    assert checkpoints.load(folder / "a.pt") == {"format": checkpoints.FORMAT, **content}
