import json
import math
import stat

import numpy
import pytest
import torch
from conftest import generator
from scipy import stats

from noprop_helpers import NoPropError
from noprop_helpers import __main__ as cli
from noprop_helpers.lab import records
from noprop_helpers.lab.bench import SUITES
from noprop_helpers.lab.experiments import EXPERIMENTS
from noprop_helpers.lab.recording import STUDIES


def test_mean_and_standard_error_by_hand():
    value = records.mean_and_standard_error([1.0, 2.0, 6.0])
    assert value["mean"] == 3.0 and value["n"] == 3
    assert value["standard_error"] == pytest.approx(math.sqrt((4 + 1 + 9) / 2 / 3))


def test_no_values_have_no_mean():
    with pytest.raises(NoPropError, match="expected at least one value, got none"):
        records.mean_and_standard_error([])


def test_outside_a_checkout_there_is_no_commit(monkeypatch):
    def no_git(*arguments, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(records.subprocess, "run", no_git)
    assert records.git_commit() is None


def test_the_interval_is_students():
    """Two degrees of freedom: 4.303 standard errors, not two."""
    value = records.mean_and_standard_error([1.0, 2.0, 6.0])
    assert value["interval"] == pytest.approx(4.3027 * value["standard_error"], rel=1e-4)
    low, high = stats.ttest_1samp([1.0, 2.0, 6.0], 0.0).confidence_interval()
    assert (low, high) == pytest.approx((3 - value["interval"], 3 + value["interval"]))


def test_one_value_has_neither_error_nor_interval():
    assert records.mean_and_standard_error([0.5]) == {"mean": 0.5, "standard_error": None, "interval": None, "n": 1}
    assert records.percent({"mean": 0.5, "standard_error": None}) == "50.00\N{NO-BREAK SPACE}%"


def test_percent_text():
    text = records.percent({"mean": 0.99214, "standard_error": 0.00031})
    assert text.replace("\N{NO-BREAK SPACE}", " ") == "99.21 ± 0.03 %" and " " not in text


def test_summarize_follows_the_structure_and_takes_numbers_alone():
    summary = records.summarize([{"a": {"b": [s, 2]}} for s in (0, 1)])
    assert {k: summary["a"]["b"][0][k] for k in ("mean", "standard_error", "n")} == {"mean": 0.5, "standard_error": 0.5, "n": 2}
    for setting in ("adam", True, None):  # a setting is no measurement
        with pytest.raises(ValueError, match="results are numbers"):
            records.summarize([{"x": setting}])


def test_write_json_is_all_or_nothing(tmp_path):
    path = tmp_path / "out.json"
    records.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        records.write_json(path, {"a": math.nan})  # not JSON
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_missing_record_names_its_command(tmp_path):
    with pytest.raises(ValueError, match="record mnist_shared"):
        records.read_record("mnist_shared", tmp_path)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        records.read_record("broken", tmp_path)


def test_the_environment_says_on_what():
    told = records.environment()
    assert {"processor", "instruction_sets", "cores", "threads", "tf32", "versions", "platform"} <= told.keys()
    assert {"torch", "torchvision", "torchdiffeq", "numpy", "scipy", "scikit-learn", "python"} <= told["versions"].keys()


# --- The committed ones ---

BENCHES = {f"bench_{suite}" for suite in SUITES}
COMMITTED = sorted(records.FOLDER.glob("*.json"))


def same(a, b):
    """Equal, floats up to rounding: another version of scipy may end on another digit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == pytest.approx(b, rel=1e-9) if isinstance(a, float) else a == b


@pytest.mark.parametrize("path", [path for path in COMMITTED if path.stem in BENCHES], ids=lambda path: path.stem)
def test_committed_benchmarks_are_complete(path):
    """Every row says what it was compared with, and by how much at least and at most."""
    record = json.loads(path.read_text())
    assert record["command"].startswith(f"python -m noprop_helpers bench --suite {record['benchmark']} ")
    assert "--threads" in record["command"] and path.stem == f"bench_{record['benchmark']}"
    assert record["environment"]["device"] and record["dataset"]["checksum"].startswith("sha256:") and record["date"]
    assert record["git_commit"] and not record["git_commit"].endswith("-dirty")
    for row in record["rows"]:
        assert {"part", "name", "value", "unit", "baseline", "ratio", "ratio_min", "ratio_max"} <= row.keys()
        assert (row["baseline"] is None) == (row["ratio"] is None)
        assert row["ratio"] is None or row["ratio_min"] <= row["ratio"] <= row["ratio_max"]


@pytest.mark.parametrize("path", [path for path in COMMITTED if path.stem not in BENCHES], ids=lambda path: path.stem)
def test_committed_records_are_complete(path):
    """Every record says what was run, on what, how to repeat it, and its summary follows from its results."""
    record = json.loads(path.read_text())
    name, at, other = path.stem.partition("@")  # other data than the experiment's own
    assert record["experiment"] == name in EXPERIMENTS
    words = f"record {name} --dataset folder:{other} " if at else f"record {name} "
    assert record["command"].startswith(f"python -m noprop_helpers {words}") and "--threads" in record["command"]
    for key in ("description", "run", "environment", "git_commit", "date", "peak_memory_mib"):
        assert record[key], key
    makes_its_data = not EXPERIMENTS[name].dataset
    of_puzzles = STUDIES[EXPERIMENTS[name].study].of_puzzles
    told = {"learning_rate", "steps"} if of_puzzles else {"learning_rate", "epochs", "precision", "order"}
    assert told | {"batch_size"} <= record["run"]["settings"].keys()
    assert makes_its_data or record["dataset"]["checksum"].startswith("sha256:")
    assert not record["git_commit"].endswith("-dirty")
    seeds, wanted = [run["seed"] for run in record["runs"]], list(EXPERIMENTS[name].seeds)
    assert seeds == wanted[: len(seeds)] and record["command"].endswith(f" --seeds {len(seeds)}") == (seeds != wanted)
    results = [run["results"] | {"seconds": run["seconds"]} for run in record["runs"]]
    assert same(records.summarize(results), record["summary"])


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_commands_can_be_typed_and_say_how_it_was_run(path):
    record = json.loads(path.read_text())
    options = cli._parser().parse_args(record["command"].removeprefix("python -m noprop_helpers ").split())
    assert options.device == record["environment"]["device_type"] and options.threads == record["environment"]["threads"]
    if options.precision is not None and "run" in record:  # a suite's rows say their own
        assert options.precision == record["run"]["settings"].get("precision", "float32")  # studies of their own data


@pytest.mark.parametrize("path", sorted(records.FOLDER.glob("*.npz")), ids=lambda path: path.stem)
def test_committed_predictions_are_of_every_test_image(path):
    record = records.read_json(path.with_suffix(".json"))
    said = numpy.load(path)
    seeds = {name.split("/")[0] for name in said} - {"labels"}
    assert seeds == {str(run["seed"]) for run in record["runs"]}
    assert len({said[name].shape for name in said}) == 1
    if "checksum" in record["dataset"] and not STUDIES[record["run"]["study"]].of_puzzles:
        assert said["labels"].shape == (record["dataset"]["test"],)


# --- Predictions ---


def test_paired_differences_are_those_of_scipy():
    """Mean and t-interval of the seeds' differences; and what another choice of test examples would change."""
    one, other = (torch.rand(4, 500, generator=generator(seed)) < share for seed, share in ((0, 0.9), (1, 0.8)))
    found = records.paired(one, other)
    differences = one.double().mean(1) - other.double().mean(1)
    low, high = stats.ttest_rel(one.double().mean(1), other.double().mean(1)).confidence_interval(0.95)
    assert found["mean"] == pytest.approx(differences.mean().item()) and found["n"] == 4
    assert found["mean"] - found["interval"] == pytest.approx(low) and found["mean"] + found["interval"] == pytest.approx(high)
    by_example = (one.double() - other.double()).mean(0)
    assert found["sampling"] == pytest.approx(1.96 * stats.sem(by_example))


def test_what_is_paired_must_be_of_the_same_examples():
    table = torch.ones(2, 5, dtype=torch.bool)
    for other in (table[:1], table[:, :4], table[0]):
        with pytest.raises(NoPropError, match=r"expected two tables \[seeds, N\], got \[2, 5\] and"):
            records.paired(table, other)
    assert records.paired(table[:1], table[:1])["interval"] is None  # one seed says nothing of others


def test_a_paired_difference_in_points_says_both_of_its_errors():
    found = {"mean": 0.0163, "interval": 0.0055, "sampling": 0.0081}
    assert records.points(found) == "+1.6 ± 0.5 ± 0.8" and records.points(found | {"mean": -0.0163}, 2) == "-1.63 ± 0.55 ± 0.81"
    with pytest.raises(NoPropError, match="two seeds at least"):
        records.points(found | {"interval": None})


def test_flags_are_read_as_they_are_and_a_missing_file_says_how_it_is_made(tmp_path):
    numpy.savez(tmp_path / "puzzles.npz", **{"0/top": numpy.array([1, 0], "uint8"), "3/top": numpy.array([1, 1], "uint8")})
    assert records.right("puzzles", tmp_path)["top"].tolist() == [[True, False], [True, True]]
    with pytest.raises(NoPropError, match="no predictions .*none.npz; make them with: python -m noprop_helpers record none"):
        records.right("none", tmp_path)
