"""The hostile table, run: every row of ``hostile_api`` ends in one clear line of ours or in a result that is right.

And what a table cannot hold: packages that are not installed, a look at memory, and that the table itself can fail.
"""

import ast
import builtins
import collections
import importlib
import importlib.util
import os
import re
import signal
import sys
import tracemalloc
from pathlib import Path

import hostile_api
import house
import pytest
import torch
from hostile_api import Row

from noprop_helpers import NoPropError, data, images, recipes

SECONDS = 20  # that a row may take, before it counts as hanging
ROWS = [pytest.param(row, id=f"{group}: {row.what}") for group, rows in hostile_api.TABLE.items() for row in rows]


def outcome(row: Row) -> str:
    """How the row ended: "right", or what was wrong."""
    try:
        result = row.do()
    except (ValueError, TypeError) as error:
        said = f"{type(error).__name__}: {error}"
        if not isinstance(row.outcome, tuple):
            return f"refused, {said}"
        missing = [words for words in row.outcome if words not in said]
        return f"{said} lacks {missing}" if missing else "right" if "\n" not in said else f"more than a line: {said}"
    except Exception as error:
        return f"a traceback, {type(error).__name__}: {error}"
    if isinstance(row.outcome, tuple):
        return f"silently accepted, {result!r}"
    return "right" if row.outcome(result) else f"a wrong result, {result!r}"


@pytest.fixture(autouse=True)
def a_place_of_its_own(tmp_path, monkeypatch):
    """An empty folder, a home that a row may move, one thread, and an end to waiting."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NOPROP_DATA", raising=False)

    def hangs(*_):
        raise AssertionError(f"it hangs: no end after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("row", ROWS)
def test_a_hostile_row_ends_as_it_must(row):
    torch.manual_seed(0)
    assert outcome(row) == "right"


def test_the_table_is_long_and_no_row_is_twice():
    names = [parameter.id for parameter in ROWS]
    assert len(names) >= 550
    assert [name for name, count in collections.Counter(names).items() if count > 1] == []


# Tables that functions return, CUDA's own, what asks only about the machine; files have tests of faults of their own.
NOT_TRIED = {
    "Posterior", "Gamma", "FlowPath", "Covariances", "Regression", "LinearLayer", "on_side_stream", "cuda_graph", "synchronize",
    "seconds", "machine", "processor", "computes_bfloat16", "peak_memory_mib", "CheckpointError", "check_writable", "check_same",
    "content_checksum", "expect", "mark",
}  # fmt: skip
RAISED = {"Diverged", "check_finite", "check_distinct", "load_state"}  # by what is in the table


def test_every_function_of_the_leaves_is_in_the_table():
    table = Path(hostile_api.__file__).read_text()
    trees = [ast.parse((house.PACKAGE / f"{leaf}.py").read_text()) for leaf in house.LEAVES]
    public = {
        node.name for tree in trees for node in tree.body
        if isinstance(node, house.Definition | ast.ClassDef) and not node.name.startswith("_")
    }  # fmt: skip
    assert public >= NOT_TRIED | RAISED
    assert {name for name in public - NOT_TRIED - RAISED if not re.search(rf"\b{name}\b", table)} == set()


@pytest.mark.parametrize("do, expected, words", [
    (lambda: 1, ("a",), "silently accepted"),
    (lambda: int("x"), ("y",), "lacks"),
    (lambda: [][0], ("list",), "a traceback, IndexError"),
    (lambda: 1, lambda result: result == 2, "a wrong result"),
    (lambda: int("x"), lambda result: True, "refused"),
])  # fmt: skip
def test_a_row_that_ends_otherwise_is_found(do, expected, words):
    assert words in outcome(Row("it", do, expected))


# --- Packages that are not installed ---


def without(monkeypatch, package):
    """As if it was not installed, whatever has been imported before."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    imported = builtins.__import__

    def refuse(name, *arguments, **more):
        if name.split(".")[0] == package and not (arguments and len(arguments) > 3 and arguments[3]):
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return imported(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else found(name, *more))


def one_image():
    return images.read_picture(hostile_api.png("x.png"), (3, 4, 6))


@pytest.mark.parametrize("package, install, do", [
    ("sklearn", "scikit-learn", lambda: data.load_dataset("digits")),
    ("torchvision", "torchvision", lambda: data.load_dataset("cifar10", root=".")),
    ("torchvision", "torchvision", lambda: data.load_dataset("mnist", root=".")),
    ("PIL", "pillow", one_image),
    ("tqdm", "tqdm", lambda: list(images._bar([1, 2], "reading", progress=True))),
    ("torchdiffeq", "torchdiffeq", lambda: recipes.PaperAdjoint().build(recipes.Shape((1, 8, 8), 3, 9))),
    ("matplotlib", "matplotlib", lambda: importlib.reload(importlib.import_module("noprop_helpers.lab.plots"))),
])  # fmt: skip
def test_a_package_that_is_not_installed_is_one_line_with_the_command(package, install, do, monkeypatch):
    if package == "matplotlib":
        importlib.import_module("noprop_helpers.lab.plots")
    without(monkeypatch, package)
    with pytest.raises(NoPropError) as caught:
        do()
    assert f"needs {install}: pip install {install}" in str(caught.value) and "\n" not in str(caught.value)


def test_images_are_read_without_a_package_for_bars(monkeypatch):
    without(monkeypatch, "tqdm")
    assert one_image().shape == (1, 3, 4, 6)


# --- Memory ---


def test_a_huge_header_takes_no_memory():
    """A file of 65 bytes that claims three gigabytes of pixels is refused by its header."""
    bomb = hostile_api.png("x.png", (32000, 32000), rows=b"")
    assert os.path.getsize(bomb) < 100
    tracemalloc.start()
    with pytest.raises(data.DataError, match="32000x32000 pixels are too many"):
        images.read_picture(bomb, (3, 8, 8))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_pillows_own_limit_is_as_it_was():
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    one_image()
    assert Image.MAX_IMAGE_PIXELS == before
