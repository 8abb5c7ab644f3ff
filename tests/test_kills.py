"""Runs killed by SIGKILL at random moments in the middle of their training, through the command line, and taken up again:
each comes to the same bits as the run that nobody killed.

The suite kills three. ``python tests/test_kills.py 20`` kills twenty and prints them.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator, NamedTuple

import pytest
import torch
from conftest import write_digits

from noprop_helpers import checkpoints

EPOCHS = 6

# A trained encoder and a learning-rate cycle; dropped features; blocks with dropout and BatchNorm; continuous time.
# Small batches make an epoch so long that a kill lands within it.
KINDS = {
    "shared": ["--preset", "shared", "--set", "batch_size=16"],
    "local": ["--preset", "local", "--set", "num_centres=10", "--set", "batch_size=8"],
    "paper-dt": ["--preset", "paper", "--set", "num_steps=2", "--set", "batch_size=64"],
    "paper-ct": ["--variant", "ct", "--set", "num_steps=2", "--set", "batch_size=32"],
}


class Kill(NamedTuple):
    """What became of one killed run: how many epochs its file held, and whether it came to the same bits."""

    kind: str
    done: int
    same: bool


def start(kind: str, file: Path, *options: str) -> subprocess.Popen:
    """One thread: its sums have one order, whatever else the machine does."""
    how = ["--epochs", str(EPOCHS), "--device", "cpu", "--threads", "1", "--precision", "float32", *KINDS[kind]]
    files = ["--dataset", f"folder:{file.parent / 'digits'}", "--checkpoint", str(file)]
    return subprocess.Popen(
        [sys.executable, "-m", "noprop_helpers", "train", *how, *files, *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    """The result that a run prints, without its seconds."""
    said, complaints = process.communicate(timeout=300)
    assert process.returncode == 0, complaints
    return said.split(" after ")[0]


def uninterrupted(kind: str, folder: Path) -> tuple[str, dict]:
    """What an undisturbed run says, and its file."""
    said = finish(start(kind, folder / f"{kind}.pt"))
    return said, checkpoints.load(folder / f"{kind}.pt")


def same(a, b) -> bool:
    """Whether two contents of checkpoints are the same, every tensor bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


class Writes:
    """How often a file has been written: each time another file is put in the place of the last one."""

    def __init__(self, file: Path):
        self.file, self.count, self.last = file, 0, None

    def so_far(self) -> int:
        """The number, if one looks often enough."""
        try:
            now = self.file.stat()
        except FileNotFoundError:
            return 0
        if (now.st_ino, now.st_mtime_ns) != self.last:
            self.count, self.last = self.count + 1, (now.st_ino, now.st_mtime_ns)
        return self.count


def kill(kind: str, file: Path, expected: tuple[str, dict], moment: random.Random) -> Kill:
    """Start a run, kill it somewhere after its first checkpoint and before its last, and take it up again."""
    said, whole = expected
    epoch, into = moment.randint(1, EPOCHS - 2), moment.random()
    process, writes = start(kind, file), Writes(file)
    while writes.so_far() < epoch and process.poll() is None:
        time.sleep(0.0005)
    # Some way into the next epoch, as long as one took before; but in time, should the machine be faster by now.
    end = time.monotonic() + into * whole["seconds"] / EPOCHS
    while writes.so_far() < EPOCHS - 1 and time.monotonic() < end:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    _, complaints = process.communicate()
    assert process.returncode == -signal.SIGKILL, complaints or "the run was over before it was killed"
    content = checkpoints.load(file)
    done = len(content["history"])
    assert 1 <= done < EPOCHS and not same(content["state"], whole["state"])
    again = finish(start(kind, file, "--resume"))
    resumed = checkpoints.load(file)
    equal = all(same(resumed[key], whole[key]) for key in whole if key != "seconds")  # nothing but the time may differ
    return Kill(kind, done, equal and again == said)


def kills(number: int, folder: Path, seed: int = 0) -> Iterator[Kill]:
    """Kill ``number`` runs, of each kind in turn, two at a time: yields what became of each."""
    kinds = [list(KINDS)[i % len(KINDS)] for i in range(number)]
    write_digits(folder / "digits")
    with ThreadPoolExecutor(2) as pool:
        needed = sorted(set(kinds))
        whole = dict(zip(needed, pool.map(lambda kind: uninterrupted(kind, folder), needed)))
        yield from pool.map(
            lambda i: kill(kinds[i], folder / f"{i}.pt", whole[kinds[i]], random.Random(f"{seed}/{i}")), range(number)
        )


@pytest.mark.slow
def test_killed_runs_come_to_the_same_bits(tmp_path):
    seen = list(kills(3, tmp_path))
    assert [one.kind for one in seen] == list(KINDS)[:3]
    assert [one.kind for one in seen if not one.same] == []


def test_the_comparison_can_fail():
    a = {"state": {"w": torch.zeros(2)}, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "groups": [{"lr": 0.1}]}}
    assert same(a, {key: dict(value) for key, value in a.items()})
    nearly = torch.zeros(2)
    nearly[1] = 1e-45  # the smallest float there is
    stepped = {0: {"step": torch.tensor(2.0)}}
    for changed in ({"groups": [{"lr": 0.2}]}, {"groups": []}, {"state": stepped}):
        assert not same(a, a | {"optimizer": a["optimizer"] | changed})
    for state in ({"w": nearly}, {}):
        assert not same(a, a | {"state": state})


if __name__ == "__main__":
    failed, number = 0, int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        for i, one in enumerate(kills(number, Path(folder)), start=1):
            verdict = "the same bits" if one.same else "OTHER BITS"
            print(f"{i:3d}  {one.kind:9s} killed with {one.done} of {EPOCHS} epochs in its file: {verdict}", flush=True)
            failed += not one.same
    sys.exit(bool(failed))
