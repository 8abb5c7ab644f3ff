import copy

import pytest
import torch
from torch import nn

from noprop_helpers.blocks import DenoisingMLP
from noprop_helpers.diffusion import q_sample
from noprop_helpers.layerwise import LayerStack, MLPStack, fit_layers, fit_stack
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


both_stacks = pytest.mark.parametrize("Stack", [LayerStack, MLPStack])


@both_stacks
def test_stack_forward_equals_each_layer(Stack, layers, batches):
    features, z, _ = batches[0]
    outputs = Stack(layers)(features, z)
    for t in range(T):
        torch.testing.assert_close(outputs[t], layers[t](features, z[t]), rtol=1e-12, atol=1e-12)


@both_stacks
def test_stacked_training_equals_the_loop(Stack, layers, batches):
    """Five Adam steps in float64, the last on a smaller batch: the same weights and the same losses, layer by layer."""
    batches[-1] = (batches[-1][0][:7], batches[-1][1][:, :7], batches[-1][2][:7])
    looped, stacked = copy.deepcopy(layers), copy.deepcopy(layers)
    loop_losses = fit_layers(looped, [adam(layer.parameters()) for layer in looped], batches, readout_loss)
    stack = Stack(stacked)
    stack_losses = fit_stack(stack, adam(stack.parameters()), batches, readout_loss)
    stack.copy_to(stacked)
    torch.testing.assert_close(loop_losses.double(), stack_losses.double(), rtol=1e-6, atol=0)
    for (name, a), b, before in zip(looped.named_parameters(), stacked.parameters(), layers.parameters(), strict=True):
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


@both_stacks
def test_gradients_equal_each_layers_own(Stack, layers, batches):
    """Weights get their own layer's gradient, whatever was there; features, a trained encoder's, the sum of all layers'."""
    stack, (features, z, y) = Stack(layers), batches[0]
    own, from_stack = features.clone().requires_grad_(), features.clone().requires_grad_()
    expected = torch.stack([readout_loss(layer(own, z[t]), y).mean() for t, layer in enumerate(layers)])
    expected.sum().backward()
    for _ in range(2):  # the second time over the gradients of the first
        from_stack.grad = None
        losses = stack.loss_gradients(from_stack, z, y, readout_loss)
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(from_stack.grad, own.grad)
    # ``copy_to`` knows which slice of which parameter belongs to whom, also for the gradients.
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.copy_(parameter.grad)
    gradients = copy.deepcopy(layers)
    stack.copy_to(gradients)
    for gradient, parameter in zip(gradients.parameters(), layers.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


@both_stacks
def test_a_trained_encoder_takes_each_batchs_step(Stack, layers, batches):
    """An encoder in front, trained by all layers: the same weights as from automatic differentiation of the sum."""
    encoder = nn.Linear(F, F, dtype=torch.float64)
    expected_encoder, expected = copy.deepcopy(encoder), copy.deepcopy(layers)
    optimizer = adam([*expected.parameters(), *expected_encoder.parameters()])
    for features, z, y in batches:
        optimizer.zero_grad()
        encoded = expected_encoder(features)
        sum(readout_loss(layer(encoded, z[t]), y).mean() for t, layer in enumerate(expected)).backward()
        optimizer.step()
    stack = Stack(layers)
    encoded_batches = ((encoder(features), z, y) for features, z, y in batches)
    fit_stack(stack, adam([*stack.parameters(), *encoder.parameters()]), encoded_batches, readout_loss)
    stack.copy_to(layers)
    for got, wanted in ((encoder, expected_encoder), (layers, expected)):
        for a, b in zip(got.parameters(), wanted.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@both_stacks
def test_a_stack_in_use_may_change_its_precision_and_be_copied(Stack, layers, batches):
    stack, (features, z, y) = Stack(layers), batches[0]
    expected = stack.loss_gradients(features, z, y, readout_loss)
    for changed in (copy.deepcopy, Stack.float, Stack.double):
        other = changed(stack)
        dtype = next(other.parameters()).dtype
        losses = other.loss_gradients(features.to(dtype), z.to(dtype), y, readout_loss)
        torch.testing.assert_close(losses.double(), expected, rtol=1e-4, atol=1e-4)


def test_gradients_that_were_cleared_are_written_again(layers, batches):
    """``zero_grad`` between two passes takes the memory of the gradients away."""
    stack = MLPStack(layers)
    optimizer = adam(stack.parameters())
    for _ in range(2):
        before = [p.clone() for p in stack.parameters()]
        fit_stack(stack, optimizer, batches, readout_loss)
        assert not any(torch.equal(a, b) for a, b in zip(before, stack.parameters(), strict=True))
        optimizer.zero_grad()


def test_what_is_no_two_layer_perceptron_is_refused(layers):
    for wrong in (
        nn.Linear(3, 3),
        nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 3)),
        nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)),
    ):
        with pytest.raises(ValueError, match="expected layers of nn.Linear, nn.ReLU, nn.Linear"):
            MLPStack([wrong])
    with pytest.raises(ValueError, match="different shapes"):
        MLPStack([*layers, DenoisingMLP(F, D, K, hidden_dim=9).double()])
    with pytest.raises(ValueError, match="F \\+ D = 9"):
        MLPStack(layers)(torch.zeros(2, 5).double(), torch.zeros(T, 2, D).double())


@both_stacks
def test_stack_holds_no_parameters_but_the_stacked_ones(Stack, layers):
    stack = Stack(layers)
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
    with pytest.raises(ValueError, match=r"for each layer and sample, \[4, 16\], and at least one, got \[\]"):
        MLPStack(layers).loss_gradients(features, z, y, lambda *given: readout_loss(*given).mean())
    with pytest.raises(ValueError, match=r"and at least one, got \[4, 0\]"):
        MLPStack(layers).loss_gradients(features[:0], z[:, :0], y[:0], readout_loss)
    for Stack in (LayerStack, MLPStack):
        with pytest.raises(ValueError, match="expected 4 layers, got 2"):
            Stack(layers).copy_to(layers[:2])
        with pytest.raises(ValueError, match="at least one layer"):
            Stack([])
