"""The hand-written stack against ``LayerStack``, which ``test_layerwise`` holds against the plain loop."""

import copy

import pytest
import torch
from torch import nn

from noprop_helpers.blocks import DenoisingMLP
from noprop_helpers.fast_stack import MLPStack
from noprop_helpers.layerwise import LayerStack, fit_stack
from noprop_helpers.losses import readout_loss, readout_loss_gradient, squared_error, squared_error_gradient

T, F, D, K = 4, 6, 3, 3


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def gradients(stack, layers):
    """A stack's gradients as those of plain layers: ``copy_to`` knows which slice of which parameter belongs to whom."""
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.copy_(parameter.grad)
    result = copy.deepcopy(layers)
    stack.copy_to(result)
    return result.state_dict()


def test_outputs_are_the_readable_stacks(layers, batches):
    features, z, _ = batches[0]
    outputs = MLPStack(layers)(features, z)
    torch.testing.assert_close(outputs, LayerStack(layers)(features, z), rtol=1e-12, atol=1e-12)
    assert not outputs.requires_grad  # there is no graph to go back through: ``loss_gradients`` does that


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error", "weighted"])
def test_gradients_are_the_readable_stacks(loss, layers, batches):
    """Of the weights, whatever was there, and of the features, for a trained encoder: the sum of all layers'."""
    features, z, y = batches[0]
    weights = torch.tensor([3.0, 1.0, 0.5, 0.0], dtype=torch.float64)
    function, target = {
        "cross_entropy": (readout_loss, y),
        "squared_error": (squared_error, torch.eye(K, dtype=torch.float64)[y]),
        "weighted": (lambda outputs, target: weights[:, None] * readout_loss(outputs, target), y),
    }[loss]
    fast, readable = MLPStack(layers), LayerStack(layers)
    own, wanted = features.clone().requires_grad_(), features.clone().requires_grad_()
    expected = readable.loss_gradients(wanted, z, target, function)
    for _ in range(2):  # the second time over the gradients of the first
        own.grad = None
        losses = fast.loss_gradients(own, z, target, function)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(own.grad, wanted.grad)
    torch.testing.assert_close(gradients(fast, layers), gradients(readable, layers))


@pytest.mark.parametrize("loss, gradient", [(readout_loss, readout_loss_gradient), (squared_error, squared_error_gradient)])
def test_a_gradient_in_closed_form_does_what_differentiation_does(loss, gradient, layers, batches):
    features, z, y = batches[0]
    target = y if loss is readout_loss else torch.eye(K, dtype=torch.float64)[y]
    stacks = MLPStack(layers, gradient), MLPStack(layers)
    own, wanted = features.clone().requires_grad_(), features.clone().requires_grad_()
    given, found = stacks[0].loss_gradients(own, z, target, loss), stacks[1].loss_gradients(wanted, z, target, loss)
    assert not given.requires_grad
    torch.testing.assert_close((given, own.grad), (found, wanted.grad))
    torch.testing.assert_close(*(gradients(stack, layers) for stack in stacks))


def test_training_gives_the_readable_stacks_weights(layers, batches):
    """Five Adam steps in float64, the last on a smaller batch."""
    batches[-1] = (batches[-1][0][:7], batches[-1][1][:, :7], batches[-1][2][:7])
    trained = []
    for Stack in (MLPStack, LayerStack):
        own, stack = copy.deepcopy(layers), Stack(layers)
        losses = fit_stack(stack, adam(stack.parameters()), batches, readout_loss)
        stack.copy_to(own)
        trained.append((losses, own.state_dict()))
    torch.testing.assert_close(*trained, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(trained[0][1]["0.mlp.0.weight"], layers[0].mlp[0].weight)  # it did train


def test_a_stack_in_use_may_change_its_precision_and_be_copied(layers, batches):
    """Its memory is made for one kind of number and one size of batch, and must follow."""
    stack, (features, z, y) = MLPStack(layers), batches[0]
    expected = stack.loss_gradients(features, z, y, readout_loss)
    for changed in (copy.deepcopy, MLPStack.float, MLPStack.double):
        other = changed(stack)
        dtype = next(other.parameters()).dtype
        losses = other.loss_gradients(features.to(dtype), z.to(dtype), y, readout_loss)
        torch.testing.assert_close(losses.double(), expected, rtol=1e-4, atol=1e-4)
    for size in (3, 16):
        few = features[:size], z[:, :size], y[:size], readout_loss
        torch.testing.assert_close(stack.loss_gradients(*few), LayerStack(layers).loss_gradients(*few))


def test_gradients_that_were_cleared_are_written_again(layers, batches):
    """``zero_grad`` between two passes takes the memory of the gradients away."""
    stack = MLPStack(layers)
    optimizer = adam(stack.parameters())
    for _ in range(2):
        before = [p.clone() for p in stack.parameters()]
        fit_stack(stack, optimizer, batches, readout_loss)
        assert not any(torch.equal(a, b) for a, b in zip(before, stack.parameters(), strict=True))
        optimizer.zero_grad()


def test_a_stack_holds_the_layers_weights_and_no_others(layers):
    stack = MLPStack(layers)
    assert len(stack) == T and all(p.shape[0] == T for p in stack.parameters())
    assert sum(p.numel() for p in stack.parameters()) == sum(p.numel() for p in layers.parameters())
    with torch.no_grad():
        next(stack.parameters()).add_(1)  # a copy: training it must not touch the layers before ``copy_to``
    assert not torch.equal(stack.first[0].T, layers[0].mlp[0].weight)


def test_what_is_no_two_layer_perceptron_is_refused(layers):
    for wrong in (
        nn.Linear(3, 3),
        nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 3)),
        nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)),
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3, bias=False)),
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.Dropout()),
    ):
        with pytest.raises(ValueError, match="expected layers of nn.Linear, nn.ReLU, nn.Linear"):
            MLPStack([wrong])
    scaled = DenoisingMLP(F, D, K)
    scaled.scale = nn.Parameter(torch.ones(1))  # a weight of its own, which the stack would never train
    with pytest.raises(ValueError, match="and nothing else, got DenoisingMLP"):
        MLPStack([scaled])
    with pytest.raises(ValueError, match="different shapes"):
        MLPStack([*layers, DenoisingMLP(F, D, K, hidden_dim=9).double()])
    with pytest.raises(ValueError, match="at least one layer"):
        MLPStack([])
    with pytest.raises(ValueError, match="expected 4 layers, got 2"):
        MLPStack(layers).copy_to(layers[:2])


def test_what_does_not_fit_the_stack_is_refused(layers, batches):
    stack, (features, z, y) = MLPStack(layers), batches[0]
    with pytest.raises(ValueError, match=r"F \+ D = 9, got \[16, 5\]"):
        stack(features[:, :5], z)
    with pytest.raises(ValueError, match=r"F \+ D = 9, got \[15, 6\] and \[4, 16, 3\]"):
        stack(features[:15], z)
    with pytest.raises(ValueError, match=r"\[T, B, D\] with T = 4, got \[3, 16, 3\]"):
        stack(features, z[:3])
    with pytest.raises(ValueError, match=r"a loss for each layer and sample, \[4, 16\], and at least one, got \[4\]"):
        stack.loss_gradients(features, z, y, lambda outputs, target: readout_loss(outputs, target).mean(1))
    for wrong in (lambda outputs, target: outputs[0], lambda outputs, target: outputs.float()):
        with pytest.raises(ValueError, match=r"an output_gradient of \[4, 16, 3\] in torch.float64, got"):
            MLPStack(layers, wrong).loss_gradients(features, z, y, readout_loss)
    with pytest.raises(ValueError, match="at least one, got"):
        stack.loss_gradients(features[:0], z[:, :0], y[:0], readout_loss)


def test_frozen_layers_are_no_stack(layers):
    layers[1].requires_grad_(False)
    with pytest.raises(ValueError, match="a frozen layer cannot be stacked"):
        MLPStack(layers)
