import copy

import pytest
import torch
from torch import nn

from noprop_helpers.blocks import DenoisingMLP
from noprop_helpers.diffusion import q_sample
from noprop_helpers.layerwise import LayerStack, fit_layers, fit_stack
from noprop_helpers.losses import readout_loss
from noprop_helpers.schedules import cosine_alpha_bar

T, F, D, K = 4, 6, 3, 3


@pytest.fixture
def layers():
    torch.manual_seed(0)
    return nn.ModuleList(DenoisingMLP(F, D, K, hidden_dim=8) for _ in range(T)).double()


@pytest.fixture
def batches():
    g = torch.Generator().manual_seed(1)
    result = []
    for _ in range(5):
        y = torch.randint(K, (16,), generator=g)
        noise = torch.randn(T, 16, D, generator=g, dtype=torch.float64)
        z = q_sample(torch.eye(K, dtype=torch.float64)[y], cosine_alpha_bar(T)[1:], noise)
        result.append((torch.randn(16, F, generator=g, dtype=torch.float64), z, y))
    return result


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def test_stack_forward_equals_each_layer(layers, batches):
    features, z, _ = batches[0]
    outputs = LayerStack(layers)(features, z)
    for t in range(T):
        torch.testing.assert_close(outputs[t], layers[t](features, z[t]), rtol=1e-12, atol=1e-12)


def test_stacked_training_equals_the_loop(layers, batches):
    """Five Adam steps in float64: the same weights and the same losses, layer by layer."""
    looped, stacked = copy.deepcopy(layers), copy.deepcopy(layers)
    loop_losses = fit_layers(looped, [adam(layer.parameters()) for layer in looped], batches, readout_loss)
    stack = LayerStack(stacked)
    stack_losses = fit_stack(stack, adam(stack.parameters()), batches, readout_loss)
    stack.copy_to(stacked)
    torch.testing.assert_close(loop_losses.double(), stack_losses.double(), rtol=1e-6, atol=0)
    for (name, a), b, before in zip(looped.named_parameters(), stacked.parameters(), layers.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=name)
        assert not torch.equal(a, before)  # it did train


def test_a_layer_trained_alone_gets_the_same_weights(layers, batches):
    """Layer 3's training does not depend on whether the others exist."""
    together, alone = copy.deepcopy(layers), copy.deepcopy(layers[2])
    fit_layers(together, [adam(layer.parameters()) for layer in together], batches, readout_loss)
    only_its_state = [(features, z[2:3], y) for features, z, y in batches]
    fit_layers([alone], [adam(alone.parameters())], only_its_state, readout_loss)
    for a, b in zip(together[2].parameters(), alone.parameters()):
        assert torch.equal(a, b)


def test_the_gradient_across_layers_does_not_exist(layers, batches):
    features, z, y = batches[0]
    readout_loss(layers[0](features, z[0]), y).mean().backward()
    assert all(p.grad is not None for p in layers[0].parameters())
    assert all(p.grad is None for layer in layers[1:] for p in layer.parameters())


def test_stack_holds_no_parameters_but_the_stacked_ones(layers):
    stack = LayerStack(layers)
    assert sum(p.numel() for p in stack.parameters()) == sum(p.numel() for p in layers.parameters())
    assert all(p.shape[0] == T for p in stack.parameters())


def test_after_step_is_called_once_a_batch(layers, batches):
    stack, calls = LayerStack(layers), []
    fit_stack(stack, adam(stack.parameters()), batches, readout_loss, lambda: calls.append(1))
    assert len(calls) == len(batches)


def test_errors(layers, batches):
    features, z, y = batches[0]
    stack = LayerStack(layers)
    with pytest.raises(ValueError, match=r"\[T, B, D\] with T = 4, got \[3, 16, 3\]"):
        stack(features, z[:3])
    with pytest.raises(ValueError, match="at least one layer"):
        LayerStack([])
    with pytest.raises(ValueError, match="BatchNorm"):
        LayerStack([nn.BatchNorm1d(3)])
    with pytest.raises(ValueError, match="4 layers, 1 optimizers"):
        fit_layers(layers, [adam(layers.parameters())], batches, readout_loss)
    with pytest.raises(ValueError, match="at least one batch"):
        fit_stack(stack, adam(stack.parameters()), [], readout_loss)
    with pytest.raises(ValueError, match="expected 4 layers, got 2"):
        stack.copy_to(layers[:2])
