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


@pytest.mark.parametrize("learned", [False, True])
def test_written_out_backward_pass_gives_features_and_states_their_gradients(learned, layers, batches):
    """A trained encoder and learned embeddings get from ``MLPStack`` what automatic differentiation of the layers gives."""
    features, z, y = batches[0]
    weights = torch.randn(T, len(y), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = []
    for run in (MLPStack(layers), lambda f, s: torch.stack([layer(f, s[t]) for t, layer in enumerate(layers)])):
        leaves = [features.clone().requires_grad_(), z.clone().requires_grad_(learned)]
        (weights * readout_loss(run(*leaves), y)).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    if learned:
        torch.testing.assert_close(gradients[0][1], gradients[1][1])
    else:
        assert gradients[0][1] is None


def test_a_second_forward_pass_cannot_corrupt_the_first_ones_gradient(layers, batches):
    stack = MLPStack(layers)
    loss = readout_loss(stack(*batches[0][:2]), batches[0][2]).sum()
    stack(*batches[1][:2])
    with pytest.raises(RuntimeError, match="another forward pass"):
        loss.backward()
    loss = readout_loss(stack(*batches[0][:2]), batches[0][2]).sum()
    stack(batches[1][0][:3], batches[1][1][:, :3])  # another batch size has other memory
    with pytest.raises(RuntimeError, match="another forward pass"):
        loss.backward()


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
    for Stack in (LayerStack, MLPStack):
        with pytest.raises(ValueError, match="expected 4 layers, got 2"):
            Stack(layers).copy_to(layers[:2])
        with pytest.raises(ValueError, match="at least one layer"):
            Stack([])
