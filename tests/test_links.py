"""What pages name, they link: on pages small enough to see through, and on the built book."""

import re
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from bs4 import BeautifulSoup, SoupStrainer
from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
HTML = (ROOT / "_build" / "html").resolve()
LABEL = re.compile(r"\((\d+\.\d+)\)")

PAGES = {
    "index": "# Book\n\n```{toctree}\nmath\ntext\napi\nbook/records-ledger\n```\n",
    "math": r"""# Mathematics (1.2)

$$z = u \tag{1.2}$$

$$
\begin{aligned} a &= b \end{aligned} \tag{1.3}
$$

Here (1.2), and not (9.9).
""",
    "text": """# Text

## About (1.2) and `fit`

By (1.2) and (1.3), *as (1.3) says*. Not `code (1.2)`, nor $f(1.2)$, nor [a link (1.2)](math.md), nor a price of (1.20).

```{table} A caption with (1.2)
| head | and `fit` |
|---|---|
| (1.3) | `training.fit` |
```

`NoPropDT`, `NoPropDT(objective="elbo")`, `noprop_helpers.training.fit`, `NoPropDT.predict`; not `predict`, `predict_alone`, `steps`,
`twice_told`, `unknown_name`, [`fit`](math.md).

Records: `small`, `small_run`, small_run and small_run@copy and unlisted_run; not small, not `small_running`, not other_run.
""",
    "api": """# API

```{eval-rst}
.. py:module:: noprop_helpers.training

.. py:function:: fit

   Calls ``fit`` and ``twice_told`` and ``noprop.twice_told``.

.. py:function:: steps
.. py:function:: twice_told

.. py:module:: noprop_helpers.noprop

.. py:class:: NoPropDT

   .. py:method:: predict
   .. py:method:: predict_alone

.. py:function:: twice_told
```
""",
    "book/records-ledger": """# Ledger

| NAME | what |
|---|---|
| `small_run` | one |
| `small` | two |
| `small_run@copy` | three |

| NAME | where |
|---|---|
| `small_run` | here |
""",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """page -> its parsed HTML."""
    source = tmp_path_factory.mktemp("small")
    (source / "book" / "records").mkdir(parents=True)
    for name in ("small", "small_run", "small_run@copy", "unlisted_run"):
        (source / "book" / "records" / f"{name}.json").write_text("{}")
    for page, text in PAGES.items():
        (source / f"{page}.md").write_text(text)
    sys.path.insert(0, str(ROOT / "book" / "_ext"))
    try:
        settings = {
            "extensions": ["myst_parser", "links"],
            "myst_enable_extensions": ["dollarmath"],
            "html_theme": "sphinx_book_theme",
            "html_theme_options": {"repository_url": "https://github.com/our/book", "repository_branch": "main"},
        }
        app = Sphinx(source, None, source / "out", source / "doctrees", "html", settings, status=None, warningiserror=True)
        app.build()
    finally:
        sys.path.pop(0)
    return {page: BeautifulSoup((source / "out" / f"{page}.html").read_text(), "html.parser").find("article") for page in PAGES}


def made(page):
    """The links that the build made: text -> where to; "" where texts of one kind lead to several places."""
    found = {}
    for link in page.select("a.quiet"):
        text = link.get_text()
        found[text] = link["href"] if found.get(text, link["href"]) == link["href"] else ""
    return found


def test_a_numbered_equation_has_a_place(small):
    places = {e["id"]: e.get_text() for e in small["math"].select("div.math[id]")}
    assert set(places) == {"eq-1-2", "eq-1-3"} and r"\tag{1.2}" in places["eq-1-2"]


def test_numbers_of_equations_are_links_within_and_across_pages(small):
    assert made(small["math"]) == {"(1.2)": "#eq-1-2"}
    found = made(small["text"])
    assert (found["(1.2)"], found["(1.3)"]) == ("math.html#eq-1-2", "math.html#eq-1-3")
    assert [link.get_text() for link in small["text"].select("em a, caption a.quiet, td a.quiet")] == [
        "(1.3)", "(1.2)", "(1.3)", "training.fit",
    ]  # fmt: skip


def test_headings_code_mathematics_and_links_stay_as_they_are(small):
    for page in small.values():
        assert not page.select("h1 a.quiet, h2 a.quiet, code a, .math a, a a")
    assert len(small["text"].select("a.quiet")) == len(re.findall(r"\(1\.[23]\)", PAGES["text"])) - 4 + 6 + 5


def test_code_that_names_a_function_or_class_leads_to_its_entry(small):
    code = {text: place for text, place in made(small["text"]).items() if "api.html" in place}
    fit, model = "api.html#noprop_helpers.training.fit", "api.html#noprop_helpers.noprop.NoPropDT"
    assert code == {
        "fit": fit, "training.fit": fit, "noprop_helpers.training.fit": fit,
        "NoPropDT": model, 'NoPropDT(objective="elbo")': model, "NoPropDT.predict": f"{model}.predict",
    }  # fmt: skip
    assert all(link.find("code") for link in small["text"].select("a.quiet[href^='api']"))


def test_an_entry_does_not_lead_to_itself(small):
    assert made(small["api"]) == {"noprop.twice_told": "#noprop_helpers.noprop.twice_told"}


def test_records_lead_to_their_row_and_from_there_to_their_file(small):
    rows, files = "book/records-ledger.html#record-", "https://github.com/our/book/blob/main/book/records/"
    found = {text: place for text, place in made(small["text"]).items() if "record" in place}
    assert found == {
        "small": f"{rows}small", "small_run": f"{rows}small-run", "small_run@copy": f"{rows}small-run-copy",
        "unlisted_run": f"{files}unlisted_run.json",
    }  # fmt: skip
    ledger = [(link.get_text(), link["href"]) for link in small["book/records-ledger"].select("a.quiet")]
    names = ("small_run", "small", "small_run@copy")
    assert ledger == [*((name, f"{files}{name}.json") for name in names), ("small_run", "#record-small-run")]
    assert [row["id"] for row in small["book/records-ledger"].select("tr[id]")] == [
        "record-small-run", "record-small", "record-small-run-copy",
    ]  # fmt: skip


# --- The book ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def book():
    """Path of a page -> its article, parsed once; pages of source code are no pages of the book."""
    article = SoupStrainer("article")
    return {path: BeautifulSoup(path.read_text(), "html.parser", parse_only=article) for path in sorted(HTML.rglob("book/**/*.html"))}


NO_PROSE = ("a", "summary", "h1", "h2", "h3", "h4", "pre", "code", "script", "style")


def unlinked(article, labels):
    """Numbers of equations that stand in text and are no links."""
    texts = [text for text in article.find_all(string=LABEL) if not any(map(is_no_prose, text.parents))]
    return [label for text in texts for label in LABEL.findall(text) if label in labels]


def is_no_prose(tag):
    return tag.name in NO_PROSE or bool({"math", "equation-number", "admonition-title", "sig"} & set(tag.get("class", [])))


def equations(book):
    """Label -> (page, id)."""
    return {
        node.select_one(".equation-number").get_text().strip("()"): (path, node["id"])
        for path, article in book.items()
        for node in article.find_all("div", "numbered-equation", id=re.compile("^eq-"))
    }


@pytest.mark.built
def test_every_equation_named_in_the_book_is_a_link_that_lands_on_it(book):
    labels, links = equations(book), 0
    assert len(labels) > 40
    for path, article in book.items():
        for link in article.select("a.quiet"):
            if match := LABEL.fullmatch(link.get_text()):
                target, place = urldefrag(link["href"])
                assert ((path.parent / unquote(target)).resolve() if target else path, place) == labels[match[1]], (path, link)
                links += 1
        assert unlinked(article, labels) == [], path
    assert links > 60


@pytest.mark.built
def test_no_tagged_equation_of_the_book_is_without_a_place(book):
    for path, article in book.items():
        for node in article.select("div.math"):
            assert node.has_attr("id") or r"\tag{" not in node.get_text(), path


@pytest.mark.built
def test_links_made_by_the_build_land_in_the_book(book):
    ids = {path: {node["id"] for node in article.select("[id]")} for path, article in book.items()}
    kinds = {"api": 0, "record": 0}
    for path, article in book.items():
        for link in article.select("a.quiet"):
            target, place = urldefrag(link["href"])
            if target.startswith("https://"):
                assert (ROOT / "book" / "records" / target.rpartition("/")[2].replace("%40", "@")).exists(), target
                continue
            assert place in ids[(path.parent / unquote(target)).resolve() if target else path], (path, link)
            kinds["api"] += "api/" in target
            kinds["record"] += place.startswith("record-")
    assert min(kinds.values()) > 10


@pytest.mark.parametrize(
    "html, found",
    [
        ("<p>By (1.2)</p>", ["1.2"]),
        ("<td>(1.2) and (1.2)</td>", ["1.2", "1.2"]),
        ("<p><a>(1.2)</a> <code>(1.2)</code> (1.3)</p><h2>On (1.2)</h2>", []),
    ],
)
def test_the_check_can_fail(html, found):
    assert unlinked(BeautifulSoup(html, "html.parser"), {"1.2"}) == found


@pytest.fixture
def source_links():
    sys.path.insert(0, str(ROOT / "book" / "_ext"))
    try:
        import source_links

        yield source_links
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize("name", ["fit_layers", "LayerStack.copy_to"])
def test_the_api_leads_to_lines_of_source(source_links, name):
    file, first, last = source_links.lines_of("noprop_helpers.layerwise", name)
    lines = (ROOT / file).read_text().splitlines()[first - 1 : last + 1]
    assert f"def {name.split('.')[-1]}(" in "".join(lines[:2])
    assert lines[-1].strip() == "" and lines[-2].strip() != ""  # up to the empty line behind it


def test_what_has_no_source_has_no_link(source_links):
    assert source_links.lines_of("noprop_helpers.layerwise", "no_such_function") is None
    assert source_links.lines_of("noprop_helpers.settings", "Settings.epochs") is None
