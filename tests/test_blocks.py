import functools
import math

import pytest
import torch
from torch import nn

from noprop_helpers.blocks import (
    ConvBlock,
    ConvEncoder,
    DenoisingMLP,
    LinearDenoiser,
    LinearReadout,
    RadialReadout,
    ResidualBlock,
    Standardize,
    TimedConvBlock,
    expected_embedding,
    timestep_embedding,
)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_denoising_mlp_is_the_notebooks():
    layer = DenoisingMLP()
    assert count(layer) == (128 + 10) * 256 + 256 + 256 * 10 + 10
    features, z = torch.randn(5, 128), torch.randn(5, 10)
    first, _, second = layer.mlp
    hidden = torch.relu(torch.cat([features, z], 1) @ first.weight.T + first.bias)
    torch.testing.assert_close(layer(features, z), hidden @ second.weight.T + second.bias)


def test_a_linear_denoiser_is_linear_in_features_and_state():
    layer, features, z = LinearDenoiser(4, 3), torch.randn(5, 4), torch.randn(5, 3)
    expected = features @ layer.features.weight.T + layer.features.bias + z @ layer.state.weight.T
    torch.testing.assert_close(layer(features, z), expected)
    assert count(layer) == 4 * 3 + 3 + 3 * 3
    for wrong in ((features[:4], z), (features[:, :3], z), (features, z[:, :2])):
        with pytest.raises(ValueError, match=r"expected features \[B, 4\] and z \[B, 3\], got"):
            layer(*wrong)


def test_conv_encoder_is_the_notebooks():
    """conv, ReLU, max-pool, twice, then linear 1600 -> 128, written out in the notebook's own order."""
    encoder, images = ConvEncoder(), torch.rand(3, 1, 28, 28)
    conv_1, conv_2, linear = (layer for layer in encoder.features if list(layer.parameters()))
    assert (conv_1.out_channels, conv_2.out_channels) == (32, 64)
    assert (linear.in_features, linear.out_features) == (1600, 128)
    hidden = torch.max_pool2d(torch.relu(conv_1(images)), 2)
    hidden = torch.max_pool2d(torch.relu(conv_2(hidden)), 2)
    torch.testing.assert_close(encoder(images), linear(hidden.flatten(1)))


@pytest.mark.parametrize("shape, padding", [((1, 8, 8), 1), ((3, 32, 32), 1), ((3, 10, 24), 0), ((1, 9, 13), 2)])
def test_conv_encoder_on_other_images(shape, padding):
    assert ConvEncoder(shape, feature_dim=7, padding=padding)(torch.rand(2, *shape)).shape == (2, 7)


def test_standardize_fit():
    x = torch.randn(1000, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 5 + 2
    y = Standardize.fit(x, (0, 2, 3))(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_standardize_constant_feature_stays_finite():
    x = torch.tensor([[1.0, 3.0], [2.0, 3.0]])
    assert Standardize.fit(x)(x).tolist() == [[-1, 0], [1, 0]]


def test_what_hardly_varies_counts_as_constant():
    x = torch.tensor([[-1e-6, -2e-6], [1e-6, 2e-6]], dtype=torch.float64)  # deviations of 1e-6 and 2e-6
    assert Standardize.fit(x)(x).tolist() == [[-1e-6, -1], [1e-6, 1]]


def test_expected_embedding_is_a_mean_of_rows():
    W = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0]])
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]))
    torch.testing.assert_close(expected_embedding(logits, W), torch.tensor([[1.5, 1.25], [4.0, 4.0]]))
    stacked = torch.stack([logits, logits.flip(0), logits])  # of three layers at once
    torch.testing.assert_close(expected_embedding(stacked, W), torch.stack([expected_embedding(one, W) for one in stacked]))


def test_a_third_convolution_and_batchnorm_written_out():
    encoder, images = ConvEncoder(feature_dim=5, widths=(2, 3, 4), norm=True), torch.rand(6, 1, 28, 28)
    convolutions = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    x = images
    for i, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True)):
        x = convolution(x)
        x = nn.functional.max_pool2d(x, 2) if i < 2 else x
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        x = ((x - mean) / (variance + norm.eps).sqrt()).relu()
    assert x.shape == (6, 4, 3, 3)
    torch.testing.assert_close(encoder(images), encoder.features[-1](x.flatten(1)), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="too small for padding=0 and 3 convolutions"):
        ConvEncoder((1, 17, 17), widths=(2, 3, 4))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: DenoisingMLP()(torch.ones(2, 127), torch.ones(2, 10)), r"\[B, 128\].*\[2, 127\]"),
        (lambda: DenoisingMLP()(torch.ones(2, 128), torch.ones(1, 10)), r"\[2, 128\] and \[1, 10\]"),
        (lambda: ConvEncoder()(torch.ones(2, 28, 28)), r"expected images \[B, 1, 28, 28\], got \[2, 28, 28\]"),
        (lambda: ConvEncoder((1, 8, 8)), "too small for padding=0"),
        (
            lambda: ConvEncoder((1, 9, 20)),
            r"^images of shape \(1, 9, 20\) are too small for padding=0 and 2 convolutions: "
            "sides of 4 pixels are enough with padding=1, each unpadded convolution takes more$",
        ),
        (lambda: ConvEncoder((1, 20, 9)), "too small for padding=0"),
        (lambda: expected_embedding(torch.ones(2, 3), torch.ones(4, 2)), "one K"),
        (lambda: expected_embedding(torch.ones(2, 3), torch.ones(3, 2, 2)), r"got \[2, 3\], \[3, 2, 2\]"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_conv_block_is_figure_6():
    """2.0 M parameters on MNIST, and the paper's order of operations, written out."""
    block, images, z = ConvBlock().eval(), torch.rand(3, 1, 28, 28), torch.randn(3, 10)
    assert count(block) == 2_001_290
    for norm in block.modules():  # running statistics that are not the initial 0 and 1
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    convolutions, linear, norm = block.image_path
    conv_1, conv_2, conv_3 = (m for m in convolutions if isinstance(m, nn.Conv2d))
    assert [m.p for m in convolutions if isinstance(m, nn.Dropout)] == [0.2, 0.2, 0.2]
    assert [m.padding for m in (conv_1, conv_2, conv_3)] == [(1, 1)] * 3
    hidden = torch.max_pool2d(torch.relu(conv_1(images)), 2)
    hidden = torch.max_pool2d(torch.relu(conv_3(torch.relu(conv_2(hidden)))), 2)
    features = norm(linear(hidden.flatten(1)))
    first, first_norm, _, residual = block.state_path
    h = torch.relu(first_norm(first(z)))
    a, a_norm, _, b, b_norm = residual
    h = h + b_norm(b(torch.relu(a_norm(a(h)))))
    f1, n1, _, f2, n2, _, f3 = block.fuse
    expected = f3(torch.relu(n2(f2(torch.relu(n1(f1(torch.cat([features, h], 1))))))))
    torch.testing.assert_close(block(images, z), expected)
    torch.testing.assert_close(block.head(block.encode(images), z), expected)


def test_timed_conv_block_is_figure_6_without_batch_norm():
    block, images, z, t = TimedConvBlock().eval(), torch.rand(3, 1, 28, 28), torch.randn(3, 10), torch.rand(3)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in block.modules())
    time = torch.relu(block.time_path[0](timestep_embedding(t)))
    state = torch.relu(block.state_path[0](z))
    expected = block.fuse(torch.cat([block.encode(images), state, time], 1))
    torch.testing.assert_close(block(images, z, t), expected)
    assert not torch.equal(block(images, z, t), block(images, z, 1 - t))


@pytest.mark.parametrize("kind", [ConvBlock, TimedConvBlock])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 12)])
@pytest.mark.parametrize("image_sized", [False, True])
def test_conv_blocks_fit_images_and_states(kind, shape, image_sized):
    embed_dim = math.prod(shape) if image_sized else 5
    block = kind(shape, embed_dim, 7, image_sized=image_sized)
    time = (torch.rand(4),) if kind is TimedConvBlock else ()
    assert block(torch.rand(4, *shape), torch.randn(4, embed_dim), *time).shape == (4, 7)


def figure_6_convolutions(path, images):
    """Three convolutions with ReLU, pooled after the first and the last, flattened, and one linear layer."""
    conv_1, conv_2, conv_3 = (m for m in path.modules() if isinstance(m, nn.Conv2d))
    (linear,) = (m for m in path.modules() if isinstance(m, nn.Linear))
    hidden = torch.max_pool2d(torch.relu(conv_1(images)), 2)
    hidden = torch.max_pool2d(torch.relu(conv_3(torch.relu(conv_2(hidden)))), 2)
    return linear(hidden.flatten(1))


def test_timed_conv_block_written_out():
    block, images, z, t = TimedConvBlock().eval(), torch.rand(3, 1, 28, 28), torch.randn(3, 10), torch.rand(3)
    features = torch.relu(figure_6_convolutions(block.image_path, images))
    state, time = torch.relu(block.state_path[0](z)), torch.relu(block.time_path[0](timestep_embedding(t)))
    first, second, third = (m for m in block.fuse if isinstance(m, nn.Linear))
    expected = third(torch.relu(second(torch.relu(first(torch.cat([features, state, time], 1))))))
    torch.testing.assert_close(block(images, z, t), expected)
    assert expected.shape == (3, 10) and (second.in_features, second.out_features) == (256, 128)


@pytest.mark.parametrize("kind", [ConvBlock, TimedConvBlock])
def test_an_image_sized_state_goes_through_the_same_layers_as_the_image(kind):
    """Weights of its own; BatchNorm or ReLU at its end, as at the image's."""
    block, z = kind((2, 8, 9), 2 * 8 * 9, image_sized=True).eval(), torch.randn(3, 2 * 8 * 9)
    if kind is ConvBlock:
        for norm in (block.image_path[-1], block.state_path[-1]):
            nn.init.normal_(norm.running_mean)
    end = block.state_path[-1] if kind is ConvBlock else torch.relu
    images = z.view(3, 2, 8, 9)
    torch.testing.assert_close(block.state_path(z), end(figure_6_convolutions(block.state_path, images)))
    assert [type(m) for m in block.state_path[1:]] == [type(m) for m in block.image_path]
    assert not torch.allclose(block.state_path(z), block.encode(images))


def test_residual_block_written_out():
    """Three stages: a convolution, a halving that leaves no row out, one residual convolution; scores of both are added."""
    block = ResidualBlock((6, 17, 28), 5, 7, width=4).eval()
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m.out_channels for m in convolutions] == [4, 4, 16, 16, 16, 16]
    assert all(m.bias is None for m in convolutions)  # BatchNorm takes it off again
    maps, z = torch.rand(4, 6, 17, 28), torch.randn(4, 5)
    x = maps
    for stage in range(3):
        first, second = convolutions[2 * stage : 2 * stage + 2]
        before, after = norms[2 * stage : 2 * stage + 2]
        x = nn.functional.gelu(before(torch.max_pool2d(first(x), 2, ceil_mode=True)))
        x = x + nn.functional.gelu(after(second(x)))
    assert x.shape == (4, 16, 3, 4)
    linear = block.image_path[-1]
    expected = linear(x.amax((2, 3))) + z @ block.state_path.weight.T
    torch.testing.assert_close(block(maps, z), expected)


def test_sizes_where_nobody_says():
    block = ResidualBlock()
    assert block.image_path[0].out_channels == 64 and block.map_shape == (24, 31, 31)
    assert block.embed_dim == 10 and block.image_path[-1].out_features == 10
    for other in (TimedConvBlock(), ConvBlock()):
        assert other.embed_dim == 10 and other.fuse[-1].out_features == 10
    assert RadialReadout(3, 3).sigma == 1.0


@pytest.mark.parametrize("kind, side", [(ConvBlock, 4), (TimedConvBlock, 4), (ResidualBlock, 4)])
def test_the_smallest_images_that_a_block_takes(kind, side):
    time = (torch.rand(2),) if kind is TimedConvBlock else ()
    for shape in ((1, side, side + 3), (1, side + 3, side)):
        assert kind(shape)(torch.rand(2, *shape), torch.randn(2, 10), *time).shape == (2, 10)
    for shape in ((1, side - 1, side), (1, side, side - 1)):
        with pytest.raises(ValueError, match="too small"):
            kind(shape)


@pytest.mark.parametrize("kind", [ConvEncoder, ConvBlock, TimedConvBlock, ResidualBlock])
def test_convolutions_lie_in_memory_as_a_cpu_likes_them(kind):
    for weight in (m.weight for m in kind().modules() if isinstance(m, nn.Conv2d)):
        assert weight.is_contiguous(memory_format=torch.channels_last)


def test_time_joins_the_state_in_its_own_type_and_place():
    block, z = TimedConvBlock((1, 8, 8)).double().eval(), torch.randn(2, 10, dtype=torch.float64)
    features = block.encode(torch.rand(2, 1, 8, 8, dtype=torch.float64))
    assert block.head(features, z, torch.rand(2)).dtype == torch.float64  # a time in float32 is welcome
    t = torch.tensor([0.25])
    expected = timestep_embedding(t, 2)
    with torch.device("meta"):  # whatever the device where tensors are made that do not say
        torch.testing.assert_close(timestep_embedding(t, 2), expected)
    torch.testing.assert_close(expected, torch.tensor([[math.cos(250.0), math.sin(250.0)]]))


def test_timestep_embedding_by_hand():
    t, dim = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64), 8
    embedding = timestep_embedding(t, dim)
    for row, time in zip(embedding, t.tolist()):
        angles = [1000 * time / 10_000 ** (i / 4) for i in range(4)]
        expected = [math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles]
        torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64))


def test_radial_readout_is_equations_15_and_16():
    """Eq. (8.7)."""
    readout, W, z = RadialReadout(4, 3, sigma=0.7), torch.randn(3, 4), torch.randn(5, 4)
    probabilities = readout(z, W).softmax(1)
    for i in range(5):
        y = readout.linear(z[i]).softmax(0) @ W
        kernel = torch.stack([torch.exp(-((y - w) ** 2).sum() / (2 * 0.7**2)) for w in W])
        torch.testing.assert_close(probabilities[i], kernel / kernel.sum())


def test_linear_readout_is_a_linear_layer():
    """Eq. (8.6)."""
    readout, z = LinearReadout(4, 3), torch.randn(5, 4)
    torch.testing.assert_close(readout(z, torch.randn(3, 4)), z @ readout.weight.T + readout.bias)


@pytest.mark.parametrize("length", [0.1, 1.0, 30.0])
def test_linear_readout_starts_as_nearest_row(length):
    """Its scores are negative squared distances to the rows, up to a factor and what all classes have in common."""
    readout, W, z = LinearReadout(4, 3), length * torch.randn(3, 4), length * torch.randn(50, 4)
    W[2] *= 3  # of another length than the others: a product alone would prefer it
    readout.start_nearest(W)
    scores, distances = readout(z, W), torch.cdist(z, W).square()
    expected = -distances / (2 * W.square().sum(1).mean())
    torch.testing.assert_close(scores - scores[:, :1], expected - expected[:, :1], rtol=1e-4, atol=1e-5)
    assert torch.equal(scores.argmax(1), distances.argmin(1))
    assert readout.weight.requires_grad and readout.bias.requires_grad  # a start and no more


def test_labels_of_no_length_start_a_readout_without_a_preference():
    readout, W = LinearReadout(4, 3), torch.zeros(3, 4)
    readout.start_nearest(W)
    assert torch.equal(readout(torch.randn(5, 4), W), torch.zeros(5, 3))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ConvBlock((1, 3, 8)), r"\(1, 3, 8\) are too small"),
        (lambda: ConvBlock((1, 8, 8), 10, image_sized=True), "has D = 64, got 10"),
        (lambda: ConvBlock()(torch.rand(2, 1, 8, 8), torch.randn(2, 10)), r"expected images \[B, 1, 28, 28\]"),
        (lambda: ConvBlock()(torch.rand(2, 1, 28, 28), torch.randn(3, 10)), r"expected z \[2, 10\].*got \[3, 10\]"),
        (lambda: ConvBlock()(torch.rand(2, 1, 28, 28), torch.randn(2, 11)), r"expected z \[2, 10\].*got \[2, 11\]"),
        (lambda: ConvBlock()(torch.rand(2, 1, 28, 28), torch.randn(2, 10, 1)), r"expected z \[2, 10\].*got \[2, 10, 1\]"),
        (lambda: timestep_embedding(torch.rand(3), 7), "even dim"),
        (lambda: timestep_embedding(torch.rand(3), 0), r"got \[3\], dim 0"),
        (lambda: timestep_embedding(torch.rand(3, 1)), r"t \[B\], an even dim .*, got \[3, 1\]"),
        (lambda: RadialReadout(3, 3, sigma=0), "sigma must be positive and finite, got 0"),
        (lambda: LinearReadout(4, 3).start_nearest(torch.eye(4)), r"expected W \[3, 4\], got \[4, 4\]"),
    ],
)
def test_conv_block_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


ROWS, STATES = torch.ones(2, 4), torch.ones(2, 3)
SHAPE, SMALL = "expected the images' shape as (C, H, W), integers of at least 1, got ", (1, 8, 8)
BLOCKS = (ConvBlock, TimedConvBlock)


@pytest.mark.parametrize(
    "call, message",
    [
        *(
            (lambda kind=kind, name=name, value=value: kind(**{name: value}), f"{name} must be an integer >= 1, got {value!r}")
            for kind, names in (
                (DenoisingMLP, ("feature_dim", "embed_dim", "num_classes", "hidden_dim")),
                (ConvEncoder, ("feature_dim",)),
                *((kind, ("embed_dim", "num_classes")) for kind in BLOCKS),
                (ResidualBlock, ("embed_dim", "num_classes", "width")),
                (functools.partial(LinearDenoiser, feature_dim=4, embed_dim=3), ("feature_dim", "embed_dim")),
                (functools.partial(RadialReadout, embed_dim=4, num_classes=3), ("embed_dim", "num_classes")),
            )
            for name in names
            for value in (0, True, 2.0)
        ),
        (lambda: ConvEncoder(widths=(2, 0)), "widths[1] must be an integer >= 1, got 0"),
        (lambda: ConvEncoder(padding=-1), "padding must be an integer >= 0, got -1"),
        *((lambda kind=kind: kind((1, 8)), SHAPE + "(1, 8)") for kind in (ConvEncoder, *BLOCKS, ResidualBlock)),
        *((lambda kind=kind: kind((1, 8, 0)), SHAPE + "(1, 8, 0)") for kind in (ConvEncoder, *BLOCKS, ResidualBlock)),
        (lambda: ConvEncoder([1, 8.0, 8]), SHAPE + "(1, 8.0, 8)"),
        (lambda: ConvEncoder((True, 8, 8)), SHAPE + "(True, 8, 8)"),
        *(
            (lambda kind=kind: kind((1, 3, 8)), "images of shape (1, 3, 8) are too small: expected sides of at least 4 pixels")
            for kind in BLOCKS
        ),
        (lambda: ResidualBlock((2, 8, 3)), "maps of shape (2, 8, 3) are too small: expected sides of at least 4"),
        *(
            (lambda kind=kind: kind(SMALL, 10, image_sized=True), "an image-sized state of (1, 8, 8) has D = 64, got 10")
            for kind in BLOCKS
        ),
        (lambda: DenoisingMLP(4, 3)(ROWS, ROWS), "expected features [B, 4] and z [B, 3], got [2, 4] and [2, 4]"),
        *(
            (
                lambda kind=kind: kind(4, 3)(ROWS.double(), STATES),
                "expected features of the weights' type torch.float32, got torch.float64",
            )
            for kind in (DenoisingMLP, LinearDenoiser)
        ),
        *(
            (
                lambda kind=kind, time=time: kind(SMALL, 3).head(torch.ones(2, 256), ROWS, **time),
                "expected z [2, 3], a state per image, got [2, 4]",
            )
            for kind, time in ((ConvBlock, {}), (TimedConvBlock, {"t": torch.zeros(2)}))
        ),
        (
            lambda: TimedConvBlock(SMALL, 3).head(torch.ones(2, 256), STATES, torch.zeros(3)),
            "expected t [2], a time per image, got [3]",
        ),
        (
            lambda: TimedConvBlock(SMALL, 3).encode(torch.ones(2, 1, 8, 9)),
            "expected images [B, 1, 8, 8], got [2, 1, 8, 9]",
        ),
        (
            lambda: ResidualBlock((2, 4, 4), 3, width=1)(torch.ones(2, 2, 4, 5), STATES),
            "expected images [B, 2, 4, 4], got [2, 2, 4, 5]",
        ),
        (
            lambda: ResidualBlock((2, 4, 4), 3, width=1)(torch.ones(1, 2, 4, 4), STATES),
            "expected z [1, 3], a state per image, got [2, 3]",
        ),
        *(
            (
                lambda t=t, dim=dim, period=period: timestep_embedding(t, dim, period),
                "expected t [B], an even dim and a finite max_period above 0, "
                f"got {list(t.shape)}, dim {dim!r} and max_period {period!r}",
            )
            for t, dim, period in (
                (torch.ones(3, 1), 4, 10.0), (torch.ones(3), 4.0, 10.0), (torch.ones(3), -2, 10.0), (torch.ones(3), 3, 10.0),
                (torch.ones(3), 4, 0.0), (torch.ones(3), 4, math.nan), (torch.ones(3), 4, math.inf), (torch.ones(3), 4, "9"),
            )
        ),
        (
            lambda: LinearReadout(3, 2).start_nearest(STATES * math.inf),
            "expected a finite W, got NaN or infinity in it",
        ),
        *(
            (lambda sigma=sigma: RadialReadout(4, 3, sigma), f"sigma must be positive and finite, got {sigma!r}")
            for sigma in (0, -1.0, math.inf, math.nan, "1")
        ),
        *(
            (
                lambda mean=mean, std=std: Standardize(torch.tensor([1.0, mean]), torch.tensor([1.0, std])),
                "expected mean and std that are finite, std above 0: of one sample at least, without NaN",
            )
            for mean, std in ((math.nan, 1.0), (1.0, math.inf), (1.0, 0.0))
        ),
        (lambda: Standardize.fit(ROWS.long()), "expected floating-point values to standardise, got torch.int64"),
        (
            lambda: Standardize.fit(ROWS[:0]),
            "expected one sample at least, so that mean and std are finite, got [0, 4]",
        ),
        *(
            (
                lambda W=W: expected_embedding(STATES, W),
                f"expected logits [..., K] and W [K, D] with one K, got [2, 3], {list(W.shape)}",
            )
            for W in (ROWS, torch.ones(3))
        ),
        (
            lambda: expected_embedding(STATES, torch.ones(3, 4).double()),
            "expected logits and W of one type, got torch.float32 and torch.float64",
        ),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


def test_what_is_just_not_refused():
    assert DenoisingMLP(1, 1, 1, 1)(torch.ones(2, 1), torch.ones(2, 1)).shape == (2, 1)
    assert ConvEncoder((1, 10, 10), 1, widths=(1, 1))(torch.ones(2, 1, 10, 10)).shape == (2, 1)
    assert timestep_embedding(torch.zeros(3), 2, 0.5).tolist() == [[1, 0]] * 3
    assert Standardize(torch.ones(1), torch.tensor([1e-30]))(torch.ones(1)) == 0


def test_under_autocast_types_go_together():
    with torch.autocast("cpu", torch.bfloat16):
        for layer in (DenoisingMLP(4, 3, 3), LinearDenoiser(4, 3)):
            assert layer(ROWS.bfloat16(), STATES).shape == (2, 3)
        assert expected_embedding(STATES.bfloat16(), torch.ones(3, 4)).shape == (2, 4)
