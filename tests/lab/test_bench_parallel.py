"""The suite parallel, in real processes; that they train what they should is tested where they do (test_parallel)."""

import pytest
from conftest import some_of

from noprop_helpers import NoPropError
from noprop_helpers.lab.bench_parallel import Work, in_processes, parallel_part
from noprop_helpers.lab.recording import Recording


def three_classes(digits):
    """Digits 0, 1 and 2: nothing may take for granted that there are ten classes."""
    train, test = digits.train_labels < 3, digits.test_labels < 3
    return digits._replace(
        train_images=digits.train_images[train], train_labels=digits.train_labels[train],
        test_images=digits.test_images[test], test_labels=digits.test_labels[test], class_names=("0", "1", "2"),
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_against_one(digits):
    rows = {row["name"]: row for row in parallel_part(three_classes(digits), Recording(), 1, num_images=200, num_steps=2)}
    assert list(rows) == ["one_rank", "two_ranks", "two_ranks_speedup", "two_ranks_data_parallel", "gather_layers"]
    one, two = rows["one_rank"]["value"], rows["two_ranks"]["value"]
    assert rows["two_ranks"]["ratio"] == pytest.approx(two / one) and rows["two_ranks"]["baseline"] == "one process, one thread"
    assert rows["two_ranks_speedup"]["value"] == pytest.approx(one / two)
    assert rows["two_ranks_data_parallel"]["value"] > 0 and rows["gather_layers"]["value"] > 0


def waits(rank, world_size, work, barrier):
    """One process dies, the other one would wait for it for ever."""
    if rank == 1:
        raise SystemExit(3)
    barrier.wait()


@pytest.mark.slow
def test_a_process_that_dies_ends_the_benchmark(few_digits):
    work = Work(few_digits.train_images, few_digits.train_labels, 10, 1)
    with pytest.raises(NoPropError, match="a process of the benchmark died"):
        in_processes(waits, 2, work)


def noted(rank, world_size, work, barrier):
    """As if the first process had trained from second 10 to 12, the second one from 11 to 15, and both gathered until 16."""
    return (10.0, 12.0, 16.0) if rank == 0 else (11.0, 15.0, 16.0)


@pytest.mark.slow
def test_the_slowest_process_counts(few_digits):
    work = Work(few_digits.train_images, few_digits.train_labels, 10, 1)
    assert in_processes(noted, 2, work) == (5.0, 1.0)


def test_the_precision_is_float32(digits):
    with pytest.raises(NoPropError, match="float32 alone, got precision bfloat16"):
        parallel_part(some_of(digits, 10, 10), Recording(precision="bfloat16"))
