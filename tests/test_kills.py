"""Every kind of training, recording and benchmark, killed by SIGKILL and given again, comes to the same bits: ``kills.py``, once
for each kind. ``python tests/kills.py --times 20`` does so twenty times."""

import os
import random
import subprocess
import sys
from pathlib import Path

import kills
import pytest
import torch
from kills import KINDS, results, same, without

from noprop_helpers import checkpoints


@pytest.mark.slow
def test_killed_commands_come_to_the_same_bits():
    """In a process of its own, which has started no threads: it is copied for every command."""
    script = Path(__file__).parent / "kills.py"
    command = [sys.executable, str(script), "--times", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == list(KINDS)
    assert all(line.endswith(" 0 came to something else") for line in done.stdout.splitlines())


def test_the_comparison_can_fail(tmp_path):
    a = {"state": {"w": torch.zeros(2)}, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "groups": [{"lr": 0.1}]}}
    assert same(a, {key: dict(value) for key, value in a.items()})
    nearly = torch.zeros(2)
    nearly[1] = 1e-45  # the smallest float there is
    stepped = {0: {"step": torch.tensor(2.0)}}
    for changed in ({"groups": [{"lr": 0.2}]}, {"groups": []}, {"state": stepped}):
        assert not same(a, a | {"optimizer": a["optimizer"] | changed})
    for state in ({"w": nearly}, {"w": torch.zeros(2).double()}, {}):
        assert not same(a, a | {"state": state})
    assert without({"seconds": 1, "rows": [{"date": 2, "value": 3}]}) == {"rows": [{"value": 3}]}
    checkpoints.save(tmp_path / "run.pt", a)
    before = results(tmp_path)
    (tmp_path / ".run.pt.abcdefgh.tmp").touch()  # what a killed writer leaves is seen too
    assert not same(before, results(tmp_path))


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
def test_a_command_that_comes_to_something_else_is_found(tmp_path, monkeypatch):
    """With results that were expected to be others."""
    monkeypatch.setattr(kills, "start", lambda kind, folder: os.fork() or os._exit(0))
    (tmp_path / "bench 0.err").touch()
    one = kills.kill("bench", "bench 0", tmp_path, ({"out/record.json": 1}, 0.0), random.Random(0), 0)
    assert one.wrong == "not the same: out/record.json"
