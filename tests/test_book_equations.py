"""Equations that the book derives and no single function of the package computes, each against an independent way.

The others are tested where the function is; ``test_equations`` sees that none is missing.
"""

import math

import pytest
import torch

from noprop_helpers.blocks import RadialReadout, expected_embedding
from noprop_helpers.diffusion import flow_path, q_sample
from noprop_helpers.embeddings import nearest_class
from noprop_helpers.layerwise import layers_for_rank
from noprop_helpers.losses import dt_loss, fm_loss, readout_loss
from noprop_helpers.noprop import probability_flow
from noprop_helpers.samplers import sample_euler, sample_heun
from noprop_helpers.schedules import LearnedGamma, cosine_alpha_bar, snr, snr_weights

N = 200_000
PHI = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0).cdf


def draws(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def standard_error(share):
    return (share * (1 - share) / N) ** 0.5


@pytest.mark.parametrize("dimension", [2, 50])
def test_two_labels_are_confused_by_their_distance_alone(dimension):
    """Eq. (8.2): P(error) = Phi(-d sqrt(SNR) / 2), in any dimension."""
    W, alpha_bar = draws(2, dimension), 0.3
    W *= 1.3 / torch.pdist(W)
    z = q_sample(W[:1].expand(N, -1), alpha_bar, draws(N, dimension, seed=1))
    measured = (nearest_class(z / alpha_bar**0.5, W) == 1).double().mean().item()
    expected = PHI(torch.tensor(-0.5 * 1.3 * (alpha_bar / (1 - alpha_bar)) ** 0.5)).item()
    assert measured == pytest.approx(expected, abs=5 * standard_error(expected))


def test_several_labels_are_confused_between_their_bounds():
    """Eq. (8.3): at least as often as with the nearest other label, at most as often as with all others added up."""
    W, alpha_bar = draws(6, 4), 0.4
    z = q_sample(W[:1].expand(N, -1), alpha_bar, draws(N, 4, seed=1))
    measured = (nearest_class(z / alpha_bar**0.5, W) != 0).double().mean().item()
    pairs = PHI(-0.5 * (W[1:] - W[0]).norm(dim=1) * (alpha_bar / (1 - alpha_bar)) ** 0.5)
    tolerance = 5 * standard_error(measured)
    assert pairs.max() - tolerance < measured < pairs.sum() + tolerance
    assert pairs.max() < 0.9 * pairs.sum()  # the two bounds are not the same


def test_a_scaled_table_is_a_shifted_schedule():
    """Eq. (8.4): s u under SNR, renormalised, is u under s^2 SNR."""
    u, noise, alpha_bar, s = draws(5, 3), draws(5, 3, seed=1), torch.tensor(0.3, dtype=torch.float64), 2.5
    level = s**2 * snr(alpha_bar) / (1 + s**2 * snr(alpha_bar))
    scaled = q_sample(s * u, alpha_bar, noise) / (s**2 * alpha_bar + 1 - alpha_bar).sqrt()
    torch.testing.assert_close(scaled, q_sample(u, level, noise))


def test_a_radial_readout_is_never_surer_than_its_table_allows():
    """Eq. (8.8), reached by a linear part that is sure, and by nothing surer."""
    readout, W = RadialReadout(3, 4, sigma=0.8), draws(4, 3).float()
    readout.linear.weight.data.zero_()
    for y in range(4):
        readout.linear.bias.data = 1e4 * torch.eye(4)[y]
        others = [math.exp(-float((W[j] - W[y]).square().sum()) / (2 * 0.8**2)) for j in range(4) if j != y]
        assert readout(torch.zeros(1, 3), W).softmax(1)[0, y].item() == pytest.approx(1 / (1 + sum(others)), rel=1e-5)


@pytest.mark.parametrize("d", [0.1, 0.7, 2.0])
def test_loss_of_two_labels_at_a_distance(d):
    """Eq. (8.9): the full loss of perfect layers that see no image, by quadrature and by draws through the package."""
    T, eta, alpha_bar = 5, 0.1, cosine_alpha_bar(5)
    nodes = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weights = torch.exp(-nodes.square() / 2) / (2 * math.pi) ** 0.5 * (nodes[1] - nodes[0])
    s = d**2 / 4 * snr(alpha_bar)
    argument = s[:, None] + s[:, None].sqrt() * nodes  # [T + 1, nodes]
    reading = (torch.nn.functional.softplus(-2 * argument[0]) * weights).sum()
    unsure = ((1 - argument.tanh()) * weights).sum(1)
    denoising = eta / 2 * (snr_weights(alpha_bar) * d**2 / 4 * unsure[1:]).sum()

    W = torch.tensor([[d / 2, 0.0], [-d / 2, 0.0]], dtype=torch.float64)
    labels = torch.arange(N) % 2
    u = W[labels]

    def logits(z, level):  # Bayes' rule for two equally likely labels
        return torch.stack([-(z - level.sqrt() * w).square().sum(1) for w in W], 1) / (2 * (1 - level))

    z_0 = q_sample(u, alpha_bar[0], draws(N, 2))
    losses = [readout_loss(logits(z_0, alpha_bar[0]), labels)]
    for t in range(1, T + 1):
        z_t = q_sample(u, alpha_bar[t], draws(N, 2, seed=t))
        u_hat = expected_embedding(logits(z_t, alpha_bar[t]), W)
        losses.append(dt_loss(u_hat, u, snr_weights(alpha_bar)[t - 1], T, eta) / T)
    total = torch.stack(losses).sum(0)
    error = total.std().item() / N**0.5
    assert total.mean().item() == pytest.approx((reading + denoising).item(), abs=5 * error + 1e-9)


def gamma_of(*ends):
    torch.manual_seed(0)
    gamma = LearnedGamma(*ends).double()
    gamma.bias.data += torch.randn_like(gamma.bias)
    return gamma


def test_weights_of_many_layers_become_a_derivative():
    """Eqs. (9.1), (9.3): T/2 (SNR(t - 1/T) - SNR(t)) -> -SNR'(t)/2 = gamma' exp(-gamma) / 2, with error O(1/T^2) between."""
    gamma, differences = gamma_of(-3.0, 3.0), []
    for T in (100, 1000):
        t = torch.arange(T + 1, dtype=torch.float64) / T
        with torch.no_grad():
            weights = T / 2 * snr_weights(torch.sigmoid(-gamma(t).gamma))
            middle = gamma(t[1:] - 0.5 / T)
            limit = 0.5 * middle.rate * torch.exp(-middle.gamma)
        differences.append(((weights - limit) / limit).abs().max().item())
    assert differences[0] < 0.01 and differences[1] < differences[0] / 50


@torch.no_grad()
def test_the_shape_of_a_schedule_drops_out_of_the_loss():
    """Eq. (9.5): with an error that depends on gamma alone, the integral over time is one over gamma. For the error
    sigmoid(gamma) and gamma from -5 to 5 that is 2.5, for every schedule."""
    t = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    for gamma in (gamma_of(-5.0, 5.0), LearnedGamma(-5.0, 5.0).double()):
        value, rate = gamma(t)
        integral = torch.trapezoid(0.5 * rate * torch.exp(-value) * torch.sigmoid(value), t)
        assert integral.item() == pytest.approx(2.5, abs=1e-4)


@torch.no_grad()
def test_the_path_with_fixed_noise_solves_the_flow():
    """Eqs. (9.6), (9.10): alpha u + sigma eps at a fixed eps moves as ``probability_flow`` says, and Euler's step is one
    step along it."""
    gamma, u, eps, h = gamma_of(-4.0, 4.0), draws(5, 3), draws(5, 3, seed=1), 1e-5

    def path(t):
        return q_sample(u, torch.sigmoid(-gamma(torch.tensor(t, dtype=torch.float64)).gamma), eps)

    for t in (0.1, 0.5, 0.9):
        velocity = probability_flow(u, path(t), *gamma(torch.tensor(t, dtype=torch.float64)))
        torch.testing.assert_close((path(t + h) - path(t - h)) / (2 * h), velocity, rtol=1e-5, atol=1e-7)
    z = draws(4, 2)
    torch.testing.assert_close(sample_euler(lambda t, z: 3 * z, z, 1), z - 3 * z)
    torch.testing.assert_close(sample_euler(lambda t, z: t * z, z, 2), (z - 0.5 * z) - 0.25 * (z - 0.5 * z))


@pytest.mark.slow
@torch.no_grad()
def test_the_quiet_drift_needs_its_noise():
    """Eq. (9.8): Euler-Maruyama with this drift and noise of rate gamma' sigma^2 follows the schedule; without the noise
    the mean is right and the variance is lost."""
    gamma, u, steps = gamma_of(-4.0, 4.0), 1.0, 1000
    for scale in (1.0, 0.0):
        z, generator = draws(20_000), torch.Generator().manual_seed(1)
        for i in range(steps, 0, -1):
            g, rate = (float(x) for x in gamma(torch.tensor(i / steps, dtype=torch.float64)))
            alpha_bar = 1 / (1 + math.exp(g))
            drift = rate * (0.5 * (1 + alpha_bar) * z - alpha_bar**0.5 * u)
            noise = torch.randn(len(z), dtype=torch.float64, generator=generator)
            z = z - drift / steps + scale * (rate * (1 - alpha_bar) / steps) ** 0.5 * noise
        alpha_bar = torch.sigmoid(-gamma(torch.tensor(0.0, dtype=torch.float64)).gamma).item()
        assert z.mean().item() == pytest.approx(alpha_bar**0.5, abs=0.02)
        if scale:
            assert z.var().item() == pytest.approx(1 - alpha_bar, rel=0.1)
        else:
            assert z.var().item() < 0.1 * (1 - alpha_bar)


def test_the_best_guess_between_two_labels():
    """Eq. (9.9): tanh of half the log odds plus alpha z / sigma^2 is the mean of the label given the noised one."""
    p, alpha_bar = 0.7, 0.4
    u = torch.where(torch.rand(N, generator=torch.Generator().manual_seed(0)) < p, 1.0, -1.0).double()
    z = alpha_bar**0.5 * u + (1 - alpha_bar) ** 0.5 * draws(N)
    guess = torch.tanh(0.5 * math.log(p / (1 - p)) + alpha_bar**0.5 * z / (1 - alpha_bar))
    for low in torch.arange(-0.8, 0.8, 0.2).tolist():
        alike = (guess >= low) & (guess < low + 0.2)
        assert u[alike].mean().item() == pytest.approx(guess[alike].mean().item(), abs=5 / float(alike.sum()) ** 0.5)


PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
CORNERS = torch.tensor([[0.0, 1.0], [-0.75**0.5, -0.5], [0.75**0.5, -0.5]], dtype=torch.float64)


def aim(z, t):
    """E[u | z_t, x] of an image that allows three classes with the probabilities PRIOR: [B, 2]."""
    distance = (z[:, None] - (1 - t) * CORNERS).square().sum(2)
    return (PRIOR.log() - distance / (2 * t**2)).softmax(1) @ CORNERS


@pytest.mark.whole
def test_mean_velocity_at_a_point():
    """Eqs. (10.3), (10.4): the mean velocity of all paths through a small disc is (z - E[u | z]) / t."""
    labels = torch.multinomial(PRIOR, 2_000_000, replacement=True, generator=torch.Generator().manual_seed(0))
    t, centre = 0.6, torch.tensor([0.2, 0.3], dtype=torch.float64)
    z, velocity = flow_path(CORNERS[labels], t, draws(len(labels), 2))
    inside = (z - centre).norm(dim=1) < 0.1
    through = velocity[inside]
    expected = ((z - aim(z, t)) / t)[inside].mean(0)
    assert ((through.mean(0) - expected).abs() < 5 * through.std(0) / len(through) ** 0.5).all()


def test_one_step_lands_on_the_mean_label():
    """Eq. (10.5): at t = 1 the state says nothing, and one Euler step ends at sum p_k u_k from every start."""
    z_1 = draws(50, 2)
    end = sample_euler(lambda t, z: (z - aim(z, t)) / t, z_1, 1)
    torch.testing.assert_close(end, (PRIOR @ CORNERS).expand(50, 2))


@pytest.mark.whole
def test_two_draws_agree_as_often_as_one_is_right():
    """Eq. (10.6), by walks of many steps: agreement and accuracy are both sum p_k^2 for one and the same image."""
    n = 20_000
    ends = [nearest_class(sample_euler(lambda t, z: (z - aim(z, t)) / t, draws(n, 2, seed=s), 100), CORNERS) for s in (0, 1)]
    truth = torch.multinomial(PRIOR, n, replacement=True, generator=torch.Generator().manual_seed(2))
    expected = PRIOR.square().sum().item()
    for share in ((ends[0] == ends[1]), (ends[0] == truth)):
        # 5 standard errors, and a little for the 100 steps
        assert share.double().mean().item() == pytest.approx(expected, abs=5 * (0.25 / n) ** 0.5 + 0.01)


def test_flow_matching_is_denoising_with_a_weight():
    """Eq. (10.7): ||v - velocity||^2 = ||u_hat - u||^2 / t^2 with u_hat = z - t v."""
    u, noise, v, t = draws(6, 3), draws(6, 3, seed=1), draws(6, 3, seed=2), torch.linspace(0.1, 1, 6, dtype=torch.float64)
    z, velocity = flow_path(u, t, noise)
    torch.testing.assert_close(fm_loss(v, velocity), (z - t[:, None] * v - u).square().sum(1) / t.square())


def test_straightness_is_one_on_a_line_and_more_elsewhere():
    """Eq. (10.8), on walks of the samplers."""

    def straightness(velocity):
        states = [z_1 := draws(5, 2)]
        sample_euler(velocity, z_1, 20, lambda t, z, v: states.append(z))
        steps = sum((b - a).norm(dim=1) for a, b in zip(states, states[1:]))
        return steps / (states[-1] - states[0]).norm(dim=1)

    u = draws(5, 2, seed=1)
    torch.testing.assert_close(straightness(lambda t, z: (z - u) / t), torch.ones(5, dtype=torch.float64))
    turn = torch.tensor([[0.0, 3.0], [-3.0, 0.0]], dtype=torch.float64)
    assert (straightness(lambda t, z: z @ turn) > 1.05).all()


@pytest.mark.parametrize("n", [1, 4, 10])
def test_heun_asks_where_the_field_has_no_answer(n):
    """Eq. (10.9): along a sure image's road Euler ends at u, Heun at u + eps / (2 n), as the field at t = 0 says -u."""
    u, eps = draws(5, 3), draws(5, 3, seed=1)

    def field(t, z):
        return (z - u) / t if t > 0 else -u

    torch.testing.assert_close(sample_euler(field, eps, n), u)
    torch.testing.assert_close(sample_heun(field, eps, n), u + eps / (2 * n))


def test_share_of_the_label_in_a_velocity():
    """Eq. (10.11): of ||eps - u||^2 the label makes ||u||^2 / (D + ||u||^2) on average."""
    u = 2 * torch.eye(1, 12, dtype=torch.float64).expand(N, -1)
    velocity = flow_path(u, 0.5, draws(N, 12)).velocity
    assert (4 / velocity.square().sum(1).mean()).item() == pytest.approx(4 / (12 + 4), rel=0.01)


def test_a_velocity_in_the_span_of_the_table_leaves_the_rest():
    """Eqs. (10.10), (10.13): v = scores @ W never moves what is perpendicular to W, and that is as far from every row."""
    W, z_1, scores = draws(3, 8), draws(6, 8, seed=1), draws(6, 3, seed=2)
    P = torch.linalg.pinv(W) @ W  # projection onto the rows' span, as z @ P
    z_0 = sample_euler(lambda t, z: scores @ W, z_1, 10)
    torch.testing.assert_close(z_0 - z_0 @ P, z_1 - z_1 @ P)
    rest = (z_0 - z_0 @ P).square().sum(1, keepdim=True)
    torch.testing.assert_close(torch.cdist(z_0, W).square(), torch.cdist(z_0 @ P, W).square() + rest)
    assert torch.equal(nearest_class(z_0, W), nearest_class(z_0 @ P, W))


# --- Layers in parallel ---


@pytest.mark.parametrize("N", [1, 2, 3, 7, 8, 10, 64])
def test_layers_apart_are_as_fast_as_the_longest_share(N):
    """Eq. (13.1): the time of the rank with the most layers, one unit each."""
    T = 10
    longest = max(len(layers_for_rank(T, rank, N)) for rank in range(N))
    assert T / longest == T / math.ceil(T / N)


@pytest.mark.parametrize("N", [2, 3, 8])
def test_averaging_round_a_ring_sends_what_the_book_says(N):
    """Eq. (13.2): N chunks go round twice but for one machine, first added up, then handed on; all end with the sum."""
    size = 4 * N
    values = [draws(size, seed=machine).view(N, -1) for machine in range(N)]
    expected, sent = torch.stack(values).sum(0), [0] * N
    for phase in ("add", "hand on"):
        for step in range(N - 1):
            moving = []
            for machine in range(N):
                chunk = (machine - step + (phase == "hand on")) % N
                moving.append(((machine + 1) % N, chunk, values[machine][chunk].clone()))
                sent[machine] += values[machine][chunk].numel()
            for receiver, chunk, value in moving:
                values[receiver][chunk] = values[receiver][chunk] + value if phase == "add" else value
    for value in values:
        torch.testing.assert_close(value, expected)
    assert sent == [2 * (N - 1) / N * size] * N


@pytest.mark.parametrize("N, m", [(2, 1), (4, 16), (8, 16), (10, 5), (64, 16)])
def test_a_pipeline_fills_and_drains(N, m):
    """Eq. (13.3): m parts through the stages, a stage works on one part at a time and on each after the stage before it."""
    T = 10
    blocks = [min(math.ceil(T / N), T - first) for first in range(0, T, math.ceil(T / N))]
    slowest, free, done = max(blocks), [0.0] * len(blocks), 0.0
    for _ in range(m):
        done = 0.0
        for stage in range(len(blocks)):
            done = free[stage] = max(done, free[stage]) + slowest / m  # a short last stage keeps the others' beat
    assert T / done == pytest.approx(T / slowest * m / (m + len(blocks) - 1))
    assert len(blocks) == math.ceil(T / math.ceil(T / N))


# --- Ceilings ---


def test_the_slower_of_two_roofs_decides():
    """Eq. (12.2): work and traffic at the same time, each at its own speed; what takes longer sets the pace."""
    for work, traffic, peak, beta in draws(50, 4).exp().tolist():
        together = max(work / peak, traffic / beta)
        assert work / together == pytest.approx(min(peak, work / traffic * beta))


def test_intensity_of_a_matrix_product():
    """Eq. (12.3): operations by PyTorch's own counter, bytes of the three matrices."""
    from torch.utils.flop_counter import FlopCounterMode

    for n in (6, 96):
        a, b = torch.randn(n, n), torch.randn(n, n)
        with FlopCounterMode(display=False) as counter:
            product = a @ b
        assert counter.get_total_flops() / sum(m.nbytes for m in (a, b, product)) == pytest.approx(n / 6)


def test_fishers_discriminant_is_bayes_rule_for_gaussians_of_one_covariance():
    """Eq. (14.5), against the densities themselves."""
    means, mixing, prior, s = draws(4, 3), draws(3, 3, seed=1), draws(4, seed=2).softmax(0), draws(6, 3, seed=3)
    S = mixing @ mixing.T + torch.eye(3)
    densities = [torch.distributions.MultivariateNormal(mean, S).log_prob(s) for mean in means]
    expected = (torch.stack(densities, 1) + prior.log()).log_softmax(1)
    inverse = torch.linalg.inv(S)
    quadratic = (means @ inverse * means).sum(1) / 2
    torch.testing.assert_close((s @ inverse @ means.T - quadratic + prior.log()).log_softmax(1), expected)
