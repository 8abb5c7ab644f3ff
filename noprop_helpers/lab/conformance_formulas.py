"""The formulas behind the conformance vectors, in decimals of 50 digits: one for each of the functions that they check.

Written from the book's equations with the standard library alone, and not with the rest of this package, which they check. The
coefficients of the posterior, for one, come from conditioning one Gaussian on another, and not from (1.6). Numbers are
``Decimal``, vectors lists of them; ``t`` is a time from 1 to T, ``alpha_bar`` a table of T + 1 numbers whose index is a time.
"""

from decimal import Decimal
from typing import Callable, NamedTuple

# In the API, a name such as `q_sample` is the package's own function, and a link has to lead there.
__all__ = ["Group"]

Numbers = list[Decimal]
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097")
HALF = Decimal("0.5")


class Group(NamedTuple):
    """What one function of an adapter computes; where its equation stands, ``book`` "2.2" and ``paper`` "5", or ""."""

    formula: Callable
    book: str
    paper: str
    computes: str


def cosine(x: Decimal) -> Decimal:
    """cos(x) by its power series."""
    term = total = Decimal(1)
    for n in range(2, 80, 2):
        term *= -x * x / (n * (n - 1))
        total += term
    return total


def mix(p: Decimal, x: Numbers, q: Decimal, y: Numbers) -> Numbers:
    """p x + q y for two vectors of one length."""
    return [p * a + q * b for a, b in zip(x, y, strict=True)]


def square(x: Numbers) -> Decimal:
    """|x|^2."""
    return sum(a * a for a in x)


def distance(x: Numbers, y: Numbers) -> Decimal:
    """|x - y|^2."""
    return square(mix(1, x, -1, y))


def softmax(scores: Numbers) -> Numbers:
    """Probabilities in proportion to e^score."""
    weights = [score.exp() for score in scores]
    return [weight / sum(weights) for weight in weights]


def weighted(weights: Numbers, W: list[Numbers]) -> Numbers:
    """The sum of the rows of W, each times its weight."""
    return [sum(w * row[d] for w, row in zip(weights, W, strict=True)) for d in range(len(W[0]))]


def first_largest(x: Numbers) -> int:
    """Index of the largest entry."""
    return x.index(max(x))


# --- Schedules --------------------------------------------------------------------------------------------------------


def alpha_bar_from_alphas(alphas: Numbers) -> Numbers:
    """Products alpha_1 ... alpha_t, with 1 at t = 0: T numbers -> T + 1."""
    table = [Decimal(1)]
    for alpha in alphas:
        table.append(table[-1] * alpha)
    return table


def linear_alphas(num_steps: int, start: Decimal, end: Decimal) -> Numbers:
    """Evenly spaced alpha_1 = start ... alpha_T = end; start alone if there is one step."""
    return [start + (end - start) * i / max(num_steps - 1, 1) for i in range(num_steps)]


def linear_alpha_bar(num_steps: int, start: Decimal, end: Decimal) -> Numbers:
    """The published notebook's schedule -> T + 1 numbers."""
    return alpha_bar_from_alphas(linear_alphas(num_steps, start, end))


def squared_cosines(num_steps: int, offset: Decimal) -> Numbers:
    """f(t) = cos^2((t / T + offset) / (1 + offset) pi / 2) for t = 0 ... T."""
    return [cosine((Decimal(t) / num_steps + offset) / (1 + offset) * PI / 2) ** 2 for t in range(num_steps + 1)]


def between(f: Numbers, clean_end: Decimal, noise_end: Decimal) -> Numbers:
    """f moved and stretched to begin at clean_end and to end at noise_end."""
    return [noise_end + (clean_end - noise_end) * (value - f[-1]) / (f[0] - f[-1]) for value in f]


def cosine_alpha_bar(num_steps: int, offset: Decimal, clean_end: Decimal, noise_end: Decimal) -> Numbers:
    """Squared cosine between two ends -> T + 1 numbers."""
    return between(squared_cosines(num_steps, offset), clean_end, noise_end)


def alphas_from_alpha_bar(alpha_bar: Numbers) -> Numbers:
    """alpha_bar_t / alpha_bar_{t-1} -> T numbers."""
    return [after / before for before, after in zip(alpha_bar, alpha_bar[1:])]


def snr(alpha_bar: Numbers) -> Numbers:
    """Signal-to-noise ratio at every time of a table that begins below 1."""
    return [level / (1 - level) for level in alpha_bar]


def snr_weights(alpha_bar: Numbers) -> Numbers:
    """SNR(t-1) - SNR(t) for t = 1 ... T."""
    ratios = snr(alpha_bar)
    return [before - after for before, after in zip(ratios, ratios[1:])]


def alpha_bar_of_gamma(gamma: Decimal) -> Decimal:
    """alpha_bar where gamma = -log SNR."""
    return 1 / (1 + gamma.exp())


# --- Forward ----------------------------------------------------------------------------------------------------------


def noised(level: Decimal, x: Numbers, noise: Numbers) -> Numbers:
    """x with ``level`` of its variance kept and the rest filled up with noise."""
    return mix(level.sqrt(), x, (1 - level).sqrt(), noise)


def forward_step(z: Numbers, alpha_bar: Numbers, t: int, noise: Numbers) -> Numbers:
    """z_{t-1} -> z_t."""
    return noised(alpha_bar[t] / alpha_bar[t - 1], z, noise)


def q_sample(u: Numbers, alpha_bar: Numbers, t: int, noise: Numbers) -> Numbers:
    """u -> z_t at once."""
    return noised(alpha_bar[t], u, noise)


def kl_to_prior(u: Numbers, alpha_bar_T: Decimal) -> Decimal:
    """KL(q(z_T | u) || N(0, I)) in nats: per dimension (variance + mean^2 - 1 - log variance) / 2."""
    variance = 1 - alpha_bar_T
    return sum(variance + alpha_bar_T * entry**2 - 1 - variance.ln() for entry in u) / 2


# --- Posterior and steps of inference ---------------------------------------------------------------------------------


def posterior(alpha_bar: Numbers, t: int) -> Numbers:
    """[a_t, b_t, c_t] of q(z_{t-1} | z_t, u) = N(a u + b z_t, c I), by conditioning z_{t-1} on z_t."""
    before, after = alpha_bar[t - 1], alpha_bar[t]
    covariance = (after / before).sqrt() * (1 - before)  # of z_{t-1} and z_t, given u
    b = covariance / (1 - after)
    return [before.sqrt() - b * after.sqrt(), b, (1 - before) - b * covariance]


def posterior_moments(u: Numbers, z: Numbers, alpha_bar: Numbers, t: int) -> list:
    """[mean, variance] of q(z_{t-1} | z_t, u): a vector and a number."""
    a, b, c = posterior(alpha_bar, t)
    return [mix(a, u, b, z), c]


def step(u_hat: Numbers, z: Numbers, coefficients: Numbers, noise: Numbers) -> Numbers:
    """a u_hat + b z + sqrt(c) noise, for [a, b, c]."""
    a, b, c = coefficients
    return mix(1, mix(a, u_hat, b, z), c.sqrt(), noise)


def posterior_step(u_hat: Numbers, z: Numbers, alpha_bar: Numbers, t: int, noise: Numbers) -> Numbers:
    """z_t -> z_{t-1} by one draw from the posterior."""
    return step(u_hat, z, posterior(alpha_bar, t), noise)


def posterior_chain(u_hats: list[Numbers], z_T: Numbers, alpha_bar: Numbers, noises: list[Numbers]) -> Numbers:
    """z_T -> z_0: layer t = T ... 1 guesses u_hats[t - 1] and gets noises[t - 1]."""
    z = z_T
    for t in range(len(u_hats), 0, -1):
        z = posterior_step(u_hats[t - 1], z, alpha_bar, t, noises[t - 1])
    return z


def renoise_step(u_hat: Numbers, alpha_bar: Numbers, t: int, noise: Numbers) -> Numbers:
    """Layer t's guess, noised anew to the level of z_{t-1}."""
    return noised(alpha_bar[t - 1], u_hat, noise)


# --- What layers say, and losses --------------------------------------------------------------------------------------


def expected_embedding(logits: Numbers, W: list[Numbers]) -> Numbers:
    """u_hat = softmax(logits) W."""
    return weighted(softmax(logits), W)


def beliefs(z: Numbers, level: Decimal, W: list[Numbers], prior: Numbers) -> Numbers:
    """p(k | z_t) by Bayes' rule, at alpha_bar_t = level."""
    likely = [(-distance(z, [level.sqrt() * x for x in row]) / (2 * (1 - level))).exp() for row in W]
    joint = [p * q for p, q in zip(prior, likely, strict=True)]
    return [p / sum(joint) for p in joint]


def ideal_denoiser(z: Numbers, alpha_bar_t: Decimal, W: list[Numbers], prior: Numbers) -> Numbers:
    """E[u | z_t] for labels that are rows of W with these probabilities."""
    return weighted(beliefs(z, alpha_bar_t, W, prior), W)


def nearest_class(z: Numbers, W: list[Numbers]) -> int:
    """Index, from 0, of the row of W nearest to z."""
    return first_largest([-distance(z, row) for row in W])


def squared_error(u_hat: Numbers, u: Numbers) -> Decimal:
    """The mean over the D entries."""
    return distance(u_hat, u) / len(u)


def readout_loss(logits: Numbers, label: int) -> Decimal:
    """Cross-entropy in nats; labels count from 0."""
    return -softmax(logits)[label].ln()


def dt_loss(u_hat: Numbers, u: Numbers, alpha_bar: Numbers, t: int, eta: Decimal) -> Decimal:
    """T / 2 eta (SNR(t-1) - SNR(t)) |u_hat - u|^2."""
    return HALF * (len(alpha_bar) - 1) * eta * snr_weights(alpha_bar)[t - 1] * distance(u_hat, u)


def ct_loss(u_hat: Numbers, u: Numbers, gamma: Decimal, rate: Decimal, eta: Decimal) -> Decimal:
    """1 / 2 eta (-SNR'(t)) |u_hat - u|^2, where SNR = e^-gamma and gamma' = rate."""
    return HALF * eta * rate * (-gamma).exp() * distance(u_hat, u)


def fm_loss(v_hat: Numbers, u: Numbers, noise: Numbers) -> Decimal:
    """|v_hat - (noise - u)|^2, the sum over D."""
    return distance(v_hat, flow_velocity(u, noise))


# --- Continuous time --------------------------------------------------------------------------------------------------


def flow_state(u: Numbers, noise: Numbers, t: Decimal) -> Numbers:
    """Straight path from the label at t = 0 to noise at t = 1."""
    return mix(1 - t, u, t, noise)


def flow_velocity(u: Numbers, noise: Numbers) -> Numbers:
    """dz/dt on the straight path, where time counts noise."""
    return mix(1, noise, -1, u)


def probability_flow(u_hat: Numbers, z: Numbers, gamma: Decimal, rate: Decimal) -> Numbers:
    """dz/dt = gamma'/2 alpha (alpha z - u_hat), where alpha^2 = alpha_bar and gamma' = rate."""
    alpha = alpha_bar_of_gamma(gamma).sqrt()
    return [rate / 2 * alpha * x for x in mix(alpha, z, -1, u_hat)]


def walk(advance: Callable, z: Numbers, num_steps: int, field: Numbers) -> Numbers:
    """z_1 -> z_0 in equal steps along v(t, z) = p t^2 + q z + r: ``advance(z, t, h, v)`` goes from t to t - h."""
    p, q, r = field
    h = Decimal(1) / num_steps
    for i in range(num_steps, 0, -1):
        z = advance(z, i * h, h, lambda t, z: [p * t * t + q * x + r for x in z])
    return z


def euler(z: Numbers, num_steps: int, field: Numbers) -> Numbers:
    """From t = 1 to 0 along a field, each step by the velocity at its start."""
    return walk(lambda z, t, h, v: mix(1, z, -h, v(t, z)), z, num_steps, field)


def heun_step(z: Numbers, t: Decimal, h: Decimal, v: Callable) -> Numbers:
    """From t to t - h by the mean of the velocities at the step's start and, looked ahead, at its end."""
    here = v(t, z)
    ahead = v(t - h, mix(1, z, -h, here))
    return mix(1, z, -h / 2, mix(1, here, 1, ahead))


def heun(z: Numbers, num_steps: int, field: Numbers) -> Numbers:
    """From t = 1 to 0 along a field in steps of Heun's."""
    return walk(heun_step, z, num_steps, field)


GROUPS = {
    "linear_alpha_bar": Group(linear_alpha_bar, "1.2", "5", "alpha_bar_t = alpha_1 ... alpha_t, alphas evenly spaced"),
    "cosine_alpha_bar": Group(cosine_alpha_bar, "1.4", "", "alpha_bar_t by the squared cosine, moved between two ends"),
    "alpha_bar_from_alphas": Group(alpha_bar_from_alphas, "1.2", "5", "alpha_bar_t = alpha_1 ... alpha_t, and 1 at t = 0"),
    "alphas_from_alpha_bar": Group(alphas_from_alpha_bar, "1.2", "5", "alpha_t = alpha_bar_t / alpha_bar_{t-1}"),
    "snr": Group(snr, "1.3", "", "alpha_bar_t / (1 - alpha_bar_t) at every time"),
    "snr_weights": Group(snr_weights, "1.9", "8", "SNR(t-1) - SNR(t) of every layer"),
    "alpha_bar_of_gamma": Group(alpha_bar_of_gamma, "9.3", "", "1 / (1 + e^gamma), as gamma = -log SNR"),
    "forward_step": Group(forward_step, "2.1", "5", "z_t = sqrt(alpha_t) z + sqrt(1 - alpha_t) noise, z being z_{t-1}"),
    "q_sample": Group(q_sample, "2.2", "5", "z_t = sqrt(alpha_bar_t) u + sqrt(1 - alpha_bar_t) noise"),
    "kl_to_prior": Group(kl_to_prior, "2.4", "8", "KL(q(z_T | u) || N(0, I)) in nats"),
    "posterior": Group(posterior, "1.6", "6", "[a_t, b_t, c_t]"),
    "posterior_moments": Group(posterior_moments, "1.5", "6", "[a_t u + b_t z, c_t], z being z_t"),
    "posterior_step": Group(posterior_step, "4.1", "3", "z_{t-1} = a_t u_hat + b_t z + sqrt(c_t) noise, z being z_t"),
    "posterior_chain": Group(posterior_chain, "4.1", "3", "z_0 by steps t = T ... 1; entry t - 1 of the lists is layer t's"),
    "renoise_step": Group(renoise_step, "4.2", "", "z_{t-1} = sqrt(alpha_bar_{t-1}) u_hat + sqrt(1 - alpha_bar_{t-1}) noise"),
    "expected_embedding": Group(expected_embedding, "6.2", "", "u_hat = softmax(logits) W"),
    "ideal_denoiser": Group(ideal_denoiser, "6.1", "", "E[u | z_t], z being z_t, if u is row k of W with probability prior_k"),
    "nearest_class": Group(nearest_class, "", "", "argmin_k |z - W_k|, counted from 0"),
    "squared_error": Group(squared_error, "3.1", "", "|u_hat - u|^2 / D"),
    "readout_loss": Group(readout_loss, "3.2", "14", "-log softmax(logits)_label in nats, counted from 0"),
    "dt_loss": Group(dt_loss, "8.9", "8", "T/2 eta (SNR(t-1) - SNR(t)) |u_hat - u|^2"),
    "ct_loss": Group(ct_loss, "9.2", "9", "1/2 eta (-SNR') |u_hat - u|^2, where -SNR' = rate e^-gamma"),
    "fm_loss": Group(fm_loss, "10.7", "12", "|v_hat - (noise - u)|^2"),
    "flow_state": Group(flow_state, "10.1", "10", "(1 - t) u + t noise"),
    "flow_velocity": Group(flow_velocity, "10.2", "11", "dz/dt = noise - u"),
    "probability_flow": Group(
        probability_flow, "9.7", "", "dz/dt = rate/2 alpha (alpha z - u_hat), alpha^2 = 1 / (1 + e^gamma)"
    ),
    "euler": Group(euler, "9.10", "", "z_0, from z at t = 1, where dz/dt = p t^2 + q z + r and field is [p, q, r]"),
    "heun": Group(heun, "9.10", "", "the same by Heun's rule"),
}
