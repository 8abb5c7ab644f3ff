"""Image features fitted without labels and without any gradient: k-means patches (Coates, Ng & Lee, 2011).

Each small patch of an image is normalised, whitened and compared with a dictionary of k-means centres; the similarities
above a threshold (Coates & Ng, 2011, "soft threshold") are averaged over a coarse grid. ``PatchFeatures`` projects them on
their leading principal components, for layers that are trained; ``SignedPatches`` keeps many more of them, for layers that
are solved. Layers on such features share nothing that was trained, so each can be trained alone, anywhere.
"""

import functools
import numbers

import torch
from torch import Tensor, nn


def extract_patches(images: Tensor, size: int) -> Tensor:
    """All overlapping patches, each shifted to mean 0 and scaled to unit variance: [B, C, H, W] -> [B, L, C*size*size].

    L = (H - size + 1)(W - size + 1), row by row. A flat patch stays near zero: 0.1 (in units where pixels are 0..1) is
    added to the standard deviation, so that faint noise is not blown up.

    Raises ValueError on images that are smaller than a patch, or integers.

    >>> extract_patches(torch.rand(2, 1, 8, 8), size=3).shape  # 6 x 6 places of 9 pixels
    torch.Size([2, 36, 9])
    """
    _check_counts({"size": size})
    if not images.is_floating_point():
        raise ValueError(f"expected floating-point images [B, C, H, W], got {images.dtype}")
    if images.ndim != 4 or min(images.shape[2:]) < size:
        raise ValueError(f"expected images [B, C, H, W] with H, W >= {size}, got {list(images.shape)}")
    # A patch's mean and variance are box filters of the image: overlapping patches share the work.
    box = functools.partial(nn.functional.avg_pool2d, kernel_size=size, stride=1)
    mean, square = box(images.mean(1, keepdim=True)), box(images.square().mean(1, keepdim=True))  # [B, 1, H', W']
    std = (square - mean.square()).clamp_(min=0).sqrt_()
    patches = images.unfold(2, size, 1).unfold(3, size, 1)  # [B, C, H', W', size, size], a view
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3)  # [B, H', W', C*size*size], the image itself if size is 1
    return (patches - mean.permute(0, 2, 3, 1)).div_(std.permute(0, 2, 3, 1) + 0.1).flatten(1, 2)


def zca_whitening(x: Tensor, epsilon: float = 0.1) -> tuple[Tensor, Tensor]:
    """Mean [d] and the symmetric matrix P [d, d] that makes (x - mean) @ P white: x [N, d].

    P = E (L + epsilon)^(-1/2) E^T for the covariance E L E^T; epsilon keeps directions of little variance small. Raises
    ValueError on an epsilon below 0, and on x of another shape, empty or not finite.

    >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 0.5])
    >>> mean, P = zca_whitening(x, epsilon=0.0)
    >>> torch.allclose(torch.cov(((x - mean) @ P).T, correction=0), torch.eye(2), atol=1e-3)
    True
    """
    _check_samples(x)
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh(_covariance(x))
    return mean, vectors * (values.clamp(min=0) + epsilon).rsqrt() @ vectors.T


def kmeans(x: Tensor, num_centres: int, num_iterations: int = 10, generator: torch.Generator | None = None) -> Tensor:
    """Lloyd's algorithm from randomly chosen points: x [N, d] -> centres [k, d]. An empty cluster keeps its centre.

    Raises ValueError where there are fewer points than centres, no centre, or a point is not finite.

    >>> kmeans(torch.tensor([[0.0], [0.2], [4.0], [4.2]]), num_centres=2).sort(0).values
    tensor([[0.1000],
            [4.1000]])
    """
    _check_counts({"num_centres": num_centres})
    if x.ndim != 2 or len(x) < num_centres:
        raise ValueError(f"expected x [N, d] with N >= {num_centres} points, got {list(x.shape)}")
    _check_samples(x)
    start = torch.randperm(len(x), generator=generator, device=x.device)[:num_centres]
    centres = x[start].clone()
    for _ in range(num_iterations):
        nearest = (centres.square().sum(1) - 2 * x @ centres.T).argmin(1)  # [N]
        sums = torch.zeros_like(centres).index_add_(0, nearest, x)
        counts = torch.bincount(nearest, minlength=num_centres).unsqueeze(1)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def principal_components(
    x: Tensor, num_components: int, num_iterations: int = 5, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Leading variances [k], largest first, and orthonormal directions [d, k] of x [N, d], by subspace iteration.

    Far cheaper than all d eigenvectors. The projected coordinates are uncorrelated exactly; the last few directions are
    only nearly the leading ones. Raises ValueError unless 1 <= k <= d, and on x of another shape, empty or not finite.

    >>> variances, directions = principal_components(torch.tensor([[-2.0, 0.0], [2.0, 0.0], [0.0, -1.0], [0.0, 1.0]]), 2)
    >>> variances
    tensor([2.0000, 0.5000])
    """
    _check_samples(x)
    _check_counts({"num_components": num_components})
    if num_components > x.shape[1]:
        raise ValueError(f"num_components must be at most d, {x.shape[1]}, got {num_components}")
    covariance = _covariance(x)
    basis = torch.randn(len(covariance), num_components, generator=generator, dtype=x.dtype, device=x.device)
    for _ in range(num_iterations):
        basis = torch.linalg.qr(covariance @ basis).Q
    values, rotation = torch.linalg.eigh(basis.T @ covariance @ basis)
    return values.flip(0), (basis @ rotation).flip(1)


def patch_filters(
    images: Tensor, patch_size: int, num_centres: int, num_patches: int = 50_000, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Filters [d, k] and bias [k] that compare a patch with k-means centres, and those similarities' deviations [k].

    images [N, C, H, W]; d = C * size * size. A patch's similarity to a centre is the inner product of the whitened patch and
    the centre's direction, less its mean over all centres: patch @ filters + bias. Whitening and centres are folded into
    the filters; all three are of ``num_patches`` random patches. Raises ValueError where there is no image, or one is not
    finite.

    >>> filters, bias, deviation = patch_filters(torch.rand(20, 1, 8, 8), patch_size=3, num_centres=4, num_patches=200)
    >>> filters.shape, bias.shape, deviation.shape
    (torch.Size([9, 4]), torch.Size([4]), torch.Size([4]))
    """
    _check_counts({"num_patches": num_patches})
    if len(images) == 0 or not images.isfinite().all():
        raise ValueError(f"expected at least one image [N, C, H, W], all values finite, got {list(images.shape)}")
    per_image = -(-num_patches // len(images))
    patches = torch.cat([_random_patches(chunk, patch_size, per_image, generator) for chunk in images.split(500)])
    if len(patches) < 2:
        raise ValueError("expected at least two patches: one has no deviation")
    mean, whitening = zca_whitening(patches)
    centres = kmeans((patches - mean) @ whitening, num_centres, generator=generator)
    directions = nn.functional.normalize(centres, dim=1)
    filters = whitening @ (directions - directions.mean(0)).T  # [d, k]
    return filters, -mean @ filters, ((patches - mean) @ filters).std(0)


class PatchFeatures(nn.Module):
    """images [B, C, H, W] -> features [B, F], fixed after ``fit``. It holds buffers only: there is nothing to train.

    All zero until fitted or loaded: filters [C * size * size, k], their bias [k], and of the k * grid * grid pooled
    similarities the mean and the projection on F directions.

    >>> encoder = PatchFeatures(channels=1, num_centres=4, patch_size=3, feature_dim=6)
    >>> encoder.fit(torch.rand(30, 1, 8, 8), num_patches=300)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 6])
    """

    def __init__(self, channels: int, num_centres: int = 256, patch_size: int = 6, grid: int = 3, feature_dim: int = 512):
        super().__init__()
        sizes = {"channels": channels, "num_centres": num_centres, "patch_size": patch_size, "grid": grid}
        _check_counts(sizes | {"feature_dim": feature_dim})
        self.patch_size, self.grid = patch_size, grid
        pooled = num_centres * grid * grid
        self.register_buffer("filters", torch.zeros(channels * patch_size**2, num_centres))
        self.register_buffer("bias", torch.zeros(num_centres))
        self.register_buffer("pooled_mean", torch.zeros(pooled))
        self.register_buffer("projection", torch.zeros(pooled, min(feature_dim, pooled)))

    @property
    def feature_dim(self) -> int:
        """F, the number of features of an image."""
        return self.projection.shape[1]

    def pooled(self, images: Tensor) -> Tensor:
        """max(0, patch @ filters + bias), averaged over a grid: [B, C, H, W] -> [B, k * grid * grid].

        With whitening and centres folded into the filters this is one matrix product; what comes after it touches the
        [B * L, k] table, by far the largest thing here, once.
        """
        patches, cells = _patches_and_cells(images, self.filters, self.patch_size, self.grid)
        activation = torch.addmm(self.bias, patches, self.filters).relu_()  # [B * L, k]
        pooled = cells @ activation.unflatten(0, (len(images), cells.shape[1]))  # [B, grid * grid, k]
        return pooled.transpose(1, 2).flatten(1)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] -> features [B, F]. Raises ValueError on another number of channels."""
        # A few images at a time: their tables of activations then stay in the processor's cache.
        pooled = torch.cat([self.pooled(chunk) for chunk in images.split(8)])
        return (pooled - self.pooled_mean) @ self.projection

    @torch.no_grad()
    def fit(
        self,
        images: Tensor,
        threshold: float = 0.25,
        num_patches: int = 50_000,
        num_images: int = 5_000,
        generator: torch.Generator | None = None,
    ) -> "PatchFeatures":
        """Dictionary from ``num_patches`` random patches, principal components from ``num_images`` random images.

        images [N, C, H, W], training split only. ``threshold``, in standard deviations of a patch's similarity to a centre
        (see ``patch_filters``), is where it starts to count. Features have unit variance on the images they were fitted on,
        or are 0: n images vary along n - 1 directions at most. Returns itself. Raises ValueError on images of another number of
        channels, on none, and on such as are not finite.
        """
        _check_channels(images, self.filters, self.patch_size)
        chosen = torch.randperm(len(images), generator=generator, device=images.device)[:num_images]
        sample, num_centres = images[chosen], self.filters.shape[1]
        self.filters, bias, deviation = patch_filters(sample, self.patch_size, num_centres, num_patches, generator)
        self.bias = bias - threshold * deviation
        pooled = encode(self.pooled, sample)  # [n, k * grid * grid]
        self.pooled_mean = pooled.mean(0)
        values, vectors = principal_components(pooled, self.feature_dim, generator=generator)
        scale = torch.where(values > 1e-6 * values[0], values.clamp(min=1e-8).rsqrt(), torch.zeros_like(values))
        self.projection = vectors * scale
        return self


class SignedPatches(nn.Module):
    """images [B, C, H, W] -> features [B, F], fixed after ``fit``: many of them, for layers that are solved, not trained.

    A patch's similarity s to a centre counts both ways, max(0, s - threshold) and max(0, -s - threshold) (Coates & Ng, 2011),
    each averaged over a grid: 2 * k * grid * grid numbers.

    - ``mirrored``: averages them over an image and its mirror image. A ridge regression on such features is the one that has
      twice the centres, each one's mirror image too, and learns from all images and all mirror images: what is odd under
      mirroring has nothing to say of a label that is not
    - ``num_random``: F, if above 0, of random features max(0, pooled @ R + b) of these numbers, R and b Gaussian (an arc-cosine
      kernel; Cho & Saul, 2009; Rahimi & Recht, 2007). 0 takes the numbers themselves

    >>> encoder = SignedPatches(channels=1, num_centres=4, patch_size=3, grid=2)
    >>> encoder.fit(torch.rand(30, 1, 8, 8), num_patches=300)(torch.rand(2, 1, 8, 8)).shape  # 2 * 4 * 2 * 2
    torch.Size([2, 32])
    """

    def __init__(
        self, channels: int, num_centres: int, patch_size: int, grid: int = 2, mirrored: bool = False, num_random: int = 0
    ):
        super().__init__()
        sizes = {"channels": channels, "num_centres": num_centres, "patch_size": patch_size, "grid": grid}
        _check_counts(sizes)
        _check_counts({"num_random": num_random}, smallest=0)
        self.patch_size, self.grid, self.mirrored, self.num_random = patch_size, grid, mirrored, num_random
        pooled = 2 * num_centres * grid * grid
        self.register_buffer("filters", torch.zeros(channels * patch_size**2, num_centres))
        self.register_buffer("bias", torch.zeros(num_centres))
        self.register_buffer("threshold", torch.zeros(num_centres))
        self.register_buffer("directions", torch.zeros(pooled, num_random))  # R
        self.register_buffer("offset", torch.zeros(num_random))  # b, less what the mean of the pooled numbers comes to

    @property
    def feature_dim(self) -> int:
        """F, the number of features of an image."""
        return self.num_random or len(self.directions)

    def pooled(self, images: Tensor) -> Tensor:
        """Both signs' similarities above the threshold, averaged over a grid: [B, C, H, W] -> [B, 2 * k * grid * grid]."""
        patches, cells = _patches_and_cells(images, self.filters, self.patch_size, self.grid)
        similarity = torch.addmm(self.bias, patches, self.filters)  # [B * L, k]
        threshold = self.threshold.to(similarity)
        signs = [(similarity - threshold).relu_(), similarity.neg_().sub_(threshold).relu_()]
        pooled = torch.stack([cells @ sign.unflatten(0, (len(images), cells.shape[1])) for sign in signs], 1)  # [B, 2, grid * grid, k]
        return pooled.flatten(1).to(images.dtype)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] -> features [B, F]. Raises ValueError on another number of channels."""
        # So many images at a time that their tables of similarities stay in the processor's cache.
        chunk = max(1, 5_000_000 // (images.shape[2:].numel() * len(self.bias)))
        pooled = torch.cat([self._of_both_sides(few) for few in images.split(chunk)])
        return torch.addmm(self.offset, pooled, self.directions).relu_().to(images.dtype) if self.num_random else pooled

    @torch.no_grad()
    def fit(
        self, images: Tensor, threshold: float = 0.25, num_patches: int = 50_000, generator: torch.Generator | None = None
    ) -> "SignedPatches":
        """Dictionary from ``num_patches`` random patches of 5,000 random images, and the random features' scale.

        images [N, C, H, W], training split only. ``threshold`` in standard deviations of a similarity. Returns itself. Raises
        ValueError as ``PatchFeatures.fit`` does.
        """
        _check_channels(images, self.filters, self.patch_size)
        chosen = torch.randperm(len(images), generator=generator, device=images.device)[:5_000]
        sample, num_centres = images[chosen], self.filters.shape[1]
        self.filters, self.bias, deviation = patch_filters(sample, self.patch_size, num_centres, num_patches, generator)
        self.threshold = threshold * deviation
        if self.num_random:
            pooled = encode(self._of_both_sides, sample[:1000], batch_size=8)
            draws = torch.randn(pooled.shape[1] + 1, self.num_random, generator=generator, device=images.device)
            mean = pooled.mean(0)
            self.directions = draws[1:] / (pooled - mean).square().sum(1).mean().sqrt()  # outputs of unit variance
            self.offset = 0.3 * draws[0] - mean @ self.directions
        return self

    def _of_both_sides(self, images: Tensor) -> Tensor:
        """Pooled numbers of the images, or the mean of theirs and their mirror images'."""
        return (self.pooled(images) + self.pooled(images.flip(3))) / 2 if self.mirrored else self.pooled(images)


class WhitenedPatches(nn.Module):
    """images [B, C, H, W] -> maps [B, 2 d, H - size + 1, W - size + 1], fixed after ``fit``: a first layer nobody has to train.

    d = C * size * size. Each patch in the directions in which patches vary, these scaled alike, and each of both signs, through
    GELU: max(0, x), but smooth (Page, 2018, whitened so; both signs after airbench, arXiv:2404.00498).

    >>> WhitenedPatches(channels=3).fit(torch.rand(20, 3, 8, 8))(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 24, 7, 7])
    """

    def __init__(self, channels: int, patch_size: int = 2):
        super().__init__()
        _check_counts({"channels": channels, "patch_size": patch_size})
        d = channels * patch_size**2
        self.register_buffer("filters", torch.zeros(2 * d, channels, patch_size, patch_size))
        self.register_buffer("bias", torch.zeros(2 * d))

    def forward(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] -> maps. Raises ValueError on another number of channels, and on images smaller than a patch."""
        self._check(images)
        return nn.functional.gelu(nn.functional.conv2d(images, self.filters, self.bias))

    @torch.no_grad()
    def fit(
        self, images: Tensor, epsilon: float = 5e-4, generator: torch.Generator | None = None
    ) -> "WhitenedPatches":
        """Directions and their scales from the patches of 2,000 random images: [N, C, H, W], training split only. Returns itself.

        ``epsilon``, a share of the mean variance, keeps directions of little variance small. Raises ValueError where there is
        no image, one is not finite, or all their patches are alike.
        """
        self._check(images)
        chosen = torch.randperm(len(images), generator=generator, device=images.device)[:2_000]
        patches = nn.functional.unfold(images[chosen], self.filters.shape[-1]).mT.flatten(0, 1)  # [N * L, d]
        _check_samples(patches)
        variances, directions = torch.linalg.eigh(_covariance(patches))
        if not variances.mean() > 1e-12:
            raise ValueError("all patches of these images are alike: there is nothing to whiten")
        whitening = directions * (variances.clamp(min=0) + epsilon * variances.mean()).rsqrt()  # [d, d]
        both_signs = torch.cat([whitening, -whitening], 1)  # [d, 2 d]
        self.filters = both_signs.T.reshape(self.filters.shape).contiguous(memory_format=torch.channels_last)
        self.bias = -patches.mean(0) @ both_signs
        return self

    def _check(self, images: Tensor) -> None:
        size, channels = self.filters.shape[-1], self.filters.shape[1]
        if images.ndim != 4 or images.shape[1] != channels or min(images.shape[2:]) < size:
            raise ValueError(f"expected images [B, {channels}, H, W], H and W at least {size}, got {list(images.shape)}")


class Upright(nn.Module):
    r"""images [B, C, H, W] -> images of that shape: handwriting without its slant, in the middle (doi:10.1109/5.726791).

    With the ink as weights, mu its mean place and Sigma the covariance of row y and column x,

    .. math:: \text{out}(y, x) = \text{in} \left( \mu_y + y, \; \mu_x + x + \frac{\Sigma_{xy}}{\Sigma_{yy}} y \right)

    where 0 is the middle of the image, with bilinear interpolation and nothing beyond the edges. A slant of more than one
    column a row counts as one. There is nothing to fit; an image without ink stays as it is.

    >>> slash = torch.eye(5).flip(0).expand(1, 1, 5, 5)
    >>> Upright()(slash)[0, 0].round(decimals=1)
    tensor([[0., 0., 1., 0., 0.],
            [0., 0., 1., 0., 0.],
            [0., 0., 1., 0., 0.],
            [0., 0., 1., 0., 0.],
            [0., 0., 1., 0., 0.]])
    """

    def forward(self, images: Tensor) -> Tensor:
        """Raises ValueError unless images are floating-point numbers [B, C, H, W]."""
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(f"expected floating-point images [B, C, H, W], got {images.dtype} {list(images.shape)}")
        ink = images.sum(1)  # [B, H, W]
        height, width = ink.shape[1:]
        y, x = (torch.arange(side, dtype=ink.dtype, device=ink.device) - (side - 1) / 2 for side in (height, width))
        by_row, by_column = ink.sum(2), ink.sum(1)
        least = torch.finfo(ink.dtype).tiny  # of no ink, a mean of 0
        total = by_row.sum(1).clamp(min=least)
        mean_y, mean_x = (by_row * y).sum(1) / total, (by_column * x).sum(1) / total  # [B]
        dy, dx = y - mean_y.unsqueeze(1), x - mean_x.unsqueeze(1)  # [B, H], [B, W]
        covariance = (ink * dy.unsqueeze(2) * dx.unsqueeze(1)).sum((1, 2))
        slant = (covariance / (by_row * dy.square()).sum(1).clamp(min=least)).clamp(-1, 1)
        # Where each pixel comes from, [B, H, W]; in the units of grid_sample the outermost pixels are -1 and 1.
        from_y = (y + mean_y.unsqueeze(1)).unsqueeze(2).expand_as(ink)
        from_x = (x + mean_x.unsqueeze(1)).unsqueeze(1) + slant[:, None, None] * y.unsqueeze(1)
        grid = torch.stack([from_x * 2 / max(width - 1, 1), from_y * 2 / max(height - 1, 1)], 3)
        return nn.functional.grid_sample(images, grid, align_corners=True)


@torch.no_grad()
def encode(encoder, images: Tensor, batch_size: int = 128, progress=None) -> Tensor:
    """Features of a frozen encoder, computed once: images [N, ...] -> [N, F]. ``progress`` may wrap the list of chunks.

    Small chunks keep the intermediate maps in the processor's cache. Raises ValueError unless batch_size >= 1.

    >>> encode(nn.Flatten(), torch.rand(5, 1, 2, 2), batch_size=2).shape
    torch.Size([5, 4])
    """
    _check_counts({"batch_size": batch_size})
    chunks, features = images.split(batch_size), None
    for i, chunk in enumerate(progress(chunks) if progress else chunks):
        encoded = encoder(chunk)
        if features is None:
            # One block, filled in place: a list of small results kept between large temporaries fragments the heap.
            features = encoded.new_empty(len(images), *encoded.shape[1:])
        features[i * batch_size : (i + 1) * batch_size] = encoded
    return features


def _check_counts(counts: dict[str, int], smallest: int = 1) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, numbers.Integral) or count < smallest:
            raise ValueError(f"{name} must be an integer >= {smallest}, got {count!r}")


def _check_samples(x: Tensor) -> None:
    if x.ndim != 2 or len(x) == 0 or not x.isfinite().all():
        raise ValueError(f"expected x [N, d] with N >= 1, all values finite, got {list(x.shape)}")


def _check_channels(images: Tensor, filters: Tensor, size: int) -> None:
    channels = len(filters) // size**2
    if images.ndim != 4 or images.shape[1] != channels:
        raise ValueError(f"expected images [B, {channels}, H, W], as fitted, got {list(images.shape)}")


def _covariance(x: Tensor) -> Tensor:
    """x [N, d] -> [d, d], also where d is 1, of which torch makes a number."""
    return torch.cov(x.T, correction=0).reshape(x.shape[1], x.shape[1])


def _patches_and_cells(images: Tensor, filters: Tensor, size: int, grid: int) -> tuple[Tensor, Tensor]:
    """All patches of all images [B * L, d], and the matrix that averages over a grid [grid * grid, L]."""
    _check_channels(images, filters, size)
    height, width = images.shape[2] - size + 1, images.shape[3] - size + 1
    patches = extract_patches(images, size).flatten(0, 1)
    return patches, _pooling_matrix(height, width, grid).to(images)


@functools.lru_cache(maxsize=16)  # the same for every few images that go through
def _pooling_matrix(height: int, width: int, grid: int) -> Tensor:
    """Average pooling of [height, width] to [grid, grid], as a matrix [grid^2, height * width]."""
    # Average pooling is linear, and apart in rows and columns: what it does to unit vectors of either is its matrix.
    units = (torch.eye(side).unsqueeze(1) for side in (height, width))  # [side, 1, side]
    rows, columns = (nn.functional.adaptive_avg_pool1d(unit, grid).squeeze(1).T for unit in units)  # [grid, side]
    return torch.einsum("ih,jw->ijhw", rows, columns).reshape(grid * grid, height * width)


def _random_patches(images: Tensor, size: int, per_image: int, generator: torch.Generator | None) -> Tensor:
    """Patches [B * per_image, d] at random places, of which one may be drawn twice."""
    patches = extract_patches(images, size)  # [B, L, d]
    index = torch.randint(patches.shape[1], (len(images), per_image), generator=generator, device=images.device)
    return patches.gather(1, index.unsqueeze(2).expand(-1, -1, patches.shape[2])).flatten(0, 1)
