"""Processes of one launcher: who is who, what is refused, and the one exchange at the end, by real processes."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import small_dt, states_equal, write_digits

from noprop_helpers import NoPropError, checkpoints
from noprop_helpers import __main__ as cli
from noprop_helpers.data import load_dataset
from noprop_helpers.parallel import rank_file, this_process
from noprop_helpers.runs import join, load_trained, measured

ROOT = Path(__file__).parent.parent
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch):
    """Variables as torchrun sets them for the second of three processes."""
    good = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in good.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


# --- Who is who ---


def test_this_process_reads_torchruns_variables(environment):
    assert this_process() == (1, 3)
    environment.setenv("WORLD_SIZE", "1")
    assert this_process() == (0, 1)
    for name in VARIABLES:
        environment.delenv(name, raising=False)
    assert this_process() == (0, 1)


@pytest.mark.parametrize("name, value", [
    ("RANK", "3"), ("RANK", "-1"), ("RANK", "one"), ("RANK", None), ("WORLD_SIZE", ""), ("WORLD_SIZE", "0"),
    ("MASTER_PORT", "no"), ("MASTER_PORT", "65536"), ("MASTER_PORT", None), ("MASTER_ADDR", ""), ("MASTER_ADDR", None),
])  # fmt: skip
def test_variables_that_would_fail_after_hours_fail_now(name, value, environment):
    environment.delenv(name) if value is None else environment.setenv(name, value)
    with pytest.raises(NoPropError, match="expected torchrun's variables in the environment, with RANK < WORLD_SIZE"):
        this_process()


def test_every_process_has_a_file_of_its_own():
    files = [rank_file("run.pt", rank, 3) for rank in range(3)]
    assert [str(file) for file in files] == ["run.pt.rank0of3", "run.pt.rank1of3", "run.pt.rank2of3"]


# --- What is refused ---


@pytest.mark.parametrize("arguments, message", [
    (["record", "mnist_shared"], "record runs in one process; start it without torchrun"),
    (["bench"], "bench runs in one process; start it without torchrun"),
    (["train"], "layers can be trained apart only where .*: not layer-local: one encoder is trained by all layers"),
    (["train", "--variant", "ct"], "one block for all times"),
    (["train", "--preset", "local", "--set", "num_steps=2"], "3 processes are more than the 2 layers; start fewer"),
    (["train", "--preset", "local", "--layers", "1-3", "--checkpoint", "a.pt"], "--layers and torchrun would both say"),
    (["train", "--preset", "local", "--resume"], "--resume needs --checkpoint FILE"),
])  # fmt: skip
def test_what_cannot_run_in_parallel_says_so(arguments, message, environment, tmp_path, capsys):
    environment.chdir(tmp_path)
    assert cli.main(arguments) == 2
    out, complaint = capsys.readouterr()
    assert out == "" and len(complaint.splitlines()) == 1 and re.search(message, complaint)
    assert list(tmp_path.iterdir()) == []


def test_a_process_does_not_write_over_its_own_file(environment, tmp_path, capsys):
    file = rank_file(tmp_path / "run.pt", 1, 3)
    file.write_bytes(b"old")
    assert cli.main(["train", "--preset", "local", "--checkpoint", str(tmp_path / "run.pt")]) == 2
    assert "run.pt.rank1of3 exists: go on from it with --resume" in capsys.readouterr().err
    assert file.read_bytes() == b"old"


# --- Real processes ---


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


GATHER = """
import os, sys, torch
sys.path.insert(0, {tests!r})
from conftest import small_dt
from noprop_helpers.parallel import gather_layers, this_process
torch.manual_seed(0)
model = small_dt(torch.rand(20, 1, 8, 8))
rank, world_size = this_process()
for name, value in model.state_dict().items():
    value.fill_(1 if name.startswith("encoder.") and {alike} else rank + 1)
gather_layers(model, rank, world_size)
torch.save(model.state_dict(), {folder!r} + f"/{{rank}}.pt")
"""


@pytest.mark.slow
def test_gather_gives_everybody_every_layer(tmp_path):
    """Three layers, two processes: all that process r had is r + 1. Afterwards both have layers 1 and 2 of the first, layer 3
    of the second, counters of BatchNorm included, and the readout of whoever has layer 1; all else stays."""
    for process in gathering(tmp_path, alike=True):
        _, complaint = process.communicate(timeout=120)
        assert process.returncode == 0, complaint.decode()
    for rank in (0, 1):
        state = torch.load(tmp_path / f"{rank}.pt")
        assert state.keys() == small_dt(torch.rand(20, 1, 8, 8)).state_dict().keys()
        assert any("num_batches_tracked" in name for name in state)
        for name, value in state.items():
            owner = rank
            if name.startswith(("layers.0.", "layers.1.", "readout.", "encoder.")):
                owner = 0
            if name.startswith("layers.2."):
                owner = 1
            assert (value == owner + 1).all(), name


@pytest.mark.slow
def test_processes_with_other_encoders_give_one_another_nothing(tmp_path):
    """Every one of them says so, and none waits for the others."""
    for process in gathering(tmp_path, alike=False):
        _, complaint = process.communicate(timeout=120)
        assert process.returncode == 1 and b"NoPropError: the processes have fitted different encoders" in complaint
    assert list(tmp_path.iterdir()) == []


def gathering(folder, alike):
    """Two processes that gather, with the same encoder or each its own."""
    code, port = GATHER.format(tests=str(Path(__file__).parent), folder=str(folder), alike=alike), free_port()
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    environments = [os.environ | variables | {"RANK": rank} for rank in "01"]
    return [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        for environment in environments
    ]


SHORT = ["--dataset", "folder:digits", "--epochs", "10", "--threads", "1"]
SHORT += ["--set", "hidden_dim=16", "--set", "num_centres=10", "--set", "batch_size=4"]


def launched(folder, *options):
    """The command that the chapter gives for a launcher, on a folder's digits, short, with one thread a process."""
    cells = json.loads((ROOT / "book" / "13-layers-in-parallel.ipynb").read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells).replace("\\\n", " ")  # lines that go on
    (command,) = re.findall(r"^ *torchrun (.* -m noprop_helpers train .*)$", text, re.M)
    command = command.replace("--dataset mnist", "").replace("-m noprop_helpers", "--standalone -m noprop_helpers")
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *command.split(), *SHORT, *options],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def trainer(launcher, rank):
    """The process of a launcher that is number ``rank``; None while there is none."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher.pid)], capture_output=True, text=True).stdout
    for pid in map(int, found.split()):
        with contextlib.suppress(OSError):
            if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return pid
    return None


def wait_until(done, process):
    """What ``done()`` returns as soon as it is something, while the process lives."""
    deadline = time.monotonic() + 120
    while not (result := done()):
        assert process.poll() is None and time.monotonic() < deadline, "the process ended, or nothing happened"
        time.sleep(0.002)
    return result


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="only /proc tells which process has which number")
def test_a_launcher_makes_the_model_that_its_parts_make(tmp_path, monkeypatch):
    """Two processes of torchrun. One is killed; the launcher stops the other; with --resume both go on from their own files,
    or begin where there is none yet, exchange their layers, and say what the files say, put together by ``join``: the model of
    two parts that nobody launched or killed."""
    write_digits(tmp_path / "digits")
    first = launched(tmp_path)
    files = [rank_file(tmp_path / "run.pt", rank, 2) for rank in (0, 1)]
    victim = wait_until(lambda: trainer(first, 1), first)
    wait_until(files[1].exists, first)
    os.kill(victim, signal.SIGKILL)
    first.communicate(timeout=120)
    assert first.returncode != 0
    assert 1 <= len(checkpoints.load(files[1])["history"]) < 10

    again = launched(tmp_path, "--resume", "--json", "out.json")
    out, complaints = again.communicate(timeout=180)
    assert again.returncode == 0, complaints
    assert len(out.splitlines()) == 1 and out.strip().endswith("layer-local, in 2 processes")
    joined = join(files)
    monkeypatch.chdir(tmp_path)
    for layers in ("1-5", "6-10"):
        assert cli.main(["train", "--preset", "local", "--layers", layers, "--checkpoint", f"{layers}.pt", *SHORT]) == 0
    assert states_equal(joined.model, join(["1-5.pt", "6-10.pt"]).model)
    told = json.loads((tmp_path / "out.json").read_text())
    results, _ = measured(joined.model, joined.run, load_dataset(f"folder:{tmp_path / 'digits'}"))
    assert told["test_accuracy"] == results["test_accuracy"] and told["top_layer_accuracy"] == results["top_layer_accuracy"]
    assert told["processes"] == 2 and told["run"]["settings"]["layers"] is None
    with pytest.raises(checkpoints.CheckpointError, match="holds layers 1, 2, 3, 4, 5 alone"):
        load_trained(files[0])
