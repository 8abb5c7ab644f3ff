"""What the layers add: the perfect chain of chapter 6, and the measures its recordings use."""

import math

import pytest
import torch
from conftest import generator, some_of
from torch import nn

from noprop_helpers.blocks import DenoisingMLP
from noprop_helpers.diffusion import q_sample
from noprop_helpers.lab.chain import Chain, calibration, ideal_walk, run_layers, share_drawn, top_level_copies
from noprop_helpers.noprop import NoPropDT
from noprop_helpers.samplers import sample_posterior
from noprop_helpers.schedules import cosine_alpha_bar, posterior_coefficients

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
W = torch.eye(3, dtype=torch.float64)


def belief(z, alpha_bar):
    distance = (z[:, None] - alpha_bar**0.5 * W).square().sum(2)
    return (P.log() - distance / (2 * (1 - alpha_bar))).softmax(1)


def test_belief_of_a_perfect_layer_is_bayes_rule():
    """Eqs. (6.1), (6.2): of many noised labels, those that look alike have the label with the stated probability; and
    the mean embedding under it has a smaller squared error than any scaled or shifted guess."""
    alpha_bar, N = 0.3, 400_000
    labels = torch.multinomial(P, N, replacement=True, generator=generator())
    noise = torch.randn(N, 3, dtype=torch.float64, generator=generator(1))
    z = q_sample(W[labels], alpha_bar, noise)
    said = belief(z, alpha_bar)
    for k in range(3):
        for low in (0.1, 0.3, 0.5, 0.7):
            alike = (said[:, k] >= low) & (said[:, k] < low + 0.1)
            expected, n = said[alike, k].mean().item(), int(alike.sum())
            assert (labels[alike] == k).double().mean().item() == pytest.approx(expected, abs=5 * (0.25 / n) ** 0.5)
    error = (said @ W - W[labels]).square().sum(1).mean()
    for other in (0.9 * said @ W, 1.1 * said @ W, said @ W + 0.05):
        assert (other - W[labels]).square().sum(1).mean() > error


@pytest.mark.slow
def test_a_perfect_chain_draws_and_without_noise_it_answers():
    """Eq. (6.3): with many layers the walk ends at class k with probability p_k, so it is right with sum p_k^2."""
    alpha_bar, N = cosine_alpha_bar(200), 20_000
    a, b, c = posterior_coefficients(alpha_bar)

    def shares(scale):
        z = torch.randn(N, 3, dtype=torch.float64, generator=generator())
        z = sample_posterior(lambda t, z: belief(z, alpha_bar[t]) @ W, z, a, b, scale * c, generator(1))
        return z.argmax(1).bincount(minlength=3) / N

    # 5 standard errors, and a little for the 200 steps
    assert (shares(1.0) - P).abs().max() < 5 * (0.25 / N) ** 0.5 + 0.01
    assert shares(0.0)[0] == 1
    labels = torch.multinomial(P, N, replacement=True, generator=generator(2))
    drawn = share_drawn(P.log().expand(N, 3), labels)
    assert drawn == pytest.approx(P.square().sum().item(), abs=0.01) and drawn < P.max()


def test_calibration_by_hand():
    probabilities = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.35, 0.65], [0.95, 0.05]], dtype=torch.float64)
    value = calibration(probabilities.log(), torch.tensor([0, 1, 1, 0]))
    assert value["accuracy"] == 0.75
    assert value["nll"] == pytest.approx(-(math.log(0.8) + math.log(0.2) + math.log(0.65) + math.log(0.95)) / 4)
    # bins: .8 twice, right once; .65, right; .95, right
    assert value["ece"] == pytest.approx(0.5 * 0.3 + 0.25 * 0.35 + 0.25 * 0.05)
    assert value["bins"]["share"][8] == 0.5 and value["bins"]["accuracy"][8] == 0.5


def test_an_honest_forecaster_is_calibrated():
    p = torch.rand(200_000, generator=generator(), dtype=torch.float64)
    labels = (torch.rand(len(p), generator=generator(1), dtype=torch.float64) < p).long()
    says = torch.stack([1 - p, p], 1).log()
    assert calibration(says, labels)["ece"] < 0.01
    boasts = torch.stack([1 - p, p], 1).pow(3)
    assert calibration((boasts / boasts.sum(1, keepdim=True)).log(), labels)["ece"] > 0.05


def test_chain_walks_as_predict_does():
    torch.manual_seed(0)
    features, labels = torch.rand(50, 6), torch.zeros(50, dtype=torch.int64)
    model = NoPropDT(nn.Flatten(), [DenoisingMLP(6, 3, 3) for _ in range(4)], torch.eye(3), cosine_alpha_bar(4)).eval()
    walked, _ = Chain(model, features, labels, generator(3)).walk()
    assert torch.equal(walked, model.predict(features[..., None, None], generator(3)))
    quiet, _ = Chain(model, features, labels, generator(3)).walk(0.0)
    assert torch.equal(quiet, model.predict(features[..., None, None], generator(3), noise=False))


def test_top_level_copies_all_see_the_top_layers_noise():
    copies = top_level_copies(3, cosine_alpha_bar(10))
    assert copies.tolist() == [cosine_alpha_bar(10)[0]] + 3 * [cosine_alpha_bar(10)[-1]]


@pytest.mark.slow
def test_the_recording_on_digits_holds_what_the_chapter_reads(digits):
    small = some_of(digits, 300, 100)
    results, said = run_layers(small, 0, epochs=5)
    assert set(results) == {
        "chain", "top", "layers_from_noise", "mean_of_layers", "ensemble_of_tops", "one_longer", "one_wider",
        "told_the_truth", "told_a_lie", "by_depth",
    }  # fmt: skip
    assert len(results["told_a_lie"]) == len(results["told_a_lie"][0]) == 10
    # Layers that have learned to look at both repeat a clean label more often where the image says the same.
    truth, lie = (sum(row[0] for row in results[told]) for told in ("told_the_truth", "told_a_lie"))
    assert truth > lie
    # Perfect layers of the same belief: what one top layer says, and the more of a draw from it the deeper the chain.
    assert all(set(depth) == {"chain", "top", "predicted"} for depth in results["by_depth"].values())
    assert results["by_depth"]["1"]["predicted"] == pytest.approx(results["top"]["accuracy"], abs=0.05)
    assert results["by_depth"]["20"]["predicted"] < results["by_depth"]["1"]["predicted"]
    # What was said of each image is what was counted.
    right = {name: (classes == small.test_labels).double().mean().item() for name, classes in said.items()}
    assert right["ensemble_of_tops"] == pytest.approx(results["ensemble_of_tops"]["accuracy"])
    assert right["quiet_chain"] == pytest.approx(results["chain"]["accuracy_by_noise_scale"]["0.0"])
    assert right["top"] == pytest.approx(results["top"]["accuracy"])


@pytest.mark.whole
def test_an_ideal_walk_ends_where_perfect_layers_send_it():
    """Of one step it is the likeliest class; of many a draw from the belief, image by image; without noise an answer."""
    beliefs = torch.stack([P, P.flip(0)]).log().repeat_interleave(4000, 0)  # [8000, 3]
    first = beliefs.argmax(1)
    assert torch.equal(ideal_walk(beliefs, W, cosine_alpha_bar(1), generator=generator()), first)
    drawn = ideal_walk(beliefs, W, cosine_alpha_bar(200), generator=generator())
    for part, p in ((drawn[:4000], P), (drawn[4000:], P.flip(0))):
        shares = part.bincount(minlength=3) / len(part)
        assert (shares - p).abs().max() < 0.03 + 5 * (0.25 / len(part)) ** 0.5
    quiet = ideal_walk(beliefs, W, cosine_alpha_bar(200), 0.0, generator())
    assert (quiet == first).double().mean() > 0.95


def test_looking_at_a_chain_leaves_its_mode_alone():
    model = NoPropDT(nn.Flatten(), [DenoisingMLP(6, 3, 3)], torch.eye(3), cosine_alpha_bar(1)).train()
    Chain(model, torch.rand(5, 6), torch.zeros(5, dtype=torch.int64), generator()).says(1)
    assert all(module.training for module in model.modules())
