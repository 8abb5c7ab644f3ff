"""That the suite ceiling measures what its rows say: at toy size, and without looking at any time."""

import pytest
import torch

from noprop_helpers.benchmark import computes_bfloat16
from noprop_helpers.lab import bench_ceiling as ceiling
from noprop_helpers.lab.bench_gpu import four_ways
from noprop_helpers.lab.recording import Recording


def half_a_second(run, device):
    run()
    return 0.5


@pytest.fixture
def still(monkeypatch):
    """A clock by which everything takes half a second."""
    monkeypatch.setattr(ceiling, "seconds", half_a_second)


def test_speeds_count_what_is_done(still, monkeypatch):
    tries = []
    monkeypatch.setattr(ceiling, "matmul_flops", lambda n, dtype, device: lambda: tries.append((n, dtype)) or n + len(tries))
    assert ceiling.product_speeds(torch.float32, "cpu", (8, 32)) == {8: 8 + 117, 32: 32 + 120}  # the best of sixty
    assert tries == 20 * (3 * [(8, torch.float32)] + 3 * [(32, torch.float32)])  # in turns
    assert ceiling.bandwidth(n=1000) == 2 * 4000 / 0.5
    assert ceiling.adam_speed(n=1000) == 12 * 1000 / 0.5
    assert ceiling.launch_seconds(times=100) == 0.5 / 100


def test_adam_moves_the_bytes_that_it_says():
    """Gradient, weight and two moments in, three out; as the counter of ``predict`` has it."""
    assert ceiling.ADAM_BYTES == 7 * 4


def test_the_whole_suite(digits):
    rows = {r["name"]: r for r in ceiling.ceiling_part(digits, Recording(), layers=2, batch=8, n=1000, repeats=2)}
    kinds = ["float32"] + ["bfloat16"] * computes_bfloat16("cpu")
    expected = [f"product_{kind}_{n}" for kind in kinds for n in (16, 32, 64, 128, 256, 512, 1024)]
    expected += ["bandwidth", "adam", "launch"]
    for way in four_ways(2):
        expected += [f"predicted_{way}{ending}" for ending in ("", "_arithmetic", "_memory", "_launch")] + [f"step_{way}"]
    assert list(rows) == expected and all(r["value"] >= 0 for r in rows.values())
    for way in four_ways(2):
        step, foreseen = rows[f"step_{way}"], rows[f"predicted_{way}"]["value"]
        assert step["baseline"] == f"predicted_{way}" and step["ratio"] == pytest.approx(step["value"] / foreseen)
        parts = sum(rows[f"predicted_{way}_{term}"]["value"] for term in ("arithmetic", "memory", "launch"))
        assert parts == pytest.approx(foreseen)


def test_steps_are_in_float32_whatever_the_recording_says(digits, monkeypatch):
    """The ceiling that they are held against is."""
    seen = []
    monkeypatch.setattr(ceiling, "count", lambda make, task: seen.append(task.precision) or ([], 0))
    monkeypatch.setattr(ceiling, "prediction_rows", lambda name, *_: [ceiling.row(name, [1.0], "ms")])
    ceiling.ceiling_part(digits, Recording(precision="bfloat16"), layers=1, batch=8, n=1000, repeats=1)
    assert seen == ["float32"] * 4
