"""Result records: every number the book claims is read from one of these JSON files.

``book/records/NAME.json`` holds what was run, on what, by which command, each seed's metrics, and their mean with its
standard error.
"""

import datetime
import json
import math
import os
import platform
import subprocess
import tempfile
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parents[1] / "book" / "records"


def mean_and_standard_error(values: list[float]) -> dict:
    """{"mean", "standard_error", "n"}; the standard error is s / sqrt(n) with s^2 = sum (x - mean)^2 / (n - 1).

    One value has no standard error: it is None, never 0.
    """
    if len(values) == 0:
        raise ValueError("expected at least one value, got none")
    n, mean = len(values), math.fsum(values) / len(values)
    error = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1) / n) if n > 1 else None
    return {"mean": mean, "standard_error": error, "n": n}


def summarize(runs: list):
    """Mean and standard error over runs of one nested structure (dicts, lists, numbers); other leaves must agree."""
    first = runs[0]
    if isinstance(first, dict):
        return {key: summarize([run[key] for run in runs]) for key in first if key != "seed"}
    if isinstance(first, list):
        return [summarize(list(column)) for column in zip(*runs, strict=True)]
    if isinstance(first, (int, float)) and not isinstance(first, bool):
        return mean_and_standard_error(runs)
    if any(run != first for run in runs):
        raise ValueError(f"expected the same value in every run, got {runs}")
    return first


def environment(device: torch.device | str = "cpu") -> dict:
    """Hardware and library versions that a result depends on."""
    device = torch.device(device)
    packages = ("torch", "torchvision", "numpy", "scikit-learn")
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor_name(),
        "device_type": device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "platform": f"{platform.system()} {platform.machine()}",
    }


def peak_memory_mib(device: torch.device | str = "cpu") -> float:
    """Most memory held so far in MiB: the process on a CPU, PyTorch's allocations on a GPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource  # not on Windows, so only where it is used

    scale = 2**20 if platform.system() == "Darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def git_commit() -> str | None:
    """Hash of the checkout this package lies in, with "-dirty" if the package has uncommitted changes; None outside one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("-dirty" if changes.stdout else "")


def today() -> str:
    return datetime.date.today().isoformat()


def check_writable(path: str | Path) -> None:
    """Raise ValueError now, before hours of work, if a file could not be written at ``path``."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; name a file")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from None


def write_json(path: str | Path, value) -> None:
    """Write all of it or nothing: a temporary file beside ``path``, then a rename."""
    check_writable(path)
    path = Path(path)
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp gives 600
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_json(path: str | Path):
    """Content of a JSON file. Raises ValueError where it is not one."""
    try:
        return json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it and run the experiment anew") from None


def read_record(name: str, folder: str | Path = FOLDER) -> dict:
    """The record called ``name``. Raises ValueError, with the command that makes it, if there is none."""
    path = Path(folder) / f"{name}.json"
    if not path.exists():
        raise ValueError(f"no record {path}; make it with: python -m noprop_helpers record {name}")
    return read_json(path)


def percent(summary: dict, digits: int = 2) -> str:
    """A mean fraction with its standard error as text that does not break: "99.21 ± 0.03 %"; no ± for one run."""
    mean, error = 100 * summary["mean"], summary["standard_error"]
    text = f"{mean:.{digits}f} %" if error is None else f"{mean:.{digits}f} ± {100 * error:.{digits}f} %"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
