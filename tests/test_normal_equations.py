import pytest
import torch
from conftest import generator
from torch import nn

from noprop_helpers.diffusion import q_sample
from noprop_helpers.normal_equations import Moments, denoiser_at, ridge_regression

F, K = 7, 3


def data(n=400, dtype=torch.float64):
    """Features far from zero that say something of the label: x [n, F], u [n, K]."""
    x = torch.randn(n, F, generator=generator(), dtype=dtype) @ torch.randn(F, F, generator=generator(1), dtype=dtype)
    labels = (x[:, :K] + 0.5 * torch.randn(n, K, generator=generator(2), dtype=dtype)).argmax(1)
    return x + 5, torch.eye(K, dtype=dtype)[labels]


def gathered(x, u, batch_size=64, block=1024):
    moments = Moments(x.shape[1], u.shape[1])
    for name in ("origin", "sum_x", "sum_u", "xx", "xu", "uu"):
        setattr(moments, name, getattr(moments, name).to(x.dtype))
    for part in zip(x.split(batch_size), u.split(batch_size)):
        moments.add(*part, block=block)
    return moments.covariances()


@pytest.mark.parametrize("block", [2, 3, 1024])
def test_covariances_are_those_of_all_data_at_once(block):
    x, u = data()
    found = gathered(x, u, block=block)
    both = torch.cov(torch.cat([x, u], 1).T, correction=0)
    torch.testing.assert_close(found.mean_x, x.mean(0))
    torch.testing.assert_close(found.mean_u, u.mean(0))
    torch.testing.assert_close(found.xx, both[:F, :F].triu())
    torch.testing.assert_close(found.xu, both[:F, F:])
    torch.testing.assert_close(found.uu, both[F:, F:])


def test_large_constants_leave_the_digits_to_what_varies():
    x, u = data(dtype=torch.float32)
    near, far = gathered(x, u), gathered(x + 3000, u)
    torch.testing.assert_close(far.xx, near.xx, atol=0.02, rtol=0.01)


def test_the_regression_is_the_usual_one():
    """Eq. (14.2), by a plain solve of all data at once."""
    x, u = data()
    found = ridge_regression(gathered(x, u), 1e-3)
    x0, u0 = x - x.mean(0), u - u.mean(0)
    ridge = 1e-3 * x0.square().mean()
    weight = torch.linalg.solve(x0.T @ x0 / len(x) + ridge * torch.eye(F), x0.T @ u0 / len(x))
    torch.testing.assert_close(found.weight, weight)
    errors = u0 - x0 @ weight
    torch.testing.assert_close(found.error, errors.T @ errors / len(x))
    torch.testing.assert_close(found.left.trace(), errors.square().sum(1).mean() + ridge * weight.square().sum())


@pytest.mark.parametrize("alpha_bar", [0.0, 0.3, 0.9, 0.999])
def test_a_layer_solves_the_normal_equations_of_features_and_state_together(alpha_bar):
    """Eq. (14.3), written out: [[G + ridge, sqrt(a) C], [sqrt(a) C^T, a D + (1 - a) I]] [A B]^T = [C, sqrt(a) D]."""
    x, u = data()
    G, C, D = (values for values in gathered(x, u)[2:])
    G = G + G.triu(1).T
    ridge = 1e-3 * G.diagonal().mean()
    state = alpha_bar**0.5 * C, alpha_bar * D + (1 - alpha_bar) * torch.eye(K)
    system = torch.cat([torch.cat([G + ridge * torch.eye(F), state[0]], 1), torch.cat([state[0].T, state[1]], 1)])
    wanted = torch.linalg.solve(system, torch.cat([C, alpha_bar**0.5 * D]))
    layer = denoiser_at(ridge_regression(gathered(x, u), 1e-3), alpha_bar)
    torch.testing.assert_close(torch.cat([layer.from_x, layer.from_z], 1).T, wanted)
    # The constant: at the mean of features and states it says the mean label.
    at_mean = layer.from_x @ x.mean(0) + layer.from_z @ (alpha_bar**0.5 * u.mean(0)) + layer.bias
    torch.testing.assert_close(at_mean, u.mean(0))


def test_no_small_change_of_a_solved_layer_lowers_its_loss():
    """Eq. (14.1), measured with fresh noise, and not by any formula."""
    x, u = data(n=20_000)
    layer, alpha_bar = denoiser_at(ridge_regression(gathered(x, u), 1e-6), 0.5), torch.tensor(0.5, dtype=x.dtype)
    z = q_sample(u, alpha_bar, torch.randn(u.shape, generator=generator(3), dtype=x.dtype))
    parameters = [nn.Parameter(value.clone()) for value in layer[:3]]

    def loss():
        return (x @ parameters[0].T + z @ parameters[1].T + parameters[2] - u).square().sum(1).mean() / K

    first = loss()
    torch.testing.assert_close(first.detach(), layer.loss, rtol=0.01, atol=0)
    first.backward()
    assert all(p.grad.abs().max() < 5e-3 for p in parameters)
    for p in parameters:  # the same check sees a layer that is off by one part in ten
        with torch.no_grad():
            p.mul_(1.1)
        assert loss() > first


def test_a_layer_corrects_the_images_word_by_a_share_of_what_the_state_says_beyond_it():
    """Eq. (14.4), with its constants: u_hat = m + B (z - sqrt(alpha_bar) m), where m(x) is what the image alone says."""
    x, u = data()
    regression = ridge_regression(gathered(x, u), 1e-3)
    layer, z = denoiser_at(regression, 0.6), torch.randn(len(u), K, generator=generator(3), dtype=x.dtype)
    m = (x - regression.mean_x) @ regression.weight + regression.mean_u
    expected = m + (z - 0.6**0.5 * m) @ layer.from_z.T
    torch.testing.assert_close(x @ layer.from_x.T + z @ layer.from_z.T + layer.bias, expected)


def test_without_noise_the_state_is_all_that_counts_and_in_pure_noise_nothing():
    regression = ridge_regression(gathered(*data()), 1e-3)
    torch.testing.assert_close(denoiser_at(regression, 0.0).from_z, torch.zeros(K, K, dtype=torch.float64))
    clean = denoiser_at(regression, 1 - 1e-9)
    u = torch.eye(K, dtype=torch.float64)
    torch.testing.assert_close(u @ clean.from_z.T + clean.bias + regression.mean_x @ clean.from_x.T, u, atol=1e-4, rtol=0)


def test_features_that_are_copies_need_a_ridge():
    x, u = data(dtype=torch.float32)
    twice = torch.cat([x, x], 1)
    layer = ridge_regression(gathered(twice, u), 1e-3)
    torch.testing.assert_close(layer.weight[:F], layer.weight[F:], atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="too nearly to be told apart at a ridge of 1e-12: raise it"):
        ridge_regression(gathered(torch.cat([twice, twice * 1e3], 1), u), 1e-12)


def test_errors():
    moments = Moments(2, 3)
    with pytest.raises(ValueError, match="no batch was added"):
        moments.covariances()
    with pytest.raises(ValueError, match=r"expected x \[B, 2\] and u \[B, 3\], got \[4, 3\] and \[4, 3\]"):
        moments.add(torch.zeros(4, 3), torch.zeros(4, 3))
    moments.add(torch.ones(4, 2), torch.eye(3)[[0, 1, 2, 0]])
    with pytest.raises(ValueError, match="features that vary and a finite ridge above 0, got a ridge of 1"):
        ridge_regression(moments.covariances(), 1.0)
    regression = ridge_regression(gathered(*data()), 1e-3)
    with pytest.raises(ValueError, match=r"alpha_bar_t must lie in \[0, 1\), got 1"):
        denoiser_at(regression, 1.0)
