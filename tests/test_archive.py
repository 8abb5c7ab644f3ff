"""The archive that ships is the site, whole: a page, a file or a number that is not as it should be is found in it."""

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
    archive.main(str(HTML), str(tmp_path / "site.zip"))
    assert "whole" in capsys.readouterr().out


def test_the_same_site_makes_the_same_archive(tmp_path):
    for name in ("a", "b"):
        archive.pack(HTML / "book", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_missing_page_a_missing_file_and_a_changed_number_are_found(site):
    (site / "book" / "glossary.html").unlink()
    (site / "_static" / "custom.css").unlink()
    page = site / "book" / "14-no-gradient-anywhere.html"
    page.write_text(page.read_text().replace("78.1 %", "78.2 %"))
    wrong = archive.wrong_with(site)
    assert "book/glossary.html is missing" in wrong
    assert any("custom.css, which is not there" in line for line in wrong)
    assert any("14-no-gradient-anywhere.html: 78.1 %" in line for line in wrong)
