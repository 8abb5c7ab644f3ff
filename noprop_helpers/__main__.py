"""Command line: ``python -m noprop_helpers train | predict | join | record | bench``.

One clear line on bad arguments or data.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Sequence

# Another Python than the one in which the package is installed: one line, before an import fails.
if _missing := [name for name in ("torch", "numpy", "tqdm") if importlib.util.find_spec(name) is None]:
    print(f"noprop_helpers needs {' and '.join(_missing)}: pip install {' '.join(_missing)}", file=sys.stderr)
    sys.exit(2)

import torch
from torch import Tensor
from tqdm import tqdm

from . import NoPropError, parallel
from .benchmark import peak_memory_mib, table
from .checkpoints import CheckpointError, check_writable
from .data import Dataset, load_dataset
from .images import fits, read_picture
from .lab import bench as benches
from .lab import records
from .lab.experiments import EXPERIMENTS
from .lab.recheck import recheck
from .lab.recording import Recording, record
from .lab.shell import Parser, in_one_line
from .layerwise import layers_for_rank
from .recipes import EMBEDDINGS, RECIPES
from .runs import (
    Loaded, Run, accuracy_by_class, as_data, description, join, load_trained, measured, num_parameters, plan, run,
    save_trained, trained,
)  # fmt: skip
from .settings import PRECISIONS, layer_numbers
from .training import Keeper

MOST_THREADS = max(256, os.cpu_count() or 1)  # thousands end the process, without a word
VARIANTS = ("dt", "ct", "fm", "backprop", "adjoint")


def main(arguments: list[str] | None = None) -> int:
    """Run a command: -> exit code, 0, 1 where a part of a benchmark failed or a record does not hold, 2 for a fault of arguments,
    data, files or memory, 130 for an interruption. A bug of ours shows its traceback."""
    return in_one_line("noprop_helpers", lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    """Read the arguments, set threads and device, and run the command that they name."""
    options = _parser().parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    options.device = _device(options.device)
    return options.command(options)


# --- train ------------------------------------------------------------------------------------------------------------


def train(options: argparse.Namespace) -> int:
    """Train a recipe, whole or some of its layers, measure it, and say how it went: -> exit code."""
    rank, world_size = parallel.this_process()
    _check_files(options.json, options.checkpoint)
    if options.checkpoint and not options.resume and world_size == 1 and Path(options.checkpoint).is_file():
        raise CheckpointError(f"{options.checkpoint} exists: go on from it with --resume, or name another file")
    if options.resume and not options.checkpoint:
        raise NoPropError("--resume needs --checkpoint FILE, the file to resume from")
    dataset = _dataset(options, options.dataset, options.image_size)
    planned = plan(dataset, _recipe(options), _changes(options))
    if world_size > 1:
        return _train_share(options, planned, dataset, rank, world_size)
    if planned.settings.layers is not None and not options.checkpoint:
        raise NoPropError("--layers needs --checkpoint FILE, for join to put the parts together")
    tell = functools.cache(lambda: _tell_preparation(dataset))

    def progress(iterable, description: str):  # the first work to be shown: no fault of arguments or files is left
        tell()
        return progress_bar(iterable, description)

    result = run(
        planned, dataset, device=options.device, checkpoint=options.checkpoint, resume=options.resume, progress=progress
    )
    tell()
    if planned.settings.layers is not None:
        seconds, layers = result.results["train_seconds"], ", ".join(map(str, planned.settings.layers))
        _say(f"layers {layers}, trained in {seconds:.1f} s, are in {options.checkpoint}: join puts the parts together")
        return 0
    return _report(options, planned, dataset, result.model, result.results, result.predictions["walk_0"])


def _train_share(options: argparse.Namespace, planned: Run, dataset: Dataset, rank: int, world_size: int) -> int:
    """Under torchrun: this process's layers, then those of all others; the first process speaks for all."""
    if options.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    if planned.settings.layers is not None:
        raise NoPropError("--layers and torchrun would both say which layers are trained here; leave one of them out")
    if world_size > planned.model.num_steps:
        raise NoPropError(f"{world_size} processes are more than the {planned.model.num_steps} layers; start fewer")
    parallel.check_host(os.environ["MASTER_ADDR"])
    _tell_preparation(dataset)
    file = options.checkpoint and parallel.rank_file(options.checkpoint, rank, world_size)
    share = layers_for_rank(planned.model.num_steps, rank, world_size)
    settings = dataclasses.replace(planned.settings.on(options.device), layers=tuple(share))
    part = dataclasses.replace(planned, settings=settings)
    keeper = Keeper(file, options.resume and file.is_file(), about=description(part, dataset))
    model, losses = trained(part, dataset, options.device, keeper, progress_bar)
    parallel.gather_layers(model, rank, world_size)
    if rank > 0:
        return 0
    results, said = measured(model, planned, dataset, options.device)
    results |= {"train_seconds": keeper.seconds, "processes": world_size}
    return _report(options, planned, dataset, model, results, said["walk_0"])


def _recipe(options: argparse.Namespace) -> str:
    """The recipe that --recipe, or --preset with --variant, name."""
    if options.preset not in (None, "paper") and (options.variant != "dt" or options.embedding not in (None, "one_hot")):
        raise NoPropError(
            f"the preset {options.preset} is dt with one_hot embeddings; "
            f"for {options.variant}, {options.embedding or 'one_hot'} take the preset paper"
        )
    one_hot = options.embedding in (None, "one_hot")
    preset = options.preset or ("shared" if options.variant == "dt" and one_hot else "paper")
    return f"paper-{options.variant}" if preset == "paper" else preset


def _changes(options: argparse.Namespace) -> dict[str, str]:
    """Settings given on the command line: name -> text."""
    given = [(name, getattr(options, name)) for name in ("seed", "epochs", "precision", "layers")]
    if _recipe(options).startswith("paper-"):  # the others know one embedding, which need not be said
        given.append(("embedding", options.embedding))
    changes = {name: str(value) for name, value in given if value is not None}
    for pair in options.set:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals:
            raise NoPropError(f"--set: expected NAME=VALUE, as learning_rate=3e-3, got {pair!r}")
        if changes.setdefault(name, text) != text:
            raise NoPropError(f"{name} is given twice, as {changes[name]} and as {text}")
    return changes


def _dataset(options: argparse.Namespace, name: str, image_size: tuple[int, int] | None = None) -> Dataset:
    return load_dataset(name, options.data_root, sys.stderr.isatty(), image_size)


def _tell_preparation(dataset: Dataset) -> None:
    """Say what was done to a folder of images, by one process, and once all else is found to be in order."""
    if dataset.preparation is not None and parallel.this_process()[0] == 0:
        for line in dataset.preparation.lines:
            _tell(f"{dataset.name}: {line}")


def _report(options: argparse.Namespace, planned: Run, dataset: Dataset, model, results: dict, said: Tensor) -> int:
    """Write the JSON, then say the result in one line. ``said``: the classes of a walk over the test images [M]."""
    planned = dataclasses.replace(planned, settings=planned.settings.on(options.device))
    settings = planned.settings
    if options.json is not None:
        told = {"dataset": dataset.name, "recipe": planned.recipe, "epochs": settings.epochs, "seed": settings.seed}
        told |= {"precision": settings.precision, "layer_local": model.layer_local, "parameters": num_parameters(model)}
        told |= results | {"accuracy_by_class": accuracy_by_class(said, dataset), "run": as_data(planned)}
        told |= {"num_train": len(dataset.train_labels), "num_test": len(dataset.test_labels)}
        told |= {"preparation": dataset.preparation and dataclasses.asdict(dataset.preparation)}
        peak = peak_memory_mib(options.device)
        told |= {"peak_memory_mib": peak and round(peak, 1), "date": records.today()}
        records.write_json(options.json, told | records.environment(options.device))
    top = f" (top layer alone {100 * results['top_layer_accuracy']:.2f} %)" if "top_layer_accuracy" in results else ""
    apart = f", in {results['processes']} processes" if "processes" in results else ""
    _say(
        f"{dataset.name} {planned.recipe}: test accuracy {100 * results['test_accuracy']:.2f} %{top} after "
        f"{settings.epochs} epochs, {results['train_seconds']:.1f} s training on {options.device} in {settings.precision}, "
        f"seed {settings.seed}; {model.locality}{apart}"
    )
    return 0


# --- predict ----------------------------------------------------------------------------------------------------------

NUM_NAMED = 3  # classes that a prediction names: the most likely one, and the next
NUM_WALKS = 10  # whose mean a probability is


def predict(options: argparse.Namespace) -> int:
    """Classes of pictures by a trained model; returns the exit code."""
    _check_alone("predict")
    _check_files(options.json, read=[options.model, *options.pictures])
    loaded = load_trained(options.model, options.device)
    if (epochs := len(loaded.history)) < loaded.run.settings.epochs:
        raise CheckpointError(
            f"{options.model} is trained for {epochs} of {loaded.run.settings.epochs} epochs: go on with train --resume"
        )
    model = loaded.model
    images = torch.cat([read_picture(path, model.image_shape) for path in options.pictures]).to(options.device)
    if others := sum(not fits(path, model.image_shape) for path in options.pictures):
        channels, height, width = model.image_shape
        kind = f"{width}x{height} {'grey' if channels == 1 else 'colour'}"
        _tell(f"{others} of {len(images)} pictures made {kind}, as the training images were")
    generator = torch.Generator(options.device).manual_seed(loaded.run.settings.seed)
    found = model.probabilities(images, generator, NUM_WALKS).cpu()
    if options.json is not None:
        records.write_json(options.json, _predicted(options, loaded, found) | records.environment(options.device))
    for path, row in zip(options.pictures, found):
        _say(f"{path}: {_most_likely(row, model.class_names)}")
    return 0


def _most_likely(probabilities: Tensor, class_names: Sequence[str]) -> str:
    """The likeliest class and the next ones, in words: [K] -> "cat 93.1 %, then dog 6.0 %, owl 0.9 %"."""
    top = probabilities.topk(min(NUM_NAMED, len(class_names)))
    first, *others = (f"{class_names[k]} {100 * p:.1f} %" for p, k in zip(top.values.tolist(), top.indices.tolist()))
    return f"{first}, then {', '.join(others)}"


def _predicted(options: argparse.Namespace, loaded: Loaded, found: Tensor) -> dict:
    """What the JSON tells of a prediction; probabilities [N, K]."""
    names = loaded.model.class_names
    pictures = []
    for path, row in zip(options.pictures, found):
        said = {"file": path, "class": names[row.argmax()], "probability": row.max().item()}
        pictures.append(said | {"probabilities": dict(zip(names, row.tolist()))})
    told = {"model": options.model, "recipe": loaded.run.recipe, "dataset": loaded.run.dataset, "pictures": pictures}
    return told | {"image_shape": list(loaded.model.image_shape), "walks": NUM_WALKS, "seed": loaded.run.settings.seed}


# --- join, record, bench ----------------------------------------------------------------------------------------------


def join_parts(options: argparse.Namespace) -> int:
    """Make one model of files of layers trained apart, and measure it: -> exit code."""
    _check_files(options.json, options.checkpoint, read=options.files)
    if options.checkpoint and Path(options.checkpoint).is_file():
        raise CheckpointError(f"{options.checkpoint} exists, and may hold more than these parts: name another file")
    loaded = join(options.files, options.device)
    name = options.dataset or loaded.run.dataset
    height, width = loaded.about["image_shape"][1:]
    dataset = _dataset(options, name, (width, height) if name.startswith("folder:") else None)
    expected = description(loaded.run, dataset)["dataset_checksum"]
    if loaded.about["dataset_checksum"] != expected:
        raise NoPropError(f"the layers were trained on other data than {name} holds now; name theirs with --dataset")
    _tell_preparation(dataset)
    if options.checkpoint is not None:
        save_trained(options.checkpoint, loaded)
    results, said = measured(loaded.model, loaded.run, dataset, options.device)
    results |= {"train_seconds": loaded.seconds}
    return _report(options, loaded.run, dataset, loaded.model, results, said["walk_0"])


def record_experiment(options: argparse.Namespace) -> int:
    """Run an experiment of the book over its seeds and write its record: -> exit code."""
    _check_alone("record")
    _check_files(options.json)
    if options.check:
        if options.seeds is not None:
            raise NoPropError("--check runs as many seeds as the record has: leave --seeds out")
        return _recheck(options)
    start = time.perf_counter()
    value = record(options.name, _recording(options)._replace(seeds=options.seeds), options.dataset, options.data_root)
    seconds = time.perf_counter() - start
    if options.json is not None:
        records.write_json(options.json, value)
    _say(f"{options.name}: {len(value['runs'])} seeds in {seconds:.0f} s, written to {options.output}")
    return 0


def _recheck(options: argparse.Namespace) -> int:
    """Run a recorded experiment again and say of every number whether it agrees: -> exit code, 1 where one does not."""
    with tempfile.TemporaryDirectory() as folder:
        recording = _recording(options)
        if recording.folder == records.FOLDER:  # the new record is wanted for the comparison alone
            recording = recording._replace(folder=Path(folder))
        check = recheck(options.name, recording, options.dataset, options.data_root)
    failed = sum(not verdict.passed for verdict in check.verdicts)
    if options.json is not None:
        records.write_json(options.json, check.as_data())
    _say("\n".join(map(str, check.verdicts)))
    agree = len(check.verdicts) - failed
    _say(f"{options.name}: {agree} of {len(check.verdicts)} numbers agree with the record, {failed} do not")
    return int(failed > 0)


def bench(options: argparse.Namespace) -> int:
    """Time a suite of benchmarks and, on the book's own data, write its record: -> exit code."""
    _check_alone("bench")
    _check_files(options.json)
    options.device = _device(benches.SUITES[options.suite].device)
    # Other data would make other numbers: only the book's own go into its record.
    # An installed package has no book, and so no folder for its records; one that was named must be there.
    recorded = options.dataset == "mnist" and (options.output != records.FOLDER or records.FOLDER.is_dir())
    dataset = _dataset(options, options.dataset)
    _tell_preparation(dataset)
    rows = benches.bench(options.suite, dataset, _recording(options), options.only, options.resume, recorded)
    if options.json is not None:
        records.write_json(options.json, rows)
    where = f"written to {options.output}" if recorded else "no record written: the book's are of the data set mnist"
    _say(f"{table(rows)}\n{where}")
    return int(any("error" in row for row in rows))


def _recording(options: argparse.Namespace) -> Recording:
    return Recording(
        Path(options.output), options.device, options.precision, options.commit, options.fresh, progress=progress_bar
    )


# --- What the commands share ------------------------------------------------------------------------------------------


def progress_bar(iterable, description: str):
    """A bar on standard error while it is a terminal; nothing otherwise, nothing left behind."""
    return tqdm(iterable, desc=description, leave=False, disable=None)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m noprop_helpers", description="Train and measure NoProp.")
    commands = parser.add_subparsers(required=True, metavar="train | predict | join | record | bench")
    device = _device_options()
    common = _common_options(device)
    _train_options(commands.add_parser("train", parents=[common], help="train a recipe and measure it on the test split"))
    _predict_options(commands.add_parser("predict", parents=[device], help="say what pictures show, by a model of train's"))
    _join_options(commands.add_parser("join", parents=[common], help="put layers trained apart together, and measure them"))
    kept = _recording_options(common)
    _record_options(commands.add_parser("record", parents=[kept], help="run an experiment of the book and write its record"))
    _bench_options(commands.add_parser("bench", parents=[kept], help="time the package against its baselines"))
    return parser


def _device_options() -> argparse.ArgumentParser:
    """What every command takes: a parent for their parsers."""
    device = argparse.ArgumentParser(add_help=False)
    device.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    device.add_argument("--threads", type=_at_least(1, MOST_THREADS), metavar="N", help="processor threads (default: PyTorch's own number)")
    device.add_argument("--json", metavar="FILE", help="write the results to FILE")
    return device


def _common_options(device: argparse.ArgumentParser) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, parents=[device])
    common.add_argument("--data-root", metavar="DIR", help="where the data are (else NOPROP_DATA, else ./data)")
    return common


def _train_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dataset", default="digits", help="digits (default), mnist, fashion_mnist, cifar10, cifar100, or folder:PATH with "
        "PATH/CLASS/*.png, of which one in five is tested on, or PATH/train/CLASS/*.png and PATH/test/CLASS/*.png",
    )  # fmt: skip
    command.add_argument(
        "--image-size", type=_size, metavar="N|WxH",
        help="what the images of folder:PATH become, as 32 or 40x30 (default: their most common size)",
    )  # fmt: skip
    command.add_argument(
        "--preset", choices=[*(name for name in RECIPES if not name.startswith("paper-")), "paper"],
        help="published: the notebook's algorithm as it is; shared (default for dt): one encoder trained with all layers, so "
        "not layer-local; local: nothing trained across layers; residual: residual networks for colour images; paper "
        "(default for the other variants): the paper's blocks, loss and settings, long on a CPU",
    )  # fmt: skip
    command.add_argument(
        "--variant", choices=VARIANTS, default="dt",
        help="of the preset paper: dt, discrete time (default); ct, continuous time; fm, flow matching; "
        "backprop, adjoint: the paper's baselines, trained end to end",
    )  # fmt: skip
    command.add_argument("--embedding", choices=EMBEDDINGS, help="of the preset paper: one_hot (default), learned, prototype")
    command.add_argument("--seed", type=_at_least(0), metavar="N", help="draws everything (default: 0)")
    command.add_argument("--epochs", type=_at_least(1), help="passes over the training data (default: the preset's own)")
    command.add_argument("--precision", choices=PRECISIONS, help="auto: bfloat16 where the device computes it in hardware")
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="any other setting of training or model, as learning_rate=3e-3 or num_steps=5; may be given several times",
    )  # fmt: skip
    command.add_argument("--layers", type=_layers, metavar="1-5", help="train these alone; join puts the parts together")
    command.add_argument("--checkpoint", metavar="FILE", help="keep the model and the state of training there")
    command.add_argument("--resume", action="store_true", help="go on from the --checkpoint of an interrupted run")
    command.set_defaults(command=train)


def _predict_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="RUN.pt", help="what train kept in its --checkpoint, or join in its own")
    command.add_argument("pictures", nargs="+", metavar="IMAGE", help=".png or .jpg; made as the training images were")
    command.set_defaults(command=predict)


def _join_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("files", nargs="+", metavar="FILE", help="checkpoints of train --layers, in any order")
    command.add_argument("--dataset", help="where it moved, as folder:PATH; default: the one they were trained on")
    command.add_argument("--checkpoint", metavar="FILE", help="write the whole model there")
    command.set_defaults(command=join_parts)


def _recording_options(common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """What `record` and `bench` take: a parent for their parsers."""
    kept = argparse.ArgumentParser(add_help=False, parents=[common])
    kept.add_argument("--output", metavar="DIR", default=records.FOLDER, help="where the record goes (default: the book's)")
    kept.add_argument("--commit", metavar="HASH", help="of this code, where it is no git checkout")
    kept.add_argument("--precision", choices=PRECISIONS, help="in place of the experiment's own")
    kept.add_argument("--fresh", action="store_true", help="throw away what an interrupted recording has finished")
    return kept


def _record_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help=", ".join(EXPERIMENTS))
    command.add_argument("--dataset", help="in place of the experiment's own, e.g. folder:PATH with a copy of it")
    command.add_argument("--seeds", type=_at_least(1), metavar="N", help="its first N seeds alone; the others can follow later")
    command.add_argument("--check", action="store_true", help="run it again and say whether the record's numbers hold")
    command.set_defaults(command=record_experiment)


def _bench_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--suite", choices=list(benches.SUITES), default="cpu",
        help="cpu (default): the published notebook's loop, time to accuracy; gpu: steps, memory, inference of the "
        "paper's blocks; parallel: two processes against one; ceiling: what this processor does at best; predicted: what the "
        "paper's training step asks for, counted, and how long an H100 should take; peers: an epoch of other people's "
        "implementations, from clones in the folder NOPROP_PEERS, and of the presets",
    )  # fmt: skip
    command.add_argument("--dataset", default="mnist", help="mnist (default); another one for a try, without a record")
    command.add_argument("--only", metavar="PART", help="one part of the suite alone")
    command.add_argument("--resume", action="store_true", help="keep the parts that the record has already")
    command.set_defaults(command=bench)


def _check_files(*paths: str | None, read: Sequence[str] = ()) -> None:
    """Files to write: each must be possible, and none may replace another one or one that is read."""
    taken = {os.path.realpath(path): path for path in read}
    for path in paths:
        if path is None:
            continue
        check_writable(path)
        place = os.path.realpath(path)
        if place in taken and (os.path.isfile(place) or not os.path.exists(place)):  # a device may be given twice
            raise NoPropError(f"{path} and {taken[place]} are one file, and one would replace the other")
        taken[place] = path


def _tell(text: str) -> None:
    """A line beside the result, on standard error; where nobody listens, it is not worth an error."""
    with contextlib.suppress(OSError):
        print(_printable(f"noprop_helpers: {text}"), file=sys.stderr, flush=True)


def _say(text: str) -> None:
    """Print a result. Where that fails, files are written all the same, and it fails in one line."""
    try:
        print(_printable(text), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries, and fails, once more at its end
        raise NoPropError(f"cannot print the result: {error.strerror}") from None


def _printable(text: str) -> str:
    """Names of files and classes come from others, and a terminal obeys some signs: these are spelled out."""
    return "".join(sign if sign.isprintable() or sign in "\n\N{NO-BREAK SPACE}" else repr(sign)[1:-1] for sign in text)


def _check_alone(command: str) -> None:
    if parallel.this_process()[1] > 1:
        raise NoPropError(f"{command} runs in one process; start it without torchrun")


def _device(name: str) -> str:
    """The device meant; NoPropError where it is a GPU that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise NoPropError("--device cuda: this PyTorch sees no CUDA GPU; use --device cpu or auto")
    return name


def _layers(text: str) -> str:
    """The text itself, once it is seen to name layers."""
    try:
        layer_numbers(text)
    except NoPropError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _size(text: str) -> tuple[int, int]:
    """(width, height) from "32" or "40x30"."""
    sides = text.split("x") if "x" in text else [text, text]
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and 0 < int(side) < 10_000 for side in sides):
        raise argparse.ArgumentTypeError(f"expected a size in pixels such as 32 or 40x30, got {text!r}")
    return int(sides[0]), int(sides[1])


def _at_least(smallest: int, largest: int = 2**63 - 1):
    """A reader of integers from ``smallest`` on, for argparse; torch's generators take seeds below 2**63."""
    def parse(text: str) -> int:
        value = int(text) if text.isascii() and text.isdigit() else smallest - 1
        if not smallest <= value <= largest:
            bound = f"expected at most {largest}" if value > largest and largest < 2**63 - 1 else f"expected an integer >= {smallest}"
            raise argparse.ArgumentTypeError(f"{bound}, got {text!r}")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
