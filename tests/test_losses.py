import re

import pytest
import torch

from noprop_helpers import losses
from noprop_helpers.losses import (
    ct_loss,
    dt_loss,
    fm_loss,
    readout_loss,
    readout_loss_gradient,
    squared_error,
    squared_error_gradient,
)
from noprop_helpers.schedules import cosine_alpha_bar, snr_weights


def test_squared_error_is_the_notebooks_mse():
    u_hat, u = torch.randn(2, 6, 4)
    assert squared_error(u_hat, u).shape == (6,)
    torch.testing.assert_close(squared_error(u_hat, u).mean(), torch.nn.functional.mse_loss(u_hat, u))


def test_squared_error_of_the_dry_run():
    """Eq. (3.1): the mean over three classes of (0.9 - 1)^2, (0.1 - 0)^2 and 0 is 0.02 / 3."""
    answer, u = torch.tensor([[0.9, 0.1, 0.0]], dtype=torch.float64), torch.tensor([[1.0, 0, 0]], dtype=torch.float64)
    assert squared_error(answer, u).item() == pytest.approx(0.02 / 3)


def test_dt_loss_is_equation_8():
    num_steps, eta = 10, 0.1
    weights = snr_weights(cosine_alpha_bar(num_steps))
    u_hat, u = torch.randn(num_steps, 6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    stacked = dt_loss(u_hat, u, weights, num_steps, eta)
    for t in range(1, num_steps + 1):
        for i in range(6):
            by_hand = num_steps / 2 * eta * weights[t - 1] * ((u_hat[t - 1, i] - u[i]) ** 2).sum()
            torch.testing.assert_close(stacked[t - 1, i], by_hand)
    torch.testing.assert_close(dt_loss(u_hat[2], u, float(weights[2]), num_steps, eta), stacked[2])


def test_small_losses_of_coarse_scores_are_not_rounded_away():
    scores = torch.tensor([[8.0, 0.0, 1.0]], dtype=torch.bfloat16)
    loss = readout_loss(scores, torch.tensor([0]))
    assert loss.dtype == torch.float32 and readout_loss(scores.double(), torch.tensor([0])).dtype == torch.float64
    torch.testing.assert_close(loss, readout_loss(scores.float(), torch.tensor([0])), rtol=0, atol=0)
    assert 1e-3 < loss.item() < 2e-3  # log(1 + e^-7 + e^-8), of which bfloat16 can say 8 bits


def test_readout_loss_is_cross_entropy():
    """Eq. (3.2)."""
    logits, labels = torch.randn(3, 6, 5), torch.randint(5, (6,))
    expected = torch.stack([torch.nn.functional.cross_entropy(one, labels, reduction="none") for one in logits])
    torch.testing.assert_close(readout_loss(logits, labels), expected)
    torch.testing.assert_close(readout_loss(logits[0], labels), expected[0])


@pytest.mark.parametrize(
    "loss, gradient, target",
    [
        (readout_loss, readout_loss_gradient, torch.tensor([1, 4, 0, 1])),
        (squared_error, squared_error_gradient, torch.randn(4, 5, dtype=torch.float64)),
    ],
)
def test_gradients_in_closed_form_are_those_of_differentiation(loss, gradient, target):
    for shape in ((4, 5), (3, 4, 5)):
        outputs = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad(loss(outputs, target).sum(), outputs)
        torch.testing.assert_close(gradient(outputs, target), expected)


def test_losses_of_stacked_layers_do_not_mix():
    """The gradient of layer 1's loss with respect to layer 2's output is zero."""
    outputs = torch.randn(2, 4, 3, requires_grad=True)
    readout_loss(outputs, torch.tensor([0, 1, 2, 0]))[0].sum().backward()
    assert outputs.grad[0].abs().sum() > 0 and (outputs.grad[1] == 0).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: squared_error(torch.ones(4, 3), torch.ones(4, 1)), r"^u_hat must .* \[4, 1\], got \[4, 3\]"),
        (lambda: squared_error(torch.ones(4), torch.ones(4)), "target's shape"),
        (lambda: dt_loss(torch.ones(4, 3), torch.ones(3, 3), 1.0, 10), r"^u_hat must .* \[3, 3\], got \[4, 3\]"),
        (lambda: dt_loss(torch.ones(2, 4, 3), torch.ones(4, 3), torch.ones(4), 10), r"snr_weight .* \[4\]"),
        (lambda: dt_loss(torch.ones(2, 2, 4, 3), torch.ones(4, 3), torch.ones(2), 10), r"snr_weight .* \[2\] for \[2, 2, 4, 3\]"),
        (lambda: ct_loss(torch.ones(4, 3), torch.ones(4, 1), torch.ones(4)), r"^u_hat must .* \[4, 1\], got \[4, 3\]"),
        (lambda: ct_loss(torch.ones(4, 3), torch.ones(4, 3), torch.ones(3)), r"shape \[4\].*got \[3\]"),
        (lambda: fm_loss(torch.ones(4, 3), torch.ones(4, 1)), r"^v_hat must .* \[4, 1\], got \[4, 3\]"),
        (lambda: readout_loss(torch.ones(4, 3), torch.ones(4, 1, dtype=torch.int64)), r"labels \[B\], got \[4, 3\], \[4, 1\]"),
        (lambda: readout_loss(torch.ones(4), torch.ones(4, dtype=torch.int64)), r"logits \[..., B, K\] .* got \[4\], \[4\]"),
        (lambda: readout_loss(torch.ones(4, 3), torch.ones(3, dtype=torch.int64)), r"\[4, 3\], \[3\]"),
        (lambda: readout_loss_gradient(torch.ones(4, 3), torch.ones(3, dtype=torch.int64)), r"\[4, 3\], \[3\]"),
        (lambda: squared_error_gradient(torch.ones(4, 3), torch.ones(4, 1)), r"^u_hat must .* \[4, 1\], got \[4, 3\]"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("loss", [readout_loss, readout_loss_gradient])
@pytest.mark.parametrize("labels, wrong", [([3, 0, 1, 2], 3), ([-1, 0, 1, 2], -1), ([0, 5, 1, -2], -2), ([0, 0, 0, 3], 3)])
def test_a_label_that_is_no_class_is_named(loss, labels, wrong):
    with pytest.raises(ValueError, match=f"^expected labels in 0..2, got {wrong}$"):
        loss(torch.zeros(2, 4, 3), torch.tensor(labels))


def test_classes_are_not_blamed_for_what_else_went_wrong():
    assert losses._check_classes(torch.zeros(4, 3), torch.tensor([0, 0, 1, 2])) is None
    assert losses._check_classes(torch.zeros(4, 3), torch.tensor([1, 1, 1, 1])) is None


@pytest.mark.parametrize("loss", [readout_loss, readout_loss_gradient])
def test_labels_of_another_type_are_refused(loss):
    with pytest.raises(ValueError, match="^expected labels of type int64, got torch.int32$"):
        loss(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int32))


def test_an_embedding_of_one_dimension_has_a_loss_and_one_of_none_has_not():
    assert squared_error(torch.ones(4, 1), torch.zeros(4, 1)).tolist() == [1.0] * 4
    with pytest.raises(ValueError, match="target's shape"):
        squared_error(torch.ones(4, 0), torch.zeros(4, 0))
    with pytest.raises(ValueError, match="^snr_weight must be a number or a tensor, got 'large'$"):
        dt_loss(torch.ones(4, 3), torch.ones(4, 3), "large", 10)


def test_gradient_step_of_each_loss_against_its_formula():
    """d loss / d output, derived by hand, for every loss."""
    g = torch.Generator().manual_seed(0)
    out = torch.randn(6, 4, generator=g, dtype=torch.float64, requires_grad=True)
    u, rate = torch.randn(6, 4, generator=g, dtype=torch.float64), torch.rand(6, generator=g, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    difference = out.detach() - u
    for loss, gradient in [
        (squared_error(out, u), difference / 2),  # 2 / D with D = 4
        (dt_loss(out, u, 3.0, num_steps=10, eta=0.1), 10 * 0.1 * 3.0 * difference),
        (ct_loss(out, u, rate, eta=0.5), 0.5 * rate[:, None] * difference),
        (fm_loss(out, u), 2 * difference),
        (readout_loss(out, labels), out.detach().softmax(1) - torch.eye(4, dtype=torch.float64)[labels]),
    ]:
        stepped = torch.autograd.grad(loss.sum(), out)[0]
        torch.testing.assert_close(stepped, gradient)


def test_the_last_dimension_is_summed_and_counted_however_many_come_before():
    """Against plain sums, for layers in a grid, [2, 3, B, D], too."""
    u_hat, u = torch.randn(2, 3, 5, 4), torch.randn(5, 4)
    sums = torch.stack([torch.stack([((one - u) ** 2).sum(1) for one in row]) for row in u_hat])
    torch.testing.assert_close(squared_error(u_hat, u), sums / 4)
    torch.testing.assert_close(fm_loss(u_hat, u), sums)
    torch.testing.assert_close(dt_loss(u_hat, u, 2.0, num_steps=10, eta=0.1), sums)
    torch.testing.assert_close(ct_loss(u_hat, u, torch.full((5,), 2.0)), sums)
    torch.testing.assert_close(squared_error_gradient(u_hat, u), (u_hat - u) / 2)


@pytest.mark.parametrize("num_steps, eta", [(0, 0.1), (0.5, 0.1), (10, -0.1), (10, float("inf")), (10, float("nan")), (0, -1)])
def test_a_number_of_steps_and_a_factor_that_are_none(num_steps, eta):
    said = re.escape(f"num_steps of at least 1 and a finite eta of at least 0, got {num_steps!r} and {eta!r}")
    with pytest.raises(ValueError, match=f"^expected {said}$"):
        dt_loss(torch.ones(4, 3), torch.ones(4, 3), 1.0, num_steps, eta)


def test_one_step_and_a_factor_of_nothing_are_fine():
    u_hat, u = torch.ones(4, 3), torch.zeros(4, 3)
    assert dt_loss(u_hat, u, 2.0, num_steps=1, eta=1.0).tolist() == [3.0] * 4
    assert dt_loss(u_hat, u, 2.0, num_steps=1, eta=0.0).tolist() == [0.0] * 4


@pytest.mark.parametrize("rate, said", [(3.0, "3.0"), ("fast", "'fast'"), (torch.ones(3), r"\[3\]"), (torch.ones(4, 1), r"\[4, 1\]")])
def test_a_rate_for_each_sample_or_none(rate, said):
    with pytest.raises(ValueError, match=rf"^snr_rate must have shape \[4\], one rate per sample, got {said}$"):
        ct_loss(torch.ones(4, 3), torch.ones(4, 3), rate)


def test_what_eta_is_where_nobody_says():
    """The paper's values: 0.1 in discrete time, 1 in continuous time."""
    u_hat, u, rate = torch.randn(3, 4), torch.randn(3, 4), torch.rand(3)
    assert torch.equal(dt_loss(u_hat, u, 3.0, 10), dt_loss(u_hat, u, 3.0, 10, eta=0.1))
    assert torch.equal(ct_loss(u_hat, u, rate), ct_loss(u_hat, u, rate, eta=1.0))


def test_losses_are_of_the_outputs_type_and_where_the_outputs_are():
    """Weights of the schedule are float64 on the CPU; what comes out follows the model."""
    weights = snr_weights(cosine_alpha_bar(2))
    for where in ({"dtype": torch.float32}, {"dtype": torch.float64}, {"device": "meta"}):
        u_hat, u = torch.zeros(2, 4, 3, **where), torch.zeros(4, 3, **where)
        losses = dt_loss(u_hat, u, weights, num_steps=2)
        assert (losses.shape, losses.dtype, losses.device) == ((2, 4), u.dtype, u.device)
    for dtype in (torch.float32, torch.float64):
        assert readout_loss_gradient(torch.zeros(4, 3, dtype=dtype), torch.zeros(4, dtype=torch.int64)).dtype == dtype


def test_a_gradient_for_classes_that_no_label_of_the_batch_has():
    torch.testing.assert_close(readout_loss_gradient(torch.zeros(1, 4), torch.tensor([1])), torch.tensor([[0.25, -0.75, 0.25, 0.25]]))
