"""A record run again agrees or not, within its own interval; and which records today's code would not make."""

import json
import subprocess

import pytest
import torch
from conftest import some_of

from noprop_helpers import NoPropError
from noprop_helpers import __main__ as cli
from noprop_helpers.lab import recheck, recording, records
from noprop_helpers.lab.experiments import EXPERIMENTS, Experiment
from noprop_helpers.lab.recheck import CHECKS, PART, SHARE, Verdict, changed_since, code_at, compare, meaning
from noprop_helpers.lab.recording import STUDIES, Recording, Study, record
from noprop_helpers.lab.schema import problems


def summary(values):
    return {"summary": records.summarize([{"test_accuracy": value, "loss": 10 * value, "seconds": 5 * value} for value in values])}


def test_a_mean_may_move_within_the_records_own_interval():
    old = summary([0.90, 0.92, 0.94])  # 0.92 +- 0.0497
    for shift, passes in ((0.049, True), (-0.049, True), (0.051, False), (-0.051, False)):
        verdicts = {verdict.name: verdict for verdict in compare(old, summary([v + shift for v in (0.90, 0.92, 0.94)]))}
        assert verdicts.keys() == {"test_accuracy", "loss"}  # a time is the machine's
        assert verdicts["test_accuracy"].passed is passes
        assert ("agrees" if passes else "DIFFERS") in str(verdicts["test_accuracy"])


def test_one_seed_has_no_interval_but_a_stated_tolerance():
    for shift, passes in ((0.009, True), (0.011, False)):
        (accuracy, loss) = compare(summary([0.5]), summary([0.5 + shift]))
        assert accuracy.passed is passes and accuracy.allowed == SHARE
        assert loss.allowed == PART * 5.0


def test_seeds_that_all_agree_allow_nothing_else():
    assert Verdict("a", 0.5, 0.5, 0.0).passed and not Verdict("a", 0.5, 0.5001, 0.0).passed


def test_other_measurements_are_no_agreement():
    with pytest.raises(NoPropError, match="other measurements than the experiment makes now: loss"):
        compare(summary([0.5]), {"summary": records.summarize([{"test_accuracy": 0.5, "seconds": 1.0}])})


@pytest.fixture
def tiny(monkeypatch, digits, tmp_path):
    """An experiment that takes no time and answers 0.5 plus a drift; its record lies in the book's folder."""
    drift = [0.0]

    def one(experiment, dataset, seed, recording, checkpoint):
        return {"test_accuracy": 0.5 + seed / 100 + drift[0]}, {"walk": torch.arange(len(dataset.test_labels))}

    monkeypatch.setattr(recording, "load_dataset", lambda name, root=None: some_of(digits, 20, 10))
    monkeypatch.setattr(records, "git_commit", lambda: "0123456789ab")
    monkeypatch.setitem(STUDIES, "tiny", Study(one, lambda *_: {"settings": {"learning_rate": 1e-3}}))
    monkeypatch.setitem(EXPERIMENTS, "tiny", Experiment("a test", "digits", (0, 1, 2), "tiny"))
    folder = tmp_path / "book"
    folder.mkdir()
    monkeypatch.setattr(records, "FOLDER", folder)
    monkeypatch.setattr(recheck.recheck, "__defaults__", (None, None, EXPERIMENTS, folder))
    record("tiny", Recording(folder))
    return drift


@pytest.mark.parametrize("drift, code", [(0.0, 0), (0.02, 0), (0.03, 1)])  # the interval is 0.0248
def test_one_command_runs_an_experiment_again_and_says_whether_it_holds(tiny, tmp_path, capsys, drift, code):
    before = (records.FOLDER / "tiny.json").read_bytes()
    tiny[0] = drift
    assert cli.main(["record", "tiny", "--check", "--json", str(tmp_path / "out.json")]) == code
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"tiny: {1 - code} of 1 numbers agree with the record, {code} do not"
    assert said[0].startswith("DIFFERS test_accuracy" if code else "agrees  test_accuracy")
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept["numbers"][0]["passed"] is (code == 0) and kept["checked"] == "tiny" and problems(kept) == []
    assert kept["command"].startswith("python -m noprop_helpers record tiny --device cpu") and kept["command"].endswith(" --check")
    assert (records.FOLDER / "tiny.json").read_bytes() == before


def test_a_record_of_fewer_seeds_is_checked_with_as_many(tiny, tmp_path, capsys):
    record("tiny", Recording(records.FOLDER, seeds=2, fresh=True))  # seeds 0 and 1 agree with themselves, three would differ by 0.005
    assert cli.main(["record", "tiny", "--check", "--json", str(tmp_path / "out.json")]) == 0
    assert "test_accuracy: 0.505, recorded 0.505" in capsys.readouterr().out
    command = json.loads((tmp_path / "out.json").read_text())["command"]
    assert "--seeds" not in command and cli._parser().parse_args(command.split()[3:]).check


def test_a_check_that_is_kept_says_what_it_found_and_nothing_else(tiny, tmp_path):
    kept = recheck.recheck("tiny", Recording(tmp_path)).as_data()
    assert problems(kept) == [] and {"dataset", "summary", "runs"} & kept.keys() == set()
    (number,) = kept["numbers"]
    for change in ({"passed": False}, {"measured": 0.9}, {"recorded": 0.9}, {"allowed": -1.0}, {"measured": float("nan")}, {"name": "<b>"}):
        assert problems(kept | {"numbers": [number | change]}), change
    assert problems(kept | {"numbers": []}) and problems(kept | {"command": "python -m noprop_helpers record tiny --threads 1"})
    assert problems({key: value for key, value in kept.items() if key != "environment"})


@pytest.mark.parametrize("path", sorted(CHECKS.glob("*")), ids=lambda path: path.stem)
def test_committed_checks_are_of_todays_records(path):
    """A record that is made anew takes its check with it: what was seen to agree was another."""
    kept, old = records.read_json(path), records.read_record(path.stem)
    assert problems(kept) == [] and path.suffix == ".json" and kept["checked"] == old["experiment"]
    assert {one["name"]: one["recorded"] for one in kept["numbers"]} == {v.name: v.recorded for v in compare(old, old)}
    allowed = {verdict.name: verdict.allowed for verdict in compare(old, old)}
    assert {one["name"]: one["allowed"] for one in kept["numbers"]} == allowed
    assert kept["date"] >= old["date"] and cli._parser().parse_args(kept["command"].split()[3:]).check


def test_what_cannot_be_checked_is_one_line(tiny, tmp_path, capsys):
    with pytest.raises(NoPropError, match="would replace the one in"):
        recheck.recheck("tiny", Recording(records.FOLDER))
    assert cli.main(["record", "mnist_shared", "--check"]) == 2
    assert "no record" in capsys.readouterr().err
    assert cli.main(["record", "tiny", "--check", "--seeds", "1"]) == 2
    assert "leave --seeds out" in capsys.readouterr().err
    (records.FOLDER / "tiny.json").write_text((records.FOLDER / "tiny.json").read_text().replace('"date"', '"day"'))
    assert cli.main(["record", "tiny", "--check"]) == 2
    assert "date is missing" in capsys.readouterr().err


# --- Code of then and of today ---


def test_what_code_means_is_not_its_comments_docstrings_or_layout():
    assert meaning('"""One."""\ndef f(x):\n    """Two."""\n    return (x  # why\n    )') == meaning("def f(x):\n    return x")
    assert meaning("def f(x): return x") != meaning("def f(x): return x + 1")


def test_a_commit_that_is_not_there_is_not_known():
    assert code_at("0" * 12) is None and changed_since({"git_commit": "0" * 12, "run": {"study": "run"}}) is None


def test_every_study_has_its_modules():
    for study in {experiment.study for experiment in EXPERIMENTS.values()}:
        modules = recheck.modules_of({"run": {"study": study}})
        assert study == "run" or len(modules) > len(recheck.MATHEMATICS), f"{study}: which modules of the lab is it made of?"
        for module in modules:
            assert (recheck.PACKAGE / f"{module}.py").is_file(), module


@pytest.mark.slow
def test_records_of_older_code_are_listed(capsys):
    """Of every record, the modules that compute otherwise today. None is an error; that one cannot tell is."""
    shallow = subprocess.run(["git", "-C", str(recheck.PACKAGE), "rev-parse", "--is-shallow-repository"], capture_output=True, text=True)
    if shallow.stdout.strip() != "false":
        pytest.skip("this checkout has no history: git fetch --unshallow")
    experiments = {path.stem: records.read_json(path) for path in sorted(records.FOLDER.glob("*.json"))}
    changed = {name: changed_since(record) for name, record in experiments.items() if "run" in record}
    assert len(changed) > 25 and None not in changed.values(), [name for name, modules in changed.items() if modules is None]
    with capsys.disabled():
        old = {name: modules for name, modules in changed.items() if modules}
        print(f"\n{len(old)} of {len(changed)} records are of older code: python -m noprop_helpers record NAME --check runs one again")
        for name, modules in old.items():
            print(f"  {name}: {', '.join(modules)}")
