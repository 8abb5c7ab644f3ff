"""The recordings of the paper's table: every cell has one, and an interrupted one goes on."""

import pytest
import torch

from noprop_helpers import experiments, training
from noprop_helpers.data import load_dataset
from noprop_helpers.training import EMBEDDINGS, VARIANTS


@pytest.fixture(scope="module")
def small():
    digits = load_dataset("digits")
    return digits._replace(
        train_images=digits.train_images[:100], train_labels=digits.train_labels[:100],
        test_images=digits.test_images[:20], test_labels=digits.test_labels[:20],
    )  # fmt: skip


def silent(iterable, description):
    return iterable


def test_every_cell_of_the_papers_table_has_a_recording():
    for dataset in ("mnist", "cifar10", "cifar100"):
        for variant in VARIANTS:
            for embedding in EMBEDDINGS if variant != "adjoint" else ("one_hot",):
                experiment = experiments.EXPERIMENTS[f"{dataset}_{variant}_{embedding}"]
                assert experiment.seeds == (0, 1, 2) and experiment.dataset == dataset
                assert experiment.configuration == {"variant": variant, "embedding": embedding}


@pytest.mark.parametrize("shape, num_classes, epochs", [
    ((1, 28, 28), 10, {"dt": 100, "backprop": 100, "ct": 100, "fm": 100}),
    ((3, 32, 32), 10, {"dt": 150, "backprop": 150, "ct": 500, "fm": 500}),
    ((3, 32, 32), 100, {"dt": 150, "backprop": 150, "ct": 1000, "fm": 1000}),
])  # fmt: skip
def test_recipes_have_the_papers_settings(shape, num_classes, epochs):
    """Table 3 of the paper."""
    images = torch.rand(2, *shape)
    for variant, expected in epochs.items():
        recipe = VARIANTS[variant](images, torch.eye(num_classes))
        assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (expected, 128, 1e-3)
        assert recipe.weight_decay == 1e-3 and not recipe.one_cycle
        assert recipe.optimizer == ("adamw" if variant in ("dt", "backprop") else "adam")
        assert recipe.model.num_layers == (10 if variant == "dt" else 1)
        if variant == "backprop":
            assert len(recipe.model.net.blocks) == 10
        if variant in ("ct", "fm"):
            assert recipe.model.num_steps == 1000


@pytest.mark.parametrize("variant, embedding", [("dt", "learned"), ("fm", "one_hot")])
def test_results_hold_what_the_ledger_shows(variant, embedding, small, monkeypatch):
    monkeypatch.setattr(experiments, "FLOW_STEPS", (1, 2))
    result = experiments.run_paper(
        small, 0, "cpu", silent, variant=variant, embedding=embedding, epochs=1, inference_runs=2, num_steps=2
    )
    assert result["epochs"] == 1 and len(result["test_accuracy_by_run"]) == 2
    assert result["test_accuracy"] == pytest.approx(sum(result["test_accuracy_by_run"]) / 2)
    assert ("embedding_distance" in result) == (embedding == "learned")
    assert ("top_layer_accuracy" in result) == ("accuracy_without_noise" in result) == (variant == "dt")
    assert ("test_accuracy_by_steps" in result) == (variant == "fm")


def test_a_seed_killed_in_its_training_goes_on_from_its_checkpoint(small, tmp_path, monkeypatch):
    options = {"variant": "dt", "embedding": "one_hot", "epochs": 3, "inference_runs": 1, "num_steps": 2}
    straight = experiments.run_paper(small, 0, "cpu", silent, **options)
    save, saved = training.checkpoints.save, []
    monkeypatch.setattr(experiments, "CHECKPOINT_EVERY", 0)

    def save_and_die(path, content):
        save(path, content)
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.checkpoints, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        experiments.run_paper(small, 0, "cpu", silent, tmp_path / "c", **options)
    resumed = experiments.run_paper(small, 0, "cpu", silent, tmp_path / "c", **options)
    assert len(saved) == 3  # one epoch was left to do
    assert resumed["summed_loss_by_epoch"] == straight["summed_loss_by_epoch"]
    assert resumed["test_accuracy_by_run"] == straight["test_accuracy_by_run"]


def test_beyond_the_paper_is_layer_local(small):
    result = experiments.run_best(small, 0, "cpu", silent, epochs=1)
    assert result["layer_local"] and len(result["layer_alone_accuracy"]) == 5
