"""The book's sources: every page is there, and every chapter is stored as it was run."""

import re
from pathlib import Path

import nbformat
import pytest
import yaml
from conftest import pages_of

ROOT = Path(__file__).parent.parent
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = pages_of(TOC)
CHAPTERS = [ROOT / f"{page}.ipynb" for page in PAGES if (ROOT / f"{page}.ipynb").exists()]
NOT_RUN = {"skip-execution", "nbval-skip"}
MACHINE_PATH = re.compile(r"/(home|root|work|tmp|Users)/\w|[A-Z]:\\\\?Users")

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def code_cells(path):
    cells = nbformat.read(path, as_version=4).cells
    return [c for c in cells if c.cell_type == "code" and not NOT_RUN & set(c.metadata.get("tags", []))]


def output_text(output):
    """What an output shows as text; pictures are left out, whose encoding may spell anything."""
    if output.output_type == "stream":
        return output.text
    if output.output_type == "error":
        return "\n".join(output.traceback)
    return "\n".join(text for kind, text in output.data.items() if kind.startswith("text/"))


def test_contents_list_every_page_once():
    sources = [p for p in (ROOT / "book").rglob("*") if p.suffix in {".ipynb", ".md"}]
    assert sorted(PAGES) == sorted(p.relative_to(ROOT).with_suffix("").as_posix() for p in sources)


def test_there_are_chapters():
    assert CHAPTERS, "no chapter of _toc.yml is a notebook"


@each_chapter
def test_cells_were_run_once_in_order(path):
    cells = code_cells(path)
    assert all(c.source.strip() for c in cells), "empty code cell"
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        counts = [o.execution_count for o in cell.outputs if o.output_type == "execute_result"]
        assert counts in ([], [cell.execution_count]), f"output of another run:\n{cell.source}"


@each_chapter
def test_stored_outputs_hold_no_error_and_no_warning(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", f"stderr stored under:\n{cell.source}"
            assert "Traceback" not in output_text(output), cell.source


@each_chapter
def test_pictures_have_alt_text_and_a_caption_under_them(path):
    """The caption is a Markdown cell, "*Figure.* ...", so that it is read in the notebook too."""
    cells = nbformat.read(path, as_version=4).cells
    for cell, below in zip(cells, cells[1:]):
        if not any(k.startswith("image/") for o in cell.get("outputs", []) for k in o.get("data", {})):
            continue
        mystnb = cell.metadata.get("mystnb", {})
        alt = mystnb.get("image", {}).get("alt", "")
        assert len(alt.split()) >= 4, f"cell metadata mystnb.image.alt does not describe the picture of:\n{cell.source}"
        assert mystnb.get("figure", {}).get("name"), f"no mystnb.figure.name:\n{cell.source}"
        assert below.source.startswith("*Figure.* "), f"no caption under:\n{cell.source}"


@each_chapter
def test_first_cell_fetches_this_repository_on_colab(path):
    """All first cells are one, kept in book/first_cell.py; its address and branch are those of _config.yml (see one_commit.py)."""
    first = (ROOT / "book" / "first_cell.py").read_text().rstrip("\n")
    assert code_cells(path)[0].source == first
    assert f'"{CONFIG["repository"]["url"]}", "{CONFIG["repository"]["branch"]}"' in first


@pytest.mark.parametrize("page", PAGES)
def test_no_machine_paths(page):
    notebook = ROOT / f"{page}.ipynb"
    if notebook.exists():
        texts = [c.source for c in nbformat.read(notebook, as_version=4).cells]
        texts += [output_text(o) for c in code_cells(notebook) for o in c.outputs]
    else:
        texts = [(ROOT / f"{page}.md").read_text()]
    for text in texts:
        found = MACHINE_PATH.search(text)
        assert not found, text[max(0, found.start() - 60) : found.end() + 60]
