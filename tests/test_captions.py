"""Captions written under a figure's cell stand in the figure of the built book, numbered, and nowhere else."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
HTML = ROOT / "_build" / "html" / "book"
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))

pytestmark = pytest.mark.built


def figures_of(path):
    """Names of the figures of a chapter, in order."""
    cells = nbformat.read(path, as_version=4).cells
    return [name for cell in cells if (name := cell.metadata.get("mystnb", {}).get("figure", {}).get("name"))]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_figure_of_a_chapter_has_its_caption(path):
    page = (HTML / f"{path.stem}.html").read_text()
    figures = re.findall(r'<figure[^>]*id="([^"]+)">(.*?)</figure>', page, re.S)
    assert [name for name, _ in figures] == figures_of(path)
    assert all("<figcaption>" in body and "caption-number" in body for _, body in figures)
