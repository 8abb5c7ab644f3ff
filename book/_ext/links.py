"""What a page names, it links: numbered equations, the package's functions and classes, and records.

Chapters stay plain Markdown, which Colab shows as it is; the links are made when the book is built. Equations with a `\\tag{1.2}`
and the ledger's rows get places to land on (`eq-1-2`, `record-mnist-audit`), kept among Sphinx's own labels. Then "(1.2)" in
text, inline code such as `fit` or `NoPropDT(objective="elbo")` and the names of records become links to them.
"""

import functools
import re
from collections import defaultdict
from pathlib import Path
from typing import Callable, Iterator

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

PACKAGE, LEDGER, RECORDS = "noprop_helpers", "book/records-ledger", "book/records"
TAG = re.compile(r"\\tag\{(\d+\.\d+)\}")
IN_TEXT = re.compile(r"\(\d+\.\d+\)|\b\w+_\w+(?:@[\w-]+)?")  # a number of an equation, or what may be a record
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
    """An id for every numbered equation of a page, and for every record's first row in the ledger."""
    page, labels = app.env.docname, app.env.get_domain("std").anonlabels
    found = [(node, equation_place(label)) for node in doctree.findall(nodes.math_block) for label in TAG.findall(node.astext())]
    if page == LEDGER:
        found += [(row, record_place(name)) for row, name in ledger_rows(doctree, records(app))]
    for node, place in found:
        if labels.get(place, (page,))[0] == page and place not in node["ids"]:
            node["ids"].append(place)
            labels[place] = page, place


def ledger_rows(doctree: nodes.document, names: set[str]) -> Iterator[tuple[nodes.row, str]]:
    """Rows that begin with a record's name, the first one for each."""
    seen = set()
    for row in doctree.findall(nodes.row):
        name = row[0].astext().strip()
        if name in names - seen:
            seen.add(name)
            yield row, name


def equation_place(label: str) -> str:
    return f"eq-{label.replace('.', '-')}"


def record_place(name: str) -> str:
    return nodes.make_id(f"record-{name}")


def records(app: Sphinx) -> set[str]:
    return {path.stem for path in Path(app.srcdir, RECORDS).glob("*.json")}


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
    labels, entries, files = app.env.get_domain("std").anonlabels, functions(app), records(app)
    uri = functools.partial(app.builder.get_relative_uri, page)

    def place(found: tuple[str, str]) -> str:
        return f"{uri(found[0])}#{found[1]}"

    def record(name: str, near: nodes.Node) -> str:
        row = labels.get(record_place(name))
        if row is None or row[1] in ids_around(near):  # in its own row of the ledger
            return f"{repository(app)}/{RECORDS}/{name}.json"
        return place(row)

    def of_text(name: str, near: nodes.Node) -> str | None:
        if name in files:
            return record(name, near)
        found = labels.get(equation_place(name.strip("()")))
        return found and place(found)

    def of_code(code: str, near: nodes.Node) -> str | None:
        if code in files:
            return record(code, near)
        match = CODE.fullmatch(code)
        found = entries.get(match[1]) if match else None
        return place(found) if found and found[1] not in ids_around(near) else None

    for literal in [node for node in doctree.findall(nodes.literal) if may_hold_links(node.parent)]:
        if target := of_code(literal.astext(), literal):
            literal.replace_self(reference(target, literal.deepcopy()))
    for text in [node for node in doctree.findall(nodes.Text) if may_hold_links(node.parent)]:
        pieces = linked(text.astext(), functools.partial(of_text, near=text))
        if len(pieces) > 1 or isinstance(pieces[0], nodes.reference):
            text.parent.replace(text, pieces)


def linked(text: str, target: Callable[[str], str | None]) -> list[nodes.Node]:
    """Text cut into what stays text and what becomes a link."""
    pieces, end = [], 0
    for match in IN_TEXT.finditer(text):
        if found := target(match[0]):
            pieces += [nodes.Text(text[end : match.start()]), reference(found, nodes.Text(match[0]))]
            end = match.end()
    return [piece for piece in [*pieces, nodes.Text(text[end:])] if piece.astext()] or [nodes.Text(text)]


def reference(target: str, content: nodes.Node) -> nodes.reference:
    """A link of the quiet kind (see custom.css); `internal` is Sphinx's word for one that stays in the book."""
    return nodes.reference("", "", content, refuri=target, internal=not target.startswith("https:"), classes=["quiet"])


def may_hold_links(node: nodes.Node) -> bool:
    """Whether text right under this node may become a link. The caption of a table is a title, too, but one to read."""
    if isinstance(node, nodes.title) and isinstance(node.parent, nodes.table):
        node = node.parent
    return node is None or not isinstance(node, LEFT_ALONE) and may_hold_links(node.parent)


def ids_around(node: nodes.Node) -> set[str]:
    """Ids of all that a node stands in, an entry's of the API included."""
    found = set()
    while node is not None:
        if isinstance(node, addnodes.desc):
            found |= {place for signature in node.findall(addnodes.desc_signature) for place in signature["ids"]}
        elif isinstance(node, nodes.row):
            found |= set(node["ids"])
        node = node.parent
    return found


def repository(app: Sphinx) -> str:
    options = app.config.html_theme_options
    return f"{options['repository_url']}/blob/{options['repository_branch']}"
