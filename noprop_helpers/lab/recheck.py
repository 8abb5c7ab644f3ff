"""A record run again, and held against what it says; and which code has changed since it was made.

``python -m noprop_helpers record NAME --check`` runs the experiment once more, with as many seeds as its record has, and passes if
every measured mean lies in the record's own interval. With ``--json book/records/checks/NAME.json`` the book keeps what came of
it, and its ledger says which records later code has made again.
"""

import ast
import functools
import io
import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

from .. import NoPropError
from . import records
from .experiments import EXPERIMENTS, Experiment
from .recording import Recording, record, record_name
from .schema import agree, problems

# One seed has no interval. What is said of it holds to a hundredth where it is a share, else to a tenth of itself.
SHARE, PART = 0.01, 0.1
PACKAGE = Path(__file__).parents[1]
CHECKS = records.FOLDER / "checks"
# The modules that every training goes through; and those of a study's own. What reads, writes and draws is not among them.
MATHEMATICS = (
    "schedules", "diffusion", "embeddings", "blocks", "features", "normal_equations", "losses", "samplers", "backprop", "layerwise",
    "fast_stack", "augment", "noprop", "passes", "training", "settings", "recipes", "runs",
)  # fmt: skip
OF_SUDOKU = ("lab/structured", "lab/structured_study", "lab/sudoku")
OF_TASKS = "data", "lab/structured", "lab/structured_study", "lab/tasks"
OF_STUDY = {
    "run": (), "audit": ("lab/audit",), "published_loop": ("lab/audit",), "layers": ("lab/chain",), "digits_walks": ("lab/walks",),
    "sudoku_walks": ("lab/walks", *OF_SUDOKU),
    "sudoku_pictures": (*OF_SUDOKU, "lab/sudoku_pictures"), "sudoku_pictures_large": (*OF_SUDOKU, "lab/sudoku_pictures"),
    **dict.fromkeys(("strings", "strings_rates", "strings_rates_larger"), (*OF_TASKS, "lab/strings")),
    "half_digits": (*OF_TASKS, "lab/half_digits"), "half_digits_rates": (*OF_TASKS, "lab/half_digits"),
    "blocks": ("lab/residual_blocks", "lab/chain"),
}  # fmt: skip


class Verdict(NamedTuple):
    """One measured number: what the record says, what came now, how far apart they may be."""

    name: str
    recorded: float
    measured: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the two agree."""
        return agree(self.recorded, self.measured, self.allowed)

    def __str__(self) -> str:
        sign = "agrees " if self.passed else "DIFFERS"
        return f"{sign} {self.name}: {self.measured:.6g}, recorded {self.recorded:.6g} ± {self.allowed:.2g}"


class Check(NamedTuple):
    """A record, the same experiment run again, and what their numbers come to."""

    old: dict
    new: dict
    verdicts: list[Verdict]

    def as_data(self) -> dict:
        """What the book keeps: of which record, by which command, code and machine, and every number."""
        by = {key: self.new[key] for key in ("date", "git_commit", "source", "environment")}
        numbers = [verdict._asdict() | {"passed": verdict.passed} for verdict in self.verdicts]
        command = self.new["command"].split(" --seeds ")[0] + " --check"  # it takes as many seeds as the record has
        return {"checked": self.old["experiment"], "command": command, **by, "numbers": numbers}


def compare(old: dict, new: dict) -> list[Verdict]:
    """Every measured mean of two summaries but for times, which are the machine's. Raises NoPropError where they are not of the
    same measurements.

    Allowed is the record's own 95 % t-interval; for a single seed, ``SHARE`` where it is a share, else ``PART`` of the number.
    """
    recorded, measured = (dict(_means(record["summary"], "")) for record in (old, new))
    if recorded.keys() != measured.keys():
        other = sorted(recorded.keys() ^ measured.keys())
        raise NoPropError(f"the record holds other measurements than the experiment makes now: {', '.join(other[:3])}")
    return [Verdict(name, one["mean"], measured[name]["mean"], _allowed(name, one)) for name, one in recorded.items()]


def _means(value, where: str):
    """(name, mean with its interval) of every measurement in a summary but for times."""
    if isinstance(value, dict) and value.keys() == {"mean", "standard_error", "interval", "n"}:
        if "seconds" not in where:
            yield where, value
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _means(item, f"{where}.{key}" if where else str(key))


def _allowed(name: str, one: dict) -> float:
    if one["interval"] is not None:
        return one["interval"]
    return SHARE if "accuracy" in name or 0 <= one["mean"] <= 1 else PART * abs(one["mean"])


def recheck(
    name: str, recording: Recording, dataset: str | None = None, data_root: str | None = None,
    experiments: dict[str, Experiment] = EXPERIMENTS, folder: Path = records.FOLDER,
) -> Check:  # fmt: skip
    """Run a recorded experiment again into ``recording.folder`` and compare. ``folder`` holds the record.

    Raises NoPropError where there is no record, where it is not as the schema wants it, and where the new one would replace it.
    """
    called = record_name(name, dataset)
    old = records.read_record(called, folder)
    if wrong := problems(old):
        raise NoPropError(f"the record {called} is not as it should be: {wrong[0]}")
    if Path(recording.folder).resolve() == Path(folder).resolve():
        raise NoPropError(f"the new record would replace the one in {folder}; name another folder with --output")
    new = record(name, recording._replace(seeds=len(old["runs"])), dataset, data_root, experiments)
    return Check(old, new, compare(old, new))


# --- What has changed since -------------------------------------------------------------------------------------------


def modules_of(record: dict) -> tuple[str, ...]:
    """The modules whose code decides what a record's numbers are."""
    study = record["run"]["study"]
    return MATHEMATICS + OF_STUDY.get(study, OF_SUDOKU if study.startswith("sudoku") else ())


@functools.cache
def meaning(source: str) -> str:
    """Python code without comments, docstrings and layout: the same for all that computes the same.

    >>> meaning("x = 1  # one") == meaning("x=1"), meaning("x = 1") == meaning("x = 2")
    (True, False)
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


@functools.cache
def code_at(commit: str) -> dict[str, str] | None:
    """The package's modules as they were at a commit, "lab/audit" -> source; None where the history does not reach it."""
    command = ["git", "-C", str(PACKAGE), "archive", "--format=tar", commit, "."]
    try:
        packed = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        python = [file for file in files if file.name.endswith(".py")]
        return {file.name.removeprefix("./").removesuffix(".py"): files.extractfile(file).read().decode() for file in python}


def changed_since(record: dict, commit: str | None = None) -> list[str] | None:
    """The modules that decide a record's numbers and compute otherwise today, or are new; None where the history is not here.

    Since the record was made, or since another ``commit``: that of a check.
    """
    then = code_at(commit or record["git_commit"])
    if then is None:
        return None
    changed = []
    for module in modules_of(record):
        today = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
        if module not in then or meaning(then[module]) != meaning(today):
            changed.append(module)
    return changed
