"""The suite parallel: Figure 6 blocks in two processes of one thread each against one, layers apart and data apart."""

import os
import socket
import time
from queue import Empty
from typing import Callable, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .. import NoPropError
from ..benchmark import row
from ..data import Dataset
from ..layerwise import layers_for_rank
from ..noprop import NoPropDT
from ..parallel import gather_layers
from ..passes import adam, seeded
from ..recipes import PaperDT, Shape
from ..training import Settings, fit
from .recording import Recording

Rows = list[dict]


class Work(NamedTuple):
    """What the processes train: images [N, C, H, W], labels [N], how many classes and layers."""

    images: Tensor
    labels: Tensor
    num_classes: int
    num_steps: int

    def model(self) -> NoPropDT:
        """The paper's NoProp-DT, the same in every process."""
        shape = Shape(tuple(self.images.shape[1:]), self.num_classes, len(self.images))
        with seeded(0):
            return PaperDT(self.num_steps).build(shape)


def parallel_part(
    dataset: Dataset, recording: Recording, repeats: int = 3, num_images: int = 1280, num_steps: int = 10
) -> Rows:
    """One process, two with the layers divided, two with the data divided, in turns; all in float32."""
    if recording.precision not in (None, "float32"):
        raise NoPropError(f"the suite parallel computes in float32 alone, got precision {recording.precision}")
    work = Work(dataset.train_images[:num_images], dataset.train_labels[:num_images], dataset.num_classes, num_steps)
    one, two, gathered, data_parallel = [], [], [], []
    for _ in recording.progress(range(repeats), "turns"):
        alone, _ = in_processes(train_share, 1, work)
        shared, gathering = in_processes(train_share, 2, work)
        divided, _ = in_processes(train_data_parallel, 2, work)
        for times, value in ((one, alone), (two, shared), (gathered, gathering), (data_parallel, divided)):
            times.append(value)
    speedups = {"two_ranks_speedup": two, "two_ranks_data_parallel": data_parallel}
    return [
        row("one_rank", one, "s"),
        row("two_ranks", two, "s", "one process, one thread", one),
        *(row(name, [a / b for a, b in zip(one, times)], "times as fast") for name, times in speedups.items()),
        row("gather_layers", gathered, "s"),
    ]


def in_processes(task: Callable, world_size: int, work: Work) -> tuple[float, float]:
    """Run ``task`` in so many new processes: the seconds from the first start to the last end, of its two parts."""
    context = torch.multiprocessing.get_context("spawn")
    queue, barrier, port = context.Queue(), context.Barrier(world_size), _free_port()
    arguments = [(task, rank, world_size, port, work, barrier, queue) for rank in range(world_size)]
    processes = [context.Process(target=_enter, args=args) for args in arguments]
    for process in processes:
        process.start()
    times = []
    while len(times) < world_size:
        try:
            times.append(queue.get(timeout=1))
        except Empty:
            if any(process.exitcode for process in processes):
                for process in processes:
                    process.kill()
                raise NoPropError("a process of the benchmark died; what it said stands above") from None
    for process in processes:
        process.join()
    starts, middles, ends = zip(*times)
    return max(middles) - min(starts), max(ends) - max(middles)


def _enter(task: Callable, rank: int, world_size: int, port: int, work: Work, barrier, queue) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_WORLD_SIZE=str(world_size))
    queue.put(task(rank, world_size, work, barrier))


def train_share(rank: int, world_size: int, work: Work, barrier) -> tuple[float, float, float]:
    """Times of start, of the end of training, and of the end of gathering all layers."""
    model = work.model()
    settings = Settings(
        epochs=1, optimizer="adamw", weight_decay=1e-3, order="layer",
        layers=tuple(layers_for_rank(model.num_layers, rank, world_size)),
    )  # fmt: skip
    fit(work.model(), work.images[:128], work.labels[:128], settings)  # first calls are slow
    barrier.wait()
    start = time.time()
    fit(model, work.images, work.labels, settings)
    trained = time.time()
    if world_size > 1:
        gather_layers(model, rank, world_size)
    return start, trained, time.time()


def train_data_parallel(rank: int, world_size: int, work: Work, barrier) -> tuple[float, float, float]:
    """The usual way: every process has all blocks and a part of every batch, and all gradients are averaged."""
    model = work.model().train()
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    model.layers = nn.ModuleList(nn.parallel.DistributedDataParallel(layer) for layer in model.layers)
    optimizer = adam(list(model.layers.parameters()), Settings(optimizer="adamw", weight_decay=1e-3))
    features = model.encoder(work.images)

    def train(batches: list[Tensor]) -> None:
        for index in batches:
            own = index[rank::world_size]
            for t in range(1, work.num_steps + 1):
                optimizer.zero_grad()
                model.layer_loss(t, features[own], work.labels[own]).mean().backward()
                optimizer.step()

    batches = list(torch.arange(len(work.images)).split(128))
    train(batches[:1])  # first calls are slow
    barrier.wait()
    start = time.time()
    train(batches)
    end = time.time()
    dist.destroy_process_group()
    return start, end, end


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


PARALLEL_PARTS = {"processes": parallel_part}
