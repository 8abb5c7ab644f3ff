"""Every numbered equation of the book is tested: a test's text names its label, as in "eq. (1.4)"."""

import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent


def shown():
    """Labels \\tag{n.m} in the order of the book."""
    labels = []
    for path in sorted((ROOT / "book").glob("*.ipynb")) + sorted((ROOT / "book").glob("*.md")):
        if path.suffix == ".ipynb":
            text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
        else:
            text = path.read_text()
        labels += re.findall(r"\\tag\{(\d+\.\d+)\}", text)
    return labels


def named():
    """Labels that tests name, each inside the test function that checks it."""
    labels = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for function in re.split(r"^(?=def |@pytest)", path.read_text(), flags=re.M):
            if function.startswith(("def test_", "@pytest")):
                for group in re.findall(r"[Ee]qs?\. ((?:\(\d+\.\d+\)(?:, | and )?)+)", function):
                    labels |= set(re.findall(r"\d+\.\d+", group))
    return labels


def test_labels_are_unique():
    labels = shown()
    assert labels and len(labels) == len(set(labels))


def test_every_numbered_equation_has_a_test_that_names_it():
    assert set(shown()) - named() == set()


def test_no_test_names_an_equation_that_is_not_there():
    assert named() - set(shown()) == set()
