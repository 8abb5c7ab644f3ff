"""The record of the mutation run: high enough, and every change that no test noticed has its reason there."""

import json
import warnings

import mutation
import pytest

RECORD = json.loads(mutation.RECORD.read_text())["modules"]


def missing(module, result):
    """What a module's result lacks, in words."""
    survivors = result["survivors"]
    found = [] if result["noticed"] + len(survivors) == result["tried"] > 0 else ["the numbers do not add up"]
    if 100 * result["noticed"] < mutation.FLOORS[module] * result["tried"]:
        found.append(f"{result['noticed']} of {result['tried']} noticed, expected {mutation.FLOORS[module]} %")
    return found + [f"no reason for {one['from']} -> {one['to']}" for one in survivors if len(one["reason"]) < 10]


@pytest.mark.parametrize("module", mutation.FLOORS)
def test_the_record_of_a_module(module):
    assert missing(module, RECORD[module]) == []
    if RECORD[module]["tried"] < RECORD[module]["mutants"]:
        tried = f"{RECORD[module]['tried']} of {RECORD[module]['mutants']}"
        warnings.warn(f"of {module}.py's mutants {tried} were tried; the nightly run goes on", stacklevel=1)
    if RECORD[module]["source"] != mutation.source_of(module):
        warnings.warn(f"tests/mutation.json is of an older {module}.py; the nightly run knows the new one", stacklevel=1)


def test_a_low_score_and_a_survivor_without_a_reason_are_found():
    survivors = [{"function": "f", "from": "a + b", "to": "a - b", "reason": ""}]
    assert missing("losses", {"tried": 10, "noticed": 9, "survivors": survivors}) == [
        "9 of 10 noticed, expected 95 %", "no reason for a + b -> a - b",
    ]  # fmt: skip
    assert missing("losses", {"tried": 10, "noticed": 10, "survivors": survivors})[0] == "the numbers do not add up"
    assert missing("losses", {"tried": 0, "noticed": 0, "survivors": []}) == ["the numbers do not add up"]


def test_mutants_of_a_module_that_there_is_not(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["mutation.py", "run", "looses"])
    with pytest.raises(SystemExit):
        mutation.main()
    assert "there are no mutants of looses; choose of schedules, diffusion" in capsys.readouterr().err
