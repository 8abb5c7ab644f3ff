"""The suite gpu: a training step of the paper's blocks in every way we know, its memory, inference, and time to accuracy.

All data lie on the device. The blocks compute in bfloat16 where the device does so in hardware, unless a row says float32 or
TF32. On a CPU what needs CUDA is left out, and the rest runs.
"""

import contextlib
import dataclasses
import functools
import gc
import math
import statistics
import time
from typing import Callable, Iterator, NamedTuple

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
from ..recipes import RECIPES, PaperBackprop, PaperDT, Shape
from ..runs import plan, trained
from ..samplers import sample_posterior
from ..training import Keeper, Settings, fit
from .recording import Recording

Rows = list[dict]
Step = Callable[[], object]


class Sizes(NamedTuple):
    """How much of everything the suite measures.

    ``layers`` and ``batch`` of a step, of which one timing holds ``steps``; numbers of layers (``depths``) and batches
    (``batches``) that a step is also timed with; chains (``walks``) and images at once (``many``) of inference; size of the
    matrix ``product``; ``seeds`` and ``epochs``, at most, of training to the ``target``.
    """

    layers: int = 10
    batch: int = 128
    repeats: int = 5
    steps: int = 20
    depths: tuple[int, ...] = (1, 2, 5, 10)
    batches: tuple[int, ...] = (32, 128, 512, 2048)
    walks: tuple[int, ...] = (1, 2, 5, 10, 50)
    many: int = 1000
    product: int = 8192
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 30
    target: float = 0.994


TOY = Sizes(
    layers=2, batch=8, repeats=1, steps=1, depths=(1, 2), batches=(8,), walks=(1, 2), many=20, product=64, seeds=(0,), epochs=2
)  # fmt: skip


class Task(NamedTuple):
    """A batch to train on, images [B, C, H, W] and labels [B] out of so many classes, and the precision to do it in."""

    images: Tensor
    labels: Tensor
    num_classes: int
    precision: str = "auto"

    @property
    def shape(self) -> Shape:
        """What a recipe must know of these images."""
        return Shape(tuple(self.images.shape[1:]), self.num_classes, len(self.images))

    @property
    def settings(self) -> Settings:
        """The paper's optimizer in this precision."""
        settings = Settings(optimizer="adamw", weight_decay=1e-3, order="layer", precision=self.precision)
        return settings.on(self.images.device)

    def first(self, size: int) -> "Task":
        """The first so many images."""
        return self._replace(images=self.images[:size], labels=self.labels[:size])


def task_of(dataset: Dataset, recording: Recording, size: int) -> Task:
    """The first training images of a data set, on the device."""
    images, labels = (values[:size].to(recording.device) for values in (dataset.train_images, dataset.train_labels))
    return Task(images, labels, dataset.num_classes, recording.precision or "auto")


# --- Ways to take a step of all layers --------------------------------------------------------------------------------


def blocks(task: Task, T: int) -> NoPropDT:
    """NoProp-DT of the paper with T blocks, in training mode."""
    with seeded(0):
        return PaperDT(T).build(task.shape).to(task.images.device).train()


def baseline(task: Task, T: int, checkpointed: bool = False) -> Propagated:
    """The same T blocks in a row, to be trained by back-propagation through all of them, in training mode.

    ``checkpointed`` keeps only the states between blocks, and computes every block again on the way back.
    """
    with seeded(0):
        model = PaperBackprop(T).build(task.shape)
    if checkpointed:
        model = Propagated(model.encoder, _Checkpointed(model.net.blocks, model.W, model.net.readout))
    return model.to(task.images.device).train()


class _Checkpointed(BackpropNet):
    """Activation checkpointing at the block borders. BatchNorm's running averages see every batch twice."""

    def step(self, t: int, images: Tensor, z: Tensor) -> Tensor:
        return checkpoint(super().step, t, images, z, use_reentrant=False)


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
    """A step of the paper's baseline (see ``baseline``)."""
    model = baseline(task, T, checkpointed)
    features = model.encoder(task.images)
    return _step(task, list(model.net.parameters()), lambda: model.layer_loss(1, features, task.labels).mean())


def four_ways(T: int) -> dict[str, Callable[[Task], Step]]:
    """What is compared by its memory: one block resident, the others resting on the host; all T blocks resident;
    back-propagation; back-propagation that keeps only the states between blocks."""
    return {
        "one_block": functools.partial(looped, T=1),
        "all_blocks": functools.partial(looped, T=T),
        "backprop": functools.partial(backpropagated, T=T),
        "backprop_checkpointed": functools.partial(backpropagated, T=T, checkpointed=True),
    }


def graphed(make: Callable[[Task, int], Step]) -> Callable[[Task, int], Step]:
    """The step that ``make`` builds, recorded once as a CUDA graph: replayed without Python."""
    return lambda task, T: recorded(make(task, T))


def recorded(step: Step) -> Step:
    """A step as a CUDA graph, after the few calls that choose kernels and make an optimizer's state."""
    for _ in range(3):
        on_side_stream(step)
    return cuda_graph(step)


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
    """A training step of some parameters by their loss."""
    device = task.images.device
    optimizer = adam(parameters, task.settings, capturable=device.type == "cuda")

    def step() -> None:
        with autocast(task.settings, device):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # now, and not before the next step: other layers need the memory

    return step


def _after_another(steps: list[Step]) -> Step:
    """Many steps as one."""
    def all_steps() -> None:
        for step in steps:
            step()

    return all_steps


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """float32 products and convolutions that may round to TF32, or may not; afterwards as before."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


class Way(NamedTuple):
    """How a step is built; where ``tf32`` is not None, it computes in float32, with TF32 or without."""

    make: Callable[[Task, int], Step]
    tf32: bool | None = None
    needs_cuda: bool = False

    def step(self, task: Task, T: int) -> Step:
        """A step of T layers in this way."""
        if self.tf32 is None:
            return self.make(task, T)
        work = self.make(task._replace(precision="float32"), T)

        def step() -> None:
            with tf32(self.tf32):
                work()

        return step


WAYS = {
    "backprop": Way(backpropagated),
    "backprop_checkpointed": Way(functools.partial(backpropagated, checkpointed=True)),
    "loop_float32": Way(looped, tf32=False),
    "loop_tf32": Way(looped, tf32=True, needs_cuda=True),
    "loop_channels_first": Way(functools.partial(looped, channels_last=False)),
    "loop": Way(looped),
    "stacked": Way(stacked),
    "streams": Way(streamed, needs_cuda=True),
    "graph": Way(graphed(looped), needs_cuda=True),
    "graph_backprop": Way(graphed(backpropagated), needs_cuda=True),
}
# These may take long, or leave a broken recording behind: they come when all else is measured.
LATE_WAYS = {
    "graph_streams": Way(graphed(streamed), needs_cuda=True),
    "compiled": Way(functools.partial(looped, compiled=True), needs_cuda=True),
}


# --- Parts of the suite -----------------------------------------------------------------------------------------------


def environment_part(dataset: Dataset, recording: Recording, sizes: Sizes) -> Rows:
    """The matrix product's speed, the ceiling; and whether recorded steps train as steps do.

    ``graph_difference_VARIANT`` is the distance between the weights that both end at, as a share of the way that they went.
    Kernels that add up in another order make it differ from 0.
    """
    device, rows = recording.device, []
    kinds = {"float32": (torch.float32, False)}
    if device == "cuda":
        kinds |= {"tf32": (torch.float32, True), "bfloat16": (torch.bfloat16, False)}
    for name, (dtype, rounded) in kinds.items():
        with tf32(rounded):
            product = matmul_flops(sizes.product, dtype, device)
            rows.append(row(f"gemm_{name}", [max(product() for _ in range(5)) / 1e12], "TFLOP/s"))
    task = task_of(dataset, recording, 256)._replace(precision="float32")
    for variant in ("dt", "ct", "fm", "backprop"):
        rows.append(row(f"graph_difference_{variant}", [graph_difference(variant, task)], "of the way"))
    return rows


def graph_difference(variant: str, task: Task) -> float:
    """Train a small model of the paper's with and without CUDA graphs, from one start: -> how far apart they end."""
    recipe, ends = RECIPES[f"paper-{variant}"](num_steps=2), []
    # Short steps: where a gradient is nothing but rounding, Adam makes a full step of it, and training goes on from there.
    changes = {"epochs": 2, "batch_size": 24, "learning_rate": 1e-5, "precision": task.precision}
    settings = dataclasses.replace(recipe.settings(task.shape), **changes)
    for cuda_graphs in (False, True):
        with seeded(0):
            model = recipe.build(task.shape).to(task.images.device)
        start = weights(model)
        fit(model, task.images, task.labels, dataclasses.replace(settings, cuda_graphs=cuda_graphs))
        ends.append(weights(model))
    return apart(start, *ends)


def weights(model: nn.Module) -> Tensor:
    """All trained numbers of a model in one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def apart(start: Tensor, a: Tensor, b: Tensor) -> float:
    """Distance of two ends as a share of the way from the start to the first one: 0 where they are one, about 1.4 where
    both went as far in directions that have nothing in common."""
    return ((a - b).norm() / (a - start).norm()).item()


def step_part(name: str, dataset: Dataset, recording: Recording, sizes: Sizes) -> Rows:
    """A step of all layers in one of the ``WAYS``, in turns with back-propagation through the same blocks."""
    way, device = (WAYS | LATE_WAYS)[name], recording.device
    if way.needs_cuda and device != "cuda":
        return []
    task = task_of(dataset, recording, sizes.batch)
    rivals = {"backprop": backpropagated(task, sizes.layers)} | {name: way.step(task, sizes.layers)}
    times = _per_step(rivals, sizes, device)
    if name == "backprop":
        return [row("step_backprop", times["backprop"], "ms")]
    return [row(f"step_{name}", times[name], "ms", "step_backprop", times["backprop"])]


def depth_part(dataset: Dataset, recording: Recording, sizes: Sizes) -> Rows:
    """How a step grows with the number of layers, against back-propagation through as many; on a GPU both graphed too."""
    task, rows = task_of(dataset, recording, sizes.batch), []
    for T in sizes.depths:
        for name, wrap in _wraps(recording.device).items():
            rivals = {"loop": wrap(looped)(task, T), "backprop": wrap(backpropagated)(task, T)}
            times = _per_step(rivals, sizes, recording.device)
            rows.append(row(f"step{name}_T{T}", times["loop"], "ms", f"backprop{name}, same T", times["backprop"]))
    return rows


def batch_part(dataset: Dataset, recording: Recording, sizes: Sizes) -> Rows:
    """How many images a second all layers train on, by batch, against back-propagation; on a GPU both graphed too."""
    task, rows = task_of(dataset, recording, max(sizes.batches)), []
    for B in sizes.batches:
        batch = task.first(B)
        for name, wrap in _wraps(recording.device).items():
            rivals = {"loop": wrap(looped), "backprop": wrap(backpropagated)}
            times = _per_step({who: make(batch, sizes.layers) for who, make in rivals.items()}, sizes, recording.device)
            ours, theirs = ([1e3 * len(batch.images) / value for value in times[who]] for who in rivals)
            rows.append(row(f"images_per_second{name}_B{B}", ours, "1/s", f"backprop{name}, same batch", theirs))
    return rows


def memory_part(dataset: Dataset, recording: Recording, sizes: Sizes) -> Rows:
    """Most memory that a step takes: PyTorch's tensors above the data, what PyTorch has reserved for them, and all that is in
    use on the device as its driver counts it, the process's own needs included.

    The rivals are those of ``four_ways``.
    """
    if recording.device != "cuda":
        return []
    task, rows = task_of(dataset, recording, sizes.batch), []
    peaks = {name: _peak(make, task) for name, make in four_ways(sizes.layers).items()}
    for i, kind in enumerate(("allocated", "reserved", "device")):
        for name, values in peaks.items():
            rows.append(row(f"memory_{name}_{kind}", [values[i]], "MiB", f"backprop, {kind}", [peaks["backprop"][i]]))
    return rows


def _peak(make: Callable[[Task], Step], task: Task) -> list[float]:
    """MiB at the peak of three steps: allocated above the data, reserved by PyTorch, in use on the device."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step = make(task)
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    peaks = torch.cuda.max_memory_allocated() - before, torch.cuda.max_memory_reserved(), total - free
    return [peak / 2**20 for peak in peaks]


def inference_part(dataset: Dataset, recording: Recording, sizes: Sizes) -> Rows:
    """Images per second in batches of many, and the latency of one image; on a GPU graphed too."""
    task, rows = task_of(dataset, recording, sizes.many), []
    for T in sizes.walks:
        model = blocks(task, T).eval()
        for name in _wraps(recording.device):
            rivals = {"many": walk(model, task), "one": walk(model, task.first(1))}
            rivals = {who: recorded(step) for who, step in rivals.items()} if name else rivals
            times = alternate(rivals, sizes.repeats, 2, recording.device)
            rows.append(row(f"inference{name}_T{T}", [len(task.images) / t for t in times["many"]], "images/s"))
            rows.append(row(f"latency{name}_T{T}", [1e3 * t for t in times["one"]], "ms"))
    return rows


def walk(model: NoPropDT, task: Task) -> Callable[[], Tensor]:
    """Inference from pure noise for a batch: -> classes [B]. As ``model.predict`` of a model in evaluation mode, but without
    a look at any value on the way, so that a graph can be made of it."""
    a, b, c = model.posterior

    @torch.no_grad()
    def step() -> Tensor:
        with autocast(task.settings, task.images.device):
            features = model.encoder(task.images)
            z = torch.randn(len(features), model.W.shape[1], device=features.device)
            z = sample_posterior(lambda t, z: model.denoised(model.layers[t - 1](features, z)), z, a, b, c)
            return model.classify(z)

    return step


def _wraps(device: str) -> dict[str, Callable]:
    """What is done with a step: nothing, and on a GPU also a graph made of it; by the ending of a row's name."""
    return {"": lambda make: make} | ({"_graph": graphed} if device == "cuda" else {})


def _per_step(ways: dict[str, Step], sizes: Sizes, device: str) -> dict[str, list[float]]:
    """Milliseconds a step of each way, in turns: name -> [repeats]."""
    several = {name: _after_another([step] * sizes.steps) for name, step in ways.items()}
    times = alternate(several, sizes.repeats, 1, device)
    return {name: [1e3 * t / sizes.steps for t in values] for name, values in times.items()}


# --- Time to accuracy -------------------------------------------------------------------------------------------------


class Reached(Exception):
    """Two epochs in a row were good enough: training need not go on."""


class Stopwatch:
    """Epochs' seconds and accuracies; measuring does not count. ``look(right)`` after every epoch."""

    def __init__(self, target: float, device: str, clock: Callable[[], float] = time.perf_counter):
        self.target, self.device, self.clock = target, device, clock
        self.epochs, self.curve, self.start = [], [], clock()

    def look(self, right: Callable[[], float]) -> None:
        """Note the epoch's time and ``right()``, its accuracy. Raises Reached where nothing more is to be learnt."""
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


def race_part(variant: str, seed: int, dataset: Dataset, recording: Recording, sizes: Sizes) -> Rows:
    """Seconds of training until the paper's model is at the target test accuracy for two epochs in a row, None where it is
    not; its epoch; and the accuracy after the last one that was trained."""
    watch = _watched(variant, seed, dataset, recording, sizes)
    epoch = statistics.median(watch.epochs[1:] or watch.epochs)  # the first one records graphs and chooses kernels
    values = {f"time_to_{_thousandths(sizes)}": (watch.seconds, "s"), "epoch": (epoch, "s")}
    values["accuracy"] = (watch.curve[-1], "fraction")
    return [_finite(row(f"paper_{name}_{variant}_seed{seed}", [value], unit)) for name, (value, unit) in values.items()]


def paper_medians(rows: Rows, sizes: Sizes) -> Rows:
    """NoProp-DT against back-propagation through the same blocks, medians of all seeds, once these are all there."""
    values = {r["name"]: math.inf if r["value"] is None else r["value"] for r in rows if "error" not in r}

    def of_seeds(name: str, variant: str) -> list[float]:
        return [values[f"paper_{name}_{variant}_seed{seed}"] for seed in sizes.seeds]

    time_to, rival = f"time_to_{_thousandths(sizes)}", "backprop, same blocks"
    try:
        epochs, accuracies = ((of_seeds(name, "dt"), of_seeds(name, "backprop")) for name in ("epoch", "accuracy"))
        dt, backprop = of_seeds(time_to, "dt"), of_seeds(time_to, "backprop")
    except KeyError:
        return []
    measured = [
        _finite(row(f"paper_{time_to}", dt, "s")),
        _finite(row(f"paper_time_to_backprop_{_thousandths(sizes)}", backprop, "s")),
        row("paper_epoch", epochs[0], "s", rival, epochs[1]),
        row("paper_accuracy", accuracies[0], "fraction", rival, accuracies[1]),
    ]
    return [{"part": "medians"} | one for one in measured]


def _watched(variant: str, seed: int, dataset: Dataset, recording: Recording, sizes: Sizes) -> Stopwatch:
    """Train until the target is reached: -> the stopwatch that saw it."""
    device = recording.device
    test = dataset.test_images.to(device), dataset.test_labels.to(device)
    changes = {"seed": str(seed), "epochs": str(sizes.epochs), "num_steps": str(sizes.layers)}
    changes |= {"precision": recording.precision} if recording.precision else {}
    watch = Stopwatch(sizes.target, device)

    def look(model: NoPropDT | Propagated) -> None:
        watch.look(lambda: _share_right(model, *test))

    with contextlib.suppress(Reached):
        trained(plan(dataset, f"paper-{variant}", changes), dataset, device, Keeper(), recording.progress, look)
    return watch


def _share_right(model: NoPropDT | Propagated, images: Tensor, labels: Tensor) -> float:
    """As ``accuracy``, in the larger batches that a GPU likes: thirty looks take seconds of a lent machine's minutes."""
    generator = torch.Generator(images.device).manual_seed(0)
    said = torch.cat([model.predict(x, generator) for x in images.split(1000)])
    return (said == labels).double().mean().item()


def _thousandths(sizes: Sizes) -> int:
    return round(1000 * sizes.target)


def _finite(line: dict) -> dict:
    """A row whose value is None where the target was not reached."""
    return line if line["value"] < math.inf else line | {"value": None}


def gpu_parts(sizes: Sizes = Sizes()) -> dict[str, Callable[[Dataset, Recording], Rows]]:
    """The suite's parts in their order. Each is short: what is not finished when the machine goes back is measured anew."""
    parts = {"environment": environment_part}
    parts |= {f"step_{name}": functools.partial(step_part, name) for name in WAYS}
    parts |= {"depth": depth_part, "batch": batch_part, "memory": memory_part, "inference": inference_part}
    parts |= {f"step_{name}": functools.partial(step_part, name) for name in LATE_WAYS}
    for seed in sizes.seeds:
        parts |= {f"time_{variant}_{seed}": functools.partial(race_part, variant, seed) for variant in ("dt", "backprop")}
    return {name: functools.partial(part, sizes=sizes) for name, part in parts.items()}
