"""What a record must hold: ``problems(record)`` lists every field that is missing, unknown, of another kind or out of range.

A record that passes says what was run, on which data and machine, by which code and command; its results are finite numbers,
shares lie between 0 and 1, and its summary is that of its seeds, so that no digit of the one changes without the other. The same
goes for what a check of a record came to (``record NAME --check --json``).
"""

import math
import re
from typing import Callable

from .records import summarize

Rule = Callable[[object], bool]


def text(pattern: str = r"[^<>]+") -> Rule:
    """A rule: text that matches the whole of a pattern; if none is given, text that cannot be HTML.

    >>> text()("a word"), text()("<b>"), text("cpu|cuda")("tpu")
    (True, False, False)
    """
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def number(low: float = -math.inf, high: float = math.inf) -> Rule:
    """A rule: a finite number in a range, its ends included.

    >>> number(0, 1)(0.5), number(0, 1)(1.5), number()(True)
    (True, False, False)
    """
    return lambda value: type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def whole(low: int) -> Rule:
    """A rule: an integer, this or more.

    >>> whole(1)(2), whole(1)(0), whole(1)(2.0)
    (True, False, False)
    """
    return lambda value: type(value) is int and value >= low


def or_none(rule: Rule) -> Rule:
    """A rule: this one, or nothing known.

    >>> or_none(whole(1))(None)
    True
    """
    return lambda value: value is None or rule(value)


SHA256, DAY = r"sha256:[0-9a-f]{64}", r"20\d\d-[01]\d-[0-3]\d"
MANY = {"list": lambda value: isinstance(value, list) and len(value) > 0, "dict": lambda value: isinstance(value, dict)}
VERSIONS = {name: or_none(text(r"\d[\w.+]*")) for name in ("python", "torch", "torchvision", "torchdiffeq", "numpy", "scikit-learn")}
LATER_VERSIONS = {"scipy": or_none(text()), "cuda": or_none(text()), "driver": or_none(text()), "cudnn": or_none(whole(1))}
ENVIRONMENT = {
    "device": text(), "device_type": text("cpu|cuda"), "processor": text(), "platform": text(),
    "instruction_sets": or_none(lambda value: isinstance(value, list) and all(map(text(r"\w+"), value))),
    "cores": whole(1), "threads": whole(1), "tf32": or_none(MANY["dict"]), "versions": MANY["dict"],
}  # fmt: skip
ORIGIN = {
    "command": text(r"python -m noprop_helpers (record|bench) .* --threads \d+( .*)?"), "dataset": MANY["dict"],
    "environment": MANY["dict"], "git_commit": text("[0-9a-f]{12}"), "date": text(DAY),
}  # fmt: skip
# What one of them must say: a checksum of the code, or that it is older than those.
CODE = {"source": text(SHA256), "converted": text()}
EXPERIMENT = ORIGIN | {
    "experiment": text(r"[\w@-]+"), "description": text(), "run": MANY["dict"], "peak_memory_mib": number(0.1),
    "runs": MANY["list"], "summary": MANY["dict"],
}  # fmt: skip
BENCHMARK = ORIGIN | {"benchmark": text(r"\w+"), "rows": MANY["list"]}
CHECK = {key: rule for key, rule in ORIGIN.items() if key != "dataset"}
CHECK |= {"command": text(r"python -m noprop_helpers record .* --check"), "checked": text(r"\w+"), "numbers": MANY["list"]}
NUMBER = {"name": text(r"[\w.@-]+"), "recorded": number(), "measured": number(), "allowed": number(0)}
NUMBER |= {"passed": lambda value: isinstance(value, bool)}
DATASET = {"name": text(), "checksum": text(SHA256), "train": whole(1), "test": whole(1)}
RUN = {"seed": whole(0), "seconds": number(0), "results": MANY["dict"]}
ROW = {"part": text(), "name": text(), "value": or_none(number(0)), "unit": text()}
ROW |= {"baseline": or_none(text()), **{key: or_none(number(0)) for key in ("ratio", "ratio_min", "ratio_max")}}


def problems(record: dict) -> list[str]:
    """What is wrong with a record of an experiment, a benchmark or a check, a line each; [] where nothing is.

    >>> len(problems({})) > 0
    True
    """
    if not isinstance(record, dict):
        return [f"expected a record, got {record!r:.40}"]
    fields = BENCHMARK if "benchmark" in record else CHECK if "checked" in record else EXPERIMENT
    found = _fields(record, fields, CODE, "")
    found += [] if CODE.keys() & record.keys() else ["source is missing"]
    if found:
        return found
    found = _fields(record["environment"], ENVIRONMENT, {}, "environment.")
    found += _fields(record["environment"].get("versions", {}), VERSIONS, LATER_VERSIONS, "environment.versions.")
    if "checked" in record:
        return found + _numbers(record["numbers"])
    return found + _dataset(record["dataset"]) + (_rows(record["rows"]) if "benchmark" in record else _runs(record))


def _fields(value: dict, needed: dict[str, Rule], allowed: dict[str, Rule], where: str) -> list[str]:
    """Fields missing, unknown, or against their rule."""
    if not isinstance(value, dict):
        return [f"{where[:-1]} is {value!r:.60}"]
    found = [f"{where}{key} is missing" for key in needed if key not in value]
    rules = needed | allowed
    found += [f"{where}{key} is unknown" for key in value if key not in rules]
    return found + [f"{where}{key} is {item!r:.60}" for key, item in value.items() if key in rules and not rules[key](item)]


def _dataset(dataset: dict) -> list[str]:
    if dataset.get("name") == "made from the seed":
        return _fields(dataset, {"name": text()}, {}, "dataset.")
    return _fields(dataset, DATASET, {"preparation": MANY["dict"]}, "dataset.")


def _numbers(numbers: list) -> list[str]:
    """Of a check: what was recorded and measured, and that it passed where the two agree and nowhere else."""
    found = []
    for i, one in enumerate(numbers):
        wrong = _fields(one, NUMBER, {}, f"numbers.{i}.")
        if not wrong and one["passed"] != agree(one["recorded"], one["measured"], one["allowed"]):
            wrong = [f"numbers.{i}.passed is {one['passed']}"]
        found += wrong
    return found


def agree(recorded: float, measured: float, allowed: float) -> bool:
    """Whether a number measured again is as far as allowed from the recorded one, or nearer, up to rounding.

    >>> agree(0.95, 0.94, allowed=0.02), agree(0.95, 0.94, allowed=0.001)
    (True, False)
    """
    return abs(measured - recorded) <= allowed + 1e-9 * abs(recorded)


def _rows(rows: list) -> list[str]:
    """Problems of a benchmark's rows: also a ratio without its baseline, or outside of its ends."""
    found = []
    for i, row in enumerate(rows):
        wrong = _fields(row, ROW, {}, f"rows.{i}.")
        compared = not wrong and [row.get(key) is not None for key in ("baseline", "ratio", "ratio_min", "ratio_max")]
        if compared and (any(compared) != all(compared) or all(compared) and not row["ratio_min"] <= row["ratio"] <= row["ratio_max"]):
            wrong = [f"rows.{i}: a ratio lies between its ends and names its baseline"]
        found += wrong
    return found


def _runs(record: dict) -> list[str]:
    """Seeds, their results, and that the summary follows from them."""
    found = []
    for i, run in enumerate(record["runs"]):
        found += _fields(run, RUN, {"shown": MANY["dict"]}, f"runs.{i}.")
        found += _results(run["results"], f"runs.{i}.results", in_share=False) if not found else []
    if found:
        return found
    seeds = [run.get("seed") for run in record["runs"]]
    if len(set(seeds)) < len(seeds):
        return [f"runs have the seeds {seeds}"]
    try:
        expected = summarize([run["results"] | {"seconds": run["seconds"]} for run in record["runs"]])
    except (KeyError, ValueError, TypeError, AttributeError):
        return ["runs hold results of other structures"]
    return _differences(record["summary"], expected, "summary")


def _results(value, where: str, in_share: bool) -> list[str]:
    """Results are finite numbers; what is called an accuracy is a share."""
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in _results(item, f"{where}.{key}", in_share or "accuracy" in key)]
    if isinstance(value, list):
        return [line for i, item in enumerate(value) for line in _results(item, f"{where}.{i}", in_share)]
    return [] if (number(0, 1) if in_share else number())(value) else [f"{where} is {value!r:.60}"]


def _differences(value, expected, where: str) -> list[str]:
    """Where two structures differ, floats up to rounding: another version of SciPy may end on another digit."""
    if isinstance(expected, dict) and isinstance(value, dict):
        keys = [f"{where}.{key} is {'missing' if key in expected else 'unknown'}" for key in value.keys() ^ expected.keys()]
        return keys + [line for k in value.keys() & expected.keys() for line in _differences(value[k], expected[k], f"{where}.{k}")]
    if isinstance(expected, list) and isinstance(value, list) and len(value) == len(expected):
        return [line for i, (a, b) in enumerate(zip(value, expected)) for line in _differences(a, b, f"{where}.{i}")]
    same = math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-15) if number()(value) and number()(expected) else value == expected
    return [] if same else [f"{where} is {value!r:.60}, expected {expected!r:.60}"]
