r"""Sphinx extension: under its opening a chapter lists, folded, the symbols of its formulas, each with its meaning and a link.

All that is said stands in the tables of the page Notation, whose rows get places to land on. A row explains the letters that
its formulas begin with: ``\hat u_t(z_t, x)`` is about ``\hat u``. A row that names chapters holds in these alone, and there
comes before what the letter means elsewhere. Exercises say themselves what theirs mean.
"""

import re
from html import escape
from typing import Iterator, NamedTuple

from docutils import nodes

NOTATION = "book/notation"
ACCENT = r"\\(?:bar|hat|tilde|mathcal|mathbb)\b"
GREEK = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi"
    " varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell SNR Pr".split()
)
# Names of functions, and what stands below a letter: an index tells it from its like, not from another letter.
NO_LETTERS = r"\\tag\{[^}]*\}|\\(?:text|mathrm|operatorname\*?)\s*\{[^{}]*\}|\\(?:begin|end)\{\w+\}|\\mathrm\s*d"
INDEX = r"_\s*(?:\{(?:[^{}]|\{[^{}]*\})*\}|\\[A-Za-z]+|\S)"
EULER_AND_DIFFERENTIALS = r"(?<![A-Za-z\\])(?:e(?=\^)|d(?=[zt](?![A-Za-z])|\\gamma))"
LETTER = re.compile(rf"(?:{ACCENT}\s*\{{?\s*)?(?:\\[A-Za-z]+|[A-Za-z])")
SENTENCE = "Symbols are on the page "  # and the link, and a full stop
FOLD = (
    '<details class="symbols">\n<summary>Symbols of this chapter</summary>\n<ul class="mathjax_process">\n{}\n</ul>\n'
    '<p>All are on the page <a href="{}">Notation</a>.</p>\n</details>\n'
)


class Row(NamedTuple):
    """What the page Notation says of some letters: where, in which chapters (none: in all), as HTML."""

    place: str
    chapters: frozenset[int]
    letters: tuple[tuple[str, str], ...]  # as ``letters`` finds them, and the formula that is shown
    meaning: str
    code: str


def letters(latex: str) -> list[str]:
    r"""The letters of a formula, accents with them and indices without: ``\hat u_t = m + b_2`` -> ``[r"\hat u", "m", "b"]``."""
    bare = re.sub(NO_LETTERS, " ", latex.replace(r"\mathrm{SNR}", r"\SNR "))
    found = LETTER.findall(re.sub(EULER_AND_DIFFERENTIALS, "", re.sub(INDEX, "", bare)))
    parts = [re.fullmatch(rf"({ACCENT})?[\s{{]*(.+)", letter).groups() for letter in found]
    return [f"{accent} {base}" if accent else base for accent, base in parts if len(base) == 1 or base[1:] in GREEK]


def html(node: nodes.Node) -> str:
    """A table's cell; MathJax sets what stands between ``\\(`` and ``\\)``."""
    if isinstance(node, nodes.math):
        return rf"\({escape(node.astext(), quote=False)}\)"
    inside = escape(node, quote=False) if isinstance(node, nodes.Text) else "".join(map(html, node.children))
    return f"<code>{inside}</code>" if isinstance(node, nodes.literal) else inside


def rows(doctree: nodes.document) -> Iterator[tuple[nodes.row, Row]]:
    """The rows of Notation's tables that are the first, for their chapters, to explain a letter."""
    known = set()
    for table in doctree.findall(nodes.tgroup):
        head, *body = table.findall(nodes.row)
        names = [cell.astext() for cell in head]
        for row in body:
            cell = dict(zip(names, row))
            chapters = frozenset(map(int, re.findall(r"\d+", cell["chapter"].astext()))) if "chapter" in cell else frozenset()
            shown = [formula.astext() for formula in cell.get("book", cell.get("letter")).findall(nodes.math)]
            own = ((letters(formula)[0], formula) for formula in shown if letters(formula))
            own = tuple(pair for pair in own if (pair[0], chapters) not in known)
            known |= {(letter, chapters) for letter, _ in own}
            code = cell["code"] if "code" in cell and list(cell["code"].findall(nodes.literal)) else nodes.inline()
            if own:
                place = "-".join(["s", *map(str, sorted(chapters)), *re.findall(r"\w+", own[0][0])])
                yield row, Row(place, chapters, own, html(cell["meaning"]), html(code))


def give_places(app, doctree):
    if app.env.docname == NOTATION:
        for row, said in rows(doctree):
            row["ids"].append(said.place)


def used(doctree: nodes.document, notation: list[Row], chapter: int) -> list[Row]:
    """The rows that a chapter's formulas need, in the order of need, exercises left out."""
    meant = {letter: row for row in notation if not row.chapters for letter, _ in row.letters}
    meant |= {letter: row for row in notation if chapter in row.chapters for letter, _ in row.letters}
    sections = [section for section in doctree.findall(nodes.section) if "exercises" in section["ids"]]
    left_out = {id(formula) for section in sections for formula in formulas(section)}
    found = [letter for formula in formulas(doctree) if id(formula) not in left_out for letter in letters(formula.astext())]
    return list(dict.fromkeys(meant[letter] for letter in found if letter in meant))


def formulas(node: nodes.Node) -> Iterator[nodes.Node]:
    return node.findall(lambda inside: isinstance(inside, nodes.math | nodes.math_block))


def item(row: Row, page: str) -> str:
    shown = ", ".join(rf"\({escape(formula, quote=False)}\)" for _, formula in row.letters)
    return f'<li>{shown}: <a href="{page}#{row.place}">{row.meaning}</a>{row.code and ", "}{row.code}</li>'


def drop_sentence(opening: nodes.paragraph) -> None:
    """What leads readers of the notebook to the page Notation the list says, too."""
    for before, link, after in list(zip(opening, opening[1:], opening[2:])):
        if isinstance(link, nodes.reference) and before.astext().endswith(SENTENCE) and after.astext().startswith("."):
            opening.remove(link)
            opening.replace(before, nodes.Text(before.astext().removesuffix(SENTENCE).rstrip()))
            opening.replace(after, nodes.Text(after.astext()[1:]))


def list_symbols(app, doctree, page):
    chapter = re.match(r"book/(\d\d)-", page)
    opening = [node for node in doctree.findall(nodes.paragraph) if node.astext().startswith("You need")]
    if chapter and opening and app.builder.format == "html":
        notation = [row for _, row in rows(app.env.get_doctree(NOTATION))]
        there = app.builder.get_relative_uri(page, NOTATION)
        items = [item(row, there) for row in used(doctree, notation, int(chapter[1]))]
        if items:
            drop_sentence(opening[0])
            fold = nodes.raw("", FOLD.format("\n".join(items), there), format="html")
            opening[0].parent.insert(opening[0].parent.index(opening[0]) + 1, fold)


def setup(app):
    app.connect("doctree-read", give_places)
    app.connect("doctree-resolved", list_symbols)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
