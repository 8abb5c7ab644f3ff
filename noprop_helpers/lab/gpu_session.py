"""All that the book wants of a GPU, recorded on a machine that is lent for minutes.

::

    python -m noprop_helpers.lab.gpu_session --output DIR --data-root DIR --minutes 9

Steps come in the order of their worth. Every job of a step is a process of its own: one that fails or hangs takes nothing
with it. It is stopped when its step's time is up, and goes on where it stopped when this command is given again, with the
same ``--scratch``: finished jobs are left out. After every job, and every few seconds while one runs, ``DIR/records.zip``
is written anew: finished records, finished seeds of others, and what the jobs printed. Unpacked into an empty folder it
serves as ``--scratch`` on another machine of the same kind; checkpoints of hundreds of megabytes are not in it.
"""

import argparse
import contextlib
import io
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Callable, NamedTuple, Sequence

import torch

from .. import NoPropError, checkpoints
from ..benchmark import table
from ..checkpoints import CheckpointError, check_writable, write_bytes
from ..data import load_dataset
from . import records
from .bench import gpu_suite, run_suite
from .bench_gpu import TOY, Sizes
from .experiments import EXPERIMENTS, Experiment
from .recording import Recording, record, record_name
from .shell import Parser, in_one_line

ROOT = Path(__file__).resolve().parents[2]
PACKED = (".json", ".npz", ".partial", ".log")


class Step(NamedTuple):
    """A name, minutes that it may take, and its jobs: experiments, and what ``job_command`` and ``do`` know beside them."""

    name: str
    minutes: float
    jobs: tuple[str, ...]


_FIRST = (
    Step("check", 2, ("environment", "tests")),
    Step("bench", 5, ("bench_gpu",)),
    Step("mnist", 9, ("mnist_dt_one_hot", "mnist_backprop_one_hot", "mnist_ct_one_hot", "mnist_fm_one_hot")),
    Step("cifar10", 9, ("cifar10_dt_one_hot", "cifar10_backprop_one_hot", "cifar10_best", "cifar10_best_one_longer")),
)
# The adjoint method's solver is Python: hours, on any GPU.
_REST = tuple(
    name
    for name, experiment in EXPERIMENTS.items()
    if experiment.recipe.startswith("paper-") and experiment.recipe != "paper-adjoint" and not name.endswith("_short")
    if experiment.dataset in ("mnist", "cifar10") and not any(name in step.jobs for step in _FIRST)
)
STEPS = (*_FIRST, Step("rest", math.inf, _REST))


def main(arguments: list[str] | None = None) -> int:
    """Do the steps that time allows: -> exit code, 0 whatever became of the jobs, 2 for a fault of the arguments."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell has it ignored, and so the jobs
    return in_one_line("gpu_session", lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    options.output, options.scratch = Path(options.output).resolve(), Path(options.scratch).resolve()
    if options.job:
        return do(options)
    _check(options)
    return session(options, steps(options.toy, options.only), job_command)


# --- The session ------------------------------------------------------------------------------------------------------


def session(options: argparse.Namespace, steps: Sequence[Step], command: Callable) -> int:
    """Run the jobs that are not done, each in a process of its own, and say what there is and what is left.

    ``command(job, options)``: the words of a process's command.
    """
    end = time.monotonic() + 60 * options.minutes
    told, outcomes = _earlier(options)
    for step in steps:
        until = min(end, time.monotonic() + 60 * step.minutes)
        for job in step.jobs:
            if _done(outcomes, job) or time.monotonic() >= until:
                continue
            start = time.monotonic()
            code = run(command(job, options), options.scratch / f"{job}.log", until, lambda: pack(options))
            outcomes[job] = {"exit": code, "seconds": round(time.monotonic() - start, 1)}
            records.write_json(options.scratch / "session.json", told | {"jobs": outcomes})
            pack(options)
            print(f"{step.name}: {job} {_said(job, options, **outcomes[job])}", flush=True)
    left = [job for step in steps for job in step.jobs if not _done(outcomes, job)]
    print(f"done: {', '.join(job for job in outcomes if _done(outcomes, job)) or 'nothing'}")
    print(f"left: {', '.join(left) or 'nothing'}")
    print(f"all of it is in {options.output / 'records.zip'}")
    return 0


def steps(toy: bool, only: list[str] | None) -> list[Step]:
    """The steps to do; a rehearsal takes one job of the rest."""
    if unknown := [name for name in only or () if name not in {step.name for step in STEPS}]:
        raise NoPropError(f"there is no step {unknown[0]!r}; choose of {', '.join(step.name for step in STEPS)}")
    chosen = [step for step in STEPS if not only or step.name in only]
    return [step._replace(jobs=step.jobs[:1]) if toy and step.name == "rest" else step for step in chosen]


def run(
    words: list[str], log: Path, until: float, meanwhile: Callable = lambda: None, every: float = 10.0, grace: float = 15.0
) -> int | None:
    """Run a command until it ends, or until a time of ``time.monotonic``: -> its exit code, None if it was stopped.

    Stopping it is an interruption from the keyboard first, and ``grace`` seconds later the end. What it prints goes to the
    end of ``log``; ``meanwhile()`` is called every so many seconds.
    """
    # Else Python keeps what is printed until its end, and writes it after the error that ended it.
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    with open(log, "ab") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=env)
        try:
            while time.monotonic() < until:
                try:
                    return process.wait(max(0.0, min(every, until - time.monotonic())))
                except subprocess.TimeoutExpired:
                    meanwhile()
            return None
        finally:
            if process.poll() is None:
                process.terminate() if os.name == "nt" else process.send_signal(signal.SIGINT)  # which Windows cannot send
                try:
                    process.wait(grace)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def pack(options: argparse.Namespace) -> None:
    """Write all small files of the scratch folder into one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(options.scratch.iterdir()):
            if path.suffix in PACKED and not path.name.startswith("."):  # hidden ones are being written
                with contextlib.suppress(FileNotFoundError):  # finished seeds have just become a record
                    archive.writestr(path.name, path.read_bytes())
    write_bytes(options.output / "records.zip", buffer.getvalue())


def _check(options: argparse.Namespace) -> None:
    """Faults that would cost the whole session are told before it begins."""
    if not options.toy and not torch.cuda.is_available():
        raise NoPropError("this PyTorch sees no CUDA GPU; --toy rehearses on any machine")
    if not options.toy and (options.commit or records.git_commit()) is None:
        raise NoPropError("this is no git checkout: say with --commit HASH of which commit the code is")
    for folder in (options.output, options.scratch):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NoPropError(f"cannot write to {folder}: {error.strerror}") from None
    check_writable(options.output / "records.zip")


def _earlier(options: argparse.Namespace) -> tuple[dict, dict]:
    """What this session is of, and the outcomes of the jobs of earlier ones, which must be of the same."""
    told = {"commit": options.commit or records.git_commit(), "source": records.source_checksum(), "toy": options.toy}
    file = options.scratch / "session.json"
    if not file.exists():
        return told, {}
    earlier = records.read_json(file)
    try:
        checkpoints.check_same(earlier if isinstance(earlier, dict) else {}, told, file)
        checkpoints.expect(earlier, {"jobs": dict}, file)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; name another --scratch, or empty this one") from None
    return told, earlier["jobs"]


def _done(outcomes: dict, job: str) -> bool:
    return job in outcomes and outcomes[job]["exit"] == 0


def _said(job: str, options: argparse.Namespace, exit: int | None, seconds: float) -> str:
    """What became of a job, in one line; of a failure, the last one that it printed."""
    if exit == 0:
        return f"done in {seconds:.0f} s"
    if exit is None:
        return f"stopped after {seconds:.0f} s{_seeds(job, options)}; it goes on next time"
    printed = (options.scratch / f"{job}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"failed in {seconds:.0f} s, with code {exit}: {printed[-1] if printed else 'it said nothing'}"


def _seeds(job: str, options: argparse.Namespace) -> str:
    """How many seeds of an unfinished record are kept."""
    if job not in EXPERIMENTS:
        return ""
    partial = options.scratch / f"{record_name(job, dataset_of(job, options))}.partial"
    try:
        done = len(checkpoints.load(partial)["runs"])
    except CheckpointError:  # it came to none, or the job will say what is wrong with it
        done = 0
    return f" with {done} of {len(experiments(options.toy)[job].seeds)} seeds"


# --- A job, in a process of its own -----------------------------------------------------------------------------------


def job_command(job: str, options: argparse.Namespace) -> list[str]:
    """The command of a job's process."""
    if job == "tests":
        quick = ["-k", "warmed_up"] if options.toy else []
        return [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests/test_graphs.py", *quick]
    words = [sys.executable, "-m", "noprop_helpers.lab.gpu_session", "--job", job]
    words += ["--output", str(options.output), "--scratch", str(options.scratch)]
    words += ["--data-root", str(Path(options.data_root).resolve())] if options.data_root else []
    words += ["--commit", options.commit] if options.commit else []
    return words + (["--toy"] if options.toy else [])


def do(options: argparse.Namespace) -> int:
    """Do one job here: -> exit code, 1 where a row of a benchmark failed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recording, job = Recording(options.scratch, device, commit=options.commit), options.job
    if job in ("environment", "bench_gpu"):
        dataset = load_dataset("digits" if options.toy else "mnist", options.data_root)
        suite, part = gpu_suite(TOY if options.toy else Sizes()), "environment" if job == "environment" else None
        rows = run_suite(suite, dataset, recording, only=part, resume=True)
        print(table(rows))
        return int(any("error" in row for row in rows))
    record(job, recording, dataset_of(job, options), options.data_root, experiments(options.toy))
    return 0


def dataset_of(job: str, options: argparse.Namespace) -> str | None:
    """The data set in place of the experiment's own: a folder with a copy of CIFAR-10, where the original is not at hand."""
    root = Path(options.data_root or os.environ.get("NOPROP_DATA") or "data")
    if job not in EXPERIMENTS:
        raise NoPropError(f"unknown experiment {job!r}; choose one of {', '.join(EXPERIMENTS)}")
    missing = EXPERIMENTS[job].dataset == "cifar10" and not (root / "cifar-10-batches-py").is_dir()
    return "folder:cifar10-jpeg" if missing and not options.toy and (root / "cifar10-jpeg").is_dir() else None


def experiments(toy: bool) -> dict[str, Experiment]:
    """The book's experiments; for a rehearsal one seed, one epoch, two layers, on the bundled digits."""
    if not toy:
        return EXPERIMENTS
    small = {"epochs": "1", "num_steps": "2"}
    return {
        name: one._replace(
            dataset="digits", seeds=(0,), changes=one.changes | small | ({"width": "8"} if one.recipe == "residual" else {})
        )
        for name, one in EXPERIMENTS.items()
    }  # fmt: skip


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not minutes > 0:
        raise argparse.ArgumentTypeError(f"expected minutes above 0, got {text!r}")
    return minutes


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m noprop_helpers.lab.gpu_session", description=__doc__.split("\n")[0])
    parser.add_argument("--output", metavar="DIR", required=True, help="where records.zip goes")
    parser.add_argument(
        "--scratch", metavar="DIR", default=Path(tempfile.gettempdir()) / "noprop_gpu_session",
        help="where the jobs work, and find what an earlier session left (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--data-root", metavar="DIR", help="where the data are (else NOPROP_DATA, else ./data)")
    parser.add_argument("--commit", metavar="HASH", help="of this code, where it is no git checkout")
    parser.add_argument("--minutes", type=_minutes, default=math.inf, metavar="N", help="stop after so many (default: never)")
    parser.add_argument("--only", nargs="+", metavar="STEP", help=", ".join(step.name for step in STEPS))
    parser.add_argument("--toy", action="store_true", help="rehearse, in tiny sizes, on any machine")
    parser.add_argument("--job", help=argparse.SUPPRESS)  # how a session starts its processes
    return parser


if __name__ == "__main__":
    sys.exit(main())
