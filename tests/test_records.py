import json
import math
import stat

import pytest

from noprop_helpers import records
from noprop_helpers.experiments import EXPERIMENTS
from noprop_helpers.suites import SUITES


def test_mean_and_standard_error_by_hand():
    value = records.mean_and_standard_error([1.0, 2.0, 6.0])
    assert value["mean"] == 3.0 and value["n"] == 3
    assert value["standard_error"] == pytest.approx(math.sqrt((4 + 1 + 9) / 2 / 3))


def test_one_value_has_no_standard_error():
    assert records.mean_and_standard_error([0.5]) == {"mean": 0.5, "standard_error": None, "n": 1}
    assert records.percent({"mean": 0.5, "standard_error": None}) == "50.00\N{NO-BREAK SPACE}%"


def test_percent_text():
    text = records.percent({"mean": 0.99214, "standard_error": 0.00031})
    assert text.replace("\N{NO-BREAK SPACE}", " ") == "99.21 ± 0.03 %" and " " not in text


def test_summarize_follows_the_structure():
    runs = [{"seed": s, "a": {"b": [s, 2]}, "name": "x", "flag": True} for s in (0, 1)]
    summary = records.summarize(runs)
    assert "seed" not in summary
    assert summary["a"]["b"][0] == {"mean": 0.5, "standard_error": 0.5, "n": 2}
    assert summary["name"] == "x" and summary["flag"] is True
    with pytest.raises(ValueError, match="same value in every run"):
        records.summarize([{"name": "x"}, {"name": "y"}])


def test_write_json_is_all_or_nothing(tmp_path):
    path = tmp_path / "out.json"
    records.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        records.write_json(path, {"a": math.nan})  # not JSON
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("name, message", [("", "it is a folder"), ("no/such/out.json", "does not exist")])
def test_check_writable(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        records.check_writable(tmp_path / name)


def test_a_missing_record_names_its_command(tmp_path):
    with pytest.raises(ValueError, match="record mnist_shared"):
        records.read_record("mnist_shared", tmp_path)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        records.read_record("broken", tmp_path)


BENCHES = {f"bench_{suite}" for suite in SUITES}
COMMITTED = sorted(records.FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", [path for path in COMMITTED if path.stem in BENCHES], ids=lambda path: path.stem)
def test_committed_benchmarks_are_complete(path):
    """Every row says what it was compared with, and by how much at least and at most."""
    record = json.loads(path.read_text())
    assert record["command"] == f"python -m noprop_helpers bench --suite {record['benchmark']}"
    assert path.stem == f"bench_{record['benchmark']}"
    assert record["environment"]["device"] and record["dataset"]["checksum"].startswith("sha256:") and record["date"]
    assert record["git_commit"] and not record["git_commit"].endswith("-dirty")
    for row in record["rows"]:
        assert row.keys() == {"name", "value", "unit", "baseline", "ratio", "ratio_min", "ratio_max"}
        assert (row["baseline"] is None) == (row["ratio"] is None)
        assert row["ratio"] is None or row["ratio_min"] <= row["ratio"] <= row["ratio_max"]


@pytest.mark.parametrize("path", [path for path in COMMITTED if path.stem not in BENCHES], ids=lambda path: path.stem)
def test_committed_records_are_complete(path):
    """Every record says what was run, on what, how to repeat it, and its summary follows from its runs."""
    record = json.loads(path.read_text())
    assert record["experiment"] == path.stem in EXPERIMENTS
    assert record["command"] == f"python -m noprop_helpers record {path.stem}"
    for key in ("description", "configuration", "environment", "git_commit", "date", "peak_memory_mib"):
        assert record[key], key
    assert record["dataset"]["checksum"].startswith("sha256:")
    assert not record["git_commit"].endswith("-dirty")
    assert [run["seed"] for run in record["runs"]] == list(EXPERIMENTS[path.stem].seeds)
    assert records.summarize(record["runs"]) == record["summary"]
