import pytest
import torch

from noprop_helpers.embeddings import gaussian, nearest_class, nearest_distribution, one_hot, orthogonal, prototypes


def test_one_hot_rows():
    assert one_hot(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert one_hot(torch.tensor([], dtype=torch.int64), 3).shape == (0, 3)
    assert one_hot(torch.tensor([1, 1]), 3).tolist() == [[0, 1, 0], [0, 1, 0]]  # a batch of one class


def test_nearest_class_against_cdist():
    g = torch.Generator().manual_seed(0)
    z, W = torch.randn(50, 4, generator=g), torch.randn(7, 4, generator=g)
    assert torch.equal(nearest_class(z, W), torch.cdist(z, W).argmin(1))


def test_nearest_class_of_one_hot_is_argmax():
    z = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nearest_class(z, torch.eye(10)), z.argmax(1))


@pytest.mark.parametrize("W", [torch.eye(6), orthogonal(6, 9, torch.Generator().manual_seed(1))], ids=["one-hot", "orthogonal"])
def test_a_mixture_of_orthonormal_embeddings_gives_back_its_shares(W):
    p = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).mul(3).softmax(1)
    torch.testing.assert_close(nearest_distribution(p @ W, W), p, rtol=1e-4, atol=1e-6)


def test_nearest_distribution_is_a_distribution_and_the_nearest():
    """Against many others, and its largest entry against ``nearest_class``, for embeddings of any length and direction."""
    g = torch.Generator().manual_seed(0)
    z, W = 2 * torch.randn(40, 5, generator=g), torch.randn(7, 5, generator=g)
    p = nearest_distribution(z, W)
    assert p.min() >= 0 and (p == 0).any() and torch.allclose(p.sum(1), torch.ones(40))
    assert torch.equal(p.argmax(1), nearest_class(z, W))
    goal = -torch.cdist(z, W).square() / 2
    others = torch.randn(2000, 7, generator=g).mul(4).softmax(1)
    around = 0.9 * p[:, None] + 0.1 * others  # [40, 2000, 7], distributions too
    for some in (others[None], around):
        assert ((some - goal[:, None]).square().sum(2) >= (p - goal).square().sum(1)[:, None] - 1e-4).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: one_hot(torch.tensor([0, 10]), 10), r"0\.\.9, got values from 0 to 10"),
        (lambda: one_hot(torch.tensor([-1]), 10), "from -1"),
        (lambda: one_hot(torch.tensor([1.0]), 10), "int64, got .* torch.float32"),
        (lambda: one_hot(torch.tensor([[1]]), 10), r"shape \[B\]"),
        (lambda: orthogonal(10, 9), "embed_dim >= 10, got 9"),
        (lambda: prototypes(torch.rand(4, 1, 2, 2), torch.tensor([0, 0, 1, 1]), 3), "class 2 has no image"),
        (lambda: prototypes(torch.rand(4, 4), torch.tensor([0, 0, 1, 1]), 2), r"got \[4, 4\], \[4\]"),
        (lambda: nearest_class(torch.ones(2, 3), torch.ones(4, 5)), r"\[2, 3\] and \[4, 5\]"),
        (lambda: nearest_distribution(torch.ones(2, 3), torch.ones(4, 5)), r"\[2, 3\] and \[4, 5\]"),
        (lambda: nearest_class(torch.ones(2, 3, 3), torch.ones(4, 3)), r"\[2, 3, 3\] and \[4, 3\]"),
        (lambda: nearest_class(torch.ones(2, 3), torch.ones(4, 3, 3)), r"\[2, 3\] and \[4, 3, 3\]"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_orthogonal_rows_are_orthonormal_and_random():
    W = orthogonal(10, 20, torch.Generator().manual_seed(0))
    torch.testing.assert_close(W @ W.T, torch.eye(10), atol=1e-5, rtol=0)
    assert not torch.equal(W, orthogonal(10, 20, torch.Generator().manual_seed(1)))
    draws = torch.stack([orthogonal(1, 4, torch.Generator().manual_seed(seed)) for seed in range(2000)])
    assert (draws.mean(0).abs() < 5 * 0.5 / 2000**0.5).all()  # no direction is preferred


@pytest.mark.parametrize("table", [gaussian, orthogonal])
def test_a_table_is_drawn_by_its_generator_alone(table):
    """Twice the same, whatever else draws in between; and nobody else's draws are used up."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = table(4, 6, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(table(4, 6, torch.Generator().manual_seed(3)), first)
    assert not torch.equal(table(4, 6, torch.Generator().manual_seed(4)), first)


def test_as_many_orthogonal_rows_as_dimensions():
    W = orthogonal(5, 5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(W.T @ W, torch.eye(5), atol=1e-5, rtol=0)


def test_the_nearest_distribution_is_where_the_state_is():
    assert nearest_distribution(torch.zeros(2, 3, device="meta"), torch.zeros(4, 3, device="meta")).device.type == "meta"


def test_gaussian_rows_have_squared_length_about_1():
    W = gaussian(2000, 20, torch.Generator().manual_seed(0))
    assert W.square().sum(1).mean().item() == pytest.approx(1, abs=0.03)


def test_prototypes_are_medoids_by_brute_force():
    """Eq. (8.5)."""
    g = torch.Generator().manual_seed(0)
    images, labels = torch.rand(41, 1, 3, 3, generator=g), torch.arange(41) % 4
    W = prototypes(images, labels, 4)
    for k in range(4):
        own = [image.flatten() for image, label in zip(images, labels) if label == k]
        medians = [torch.stack([(a - b).norm() for b in own]).median().item() for a in own]
        assert torch.equal(W[k], own[medians.index(min(medians))])


@pytest.mark.parametrize("snr", [0.5, 4.0])
def test_best_guess_without_an_image(snr):
    """Eq. (2.3): of K one-hot labels in noise, nearest_class finds the right one with this probability."""
    K, N, alpha_bar = 10, 200_000, snr / (1 + snr)
    noise = torch.randn(N, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = (1 - alpha_bar) ** 0.5 * noise
    z[:, 3] += alpha_bar**0.5
    measured = (nearest_class(z, alpha_bar**0.5 * torch.eye(K, dtype=torch.float64)) == 3).double().mean().item()
    x = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    integral = torch.trapezoid(normal.log_prob(x).exp() * normal.cdf(x + snr**0.5) ** (K - 1), x).item()
    assert measured == pytest.approx(integral, abs=5 * (integral * (1 - integral) / N) ** 0.5)


UNFINISHED = "expected finite z and W: these labels or the layers' weights are NaN or infinite"


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda: one_hot([1, 2], 3), ValueError, "labels must be a tensor [B], got list"),
        (lambda: one_hot(torch.tensor([0]), 0), ValueError, "num_classes must be an integer >= 1, got 0"),
        (lambda: gaussian(0, 4), ValueError, "num_classes must be an integer >= 1, got 0"),
        (lambda: gaussian(4, 2.0), ValueError, "embed_dim must be an integer >= 1, got 2.0"),
        (lambda: gaussian(True, 4), ValueError, "num_classes must be an integer >= 1, got True"),
        (lambda: gaussian(3, 4, 7), TypeError, "generator must be a torch.Generator or None, got 7"),
        (lambda: orthogonal(3, 0), ValueError, "embed_dim must be an integer >= 1, got 0"),
        (lambda: orthogonal(0, 3), ValueError, "num_classes must be an integer >= 1, got 0"),
        (lambda: orthogonal(3, 4, 7), TypeError, "generator must be a torch.Generator or None, got 7"),
        (
            lambda: nearest_class(torch.zeros(2, 3), torch.zeros(4, 3).double()), ValueError,
            "expected z and W of one type, got torch.float32 and torch.float64",
        ),
        (lambda: nearest_class(torch.full((2, 3), float("nan")), torch.zeros(4, 3)), ValueError, UNFINISHED),
        (lambda: nearest_distribution(torch.zeros(2, 3), torch.full((4, 3), float("inf"))), ValueError, UNFINISHED),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message


def test_a_single_number_is_an_embedding():
    assert gaussian(1, 1).shape == orthogonal(1, 1).shape == (1, 1)


def test_shares_of_states_far_from_all_embeddings_keep_what_sets_them_apart():
    """As a nearer state's with the same differences, whatever the scores' size; and each of a batch by itself."""
    W, step = torch.eye(3), torch.tensor([[77.0, 53.0, 0.0]]) / 256  # exact in float32, there as here
    near, far = nearest_distribution(step, W), nearest_distribution(step + 49152, W)
    torch.testing.assert_close(far, near, rtol=0, atol=1e-5)
    fine = torch.tensor([[0.3, 0.2, 0.0]])  # would be rounded, were the far one's scores taken off
    both = nearest_distribution(torch.cat([fine, step + 49152]), W)
    torch.testing.assert_close(both, torch.cat([nearest_distribution(fine, W), far]), rtol=0, atol=1e-6)
