"""What a reader of any chapter can rely on: how it opens and ends, short visible code, folded plumbing, exercises of five kinds.

A chapter is a notebook whose name begins with its number. Cells are told apart by their tags: ``hide-input`` is folded code with
its output shown, ``hide-cell`` a folded solution, ``remove-cell`` what only Colab and CI need.
"""

import ast
import re
import statistics
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "book").glob("[0-9][0-9]-*.ipynb"))
LEDGER = ROOT / "book" / "records-ledger.ipynb"
FOLDED = {"hide-input", "hide-cell", "remove-cell"}
KINDS = ("predict", "fill in", "derive", "explore", "project")
EXERCISE = re.compile(r"^> \*\*Exercise (\d+)\.(\d+)\*\* \*\((.+?)\)\*\.", re.M)
MOST_LINES, MEDIAN_LINES, MOST_COLUMNS = 20, 8, 92  # the page shows 92 columns without scrolling

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def cells_of(path, kind=None):
    return [cell for cell in nbformat.read(path, as_version=4).cells if kind in (None, cell.cell_type)]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def visible(path):
    """Code that the page shows without a click."""
    return [cell for cell in cells_of(path, "code") if not FOLDED & tags(cell)]


def prose(path):
    return "\n\n".join(cell.source for cell in cells_of(path, "markdown"))


def number_of(path):
    return int(path.name[:2])


def claimed_nowhere(source):
    """The asserts of a cell that stand outside ``with claims():``, which would stop a reader who changed a number."""
    tree = ast.parse(source)
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.With)]
    held = [block for block in blocks if "claims()" in [ast.unparse(item.context_expr) for item in block.items]]
    inside = {node for block in held for node in ast.walk(block)}
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Assert) and node not in inside]


@each_chapter
def test_it_opens_with_a_question_and_what_the_reader_will_be_able_to_do(path):
    opening = cells_of(path, "markdown")[0].source
    title, question, *_ = [line for line in opening.splitlines() if line]
    assert title.startswith("# ")
    assert re.fullmatch(r"\*[^*]+\?\*", question), question
    for promise in ("**You will be able to**", "**You need**", "**Time**"):
        assert promise in opening, f"{promise} is missing"
    assert re.search(r"\*\*Time\*\* \d+ minutes", opening)
    assert "(notation.md)" in opening or number_of(path) == 0  # which has no symbols but its code's


@each_chapter
def test_it_ends_with_exercises_key_points_and_where_to_go(path):
    headings = re.findall(r"^## (.+)$", prose(path), re.M)
    assert headings[-2:] == ["Key points", "Exercises"], headings
    points = prose(path).split("## Key points")[1].split("## Exercises")[0]
    assert 3 <= len(re.findall(r"^- ", points, re.M)) <= 7
    assert re.search(r"^\*\*Next:\*\* \[.+\]\(.+\)", points, re.M), "key points close with **Next:** and a link"


@pytest.mark.parametrize("path", [*CHAPTERS, LEDGER], ids=lambda path: path.stem)
def test_visible_code_is_short(path):
    lengths = {cell.source: len(cell.source.splitlines()) for cell in visible(path)}
    too_long = [source for source, length in lengths.items() if length > MOST_LINES]
    assert too_long == [] and statistics.median(lengths.values()) <= MEDIAN_LINES


@each_chapter
def test_code_fits_the_page(path):
    lines = [line for cell in cells_of(path, "code") for line in cell.source.splitlines()]
    assert [line for line in lines if len(line) > MOST_COLUMNS] == []


@each_chapter
def test_what_is_folded_is_folded_in_notebooks_too(path):
    """Colab folds a cell whose first line is a title and whose view is a form, JupyterLab by its own flag."""
    for cell in cells_of(path, "code"):
        if FOLDED & tags(cell):
            assert cell.source.startswith("# @title "), cell.source
            assert cell.metadata.get("cellView") == "form" and cell.metadata["jupyter"]["source_hidden"], cell.source


@each_chapter
def test_imports_plots_and_checks_are_folded(path):
    for cell in visible(path):
        assert not re.search(r"^(import|from) |\bplt\.|^\s*assert ", cell.source, re.M), cell.source


@pytest.mark.parametrize("path", [*CHAPTERS, LEDGER], ids=lambda path: path.stem)
def test_checks_are_hidden_and_let_readers_change_what_they_like(path):
    for cell in cells_of(path, "code"):
        if any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(cell.source))):
            assert "remove-cell" in tags(cell) and cell.source.startswith("# @title Check"), cell.source
            assert claimed_nowhere(cell.source) == [], cell.source
            assert cell.outputs == []  # nor a line that says they do not hold


@pytest.mark.parametrize(
    "source, found",
    [
        ("with claims():\n    for x in y:\n        assert x\nassert a", ["assert a"]),
        ("with open(f), claims():\n    assert a", []),
        ("with claims:\n    assert a", ["assert a"]),
        ("def f():\n    assert a", ["assert a"]),
    ],
)
def test_an_assert_outside_of_claims_is_found(source, found):
    assert claimed_nowhere(source) == found


@each_chapter
def test_numbers_are_printed_not_sentences_about_them(path):
    for cell in cells_of(path, "code"):
        assert not re.search(r"^\s*print\(\s*\"[^\"{]*\"\s*\)", cell.source, re.M), cell.source


@each_chapter
def test_there_is_something_to_look_at_early(path):
    """Within the first two screens: a picture or an interactive figure among the first eight cells."""
    shown = [kind for cell in cells_of(path)[:8] for output in cell.get("outputs", []) for kind in output.get("data", {})]
    assert {"image/png", "text/html"} & set(shown)


@each_chapter
def test_the_number_of_layers_is_set_once(path):
    assert sum(len(re.findall(r"^T(?:, \w+)* = ", cell.source, re.M)) for cell in cells_of(path, "code")) <= 1


@each_chapter
def test_exercises_are_of_five_kinds_and_numbered(path):
    found = EXERCISE.findall(prose(path))
    assert [(int(chapter), int(number)) for chapter, number, _ in found] == [(number_of(path), i + 1) for i in range(len(found))]
    assert {kind for *_, kind in found} == set(KINDS), "every chapter has all five kinds"


@each_chapter
def test_every_exercise_but_a_project_gives_a_hint(path):
    asked = [cell.source for cell in cells_of(path, "markdown") if EXERCISE.search(cell.source)]
    assert [EXERCISE.search(text)[0] for text in asked if "<summary>Hint" not in text and EXERCISE.search(text)[3] != "project"] == []


@each_chapter
def test_every_exercise_but_a_project_checks_an_answer(path):
    """At least four a chapter. Of 12.4 only the reader's own machine knows the answer."""
    checked = {name for cell in visible(path) for name in re.findall(r"check\(\s*\"(\d+\.\d+)\"", cell.source)}
    asked = {f"{chapter}.{number}" for chapter, number, kind in EXERCISE.findall(prose(path)) if kind != "project"}
    assert asked - checked <= {"12.4"} and len(checked) >= 4


@each_chapter
def test_exercises_have_an_answer_to_check_or_a_solution_to_open(path):
    """Every exercise is followed, before the next, by a solution: a folded cell, or a <details> in the text."""
    cells = cells_of(path)
    starts = [i for i, cell in enumerate(cells) if EXERCISE.search(cell.source)]
    for start, end in zip(starts, [*starts[1:], len(cells)]):
        name = ".".join(EXERCISE.search(cells[start].source).groups()[:2])
        text = "\n".join(cell.source for cell in cells[start:end])
        assert f"Solution {name}" in text, f"no solution of {name}"


@each_chapter
def test_a_solution_passes_its_own_check(path):
    """A check in a folded solution says "right"; the reader's own, above it, waits for an answer."""
    for cell in cells_of(path, "code"):
        said = "".join(output.get("text", "") for output in cell.outputs)
        for name in re.findall(r"check\(\s*\"(\d+\.\d+)\"", cell.source):
            right = "hide-cell" in tags(cell)
            assert f"Exercise {name}: {'right' if right else 'put your answer'}" in said, cell.source


def test_answers_belong_to_exercises():
    from noprop_helpers.lab.answers import ANSWERS

    asked = {f"{chapter}.{number}" for path in CHAPTERS for chapter, number, _ in EXERCISE.findall(prose(path))}
    assert {name for name in ANSWERS if int(name.split(".")[0]) in map(number_of, CHAPTERS)} <= asked
