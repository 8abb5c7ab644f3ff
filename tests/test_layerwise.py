import copy
import re

import pytest
import torch
from torch import nn

from noprop_helpers.fast_stack import MLPStack
from noprop_helpers.layerwise import Diverged, LayerStack, check_distinct, check_finite, fit_layers, fit_stack, layers_for_rank
from noprop_helpers.losses import readout_loss

T, F = 4, 6


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


# --- One layer after another ---


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


def test_the_loop_returns_every_layers_mean_loss(layers, batches):
    losses = fit_layers(
        layers, [torch.optim.SGD(layer.parameters(), lr=0.0) for layer in layers], batches, readout_loss
    )
    for t, layer in enumerate(layers):
        own = torch.stack([readout_loss(layer(x, z[t]), y).mean() for x, z, y in batches]).mean()
        assert losses[t].item() == pytest.approx(own.item())
    assert not losses.requires_grad and losses.device.type == "cpu"  # numbers, that hold no batch's graph in memory
    first = [(x, z[:1], y) for x, z, y in batches]
    alone = fit_layers(layers[:1], [torch.optim.SGD(layers[0].parameters(), lr=0.0)], first, readout_loss)
    assert torch.equal(alone, losses[:1])


# --- All at once ---


def test_stack_forward_equals_each_layer(layers, batches):
    features, z, _ = batches[0]
    outputs = LayerStack(layers)(features, z)
    for t in range(T):
        torch.testing.assert_close(outputs[t], layers[t](features, z[t]), rtol=1e-12, atol=1e-12)


def test_stacked_training_equals_the_loop(layers, batches):
    """Five Adam steps in float64, the last on a smaller batch: the same weights and the same losses, layer by layer."""
    batches[-1] = (batches[-1][0][:7], batches[-1][1][:, :7], batches[-1][2][:7])
    looped, stacked = copy.deepcopy(layers), copy.deepcopy(layers)
    loop_losses = fit_layers(looped, [adam(layer.parameters()) for layer in looped], batches, readout_loss)
    stack = LayerStack(stacked)
    stack_losses = fit_stack(stack, adam(stack.parameters()), batches, readout_loss)
    stack.copy_to(stacked)
    torch.testing.assert_close(loop_losses.double(), stack_losses.double(), rtol=1e-6, atol=0)
    for (name, a), b, before in zip(looped.named_parameters(), stacked.parameters(), layers.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=name)
        assert not torch.equal(a, before)  # it did train


def test_gradients_equal_each_layers_own(layers, batches):
    """Weights get their own layer's gradient, whatever was there; features, a trained encoder's, the sum of all layers'."""
    stack, (features, z, y) = LayerStack(layers), batches[0]
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


@pytest.mark.parametrize("Stack", [LayerStack, MLPStack])
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
    torch.testing.assert_close(encoder.state_dict(), expected_encoder.state_dict(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layers.state_dict(), expected.state_dict(), rtol=1e-9, atol=1e-9)


def test_a_stack_in_use_may_change_its_precision_and_be_copied(layers, batches):
    stack, (features, z, y) = LayerStack(layers), batches[0]
    expected = stack.loss_gradients(features, z, y, readout_loss)
    for changed in (copy.deepcopy, LayerStack.float, LayerStack.double):
        other = changed(stack)
        dtype = next(other.parameters()).dtype
        losses = other.loss_gradients(features.to(dtype), z.to(dtype), y, readout_loss)
        torch.testing.assert_close(losses.double(), expected, rtol=1e-4, atol=1e-4)


def test_stack_holds_no_parameters_but_the_stacked_ones(layers):
    stack = LayerStack(layers)
    assert len(stack) == T
    assert sum(p.numel() for p in stack.parameters()) == sum(p.numel() for p in layers.parameters())
    assert all(p.shape[0] == T for p in stack.parameters())


def test_a_stack_of_one_keeps_no_second_copy_of_its_weights(layers, batches):
    features, z, y = batches[0]
    stack = LayerStack(layers[:1])
    torch.testing.assert_close(stack(features, z[:1])[0], layers[0](features, z[0]))
    assert all(p.device.type == "meta" for p in stack._template[0].parameters())


def test_a_loss_is_one_number_for_each_layer_and_sample(layers, batches):
    """Losses [T, 2, B] would be averaged without a word."""
    with pytest.raises(ValueError, match=r"each layer and sample, \[4, 16\], got \[4, 2, 16\]"):
        LayerStack(layers).loss_gradients(*batches[0], lambda outputs, y: readout_loss(outputs, y)[:, None].expand(-1, 2, -1))


def test_layers_that_drop_out_draw_each_their_own():
    """Dropout alone: what a layer leaves of its state differs from what the others do, in training."""

    class Drop(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.dropout = nn.Parameter(torch.ones(1)), nn.Dropout(0.5)

        def forward(self, features, z):
            return self.weight * self.dropout(z)

    torch.manual_seed(0)
    outputs = LayerStack([Drop(), Drop()])(torch.zeros(8, 1), torch.ones(2, 8, 20))
    assert set(outputs.unique().tolist()) == {0.0, 2.0} and not torch.equal(outputs[0], outputs[1])


def test_frozen_layers_are_no_stack(layers):
    """Their weights would be trained with the others, and written back."""
    layers[1].requires_grad_(False)
    said = "^a frozen layer cannot be stacked, it would be trained with the others: leave it out$"
    with pytest.raises(ValueError, match=said):
        LayerStack(layers)


# --- Who trains what ---


def test_layers_for_rank_share_all_layers_evenly():
    for num_layers in range(1, 12):
        for world_size in range(1, 15):
            shares = [layers_for_rank(num_layers, rank, world_size) for rank in range(world_size)]
            assert [t for share in shares for t in share] == list(range(1, num_layers + 1))
            sizes = [len(share) for share in shares]
            assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)
    for bad in [(0, 0, 1), (3, 2, 2), (3, -1, 2), (3, 0, 0)]:
        with pytest.raises(ValueError, match="rank < world_size"):
            layers_for_rank(*bad)


def test_errors(layers, batches):
    features, z, y = batches[0]
    stack = LayerStack(layers)
    for Stack in (LayerStack, MLPStack):
        for states in (z[:3], z[:1], z[0], z[:, :, None]):  # one state alone would be broadcast over the layers
            with pytest.raises(ValueError, match=rf"\[T, B, D\] with T = 4, got {re.escape(str(list(states.shape)))}$"):
                Stack(layers)(features, states)
    with pytest.raises(ValueError, match=r"\[T, B, D\] with T = 4, got \[3, 16, 3\]"):
        fit_layers(layers, [adam(layer.parameters()) for layer in layers], [(features, z[:3], y)], readout_loss)
    with pytest.raises(ValueError, match="^expected at least one layer, got none$"):
        LayerStack([])
    with pytest.raises(ValueError, match=r"^layers with buffers \(BatchNorm\) cannot be stacked: train them with fit_layers$"):
        LayerStack([nn.BatchNorm1d(3)])
    with pytest.raises(ValueError, match="0 layers, 0 optimizers"):
        fit_layers([], [], batches, readout_loss)
    with pytest.raises(ValueError, match="4 layers, 1 optimizers"):
        fit_layers(layers, [adam(layers.parameters())], batches, readout_loss)
    with pytest.raises(ValueError, match="^expected at least one batch, got none$"):
        fit_stack(stack, adam(stack.parameters()), [], readout_loss)
    with pytest.raises(ValueError, match="expected 4 layers, got 2"):
        stack.copy_to(layers[:2])


# --- What is refused, word by word ---


def test_the_first_loss_that_is_not_finite_is_named():
    assert check_finite(torch.zeros(3, 2)) is None
    losses = torch.zeros(4, 3)
    losses[2, 1] = losses[3, 0] = float("nan")
    with pytest.raises(Diverged) as error:
        check_finite(losses)
    assert (error.value.layer, error.value.batch) == (2, 3)
    assert str(error.value) == (
        "the loss of layer 2 is not finite at batch 3: lower the learning rate, or look for NaN in the data"
    )


@pytest.mark.parametrize("wrong", [1, 3])
def test_training_stops_where_a_loss_is_not_finite(wrong, layers, batches):
    """Both ways of training name the same layer and batch, and a pass without such a loss is none of it."""
    spoilt = [(x, z.clone(), y) for x, z, y in batches[:3]]
    spoilt[1][1][wrong - 1] = float("nan")
    both = copy.deepcopy(layers), copy.deepcopy(layers)
    with pytest.raises(Diverged) as one:
        fit_layers(both[0], [adam(layer.parameters()) for layer in both[0]], spoilt, readout_loss)
    stack = LayerStack(both[1])
    with pytest.raises(Diverged) as other:
        fit_stack(stack, adam(stack.parameters()), spoilt, readout_loss)
    assert (one.value.layer, one.value.batch) == (other.value.layer, other.value.batch) == (wrong, 2)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda a, b, c: check_distinct([a, b, a]),
            "layer 1 and layer 3 share weights: make each layer anew, the same ones cannot be trained apart",
        ),
        (lambda a, b, c: LayerStack([a, c]), "expected layers of one kind, Linear, got Sequential as layer 2"),
        (
            lambda a, b, c: LayerStack([a, nn.Linear(2, 5)]),
            "expected layers whose weights have the same names and shapes, got others in layer 2",
        ),
        (lambda a, b, c: layers_for_rank(10, 0.5, 2), "expected integers as layers, rank and world_size, got 10, 0.5, 2"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(call, message):
    with pytest.raises(ValueError) as error:
        call(nn.Linear(2, 3), nn.Linear(2, 3), nn.Sequential(nn.Linear(2, 3)))
    assert str(error.value) == message


def test_a_stack_answers_one_sample_and_refuses_none(layers, batches):
    (x, z, _), stack = batches[0], LayerStack(layers)
    assert stack(x[:1], z[:, :1]).shape[:2] == (T, 1)
    with pytest.raises(ValueError, match="^expected at least one sample and states z of shape"):
        stack(x[:0], z[:, :0])
