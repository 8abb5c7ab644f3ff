"""Chapters on Colab, imitated: from an empty folder, with the package fetched by the chapter's own first cell."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml
from colab import FIRST, imitate, on_colab

ROOT = Path(__file__).parent.parent
REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git on this machine")


def git(*arguments, folder):
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *author, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """This checkout's book and package, as a repository of one commit."""
    folder = tmp_path_factory.mktemp("published")
    for part in ("book", "noprop_helpers"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    git("init", "--quiet", "--initial-branch", REPOSITORY["branch"], folder=folder)
    git("add", ".", folder=folder)
    git("commit", "--quiet", "--message", "all", folder=folder)
    return folder


@pytest.fixture
def colab(published, tmp_path, monkeypatch):
    """An empty machine: ``google.colab`` is loaded, /content is a folder, the book's address leads to ``published``."""
    monkeypatch.setenv("PYTHONPATH", imitate(tmp_path / "site"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{published.as_uri()}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", REPOSITORY["url"])
    content = tmp_path / "content"
    content.mkdir()
    return content


def printed(book):
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.mark.slow
@pytest.mark.parametrize("chapter", ["01-schedule-math", "02-forward-diffusion"])
def test_a_chapter_runs_from_its_own_first_cell_and_prints_what_is_stored(colab, chapter):
    path = ROOT / "book" / f"{chapter}.ipynb"
    package = colab / "noprop-book" / "noprop_helpers" / "__init__.py"
    assert printed(on_colab(path, colab)) == printed(nbformat.read(path, as_version=4)) + f"{package}\n"
    assert os.listdir(colab) == ["noprop-book"]


def test_a_downloaded_notebook_says_where_to_get_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=f"git clone {REPOSITORY['url']}, then pip install"):
        exec(FIRST, {})


def test_the_first_cell_installs_nothing():
    """Colab's own torch stays: the book is fetched and put on the path."""
    assert "pip" not in FIRST.split("if importlib.util")[0] and "sys.path.insert" in FIRST
