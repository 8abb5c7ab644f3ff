"""Networks: what one layer computes.

A layer takes image features and a noisy label state and returns K class scores or a denoised label. The two blocks of
the paper's Figure 6 hold their own image encoder and take the image itself.
"""

import math
import numbers

import torch
from torch import Tensor, nn


class DenoisingMLP(nn.Module):
    """One layer of the published notebook: concat(features, z) -> Linear -> ReLU -> Linear.

    features [B, F], z [B, D] -> [B, K]. The notebook reads the K outputs as the denoised one-hot label itself;
    ``expected_embedding`` reads them as class scores. Raises ValueError on other shapes.

    >>> DenoisingMLP(feature_dim=128, embed_dim=10)(torch.rand(2, 128), torch.randn(2, 10)).shape
    torch.Size([2, 10])
    """

    def __init__(self, feature_dim: int = 128, embed_dim: int = 10, num_classes: int = 10, hidden_dim: int = 256):
        super().__init__()
        sizes = {"feature_dim": feature_dim, "embed_dim": embed_dim, "num_classes": num_classes, "hidden_dim": hidden_dim}
        _check_sizes(sizes)
        self.feature_dim, self.embed_dim = feature_dim, embed_dim
        self.mlp = nn.Sequential(
            nn.Linear(feature_dim + embed_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, num_classes),
        )

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        """features [B, F], z [B, D] -> [B, K]."""
        if features.shape[1:] != (self.feature_dim,) or z.shape[1:] != (self.embed_dim,) or len(features) != len(z):
            raise ValueError(
                f"expected features [B, {self.feature_dim}] and z [B, {self.embed_dim}], "
                f"got {list(features.shape)} and {list(z.shape)}"
            )
        _check_type(features, self.mlp[0].weight)
        return self.mlp(torch.cat([features, z], dim=1))


class LinearDenoiser(nn.Module):
    """One NoProp layer without a hidden one: u_hat = A x + B z + c, linear in features and state.

    features [B, F], z [B, D] -> u_hat [B, D]. With squared error it need not be trained: ``normal_equations`` solves it.

    >>> LinearDenoiser(feature_dim=64, embed_dim=10)(torch.rand(2, 64), torch.randn(2, 10)).shape
    torch.Size([2, 10])
    """

    def __init__(self, feature_dim: int, embed_dim: int):
        super().__init__()
        _check_sizes({"feature_dim": feature_dim, "embed_dim": embed_dim})
        self.features, self.state = nn.Linear(feature_dim, embed_dim), nn.Linear(embed_dim, embed_dim, bias=False)

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        """features [B, F], z [B, D] -> u_hat [B, D]. Raises ValueError on other shapes."""
        if features.shape != (len(z), self.features.in_features) or z.shape[1:] != (self.state.in_features,):
            expected = f"features [B, {self.features.in_features}] and z [B, {self.state.in_features}]"
            raise ValueError(f"expected {expected}, got {list(features.shape)} and {list(z.shape)}")
        _check_type(features, self.features.weight)
        return self.features(features) + self.state(z)


class ConvEncoder(nn.Module):
    """The published notebook's image encoder: two rounds of conv 3x3, ReLU, max-pool 2; then one linear layer.

    images [B, C, H, W] -> features [B, F]. On 28 x 28 MNIST with ``padding=0`` the flattened size is the notebook's
    1600. More than two ``widths`` add convolutions without pooling; ``norm=True`` puts BatchNorm before every ReLU. Without
    padding two convolutions need sides of 10 pixels, three 18. Raises ValueError on images of another shape, and on sizes
    that are no counts.

    >>> ConvEncoder((1, 28, 28), feature_dim=128)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 128])
    """

    def __init__(
        self, image_shape=(1, 28, 28), feature_dim: int = 128, padding: int = 0, widths=(32, 64), norm: bool = False
    ):
        super().__init__()
        self.image_shape = _shape(image_shape)
        _check_sizes({"feature_dim": feature_dim} | {f"widths[{i}]": width for i, width in enumerate(widths)})
        _check_sizes({"padding": padding}, smallest=0)
        channels, height, width = self.image_shape
        layers = []
        for i, filters in enumerate(widths):
            layers.append(nn.Conv2d(channels, filters, 3, padding=padding))
            height, width, channels = height + 2 * padding - 2, width + 2 * padding - 2, filters
            if i < 2:
                layers.append(nn.MaxPool2d(2))  # before ReLU: the two commute, and ReLU then has a quarter of the work
                height, width = height // 2, width // 2
            layers += [nn.BatchNorm2d(filters), nn.ReLU()] if norm else [nn.ReLU()]
        if min(height, width) < 1:
            raise ValueError(
                f"images of shape {self.image_shape} are too small for padding={padding} and {len(widths)} convolutions: "
                "sides of 4 pixels are enough with padding=1, each unpadded convolution takes more"
            )
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, feature_dim))
        # Same numbers; a CPU runs convolution and above all max-pooling faster in this layout.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] -> features [B, F]."""
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"expected images [B, {', '.join(map(str, self.image_shape))}], got {list(images.shape)}")
        return self.features(images)


class ConvBlock(nn.Module):
    """One layer of NoProp-DT in the paper (Figure 6, left): its own image encoder, a path for the state, and their fusion.

    images [B, C, H, W], z [B, D] -> class scores [B, K]. ``image_sized=True``, for prototype embeddings with D = C*H*W,
    sends the state through a copy of the image path. The paper leaves the padding open: with the 1 chosen here a block
    has the paper's 2.0 M parameters on MNIST. Raises ValueError on other shapes, and on sides under 4 pixels.

    ``forward(images, z)`` is ``head(encode(images), z)``: a sampler may encode once and call the head many times.

    >>> block = ConvBlock((1, 8, 8), embed_dim=10, num_classes=10)
    >>> block(torch.rand(2, 1, 8, 8), torch.randn(2, 10)).shape
    torch.Size([2, 10])
    """

    def __init__(self, image_shape=(1, 28, 28), embed_dim: int = 10, num_classes: int = 10, image_sized: bool = False):
        super().__init__()
        self.image_shape, self.embed_dim = _shape(image_shape), embed_dim
        _check_sizes({"embed_dim": embed_dim, "num_classes": num_classes})
        self.image_path = nn.Sequential(
            _convolutions(image_shape), nn.Linear(_flat(image_shape), 256), nn.BatchNorm1d(256)
        )
        if image_sized:
            _check_image_sized(image_shape, embed_dim)
            self.state_path = nn.Sequential(
                nn.Unflatten(1, self.image_shape),
                _convolutions(image_shape), nn.Linear(_flat(image_shape), 256), nn.BatchNorm1d(256),
            )  # fmt: skip
        else:
            self.state_path = nn.Sequential(
                nn.Linear(embed_dim, 256), nn.BatchNorm1d(256), nn.ReLU(),
                _Residual(nn.Linear(256, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 256), nn.BatchNorm1d(256)),
            )  # fmt: skip
        self.fuse = nn.Sequential(
            nn.Linear(512, 256), nn.BatchNorm1d(256), nn.ReLU(),
            nn.Linear(256, 128), nn.BatchNorm1d(128), nn.ReLU(),
            nn.Linear(128, num_classes),
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)

    def encode(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] -> features [B, 256]."""
        _check_images(self.image_shape, images)
        return self.image_path(images)

    def head(self, features: Tensor, z: Tensor) -> Tensor:
        """features [B, 256], z [B, D] -> class scores [B, K]."""
        _check_features_and_state(features, z, self.embed_dim)
        return self.fuse(torch.cat([features, self.state_path(z)], dim=1))

    def forward(self, images: Tensor, z: Tensor) -> Tensor:
        """images [B, C, H, W], z [B, D] -> class scores [B, K]."""
        return self.head(self.encode(images), z)


class TimedConvBlock(nn.Module):
    """The one block of NoProp-CT and NoProp-FM (Figure 6, right): as ``ConvBlock``, told the time, without BatchNorm.

    images [B, C, H, W], z [B, D], t [B] in [0, 1] -> class scores [B, K]. ``forward(images, z, t)`` is
    ``head(encode(images), z, t)``: the image is encoded once, however many steps inference takes.

    Raises ValueError on other shapes, and on sides under 4 pixels.

    >>> block = TimedConvBlock((1, 8, 8), embed_dim=10, num_classes=10)
    >>> block(torch.rand(2, 1, 8, 8), torch.randn(2, 10), torch.tensor([0.0, 0.5])).shape
    torch.Size([2, 10])
    """

    def __init__(self, image_shape=(1, 28, 28), embed_dim: int = 10, num_classes: int = 10, image_sized: bool = False):
        super().__init__()
        self.image_shape, self.embed_dim = _shape(image_shape), embed_dim
        _check_sizes({"embed_dim": embed_dim, "num_classes": num_classes})
        self.image_path = nn.Sequential(_convolutions(image_shape), nn.Linear(_flat(image_shape), 256), nn.ReLU())
        if image_sized:
            _check_image_sized(image_shape, embed_dim)
            self.state_path = nn.Sequential(
                nn.Unflatten(1, self.image_shape),
                _convolutions(image_shape),
                nn.Linear(_flat(image_shape), 256),
                nn.ReLU(),
            )
        else:
            self.state_path = nn.Sequential(nn.Linear(embed_dim, 256), nn.ReLU())
        self.time_path = nn.Sequential(nn.Linear(64, 256), nn.ReLU())
        self.fuse = nn.Sequential(
            nn.Linear(768, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, num_classes)
        )
        self.to(memory_format=torch.channels_last)

    def encode(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] -> features [B, 256]."""
        _check_images(self.image_shape, images)
        return self.image_path(images)

    def head(self, features: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """features [B, 256], z [B, D], t [B] -> class scores [B, K]."""
        _check_features_and_state(features, z, self.embed_dim)
        if t.ndim == 1 and len(t) != len(z):
            raise ValueError(f"expected t [{len(z)}], a time per image, got {list(t.shape)}")
        time = self.time_path(timestep_embedding(t).to(features.dtype))  # [B, 256]
        return self.fuse(torch.cat([features, self.state_path(z), time], dim=1))

    def forward(self, images: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """images [B, C, H, W], z [B, D], t [B] -> class scores [B, K]."""
        return self.head(self.encode(images), z, t)


class ResidualBlock(nn.Module):
    """A modern layer, beyond the paper: a small residual network for maps of a colour image, and a linear view of the state.

    maps [B, C, H, W], as of ``features.WhitenedPatches``, z [B, D] -> class scores [B, K]. Three stages of a convolution, a
    halving and one residual convolution, of ``width``, ``4 * width`` and ``4 * width`` channels, much as in airbench (Jordan,
    arXiv:2404.00498); sides of at least 4. The scores of image and state are added, as log-probabilities of independent evidence
    are: given the class, the noise of the state knows nothing of the image.

    Raises ValueError on smaller maps and on other shapes.

    >>> ResidualBlock((24, 7, 7), width=4)(torch.rand(2, 24, 7, 7), torch.randn(2, 10)).shape
    torch.Size([2, 10])
    """

    def __init__(self, map_shape=(24, 31, 31), embed_dim: int = 10, num_classes: int = 10, width: int = 64):
        super().__init__()
        self.map_shape, self.embed_dim = _shape(map_shape), embed_dim
        _check_sizes({"embed_dim": embed_dim, "num_classes": num_classes, "width": width})
        if min(self.map_shape[1:]) < 4:
            raise ValueError(f"maps of shape {self.map_shape} are too small: expected sides of at least 4")
        self.image_path = nn.Sequential(
            *_stage(self.map_shape[0], width),
            *_stage(width, 4 * width),
            *_stage(4 * width, 4 * width),
            nn.AdaptiveMaxPool2d(1), nn.Flatten(),
            nn.Linear(4 * width, num_classes),
        )  # fmt: skip
        self.state_path = nn.Linear(embed_dim, num_classes, bias=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, maps: Tensor, z: Tensor) -> Tensor:
        """maps [B, C, H, W], z [B, D] -> class scores [B, K]. Raises ValueError on other shapes."""
        _check_images(self.map_shape, maps)
        _check_features_and_state(maps, z, self.embed_dim)
        return self.image_path(maps) + self.state_path(z)


def timestep_embedding(t: Tensor, dim: int = 64, max_period: float = 10_000.0) -> Tensor:
    """Sinusoids of a time in [0, 1] (DDPM's code, after arXiv:1706.03762): t [B] -> [B, dim], cosines first.

    Column i and column i + dim/2 are cos and sin of 1000 t / max_period^(i / (dim/2)): the factor 1000 spreads
    continuous time over the range that these frequencies were made for.

    Raises ValueError unless t is a vector, dim an even integer and max_period above 0 and finite.

    >>> timestep_embedding(torch.tensor([0.0]), dim=4)
    tensor([[1., 1., 0., 0.]])
    """
    even = isinstance(dim, numbers.Integral) and dim >= 2 and dim % 2 == 0
    if t.ndim != 1 or not even or not isinstance(max_period, numbers.Real) or not 0 < max_period < math.inf:
        raise ValueError(
            "expected t [B], an even dim and a finite max_period above 0, "
            f"got {list(t.shape)}, dim {dim!r} and max_period {max_period!r}"
        )
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, dtype=t.dtype, device=t.device) / half)
    angles = 1000 * t[:, None] * frequencies  # [B, dim / 2]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class LinearReadout(nn.Linear):
    """Class scores from a clean state by one linear layer (paper, eq. 14): z [B, D] -> [B, K]. It has no use for W.

    >>> readout, W = LinearReadout(2, 3), torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    >>> readout.start_nearest(W)
    >>> readout(torch.tensor([[1.8, 1.9]]), W).argmax(1)
    tensor([2])
    """

    def forward(self, z: Tensor, W: Tensor) -> Tensor:
        """z [B, D] -> class scores [B, K]; W is for readouts that measure distances."""
        return super().forward(z)

    @torch.no_grad()
    def start_nearest(self, W: Tensor) -> None:
        """Set weight and bias so that the best class is the one whose row of W [K, D] is nearest; training goes on from there.

        -||z - W_k||^2 = 2 z W_k - ||W_k||^2 - ||z||^2, and the last term is the same for all classes. So the scores are
        c (z W_k - ||W_k||^2 / 2), with c = 1 / mean_k ||W_k||^2, which makes them near 1 however long the labels are.
        Raises ValueError unless W has this layer's K and D and is finite.
        """
        if W.shape != self.weight.shape:
            raise ValueError(f"expected W {list(self.weight.shape)}, got {list(W.shape)}")
        if not W.isfinite().all():
            raise ValueError("expected a finite W, got NaN or infinity in it")
        squares = W.square().sum(1)  # [K]
        scale = squares.mean().clamp(min=1e-12)  # labels that are all 0 get scores of 0, not NaN
        self.weight.copy_(W / scale)
        self.bias.copy_(-squares / (2 * scale))


class RadialReadout(nn.Module):
    """Class scores by distance (paper, eq. 15-16): y = softmax(f(z)) @ W, scores -||y - W_k||^2 / (2 sigma^2).

    z [B, D], W [K, D] -> [B, K]; f is linear. Their softmax is the paper's class probability.

    Raises ValueError unless sigma is a finite number above 0.

    >>> RadialReadout(embed_dim=2, num_classes=3)(torch.randn(5, 2), W=torch.rand(3, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(self, embed_dim: int, num_classes: int, sigma: float = 1.0):
        super().__init__()
        _check_sizes({"embed_dim": embed_dim, "num_classes": num_classes})
        if not isinstance(sigma, numbers.Real) or not 0 < sigma < math.inf:
            raise ValueError(f"sigma must be positive and finite, got {sigma!r}")
        self.linear, self.sigma = nn.Linear(embed_dim, num_classes), sigma

    def forward(self, z: Tensor, W: Tensor) -> Tensor:
        """z [B, D], W [K, D] -> class scores [B, K], none above 0."""
        y = expected_embedding(self.linear(z), W)  # [B, D]
        return -(y[:, None] - W).square().sum(-1) / (2 * self.sigma**2)  # [B, K]


class Standardize(nn.Module):
    """(x - mean) / std with stored constants; fit them once on training data. Shapes broadcast against x.

    Raises ValueError unless both are finite and std is above 0.

    >>> Standardize.fit(torch.tensor([[1.0], [3.0]]))(torch.tensor([[5.0]]))  # mean 2, deviation 1
    tensor([[3.]])
    """

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
            raise ValueError("expected mean and std that are finite, std above 0: of one sample at least, without NaN")
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def fit(cls, x: Tensor, dims: tuple[int, ...] = (0,)) -> "Standardize":
        """Mean and standard deviation of x over ``dims``: (0,) for features [N, F], (0, 2, 3) for images per channel.

        A constant feature keeps std 1: it carries nothing, and dividing by 0 would make it NaN. Raises ValueError on integers.
        """
        if not x.is_floating_point():
            raise ValueError(f"expected floating-point values to standardise, got {x.dtype}")
        if x.numel() == 0:
            raise ValueError(f"expected one sample at least, so that mean and std are finite, got {list(x.shape)}")
        std, mean = torch.std_mean(x, dim=dims, keepdim=True, correction=0)
        return cls(mean, torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        """(x - mean) / std, of the shape of x."""
        return (x - self.mean) / self.std


def expected_embedding(logits: Tensor, W: Tensor) -> Tensor:
    """u_hat = softmax(logits) @ W, the mean label embedding under the layer's class probabilities (paper, section 3).

    logits [..., K], W [K, D] -> [..., D]. It always lies in the convex hull of the embeddings.

    Raises ValueError unless both have one K and one type.

    >>> expected_embedding(torch.zeros(1, 2), W=torch.eye(2))  # scores that favour no class
    tensor([[0.5000, 0.5000]])
    """
    if W.ndim != 2 or logits.shape[-1] != W.shape[0]:
        raise ValueError(f"expected logits [..., K] and W [K, D] with one K, got {list(logits.shape)}, {list(W.shape)}")
    if logits.dtype != W.dtype and not torch.is_autocast_enabled(W.device.type):
        raise ValueError(f"expected logits and W of one type, got {logits.dtype} and {W.dtype}")
    return logits.softmax(-1) @ W


class _Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def _check_sizes(sizes: dict[str, int], smallest: int = 1) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, numbers.Integral) or size < smallest:
            raise ValueError(f"{name} must be an integer >= {smallest}, got {size!r}")


def _shape(image_shape) -> tuple[int, int, int]:
    """(C, H, W), or ValueError."""
    image_shape = tuple(image_shape)
    counts = (isinstance(n, numbers.Integral) and not isinstance(n, bool) and n >= 1 for n in image_shape)
    if len(image_shape) != 3 or not all(counts):
        raise ValueError(f"expected the images' shape as (C, H, W), integers of at least 1, got {image_shape}")
    return image_shape


def _check_type(features: Tensor, weight: Tensor) -> None:
    # Under autocast all types go together.
    if features.dtype != weight.dtype and not torch.is_autocast_enabled(weight.device.type):
        raise ValueError(f"expected features of the weights' type {weight.dtype}, got {features.dtype}")


def _stage(channels: int, width: int) -> tuple[nn.Module, ...]:
    """Half the sides, rounded up: [B, channels, H, W] -> [B, width, H / 2, W / 2]."""
    first, second = (nn.Conv2d(c, width, 3, padding=1, bias=False) for c in (channels, width))
    halved = first, nn.MaxPool2d(2, ceil_mode=True), nn.BatchNorm2d(width), nn.GELU()
    return *halved, _Residual(second, nn.BatchNorm2d(width), nn.GELU())


def _convolutions(image_shape) -> nn.Sequential:
    """Figure 6's convolutions: [B, C, H, W] -> [B, 128 * (H // 4) * (W // 4)]."""
    channels, height, width = _shape(image_shape)
    if min(height, width) < 4:
        raise ValueError(f"images of shape {tuple(image_shape)} are too small: expected sides of at least 4 pixels")
    return nn.Sequential(
        # Max-pooling and ReLU commute; in this order ReLU has a quarter of the work.
        nn.Conv2d(channels, 32, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Dropout(0.2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Dropout(0.2),
        nn.Conv2d(64, 128, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Dropout(0.2),
        nn.Flatten(),
    )  # fmt: skip


def _flat(image_shape) -> int:
    _, height, width = image_shape
    return 128 * (height // 4) * (width // 4)


def _check_image_sized(image_shape, embed_dim: int) -> None:
    if embed_dim != math.prod(image_shape):
        raise ValueError(
            f"an image-sized state of {tuple(image_shape)} has D = {math.prod(image_shape)}, got {embed_dim}"
        )


def _check_images(image_shape: tuple, images: Tensor) -> None:
    if images.shape[1:] != image_shape:
        raise ValueError(f"expected images [B, {', '.join(map(str, image_shape))}], got {list(images.shape)}")


def _check_features_and_state(features: Tensor, z: Tensor, embed_dim: int) -> None:
    if z.ndim != 2 or z.shape[1] != embed_dim or len(z) != len(features):
        raise ValueError(f"expected z [{len(features)}, {embed_dim}], a state per image, got {list(z.shape)}")
