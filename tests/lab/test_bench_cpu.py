"""That the suite cpu measures what its rows say: on few digits, and without looking at any time."""

import functools
import statistics

import pytest
import torch
from conftest import generator, some_of

from noprop_helpers import NoPropError
from noprop_helpers.benchmark import mlp_flops
from noprop_helpers.lab.audit import LiteralRun, published_model
from noprop_helpers.lab.bench_cpu import CPU_PARTS, TARGETS, Target, memory_part, operations, published_part, target_part
from noprop_helpers.lab.recording import Recording
from noprop_helpers.runs import plan, run
from noprop_helpers.training import Settings, accuracy, fit

REPEATS = 2


@pytest.fixture(scope="module")
def small(digits):
    return some_of(digits, 256, 100)


@pytest.fixture(scope="module")
def published(small):
    return {row["name"]: row for row in published_part(small, Recording(), repeats=REPEATS)}


@pytest.mark.slow
def test_rows_of_the_published_epoch(published, small):
    assert list(published) == [
        "published_epoch", "published_features", "published_accuracy", "gemm_epoch", "gemm_float32", "gemm_fraction",
        "gemm_fraction_needed",
    ]  # fmt: skip
    epoch = published["published_epoch"]
    assert epoch["baseline"] == "published loop, one epoch" and epoch["value"] > 0
    assert 0 < epoch["ratio_min"] <= epoch["ratio"] <= epoch["ratio_max"]
    assert published["gemm_epoch"]["baseline"] == "published_epoch"
    # As many products take longer than the fastest of them would for all.
    assert 0 < published["gemm_fraction"]["value"] <= published["gemm_epoch"]["ratio"]


@pytest.mark.slow
def test_shares_of_the_products_speed_count_the_right_operations(published, small):
    """Ten layers, 128 features and ten label entries to 256 to 10; the input gradients, which nobody needs, or not."""
    needed, all_of_them = (10 * mlp_flops(len(small.train_labels), (138, 256, 10), also) for also in (False, True))
    shares = published["gemm_fraction_needed"]["value"] / published["gemm_fraction"]["value"]
    assert shares == pytest.approx(needed / all_of_them)
    model = published_model(small, seed=0)
    assert operations(model, len(small.train_labels), with_input_gradients=True) == all_of_them


@pytest.mark.slow
def test_both_sides_of_the_published_epoch_are_trained_for_as_long(published, small):
    """Ours by ``fit``, theirs by the notebook's loop, one epoch to warm up and two measured, from the same weights."""
    images, labels = small.train_images, small.train_labels
    fast, literal = published_model(small, seed=0), LiteralRun(small, Settings(), "cpu")
    fit(fast, images, labels, Settings(epochs=1 + REPEATS))
    for epoch in range(1, 2 + REPEATS):
        literal.epoch(epoch)
    ours, theirs = (
        accuracy(model, small.test_images, small.test_labels, generator(2)) for model in (fast, literal.model)
    )
    row = published["published_accuracy"]
    assert row["value"] == ours and row["ratio"] == pytest.approx(ours / theirs)


@pytest.mark.whole
def test_a_target_is_the_median_of_seeds_against_one_layer(small):
    line, reached = target_part(Target("time_to_1", "shared", 0.01, epochs=1), small, Recording(), seeds=(0, 1, 2))
    by_hand = {
        num_steps: [
            run(plan(small, "shared", {"epochs": "1", "seed": str(seed), "num_steps": str(num_steps)}), small).results
            for seed in (0, 1, 2)
        ]
        for num_steps in (10, 1)
    }
    accuracies = {steps: [result["test_accuracy"] for result in results] for steps, results in by_hand.items()}
    assert (line["name"], line["unit"]) == ("time_to_1", "s") and line["value"] > 0 and line["ratio"] > 0
    assert (reached["name"], reached["value"]) == ("time_to_1_accuracy", statistics.median(accuracies[10]))
    assert reached["ratio"] == pytest.approx(statistics.median(a / b for a, b in zip(accuracies[10], accuracies[1])))
    assert line["baseline"] == reached["baseline"] == "one layer: an ordinary classifier"


def test_a_target_out_of_reach_has_no_time(small):
    line, reached = target_part(Target("time_to_101", "shared", 1.01, epochs=1), small, Recording(), seeds=(0,))
    assert line["value"] is None and line["ratio"] > 0 and 0 < reached["value"] <= 1


def test_the_targets_are_the_books():
    assert {t.name: (t.recipe, t.accuracy, t.epochs) for t in TARGETS} == {
        "time_to_99": ("shared", 0.99, 2), "time_to_993": ("shared", 0.993, None), "time_to_99_local": ("local", 0.992, None),
    }  # fmt: skip
    assert [CPU_PARTS[target.name].args for target in TARGETS] == [(target,) for target in TARGETS]


@pytest.mark.parametrize("part", [published_part, functools.partial(target_part, TARGETS[0])])
def test_the_precision_is_the_recordings(part, small):
    with pytest.raises(NoPropError, match="precision must be one of"):
        part(small, Recording(precision="float16"))


def test_memory_is_the_process_so_far(small):
    (row,) = memory_part(small, Recording())
    held = torch.ones(2**25)  # 128 MiB
    (after,) = memory_part(small, Recording())
    assert row["name"] == "peak_memory" and row["unit"] == "MiB"
    assert after["value"] >= row["value"] > held.nbytes / 2**20
