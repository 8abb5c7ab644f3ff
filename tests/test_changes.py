"""A reader who changes a number in a chapter of the method sees what happens then; no cell raises."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
LAYERS = r"^(T(?:, \w+)* = )10\b"
# chapter, what stands there, what a reader writes instead
CHANGES = [
    ("00-noprop-on-one-page", LAYERS, r"\g<1>3"),
    ("01-schedule-math", LAYERS, r"\g<1>3"),
    ("01-schedule-math", LAYERS, r"\g<1>20"),
    ("01-schedule-math", r"cosine_alpha_bar\(T\)", "torch.linspace(0.98, 0.02, T + 1).double()"),
    ("02-forward-diffusion", LAYERS, r"\g<1>3"),
    ("02-forward-diffusion", LAYERS, r"\g<1>20"),
    ("03-per-layer-training", LAYERS, r"\g<1>4"),
    ("03-per-layer-training", r"epochs, learning_rate = 20, 3e-3", "epochs, learning_rate = 2, 0.3"),
    ("04-inference", LAYERS, r"\g<1>4"),
    ("04-inference", r"epochs=30, learning_rate=3e-3", "epochs=1, learning_rate=0.3"),
]


@pytest.mark.slow
@pytest.mark.parametrize("chapter, there, instead", CHANGES, ids=lambda text: re.sub(r"\W+", " ", text).strip())
def test_no_cell_raises_where_a_reader_changes_a_number(chapter, there, instead):
    book, changed = nbformat.read(ROOT / "book" / f"{chapter}.ipynb", as_version=4), 0
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.source, n = re.subn(there, instead, cell.source, flags=re.M)
            changed += n
    assert changed
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(ROOT / "book")}}).execute()
