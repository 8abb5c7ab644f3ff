"""Command line: ``python -m noprop_helpers train | record | bench``. Exit code 2 and one line on bad arguments or data."""

import argparse
import os
import sys
import time

import torch
from tqdm import tqdm

from . import records
from .benchmark import table
from .data import dataset_checksum, load_dataset
from .experiments import EXPERIMENTS, record, train_model
from .parallel import this_process
from .suites import SUITES
from .training import EMBEDDINGS, PRESETS, VARIANTS


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except ValueError as error:
        print(f"noprop_helpers: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("noprop_helpers: interrupted", file=sys.stderr)
        return 130


def train(options: argparse.Namespace) -> int:
    rank, world_size = this_process()
    device = _device(options.device)
    if device == "cuda" and world_size > 1:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    preset = options.preset or ("shared" if options.variant == "dt" and options.embedding == "one_hot" else "paper")
    if options.resume and not options.checkpoint:
        raise ValueError("--resume needs --checkpoint FILE, the file to resume from")
    for path in filter(None, (options.json, options.checkpoint)):
        records.check_writable(path)
    dataset = load_dataset(options.dataset, options.data_root, progress=sys.stderr.isatty())
    model, result = train_model(
        dataset, preset, variant=options.variant, embedding=options.embedding, seed=options.seed, epochs=options.epochs,
        device=device, progress=progress_bar, checkpoint=options.checkpoint, resume=options.resume,
        rank=rank, world_size=world_size,
    )  # fmt: skip
    if rank > 0:
        return 0  # the first process speaks for all
    top = f" (top layer alone {100 * result['top_layer_accuracy']:.2f} %)" if "top_layer_accuracy" in result else ""
    print(
        f"{dataset.name} {options.variant}/{preset}: test accuracy {100 * result['test_accuracy']:.2f} %{top} after "
        f"{result['epochs']} epochs, {result['train_seconds']:.1f} s training on {device}, seed {options.seed}; "
        f"{model.locality}" + (f", in {world_size} processes" if world_size > 1 else "")
    )
    if options.json:
        details = {
            "dataset": dataset.name,
            "variant": options.variant,
            "preset": preset,
            "embedding": options.embedding,
        }
        details |= {"layer_local": model.layer_local, "processes": world_size}
        memory = {"peak_memory_mib": round(records.peak_memory_mib(device), 1), "date": records.today()}
        records.write_json(options.json, details | result | memory | records.environment(device))
    return 0


def record_experiment(options: argparse.Namespace) -> int:
    _check_alone("record")
    device, start = _device(options.device), time.perf_counter()
    value = record(
        options.name, dataset=options.dataset, data_root=options.data_root, device=device, progress=progress_bar
    )
    print(
        f"{options.name}: {len(value['runs'])} seeds in {time.perf_counter() - start:.0f} s, written to {records.FOLDER}"
    )
    return 0


def bench(options: argparse.Namespace) -> int:
    _check_alone("bench")
    if options.suite == "gpu" and not torch.cuda.is_available():
        raise ValueError("the suite gpu needs a CUDA GPU, and this PyTorch sees none")
    device = _device("cuda" if options.suite == "gpu" else "cpu")
    target = records.FOLDER / f"bench_{options.suite}.json"
    # Other data would make other numbers: only the book's own go into its record.
    recorded = options.dataset == "mnist" and target.parent.is_dir()
    for path in filter(None, (options.json, target if recorded else None)):
        records.check_writable(path)
    dataset = load_dataset(options.dataset, options.data_root, progress=sys.stderr.isatty())
    rows = SUITES[options.suite](dataset, device, progress=progress_bar)
    print(table(rows))
    if options.json:
        records.write_json(options.json, rows)
    if recorded:
        records.write_json(target, {
            "benchmark": options.suite,
            "command": f"python -m noprop_helpers bench --suite {options.suite}",
            "dataset": {"name": dataset.name, "checksum": dataset_checksum(dataset)},
            "environment": records.environment(device),
            "git_commit": records.git_commit(),
            "date": records.today(),
            "rows": rows,
        })  # fmt: skip
        print(f"written to {target}")
    else:
        print("no record written: the book's are of the data set mnist, in a checkout of the book")
    return 0


def progress_bar(iterable, description: str):
    """A bar on standard error while it is a terminal; nothing otherwise, nothing left behind."""
    return tqdm(iterable, desc=description, leave=False, disable=None)


class _Parser(argparse.ArgumentParser):
    def error(self, message):  # one line instead of the usage followed by the message
        self.exit(2, f"noprop_helpers: {message} (--help lists what there is)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m noprop_helpers", description="Train and measure NoProp.")
    commands = parser.add_subparsers(required=True, metavar="train | record | bench")

    one = commands.add_parser("train", help="train a preset and measure it on the test split")
    one.add_argument(
        "--dataset", default="digits", help="digits (default), mnist, fashion_mnist, cifar10, cifar100, folder:PATH"
    )
    one.add_argument("--data-root", metavar="DIR", help="where the data are (else NOPROP_DATA, else ./data)")
    one.add_argument(
        "--variant", choices=list(VARIANTS), default="dt",
        help="dt: discrete time (default); ct: continuous time; fm: flow matching; "
        "backprop, adjoint: the paper's baselines, trained end to end",
    )  # fmt: skip
    one.add_argument(
        "--preset", choices=[*PRESETS, "paper"],
        help="published: the notebook's algorithm as it is; shared (default for dt): one encoder trained with all "
        "layers, so not layer-local; local: nothing trained across layers; paper (default for the other variants): "
        "the paper's blocks, loss and settings, long on a CPU",
    )  # fmt: skip
    one.add_argument(
        "--embedding", choices=EMBEDDINGS, default="one_hot",
        help="of the preset paper: fixed one_hot (default), learned with 20 dimensions, or image-sized prototype",
    )  # fmt: skip
    one.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    one.add_argument("--seed", type=_at_least(0), default=0)
    one.add_argument("--epochs", type=_at_least(1), help="passes over the training data (default: the preset's own)")
    one.add_argument(
        "--checkpoint", metavar="FILE", help="write the model and the state of training there, every epoch"
    )
    one.add_argument("--resume", action="store_true", help="go on from the --checkpoint of an interrupted run")
    one.add_argument("--json", metavar="FILE", help="write the result and its settings to FILE")
    one.set_defaults(command=train)

    many = commands.add_parser("record", help="run a named experiment of the book and write its record")
    many.add_argument("name", metavar="NAME", help=", ".join(EXPERIMENTS))
    many.add_argument("--dataset", help="in place of the experiment's own, e.g. folder:PATH with a copy of it")
    many.add_argument("--data-root", metavar="DIR", help="where the data are (else NOPROP_DATA, else ./data)")
    many.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    many.set_defaults(command=record_experiment)

    timing = commands.add_parser("bench", help="time the package against its baselines on this machine")
    timing.add_argument(
        "--suite", choices=list(SUITES), default="cpu",
        help="cpu (default): the published notebook's loop, time to accuracy; gpu: steps, memory, inference of the "
        "paper's blocks; parallel: two processes against one",
    )  # fmt: skip
    timing.add_argument("--dataset", default="mnist", help="mnist (default); another one for a try, without a record")
    timing.add_argument("--data-root", metavar="DIR", help="where the data are (else NOPROP_DATA, else ./data)")
    timing.add_argument("--json", metavar="FILE", help="write the rows to FILE")
    timing.set_defaults(command=bench)
    return parser


def _check_alone(command: str) -> None:
    if this_process()[1] > 1:
        raise ValueError(f"{command} runs in one process; start it without torchrun")


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this PyTorch sees no CUDA GPU; use --device cpu or auto")
    return name


def _at_least(smallest: int):
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = smallest - 1
        # torch's generators take seeds below 2**63
        if not smallest <= value < 2**63:
            raise argparse.ArgumentTypeError(f"expected an integer >= {smallest}, got {text!r}")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
