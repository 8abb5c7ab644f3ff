"""Result records: every number the book claims is read from one of these JSON files.

``book/records/NAME.json`` holds the whole run as data, on what, by which command and on which machine, each seed's results,
and their mean with its standard error and interval. ``NAME.npz`` beside it holds what the model said of every test image.
"""

import datetime
import hashlib
import json
import math
import subprocess
import zipfile
from pathlib import Path

import numpy
import torch
from torch import Tensor

from .. import NoPropError
from ..benchmark import machine
from ..checkpoints import write_bytes

FOLDER = Path(__file__).resolve().parents[2] / "book" / "records"
PACKAGES = ("torch", "torchvision", "torchdiffeq", "numpy", "scipy", "scikit-learn")


def mean_and_standard_error(values: list[float]) -> dict:
    """{"mean", "standard_error", "interval", "n"} of measurements whose errors are independent.

    The standard error is s / sqrt(n) with s^2 = sum (x - mean)^2 / (n - 1); ``interval`` is half the width of the 95 %
    t-interval with n - 1 degrees of freedom. One value has neither: they are None, never 0.

    >>> mean_and_standard_error([0.5])
    {'mean': 0.5, 'standard_error': None, 'interval': None, 'n': 1}
    """
    if len(values) == 0:
        raise NoPropError("expected at least one value, got none")
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return {"mean": mean, "standard_error": None, "interval": None, "n": n}
    from scipy.stats import t  # takes a second to import

    error = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1) / n)
    return {"mean": mean, "standard_error": error, "interval": float(t.ppf(0.975, n - 1)) * error, "n": n}


def summarize(results: list):
    """``mean_and_standard_error`` over several runs' results of one nested structure: dictionaries, lists, numbers.

    >>> summarize([{"test_accuracy": 0.5}])["test_accuracy"]["mean"]
    0.5
    """
    first = results[0]
    if isinstance(first, dict):
        return {key: summarize([result[key] for result in results]) for key in first}
    if isinstance(first, list):
        return [summarize(list(column)) for column in zip(*results, strict=True)]
    if isinstance(first, bool) or not isinstance(first, (int, float)):
        raise NoPropError(f"results are numbers, in dictionaries and lists; got {first!r}")
    return mean_and_standard_error(results)


def environment(device: torch.device | str = "cpu") -> dict:
    """Hardware and library versions that a result depends on."""
    return machine(device, PACKAGES)


def git_commit() -> str | None:
    """Hash of the checkout this package lies in, with "-dirty" if the package has uncommitted changes; None outside one."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, encoding="utf-8", check=True)
        changes = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("-dirty" if changes.stdout else "")


def source_checksum() -> str:
    """``sha256:<hex>`` of this package's Python files: what ran, also where a commit does not say it."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()} {path.stat().st_size} ".encode() + path.read_bytes())
    return f"sha256:{digest.hexdigest()}"


def today() -> str:
    """The date, as 2026-11-24."""
    return datetime.date.today().isoformat()


def write_json(path: str | Path, value) -> None:
    """Write all of it or nothing. Raises ValueError for numbers that JSON has no word for, as NaN."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: str | Path):
    """Content of a JSON file. Raises NoPropError where it is not one."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no text at all, nested without an end
        raise NoPropError(f"{path} is not valid JSON ({error}); delete it and run the experiment anew") from None


def read_record(name: str, folder: str | Path = FOLDER) -> dict:
    """The record called ``name``. Raises NoPropError, with the command that makes it, if there is none."""
    path = Path(folder) / f"{name}.json"
    if not path.exists():
        raise NoPropError(f"no record {path}; make it with: python -m noprop_helpers record {name}")
    return read_json(path)


def right(name: str, folder: str | Path = FOLDER) -> dict[str, Tensor]:
    """Who was right about which test example: measurement -> [seeds, N] bool, of the file beside the record ``name``."""
    path = Path(folder) / f"{name}.npz"
    if not path.exists():
        raise NoPropError(f"no predictions {path}; make them with: python -m noprop_helpers record {name}")
    said = _predictions(path)
    labels, by_who = said.get("labels", True), {}
    for key in said:
        seed, _, who = key.partition("/")
        if who:
            by_who.setdefault(who, []).append(torch.from_numpy(said[key] == labels))
    return {who: torch.stack(seeds) for who, seeds in by_who.items()}


def _predictions(path: Path) -> dict[str, numpy.ndarray]:
    """The arrays of an .npz. Raises NoPropError where it is none, or holds objects, which could run code."""
    try:
        with numpy.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise NoPropError(f"{path} holds no predictions ({error}); delete it and run the experiment anew") from None


def paired(one: Tensor, other: Tensor) -> dict:
    """How much more often one is right than the other about the same examples: [seeds, N] bool each.

    ``mean_and_standard_error`` of the seeds' differences, and "sampling", half the width of the 95 % interval that the choice
    of these N test examples adds: 1.96 s / sqrt(N), s the deviation of the examples' mean differences.

    >>> one, other = torch.tensor([[True, True, False, True]]), torch.tensor([[True, False, False, True]])
    >>> found = paired(one, other)
    >>> found["mean"], found["interval"], round(found["sampling"], 2)
    (0.25, None, 0.49)
    """
    if one.shape != other.shape or one.ndim != 2:
        raise NoPropError(f"expected two tables [seeds, N], got {list(one.shape)} and {list(other.shape)}")
    difference = one.double() - other.double()  # [seeds, N]
    sampling = 1.96 * difference.mean(0).std().item() / one.shape[1] ** 0.5
    return mean_and_standard_error(difference.mean(1).tolist()) | {"sampling": sampling}


def percent(summary: dict, digits: int = 2) -> str:
    """A mean fraction with its standard error as text that does not break: "99.21 ± 0.03 %"; no ± for one run.

    >>> percent({"mean": 0.9921, "standard_error": 0.0003}).split()
    ['99.21', '±', '0.03', '%']
    """
    mean, error = 100 * summary["mean"], summary["standard_error"]
    text = f"{mean:.{digits}f} %" if error is None else f"{mean:.{digits}f} ± {100 * error:.{digits}f} %"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def points(difference: dict, digits: int = 1) -> str:
    """What ``paired`` found, in percentage points: the mean, its interval over seeds, that over examples: "+1.6 ± 0.6 ± 0.8".

    Raises NoPropError for one seed, which has no interval.

    >>> points({"mean": 0.016, "interval": 0.006, "sampling": 0.008})
    '+1.6 ± 0.6 ± 0.8'
    """
    if difference["interval"] is None:
        raise NoPropError("expected the differences of two seeds at least: one has no interval")
    mean, seeds, examples = (100 * difference[key] for key in ("mean", "interval", "sampling"))
    return f"{mean:+.{digits}f} ± {seeds:.{digits}f} ± {examples:.{digits}f}"
