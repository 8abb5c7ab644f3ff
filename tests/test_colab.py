"""Chapters on Colab, imitated: from an empty folder, with the package fetched by the chapter's own first cell."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from colab import FIRST, NOTEBOOKS, differences, imitate, on_colab
from conftest import pages_of

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from one_commit import BRANCH, pin, pinned  # noqa: E402

REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git on this machine")


def git(*arguments, folder):
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *author, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


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
    stored, run = nbformat.read(path, as_version=4), on_colab(path, colab)
    assert printed(run) == printed(stored) + f"{package}\n" and differences(stored, run) == []
    assert os.listdir(colab) == ["noprop-book"]


# --- What the weekly job compares ---


def test_every_notebook_with_a_button_is_run():
    pages = pages_of(yaml.safe_load((ROOT / "_toc.yml").read_text()))
    assert [path.stem for path in NOTEBOOKS] == sorted(Path(page).name for page in pages if (ROOT / f"{page}.ipynb").exists())
    assert "records-ledger" in [path.stem for path in NOTEBOOKS]


def notebook(*cells):
    """A notebook of cells, (output's text, tags...)."""
    made = [nbformat.v4.new_code_cell("code", metadata={"tags": tags}, outputs=[output]) for output, *tags in cells]
    return nbformat.v4.new_notebook(cells=made)


def test_what_a_cell_says_is_compared_with_what_is_stored():
    def text(words):
        return nbformat.v4.new_output("stream", text=words)

    def table(words):
        return nbformat.v4.new_output("execute_result", data={"text/markdown": words})

    stored = notebook([text("acc 0.98\n")], [table("| 1 |")], [text("3 ms on cpu")], [text("mine"), "nbval-ignore-output"])
    same = notebook([text("acc 0.98\n")], [table("| 1 |")], [text("5 s on cuda:0")], [text("yours"), "nbval-ignore-output"])
    other = notebook([text("acc 0.97\n")], [table("| 2 |")], [text("3 ms on cpu, no")], [text("mine")])
    assert differences(stored, same) == []
    assert differences(stored, other)[:2] == ["code\n- acc 0.98\n\n+ acc 0.97\n", "code\n- | 1 |\n+ | 2 |"]
    assert len(differences(stored, other)) == 3


# --- Notebook and package of one commit ---


def first_cell(notebook):
    """The source of a chapter's first code cell, out of its JSON."""
    return "".join(next(cell["source"] for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"))


def test_every_chapter_can_be_pinned_and_changes_in_nothing_else(tmp_path):
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        shutil.copy(path, tmp_path)
    pin(tmp_path, "0a1b2c")
    assert len(list(tmp_path.iterdir())) >= 15
    for path in tmp_path.iterdir():
        before, after = (ROOT / "book" / path.name).read_text(), path.read_text()
        assert first_cell(after) == first_cell(before).replace(f'"{REPOSITORY["branch"]}"', '"0a1b2c"') != first_cell(before)
        assert after.replace("0a1b2c", REPOSITORY["branch"]) == before
    with pytest.raises(ValueError, match="expected one line 'BOOK, VERSION = ...' in a notebook, found 0"):
        pinned("{}", "0a1b2c")


@pytest.mark.slow
def test_a_pinned_chapter_gets_the_package_of_its_commit_however_the_book_goes_on(published, colab, tmp_path):
    """The job that publishes, run on a repository of our own; then the package's next commit cannot even be imported."""
    hub, checkout = tmp_path / "hub.git", tmp_path / "checkout"
    git("clone", "--quiet", "--bare", published, hub, folder=tmp_path)
    git("clone", "--quiet", "--depth", "1", hub.as_uri(), checkout, folder=tmp_path)
    commit = git("rev-parse", "HEAD", folder=checkout)

    (script,) = re.findall(r"run: \|\n((?: +.*\n)+?) +env:\n", (ROOT / ".github/workflows/book.yml").read_text())
    variables = {"GITHUB_SHA": commit, "GITHUB_REPOSITORY": "we/book", "GH_TOKEN": "secret"}
    variables |= {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_1": f"url.{hub.as_uri()}.insteadOf"}
    variables |= {"GIT_CONFIG_VALUE_1": "https://x-access-token:secret@github.com/we/book"}
    subprocess.run(["bash", "-e", "-c", script], cwd=checkout, env=os.environ | variables, check=True)

    (checkout / "noprop_helpers" / "__init__.py").write_text("raise ImportError('of another commit')\n")
    git("commit", "--quiet", "--all", "--message", "next", folder=checkout)
    git("push", "--quiet", hub.as_uri(), f"HEAD:{REPOSITORY['branch']}", "--force", folder=checkout)

    chapter = git("show", f"{BRANCH}:book/01-schedule-math.ipynb", folder=hub)
    there = {"GIT_CONFIG_KEY_0": f"url.{hub.as_uri()}.insteadOf"}
    for notebook, works in ((chapter, True), ((ROOT / "book/01-schedule-math.ipynb").read_text(), False)):
        content = tmp_path / f"content {works}"
        content.mkdir()
        code = first_cell(notebook).replace("/content/", f"{content}/") + "\nimport noprop_helpers.schedules"
        done = subprocess.run([sys.executable, "-c", code], cwd=content, env=os.environ | there, capture_output=True, text=True)
        assert (done.returncode == 0, "of another commit" in done.stderr) == (works, not works), done.stderr
        assert done.stdout == "" and (done.stderr == "") == works  # Colab shows what git says
    assert git("rev-parse", "HEAD", folder=tmp_path / "content True" / "noprop-book") == commit


def test_a_downloaded_notebook_says_where_to_get_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=f"git clone {REPOSITORY['url']}, git -C noprop-book checkout main, then pip install -e"):
        exec(FIRST, {})


def test_the_first_cell_installs_nothing():
    """Colab's own torch stays: the book is fetched and put on the path."""
    assert "pip" not in FIRST.split("if importlib.util")[0] and "sys.path.insert" in FIRST
