"""Recipes: ready models with the settings that train them well. One table, ``RECIPES``: name -> recipe.

A recipe is a frozen dataclass. Its fields are the model's own settings, and it has

- ``build(shape)``: the model for data of this shape, with new weights from torch's global random state
- ``prepare(model, images, labels, generator)``: what is computed from the training split without gradients
- ``settings(shape)``: how it is trained
"""

import dataclasses
import numbers
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import NoPropError, needs
from .backprop import BackpropNet, NeuralODE
from .blocks import (
    ConvBlock, ConvEncoder, DenoisingMLP, LinearDenoiser, LinearReadout, RadialReadout, ResidualBlock, Standardize, TimedConvBlock,
)  # fmt: skip
from .embeddings import gaussian, orthogonal, prototypes
from .features import PatchFeatures, SignedPatches, Upright, WhitenedPatches, encode
from .noprop import NoPropCT, NoPropDT, NoPropFM, Propagated
from .schedules import LearnedGamma, alpha_bar_from_alphas, cosine_alpha_bar, linear_alphas
from .settings import Settings

LARGEST = 100_000  # of any size or number in a model: more is a slip of the hand, and would fill the memory before it fails
Recipe = Any  # one of the dataclasses below: see the module's docstring for what they have in common


class Shape(NamedTuple):
    """What a recipe must know of a data set: image (C, H, W), number of classes, number of training images.

    >>> Shape(image=(3, 32, 24), num_classes=10, num_images=50_000).smallest_side
    24
    """

    image: tuple[int, int, int]
    num_classes: int
    num_images: int

    @property
    def smallest_side(self) -> int:
        """The smaller of height and width."""
        return min(self.image[1:])


@dataclasses.dataclass(frozen=True)
class Published:
    """The published notebook's algorithm as it is: frozen random CNN, raw pixels, squared error, linear schedule from 1.0,
    inference re-noised to alpha. Images under 10 pixels, which the notebook never met, are padded.

    >>> model = Published(num_steps=5).build(Shape((1, 28, 28), num_classes=10, num_images=60_000))
    >>> model.num_layers, model.objective, Published().settings(None).epochs
    (5, 'squared_error', 50)
    """

    num_steps: int = 10

    def __post_init__(self):
        _check_at_least(1, self, "num_steps")

    def build(self, shape: Shape) -> NoPropDT:
        _check_side(4, shape)
        alphas = linear_alphas(self.num_steps)
        return NoPropDT(
            ConvEncoder(shape.image, padding=0 if shape.smallest_side >= 10 else 1),
            [DenoisingMLP(128, shape.num_classes, shape.num_classes) for _ in range(self.num_steps)],
            torch.eye(shape.num_classes),
            alpha_bar_from_alphas(alphas),
            objective="squared_error",
            inference=alphas,
        )

    def prepare(self, model: NoPropDT, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        """Nothing: the notebook does not even standardise its pixels."""

    def settings(self, shape: Shape) -> Settings:
        return Settings(epochs=50)


@dataclasses.dataclass(frozen=True)
class Shared:
    """One small CNN trained by all layers, and so not layer-local. Settings chosen on 10,000 held-out MNIST digits.

    ``upright`` takes the slant out of handwriting first, and ``margin`` so many pixels off every side.

    >>> Shared(num_steps=4).build(Shape((1, 28, 28), num_classes=10, num_images=60_000)).locality
    'not layer-local: one encoder is trained by all layers'
    """

    num_steps: int = 10
    hidden_dim: int = 128
    upright: bool = False
    margin: int = 0

    def __post_init__(self):
        _check_at_least(1, self, "num_steps", "hidden_dim")
        _check_at_least(0, self, "margin")

    def build(self, shape: Shape) -> NoPropDT:
        shape = _inside(shape, self.margin)
        _check_side(4, shape)
        padding = 0 if shape.smallest_side >= 18 else 1
        encoder = ConvEncoder(shape.image, padding=padding, widths=(16, 32, 64), norm=True)
        sizes = 128, shape.num_classes, shape.num_classes, self.hidden_dim
        return NoPropDT(
            nn.Sequential(*_seen(self.upright, self.margin), _unfitted(shape), encoder),
            [DenoisingMLP(*sizes) for _ in range(self.num_steps)],
            torch.eye(shape.num_classes),
            cosine_alpha_bar(self.num_steps),
            train_encoder=True,
            inference="answer",
        )

    def prepare(self, model: NoPropDT, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        """Mean and deviation of the pixels."""
        model.encoder[-2] = Standardize.fit(_as_seen(images, self.upright, self.margin), (0, 2, 3))

    def settings(self, shape: Shape) -> Settings:
        return Settings(epochs=_epochs(shape, 128, at_least=5), learning_rate=8e-3, one_cycle=True)


@dataclasses.dataclass(frozen=True)
class Local:
    """Nothing trained across layers: k-means patch features fitted without gradient, and T independent layers.

    Settings chosen on 5,000 held-out MNIST digits. ``num_centres`` and ``patch_size`` 0 go by the size of the images.

    >>> Local(num_steps=4).build(Shape((1, 28, 28), num_classes=10, num_images=60_000)).locality
    'layer-local'
    """

    num_steps: int = 10
    hidden_dim: int = 256
    num_centres: int = 0
    patch_size: int = 0

    def __post_init__(self):
        _check_at_least(1, self, "num_steps", "hidden_dim")
        _check_at_least(0, self, "num_centres", "patch_size")
        _check_centres(self.num_centres)

    def build(self, shape: Shape) -> NoPropDT:
        small = shape.smallest_side < 20
        num_centres, patch_size = self.num_centres or (100 if small else 256), self.patch_size or (3 if small else 6)
        _check_patches(patch_size, shape)
        if patch_size * shape.image[0] == 1:
            raise NoPropError("one grey pixel, less its own mean, is nothing: patch_size must be at least 2")
        encoder = PatchFeatures(shape.image[0], num_centres, patch_size)
        sizes = encoder.feature_dim, shape.num_classes, shape.num_classes, self.hidden_dim
        return NoPropDT(
            encoder,
            [DenoisingMLP(*sizes) for _ in range(self.num_steps)],
            torch.eye(shape.num_classes),
            cosine_alpha_bar(self.num_steps),
            inference="answer",
        )

    def prepare(self, model: NoPropDT, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        """The dictionary of patches, and the principal components of what it sees."""
        model.encoder.fit(images, generator=generator)

    def settings(self, shape: Shape) -> Settings:
        epochs = _epochs(shape, 256, at_least=6)
        return Settings(epochs=epochs, batch_size=256, learning_rate=4e-3, one_cycle=True, feature_dropout=0.3)


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """No gradient anywhere: k-means patches, more of them than in ``Local``, and T linear layers solved by least squares.

    Colour images are seen from both sides, grey ones through random features besides. Chosen on held-out training images of
    MNIST and of CIFAR-10 (JPEG copy). ``num_centres`` 0 goes by the images; ``upright`` takes the slant out of handwriting,
    and ``margin`` so many pixels off every side.

    >>> ClosedForm().settings(Shape((1, 28, 28), num_classes=10, num_images=60_000)).order
    'solved'
    """

    num_steps: int = 10
    num_centres: int = 0
    upright: bool = False
    margin: int = 0

    def __post_init__(self):
        _check_at_least(1, self, "num_steps")
        _check_at_least(0, self, "num_centres", "margin")
        _check_centres(self.num_centres)

    def build(self, shape: Shape) -> NoPropDT:
        shape = _inside(shape, self.margin)
        coloured, small = shape.image[0] > 1, shape.smallest_side < 20
        centres, size, grid = (100, 3, 2) if small else (1600, 6, 2) if coloured else (64, 8, 4)
        _check_patches(size, shape)
        num_random = 0 if coloured else 1000 if small else 3000
        patches = SignedPatches(shape.image[0], self.num_centres or centres, size, grid, coloured, num_random)
        seen = _seen(self.upright, self.margin)
        encoder = nn.Sequential(*seen, patches) if seen else patches
        layers = [LinearDenoiser(patches.feature_dim, shape.num_classes) for _ in range(self.num_steps)]
        W, alpha_bar = torch.eye(shape.num_classes), cosine_alpha_bar(self.num_steps)
        return NoPropDT(encoder, layers, W, alpha_bar, objective="squared_error", inference="answer")

    def prepare(self, model: NoPropDT, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        """The dictionary of patches, and the directions of random features."""
        patches = model.encoder[-1] if isinstance(model.encoder, nn.Sequential) else model.encoder
        patches.fit(_as_seen(images, self.upright, self.margin), generator=generator)

    def settings(self, shape: Shape) -> Settings:
        # The ridge that suits is the smaller the more images there are.
        return Settings(order="solved", batch_size=1000, weight_decay=10 / shape.num_images, precision="auto")


@dataclasses.dataclass(frozen=True)
class Residual:
    """Beyond the paper: layer-local residual networks on whitened patches of augmented images, one learning-rate cycle each. For
    colour images; few layers, for each is a large network (chapters 6 and 11 say what more of them would add).

    >>> Residual(width=4).build(Shape((3, 32, 32), num_classes=10, num_images=50_000)).num_layers
    2
    """

    num_steps: int = 2
    width: int = 64

    def __post_init__(self):
        _check_at_least(1, self, "num_steps", "width")

    def build(self, shape: Shape) -> NoPropDT:
        _check_side(5, shape)
        K, (channels, height, width) = shape.num_classes, shape.image
        encoder = WhitenedPatches(channels)
        maps = len(encoder.bias), height - 1, width - 1
        layers = [ResidualBlock(maps, K, K, self.width) for _ in range(self.num_steps)]
        return NoPropDT(encoder, layers, torch.eye(K), cosine_alpha_bar(self.num_steps), inference="answer")

    def prepare(self, model: NoPropDT, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        """Whitening of the smallest patches. Raises NoPropError where all are alike: blank images."""
        try:
            model.encoder.fit(images, generator=generator)
        except ValueError as error:
            raise NoPropError(f"{error}; look at the images") from None

    def settings(self, shape: Shape) -> Settings:
        return Settings(
            epochs=24, batch_size=500, learning_rate=1e-2, one_cycle=True, optimizer="adamw", weight_decay=0.05,
            order="layer", precision="auto", augment=True,
        )  # fmt: skip


# --- The paper's models and settings (tables 1 and 3) -----------------------------------------------------------------

EMBEDDINGS = ("one_hot", "learned", "prototype")


class _Paper:
    """What the paper's recipes share: Figure 6 blocks, three label embeddings, standardised pixels."""

    def __post_init__(self):
        _check_at_least(1, self, "num_steps")
        _check_at_least(0, self, *(name for name in ("eta", "sigma") if hasattr(self, name)))
        if self.embedding not in EMBEDDINGS:
            raise NoPropError(f"embedding must be one of {', '.join(EMBEDDINGS)}, got {self.embedding!r}")

    def prepare(self, model, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        """Mean and deviation of the pixels, and where trained embeddings start."""
        model.encoder = Standardize.fit(images, (0, 2, 3))
        if model.W.requires_grad:
            start = embedding_start(self.embedding, images, labels, len(model.W), generator)
            model.W.data.copy_(start.to(model.W.device))

    def _sizes(self, shape: Shape) -> tuple:
        """Arguments of a block: image shape, D, K, and whether the state goes through an image path of its own."""
        _check_side(4, shape)
        return shape.image, self._table(shape).shape[1], shape.num_classes, self.embedding == "prototype"

    def _table(self, shape: Shape) -> Tensor:
        """W [K, D] before ``prepare``."""
        K, (channels, height, width) = shape.num_classes, shape.image
        if self.embedding == "one_hot":
            return torch.eye(K)
        return nn.Parameter(torch.zeros(K, 20 if self.embedding == "learned" else channels * height * width))


def embedding_start(name: str, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """Where the paper's trained tables start: "learned" [K, 20] or "prototype" [K, C*H*W].

    Learned ones start orthonormal where that is possible, else Gaussian; prototypes start at each class's medoid. Raises
    NoPropError on other names, and on a class that has no image to be its prototype.

    >>> images, labels = torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    >>> embedding_start("prototype", images, labels, 3, torch.Generator().manual_seed(0)).shape
    torch.Size([3, 16])
    """
    if name == "prototype":
        try:
            return prototypes(images, labels, num_classes)
        except ValueError as error:  # a class without images
            raise NoPropError(f"the embedding prototype needs an image of every class: {error}") from None
    if name != "learned":
        raise NoPropError(f"expected a table that is trained, learned, prototype; got {name!r}")
    start = orthogonal if num_classes <= 20 else gaussian
    return start(num_classes, 20, torch.Generator().manual_seed(generator.initial_seed()))


@dataclasses.dataclass(frozen=True)
class PaperDT(_Paper):
    """NoProp-DT: Figure 6 blocks, each with its own encoder, eq. 8.

    >>> PaperDT(num_steps=2).build(Shape((1, 8, 8), num_classes=10, num_images=1437)).objective
    'elbo'
    """

    num_steps: int = 10
    embedding: str = "one_hot"
    radial: bool = False
    eta: float = 0.1

    def build(self, shape: Shape) -> NoPropDT:
        W, sizes = self._table(shape), self._sizes(shape)
        readout = (RadialReadout if self.radial else LinearReadout)(W.shape[1], shape.num_classes)
        layers = [ConvBlock(*sizes) for _ in range(self.num_steps)]
        alpha_bar = cosine_alpha_bar(self.num_steps)
        return NoPropDT(_unfitted(shape), layers, W, alpha_bar, objective="elbo", readout=readout, eta=self.eta)

    def settings(self, shape: Shape) -> Settings:
        return _discrete(shape)


@dataclasses.dataclass(frozen=True)
class PaperCT(_Paper):
    """NoProp-CT: one Figure 6 block with time, a learned schedule, Euler steps.

    >>> PaperCT().build(Shape((1, 8, 8), num_classes=10, num_images=1437)).num_steps
    1000
    """

    num_steps: int = 1000
    embedding: str = "one_hot"
    eta: float = 1.0

    def build(self, shape: Shape) -> NoPropCT:
        W, block = self._table(shape), TimedConvBlock(*self._sizes(shape))
        gamma, readout = LearnedGamma(), LinearReadout(W.shape[1], shape.num_classes)
        return NoPropCT(_unfitted(shape), block, W, gamma, readout, eta=self.eta, num_steps=self.num_steps)

    def settings(self, shape: Shape) -> Settings:
        """Table 3; on a small data set at least 7,000 updates, in one learning-rate cycle.

        The loss makes the noisy end learn late (chapter 9), and the paper's epochs, where each is a few batches, are over
        before that. At a constant rate the accuracy still goes up and down by some points after 7,000 updates; with a cycle it
        settles. Both were found on 300 of the bundled training digits, held out.
        """
        paper = _continuous(shape)
        epochs = _epochs(shape, 128, paper.epochs, updates=7000)
        if epochs == paper.epochs:
            return paper
        return dataclasses.replace(paper, epochs=epochs, one_cycle=True, cuda_graphs=False)  # a graph's rate is constant


@dataclasses.dataclass(frozen=True)
class PaperFM(_Paper):
    """NoProp-FM: one Figure 6 block with time; a readout only where the embeddings are learned.

    >>> PaperFM(embedding="learned").build(Shape((1, 8, 8), num_classes=10, num_images=1437)).W.shape
    torch.Size([10, 20])
    """

    num_steps: int = 1000
    embedding: str = "one_hot"
    sigma: float = 0.0

    def build(self, shape: Shape) -> NoPropFM:
        W, block = self._table(shape), TimedConvBlock(*self._sizes(shape))
        readout = LinearReadout(W.shape[1], shape.num_classes) if W.requires_grad else None
        return NoPropFM(_unfitted(shape), block, W, readout, sigma=self.sigma, num_steps=self.num_steps)

    def settings(self, shape: Shape) -> Settings:
        return _continuous(shape)


@dataclasses.dataclass(frozen=True)
class PaperBackprop(_Paper):
    """The baseline: the blocks of ``PaperDT`` in a row, trained by back-propagation through all of them.

    >>> PaperBackprop(num_steps=2).build(Shape((1, 8, 8), num_classes=10, num_images=1437)).layer_local
    False
    """

    num_steps: int = 10
    embedding: str = "one_hot"

    def build(self, shape: Shape) -> Propagated:
        W, sizes = self._table(shape), self._sizes(shape)
        blocks = [ConvBlock(*sizes) for _ in range(self.num_steps)]
        return Propagated(_unfitted(shape), BackpropNet(blocks, W, LinearReadout(W.shape[1], shape.num_classes)))

    def prepare(self, model: Propagated, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        """Mean and deviation of the pixels, where trained embeddings start, and the read-out as nearest row of them.

        The paper does not say how its read-out starts. Started at random, as a linear layer usually is, it sends several
        classes to one label, and the softmax of the blocks lets no gradient through to part them again (chapter 11).
        """
        super().prepare(model, images, labels, generator)
        model.net.readout.start_nearest(model.W)

    def settings(self, shape: Shape) -> Settings:
        return _discrete(shape)


@dataclasses.dataclass(frozen=True)
class PaperAdjoint(_Paper):
    """The continuous-time baseline: one block as a neural ODE, trained by the adjoint method of torchdiffeq.

    >>> PaperAdjoint().settings(Shape((1, 28, 28), num_classes=10, num_images=60_000)).epochs
    100
    """

    num_steps: int = 1000
    embedding: str = "one_hot"

    def build(self, shape: Shape) -> Propagated:
        with needs("torchdiffeq", "the recipe paper-adjoint"):
            from torchdiffeq import odeint_adjoint
        W, block = self._table(shape), TimedConvBlock(*self._sizes(shape))
        readout = LinearReadout(W.shape[1], shape.num_classes)
        return Propagated(_unfitted(shape), NeuralODE(block, W, readout, odeint_adjoint, self.num_steps))

    def settings(self, shape: Shape) -> Settings:
        return dataclasses.replace(_continuous(shape), cuda_graphs=False)  # its solver is Python


RECIPES = {
    "shared": Shared,
    "local": Local,
    "closed_form": ClosedForm,
    "published": Published,
    "paper-dt": PaperDT,
    "paper-ct": PaperCT,
    "paper-fm": PaperFM,
    "paper-backprop": PaperBackprop,
    "paper-adjoint": PaperAdjoint,
    "residual": Residual,
}


def recipe_named(name: str) -> Recipe:
    """A recipe with its model's usual settings. Raises NoPropError where there is none of this name.

    >>> recipe_named("local").num_steps
    10
    """
    if not isinstance(name, str) or name not in RECIPES:
        raise NoPropError(f"unknown recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]()


def _check_at_least(smallest: int, recipe: Recipe, *names: str) -> None:
    kinds = {field.name: field.type for field in dataclasses.fields(recipe)}
    for name in names:
        value, whole = getattr(recipe, name), kinds[name] is int
        if isinstance(value, bool) or not isinstance(value, numbers.Integral if whole else numbers.Real):
            raise NoPropError(f"{name} must be {'an integer' if whole else 'a number'}, got {value!r}")
        if type(value) not in (int, float):  # NumPy's numbers, which no file of weights may hold
            object.__setattr__(recipe, name, kinds[name](value))
        if not smallest <= value <= LARGEST:  # neither is NaN
            bound = f"at most {LARGEST:,}" if value > LARGEST else f"at least {smallest}"
            raise NoPropError(f"{name} must be {bound}, got {value}")


def _check_centres(num_centres: int) -> None:
    if num_centres > 50_000:
        raise NoPropError(f"num_centres must be at most 50000, the patches that they are fitted to, got {num_centres}")


def _check_patches(patch_size: int, shape: Shape) -> None:
    if patch_size > shape.smallest_side:
        raise NoPropError(f"patches of {patch_size} x {patch_size} pixels do not fit into images {list(shape.image)}")


def _check_side(smallest: int, shape: Shape) -> None:
    if shape.smallest_side < smallest:
        raise NoPropError(f"images {list(shape.image)} are too small for this recipe: it needs sides of {smallest} pixels")


def _inside(shape: Shape, margin: int) -> Shape:
    """The shape of images that lose so many pixels on every side."""
    channels, height, width = shape.image
    if 2 * margin >= shape.smallest_side:
        raise NoPropError(f"a margin of {margin} pixels on every side leaves nothing of images {list(shape.image)}")
    return shape._replace(image=(channels, height - 2 * margin, width - 2 * margin))


def _seen(upright: bool, margin: int) -> list[nn.Module]:
    """What makes of images what the rest of a model sees; there is nothing in it to fit or to train."""
    first = [Upright()] if upright else []
    return [*first, nn.ZeroPad2d(-margin)] if margin else first


def _as_seen(images: Tensor, upright: bool, margin: int) -> Tensor:
    seen = _seen(upright, margin)
    return encode(nn.Sequential(*seen), images) if seen else images


def _unfitted(shape: Shape) -> Standardize:
    """Standardisation per channel before ``prepare``: it changes nothing."""
    constants = 1, shape.image[0], 1, 1
    return Standardize(torch.zeros(constants), torch.ones(constants))


def _epochs(shape: Shape, batch_size: int, at_least: int, updates: int = 600) -> int:
    # ``at_least`` suffices on the 60,000 images of MNIST; a small data set needs a number of updates as well.
    num_batches = -(-shape.num_images // batch_size)
    return max(at_least, -(-updates // num_batches))


def _discrete(shape: Shape) -> Settings:
    # Table 3: 100 epochs on MNIST, 150 on the coloured images of CIFAR.
    epochs = 100 if shape.image[0] == 1 else 150
    return Settings(
        epochs=epochs, optimizer="adamw", weight_decay=1e-3, order="layer", precision="auto", cuda_graphs=True
    )


def _continuous(shape: Shape) -> Settings:
    # Table 3: 100 epochs on MNIST, 500 on CIFAR-10, 1000 on CIFAR-100.
    epochs = 100 if shape.image[0] == 1 else 500 if shape.num_classes < 100 else 1000
    return Settings(epochs=epochs, weight_decay=1e-3, order="layer", precision="auto", cuda_graphs=True)
