"""Networks: what one layer computes.

A layer takes image features and a noisy label state and returns K class scores or a denoised label.
"""

import torch
from torch import Tensor, nn


class DenoisingMLP(nn.Module):
    """One layer of the published notebook: concat(features, z) -> Linear -> ReLU -> Linear.

    features [B, F], z [B, D] -> [B, K]. The notebook reads the K outputs as the denoised one-hot label itself;
    ``expected_embedding`` reads them as class scores. Raises ValueError on other shapes.
    """

    def __init__(self, feature_dim: int = 128, embed_dim: int = 10, num_classes: int = 10, hidden_dim: int = 256):
        super().__init__()
        self.feature_dim, self.embed_dim = feature_dim, embed_dim
        self.mlp = nn.Sequential(
            nn.Linear(feature_dim + embed_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, num_classes),
        )

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        if features.shape[1:] != (self.feature_dim,) or z.shape[1:] != (self.embed_dim,) or len(features) != len(z):
            raise ValueError(
                f"expected features [B, {self.feature_dim}] and z [B, {self.embed_dim}], "
                f"got {list(features.shape)} and {list(z.shape)}"
            )
        return self.mlp(torch.cat([features, z], dim=1))


class ConvEncoder(nn.Module):
    """The published notebook's image encoder: two rounds of conv 3x3, ReLU, max-pool 2; then one linear layer.

    images [B, C, H, W] -> features [B, F]. On 28 x 28 MNIST with ``padding=0`` the flattened size is the notebook's
    1600. Sides under 10 pixels need ``padding=1``. Raises ValueError on images of another shape.
    """

    def __init__(self, image_shape=(1, 28, 28), feature_dim: int = 128, padding: int = 0, widths=(32, 64)):
        super().__init__()
        self.image_shape = tuple(image_shape)
        channels, height, width = self.image_shape
        for _ in range(2):  # conv 3x3, then max-pool 2
            height, width = (height + 2 * padding - 2) // 2, (width + 2 * padding - 2) // 2
        if min(height, width) < 1:
            raise ValueError(
                f"images of shape {self.image_shape} are too small for padding={padding}: "
                "expected sides of at least 10 pixels with padding=0, 4 with padding=1"
            )
        self.features = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=padding),
            nn.MaxPool2d(2),  # before ReLU: the two commute, and ReLU then has a quarter of the work
            nn.ReLU(),
            nn.Conv2d(widths[0], widths[1], 3, padding=padding),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(widths[1] * height * width, feature_dim),
        )
        # Same numbers; a CPU runs convolution and above all max-pooling faster in this layout.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"expected images [B, {', '.join(map(str, self.image_shape))}], got {list(images.shape)}")
        return self.features(images)


class Standardize(nn.Module):
    """(x - mean) / std with stored constants; fit them once on training data. Shapes broadcast against x."""

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def fit(cls, x: Tensor, dims: tuple[int, ...] = (0,)) -> "Standardize":
        """Mean and standard deviation of x over ``dims``: (0,) for features [N, F], (0, 2, 3) for images per channel.

        A constant feature keeps std 1: it carries nothing, and dividing by 0 would make it NaN.
        """
        std, mean = torch.std_mean(x, dim=dims, keepdim=True, correction=0)
        return cls(mean, torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def expected_embedding(logits: Tensor, W: Tensor) -> Tensor:
    """u_hat = softmax(logits) @ W, the mean label embedding under the layer's class probabilities (paper, section 3).

    logits [..., K], W [K, D] -> [..., D]. It always lies in the convex hull of the embeddings.
    """
    if W.ndim != 2 or logits.shape[-1] != W.shape[0]:
        raise ValueError(f"expected logits [..., K] and W [K, D] with one K, got {list(logits.shape)}, {list(W.shape)}")
    return logits.softmax(-1) @ W
