"""CUDA graphs: a training step recorded once and replayed, without Python between its kernels.

A small layer's step is many short kernels; a GPU may finish each of them before Python has started the next.
"""

from typing import Callable

import torch
from torch import Tensor

Step = Callable[[int, Tensor, Tensor], Tensor]


def on_side_stream(work: Callable[[], Tensor]) -> Tensor:
    """Run ``work`` in a CUDA stream of its own, as PyTorch asks for what is going to be recorded; the caller's waits.

    >>> if torch.cuda.is_available():
    ...     assert on_side_stream(lambda: torch.ones(2, device="cuda").sum()) == 2
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        result = work()
    torch.cuda.current_stream().wait_stream(side)
    return result


def cuda_graph(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record the kernels of ``work`` without running them: -> a function that runs them all, in the same memory.

    ``work`` must have run a few times before, ``on_side_stream``: then kernels are chosen and optimizer states exist. What it
    returns is overwritten by the next replay. Optimizers need ``capturable=True``.

    >>> if torch.cuda.is_available():
    ...     x = torch.zeros(1, device="cuda")
    ...     add_one = cuda_graph(lambda: x.add_(1))
    ...     assert add_one() == 1 and add_one() == 2
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


class ReplayedSteps:
    """``step(t, x, y) -> loss``, a training step of layer t, recorded for every layer and then replayed.

    A layer's first ``warmup`` batches run as they are, and so does every batch of another shape than the first one, as the
    last of an epoch. A replay draws its random numbers from torch's global random state, as the step itself would: the
    same seed gives the same training. The loss that comes back is overwritten by the layer's next step.

    >>> def product(t, x, y):
    ...     return (t * x * y).sum()
    >>> steps = ReplayedSteps(product, record=lambda work: work, warm_up=lambda work: work())  # on a GPU: (product)
    >>> steps(2, torch.ones(3), torch.ones(3))
    tensor(6.)
    """

    warmup = 3

    def __init__(self, step: Step, record: Callable = cuda_graph, warm_up: Callable = on_side_stream):
        self.step, self.record, self.warm_up = step, record, warm_up
        self.x = self.y = None
        self.seen: dict[int, int] = {}
        self.replays: dict[int, Callable[[], Tensor]] = {}

    def __call__(self, t: int, x: Tensor, y: Tensor) -> Tensor:
        """The step of layer t: first warmed up, then recorded, then replayed; not recorded for a batch of another shape."""
        if self.x is None:
            self.x, self.y = x.detach().clone(), y.clone()  # the memory that all replays read
        if x.shape != self.x.shape:
            return self.step(t, x, y)
        self.seen[t] = self.seen.get(t, 0) + 1
        if self.seen[t] <= self.warmup:
            return self.warm_up(lambda: self.step(t, x, y))
        self.x.copy_(x)
        self.y.copy_(y)
        if t not in self.replays:
            self.replays[t] = self.record(lambda: self.step(t, self.x, self.y))
        return self.replays[t]()
