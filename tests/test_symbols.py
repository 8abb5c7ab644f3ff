r"""Every letter in a chapter's formulas is explained: in words where it is new, and in a row of the page Notation.

A letter is new in the first chapter, in the order of reading, whose formulas have it; one with a meaning of its own in some
chapters (Notation's last table), or in no row at all, is new in each. Words explain it where, beside its first use, a formula
between words begins with it, as in "the offset $s$" or "where $e_t = ...$ is", or a displayed one defines it. Beside means from
the paragraph before to the paragraph after, with what is displayed between.
"""

import functools
import re
import sys
from pathlib import Path

import nbformat
import pytest
from docutils import nodes
from docutils.core import publish_doctree
from myst_parser.docutils_ import Parser

ROOT = Path(__file__).parent.parent
HTML = ROOT / "_build" / "html" / "book"
CHAPTERS = sorted((ROOT / "book").glob("[0-9][0-9]-*.ipynb"))
sys.path.append(str(ROOT / "book" / "_ext"))

import symbols  # noqa: E402

EXCEPTIONS = {(1, r"\pi"): "the number"}  # letters that need no words: chapter, letter -> why
FORMULA = re.compile(r"\$\$(?P<displayed>.+?)\$\$|\$(?P<among_words>[^$\n]+)\$", re.S)
DEFINES = re.compile(r"[^=]*?(=|\\propto)")

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def parsed(text):
    """A page as the book parses it, headings with their ids."""
    settings = {"myst_enable_extensions": ["colon_fence", "dollarmath"], "report_level": 5, "halt_level": 5}
    return publish_doctree(text, parser=Parser(), settings_overrides=settings)


@functools.cache
def notation():
    return [row for _, row in symbols.rows(parsed((ROOT / "book" / "notation.md").read_text()))]


def prose(path):
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def number(path):
    return int(path.name[:2])


# What a letter is


@pytest.mark.parametrize(
    "latex, expected",
    [
        (r"z_{t-1} = a_t\, \hat u_t(z_t, x)", ["z", "a", r"\hat u", "z", "x"]),
        (r"\bar\alpha_t \hat{y} \mathcal L \mathbb{E}", [r"\bar \alpha", r"\hat y", r"\mathcal L", r"\mathbb E"]),
        (r"\mathrm{SNR}'(t) = S_{\text{layers}} \tag{1.2}", [r"\SNR", "t", "S"]),
        (r"\tfrac12 \log \mathrm{softmax}(A z + b)_y", ["A", "z", "b"]),
        (r"\frac{dz}{dt}, \int f \mathrm dx, e^{-\gamma}\,d\gamma", ["z", "t", "f", "x", r"\gamma", r"\gamma"]),
        (r"e(t), d\,\sqrt r", ["e", "t", "d", "r"]),
        (r"\operatorname*{arg\,min}_{i:\, y_i = k}\, m_i, \sum_{i=1}^{n} x^{(i)}", ["m", "n", "x", "i"]),
    ],
)
def test_letters_of_a_formula(latex, expected):
    assert symbols.letters(latex) == expected


def test_no_command_passes_for_a_letter_or_hides_one():
    """What stands after a backslash in the chapters' formulas is Greek, or one of these."""
    known = set(
        "approx arg bar begin big bigl bigr cdot cdots cos dots end exp frac ge hat int lVert lceil le left leftarrow log"
        " longrightarrow lvert mathbb mathcal mathrm max mid min ne operatorname partial perp pm prod propto quad rVert rceil"
        " right rvert sim sqrt sum tag tanh text tfrac tilde times to top".split()
    )
    formulas = " ".join(match[0] for path in CHAPTERS for match in FORMULA.finditer(prose(path)))
    found = set(re.findall(r"\\([A-Za-z]+)", formulas))
    assert found - symbols.GREEK - known == set()


# Words for every letter


def paragraphs(text):
    return [part for part in re.split(r"\n\s*\n", re.sub(r"^> ?", "", text, flags=re.M)) if part.strip()]


def explained(paragraph):
    """The letters that formulas of a paragraph begin with, if they stand among words, or define."""
    found = set()
    for match in FORMULA.finditer(paragraph):
        formula = (match[1] or match[2]).replace(r"\mathrm{SNR}", r"\SNR").strip()
        if (first := symbols.LETTER.match(formula)) and (match["among_words"] or DEFINES.match(formula)):
            found |= set(symbols.letters(first[0]))
    return found


def around(parts, at):
    """The paragraphs beside one, and what is displayed between."""
    first, last = at - 1, at + 1
    while first > 0 and parts[first].startswith("$$"):
        first -= 1
    while last < len(parts) - 1 and parts[last].startswith("$$"):
        last += 1
    return parts[max(first, 0) : last + 1]


def unexplained(text):
    """Letters at whose first use no words say what they are."""
    parts, seen, wrong = paragraphs(text), set(), []
    for at, part in enumerate(parts):
        new = {letter for match in FORMULA.finditer(part) for letter in symbols.letters(match[1] or match[2])} - seen
        seen |= new
        wrong += sorted(new - set().union(*map(explained, around(parts, at))))
    return wrong


def letters_of(path):
    return {letter for match in FORMULA.finditer(prose(path)) for letter in symbols.letters(match[1] or match[2])}


@each_chapter
def test_letters_have_words_where_they_are_new(path):
    everywhere = {letter for row in notation() if not row.chapters for letter, _ in row.letters}
    here = {letter for row in notation() if number(path) in row.chapters for letter, _ in row.letters}
    before = set().union(*map(letters_of, CHAPTERS[: CHAPTERS.index(path)])) & everywhere - here
    excused = {letter for chapter, letter in EXCEPTIONS if chapter == number(path)}
    assert set(unexplained(prose(path))) - before - excused == set()


@each_chapter
def test_letters_of_formulas_before_the_exercises_stand_in_notation(path):
    """But for those that a sentence needs and then forgets."""
    meant = {letter for row in notation() if not row.chapters or number(path) in row.chapters for letter, _ in row.letters}
    text = re.sub(r"<details>.*?</details>", "", prose(path).split("## Exercises")[0], flags=re.S)
    used = {letter for match in FORMULA.finditer(text) for letter in symbols.letters(match[1] or match[2])}
    assert used - meant == FORGOTTEN.get(number(path), set())


FORGOTTEN = {
    1: {r"\pi"},
    2: {"n", "v", "r"},  # draws and their variance; what an integral runs over
    8: {"i"},  # an image
    10: {"n", "i"},  # steps of a walk
}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("A step keeps $\\kappa z$ of it.\n\nNothing.", ["z"]),
        ("A step keeps $z \\kappa$ of it.\n\n$z$ is the state.", ["\\kappa"]),
        ("It is\n\n$$a = b + c ,$$\n\n$$d = 1 .$$\n\nwhere $b$ is.", ["c"]),
        ("With an offset $b$:\n\n$$a = b .$$\n\nMore.\n\n$$a \\le 2 q .$$", ["q"]),
        ("Two $1 + b$.\n\nThree.\n\nOf $b$.", ["b"]),
    ],
)
def test_a_letter_without_words_is_found(text, expected):
    assert unexplained(text) == expected


# Rows and lists

PAGE = r"""
| meaning | book | code |
|---|---|---|
| a state, of the label $u$ | $z_t$, $z_0$ clean (1.1) | `z` [B, D] |
| a guess | $\hat u(z, x)$ | none |
| no letter of its own | (4.1), $z_t = 0$ | `f` |
| asked in an exercise | $q$ | none |

| chapter | letter | meaning |
|---|---|---|
| 2, 3 | $z$, $S$ | height & size |
"""


def test_rows_of_notation():
    state, guess, _, size = [row for _, row in symbols.rows(parsed(PAGE))]
    assert state == ("s-z", frozenset(), (("z", "z_t"), ("z", "z_0")), r"a state, of the label \(u\)", "<code>z</code> [B, D]")
    assert (guess.letters, guess.code) == (((r"\hat u", r"\hat u(z, x)"),), "")
    assert (size.place, size.chapters, size.meaning) == ("s-2-3-z", {2, 3}, "height &amp; size")


@pytest.mark.parametrize("chapter, expected", [(1, ["s-hat-u", "s-z"]), (2, ["s-hat-u", "s-2-3-z"])])
def test_a_chapter_needs_rows_in_the_order_of_its_formulas_but_for_those_of_exercises(chapter, expected):
    rows = [row for _, row in symbols.rows(parsed(PAGE))]
    page = parsed("# A\n\nA $\\hat u_1$, and\n\n$$\n1 + z_2\n$$\n\n## Exercises\n\n$q$")
    assert [row.place for row in symbols.used(page, rows, chapter)] == expected


def test_an_item_shows_the_letters_and_links_their_meaning():
    (row, *_) = [row for _, row in symbols.rows(parsed(PAGE.replace("z_0", "z_0 < 1")))]
    expected = r'<li>\(z_t\), \(z_0 &lt; 1\): <a href="n.html#s-z">a state, of the label \(u\)</a>, <code>z</code> [B, D]</li>'
    assert symbols.item(row, "n.html") == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Chapter 2. Symbols are on the page [Notation](https://n/).\n**Time** 1 minute.", "Chapter 2.\nTime 1 minute."),
        ("Symbols are on the page [Notation](https://n/) and", "Symbols are on the page Notation and"),
    ],
)
def test_where_the_list_stands_no_sentence_leads_to_the_page(text, expected):
    paragraph = next(parsed(text).findall(nodes.paragraph))
    symbols.drop_sentence(paragraph)
    assert paragraph.astext() == expected


def test_places_on_the_page_are_each_their_own():
    places = [row.place for row in notation()]
    assert len(places) == len(set(places)) > 70


@each_chapter
@pytest.mark.built
def test_the_built_page_lists_its_symbols_under_its_opening(path):
    page = (HTML / f"{path.stem}.html").read_text(encoding="utf-8")
    expected = [row.place for row in symbols.used(parsed(prose(path)), notation(), number(path))]
    fold = re.search(r"<details class=\"symbols\">\n<summary>Symbols of this chapter</summary>.*?</details>", page, re.S)
    assert (fold is None) == (expected == [])
    if fold:
        opening = page[page.rindex("<h1>", 0, fold.start()) : fold.start()]
        assert opening.count("<strong>Time</strong>") == 1 and "<h2>" not in opening and "notation.html" not in opening
        assert len(fold[0].encode()) < 3000
        places = re.findall(r'href="notation.html#([^"]+)"', fold[0])
        assert set(expected) <= set(places)  # outputs of cells may need more
        target = (HTML / "notation.html").read_text(encoding="utf-8")
        assert all(re.search(rf'<tr[^>]* id="{place}"', target) for place in places)


@pytest.mark.built
def test_what_chapter_two_needs():
    page = (HTML / "02-forward-diffusion.html").read_text(encoding="utf-8")
    fold = re.search(r"Symbols of this chapter.*?</details>", page, re.S)[0]
    for line in (r"<li>\(\bar\alpha_t\): ", "signal left</a>, <code>alpha_bar[t]</code>", r"<li>\(P_t\): ", "#s-SNR"):
        assert line in fold
    assert r"\(S\)" not in fold and "#s-eta" not in fold
