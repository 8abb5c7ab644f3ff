"""``claims()``: an error where the book is checked, a line where it is read."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from noprop_helpers.lab.claims import claims


def test_pytest_checks_the_book():
    assert os.environ["NOPROP_CLAIMS"]


@pytest.mark.skipif(not shutil.which("make"), reason="this system has no make")
def test_make_checks_the_book_for_whatever_it_starts(monkeypatch):
    monkeypatch.delenv("NOPROP_CLAIMS")
    rule = ["--eval", "told: ; @echo claims: $$NOPROP_CLAIMS", "told"]
    told = subprocess.run(["make", *rule], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert "claims: 1\n" in told.stdout


def test_a_claim_that_fails_fails_the_check(capsys):
    with pytest.raises(AssertionError, match="of ten"), claims():
        assert 9 == 10, "of ten"
    with pytest.raises(IndexError), claims():
        [][2]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("mode", [None, ""])
def test_a_reader_gets_one_line(mode, monkeypatch, capsys):
    monkeypatch.delenv("NOPROP_CLAIMS")
    if mode is not None:
        monkeypatch.setenv("NOPROP_CLAIMS", mode)
    with claims():
        assert 9 == 10
    with claims():
        [][2]
    line = "With these settings the text above no longer describes the numbers.\n"
    assert capsys.readouterr().out == 2 * line


def test_a_reader_can_still_interrupt(monkeypatch):
    monkeypatch.delenv("NOPROP_CLAIMS")
    with pytest.raises(KeyboardInterrupt), claims():
        raise KeyboardInterrupt


def test_a_claim_that_holds_says_nothing(monkeypatch, capsys):
    for _ in range(2):
        with claims():
            assert 1 + 1 == 2
        monkeypatch.delenv("NOPROP_CLAIMS", raising=False)
    assert capsys.readouterr().out == ""
