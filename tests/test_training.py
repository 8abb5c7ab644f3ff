import dataclasses
import functools
import re
import types
import warnings

import numpy
import pytest
import torch
from conftest import K, built, dropout_stack, generator, small_dt, small_stack, some_of, states_equal, unchanged
from torch import nn

from noprop_helpers import NoPropError, checkpoints, training
from noprop_helpers.benchmark import processor
from noprop_helpers.blocks import DenoisingMLP, Standardize
from noprop_helpers.checkpoints import CheckpointError
from noprop_helpers.noprop import NoPropDT
from noprop_helpers.recipes import RECIPES
from noprop_helpers.schedules import cosine_alpha_bar, linear_alphas
from noprop_helpers.settings import Settings
from noprop_helpers.training import Keeper, accuracy, fit, predictions


@pytest.fixture(scope="module")
def data(digits):
    """260 digits: two full batches of 128, and one of four."""
    return some_of(digits, 260, 40)


def pixel_model(images):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), Standardize.fit(images.flatten(1)))
    return NoPropDT(
        encoder, [DenoisingMLP(64, K, K, hidden_dim=32) for _ in range(4)], torch.eye(K), cosine_alpha_bar(4)
    )


# --- fit ---


def test_fit_learns_digits_and_is_reproducible(digits):
    models = [pixel_model(digits.train_images) for _ in range(2)]
    for model in models:
        losses = fit(model, digits.train_images, digits.train_labels, Settings(epochs=15, learning_rate=5e-3))
        assert losses.shape == (15, 4) and (losses[-1] < losses[0]).all()
    scores = [accuracy(model, digits.test_images, digits.test_labels, generator(1)) for model in models]
    assert scores[0] == scores[1] > 0.93
    assert states_equal(*models)


def test_untrained_model_guesses(digits):
    """The check that the test above can fail: without training the same pipeline scores near chance."""
    assert accuracy(pixel_model(digits.train_images), digits.test_images, digits.test_labels, generator()) < 0.35


@pytest.mark.parametrize("order", ["together", "layer", "interleaved"])
def test_after_epoch_sees_the_model_as_it_is_left(order, data):
    model, seen = small_stack(), []
    start = model.layers[0].mlp[0].weight.detach().clone()

    def look(epoch):
        assert not any(module.training for module in model.modules())
        seen.append((epoch, model.layers[0].mlp[0].weight.detach().clone()))

    fit(model, data.train_images, data.train_labels, Settings(epochs=3, order=order), after_epoch=look)
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    weights = [start, *(weight for _, weight in seen)]
    assert not any(torch.equal(a, b) for a, b in zip(weights, weights[1:]))
    assert torch.equal(weights[-1], model.layers[0].mlp[0].weight)


def test_progress_names_what_takes_long(data):
    seen = []
    fit(
        small_dt(data.train_images, T=2), data.train_images, data.train_labels, Settings(epochs=2, order="layer"),
        progress=lambda work, text: seen.append((len(work), text)) or work,
    )  # fmt: skip
    assert seen == [(3, "features"), (6, "epoch 1/2"), (6, "epoch 2/2")]


def test_what_cannot_be_trained_on_is_refused(data):
    model, images, labels = small_stack(), data.train_images[:8], data.train_labels[:8]
    bad_pixel, bad_label = images.clone(), labels.clone()
    bad_pixel[3, 0, 1, 1] = float("nan")
    bad_label[2] = 10
    for arguments, message in [
        ((bad_pixel, labels), "finite"),
        ((images, bad_label), r"labels in 0\.\.9"),
        ((images[:0], labels[:0]), "at least one image"),
        ((images, labels[:3]), r"\[8\]"),
        ((images[0], labels), r"\[B, C, H, W\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(model, *arguments, Settings())
        with pytest.raises(ValueError, match=message):
            accuracy(model, *arguments)


def test_only_a_model_is_trained_and_by_settings_alone(data):
    stack, linear = small_stack(), nn.Linear(2, 2)
    for model, settings, got in ((linear, Settings(), "Linear and Settings"), (stack, {}, "NoPropDT and dict")):
        with pytest.raises(TypeError, match=f"^expected a NoProp model and Settings, got {got}$"):
            fit(model, data.train_images, data.train_labels, settings)


# --- Interruption ---

# What draws what differs between them; each is interrupted, and taken up by a process with another random state.
CONFIGURATIONS = {
    "stack": (small_stack, {}),
    "stack of layers with dropout": (dropout_stack, {"feature_dropout": 0.2}),
    "bfloat16 stack": (small_stack, {"precision": "bfloat16"}),
    "trained encoder": ("shared", {}),
    "layer": (small_stack, {"order": "layer"}),
    "interleaved": (small_dt, {"order": "interleaved"}),
    "augmented": ("residual", {"order": "layer", "augment": True}),
    "layer with dropout": (small_dt, {"order": "layer", "feature_dropout": 0.2}),
    "learned embeddings": ("paper-dt", {"order": "layer"}),
    "continuous time": ("paper-ct", {"order": "layer"}),
    "back-propagation": ("paper-backprop", {"order": "layer"}),
}


def build(which, data):
    kind = CONFIGURATIONS[which][0]
    if kind == small_dt:
        return small_dt(data.train_images, T=2)
    if not isinstance(kind, str):
        return kind()
    options = {"num_steps": 2} | ({"embedding": "learned"} if kind.startswith("paper") else {})
    return built(kind, data.train_images, data.train_labels, **options | ({"width": 4} if kind == "residual" else {}))


def interrupted(epoch):
    def stop(finished):
        if finished == epoch:
            raise KeyboardInterrupt

    return stop


@pytest.mark.slow
@pytest.mark.parametrize("which", CONFIGURATIONS)
def test_resumed_training_gives_the_uninterrupted_weights(which, data, tmp_path):
    """Bit for bit, also where ``after_epoch`` measures and draws, and where this process drew something else before."""
    images, labels, file = data.train_images, data.train_labels, tmp_path / "run.pt"
    settings = Settings(
        epochs=4, one_cycle=True, optimizer="adamw", weight_decay=1e-3, seed=7, **CONFIGURATIONS[which][1]
    )
    straight, cut, resumed = (build(which, data) for _ in range(3))
    losses = fit(straight, images, labels, settings)
    with pytest.raises(KeyboardInterrupt):
        fit(cut, images, labels, settings, keeper=Keeper(file), after_epoch=interrupted(2))
    assert len(checkpoints.load(file)["history"]) == 2 and not states_equal(straight, cut)
    torch.rand(13)
    for parameter in resumed.parameters():  # whatever it was built with: the file knows
        parameter.data.add_(1)

    def measure(epoch):
        accuracy(resumed, data.test_images, data.test_labels)  # without a generator: from the global random state
        torch.rand(3)

    again = fit(resumed, images, labels, settings, keeper=Keeper(file, resume=True), after_epoch=measure)
    assert states_equal(straight, resumed) and torch.equal(losses, again)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_finished_run_resumed_measures_the_same(name, data, tmp_path):
    """To the last digit, and so does a model into which its file is loaded: no ``eval()`` anywhere here."""
    if name == "paper-adjoint":
        pytest.importorskip("torchdiffeq")
    options = {"num_steps": 2} | ({"width": 4} if name == "residual" else {})
    models = [built(name, data.train_images, data.train_labels, **options) for _ in range(3)]
    order = "together" if name in ("published", "shared", "local") else "layer"
    settings = Settings(epochs=2, batch_size=64, order=order)
    first = fit(models[0], data.train_images, data.train_labels, settings, keeper=Keeper(tmp_path / "a.pt"))
    again = fit(
        models[1], data.train_images, data.train_labels, settings, keeper=Keeper(tmp_path / "a.pt", resume=True),
        after_epoch=lambda epoch: pytest.fail("there was nothing left to do"),
    )  # fmt: skip
    assert torch.equal(first, again)
    models[0].save(tmp_path / "weights.pt")
    models[2].load(tmp_path / "weights.pt")
    for ask in (data.test_images, data.test_images[:1]):
        said = [predictions(model, ask, generator(5)) for model in models]
        assert torch.equal(said[0], said[1]) and torch.equal(said[0], said[2])


# --- Keeper ---


def kept(data, path, settings, model=None, **options):
    """A run of three small layers, kept in a file."""
    model = model or small_stack()
    return model, fit(model, data.train_images, data.train_labels, settings, keeper=Keeper(path, **options))


def test_resuming_another_run_is_refused(data, tmp_path):
    file, settings = tmp_path / "run.pt", Settings(epochs=2, seed=3)
    kept(data, file, settings, about={"dataset": "digits"})
    before = file.read_bytes()
    resume = functools.partial(kept, path=file, resume=True)
    about = {"dataset": "digits"}
    for name, value, message in [
        ("seed", 4, "has seed 3, expected 4"), ("epochs", 3, "has epochs 2, expected 3"),
        ("learning_rate", 0.1, "has learning_rate 0.001, expected 0.1"), ("order", "layer", "has order together"),
        ("layers", (1, 2), r"has layers None, expected \(1, 2\)"),
    ]:  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            resume(data, settings=dataclasses.replace(settings, **{name: value}), about=about)
    with pytest.raises(CheckpointError, match="has dataset digits, expected mnist"):
        resume(data, settings=settings, about={"dataset": "mnist"})
    with pytest.raises(CheckpointError, match="does not say its color"):
        resume(data, settings=settings, about=about | {"color": "blue"})
    # As many images, labels, layers: their contents count.
    for other in (
        data._replace(train_images=data.train_images.flip(0)),
        data._replace(train_labels=data.train_labels.flip(0)),
    ):
        with pytest.raises(CheckpointError, match="has data sha256"):
            resume(other, settings=settings, about=about)
    with pytest.raises(CheckpointError, match="has num_steps 3, expected 4"):
        resume(data, settings=settings, about=about, model=small_stack(4))
    for options, message in [
        ({"objective": "squared_error"}, "has objective cross_entropy, expected squared_error"),
        ({"inference": linear_alphas(3)}, "has levels None"),
        ({"inference": "answer"}, "has inference_noise True, expected False"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            resume(data, settings=settings, about=about, model=small_stack(**options))
    assert file.read_bytes() == before
    resume(data, settings=settings, about=about)


def test_an_existing_file_is_not_overwritten_unasked(data, tmp_path):
    file = tmp_path / "run.pt"
    kept(data, file, Settings())
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match="run.pt exists: go on from it with --resume"):
        kept(data, file, Settings())
    assert file.read_bytes() == before
    with pytest.raises(CheckpointError, match="^resume needs the checkpoint to resume from$"):
        Keeper(resume=True)
    with pytest.raises(CheckpointError, match="no file"):
        Keeper(tmp_path / "none.pt", resume=True)


def test_a_file_says_what_its_run_was(data, tmp_path):
    """Quickly: on a few images, for one epoch. And what it says is what a resumed run must share."""
    few, file, settings = some_of(data, 10, 5), tmp_path / "run.pt", Settings(seed=3, layers=(1, 3))
    model, losses = kept(few, file, settings, about={"dataset": "digits"})
    said = checkpoints.load(file)
    assert said.keys() == {
        "format", "about", "model", "settings", "trained", "data", "state", "optimizer", "history", "seconds", "where",
    }  # fmt: skip
    assert said["about"] == {"dataset": "digits"} and said["model"] == model.identity()
    assert said["settings"] == dataclasses.asdict(settings) and torch.equal(said["history"], losses)
    assert said["trained"] == [name for name, _ in model.named_parameters()]
    here = {"threads": torch.get_num_threads(), "device": "cpu", "torch": str(torch.__version__), "processor": processor()[0]}
    assert said["where"] == here
    assert list(said["state"]) == [name for name in model.state_dict() if not name.startswith("layers.1.")]  # of layer 2
    assert said["data"] == checkpoints.checksum(few.train_images, few.train_labels)
    frozen = small_stack()
    frozen.layers[1].requires_grad_(False)
    with pytest.raises(CheckpointError, match="^.*run.pt has trained .*, expected "):
        kept(few, file, settings, model=frozen, resume=True, about={"dataset": "digits"})
    wider = small_stack()
    wider.layers = nn.ModuleList(DenoisingMLP(64, K, K, hidden_dim=17) for _ in range(3))
    with pytest.raises(CheckpointError, match="^.*run.pt does not fit this model: layers.0.mlp.0.bias has shape"):
        kept(few, file, settings, model=wider, resume=True, about={"dataset": "digits"})


def test_looking_at_the_data_is_no_training(data, tmp_path, monkeypatch):
    """By a clock that passes a minute while the images' checksum is taken, and no time else."""
    now, checksum = [0.0], checkpoints.checksum
    monkeypatch.setattr(training, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(checkpoints, "checksum", lambda *tensors: now.__setitem__(0, now[0] + 60) or checksum(*tensors))
    keeper = Keeper(tmp_path / "run.pt")
    assert keeper.seconds == 0
    fit(small_stack(), data.train_images[:10], data.train_labels[:10], Settings(), keeper=keeper)
    assert now == [60.0] and keeper.seconds == 0


def test_settings_are_those_of_the_images_device(data, monkeypatch):
    asked = []
    monkeypatch.setattr("noprop_helpers.settings.computes_bfloat16", lambda device: asked.append(device))
    fit(small_stack(), data.train_images[:10], data.train_labels[:10], Settings(precision="auto"))
    assert asked == [torch.device("cpu")]
    with pytest.raises(ValueError, match="BatchNorm takes mean and deviation over the images of a batch"):
        fit(small_dt(data.train_images, T=1), data.train_images[:4], data.train_labels[:4], Settings(order="layer", batch_size=1))


def test_weights_alone_cannot_be_resumed(data, tmp_path):
    model, settings = small_stack(), Settings()
    model.save(tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="holds weights but no training to resume"):
        kept(data, tmp_path / "weights.pt", settings, resume=True)


def test_two_runs_on_one_file_are_told_apart(data, tmp_path):
    """The second one to write finds that somebody was there, and stops; the file is whole, and of the first."""
    file = tmp_path / "run.pt"
    for resume in (False, True):
        mine = Keeper(file, resume=resume)  # begun before the other has written
        kept(data, file, Settings(epochs=2), resume=resume)
        before = file.read_bytes()
        again = {"mine": mine.saved and mine.saved | {"history": mine.saved["history"][:1]}}
        mine.saved = again["mine"]  # so that there is an epoch to do
        with pytest.raises(CheckpointError, match="run.pt was written by another run meanwhile: let that one end, or name"):
            fit(small_stack(), data.train_images, data.train_labels, Settings(epochs=2), keeper=mine)
        assert file.read_bytes() == before
        checkpoints.save(file, checkpoints.load(file) | {"history": checkpoints.load(file)["history"][:1]})


def test_a_file_that_was_taken_away_is_written_again(data, tmp_path):
    file = tmp_path / "run.pt"
    model = small_stack()
    fit(
        model, data.train_images, data.train_labels, Settings(epochs=3), keeper=Keeper(file),
        after_epoch=lambda epoch: file.unlink() if epoch < 3 else None,
    )  # fmt: skip
    assert len(checkpoints.load(file)["history"]) == 3


def test_going_on_elsewhere_is_said(data, tmp_path):
    """With another number of threads, on another device, with another PyTorch; where all is the same, nothing is."""
    file, settings = tmp_path / "run.pt", Settings(epochs=2)
    kept(data, file, settings)
    content = checkpoints.load(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept(data, file, settings, resume=True)
    for name, there in (("threads", 77), ("device", "cuda"), ("torch", "1.0"), ("processor", "Z80")):
        checkpoints.save(file, content | {"where": content["where"] | {name: there}})
        with pytest.warns(UserWarning, match=f"run.pt goes on with {name} .* in place of {there}: the last bits may differ"):
            kept(data, file, settings, resume=True)
    checkpoints.save(file, content | {"where": content["where"] | {"device": "cuda", "torch": "1.0"}})
    here = re.escape(f"device cpu in place of cuda, torch {torch.__version__} in place of 1.0")
    with pytest.warns(UserWarning, match=f"goes on with {here}: the last bits may differ from those of an unbroken run$"):
        kept(data, file, settings, resume=True)


@pytest.mark.parametrize("change, message", [
    ({"state": None}, "does not say its state"), ({"history": [1]}, "does not say its history: expected a Tensor, got a list"),
    ({"seconds": "many"}, "does not say its seconds"), ({"where": None}, "does not say its where"),
    ({"optimizer": {"state": {}, "param_groups": []}}, "its optimizer's state is another's"),
    ({"optimizer": {"groups": 1}}, "its optimizer's state is another's"),
])  # fmt: skip
def test_a_file_that_lacks_something_is_not_resumed(change, message, data, tmp_path):
    file, settings = tmp_path / "run.pt", Settings(epochs=2)
    kept(data, file, settings)
    checkpoints.save(file, checkpoints.load(file) | change)
    with pytest.raises(CheckpointError, match=f"run.pt .*{message}"):
        kept(data, file, settings, resume=True)


@pytest.mark.whole
def test_a_file_of_a_part_holds_this_part_alone_and_resumes(data, tmp_path):
    file, settings = tmp_path / "run.pt", Settings(epochs=3, order="layer", layers=(2, 3))
    build_small = functools.partial(small_dt, data.train_images)
    straight = build_small()
    losses = fit(straight, data.train_images, data.train_labels, settings)
    assert losses.shape == (3, 2)
    with pytest.raises(KeyboardInterrupt):
        fit(
            build_small(),
            data.train_images,
            data.train_labels,
            settings,
            keeper=Keeper(file),
            after_epoch=interrupted(1),
        )
    state = checkpoints.load(file)["state"]
    assert {name.split(".")[1] for name in state if name.startswith("layers.")} == {"1", "2"}
    assert any(name.startswith("readout.") for name in state)
    resumed, again = kept(data, file, settings, model=build_small(), resume=True)
    assert states_equal(straight, resumed) and torch.equal(losses, again)


def test_checkpoints_may_be_written_less_often(data, tmp_path, monkeypatch):
    """By a clock that passes 30 seconds in every epoch: with a minute between them, after epochs 2, 4 and the last."""
    now = [0.0]
    monkeypatch.setattr(training, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def epochs_in_file(file, **options):
        seen = []
        fit(
            small_stack(), data.train_images, data.train_labels, Settings(epochs=5), keeper=Keeper(file, **options),
            progress=lambda steps, text: now.__setitem__(0, now[0] + 30 * text.startswith("epoch")) or steps,
            after_epoch=lambda epoch: seen.append(len(checkpoints.load(file)["history"]) if file.exists() else 0),
        )  # fmt: skip
        return seen

    assert epochs_in_file(tmp_path / "minutes.pt", every=60) == [0, 2, 2, 4, 5]
    assert epochs_in_file(tmp_path / "always.pt") == [1, 2, 3, 4, 5]


def test_seconds_go_on_after_an_interruption(data, tmp_path, monkeypatch):
    """By a clock that passes 10 seconds in every epoch: what was spent before counts, the night in between does not."""
    now, file = [0.0], tmp_path / "run.pt"
    monkeypatch.setattr(training, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def train(keeper, **options):
        now[0] += 5  # from the making of the Keeper: features and the like
        fit(
            small_stack(), data.train_images, data.train_labels, Settings(epochs=4), keeper=keeper, **options,
            progress=lambda steps, text: now.__setitem__(0, now[0] + 10 * text.startswith("epoch")) or steps,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        train(Keeper(file), after_epoch=interrupted(3))
    now[0] = 1000.0  # the next morning
    keeper = Keeper(file, resume=True)
    train(keeper)
    assert keeper.seconds == checkpoints.load(file)["seconds"] == 35 + 15
    done = Keeper(file, resume=True)
    train(done)
    assert done.seconds == 50  # a finished run took what it took


# --- Predictions and accuracy ---


def test_accuracy_is_the_share_of_right_predictions(data):
    model = small_stack()
    said = predictions(model, data.train_images, generator(2))
    assert said.shape == (260,) and said.dtype == torch.int64
    right = accuracy(model, data.train_images, data.train_labels, generator(2))
    assert right == (said == data.train_labels).sum().item() / 260 and 0 < right < 1
    assert accuracy(model, data.train_images, said, generator(2)) == 1


def test_other_ways_to_predict_are_asked_as_they_are_given(data):
    """Batches of 200 for a chain, all from one generator; what the way itself needs is the caller's to fill in."""
    model, asked = small_stack(), []

    def say(images, generator):
        asked.append((len(images), generator))
        return torch.arange(len(images)) % K

    g = generator()
    assert predictions(model, data.train_images, g, say).tolist() == [i % 10 for i in [*range(200), *range(60)]]
    assert asked == [(200, g), (60, g)]
    quiet = functools.partial(model.predict, noise=False)
    expected, draws = [], generator(1)
    for images in data.train_images.split(200):
        expected.append(model.predict(images, draws, noise=False))
    assert torch.equal(predictions(model, data.train_images, generator(1), quiet), torch.cat(expected))
    alone = functools.partial(model.predict_alone, t=2)
    right = (model.predict_alone(data.test_images, 2, generator(1)) == data.test_labels).double().mean().item()
    assert accuracy(model, data.test_images, data.test_labels, generator(1), alone) == right


def test_a_flow_is_asked_a_thousand_images_at_a_time(data):
    model, asked = built("paper-fm", data.train_images, data.train_labels, num_steps=2), []
    predictions(model, torch.zeros(1002, 1, 8, 8), predict=lambda x, generator: asked.append(len(x)) or torch.zeros(len(x)))
    assert asked == [1000, 2]


@pytest.mark.slow
@pytest.mark.parametrize("which", CONFIGURATIONS)
def test_measuring_neither_depends_on_the_mode_nor_changes_it(which, data):
    """In training mode, in evaluation mode and in a mixture; many images and one."""
    model = build(which, data)
    fit(model, data.train_images, data.train_labels, Settings(epochs=2, batch_size=32, order=order_of(which)))
    expected = predictions(model.eval(), data.test_images, generator(1))
    right = accuracy(model, data.test_images, data.test_labels, generator(1))
    one = [predictions(model, x, generator(i)) for i, x in enumerate(data.test_images[:9].split(1))]
    for training_modules in ([], list(model.modules()), list(model.modules())[::2]):
        model.eval()
        for module in training_modules:
            module.training = True
        with unchanged(model):
            assert torch.equal(predictions(model, data.test_images, generator(1)), expected)
            assert accuracy(model, data.test_images, data.test_labels, generator(1)) == right
            for i, x in enumerate(data.test_images[:9].split(1)):
                assert torch.equal(predictions(model, x, generator(i)), one[i])


def order_of(which):
    return CONFIGURATIONS[which][1].get("order", "together")


def test_weights_that_the_last_step_made_useless_are_found(data, tmp_path):
    """The losses were taken before it; and nothing of it is kept."""
    for rate in (1e30, 1e15):  # not finite, and too large to be walked through
        model, path = pixel_model(data.train_images), tmp_path / "run.pt"
        settings = Settings(batch_size=1000, learning_rate=rate)
        with pytest.raises(NoPropError, match="training diverged: layers.* is not finite, or huge, after epoch 1; try a smaller"):
            fit(model, data.train_images, data.train_labels, settings, keeper=Keeper(path))
        assert not path.exists()


def test_a_run_that_was_done_before_is_left_in_evaluation_mode_too(data, tmp_path):
    for resume in (False, True):
        model = pixel_model(data.train_images)
        fit(model, data.train_images, data.train_labels, Settings(), keeper=Keeper(tmp_path / "run.pt", resume=resume))
        assert not model.training


def test_numbers_of_numpys_kinds_can_be_kept(data, tmp_path):
    """A sweep over numpy.logspace would else lose every file that it writes."""
    settings = Settings(epochs=numpy.int64(1), learning_rate=numpy.logspace(-3, -2, 1)[0])
    assert type(settings.learning_rate) is float and type(settings.epochs) is int
    fit(pixel_model(data.train_images), data.train_images, data.train_labels, settings, keeper=Keeper(tmp_path / "run.pt"))
    assert checkpoints.load(tmp_path / "run.pt")["settings"]["learning_rate"] == pytest.approx(1e-3)
    assert type(RECIPES["local"](num_steps=numpy.int64(3)).num_steps) is int
