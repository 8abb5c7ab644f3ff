import math

import pytest
import torch

from noprop_helpers.diffusion import flow_path, forward_chain, ideal_denoiser, kl_to_prior, q_sample
from noprop_helpers.embeddings import one_hot
from noprop_helpers.schedules import alpha_bar_from_alphas, linear_alphas

N = 200_000


def assert_moments(samples, mean, variance):
    """Sample mean and variance within 5 standard errors of the exact values, entry by entry."""
    n = len(samples)
    assert ((samples.mean(0) - mean).abs() <= 5 * math.sqrt(variance / n)).all()
    # The variance of n Gaussian draws has standard error variance * sqrt(2 / n).
    assert ((samples.var(0) - variance).abs() <= 5 * variance * math.sqrt(2 / n)).all()


@pytest.mark.parametrize("alpha_bar", [0.9, 0.5, 0.01])
def test_q_sample_has_the_stated_moments(alpha_bar):
    """Eqs. (1.2), (2.2)."""
    u = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(N, 3)
    noise = torch.randn(N, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = q_sample(u, alpha_bar, noise)
    assert_moments(z, math.sqrt(alpha_bar) * u[0], 1 - alpha_bar)


def test_chain_and_closed_form_agree_at_every_time():
    """Eqs. (1.1), (2.1): Composing T single steps gives N(sqrt(alpha_bar_t) u, 1 - alpha_bar_t), the closed form."""
    alphas = linear_alphas(10, 0.95, 0.1)
    alpha_bar = alpha_bar_from_alphas(alphas).tolist()
    u = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(N, 2)
    states = forward_chain(u, alphas, generator=torch.Generator().manual_seed(1))
    assert states.shape == (11, N, 2)
    assert torch.equal(states[0], u)
    for t in range(1, 11):
        assert_moments(states[t], math.sqrt(alpha_bar[t]) * u[0], 1 - alpha_bar[t])


def test_published_first_step_changes_nothing():
    u = one_hot(torch.arange(4), 4)
    states = forward_chain(u, linear_alphas(10))
    assert torch.equal(states[1], u)
    assert not torch.equal(states[2], u)


def test_q_sample_at_the_ends():
    u, noise = torch.randn(2, 5, 3)
    assert torch.equal(q_sample(u, 1.0, noise), u)
    assert torch.equal(q_sample(u, 0.0, noise), noise)


def test_q_sample_per_sample_and_per_layer_levels():
    u = torch.randn(4, 3)
    per_sample = torch.tensor([0.1, 0.4, 0.7, 1.0])
    noise = torch.randn(4, 3)
    expected = torch.stack([a.sqrt() * u[i] + (1 - a).sqrt() * noise[i] for i, a in enumerate(per_sample)])
    torch.testing.assert_close(q_sample(u, per_sample, noise), expected)
    per_layer, noise = torch.tensor([0.9, 0.2]), torch.randn(2, 4, 3)
    expected = torch.stack([q_sample(u, a, n) for a, n in zip(per_layer, noise)])
    torch.testing.assert_close(q_sample(u, per_layer, noise), expected)


def test_same_generator_same_states():
    u, alphas = torch.randn(3, 2), linear_alphas(4)
    first, second = (forward_chain(u, alphas, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)


def test_dtype_follows_the_embedding():
    u = torch.randn(2, 3, dtype=torch.float64)
    assert q_sample(u, torch.tensor(0.5), torch.randn_like(u)).dtype == torch.float64
    assert q_sample(u.float(), torch.tensor(0.5, dtype=torch.float64), torch.randn(2, 3)).dtype == torch.float32


def test_numbers_have_the_precision_of_the_embedding():
    """0.3 is another number in float32, and nothing says which one was meant."""
    u, noise = torch.randn(2, 5, 3, dtype=torch.float64)
    exact = {"rtol": 1e-14, "atol": 1e-15}
    torch.testing.assert_close(q_sample(u, 0.3, noise), 0.3**0.5 * u + 0.7**0.5 * noise, **exact)
    in_bfloat16 = q_sample(u.bfloat16(), 0.999, torch.zeros(5, 3, dtype=torch.bfloat16))  # 1 in bfloat16, which has no 0.999
    assert in_bfloat16.dtype == torch.bfloat16 and torch.equal(in_bfloat16, torch.tensor(0.999).sqrt().bfloat16() * u.bfloat16())
    torch.testing.assert_close(flow_path(u, 0.3, noise).z, 0.7 * u + 0.3 * noise, **exact)
    torch.testing.assert_close(
        kl_to_prior(u, 0.3), 0.5 * (3 * (-math.log(0.7) - 0.3) + 0.3 * u.square().sum(1)), **exact
    )
    in_float64 = torch.full((5,), 0.3, dtype=torch.float64)
    assert flow_path(u.float(), in_float64, noise.float()).z.dtype == torch.float32
    assert forward_chain(u, linear_alphas(2)).dtype == torch.float64
    assert forward_chain(u.float(), linear_alphas(2)).dtype == torch.float32


def test_all_happens_where_the_embedding_is():
    """Levels and times from the CPU join an embedding elsewhere; values there are not looked at, which would stall a queue."""
    u, level = torch.zeros(5, 3, device="meta"), torch.full((5,), 0.3)
    for result in (
        q_sample(u, level, u), flow_path(u, level, u).z, forward_chain(u, linear_alphas(2))[1], kl_to_prior(u, 2.0),
    ):  # fmt: skip
        assert result.device == u.device and len(result) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_steps_noise_is_added_as_it_is_drawn(dtype):
    u, draw = torch.ones(9, 3, dtype=dtype), torch.Generator().manual_seed(5)
    noise = [torch.randn(9, 3, generator=draw, dtype=dtype) for _ in range(2)]
    states = forward_chain(u, torch.tensor([0.64, 0.36], dtype=torch.float64), torch.Generator().manual_seed(5))
    torch.testing.assert_close(states[1], 0.8 * u + 0.6 * noise[0])
    torch.testing.assert_close(states[2], 0.6 * states[1] + 0.8 * noise[1])


def test_a_table_keeps_its_precision_until_it_is_used():
    """1 - alpha_bar in float32 would be wrong in the fourth digit at the clean end of the book's schedule."""
    level = torch.tensor([0.9999], dtype=torch.float64)
    z = q_sample(torch.zeros(1, 2), level, torch.ones(1, 2))
    torch.testing.assert_close(z, torch.full((1, 2), 0.01), rtol=1e-6, atol=0)


def test_kl_to_prior_against_torch_distributions():
    """Eq. (2.4)."""
    u, alpha_bar = torch.randn(6, 4, dtype=torch.float64), 0.3
    q = torch.distributions.Normal(math.sqrt(alpha_bar) * u, math.sqrt(1 - alpha_bar))
    p = torch.distributions.Normal(torch.zeros_like(u), 1.0)
    torch.testing.assert_close(kl_to_prior(u, alpha_bar), torch.distributions.kl_divergence(q, p).sum(1))
    assert (kl_to_prior(u, 0.0) == 0).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: q_sample(torch.ones(3, 2), 0.5, torch.ones(3, 1)), r"end in the shape of u, \[3, 2\].*got \[3, 1\]"),
        (lambda: q_sample(torch.ones(3), 0.5, torch.ones(3)), r"at least \[B, D\]"),
        (lambda: q_sample(torch.ones(3, 2), torch.ones(2), torch.ones(3, 2)), r"got shape \[2\]"),
        (lambda: q_sample(torch.ones(3, 2), 1.5, torch.ones(3, 2)), r"\[0, 1\], got 1.5"),
        (lambda: q_sample(torch.ones(3, 2), math.nan, torch.ones(3, 2)), "got nan"),
        (lambda: q_sample(torch.ones(3, 2), torch.tensor([0.5, -0.5, 0.5]), torch.ones(3, 2)), r"got \[0.5, -0.5, 0.5\]"),
        (lambda: forward_chain(torch.ones(3), linear_alphas(2)), r"u must have shape \[B, D\], got \[3\]"),
        (lambda: forward_chain(torch.ones(3, 2), torch.tensor([0.5, 0.0])), r"in \(0, 1\]"),
        (lambda: forward_chain(torch.ones(3, 2), torch.tensor([])), "T >= 1"),
        (lambda: forward_chain(torch.ones(3, 2), torch.tensor([0.5, 1.5])), r"in \(0, 1\], got \[0.5, 1.5\]"),
        (lambda: flow_path(torch.ones(3, 2), 0.5, torch.ones(3, 1)), r"got \[3, 2\], \[3, 1\]"),
        (lambda: flow_path(torch.ones(3, 2), torch.ones(2), torch.ones(3, 2)), r"\[2\]"),
        (lambda: kl_to_prior(torch.ones(3, 2), 1.0), r"\[0, 1\)"),
        (lambda: kl_to_prior(torch.ones(3), 0.5), r"got u \[3\], alpha_bar_T 0.5"),
        (lambda: kl_to_prior(torch.ones(3, 2), torch.full((3,), 0.5)), r"one alpha_bar_T in \[0, 1\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


U = torch.ones(3, 2)


@pytest.mark.parametrize(
    "call, message",
    [
        *(
            (call, "u must be a floating-point tensor, got torch.int64")
            for call in (
                lambda: q_sample(U.long(), 0.5, U), lambda: flow_path(U.long(), 0.5, U.long()),
                lambda: forward_chain(U.long(), linear_alphas(2)), lambda: kl_to_prior(U.long(), 0.5),
            )
        ),
        *(
            (call, f"{name} must be a number or a tensor of numbers, got 'half'")
            for name, call in (
                ("alpha_bar_t", lambda: q_sample(U, "half", U)),
                ("alpha_bar_t", lambda: ideal_denoiser(U, "half", torch.eye(2), torch.zeros(2))),
                ("t", lambda: flow_path(U, "half", U)),
                ("alphas", lambda: forward_chain(U, "half")),
                ("alpha_bar_T", lambda: kl_to_prior(U, "half")),
            )
        ),
        (lambda: q_sample(U, 0.5, U.double()), "expected u and noise of one type, got torch.float32 and torch.float64"),
        (
            lambda: ideal_denoiser(U, 0.5, torch.eye(2).double(), torch.zeros(2).half()),
            "expected z_t, W and log_prior of one type, got torch.float32, torch.float64 and torch.float16",
        ),
        *(
            (
                lambda prior=prior: ideal_denoiser(U, 0.5, torch.eye(2), torch.tensor(prior)),
                "expected a log_prior without NaN that finds one label possible at least, got no such",
            )
            for prior in ([0.0, math.nan], [-math.inf, -math.inf])
        ),
        (lambda: flow_path(U, 0.5, U, torch.ones(2)), "expected a jitter of the shape of u, [3, 2], got [2]"),
        *((lambda t=t: flow_path(U, t, U), f"t must lie in [0, 1], got {t}") for t in (1.5, -0.5, math.nan)),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


def test_a_seed_is_no_generator():
    with pytest.raises(TypeError, match="^generator must be a torch.Generator or None, got 0$"):
        forward_chain(U, linear_alphas(2), generator=0)


def test_flow_path_is_straight_and_its_velocity_the_derivative():
    """Eqs. (10.1), (10.2)."""
    u, noise = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(flow_path(u, 0.0, noise).z, u)
    torch.testing.assert_close(flow_path(u, 1.0, noise).z, noise)
    t = torch.rand(5, dtype=torch.float64)
    here, there = flow_path(u, t, noise), flow_path(u, t + 1e-3, noise)
    torch.testing.assert_close((there.z - here.z) / 1e-3, here.velocity)
    torch.testing.assert_close(flow_path(u, t, noise, jitter=torch.ones_like(u)).z, here.z + 1)


# --- The best guess -----------------------------------------------------------


def words():
    """Three embeddings of different lengths, and how likely they are."""
    W = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [-1.0, 0.5, 2.0]], dtype=torch.float64)
    return W, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


@pytest.mark.parametrize("alpha_bar", [0.0, 0.3, 0.97])
def test_ideal_denoiser_is_bayes_rule(alpha_bar):
    """Against densities that torch computes itself."""
    W, p = words()
    z = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    density = torch.distributions.Normal(math.sqrt(alpha_bar) * W, math.sqrt(1 - alpha_bar))
    joint = p * density.log_prob(z[:, None]).sum(2).exp()  # [50, 3]
    torch.testing.assert_close(ideal_denoiser(z, alpha_bar, W, p.log()), joint / joint.sum(1, keepdim=True) @ W)


def test_ideal_denoiser_takes_a_level_as_exact_as_it_is_given():
    """0.3 is another number in float32."""
    W, p = words()
    at = [ideal_denoiser(W, level, W, p.log()) for level in (0.3, torch.tensor(0.3, dtype=torch.float64))]
    torch.testing.assert_close(*at, rtol=0, atol=0)


def test_ideal_denoiser_takes_a_prior_for_every_state():
    W, p = words()
    z = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    priors = torch.stack([p, p.flip(0)])
    each = [ideal_denoiser(z[i : i + 1], 0.4, W, priors[i].log()) for i in range(2)]
    torch.testing.assert_close(ideal_denoiser(z, 0.4, W, priors.log()), torch.cat(each))


def test_what_the_ideal_denoiser_misses_depends_on_nothing_it_sees():
    """So no function of the state could correct it: u - u_hat is uncorrelated with the state and with the guess itself."""
    W, p = words()
    draw = torch.Generator().manual_seed(0)
    u = W[torch.multinomial(p, N, replacement=True, generator=draw)]
    z = q_sample(u, 0.6, torch.randn(N, 3, dtype=torch.float64, generator=draw))
    guess = ideal_denoiser(z, 0.6, W, p.log())
    for seen in (torch.ones_like(z), z, guess, z.square()):
        products = (u - guess) * seen
        assert ((products.mean(0)).abs() <= 5 * products.std(0) / math.sqrt(N)).all()


@pytest.mark.parametrize(
    "z, alpha_bar, W, log_prior, message",
    [
        (torch.zeros(2, 3), 0.5, torch.zeros(4, 2), torch.zeros(4), r"expected z_t \[B, D\] and W \[K, D\], got \[2, 3\] and \[4, 2\]"),
        (torch.zeros(3), 0.5, torch.zeros(4, 3), torch.zeros(4), r"expected z_t \[B, D\]"),
        (torch.zeros(2, 3), 0.5, torch.zeros(4, 3), torch.zeros(3), r"log_prior \[K\] or \[B, K\] for 4 labels, got \[3\]"),
        (torch.zeros(2, 3), 0.5, torch.zeros(4, 3), torch.zeros(3, 4), r"log_prior .* got \[3, 4\]"),
        (torch.zeros(2, 3), 1.0, torch.zeros(4, 3), torch.zeros(4), r"alpha_bar_t must lie in \[0, 1\), got 1.0"),
        (torch.zeros(2, 3), -0.1, torch.zeros(4, 3), torch.zeros(4), r"alpha_bar_t must lie in"),
        (torch.zeros(2, 3), float("nan"), torch.zeros(4, 3), torch.zeros(4), r"alpha_bar_t must lie in"),
    ],
)  # fmt: skip
def test_ideal_denoiser_refuses_what_does_not_fit(z, alpha_bar, W, log_prior, message):
    with pytest.raises(ValueError, match=message):
        ideal_denoiser(z, alpha_bar, W, log_prior)
