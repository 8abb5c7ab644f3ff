"""A reader who changes the number of layers in a chapter of the method sees what happens then; no cell raises."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
CHANGED = ("01-schedule-math", "02-forward-diffusion")


def with_layers(book, num_layers):
    """The notebook with another number in its one line ``T = ...``; returns how many lines were changed."""
    changed = 0
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.source, n = re.subn(r"^(T(?:, \w+)* = )10\b", rf"\g<1>{num_layers}", cell.source, flags=re.M)
            changed += n
    return changed


@pytest.mark.parametrize("num_layers", [3, 20])
@pytest.mark.parametrize("chapter", CHANGED)
def test_no_cell_raises_with_another_number_of_layers(chapter, num_layers):
    book = nbformat.read(ROOT / "book" / f"{chapter}.ipynb", as_version=4)
    assert with_layers(book, num_layers) == 1
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(ROOT / "book")}}).execute()
