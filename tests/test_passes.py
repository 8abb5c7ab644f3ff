import contextlib
import copy
import dataclasses
import functools
import math
import types

import pytest
import torch
from conftest import K, built, dropout_stack, generator, small_dt, small_stack, states_equal, unchanged
from torch import nn

from noprop_helpers import NoPropError, passes
from noprop_helpers.augment import crop_and_flip
from noprop_helpers.blocks import ConvEncoder, DenoisingMLP, LinearDenoiser
from noprop_helpers.layerwise import fit_layers
from noprop_helpers.noprop import NoPropDT
from noprop_helpers.passes import (
    Inputs,
    InTurn,
    Schedule,
    Solved,
    Together,
    check_batch_size,
    encode_images,
    forget_old_moments,
    layers_to_train,
    one_cycle,
    reseed,
    seed_of,
    seeded,
    shuffled,
    silent,
)
from noprop_helpers.schedules import cosine_alpha_bar
from noprop_helpers.settings import ORDERS, Settings
from noprop_helpers.training import fit

each_order = pytest.mark.parametrize("order", [order for order in ORDERS if order != "solved"])  # which trains nothing
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU")


def model_for(order, images, **options):
    """What can be trained in this order: a stack of perceptrons, or the paper's blocks."""
    return small_stack() if order == "together" else small_dt(images, **options)


# --- Draws ---


def test_seeded_draws_follow_from_the_seed_and_leave_no_trace():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(7):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    torch.manual_seed(99)
    with pytest.raises(KeyboardInterrupt), seeded(7):
        assert torch.equal(torch.rand(2), inside)
        raise KeyboardInterrupt
    torch.manual_seed(99)
    after = torch.rand(2)
    torch.manual_seed(99)
    with seeded(8):
        assert not torch.equal(torch.rand(2), inside)
    assert torch.equal(torch.rand(2), after)


def test_reseed_is_torchs_seed_on_the_cpu():
    torch.manual_seed(11)
    expected = torch.rand(2)
    reseed(11)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("order", ["layer", "together"])
def test_training_on_a_cpu_seeds_no_gpu(order, few_digits, monkeypatch):
    """``torch.manual_seed`` would: it seeds every device there is."""

    def refuse(seed):
        raise AssertionError("a GPU was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    with pytest.raises(AssertionError):
        torch.manual_seed(0)  # so that this test can fail
    monkeypatch.setattr(torch, "manual_seed", torch.default_generator.manual_seed)
    model = model_for(order, few_digits.train_images)
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    fit(model, few_digits.train_images, few_digits.train_labels, Settings(order=order))


def test_a_gpus_seed_is_set_on_this_gpu(monkeypatch):
    """Told to torch's own functions, which stand aside here: there need not be a GPU."""
    told = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: told.append(device) or contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "manual_seed", told.append)
    reseed(7, "cuda:1")
    assert told == ["cuda:1", 7]
    reseed(7, "cpu")
    assert len(told) == 2


def test_steps_are_replayed_on_a_gpu_where_asked_and_nowhere_else(few_digits, monkeypatch):
    """Images that say they are on a GPU: the optimizer must be one that a graph can hold, and nothing may change from step to
    step but the numbers."""
    monkeypatch.setattr(passes, "Inputs", lambda *arguments: None)
    there, here = types.SimpleNamespace(device=torch.device("cuda")), few_digits.train_images
    settings, labels = Settings(order="layer", cuda_graphs=True), few_digits.train_labels
    for images, graphs in ((there, True), (there, False), (here, True), (here, False)):
        one_pass = InTurn(small_stack(2), images, labels, dataclasses.replace(settings, cuda_graphs=graphs))
        replayed = images is there and graphs
        assert isinstance(one_pass.step, passes.ReplayedSteps) == replayed == one_pass.optimizer.param_groups[0]["capturable"]
        assert (one_pass.step.step if replayed else one_pass.step) == one_pass._step
    trained = built("shared", few_digits.train_images, labels, num_steps=2)
    for model, changes in ((trained, {}), (small_stack(2), {"one_cycle": True})):
        with pytest.raises(NoPropError, match="^cuda_graphs needs a frozen encoder and a constant learning rate$"):
            InTurn(model, there, labels, dataclasses.replace(settings, **changes))
        InTurn(model, here, labels, dataclasses.replace(settings, **changes))
    assert not passes.adam([nn.Parameter(torch.zeros(1))], Settings()).param_groups[0]["capturable"]


@needs_a_gpu
def test_seeding_leaves_other_devices_alone():
    """The CPU's seed touches no GPU; a GPU's, no other one; and all are afterwards as they were."""
    states = [torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())]
    with seeded(5):
        assert all(torch.equal(state, torch.cuda.get_rng_state(i)) for i, state in enumerate(states))
    with seeded(5, "cuda:0"):
        first = torch.rand(2, device="cuda:0")
        assert all(torch.equal(state, torch.cuda.get_rng_state(i)) for i, state in enumerate(states) if i > 0)
    with seeded(5, "cuda:0"):
        assert torch.equal(torch.rand(2, device="cuda:0"), first)
    assert all(torch.equal(state, torch.cuda.get_rng_state(i)) for i, state in enumerate(states))


def test_a_seed_is_made_of_all_its_numbers_in_their_order():
    seeds = [seed_of(*numbers) for numbers in [(0,), (0, 1), (1, 0), (0, 1, 2), (0, 12), (1, 2, 0), (0, 2, 1)]]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(0, 1, 2) == 4116934017487079951  # on every machine, with every version of Python


def test_batches_follow_from_seed_and_epoch():
    settings, cpu = Settings(batch_size=10, seed=4), torch.device("cpu")
    batches = shuffled(37, settings, 2, cpu)
    assert [len(batch) for batch in batches] == [10, 10, 10, 7]
    assert sorted(torch.cat(batches).tolist()) == list(range(37))
    torch.rand(5)  # what else is drawn does not count
    assert all(map(torch.equal, batches, shuffled(37, settings, 2, cpu)))
    for others in (shuffled(37, settings, 3, cpu), shuffled(37, dataclasses.replace(settings, seed=5), 2, cpu)):
        assert not torch.equal(torch.cat(batches), torch.cat(others))


@pytest.mark.parametrize("num_images, sizes", [(20, [10, 10]), (21, [10, 11]), (22, [10, 10, 2]), (1, [1]), (11, [11])])
def test_no_batch_is_one_image_where_that_can_be_helped(num_images, sizes):
    assert [len(b) for b in shuffled(num_images, Settings(batch_size=10), 1, torch.device("cpu"))] == sizes


def test_batches_are_where_they_are_asked_for():
    """Beside the images: on another device, they could not be picked out by these."""
    assert {batch.device.type for batch in shuffled(4, Settings(batch_size=2), 1, torch.device("meta"))} == {"meta"}
    with torch.device("meta"):  # what torch would take of itself does not count
        assert {batch.device.type for batch in shuffled(4, Settings(batch_size=2), 1, torch.device("cpu"))} == {"cpu"}


@each_order
@pytest.mark.parametrize("extra", ["dropout in the layers", "feature_dropout"])
def test_what_was_drawn_before_does_not_matter(order, extra, digits):
    """Training follows from its seed, whatever state torch's global generator is in, before it and between its epochs."""
    images, labels = digits.train_images[:200], digits.train_labels[:200]
    settings = Settings(epochs=3, batch_size=16, order=order, seed=5)  # 13 batches: more than are drawn at once
    settings = dataclasses.replace(settings, feature_dropout=0.2 if extra == "feature_dropout" else 0)
    plain, disturbed, other = (dropout_stack() for _ in range(3))
    torch.manual_seed(1)
    losses = fit(plain, images, labels, settings)
    torch.manual_seed(2)
    again = fit(disturbed, images, labels, settings, after_epoch=lambda epoch: torch.randn(epoch))
    assert torch.equal(losses, again) and states_equal(plain, disturbed)
    fit(other, images, labels, dataclasses.replace(settings, seed=6))
    assert not states_equal(plain, other)


@each_order
def test_training_leaves_the_callers_random_state_alone(order, few_digits):
    model = model_for(order, few_digits.train_images)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    fit(model, few_digits.train_images, few_digits.train_labels, Settings(order=order, feature_dropout=0.1))
    assert torch.equal(torch.rand(1), expected)


# --- Learning rate ---


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 5, 7, 10, 11, 100, 999])
def test_one_cycle_is_torchs_rate_and_momentum_at_every_step(num_steps):
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.8, total_steps=num_steps)
    for step in range(num_steps):
        (group,) = optimizer.param_groups
        assert one_cycle(step, num_steps, 0.8) == pytest.approx((group["lr"], group["betas"][0]), rel=1e-9)
        optimizer.step()
        if step < num_steps - 1:
            reference.step()


def test_one_cycle_turns_where_it_says():
    """The peak, and with it the smallest decay, after 30 % of the steps; the ends of the docstring."""
    cycle = [one_cycle(step, 100, 0.5) for step in range(100)]
    assert cycle[0] == pytest.approx((0.02, 0.95)) and cycle[29] == pytest.approx((0.5, 0.85))
    assert cycle[-1] == pytest.approx((0.5 / 250_000, 0.95)) and max(cycle) == cycle[29]


def test_adam_is_what_the_settings_name_in_one_kernel():
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        settings = Settings(optimizer=name, learning_rate=0.3, weight_decay=0.2)
        optimizer = passes.adam([nn.Parameter(torch.zeros(1))], settings)
        (group,) = optimizer.param_groups
        assert type(optimizer) is kind and (group["lr"], group["weight_decay"], group["fused"]) == (0.3, 0.2, True)


def test_a_schedule_goes_by_epoch_and_batch():
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.3, betas=(0.7, 0.99))
    Schedule(optimizer, Settings(epochs=2, learning_rate=0.3), 4)(2, 1)
    assert optimizer.param_groups[0]["lr"] == 0.3 and optimizer.param_groups[0]["betas"] == (0.7, 0.99)
    cycle = Schedule(optimizer, Settings(epochs=2, learning_rate=0.3, one_cycle=True), 4)
    for epoch, batch in [(2, 1), (1, 0), (1, 3), (2, 3)]:  # in any order: nothing is counted
        cycle(epoch, batch)
        rate, decay = one_cycle(4 * (epoch - 1) + batch, 8, 0.3)
        assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]) == (rate, (decay, 0.99))


# --- Inputs ---


def test_features_of_a_frozen_encoder_are_computed_once_and_as_it_predicts(few_digits):
    """Also while it is in training mode, and without leaving a trace in it."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.BatchNorm2d(1), ConvEncoder((1, 8, 8), padding=1, norm=True), nn.Dropout(0.5)).train()
    seen = []
    with unchanged(encoder):
        features = encode_images(encoder, few_digits.train_images, lambda chunks, text: seen.append(text) or chunks)
    assert seen == ["features"] and encoder.training
    torch.testing.assert_close(features, encoder.eval()(few_digits.train_images))
    model = small_dt(few_digits.train_images)
    inputs = Inputs(model, few_digits.train_images, Settings(order="layer"), silent)
    torch.testing.assert_close(inputs.values, model.encoder(few_digits.train_images))
    assert inputs.features(inputs.values[:3]).data_ptr() == inputs.values.data_ptr()  # as they are


def test_a_trained_encoder_sees_every_batch_anew(few_digits):
    model = built("shared", few_digits.train_images, few_digits.train_labels, num_steps=2)
    inputs = Inputs(model, few_digits.train_images, Settings(), silent)
    assert inputs.values is few_digits.train_images
    model.encoder[0].mean += 1  # what the encoder is by now
    assert torch.equal(inputs.features(few_digits.train_images[:4]), model.encoder(few_digits.train_images[:4]))


class Witness(nn.Module):
    """A layer that remembers what features it was shown."""

    def __init__(self):
        super().__init__()
        self.linear, self.seen = nn.Linear(K, K), []

    def forward(self, features, z):
        self.seen.append(features.detach().clone())
        return self.linear(z)


@pytest.mark.parametrize("order", ["layer", "interleaved"])
def test_augmented_images_reach_the_layers_drawn_from_epoch_layer_and_batch(order, few_digits):
    """Every layer's every batch is moved and mirrored by its own draws, and goes through the frozen encoder afterwards."""
    images, labels = few_digits.train_images, few_digits.train_labels
    settings = Settings(epochs=2, batch_size=50, augment=True, order=order, seed=3)
    model = small_dt(images, T=2)
    model.layers = nn.ModuleList(Witness() for _ in range(2))
    fit(model, images, labels, settings)
    for t in (1, 2):
        seen = iter(model.layers[t - 1].seen)
        for epoch in (1, 2):
            for i, batch in enumerate(shuffled(len(images), settings, epoch, labels.device)):
                reseed(seed_of(3, epoch, t, i))
                assert torch.equal(next(seen), model.encoder(crop_and_flip(images[batch])))


@each_order
def test_feature_dropout_zeroes_a_share_and_keeps_the_mean(order, digits):
    """Every batch anew, in training alone; the same seed gives the same weights."""
    seen, images, labels = [], torch.ones(300, 1, 8, 8), digits.train_labels[:300]

    class Spy(DenoisingMLP):
        def forward(self, features, z):
            seen.append(features)
            return super().forward(features, z)

    def train():
        torch.manual_seed(0)
        layers = [Spy(64, K, K, hidden_dim=4) for _ in range(2)]
        model = NoPropDT(nn.Flatten(), layers, torch.eye(K), cosine_alpha_bar(2))
        settings = Settings(epochs=2, batch_size=100, order=order, feature_dropout=0.25, seed=3)
        fit(model, images, labels, settings)
        return model

    first = train()
    values = torch.cat([x.detach().flatten() for x in seen])
    assert set(values.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (values == 0).double().mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / len(values)) ** 0.5)
    assert len({tuple(x.flatten().tolist()) for x in seen}) == len(seen)
    torch.manual_seed(99)
    assert states_equal(first, train())
    seen.clear()
    first.predict(images[:5], generator())
    assert all((x == 1).all() for x in seen)


def test_a_frozen_encoder_stays_as_it_predicts(few_digits):
    """Its BatchNorm goes on with its running averages, and leaves them alone."""
    model = small_dt(few_digits.train_images, T=1)
    model.encoder = nn.BatchNorm2d(1).requires_grad_(False)
    fit(model, few_digits.train_images, few_digits.train_labels, Settings(order="layer", augment=True))
    assert model.encoder.num_batches_tracked == 0
    assert model.layers[0].image_path[2].num_batches_tracked == 2  # a layer's own goes with its training


def test_one_image_at_a_time_is_too_few_for_batch_norm(few_digits):
    images, labels = few_digits.train_images[:5], few_digits.train_labels[:5]
    with pytest.raises(NoPropError, match="^batch_size must be at least 2: BatchNorm takes mean and deviation over the images of a batch$"):
        fit(small_dt(images), images, labels, Settings(order="layer", batch_size=1))
    assert fit(small_stack(), images, labels, Settings(order="layer", batch_size=1)).isfinite().all()


@each_order
def test_a_trained_encoder_is_trained_and_a_frozen_one_is_not(order, few_digits):
    images, labels = few_digits.train_images, few_digits.train_labels
    for train_encoder in (True, False):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
        before = copy.deepcopy(encoder)
        layers = [DenoisingMLP(16, K, K, hidden_dim=8) for _ in range(2)]
        model = NoPropDT(encoder, layers, torch.eye(K), cosine_alpha_bar(2), train_encoder=train_encoder)
        fit(model, images, labels, Settings(order=order))
        assert states_equal(encoder, before) != train_encoder == (not model.layer_local)


def test_old_moments_are_forgotten_before_they_slow_the_processor_down():
    """A weight without gradient keeps its value to the last bit, and Adam keeps of it no number below 1e-20."""

    def trained(forget):
        w = nn.Parameter(torch.tensor([0.3, -0.7]))
        optimizer = torch.optim.Adam([w], lr=1e-2, fused=True)
        for step in range(1200):
            w.grad = torch.tensor([1.0 if step < 3 else 0.0, (-1.0) ** step * 1e-6])
            optimizer.step()
            if forget and step % 100 == 99:
                forget_old_moments(optimizer)
        return w.detach(), optimizer.state[w]["exp_avg"]

    (w, moments), (expected, old) = trained(forget=True), trained(forget=False)
    assert torch.equal(w, expected) and moments[1] == old[1] != 0
    assert 0 < old[0] < 1.2e-38 and moments[0] == 0


@each_order
def test_a_pass_leaves_no_moment_too_small(order, few_digits):
    model = model_for(order, few_digits.train_images)
    with torch.no_grad():
        for layer in model.layers:
            for parameter in list(layer.parameters())[:2]:
                parameter[0].fill_(-9.0)  # a unit that never fires
    one_pass = (Together if order == "together" else InTurn)(
        model, few_digits.train_images, few_digits.train_labels, Settings(order=order, epochs=2)
    )
    one_pass(1)
    for state in one_pass.optimizer.state.values():
        state["exp_avg"][0] = 1e-25
    one_pass(2)
    small = [(0 < state["exp_avg"].abs()) & (state["exp_avg"].abs() < 1e-20) for state in one_pass.optimizer.state.values()]
    assert not any(each.any() for each in small)


# --- Which layers ---


@each_order
def test_frozen_layers_stay_as_they_are(order, few_digits):
    """Their weights and their running statistics, in every order; the others learn what they would have learned."""
    images, labels, settings = few_digits.train_images, few_digits.train_labels, Settings(epochs=2, order=order)
    whole, frozen, start = (model_for(order, images) for _ in range(3))
    for t in (1, 3):
        frozen.layers[t - 1].requires_grad_(False)
    assert fit(whole, images, labels, settings).shape == (2, 3)
    assert fit(frozen, images, labels, settings).shape == (2, 1)
    assert states_equal(frozen.layers[0], start.layers[0]) and states_equal(frozen.layers[2], start.layers[2])
    assert not states_equal(frozen.layers[1], start.layers[1])
    assert_same_weights(frozen.layers[1], whole.layers[1], order)


@pytest.mark.slow
@each_order
def test_a_layer_learns_the_same_in_any_company(order, digits):
    """Alone, with one other, with all: the same batches, states, dropped features and dropout within the layer."""
    images, labels = digits.train_images[:300], digits.train_labels[:300]
    settings = Settings(epochs=2, batch_size=25, order=order, one_cycle=True, feature_dropout=0.2)  # 12 batches
    whole, start = model_for(order, images), model_for(order, images)
    losses = fit(whole, images, labels, settings)
    for layers in [(2,), (1, 2), (2, 3)]:
        part = model_for(order, images)
        own = fit(part, images, labels, dataclasses.replace(settings, layers=layers))
        for t in (1, 2, 3):
            if t in layers:
                assert_same_weights(part.layers[t - 1], whole.layers[t - 1], order)
            else:
                assert states_equal(part.layers[t - 1], start.layers[t - 1])
        # The shared readout's own loss is part of every layer's, and depends on how often it was trained.
        if order == "together":
            torch.testing.assert_close(own, losses[:, [t - 1 for t in layers]], rtol=1e-5, atol=0)


def assert_same_weights(a, b, order):
    # A stack of another number of layers is cut among threads and vectors in another way, and so rounds otherwise.
    rounding = 1e-5 if order == "together" else 0.0
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=rounding, atol=rounding)


def test_layers_to_train_are_those_asked_for_and_not_frozen(few_digits):
    model = small_dt(few_digits.train_images)
    assert layers_to_train(model, Settings(order="layer")) == [1, 2, 3]
    assert layers_to_train(model, Settings(order="layer", layers=(2, 3))) == [2, 3]
    model.layers[1].requires_grad_(False)
    assert layers_to_train(model, Settings(order="layer")) == [1, 3]
    assert layers_to_train(model, Settings(order="layer", layers=(2, 3))) == [3]
    flow = built("paper-fm", few_digits.train_images, few_digits.train_labels, num_steps=2)
    assert layers_to_train(flow, Settings(order="layer")) == [1]


@each_order
def test_layers_frozen_in_part_or_all_of_them_are_refused(order, few_digits):
    """In part, they would follow their weight decay or their stack; all of them, there would be nothing to do."""
    images, labels = few_digits.train_images, few_digits.train_labels
    model = model_for(order, images)
    next(model.layers[1].parameters()).requires_grad_(False)
    for layers in (None, (2, 3)):
        with pytest.raises(NoPropError, match=r"^a layer is frozen in part: freeze whole layers, with layer.requires_grad_\(False\)$"):
            fit(model, images, labels, Settings(order=order, layers=layers))
    model.layers.requires_grad_(False)
    with pytest.raises(NoPropError, match="^all layers are frozen: there is nothing to train$"):
        fit(model, images, labels, Settings(order=order))
    model.layers[0].requires_grad_(True)
    with pytest.raises(NoPropError, match="all layers are frozen"):
        fit(model, images, labels, Settings(order=order, layers=(2, 3)))


@pytest.mark.parametrize("name", ["paper-ct", "paper-fm", "paper-backprop"])
def test_a_frozen_block_is_refused_too(name, few_digits):
    model = built(name, few_digits.train_images, few_digits.train_labels, num_steps=2).requires_grad_(False)
    with pytest.raises(NoPropError, match="^all layers are frozen: there is nothing to train$"):
        fit(model, few_digits.train_images, few_digits.train_labels, Settings(order="layer"))


def test_part_of_one_block_may_be_frozen(few_digits):
    """A schedule that stays: there are no other layers that this one could be mistaken for."""
    model = built("paper-ct", few_digits.train_images, few_digits.train_labels, num_steps=2)
    model.gamma.requires_grad_(False)
    schedule, block = copy.deepcopy(model.gamma), copy.deepcopy(model.block)
    fit(model, few_digits.train_images, few_digits.train_labels, Settings(order="layer", weight_decay=0.1))
    assert states_equal(model.gamma, schedule) and not states_equal(model.block, block)


def test_what_layers_share_cannot_be_trained_apart(few_digits):
    images, labels = few_digits.train_images, few_digits.train_labels
    one = Settings(order="layer", layers=(1,))
    shared = built("shared", images, labels, num_steps=2)
    learned = small_dt(images, nn.Parameter(torch.eye(K)))
    flow = built("paper-fm", images, labels, num_steps=2)
    for model, message in [
        (shared, "not layer-local: one encoder is trained by all layers"),
        (learned, "not layer-local: one embedding is trained by all layers"),
        (flow, "one block for all times"),
    ]:
        with pytest.raises(NoPropError, match=f"layers can be trained apart only where .*{message}"):
            fit(model, images, labels, one)
    with pytest.raises(NoPropError, match="expected layers out of 1 to 3, got 4$"):
        fit(small_stack(), images, labels, Settings(layers=(1, 2, 4)))


@pytest.mark.parametrize("name", ["paper-dt", "paper-ct", "paper-fm", "paper-backprop"])
def test_only_small_layers_are_trained_together(name, few_digits):
    model = built(name, few_digits.train_images, few_digits.train_labels, num_steps=2)
    with pytest.raises(NoPropError, match="^only the small layers of a NoPropDT can be trained together; use order layer or interleaved$"):
        fit(model, few_digits.train_images, few_digits.train_labels, Settings(order="together"))
    learned = small_stack(W=nn.Parameter(torch.eye(K)))
    with pytest.raises(NoPropError, match="^learned embeddings are not trained together with the layers; use order layer or interleaved$"):
        fit(learned, few_digits.train_images, few_digits.train_labels, Settings())


# --- The passes ---


class OtherLayer(DenoisingMLP):
    """The same perceptron under another name, which the hand-written stack does not know."""


@pytest.mark.parametrize("kind, stack", [(DenoisingMLP, "MLPStack"), (OtherLayer, "LayerStack")])
@pytest.mark.parametrize("settings", [Settings(), Settings(one_cycle=True, optimizer="adamw", weight_decay=0.1)])
def test_together_is_the_readable_loop(kind, stack, settings, digits):
    """Chapter 3's ``fit_layers`` on the same batches and states, in float64: the same weights and losses."""
    images, labels = digits.train_images[:300].double(), digits.train_labels[:300]
    settings = dataclasses.replace(settings, epochs=2, batch_size=16, learning_rate=1e-2, seed=9)  # 19 batches an epoch
    torch.manual_seed(0)
    layers = [kind(64, K, K, hidden_dim=8) for _ in range(3)]
    model = NoPropDT(nn.Flatten(), layers, torch.eye(K), cosine_alpha_bar(3)).double()
    looped = copy.deepcopy(model.layers)
    one_pass = Together(model, images, labels, settings)
    assert type(one_pass.stack).__name__ == stack
    losses = torch.stack([one_pass(epoch) for epoch in (1, 2)])

    make = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    optimizers = [
        make(layer.parameters(), settings.learning_rate, weight_decay=settings.weight_decay) for layer in looped
    ]
    rates = [Schedule(optimizer, settings, 19) for optimizer in optimizers]
    for epoch in (1, 2):
        parts, means = shuffled(300, settings, epoch, labels.device), []
        for i, part in enumerate(parts):
            if i % 8 == 0:  # the states of eight batches come from one seed
                reseed(seed_of(settings.seed, epoch, i))
                group = torch.cat(parts[i : i + 8])
                states = iter(model.noised_states(labels[group]).split([len(p) for p in parts[i : i + 8]], 1))
            for rate in rates:
                rate(epoch, i)
            batch = images[part].flatten(1), next(states), labels[part]
            means.append(fit_layers(looped, optimizers, [batch], model.layer_losses))
        torch.testing.assert_close(torch.stack(means).mean(0), losses[epoch - 1], rtol=1e-5, atol=0, check_dtype=False)
    torch.testing.assert_close(model.layers.state_dict(), looped.state_dict(), rtol=1e-9, atol=1e-9)


@pytest.mark.whole
def test_both_orders_give_the_same_weights(digits):
    """With fixed embeddings no layer depends on another: a layer at a time or a batch at a time, bit for bit."""
    images, labels = digits.train_images[:300], digits.train_labels[:300]
    layerwise, interleaved = small_dt(images), small_dt(images)
    settings = Settings(epochs=2, batch_size=100, seed=3, one_cycle=True, optimizer="adamw", weight_decay=1e-3)
    losses = [
        fit(model, images, labels, dataclasses.replace(settings, order=order))
        for model, order in ((layerwise, "layer"), (interleaved, "interleaved"))
    ]
    # The readout is shared, but only sees sampled clean states: it and its loss may differ, the layers may not.
    torch.testing.assert_close(losses[0], losses[1], rtol=0.01, atol=0)
    assert losses[0].shape == (2, 3)
    assert states_equal(layerwise.layers, interleaved.layers)
    assert not states_equal(layerwise.layers, small_dt(images).layers)


@pytest.mark.whole
def test_in_turn_is_a_plain_loop(digits):
    """Algorithm 1 written out, an optimizer for each layer and one for the readout, dropout and one cycle included."""
    images, labels, epochs = digits.train_images[:300], digits.train_labels[:300], (1, 2)
    settings = Settings(epochs=2, order="layer", one_cycle=True, optimizer="adamw", weight_decay=0.1, seed=9)
    model, looped = small_dt(images, T=2), small_dt(images, T=2)
    one_pass = InTurn(model.train(), images, labels, settings)
    losses = torch.stack([one_pass(epoch) for epoch in epochs])

    looped.train().encoder.eval()
    parts = [*looped.layers, looped.readout]
    optimizers = [torch.optim.AdamW(part.parameters(), weight_decay=0.1, fused=True) for part in parts]
    expected = torch.zeros(2, 2)
    for epoch in epochs:
        batches = shuffled(300, settings, epoch, labels.device)
        for t in (1, 2):
            own = optimizers[t - 1], optimizers[-1]
            for i, batch in enumerate(batches):
                reseed(seed_of(9, epoch, t, i))
                loss = looped.layer_loss(t, looped.encoder(images[batch]), labels[batch]).mean()
                for optimizer in own:
                    optimizer.zero_grad()
                loss.backward()
                for optimizer in own:
                    (group,) = optimizer.param_groups
                    group["lr"], decay = one_cycle(3 * (epoch - 1) + i, 6, settings.learning_rate)
                    group["betas"] = decay, 0.999
                    optimizer.step()
                expected[epoch - 1, t - 1] += loss.detach() / 3
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(model.state_dict(), looped.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["layer", "interleaved"])
def test_in_turn_goes_by_layer_or_by_batch(order, few_digits):
    """Which step comes when, and what each starts from: the seed of its epoch, layer and batch."""
    images, labels, steps = few_digits.train_images, few_digits.train_labels, []
    settings, model = Settings(epochs=1, batch_size=64, order=order, seed=2), small_dt(images, T=2)
    own_loss = model.layer_loss

    def layer_loss(t, x, y):
        steps.append((t, y, torch.rand(1)))
        return own_loss(t, x, y)

    model.layer_loss = layer_loss
    seen = []
    InTurn(model, images, labels, settings, lambda work, text: seen.append((len(work), text)) or work)(1)
    assert seen == [(2, "features"), (6, "epoch 1/1")]  # what there is to do, for a progress bar
    expected = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    expected = expected if order == "layer" else sorted(expected, key=lambda step: step[1])
    batches = shuffled(len(images), settings, 1, labels.device)
    for (t, y, drawn), (expected_t, i) in zip(steps, expected, strict=True):
        assert t == expected_t and torch.equal(y, labels[batches[i]])
        reseed(seed_of(2, 1, t, i))
        assert torch.equal(drawn, torch.rand(1))


def told_losses(order, losses):
    """A pass in turn over three batches, whose layers have these losses, and the rate of each step."""
    images, rates, due = torch.ones(6, 1, 8, 8), [], {t: iter(row) for t, row in enumerate(losses, 1)}
    settings = Settings(order=order, batch_size=2, epochs=2, one_cycle=True, learning_rate=0.5)
    one_pass = InTurn(small_stack(len(losses)), images, torch.zeros(6, dtype=torch.int64), settings)

    def step(t, x, y):
        rates.append(one_pass.optimizer.param_groups[0]["lr"])
        return torch.tensor(next(due[t]))

    one_pass.step = step
    return one_pass, rates


@pytest.mark.parametrize("order", ["layer", "interleaved"])
def test_in_turn_gives_each_layers_mean_and_every_layer_a_cycle_of_its_own(order):
    one_pass, rates = told_losses(order, [[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    assert one_pass(2).tolist() == [3.0, 5.0]
    cycle = [one_cycle(step, 6, 0.5)[0] for step in (3, 4, 5)]  # the second of two epochs
    assert rates == (2 * cycle if order == "layer" else [rate for rate in cycle for _ in range(2)])


@pytest.mark.parametrize("order, layer, step", [("layer", 1, 3), ("interleaved", 2, 1)])
def test_of_several_losses_that_are_not_finite_the_first_in_time_is_named(order, layer, step):
    one_pass, _ = told_losses(order, [[0.5, 0.5, math.nan], [math.inf, 0.5, 0.5]])
    with pytest.raises(NoPropError, match=f"the loss of layer {layer} is not finite at step {step} of epoch 2; "):
        one_pass(2)


def test_a_step_of_one_layer_leaves_the_others_to_the_last_bit(few_digits):
    """Also those that have learned: a gradient of 0, in place of none, would let Adam's old moments move them on."""
    model, x, y = small_stack(2), few_digits.train_images[:8].flatten(1), few_digits.train_labels[:8]
    one_pass = InTurn(model, few_digits.train_images[:8], y, Settings(order="layer"))
    one_pass.step(1, x, y)
    learned, new = copy.deepcopy(model.layers)
    one_pass.step(2, x, y)
    assert states_equal(model.layers[0], learned) and not states_equal(model.layers[1], new)


@each_order
def test_draws_and_batches_are_made_where_the_labels_are(order, few_digits, monkeypatch):
    """Every seeding is told the device, as a GPU has a generator of its own; the caller's state is kept for this device too."""
    told = []
    for name in ("reseed", "seeded", "shuffled"):
        real = getattr(passes, name)
        monkeypatch.setattr(passes, name, lambda *a, real=real, name=name, **k: told.append((name, a[-1])) or real(*a, **k))
    model = small_stack(2)
    one_pass = (Together if order == "together" else InTurn)(
        model, few_digits.train_images, few_digits.train_labels, Settings(order=order, batch_size=50)
    )
    one_pass(1)
    assert {name for name, _ in told} == {"reseed", "seeded", "shuffled"}
    assert all(isinstance(device, torch.device) and device.type == "cpu" for _, device in told)


def test_progress_says_which_epoch_of_how_many(few_digits):
    seen = []

    def progress(work, text):
        seen.append((len(work), text))
        return work

    images, labels = few_digits.train_images, few_digits.train_labels
    settings = Settings(epochs=4, batch_size=50)
    Together(small_stack(2), images, labels, settings, progress)(3)
    InTurn(small_stack(2), images, labels, dataclasses.replace(settings, order="layer"), progress)(2)
    Solved(linear_chain(), images, labels, dataclasses.replace(SOLVED, batch_size=50), progress)(1)
    assert seen == [(2, "features"), (3, "epoch 3/4"), (2, "features"), (6, "epoch 2/4"), (3, "features")]


def test_a_stack_of_perceptrons_takes_the_models_own_gradients(few_digits):
    """Which are written out, and so cost no differentiation; and solving keeps an optimizer, for a file's sake."""
    model, asked = small_stack(2), []
    own = model.output_gradients
    model.output_gradients = lambda outputs, labels: asked.append(outputs.shape) or own(outputs, labels)
    Together(model, few_digits.train_images, few_digits.train_labels, Settings(batch_size=75))(1)
    assert asked == [(2, 75, K)] * 2
    solved = Solved(linear_chain(), few_digits.train_images, few_digits.train_labels, SOLVED)
    assert len(solved.optimizer.param_groups[0]["params"]) == 9


@each_order
def test_training_does_not_depend_on_the_mode_that_a_model_comes_in(order, few_digits):
    """A model that was trained before, or loaded, may be in evaluation mode: its dropout must drop out all the same."""
    new, used = dropout_stack(), dropout_stack().eval()
    for model in (new, used):
        fit(model, few_digits.train_images, few_digits.train_labels, Settings(epochs=2, order=order))
    assert states_equal(new, used)


def test_a_last_batch_of_one_does_not_break_batch_norm(digits):
    images, labels = digits.train_images[:65], digits.train_labels[:65]
    fit(small_dt(images, T=1), images, labels, Settings(batch_size=32, order="layer"))


# --- Solved ---

SOLVED = Settings(order="solved", batch_size=64, weight_decay=1e-2)


def linear_chain(T=3, encoder=None, **options):
    torch.manual_seed(0)
    layers = [LinearDenoiser(64, K) for _ in range(T)]
    return NoPropDT(encoder or nn.Flatten(), layers, torch.eye(K), cosine_alpha_bar(T), **{"objective": "squared_error"} | options)


@pytest.mark.whole
@torch.no_grad()
def test_solved_layers_have_the_loss_that_they_say_and_training_finds_none_lower(few_digits):
    """Measured on many draws of noise, by the model's own loss; gradient descent from there gains nothing."""
    images, labels = few_digits.train_images, few_digits.train_labels
    model = linear_chain()
    said = fit(model, images, labels, SOLVED)
    x = images.flatten(1)
    assert said.shape == (1, 3)
    for t in (1, 2, 3):
        draws = [model.layer_loss(t, x, labels, generator(seed)).mean() for seed in range(300)]
        assert torch.stack(draws).mean().item() == pytest.approx(said[0, t - 1].item(), rel=0.02)
        worse = copy.deepcopy(model)
        with torch.enable_grad():
            step = torch.optim.SGD(worse.layers[t - 1].parameters(), lr=1e-2)
            for seed in range(300):
                loss = worse.layer_loss(t, x, labels, generator(1000 + seed)).mean()
                step.zero_grad()
                loss.backward()
                step.step()
        changed = [worse.layer_loss(t, x, labels, generator(seed)).mean() for seed in range(300)]
        assert torch.stack(changed).mean() > torch.stack(draws).mean() * 0.97  # the ridge holds back some 2 %


def test_solving_depends_neither_on_batches_nor_on_the_other_layers(few_digits):
    images, labels = few_digits.train_images, few_digits.train_labels
    whole, parts, some = linear_chain(), linear_chain(), linear_chain()
    fit(whole, images, labels, SOLVED)
    fit(parts, images, labels, dataclasses.replace(SOLVED, batch_size=7, seed=3))
    losses = fit(some, images, labels, dataclasses.replace(SOLVED, layers=(2,)))
    for one, other in zip(whole.parameters(), parts.parameters()):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert losses.shape == (1, 1) and states_equal(some.layers[1], whole.layers[1])
    assert states_equal(some.layers[0], linear_chain().layers[0])


@torch.no_grad()
def test_a_linear_chain_without_noise_is_one_linear_classifier(few_digits):
    """Its end state is an affine function of features and of the noise that it starts from."""
    model = linear_chain(T=5, inference="answer")
    fit(model, few_digits.train_images, few_digits.train_labels, SOLVED)
    ends = []
    model.classify = lambda z: ends.append(z) or z.argmax(1)
    images = few_digits.test_images
    halfway = (images[:5] + images[5:10]) / 2
    for batch in (images[:5], images[5:10], halfway):
        model.predict(batch, generator())
    torch.testing.assert_close(ends[2], (ends[0] + ends[1]) / 2, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_solved_is_refused(few_digits):
    images, labels = few_digits.train_images, few_digits.train_labels
    for model in (small_stack(), small_dt(images)):
        with pytest.raises(NoPropError, match="^only linear layers, as those of the preset closed_form, can be solved; others are trained$"):
            fit(model, images, labels, SOLVED)
    for options in ({"objective": "cross_entropy"}, {"train_encoder": True, "encoder": nn.Sequential(nn.Flatten(), nn.Linear(64, 64))}):
        with pytest.raises(NoPropError, match="^layers are solved for squared error, with a frozen encoder and fixed embeddings$"):
            fit(linear_chain(**options), images, labels, SOLVED)
    with pytest.raises(NoPropError, match=r"raise it \(weight_decay\)"):
        fit(linear_chain(), images[:9].repeat(4, 1, 1, 1) * 1e4, labels[:36], dataclasses.replace(SOLVED, weight_decay=1e-30))


# --- Precision ---


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_half_precision_is_bfloat16_everywhere_and_keeps_no_copies():
    """On a GPU too, where autocast's own choice would be float16; a copy of a weight kept for later would be an old one."""
    half = Settings(precision="bfloat16")
    with passes.autocast(half, torch.device("cpu")):
        assert torch.is_autocast_enabled("cpu") and not torch.is_autocast_cache_enabled()
    for device in ("cpu", "cuda"):
        assert passes.autocast(half, torch.device(device)).fast_dtype == torch.bfloat16
    with passes.autocast(Settings(), torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("which", ["together", "layer", "shared"])
def test_bfloat16_learns_as_float32_does(which, digits):
    """Every step must see the weights of the step before, the encoder's too: a stale copy would not learn within an epoch."""
    images, labels, losses = digits.train_images[:512], digits.train_labels[:512], []
    settings = Settings(epochs=2, batch_size=16, learning_rate=2e-3 if which == "shared" else 1e-2)
    settings = dataclasses.replace(settings, order="layer" if which == "layer" else "together")
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        if which == "shared":
            model = built("shared", images, labels, num_steps=2)
        else:
            layers = [DenoisingMLP(64, K, K, hidden_dim=32) for _ in range(2)]
            model = NoPropDT(nn.Flatten(), layers, torch.eye(K), cosine_alpha_bar(2))
        losses.append(fit(model, images, labels, dataclasses.replace(settings, precision=precision)))
        assert all(p.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(losses[0], losses[1], rtol=0.1, atol=0.02)
    assert (losses[1][1] < 0.8 * losses[1][0]).all()
    assert not torch.equal(*losses)


@pytest.mark.whole
def test_bfloat16_trains_the_papers_blocks_to_nearly_the_same_loss(digits):
    images, labels = digits.train_images[:256], digits.train_labels[:256]
    settings = Settings(epochs=3, order="layer")
    full, half = (
        fit(small_dt(images, T=1), images, labels, dataclasses.replace(settings, precision=precision))
        for precision in ("float32", "bfloat16")
    )
    torch.testing.assert_close(half, full, rtol=0.05, atol=0)
    assert not torch.equal(half, full)


@pytest.mark.whole
@each_order
@pytest.mark.parametrize("computes, precision", [(True, "bfloat16"), (False, "float32")])
def test_auto_trains_in_bfloat16_only_where_the_device_computes_it(order, computes, precision, few_digits, monkeypatch):
    """To the bits of the precision that it stands for."""
    monkeypatch.setattr("noprop_helpers.settings.computes_bfloat16", lambda device: computes)
    train = functools.partial(trained, order, few_digits)
    assert states_equal(train("auto"), train(precision))
    assert not states_equal(train("float32"), train("bfloat16"))


def trained(order, data, precision):
    model = model_for(order, data.train_images, T=1) if order != "together" else small_stack()
    fit(model, data.train_images, data.train_labels, Settings(order=order, precision=precision))
    return model


# --- What is refused ---

ONES, ZEROS = torch.ones(4, 1, 8, 8), torch.zeros(4, 1, 8, 8)


def poisoned():
    """A model whose layer 3 says NaN."""
    model = small_stack()
    nn.init.constant_(model.layers[2].mlp[0].bias, math.nan)
    return model


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: shuffled(0, Settings(), 1, "cpu"), "expected at least one image to train on, got 0"),
        *(
            (
                lambda sizes=sizes: check_batch_size(small_dt(ONES), Settings(order="layer", batch_size=sizes[0]), sizes[1]),
                f"{what}: BatchNorm takes mean and deviation over the images of a batch",
            )
            for what, sizes in (
                ("batch_size must be at least 2", (1, 2)), ("one image is too few to train on", (2, 1)),
                ("one image is too few to train on", (1, 1)),
            )
        ),
        (
            lambda: Inputs(small_stack(), ZEROS, Settings(), silent),
            "the encoder makes 0 of every image: fit it first, as a recipe's prepare does, or look at the images",
        ),
        *(
            (
                lambda step=step, n=n: one_cycle(step, n, 0.1),
                f"expected num_steps of at least 1 and a step from 0 to {n - 1}, got {n} and {step}",
            )
            for step, n in ((5, 5), (-1, 5), (0, 0))
        ),
        *(
            (
                lambda order=order: (Together if order == "together" else InTurn)(
                    poisoned(), ONES, torch.arange(4), Settings(order=order, layers=(2, 3))
                )(4),
                "training diverged: the loss of layer 3 is not finite at step 1 of epoch 4; try a smaller learning_rate",
            )
            for order in ("together", "layer", "interleaved")
        ),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize("seed", [None, "3", 0.5, True])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(TypeError) as error:
        reseed(seed)
    assert str(error.value) == f"seed must be an integer, got {seed!r}"


def test_what_is_just_not_refused():
    """Two images make a batch, one image does without BatchNorm, and one image that is not black is enough to look at."""
    check_batch_size(small_dt(ONES), Settings(order="layer", batch_size=2), 2)
    check_batch_size(small_stack(), Settings(batch_size=1), 1)
    assert Inputs(small_stack(), torch.cat([ZEROS, ONES[:1]]), Settings(), silent).values.sum() == 64


def test_images_too_small_to_be_cropped_are_refused(few_digits):
    for height, width in ((4, 4), (4, 8), (8, 4)):
        images = few_digits.train_images[:, :, :height, :width]
        with pytest.raises(NoPropError, match=rf"augment crops 4 pixels at a side, of images that have \[{height}, {width}\]"):
            fit(small_stack(), images, few_digits.train_labels, Settings(order="layer", augment=True))


def test_layers_with_buffers_are_not_trained_together(few_digits):
    model = built("residual", few_digits.train_images, few_digits.train_labels, num_steps=2, width=1)
    with pytest.raises(NoPropError, match="cannot be trained together; use order layer or interleaved .*BatchNorm"):
        fit(model, few_digits.train_images, few_digits.train_labels, Settings(order="together"))
