import math

import pytest
import torch

from noprop_helpers.schedules import (
    LearnedGamma,
    alpha_bar_from_alphas,
    alphas_from_alpha_bar,
    cosine_alpha_bar,
    linear_alphas,
    posterior_coefficients,
    snr,
    snr_weights,
)

# Differences of alpha_bar near 1 cancel: float64 rounding 1e-16 over the smallest 1 - alpha_bar, 1e-4, leaves 1e-12.
EXACT = dict(rtol=1e-11, atol=1e-11)

TABLES = {
    "cosine-1": cosine_alpha_bar(1),
    "cosine-10": cosine_alpha_bar(10),
    "cosine-1000": cosine_alpha_bar(1000),
    "linear-10": alpha_bar_from_alphas(linear_alphas(10, 0.99, 0.1)),
    "linear-1000": alpha_bar_from_alphas(linear_alphas(1000, 0.9999, 0.98)),
}


@pytest.fixture(params=TABLES.values(), ids=TABLES.keys())
def alpha_bar(request):
    return request.param


def test_linear_alphas_are_the_notebooks():
    expected = torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    torch.testing.assert_close(linear_alphas(10), expected)


def test_alpha_bar_of_the_notebook():
    # The products 1 x .9 x .8 ..., written out by hand.
    expected = [1, 1, 0.9, 0.72, 0.504, 0.3024, 0.1512, 0.06048, 0.018144, 0.0036288, 0.00036288]
    torch.testing.assert_close(
        alpha_bar_from_alphas(linear_alphas(10)), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_alphas_and_alpha_bar_are_inverse():
    alphas = linear_alphas(10, 0.95, 0.2)
    torch.testing.assert_close(alphas_from_alpha_bar(alpha_bar_from_alphas(alphas)), alphas, rtol=1e-14, atol=0)


def test_alpha_bar_of_float32_alphas_is_a_float64_product():
    alphas = linear_alphas(10).float()
    assert alpha_bar_from_alphas(alphas).dtype == torch.float64


@pytest.mark.parametrize("num_steps", [1, 2, 10, 1000])
def test_cosine_ends_are_exact_and_strictly_decreasing(num_steps):
    table = cosine_alpha_bar(num_steps, clean_end=0.999, noise_end=0.002)
    assert table.shape == (num_steps + 1,)
    assert table[0] == 0.999 and abs(table[-1] - 0.002) < 1e-15
    assert (table.diff() < 0).all()


def test_cosine_without_caps_is_nichol_and_dhariwal():
    """Eq. (1.4)."""
    num_steps, offset = 20, 0.008
    table = cosine_alpha_bar(num_steps, offset, clean_end=1.0, noise_end=1e-300)
    for t in range(num_steps + 1):
        f = math.cos((t / num_steps + offset) / (1 + offset) * math.pi / 2) ** 2
        f_0 = math.cos(offset / (1 + offset) * math.pi / 2) ** 2
        assert table[t].item() == pytest.approx(f / f_0, abs=1e-12)


def test_the_cosine_schedule_of_this_book():
    """Ends 0.9999 and 1e-4 and the offset of Nichol and Dhariwal, where nobody asks for others; no offset is one, too."""
    for table, offset in ((cosine_alpha_bar(20), 0.008), (cosine_alpha_bar(20, offset=0.0), 0.0)):
        f = [math.cos((t / 20 + offset) / (1 + offset) * math.pi / 2) ** 2 for t in range(21)]
        expected = [1e-4 + 0.9998 * (value - f[-1]) / (f[0] - f[-1]) for value in f]
        torch.testing.assert_close(table, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_snr_is_signal_variance_over_noise_variance():
    """Eq. (1.3)."""
    torch.testing.assert_close(snr(torch.tensor([0.5, 0.8, 0.2])), torch.tensor([1.0, 4.0, 0.25]))
    assert snr(torch.tensor(1.0)) == math.inf


def test_posterior_keeps_the_signal(alpha_bar):
    """Eq. (1.7): a_t + b_t sqrt(alpha_bar_t) = sqrt(alpha_bar_{t-1}): with u_hat = u the mean stays on schedule."""
    a, b, _ = posterior_coefficients(alpha_bar)
    torch.testing.assert_close(a + b * alpha_bar[1:].sqrt(), alpha_bar[:-1].sqrt(), **EXACT)


def test_posterior_keeps_the_variance(alpha_bar):
    """Eq. (1.8): b_t^2 (1 - alpha_bar_t) + c_t = 1 - alpha_bar_{t-1}: the noise stays on schedule too."""
    _, b, c = posterior_coefficients(alpha_bar)
    torch.testing.assert_close(b**2 * (1 - alpha_bar[1:]) + c, 1 - alpha_bar[:-1], **EXACT)


def test_posterior_information_is_the_snr_difference():
    """Eq. (1.9): a_t^2 / c_t = SNR(t-1) - SNR(t), wherever SNR(t-1) is finite."""
    table = cosine_alpha_bar(10)
    a, _, c = posterior_coefficients(table)
    torch.testing.assert_close(a**2 / c, snr_weights(table), rtol=1e-9, atol=0)


def test_posterior_against_bayes_rule_in_one_dimension():
    """Eqs. (1.5), (1.6): Product of two Gaussians, computed without the closed form: prior N(sqrt(ab) u, 1 - ab), likelihood of z_t."""
    before, after, u, z = 0.7, 0.4, 1.3, -0.8
    alpha = after / before
    precision = 1 / (1 - before) + alpha / (1 - alpha)
    mean = (before**0.5 * u / (1 - before) + alpha**0.5 * z / (1 - alpha)) / precision
    a, b, c = posterior_coefficients(torch.tensor([before, after], dtype=torch.float64))
    assert (a * u + b * z).item() == pytest.approx(mean, rel=1e-12)
    assert c.item() == pytest.approx(1 / precision, rel=1e-12)


def test_last_step_of_an_uncapped_schedule_has_no_noise_left():
    a, b, c = posterior_coefficients(torch.tensor([1.0, 0.5, 0.1]))
    assert (a[0], b[0], c[0]) == (1, 0, 0)


def test_snr_weights_are_positive_and_telescope():
    table = cosine_alpha_bar(10)
    weights = snr_weights(table)
    assert (weights > 0).all()
    assert weights.sum().item() == pytest.approx((snr(table)[0] - snr(table)[-1]).item(), rel=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: linear_alphas(0), "num_steps must be an integer >= 1, got 0"),
        (lambda: linear_alphas(2.0), "got 2.0"),
        (lambda: linear_alphas(True), "got True"),
        (lambda: linear_alphas(3, start=1.1), r"start must lie in \(0, 1\], got 1.1"),
        (lambda: linear_alphas(3, end=0.0), r"end must lie in \(0, 1\], got 0.0"),
        (lambda: linear_alphas(3, end=math.nan), "got nan"),
        (lambda: cosine_alpha_bar(-1), "num_steps"),
        (lambda: cosine_alpha_bar(5, clean_end=1.5), "clean_end=1.5"),
        (lambda: cosine_alpha_bar(5, noise_end=0.0), "noise_end=0.0"),
        (
            lambda: cosine_alpha_bar(5, offset=-0.1, clean_end=0.5, noise_end=0.25),
            "^expected offset >= 0 and 0 < noise_end < clean_end <= 1, got offset=-0.1, noise_end=0.25, clean_end=0.5$",
        ),
        (lambda: cosine_alpha_bar(5, clean_end=0.5, noise_end=0.5), "noise_end=0.5, clean_end=0.5"),
        (lambda: alpha_bar_from_alphas(torch.tensor([])), r"T >= 1 entries, got shape \[0\]"),
        (lambda: alpha_bar_from_alphas(torch.tensor([[0.5]])), r"got shape \[1, 1\]"),
        (lambda: alpha_bar_from_alphas(torch.tensor([0.5, math.nan])), "every alpha"),
        (lambda: alpha_bar_from_alphas(torch.tensor([0.5, 1.2])), "every alpha"),
        (lambda: alpha_bar_from_alphas(torch.tensor([0.5, 0.0])), r"every alpha must lie in \(0, 1\], got \[0.5, 0.0\]"),
        (lambda: posterior_coefficients(torch.tensor([1.0])), r"T \+ 1 >= 2"),
        (lambda: posterior_coefficients(torch.tensor([0.5, 0.6])), "never increase"),
        (lambda: posterior_coefficients(torch.tensor([0.5, 0.0])), r"alpha_bar must lie in \(0, 1\] .* got 0 at 1 after 0.5"),
        (lambda: posterior_coefficients(torch.tensor([1.5, 0.5])), r"alpha_bar must lie in \(0, 1\] .* got 1.5 at 0$"),
        (lambda: posterior_coefficients(torch.tensor([0.5, math.nan])), "alpha_bar must lie in .*nan"),
        (
            lambda: posterior_coefficients(alpha_bar_from_alphas(linear_alphas(10))),
            r"^alpha_bar\[1\] is 1: step 1 adds no noise, so q\(z_0 \| z_1, u\) is 0/0; "
            r"start the schedule below 1, e.g. linear_alphas\(T, start=0.99\)$",
        ),
        (lambda: posterior_coefficients(torch.tensor([1.0, 1.0, 1.0, 0.5])), r"alpha_bar\[1\] is 1"),
        (
            lambda: snr_weights(torch.tensor([1.0, 0.5])),
            r"^alpha_bar\[0\] is 1, so SNR\(0\) and the weight of layer 1 are infinite; "
            r"use a clean end just under 1, as cosine_alpha_bar\(..., clean_end=0.9999\) does$",
        ),
    ],
)
def test_errors_say_what_was_expected_and_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call, message",
    [
        *(
            (lambda call=call, name=name: call(3, **{name: "1"}), f"{name} must be a number, got '1'")
            for call, names in ((linear_alphas, ("start", "end")), (cosine_alpha_bar, ("offset", "clean_end", "noise_end")))
            for name in names
        ),
        (lambda: linear_alphas(3, start=True), "start must be a number, got True"),
        (lambda: LearnedGamma("-5"), "gamma_0 must be a number, got '-5'"),
        (lambda: LearnedGamma(-5, "5"), "gamma_1 must be a number, got '5'"),
        (lambda: LearnedGamma(-1e308, 1e308), "expected finite gamma_0 < gamma_1 (time counts noise), got -1e+308 and 1e+308"),
        *(
            (lambda value=value: LearnedGamma(hidden_dim=value), f"hidden_dim must be an integer >= 1, got {value!r}")
            for value in (0, True, 2.0)
        ),
        *(
            (lambda call=call, value=value: call(value), message)
            for name, call in (("alphas", alpha_bar_from_alphas), ("alpha_bar", snr), ("alpha_bar", alphas_from_alpha_bar))
            for value, message in (
                ("half", f"{name} must be a tensor of numbers, got 'half'"),
                (torch.ones(2) * 1j, f"{name} must be a tensor of real numbers, got torch.complex64"),
            )
        ),
        (
            lambda: cosine_alpha_bar(5, offset=1e20),
            "an offset of 1e+20 leaves nothing of the cosine: expected one well below 1000",
        ),
        (lambda: snr(torch.tensor([0.5, 1.5])), "alpha_bar must lie in [0, 1], got [0.5, 1.5]"),
        (lambda: snr(torch.tensor(-0.5)), "alpha_bar must lie in [0, 1], got -0.5"),
    ],
)
def test_what_is_refused_is_named(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


def test_what_is_just_not_refused():
    assert snr(torch.tensor(0.0)) == 0
    assert LearnedGamma(hidden_dim=1)(torch.tensor(0.5)).rate > 0
    for num_steps, offset in ((5, 1e15), (1000, 1e14)):  # near the rounding of the cosine's end; so near that steps are lost
        table = cosine_alpha_bar(num_steps, offset)
        assert table[0] == 0.9999 and table[-1] == 1e-4


@pytest.mark.parametrize("seed", range(20))
def test_learned_gamma_increases_whatever_its_weights(seed):
    """Eq. (9.4)."""
    gamma, g = LearnedGamma(-4.0, 6.0).double(), torch.Generator().manual_seed(seed)
    for name, parameter in gamma.named_parameters():
        if parameter.ndim:
            parameter.data = 5 * torch.randn(parameter.shape, generator=g, dtype=torch.float64)
    gamma.raw_range.data = 5 * torch.randn((), generator=g, dtype=torch.float64)
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    values, rate = gamma(t)
    assert (values.diff() > 0).all() and (rate > 0).all()
    assert values[0].item() == pytest.approx(-4.0)
    assert values[-1].item() == pytest.approx(-4.0 + torch.nn.functional.softplus(gamma.raw_range).item())


def test_learned_gamma_starts_between_its_ends_and_its_rate_is_the_derivative():
    gamma = LearnedGamma(-4.0, 6.0).double()
    t = torch.linspace(0, 1, 51, dtype=torch.float64, requires_grad=True)
    values, rate = gamma(t)
    assert values[0].item() == pytest.approx(-4.0) and values[-1].item() == pytest.approx(6.0, abs=1e-5)
    torch.testing.assert_close(rate, torch.autograd.grad(values.sum(), t)[0])
    assert gamma(torch.tensor(0.3, dtype=torch.float64)).gamma.shape == ()
    # The last three: an end, the other end, and their distance, which 32 bits do not hold.
    for ends in ((3.0, 3.0), (-1e39, -9.999e38), (9.999e38, 1e39), (-3e38, 3e38)):
        with pytest.raises(ValueError, match="gamma_0 < gamma_1"):
            LearnedGamma(*ends)
    assert LearnedGamma(0.0, torch.finfo(torch.float32).max).gamma_0 == 0


def test_learned_gamma_starts_as_a_line_with_a_gentle_wave():
    """As it is described: from -5 to 5, thirty-two units of slope 4 that switch at times spread over [0, 1], each adding
    0.1 / 32, and a linear term of slope 1."""
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    switches = torch.linspace(0, 1, 32, dtype=torch.float64)

    def g(t):
        return t + 0.1 / 32 * torch.sigmoid(4 * (t[..., None] - switches)).sum(-1)

    with torch.no_grad():
        gamma = LearnedGamma().double()(t).gamma
    ends = g(torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(gamma, -5 + 10 * (g(t) - ends[0]) / (ends[1] - ends[0]), rtol=1e-5, atol=1e-5)
    assert (gamma - (10 * t - 5)).abs().max() > 1e-3  # a line alone would do otherwise
    assert len(LearnedGamma().bias) == 32


def test_the_units_of_learned_gamma_switch_where_their_bias_says():
    """g(t) by hand, from other weights than those it starts with."""
    gamma, g = LearnedGamma(-4.0, 6.0, hidden_dim=3).double(), torch.Generator().manual_seed(0)
    for name, parameter in gamma.named_parameters():
        parameter.data += torch.randn(parameter.shape, generator=g, dtype=torch.float64)
    positive = torch.nn.functional.softplus
    t = torch.linspace(0, 1, 7, dtype=torch.float64)

    def height(t):
        units = positive(gamma.raw_out) * torch.sigmoid(positive(gamma.raw_slope) * t[:, None] + gamma.bias)
        return positive(gamma.raw_linear) * t + units.sum(1)

    start, stop = height(torch.tensor([0.0, 1.0], dtype=torch.float64))
    expected = gamma.gamma_0 + positive(gamma.raw_range) * (height(t) - start) / (stop - start)
    torch.testing.assert_close(gamma(t).gamma, expected)
