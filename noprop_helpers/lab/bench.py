"""Benchmark suites: parts that return rows, each kept in the record as soon as it is measured."""

import traceback
from pathlib import Path
from typing import Callable, NamedTuple

from .. import NoPropError
from ..checkpoints import CheckpointError, check_same, check_writable
from ..data import Dataset
from . import records
from .bench_cpu import CPU_PARTS
from .bench_gpu import GPU_PARTS, failed_row
from .bench_parallel import PARALLEL_PARTS
from .recording import Recording

Rows = list[dict]
Part = Callable[[Dataset, Recording], Rows]


class Suite(NamedTuple):
    """The device that a suite wants, and its parts: name -> ``part(dataset, recording)`` -> rows (see ``benchmark.row``)."""

    device: str
    parts: dict[str, Part]


SUITES = {"cpu": Suite("cpu", CPU_PARTS), "gpu": Suite("cuda", GPU_PARTS), "parallel": Suite("cpu", PARALLEL_PARTS)}


def bench(
    suite: str, dataset: Dataset, recording: Recording, only: str | None = None, resume: bool = False, kept: bool = True
) -> Rows:
    """Run a suite's parts in their order: -> all rows, each with the name of its part.

    With ``kept`` the record ``bench_SUITE.json`` is written after every part; with ``resume`` the parts that it has already
    stay as they are, if they are of the same code, machine and data. ``only`` runs one part, and leaves the others' rows.
    A part that fails leaves a row that says so, and the next goes on.
    """
    return run_parts(suite, SUITES[suite].parts, dataset, recording, only, resume, kept)


def run_parts(
    suite: str, parts: dict[str, Part], dataset: Dataset, recording: Recording, only: str | None, resume: bool, kept: bool
) -> Rows:
    """As ``bench``, for any parts."""
    if only is not None and only not in parts:
        raise NoPropError(f"the suite {suite} has no part {only!r}; choose one of {', '.join(parts)}")
    target = Path(recording.folder) / f"bench_{suite}.json"
    if kept:
        check_writable(target)
    origin = {"benchmark": suite, "command": recording.command("bench", "--suite", suite), **recording.origin(dataset)}
    rows = _kept_rows(target, origin) if kept and (resume or only) and not recording.fresh else []
    done = {row["part"] for row in rows if "error" not in row}
    for name, part in parts.items():
        if name != only if only else name in done:
            continue
        rows = [row for row in rows if row["part"] != name] + [{"part": name} | row for row in _rows(part, dataset, recording)]
        rows.sort(key=lambda row: list(parts).index(row["part"]))
        if kept:
            records.write_json(target, origin | {"date": records.today(), "rows": rows})
    return rows


def _rows(part: Part, dataset: Dataset, recording: Recording) -> Rows:
    try:
        return part(dataset, recording)
    except Exception as error:  # whatever it is, the machine is lent for minutes and the other parts matter
        traceback.print_exc()
        return [failed_row("failed", error)]


def _kept_rows(target: Path, origin: dict) -> Rows:
    """The rows of an earlier run of the same suite, if there are any, and they are of the same origin."""
    if not target.exists():
        return []
    record = records.read_json(target)
    try:
        check_same(record, origin, target)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; --fresh measures all parts anew") from None
    return record["rows"]
