"""The presets on the real data sets. Skipped where the data are not on disk; accuracy only, time is never tested."""

import os
from pathlib import Path

import pytest

from noprop_helpers.data import load_dataset
from noprop_helpers.runs import plan, run

ROOT = Path(os.environ.get("NOPROP_DATA") or "data")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")

pytestmark = [pytest.mark.data, pytest.mark.slow]
needs_mnist = pytest.mark.skipif(not (ROOT / "MNIST").is_dir(), reason="no MNIST in the folder that NOPROP_DATA names")
needs_fashion = pytest.mark.skipif(
    not (ROOT / "FashionMNIST").is_dir() and not DEBIAN.is_dir(), reason="no Fashion-MNIST on this machine"
)
needs_cifar = pytest.mark.skipif(
    not (ROOT / "cifar10-jpeg").is_dir(), reason="no cifar10-jpeg in the folder that NOPROP_DATA names"
)


def trained_on(dataset, recipe, changes=None):
    return run(plan(dataset, recipe, changes), dataset)


@needs_mnist
@pytest.mark.parametrize("preset, changes, at_least", [("shared", {}, 0.99), ("local", {"epochs": "2"}, 0.985)])
def test_mnist(preset, changes, at_least):
    trained = trained_on(load_dataset("mnist", ROOT), preset, changes)
    assert trained.results["test_accuracy"] >= at_least
    assert trained.model.layer_local == (preset == "local")


@needs_mnist
def test_published_algorithm_is_as_poor_as_the_audit_says():
    """One epoch; the notebook's own code gave 57 % there, and its chain is far behind its top layer."""
    result = trained_on(load_dataset("mnist", ROOT), "published", {"epochs": "1"}).results
    assert 0.45 < result["test_accuracy"] < 0.7 and result["top_layer_accuracy"] > 0.85


@needs_fashion
def test_fashion_mnist(tmp_path):
    root = ROOT if (ROOT / "FashionMNIST").is_dir() else tmp_path
    assert trained_on(load_dataset("fashion_mnist", root), "shared", {"epochs": "1"}).results["test_accuracy"] > 0.87


@needs_cifar
def test_a_folder_of_colour_images(tmp_path):
    """CIFAR-10 (JPEG copy), every tenth file: the pipeline learns from a folder of RGB files."""
    for folder in (ROOT / "cifar10-jpeg").glob("*/*/"):
        there = tmp_path / folder.relative_to(ROOT / "cifar10-jpeg")
        there.mkdir(parents=True)
        for file in sorted(folder.iterdir())[::10]:
            (there / file.name).symlink_to(file.resolve())
    dataset = load_dataset(f"folder:{tmp_path}")
    assert (len(dataset.train_images), len(dataset.test_images)) == (5000, 1000)
    assert trained_on(dataset, "shared").results["test_accuracy"] > 0.4
