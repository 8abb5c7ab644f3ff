"""Benchmark suites, ``python -m noprop_helpers bench --suite cpu | gpu | parallel``: each returns rows (see ``benchmark.row``).

Steps and epochs are timed against a baseline in the same run, in turns. The suites are measurements, not tests.
"""

import copy
import functools
import os
import socket
import statistics
import time
from queue import Empty
from typing import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import replace_all_batch_norm_modules_

from . import records
from .benchmark import alternate, matmul_flops, mlp_flops, row, seconds, synchronize
from .data import Dataset
from .experiments import paper_recipe, published_loop, train_model
from .graphs import cuda_graph, on_side_stream
from .layerwise import LayerStack
from .noprop import NoPropDT
from .parallel import fit_rank, gather_layers
from .training import PRESETS, accuracy, encode_images, fit, paper_backprop, paper_dt

Rows = list[dict]


# --- CPU --------------------------------------------------------------------------------------------------------------


def cpu_suite(dataset: Dataset, device: str = "cpu", seeds: tuple[int, ...] = (0, 1, 2), progress=None) -> Rows:
    """The published notebook's mathematics against its own loop, and the time to accuracy of the presets."""
    rows = published_epoch(dataset, device, progress=progress)
    rows += time_to_accuracy(dataset, device, seeds, progress)
    return rows + [row("peak_memory", [records.peak_memory_mib(device)], "MiB")]


def published_epoch(dataset: Dataset, device: str = "cpu", repeats: int = 5, progress=None) -> Rows:
    """Epochs of the published model by ``fit`` and by its own loop, in turns, and the matrix product's ceiling beside each.

    The first epoch of both is warm-up; ours also computes the frozen CNN's features there, once for the whole run, which
    is a row of its own.
    """
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    test = dataset.test_images.to(device), dataset.test_labels.to(device)
    models = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            models.append(PRESETS["published"](dataset.train_images, len(dataset.class_names)).model.to(device))
    fast, literal = models
    literal.encoder.requires_grad_(True)  # as in the notebook: gradients that nobody uses
    optimizers = [torch.optim.Adam(layer.parameters(), lr=1e-3) for layer in literal.layers]
    hidden, inputs = fast.layers[0].mlp[0].weight.shape
    # The published loop also computes the first layers' input gradients, for its CNN; with fixed features nobody needs them.
    widths = inputs, hidden, len(fast.W)
    published, needed = (fast.num_layers * mlp_flops(len(images), widths, with_inputs) for with_inputs in (True, False))
    draws, product = torch.Generator(device).manual_seed(1), matmul_flops(2048, device=device)
    ours, theirs, ceiling, products = [], [], [], []

    def loop_epoch():
        order = torch.randperm(len(images), generator=draws, device=device).split(128)
        published_loop(
            literal.encoder, literal.layers, optimizers, literal.levels, ((images[i], labels[i]) for i in order), draws
        )

    def take_turns(epoch):
        nonlocal start
        synchronize(device)
        ours.append(time.perf_counter() - start)
        # At once, and as many operations as the epoch's: what slows the machine down for a moment meets both.
        speeds = [product() for _ in range(max(5, round(published / (2 * 2048**3))))]
        ceiling.append(max(speeds))
        products.append(published / statistics.harmonic_mean(speeds))
        theirs.append(seconds(loop_epoch, device))
        start = time.perf_counter()

    features_seconds = seconds(lambda: encode_images(fast.encoder, images, lambda chunks, description: chunks), device)
    start = time.perf_counter()
    fit(
        fast, images, labels, epochs=1 + repeats, generator=torch.Generator(device).manual_seed(0), progress=progress,
        after_epoch=take_turns,
    )  # fmt: skip
    ours, theirs, ceiling, products = ours[1:], theirs[1:], ceiling[1:], products[1:]
    reached = [accuracy(model, *test, torch.Generator(device).manual_seed(2)) for model in models]
    return [
        row("published_epoch", ours, "s", "published loop, one epoch", theirs),
        row("published_features", [features_seconds], "s", "published loop, one epoch", theirs[:1]),
        row("published_accuracy", reached[:1], "fraction", "published loop, as many epochs", reached[1:]),
        row("gemm_epoch", products, "s", "published_epoch", ours),
        row("gemm_float32", [c / 1e9 for c in ceiling], "GFLOP/s"),
        row("gemm_fraction", [published / t / c for t, c in zip(ours, ceiling)], "of the product's speed"),
        row("gemm_fraction_needed", [needed / t / c for t, c in zip(ours, ceiling)], "of the product's speed"),
    ]


TARGETS = {  # row name: preset, test accuracy to reach, epochs (None: the preset's own)
    "time_to_99": ("shared", 0.990, 2),
    "time_to_993": ("shared", 0.993, None),
    "time_to_99_local": ("local", 0.992, None),
}


def time_to_accuracy(dataset: Dataset, device: str, seeds: tuple[int, ...], progress=None) -> Rows:
    """Seconds of whole training runs whose test accuracy, the median of the seeds, is at least the target's; else None.

    The baseline, in turns, is the same recipe with one layer instead of ten. Such a layer sees nothing but noise for a
    label: it is an ordinary classifier.
    """
    rows, baseline = [], "one layer: an ordinary classifier"
    for name, (preset, target, epochs) in TARGETS.items():
        ten, one = [], []
        for seed in seeds:
            for results, options in ((ten, {}), (one, {"num_steps": 1})):
                trained = train_model(
                    dataset, preset, seed=seed, epochs=epochs, device=device, progress=progress, **options
                )
                results.append(trained.result)
        line, reached = (
            row(label, [result[key] for result in ten], unit, baseline, [result[key] for result in one])
            for label, key, unit in ((name, "train_seconds", "s"), (f"{name}_accuracy", "test_accuracy", "fraction"))
        )
        if reached["value"] < target:
            line["value"] = None
        rows += [line, reached]
    return rows


# --- Layers in parallel -----------------------------------------------------------------------------------------------


def parallel_suite(
    dataset: Dataset, device: str = "cpu", repeats: int = 3, num_images: int = 1280, num_steps: int = 10, progress=None
) -> Rows:
    """Figure 6 blocks in two processes of one thread each, against one such process: layers apart, and data apart."""
    images, labels = dataset.train_images[:num_images], dataset.train_labels[:num_images]
    one, two, gathered, data_parallel = [], [], [], []
    progress = progress or (lambda iterable, description: iterable)
    for _ in progress(range(repeats), "turns"):
        alone, _ = _in_processes(_train_share, 1, images, labels, num_steps)
        shared, gathering = _in_processes(_train_share, 2, images, labels, num_steps)
        divided, _ = _in_processes(_train_data_parallel, 2, images, labels, num_steps)
        for times, value in ((one, alone), (two, shared), (gathered, gathering), (data_parallel, divided)):
            times.append(value)
    baseline = "one process, one thread"
    speedups = {"two_ranks_speedup": two, "two_ranks_data_parallel": data_parallel}
    return [
        row("one_rank", one, "s"),
        row("two_ranks", two, "s", baseline, one),
        *(row(name, [a / b for a, b in zip(one, times)], "times as fast") for name, times in speedups.items()),
        row("gather_layers", gathered, "s"),
    ]


def _in_processes(
    work: Callable, world_size: int, images: Tensor, labels: Tensor, num_steps: int
) -> tuple[float, float]:
    """Run ``work`` in so many new processes: the seconds from the first start to the last end, of its two parts."""
    context = torch.multiprocessing.get_context("spawn")
    queue, barrier, port = context.Queue(), context.Barrier(world_size), _free_port()
    arguments = [
        (work, rank, world_size, port, images, labels, num_steps, barrier, queue) for rank in range(world_size)
    ]
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
                raise ValueError("a process of the benchmark died; what it said stands above") from None
    for process in processes:
        process.join()
    starts, middles, ends = zip(*times)
    return max(middles) - min(starts), max(ends) - max(middles)


def _enter(work, rank, world_size, port, images, labels, num_steps, barrier, queue) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_WORLD_SIZE=str(world_size))
    queue.put(work(rank, world_size, images, labels, num_steps, barrier))


def _train_share(rank, world_size, images, labels, num_steps, barrier) -> tuple[float, float, float]:
    """Times of start, of the end of training, and of the end of gathering all layers."""
    torch.manual_seed(0)
    settings = paper_dt(images, torch.eye(10), num_steps)._asdict()
    model = settings.pop("model")
    settings |= {"epochs": 1, "generator": torch.Generator().manual_seed(0)}
    fit_rank(copy.deepcopy(model), images[:128], labels[:128], rank, world_size, **settings)  # first calls are slow
    barrier.wait()
    start = time.time()
    fit_rank(model, images, labels, rank, world_size, **settings)
    trained = time.time()
    if world_size > 1:
        gather_layers(model, rank, world_size)
    return start, trained, time.time()


def _train_data_parallel(rank, world_size, images, labels, num_steps, barrier) -> tuple[float, float, float]:
    """The usual way: every process has all blocks and a part of every batch, and all gradients are averaged."""
    torch.manual_seed(0)
    model = paper_dt(images, torch.eye(10), num_steps).model.train()
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    model.layers = nn.ModuleList(nn.parallel.DistributedDataParallel(layer) for layer in model.layers)
    optimizer = torch.optim.AdamW(model.layers.parameters(), lr=1e-3, weight_decay=1e-3, fused=True)
    features = model.encoder(images)

    def train(batches):
        for index in batches:
            own = index[rank::world_size]
            for t in range(1, num_steps + 1):
                optimizer.zero_grad()
                model.layer_loss(t, features[own], labels[own]).mean().backward()
                optimizer.step()

    batches = torch.arange(len(images)).split(128)
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


# --- GPU --------------------------------------------------------------------------------------------------------------

DEPTHS = (1, 2, 5, 10, 50)
BATCHES = (32, 128, 512, 2048)


def gpu_suite(dataset: Dataset, device: str = "cuda", repeats: int = 5, steps: int = 20, progress=None) -> Rows:
    """Figure 6 blocks: a training step in several ways against back-propagation, its memory, and inference.

    All data lie on the device. The blocks compute in bfloat16 unless a row says float32. On a CPU the ways that need a
    GPU are left out.
    """
    progress = progress or (lambda iterable, description: iterable)
    images, labels = dataset.train_images[:4096].to(device), dataset.train_labels[:4096].to(device)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        product = matmul_flops(8192 if device == "cuda" else 512, dtype, device)
        rows.append(
            row(f"gemm_{str(dtype).removeprefix('torch.')}", [max(product() for _ in range(5)) / 1e12], "TFLOP/s")
        )

    def time_steps(ways: dict) -> dict[str, list[float]]:
        per_call = alternate(
            {name: functools.partial(_repeat, step, steps) for name, step in ways.items()}, repeats, 1, device
        )
        return {name: [t / steps for t in times] for name, times in per_call.items()}

    # Every way in which ten layers can take a step, at the paper's batch.
    x, y = images[:128], labels[:128]
    times = time_steps({name: make(x, y, 10) for name, make in progress(_ways(device).items(), "ways")})
    for name, values in times.items():
        rows.append(
            row(f"step_{name}", [1e3 * v for v in values], "ms", "step_backprop", [1e3 * v for v in times["backprop"]])
        )
    # How a step grows with the number of layers, and with the batch.
    for T in progress(DEPTHS[:-1], "depths"):
        both = time_steps({"loop": looped(x, y, T), "backprop": backpropagated(x, y, T)})
        rows.append(
            row(
                f"step_T{T}",
                [1e3 * v for v in both["loop"]],
                "ms",
                "backprop, same T",
                [1e3 * v for v in both["backprop"]],
            )
        )
    for B in progress(BATCHES, "batches"):
        both = time_steps(
            {"loop": looped(images[:B], labels[:B], 10), "backprop": backpropagated(images[:B], labels[:B], 10)}
        )
        rows.append(
            row(
                f"images_per_second_B{B}",
                [B / v for v in both["loop"]],
                "1/s",
                "backprop, same batch",
                [B / v for v in both["backprop"]],
            )
        )
    if device == "cuda":
        rows += _memory(images, labels)
    for T in progress(DEPTHS, "inference"):
        rows += _inference(images, T, device, repeats)
    return rows + paper_time_to_accuracy(dataset, device, progress=progress)


def _repeat(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def _ways(device: str) -> dict[str, Callable[[Tensor, Tensor, int], Callable[[], None]]]:
    ways = {
        "backprop": backpropagated,
        "loop_float32": functools.partial(looped, bf16=False),
        "loop_channels_first": functools.partial(looped, channels_last=False),
        "loop": looped,
        "stacked": stacked,
    }
    if device == "cuda":
        ways |= {"compiled": functools.partial(looped, compiled=True), "streams": streamed}
        ways |= {
            "graph": graphed(looped),
            "graph_streams": graphed(streamed),
            "graph_backprop": graphed(backpropagated),
        }
    return ways


def _blocks(x: Tensor, T: int) -> NoPropDT:
    """NoProp-DT of the paper with T blocks, for the images x [B, C, H, W]."""
    torch.manual_seed(0)
    return paper_dt(x.cpu(), torch.eye(10), T).model.to(x.device).train()


def _optimizer(module: nn.Module) -> torch.optim.Optimizer:
    on_gpu = next(module.parameters()).is_cuda
    return torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=1e-3, fused=True, capturable=on_gpu)


def _layer_steps(
    x: Tensor, y: Tensor, T: int, bf16: bool, compiled: bool = False, channels_last: bool = True
) -> list[Callable[[], None]]:
    """One function per layer, which takes one training step of this layer alone."""
    model = _blocks(x, T)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    features = model.encoder(x).contiguous(memory_format=layout)
    model.layers.to(memory_format=layout)

    def one(t: int) -> Callable[[], None]:
        optimizer = _optimizer(model.layers[t - 1])
        if compiled:
            model.layers[t - 1].compile()

        def step() -> None:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):  # as graphs want it
                loss = model.layer_loss(t, features, y).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return step

    return [one(t) for t in range(1, T + 1)]


def looped(
    x: Tensor, y: Tensor, T: int, bf16: bool = True, compiled: bool = False, channels_last: bool = True
) -> Callable[[], None]:
    """A step of all T layers, one after another: images x [B, C, H, W], labels y [B]."""
    steps = _layer_steps(x, y, T, bf16, compiled, channels_last)

    def all_steps() -> None:
        for step in steps:
            step()

    return all_steps


def stacked(x: Tensor, y: Tensor, T: int) -> Callable[[], None]:
    """A step of all T layers as one stack, every operation on all of them.

    A timing only: stacked layers cannot keep BatchNorm's running averages, and so could not predict.
    """
    model = _blocks(x, T)
    features = model.encoder(x)
    stack = LayerStack([replace_all_batch_norm_modules_(layer) for layer in model.layers])
    optimizer = _optimizer(stack)

    def step() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            losses = model.layer_losses(stack(features, model.noised_states(y)), y) + model.label_loss(y)
        optimizer.zero_grad(set_to_none=True)
        losses.mean(1).sum().backward()
        optimizer.step()

    return step


def streamed(x: Tensor, y: Tensor, T: int) -> Callable[[], None]:
    """As ``looped``, every layer in a CUDA stream of its own: the GPU may work on all at once."""
    steps, streams = _layer_steps(x, y, T, bf16=True), [torch.cuda.Stream() for _ in range(T)]

    def step() -> None:
        for work, stream in zip(steps, streams):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                work()
        for stream in streams:
            torch.cuda.current_stream().wait_stream(stream)

    return step


def graphed(make: Callable) -> Callable[[Tensor, Tensor, int], Callable[[], None]]:
    """The step that ``make`` builds, recorded once as a CUDA graph: replayed without Python."""

    def build(x: Tensor, y: Tensor, T: int) -> Callable[[], None]:
        step = make(x, y, T)
        for _ in range(3):
            on_side_stream(step)
        return cuda_graph(step)

    return build


def backpropagated(x: Tensor, y: Tensor, T: int) -> Callable[[], None]:
    """A step of the paper's baseline: the same T blocks, back-propagation through all of them."""
    torch.manual_seed(0)
    model = paper_backprop(x.cpu(), torch.eye(10), T).model.to(x.device).train()
    features, optimizer = model.encoder(x), _optimizer(model)

    def step() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            loss = model.layer_loss(1, features, y).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _memory(images: Tensor, labels: Tensor) -> Rows:
    """Most memory that a step holds above the data, T = 10, batch 128: a layer at a time against back-propagation.

    A layer at a time means that the other layers rest on the host: one layer's weights, gradients and optimizer states.
    """
    peaks = {}
    for name, make in {
        "layer": functools.partial(looped, T=1),
        "backprop": functools.partial(backpropagated, T=10),
    }.items():
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _repeat(make(images[:128], labels[:128]), 3)
        peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return [row("memory_layer_at_a_time", [peaks["layer"]], "MiB", "backprop, T = 10", [peaks["backprop"]])]


def _inference(images: Tensor, T: int, device: str, repeats: int) -> Rows:
    """Images per second in batches of up to 1000, and the latency of one image."""
    model, many, one = _blocks(images, T).eval(), images[:1000], images[:1]

    def predict(x: Tensor) -> None:
        with torch.autocast(x.device.type, torch.bfloat16):
            model.predict(x)

    times = alternate({"many": lambda: predict(many), "one": lambda: predict(one)}, repeats, 2, device)
    return [
        row(f"inference_T{T}", [len(many) / t for t in times["many"]], "images/s"),
        row(f"latency_T{T}", [1e3 * t for t in times["one"]], "ms"),
    ]


def paper_time_to_accuracy(
    dataset: Dataset, device: str, target: float = 0.994, epochs: int = 30, progress: Callable | None = None
) -> Rows:
    """Seconds of training until the paper's NoProp-DT first reaches the test accuracy, measured after every epoch, and those
    of back-propagation through the same blocks; None where so many epochs are not enough. Measuring is not counted."""
    test = dataset.test_images.to(device), dataset.test_labels.to(device)
    spent, curves, first = {}, {}, {}
    for variant in ("dt", "backprop"):
        settings = paper_recipe(dataset, variant, "one_hot", 0, device)._asdict()
        model = settings.pop("model")
        settings |= {"epochs": epochs, "bf16": True, "cuda_graphs": device == "cuda"}
        generator, times, curve = torch.Generator(device).manual_seed(0), [], []

        def measure(epoch: int) -> None:
            nonlocal start
            synchronize(device)
            times.append(time.perf_counter() - start)
            curve.append(accuracy(model, *test, generator))
            start = time.perf_counter()

        start = time.perf_counter()
        images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
        fit(model, images, labels, **settings, generator=generator, progress=progress, after_epoch=measure)
        spent[variant], curves[variant] = times, curve
        reached = [sum(times[: i + 1]) for i, value in enumerate(curve) if value >= target]
        first[variant] = reached[0] if reached else None
    names = [f"{name}_{round(1000 * target)}" for name in ("paper_time_to", "paper_time_to_backprop")]
    rows = [row(name, [first[v] or 0.0], "s") | {"value": first[v]} for name, v in zip(names, spent)]
    baseline = "backprop, same blocks"
    return rows + [
        row("paper_epoch", spent["dt"][1:] or spent["dt"], "s", baseline, spent["backprop"][1:] or spent["backprop"]),
        row("paper_accuracy", curves["dt"][-1:], "fraction", baseline, curves["backprop"][-1:]),
    ]


SUITES = {"cpu": cpu_suite, "gpu": gpu_suite, "parallel": parallel_suite}
