"""Nothing hostile runs: files of weights, records and data are read and never executed, names are shown and never obeyed."""

import copy
import os
import pickle
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy
import pytest
import torch
from conftest import CHROMIUM

from noprop_helpers import NoPropError
from noprop_helpers import __main__ as cli
from noprop_helpers.checkpoints import FORMAT, CheckpointError
from noprop_helpers.lab import landing, plots, recording, records
from noprop_helpers.lab.widgets.film import sudoku_film
from noprop_helpers.lab.widgets.predictions import prediction_browser
from noprop_helpers.lab.widgets.walk import walk

ROOT = Path(__file__).parent.parent
HTML = ROOT / "_build" / "html"
sys.path.append(str(ROOT / "book" / "_ext"))

import content_policy  # noqa: E402

EVIL = """<img src=x onerror="window.hacked = 1">"'</script><script>window.hacked = 1</script><!--<script>"""


class Bomb:
    """Whoever unpickles it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def bomb(tmp_path):
    """A bomb; after the test it has not gone off."""
    yield Bomb(tmp_path / "made")
    assert not (tmp_path / "made").exists()


# --- Weights, records, data -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("inside", ["a file of torch", "a pickle"])
@pytest.mark.parametrize("words", ["predict FILE FILE", "join FILE", "train --resume --checkpoint FILE"])
def test_no_command_runs_what_is_in_a_file_of_weights(tmp_path, bomb, capsys, words, inside):
    file = tmp_path / "evil.pt"
    if inside == "a pickle":
        file.write_bytes(pickle.dumps(bomb))
    else:
        torch.save({"format": FORMAT, "state": bomb}, file)
    assert cli.main([word.replace("FILE", str(file)) for word in words.split()]) == 2
    assert "is not a readable checkpoint" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nor_what_an_interrupted_recording_left(tmp_path, bomb):
    torch.save({"format": FORMAT, "origin": bomb}, tmp_path / "a.partial")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        recording._finished(tmp_path / "a.partial", {}, fresh=False)


def test_nor_what_lies_beside_a_record(tmp_path, bomb):
    numpy.savez(tmp_path / "objects.npz", **{"0/top": numpy.array([bomb], dtype=object)})
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(bomb))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and then nothing")
    for name in ("objects", "pickle", "broken"):
        with pytest.raises(NoPropError, match=f"{name}.npz holds no predictions"):
            records.right(name, tmp_path)


def test_nor_what_is_called_a_record(tmp_path, bomb):
    (tmp_path / "evil.json").write_bytes(pickle.dumps(bomb))
    with pytest.raises(NoPropError, match="not valid JSON"):
        records.read_record("evil", tmp_path)


def test_the_package_has_no_way_to_run_text_or_files():
    """Torch's and NumPy's readers are told not to, and nothing else could."""
    source = "\n".join(path.read_text() for path in sorted((ROOT / "noprop_helpers").rglob("*.py")))
    assert not re.search(r"\bpickle\.|(?<![\w.])(eval|exec)\(|os\.system|shell=True", source)
    assert set(re.findall(r"torch\.load\(.*?weights_only=(\w+)", source)) == {"True"} and source.count("torch.load(") == 1
    assert set(re.findall(r"numpy\.load\(.*?allow_pickle=(\w+)", source)) == {"False"} and source.count("numpy.load(") == 1


# --- Text that could be HTML, or more ---------------------------------------------------------------------------------


def places(value, path=()):
    """Where a record holds single values, the first two of every list."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(min(2, len(value))):
            yield from places(value[key], (*path, key))
    else:
        yield path


def with_text(value, path, text):
    """A copy that holds the text at a place."""
    value = copy.copy(value)
    value[path[0]] = with_text(value[path[0]], path[1:], text) if len(path) > 1 else text
    return value


@pytest.mark.parametrize("figure, name", [(walk, "digits_walks"), (prediction_browser, "digits_walks"), (sudoku_film, "sudoku_walks")])
def test_no_value_of_a_record_becomes_html_in_a_figure(figure, name):
    """The figure shows it as text, or says that it is none of its values."""
    run = records.read_record(name)["runs"][0]
    scripts, shown = figure({"runs": [run]}).data.count("<script"), 0
    for path in places({"shown": run["shown"], "results": run["results"]}):
        try:
            text = figure({"runs": [with_text(run, path, EVIL)]}).data
        except (ValueError, TypeError, KeyError, IndexError, NoPropError):
            continue
        shown += 1
        assert not re.search("<img|<!--", text) and text.count("<script") == scripts, path
    assert shown > 5


def test_no_value_becomes_html_in_a_table():
    table = plots.table(["NAME", EVIL], [[plots.breakable(EVIL), "a\nb"], ["`code`", "*b*"]]).data
    assert set(re.findall(r"<[^>]*>", table)) <= {"<code>", "</code>", "<wbr>"}
    assert len(table.splitlines()) == 4 and "| `code` | *b* |" in table


def test_a_class_name_is_no_formula():
    _, ax = plt.subplots()
    plots.plot_state(ax, torch.tensor([0.2, 0.8]), 1, ["$\\nothing$", "b"])
    ax.figure.canvas.draw()
    assert ax.get_xticklabels()[0].get_text() == r"\$\nothing\$"
    plt.close("all")


def test_a_picture_takes_numbers_alone():
    layers = [{"valid": {"mean": EVIL}}]
    with pytest.raises((ValueError, TypeError)):
        landing.sudoku_picture({"summary": {"chain": {"by_layer": layers}}})


def test_a_terminal_is_told_nothing_by_a_name(capsys):
    """Signs that a terminal obeys, and bytes that are no text, as names of files and classes may hold them."""
    cli._say("\x1b]0;owned\x07 cat\udcff 93.1\N{NO-BREAK SPACE}%\nnext")
    cli._tell("a\rb")
    said = capsys.readouterr()
    assert said.out == "\\x1b]0;owned\\x07 cat\\udcff 93.1\N{NO-BREAK SPACE}%\nnext\n"
    assert said.err == "noprop_helpers: a\\rb\n"


# --- What a page lets run ---------------------------------------------------------------------------------------------

PAGE = """<html><head><meta charset="utf-8"/><script>theme()</script></head><body><article>
<script>(function () {\n"use strict";\nfunction each(name, start) {}})();</script>
<script type="application/json">{"data": 1}</script><script src="a.js"></script>
<script>window.hacked = 1</script></article><script>footer()</script></body></html>"""


def test_a_page_names_its_own_scripts_and_no_others():
    scripts = content_policy.inline_scripts(PAGE)
    assert [text[:8] for text in scripts] == ["theme()", "(functio", "footer()"]
    policy = content_policy.policy(PAGE)
    assert all(content_policy.checksum(text) in policy for text in scripts)
    assert content_policy.checksum("window.hacked = 1") not in policy
    assert content_policy.with_policy(PAGE).index("Content-Security-Policy") < PAGE.index("<script>") + 40


def test_a_checksum_is_as_browsers_compute_it():
    """The one that the specification gives for this script."""
    assert content_policy.checksum("alert('Hello, world.');") == "'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='"


@pytest.mark.built
def test_every_built_page_states_a_strict_policy():
    for path in HTML.rglob("*.html"):
        if "_static" in path.relative_to(HTML).parts:
            continue
        page = path.read_text(encoding="utf-8")
        (said,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', page)
        scripts = re.search("script-src ([^;]*);", said).group(1)
        assert said.startswith("default-src 'none'") and said == content_policy.policy(page), path
        assert "unsafe-inline" not in scripts and "unsafe-eval" not in scripts and "http" not in scripts
        assert page.index("Content-Security-Policy") < min(page.find(tag) % 10**9 for tag in ("<script", "<link", "<style"))
        if path.name != "404.html":  # whose links start where the book is published
            assert "<base" not in page


@pytest.mark.built
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_what_gets_onto_a_page_all_the_same_does_not_run(browser, tmp_path):
    page, complaints = browser.new_page(), []
    page.on("console", lambda m: complaints.append(m.text))
    text = (HTML / "book" / "references.html").read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(text.replace("</article>", f"<p id='hostile'>{EVIL}--></script></p></article>", 1))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector("#hostile img", state="attached")
    assert page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in line for line in complaints)
    page.close()
