"""What known mistakes answer to the conformance vectors: a function each, under a name that says what is wrong.

A function takes the inputs of its group and answers what an implementation with that one mistake would, in the decimals of
``conformance_formulas``. The first words are the kind: marginals, time, skip term, noise, loss, ODE.
"""

from decimal import Decimal

from . import conformance_formulas as right
from .conformance_formulas import HALF, distance, mix, posterior, snr, snr_weights, softmax, square, step, weighted

__all__ = []  # to be read in the source

REVERSED = "wrong direction of time: time t is taken for T - t"
SHIFTED = "wrong time: shifted by one, t - 1 in the place of t"
NO_ROOT = "wrong marginals: the square root of the signal's share is forgotten"
NO_ROOTS = "wrong marginals: both square roots are forgotten"
VARIANCE = "wrong noise: variance in the place of the standard deviation"
SWAPPED = "wrong marginals: signal and noise are swapped"
NO_SKIP = "missing skip term: b_t z_t is left out"
NO_NOISE = "missing noise: the standard deviation is left out"
NO_HALF = "wrong factor: 1/2 is forgotten"
NO_ETA = "wrong factor: eta is forgotten"
NO_WEIGHT = "loss without its SNR weight"
MEAN = "wrong factor: a mean over D in the place of the sum"
PAPERS_TIME = "wrong direction of time: that of the paper, where t = 0 is noise"


def moved(alpha_bar, t):
    """[a, b, c] with alpha_bar_t where alpha_bar_{t-1} belongs in a."""
    _, b, c = posterior(alpha_bar, t)
    alpha = alpha_bar[t] / alpha_bar[t - 1]
    return [alpha_bar[t].sqrt() * (1 - alpha) / (1 - alpha_bar[t]), b, c]


def without_roots(alpha_bar, t):
    """[a, b, c] without the square roots of a and b."""
    a, b, c = posterior(alpha_bar, t)
    return [a * alpha_bar[t - 1].sqrt(), b * (alpha_bar[t] / alpha_bar[t - 1]).sqrt(), c]


def larger_variance(alpha_bar, t):
    """[a, b, c] with 1 - alpha_t for c."""
    return [*posterior(alpha_bar, t)[:2], 1 - alpha_bar[t] / alpha_bar[t - 1]]


def without_skip(alpha_bar, t):
    """[a, 0, c]."""
    a, _, c = posterior(alpha_bar, t)
    return [a, Decimal(0), c]


def reversed_posterior(alpha_bar, t):
    """[a, b, c] of layer T + 1 - t."""
    return posterior(alpha_bar, len(alpha_bar) - t)


def squared(coefficients):
    """[a, b, c^2], so that a step with its root has c where sqrt(c) belongs."""
    a, b, c = coefficients
    return [a, b, c**2]


def swapped(coefficients):
    """[b, a, c]."""
    a, b, c = coefficients
    return [b, a, c]


def silent(coefficients):
    """[a, b, 0]."""
    return [*coefficients[:2], Decimal(0)]


def moments(coefficients, u, z):
    """[a u + b z, c]."""
    a, b, c = coefficients
    return [mix(a, u, b, z), c]


def chain(u_hats, z, noises, coefficients, times):
    """Steps through these layers in this order; ``coefficients(t)`` gives [a, b, c]."""
    for t in times:
        z = step(u_hats[t - 1], z, coefficients(t), noises[t - 1])
    return z


def downwards(u_hats):
    """T ... 1."""
    return range(len(u_hats), 0, -1)


def scaled(factor, x):
    """Each entry of x times the factor."""
    return [factor * value for value in x]


def shares(f):
    """Each entry over the first."""
    return [value / f[0] for value in f]


def one_of(index, W):
    """Row of W, alone."""
    return weighted([Decimal(k == index) for k in range(len(W))], W)


def bayes(z, W, prior, signal, spread):
    """Mean label under ``p(k) e^(-|z - signal W_k|^2 / spread)``."""
    joint = [p * (-distance(z, scaled(signal, row)) / spread).exp() for p, row in zip(prior, W)]
    return weighted([p / sum(joint) for p in joint], W)


def drift(u_hat, z, gamma, rate, of_state, of_guess):
    """rate (of_state z - of_guess u_hat), where both are functions of alpha."""
    alpha = right.alpha_bar_of_gamma(gamma).sqrt()
    return scaled(rate, mix(of_state(alpha), z, -of_guess(alpha), u_hat))


def upwards(z, t, h, v):
    """Heun's step with the sign of h forgotten, while times still run down."""
    here = v(t, z)
    return mix(1, z, h / 2, mix(1, here, 1, v(t - h, mix(1, z, h, here))))


SCHEDULES = {
    "linear_alpha_bar": {
        "wrong marginals: alphas of single steps, not their products": lambda num_steps, start, end: (
            [Decimal(1), *right.linear_alphas(num_steps, start, end)]
        ),
        "wrong marginals: square roots of alpha_bar": lambda num_steps, start, end: (
            [level.sqrt() for level in right.linear_alpha_bar(num_steps, start, end)]
        ),
        "wrong marginals: 1 - alpha taken for alpha": lambda num_steps, start, end: (
            right.alpha_bar_from_alphas([1 - alpha for alpha in right.linear_alphas(num_steps, start, end)])
        ),
        "wrong time: the clean end, alpha_bar_0 = 1, is left out": lambda num_steps, start, end: (
            right.linear_alpha_bar(num_steps, start, end)[1:]
        ),
        "wrong marginals: alpha_bar itself is evenly spaced": lambda num_steps, start, end: (
            right.linear_alphas(num_steps + 1, start, end)
        ),
        REVERSED: lambda num_steps, start, end: right.linear_alpha_bar(num_steps, start, end)[::-1],
    },
    "cosine_alpha_bar": {
        "wrong marginals: not mapped to the two ends": lambda num_steps, offset, clean_end, noise_end: (
            shares(right.squared_cosines(num_steps, offset))
        ),
        "wrong marginals: cut off at the two ends, not mapped between them": lambda num_steps, offset, clean_end, noise_end: (
            [min(max(share, noise_end), clean_end) for share in shares(right.squared_cosines(num_steps, offset))]
        ),
        "wrong marginals: the cosine is not squared": lambda num_steps, offset, clean_end, noise_end: right.between(
            [max(f, Decimal(0)).sqrt() for f in right.squared_cosines(num_steps, offset)], clean_end, noise_end
        ),
        "wrong marginals: the offset is forgotten": lambda num_steps, offset, clean_end, noise_end: (
            right.cosine_alpha_bar(num_steps, Decimal(0), clean_end, noise_end)
        ),
        "wrong time: the clean end, alpha_bar_0, is left out": lambda num_steps, offset, clean_end, noise_end: (
            right.cosine_alpha_bar(num_steps, offset, clean_end, noise_end)[1:]
        ),
        REVERSED: lambda num_steps, offset, clean_end, noise_end: (
            right.cosine_alpha_bar(num_steps, offset, clean_end, noise_end)[::-1]
        ),
    },
    "alpha_bar_from_alphas": {
        "wrong time: the clean end, alpha_bar_0 = 1, is left out": lambda alphas: right.alpha_bar_from_alphas(alphas)[1:],
        "wrong marginals: alphas of single steps, not their products": lambda alphas: [Decimal(1), *alphas],
        "wrong marginals: square roots of alpha_bar": lambda alphas: [a.sqrt() for a in right.alpha_bar_from_alphas(alphas)],
        "wrong direction of time: products from the noisy end": lambda alphas: right.alpha_bar_from_alphas(alphas[::-1])[::-1],
        REVERSED: lambda alphas: right.alpha_bar_from_alphas(alphas)[::-1],
    },
    "alphas_from_alpha_bar": {
        "wrong direction of time: each quotient upside down": lambda alpha_bar: (
            [1 / alpha for alpha in right.alphas_from_alpha_bar(alpha_bar)]
        ),
        "wrong marginals: 1 - alpha_t, the share of noise that a step adds": lambda alpha_bar: (
            [1 - alpha for alpha in right.alphas_from_alpha_bar(alpha_bar)]
        ),
        "wrong marginals: differences of alpha_bar, not quotients": lambda alpha_bar: (
            [before - after for before, after in zip(alpha_bar, alpha_bar[1:])]
        ),
        "wrong direction of time: layers from T down to 1": lambda alpha_bar: right.alphas_from_alpha_bar(alpha_bar)[::-1],
    },
    "snr": {
        "wrong marginals: a ratio of amplitudes, not of variances": lambda alpha_bar: [x.sqrt() for x in snr(alpha_bar)],
        "wrong marginals: noise to signal": lambda alpha_bar: [1 / x for x in snr(alpha_bar)],
        "wrong marginals: the logarithm": lambda alpha_bar: [x.ln() for x in snr(alpha_bar)],
        "wrong marginals: the alpha of one step in the place of alpha_bar": lambda alpha_bar: (
            snr([alpha_bar[0], *right.alphas_from_alpha_bar(alpha_bar)])
        ),
        REVERSED: lambda alpha_bar: snr(alpha_bar)[::-1],
    },
    "snr_weights": {
        "wrong direction of time: SNR(t) - SNR(t-1), the paper's order": lambda alpha_bar: scaled(-1, snr_weights(alpha_bar)),
        "wrong direction of time: layers from T down to 1": lambda alpha_bar: snr_weights(alpha_bar)[::-1],
        "wrong weight: SNR(t) in the place of the difference": lambda alpha_bar: snr(alpha_bar)[1:],
        "wrong weight: SNR(t-1) in the place of the difference": lambda alpha_bar: snr(alpha_bar)[:-1],
    },
    "alpha_bar_of_gamma": {
        "wrong direction of time: the sign of gamma": lambda gamma: right.alpha_bar_of_gamma(-gamma),
        "wrong marginals: the square root of alpha_bar": lambda gamma: right.alpha_bar_of_gamma(gamma).sqrt(),
        "wrong marginals: the SNR in the place of alpha_bar": lambda gamma: (-gamma).exp(),
    },
}

STATES = {
    "forward_step": {
        NO_ROOT: lambda z, alpha_bar, t, noise: mix(
            alpha_bar[t] / alpha_bar[t - 1], z, (1 - alpha_bar[t] / alpha_bar[t - 1]).sqrt(), noise
        ),
        NO_ROOTS: lambda z, alpha_bar, t, noise: mix(
            alpha_bar[t] / alpha_bar[t - 1], z, 1 - alpha_bar[t] / alpha_bar[t - 1], noise
        ),
        VARIANCE: lambda z, alpha_bar, t, noise: mix(
            (alpha_bar[t] / alpha_bar[t - 1]).sqrt(), z, 1 - alpha_bar[t] / alpha_bar[t - 1], noise
        ),
        "wrong marginals: alpha_bar_t in the place of alpha_t": lambda z, alpha_bar, t, noise: (
            right.noised(alpha_bar[t], z, noise)
        ),
        SWAPPED: lambda z, alpha_bar, t, noise: right.noised(alpha_bar[t] / alpha_bar[t - 1], noise, z),
        NO_NOISE: lambda z, alpha_bar, t, noise: scaled((alpha_bar[t] / alpha_bar[t - 1]).sqrt(), z),
    },
    "q_sample": {
        NO_ROOT: lambda u, alpha_bar, t, noise: mix(alpha_bar[t], u, (1 - alpha_bar[t]).sqrt(), noise),
        NO_ROOTS: lambda u, alpha_bar, t, noise: mix(alpha_bar[t], u, 1 - alpha_bar[t], noise),
        VARIANCE: lambda u, alpha_bar, t, noise: mix(alpha_bar[t].sqrt(), u, 1 - alpha_bar[t], noise),
        "wrong marginals: alpha_t of one step in the place of alpha_bar_t": lambda u, alpha_bar, t, noise: (
            right.noised(alpha_bar[t] / alpha_bar[t - 1], u, noise)
        ),
        SWAPPED: lambda u, alpha_bar, t, noise: right.noised(alpha_bar[t], noise, u),
        REVERSED: lambda u, alpha_bar, t, noise: right.noised(alpha_bar[len(alpha_bar) - 1 - t], u, noise),
        SHIFTED: lambda u, alpha_bar, t, noise: right.noised(alpha_bar[t - 1], u, noise),
        "wrong marginals: not variance preserving, the signal stays whole": lambda u, alpha_bar, t, noise: (
            mix(1, u, (1 - alpha_bar[t]).sqrt(), noise)
        ),
    },
    "kl_to_prior": {
        NO_HALF: lambda u, alpha_bar_T: 2 * right.kl_to_prior(u, alpha_bar_T),
        "wrong factor: one dimension's variance in the place of D": lambda u, alpha_bar_T: (
            (-(1 - alpha_bar_T).ln() - alpha_bar_T + alpha_bar_T * square(u)) / 2
        ),
        MEAN: lambda u, alpha_bar_T: right.kl_to_prior(u, alpha_bar_T) / len(u),
        "missing term: the mean's, alpha_bar_T |u|^2 / 2": lambda u, alpha_bar_T: (
            right.kl_to_prior(scaled(0, u), alpha_bar_T)
        ),
        "wrong marginals: the mean is alpha_bar_T u, without the root": lambda u, alpha_bar_T: (
            right.kl_to_prior(u, alpha_bar_T) + (alpha_bar_T**2 - alpha_bar_T) * square(u) / 2
        ),
    },
    "posterior": {
        "wrong roles: a and b are swapped": lambda alpha_bar, t: swapped(posterior(alpha_bar, t)),
        NO_ROOTS: lambda alpha_bar, t: without_roots(alpha_bar, t),
        "wrong noise: sqrt(c), the standard deviation, in the place of the variance": lambda alpha_bar, t: (
            [*posterior(alpha_bar, t)[:2], posterior(alpha_bar, t)[2].sqrt()]
        ),
        "wrong noise: 1 - alpha_t in the place of c_t": lambda alpha_bar, t: larger_variance(alpha_bar, t),
        "wrong time: alpha_bar_t in the place of alpha_bar_{t-1} in a": lambda alpha_bar, t: moved(alpha_bar, t),
        "wrong direction of time: layer t is taken for T + 1 - t": lambda alpha_bar, t: reversed_posterior(alpha_bar, t),
        NO_SKIP: lambda alpha_bar, t: without_skip(alpha_bar, t),
    },
    "posterior_moments": {
        NO_SKIP: lambda u, z, alpha_bar, t: moments(without_skip(alpha_bar, t), u, z),
        "wrong roles: a and b are swapped": lambda u, z, alpha_bar, t: moments(swapped(posterior(alpha_bar, t)), u, z),
        NO_ROOTS: lambda u, z, alpha_bar, t: moments(without_roots(alpha_bar, t), u, z),
        "wrong noise: sqrt(c), the standard deviation, in the place of the variance": lambda u, z, alpha_bar, t: (
            [moments(posterior(alpha_bar, t), u, z)[0], posterior(alpha_bar, t)[2].sqrt()]
        ),
        "wrong noise: 1 - alpha_t in the place of c_t": lambda u, z, alpha_bar, t: (
            moments(larger_variance(alpha_bar, t), u, z)
        ),
        "wrong time: alpha_bar_t in the place of alpha_bar_{t-1} in a": lambda u, z, alpha_bar, t: (
            moments(moved(alpha_bar, t), u, z)
        ),
        "wrong direction of time: layer t is taken for T + 1 - t": lambda u, z, alpha_bar, t: (
            moments(reversed_posterior(alpha_bar, t), u, z)
        ),
    },
    "posterior_step": {
        NO_SKIP: lambda u_hat, z, alpha_bar, t, noise: step(u_hat, z, without_skip(alpha_bar, t), noise),
        "wrong roles: a and b are swapped": lambda u_hat, z, alpha_bar, t, noise: (
            step(u_hat, z, swapped(posterior(alpha_bar, t)), noise)
        ),
        NO_ROOTS: lambda u_hat, z, alpha_bar, t, noise: step(u_hat, z, without_roots(alpha_bar, t), noise),
        VARIANCE: lambda u_hat, z, alpha_bar, t, noise: step(u_hat, z, squared(posterior(alpha_bar, t)), noise),
        "wrong noise: 1 - alpha_t in the place of c_t": lambda u_hat, z, alpha_bar, t, noise: (
            step(u_hat, z, larger_variance(alpha_bar, t), noise)
        ),
        NO_NOISE: lambda u_hat, z, alpha_bar, t, noise: step(u_hat, z, silent(posterior(alpha_bar, t)), noise),
        "wrong time: alpha_bar_t in the place of alpha_bar_{t-1} in a": lambda u_hat, z, alpha_bar, t, noise: (
            step(u_hat, z, moved(alpha_bar, t), noise)
        ),
        "wrong direction of time: layer t is taken for T + 1 - t": lambda u_hat, z, alpha_bar, t, noise: (
            step(u_hat, z, reversed_posterior(alpha_bar, t), noise)
        ),
        "wrong step: the guess noised anew to alpha_bar_{t-1}, the state thrown away": lambda u_hat, z, alpha_bar, t, noise: (
            right.renoise_step(u_hat, alpha_bar, t, noise)
        ),
        "wrong step: the published notebook's, noised anew to alpha_t": lambda u_hat, z, alpha_bar, t, noise: (
            right.noised(alpha_bar[t] / alpha_bar[t - 1], u_hat, noise)
        ),
    },
    "posterior_chain": {
        NO_SKIP: lambda u_hats, z_T, alpha_bar, noises: (
            chain(u_hats, z_T, noises, lambda t: without_skip(alpha_bar, t), downwards(u_hats))
        ),
        VARIANCE: lambda u_hats, z_T, alpha_bar, noises: (
            chain(u_hats, z_T, noises, lambda t: squared(posterior(alpha_bar, t)), downwards(u_hats))
        ),
        NO_NOISE: lambda u_hats, z_T, alpha_bar, noises: (
            chain(u_hats, z_T, noises, lambda t: silent(posterior(alpha_bar, t)), downwards(u_hats))
        ),
        "wrong direction of time: layers from 1 up to T": lambda u_hats, z_T, alpha_bar, noises: (
            chain(u_hats, z_T, noises, lambda t: posterior(alpha_bar, t), range(1, len(u_hats) + 1))
        ),
        "wrong step: the guess noised anew to alpha_bar_{t-1}, the state thrown away": lambda u_hats, z_T, alpha_bar, noises: (
            right.renoise_step(u_hats[0], alpha_bar, 1, noises[0])
        ),
        "wrong step: the published notebook's, noised anew to alpha_t": lambda u_hats, z_T, alpha_bar, noises: (
            right.noised(alpha_bar[1] / alpha_bar[0], u_hats[0], noises[0])
        ),
    },
    "renoise_step": {
        "wrong time: the level of layer t's own input, alpha_bar_t": lambda u_hat, alpha_bar, t, noise: (
            right.noised(alpha_bar[t], u_hat, noise)
        ),
        "wrong marginals: alpha_t, the published notebook's level": lambda u_hat, alpha_bar, t, noise: (
            right.noised(alpha_bar[t] / alpha_bar[t - 1], u_hat, noise)
        ),
        VARIANCE: lambda u_hat, alpha_bar, t, noise: mix(alpha_bar[t - 1].sqrt(), u_hat, 1 - alpha_bar[t - 1], noise),
        NO_ROOT: lambda u_hat, alpha_bar, t, noise: mix(alpha_bar[t - 1], u_hat, (1 - alpha_bar[t - 1]).sqrt(), noise),
        NO_ROOTS: lambda u_hat, alpha_bar, t, noise: mix(alpha_bar[t - 1], u_hat, 1 - alpha_bar[t - 1], noise),
    },
}

LOSSES = {
    "expected_embedding": {
        "wrong guess: scores used as they are, without softmax": lambda logits, W: weighted(logits, W),
        "wrong guess: the likeliest row alone": lambda logits, W: one_of(right.first_largest(logits), W),
        "wrong guess: softmax taken twice": lambda logits, W: weighted(softmax(softmax(logits)), W),
    },
    "ideal_denoiser": {
        "wrong belief: 1/2 in the exponent is forgotten": lambda z, alpha_bar_t, W, prior: (
            bayes(z, W, prior, alpha_bar_t.sqrt(), 1 - alpha_bar_t)
        ),
        "wrong belief: the prior is forgotten": lambda z, alpha_bar_t, W, prior: (
            right.ideal_denoiser(z, alpha_bar_t, W, [Decimal(1)] * len(W))
        ),
        NO_ROOT: lambda z, alpha_bar_t, W, prior: bayes(z, W, prior, alpha_bar_t, 2 * (1 - alpha_bar_t)),
        "wrong belief: the variance 1 - alpha_bar_t is forgotten": lambda z, alpha_bar_t, W, prior: (
            bayes(z, W, prior, alpha_bar_t.sqrt(), 2)
        ),
        "wrong guess: the likeliest row alone": lambda z, alpha_bar_t, W, prior: (
            one_of(right.first_largest(right.beliefs(z, alpha_bar_t, W, prior)), W)
        ),
    },
    "nearest_class": {
        "wrong class: the largest inner product, not the least distance": lambda z, W: (
            right.first_largest([sum(a * b for a, b in zip(z, row)) for row in W])
        ),
        "wrong class: counted from 1": lambda z, W: right.nearest_class(z, W) + 1,
        "wrong class: the farthest": lambda z, W: right.first_largest([distance(z, row) for row in W]),
    },
    "squared_error": {
        "wrong factor: the sum over D in the place of the mean": lambda u_hat, u: distance(u_hat, u),
        "wrong loss: the root of the squared error": lambda u_hat, u: right.squared_error(u_hat, u).sqrt(),
        "wrong factor: half of the squared error": lambda u_hat, u: right.squared_error(u_hat, u) / 2,
        "wrong loss: absolute, not squared": lambda u_hat, u: sum(abs(x) for x in mix(1, u_hat, -1, u)) / len(u),
    },
    "readout_loss": {
        "wrong loss: in bits, not nats": lambda logits, label: right.readout_loss(logits, label) / Decimal(2).ln(),
        "wrong loss: softmax taken twice": lambda logits, label: right.readout_loss(softmax(logits), label),
        "wrong loss: the sign is forgotten": lambda logits, label: -right.readout_loss(logits, label),
        "wrong factor: divided by the number of classes": lambda logits, label: (
            right.readout_loss(logits, label) / len(logits)
        ),
        "wrong class: counted from 1": lambda logits, label: right.readout_loss(logits, label - 1),
    },
    "dt_loss": {
        NO_WEIGHT: lambda u_hat, u, alpha_bar, t, eta: HALF * (len(alpha_bar) - 1) * eta * distance(u_hat, u),
        "loss without weight or factor: |u_hat - u|^2": lambda u_hat, u, alpha_bar, t, eta: distance(u_hat, u),
        "loss without weight or factor: |u_hat - u|^2 / D": lambda u_hat, u, alpha_bar, t, eta: distance(u_hat, u) / len(u),
        "wrong direction of time: SNR(t) - SNR(t-1), the paper's order": lambda u_hat, u, alpha_bar, t, eta: (
            -right.dt_loss(u_hat, u, alpha_bar, t, eta)
        ),
        "wrong direction of time: layer t is taken for T + 1 - t": lambda u_hat, u, alpha_bar, t, eta: (
            right.dt_loss(u_hat, u, alpha_bar, len(alpha_bar) - t, eta)
        ),
        "wrong weight: SNR(t) in the place of the difference": lambda u_hat, u, alpha_bar, t, eta: (
            HALF * (len(alpha_bar) - 1) * eta * snr(alpha_bar)[t] * distance(u_hat, u)
        ),
        "wrong factor: T is forgotten": lambda u_hat, u, alpha_bar, t, eta: (
            right.dt_loss(u_hat, u, alpha_bar, t, eta) / (len(alpha_bar) - 1)
        ),
        NO_HALF: lambda u_hat, u, alpha_bar, t, eta: 2 * right.dt_loss(u_hat, u, alpha_bar, t, eta),
        NO_ETA: lambda u_hat, u, alpha_bar, t, eta: right.dt_loss(u_hat, u, alpha_bar, t, Decimal(1)),
        MEAN: lambda u_hat, u, alpha_bar, t, eta: right.dt_loss(u_hat, u, alpha_bar, t, eta) / len(u),
    },
    "ct_loss": {
        NO_WEIGHT: lambda u_hat, u, gamma, rate, eta: HALF * eta * distance(u_hat, u),
        "loss without weight or factor: |u_hat - u|^2": lambda u_hat, u, gamma, rate, eta: distance(u_hat, u),
        "loss without weight or factor: |u_hat - u|^2 / D": lambda u_hat, u, gamma, rate, eta: distance(u_hat, u) / len(u),
        "wrong weight: SNR in the place of -SNR', gamma' is forgotten": lambda u_hat, u, gamma, rate, eta: (
            right.ct_loss(u_hat, u, gamma, Decimal(1), eta)
        ),
        "wrong direction of time: SNR' in the place of -SNR'": lambda u_hat, u, gamma, rate, eta: (
            -right.ct_loss(u_hat, u, gamma, rate, eta)
        ),
        "wrong direction of time: the sign of gamma": lambda u_hat, u, gamma, rate, eta: (
            right.ct_loss(u_hat, u, -gamma, rate, eta)
        ),
        "wrong weight: the rate of alpha_bar in the place of SNR's": lambda u_hat, u, gamma, rate, eta: (
            HALF * eta * rate * right.alpha_bar_of_gamma(gamma) * right.alpha_bar_of_gamma(-gamma) * distance(u_hat, u)
        ),
        NO_HALF: lambda u_hat, u, gamma, rate, eta: 2 * right.ct_loss(u_hat, u, gamma, rate, eta),
        NO_ETA: lambda u_hat, u, gamma, rate, eta: right.ct_loss(u_hat, u, gamma, rate, Decimal(1)),
        MEAN: lambda u_hat, u, gamma, rate, eta: right.ct_loss(u_hat, u, gamma, rate, eta) / len(u),
    },
    "fm_loss": {
        PAPERS_TIME: lambda v_hat, u, noise: distance(v_hat, mix(1, u, -1, noise)),
        MEAN: lambda v_hat, u, noise: right.fm_loss(v_hat, u, noise) / len(u),
        "wrong factor: 1/2 too many": lambda v_hat, u, noise: right.fm_loss(v_hat, u, noise) / 2,
        "wrong target: the label, not the velocity": lambda v_hat, u, noise: distance(v_hat, u),
        "wrong target: the noise, not the velocity": lambda v_hat, u, noise: distance(v_hat, noise),
    },
}

CONTINUOUS = {
    "flow_state": {
        PAPERS_TIME: lambda u, noise, t: right.flow_state(noise, u, t),
        "wrong path: variance preserving, not straight": lambda u, noise, t: mix((1 - t).sqrt(), u, t.sqrt(), noise),
        "wrong path: the signal stays whole": lambda u, noise, t: mix(1, u, t, noise),
    },
    "flow_velocity": {
        PAPERS_TIME: lambda u, noise: mix(1, u, -1, noise),
        "wrong target: the label, not the velocity": lambda u, noise: u,
        "wrong target: the noise, not the velocity": lambda u, noise: noise,
    },
    "probability_flow": {
        "wrong ODE: the sign, or the paper's time": lambda u_hat, z, gamma, rate: (
            scaled(-1, right.probability_flow(u_hat, z, gamma, rate))
        ),
        "wrong ODE: alpha_bar where its root belongs": lambda u_hat, z, gamma, rate: (
            drift(u_hat, z, gamma, rate, lambda alpha: alpha**4 / 2, lambda alpha: alpha**2 / 2)
        ),
        "wrong ODE: the drift of walks with fresh noise, and none is added": lambda u_hat, z, gamma, rate: (
            drift(u_hat, z, gamma, rate, lambda alpha: (1 + alpha**2) / 2, lambda alpha: alpha)
        ),
        "wrong ODE: gamma', how fast the schedule runs, is forgotten": lambda u_hat, z, gamma, rate: (
            right.probability_flow(u_hat, z, gamma, Decimal(1))
        ),
        "wrong ODE: 1/2 is forgotten": lambda u_hat, z, gamma, rate: (
            scaled(2, right.probability_flow(u_hat, z, gamma, rate))
        ),
        "wrong ODE: the sign of gamma": lambda u_hat, z, gamma, rate: right.probability_flow(u_hat, z, -gamma, rate),
        "wrong ODE: straight from guess to state, z - u_hat": lambda u_hat, z, gamma, rate: mix(1, z, -1, u_hat),
    },
    "euler": {
        "wrong direction of time: the sign of the step, z + h v": lambda z, num_steps, field: (
            right.walk(lambda z, t, h, v: mix(1, z, h, v(t, z)), z, num_steps, field)
        ),
        "wrong direction of time: times run from 0 to 1": lambda z, num_steps, field: (
            right.walk(lambda z, t, h, v: mix(1, z, -h, v(1 - t, z)), z, num_steps, field)
        ),
        "wrong step: the length h is forgotten": lambda z, num_steps, field: (
            right.walk(lambda z, t, h, v: mix(1, z, -1, v(t, z)), z, num_steps, field)
        ),
        "wrong time: the velocity at the step's end": lambda z, num_steps, field: (
            right.walk(lambda z, t, h, v: mix(1, z, -h, v(t - h, z)), z, num_steps, field)
        ),
        "wrong rule: Heun's": lambda z, num_steps, field: right.heun(z, num_steps, field),
    },
    "heun": {
        "wrong direction of time: the sign of the step, z + h v": lambda z, num_steps, field: (
            right.walk(lambda z, t, h, v: upwards(z, t, h, v), z, num_steps, field)
        ),
        "wrong direction of time: times run from 0 to 1": lambda z, num_steps, field: (
            right.walk(lambda z, t, h, v: right.heun_step(z, t, h, lambda t, z: v(1 - t, z)), z, num_steps, field)
        ),
        "wrong rule: Euler's, one velocity a step": lambda z, num_steps, field: right.euler(z, num_steps, field),
        "wrong rule: the midpoint's": lambda z, num_steps, field: (
            right.walk(lambda z, t, h, v: mix(1, z, -h, v(t - h / 2, mix(1, z, -h / 2, v(t, z)))), z, num_steps, field)
        ),
        "wrong factor: the sum of two velocities, not their mean": lambda z, num_steps, field: (
            right.walk(lambda z, t, h, v: mix(-1, z, 2, right.heun_step(z, t, h, v)), z, num_steps, field)
        ),
    },
}  # fmt: skip

MISTAKES = SCHEDULES | STATES | LOSSES | CONTINUOUS
