import pytest
import torch

from noprop_helpers import benchmark


def test_runs_take_turns_and_warm_up():
    calls = []
    times = benchmark.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warmup=2)
    assert "".join(calls) == "ab" * 5
    assert [len(values) for values in times.values()] == [3, 3] and min(min(values) for values in times.values()) >= 0
    with pytest.raises(ValueError, match="at least one run"):
        benchmark.alternate({})


def test_a_row_compares_pair_by_pair():
    row = benchmark.row("step", [1.0, 4.0, 3.0], "s", "loop", [2.0, 4.0, 12.0])
    assert row == {
        "name": "step",
        "value": 3.0,
        "unit": "s",
        "baseline": "loop",
        "ratio": 0.5,
        "ratio_min": 0.25,
        "ratio_max": 1.0,
    }
    alone = benchmark.row("memory", [7.0], "MiB")
    assert alone["value"] == 7.0 and alone["baseline"] is alone["ratio"] is alone["ratio_min"] is None
    with pytest.raises(ValueError):
        benchmark.row("step", [1.0], "s", "loop", [1.0, 2.0])


def test_the_table_shows_every_row_and_says_what_was_not_reached():
    rows = [benchmark.row("fast", [1.0], "s", "slow", [2.0]), benchmark.row("far", [1.0], "s") | {"value": None}]
    lines = benchmark.table(rows).splitlines()
    assert len(lines) == 3 and "0.5" in lines[1] and lines[1].endswith("slow") and "not reached" in lines[2]


def test_mlp_flops_count_every_product_of_one_step():
    """Eq. (11.1), against PyTorch's own counter, for the published notebook's layer."""
    from torch.utils.flop_counter import FlopCounterMode

    B, widths = 16, (138, 256, 10)
    net = torch.nn.Sequential(torch.nn.Linear(*widths[:2]), torch.nn.ReLU(), torch.nn.Linear(*widths[1:]))
    for input_gradient in (False, True):
        x = torch.randn(B, widths[0], requires_grad=input_gradient)
        with FlopCounterMode(display=False) as counter:
            net(x).sum().backward()
        assert benchmark.mlp_flops(B, widths, input_gradient) == counter.get_total_flops()


def test_matrix_products_are_counted_and_timed(monkeypatch):
    monkeypatch.setattr(benchmark, "seconds", lambda run, device: run() is None or 0.5)
    assert benchmark.matmul_flops(64)() == 2 * 64**3 / 0.5
