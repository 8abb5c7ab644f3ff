"""Recorded steps: what the recording does around the kernels, on any machine; the kernels themselves, on a GPU."""

import dataclasses
import functools
import itertools
import types

import pytest
import torch
from conftest import K, built, states_equal
from torch import Tensor

from noprop_helpers import NoPropError
from noprop_helpers.graphs import ReplayedSteps, cuda_graph, on_side_stream
from noprop_helpers.lab.bench_gpu import apart, weights
from noprop_helpers.passes import InTurn, Model
from noprop_helpers.recipes import EMBEDDINGS
from noprop_helpers.settings import Settings
from noprop_helpers.training import fit

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA GPU; this machine has none")
every_model = pytest.mark.parametrize(
    "variant, embedding", list(itertools.product(("dt", "ct", "fm", "backprop"), EMBEDDINGS))
)  # fmt: skip

# 70 images make four full batches, of which a replay has to see the fourth, and a short one that is never recorded.
NUM_IMAGES, BATCH_SIZE = 70, 16
# On a GPU two runs of one program need not add up in one order, and where a gradient is nothing but rounding, as that of a
# bias before BatchNorm, Adam makes a full step of it. With steps as short as these neither is carried on; what remains of
# it in losses, and in weights as a share of the way that these go, is far below what another batch or other noise makes.
SHORT_STEPS = 1e-5
ROUNDING = {"float32": (1e-3, 0.12), "bfloat16": (1e-2, 0.4)}


@pytest.fixture
def data(digits) -> tuple[Tensor, Tensor]:
    return digits.train_images[:NUM_IMAGES], digits.train_labels[:NUM_IMAGES]


def small(variant: str, embedding: str, images: Tensor, labels: Tensor, device: str = "cpu") -> Model:
    """A paper's model with two steps, on the device."""
    return built(f"paper-{variant}", images, labels, K, num_steps=2, embedding=embedding).to(device)


def settings_of(order: str = "layer", precision: str = "float32") -> Settings:
    how = {"optimizer": "adamw", "weight_decay": 1e-3, "learning_rate": SHORT_STEPS, "seed": 3}
    return Settings(epochs=4, batch_size=BATCH_SIZE, order=order, precision=precision, **how)


def same(start: Tensor, ends: tuple[Model, Model], losses: tuple[Tensor, Tensor], precision: str) -> bool:
    """Whether two trainings of one start are one but for rounding."""
    of_losses, of_weights = ROUNDING[precision]
    alike = torch.allclose(*losses, rtol=of_losses, atol=0.0)
    return alike and apart(start, *map(weights, ends)) < of_weights


def trained(model: Model, images: Tensor, labels: Tensor, settings: Settings, replayed=None) -> Tensor:
    """Train in turn, as ``fit`` does, each step ``replayed``: -> losses [epochs, layers]."""
    one_pass = InTurn(model, images, labels, settings)
    if replayed is not None:
        one_pass.step = replayed(one_pass.step)
    losses = []
    for epoch in range(1, settings.epochs + 1):
        model.train()
        losses.append(one_pass(epoch))
        model.eval()
    return torch.stack(losses)


# --- On any machine ---

STAND_INS = {"record": lambda work: work, "warm_up": lambda work: work()}


def test_steps_are_warmed_up_then_recorded_once_and_see_every_batch():
    seen, recorded, warm = [], [], []

    def record(work):
        recorded.append(work)
        return work

    def warm_up(work):
        warm.append(work)
        return work()

    steps = ReplayedSteps(lambda t, x, y: seen.append((t, x.clone(), y.clone())), record, warm_up)
    batches = [(torch.full((4, 2), float(i)), torch.full((4,), i)) for i in range(6)] + [(torch.ones(1, 2), torch.ones(1))]
    for t in (1, 2):
        for x, y in batches:
            steps(t, x, y)
    assert len(recorded) == 2 and len(warm) == 2 * ReplayedSteps.warmup  # for each layer
    assert [t for t, _, _ in seen] == [1] * 7 + [2] * 7
    for (_, x, y), (expected_x, expected_y) in zip(seen, 2 * batches, strict=True):
        assert torch.equal(x, expected_x) and torch.equal(y, expected_y)


def test_a_replay_reads_the_same_memory_every_time():
    """A graph knows addresses, not names."""
    places = []
    steps = ReplayedSteps(lambda t, x, y: places.append((x.data_ptr(), y.data_ptr())), **STAND_INS)
    kept = [(torch.rand(4, 2), torch.rand(4)) for _ in range(8)]
    for t in (1, 2):
        for x, y in kept:
            steps(t, x, y)
    replays = [places[i] for t in (0, 8) for i in range(t + ReplayedSteps.warmup, t + 8)]
    assert len(set(replays)) == 1 and replays[0] not in [(x.data_ptr(), y.data_ptr()) for x, y in kept]


@pytest.mark.slow
@every_model
@pytest.mark.parametrize("order", ["layer", "interleaved"])
def test_training_with_recorded_steps_is_the_same(variant, embedding, order, data):
    """Everything but the GPU."""
    plain, replayed = small(variant, embedding, *data), small(variant, embedding, *data)
    start = weights(plain)
    losses = trained(plain, *data, settings_of(order))
    again = trained(replayed, *data, settings_of(order), functools.partial(ReplayedSteps, **STAND_INS))
    assert torch.equal(losses, again) and states_equal(plain, replayed)
    assert not torch.equal(weights(plain), start)


class Stale(ReplayedSteps):
    """A recording that goes on with the batch that it was made with."""

    def __call__(self, t, x, y):
        if t in self.replays:
            x, y = self.x.clone(), self.y.clone()
        return super().__call__(t, x, y)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["dt", "ct", "fm", "backprop"])
@pytest.mark.parametrize("fault", ["none", "a batch seen again", "other noise"])
def test_what_counts_as_the_same_on_a_gpu_could_fail(variant, fault, data):
    plain, other = (small(variant, "one_hot", *data) for _ in range(2))
    start, settings = weights(plain), settings_of()
    replayed = functools.partial(Stale if fault == "a batch seen again" else ReplayedSteps, **STAND_INS)
    losses = trained(plain, *data, settings)
    changed = dataclasses.replace(settings, seed=4) if fault == "other noise" else settings
    again = trained(other, *data, changed, replayed)
    assert same(start, (plain, other), (losses, again), "float32") == (fault == "none")


@pytest.mark.whole
def test_on_a_cpu_the_setting_changes_nothing(data):
    plain, asked = small("dt", "one_hot", *data), small("dt", "one_hot", *data)
    fit(plain, *data, settings_of())
    fit(asked, *data, dataclasses.replace(settings_of(), cuda_graphs=True))
    assert states_equal(plain, asked)


@pytest.mark.parametrize("obstacle", ["a trained encoder", "one cycle"])
def test_where_graphs_cannot_be_recorded_fit_says_so(obstacle, data):
    model = small("dt", "one_hot", *data)
    model.train_encoder = obstacle == "a trained encoder"
    settings = dataclasses.replace(settings_of(), cuda_graphs=True, one_cycle=obstacle == "one cycle")
    on_a_gpu = types.SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(NoPropError, match="a frozen encoder and a constant learning rate"):
        InTurn(model, on_a_gpu, data[1], settings)


# --- On a GPU ---


@needs_a_gpu
@every_model
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_with_cuda_graphs_is_the_same(variant, embedding, precision, data):
    """The same kernels on the same draws, and so the same losses and weights, but for rounding."""
    plain, graphed = (small(variant, embedding, *data, "cuda") for _ in range(2))
    on_the_gpu = [values.to("cuda") for values in data]
    start, settings = weights(plain), settings_of(precision=precision)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        losses = fit(plain, *on_the_gpu, settings)
        again = fit(graphed, *on_the_gpu, dataclasses.replace(settings, cuda_graphs=True))
    assert same(start, (plain, graphed), (losses, again), precision)


@needs_a_gpu
def test_a_cuda_graph_runs_again_with_new_draws_from_the_seed():
    values = torch.zeros(5, device="cuda")

    def work():
        return values.add_(1) + torch.rand(5, device="cuda")

    for _ in range(3):
        on_side_stream(work)
    replay = cuda_graph(work)
    results = []
    for seed in (0, 1, 0):
        torch.cuda.manual_seed(seed)
        results.append(replay().clone() - values)
    assert values.tolist() == [6.0] * 5  # three to warm up, three replays; the recording itself runs nothing
    assert not torch.equal(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])
