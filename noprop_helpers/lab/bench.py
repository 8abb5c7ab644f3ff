"""Benchmark suites: parts that return rows, each kept in the record as soon as it is measured."""

import functools
import json
import traceback
from pathlib import Path
from typing import Callable, NamedTuple

from .. import NoPropError
from ..checkpoints import CheckpointError, check_same, check_writable
from ..data import Dataset
from ..settings import Settings
from . import records
from .bench_ceiling import CEILING_PARTS
from .bench_cpu import CPU_PARTS
from .bench_gpu import Sizes, gpu_parts, paper_medians
from .bench_parallel import PARALLEL_PARTS
from .bench_peers import PEER_PARTS
from .predict import PREDICTED_PARTS
from .recording import Recording

Rows = list[dict]
Part = Callable[[Dataset, Recording], Rows]


class Suite(NamedTuple):
    """A suite's name, the device that it wants, and its parts, in order: name -> ``part(dataset, recording)`` -> rows.

    ``conclude(rows)`` gives the rows that follow from those of several parts; ``precision`` is the suite's own, where the
    recording says none. A row is as ``benchmark.row`` makes it, and says in the record which ``part`` it is of.
    """

    name: str
    device: str
    parts: dict[str, Part]
    conclude: Callable[[Rows], Rows] = lambda rows: []
    precision: str = "float32"


def gpu_suite(sizes: Sizes = Sizes()) -> Suite:
    """The suite gpu, in these sizes."""
    return Suite("gpu", "cuda", gpu_parts(sizes), functools.partial(paper_medians, sizes=sizes), precision="auto")


SUITES = {
    "cpu": Suite("cpu", "cpu", CPU_PARTS),
    "gpu": gpu_suite(),
    "parallel": Suite("parallel", "cpu", PARALLEL_PARTS),
    "ceiling": Suite("ceiling", "cpu", CEILING_PARTS),
    "peers": Suite("peers", "cpu", PEER_PARTS),
    # Counted on the CPU, in the precision of the GPU that it is about.
    "predicted": Suite("predicted", "cpu", PREDICTED_PARTS, precision="bfloat16"),
}


def bench(
    suite: str, dataset: Dataset, recording: Recording, only: str | None = None, resume: bool = False, kept: bool = True
) -> Rows:
    """Run the suite of this name: see ``run_suite``."""
    return run_suite(SUITES[suite], dataset, recording, only, resume, kept)


def run_suite(
    suite: Suite, dataset: Dataset, recording: Recording, only: str | None = None, resume: bool = False, kept: bool = True
) -> Rows:
    """Run a suite's parts in their order: -> all rows there are.

    With ``kept`` the record ``bench_SUITE.json`` is written after every part. With ``resume`` the parts that it holds stay
    as they are, but for those that failed; ``only`` measures one part, anew, and leaves the others' rows. Both raise
    CheckpointError where the record is of another code, machine or data, unless ``recording.fresh`` says to forget it.
    A part that fails leaves a row that says why, and the next goes on.
    """
    if only is not None and only not in suite.parts:
        raise NoPropError(f"the suite {suite.name} has no part {only!r}; choose one of {', '.join(suite.parts)}")
    target = Path(recording.folder) / f"bench_{suite.name}.json"
    if kept:
        check_writable(target)
    settings = Settings(precision=recording.precision or suite.precision).on(recording.device)
    recording = recording._replace(precision=settings.precision)
    origin = {"benchmark": suite.name, "command": recording.command("bench", "--suite", suite.name)}
    origin |= recording.origin(dataset)
    keeps = kept and (resume or only) and not recording.fresh
    rows = _kept_rows(target, origin, suite) if keeps else []
    done = {row["part"] for row in rows if "error" not in row}
    left = [only] if only else [name for name in suite.parts if name not in done]
    for name in recording.progress(left, f"suite {suite.name}"):
        measured = _measured(suite, name, dataset, recording)
        if only and keeps:  # again: another process may have measured another part meanwhile
            rows = _kept_rows(target, origin, suite)
        rows = [row for row in rows if row["part"] != name] + measured
        rows.sort(key=lambda row: list(suite.parts).index(row["part"]))
        if kept:
            records.write_json(target, origin | {"date": records.today(), "rows": rows + suite.conclude(rows)})
    return rows + suite.conclude(rows)


def failed_row(name: str, error: Exception) -> dict:
    """A row that says that something could not be measured, and in one line why."""
    empty = dict.fromkeys(("value", "unit", "baseline", "ratio", "ratio_min", "ratio_max"))
    return {"name": name, **empty, "error": " ".join(f"{type(error).__name__}: {error}".split())}


def _measured(suite: Suite, name: str, dataset: Dataset, recording: Recording) -> Rows:
    """A part's rows, or the one that says why there are none."""
    try:
        rows = suite.parts[name](dataset, recording)
        json.dumps(rows, allow_nan=False)  # a number that JSON has no word for is a failure of this part alone
    except Exception as error:  # whatever it is: the machine may be lent for minutes, and the other parts matter
        if not isinstance(error, NoPropError):  # which says in its line all that there is to say
            traceback.print_exc()
        rows = [failed_row(name, error)]
    return [{"part": name} | row for row in rows]


def _kept_rows(target: Path, origin: dict, suite: Suite) -> Rows:
    """The measured rows of an earlier run of the same suite, if there are any, and they are of the same origin."""
    if not target.exists():
        return []
    record = records.read_json(target)
    try:
        check_same(record, origin, target)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; --fresh measures all parts anew") from None
    return [row for row in record["rows"] if row.get("part") in suite.parts]
