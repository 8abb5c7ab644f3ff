"""The published notebook, re-implemented: the literal loop and the fast path are the same mathematics."""

import pytest
import torch
from conftest import some_of
from torch import nn

from noprop_helpers.blocks import ConvEncoder, DenoisingMLP
from noprop_helpers.diffusion import forward_chain
from noprop_helpers.embeddings import one_hot
from noprop_helpers.lab.audit import audit_steps, published_loop, run_audit, run_published_loop
from noprop_helpers.layerwise import LayerStack, fit_stack
from noprop_helpers.losses import squared_error
from noprop_helpers.schedules import linear_alphas

T, K = 10, 10


def build():
    torch.manual_seed(0)
    cnn = ConvEncoder((1, 12, 12), feature_dim=16).double()
    return cnn, nn.ModuleList(DenoisingMLP(16, K, K, hidden_dim=8) for _ in range(T)).double()


@pytest.mark.slow
def test_literal_loop_equals_frozen_features_and_a_stack():
    """Same chain, same batches: features computed once and T layers in one tensor give the loop's weights."""
    g = torch.Generator().manual_seed(1)
    batches = [(torch.rand(32, 1, 12, 12, generator=g).double(), torch.randint(K, (32,), generator=g)) for _ in range(4)]
    cnn, looped = build()
    frozen = {name: p.clone() for name, p in cnn.named_parameters()}
    optimizers = [torch.optim.Adam(mlp.parameters(), lr=1e-3) for mlp in looped]
    # one_hot gives float32, as in the notebook; the doubles are for a sharp comparison.
    torch.set_default_dtype(torch.float64)
    try:
        loss = published_loop(cnn, looped, optimizers, linear_alphas(T), batches, torch.Generator().manual_seed(2))
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(p, frozen[name]) for name, p in cnn.named_parameters())  # never trained ...
    assert all(p.grad is not None for p in cnn.parameters())  # ... yet its gradients were computed

    cnn, stacked = build()
    stack, g = LayerStack(stacked), torch.Generator().manual_seed(2)
    with torch.no_grad():
        cached = []
        for images, labels in batches:
            u = one_hot(labels, K)
            cached.append((cnn(images), forward_chain(u, linear_alphas(T), g)[1:].double(), u.double()))
    losses = fit_stack(stack, torch.optim.Adam(stack.parameters(), lr=1e-3), cached, squared_error)
    stack.copy_to(stacked)
    torch.testing.assert_close(torch.tensor(loss), losses.sum(), rtol=1e-6, atol=0, check_dtype=False)
    for a, b in zip(looped.parameters(), stacked.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_audit_steps_mend_one_thing_each():
    torch.manual_seed(0)
    steps = {step.key: step.model for step in audit_steps(torch.rand(50, 1, 28, 28), K)}
    first, *_, last = steps.values()
    assert first.alpha_bar[1] == 1 and not first.layer_local == last.layer_local
    assert steps["noisy_start"].alpha_bar[1] < 1
    # Re-noising levels: the steps' own alphas, then the levels that training used, then the posterior.
    alpha_bar = steps["matched"].alpha_bar
    torch.testing.assert_close(steps["noisy_start"].levels, alpha_bar[1:] / alpha_bar[:-1])
    torch.testing.assert_close(steps["matched"].levels, alpha_bar[:-1])
    assert steps["posterior"].levels is None
    features = steps["standardized"].encoder(torch.rand(50, 1, 28, 28))
    assert abs(features.mean()) < 0.2 and 0.5 < features.std() < 2
    assert [m.objective for m in steps.values()] == ["squared_error"] * 5 + ["cross_entropy"] * 3


@pytest.mark.slow
def test_the_audit_measures_every_step_as_it_goes(digits):
    results, said = run_audit(some_of(digits, 200, 60), 0)
    assert list(results) == list(said)
    for key, result in results.items():
        epochs = 50 if key == "published" else 10
        assert len(result["summed_loss_by_epoch"]) == epochs and len(result["layer_alone_accuracy"]) == 10
        # The last epoch is measured twice with the same noise, and what was said of each image is what was counted.
        assert result["test_accuracy_after_epoch"][str(epochs)] == result["test_accuracy"]
        right = (said[key] == digits.test_labels[:60]).double().mean().item()
        assert right == pytest.approx(result["test_accuracy"])


@pytest.mark.slow
def test_the_literal_loop_and_the_fast_path_learn_alike(digits):
    results, _ = run_published_loop(some_of(digits, 600, 60), 0)
    for epoch in range(2):
        assert results["fast"]["loss"][epoch] == pytest.approx(results["loop"]["loss"][epoch], rel=0.05)
    assert results["loop"]["loss"][1] < results["loop"]["loss"][0]
