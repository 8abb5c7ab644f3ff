"""The suite ceiling: what one core of a processor does at best, and the paper's training step beside what follows from that.

Its seconds are the processor's own, which pass only while it computes for this process: on a machine that others use too,
a clock on the wall would time them as well. That clock adds up over threads, so the suite takes one.
"""

import functools
import time
from typing import Callable

import torch
from torch import nn

from .. import NoPropError
from ..benchmark import computes_bfloat16, row, seconds
from ..data import Dataset
from .bench_gpu import four_ways, task_of
from .predict import Device, count, prediction_rows
from .recording import Recording

Rows = list[dict]
Timed = Callable[[Callable[[], object], str], float]
SIZES = (16, 32, 64, 128, 256, 512, 1024)
ADAM_FLOP, ADAM_BYTES = 12, 28  # a weight: a dozen operations; gradient, weight, two moments in, the last three out
# The third convolution of the paper's block on a batch of MNIST: 128 images of 14 x 14, from 64 channels to 128, 3 x 3.
CONVOLUTION_FLOP = 2 * 128 * 14 * 14 * 64 * 128 * 9
CONVOLUTION_BYTES = 4 * (128 * 14 * 14 * (64 + 128) + 64 * 128 * 9)


def processor_seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """How long one call keeps the processor busy: as ``benchmark.seconds``, but for the time that others have it."""
    start = time.process_time()
    run()
    return time.process_time() - start


def product_speeds(dtype: torch.dtype, device: str = "cpu", timed: Timed = seconds) -> dict[int, float]:
    """FLOP/s of the product of two square matrices, by size: 2 n^3 operations in the shortest of many tries.

    All sizes have their turn, of a few tries, before the next round: what disturbs the machine for a moment spoils no size's
    every try, and the larger product before does not leave a smaller one with a cold cache.
    """
    products = {n: functools.partial(torch.matmul, *torch.randn(2, n, n, device=device).to(dtype)) for n in SIZES}
    best = dict.fromkeys(SIZES, float("inf"))
    for _ in range(20):
        for n, product in products.items():
            best[n] = min(best[n], *(timed(product, device) for _ in range(3)))
    return {n: 2 * n**3 / shortest for n, shortest in best.items()}


@torch.no_grad()
def convolution_speed(device: str = "cpu", timed: Timed = seconds) -> float:
    """FLOP/s of one of the block's convolutions in float32. Where products and convolutions are two libraries' work, neither
    is sure to be the faster."""
    images = torch.randn(128, 64, 14, 14, device=device).to(memory_format=torch.channels_last)
    convolve = nn.Conv2d(64, 128, 3, padding=1, bias=False, device=device).to(memory_format=torch.channels_last)
    return CONVOLUTION_FLOP / min(timed(functools.partial(convolve, images), device) for _ in range(15))


def bandwidth(device: str = "cpu", n: int = 2**26, timed: Timed = seconds) -> float:
    """Bytes/s where each number of a vector far larger than any cache is read and written once."""
    vector = torch.ones(n, device=device)
    best = min(timed(lambda: vector.add_(1), device) for _ in range(15))
    return 2 * vector.nbytes / best


def adam_speed(device: str = "cpu", n: int = 2**25, timed: Timed = seconds) -> float:
    """FLOP/s of Adam's update of n weights: so many that no cache holds them, their gradients and their moments."""
    weight = nn.Parameter(torch.randn(n, device=device))
    weight.grad = torch.randn_like(weight)
    optimizer = torch.optim.Adam([weight], fused=True)
    best = min(timed(optimizer.step, device) for _ in range(15))
    return ADAM_FLOP * n / best


def launch_seconds(times: int = 1000) -> float:
    """How long the shortest operation takes, one number added to another: the price of starting one."""
    number = torch.ones(1)

    def many() -> None:
        for _ in range(times):
            number.add_(1)

    return min(processor_seconds(many) for _ in range(15)) / times


def ceiling_part(
    dataset: Dataset, recording: Recording, layers: int = 10, batch: int = 128, n: int = 2**25, repeats: int = 3
) -> Rows:
    """Speeds of products by size and of a convolution, bandwidth, Adam's update of n weights, the shortest operation; then a
    float32 training step in each of the ``four_ways``, against what the model of ``predict`` makes of these speeds, the
    fastest product or convolution for its ceiling.

    Raises NoPropError unless there is one thread.
    """
    if torch.get_num_threads() != 1:
        raise NoPropError(f"the suite ceiling measures one core, got {torch.get_num_threads()} threads; give --threads 1")
    rows = []
    kinds = [torch.float32] + [torch.bfloat16] * computes_bfloat16("cpu")
    speeds = {kind: product_speeds(kind, timed=processor_seconds) for kind in kinds}
    for kind, by_size in speeds.items():
        name = str(kind).removeprefix("torch.")
        rows += [row(f"product_{name}_{size}", [speed / 1e9], "GFLOP/s") for size, speed in by_size.items()]
    convolution, beta = convolution_speed(timed=processor_seconds), bandwidth(n=2 * n, timed=processor_seconds)
    best = Device({torch.float32: max(convolution, *speeds[torch.float32].values())}, beta, launch_seconds())
    rows.append(row("convolution_float32", [convolution / 1e9], "GFLOP/s"))
    rows.append(row("bandwidth", [beta / 1e9], "GB/s"))
    rows.append(row("adam", [adam_speed(n=n, timed=processor_seconds) / 1e9], "GFLOP/s"))
    rows.append(row("launch", [1e6 * best.launch], "microseconds"))
    return rows + _steps(dataset, recording._replace(precision="float32"), best, layers, batch, repeats)


def _steps(dataset: Dataset, recording: Recording, best: Device, layers: int, batch: int, repeats: int) -> Rows:
    """The paper's training step in four ways, each beside the time that its operations ask of one core."""
    task, ways, rows = task_of(dataset, recording, batch), four_ways(layers), []
    for way, make in ways.items():
        operations, _ = count(make, task)
        rows += prediction_rows(f"predicted_{way}", operations, best)
    steps = {way: make(task) for way, make in ways.items()}
    rounds = [{way: processor_seconds(step) for way, step in steps.items()} for _ in range(1 + repeats)]
    for way in ways:
        times = [1e3 * one[way] for one in rounds[1:]]  # the first one warms up
        (foreseen,) = [line["value"] for line in rows if line["name"] == f"predicted_{way}"]
        rows.append(row(f"step_{way}", times, "ms", f"predicted_{way}", repeats * [foreseen]))
    return rows


CEILING_PARTS = {"ceiling": ceiling_part}
