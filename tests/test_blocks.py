import pytest
import torch

from noprop_helpers.blocks import ConvEncoder, DenoisingMLP, Standardize, expected_embedding


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_denoising_mlp_is_the_notebooks():
    layer = DenoisingMLP()
    assert count(layer) == (128 + 10) * 256 + 256 + 256 * 10 + 10
    features, z = torch.randn(5, 128), torch.randn(5, 10)
    first, _, second = layer.mlp
    hidden = torch.relu(torch.cat([features, z], 1) @ first.weight.T + first.bias)
    torch.testing.assert_close(layer(features, z), hidden @ second.weight.T + second.bias)


def test_conv_encoder_is_the_notebooks():
    """conv, ReLU, max-pool, twice, then linear 1600 -> 128, written out in the notebook's own order."""
    encoder, images = ConvEncoder(), torch.rand(3, 1, 28, 28)
    conv_1, conv_2, linear = (layer for layer in encoder.features if list(layer.parameters()))
    assert (conv_1.out_channels, conv_2.out_channels) == (32, 64)
    assert (linear.in_features, linear.out_features) == (1600, 128)
    hidden = torch.max_pool2d(torch.relu(conv_1(images)), 2)
    hidden = torch.max_pool2d(torch.relu(conv_2(hidden)), 2)
    torch.testing.assert_close(encoder(images), linear(hidden.flatten(1)))


@pytest.mark.parametrize("shape, padding", [((1, 8, 8), 1), ((3, 32, 32), 1), ((3, 10, 24), 0)])
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


def test_expected_embedding_is_a_mean_of_rows():
    W = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0]])
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]))
    torch.testing.assert_close(expected_embedding(logits, W), torch.tensor([[1.5, 1.25], [4.0, 4.0]]))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: DenoisingMLP()(torch.ones(2, 127), torch.ones(2, 10)), r"\[B, 128\].*\[2, 127\]"),
        (lambda: DenoisingMLP()(torch.ones(2, 128), torch.ones(1, 10)), r"\[2, 128\] and \[1, 10\]"),
        (lambda: ConvEncoder()(torch.ones(2, 28, 28)), r"expected images \[B, 1, 28, 28\], got \[2, 28, 28\]"),
        (lambda: ConvEncoder((1, 8, 8)), "too small for padding=0"),
        (lambda: expected_embedding(torch.ones(2, 3), torch.ones(4, 2)), "one K"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
