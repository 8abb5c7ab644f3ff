"""The archive that ships is the site, whole: what is not as it should be, a page, a link, a picture or a number, is found in it."""

import shutil
from pathlib import Path

import archive
import pytest

HTML = Path(__file__).parent.parent / "_build" / "html"

pytestmark = pytest.mark.built


@pytest.fixture
def site(tmp_path):
    shutil.copytree(HTML, tmp_path / "site")
    return tmp_path / "site"


def test_the_built_site_may_be_shipped(tmp_path, capsys):
    archive.main(str(HTML), str(tmp_path / "site.zip"), str(tmp_path / "opened"))
    assert "whole" in capsys.readouterr().out
    assert (tmp_path / "opened" / "llms.txt").read_bytes() == (HTML / "llms.txt").read_bytes()
    with pytest.raises(FileExistsError):  # what is published is what was packed, and nothing that lay there
        archive.main(str(HTML), str(tmp_path / "site.zip"), str(tmp_path / "opened"))


def test_the_same_site_makes_the_same_archive(tmp_path):
    for name in ("a", "b"):
        archive.pack(HTML / "book", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_whatever_is_missing_or_changed_is_found(site):
    (site / "book" / "glossary.html").unlink()
    (site / "searchindex.js").unlink()
    picture = next(path for path in (site / "_images").iterdir() if path.suffix in {".png", ".webp"})
    picture.write_bytes(b"")
    (site / "_static" / "custom.css").unlink()
    page = site / "book" / "14-no-gradient-anywhere.html"
    page.write_text(page.read_text().replace("78.1 %", "78.2 %"))
    wrong = archive.wrong_with(site)
    assert "book/glossary.html is missing" in wrong
    assert any("custom.css, which is not there" in line for line in wrong)
    assert any("14-no-gradient-anywhere.html: 78.1 %" in line for line in wrong)
    assert any(line.startswith(f"_images/{picture.name} cannot be shown") for line in wrong)
    assert any(line.startswith("searchindex.js ") for line in wrong)


def test_a_place_that_is_not_there_is_found(site):
    page = site / "book" / "01-schedule-math.html"
    page.write_text(page.read_text().replace('id="eq-1-2"', 'id="eq-1-99"'))
    wrong = archive.broken_links(site)
    assert "book/01-schedule-math.html leads to #eq-1-2, and there is no such place" in wrong
    assert "book/notation.html leads to 01-schedule-math.html#eq-1-2, and there is no such place" in wrong


@pytest.mark.parametrize("suffix", [".png", ".webp", ".svg"])
def test_a_picture_that_cannot_be_shown_is_found(site, suffix):
    for folder, bad in (("_images", lambda data: data[: len(data) // 2]), ("_static", lambda data: b"")):
        for picture in sorted((site / folder).glob(f"*{suffix}"))[:1]:
            picture.write_bytes(bad(picture.read_bytes()))
            assert [line for line in archive.broken_pictures(site) if f"{picture.name} cannot be shown" in line]
    assert len(archive.broken_pictures(site)) >= 1


@pytest.mark.parametrize("text", ["", "Search.setIndex({})", "Search.setIndex({", None, 'Search.setIndex({"docnames": [], "terms": {}})'])
def test_a_search_that_finds_nothing_is_found(site, text):
    index = site / "searchindex.js"
    index.unlink() if text is None else index.write_text(text)
    assert [line for line in archive.wrong_index(site) if line.startswith("searchindex.js ")]
