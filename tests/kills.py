"""Commands killed by SIGKILL at random moments, and given again as a person would, until one of them ends: it must come to the
same bits as the command that nobody killed, and leave nothing else behind.

``python tests/kills.py --times 20`` kills each kind of training, recording and benchmark twenty times and prints what came. A
process that has loaded everything is copied for every command, so that one takes no second to start.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Iterator, NamedTuple

import torch
from conftest import write_digits
from hostile_cli import current_folder
from tqdm import tqdm

from noprop_helpers import __main__ as cli
from noprop_helpers import checkpoints
from noprop_helpers.benchmark import row
from noprop_helpers.lab import bench, recording
from noprop_helpers.lab.experiments import EXPERIMENTS, Experiment

TRAIN = ["train", "--dataset", "folder:digits", "--device", "cpu", "--threads", "1", "--precision", "float32"]
LOCAL = ["--preset", "local", "--set", "num_centres=10", "--set", "hidden_dim=16", "--set", "num_steps=4"]
SHORT = ["--epochs", "5", "--set", "batch_size=32"]
BLOCKS = ["--epochs", "3", "--set", "num_steps=2", "--set", "batch_size=100"]

# Every kind of pass, and every kind of model with a state of its own: a trained encoder and a learning-rate cycle, dropped
# features, dropout and BatchNorm, a learned schedule, learned embeddings.
KINDS = {
    "together": [*TRAIN, *SHORT, "--preset", "shared", "--set", "hidden_dim=16"],
    "fast stack": [*TRAIN, *SHORT, *LOCAL],
    "in turn": [*TRAIN, *SHORT, *LOCAL, "--set", "order=layer"],
    "interleaved": [*TRAIN, *SHORT, *LOCAL, "--set", "order=interleaved"],
    "paper's blocks": [*TRAIN, *BLOCKS, "--preset", "paper", "--embedding", "learned"],
    "continuous time": [*TRAIN, *BLOCKS, "--variant", "ct"],
    "flow matching": [*TRAIN, *BLOCKS, "--variant", "fm", "--embedding", "prototype"],
    "back-propagation": [*TRAIN, *BLOCKS, "--variant", "backprop"],
    "augmented": [*TRAIN, *BLOCKS, "--preset", "residual", "--set", "width=4", "--set", "augment=true"],
    "closed form": [*TRAIN, "--preset", "closed_form", "--set", "num_centres=10", "--set", "num_steps=4"],
    "layers apart": [*TRAIN, *SHORT, *LOCAL, "--layers", "1-2"],
    "record": ["record", "killed", "--output", "out", "--commit", "abc", "--threads", "1", "--device", "cpu"],
    "bench": ["bench", "--suite", "killed", "--output", "out", "--data-root", "data", "--commit", "abc", "--threads", "1", "--resume"],
}  # fmt: skip
HANGS_AFTER = 120  # seconds
FREE = {"seconds", "train_seconds", "peak_memory_mib", "date"}  # what may differ in a record


class Kill(NamedTuple):
    """What became of a command that was killed: how often, with how many epochs in its file each time, and what is wrong."""

    kind: str
    kills: int
    kept: list[int]
    wrong: str


# --- What is run ------------------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Data, an experiment of two seeds and a benchmark of four parts, which every copy of this process knows."""
    # A process is copied without its threads, and with the locks that they held: there must be none.
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())  # its own lies in memory that copies share: who is killed with it stops all who come later
    write_digits(folder / "digits", 200, 40)
    changes = {"epochs": "4", "num_steps": "3", "hidden_dim": "16", "num_centres": "10", "batch_size": "32"}
    digits = cli.load_dataset("digits")
    few = digits._replace(
        train_images=digits.train_images[:200], train_labels=digits.train_labels[:200],
        test_images=digits.test_images[:40], test_labels=digits.test_labels[:40],
    )  # fmt: skip
    EXPERIMENTS["killed"] = Experiment("a test", "digits", (0, 1), recipe="local", changes=changes)
    recording.load_dataset = lambda name, root=None: few
    recording.CHECKPOINT_EVERY = 0.0
    load = cli.load_dataset
    cli.load_dataset = lambda name, *rest: few._replace(name="mnist") if name == "mnist" else load(name, *rest)
    # Once here: all that is loaded late is loaded, and every copy is at its work at once.
    with current_folder(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for words in (["--preset", "local"], ["--preset", "residual", "--set", "augment=true"], ["--variant", "ct"]):
            small = ["--epochs", "1", "--set", "num_steps=1"]
            assert cli.main([*TRAIN, *words, *small, "--checkpoint", "warm.pt", "--json", "warm.json"]) == 0
            (folder / "warm.pt").unlink()
    if threading.active_count() > 1:
        raise RuntimeError(f"expected one thread, found {threading.enumerate()}")
    bench.SUITES["killed"] = bench.Suite("killed", "cpu", {name: timed(name) for name in ("a", "b", "c", "d")})


def timed(name: str):
    """A part of a benchmark that takes a while, and measures the same every time."""

    def part(dataset, recording):
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            torch.rand(100, 100).sum()
        return [row(name, [float(len(name))], "s")]

    return part


def command_of(kind: str, folder: Path) -> list[str]:
    """The command as a person gives it, the first time or again: on with the file, if there is one."""
    if KINDS[kind][0] != "train":
        return KINDS[kind]
    resume = ["--resume"] if (folder / "run.pt").exists() else []
    return [*KINDS[kind], "--checkpoint", "run.pt", "--json", "run.json", *resume]


def start(kind: str, folder: Path) -> int:
    """A copy of this process that runs the command in its folder, and says what it has to say into files: -> its number."""
    words = command_of(kind, folder)
    if pid := os.fork():
        return pid
    code = 1
    with contextlib.suppress(BaseException):
        os.chdir(folder)
        for name, stream in (("out", 1), ("err", 2)):
            os.dup2(os.open(f"../{folder.name}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        code = cli.main(words)
        sys.stdout.flush()
    os._exit(code)


def place(kind: str, name: str, folder: Path) -> Path:
    """An empty folder for one command, with its data."""
    own = folder / name
    (own / "out").mkdir(parents=True)
    (own / "digits").symlink_to(folder / "digits")
    return own


def results(folder: Path) -> dict[str, object]:
    """All files that a command left, but for what may differ from one time to another."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "digits" not in path.parts):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            found[name] = without(json.loads(path.read_text()))
        elif path.suffix == ".pt":
            found[name] = without(checkpoints.load(path))
        else:
            found[name] = path.read_bytes()
    return found


def without(value: object) -> object:
    """Without times and memory."""
    if isinstance(value, dict):
        return {key: without(item) for key, item in value.items() if key not in FREE}
    return [without(item) for item in value] if isinstance(value, list) else value


def same(a: object, b: object) -> bool:
    """Whether two contents are the same, every tensor bit for bit."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return a == b


# --- Killing ----------------------------------------------------------------------------------------------------------


def finish(pid: int) -> int:
    """Wait for a command: -> its status, as ``os.waitpid`` gives it. One that hangs is ended, and that is its status."""
    end = time.monotonic() + HANGS_AFTER
    while not (over := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGTERM)
            return os.waitpid(pid, 0)[1]
        time.sleep(0.002)
    return over[1]


def undisturbed(kind: str, folder: Path) -> tuple[dict, float]:
    """What a command leaves that nobody kills, and its seconds."""
    own, begin = place(kind, f"{kind} undisturbed", folder), time.monotonic()
    if finish(start(kind, own)):
        raise RuntimeError(f"{kind}: {(folder / f'{own.name}.err').read_text()}")
    return results(own), time.monotonic() - begin


def kill(kind: str, name: str, folder: Path, expected: tuple[dict, float], moment: random.Random, times: int = 2) -> Kill:
    """Kill a command so many times, each time at a moment of its whole length, then let it end."""
    own, kept, kills = place(kind, name, folder), [], 0
    for _ in range(times):
        pid = start(kind, own)
        end = time.monotonic() + moment.random() * expected[1]
        while time.monotonic() < end and not (over := os.waitpid(pid, os.WNOHANG)[0]):
            time.sleep(0.0005)
        if over:
            break
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        kills += os.WIFSIGNALED(status)
        if KINDS[kind][0] == "train":
            file = own / "run.pt"
            kept.append(len(checkpoints.load(file)["history"]) if file.exists() else 0)
    status = finish(start(kind, own))
    wrong = (folder / f"{name}.err").read_text()[-500:] or "it hangs" if status else ""
    if not status:
        found = results(own)
        others = [file for file in found.keys() | expected[0].keys() if not same(found.get(file), expected[0].get(file))]
        wrong = f"not the same: {', '.join(others)}" if others else ""
    shutil.rmtree(own)
    return Kill(kind, kills, kept, wrong)


def kills(times: int, folder: Path, kinds: list[str], seed: int = 0) -> Iterator[Kill]:
    """Kill commands of every kind until each kind was killed so many times."""
    prepare(folder)
    for kind in kinds:
        expected, done, number = undisturbed(kind, folder), 0, 0
        while done < times:
            one = kill(kind, f"{kind} {number}", folder, expected, random.Random(f"{seed}/{kind}/{number}"), min(2, times - done))
            done, number = done + one.kills, number + 1
            yield one


def main(arguments: list[str] | None = None) -> int:
    """Kill, and tell: -> 1 where a command came to something else."""
    parser = argparse.ArgumentParser(description="Kill commands and see what they come to.")
    parser.add_argument("--times", type=int, default=20, help="kills of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    options = parser.parse_args(arguments)
    told: dict[str, list[Kill]] = {kind: [] for kind in options.kinds}
    with tempfile.TemporaryDirectory() as folder:
        for one in kills(options.times, Path(folder), options.kinds, options.seed):
            told[one.kind].append(one)
            if one.wrong:
                print(f"{one.kind}, killed with {one.kept} epochs in its file: {one.wrong}", flush=True)
            if sum(each.kills for each in told[one.kind]) >= options.times:
                kept = sorted(number for each in told[one.kind] for number in each.kept)
                failed = sum(bool(each.wrong) for each in told[one.kind])
                number = sum(each.kills for each in told[one.kind])
                epochs = f", epochs in its file {kept}" if kept else ""
                print(f"{one.kind}: {number} kills{epochs}, {failed} came to something else", flush=True)
    return int(any(one.wrong for ones in told.values() for one in ones))


if __name__ == "__main__":
    sys.exit(main())
