import dataclasses

import pytest

from noprop_helpers import NoPropError, settings, training
from noprop_helpers.recipes import PaperDT
from noprop_helpers.settings import Settings, changed, layer_numbers


@pytest.mark.parametrize(
    "values, message",
    [
        ({"order": "random"}, "order must be one of together, layer, interleaved, solved, got 'random'"),
        ({"optimizer": "sgd"}, "optimizer must be one of adam, adamw, got 'sgd'"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, auto, got 'float16'"),
        ({"epochs": 0}, "epochs and batch_size must be at least 1, got 0 and 128"),
        ({"epochs": -1}, "got -1 and 128"),
        ({"batch_size": 0}, "got 1 and 0"),
        (
            {"learning_rate": 0.0},
            "expected a finite learning_rate above 0 and weight_decay of at least 0, got 0.0 and 0.0",
        ),
        ({"learning_rate": -1e-3}, "got -0.001 and"),
        ({"learning_rate": float("inf")}, "got inf and"),
        ({"learning_rate": float("nan")}, "got nan and"),
        ({"weight_decay": -0.1}, "got 0.001 and -0.1"),
        ({"weight_decay": float("nan")}, "got 0.001 and nan"),
        ({"feature_dropout": 1.0}, "feature_dropout must be at least 0 and below 1, got 1.0"),
        ({"feature_dropout": -0.1}, "below 1, got -0.1"),
        ({"feature_dropout": float("nan")}, "below 1, got nan"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**63}, "seed must be at least 0"),
        ({"layers": ()}, r"layers must be numbers from 1, in rising order, got \[\]"),
        ({"layers": (0,)}, r"got \[0\]"),
        ({"layers": (2, 1)}, r"got \[2, 1\]"),
        ({"layers": (1, 1)}, r"got \[1, 1\]"),
        ({"augment": True}, "augment works batch by batch: it needs order layer or interleaved"),
        ({"augment": True, "order": "solved", "weight_decay": 0.1}, "augment works batch by batch"),
        ({"order": "solved"}, "epochs 1, feature_dropout 0 and weight_decay above 0, got 1, 0.0 and 0.0"),
        ({"order": "solved", "epochs": 2, "weight_decay": 0.1}, "got 2, 0.0 and 0.1"),
        ({"order": "solved", "feature_dropout": 0.5, "weight_decay": 0.1}, "got 1, 0.5 and 0.1"),
    ],
)
def test_values_that_mean_nothing_are_refused(values, message):
    with pytest.raises(NoPropError, match=message):
        Settings(**values)


def test_the_limits_themselves_are_allowed():
    Settings(epochs=1, batch_size=1, weight_decay=0.0, feature_dropout=0.0, seed=2**63 - 1, layers=(1,))
    Settings(augment=True, order="layer")
    Settings(augment=True, order="interleaved")


def test_settings_are_one_value():
    assert training.Settings is Settings
    assert Settings(epochs=3) == Settings(epochs=3) != Settings(epochs=4)
    assert hash(Settings(layers=(1, 2))) == hash(Settings(layers=(1, 2)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().epochs = 5
    with pytest.raises(NoPropError, match="at least 1, got 0"):
        dataclasses.replace(Settings(), epochs=0)


@pytest.mark.parametrize("computes, precision", [(True, "bfloat16"), (False, "float32")])
def test_auto_is_what_the_device_computes_in_hardware(computes, precision, monkeypatch):
    asked = []
    monkeypatch.setattr(settings, "computes_bfloat16", lambda device: asked.append(device) or computes)
    assert Settings(precision="auto", epochs=7).on("cpu") == Settings(precision=precision, epochs=7)
    assert asked == ["cpu"]
    for given in ("float32", "bfloat16"):  # an explicit wish counts everywhere
        assert Settings(precision=given).on("cpu").precision == given
    assert asked == ["cpu"]


# --- From text ---


def test_any_field_can_be_changed_by_text():
    texts = {
        "epochs": "3", "learning_rate": "3e-3", "one_cycle": "true", "optimizer": "adamw", "order": "layer", "augment": "true",
        "layers": "1-3,5", "precision": "auto", "weight_decay": "0", "batch_size": "7", "feature_dropout": ".25",
        "cuda_graphs": "false", "seed": "4",
    }  # fmt: skip
    assert texts.keys() == {field.name for field in dataclasses.fields(Settings)}
    assert changed(Settings(), texts) == Settings(
        epochs=3, learning_rate=3e-3, one_cycle=True, optimizer="adamw", order="layer", augment=True, layers=(1, 2, 3, 5),
        precision="auto", weight_decay=0.0, batch_size=7, feature_dropout=0.25, cuda_graphs=False, seed=4,
    )  # fmt: skip
    assert changed(Settings(epochs=9, one_cycle=True), {"one_cycle": "false"}) == Settings(epochs=9)


def test_a_models_own_settings_too():
    changes = {"num_steps": "5", "eta": "0.3", "embedding": "learned", "radial": "true"}
    assert changed(PaperDT(), changes) == PaperDT(num_steps=5, eta=0.3, embedding="learned", radial=True)


@pytest.mark.parametrize(
    "texts, message",
    [
        ({"epoch": "3"}, "there is no setting 'epoch'; choose one of epochs, batch_size"),
        ({"epochs": "three"}, "epochs: expected a value of type int, got 'three'"),
        ({"epochs": "2.5"}, "epochs: expected a value of type int, got '2.5'"),
        ({"learning_rate": "fast"}, "learning_rate: expected a value of type float, got 'fast'"),
        ({"one_cycle": "yes"}, "one_cycle: expected true or false, got 'yes'"),
        ({"layers": "all"}, "expected layers such as 1-5 or 1,3, got 'all'"),
        ({"layers": "3,1-2"}, r"layers must be numbers from 1, in rising order, got \[3, 1, 2\]"),
        ({"epochs": "0"}, "at least 1, got 0"),  # a text that can be read must also mean something
        ({"order": "random"}, "order must be one of"),
    ],
)
def test_a_text_that_does_not_fit_is_one_clear_line(texts, message):
    with pytest.raises(NoPropError, match=message) as caught:
        changed(Settings(), texts)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text, numbers", [
    ("3", (3,)), ("1-5", (1, 2, 3, 4, 5)), ("1,4-6", (1, 4, 5, 6)), (" 2 , 3 ", (2, 3)), ("4-4", (4,)),
])  # fmt: skip
def test_layers_are_named_as_numbers_and_ranges(text, numbers):
    assert layer_numbers(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "1-", "-3", "1,,2", "1-2-3", "1-2-3,5", "5-1", "5-1,7", "2.5"])
def test_other_names_of_layers_are_refused(text):
    with pytest.raises(NoPropError, match="expected layers such as 1-5 or 1,3, got"):
        layer_numbers(text)
