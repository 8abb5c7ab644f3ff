"""From data to numbers: what is planned is what is run, and what is kept gives the same numbers again, to the last digit."""

import dataclasses
import functools
import json
import types

import pytest
import torch
from conftest import built, small_stack, some_of, states_equal

from noprop_helpers import NoPropError, checkpoints, passes, runs
from noprop_helpers.checkpoints import CheckpointError
from noprop_helpers.data import dataset_checksum
from noprop_helpers.images import Preparation
from noprop_helpers.recipes import EMBEDDINGS, RECIPES
from noprop_helpers.runs import Run, as_data, from_data, load_trained, measured, plan, run, save_trained
from noprop_helpers.schedules import linear_alphas
from noprop_helpers.settings import Settings
from noprop_helpers.training import Keeper, predictions

# Of every recipe as little as still does all that it does.
SMALL = {
    "shared": {"num_steps": "3", "hidden_dim": "16"},
    "local": {"num_steps": "3", "hidden_dim": "16", "num_centres": "20"},
    "closed_form": {"num_steps": "3", "num_centres": "20", "epochs": "1"},
    "published": {"num_steps": "3"},
    "residual": {"num_steps": "2", "width": "4", "batch_size": "50"},
    **{name: {"num_steps": "2", "batch_size": "50"} for name in RECIPES if name.startswith("paper-")},
}


def small_run(dataset, recipe, **changes):
    """Two epochs, in float32 unless the changes say otherwise."""
    if recipe == "paper-adjoint":
        pytest.importorskip("torchdiffeq")
    return plan(dataset, recipe, {"epochs": "2", "precision": "float32"} | SMALL[recipe] | changes)


# --- The same numbers, however a model comes back ---


def assert_the_same_again(first, planned, dataset, path):
    """A finished run resumed, and its file loaded and measured, say what the run itself said."""
    resumed = run(planned, dataset, checkpoint=path, resume=True)
    loaded = load_trained(path)
    results, said = measured(loaded.model, loaded.run, dataset)
    numbers = {name: value for name, value in first.results.items() if name not in ("train_seconds", "summed_loss_by_epoch")}
    assert resumed.results == first.results  # the seconds too: of the training, which was before
    assert results == numbers
    for again in (resumed.predictions, said):
        assert again.keys() == first.predictions.keys()
        assert all(torch.equal(again[name], classes) for name, classes in first.predictions.items())
    assert states_equal(first.model, loaded.model) and states_equal(first.model, resumed.model)
    assert torch.equal(loaded.history, first.losses) and loaded.run == planned


CASES = [(recipe, {}) for recipe in RECIPES if not recipe.startswith("paper-")]
CASES += [(recipe, {"embedding": name}) for recipe in RECIPES if recipe.startswith("paper-") for name in EMBEDDINGS]


@pytest.mark.whole
@pytest.mark.parametrize("recipe, changes", CASES, ids=[" ".join([recipe, *changes.values()]) for recipe, changes in CASES])
def test_train_resume_and_load_measure_the_same(recipe, changes, few_digits, tmp_path):
    planned = small_run(few_digits, recipe, **changes)
    first = run(planned, few_digits, checkpoint=tmp_path / "a.pt")
    assert_the_same_again(first, planned, few_digits, tmp_path / "a.pt")


def test_neither_mode_nor_company_changes_an_answer(few_digits, tmp_path):
    """A loaded model is asked one image at a time, in training mode too, and says what it said of all of them."""
    planned = small_run(few_digits, "shared")
    first = run(planned, few_digits, checkpoint=tmp_path / "a.pt")
    model = load_trained(tmp_path / "a.pt").model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    together = model.predict(few_digits.test_images, torch.Generator().manual_seed(0))
    for mode in (False, True):
        model.train(mode)
        assert measured(model, planned, few_digits)[0]["test_accuracy"] == first.results["test_accuracy"]
        g = torch.Generator().manual_seed(0)
        noise = torch.randn(len(together), model.W.shape[1], generator=g)  # as ``predict`` draws it for all at once
        alone = torch.cat([_walk(model, x[None], z[None]) for x, z in zip(few_digits.test_images, noise)])
        assert torch.equal(alone, together)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def _walk(model, image, z):
    """The class of one image [1, C, H, W], from the start z [1, D]."""
    model._noise = lambda batch_size, generator: z
    try:
        return model.predict(image)
    finally:
        del model._noise


def test_a_run_is_decided_by_its_seed_alone(few_digits):
    """Whatever was drawn before, and without a trace after."""
    planned = small_run(few_digits, "local", feature_dropout="0.2")
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = run(planned, few_digits)
    assert torch.equal(torch.rand(1), expected)
    torch.rand(17)
    again, other = run(planned, few_digits), run(small_run(few_digits, "local", feature_dropout="0.2", seed="1"), few_digits)
    assert states_equal(first.model, again.model) and not states_equal(first.model, other.model)
    assert torch.equal(first.losses, again.losses) and first.predictions.keys() == again.predictions.keys()
    assert all(torch.equal(first.predictions[name], again.predictions[name]) for name in first.predictions)


# --- Plans ---


def test_a_plan_is_the_recipes_own_but_for_the_changes(digits):
    planned = plan(digits, "local", {"learning_rate": "3e-3", "num_steps": "5", "seed": "4"})
    own = RECIPES["local"]()
    assert planned.recipe == "local" and planned.dataset == "digits"
    assert planned.model == dataclasses.replace(own, num_steps=5)
    assert planned.settings == dataclasses.replace(own.settings(runs.shape_of(digits)), learning_rate=3e-3, seed=4)
    assert plan(digits).recipe == "shared"


def text_of(value):
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_of_training_and_model_can_be_changed(recipe, digits):
    """Each to another value than its own, by text, as a shell gives it."""
    before = plan(digits, recipe)
    others = {"order": "interleaved", "optimizer": "sgd", "precision": "bfloat16", "layers": "1-2", "embedding": "learned"}
    others["optimizer"] = "adam" if before.settings.optimizer == "adamw" else "adamw"
    for part in ("model", "settings"):
        value = getattr(before, part)
        for field in dataclasses.fields(value):
            own = getattr(value, field.name)
            text = others.get(field.name)
            if text is None:
                text = text_of(not own if isinstance(own, bool) else own + 1 if isinstance(own, int) else own / 2 + 0.25)
            base = {"order": "layer"} if field.name in ("augment", "epochs", "feature_dropout") else {}
            after = getattr(getattr(plan(digits, recipe, base | {field.name: text}), part), field.name)
            assert after != own and (field.name == "layers" or text_of(after) == text), field.name


@pytest.mark.parametrize("recipe, changes, message", [
    ("best", {}, "unknown recipe 'best'; choose one of shared, local, closed_form, published"),
    ("shared", {"eta": "1"}, "shared has no setting 'eta'; choose one of augment, batch_size, .*num_steps, .*weight_decay"),
    ("paper-fm", {"hidden_dim": "3"}, "paper-fm has no setting 'hidden_dim'; choose one of .*sigma"),
    ("local", {"num_steps": "many"}, "num_steps: expected a value of type int, got 'many'"),
    ("local", {"num_steps": "0"}, "num_steps must be at least 1, got 0"),
    ("local", {"patch_size": "9"}, None),
])  # fmt: skip
def test_a_plan_that_cannot_be_is_refused(recipe, changes, message, digits):
    if message is None:  # sound in itself, but not for these images
        with pytest.raises(NoPropError, match=r"patches of 9 x 9 pixels do not fit into images \[1, 8, 8\]"):
            run(plan(digits, recipe, changes), digits)
        return
    with pytest.raises(NoPropError, match=message):
        plan(digits, recipe, changes)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_is_plain_data_and_comes_back_from_it(recipe, digits):
    changes = SMALL[recipe] | {"layers": "1-2", "seed": "3"}
    steps = (1, 5) if recipe in ("paper-ct", "paper-fm") else ()
    planned = dataclasses.replace(plan(digits, recipe, changes), inference_runs=2, steps=steps)
    data = as_data(planned)
    assert from_data(data) == planned
    assert from_data(json.loads(json.dumps(data))) == planned  # through JSON, which has no tuples


def test_a_description_of_another_version_is_refused(digits):
    data = as_data(plan(digits))
    for broken in (
        data | {"recipe": "best"}, data | {"model": {"depth": 3}}, data | {"colour": 1},
        data | {"settings": data["settings"] | {"momentum": 1}}, {name: data[name] for name in data if name != "settings"},
    ):  # fmt: skip
        with pytest.raises(NoPropError, match="this description of a run is of another version"):
            from_data(broken)


@pytest.mark.parametrize("changes, message", [
    *(
        ({"inference_runs": number}, f"inference_runs must be an integer of at least 1, got {number!r}")
        for number in (0, True, 2.0, "2")
    ),
    *(
        ({"steps": steps}, f"steps must be a tuple of integers of at least 1, got {steps!r}")
        for steps in ((1, 0), (True,), (2.0,), 3, "12", [1, 2])
    ),
])  # fmt: skip
def test_a_count_that_is_none_is_named(changes, message):
    with pytest.raises(NoPropError) as error:
        Run("shared", RECIPES["shared"](), Settings(), "digits", **changes)
    assert str(error.value) == message


def test_data_that_nothing_can_be_learnt_from_are_named(few_digits):
    for data, message in [
        (few_digits._replace(class_names=("zero",)), "digits has one class, 'zero': there is nothing to tell apart"),
        (some_of(few_digits, 0, 5), "digits: expected at least one image to train on, got none"),
    ]:
        with pytest.raises(NoPropError) as error:
            plan(data)
        assert str(error.value) == message
    assert plan(some_of(few_digits, 1, 1)._replace(class_names=("zero", "one"))).dataset == "digits"


# --- What a run measures ---


def by_hand(model, ways, dataset, seed):
    """Each way's answers, from the noise of the run's seed and the way's number."""
    draws = [torch.Generator().manual_seed(passes.seed_of(seed, 0, number)) for number in range(len(ways))]
    said = {name: predictions(model, dataset.test_images, g, way) for (name, way), g in zip(ways.items(), draws)}
    return said, {name: (classes == dataset.test_labels).double().mean().item() for name, classes in said.items()}


def assert_measured(model, planned, ways, expected, dataset):
    """``expected``: the share that each way was right -> results."""
    results, said = measured(model, planned, dataset)
    by, right = by_hand(model, ways, dataset, planned.settings.seed)
    assert list(said) == list(ways) and all(torch.equal(said[name], by[name]) for name in ways)
    wanted = expected(right)
    assert results == {name: pytest.approx(value) if name == "test_accuracy" else value for name, value in wanted.items()}


def test_a_chain_is_measured_as_it_is_written_here(few_digits):
    part = functools.partial
    for inference, other in (("sample", "accuracy_without_noise"), ("answer", "accuracy_with_noise"), (linear_alphas(3), None)):
        model = small_stack(3, inference=inference)
        planned = Run("shared", RECIPES["shared"](num_steps=3), Settings(seed=5), "digits", inference_runs=2)
        ways = {"walk_0": model.predict, "walk_1": model.predict, "top_layer_accuracy": part(model.predict_alone, t=3)}
        if other:
            ways[other] = part(model.predict, noise=inference != "sample")

        def expected(right):
            walks = [right["walk_0"], right["walk_1"]]
            rest = {name: right[name] for name in ("top_layer_accuracy", other) if name}
            return {"test_accuracy": sum(walks) / 2, "test_accuracy_by_run": walks} | rest

        assert_measured(model, planned, ways, expected, few_digits)


def test_a_flow_is_measured_as_it_is_written_here(few_digits):
    """At each number of steps below its own, and the walk itself counts as the one at its own."""
    part, recipe = functools.partial, RECIPES["paper-fm"](num_steps=4)
    model = built("paper-fm", few_digits.train_images, few_digits.train_labels, num_steps=4)
    ways = {"walk_0": model.predict, "steps_1": part(model.predict, num_steps=1), "steps_3": part(model.predict, num_steps=3)}
    walk = {"walk_0": model.predict}
    for steps, asked, at in (((1, 3, 4, 9), ways, ("1", "3", "4")), ((1, 3), ways, ("1", "3")), ((), walk, ())):
        planned = Run("paper-fm", recipe, Settings(seed=2), "digits", steps=steps)

        def expected(right):
            by_steps = {n: right["walk_0" if n == "4" else f"steps_{n}"] for n in at}
            results = {"test_accuracy": right["walk_0"], "test_accuracy_by_run": [right["walk_0"]]}
            return results | ({"test_accuracy_by_steps": by_steps} if at else {})

        assert_measured(model, planned, asked, expected, few_digits)


def test_how_far_learned_embeddings_are_apart(few_digits):
    model = small_stack(3, W=torch.nn.Parameter(torch.randn(10, 10, generator=torch.Generator().manual_seed(0))))
    planned = Run("shared", RECIPES["shared"](num_steps=3), Settings(), "digits")
    distance = [(model.W[i] - model.W[j]).norm().item() for i in range(10) for j in range(i)]
    found = measured(model, planned, few_digits)[0]["embedding_distance"]
    assert found == {"smallest": pytest.approx(min(distance)), "mean": pytest.approx(sum(distance) / 45)}


def test_a_plan_measures_once_and_no_more_than_is_asked(digits):
    planned = plan(digits)
    assert (planned.inference_runs, planned.steps) == (1, ())


@pytest.mark.parametrize("recipe", RECIPES)
def test_only_models_in_continuous_time_take_steps(recipe, digits):
    """Found before any training, not after it."""
    if recipe in ("paper-ct", "paper-fm"):
        assert dataclasses.replace(plan(digits, recipe), steps=(1, 5)).steps == (1, 5)
        return
    with pytest.raises(NoPropError, match=f"steps are for models in continuous time, paper-ct and paper-fm; {recipe} walks"):
        dataclasses.replace(plan(digits, recipe), steps=(1,))


def test_a_description_says_all_that_a_file_must(few_digits):
    planned = small_run(few_digits, "closed_form")
    assert runs.description(planned, few_digits) == {
        "run": as_data(planned), "image_shape": [1, 8, 8], "num_images": 150, "class_names": list("0123456789"),
        "dataset_checksum": dataset_checksum(few_digits),
    }  # fmt: skip


@pytest.fixture(scope="module")
def solved(digits, tmp_path_factory):
    """Files of solved layers, which take no training: 2 and 3, 1, 1 and 2, all; the first names are of the last layers."""
    few, folder = some_of(digits, 150, 20), tmp_path_factory.mktemp("solved")
    for name, changes in {"a": {"layers": "2-3"}, "b": {"layers": "1"}, "c": {"layers": "1-2"}, "whole": {}}.items():
        run(small_run(few, "closed_form", **changes), few, checkpoint=folder / f"{name}.pt")
    return folder


def test_solved_parts_are_joined_in_the_order_of_their_layers(solved, few_digits, tmp_path, monkeypatch):
    """Which file gives which layer, losses and seconds, and what the whole says of itself."""
    upper, lower, whole = solved / "a.pt", solved / "b.pt", load_trained(solved / "whole.pt")
    for order in ([upper, lower], [lower, upper], [solved / "whole.pt"]):
        joined = runs.join(order)
        assert states_equal(joined.model, whole.model) and torch.equal(joined.history, whole.history)
        assert joined.run == small_run(few_digits, "closed_form") == whole.run and joined.about == whole.about
        assert joined.seconds == pytest.approx(sum(checkpoints.load(path)["seconds"] for path in order))
        assert not joined.model.training and joined.model.image_shape == (1, 8, 8)
    save_trained(tmp_path / "again.pt", joined)
    again = load_trained(tmp_path / "again.pt")
    assert states_equal(again.model, whole.model) and again[1:3] == joined[1:3]
    assert torch.equal(again.history, whole.history) and again.seconds == joined.seconds
    # "meta" stands for another device; it has no numbers to be looked at.
    monkeypatch.setattr(checkpoints, "load_state", lambda model, state, source: model.load_state_dict(state))
    monkeypatch.setattr(runs, "_check_shared", lambda *states: None)
    elsewhere = [load_trained(solved / "whole.pt", "meta"), runs.join([upper, lower], "meta")]
    assert all(one.history.device.type == one.model.W.device.type == "meta" for one in elsewhere)


def test_what_belongs_to_no_layer_comes_with_layer_1(solved, tmp_path):
    content = checkpoints.load(solved / "a.pt")
    rounded = content["state"] | {"W": content["state"]["W"] + 1e-6}
    checkpoints.save(tmp_path / "z.pt", content | {"state": rounded})
    for files in ([tmp_path / "z.pt", solved / "b.pt"], [solved / "b.pt", tmp_path / "z.pt"]):
        assert torch.equal(runs.join(files).model.W, torch.eye(10))


def test_layers_that_saw_other_features_are_not_joined(solved, tmp_path):
    """A GPU draws other patches from the same seed: layers that go with these would answer at random."""
    content = checkpoints.load(solved / "a.pt")
    for name in ("W", next(name for name in content["state"] if name.startswith("encoder."))):
        other = content["state"] | {name: content["state"][name] + 0.1}
        checkpoints.save(tmp_path / "z.pt", content | {"state": other})
        with pytest.raises(CheckpointError, match=f"z.pt was trained on other features than .*b.pt: its {name} differs"):
            runs.join([solved / "b.pt", tmp_path / "z.pt"])


def test_only_what_all_layers_see_must_be_the_same_in_every_part():
    """Layers and read-outs are a part's own, counts are no features, what one file alone has is nobody's, and rounding is allowed."""
    first = {"encoder.filters": torch.ones(3), "layers.0.w": torch.ones(2), "readout.bias": torch.zeros(2), "W": torch.eye(2)}
    first |= {"encoder.count": torch.tensor(1), "encoder.old": torch.ones(1)}
    own = {"layers.0.w": torch.zeros(2), "readout.bias": torch.ones(2), "encoder.count": torch.tensor(2), "encoder.new": torch.ones(1)}
    same = {name: value for name, value in first.items() if name != "encoder.old"} | own
    runs._check_shared(same | {"encoder.filters": torch.full((3,), 1.0005)}, "b.pt", first, "a.pt")
    for filters in (torch.full((3,), 1.01), torch.ones(4)):
        with pytest.raises(CheckpointError) as caught:
            runs._check_shared(same | {"encoder.filters": filters}, "b.pt", first, "a.pt")
        assert str(caught.value) == (
            "b.pt was trained on other features than a.pt: its encoder.filters differs, as after a fit on another kind of device; "
            "train its layers again on the kind that the others had"
        )


def test_parts_that_make_no_whole_are_refused(solved, few_digits, tmp_path):
    """Each in one line, with the file's name in front where one file is to blame."""
    content = checkpoints.load(solved / "a.pt")
    checkpoints.save(tmp_path / "early.pt", content | {"history": content["history"][:0]})
    state = {name: value for name, value in content["state"].items() if name != "layers.1.state.weight"}
    checkpoints.save(tmp_path / "less.pt", content | {"state": state | {"layers.7.state.weight": torch.ones(1)}})
    checkpoints.save(tmp_path / "bare.pt", {name: content[name] for name in ("state", "model")})
    checkpoints.save(tmp_path / "silent.pt", {name: content[name] for name in ("state", "model", "about", "seconds")})
    checkpoints.save(tmp_path / "whole.pt", checkpoints.load(solved / "whole.pt"))
    other = small_run(few_digits, "closed_form", layers="2-3", seed="1")
    run(other, few_digits, checkpoint=tmp_path / "other.pt")
    lower = solved / "b.pt"
    for files, message in [
        ([solved / "a.pt"], "^nobody trained layers 1: give their files too$"),
        ([solved / "c.pt"], "^nobody trained layers 3: give their files too$"),
        ([lower], "^nobody trained layers 2, 3: give their files too$"),
        ([solved / "a.pt", lower, solved / "c.pt"], "^layer 1 is in both .*b.pt and .*c.pt; name one of them$"),
        ([solved / "whole.pt", tmp_path / "whole.pt"], "^layer 1 is in both .*whole.pt and .*whole.pt; name one of them$"),
        ([lower, tmp_path / "early.pt"], "^.*early.pt is trained for 0 of 1 epochs: go on with --resume$"),
        ([lower, tmp_path / "less.pt"], "^.*less.pt does not fit this model, which has no layers.7.state.weight$"),
        ([lower, tmp_path / "other.pt"], "^.*other.pt has seed 1, expected 0$"),
        ([lower, tmp_path / "bare.pt"], r"^.*bare.pt does not say what model it holds; build the model and call its load\(path\)$"),
        ([tmp_path / "bare.pt", lower], "^.*bare.pt does not say what model it holds"),
        ([tmp_path / "silent.pt", lower], "^.*silent.pt does not say what model it holds"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            runs.join(files)
    with pytest.raises(CheckpointError, match="^.*a.pt holds layers 2, 3 alone; join it with the others' files$"):
        load_trained(solved / "a.pt")
    whole = checkpoints.load(solved / "whole.pt")
    checkpoints.save(tmp_path / "odd.pt", whole | {"state": whole["state"] | {"odd": torch.ones(1)}})
    with pytest.raises(CheckpointError, match="^.*odd.pt does not fit this model, which has no odd$"):
        load_trained(tmp_path / "odd.pt")


def test_nothing_and_a_file_twice_are_not_joined(solved):
    upper, lower = solved / "a.pt", solved / "b.pt"
    for paths, message in [
        ([], "expected at least one file to join, got none"),
        ([upper, lower, str(upper)], f"a file is named twice: {upper}, {lower}, {upper}"),
    ]:
        with pytest.raises(CheckpointError) as error:
            runs.join(paths)
        assert str(error.value) == message


@pytest.mark.parametrize("part, about, message", [
    ({"seconds": "many"}, {}, "does not say its seconds: expected a float, got a str"),
    ({}, {"class_names": "abc"}, "does not say its class_names: expected a list, got a str"),
    *(
        ({}, {"image_shape": shape}, f"has image_shape {shape}, expected three positive numbers")
        for shape in ([8, 8], [1, 8, 0], [1, 8.0, 8])
    ),
    (
        {}, {"run": {"recipe": "best"}},
        "describes no model of this version: this description of a run is of another version: 'settings'",
    ),
    (
        {}, {"image_shape": [1, 2, 8]},
        "describes no model of this version: patches of 3 x 3 pixels do not fit into images [1, 2, 8]",
    ),
])  # fmt: skip
def test_a_file_that_describes_no_model_is_named(part, about, message, solved, tmp_path):
    path, content = tmp_path / "a.pt", checkpoints.load(solved / "whole.pt")
    checkpoints.save(path, content | part | {"about": content["about"] | about})
    with pytest.raises(CheckpointError) as error:
        load_trained(path)
    assert str(error.value) == f"{path} {message}"


# --- Where a run computes: "meta" stands for a device that is not the CPU; it has no numbers, so nothing is computed there ---


def test_a_run_is_trained_and_measured_on_its_device(few_digits, monkeypatch):
    asked = []
    monkeypatch.setattr("noprop_helpers.settings.computes_bfloat16", lambda device: asked.append(device))
    done, found = (None, torch.zeros(1, 1)), ({}, {})
    monkeypatch.setattr(runs, "trained", lambda run, dataset, device, keeper, progress: asked.append(device) or done)
    monkeypatch.setattr(runs, "measured", lambda model, run, dataset, device: asked.append(device) or found)
    run(small_run(few_digits, "local", precision="auto"), few_digits, device="meta")
    assert asked == ["meta"] * 3


@pytest.fixture
def draws(monkeypatch):
    """Generators of any device, which draw nothing: each is its device's name and its seed."""
    seeded = types.SimpleNamespace(Generator=lambda device: types.SimpleNamespace(manual_seed=lambda seed: (device, seed)))
    monkeypatch.setattr(runs, "torch", seeded)


def test_all_that_is_trained_with_is_on_the_runs_device(draws, few_digits, monkeypatch):
    seen = []

    def prepare(self, model, images, labels, generator):
        seen.extend([model.W.device.type, images.device.type, labels.device.type, generator])
        model.register_buffer("fresh", torch.ones(1))  # what is made here may lie elsewhere at first

    def fit(model, images, labels, settings, keeper, progress, after_epoch):
        seen.extend([model.fresh.device.type, images.device.type, labels.device.type])

    monkeypatch.setattr(runs, "fit", fit)
    monkeypatch.setattr(RECIPES["closed_form"], "prepare", prepare)
    runs.trained(small_run(few_digits, "closed_form", seed="4"), few_digits, "meta", Keeper())
    assert seen == ["meta", "meta", "meta", ("meta", 4), "meta", "meta", "meta"]


def test_all_that_is_measured_with_is_on_the_runs_device(draws, few_digits, monkeypatch):
    class Said:
        """Answers that note what they are compared with."""

        def __eq__(self, labels):
            seen.append(labels.device.type)
            return torch.ones(1)

        def cpu(self):
            return self

    def predictions(model, images, generator, predict):
        seen.extend([model, images.device.type, generator, predict])
        return Said()

    seen, model = [], built("paper-fm", few_digits.train_images, few_digits.train_labels, num_steps=2)
    monkeypatch.setattr(runs, "predictions", predictions)
    measured(model, small_run(few_digits, "paper-fm", seed="4"), few_digits, "meta")
    assert seen == [model, "meta", ("meta", passes.seed_of(4, 0, 0)), model.predict, "meta"]


# --- Results ---


def test_results_are_what_the_model_says(few_digits):
    planned = dataclasses.replace(small_run(few_digits, "local"), inference_runs=3)
    seen = []
    trained = run(planned, few_digits, progress=lambda work, text: seen.append(text) or work)
    results, labels = trained.results, few_digits.test_labels
    right = {name: (classes == labels).double().mean().item() for name, classes in trained.predictions.items()}
    assert results["test_accuracy_by_run"] == [right["walk_0"], right["walk_1"], right["walk_2"]]
    assert results["test_accuracy"] == pytest.approx(sum(results["test_accuracy_by_run"]) / 3)
    assert results["top_layer_accuracy"] == right["top_layer_accuracy"]
    assert results["accuracy_with_noise"] == right["accuracy_with_noise"] and "accuracy_without_noise" not in results
    assert all(classes.dtype == torch.int64 and classes.shape == labels.shape for classes in trained.predictions.values())
    assert trained.losses.shape == (2, 3)
    assert results["summed_loss_by_epoch"] == pytest.approx(trained.losses.sum(1).tolist())
    assert results["train_seconds"] > 0 and any("epoch 2/2" in text for text in seen)


def test_walks_differ_by_their_noise(few_digits):
    """Which follows from the run's seed and the walk's number, and from nothing else."""
    planned = dataclasses.replace(small_run(few_digits, "published", seed="5"), inference_runs=3)
    trained = run(planned, few_digits)
    walks = [trained.predictions[f"walk_{i}"] for i in range(3)]
    for i, walk in enumerate(walks):
        noise = torch.Generator().manual_seed(passes.seed_of(5, 0, i))
        assert torch.equal(walk, predictions(trained.model, few_digits.test_images, noise))
    assert not any(torch.equal(walks[i], walks[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("recipe, embedding", [("paper-dt", "learned"), ("paper-fm", "one_hot"), ("paper-ct", "prototype")])
def test_results_hold_what_the_ledger_shows(recipe, embedding, few_digits):
    steps = () if recipe == "paper-dt" else (1, 2, 3)
    planned = dataclasses.replace(
        small_run(few_digits, recipe, embedding=embedding, epochs="1"), inference_runs=2, steps=steps
    )
    results = run(planned, few_digits).results
    assert len(results["test_accuracy_by_run"]) == 2
    assert ("embedding_distance" in results) == (embedding != "one_hot")
    assert ("top_layer_accuracy" in results) == ("accuracy_without_noise" in results) == (recipe == "paper-dt")
    if recipe != "paper-dt":  # the numbers of steps that the model itself takes, and fewer
        assert results["test_accuracy_by_steps"].keys() == {"1", "2"}
        assert results["test_accuracy_by_steps"]["2"] == results["test_accuracy_by_run"][0]
    if embedding != "one_hot":
        assert 0 < results["embedding_distance"]["smallest"] <= results["embedding_distance"]["mean"]


def test_beyond_the_paper_is_layer_local(few_digits):
    trained = run(small_run(few_digits, "residual", epochs="1", num_steps="5"), few_digits)
    assert trained.model.layer_local and trained.model.num_layers == 5


@pytest.mark.whole
def test_precision_follows_the_device(few_digits, monkeypatch, tmp_path):
    """Wherever a run is started, in bfloat16 only where the processor computes it; its file says which it was."""
    for computes, precision in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr("noprop_helpers.settings.computes_bfloat16", lambda device: computes)
        planned, path = small_run(few_digits, "paper-dt", epochs="1", precision="auto"), tmp_path / f"{precision}.pt"
        assert planned.settings.precision == "auto" == plan(few_digits, "paper-ct").settings.precision
        run(planned, few_digits, checkpoint=path)
        assert load_trained(path).run.settings.precision == precision
    # Taken up on a machine that computes otherwise, it would not be the same run.
    with pytest.raises(CheckpointError, match="has precision float32, expected bfloat16"):
        run(planned, few_digits, checkpoint=tmp_path / "float32.pt", resume=True)


def test_parameters_are_those_that_are_trained(few_digits):
    shared = runs.build(small_run(few_digits, "shared"), runs.shape_of(few_digits))
    published = runs.build(small_run(few_digits, "published"), runs.shape_of(few_digits))
    assert runs.num_parameters(published) == sum(p.numel() for p in published.layers.parameters())
    assert runs.num_parameters(shared) == sum(p.numel() for m in (shared.layers, shared.encoder) for p in m.parameters())


def test_training_that_diverged_says_so(few_digits):
    planned = small_run(few_digits, "paper-dt", learning_rate="1e38")
    with pytest.raises(NoPropError, match="diverged: the loss of layer 1 is not finite at step 2 of epoch 1; try a smaller learning_rate"):
        run(planned, few_digits)


def test_data_that_no_recipe_can_use_are_refused(digits):
    """In one line: images too small for a recipe's convolutions, and a single class."""
    tiny = some_of(digits, 30, 5)._replace(
        train_images=digits.train_images[:30, :, :3, :], test_images=digits.test_images[:5, :, :3, :]
    )
    for recipe in RECIPES:
        if recipe in ("local", "closed_form"):  # take any image that a patch fits into
            assert run(small_run(tiny, recipe), tiny).losses.isfinite().all()
            continue
        sides = 5 if recipe == "residual" else 4
        with pytest.raises(NoPropError, match=rf"images \[1, 3, 8\] are too small for this recipe: it needs sides of {sides}"):
            run(small_run(tiny, recipe), tiny)
    with pytest.raises(NoPropError, match="one grey pixel, less its own mean, is nothing: patch_size must be at least 2"):
        run(small_run(tiny, "local", patch_size="1"), tiny)
    alone = tiny._replace(class_names=("zero",), train_labels=torch.zeros(30, dtype=torch.int64))
    for recipe in RECIPES:
        with pytest.raises(NoPropError, match="has one class, 'zero': there is nothing to tell apart"):
            plan(alone, recipe)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_smallest_images_that_a_recipe_takes(recipe, digits):
    side = {"local": 3, "closed_form": 3, "residual": 5}.get(recipe, 4)
    small = some_of(digits, 40, 5)._replace(
        train_images=digits.train_images[:40, :, :side, :side], test_images=digits.test_images[:5, :, :side, :side]
    )
    assert run(small_run(small, recipe), small).losses.isfinite().all()


# --- Files ---


@pytest.mark.parametrize("recipe, steps", [("local", 5), ("paper-ct", 20), ("paper-fm", 7)])
def test_a_file_knows_how_many_steps_its_model_has(recipe, steps, few_digits, tmp_path):
    path = tmp_path / "a.pt"
    trained = run(small_run(few_digits, recipe, epochs="1", num_steps=str(steps)), few_digits, checkpoint=path)
    loaded = load_trained(path)
    assert loaded.run.model.num_steps == steps
    assert (loaded.model.num_layers if recipe == "local" else loaded.model.num_steps) == steps
    assert states_equal(trained.model, loaded.model) and not loaded.model.training


def test_a_file_says_what_it_holds(few_digits, tmp_path):
    path = tmp_path / "a.pt"
    planned = small_run(few_digits, "paper-dt", eta="0.3")
    run(planned, few_digits, checkpoint=path)
    content = checkpoints.load(path)
    assert from_data(content["about"]["run"]) == planned
    assert content["about"]["dataset_checksum"] == dataset_checksum(few_digits)
    assert content["about"]["class_names"] == list("0123456789") and content["about"]["image_shape"] == [1, 8, 8]
    model = content["model"]
    assert (model["num_steps"], model["objective"], model["eta"], len(model["alpha_bar"])) == (2, "elbo", 0.3, 3)
    loaded = load_trained(path)
    assert loaded.about == content["about"] and loaded.seconds == content["seconds"] > 0
    assert loaded.history.shape == (2, 2)


@pytest.mark.whole
def test_resuming_takes_the_same_run_on_the_same_data(few_digits, tmp_path):
    path = tmp_path / "a.pt"
    planned = small_run(few_digits, "local")
    run(planned, few_digits, checkpoint=path)
    before = path.read_bytes()
    for changes, message in [
        ({"epochs": "3"}, "has epochs 2, expected 3"), ({"seed": "1"}, "has seed 0, expected 1"),
        ({"num_steps": "4"}, "has num_steps 3, expected 4"), ({"learning_rate": "1"}, "has learning_rate 0.004, expected 1.0"),
        ({"num_centres": "21"}, "has num_centres 20, expected 21"), ({"layers": "1"}, r"has layers None, expected \(1,\)"),
    ]:  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            run(small_run(few_digits, "local", **changes), few_digits, checkpoint=path, resume=True)
    with pytest.raises(CheckpointError, match="has recipe local, expected shared"):
        run(small_run(few_digits, "shared"), few_digits, checkpoint=path, resume=True)
    flipped = few_digits._replace(train_images=few_digits.train_images.flip(3))  # as many images, of the same shape
    tested = few_digits._replace(test_labels=few_digits.test_labels.flip(0))
    for other in (flipped, tested):
        with pytest.raises(CheckpointError, match="has dataset_checksum sha256:.*, expected sha256:"):
            run(planned, other, checkpoint=path, resume=True)
    with pytest.raises(CheckpointError, match="a.pt exists: go on from it with --resume"):
        run(planned, few_digits, checkpoint=path)
    assert path.read_bytes() == before


def test_a_file_of_another_model_is_not_loaded(few_digits, tmp_path):
    """Weights of one schedule in a file that claims another: refused, though every shape fits."""
    path = tmp_path / "a.pt"
    run(small_run(few_digits, "local"), few_digits, checkpoint=path)
    content = checkpoints.load(path)
    for name, value, message in [
        ("alpha_bar", [0.9, 0.5, 0.2, 0.1], r"has alpha_bar \[0.9, 0.5, 0.2, 0.1\], expected \[0.99"),
        ("objective", "elbo", "has objective elbo, expected cross_entropy"),
        ("num_steps", 4, "has num_steps 4, expected 3"),
    ]:
        checkpoints.save(path, content | {"model": content["model"] | {name: value}})
        with pytest.raises(CheckpointError, match=f"^{path} {message}"):
            load_trained(path)


def test_a_file_that_no_run_wrote_is_not_loaded(few_digits, tmp_path):
    path = tmp_path / "weights.pt"
    runs.build(small_run(few_digits, "local"), runs.shape_of(few_digits)).save(path)
    with pytest.raises(CheckpointError, match=r"weights.pt does not say what model it holds; build the model and call its load\(path\)$"):
        load_trained(path)
    with pytest.raises(CheckpointError, match="no file"):
        load_trained(tmp_path / "none.pt")


def test_a_loaded_model_knows_its_classes_and_its_images(few_digits, tmp_path):
    named = few_digits._replace(class_names=tuple("abcdefghij"))
    trained = run(small_run(named, "local"), named, checkpoint=tmp_path / "a.pt")
    loaded = load_trained(tmp_path / "a.pt")
    save_trained(tmp_path / "b.pt", loaded)
    for model in (trained.model, loaded.model, load_trained(tmp_path / "b.pt").model):
        assert model.class_names == tuple("abcdefghij") and model.image_shape == (1, 8, 8)
        with pytest.raises(ValueError, match=r"images: expected torch.float32 \[B, 1, 8, 8\].*got torch.float32 \[20, 1, 4, 8\]"):
            model.predict(few_digits.test_images[:, :, :4])
        with pytest.raises(ValueError, match="got values from 0 to 255; divide by 255"):
            model.predict(few_digits.test_images * 255)


@pytest.mark.parametrize("name", ["image_shape", "class_names", "num_images"])
def test_a_file_that_does_not_say_what_it_was_trained_on_is_refused(name, few_digits, tmp_path):
    run(small_run(few_digits, "local"), few_digits, checkpoint=tmp_path / "a.pt")
    content = checkpoints.load(tmp_path / "a.pt")
    del content["about"][name]
    checkpoints.save(tmp_path / "a.pt", content)
    with pytest.raises(CheckpointError, match=f"a.pt does not say its {name}: an older version wrote it; train again"):
        load_trained(tmp_path / "a.pt")


def test_a_file_says_how_its_images_were_made(few_digits, tmp_path):
    """Where anything was done to them; files from before, which say nothing, are resumed all the same."""
    planned = small_run(few_digits, "local")
    cut = few_digits._replace(preparation=Preparation((8, 8), asked=True, resized=3, left_out=2))
    run(planned, cut, checkpoint=tmp_path / "cut.pt")
    assert load_trained(tmp_path / "cut.pt").about["preparation"] == "3 resized to 8x8, as asked"
    untouched = few_digits._replace(preparation=Preparation((8, 8), left_out=2))
    run(planned, few_digits, checkpoint=tmp_path / "a.pt")
    assert "preparation" not in load_trained(tmp_path / "a.pt").about
    run(planned, untouched, checkpoint=tmp_path / "a.pt", resume=True)


def test_accuracy_by_class(few_digits):
    dataset = few_digits._replace(test_labels=torch.tensor([0, 0, 0, 1, 3]), class_names=("a", "b", "c", "d"))
    said = torch.tensor([0, 0, 2, 1, 0])
    assert runs.accuracy_by_class(said, dataset) == {"a": pytest.approx(2 / 3), "b": 1, "c": None, "d": 0}
    with pytest.raises(ValueError) as error:
        runs.accuracy_by_class(said[:3], dataset)
    assert str(error.value) == "expected 5 classes, one per test image, got [3]"


def test_a_part_is_not_a_model(few_digits, tmp_path):
    run(small_run(few_digits, "local", layers="1,3"), few_digits, checkpoint=tmp_path / "part.pt")
    with pytest.raises(CheckpointError, match="holds layers 1, 3 alone; join it with the others' files"):
        load_trained(tmp_path / "part.pt")


def test_after_epoch_sees_the_model_as_it_grows(few_digits):
    planned, seen = small_run(few_digits, "shared"), []
    model, losses = runs.trained(
        planned, few_digits, "cpu", Keeper(),
        after_epoch=lambda model: seen.append((model, measured(model, planned, few_digits)[0]["test_accuracy"])),
    )  # fmt: skip
    assert [one for one, _ in seen] == [model, model] and losses.shape == (2, 3)
    assert seen[-1][1] == run(planned, few_digits).results["test_accuracy"]


def test_one_run_writes_less_often_where_asked(few_digits, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(checkpoints, "save", lambda path, content: written.append(len(content["history"])))
    planned = small_run(few_digits, "local", epochs="4")
    run(planned, few_digits, checkpoint=tmp_path / "a.pt")
    run(planned, few_digits, checkpoint=tmp_path / "b.pt", checkpoint_every=1e6)
    assert written == [1, 2, 3, 4, 4]
