"""Every number in prose that claims a result names its record, and agrees with it.

In Markdown, a percentage or a time in seconds is followed by a comment that readers do not see:

    reaches 99.2 %<!-- record: mnist_shared summary.test_accuracy.mean -->
    shows 30 %<!-- cited: README of the published notebook -->
"""

import re
from pathlib import Path

import nbformat
import pytest

from noprop_helpers.lab.records import read_record

ROOT = Path(__file__).parent.parent
SOURCES = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md")), *sorted((ROOT / "book").glob("*.ipynb"))]
NUMBER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s?(%|s\b|seconds\b)(?:\s*<!-- (record|cited): (.*?) -->)?", re.S)


def prose(path):
    """Markdown without what is not prose: code, mathematics, tables' cells stay."""
    if path.suffix == ".ipynb":
        text = "\n\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    else:
        text = path.read_text()
    text = re.sub(r"^(```+).*?^\1", "", text, flags=re.S | re.M)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", "", text, flags=re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def lookup(record, path):
    """Value at a dotted path; list positions are numbers."""
    for key in path.split("."):
        record = record[int(key)] if isinstance(record, list) else record[key]
    return record


def wrong_claims(text, read=read_record):
    wrong = []
    for match in NUMBER.finditer(text):
        number, unit, kind, source = match.groups()
        said = f"{number} {unit}"
        if kind is None:
            wrong.append(f"{said!r} names no record: ...{text[max(0, match.start() - 60) : match.end()]}")
        elif kind == "record":
            name, path = source.split()
            value = lookup(read(name), path) * (100 if unit == "%" else 1)
            if f"{value:.{len(number.partition('.')[2])}f}" != number:
                wrong.append(f"{said!r}, but {name} {path} is {value:.4f}")
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_numbers_in_prose_agree_with_their_records(path):
    assert wrong_claims(prose(path)) == []


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("reaches 99 % on MNIST", "names no record"),
        ("takes 12.5 seconds", "names no record"),
        ("98.4 %<!-- record: r a.mean -->", "is 98.7600"),
        ("98.76 %<!-- record: r a.mean -->", None),
        ("98.8 %\n<!-- record: r a.mean -->", None),
        ("30 %<!-- cited: README -->", None),
        ("2 students, 10x, step 3", None),
    ],
)
def test_the_check_can_fail(text, complaint):
    found = wrong_claims(text, read=lambda name: {"a": {"mean": 0.9876}})
    assert (complaint is None) == (found == []) and all(complaint in line for line in found)
