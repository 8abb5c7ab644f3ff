"""The session on a GPU, rehearsed: all its steps at toy size, and what becomes of jobs that fail or take too long."""

import argparse
import json
import math
import sys
import time
import zipfile

import pytest
import torch
from conftest import EVERYTHING

from noprop_helpers import NoPropError, checkpoints
from noprop_helpers.checkpoints import CheckpointError
from noprop_helpers.lab import bench, gpu_session
from noprop_helpers.lab.experiments import EXPERIMENTS
from noprop_helpers.lab.gpu_session import STEPS, Step, dataset_of, experiments, job_command, main, pack, run, session, steps

JOBS = [job for step in STEPS for job in step.jobs]
OTHERS = JOBS[3:10] if EVERYTHING else ["mnist_backprop_one_hot", "mnist_ct_one_hot", "cifar10_dt_one_hot", "cifar10_best"]


def options_in(folder, **changes):
    """Options as the command line gives them, for folders that are there."""
    given = {"output": folder / "out", "scratch": folder / "scratch", "data_root": None, "commit": "abc", "minutes": math.inf}
    given |= {"only": None, "toy": True, "job": None} | changes
    for name in ("output", "scratch"):
        given[name].mkdir(exist_ok=True)
    return argparse.Namespace(**given)


def packed(folder):
    """The archive's files: name -> bytes."""
    with zipfile.ZipFile(folder / "out" / "records.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def words(tmp_path, *more):
    return ["--toy", "--commit", "abc", "--output", str(tmp_path / "out"), "--scratch", str(tmp_path / "scratch"), *more]


# --- The rehearsal ---


@pytest.mark.slow
def test_a_rehearsal_records_everything_and_nothing_twice(tmp_path, capsys, monkeypatch):
    """In real processes; of the experiments of the other steps one of each kind in this one, to save the time."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    only = ["--only", "check", "bench", "rest"]
    assert main(words(tmp_path, *only)) == 0
    said = capsys.readouterr().out.splitlines()
    wanted = ["environment", "tests", "bench_gpu", "mnist_dt_learned"]
    assert [line.split()[1:3] for line in said[:4]] == [[job, "done"] for job in wanted], said
    assert said[4:6] == [f"done: {', '.join(wanted)}", "left: nothing"]
    for job in OTHERS:
        assert main(words(tmp_path, "--job", job)) == 0
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "scratch").iterdir()}
    assert main(words(tmp_path, *only)) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "scratch").iterdir()} == before
    pack(options_in(tmp_path))
    check_rehearsal(packed(tmp_path), wanted)


def check_rehearsal(files, in_processes):
    assert b"1 passed" in files["tests.log"] and not any(name.endswith(".checkpoint") for name in files)
    assert [code["exit"] for code in json.loads(files["session.json"])["jobs"].values()] == [0] * len(in_processes)
    bench = json.loads(files["bench_gpu.json"])
    assert not any("error" in row for row in bench["rows"])
    assert {"environment", "step_loop", "inference", "time_dt_0", "medians"} <= {row["part"] for row in bench["rows"]}
    for job in [*OTHERS, "mnist_dt_learned"]:
        record = json.loads(files[f"{job}.json"])
        assert record["experiment"] == job and record["git_commit"] == "abc" and len(record["runs"]) == 1
        assert record["run"]["settings"]["epochs"] == 1 and record["dataset"]["name"] == "digits"
        assert 0 <= record["summary"]["test_accuracy"]["mean"] <= 1 and f"{job}.npz" in files


def test_steps_come_in_the_order_of_their_worth():
    assert [(step.name, step.minutes) for step in STEPS] == [
        ("check", 2), ("bench", 5), ("mnist", 9), ("cifar10", 9), ("rest", math.inf),
    ]  # fmt: skip
    assert JOBS[:3] == ["environment", "tests", "bench_gpu"] and len(set(JOBS)) == len(JOBS)
    assert {*OTHERS} <= {*JOBS}
    assert JOBS[3:7] == [f"mnist_{v}_one_hot" for v in ("dt", "backprop", "ct", "fm")]
    assert JOBS[7:11] == ["cifar10_dt_one_hot", "cifar10_backprop_one_hot", "cifar10_best", "cifar10_best_one_longer"]
    assert set(JOBS[3:]) <= EXPERIMENTS.keys() and not any("adjoint" in job or "short" in job for job in JOBS)
    assert [step.name for step in steps(False, ["mnist", "check"])] == ["check", "mnist"]
    with pytest.raises(NoPropError, match="there is no step 'all'; choose of check, bench, mnist, cifar10, rest"):
        steps(False, ["all"])


def test_a_rehearsal_differs_in_sizes_alone():
    for name, one in experiments(True).items():
        full = EXPERIMENTS[name]
        for field in ("recipe", "study", "inference_runs", "steps"):
            assert getattr(one, field) == getattr(full, field)
        assert one.changes.items() >= (full.changes | {"epochs": "1", "num_steps": "2"}).items()
        assert one.seeds == (0,) and one.dataset == "digits"
    assert experiments(False) is EXPERIMENTS


# --- What may go wrong ---


def in_two_jobs(tmp_path, code, minutes=1.0):
    """A session of two jobs, of which the first one is ``code``, and the second one prints."""
    programs = {"one": code, "two": "print('done well')"}
    two = [Step("only", minutes, ("one", "two"))]
    return session(options_in(tmp_path), two, lambda job, options: [sys.executable, "-c", programs[job]])


def test_a_job_that_fails_takes_nothing_with_it(tmp_path, capsys):
    assert in_two_jobs(tmp_path, "print('begun'); raise SystemExit('no such thing')") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("only: one failed in") and said[0].endswith("with code 1: no such thing")
    assert said[1].startswith("only: two done in") and said[2:4] == ["done: two", "left: one"]
    files = packed(tmp_path)
    assert files["one.log"] == b"begun\nno such thing\n" and json.loads(files["session.json"])["jobs"]["one"]["exit"] == 1
    assert in_two_jobs(tmp_path, "print('better')") == 0  # it is tried again; what is done is not
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("only: one done") and said[1:3] == ["done: one, two", "left: nothing"]
    assert packed(tmp_path)["one.log"].endswith(b"better\n") and packed(tmp_path)["two.log"] == b"done well\n"


@pytest.mark.slow
def test_a_job_is_stopped_when_the_time_is_up_and_goes_on_next_time(tmp_path, capsys):
    code = "import time; print('begun', flush=True); time.sleep(60)"
    start = time.monotonic()
    assert in_two_jobs(tmp_path, code, minutes=2 / 60) == 0 and time.monotonic() - start < 30
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("only: one stopped after") and said[0].endswith(" s; it goes on next time")
    assert said[1:3] == ["done: nothing", "left: one, two"]
    assert b"begun" in packed(tmp_path)["one.log"] and b"KeyboardInterrupt" in packed(tmp_path)["one.log"]


@pytest.mark.slow
def test_a_folder_of_another_session_is_refused(tmp_path, capsys):
    """Its jobs are done, but of other code."""
    in_two_jobs(tmp_path, "pass")
    before = {path.name: path.read_bytes() for path in (tmp_path / "scratch").iterdir()}
    for changed in ({"commit": "def"}, {"toy": False}):
        with pytest.raises(CheckpointError, match="session.json has .*; name another --scratch, or empty this one"):
            session(options_in(tmp_path, **changed), [], job_command)
    told = json.loads(before["session.json"])
    (tmp_path / "scratch" / "session.json").write_text(json.dumps(told | {"source": "sha256:0"}))
    assert main(words(tmp_path, "--only", "mnist")) == 2 and "has source sha256:0" in capsys.readouterr().err
    (tmp_path / "scratch" / "session.json").write_bytes(before["session.json"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "scratch").iterdir()} == before


def test_kept_seeds_are_counted(tmp_path):
    options = options_in(tmp_path, toy=False)
    assert gpu_session._seeds("mnist_dt_one_hot", options) == " with 0 of 3 seeds"
    checkpoints.save(tmp_path / "scratch" / "mnist_dt_one_hot.partial", {"runs": [1, 2]})
    assert gpu_session._seeds("mnist_dt_one_hot", options) == " with 2 of 3 seeds"
    assert gpu_session._seeds("bench_gpu", options) == ""


@pytest.mark.slow
def test_one_that_does_not_listen_is_ended(tmp_path):
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    log, ticks = tmp_path / "log", []

    def tick():
        ticks.append(log.read_text())

    start = time.monotonic()
    assert run([sys.executable, "-c", code], log, start + 3, tick, every=0.1, grace=0.2) is None
    assert time.monotonic() - start < 20 and len(ticks) > 2 and ticks[-1] == "deaf\n"


@pytest.mark.slow
def test_an_interruption_reaches_the_job(tmp_path):
    """As where a limit of the shell interrupts the session: the job ends in order too."""
    code = "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('ended in order')"

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([sys.executable, "-c", code], tmp_path / "log", math.inf, interrupt, every=2.0)
    assert (tmp_path / "log").read_text() == "ended in order\n"


def test_the_archive_holds_what_is_small_and_whole(tmp_path):
    options = options_in(tmp_path)
    for name in ("a.json", "a.npz", "b.partial", "b.log", "b.0.checkpoint", ".c.json.tmp", ".c.json"):
        (tmp_path / "scratch" / name).write_text(name)
    pack(options)
    assert packed(tmp_path) == {name: name.encode() for name in ("a.json", "a.npz", "b.log", "b.partial")}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["records.zip"]


def test_a_machine_without_a_gpu_or_a_commit_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    real = [word for word in words(tmp_path) if word != "--toy"]
    assert main(real) == 2 and "sees no CUDA GPU; --toy rehearses on any machine" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_session.records, "git_commit", lambda: None)
    assert main(real[2:]) == 2 and "say with --commit HASH" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- The jobs ---


def test_cifar10_may_be_a_copy(tmp_path, monkeypatch):
    monkeypatch.delenv("NOPROP_DATA", raising=False)
    options = options_in(tmp_path, toy=False, data_root=str(tmp_path))
    assert dataset_of("cifar10_best", options) is None
    (tmp_path / "cifar10-jpeg").mkdir()
    assert dataset_of("cifar10_best", options) == "folder:cifar10-jpeg" and dataset_of("mnist_dt_one_hot", options) is None
    monkeypatch.setenv("NOPROP_DATA", str(tmp_path))
    assert dataset_of("cifar10_best", options_in(tmp_path, toy=False)) == "folder:cifar10-jpeg"
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert dataset_of("cifar10_best", options) is None


def test_the_commands_of_the_jobs(tmp_path):
    options = options_in(tmp_path, toy=False, data_root="data")
    tests = job_command("tests", options)
    assert tests[1:3] == ["-m", "pytest"] and "tests/test_graphs.py" in tests and "-k" not in tests
    experiment = job_command("mnist_dt_one_hot", options)
    parsed = gpu_session._parser().parse_args(experiment[3:])
    assert experiment[:3] == [sys.executable, "-m", "noprop_helpers.lab.gpu_session"] and parsed.job == "mnist_dt_one_hot"
    assert parsed.commit == "abc" and not parsed.toy and parsed.scratch == str(options.scratch)
    assert parsed.data_root.startswith("/")  # a job runs in another folder


def test_a_benchmark_with_a_failed_row_is_not_done(tmp_path, monkeypatch, capsys):
    def broken(dataset, recording):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu_session, "gpu_suite", lambda sizes: bench.Suite("gpu", "cuda", {"environment": broken}))
    for job in ("environment", "bench_gpu"):
        assert gpu_session.do(options_in(tmp_path, job=job)) == 1
        assert "out of memory" in capsys.readouterr().out


def test_records_of_another_machine_are_not_touched(tmp_path, monkeypatch, capsys):
    """Its finished seeds are refused in one line, and stay."""
    partial = tmp_path / "scratch" / "mnist_dt_one_hot.partial"
    options_in(tmp_path)  # makes the folders
    checkpoints.save(partial, {"origin": {"experiment": "mnist_dt_one_hot"}, "runs": [{"seed": 0}], "said": {}})
    before = partial.read_bytes()
    assert main(words(tmp_path, "--job", "mnist_dt_one_hot")) == 2
    assert "finished seeds are kept there" in capsys.readouterr().err and partial.read_bytes() == before
