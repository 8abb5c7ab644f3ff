"""Timing: rivals in turn, ratios with their spread, the machine's own ceiling beside them, and what machine it is.

A shared machine is never quiet. Runs that are compared are therefore timed alternately, A B A B, and compared pair by
pair: what slows the machine for a while slows both.
"""

import functools
import os
import platform
import shutil
import statistics
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Callable

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None

# What speed and rounding depend on most.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")


def synchronize(device: torch.device | str) -> None:
    """Wait for what a GPU still has to do; a CPU has always done it.

    >>> synchronize("cpu")
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """How long one call takes, all its work on the device included.

    >>> seconds(lambda: torch.rand(100).sum()) > 0
    True
    """
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def alternate(
    runs: dict[str, Callable[[], object]], repeats: int = 5, warmup: int = 1, device: torch.device | str = "cpu"
) -> dict[str, list[float]]:
    """Call the runs in turn, ``warmup`` rounds unmeasured and ``repeats`` measured: name -> seconds [repeats].

    Raises ValueError unless there is a run, and a repeat of it.

    >>> times = alternate({"sum": lambda: torch.rand(100).sum(), "sort": lambda: torch.rand(100).sort()}, repeats=3)
    >>> {name: len(values) for name, values in times.items()}
    {'sum': 3, 'sort': 3}
    """
    if repeats < 1 or not runs:
        raise ValueError(f"expected at least one run and one repeat, got {len(runs)} and {repeats}")
    times = {name: [] for name in runs}
    for round in range(warmup + repeats):
        for name, run in runs.items():
            spent = seconds(run, device)
            if round >= warmup:
                times[name].append(spent)
    return times


def row(
    name: str, values: list[float], unit: str, baseline: str | None = None, baseline_values: list[float] | None = None
) -> dict:
    """One line of a benchmark: the median of ``values`` and, pair by pair, their ratio to the baseline's.

    {"name", "value", "unit", "baseline", "ratio", "ratio_min", "ratio_max"}; without a baseline the last four are None.
    Raises ValueError where there is no value, not as many of the baseline, or one of these is 0.

    >>> row("stack", [1.0, 2.0, 1.5], "s", baseline="loop", baseline_values=[2.0, 4.0, 3.0])["ratio"]
    0.5
    """
    if not values:
        raise ValueError(f"{name}: expected values to take the median of, got none")
    result = {"name": name, "value": statistics.median(values), "unit": unit, "baseline": baseline}
    if baseline_values is None:
        return result | {"ratio": None, "ratio_min": None, "ratio_max": None}
    if len(values) != len(baseline_values) or 0 in baseline_values:
        raise ValueError(f"{name}: expected {len(values)} baseline values that are not 0, got {baseline_values}")
    ratios = [value / other for value, other in zip(values, baseline_values)]
    return result | {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def table(rows: list[dict]) -> str:
    """Rows as text, one line each.

    >>> print(table([row("loop", [2.0], "s"), row("stack", [1.0], "s", "loop", [2.0])]))
           value  unit  ratio  from   to  to the baseline
    loop       2  s
    stack      1  s       0.5   0.5  0.5  loop
    """
    lines = [("", "value", "unit", "ratio", "from", "to", "to the baseline")]
    for r in rows:
        ratios = ["" if r[key] is None else f"{r[key]:.3g}" for key in ("ratio", "ratio_min", "ratio_max")]
        value = "not reached" if r["value"] is None else f"{r['value']:.4g}"
        value = "failed" if "error" in r else value
        lines.append((r["name"], value, r["unit"] or "", *ratios, r["baseline"] or r.get("error", "")))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    # Text to the left, numbers to the right.
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i in (1, 3, 4, 5) else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


def matmul_flops(
    size: int = 2048, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Callable[[], float]:
    """A function that multiplies two square matrices and returns FLOP/s: what the machine can do at best.

    2 size^3 floating-point operations, one multiplication and one addition each. The matrices are made once. Raises
    ValueError unless size >= 1.

    >>> matmul_flops(64)() > 0
    True
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: 2 * size**3 / seconds(lambda: torch.matmul(a, b, out=out), device)


def mlp_flops(num_samples: int, widths: tuple[int, ...], input_gradient: bool = False) -> int:
    """Floating-point operations of the matrix products that train a multi-layer perceptron on ``num_samples`` samples.

    Forward, and the gradients of weights and inputs: 6 n_in n_out a sample and layer. The first layer's input gradient,
    2 n_in n_out, is counted only if asked for: nobody needs it where the input is data. Raises ValueError unless there are
    two widths at least.

    >>> mlp_flops(1, (2, 3)), mlp_flops(1, (2, 3), input_gradient=True)
    (24, 36)
    """
    if len(widths) < 2:
        raise ValueError(f"expected at least two widths, from input to output, got {widths}")
    products = [n_in * n_out for n_in, n_out in zip(widths, widths[1:])]
    return num_samples * (6 * sum(products) - (0 if input_gradient else 2 * products[0]))


def machine(device: torch.device | str = "cpu", packages: tuple[str, ...] = ("torch",)) -> dict:
    """The hardware and the versions that a result on this device depends on, as plain data.

    {"device", "device_type", "processor", "instruction_sets", "cores", "threads", "tf32", "versions", "platform"}; on a GPU
    the versions hold CUDA, cuDNN and the driver too, and "tf32" says whether float32 may round to TF32, in
    {"products", "convolutions"}. A package that is not installed has the version None.

    >>> machine("cpu", packages=("torch", "no-such-package"))["versions"]["no-such-package"] is None
    True
    """
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    versions = {"python": platform.python_version()} | {name: _version(name) for name in packages}
    if on_gpu:
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": _driver()}
    model, flags = processor()
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else model,
        "device_type": device.type,
        "processor": model,
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "tf32": _tf32() if on_gpu else None,
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
    }


@functools.lru_cache
def processor() -> tuple[str, frozenset[str]]:
    """The processor's model, as exactly as the system tells it, and its instruction sets (Linux; elsewhere none are known).

    >>> model, instruction_sets = processor()
    >>> model != ""
    True
    """
    told = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            told.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    model = told.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in told:  # a virtual machine may call a whole line of processors by one name
        model += f" (family {told['cpu family']}, model {told.get('model')}, stepping {told.get('stepping')})"
    return model, frozenset((told.get("flags") or told.get("Features") or "").split())


def computes_bfloat16(device: torch.device | str) -> bool:
    """Whether the device multiplies in bfloat16 by itself. A CPU that does not emulates it, far more slowly than it computes
    in float32.

    >>> computes_bfloat16("cpu") in (True, False)
    True
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return not processor()[1].isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def peak_memory_mib(device: torch.device | str = "cpu") -> float | None:
    """Most memory held so far in MiB: the process on a CPU, PyTorch's allocations on a GPU.

    None where the system does not tell: on Windows, of a CPU.

    >>> peak_memory_mib("cpu") > 1
    True
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if resource is None:
        return None
    scale = 2**20 if platform.system() == "Darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def _tf32() -> dict[str, bool]:
    """PyTorch has two switches, and by default they differ."""
    return {"products": torch.backends.cuda.matmul.allow_tf32, "convolutions": torch.backends.cudnn.allow_tf32}


def _version(package: str) -> str | None:
    if package == "torch":
        return str(torch.__version__)  # its build, too, which the package's own version may leave out
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    """Version of the NVIDIA driver, where its own tool tells it."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, encoding="utf-8", timeout=30).stdout.split()
    except (OSError, subprocess.TimeoutExpired):  # a tool that is broken or hangs is no reason to lose what was measured
        return None
    return said[0] if said else None
