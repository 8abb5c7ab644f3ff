import pytest
import torch
from torch import nn

from noprop_helpers.backprop import BackpropNet, NeuralODE
from noprop_helpers.blocks import ConvBlock, LinearReadout, TimedConvBlock
from noprop_helpers.noprop import NoPropDT, Propagated
from noprop_helpers.schedules import cosine_alpha_bar

SHAPE, K, T = (1, 8, 8), 4, 3


def net():
    torch.manual_seed(0)
    blocks = [ConvBlock(SHAPE, K, K) for _ in range(T)]
    return BackpropNet(blocks, torch.eye(K), LinearReadout(K, K)).eval()


def test_backprop_net_is_equations_17_to_19():
    model, images, z = net(), torch.rand(5, *SHAPE), torch.randn(5, K)
    model.mix.data = torch.tensor([0.2, -0.3, 1.5])
    state = z
    for t in (3, 2, 1):
        a = torch.tanh(torch.tensor([0.2, -0.3, 1.5][t - 1]))
        u_hat = model.blocks[t - 1](images, state).softmax(1) @ torch.eye(K)
        state = (1 - a) * state + a * u_hat
    torch.testing.assert_close(model(images, z), model.readout(state, torch.eye(K)))
    assert model.num_steps == len(model.blocks) == T


def test_every_block_gets_a_gradient_from_the_one_loss():
    model = Propagated(nn.Identity(), net().train())
    model.loss(torch.rand(6, *SHAPE), torch.tensor([0, 1, 2, 3, 0, 1])).backward()
    for block in model.net.blocks:
        assert all(p.grad.abs().sum() > 0 for p in block.fuse[-1].parameters())
    assert (model.net.mix.grad != 0).all() and not model.layer_local


def test_same_parameters_as_noprop_but_for_the_mixing_weights():
    blocks = [ConvBlock(SHAPE, K, K) for _ in range(T)]
    noprop = NoPropDT(
        nn.Identity(), blocks, torch.eye(K), cosine_alpha_bar(T), objective="elbo", readout=LinearReadout(K, K)
    )
    count = [sum(p.numel() for p in model.parameters()) for model in (net(), noprop)]
    assert count[0] == count[1] + T


@pytest.mark.whole
def test_neural_ode_by_hand_and_its_adjoint_gradient():
    """A few Euler steps written out; the adjoint's gradient tends to the gradient through the steps as they get small."""
    odeint = pytest.importorskip("torchdiffeq").odeint
    from torchdiffeq import odeint_adjoint

    torch.manual_seed(0)
    block, W, readout = TimedConvBlock(SHAPE, K, K).eval(), torch.eye(K), LinearReadout(K, K)
    images, z = torch.rand(5, *SHAPE), torch.randn(5, K)
    model = NeuralODE(block, W, readout, odeint, num_steps=4)
    state, features = z, block.encode(images)
    for t in (1.0, 0.75, 0.5, 0.25):
        state = state + 0.25 * block.head(features, state, torch.full((5,), t)) @ W
    torch.testing.assert_close(model(images, z), readout(state, W))

    gradients = {}
    for name, solver in (("through the steps", odeint), ("adjoint", odeint_adjoint)):
        block.zero_grad()
        NeuralODE(block, W, readout, solver, num_steps=200)(images, z).square().sum().backward()
        gradients[name] = torch.cat([p.grad.flatten() for p in block.parameters()])
        assert block.image_path[0][0].weight.grad.abs().sum() > 0  # the images' encoder is reached
    error = (gradients["adjoint"] - gradients["through the steps"]).norm() / gradients["adjoint"].norm()
    assert error < 0.02


def test_errors():
    with pytest.raises(ValueError, match="at least one block"):
        BackpropNet([], torch.eye(K), LinearReadout(K, K))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        NeuralODE(TimedConvBlock(SHAPE, K, K), torch.eye(K), LinearReadout(K, K), None, num_steps=0)
