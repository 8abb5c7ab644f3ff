import math

import pytest
import torch

from noprop_helpers.diffusion import q_sample
from noprop_helpers.samplers import sample_euler, sample_heun, sample_posterior, sample_renoise
from noprop_helpers.schedules import (
    alpha_bar_from_alphas,
    cosine_alpha_bar,
    linear_alphas,
    posterior_coefficients,
)

N, T = 100_000, 10
ALPHA_BAR = cosine_alpha_bar(T)
COEFFICIENTS = posterior_coefficients(ALPHA_BAR)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def label_and_start():
    u = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(N, 3)
    noise = torch.randn(N, 3, dtype=torch.float64, generator=generator(1))
    return u, q_sample(u, float(ALPHA_BAR[T]), noise)


@pytest.mark.parametrize("rule", ["posterior", "renoise"])
def test_a_perfect_denoiser_walks_the_forward_marginals_backwards(rule):
    """With u_hat = u, z_t has mean sqrt(alpha_bar_t) u and variance 1 - alpha_bar_t at every time, to 5 standard errors."""
    u, z_T = label_and_start()
    checked = []

    def check(t, z, u_hat):
        alpha_bar = float(ALPHA_BAR[t - 1])
        variance = 1 - alpha_bar
        assert ((z.mean(0) - math.sqrt(alpha_bar) * u[0]).abs() <= 5 * math.sqrt(variance / N)).all()
        assert ((z.var(0) - variance).abs() <= 5 * variance * math.sqrt(2 / N)).all()
        checked.append(t)

    if rule == "posterior":
        z_0 = sample_posterior(lambda t, z: u, z_T, *COEFFICIENTS, generator(2), check)
    else:
        z_0 = sample_renoise(lambda t, z: u, z_T, ALPHA_BAR[:-1], generator(2), check)
    assert checked == list(range(T, 0, -1))
    assert (z_0.argmax(1) == 1).all()


def test_the_published_levels_miss_the_forward_marginals():
    """Eq. (5.1): The notebook's rule with a perfect denoiser: layer t - 1 gets signal level alpha_t, not alpha_bar_{t-1}."""
    alphas = linear_alphas(T)
    alpha_bar = alpha_bar_from_alphas(alphas)
    u, z_T = label_and_start()
    signal = {}
    sample_renoise(lambda t, z: u, z_T, alphas, generator(2), lambda t, z, _: signal.update({t - 1: z[:, 1].mean().item()}))
    for t in range(1, T):
        assert signal[t] == pytest.approx(math.sqrt(alphas[t]), abs=0.02)
    # Layer 5 was trained where 55 % of the amplitude is left (alpha_bar_5 = .30); it is fed 71 % (alpha_6 = .5).
    assert signal[5] - math.sqrt(alpha_bar[5]) > 0.15


def test_one_step_by_hand():
    """Eqs. (4.1), (4.2)."""
    z_T, u_hat = torch.randn(2, 4, 3, dtype=torch.float64)
    a, b, c = (torch.tensor([value], dtype=torch.float64) for value in (0.3, 0.6, 0.25))
    noise = torch.randn(4, 3, dtype=torch.float64, generator=generator(3))
    z_0 = sample_posterior(lambda t, z: u_hat, z_T, a, b, c, generator(3))
    torch.testing.assert_close(z_0, 0.3 * u_hat + 0.6 * z_T + 0.5 * noise)
    z_0 = sample_renoise(lambda t, z: u_hat, z_T, torch.tensor([0.64]), generator(3))
    torch.testing.assert_close(z_0, 0.8 * u_hat + 0.6 * noise)


def test_layers_are_called_from_noise_to_label_with_their_own_state():
    seen = []
    states = {T: torch.randn(2, 3)}

    def denoise(t, z):
        assert torch.equal(z, states[t])
        seen.append(t)
        return torch.zeros_like(z)

    sample_posterior(denoise, states[T], *COEFFICIENTS, callback=lambda t, z, u_hat: states.update({t - 1: z}))
    assert seen == list(range(T, 0, -1))


@pytest.mark.parametrize("rule", ["posterior", "renoise", "euler", "heun"])
def test_a_callback_sees_state_and_what_was_said(rule):
    """What the layer or the velocity said of the state before, not None and not another step's."""
    said, seen, z_T = [], [], torch.randn(2, 3)

    def guess(t, z):
        said.append(z.tanh())
        return said[-1]

    def callback(t, z, value):
        seen.append((z, value))

    if rule == "posterior":
        end = sample_posterior(guess, z_T, *COEFFICIENTS, callback=callback)
    elif rule == "renoise":
        end = sample_renoise(guess, z_T, ALPHA_BAR[:-1], callback=callback)
    elif rule == "euler":
        end = sample_euler(guess, z_T, T, callback)
    else:
        end = sample_heun(guess, z_T, T, callback)
        said = [(here + ahead) / 2 for here, ahead in zip(said[::2], said[1::2])]
    assert len(seen) == len(said) == T and torch.equal(seen[-1][0], end)
    for (_, value), expected in zip(seen, said):
        assert torch.equal(value, expected)


def test_renoise_asks_each_layer_by_its_number():
    """And a level of 0 is one: what the layers above say does not matter then."""
    asked, u = [], torch.tensor([[0.0, 1.0]])
    end = sample_renoise(lambda t, z: asked.append(t) or t * u, torch.zeros(1, 2), torch.tensor([1.0, 0.0, 0.5]))
    assert asked == [3, 2, 1] and torch.equal(end, u)


def test_noise_is_of_the_states_type_and_where_the_state_is():
    for where in ({"dtype": torch.float64}, {"dtype": torch.bfloat16}, {"device": "meta"}):
        z_T = torch.zeros(2, 3, **where)
        for end in (
            sample_posterior(lambda t, z: z, z_T, *COEFFICIENTS), sample_renoise(lambda t, z: z, z_T, ALPHA_BAR[:-1]),
        ):  # fmt: skip
            assert (end.dtype, end.device, end.shape) == (z_T.dtype, z_T.device, z_T.shape)


def test_same_generator_same_walk():
    z_T = torch.randn(2, 3)
    first, second = (sample_posterior(lambda t, z: z.tanh(), z_T, *COEFFICIENTS, generator(4)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: sample_renoise(lambda t, z: z, torch.ones(3), torch.ones(2)), r"z_T must have shape \[B, D\]"),
        (lambda: sample_renoise(lambda t, z: z, torch.ones(2, 3), torch.ones(0)), "T >= 1"),
        (lambda: sample_renoise(lambda t, z: z, torch.ones(2, 3), torch.tensor([1.2])), r"\[0, 1\]"),
        (lambda: sample_renoise(lambda t, z: z, torch.ones(2, 3), torch.tensor([0.5, 1.5, 0.5])), r"got \[0.5, 1.5, 0.5\]"),
        (lambda: sample_renoise(lambda t, z: z, torch.ones(2, 3), torch.tensor([0.5, -0.5, 0.5])), r"got \[0.5, -0.5, 0.5\]"),
        (lambda: sample_renoise(lambda t, z: z, torch.ones(2, 3), torch.tensor([[0.5]])), r"shape \[T\] .* got \[\[1, 1\]\]"),
        (lambda: sample_renoise(lambda t, z: z[:, :1], torch.ones(2, 3), torch.ones(4)), "^at time 4, expected a value"),
        (lambda: sample_renoise(lambda t, z: z[:, :1], torch.ones(2, 3), torch.ones(1)), r"shape of z, \[2, 3\]"),
        (
            lambda: sample_posterior(lambda t, z: z, torch.ones(2, 3), torch.ones(2), torch.ones(2), torch.ones(3)),
            "one shape",
        ),
        (
            lambda: sample_posterior(lambda t, z: z, torch.ones(2, 3), torch.ones(3), torch.ones(2), torch.ones(2)),
            r"T >= 1, got \[\[3\], \[2\], \[2\]\]",
        ),
        (
            lambda: sample_posterior(lambda t, z: z, torch.ones(2, 3), torch.ones(2), torch.ones(3), torch.ones(2)),
            r"T >= 1, got \[\[2\], \[3\], \[2\]\]",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


Z, TWO = torch.ones(2, 3), torch.ones(2)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: sample_posterior(lambda t, z: z, Z, TWO, TWO, torch.tensor([0.5, -0.5])),
            "the variances c must be at least 0, got [0.5, -0.5]",
        ),
        (
            lambda: sample_posterior(lambda t, z: z, Z, TWO, [1.0, 1.0], TWO),
            "per-layer tables must be tensors, got ['Tensor', 'list', 'Tensor']",
        ),
        (
            lambda: sample_posterior(lambda t, z: z, Z, TWO, torch.tensor([1.0, math.inf]), TWO),
            "per-layer tables must be finite, got [1.0, inf]",
        ),
        (
            lambda: sample_renoise(lambda t, z: 0.0, Z, TWO),
            "at time 2, expected a tensor of the shape of z, [2, 3], got float",
        ),
        *(
            (lambda n=n: sample_euler(lambda t, z: z, Z, n), f"num_steps must be an integer, at least 1, got {n!r}")
            for n in (True, 2.0, 0)
        ),
    ],
)
def test_what_is_refused_is_named(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize(
    "walk",
    [
        lambda generator: sample_posterior(lambda t, z: z, Z, TWO, TWO, 0 * TWO, generator),
        lambda generator: sample_renoise(lambda t, z: z, Z, TWO, generator),
    ],
)
def test_a_seed_is_no_generator(walk):
    assert walk(generator()).shape == Z.shape  # no variance at all is one
    with pytest.raises(TypeError, match="^generator must be a torch.Generator or None, got 0$"):
        walk(0)


def decay(t, z):
    """dz/dt = (2 + t) z, with z(0) = z(1) exp(-2.5)."""
    return (2 + t) * z


@pytest.mark.parametrize("sampler, order", [(sample_euler, 1), (sample_heun, 2)])
def test_order_of_the_solvers_is_measured(sampler, order):
    z_1, exact = torch.ones(1, 1, dtype=torch.float64), math.exp(-2.5)
    errors = [abs(sampler(decay, z_1, n).item() - exact) for n in (40, 80, 160)]
    for coarse, fine in zip(errors, errors[1:]):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("sampler", [sample_euler, sample_heun])
def test_a_straight_path_takes_one_step(sampler):
    u, noise = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(sampler(lambda t, z: noise - u, noise, 1), u)


@pytest.mark.parametrize("sampler", [sample_euler, sample_heun])
def test_flow_callback_sees_every_state_from_noise_to_label(sampler):
    seen = []
    end = sampler(decay, torch.ones(2, 1), 4, lambda t, z, v: seen.append((t, z)))
    assert [t for t, _ in seen] == [0.75, 0.5, 0.25, 0.0] and torch.equal(seen[-1][1], end)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: sample_euler(decay, torch.ones(2), 4), r"\[B, D\], got \[2\]"),
        (lambda: sample_heun(decay, torch.ones(2, 1), 0), "at least 1, got 0"),
        (lambda: sample_euler(lambda t, z: z[:1], torch.ones(2, 1), 4), r"\[2, 1\], got \[1, 1\]"),
    ],
)
def test_flow_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
