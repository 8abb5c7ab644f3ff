"""Ours against theirs: what SciPy, scikit-learn, torch.distributions and torchdiffeq compute by other ways must be the same.

Three larger packages, diffusers, torchmetrics and flow_matching, are asked where they are installed; the book does without.
"""

import numpy as np
import pytest
import scipy
import scipy.integrate
import scipy.linalg
import scipy.optimize
import scipy.spatial.distance
import scipy.special
import scipy.stats
import torch
import torchdiffeq
from sklearn.calibration import calibration_curve
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.feature_extraction.image import extract_patches_2d
from sklearn.linear_model import Ridge
from sklearn.metrics import log_loss, mean_squared_error
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence
from torch.testing import assert_close

from noprop_helpers import blocks, data, diffusion, embeddings, features, losses, samplers
from noprop_helpers.backprop import NeuralODE
from noprop_helpers.lab.chain import calibration, ideal_walk
from noprop_helpers.noprop import probability_flow
from noprop_helpers.normal_equations import Moments, denoiser_at, ridge_regression
from noprop_helpers.schedules import LearnedGamma, alphas_from_alpha_bar, cosine_alpha_bar, posterior_coefficients, snr

PRIOR = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64)


def draws(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def installed(name):
    """A package that the book does without, or a skip that says so."""
    data.import_torchvision()  # torchmetrics asks for it
    return pytest.importorskip(name, reason=f"{name} is not installed: with `pip install {name}` it is asked, too")


# --- Forward and posterior: torch.distributions, scipy.stats ----------------------------------------------------------


def test_the_posterior_is_bayes_rule_for_normal_densities():
    """log q(z_{t-1} | z_t, u) is what Bayes' rule makes of three densities, wherever they are asked."""
    alpha_bar = cosine_alpha_bar(6)
    a, b, c = posterior_coefficients(alpha_bar)
    alphas, u, before, after = alphas_from_alpha_bar(alpha_bar), draws(50), draws(50, seed=1), draws(50, seed=2)
    for t in range(1, 7):
        given = Normal(a[t - 1] * u + b[t - 1] * after, c[t - 1].sqrt()).log_prob(before)
        prior = Normal(alpha_bar[t - 1].sqrt() * u, (1 - alpha_bar[t - 1]).sqrt()).log_prob(before)
        step = Normal(alphas[t - 1].sqrt() * before, (1 - alphas[t - 1]).sqrt()).log_prob(after)
        evidence = Normal(alpha_bar[t].sqrt() * u, (1 - alpha_bar[t]).sqrt()).log_prob(after)
        assert_close(given, prior + step - evidence, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("t", [0, 2, 5])
def test_states_of_both_directions_have_the_marginals(t):
    """Kolmogorov-Smirnov: the chain forward, the step at once, and the way back by layers that know the label."""
    alpha_bar, u, N = cosine_alpha_bar(5, clean_end=0.99), torch.full((20_000, 1), -0.7, dtype=torch.float64), 20_000
    q, states = scipy.stats.norm((alpha_bar[t] ** 0.5 * -0.7).item(), ((1 - alpha_bar[t]) ** 0.5).item()), {}
    states["at once"] = diffusion.q_sample(u, alpha_bar[t], draws(N, 1))
    start = diffusion.q_sample(u, alpha_bar[0], draws(N, 1, seed=1))
    states["forward"] = diffusion.forward_chain(start, alphas_from_alpha_bar(alpha_bar), seeded(2))[t]
    seen = {5: diffusion.q_sample(u, alpha_bar[5], draws(N, 1, seed=3))}
    keep = lambda layer, z, u_hat: seen.update({layer - 1: z})  # noqa: E731
    samplers.sample_posterior(lambda layer, z: u, seen[5], *posterior_coefficients(alpha_bar), seeded(4), keep)
    states["back"] = seen[t]
    for way, z in states.items():
        assert scipy.stats.kstest(z.flatten().numpy(), q.cdf).pvalue > 0.01, way


def test_the_divergence_from_the_prior_is_that_of_torch():
    u, level = draws(7, 4), torch.tensor(0.3, dtype=torch.float64)
    q = Independent(Normal(level.sqrt() * u, (1 - level).sqrt()), 1)
    p = Independent(Normal(torch.zeros_like(u), 1.0), 1)
    assert_close(diffusion.kl_to_prior(u, level), kl_divergence(q, p))


def test_the_ideal_denoiser_weighs_a_mixture_of_normals():
    W, z, level = draws(5, 3), draws(9, 3, seed=1), 0.35
    parts = MultivariateNormal(level**0.5 * W, (1 - level) * torch.eye(3, dtype=torch.float64))
    likely = (PRIOR.log() + parts.log_prob(z[:, None])).softmax(1)
    assert_close(diffusion.ideal_denoiser(z, level, W, PRIOR.log()), likely @ W)
    # Tweedie's formula says the same by the slope of the mixture's own density.
    z.requires_grad_()
    (score,) = torch.autograd.grad(MixtureSameFamily(Categorical(PRIOR), parts).log_prob(z).sum(), z)
    z = z.detach()
    assert_close(diffusion.ideal_denoiser(z, level, W, PRIOR.log()), (z + (1 - level) * score) / level**0.5)


def test_the_exact_denoiser_of_one_hot_labels_lands_on_classes_as_often_as_they_are():
    """Chi-square, T = 100: a chain of perfect layers that see no image draws the prior. Without its noise it does not."""
    N, W, alpha_bar = 4000, torch.eye(5, dtype=torch.float64), cosine_alpha_bar(100)
    belief = PRIOR.log().expand(N, -1)

    def p_value(noise_scale, prior=PRIOR):
        counts = ideal_walk(belief, W, alpha_bar, noise_scale, seeded(0)).bincount(minlength=5)
        return scipy.stats.chisquare(counts.numpy(), N * prior.numpy()).pvalue

    assert p_value(1.0) > 0.01
    assert p_value(0.0) < 1e-6 and p_value(1.0, PRIOR.flip(0)) < 1e-6  # the test can tell


# --- Losses and read-outs: scipy.special, scikit-learn ----------------------------------------------------------------


def test_losses_are_those_of_scikit_learn_and_torch():
    logits, labels, W = draws(8, 5), torch.arange(8) % 5, draws(5, 3, seed=1)
    per_sample = losses.readout_loss(logits, labels)
    assert_close(per_sample, -Categorical(logits=logits).log_prob(labels))
    assert per_sample.mean().item() == pytest.approx(log_loss(labels.numpy(), scipy.special.softmax(logits.numpy(), 1)))
    u_hat = blocks.expected_embedding(logits, W)
    assert_close(u_hat, torch.from_numpy(scipy.special.softmax(logits.numpy(), 1) @ W.numpy()))
    u = W[labels]
    assert losses.squared_error(u_hat, u).mean().item() == pytest.approx(mean_squared_error(u.numpy(), u_hat.numpy()))
    total = losses.dt_loss(u_hat, u, 3.0, num_steps=4, eta=0.5)
    by_scipy = [scipy.spatial.distance.sqeuclidean(a, b) for a, b in zip(u_hat.numpy(), u.numpy())]
    assert_close(total, 3.0 * torch.tensor(by_scipy, dtype=torch.float64))
    assert_close(losses.fm_loss(u_hat, u), torch.tensor(by_scipy, dtype=torch.float64))


@pytest.mark.parametrize(
    "loss, gradient, target",
    [
        (losses.squared_error, losses.squared_error_gradient, draws(3, 4, seed=1)),
        (losses.readout_loss, losses.readout_loss_gradient, torch.tensor([3, 0, 1])),
    ],
)
def test_gradients_are_scipys_differences(loss, gradient, target):
    x = draws(3, 4)
    differences = scipy.optimize.approx_fprime(
        x.flatten().numpy(), lambda values: loss(torch.from_numpy(values).view(3, 4), target).sum().item(), 1e-7
    )
    assert_close(gradient(x, target).flatten(), torch.from_numpy(differences), rtol=1e-5, atol=1e-6)


def test_the_nearest_class_is_scipys():
    z, W = draws(200, 3), draws(7, 3, seed=1)
    nearest = scipy.spatial.distance.cdist(z, W).argmin(1)
    assert np.array_equal(embeddings.nearest_class(z, W), nearest) and len(set(nearest)) > 3


def test_the_nearest_distribution_is_what_an_optimiser_finds():
    z, W = 0.7 * draws(4, 3), draws(5, 3, seed=1)
    for state, p in zip(z, embeddings.nearest_distribution(z, W)):
        scores = -(state - W).square().sum(1).numpy() / 2
        found = scipy.optimize.minimize(
            lambda q: np.sum((q - scores) ** 2), np.full(5, 0.2), method="SLSQP", bounds=[(0, 1)] * 5,
            constraints={"type": "eq", "fun": lambda q: q.sum() - 1}, options={"ftol": 1e-14},
        )  # fmt: skip
        assert_close(p, torch.from_numpy(found.x), rtol=0, atol=1e-5)


def test_calibration_is_that_of_scikit_learn():
    logits, labels = 2 * draws(500, 4), torch.from_numpy(np.random.default_rng(0).integers(4, size=500))
    found = calibration(logits.log_softmax(1), labels)
    confidence, predicted = logits.softmax(1).max(1)
    accuracy, mean = calibration_curve(predicted == labels, confidence, n_bins=10)
    bins = {name: np.array(values) for name, values in found["bins"].items()}
    filled = bins["share"] > 0
    np.testing.assert_allclose(bins["accuracy"][filled], accuracy)
    np.testing.assert_allclose(bins["confidence"][filled], mean)
    assert found["ece"] == pytest.approx(np.sum(bins["share"][filled] * np.abs(accuracy - mean)))
    assert found["nll"] == pytest.approx(log_loss(labels.numpy(), logits.softmax(1).numpy()))


# --- Random tables: scipy.stats ---------------------------------------------------------------------------------------


def test_random_tables_have_the_distributions_that_they_should():
    """An entry of a row of a random rotation, squared, is Beta(1/2, (D - 1)/2); of a Gaussian table, N(0, 1/D)."""
    first = torch.stack([embeddings.orthogonal(2, 4, seeded(i))[1, 2] for i in range(600)])
    assert scipy.stats.kstest(first.square().numpy(), scipy.stats.beta(0.5, 1.5).cdf).pvalue > 0.01
    assert abs((first > 0).double().mean().item() - 0.5) < 5 * 0.5 / 600**0.5
    signs = [torch.linalg.det(embeddings.orthogonal(3, 3, seeded(i))).sign().item() for i in range(400)]
    assert scipy.stats.binomtest(signs.count(1.0), 400).pvalue > 0.01  # as many reflections as rotations
    table = embeddings.gaussian(100, 25, seeded())
    assert scipy.stats.kstest(table.flatten().numpy(), scipy.stats.norm(0, 0.2).cdf).pvalue > 0.01


def test_a_prototype_is_the_medoid_by_scipys_distances():
    images = draws(31, 1, 3, 2) * torch.logspace(-1, 2, 31, dtype=torch.float64).view(31, 1, 1, 1)  # some lie far off
    distances = scipy.spatial.distance.cdist(images.flatten(1), images.flatten(1))
    medoid = np.median(distances, axis=1).argmin()
    assert medoid != distances.mean(1).argmin()
    found = embeddings.prototypes(images, torch.zeros(31, dtype=torch.int64), 1)
    assert_close(found[0], images[medoid].flatten())


# --- Continuous time: scipy.integrate, torchdiffeq --------------------------------------------------------------------


@pytest.fixture(scope="module")
def gamma():
    torch.manual_seed(0)
    learned = LearnedGamma(-3.0, 4.0).double()
    learned.bias.data += torch.randn_like(learned.bias)  # not the straight line that it starts as
    return learned.requires_grad_(False)


def at(gamma, t):
    return gamma(torch.tensor(t, dtype=torch.float64))


def test_the_rate_of_a_learned_schedule_adds_up_to_it(gamma):
    for end in (0.3, 1.0):
        area, _ = scipy.integrate.quad(lambda t: at(gamma, t).rate.item(), 0, end)
        assert (at(gamma, end).gamma - at(gamma, 0.0).gamma).item() == pytest.approx(area, rel=1e-7)


def test_the_weights_of_continuous_time_add_up_to_the_snr(gamma):
    """The integral of 1/2 eta (-SNR') |error|^2 is eta / 2 (SNR(0) - SNR(1)) |error|^2."""
    u = draws(1, 3)

    def loss(t):
        value, rate = at(gamma, t)
        return losses.ct_loss(u, torch.zeros_like(u), (rate * torch.exp(-value))[None], eta=0.4).item()

    area, _ = scipy.integrate.quad(loss, 0, 1)
    ends = snr(torch.sigmoid(-torch.stack([at(gamma, 0.0).gamma, at(gamma, 1.0).gamma])))
    assert area == pytest.approx((0.2 * (ends[0] - ends[1]) * u.square().sum()).item(), rel=1e-7)


def flow(gamma, u):
    """dz/dt towards a known label."""
    return lambda t, z: probability_flow(u, z, *gamma(torch.as_tensor(t, dtype=torch.float64)))


def test_the_flow_keeps_the_noise_of_its_start(gamma):
    """By SciPy's solver: where the label is known, the state is alpha u + sigma eps with the eps of the start."""
    u, eps = draws(1, 4), draws(1, 4, seed=1)
    start, end = (torch.sigmoid(-at(gamma, t).gamma) for t in (1.0, 0.0))
    v = flow(gamma, u)
    z_1 = diffusion.q_sample(u, start, eps)[0].numpy()
    found = scipy.integrate.solve_ivp(
        lambda t, z: v(t, torch.from_numpy(z)[None])[0].numpy(), (1, 0), z_1, rtol=1e-9, atol=1e-10
    )
    assert_close(torch.from_numpy(found.y[:, -1])[None], diffusion.q_sample(u, end, eps), rtol=0, atol=1e-6)


@pytest.mark.parametrize("ours, theirs", [(samplers.sample_euler, "euler"), (samplers.sample_heun, "heun2")])
def test_steps_are_torchdiffeqs(gamma, ours, theirs):
    u, z = draws(6, 4), draws(6, 4, seed=1)
    times = torch.linspace(1, 0, 9, dtype=torch.float64)
    states = torchdiffeq.odeint(flow(gamma, u), z, times, method=theirs)
    seen = [z]
    ours(flow(gamma, u), z, 8, lambda t, z, v: seen.append(z))
    assert_close(torch.stack(seen), states)


def test_the_neural_ode_is_eulers_walk():
    block, W = blocks.TimedConvBlock((1, 8, 8), 3, 3).eval(), torch.eye(3)
    images, z = torch.rand(2, 1, 8, 8, generator=seeded()), torch.randn(2, 3, generator=seeded(1))
    with torch.no_grad():
        net = NeuralODE(block, W, readout=lambda z, W: z, odeint=torchdiffeq.odeint, num_steps=5)
        encoded = block.encode(images)
        walked = samplers.sample_euler(lambda t, z: -block.head(encoded, z, torch.full((2,), t)) @ W, z, 5)
        assert_close(net(images, z), walked)


# --- Features: scikit-learn -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_are_scikit_learns_row_by_row(channels):
    images = torch.rand(2, channels, 6, 9, generator=seeded(), dtype=torch.float64)
    found = features.extract_patches(images, 4)
    for image, ours in zip(images, found):
        theirs = extract_patches_2d(image.permute(1, 2, 0).numpy(), (4, 4)).reshape(-1, 4, 4, channels)
        rows = theirs.transpose(0, 3, 1, 2).reshape(len(theirs), -1)
        expected = (rows - rows.mean(1, keepdims=True)) / (rows.std(1, keepdims=True) + 0.1)
        assert_close(ours, torch.from_numpy(expected))


def test_whitening_is_scipys_power_of_the_covariance():
    x = draws(300, 5) @ draws(5, 5, seed=1) + 2
    mean, P = features.zca_whitening(x, epsilon=0.2)
    covariance = np.cov(x.numpy(), rowvar=False, bias=True)
    assert_close(mean, x.mean(0))
    assert_close(P, torch.from_numpy(scipy.linalg.fractional_matrix_power(covariance + 0.2 * np.eye(5), -0.5)))


@pytest.mark.parametrize("num_iterations", [1, 4, 10])
def test_kmeans_is_scikit_learns_from_the_same_start(num_iterations):
    x = torch.cat([draws(60, 3, seed=i) + 3 * draws(1, 3, seed=10 + i) for i in range(4)])
    start = x[torch.randperm(len(x), generator=seeded(5))[:4]]
    theirs = KMeans(4, init=start.numpy(), n_init=1, max_iter=num_iterations, tol=0, algorithm="lloyd").fit(x.numpy())
    found = features.kmeans(x, 4, num_iterations, seeded(5))
    assert_close(found, torch.from_numpy(theirs.cluster_centers_), rtol=0, atol=1e-9)
    assert (found - start).norm() > 1  # it has moved


def test_principal_components_are_scikit_learns():
    x = draws(200, 6) * torch.tensor([5.0, 3.0, 2.0, 0.5, 0.3, 0.1]) @ embeddings.orthogonal(6, 6, seeded()).double() + 1
    variances, directions = features.principal_components(x, 3, num_iterations=40, generator=seeded())
    theirs = PCA(3).fit(x.numpy())
    assert_close(variances, torch.from_numpy(theirs.explained_variance_) * 199 / 200)
    cosines = (directions.T * torch.from_numpy(theirs.components_)).sum(1)
    assert_close(cosines.abs(), torch.ones(3, dtype=torch.float64))


def test_a_dictionary_of_patches_is_made_of_scikit_learns_parts():
    """Whitened by SciPy, clustered by scikit-learn from the same start: the filters give the same similarities."""
    images = torch.rand(30, 1, 6, 6, generator=seeded(), dtype=torch.float64)
    filters, bias, deviation = features.patch_filters(images, 3, 4, num_patches=300, generator=seeded(1))
    same = seeded(1)
    patches = features._random_patches(images, 3, 10, same)
    white = (patches - patches.mean(0)).numpy() @ scipy.linalg.fractional_matrix_power(
        np.cov(patches.numpy(), rowvar=False, bias=True) + 0.1 * np.eye(9), -0.5
    )
    start = white[torch.randperm(300, generator=same)[:4]]
    centres = KMeans(4, init=start, n_init=1, max_iter=10, tol=0, algorithm="lloyd").fit(white).cluster_centers_
    similarity = white @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T
    similarity -= similarity.mean(1, keepdims=True)
    np.testing.assert_allclose((patches @ filters + bias).numpy(), similarity, atol=1e-8)
    np.testing.assert_allclose(deviation.numpy(), similarity.std(0, ddof=1))
    assert len(patches.unique(dim=0)) > 200  # ten of sixteen places of every image, some of them twice


def test_patch_features_are_the_same_by_hand():
    """Patches by scikit-learn, similarities and pooling in NumPy, on images that are not square."""
    images = torch.rand(40, 1, 7, 11, generator=seeded())
    encoder = features.PatchFeatures(channels=1, num_centres=5, patch_size=2, grid=2, feature_dim=6)
    encoder.fit(images, num_patches=400, generator=seeded(1))
    pooled = []
    for image in images[:, 0].double().numpy():
        rows = extract_patches_2d(image, (2, 2)).reshape(60, 4)  # 6 x 10 places
        rows = (rows - rows.mean(1, keepdims=True)) / (rows.std(1, keepdims=True) + 0.1)
        active = np.maximum(rows @ encoder.filters.double().numpy() + encoder.bias.double().numpy(), 0).reshape(6, 10, 5)
        cells = [active[i : i + 3, j : j + 5].mean((0, 1)) for i in (0, 3) for j in (0, 5)]
        pooled.append(np.stack(cells, 1).flatten())
    pooled = np.stack(pooled)
    np.testing.assert_allclose(encoder.pooled(images).numpy(), pooled, atol=1e-5)
    # All forty were fitted on: the features are the leading principal coordinates, each of variance 1.
    found, theirs = encoder(images).double().numpy(), PCA(6, whiten=True).fit_transform(pooled)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(found, rowvar=False, bias=True), np.eye(6), atol=1e-3)
    first = np.corrcoef(found[:, 0], theirs[:, 0])[0, 1]
    assert abs(first) > 0.999


def test_solved_layers_are_scikit_learns_ridge_and_scipys_least_squares():
    """From images alone; and from images and states, whose noise, averaged over, is a ridge of its own on B."""
    N, level, x = 400, 0.6, draws(400, 6)
    u = x @ draws(6, 3, seed=1) + 2 * draws(N, 3, seed=2) + 1
    moments = Moments(6, 3)
    for chunk in range(0, N, 100):
        moments.add(x[chunk : chunk + 100].float(), u[chunk : chunk + 100].float())
    regression = ridge_regression(moments.covariances(), ridge=0.3)
    strength = N * 0.3 * np.cov(x.numpy(), rowvar=False, bias=True).diagonal().mean()
    theirs = Ridge(alpha=strength).fit(x.numpy(), u.numpy())
    np.testing.assert_allclose(regression.weight.T.numpy(), theirs.coef_, atol=1e-4)

    layer = denoiser_at(regression, level)
    dx, du = (x - x.mean(0)).numpy(), (u - u.mean(0)).numpy()
    ridges = scipy.linalg.block_diag(strength**0.5 * np.eye(6), (N * (1 - level)) ** 0.5 * np.eye(3))
    rows, targets = np.vstack([np.hstack([dx, level**0.5 * du]), ridges]), np.vstack([du, np.zeros((9, 3))])
    found = scipy.linalg.lstsq(rows, targets)[0]
    np.testing.assert_allclose(np.hstack([layer.from_x.numpy(), layer.from_z.numpy()]), found.T, atol=1e-4)
    at_the_mean = x.mean(0).float() @ layer.from_x.T + level**0.5 * u.mean(0).float() @ layer.from_z.T + layer.bias
    assert_close(at_the_mean, u.mean(0).float(), rtol=0, atol=1e-4)


# --- Where they are installed -----------------------------------------------------------------------------------------


def test_a_walk_is_that_of_diffusers():
    """Its DDPM with our alphas, its clean sample being our guess, and the same noise, step for step."""
    diffusers = installed("diffusers")
    alphas = torch.linspace(0.95, 0.4, 8, dtype=torch.float64)
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), alphas.cumprod(0)])
    theirs = diffusers.DDPMScheduler(
        8, trained_betas=(1 - alphas).float().numpy(), prediction_type="sample", variance_type="fixed_small", clip_sample=False
    )
    guesses, z_T = draws(8, 5, 3).float(), draws(5, 3, seed=1).float()
    z, generator = z_T, seeded(2)
    for t in range(8, 0, -1):
        z = theirs.step(guesses[t - 1], t - 1, z, generator=generator).prev_sample
    ours = samplers.sample_posterior(lambda t, z: guesses[t - 1], z_T, *posterior_coefficients(alpha_bar), seeded(2))
    assert_close(ours, z, rtol=1e-4, atol=1e-5)


def test_times_are_embedded_as_in_diffusers():
    installed("diffusers")
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.linspace(0, 1, 7)
    theirs = get_timestep_embedding(1000 * t, 16, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert_close(blocks.timestep_embedding(t, 16), theirs, rtol=0, atol=1e-4)


def test_the_calibration_error_is_torchmetrics():
    installed("torchmetrics")
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = 2 * draws(500, 4), torch.arange(500) % 4
    theirs = multiclass_calibration_error(logits.softmax(1), labels, num_classes=4, n_bins=10, norm="l1")
    assert calibration(logits.log_softmax(1), labels)["ece"] == pytest.approx(theirs.item(), rel=1e-5)


def test_the_straight_path_is_flow_matchings():
    """Its time runs to the data and ours to the noise: t is 1 - t, and a velocity has the other sign."""
    installed("flow_matching")
    from flow_matching.path import CondOTProbPath

    u, noise, t = draws(6, 3), draws(6, 3, seed=1), torch.linspace(0, 1, 6, dtype=torch.float64)
    theirs = CondOTProbPath().sample(x_0=noise, x_1=u, t=1 - t)
    ours = diffusion.flow_path(u, t, noise)
    assert_close(ours.z, theirs.x_t)
    assert_close(ours.velocity, -theirs.dx_t)
