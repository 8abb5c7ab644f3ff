import numpy
import pytest
import scipy.ndimage
import torch
from conftest import generator
from torch import nn

from noprop_helpers import features as module
from noprop_helpers.features import (
    PatchFeatures,
    SignedPatches,
    Upright,
    WhitenedPatches,
    encode,
    extract_patches,
    kmeans,
    patch_filters,
    principal_components,
    zca_whitening,
)


def test_patches_are_the_windows_of_the_image():
    image = torch.rand(1, 2, 5, 6, generator=generator())
    patches = extract_patches(image, 3)
    assert patches.shape == (1, 3 * 4, 2 * 3 * 3)
    window = image[0, :, 1:4, 2:5].flatten()  # row 1, column 2 -> position 1 * 4 + 2
    expected = (window - window.mean()) / (window.std(correction=0) + 0.1)
    torch.testing.assert_close(patches[0, 6], expected)


def test_whitened_data_has_unit_covariance():
    mixing = torch.randn(5, 5, generator=generator(), dtype=torch.float64) * 10
    x = torch.randn(20_000, 5, generator=generator(), dtype=torch.float64) @ mixing + 3
    mean, whitening = zca_whitening(x, epsilon=0.0)
    white = (x - mean) @ whitening
    torch.testing.assert_close(torch.cov(white.T, correction=0), torch.eye(5, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(whitening, whitening.T)  # ZCA is the symmetric choice


def test_whitening_holds_back_directions_of_little_variance():
    """Of uncorrelated columns: each one divided by sqrt(variance + epsilon), 0.1 where nobody says."""
    x = torch.tensor([[3.0, 0.02], [-3.0, 0.02], [3.0, -0.02], [-3.0, -0.02]], dtype=torch.float64) + 5
    for options, epsilon in (({}, 0.1), ({"epsilon": 0.5}, 0.5)):
        mean, whitening = zca_whitening(x, **options)
        expected = torch.diag(torch.tensor([9.0 + epsilon, 0.0004 + epsilon], dtype=torch.float64).rsqrt())
        torch.testing.assert_close(whitening, expected)
        torch.testing.assert_close(mean, torch.full((2,), 5.0, dtype=torch.float64))


def lloyd(x, centres, rounds):
    """Each round: every point goes to its nearest centre, every centre to the mean of its points, if it has any."""
    for _ in range(rounds):
        nearest = torch.cdist(x, centres).argmin(1)
        own = [x[nearest == k] for k in range(len(centres))]
        centres = torch.stack([points.mean(0) if len(points) else centre for points, centre in zip(own, centres)])
    return centres


def test_kmeans_is_lloyds_algorithm():
    """Centres of different lengths, so that a wrong weight between length and product would send points elsewhere."""
    x = torch.randn(1000, 2, generator=generator(), dtype=torch.float64) * torch.tensor([3.0, 1.0]) + torch.tensor([4.0, -1.0])
    start = x[torch.randperm(1000, generator=generator(1))[:40]]
    for rounds in (0, 1, 3):
        torch.testing.assert_close(kmeans(x, 40, rounds, generator(1)), lloyd(x, start, rounds))
    ten = lloyd(x, start, 10)
    torch.testing.assert_close(kmeans(x, 40, generator=generator(1)), ten)
    assert not torch.allclose(lloyd(x, ten, 1), ten)  # nor has it settled, so an eleventh round would show


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_of_few_points_is_lloyds_algorithm_too(seed):
    """Clusters here shrink to one point, or to none."""
    x = torch.randn(25, 2, generator=generator(seed), dtype=torch.float64)
    start = x[torch.randperm(25, generator=generator(seed))[:12]]
    for rounds in range(5):
        torch.testing.assert_close(kmeans(x, 12, rounds, generator(seed)), lloyd(x, start, rounds))


def test_a_cluster_of_one_point_is_that_point_and_an_empty_one_stays():
    x = torch.tensor([[0.0, 1.0], [5.0, 5.0], [-3.0, 2.0]])
    torch.testing.assert_close(kmeans(x, 3, generator=generator()).sort(0).values, x.sort(0).values)
    twice = torch.tensor([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])  # two centres in one place: one of them gets no point
    torch.testing.assert_close(kmeans(twice, 3, generator=generator()), twice)


def test_kmeans_finds_separated_clusters():
    true = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    x = (true.repeat(100, 1) + 0.1 * torch.randn(300, 2, generator=generator()))[
        torch.randperm(300, generator=generator())
    ]
    # Several starts, as Lloyd's algorithm may settle in a local optimum; the best one is the truth.
    best = min(
        (kmeans(x, 3, generator=generator(s)) for s in range(5)), key=lambda c: torch.cdist(x, c).min(1)[0].sum()
    )
    assert torch.cdist(true, best).min(1)[0].max() < 0.1


def test_principal_components_against_the_full_eigendecomposition():
    spread = torch.tensor([5.0, 4.0, 3.0, 0.5, 0.2, 0.1], dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator(), dtype=torch.float64)).Q
    x = torch.randn(5000, 6, generator=generator(), dtype=torch.float64) * spread @ rotation + 7
    values, vectors = principal_components(x, 3, num_iterations=20, generator=generator())
    all_values, all_vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    torch.testing.assert_close(values, all_values.flip(0)[:3])
    torch.testing.assert_close(
        (vectors.T @ all_vectors.flip(1)[:, :3]).abs(), torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_components_take_five_rounds_where_nobody_says():
    x = torch.randn(50, 8, generator=generator())
    five, six = (principal_components(x, 3, num_iterations=rounds, generator=generator())[1] for rounds in (5, 6))
    assert torch.equal(principal_components(x, 3, generator=generator())[1], five) and not torch.equal(five, six)


def test_random_patches_come_from_everywhere_and_from_every_image():
    """Every pixel of these images is another, so a patch tells where it was taken."""
    images = torch.rand(3, 1, 6, 9, generator=generator())
    every = extract_patches(images, 3)  # [3, 28, 9]: more places than numbers in a patch
    taken = module._random_patches(images, 3, 400, generator(1)).view(3, 400, 9)
    for own, drawn in zip(every, taken):
        distance = (drawn[:, None] - own).norm(dim=2)  # cdist would square first, and round as the processor likes
        assert distance.min(1).values.max() < 1e-5 and distance.argmin(1).unique().tolist() == list(range(28))


def test_filters_are_whitening_directions_and_mean_in_one(monkeypatch):
    """Of patches whose mean is far from 0: whiten, compare with each centre's direction, take the mean over centres off."""
    patches = torch.randn(300, 4, generator=generator()) @ torch.diag(torch.tensor([2.0, 1.0, 0.5, 3.0])) + 4
    monkeypatch.setattr(module, "_random_patches", lambda images, size, number, draw: patches)
    filters, bias, deviation = patch_filters(torch.zeros(5, 1, 8, 8), 2, 6, 300, generator(1))
    mean, whitening = zca_whitening(patches)
    white = (patches - mean) @ whitening
    centres = kmeans(white, 6, generator=generator(1))
    similarity = torch.stack([white @ centre / centre.norm() for centre in centres], 1)
    similarity = similarity - similarity.mean(1, keepdim=True)
    torch.testing.assert_close(patches @ filters + bias, similarity, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(deviation, similarity.std(0), atol=1e-4, rtol=1e-4)


def test_sizes_where_nobody_says():
    features = PatchFeatures(2)
    assert (features.patch_size, features.grid, features.feature_dim) == (6, 3, 512)
    assert features.filters.shape == (2 * 36, 256) and features.pooled_mean.shape == (256 * 9,)
    assert SignedPatches(1, num_centres=3, patch_size=2).feature_dim == 2 * 3 * 2 * 2
    images = torch.rand(10, 1, 4, 4, generator=generator())
    told, untold = (patch_filters(images, 3, 2, *number, generator=generator(1)) for number in ((50_000,), ()))
    assert all(torch.equal(a, b) for a, b in zip(told, untold))


def test_features_of_float64_images_are_float64():
    images = torch.rand(30, 1, 8, 8, generator=generator())
    features = PatchFeatures(1, num_centres=5, patch_size=3, feature_dim=6).fit(images, num_patches=300, generator=generator())
    in_float32 = features(images)
    in_float64 = features.double()(images.double())
    assert in_float64.dtype == torch.float64
    torch.testing.assert_close(in_float64.float(), in_float32, atol=1e-3, rtol=1e-3)


def test_draws_are_made_where_the_data_is():
    """Whatever the device where tensors are made that do not say: here one that has shapes and no numbers."""
    x, images = torch.randn(50, 4, generator=generator()), torch.rand(4, 1, 8, 8, generator=generator())

    def all_draws():
        features = PatchFeatures(1, num_centres=3, patch_size=3, grid=2, feature_dim=2).to_empty(device="cpu")
        signed = SignedPatches(1, num_centres=3, patch_size=3, num_random=4).to_empty(device="cpu")
        yield kmeans(x, 5, generator=generator())
        yield from principal_components(x, 2, generator=generator())
        yield module._random_patches(images, 3, 5, generator())
        yield from features.fit(images, num_patches=40, generator=generator()).state_dict().values()
        yield from signed.fit(images, num_patches=40, generator=generator()).state_dict().values()

    expected = list(all_draws())  # and with them the pooling matrices, which are made on the CPU
    with torch.device("meta"):
        found = list(all_draws())
    for a, b in zip(found, expected, strict=True):
        assert a.device.type == "cpu" and torch.equal(a, b)


def test_extracting_patches_leaves_the_images_alone():
    images = torch.rand(2, 1, 4, 4, generator=generator())
    before = images.clone()
    for size in (1, 4):  # where the patches are no copies, but views of the images
        extract_patches(images, size)
        assert torch.equal(images, before)


def test_the_threshold_counts_standard_deviations_of_a_similarity_that_sums_to_zero():
    images = torch.rand(200, 1, 8, 8, generator=generator())
    features = PatchFeatures(1, num_centres=6, patch_size=3, grid=2, feature_dim=4)
    features.fit(images, threshold=0.5, num_patches=7200, generator=generator())
    assert features.filters.sum(1).abs().max() < 1e-5
    above = extract_patches(images, 3).flatten(0, 1) @ features.filters + features.bias  # all 7200 patches
    torch.testing.assert_close(above.mean(0) / above.std(0), torch.full((6,), -0.5), atol=0.05, rtol=0)


def test_features_against_a_plain_loop():
    images = torch.rand(3, 1, 8, 8, generator=generator())
    features = PatchFeatures(1, num_centres=5, patch_size=3, grid=2, feature_dim=2)
    features.fit(images, num_patches=60, generator=generator())
    patches = extract_patches(images, 3)
    pooled = features.pooled(images).view(3, 5, 2, 2)
    for i in range(3):
        for k in range(5):
            maps = torch.empty(36)
            for p in range(36):
                maps[p] = (patches[i, p] @ features.filters[:, k] + features.bias[k]).clamp(min=0)
            expected = maps.view(2, 3, 2, 3).mean((1, 3))
            torch.testing.assert_close(pooled[i, k], expected, atol=1e-5, rtol=1e-4)


def test_features_are_white_on_the_images_they_were_fitted_on():
    images = torch.rand(500, 1, 8, 8, generator=generator())
    features = PatchFeatures(1, num_centres=8, patch_size=3, feature_dim=20).fit(images, generator=generator())
    encoded = encode(features, images)
    assert encoded.shape == (500, 20) == (500, features.feature_dim)
    torch.testing.assert_close(torch.cov(encoded.T, correction=0), torch.eye(20), atol=1e-2, rtol=0)


def test_features_hold_nothing_to_train_and_are_reproducible():
    images = torch.rand(50, 3, 8, 9, generator=generator())
    first, second = (PatchFeatures(3, num_centres=4, patch_size=3) for _ in range(2))
    assert first.fit(images, num_patches=500, generator=generator()) is first
    second.fit(images, num_patches=500, generator=generator())
    assert list(first.parameters()) == []
    assert torch.equal(first(images), second(images)) and first(images).abs().sum() > 0


@pytest.mark.parametrize("num_images", [1, 2, 20, 60])
def test_fewer_images_than_dimensions_give_zeros_there(num_images):
    """n images vary along n - 1 directions at most: these have unit variance, and what rounding left in the others is 0."""
    images = torch.rand(num_images, 1, 8, 8, generator=generator())
    features = PatchFeatures(1, num_centres=20, patch_size=3, feature_dim=100).fit(images, generator=generator())
    encoded = features(images)
    empty = features.projection.abs().sum(0) == 0
    assert encoded.shape == (num_images, 100) and (~empty).sum() == num_images - 1
    assert torch.equal(encoded[:, empty], torch.zeros(num_images, int(empty.sum())))
    torch.testing.assert_close(encoded[:, ~empty].square().mean(0), torch.ones(num_images - 1), atol=1e-2, rtol=0)


def test_no_more_features_than_there_are_similarities():
    features = PatchFeatures(1, num_centres=2, patch_size=3, grid=2, feature_dim=100)
    assert features.feature_dim == 8
    images = torch.rand(40, 1, 8, 8, generator=generator())
    assert features.fit(images, generator=generator())(images[:3]).shape == (3, 8)


def test_features_come_back_from_their_state(tmp_path):
    """As any module's: made by its sizes, without data, and filled by ``load_state_dict``."""
    images, sizes = torch.rand(50, 3, 8, 9, generator=generator()), {"num_centres": 4, "patch_size": 3, "grid": 2}
    fitted = PatchFeatures(3, **sizes, feature_dim=7).fit(images, num_patches=500, generator=generator())
    empty = PatchFeatures(3, **sizes, feature_dim=7)
    assert torch.equal(empty(images), torch.zeros(50, 7))
    torch.save(fitted.state_dict(), tmp_path / "features.pt")
    empty.load_state_dict(torch.load(tmp_path / "features.pt", weights_only=True))
    assert torch.equal(empty(images), fitted(images))
    with pytest.raises(RuntimeError, match="size mismatch"):
        PatchFeatures(3, 5, 3, 2, 7).load_state_dict(fitted.state_dict())


def test_the_pooling_matrix_is_made_once_for_images_of_a_size(monkeypatch):
    """Not for every eight images that go through; and it pools as PyTorch's own function does."""
    pool, einsum, calls = torch.nn.functional.adaptive_avg_pool2d, torch.einsum, []
    monkeypatch.setattr(torch, "einsum", lambda *a: calls.append(a) or einsum(*a))
    features = PatchFeatures(1, num_centres=5, patch_size=3, grid=3, feature_dim=6)
    features.fit(torch.rand(9, 1, 11, 13, generator=generator()), num_patches=90, generator=generator())
    module._pooling_matrix.cache_clear()
    calls.clear()
    for height, width in ((29, 17), (31, 17), (29, 17)):
        images = torch.rand(40, 1, height, width, generator=generator(1))
        encoded = encode(features, images)
        patches = extract_patches(images, 3)
        maps = (patches @ features.filters + features.bias).clamp(min=0).unflatten(1, (height - 2, width - 2))
        pooled = pool(maps.permute(0, 3, 1, 2), 3).flatten(1)  # [B, k * grid * grid]
        torch.testing.assert_close(encoded, (pooled - features.pooled_mean) @ features.projection, atol=1e-4, rtol=1e-4)
    assert len(calls) == 2
    for height, width, grid in ((1, 6, 3), (8, 5, 2), (26, 26, 4), (23, 23, 3)):
        units = torch.eye(height * width).view(-1, 1, height, width)
        assert torch.equal(module._pooling_matrix(height, width, grid), pool(units, grid).flatten(1).T)


def test_encode_equals_the_encoder_on_everything_at_once():
    images, seen = torch.rand(37, 1, 8, 8, generator=generator()), []
    features = PatchFeatures(1, num_centres=4, patch_size=3).fit(images, num_patches=500, generator=generator())
    encoded = encode(features, images, batch_size=10, progress=lambda chunks: seen.append(len(chunks)) or chunks)
    torch.testing.assert_close(encoded, features(images))
    assert seen == [4]


def signed(images, **options):
    sizes = {"num_centres": 5, "patch_size": 3, "grid": 2} | options
    return SignedPatches(images.shape[1], **sizes).fit(images, threshold=0.5, num_patches=60, generator=generator())


def test_signed_patches_against_a_plain_loop():
    images = torch.rand(3, 1, 8, 8, generator=generator())
    features, patches = signed(images), extract_patches(images, 3)
    encoded = features(images).view(3, 2, 2, 2, 5)
    assert features.feature_dim == 40 and (encoded > 0).any(dim=(0, 2, 3, 4)).all()
    for i in range(3):
        for k in range(5):
            s = (patches[i] @ features.filters[:, k] + features.bias[k]).view(2, 3, 2, 3)  # grid row, row, grid column, column
            for sign, above in enumerate((s - features.threshold[k], -s - features.threshold[k])):
                torch.testing.assert_close(encoded[i, sign, :, :, k], above.clamp(min=0).mean((1, 3)), atol=1e-5, rtol=1e-4)


def test_mirrored_patches_see_an_image_and_its_mirror_image_alike():
    images = torch.rand(6, 3, 9, 8, generator=generator())
    features = signed(images, mirrored=True)
    torch.testing.assert_close(features(images), features(images.flip(3)))
    one_sided = signed(images)
    assert not torch.allclose(one_sided(images), one_sided(images.flip(3)))
    torch.testing.assert_close(features(images), (one_sided(images) + one_sided(images.flip(3))) / 2)


def test_ridge_on_mirrored_features_is_ridge_on_all_images_and_mirror_images():
    """What the docstring promises: the same predictions, from half as many rows and columns. A mirrored centre sees in an image
    what the centre sees in the mirror image, in other cells of the grid, whose order means nothing to a regression."""
    images = torch.rand(40, 1, 8, 8, generator=generator())
    u = torch.randn(40, 2, generator=generator(1)).double()
    both, one_sided = signed(images, mirrored=True)(images).double(), signed(images)
    left, right = (one_sided(side).double() for side in (images, images.flip(3)))

    def predicted(x, u, ridge):
        x0, u0 = x - x.mean(0), u - u.mean(0)
        weight = torch.linalg.solve(x0.T @ x0 / len(x) + ridge * torch.eye(x.shape[1]), x0.T @ u0 / len(x))
        return x0 @ weight + u.mean(0)

    rows = torch.cat([torch.cat([left, right], 1), torch.cat([right, left], 1)])
    whole = predicted(rows, torch.cat([u, u]), 2e-5)
    torch.testing.assert_close(whole[:40], whole[40:])
    torch.testing.assert_close(predicted(both, u, 1e-5), whole[:40], atol=1e-6, rtol=1e-6)


def test_random_features_are_of_one_scale_and_of_the_pooled_numbers_alone():
    images = 1e-3 * torch.rand(300, 1, 8, 8, generator=generator())
    features = signed(images, num_random=400)
    encoded, pooled = features(images), features.pooled(images)
    torch.testing.assert_close(encoded, (features.offset + pooled @ features.directions).clamp(min=0))
    before = features.offset + pooled @ features.directions
    assert encoded.shape == (300, 400) and features.feature_dim == 400
    assert 0.8 < before.var(0).mean() < 1.2 and 0.2 < before.mean(0).std() < 0.4


def test_signed_patches_come_back_from_their_state():
    images = torch.rand(20, 3, 8, 9, generator=generator())
    for options in ({}, {"num_random": 30, "mirrored": True}):
        fitted, empty = signed(images, **options), SignedPatches(3, 5, 3, 2, **options)
        assert list(fitted.parameters()) == [] and empty(images).abs().sum() == 0
        empty.load_state_dict(fitted.state_dict())
        assert torch.equal(empty(images), fitted(images))


# --- Upright ---


def by_scipy(image):
    """An image [C, H, W] set upright by scipy, with moments that numpy has of a list of coordinates."""
    y, x = numpy.indices(image.shape[1:]).reshape(2, -1)
    ink = image.sum(0).ravel()
    mean_y, mean_x = numpy.average(y, weights=ink), numpy.average(x, weights=ink)
    (var_y, covariance), _ = numpy.cov(y, x, aweights=ink, ddof=0)
    slant = min(max(covariance / var_y, -1), 1)
    height, width = image.shape[1:]
    from_out = numpy.array([[1, 0], [slant, 1]])  # of row and column
    middle = numpy.array([height - 1, width - 1]) / 2
    offset = numpy.array([mean_y, mean_x]) - from_out @ middle
    moved = (scipy.ndimage.affine_transform(numpy.pad(one, 9), from_out, offset + 9, one.shape, order=1) for one in image)
    return torch.from_numpy(numpy.stack(list(moved)))


@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 7, 12), (1, 2, 5), (1, 5, 2)])
def test_upright_is_a_shear_about_the_middle_of_the_ink(shape):
    images = torch.rand(20, *shape, dtype=torch.float64, generator=generator()) ** 4
    slope = torch.linspace(-2, 2, 20, dtype=torch.float64)  # columns a row: the outer ones are cut to 1
    y, x = torch.arange(shape[1]) - shape[1] // 2, torch.arange(shape[2]) - shape[2] // 2
    on_line = (x - slope[:, None, None] * y[:, None]).abs() < 1
    images = images * 0.1 + on_line.unsqueeze(1)
    torch.testing.assert_close(Upright()(images), torch.stack([by_scipy(image.numpy()) for image in images]))


def test_upright_changes_nothing_where_nothing_is_slanted_or_nothing_is_there():
    bar = torch.zeros(2, 1, 5, 5)
    bar[0, 0, :, 2] = 1.0
    assert torch.equal(Upright()(bar), bar)
    for height, width in ((1, 4), (4, 1)):
        assert torch.equal(Upright()(torch.ones(2, 1, height, width)), torch.ones(2, 1, height, width))


@pytest.mark.parametrize("images", [torch.ones(2, 1, 5, 5, dtype=torch.bfloat16), torch.ones(2, 1, 5, 5, device="meta")])
def test_upright_leaves_type_and_device(images):
    upright = Upright()(images)
    assert (upright.dtype, upright.device, upright.shape) == (images.dtype, images.device, images.shape)


@pytest.mark.parametrize("images", [torch.zeros(2, 5, 5), torch.zeros(2, 1, 5, 5, dtype=torch.uint8)])
def test_upright_takes_images(images):
    with pytest.raises(ValueError) as error:
        Upright()(images)
    assert str(error.value) == f"expected floating-point images [B, C, H, W], got {images.dtype} {list(images.shape)}"


NAN = torch.tensor([[0.0, float("nan")]])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: extract_patches(torch.rand(1, 1, 4, 4), 0), "size must be an integer >= 1, got 0"),
        (
            lambda: extract_patches(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 2),
            "expected floating-point images [B, C, H, W], got torch.uint8",
        ),
        (lambda: zca_whitening(torch.rand(4, 2), -0.1), "epsilon must be at least 0, got -0.1"),
        (lambda: zca_whitening(NAN), "expected x [N, d] with N >= 1, all values finite, got [1, 2]"),
        (lambda: zca_whitening(torch.rand(0, 2)), "expected x [N, d] with N >= 1, all values finite, got [0, 2]"),
        (lambda: zca_whitening(torch.rand(4)), "expected x [N, d] with N >= 1, all values finite, got [4]"),
        (lambda: kmeans(torch.rand(4, 2), True), "num_centres must be an integer >= 1, got True"),
        (lambda: kmeans(torch.rand(4, 2), 2.0), "num_centres must be an integer >= 1, got 2.0"),
        (lambda: principal_components(torch.rand(4, 2), 0), "num_components must be an integer >= 1, got 0"),
        (lambda: principal_components(torch.rand(4, 2), 3), "num_components must be at most d, 2, got 3"),
        (lambda: patch_filters(torch.rand(4, 1, 8, 8), 3, 2, num_patches=0), "num_patches must be an integer >= 1, got 0"),
        (
            lambda: patch_filters(torch.rand(0, 1, 8, 8), 3, 2),
            "expected at least one image [N, C, H, W], all values finite, got [0, 1, 8, 8]",
        ),
        (
            lambda: patch_filters(torch.full((2, 1, 8, 8), float("inf")), 3, 2),
            "expected at least one image [N, C, H, W], all values finite, got [2, 1, 8, 8]",
        ),
        (lambda: WhitenedPatches(0), "channels must be an integer >= 1, got 0"),
        (lambda: WhitenedPatches(1, patch_size=0), "patch_size must be an integer >= 1, got 0"),
        (lambda: SignedPatches(1, 2, 3, num_random=-1), "num_random must be an integer >= 0, got -1"),
        *(
            (lambda images=images: WhitenedPatches(2, patch_size=3)(images),
             f"expected images [B, 2, H, W], H and W at least 3, got {list(images.shape)}")
            for images in (torch.rand(2, 8, 8), torch.rand(1, 1, 8, 8), torch.rand(1, 2, 2, 8), torch.rand(1, 2, 8, 2))
        ),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize("kind", [PatchFeatures, SignedPatches])
@pytest.mark.parametrize("name", ["channels", "num_centres", "patch_size", "grid", "feature_dim"])
def test_a_size_that_is_no_count_is_named(kind, name):
    sizes = {"channels": 1, "num_centres": 4, "patch_size": 3, "grid": 2, "feature_dim": 5}
    if kind is SignedPatches:
        del sizes["feature_dim"]
        name = "grid" if name == "feature_dim" else name
    with pytest.raises(ValueError, match=f"^{name} must be an integer >= 1, got 0$"):
        kind(**sizes | {name: 0})


def test_images_as_small_as_a_patch_have_one_and_the_state_has_both_tables():
    assert WhitenedPatches(2, patch_size=3)(torch.rand(1, 2, 3, 3)).shape == (1, 36, 1, 1)
    state = WhitenedPatches(2, patch_size=3).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {"filters": (36, 2, 3, 3), "bias": (36,)}


def test_errors():
    with pytest.raises(ValueError, match=r"H, W >= 6, got \[2, 1, 5, 8\]"):
        extract_patches(torch.rand(2, 1, 5, 8), 6)
    with pytest.raises(ValueError, match=r"N >= 10 points, got \[4, 2\]"):
        kmeans(torch.rand(4, 2), 10)
    with pytest.raises(ValueError, match=r"x \[N, d\] .* got \[4, 2, 2\]"):
        kmeans(torch.rand(4, 2, 2), 3)
    features = PatchFeatures(1, num_centres=4, patch_size=3).fit(torch.rand(9, 1, 8, 8), num_patches=90)
    with pytest.raises(ValueError, match=r"\[B, 1, H, W\], as fitted, got \[2, 3, 8, 8\]"):
        features(torch.rand(2, 3, 8, 8))
    for wrong in (torch.rand(2, 3, 8, 8), torch.rand(1, 8, 8)):
        with pytest.raises(ValueError, match=r"\[B, 1, H, W\], as fitted, got"):
            signed(torch.rand(9, 1, 8, 8))(wrong)


# --- Whitened patches ---


def test_whitened_patches_are_white_and_come_with_both_signs():
    images = torch.rand(300, 3, 9, 7, generator=generator()).cumsum(3)  # neighbours are alike
    encoder = WhitenedPatches(3).fit(images, epsilon=0.0, generator=generator(1))
    plain = nn.functional.conv2d(images, encoder.filters, encoder.bias)  # [N, 24, 8, 6]
    torch.testing.assert_close(plain[:, :12], -plain[:, 12:], atol=1e-4, rtol=1e-4)
    patches = plain[:, :12].transpose(0, 1).flatten(1)  # [12, N * L]
    torch.testing.assert_close(torch.cov(patches, correction=0), torch.eye(12), atol=2e-3, rtol=0)
    torch.testing.assert_close(patches.mean(1), torch.zeros(12), atol=2e-3, rtol=0)
    torch.testing.assert_close(encoder(images), nn.functional.gelu(plain))


def test_whitening_is_of_two_thousand_images_of_the_generators_choice():
    images = torch.rand(2_005, 1, 4, 5)
    one, same, other = (WhitenedPatches(1).fit(images, generator=generator(seed)).filters for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    chosen = torch.randperm(2_005, generator=generator())[:2_000]
    torch.testing.assert_close(WhitenedPatches(1).fit(images[chosen.sort().values]).filters.abs(), one.abs(), atol=1e-2, rtol=1e-2)


def test_epsilon_is_a_share_of_the_mean_variance():
    """Twice as bright images give half the filters; where patches hardly vary, epsilon keeps the filters small."""
    images = torch.rand(200, 2, 4, 5, generator=generator())
    dim, bright = (WhitenedPatches(2).fit(scale * images, epsilon=0.1) for scale in (1, 2))
    torch.testing.assert_close(bright.filters.abs(), dim.filters.abs() / 2, atol=1e-3, rtol=1e-3)
    flat = torch.cat([images[:, :1], images[:, :1]], 1)  # half of the directions do not vary at all
    variances = [WhitenedPatches(2).fit(flat, epsilon=e).filters.flatten(1).norm(dim=1).max().item() ** 2 for e in (0.1, 0.2)]
    assert variances[0] == pytest.approx(2 * variances[1], rel=1e-2)


def test_patches_of_other_sizes_lie_in_memory_as_convolutions_like_them():
    encoder = WhitenedPatches(2, patch_size=3).fit(torch.rand(20, 2, 6, 5))
    assert encoder(torch.rand(4, 2, 6, 5)).shape == (4, 36, 4, 3)
    assert encoder.filters.is_contiguous(memory_format=torch.channels_last)


def test_data_of_one_dimension_have_a_covariance_too():
    x = 100 * torch.rand(50, 1, generator=generator())
    mean, P = zca_whitening(x)
    assert ((x - mean) @ P).var(correction=0).item() == pytest.approx(1, abs=1e-2)
    values, directions = principal_components(x, 1)
    assert values.item() == pytest.approx(x.var(correction=0).item()) and directions.abs().item() == pytest.approx(1)


def test_no_image_has_no_features_and_a_single_patch_no_deviation():
    images = torch.rand(20, 1, 8, 8, generator=generator())
    for encoder in (PatchFeatures(1, num_centres=4, patch_size=3).fit(images, num_patches=100), signed(images)):
        assert len(encoder(images[:0])) == 0
    with pytest.raises(ValueError, match="^expected at least two patches"):
        patch_filters(images[:1], patch_size=3, num_centres=1, num_patches=1)
    assert patch_filters(images[:1], patch_size=3, num_centres=1, num_patches=2)[0].shape == (9, 1)


@pytest.mark.parametrize("options", [{}, {"num_random": 7}, {"mirrored": True}])
def test_features_are_of_the_images_type(options):
    images = torch.rand(20, 1, 8, 8, generator=generator())
    encoder = signed(images, **options)
    found = encoder.double()(images.double())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), encoder.float()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"num_random": 7}, {"mirrored": True}])
def test_features_are_of_the_images_type_where_autocast_computes_in_another(options):
    images = torch.rand(20, 1, 8, 8, generator=generator())
    encoder = signed(images, **options)
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, encoder(images), rtol=0.1, atol=0.05)
