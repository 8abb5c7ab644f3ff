"""The schema of records: all that are committed pass it, and no field of theirs can be missing, unknown or out of range."""

import copy
import re

import numpy
import pytest

from noprop_helpers.lab import records, schema
from noprop_helpers.lab.schema import problems

COMMITTED = sorted(records.FOLDER.glob("*.json"))
SMALL = records.read_record("mnist_published_loop"), records.read_json(records.FOLDER / "bench_parallel.json")


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_records_pass(path):
    assert problems(records.read_json(path)) == []


def fields(value, path=()):
    """Where a record has fields: all of them, inner and outer; of a list's items the first."""
    if isinstance(value, dict):
        for key in value:
            yield (*path, key)
            yield from fields(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from fields(value[0], (*path, 0))


def inner(record, path):
    for key in path:
        record = record[key]
    return record


# What an experiment says of itself differs from one to the next; and what a study measures is not the schema's to know.
FREE = [("run",), ("dataset", "preparation"), ("environment", "versions", "scipy")]


def checked(record):
    return [path for path in fields(record) if not any(path[: len(free)] == free and path != ("run",) for free in FREE)]


@pytest.mark.parametrize("record", SMALL, ids=["experiment", "benchmark"])
def test_no_field_may_be_missing(record):
    for path in checked(record):
        less = copy.deepcopy(record)
        del inner(less, path[:-1])[path[-1]]
        assert problems(less), path


@pytest.mark.parametrize("record", SMALL, ids=["experiment", "benchmark"])
def test_no_field_may_be_of_another_kind_nor_unknown(record):
    for path in checked(record):
        for wrong in ("<b>", [[]], -1.5, float("nan")):
            other = copy.deepcopy(record)
            inner(other, path[:-1])[path[-1]] = wrong
            assert problems(other), (path, wrong)
        more = copy.deepcopy(record)
        if isinstance(inner(more, path), dict) and path not in FREE:
            inner(more, path)["unheard of"] = 1
            assert problems(more), path


def numbers(value, path=()):
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from numbers(value[key], (*path, key))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path


def one_digit_off(value):
    """The same number with its third digit, or the last of a shorter one, changed by one."""
    digits = [i for i, sign in enumerate(repr(value).split("e")[0]) if sign.isdigit()]
    first = next((n for n, i in enumerate(digits) if repr(value)[i] != "0"), 0)
    at = digits[min(first + 2, len(digits) - 1)]
    return type(value)(f"{repr(value)[:at]}{(int(repr(value)[at]) + 1) % 10}{repr(value)[at + 1 :]}")


def test_one_digit_off():
    assert [one_digit_off(value) for value in (0.9941, 5, 29.1234, 1e-05)] == [0.9951, 6, 29.2234, 2e-05]


def test_one_digit_of_a_result_changes_nothing_unseen():
    """Seeds and summary hold each other, so that neither changes alone: in every number of a record, one seed's and several's."""
    for name in ("mnist_shared", "mnist_backprop_one_hot_short"):
        record = records.read_record(name)
        for part in ("runs", "summary"):
            for path in numbers(record[part], (part,)):
                if path[-1] != "seed":
                    before = inner(record, path)
                    inner(record, path[:-1])[path[-1]] = one_digit_off(before)
                    assert problems(record), path
                    inner(record, path[:-1])[path[-1]] = before
        assert problems(record) == []


def test_one_data_set_has_one_checksum():
    """A digit of one cannot change without all others of that name."""
    found = {}
    for path in COMMITTED:
        dataset = records.read_json(path)["dataset"]
        if "checksum" in dataset:
            found.setdefault(dataset["name"], {}).setdefault(dataset["checksum"], []).append(path.stem)
    assert {name: sums for name, sums in found.items() if len(sums) > 1} == {}


@pytest.mark.parametrize("path", sorted(records.FOLDER.glob("*.npz")), ids=lambda path: path.stem)
def test_accuracies_are_those_of_the_classes_said(path):
    """Where the file beside a record says what each walk answered, its accuracy is counted again."""
    record, said = records.read_json(path.with_suffix(".json")), numpy.load(path)
    counted = 0
    for run in record["runs"]:
        for key in said.files:
            if match := re.fullmatch(rf"{run['seed']}/walk_(\d+)", key):
                share = float((said[key] == said["labels"]).mean())
                assert run["results"]["test_accuracy_by_run"][int(match[1])] == pytest.approx(share, abs=1e-9), key
                counted += 1
    if record["run"]["study"] == "run":
        assert counted == sum(len(run["results"]["test_accuracy_by_run"]) for run in record["runs"])


def test_what_is_no_record_is_said():
    assert problems([]) == ["expected a record, got []"]
    assert any(line == "source is missing" for line in problems({}))
    assert not schema.number(0, 1)(True)  # a word, though Python takes it for 1
