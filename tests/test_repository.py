"""What a newcomer meets at the top of the repository is true: versions agree, links lead to files, commands exist."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "llms.txt")


def test_citation_names_this_version_and_the_paper():
    """Required keys of the Citation File Format 1.2.0, and the package's own version."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= cited.keys()
    assert f'version = "{cited["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert cited["license"] in (ROOT / "LICENSE").read_text()
    assert cited["repository-code"] == yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert "arxiv.org/abs/2503.24322" in cited["references"][0]["url"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    assert [link for link in links if not link.startswith("https://") and not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_files_in_code_marks_are_there(page):
    """`path/to/file` in prose names a file; NAME stands for any."""
    named = re.findall(r"`((?:book|tests|noprop_helpers)/[\w./-]+\.\w+)`", (ROOT / page).read_text())
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", [*PAGES, *(f"book/{path.name}" for path in (ROOT / "book").glob("*.md"))])
def test_commands_can_be_copied(page):
    """To a shell, a choice written as one|other is a pipe."""
    lines = [line.partition("#")[0] for line in (ROOT / page).read_text().splitlines()]
    assert [line for line in lines if re.search(r"--[\w-]+ \w+\\?\|\w", line)] == []


def test_language_models_are_told_of_every_chapter():
    told = re.findall(r"\]\((book/[^)]+)\)", (ROOT / "llms.txt").read_text())
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "book").glob("*.ipynb")} <= set(told)
    assert len(told) == len(set(told))


def test_commands_for_contributors_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    commands = re.findall(r"^    make ([\w-]+)", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert commands and set(commands) <= set(targets)
    words = ("no", "one", "two", "three", "four")
    assert f"[CONTRIBUTING.md](CONTRIBUTING.md) has {words[len(commands)]} commands" in (ROOT / "README.md").read_text()
    assert f"{words[len(commands)].capitalize()} commands" in (ROOT / "CONTRIBUTING.md").read_text()
