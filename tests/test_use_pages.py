"""The pages of the part "Use it", performed: every listing in order, in an empty folder, with nothing but the page's text.

A ``text`` block holds what the block above it prints. There ``...`` stands for anything, and percentages may differ by two
points: training rounds otherwise on another processor. Where that can change every number, ``<!-- in form -->`` above the
block leaves the words to be compared, and takes one number or class for another.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PAGES = ("your-own-images", "how-to", "conformance")
FROM_A_CLONE = "teaching"  # has one command, which makes its files from the chapters
POINTS = 2.0
INTERPRETERS = {"bash": ["bash", "-e"], "python": [sys.executable, "-"]}
# The one thing that is not performed: the package is there, and the network need not be.
INSTALL = ("pip install git+", "git clone ")


def blocks(text):
    """Fenced blocks of a page, in their order: [(language, content)]; "form" for a text to be compared in form."""
    found = re.findall(r"^(<!-- in form -->\n)?```(\w*)\n(.*?)^```$", text, re.S | re.M)
    return [("form" if in_form else language, content) for in_form, language, content in found]


def page(name):
    return (ROOT / "book" / f"{name}.md").read_text()


def perform(language, content, folder):
    """What a listing prints, on both streams, as a reader sees it. It must end well."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if name != "NOPROP_DATA"}
    done = subprocess.run(
        INTERPRETERS[language], input=content, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment | {"PATH": path, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, f"{content}\nends with {done.returncode}:\n{done.stdout}"
    return done.stdout


def agrees(expected, printed):
    """Whether a ``text`` block tells what was printed."""
    pieces = re.split(r"(\.\.\.|\d+\.\d+ %)", expected)
    numbers = [float(piece.removesuffix(" %")) for piece in pieces if re.fullmatch(r"\d+\.\d+ %", piece)]
    pattern = "".join(
        ".*" if piece == "..." else r"(\d+\.\d+) %" if re.fullmatch(r"\d+\.\d+ %", piece) else re.escape(piece) for piece in pieces
    )
    match = re.fullmatch(pattern, printed, re.S)
    return match is not None and all(abs(float(a) - b) <= POINTS for a, b in zip(match.groups(), numbers, strict=True))


def same_form(expected, printed):
    """Whether two texts are the same but for their numbers."""
    return re.sub(r"\d+(\.\d+)?", "N", expected) == re.sub(r"\d+(\.\d+)?", "N", printed)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PAGES, FROM_A_CLONE])
def test_the_page_can_be_performed(name, tmp_path):
    printed = None
    for language, content in blocks(page(name)):
        if language in INTERPRETERS:
            assert printed in (None, ""), f"the page does not say that this is printed:\n{printed}"
            printed = perform(language, content, tmp_path)
        elif language in ("text", "form"):
            assert (agrees if language == "text" else same_form)(content, printed), f"the page says\n{content}\nand what was printed is\n{printed}"
            printed = None
        else:
            assert language == "" or content.startswith(INSTALL), f"nobody performs this:\n{content}"
    assert printed in (None, "")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_in_its_part_and_its_listings_are_short(name):
    (part,) = [part for part in yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"] if part["caption"] == "Use it"]
    assert f"book/{name}" in [chapter["file"] for chapter in part["chapters"]] and "numbered" not in part
    listings = [content for language, content in blocks(page(name)) if language in INTERPRETERS]
    assert len(listings) >= 5
    for content in listings:
        assert len([line for line in content.splitlines() if line.strip()]) <= 20, content


@pytest.mark.parametrize("expected, printed, same", [
    ("98.9 %\n", "98.9 %\n", True),
    ("98.9 %\n", "97.0 %\n", True),
    ("98.9 %\n", "96.8 %\n", False),
    ("98.9 % of 3\n", "98.9 % of 4\n", False),
    ("7 100.0 %, then ...\n", "7 99.1 %, then 8 0.4 %\n", True),
    ("7 100.0 %, then ...\n", "8 99.1 %, then 7 0.4 %\n", False),
    ("a\n...\n", "a\nb\nc\n", True),
    ("a\n", "a\nb\n", False),
    ("(1, 2) [3]\n", "(1, 2) [3]\n", True),
])  # fmt: skip
def test_what_is_printed_is_compared(expected, printed, same):
    assert agrees(expected, printed) == same


def test_a_form_is_compared():
    assert same_form("8: 94.3 % of 35\n2: 1.5\n", "7: 9 % of 3\n3: 0.25\n")
    assert not same_form("8: 94.3 % of 35\n", "8: 94.3 % in 35\n") and not same_form("8\n9\n", "8\n")
    assert blocks("<!-- in form -->\n```text\n8\n```\n```text\n9\n```\n") == [("form", "8\n"), ("text", "9\n")]


def test_a_listing_that_fails_is_seen(tmp_path):
    assert perform("python", "print(1 + 1)", tmp_path) == "2\n"
    assert perform("bash", "echo out; echo err >&2", tmp_path) == "out\nerr\n"
    for language, content in (("python", "1 / 0"), ("bash", "false\necho on")):
        with pytest.raises(AssertionError, match="ends with 1"):
            perform(language, content, tmp_path)
