"""Chapters as Colab runs them: ``python tests/colab.py`` runs all, from an empty folder each, in whatever Python it is given.

The kernel finds ``google.colab`` loaded, and nothing of this checkout: the chapter's first cell fetches the book. Needs nbclient,
ipykernel and git; Colab's own image has the rest.
"""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

BOOK = Path(__file__).resolve().parent.parent / "book"
FIRST = (BOOK / "first_cell.py").read_text()


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


if __name__ == "__main__":
    os.environ["NOPROP_CLAIMS"] = "1"  # what the text says of its numbers has to hold in Colab, too
    for chapter in sorted(BOOK.glob("[0-9][0-9]-*.ipynb")):
        with tempfile.TemporaryDirectory() as empty:
            os.environ["PYTHONPATH"] = imitate(Path(empty, "site"))
            on_colab(chapter, Path(empty))
        print(chapter.stem, flush=True)
