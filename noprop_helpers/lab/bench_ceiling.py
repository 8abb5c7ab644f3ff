"""The suite ceiling: what a processor does at best, and the paper's training step beside what follows from that."""

import torch
from torch import nn

from ..benchmark import alternate, computes_bfloat16, matmul_flops, row, seconds
from ..data import Dataset
from .bench_gpu import four_ways, task_of
from .predict import Device, count, prediction_rows
from .recording import Recording

Rows = list[dict]
SIZES = (16, 32, 64, 128, 256, 512, 1024)
ADAM_FLOP, ADAM_BYTES = 12, 28  # a weight: a dozen operations; gradient, weight, two moments in, the last three out


def product_speeds(dtype: torch.dtype, device: str = "cpu", sizes: tuple[int, ...] = SIZES) -> dict[int, float]:
    """FLOP/s of the product of two square matrices: size -> the best of many tries.

    All sizes have their turn, of a few tries, before the next round: what disturbs the machine for a moment spoils no size's
    every try, and the larger product before does not leave a smaller one with a cold cache.
    """
    products = {n: matmul_flops(n, dtype, device) for n in sizes}
    rounds = [{n: max(product() for _ in range(3)) for n, product in products.items()} for _ in range(20)]
    return {n: max(speeds[n] for speeds in rounds) for n in sizes}


def bandwidth(device: str = "cpu", n: int = 2**26) -> float:
    """Bytes/s where each number of a vector far larger than any cache is read and written once."""
    vector = torch.ones(n, device=device)
    best = min(seconds(lambda: vector.add_(1), device) for _ in range(15))
    return 2 * vector.nbytes / best


def adam_speed(device: str = "cpu", n: int = 2**25) -> float:
    """FLOP/s of Adam's update of n weights: so many that no cache holds them, their gradients and their moments."""
    weight = nn.Parameter(torch.randn(n, device=device))
    weight.grad = torch.randn_like(weight)
    optimizer = torch.optim.Adam([weight], fused=True)
    best = min(seconds(optimizer.step, device) for _ in range(15))
    return ADAM_FLOP * n / best


def launch_seconds(device: str = "cpu", times: int = 1000) -> float:
    """How long the shortest operation takes, one number added to another: the price of starting one."""
    number = torch.ones(1, device=device)

    def many() -> None:
        for _ in range(times):
            number.add_(1)

    return min(seconds(many, device) for _ in range(15)) / times


def ceiling_part(
    dataset: Dataset, recording: Recording, layers: int = 10, batch: int = 128, n: int = 2**25, repeats: int = 3
) -> Rows:
    """Speeds by size, bandwidth, Adam's update of n weights, the shortest operation; then a float32 training step in each of
    the ``four_ways``, against what the model of ``predict`` makes of these speeds."""
    device, rows = recording.device, []
    kinds = [torch.float32] + [torch.bfloat16] * computes_bfloat16(device)
    speeds = {kind: product_speeds(kind, device) for kind in kinds}
    for kind, by_size in speeds.items():
        name = str(kind).removeprefix("torch.")
        rows += [row(f"product_{name}_{size}", [speed / 1e9], "GFLOP/s") for size, speed in by_size.items()]
    best = Device({torch.float32: max(speeds[torch.float32].values())}, bandwidth(device, 2 * n), launch_seconds(device))
    rows.append(row("bandwidth", [best.bandwidth / 1e9], "GB/s"))
    rows.append(row("adam", [adam_speed(device, n) / 1e9], "GFLOP/s"))
    rows.append(row("launch", [1e6 * best.launch], "microseconds"))
    return rows + _steps(dataset, recording._replace(precision="float32"), best, layers, batch, repeats)


def _steps(dataset: Dataset, recording: Recording, best: Device, layers: int, batch: int, repeats: int) -> Rows:
    task, ways = task_of(dataset, recording, batch), four_ways(layers)
    times = alternate({way: make(task) for way, make in ways.items()}, repeats, device=recording.device)
    rows = []
    for way, make in ways.items():
        operations, _ = count(make, task)
        predictions = prediction_rows(f"predicted_{way}", operations, best)
        against = [predictions[0]["value"]] * repeats
        rows += [*predictions, row(f"step_{way}", [1e3 * t for t in times[way]], "ms", f"predicted_{way}", against)]
    return rows


CEILING_PARTS = {"ceiling": ceiling_part}
