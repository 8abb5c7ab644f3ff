"""That the suite ceiling measures what its rows say: at toy size, and without looking at any time."""

import time

import pytest
import torch

from noprop_helpers import NoPropError
from noprop_helpers.benchmark import computes_bfloat16
from noprop_helpers.lab import bench_ceiling as ceiling
from noprop_helpers.lab.bench_gpu import four_ways
from noprop_helpers.lab.predict import Counter
from noprop_helpers.lab.recording import Recording

FOUND = ("one_block", "all_blocks", "backprop", "backprop_checkpointed")


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def clock(*times):
    """A clock by which the calls take these times, over and over, and what was called."""
    called = []

    def timed(run, device):
        run()
        called.append(run)
        return times[(len(called) - 1) % len(times)]

    return timed, called


@pytest.mark.slow
def test_speeds_are_of_the_shortest_try():
    timed, called = clock(2.0, 0.5, 1.0)
    assert ceiling.bandwidth(n=1000, timed=timed) == 2 * 4000 / 0.5
    assert ceiling.adam_speed(n=1000, timed=timed) == 12 * 1000 / 0.5
    assert len(called) == 30


@pytest.mark.whole
def test_a_convolution_has_the_operations_and_bytes_that_it_says():
    timed, called = clock(2.0, 0.5, 1.0)
    assert ceiling.convolution_speed(timed=timed) == ceiling.CONVOLUTION_FLOP / 0.5
    with Counter() as counter:
        called[0]()
    (operation,) = counter.operations
    assert (operation.flop, operation.bytes) == (ceiling.CONVOLUTION_FLOP, ceiling.CONVOLUTION_BYTES)


@pytest.mark.whole
def test_the_ceiling_is_the_fastest_of_all(digits, one_thread, monkeypatch):
    monkeypatch.setattr(ceiling, "product_speeds", lambda kind, timed: {8: 5e9, 16: 7e9})
    monkeypatch.setattr(ceiling, "_steps", lambda dataset, recording, best, *_: [best.flops[torch.float32]])
    for convolution, highest in ((9e9, 9e9), (1e9, 7e9)):
        monkeypatch.setattr(ceiling, "convolution_speed", lambda timed, speed=convolution: speed)
        assert ceiling.ceiling_part(digits, Recording(), n=1000)[-1] == highest


def test_products_of_all_sizes_take_turns(monkeypatch):
    monkeypatch.setattr(ceiling, "SIZES", (8, 32))
    timed, called = clock(4.0, 2.0, 3.0, 8.0, 7.0, 9.0)  # three tries of one, three of the other
    assert ceiling.product_speeds(torch.float32, timed=timed) == {8: 2 * 8**3 / 2.0, 32: 2 * 32**3 / 7.0}
    assert [tuple(run().shape) for run in called[:4]] == 3 * [(8, 8)] + [(32, 32)] and len(called) == 20 * 6
    assert ceiling.product_speeds(torch.bfloat16, timed=timed)[8] and called[-1]().dtype == torch.bfloat16


def test_the_processors_seconds_stand_still_while_it_waits():
    assert ceiling.processor_seconds(lambda: time.sleep(0.2)) < 0.1
    busy = ceiling.processor_seconds(lambda: [torch.randn(300, 300) @ torch.randn(300, 300) for _ in range(30)])
    assert busy > 0.001


def test_the_shortest_operation_is_shared_out(monkeypatch):
    monkeypatch.setattr(ceiling, "processor_seconds", lambda run: run() or 0.5)
    assert ceiling.launch_seconds(times=100) == 0.5 / 100


@pytest.mark.slow
def test_the_whole_suite(digits, one_thread):
    rows = {r["name"]: r for r in ceiling.ceiling_part(digits, Recording(), layers=2, batch=8, n=1000, repeats=2)}
    kinds = ["float32"] + ["bfloat16"] * computes_bfloat16("cpu")
    expected = [f"product_{kind}_{n}" for kind in kinds for n in (16, 32, 64, 128, 256, 512, 1024)]
    expected += ["convolution_float32", "bandwidth", "adam", "launch"]
    expected += [f"predicted_{way}{end}" for way in FOUND for end in ("", "_arithmetic", "_memory", "_launch")]
    expected += [f"step_{way}" for way in FOUND]
    assert list(rows) == expected and all(r["value"] >= 0 for r in rows.values()) and list(four_ways(2)) == list(FOUND)
    for way in FOUND:
        step, foreseen = rows[f"step_{way}"], rows[f"predicted_{way}"]["value"]
        assert step["baseline"] == f"predicted_{way}" and step["ratio"] == pytest.approx(step["value"] / foreseen)
        parts = sum(rows[f"predicted_{way}_{term}"]["value"] for term in ("arithmetic", "memory", "launch"))
        assert parts == pytest.approx(foreseen)


@pytest.mark.slow
def test_steps_are_in_float32_whatever_the_recording_says(digits, monkeypatch, one_thread):
    """The ceiling that they are held against is."""
    seen = []
    monkeypatch.setattr(ceiling, "count", lambda make, task: seen.append(task.precision) or ([], 0))
    monkeypatch.setattr(ceiling, "prediction_rows", lambda name, *_: [ceiling.row(name, [1.0], "ms")])
    ceiling.ceiling_part(digits, Recording(precision="bfloat16"), layers=1, batch=8, n=1000, repeats=1)
    assert seen == ["float32"] * 4


def test_the_suite_takes_one_thread(digits, one_thread):
    torch.set_num_threads(2)
    with pytest.raises(NoPropError, match="measures one core, got 2 threads; give --threads 1"):
        ceiling.ceiling_part(digits, Recording())
