"""That every part of the suite gpu runs, and measures what its rows say: at toy size, and without looking at any time.

On a CPU what needs CUDA is left out.
"""

import dataclasses
import itertools
import math

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from noprop_helpers.backprop import BackpropNet
from noprop_helpers.benchmark import row
from noprop_helpers.lab import bench_gpu as gpu
from noprop_helpers.lab.bench import gpu_suite, run_suite
from noprop_helpers.lab.bench_gpu import TOY, WAYS, Sizes, Stopwatch, Way
from noprop_helpers.lab.recording import Recording
from noprop_helpers.passes import seeded
from noprop_helpers.runs import plan, run
from noprop_helpers.training import accuracy

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU")
each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_a_gpu)])


@pytest.fixture(autouse=True)
def one_thread():
    """Steps as small as these are faster on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def three_classes(digits):
    """Digits 0, 1 and 2: nothing may take for granted that there are ten classes."""
    train, test = digits.train_labels < 3, digits.test_labels < 3
    return digits._replace(
        train_images=digits.train_images[train], train_labels=digits.train_labels[train],
        test_images=digits.test_images[test], test_labels=digits.test_labels[test], class_names=("0", "1", "2"),
    )  # fmt: skip


def a_task(dataset, size=16, precision="float32", device="cpu"):
    return gpu.task_of(dataset, Recording(device=device, precision=precision), size)


# --- All of it ---

ON_ANY_DEVICE = [
    "gemm_float32", *(f"graph_difference_{v}" for v in ("dt", "ct", "fm", "backprop")),
    "step_backprop", "step_backprop_checkpointed", "step_loop_float32", "step_loop_channels_first", "step_loop",
    "step_stacked", "step_T1", "step_T2", "images_per_second_B8", "inference_T1", "latency_T1", "inference_T2", "latency_T2",
    *(f"paper_{name}_{v}_seed0" for v in ("dt", "backprop") for name in ("time_to_994", "epoch", "accuracy")),
    "paper_time_to_994", "paper_time_to_backprop_994", "paper_epoch", "paper_accuracy",
]  # fmt: skip
RIVALS = ("one_block", "all_blocks", "backprop", "backprop_checkpointed")
ON_A_GPU_ALONE = [
    "gemm_tf32", "gemm_bfloat16", "step_loop_tf32", "step_streams", "step_graph", "step_graph_backprop", "step_graph_streams",
    "step_compiled", "step_graph_T1", "step_graph_T2", "images_per_second_graph_B8", "inference_graph_T1", "latency_graph_T1",
    "inference_graph_T2", "latency_graph_T2",
    *(f"memory_{rival}_{kind}" for rival in RIVALS for kind in ("allocated", "reserved", "device")),
]  # fmt: skip


@pytest.mark.slow
@each_device
def test_the_whole_suite(device, three_classes, tmp_path):
    rows = run_suite(gpu_suite(TOY), three_classes, Recording(tmp_path, device, commit="abc"))
    assert [r for r in rows if "error" in r] == []
    expected = ON_ANY_DEVICE + (ON_A_GPU_ALONE if device == "cuda" else [])
    assert sorted(r["name"] for r in rows) == sorted(expected)
    not_reached = {"paper_time_to_994"} | {r["name"] for r in rows if r["part"].startswith("time_") and r["value"] is None}
    assert all(r["value"] >= 0 for r in rows if r["name"] not in not_reached | {"paper_time_to_backprop_994"})
    compared = {r["name"]: r["baseline"] for r in rows if r["baseline"]}
    assert compared["step_loop"] == "step_backprop" and compared["step_T2"] == "backprop, same T"
    assert compared["images_per_second_B8"] == "backprop, same batch" and compared["paper_epoch"] == "backprop, same blocks"
    assert "step_backprop" not in compared


def test_the_paper_is_measured_in_full():
    """What the book shows: ten blocks, batches of 128, three seeds, 99.4 %."""
    sizes = Sizes()
    assert (sizes.layers, sizes.batch, sizes.seeds, sizes.target) == (10, 128, (0, 1, 2), 0.994)
    assert 50 in sizes.walks and TOY.target == sizes.target


def test_a_task_is_of_the_data_and_the_recording(three_classes):
    task = a_task(three_classes, size=5, precision="bfloat16")
    assert task.images.shape == (5, 1, 8, 8) and torch.equal(task.labels, three_classes.train_labels[:5])
    assert task.num_classes == 3 and gpu.blocks(task, 1).W.shape == (3, 3) and gpu.baseline(task, 1).W.shape == (3, 3)
    assert task.settings.precision == "bfloat16" and task.first(2).shape.num_images == 2
    auto = gpu.task_of(three_classes, Recording(), 5)
    assert auto.precision == "auto" and auto.settings.precision in ("float32", "bfloat16")


# --- Steps ---


def trained_by(step):
    """All weights that a step hands to an optimizer, as they were before; each must come with a gradient."""
    found = {}

    def note(optimizer, arguments, options):
        for group in optimizer.param_groups:
            for p in group["params"]:
                assert p not in found and p.grad is not None
                found[p] = p.detach().clone()

    handle = register_optimizer_step_pre_hook(note)
    try:
        step()
    finally:
        handle.remove()
    return found


T = 3
MAKERS = {name: way.make for name, way in WAYS.items() if not way.needs_cuda}


@pytest.mark.parametrize("name", MAKERS)
def test_a_step_trains_every_weight_once_and_lets_go_of_its_gradients(name, three_classes):
    task = a_task(three_classes)
    before = trained_by(MAKERS[name](task, T))
    expected = gpu.baseline(task, T).net if "backprop" in name else gpu.blocks(task, T).layers
    assert sum(p.numel() for p in before) == sum(p.numel() for p in expected.parameters())
    assert all(not torch.equal(p, old) and p.grad is None for p, old in before.items())


@pytest.mark.parametrize("name", ["loop", "loop_channels_first", "stacked"])
def test_layers_start_from_the_same_weights_in_every_way(name, three_classes):
    task = a_task(three_classes)
    before = trained_by(MAKERS[name](task, 2))
    last = torch.stack([block.fuse[-1].weight for block in gpu.blocks(task, 2).layers])
    found = [old.reshape(-1, *old.shape[-2:]) for old in before.values() if old.shape[-2:] == last.shape[1:]]
    assert torch.equal(torch.cat(found), last)


def test_layouts_of_the_loop(three_classes):
    """Memory formats differ, numbers do not."""
    task = a_task(three_classes)
    for name, layout in (("loop", torch.channels_last), ("loop_channels_first", torch.contiguous_format)):
        filters = [p for p in trained_by(MAKERS[name](task, 1)) if p.ndim == 4 and p.shape[1] > 1]
        assert filters and all(p.is_contiguous(memory_format=layout) for p in filters)


def test_checkpointing_computes_blocks_twice_and_comes_to_the_same(three_classes):
    task = a_task(three_classes)
    gradients, calls = [], []
    for checkpointed in (False, True):
        model, count = gpu.baseline(task, T, checkpointed), []
        for block in model.net.blocks:
            block.register_forward_hook(lambda *_: count.append(1))
        with seeded(5):
            model.layer_loss(1, model.encoder(task.images), task.labels).mean().backward()
        gradients.append([p.grad for p in model.net.parameters()])
        calls.append(len(count))
        assert isinstance(model.net, BackpropNet) and model.training
    assert calls == [T, 2 * T]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_float32_rows_say_whether_tf32_is_on(three_classes):
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before, seen = [flag.allow_tf32 for flag in flags], []

    def make(task, T):
        return lambda: seen.append((task.precision, *(flag.allow_tf32 for flag in flags)))

    for asked in (False, True, None):
        Way(make, tf32=asked).step(a_task(three_classes, precision="bfloat16"), 1)()
        assert [flag.allow_tf32 for flag in flags] == before
    assert seen == [("float32", False, False), ("float32", True, True), ("bfloat16", *before)]
    with pytest.raises(KeyError), gpu.tf32(not before[0]):
        raise KeyError
    assert [flag.allow_tf32 for flag in flags] == before
    assert {name: way.tf32 for name, way in WAYS.items() if way.tf32 is not None} == {"loop_float32": False, "loop_tf32": True}


def test_steps_are_timed_in_turns_and_a_timing_is_shared_out_among_its_steps(monkeypatch):
    calls = []
    ways = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    sizes = TOY._replace(repeats=2, steps=3)
    times = gpu._per_step(ways, sizes, "cpu")
    assert calls == 3 * ["a", "a", "a", "b", "b", "b"]  # one round to warm up, two measured
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}
    monkeypatch.setattr(gpu, "alternate", lambda ways, repeats, warmup, device: {name: [0.3, 0.6] for name in ways})
    assert gpu._per_step(ways, sizes, "cpu") == {name: pytest.approx([100.0, 200.0]) for name in ways}


# --- Graphs ---


def test_how_far_apart_two_trainings_end():
    start, a, b = torch.zeros(3), torch.tensor([3.0, 0.0, 0.0]), torch.tensor([3.0, 0.0, 1.5])
    assert gpu.apart(start, a, a) == 0 and gpu.apart(start, a, b) == pytest.approx(0.5)
    assert gpu.apart(start, a, torch.tensor([0.0, 3.0, 0.0])) == pytest.approx(math.sqrt(2))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["dt", "ct", "fm", "backprop"])
def test_the_difference_that_graphs_make(variant, three_classes, monkeypatch):
    """None on a CPU; much, where they would draw other noise."""
    task = a_task(three_classes, 60)
    if not torch.cuda.is_available():
        assert gpu.graph_difference(variant, task) == 0
    fit = gpu.fit

    def broken(model, images, labels, settings):
        return fit(model, images, labels, dataclasses.replace(settings, seed=int(settings.cuda_graphs), cuda_graphs=False))

    monkeypatch.setattr(gpu, "fit", broken)
    assert gpu.graph_difference(variant, task) > 0.5


# --- Inference ---


@pytest.mark.parametrize("T", [1, 3])
def test_the_walk_is_the_models_own_prediction(T, three_classes):
    task = a_task(three_classes, 50)
    model = gpu.blocks(task, T).eval()
    for layer in model.layers:
        layer.fuse[-1].weight.data.mul_(100)  # new layers say nearly the same of all images
    step = gpu.walk(model, task)
    with seeded(3):
        walked = step()
    with seeded(3):
        predicted = model.predict(task.images)
    assert torch.equal(walked, predicted) and len(walked.unique()) > 1
    assert not model.training and all(p.grad is None for p in model.parameters())


# --- Time to accuracy ---


def watched(scores, target=0.85):
    """By a clock that a second passes on at every look."""
    watch = Stopwatch(target, "cpu", itertools.count().__next__)
    for score in scores:
        watch.look(lambda: score)
    return watch


@pytest.mark.parametrize(
    "scores, seconds",
    [
        ([], math.inf),
        ([0.9], math.inf),
        ([0.9, 0.8, 0.9, 0.8], math.inf),
        ([0.2, 0.9, 0.8], math.inf),
    ],
)
def test_one_good_epoch_is_not_enough(scores, seconds):
    watch = watched(scores)
    assert watch.seconds == seconds and watch.curve == scores and watch.epochs == [1] * len(scores)


def test_two_good_epochs_in_a_row_end_it_and_the_first_of_them_counts():
    watch = watched([0.2, 0.9, 0.8, 0.85])
    with pytest.raises(gpu.Reached):
        watch.look(lambda: 0.86)
    assert watch.seconds == 4 and watch.curve[-1] == 0.86  # measuring takes a look too, which does not count


def test_measuring_does_not_count():
    clock = iter([0.0, 3.0, 100.0, 104.0, 200.0])
    watch = Stopwatch(0.5, "cpu", lambda: next(clock))
    watch.look(lambda: 0.1)
    watch.look(lambda: 0.2)
    assert watch.epochs == [3.0, 4.0]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["dt", "backprop"])
def test_a_race_stops_where_the_target_is_reached(variant, three_classes):
    sizes = TOY._replace(epochs=4, target=0.0)
    recording = Recording(precision="float32")
    rows = {r["name"]: r for r in gpu.race_part(variant, 7, three_classes, recording, sizes)}
    ending = f"{variant}_seed7"
    assert list(rows) == [f"paper_{name}_{ending}" for name in ("time_to_0", "epoch", "accuracy")]
    assert rows[f"paper_time_to_0_{ending}"]["value"] > 0
    settings = {"seed": "7", "epochs": "2", "num_steps": "2", "precision": "float32"}  # two of four epochs
    model = run(plan(three_classes, f"paper-{variant}", settings), three_classes).model
    test = three_classes.test_images, three_classes.test_labels
    assert rows[f"paper_accuracy_{ending}"]["value"] == accuracy(model, *test, torch.Generator().manual_seed(0))


def test_a_race_that_does_not_reach_its_target_has_no_time(three_classes):
    rows = gpu.race_part("dt", 0, three_classes, Recording(precision="float32"), TOY._replace(epochs=1, target=1.01))
    assert [r["value"] is None for r in rows] == [True, False, False]


def race_rows(variant, values):
    """(time, epoch, accuracy) of each seed, as the parts give them."""
    return [
        row(f"paper_{name}_{variant}_seed{seed}", [value], "s") | {"value": None if value == math.inf else value}
        for seed, one in enumerate(values)
        for name, value in zip(("time_to_994", "epoch", "accuracy"), one)
    ]


def test_medians_of_the_races():
    never = math.inf
    dt = race_rows("dt", [(30.0, 1.0, 0.99), (never, 3.0, 0.98), (50.0, 2.0, 0.97)])
    backprop = race_rows("backprop", [(never, 2.0, 0.99), (10.0, 3.0, 0.96), (never, 8.0, 0.97)])
    rows = {r["name"]: r for r in gpu.paper_medians(dt + backprop, Sizes())}
    assert list(rows) == ["paper_time_to_994", "paper_time_to_backprop_994", "paper_epoch", "paper_accuracy"]
    assert rows["paper_time_to_994"]["value"] == 50.0 and rows["paper_time_to_backprop_994"]["value"] is None
    epoch = rows["paper_epoch"]
    assert (epoch["value"], epoch["ratio"], epoch["ratio_min"], epoch["ratio_max"]) == (2.0, 0.5, 0.25, 1.0)
    assert rows["paper_accuracy"]["value"] == 0.98 and all(r["part"] == "medians" for r in rows.values())


def test_there_is_no_median_before_all_seeds_are_there():
    races = race_rows("dt", 3 * [(1.0, 1.0, 1.0)]), race_rows("backprop", 3 * [(1.0, 1.0, 1.0)])
    everything = [one for rows in races for one in rows]
    assert gpu.paper_medians(everything[:-1], Sizes()) == []
    failed = everything[:-1] + [everything[-1] | {"value": None, "error": "RuntimeError"}]
    assert gpu.paper_medians(failed, Sizes()) == [] and len(gpu.paper_medians(everything, Sizes())) == 4
