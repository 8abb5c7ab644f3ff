"""What a page names, it links: equations, chapters, exercises, papers, the package's functions and classes, and records.

Chapters stay plain Markdown, which Colab shows as it is; the links are made when the book is built. Equations with a `\\tag{1.2}`,
exercises and the ledger's rows get places to land on (`eq-1-2`, `exercise-2-3`, `record-mnist-audit`), kept among Sphinx's own
labels. Then "(1.2)", "chapter 7", "exercises 2.3 and 2.4" and "arXiv:2503.24322" in text, inline code such as `fit` or
`NoPropDT(objective="elbo")`, and the names of records become links.
"""

import functools
import itertools
import re
from collections import defaultdict
from pathlib import Path
from typing import Callable, Iterator

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext.autosummary import autosummary_table

PACKAGE, LEDGER, RECORDS = "noprop_helpers", "book/records-ledger", "book/records"
TAG = re.compile(r"\\tag\{(\d+\.\d+)\}")
EXERCISE = re.compile(r"Exercise (\d+\.\d+)")
NUMBER = r"\d+(?:\.\d+)?"
# Chapters and exercises, one or a list of them; a paper, for the NoProp paper as docstrings cite it; a number of an equation; or
# what may be a record.
IN_TEXT = re.compile(
    rf"\b(?:[Cc]hapter|[Ee]xercise)(?:s\s+{NUMBER}(?:(?:,|\s+and|\s+or|\s+to)\s+{NUMBER})*|\s+{NUMBER})"
    r"|\b(?P<paper>arXiv:\d{4}\.\d{4,5}|doi:10\.\d{4,}/[\w./-]*\w|paper, (?:eq\.|section) [\d-]+)"
    r"|\((?P<equation>\d+\.\d+)\)|\b(?P<name>\w+_\w+(?:@[\w-]+)?)"
)
PAPERS = {"arXiv:": "https://arxiv.org/abs/", "doi:": "https://doi.org/"}
THE_PAPER = "https://arxiv.org/abs/2503.24322"
CODE = re.compile(rf"(?:{PACKAGE}\.)?([A-Za-z_][\w.]*)(?:\(.*\))?", re.S)  # a name, or a call of it
# `steps`, `load` and `seconds` mean many things; of the package's names that are plain words, these mean the function alone.
WORDS = {"fit", "snr", "kmeans", "alternate", "graphed"}
SETTINGS = {"one_cycle"}  # a setting's name, far more often than the function's
# Links inside links are none, headings are quiet, and what stands in code or mathematics is no name of ours.
LEFT_ALONE = (
    nodes.reference, nodes.title, nodes.rubric, nodes.literal_block, nodes.literal, nodes.math, nodes.math_block, nodes.raw,
    nodes.comment, addnodes.desc_signature, addnodes.toctree,
)  # fmt: skip
Places = dict[str, tuple[str, str]]  # what is named -> page, id on it


def setup(app: Sphinx) -> dict:
    app.connect("doctree-read", give_places)
    app.connect("doctree-resolved", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# --- Places -----------------------------------------------------------------------------------------------------------


def give_places(app: Sphinx, doctree: nodes.document) -> None:
    """An id for every numbered equation and exercise of a page, and for every record's first row in the ledger."""
    join_code(doctree)
    join_lines(doctree)
    page, labels = app.env.docname, app.env.get_domain("std").anonlabels
    found = [(node, equation_place(label)) for node in doctree.findall(nodes.math_block) for label in TAG.findall(node.astext())]
    found += [(node, exercise_place(number)) for node, number in exercises(doctree)]
    if page == LEDGER:
        found += [(row, record_place(name)) for row, name in ledger_rows(doctree, records(app))]
    for node, place in found:
        if labels.get(place, (page,))[0] == page and place not in node["ids"]:
            node["ids"].append(place)
            labels[place] = page, place


def join_code(doctree: nodes.document) -> None:
    """`<code>mnist_<wbr>audit</code>`, as tables hold it, becomes inline code like any other; it may still break."""
    for opening in [node for node in doctree.findall(nodes.raw) if node.astext() == "<code>"]:
        line = opening.parent
        first = line.index(opening)
        inside = list(itertools.takewhile(lambda node: node.astext() != "</code>", line[first + 1 :]))
        line[first : first + len(inside) + 2] = [nodes.literal("", "", *inside)]


def join_lines(doctree: nodes.document) -> None:
    """Texts side by side become one, so that "chapter" at the end of a line is seen with its number; empty ones go."""
    for parent in {id(text.parent): text.parent for text in doctree.findall(nodes.Text)}.values():
        joined = []
        for is_text, run in itertools.groupby(parent.children, lambda node: isinstance(node, nodes.Text)):
            joined += [nodes.Text("".join(run))] if is_text else run
        parent.children = []
        parent += [node for node in joined if not isinstance(node, nodes.Text) or len(node)]


def written(node: nodes.Node) -> str:
    """What a reader sees of a node: its text without raw HTML."""
    return "".join(text.astext() for text in node.findall(nodes.Text) if not isinstance(text.parent, nodes.raw))


def exercises(doctree: nodes.document) -> Iterator[tuple[nodes.paragraph, str]]:
    """Paragraphs that open with "**Exercise 2.3**", and its number."""
    for paragraph in doctree.findall(nodes.paragraph):
        if len(paragraph) and isinstance(paragraph[0], nodes.strong) and (match := EXERCISE.fullmatch(paragraph[0].astext())):
            yield paragraph, match[1]


def ledger_rows(doctree: nodes.document, names: set[str]) -> Iterator[tuple[nodes.row, str]]:
    """Rows that begin with a record's name, the first one for each."""
    seen = set()
    for row in doctree.findall(nodes.row):
        name = written(row[0]).strip()
        if name in names - seen:
            seen.add(name)
            yield row, name


def equation_place(label: str) -> str:
    return f"eq-{label.replace('.', '-')}"


def exercise_place(number: str) -> str:
    return f"exercise-{number.replace('.', '-')}"


def record_place(name: str) -> str:
    return nodes.make_id(f"record-{name}")


def records(app: Sphinx) -> set[str]:
    return {path.stem for path in Path(app.srcdir, RECORDS).glob("*.json")}


def chapters(app: Sphinx) -> dict[str, str]:
    """Number of a chapter -> its page: {"7": "book/07-what-the-layers-are-for"}."""
    found = {page: re.match(r"book/(\d\d)-", page) for page in app.env.found_docs}
    return {str(int(match[1])): page for page, match in found.items() if match}


def functions(app: Sphinx) -> Places:
    """The package's functions, classes and methods, by every name that means one of them: `fit`, `training.fit`,
    `NoPropDT.predict`. A method's bare name means none: many classes have a `forward`."""
    objects = {name: entry for name, entry in app.env.get_domain("py").objects.items() if name.startswith(f"{PACKAGE}.")}
    meant = defaultdict(set)
    for full, entry in objects.items():
        parts = full.split(".")
        owner = objects.get(full.rpartition(".")[0])
        last = len(parts) - 1 if owner is None or owner.objtype == "module" else len(parts) - 2
        if entry.objtype in ("function", "class", "exception", "method", "property"):
            for start in range(1, last + 1):
                meant[".".join(parts[start:])].add((entry.docname, entry.node_id))
    return {name: places.pop() for name, places in meant.items() if len(places) == 1 and says_enough(name)}


def says_enough(name: str) -> bool:
    """Whether a name can be nothing but the function's: `fit_layers`, `NoPropDT` and `training.fit`, but not `steps`."""
    return name in WORDS or name not in SETTINGS and not (name.isalnum() and name.islower())


# --- Links ------------------------------------------------------------------------------------------------------------


def link_names(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Turn every name on a page, wherever it may be one, into a link."""
    labels, entries, files, numbered = app.env.get_domain("std").anonlabels, functions(app), records(app), chapters(app)
    uri = functools.partial(app.builder.get_relative_uri, page)

    def place(found: tuple[str, str]) -> str:
        return f"{uri(found[0])}#{found[1]}"

    def record(name: str, near: nodes.Node) -> str:
        row = labels.get(record_place(name))
        if row is None or row[1] in ids_around(near):  # in its own row of the ledger
            return f"{repository(app)}/{RECORDS}/{name}.json"
        return place(row)

    def of_text(kind: str, name: str, near: nodes.Node) -> str | None:
        if kind == "chapter":
            there = numbered.get(name, page)
            return uri(there) if there != page else None
        if kind == "paper":
            return paper(name)
        if kind == "name":
            return record(name, near) if name in files else None
        found = labels.get(exercise_place(name) if kind == "exercise" else equation_place(name))
        return place(found) if found and found[1] not in ids_around(near) else None

    def of_code(code: str, near: nodes.Node) -> str | None:
        if code in files:
            return record(code, near)
        match = CODE.fullmatch(code)
        found = entries.get(match[1]) if match else None
        return place(found) if found and found[1] not in ids_around(near) else None

    for literal in [node for node in doctree.findall(nodes.literal) if may_hold_links(node.parent)]:
        if target := of_code(written(literal), literal):
            literal.replace_self(reference(target, literal.deepcopy()))
    for text in [node for node in doctree.findall(nodes.Text) if may_hold_links(node.parent)]:
        pieces = linked(text.astext(), functools.partial(of_text, near=text))
        if len(pieces) > 1 or isinstance(pieces[0], nodes.reference):
            text.parent.replace(text, pieces)


def mentions(text: str) -> Iterator[tuple[int, int, str, str]]:
    """What may become a link: start, end, kind and name. Of "chapters 7 and 15" these are "chapters 7", and "15" alone."""
    for match in IN_TEXT.finditer(text):
        start, end = match.span()
        if match.lastgroup:
            yield start, end, match.lastgroup, match[match.lastgroup]
        else:
            kind = "chapter" if match[0].lower().startswith("chapter") else "exercise"
            numbers = list(re.compile(NUMBER).finditer(text, start, end))
            starts = [start, *(number.start() for number in numbers[1:])]
            yield from ((at, number.end(), kind, number[0]) for at, number in zip(starts, numbers))


def linked(text: str, target: Callable[[str, str], str | None]) -> list[nodes.Node]:
    """Text cut into what stays text and what becomes a link."""
    pieces, end = [], 0
    for start, stop, kind, name in mentions(text):
        if found := target(kind, name):
            pieces += [nodes.Text(text[end:start]), reference(found, nodes.Text(text[start:stop]))]
            end = stop
    return [piece for piece in [*pieces, nodes.Text(text[end:])] if piece.astext()] or [nodes.Text(text)]


def paper(name: str) -> str:
    """Where a paper is read: "arXiv:2503.24322", "doi:10.1109/5.726791" or "paper, eq. 8"."""
    return next((address + name.removeprefix(kind) for kind, address in PAPERS.items() if name.startswith(kind)), THE_PAPER)


def reference(target: str, content: nodes.Node) -> nodes.reference:
    """A link of the quiet kind (see custom.css); `internal` is Sphinx's word for one that stays in the book."""
    return nodes.reference("", "", content, refuri=target, internal=not target.startswith("https:"), classes=["quiet"])


def may_hold_links(node: nodes.Node) -> bool:
    """Whether text right under this node may become a link. The caption of a table is a title, too, but one to read; a table of
    summaries is, to Sphinx, a comment."""
    if isinstance(node, autosummary_table):
        return True
    if isinstance(node, nodes.title) and isinstance(node.parent, nodes.table):
        node = node.parent
    return node is None or not isinstance(node, LEFT_ALONE) and may_hold_links(node.parent)


def ids_around(node: nodes.Node) -> set[str]:
    """Ids of all that a node stands in, an entry's of the API included."""
    found = set()
    while node is not None:
        if isinstance(node, addnodes.desc):
            found |= {place for signature in node.findall(addnodes.desc_signature) for place in signature["ids"]}
        elif isinstance(node, nodes.row | nodes.paragraph):
            found |= set(node["ids"])
        node = node.parent
    return found


def repository(app: Sphinx) -> str:
    options = app.config.html_theme_options
    return f"{options['repository_url']}/blob/{options['repository_branch']}"
