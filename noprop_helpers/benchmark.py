"""Timing: rivals in turn, ratios with their spread, and the machine's own ceiling beside them.

A shared machine is never quiet. Runs that are compared are therefore timed alternately, A B A B, and compared pair by
pair: what slows the machine for a while slows both.
"""

import statistics
import time
from typing import Callable

import torch


def synchronize(device: torch.device | str) -> None:
    """Wait for what a GPU still has to do; a CPU has always done it."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """How long one call takes, all its work on the device included."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def alternate(
    runs: dict[str, Callable[[], object]], repeats: int = 5, warmup: int = 1, device: torch.device | str = "cpu"
) -> dict[str, list[float]]:
    """Call the runs in turn, ``warmup`` rounds unmeasured and ``repeats`` measured: name -> seconds [repeats]."""
    if repeats < 1 or not runs:
        raise ValueError(f"expected at least one run and one repeat, got {len(runs)} and {repeats}")
    times = {name: [] for name in runs}
    for round in range(warmup + repeats):
        for name, run in runs.items():
            spent = seconds(run, device)
            if round >= warmup:
                times[name].append(spent)
    return times


def row(
    name: str, values: list[float], unit: str, baseline: str | None = None, baseline_values: list[float] | None = None
) -> dict:
    """One line of a benchmark: the median of ``values`` and, pair by pair, their ratio to the baseline's.

    {"name", "value", "unit", "baseline", "ratio", "ratio_min", "ratio_max"}; without a baseline the last four are None.
    """
    result = {"name": name, "value": statistics.median(values), "unit": unit, "baseline": baseline}
    if baseline_values is None:
        return result | {"ratio": None, "ratio_min": None, "ratio_max": None}
    ratios = [value / other for value, other in zip(values, baseline_values, strict=True)]
    return result | {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def table(rows: list[dict]) -> str:
    """Rows as text, one line each."""
    lines = [("", "value", "unit", "ratio", "from", "to", "to the baseline")]
    for r in rows:
        ratios = ["" if r[key] is None else f"{r[key]:.3g}" for key in ("ratio", "ratio_min", "ratio_max")]
        value = "not reached" if r["value"] is None else f"{r['value']:.4g}"
        lines.append((r["name"], value, r["unit"], *ratios, r["baseline"] or ""))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    # Text to the left, numbers to the right.
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i in (1, 3, 4, 5) else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


def matmul_flops(
    size: int = 2048, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Callable[[], float]:
    """A function that multiplies two square matrices and returns FLOP/s: what the machine can do at best.

    2 size^3 floating-point operations, one multiplication and one addition each. The matrices are made once.
    """
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: 2 * size**3 / seconds(lambda: torch.matmul(a, b, out=out), device)


def mlp_flops(num_samples: int, widths: tuple[int, ...], input_gradient: bool = False) -> int:
    """Floating-point operations of the matrix products that train a multi-layer perceptron on ``num_samples`` samples.

    Forward, and the gradients of weights and inputs: 6 n_in n_out a sample and layer. The first layer's input gradient,
    2 n_in n_out, is counted only if asked for: nobody needs it where the input is data.
    """
    products = [n_in * n_out for n_in, n_out in zip(widths, widths[1:])]
    return num_samples * (6 * sum(products) - (0 if input_gradient else 2 * products[0]))
