"""Large blocks beside their opponents: who learns what, and what is said of one view and of two."""

import pytest
import torch
from conftest import generator, some_of
from torch import nn

from noprop_helpers import checkpoints, runs
from noprop_helpers.lab.residual_blocks import chain_and_tops, run_blocks, says, walked
from noprop_helpers.passes import encode_images
from noprop_helpers.runs import plan
from noprop_helpers.schedules import cosine_alpha_bar, posterior_coefficients
from noprop_helpers.training import Keeper


@pytest.fixture
def planned(digits):
    def of(T, **changes):
        data = some_of(digits, 120, 40)
        return plan(data, "residual", {"num_steps": str(T), "width": "2", "epochs": "1", "batch_size": "40"} | changes), data

    return of


@pytest.mark.parametrize("T", [1, 2, 3])
def test_the_model_has_the_chain_and_as_many_tops(planned, T):
    chain, both = chain_and_tops(*planned(T))
    assert (chain.num_layers, both.num_layers) == (T, 2 * T - 1)
    assert list(both.layers[:T]) == list(chain.layers) and both.encoder is chain.encoder and both.W is chain.W
    torch.testing.assert_close(chain.alpha_bar, cosine_alpha_bar(T).double())
    assert both.alpha_bar[T:].tolist() == [chain.alpha_bar[-1].item()] * T  # the top's level, T times


def test_a_chain_beside_its_opponents_learns_as_it_does_alone(planned, tmp_path):
    """To the same bits."""
    run, data = planned(2)
    run_blocks(run, data, keeper=Keeper(tmp_path / "both.checkpoint"))
    both, alone = checkpoints.load(tmp_path / "both.checkpoint")["state"], runs.run(run, data).model.state_dict()
    assert len(both) > len(alone) and all(torch.equal(both[name], alone[name]) for name in alone)


def test_what_is_said_and_how_often_it_is_right(planned):
    run, data = planned(2)
    results, said = run_blocks(run, data)
    assert torch.tensor(results["loss_by_epoch"]).shape == (1, 3)
    assert said.keys() == {
        f"{views}/{way}"
        for views in ("one_view", "two_views")
        for way in ("chain", "chain_with_noise", "top", "ensemble_of_tops", "mean_of_layers")
    }
    for name, classes in said.items():
        views, way = name.split("/")
        right = (classes == data.test_labels).double().mean().item()
        assert results[views][way]["accuracy"] == pytest.approx(right)
    assert results["test_accuracy"] == results["one_view"]["chain"]["accuracy"]


def test_one_block_is_its_own_chain_and_ensemble(planned):
    results, said = run_blocks(*planned(1))
    for way in ("ensemble_of_tops", "mean_of_layers"):
        assert torch.equal(said[f"one_view/{way}"], said["one_view/top"])
        assert results["two_views"][way]["nll"] == pytest.approx(results["two_views"]["top"]["nll"])


def test_a_recording_that_was_broken_off_goes_on_with_its_opponents(planned, tmp_path):
    run, data = planned(2, epochs="2")
    whole, _ = run_blocks(run, data)
    path = tmp_path / "a.checkpoint"

    class Killed(Exception):
        pass

    def killing(steps, description):
        if description == "epoch 2/2":
            raise Killed
        return steps

    with pytest.raises(Killed):
        run_blocks(run, data, keeper=Keeper(path), progress=killing)
    resumed, _ = run_blocks(run, data, keeper=Keeper(path, resume=True))
    assert {**resumed, "train_seconds": 0} == {**whole, "train_seconds": 0}


class Told(nn.Module):
    """A layer that says what stands in the features, and adds the state."""

    def forward(self, features, z):
        return features.flatten(1) + z


def test_two_views_are_the_mean_of_both_probabilities(planned):
    chain, _ = chain_and_tops(*planned(2))
    chain.encoder, chain.layers = nn.Identity(), nn.ModuleList([Told(), Told()])
    images, z = torch.randn(450, 1, 1, 10), torch.randn(450, 10)
    expected = ((images.flatten(1) + z).softmax(1) + (images.flip(3).flatten(1) + z).softmax(1)) / 2
    torch.testing.assert_close(says(chain, 2, (images, images.flip(3)), z).exp().float(), expected)
    torch.testing.assert_close(says(chain, 1, (images,), z).exp().float(), (images.flatten(1) + z).softmax(1))


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_walk_is_the_posteriors(planned, scale):
    chain, _ = chain_and_tops(*planned(2))
    chain.encoder, chain.layers = nn.Identity(), nn.ModuleList([Told(), Told()])
    images = torch.randn(30, 1, 1, 10)
    a, b, c = posterior_coefficients(cosine_alpha_bar(2))
    draws = generator(5)
    z_2 = torch.randn(30, 10, generator=draws)
    z_1 = a[1] * (images.flatten(1) + z_2).softmax(1) + b[1] * z_2
    if scale:
        z_1 = z_1 + c[1] ** 0.5 * torch.randn(30, 10, generator=draws)
    expected = (images.flatten(1) + z_1).log_softmax(1)
    torch.testing.assert_close(walked(chain, (images,), scale, generator(5)), expected, check_dtype=False, atol=1e-5, rtol=1e-5)


def test_a_walk_of_one_view_ends_as_prediction_does(planned):
    """The study's own walk against the model's, from the same noise."""
    run, data = planned(2)
    chain, _ = chain_and_tops(run, data)
    run.model.prepare(chain, data.train_images, data.train_labels, generator())
    chain.eval()
    assert encode_images(chain.encoder, data.test_images).shape[0] == 40
    said = walked(chain, (data.test_images,), 0.0, generator(3)).argmax(1)
    assert torch.equal(said, chain.predict(data.test_images, generator(3), noise=False))
