"""Benchmark suites: parts that return rows, each written to the record as soon as it is measured."""

import traceback
from typing import Callable, NamedTuple

from .. import NoPropError
from ..data import Dataset
from . import records
from .bench_cpu import CPU_PARTS
from .bench_gpu import GPU_PARTS
from .bench_parallel import PARALLEL_PARTS
from .recording import Recording

Rows = list[dict]


class Suite(NamedTuple):
    """The device a suite wants, and its parts: name -> ``part(dataset, recording)`` -> rows (see ``benchmark.row``)."""

    device: str
    parts: dict[str, Callable[[Dataset, Recording], Rows]]


SUITES = {"cpu": Suite("cpu", CPU_PARTS), "gpu": Suite("cuda", GPU_PARTS), "parallel": Suite("cpu", PARALLEL_PARTS)}
