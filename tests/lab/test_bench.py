"""What a suite does around its parts: their order, what it keeps, where it goes on, and what it says of failures."""

import json
import math

import pytest
import torch
from conftest import write_mnist

from noprop_helpers import NoPropError
from noprop_helpers import __main__ as cli
from noprop_helpers.benchmark import row, table
from noprop_helpers.checkpoints import CheckpointError
from noprop_helpers.lab import bench as benches
from noprop_helpers.lab.bench import SUITES, Suite, run_suite
from noprop_helpers.lab.bench_peers import PEER_PARTS
from noprop_helpers.lab.recording import Recording

KEYS = {"part", "name", "value", "unit", "baseline", "ratio", "ratio_min", "ratio_max"}


def part(name, calls, value=1.0):
    """A part that says when it is called, and measures ``value``."""

    def measure(dataset, recording):
        calls.append(name)
        if isinstance(value, BaseException):
            raise value
        return [row(f"{name}_row", [value], "s")]

    return measure


def suite_of(calls, values=None, **options):
    values = {"a": 1.0, "b": 2.0, "c": 3.0} | (values or {})
    return Suite("try", "cpu", {name: part(name, calls, value) for name, value in values.items()}, **options)


def recording_in(folder, **options):
    return Recording(folder, commit="abc", **options)


def read(folder):
    return json.loads((folder / "bench_try.json").read_text())


def names(rows):
    return [r["name"] for r in rows]


def test_the_parts_run_in_order_and_the_record_grows_with_each(few_digits, tmp_path):
    calls, seen = [], []

    def look(dataset, recording):
        calls.append("look")
        seen.extend(read(tmp_path)["rows"])
        return [row("looked", [0.5], "s", "other", [1.0])]

    suite = Suite("try", "cpu", {"a": part("a", calls), "look": look, "c": part("c", calls)})
    rows = run_suite(suite, few_digits, recording_in(tmp_path))
    assert calls == ["a", "look", "c"] and names(seen) == ["a_row"]
    assert names(rows) == ["a_row", "looked", "c_row"] and [r["part"] for r in rows] == calls
    assert all(r.keys() == KEYS for r in rows)
    assert [p.name for p in tmp_path.iterdir()] == ["bench_try.json"]
    record = read(tmp_path)
    assert record["rows"] == rows and record["benchmark"] == "try" and record["git_commit"] == "abc" and record["date"]
    threads = torch.get_num_threads()
    assert record["command"] == (
        f"python -m noprop_helpers bench --suite try --device cpu --threads {threads} --precision float32"
    )
    assert record["dataset"]["name"] == "digits" and record["environment"]["processor"]


def test_parts_know_the_precision(few_digits, tmp_path):
    """The suite's own, as this device has it, or the one that was asked for."""
    seen = []
    suite = Suite("try", "cpu", {"a": lambda dataset, recording: seen.append(recording.precision) or []}, precision="auto")
    run_suite(suite, few_digits, recording_in(tmp_path))
    run_suite(suite._replace(precision="bfloat16"), few_digits, recording_in(tmp_path))
    run_suite(suite, few_digits, recording_in(tmp_path, precision="bfloat16"))
    assert seen[0] in ("float32", "bfloat16") and seen[1:] == ["bfloat16"] * 2


@pytest.mark.parametrize(
    "value, error",
    [
        (ValueError("too\nmany  lines"), "ValueError: too many lines"),
        (RuntimeError(), "RuntimeError:"),
        (math.nan, "ValueError: Out of range float values are not JSON compliant"),
    ],
)
def test_a_failure_is_a_row_and_the_next_part_goes_on(value, error, few_digits, tmp_path, capsys):
    calls = []
    rows = run_suite(suite_of(calls, {"b": value}), few_digits, recording_in(tmp_path))
    assert calls == ["a", "b", "c"] and names(rows) == ["a_row", "b", "c_row"] and read(tmp_path)["rows"] == rows
    assert rows[1].keys() == KEYS | {"error"} and rows[1]["value"] is None and rows[1]["error"].startswith(error)
    assert "Traceback" in capsys.readouterr().err  # for whoever is to mend it
    shown = table(rows).splitlines()
    assert len(shown) == 4 and "failed" in shown[2] and error in shown[2]


def test_an_interruption_ends_it_and_what_was_measured_stays(few_digits, tmp_path):
    calls = []
    with pytest.raises(KeyboardInterrupt):
        run_suite(suite_of(calls, {"b": KeyboardInterrupt()}), few_digits, recording_in(tmp_path))
    assert calls == ["a", "b"] and names(read(tmp_path)["rows"]) == ["a_row"]


def test_it_goes_on_where_it_stopped(few_digits, tmp_path):
    """Parts that are there stay as they are; one that failed, and those that never came, are measured."""
    calls = []
    with pytest.raises(KeyboardInterrupt):
        values = {"a": OSError("gone"), "c": KeyboardInterrupt()}
        run_suite(suite_of(calls, values), few_digits, recording_in(tmp_path))
    calls.clear()
    rows = run_suite(suite_of(calls, {"b": 20.0}), few_digits, recording_in(tmp_path), resume=True)
    assert calls == ["a", "c"] and names(rows) == ["a_row", "b_row", "c_row"] and rows[1]["value"] == 2.0
    assert read(tmp_path)["rows"] == rows
    calls.clear()
    assert run_suite(suite_of(calls), few_digits, recording_in(tmp_path), resume=True) == rows and calls == []
    run_suite(suite_of(calls), few_digits, recording_in(tmp_path))  # unless asked, everything is measured
    assert calls == ["a", "b", "c"]


@pytest.mark.parametrize("how", [{"resume": True}, {"only": "a"}])
def test_rows_of_other_code_or_data_are_refused_unless_told_to_forget_them(how, few_digits, digits, tmp_path):
    calls = []
    run_suite(suite_of(calls), few_digits, recording_in(tmp_path))
    before = (tmp_path / "bench_try.json").read_bytes()
    with pytest.raises(CheckpointError, match="git_commit abc, expected def; --fresh measures all parts anew"):
        run_suite(suite_of(calls), few_digits, recording_in(tmp_path)._replace(commit="def"), **how)
    with pytest.raises(CheckpointError, match="checksum"):
        run_suite(suite_of(calls), digits, recording_in(tmp_path), **how)
    assert calls == ["a", "b", "c"] and (tmp_path / "bench_try.json").read_bytes() == before
    rows = run_suite(suite_of(calls), digits, recording_in(tmp_path, fresh=True), **how)
    assert read(tmp_path)["dataset"]["train"] == len(digits.train_labels)
    assert names(rows) == (["a_row"] if "only" in how else ["a_row", "b_row", "c_row"])


@pytest.mark.parametrize("resume", [False, True])
def test_one_part_alone_is_measured_anew_and_leaves_the_others_rows(resume, few_digits, tmp_path):
    calls = []
    run_suite(suite_of(calls), few_digits, recording_in(tmp_path))
    calls.clear()
    rows = run_suite(suite_of(calls, {"b": 20.0}), few_digits, recording_in(tmp_path), only="b", resume=resume)
    assert calls == ["b"] and [(r["name"], r["value"]) for r in rows] == [("a_row", 1.0), ("b_row", 20.0), ("c_row", 3.0)]
    assert read(tmp_path)["rows"] == rows
    with pytest.raises(NoPropError, match="the suite try has no part 'd'; choose one of a, b, c"):
        run_suite(suite_of(calls), few_digits, recording_in(tmp_path), only="d")
    assert calls == ["b"]


def test_two_parts_measured_at_once_are_both_kept(few_digits, tmp_path):
    """Each alone, by a process of its own: the first to begin is the last to write."""
    suite, recording = suite_of([]), recording_in(tmp_path)

    def slow(dataset, recording):
        run_suite(suite, few_digits, recording, only="b")
        return [row("a_row", [1.0], "s")]

    rows = run_suite(suite._replace(parts=suite.parts | {"a": slow}), few_digits, recording, only="a")
    assert names(rows) == names(read(tmp_path)["rows"]) == ["a_row", "b_row"]


def test_what_follows_from_several_parts_comes_last_and_always_anew(few_digits, tmp_path):
    def conclude(rows):
        return [{"part": "sum"} | row("sum", [sum(r["value"] for r in rows)], "s")]

    rows = run_suite(suite_of([], conclude=conclude), few_digits, recording_in(tmp_path))
    assert names(rows) == ["a_row", "b_row", "c_row", "sum"] and rows[-1]["value"] == 6.0
    again = run_suite(suite_of([], {"b": 20.0}, conclude=conclude), few_digits, recording_in(tmp_path), only="b")
    assert names(again) == names(rows) and again[-1]["value"] == 24.0 and read(tmp_path)["rows"] == again


def test_without_a_record_nothing_is_written_or_read(few_digits, tmp_path):
    calls = []
    assert len(run_suite(suite_of(calls), few_digits, recording_in(tmp_path / "none"), resume=True, kept=False)) == 3
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="none does not exist"):
        run_suite(suite_of(calls), few_digits, recording_in(tmp_path / "none"))
    assert calls == ["a", "b", "c"]  # refused before anything was measured


def test_every_part_is_told(few_digits, tmp_path):
    told = []

    def progress(items, description):
        told.append((description, list(items)))
        return items

    run_suite(suite_of([]), few_digits, recording_in(tmp_path, progress=progress))
    assert told == [("suite try", ["a", "b", "c"])]


# --- The suites, and their command ---


def test_the_suites_have_their_parts():
    assert list(SUITES["cpu"].parts) == ["published", "time_to_99", "time_to_993", "time_to_99_local", "memory"]
    assert list(SUITES["parallel"].parts) == ["processes"]
    assert list(SUITES["ceiling"].parts) == ["ceiling"]
    assert list(SUITES["peers"].parts) == list(PEER_PARTS)
    assert list(SUITES["predicted"].parts) == ["one_block", "all_blocks", "backprop", "backprop_checkpointed"]
    gpu = list(SUITES["gpu"].parts)
    assert gpu[0] == "environment" and gpu[-6:] == [f"time_{v}_{seed}" for seed in (0, 1, 2) for v in ("dt", "backprop")]
    assert all(suite.name == name for name, suite in SUITES.items())
    assert {name for name, suite in SUITES.items() if suite.device != "cpu"} == {"gpu"} and SUITES["gpu"].device == "cuda"
    assert SUITES["predicted"].precision == "bfloat16"  # as a GPU computes in the suite gpu


def test_the_command_prints_a_table_and_writes_rows_and_record(tmp_path, capsys):
    write_mnist(tmp_path / "data")
    out, told = tmp_path / "out", tmp_path / "rows.json"
    out.mkdir()
    command = ["bench", "--data-root", str(tmp_path / "data"), "--output", str(out), "--commit", "abc", "--only", "memory"]
    assert cli.main([*command, "--json", str(told)]) == 0
    said = capsys.readouterr().out
    assert "peak_memory" in said and "MiB" in said and f"written to {out}" in said
    record = json.loads((out / "bench_cpu.json").read_text())
    assert record["rows"] == json.loads(told.read_text()) and names(record["rows"]) == ["peak_memory"]
    assert record["git_commit"] == "abc" and record["dataset"]["name"] == "mnist"
    assert cli.main([*command[:-2], "--only", "nothing"]) == 2
    assert "choose one of published, time_to_99" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_told_before_anything_is_measured(tmp_path, capsys):
    write_mnist(tmp_path / "data")
    command = ["bench", "--data-root", str(tmp_path / "data"), "--only", "memory", "--output", str(tmp_path / "none")]
    assert cli.main(command) == 2
    assert "none does not exist; create it first" in capsys.readouterr().err


def test_other_data_make_no_record(tmp_path, capsys):
    command = ["bench", "--dataset", "digits", "--only", "memory", "--output", str(tmp_path)]
    assert cli.main(command) == 0
    assert "no record written: the book's are of the data set mnist" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_gpu_suite_needs_a_gpu(capsys):
    assert cli.main(["bench", "--suite", "gpu"]) == 2
    assert "sees no CUDA GPU" in capsys.readouterr().err


def test_a_suite_is_found_by_its_name(few_digits, tmp_path):
    rows = benches.bench("cpu", few_digits, recording_in(tmp_path), only="memory")
    assert names(rows) == ["peak_memory"] and json.loads((tmp_path / "bench_cpu.json").read_text())["rows"] == rows
