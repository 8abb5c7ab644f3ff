"""The adapter of `noprop_helpers`: every group of vectors, states in single precision."""

from unittest import mock

import torch

from noprop_helpers import blocks, diffusion, embeddings, losses, noprop, samplers, schedules


def row(vector):
    return torch.tensor([vector])  # [1, D]: our functions take batches


def table(levels):
    return torch.tensor(levels, dtype=torch.float64)  # as everywhere in the package


def given(*noises):
    """Our samplers draw their noise themselves; here they are handed it, in this order."""
    return mock.patch("torch.randn", side_effect=[row(noise) for noise in noises])


def linear_alpha_bar(num_steps, start, end):
    return schedules.alpha_bar_from_alphas(schedules.linear_alphas(num_steps, start, end))


def cosine_alpha_bar(num_steps, offset, clean_end, noise_end):
    return schedules.cosine_alpha_bar(num_steps, offset, clean_end, noise_end)


def alpha_bar_from_alphas(alphas):
    return schedules.alpha_bar_from_alphas(table(alphas))


def alphas_from_alpha_bar(alpha_bar):
    return schedules.alphas_from_alpha_bar(table(alpha_bar))


def snr(alpha_bar):
    return schedules.snr(table(alpha_bar))


def snr_weights(alpha_bar):
    return schedules.snr_weights(table(alpha_bar))


def alpha_bar_of_gamma(gamma):
    return torch.sigmoid(-torch.tensor(gamma))


def forward_step(z, alpha_bar, t, noise):
    alpha = schedules.alphas_from_alpha_bar(table(alpha_bar))[t - 1 : t]
    with given(noise):
        return diffusion.forward_chain(row(z), alpha)[1]


def q_sample(u, alpha_bar, t, noise):
    return diffusion.q_sample(row(u), alpha_bar[t], row(noise))


def kl_to_prior(u, alpha_bar_T):
    return diffusion.kl_to_prior(row(u), alpha_bar_T)


def posterior(alpha_bar, t):
    return [values[t - 1] for values in schedules.posterior_coefficients(table(alpha_bar))]


def posterior_moments(u, z, alpha_bar, t):
    a, b, c = posterior(alpha_bar, t)
    return [a * row(u) + b * row(z), c]


def posterior_step(u_hat, z, alpha_bar, t, noise):
    a, b, c = (values[t - 1 : t] for values in schedules.posterior_coefficients(table(alpha_bar)))
    with given(noise):
        return samplers.sample_posterior(lambda t, z: row(u_hat), row(z), a, b, c)


def posterior_chain(u_hats, z_T, alpha_bar, noises):
    a, b, c = schedules.posterior_coefficients(table(alpha_bar))
    with given(*reversed(noises)):  # layer T's is drawn first
        return samplers.sample_posterior(lambda t, z: row(u_hats[t - 1]), row(z_T), a, b, c)


def renoise_step(u_hat, alpha_bar, t, noise):
    level = table(alpha_bar)[t - 1 : t]
    with given(noise):
        return samplers.sample_renoise(lambda t, z: row(u_hat), row(u_hat), level)


def expected_embedding(logits, W):
    return blocks.expected_embedding(row(logits), torch.tensor(W))


def ideal_denoiser(z, alpha_bar_t, W, prior):
    log_prior = torch.tensor(prior).log()
    return diffusion.ideal_denoiser(row(z), alpha_bar_t, torch.tensor(W), log_prior)


def nearest_class(z, W):
    return embeddings.nearest_class(row(z), torch.tensor(W))


def squared_error(u_hat, u):
    return losses.squared_error(row(u_hat), row(u))


def readout_loss(logits, label):
    return losses.readout_loss(row(logits), torch.tensor([label]))


def dt_loss(u_hat, u, alpha_bar, t, eta):
    weight = schedules.snr_weights(table(alpha_bar))[t - 1]
    return losses.dt_loss(row(u_hat), row(u), weight, num_steps=len(alpha_bar) - 1, eta=eta)


def ct_loss(u_hat, u, gamma, rate, eta):
    snr_rate = rate * torch.exp(-torch.tensor([gamma]))
    return losses.ct_loss(row(u_hat), row(u), snr_rate, eta)


def flow_state(u, noise, t):
    return diffusion.flow_path(row(u), t, row(noise)).z


def flow_velocity(u, noise):
    return diffusion.flow_path(row(u), 0.5, row(noise)).velocity


def fm_loss(v_hat, u, noise):
    return losses.fm_loss(row(v_hat), flow_velocity(u, noise))


def probability_flow(u_hat, z, gamma, rate):
    gamma, rate = torch.tensor(gamma), torch.tensor(rate)
    return noprop.probability_flow(row(u_hat), row(z), gamma, rate)


def euler(z, num_steps, field):
    p, q, r = field
    return samplers.sample_euler(lambda t, z: p * t * t + q * z + r, row(z), num_steps)


def heun(z, num_steps, field):
    p, q, r = field
    return samplers.sample_heun(lambda t, z: p * t * t + q * z + r, row(z), num_steps)
