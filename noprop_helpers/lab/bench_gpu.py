"""The suite gpu: a training step of the paper's blocks in every way we know, its memory, inference, and time to accuracy.

All data lie on the device. On a CPU what needs CUDA is left out, and the rest runs: that is how it is tested.
"""

import functools
import math
import time
from typing import Callable, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import replace_all_batch_norm_modules_
from torch.utils.checkpoint import checkpoint

from ..backprop import BackpropNet
from ..benchmark import alternate, matmul_flops, row, synchronize
from ..data import Dataset
from ..graphs import cuda_graph, on_side_stream
from ..layerwise import LayerStack
from ..noprop import NoPropDT, Propagated
from ..passes import adam, autocast, seeded
from ..recipes import PaperBackprop, PaperDT, Shape
from ..runs import plan, trained
from ..samplers import sample_posterior
from ..training import Keeper, Settings, accuracy
from .recording import Recording

Rows = list[dict]
Step = Callable[[], None]


class Task(NamedTuple):
    """A batch to train on, images [B, C, H, W] and labels [B] out of so many classes, and the precision to do it in."""

    images: Tensor
    labels: Tensor
    num_classes: int
    precision: str = "auto"

    @property
    def shape(self) -> Shape:
        return Shape(tuple(self.images.shape[1:]), self.num_classes, len(self.images))

    @property
    def settings(self) -> Settings:
        """The paper's optimizer in this precision."""
        device = self.images.device
        return Settings(optimizer="adamw", weight_decay=1e-3, order="layer", precision=self.precision).on(device)

    def first(self, size: int) -> "Task":
        """The first so many images."""
        return self._replace(images=self.images[:size], labels=self.labels[:size])


def task_of(dataset: Dataset, device: str, size: int = 4096) -> Task:
    """The first training images of a data set, on the device."""
    images, labels = dataset.train_images[:size].to(device), dataset.train_labels[:size].to(device)
    return Task(images, labels, dataset.num_classes)


# --- Ways to take a step of all layers --------------------------------------------------------------------------------


def blocks(task: Task, T: int) -> NoPropDT:
    """NoProp-DT of the paper with T blocks, in training mode."""
    with seeded(0):
        return PaperDT(T).build(task.shape).to(task.images.device).train()


def looped(task: Task, T: int, compiled: bool = False, channels_last: bool = True) -> Step:
    """A step of all T layers, one after another."""
    return _after_another(_layer_steps(task, T, compiled, channels_last))


def streamed(task: Task, T: int) -> Step:
    """As ``looped``, every layer in a CUDA stream of its own: the GPU may work on all at once."""
    steps, streams = _layer_steps(task, T), [torch.cuda.Stream() for _ in range(T)]

    def step() -> None:
        for work, stream in zip(steps, streams):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                work()
        for stream in streams:
            torch.cuda.current_stream().wait_stream(stream)

    return step


def stacked(task: Task, T: int) -> Step:
    """A step of all T layers as one stack, every operation on all of them.

    A timing only: stacked layers cannot keep BatchNorm's running averages, and so could not predict.
    """
    model, labels = blocks(task, T), task.labels
    features = model.encoder(task.images)
    stack = LayerStack([replace_all_batch_norm_modules_(layer) for layer in model.layers])

    def loss() -> Tensor:
        losses = model.layer_losses(stack(features, model.noised_states(labels)), labels) + model.label_loss(labels)
        return losses.mean(1).sum()

    return _step(task, list(stack.parameters()), loss)


def backpropagated(task: Task, T: int, checkpointed: bool = False) -> Step:
    """A step of the paper's baseline: the same T blocks, back-propagation through all of them.

    ``checkpointed`` keeps only the states between blocks, and computes every block again on the way back.
    """
    with seeded(0):
        model = PaperBackprop(T).build(task.shape).to(task.images.device).train()
    if checkpointed:
        model = Propagated(model.encoder, _Checkpointed(model.net.blocks, model.W, model.net.readout)).to(task.images.device)
    features = model.encoder(task.images)
    return _step(task, list(model.net.parameters()), lambda: model.layer_loss(1, features, task.labels).mean())


class _Checkpointed(BackpropNet):
    """Activation checkpointing at the block borders. BatchNorm's running averages see every batch twice."""

    def step(self, t: int, images: Tensor, z: Tensor) -> Tensor:
        return checkpoint(super().step, t, images, z, use_reentrant=False)


def graphed(make: Callable[[Task, int], Step]) -> Callable[[Task, int], Step]:
    """The step that ``make`` builds, recorded once as a CUDA graph: replayed without Python."""

    def build(task: Task, T: int) -> Step:
        step = make(task, T)
        for _ in range(3):
            on_side_stream(step)
        return cuda_graph(step)

    return build


def _layer_steps(task: Task, T: int, compiled: bool = False, channels_last: bool = True) -> list[Step]:
    """One function per layer, which takes one training step of this layer alone."""
    model, layout = blocks(task, T), torch.channels_last if channels_last else torch.contiguous_format
    features = model.encoder(task.images).contiguous(memory_format=layout)
    model.layers.to(memory_format=layout)
    if compiled:
        for layer in model.layers:
            layer.compile()

    def loss(t: int) -> Tensor:
        return model.layer_loss(t, features, task.labels).mean()

    return [
        _step(task, list(layer.parameters()), functools.partial(loss, t)) for t, layer in enumerate(model.layers, start=1)
    ]


def _step(task: Task, parameters: list[nn.Parameter], loss: Callable[[], Tensor]) -> Step:
    device = task.images.device
    optimizer = adam(parameters, task.settings, capturable=device.type == "cuda")

    def step() -> None:
        with autocast(task.settings, device):
            value = loss()
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    return step


def _after_another(steps: list[Step]) -> Step:
    def all_steps() -> None:
        for step in steps:
            step()

    return all_steps


# --- Parts of the suite -----------------------------------------------------------------------------------------------


def ceiling_part(dataset: Dataset, recording: Recording) -> Rows:
    """The matrix product's speed in float32, without and with TF32, and in bfloat16; do graphs train as the loop does?"""
    device, rows = recording.device, []
    on_gpu, allowed = device == "cuda", torch.backends.cuda.matmul.allow_tf32
    kinds = [("float32", False), ("tf32", True), ("bfloat16", False)] if on_gpu else [("float32", False)]
    for name, tf32 in kinds:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        product = matmul_flops(8192 if on_gpu else 256, dtype, device)
        rows.append(row(f"gemm_{name}", [max(product() for _ in range(5)) / 1e12], "TFLOP/s"))
    torch.backends.cuda.matmul.allow_tf32 = allowed
    return rows


def steps_part(dataset: Dataset, recording: Recording, repeats: int = 5, steps: int = 20) -> Rows:
    """Every way in which ten layers can take a step, at the paper's batch. A way that fails is left out and says so."""
    task, on_gpu = task_of(dataset, recording.device, 128), recording.device == "cuda"
    full = task._replace(precision="float32")
    tf32 = "_tf32" if on_gpu and torch.backends.cudnn.allow_tf32 else ""  # convolutions are most of the work
    ways = {
        "backprop": (backpropagated, task),
        "backprop_checkpointed": (functools.partial(backpropagated, checkpointed=True), task),
        f"loop_float32{tf32}": (looped, full),
        "loop_channels_first": (functools.partial(looped, channels_last=False), task),
        "loop": (looped, task),
        "stacked": (stacked, task),
    }
    if on_gpu:
        ways |= {"compiled": (functools.partial(looped, compiled=True), task), "streams": (streamed, task)}
        ways |= {"graph": (graphed(looped), task), "graph_streams": (graphed(streamed), task)}
        ways |= {"graph_backprop": (graphed(backpropagated), task)}
    ready, failed = {}, []
    for name, (make, work) in recording.progress(ways.items(), "ways"):
        try:
            ready[name] = make(work, 10)
            ready[name]()
        except Exception as error:
            failed.append(failed_row(f"step_{name}", error))
    times = _per_step(ready, repeats, steps, recording.device)
    return [row(f"step_{name}", values, "ms", "step_backprop", times["backprop"]) for name, values in times.items()] + failed


def depth_part(
    dataset: Dataset, recording: Recording, depths: tuple[int, ...] = (1, 2, 5, 10), repeats: int = 5, steps: int = 20
) -> Rows:
    """How a step grows with the number of layers, against back-propagation through as many."""
    task, rows = task_of(dataset, recording.device, 128), []
    for T in recording.progress(depths, "depths"):
        both = {"loop": looped(task, T), "backprop": backpropagated(task, T)}
        times = _per_step(both, repeats, steps, recording.device)
        rows.append(row(f"step_T{T}", times["loop"], "ms", "backprop, same T", times["backprop"]))
    return rows


def batch_part(
    dataset: Dataset, recording: Recording, sizes: tuple[int, ...] = (32, 128, 512, 2048), repeats: int = 5, steps: int = 20
) -> Rows:
    """How many images a second ten layers train on, by batch, against back-propagation."""
    task, rows = task_of(dataset, recording.device), []
    for B in recording.progress(sizes, "batches"):
        batch = task.first(B)
        both = {"loop": looped(batch, 10), "backprop": backpropagated(batch, 10)}
        times = _per_step(both, repeats, steps, recording.device)
        ours, theirs = ([1e3 * B / value for value in times[name]] for name in ("loop", "backprop"))
        rows.append(row(f"images_per_second_B{B}", ours, "1/s", "backprop, same batch", theirs))
    return rows


def memory_part(dataset: Dataset, recording: Recording) -> Rows:
    """Most memory that a step holds above the data, T = 10, batch 128, and what the driver counts for the whole device.

    The rivals: one block resident, the others resting on the host; all blocks resident; back-propagation; back-propagation
    that keeps only the states between blocks.
    """
    if recording.device != "cuda":
        return []
    task, rows = task_of(dataset, recording.device, 128), []
    rivals = {
        "one_block": functools.partial(looped, T=1),
        "all_blocks": functools.partial(looped, T=10),
        "backprop": functools.partial(backpropagated, T=10),
        "backprop_checkpointed": functools.partial(backpropagated, T=10, checkpointed=True),
    }
    peaks = {name: _peak(make, task) for name, make in rivals.items()}
    for i, (kind, unit) in enumerate((("allocated", "MiB"), ("reserved", "MiB"), ("driver", "MiB"))):
        for name, values in peaks.items():
            rows.append(row(f"memory_{name}_{kind}", [values[i]], unit, f"backprop, {kind}", [peaks["backprop"][i]]))
    return rows


def _peak(make: Callable[[Task], Step], task: Task) -> tuple[float, float, float]:
    """MiB at the peak of three steps: allocated above the data, reserved by PyTorch, in use on the device."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step = make(task)
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    peaks = torch.cuda.max_memory_allocated() - before, torch.cuda.max_memory_reserved(), total - free
    return tuple(peak / 2**20 for peak in peaks)


def inference_part(
    dataset: Dataset, recording: Recording, depths: tuple[int, ...] = (1, 2, 5, 10, 50), repeats: int = 5
) -> Rows:
    """Images per second in batches of up to 1000, and the latency of one image; on a GPU graphed too."""
    task, rows = task_of(dataset, recording.device, 1000), []
    for T in recording.progress(depths, "inference"):
        model = blocks(task, T).eval()
        runs = {name: walk(model, task.first(size)) for name, size in (("many", 1000), ("one", 1))}
        if recording.device == "cuda":
            runs |= {f"{name}_graph": _recorded(step) for name, step in runs.items()}
        times = alternate(runs, repeats, 2, recording.device)
        for name in [name for name in runs if name.startswith("many")]:
            graph, one = name.removeprefix("many"), name.replace("many", "one")
            rows.append(row(f"inference_T{T}{graph}", [len(task.images) / t for t in times[name]], "images/s"))
            rows.append(row(f"latency_T{T}{graph}", [1e3 * t for t in times[one]], "ms"))
    return rows


def walk(model: NoPropDT, task: Task) -> Step:
    """Inference from pure noise for a batch, without looking at a value on the way, so that a graph can be made of it."""
    a, b, c = model.posterior

    @torch.no_grad()
    def step() -> None:
        with autocast(task.settings, task.images.device):
            features = model.encoder(task.images)
            z = torch.randn(len(features), model.W.shape[1], device=features.device)
            z = sample_posterior(lambda t, z: model.denoised(model.layers[t - 1](features, z)), z, a, b, c)
            model.classify(z)

    return step


def _recorded(step: Step) -> Step:
    for _ in range(3):
        on_side_stream(step)
    return cuda_graph(step)


def _per_step(ways: dict[str, Step], repeats: int, steps: int, device: str) -> dict[str, list[float]]:
    """Milliseconds a step of each way, in turns: name -> [repeats]."""

    def repeated(step: Step) -> Step:
        return _after_another([step] * steps)

    times = alternate({name: repeated(step) for name, step in ways.items()}, repeats, 1, device)
    return {name: [1e3 * t / steps for t in values] for name, values in times.items()}


# --- Time to accuracy -------------------------------------------------------------------------------------------------


class Reached(Exception):
    """Two epochs in a row were good enough: training need not go on."""


class Stopwatch:
    """Epochs' seconds and accuracies; measuring does not count. ``look(right)`` after every epoch."""

    def __init__(self, target: float, device: str, clock: Callable[[], float] = time.perf_counter):
        self.target, self.device, self.clock = target, device, clock
        self.epochs, self.curve, self.start = [], [], clock()

    def look(self, right: Callable[[], float]) -> None:
        synchronize(self.device)
        self.epochs.append(self.clock() - self.start)
        self.curve.append(right())
        self.start = self.clock()
        if self.seconds < math.inf:
            raise Reached

    @property
    def seconds(self) -> float:
        """Training time until the first of two epochs in a row at the target; infinite where there are none."""
        good = [value >= self.target for value in self.curve]
        pairs = [i for i in range(1, len(good)) if good[i - 1] and good[i]]
        return sum(self.epochs[: pairs[0]]) if pairs else math.inf


def time_part(
    dataset: Dataset, recording: Recording, target: float = 0.994, epochs: int = 30, seeds: tuple[int, ...] = (0, 1, 2)
) -> Rows:
    """Seconds until the paper's NoProp-DT is at the test accuracy for two epochs in a row, and until back-propagation
    through the same blocks is: the median of the seeds, None where that many epochs do not suffice."""
    watches = {"dt": [], "backprop": []}
    for seed in seeds:
        for variant in watches:
            changes = {"seed": str(seed), "epochs": str(epochs)}
            watches[variant].append(_watched(dataset, recording, f"paper-{variant}", changes, target))
    rows = []
    for variant, values in watches.items():
        median = sorted(watch.seconds for watch in values)[len(values) // 2]
        line = row(f"paper_time_to_{round(1000 * target)}_{variant}", [median], "s")
        rows.append(line | {"value": median if median < math.inf else None})
    # The first epoch records graphs and chooses kernels.
    epoch, best = (
        {v: [pick(watch) for watch in values] for v, values in watches.items()}
        for pick in (lambda watch: min(watch.epochs[1:] or watch.epochs), lambda watch: max(watch.curve))
    )
    return rows + [
        row("paper_epoch", epoch["dt"], "s", "backprop, same blocks", epoch["backprop"]),
        row("paper_best_accuracy", best["dt"], "fraction", "backprop, same blocks", best["backprop"]),
    ]


def _watched(dataset: Dataset, recording: Recording, recipe: str, changes: dict[str, str], target: float) -> Stopwatch:
    device = recording.device
    test = dataset.test_images.to(device), dataset.test_labels.to(device)
    watch = Stopwatch(target, device)

    def look(model) -> None:
        watch.look(lambda: accuracy(model, *test, torch.Generator(device).manual_seed(0)))

    try:
        trained(plan(dataset, recipe, changes), dataset, device, Keeper(), recording.progress, look)
    except Reached:
        pass
    return watch


def failed_row(name: str, error: Exception) -> dict:
    """A row that says that something could not be measured, and why, in one line."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    empty = dict.fromkeys(("value", "unit", "baseline", "ratio", "ratio_min", "ratio_max"))
    return {"name": name, **empty, "error": f"{type(error).__name__}: {text}"}


GPU_PARTS = {
    "ceiling": ceiling_part,
    "steps": steps_part,
    "depth": depth_part,
    "batch": batch_part,
    "memory": memory_part,
    "inference": inference_part,
    "time_to_accuracy": time_part,
}
