"""That the suites run and say what they promise: on small data, and without looking at any time."""

import itertools
import json
import types

import pytest
import torch

from noprop_helpers import __main__ as cli
from noprop_helpers import benchmark, suites
from noprop_helpers.data import load_dataset

KEYS = {"name", "value", "unit", "baseline", "ratio", "ratio_min", "ratio_max"}


@pytest.fixture(scope="module")
def small():
    digits = load_dataset("digits")
    return digits._replace(
        train_images=digits.train_images[:256], train_labels=digits.train_labels[:256],
        test_images=digits.test_images[:50], test_labels=digits.test_labels[:50],
    )  # fmt: skip


def by_name(rows):
    assert all(row.keys() == KEYS for row in rows)
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row for row in rows}


def test_cpu_suite(small, monkeypatch):
    monkeypatch.setattr(suites, "TARGETS", {"time_to_99": ("shared", 0.01, 2), "time_to_99_local": ("local", 1.01, 1)})
    monkeypatch.setattr(suites, "published_epoch", lambda *a, **k: published(*a, repeats=2, **k))
    rows = by_name(suites.cpu_suite(small, seeds=(0, 1)))
    epoch = rows["published_epoch"]
    assert (
        0 < epoch["ratio_min"] <= epoch["ratio"] <= epoch["ratio_max"]
        and epoch["baseline"] == "published loop, one epoch"
    )
    # As many products take longer than the fastest of them would for all.
    assert 0 < rows["gemm_fraction"]["value"] <= rows["gemm_epoch"]["ratio"]
    assert rows["gemm_epoch"]["baseline"] == "published_epoch" and rows["peak_memory"]["value"] > 0
    assert rows["time_to_99"]["value"] > 0
    assert rows["time_to_99_local"]["value"] is None  # 101 % is out of reach, and the row must say so


published = suites.published_epoch


def test_parallel_suite(small):
    rows = by_name(suites.parallel_suite(small, repeats=1, num_images=200, num_steps=2))
    assert rows["two_ranks_speedup"]["value"] == pytest.approx(rows["one_rank"]["value"] / rows["two_ranks"]["value"])
    assert rows["two_ranks_data_parallel"]["value"] > 0 and rows["gather_layers"]["value"] > 0


def dies(*arguments):
    raise SystemExit(3)


def test_a_process_that_dies_ends_the_benchmark(small):
    with pytest.raises(ValueError, match="a process of the benchmark died"):
        suites._in_processes(dies, 2, small.train_images, small.train_labels, 1)


needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_a_gpu)])
def test_gpu_suite(device, small, monkeypatch):
    """On a CPU it leaves out what needs a GPU, and measures the rest."""
    monkeypatch.setattr(suites, "DEPTHS", (1, 2))
    monkeypatch.setattr(suites, "BATCHES", (8,))
    monkeypatch.setattr(suites, "paper_time_to_accuracy", lambda *a, **k: paper_times(*a, epochs=1, **k))
    rows = by_name(suites.gpu_suite(small, device, repeats=1, steps=1))
    assert rows["step_backprop"]["ratio"] == 1
    assert {
        "step_loop",
        "step_loop_float32",
        "step_loop_channels_first",
        "step_stacked",
        "step_T1",
        "images_per_second_B8",
        "inference_T2",
        "latency_T2",
        "paper_time_to_994",
    } <= rows.keys()
    only_on_a_gpu = {"step_compiled", "step_streams", "step_graph", "step_graph_streams", "memory_layer_at_a_time"}
    assert (only_on_a_gpu & rows.keys()) == (only_on_a_gpu if device == "cuda" else set())


paper_times = suites.paper_time_to_accuracy


def test_time_to_accuracy_of_the_papers_model(small, monkeypatch):
    """By a clock that a second passes on at every look, and given accuracies: NoProp's epochs, then back-propagation's."""
    monkeypatch.setattr(suites, "time", types.SimpleNamespace(perf_counter=itertools.count().__next__))
    scores = iter([0.2, 0.9, 0.8, 0.1, 0.2, 0.3])
    monkeypatch.setattr(suites, "accuracy", lambda *arguments: next(scores))
    rows = by_name(paper_times(small, "cpu", target=0.85, epochs=3))
    assert rows["paper_time_to_850"]["value"] == 2  # measuring takes a look too, which does not count
    assert rows["paper_time_to_backprop_850"]["value"] is None  # never good enough
    assert rows["paper_epoch"]["value"] == 1
    assert rows["paper_accuracy"]["value"] == 0.8 and rows["paper_accuracy"]["ratio"] == pytest.approx(0.8 / 0.3)


def test_bench_prints_a_table_and_writes_rows_and_record(tmp_path, monkeypatch, capsys):
    rows = [benchmark.row("published_epoch", [1.0], "s", "published loop", [12.0])]
    monkeypatch.setitem(suites.SUITES, "cpu", lambda dataset, device, progress: rows)
    monkeypatch.setattr(cli.records, "FOLDER", tmp_path)
    assert cli.main(["bench", "--dataset", "digits", "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text()) == rows
    said = capsys.readouterr().out
    assert "published_epoch" in said and "0.0833" in said and "no record written" in said
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    monkeypatch.setattr(cli, "load_dataset", lambda *a, **k: load_dataset("digits"))
    assert cli.main(["bench"]) == 0
    record = json.loads((tmp_path / "bench_cpu.json").read_text())
    assert record["rows"] == rows and record["command"] == "python -m noprop_helpers bench --suite cpu"
    assert {"environment", "git_commit", "date", "dataset"} <= record.keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_gpu_suite_needs_a_gpu(capsys):
    assert cli.main(["bench", "--suite", "gpu"]) == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err
