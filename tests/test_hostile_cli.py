"""The hostile table: every row has the outcome that it must have, and a bug of ours is not mistaken for one of them."""

import io
import json
import os
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy
import pytest
import torch
from hostile_cli import (
    READ_ONLY, ROWS, Outcome, Row, contents, current_folder, fault, nothing_to_write, outcome, run_all, words_of, write_place,
)  # fmt: skip

from noprop_helpers import __main__ as cli
from noprop_helpers import checkpoints
from noprop_helpers.benchmark import row as benchmark_row
from noprop_helpers.lab import bench
from noprop_helpers.lab.experiments import EXPERIMENTS, Experiment


@pytest.fixture(scope="module")
def place():
    # Not in pytest's own folder, which the next pytest on the machine closes to others.
    with tempfile.TemporaryDirectory(prefix="a place with spaces ") as folder:
        write_place(Path(folder))
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize("part", ROWS)
def test_every_fault_is_told_in_one_line(part, place):
    """And nothing that was there is changed by it; what can be done is done."""
    wrong = []
    run_all(ROWS[part], place, lambda row, told, what: wrong.append((row, what, told.err[-500:])) if what else None)
    assert wrong == []


def test_the_table_is_long_and_says_nothing_twice():
    rows = [row for rows in ROWS.values() for row in rows]
    assert len(rows) >= 300 and len({(row.typed, str(row.given)) for row in rows}) == len(rows)


def test_every_kind_of_fault_is_found():
    row = Row("train", 2, "expected this")
    for told, changed, said in [
        (Outcome(None, "", "Traceback ... it hangs"), False, "hangs"), (Outcome(None, "", "Traceback"), False, "traceback"),
        (Outcome(0, "done", ""), False, "silently accepted"), (Outcome(1, "", "expected this"), False, "code 1 in place of 2"),
        (Outcome(2, "", "a\nexpected this"), False, "not one line"), (Outcome(2, "x", "expected this"), False, "not one line"),
        (Outcome(2, "", "something else"), False, "other words"), (Outcome(2, "", "expected this"), True, "changed a file"),
        (Outcome(2, "", "expected this"), False, ""),
    ]:  # fmt: skip
        assert fault(row, told, changed) == said
    assert fault(Row("train", 0, "100 %"), Outcome(0, "accuracy 90 %", ""), False) == "other words"


@pytest.mark.parametrize("error", [
    ValueError("cannot reshape"), RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("state"), TypeError("x"),
], ids=repr)  # fmt: skip
def test_a_bug_of_ours_still_shows_its_traceback(error, monkeypatch):
    def bug(*_):
        raise error

    monkeypatch.setattr(cli, "plan", bug)
    told = outcome(Row("train", 2, ""))
    assert told.code is None and "in bug" in told.err and type(error).__name__ in told.err


@pytest.mark.parametrize("error, words", [
    (MemoryError(), "not enough memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
    (PermissionError(13, "Permission denied", "/secret"), "/secret: Permission denied"),
    (FileNotFoundError(2, "No such file or directory"), "this machine: No such file or directory"),
], ids=repr)  # fmt: skip
def test_a_fault_of_the_machine_is_one_line(error, words, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr(cli, "plan", fail)
    told = outcome(Row("train", 2, ""))
    assert (told.code, told.out) == (2, "") and told.err.count("\n") == 1 and words in told.err


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_a_plain_user_in_a_read_only_checkout(place):
    """Nothing can be written, some cannot be read: one line each, and what needs no file is done."""
    wrong = []
    with current_folder(place), nothing_to_write(place):
        for row in READ_ONLY:
            told = outcome(row)
            if what := fault(row, told, changed=False):
                wrong.append((row, what, told.err[-500:]))
    assert wrong == []


# --- Names that a terminal has no letters for -------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_the_terminal_lacks_are_no_reason_to_fail(encoding, place, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    with current_folder(place):
        assert cli.main(words_of(Row("predict ü.pt 'ключ 키.png'", 0, ""))) == 0
    out.seek(0)
    assert "\\u043a\\u043b\\u044e\\u0447 \\ud0a4.png: " in out.read()


def test_a_name_that_is_no_text_at_all(place, capsys):
    name = os.fsdecode(b"latin-\xe9.png")
    with current_folder(place):
        assert cli.main(["predict", "a.pt", name, "--json", "out.json"]) == 0
        assert json.loads((place / "out.json").read_text())["pictures"][0]["file"] == name
        (place / "out.json").unlink()


# --- A disk that is full at any write ---------------------------------------------------------------------------------

SMALL = {"epochs": "2", "num_steps": "2", "hidden_dim": "8", "num_centres": "5"}
WRITERS = {
    "train": "train @mine --checkpoint full.pt --json full.json",
    "predict": "predict a.pt mine/cat/0.png --json full.json",
    "join": "join p1.pt p2.pt --checkpoint full.pt --json full.json",
    "record": "record full --output records --json full.json",
    "bench": "bench --suite full --data-root 'data with spaces' --output records --json full.json",
    "course": "course out",
}


def read_whole(path):
    """Whatever kind of file it is: an error where it is not whole."""
    if path.suffix == ".npz":
        with numpy.load(path) as arrays:
            return {name: arrays[name] for name in arrays}
    if path.suffix == ".ipynb":
        return nbformat.read(path, as_version=4)
    return json.loads(path.read_text()) if path.suffix == ".json" else checkpoints.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_is_full_at_any_write_is_one_line(writer, place, monkeypatch, few_digits):
    """The first write of a command, the second, ...: until none is left to fail. What is there is whole, and nothing else is."""
    experiment = Experiment("a test", "digits", (0, 1), recipe="local", changes=SMALL)
    monkeypatch.setitem(EXPERIMENTS, "full", experiment)
    monkeypatch.setattr("noprop_helpers.lab.recording.load_dataset", lambda *_: few_digits)
    parts = {name: lambda *_: [benchmark_row("x", [1.0], "s")] for name in "ab"}
    monkeypatch.setitem(bench.SUITES, "full", bench.Suite("full", "cpu", parts))
    before, replace, codes = contents(place), os.replace, []
    while not codes or codes[-1] != 0:
        written = []

        def full(source, target):
            written.append(target)
            if len(written) == len(codes) + 1:
                raise OSError(28, "No space left on device")
            replace(source, target)

        with current_folder(place), monkeypatch.context() as m:
            m.setattr(os, "replace", full)
            again = " --resume" if writer in ("train", "bench") and (place / "full.pt").exists() else ""
            told = outcome(Row(WRITERS[writer] + again, 2, ""))
        codes.append(told.code)
        added = contents(place).keys() - before.keys()
        assert told.code == 0 or told.err.count("cannot write") == told.err.count("No space left on device") == 1, told.err
        assert all(read_whole(path) is not None for path in added) and not any(".tmp" in path.name for path in added)
        if writer != "record":  # it goes on with what it has kept
            for path in added:
                path.unlink()
        if writer == "course" and len(codes) == 2:  # one file is as another
            break
    for path in contents(place).keys() - before.keys():
        path.unlink()
    assert set(codes[:-1]) == {2} and len(codes) > 1 and contents(place) == before


def test_a_disk_that_fills_up_in_training_leaves_the_last_epoch(place, monkeypatch):
    """Which is whole, and resumes to the bits of an undisturbed run once there is room."""
    save, saved = checkpoints.save, []

    def full(path, content):
        saved.append(path)
        if len(saved) == 2:
            raise checkpoints.CheckpointError(f"cannot write {path}: No space left on device")
        save(path, content)

    with current_folder(place):
        with monkeypatch.context() as m:
            m.setattr(checkpoints, "save", full)
            assert outcome(Row("train @mine --checkpoint full.pt", 2, "")).code == 2
        assert len(checkpoints.load("full.pt")["history"]) == 1
        assert outcome(Row("train @mine --checkpoint full.pt --resume", 0, "")).code == 0
        state, expected = (checkpoints.load(name)["state"] for name in ("full.pt", "a.pt"))
        assert all(torch.equal(state[name], expected[name]) for name in expected)
        (place / "full.pt").unlink()
