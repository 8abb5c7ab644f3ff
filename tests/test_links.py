"""What pages name, they link: on pages small enough to see through, and on the built book."""

import re
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from bs4 import BeautifulSoup, Comment, SoupStrainer
from PIL import Image
from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
HTML = (ROOT / "_build" / "html").resolve()
LABEL = re.compile(r"\((\d+\.\d+)\)")
NAMED = re.compile(r"\b([Cc]hapter|[Ee]xercise)s?\s+(\d+(?:\.\d+)?)")
RECORDS = {path.stem for path in (ROOT / "book" / "records").glob("*.json")}

PAGES = {
    "index": "# Book\n\n```{toctree}\nmath\ntext\nread\napi\nbook/03-three\nbook/11-eleven\nbook/records-ledger\n```\n",
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
    "read": """# On chapter 3

## Of chapter 3 and exercise 3.1

Chapter 3, chapter
11, chapters 3, 4 and 11, *as chapter 3's*, Exercises 3.1, 3.2 and exercise 3.12. In chapter 3, 11 layers; chapter 7 and
exercise 7.1 are nowhere, nor `chapter 3`, nor [chapter 3](math.md), nor "chapter three". See arXiv:2503.24322, eq. 1,
doi:10.1109/5.726791, (paper, eq. 15-16). No paper, no number.

![chapter 3](three.png)

| where |
|---|
| <code>small_<wbr>run</code> of chapter 11, <code>other_<wbr>run</code> |
""",
    "book/03-three": """# Three

As chapter 3 said, and chapter 11.

> **Exercise 3.1** (predict). What about exercise 3.1?
>
> **Exercise 3.12** (explore). Go on.

**Solution 3.1** Exercise 3.1, *Exercise 3.12*.

**Exercise 3.2**
""",
    "book/11-eleven": "# Eleven\n\nNo exercises.\n",
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
| <code>small_<wbr>run@copy</code> | three |

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
    Image.new("L", (1, 1)).save(source / "three.png")
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


def test_chapters_exercises_and_papers_are_links(small):
    three, eleven = "book/03-three.html", "book/11-eleven.html"
    assert [(link.get_text(), link["href"]) for link in small["read"].select("a.quiet")] == [
        ("Chapter 3", three), ("chapter\n11", eleven), ("chapters 3", three), ("11", eleven), ("chapter 3", three),
        ("Exercises 3.1", f"{three}#exercise-3-1"), ("3.2", f"{three}#exercise-3-2"), ("exercise 3.12", f"{three}#exercise-3-12"),
        ("chapter 3", three), ("arXiv:2503.24322", "https://arxiv.org/abs/2503.24322"),
        ("doi:10.1109/5.726791", "https://doi.org/10.1109/5.726791"), ("paper, eq. 15-16", "https://arxiv.org/abs/2503.24322"),
        ("small_run", "book/records-ledger.html#record-small-run"), ("chapter 11", eleven),
    ]  # fmt: skip
    assert small["read"].find("img")["alt"] == "chapter 3"


def test_an_exercise_has_a_place_and_does_not_lead_to_itself(small):
    places = {tag["id"]: tag.get_text() for tag in small["book/03-three"].select("p[id]")}
    assert [*places] == ["exercise-3-1", "exercise-3-12", "exercise-3-2"] and places["exercise-3-1"].startswith("Exercise 3.1 (pre")
    assert made(small["book/03-three"]) == {
        "chapter 11": "11-eleven.html", "Exercise 3.1": "#exercise-3-1", "Exercise 3.12": "#exercise-3-12",
    }  # fmt: skip


def test_code_that_may_break_is_code_and_may_still_break(small):
    (link,) = small["read"].select("td a[href*=record]")
    assert link.code.get_text() == "small_run" and len(link.select("code wbr")) == 1
    assert "other_run" in [code.get_text() for code in small["read"].select("td > p > code")]


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


def unlinked_numbers(path, article):
    """Chapters and exercises that stand in text and are no links; a chapter and an exercise may speak of themselves."""
    own = {f"chapter {int(path.name[:2])}"} if path.name[:2].isdigit() else set()
    found = []
    for text in article.find_all(string=NAMED):
        around = own | {tag["id"].replace("-", " ", 1).replace("-", ".") for tag in text.parents if tag.has_attr("id")}
        if not any(map(is_no_prose, text.parents)):
            found += [match[0] for match in NAMED.finditer(text) if f"{match[1].lower()} {match[2]}" not in around]
    return found


@pytest.mark.built
def test_every_chapter_and_exercise_named_in_the_book_is_a_link_that_lands_on_it(book):
    links = {"chapter": 0, "exercise": 0}
    for path, article in book.items():
        for link in article.select("a.quiet"):
            if match := NAMED.fullmatch(link.get_text()):
                kind, number = match[1].lower(), match[2]
                target, place = urldefrag(link["href"])
                page = (path.parent / unquote(target)).resolve() if target else path
                assert page.name.startswith(f"{int(number.split('.')[0]):02}-"), (path, link)
                wanted = {f"exercise-{number.replace('.', '-')}"} if kind == "exercise" else {""}
                assert {place} == wanted and (not place or book[page].find(id=place).name == "p"), (path, link)
                links[kind] += 1
        assert unlinked_numbers(path, article) == [], path
    assert links["chapter"] > 60 and links["exercise"] > 8


def unlinked_records(article, names):
    """Names of records that stand in text or alone in code, and are no links."""
    texts = [text for text in article.find_all(string=re.compile(r"\w_\w")) if not any(map(is_no_prose, text.parents))]
    said = [name for text in texts if not isinstance(text, Comment) for name in re.findall(r"\b\w+_\w+(?:@[\w-]+)?", text)]
    said += [code.get_text() for code in article.select("code") if not any(map(is_no_prose, code.parents))]
    return [name for name in said if name in names]


@pytest.mark.built
def test_no_name_of_a_record_in_the_book_stands_unlinked(book):
    for path, article in book.items():
        assert unlinked_records(article, RECORDS) == [], path
    ledger = book[HTML / "book" / "records-ledger.html"]
    assert len(ledger.select("tr[id^=record-]")) > 60


@pytest.mark.built
def test_links_made_by_the_build_land_in_the_book(book):
    ids = {path: {node["id"] for node in article.select("[id]")} for path, article in book.items()}
    kinds = {"api": 0, "record": 0, "paper": 0}
    for path, article in book.items():
        for link in article.select("a.quiet"):
            target, place = urldefrag(link["href"])
            if target.startswith(("https://arxiv.org/abs/", "https://doi.org/")):
                kinds["paper"] += 1
                continue
            if target.startswith("https://"):
                assert (ROOT / "book" / "records" / target.rpartition("/")[2].replace("%40", "@")).exists(), target
                continue
            page = (path.parent / unquote(target)).resolve() if target else path
            assert place in ids[page] if place else page in ids, (path, link)
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


@pytest.mark.parametrize(
    "html, found",
    [
        ("<p>In chapter\n7, Chapters 8 to 9 and exercise 7.2</p>", ["chapter\n7", "Chapters 8", "exercise 7.2"]),
        ("<p><a>chapter 7</a> <code>chapter 7</code> chapter 3</p><h2>Chapter 7</h2>", []),
        ('<p id="exercise-3-1"><strong>Exercise 3.1</strong> unlike exercise 3.2</p>', ["exercise 3.2"]),
    ],
)
def test_the_check_of_numbers_can_fail(html, found):
    assert unlinked_numbers(Path("03-three.html"), BeautifulSoup(html, "html.parser")) == found


@pytest.mark.parametrize(
    "html, found",
    [
        ("<td><code>a_<wbr>b</code></td>", ["a_b"]),
        ("<td><code>a_b c</code> a_b@c and a_b</td>", ["a_b@c", "a_b"]),
        ("<td><a><code>a_b</code></a></td><pre>a_b</pre><p><!-- record: a_b --></p>", []),
    ],
)
def test_the_check_of_records_can_fail(html, found):
    assert sorted(unlinked_records(BeautifulSoup(html, "html.parser"), {"a_b", "a_b@c"}), reverse=True) == found


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
