"""The hostile table: every row has the outcome that it must have, and a bug of ours is not mistaken for one of them."""

import pytest
from hostile_cli import ROWS, Outcome, Row, fault, outcome, run_all, write_place

from noprop_helpers import __main__ as cli


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a place with spaces")
    write_place(folder)
    return folder


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
