"""The suite predicted: what a training step asks of a device, counted one operation after another, and how long it should
take there. So there is a prediction, with its date, before there is a measurement.

The count is made on a CPU, whatever device it is for. It differs a little from what a GPU does: a CPU takes three
operations where a GPU takes one for dropout, and looks at some values that a GPU is not asked for; a GPU takes several
kernels for some operations, as for the gradients of a convolution.
"""

import functools
import weakref
from typing import Callable, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from ..benchmark import row
from ..data import Dataset
from .bench_gpu import Step, Task, four_ways, task_of
from .recording import Recording

Rows = list[dict]


class Operation(NamedTuple):
    """One operation that PyTorch starts: FLOP of its products and convolutions, bytes of all that it reads and writes, and
    the numbers that it writes."""

    flop: int
    bytes: int
    dtype: torch.dtype


class Device(NamedTuple):
    """Speeds at best: FLOP/s of products by kind of numbers, bytes/s from and to memory, seconds to start an operation."""

    flops: dict[torch.dtype, float]
    bandwidth: float
    launch: float


# NVIDIA's data sheet of the H100 SXM, without sparsity: tensor cores, but for float32 without TF32. The times to start are
# assumed: of an operation that Python starts, and of one in a CUDA graph.
H100 = Device({torch.bfloat16: 989e12, torch.float32: 67e12}, 3.35e12, 5e-6)
DEVICES = {"eager": H100, "graph": H100._replace(launch=1.5e-6)}
TERMS = ("arithmetic", "memory", "launch")


# --- Counting ---------------------------------------------------------------------------------------------------------

# These make room or look at a number: no device is asked to compute.
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "_local_scalar_dense"}


class Counter(TorchDispatchMode):
    """While it is entered, ``operations`` grows by all that PyTorch starts, views left out, and ``peak`` is the most bytes
    held at once in memory that was fetched since then."""

    def __init__(self):
        super().__init__()
        self.operations: list[Operation] = []
        self.held = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        """Run an operation, hold the memory that it fills, and count it unless it is free."""
        kwargs = kwargs or {}
        result = operation(*args, **kwargs)
        if operation.namespace == "aten" and not operation.is_view:
            written = _tensors(result)
            for tensor in written:
                self._hold(tensor.untyped_storage())
            if operation.overloadpacket.__name__ not in FREE:
                self.operations.append(_counted(operation, args, kwargs, result))
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        """Count a piece of memory once, from its first use until it is gone."""
        if storage in self._known:
            return
        self._known[storage] = True
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, num_bytes: int) -> None:
        self.held -= num_bytes


def count(make: Callable[[Task], Step], task: Task) -> tuple[list[Operation], int]:
    """A training step of one of the ``four_ways``: -> its operations, and the most bytes that model, optimizer and step hold.

    Counted is the second step: the first one also makes the optimizer's state.
    """
    with Counter() as counter:
        step = make(task)
        step()
        counter.operations.clear()
        step()
    return counter.operations, counter.peak


def _counted(operation, args: tuple, kwargs: dict, result) -> Operation:
    """What one operation asks for: floating-point operations and bytes read and written."""
    read, written = _tensors((args, kwargs)), _tensors(result) or _changed(operation, args)
    formula = flop_registry.get(operation.overloadpacket)
    flop = formula(*args, **kwargs, out_val=result) if formula else 0
    dtype = written[0].dtype if written else torch.float32
    return Operation(flop, sum(tensor.nbytes for tensor in read + written), dtype)


def _changed(operation, args: tuple) -> list[Tensor]:
    """What an operation that returns nothing writes, as an optimizer's; which may, but does not, change its gradients."""
    specs = zip(operation._schema.arguments, args)
    return _tensors([value for spec, value in specs if spec.is_write and spec.name != "grads"])


def _tensors(values) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


# --- Predicting -------------------------------------------------------------------------------------------------------


def predicted(operations: list[Operation], device: Device) -> dict[str, float]:
    """Seconds on the device, by what they are spent on: each operation takes the longest of its three times.

    t = sum_i max(F_i / pi, B_i / beta, lambda): its products at full speed, its bytes at full speed, being started.
    """
    spent = dict.fromkeys(TERMS, 0.0)
    for flop, num_bytes, dtype in operations:
        arithmetic = flop / device.flops[dtype] if flop else 0.0
        times = arithmetic, num_bytes / device.bandwidth, device.launch
        longest = max(times)
        spent[TERMS[times.index(longest)]] += longest
    return spent


def prediction_rows(name: str, operations: list[Operation], device: Device) -> Rows:
    """``predicted`` as rows in milliseconds: the sum, and its three parts."""
    spent = predicted(operations, device)
    parts = [row(f"{name}_{term}", [1e3 * seconds], "ms") for term, seconds in spent.items()]
    return [row(name, [1e3 * sum(spent.values())], "ms"), *parts]


def predicted_part(way: str, dataset: Dataset, recording: Recording, layers: int = 10, batch: int = 128) -> Rows:
    """What a training step in one of the ``four_ways`` asks for, and how long it should take on an H100, each operation
    started by Python or all of them as one CUDA graph."""
    operations, peak = count(four_ways(layers)[way], task_of(dataset, recording, batch))
    counted = {"operations": (len(operations), "operations"), "memory": (peak / 2**20, "MiB")}
    counted["work"] = sum(operation.flop for operation in operations) / 1e9, "GFLOP"
    counted["traffic"] = sum(operation.bytes for operation in operations) / 1e9, "GB"
    rows = [row(f"{name}_{way}", [value], unit) for name, (value, unit) in counted.items()]
    return rows + [line for name, device in DEVICES.items() for line in prediction_rows(f"{name}_{way}", operations, device)]


PREDICTED_PARTS = {way: functools.partial(predicted_part, way) for way in four_ways(1)}
