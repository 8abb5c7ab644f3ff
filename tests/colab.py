"""Notebooks as Colab runs them: ``python tests/colab.py`` runs all, from an empty folder each, in whatever Python it is given.

The kernel finds ``google.colab`` loaded, and nothing of this checkout: the notebook's first cell fetches the book. What a cell says
must be what is stored, as nbval has it: times and devices aside, and cells that say so. Needs nbclient, ipykernel and git; Colab's
own image has the rest.
"""

import configparser
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

BOOK = Path(__file__).resolve().parent.parent / "book"
FIRST = (BOOK / "first_cell.py").read_text()
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))  # each page has a button that opens it on Colab
NOT_COMPARED = {"nbval-ignore-output", "nbval-skip"}


def imitate(folder: Path) -> str:
    """Write to ``folder`` what makes ``google.colab`` loaded in every Python that has it on its path."""
    (folder / "google" / "colab").mkdir(parents=True)
    (folder / "google" / "colab" / "__init__.py").touch()
    (folder / "sitecustomize.py").write_text("import google.colab\n")
    return str(folder)


def on_colab(path, content):
    """A chapter run in ``content`` instead of /content; its last cell says where the package came from."""
    book = nbformat.read(path, as_version=4)
    first = next(cell for cell in book.cells if cell.cell_type == "code")
    assert first.source == FIRST.rstrip("\n")
    first.source = first.source.replace("/content/", f"{content}/")
    again = nbformat.v4.new_code_cell(first.source)  # whoever runs it twice gets no second copy
    asked = nbformat.v4.new_code_cell("import noprop_helpers\nprint(noprop_helpers.__file__)")
    book.cells = [*book.cells, again, asked]
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(content)}}).execute()
    return book


def said(cell):
    """What a cell prints and its tables, without times and devices."""
    outputs = [o.text if o.output_type == "stream" else o.get("data", {}).get("text/markdown", "") for o in cell.get("outputs", [])]
    text = "".join(outputs)
    rules = configparser.RawConfigParser()
    rules.read(Path(__file__).with_name("nbval_sanitize.cfg"))
    for name in rules.sections():
        text = re.sub(rules[name]["regex"], rules[name]["replace"], text)
    return text


def differences(stored, run):
    """Cells that say something else than what is stored: their code, what is stored, and what they say now."""
    pairs = [(old, new) for old, new in zip(stored.cells, run.cells) if not NOT_COMPARED & set(old.metadata.get("tags", []))]
    return [f"{old.source}\n- {said(old)}\n+ {said(new)}" for old, new in pairs if said(old) != said(new)]


def main():
    """Run all notebooks and compare: -> exit code."""
    os.environ["NOPROP_CLAIMS"] = "1"  # what the text says of its numbers has to hold in Colab, too
    wrong = 0
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as empty:
            os.environ["PYTHONPATH"] = imitate(Path(empty, "site"))
            found = differences(nbformat.read(path, as_version=4), on_colab(path, Path(empty)))
        print(path.stem, *found, sep="\n", flush=True)
        wrong += len(found)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
