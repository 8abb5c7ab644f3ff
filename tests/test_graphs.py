"""Recorded steps: what the recording does around the kernels, on any machine; the kernels themselves, on a GPU."""

import functools

import pytest
import torch

from noprop_helpers import training
from noprop_helpers.graphs import ReplayedSteps
from noprop_helpers.training import fit, paper_ct, paper_dt

on_a_cpu = functools.partial(ReplayedSteps, record=lambda work: work, warm_up=lambda work: work())
needs_a_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="CUDA graphs need a CUDA GPU; this machine has none"
)


def small_data(device="cpu"):
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (70,), generator=g)
    images = torch.rand(70, 1, 8, 8, generator=g) + labels[:, None, None, None]
    return images.to(device), labels.to(device)


def test_steps_are_warmed_up_then_recorded_once_and_see_every_batch():
    seen, recorded = [], []

    def record(work):
        recorded.append(work)
        return work

    steps = ReplayedSteps(lambda t, x, y: seen.append((t, x.clone(), y.clone())), record, lambda work: work())
    batches = [(torch.full((4, 2), float(i)), torch.full((4,), i)) for i in range(6)] + [
        (torch.ones(1, 2), torch.ones(1))
    ]
    for t in (1, 2):
        for x, y in batches:
            steps(t, x, y)
    assert len(recorded) == 2  # one for each layer
    assert [t for t, _, _ in seen] == [1] * 7 + [2] * 7
    for (_, x, y), (expected_x, expected_y) in zip(seen, 2 * batches, strict=True):
        assert torch.equal(x, expected_x) and torch.equal(y, expected_y)


@pytest.mark.parametrize("order", ["layer", "interleaved"])
@pytest.mark.parametrize("build", [functools.partial(paper_dt, num_steps=2), paper_ct])
def test_training_with_recorded_steps_is_the_same(build, order, monkeypatch):
    """Everything but the GPU: 70 images make four full batches and a short one, so both kinds of step occur."""
    monkeypatch.setattr(training, "ReplayedSteps", on_a_cpu)
    monkeypatch.setattr(training, "_check_graphs", lambda *arguments: None)
    states = trained_both_ways(build, order, *small_data())
    for a, b in zip(*states):
        assert torch.equal(a, b)


@needs_a_gpu
@pytest.mark.parametrize("build", [functools.partial(paper_dt, num_steps=2), paper_ct])
def test_training_with_cuda_graphs_is_the_same(build):
    """The same kernels on the same draws; 1e-3 allows for another choice of algorithm while recording."""
    states = trained_both_ways(build, "layer", *small_data("cuda"))
    for a, b in zip(*states):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def trained_both_ways(build, order, images, labels):
    states = []
    for cuda_graphs in (False, True):
        torch.manual_seed(0)
        settings = build(images.cpu(), torch.eye(3))._asdict() | {"epochs": 2, "batch_size": 16, "order": order}
        model = settings.pop("model").to(images.device)
        before = [value.clone() for value in model.state_dict().values()]
        generator = torch.Generator(images.device).manual_seed(1)
        fit(model, images, labels, **settings, cuda_graphs=cuda_graphs, generator=generator)
        states.append(list(model.state_dict().values()))
        assert any(not torch.equal(a, b) for a, b in zip(before, states[-1]))
    return states


def test_where_graphs_cannot_be_recorded_fit_says_so(monkeypatch):
    images, labels = small_data()
    recipe = paper_dt(images, torch.eye(3), 2)
    with pytest.raises(ValueError, match="cuda_graphs needs model and images on a CUDA GPU, got images on cpu"):
        fit(recipe.model, images, labels, epochs=1, order="layer", cuda_graphs=True)

    class OnGPU:
        device = torch.device("cuda")

    for order, one_cycle in (("together", False), ("layer", True)):
        with pytest.raises(ValueError, match="a frozen encoder and a constant learning rate"):
            training._check_graphs(recipe.model, OnGPU, order, one_cycle)
