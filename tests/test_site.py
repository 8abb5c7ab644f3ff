"""What becomes of the pages on their way into the finished site: numbers, titles, descriptions, and what is left out."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import pages_of
from docutils import nodes
from docutils.core import publish_doctree
from PIL import Image

ROOT = Path(__file__).parent.parent
HTML = ROOT / "_build" / "html"
sys.path.append(str(ROOT / "book" / "_ext"))

import equation_numbers  # noqa: E402
import fields  # noqa: E402
import light_site  # noqa: E402
import one_commit  # noqa: E402
import page_head  # noqa: E402

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = pages_of(TOC)


@pytest.fixture
def site(tmp_path):
    """site({name: text}) writes files of a small site and returns its folder."""

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return write


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Equations


@pytest.mark.parametrize(
    "latex, expected",
    [
        (r"a = b. \tag{1.6}", ("a = b.", "1.6")),
        (r"a = b", ("a = b", None)),
        (r"a \tag{1} \\ b \tag{2}", (r"a \tag{1} \\ b \tag{2}", None)),
    ],
)
def test_number_of_an_equation_is_taken_out_of_it(latex, expected):
    assert equation_numbers.take_number(latex) == expected


def test_number_stands_beside_the_equation_and_can_be_linked_to():
    document = nodes.section("", nodes.math_block("", r"a = b \tag{1.6}", ids=["eq-1-6"]))
    equation_numbers.number_beside(document[0])
    (box,) = document.children
    assert box["classes"] == ["numbered-equation"] and box["ids"] == ["eq-1-6"]
    assert [child.astext() for child in box] == ["a = b", "(1.6)"]


# Titles and descriptions


@pytest.mark.parametrize(
    "title, expected",
    [
        ("Schedule math", "Schedule math - The NoProp Book"),
        ('<span class="section-number">12. </span>GPU benchmarking', "GPU benchmarking - The NoProp Book"),
        ("The NoProp Book", "The NoProp Book"),
        ("", "The NoProp Book"),
    ],
)
def test_page_title(title, expected):
    assert page_head.page_title(title, "The NoProp Book") == expected


def test_links_of_a_file_of_the_repository_lead_to_the_site():
    text = "[a](book/01-a.ipynb), [b](book/api.md), [c](README.md), [d](https://e.f), `g`"
    expected = "[a](book/01-a.html), [b](book/api.html), [c](https://r/blob/main/README.md), [d](https://e.f), `g`"
    assert page_head.on_the_site(text, "https://r/blob/main") == expected


def test_description_is_the_question_and_the_first_paragraph_without_comments():
    comment = nodes.raw("", "<!-- record: r -->", format="html")
    paragraph = nodes.paragraph("", "", nodes.Text("It reaches\n99 %"), comment, nodes.Text("."))
    document = nodes.section("", nodes.title("", "Title"), nodes.paragraph("", "How far does it get?"), paragraph)
    assert page_head.description(document) == "How far does it get? It reaches 99 %."


def test_a_list_is_no_description():
    assert page_head.description(publish_doctree("* one\n* two\n\nA paragraph.")) == "A paragraph."


def test_long_text_ends_with_a_sentence_or_a_word():
    assert page_head.shortened("One is short. Two is much too long.", 20) == "One is short."
    assert page_head.shortened("Alpha, beta, gamma", 14) == "Alpha, beta…"
    assert page_head.shortened("Short.", 20) == "Short."


def test_commit_is_that_of_the_folder_itself(tmp_path):
    assert page_head.commit_of(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert page_head.commit_of(tmp_path) is None  # nothing committed yet
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert re.fullmatch(r"[0-9a-f]{40}", page_head.commit_of(tmp_path))
    (tmp_path / "inside").mkdir()
    assert page_head.commit_of(tmp_path / "inside") is None


def test_no_git_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert page_head.commit_of(ROOT) is None


# What stays of a site


def test_what_no_page_leads_to_is_deleted(site):
    folder = site(
        {
            "a.html": '<link href="_static/a.css?v=1"><img src="_images/used.png#x"><a href="https://elsewhere/_static/far.js">',
            "_static/a.css": '@import "deep/b.css"; p { background: url("p.svg") }',
            "_static/deep/b.css": "q { background: url(../q.svg) }",
            "_static/p.svg": "", "_static/q.svg": "", "_static/lost/r.svg": "", "_static/far.js": "", "_static/card.png": "",
            "_static/mathjax/core.js": "", "_static/mathjax/tex-svg.js": "",
            "_images/used.png": "", "_images/unused.png": "", "_sources/a.ipynb": "",
        }
    )  # fmt: skip
    light_site.delete_unused(folder)
    assert names(folder) == [
        "_images/used.png", "_static/a.css", "_static/card.png", "_static/deep/b.css", "_static/mathjax/core.js",
        "_static/p.svg", "_static/q.svg", "a.html",
    ]  # fmt: skip
    assert not (folder / "_static" / "lost").exists()


@pytest.mark.parametrize(
    "css, expected",
    [
        (".a{x:1}.b{x:2}", ".a{x:1}"),
        (".b,.a .c{x:1}", ".a .c{x:1}"),
        ("p,.b:hover{x:1}", "p{x:1}"),
        ("@media (min-width:1px){.a{x:1}.b{x:2}}", "@media (min-width:1px){.a{x:1}}"),
        ("@media print{.b{x:2}}p{x:1}", "p{x:1}"),
        ("@font-face{src:url(b.ttf)}@page b{x:1}", "@font-face{src:url(b.ttf)}@page b{x:1}"),
        ("@keyframes b{0%{x:1}to{x:2}}", "@keyframes b{0%{x:1}to{x:2}}"),
        ("/*! licence of .b{} */@charset 'x';p:is(.a,.c){x:1}", "/*! licence of .b{} */@charset 'x';p:is(.a,.c){x:1}"),
        (".a{x:1} /* Name.Class */\n.c{x:2} /* of .b */", ".a{x:1} \n.c{x:2} "),
        ("/* (c) d, MIT Licence */ .b{x:1}.a{x:2}", "/* (c) d, MIT Licence */.a{x:2}"),
        (".a:not(.b),.b:not(.a){x:1}", ".a:not(.b){x:1}"),
        (".a:is(.b,p:not(.c)),.b:is(p,q){x:1}", ".a:is(.b,p:not(.c)){x:1}"),
        (".a{background:url(data:image/svg+xml;d/e)}.b{x:1}", ".a{background:url(data:image/svg+xml;d/e)}"),
    ],
)
def test_rules_for_classes_that_no_page_has_are_left_out(css, expected):
    assert light_site.used_rules(css, {"a", "c"}) == expected


def test_a_class_that_a_script_may_set_is_used(site):
    page = '<i class="x-1 x"><script src="_static/a.js"></script>a row<script>set("v-3")</script>'
    folder = site({"a.html": page, "_static/a.js": 'e.classList.add("y-2")', "_static/b.js": "z"})
    assert {"x-1", "x", "y-2", "v-3"} <= light_site.words(folder) and not {"z", "row"} & light_site.words(folder)


def test_a_class_that_a_style_sheet_or_a_script_reads_is_kept(site):
    head = '<link href="_static/a.css"><style>.b{x:1}</style><script>find("c-1", ".our-" + kind)</script>'
    page = f'{head}<i class="a b c-1 d e"><i class="high-x our-z">'
    folder = site({"a.html": page, "_static/a.css": '.a{x:1}[class*="high-"]{x:1}', "_static/b.css": ".d{x:1}"})
    light_site.slim_pages(folder)
    assert '<i class="a b c-1"><i class="high-x our-z">' in (folder / "a.html").read_text()


TEX = 'x.y({autoload:{action:["toggle","mathtip"],amscd:[[],["CD"]],boldsymbol:["boldsymbol"],cancel:["cancel","bcancel"]}})'


@pytest.mark.parametrize(
    "formula, more",
    [
        (r"\(\alpha + a\)", []),
        (r"\[\bcancel{x}\]", ["cancel.js"]),
        (r"\begin{CD} a \end{CD}", ["amscd.js"]),
        (r"\(\boldsymbol{x}\)", ["MathJax_Main-Bold.woff", "MathJax_Math-BoldItalic.woff", "boldsymbol.js"]),
        (r"\(\mathfrak{x}\)", ["MathJax_Fraktur-Bold.woff", "MathJax_Fraktur-Regular.woff"]),
        (r"\(\mathcal{N}\)", ["MathJax_Calligraphic-Regular.woff"]),
        (r"\begin{split} a \end{split}", []),
        (r"\(\mathit{ab}\)", ["MathJax_Main-Italic.woff"]),
    ],
)
def test_mathematics_has_the_fonts_and_extensions_that_its_commands_ask_for(site, formula, more):
    fonts = "Main-Regular Main-Bold Main-Italic Math-BoldItalic Calligraphic-Bold Calligraphic-Regular Fraktur-Bold Fraktur-Regular"
    fonts = {f"_static/mathjax/output/chtml/fonts/woff-v2/MathJax_{font}.woff": "" for font in fonts.split()}
    extensions = ["action", "amscd", "boldsymbol", "cancel", "physics"]
    extensions = {f"_static/mathjax/input/tex/extensions/{name}.js": "" for name in extensions}
    folder = site({"a.html": formula, "_static/mathjax/input/tex.js": TEX, **fonts, **extensions})
    light_site.delete_unused(folder)
    kept = {Path(name).name for name in names(folder)} - {"a.html", "tex.js", "MathJax_Main-Regular.woff"}
    expected = {*more, "MathJax_Calligraphic-Bold.woff"} if "bold" in formula else set(more)
    assert kept == expected


@pytest.mark.built
def test_mathjax_says_which_commands_load_which_extension():
    """As it does where light_site looks: no formula of the book needs one now, so that nothing else would tell."""
    loads = dict(light_site.AUTOLOAD.findall((HTML / "_static" / "mathjax" / "input" / "tex.js").read_text(encoding="utf-8")))
    assert "cancelto" in loads["cancel"] and "CD" in loads["amscd"] and "boldsymbol" in loads["boldsymbol"]


def test_pictures_are_stored_again_pixel_for_pixel(tmp_path):
    images = tmp_path / "_images"
    images.mkdir()
    picture = Image.effect_noise((40, 30), 80).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize((40, 30)))  # colours under transparency count, too
    picture.save(images / "still.png", compress_level=0)
    picture.save(images / "moving.png", save_all=True, append_images=[picture.rotate(90)])
    (tmp_path / "a.html").write_text('<img src="_images/still.png"><img src="_images/moving.png">')
    light_site.slim_pictures(tmp_path)
    assert names(images) == ["moving.png", "still.webp"]
    assert Image.open(images / "still.webp").convert("RGBA").tobytes() == picture.tobytes()
    assert (tmp_path / "a.html").read_text() == '<img src="_images/still.webp"><img src="_images/moving.png">'


def test_a_notebook_to_download_leaves_its_pictures_out():
    text = {"output_type": "stream", "text": "1"}
    picture = {"output_type": "display_data", "data": {"image/png": "AAAA", "text/plain": "<Figure>"}}
    notebook = {"cells": [{"cell_type": "code", "outputs": [text, picture]}, {"cell_type": "markdown"}]}
    cells = light_site.without_pictures(notebook)["cells"]
    assert cells == [{"cell_type": "code", "outputs": [text]}, {"cell_type": "markdown"}]


def test_pages_lose_what_only_thebe_and_the_theme_read(site):
    kept = "<p>99 %<!-- record: r mean --></p>\n<script>a()</script>\n"
    thebe = '<script type="text/x-thebe-config">\n{ requestKernel: true }\n</script>\n<script>kernelName = \'python3\'</script>\n'
    notes = "<!-- Loaded before other Sphinx assets -->\n<!-- Scripts loaded after <body> so the DOM is not blocked -->\n"
    folder = site({"a.html": thebe + notes + kept})
    light_site.slim_pages(folder)
    assert (folder / "a.html").read_text() == kept


def test_pages_lose_their_indentation_but_not_that_of_code():
    page = "<p>\n\n    a\n  b</p>\n<pre>\n    c\n</pre>\n  <script>\n  d\n</script>\n    e"
    expected = "<p>\na\nb</p>\n<pre>\n    c\n</pre>\n<script>\n  d\n</script>\ne"
    assert light_site.without_indentation(page) == expected


def test_without_scripts_a_page_is_light():
    page = '<html lang="en" data-theme="auto"><script>theme = "auto"</script>'
    assert light_site.light_at_first(page) == '<html lang="en" data-theme="light"><script>theme = "auto"</script>'


STYLES = """
html[data-theme="light"] .highlight pre { line-height: 125%; }
html[data-theme="light"] .highlight .hll { background-color: #fae4c2 }
html[data-theme="light"] .highlight { background: #fefefe; color: #080808 }
html[data-theme="light"] .highlight .n { color: #080808 } /* Name */
html[data-theme="light"] .highlight .p { color: #080808 } /* Punctuation */
html[data-theme="light"] .highlight .k { color: #6730C5; font-weight: bold } /* Keyword */
html[data-theme="light"] .highlight .gi { color: #080808; font-style: italic } /* Inserted */
html[data-theme="dark"] .highlight { background: #2b2b2b; color: #F8F8F2 }
html[data-theme="dark"] .highlight .n { color: #F8F8F2 } /* Name */
html[data-theme="dark"] .highlight .p { color: #ABE338 } /* Punctuation */
"""


def test_code_keeps_the_marks_that_some_theme_colours():
    assert light_site.plain_signs(STYLES) == {"n"}
    code = '<div class="highlight"><pre><span class="k">if</span> <a href="#x"><span class="n">x</span></a><span class="p">:</span></pre></div>'
    page = f'<span class="n">y</span>{code}<span class="n">z</span>'
    assert light_site.without_plain_signs(page, {"n"}) == page.replace('<span class="n">x</span>', "x")


def test_sitemap_lists_the_pages_with_content(site):
    folder = site({"book/a&b.html": "", "404.html": "", "search.html": "", "_static/x.html": ""})
    assert re.findall("<loc>(.*)</loc>", light_site.sitemap(folder, "https://h/b/")) == ["https://h/b/book/a&amp;b.html"]


# The site that was built


@pytest.mark.built
def test_code_marks_names_and_brackets_no_more():
    assert {"n", "p", "w"} <= light_site.plain_signs((HTML / "_static" / "pygments.css").read_text())
    page = (HTML / "book" / "03-per-layer-training.html").read_text()
    assert '<span class="k">def</span>' in page and '<span class="n">' not in page


@pytest.mark.built
def test_whole_site_is_small():
    """9.3 MB, and little more is to come; it was 45 before anything was left out."""
    assert sum(path.stat().st_size for path in HTML.rglob("*") if path.is_file()) < 9_450_000


@pytest.mark.built
def test_sitemap_has_every_page():
    listed = set(re.findall("<loc>(.*)</loc>", (HTML / "sitemap.xml").read_text()))
    assert listed >= {f"{CONFIG['html']['baseurl']}{page}.html" for page in PAGES}


def head_of(page):
    text = (HTML / f"{page}.html").read_text(encoding="utf-8")
    found = dict(re.findall(r'<meta (?:name|property)="([\w:]+)" content="([^"]*)"', text))
    return found | {"title": re.search("<title>(.*?)</title>", text).group(1)}


@pytest.mark.built
@pytest.mark.parametrize("page", PAGES)
def test_page_says_what_it_is(page):
    head = head_of(page)
    assert head["title"] == "The NoProp Book" if page == TOC["root"] else head["title"].endswith(" - The NoProp Book")
    assert head["og:title"] == head["title"] and head["og:description"] == head["description"]
    assert len(head["description"]) <= page_head.LONGEST + 50  # what is escaped is longer
    assert head["og:url"] == f"{CONFIG['html']['baseurl']}{page}.html"
    card = HTML / head["og:image"].removeprefix(CONFIG["html"]["baseurl"])
    assert Image.open(card).size == (1200, 630)


@pytest.mark.built
def test_language_models_find_the_pages_at_the_root():
    links = re.findall(r"\]\(([^)]+)\)", (HTML / "llms.txt").read_text())
    assert len(links) > 20
    for link in links:
        assert link.startswith(CONFIG["repository"]["url"]) or (HTML / link).is_file(), link


@pytest.mark.built
def test_the_index_has_a_name_and_a_way_to_it():
    assert [head_of(page)["title"] for page in ("genindex", "search")] == ["Index - The NoProp Book", "Search - The NoProp Book"]
    assert 'href="../genindex.html"' in (HTML / "book" / "api.html").read_text().partition("<article")[2]


@pytest.mark.built
def test_the_page_for_lost_readers_says_what_it_is():
    text = (HTML / "404.html").read_text(encoding="utf-8")
    assert re.search('<meta name="description" content="[^"]*The NoProp Book', text)


@pytest.mark.built
def test_no_two_pages_have_one_title_or_one_description():
    heads = [head_of(page) for page in PAGES if page != "book/references"]  # which has no text of its own
    assert len({head["title"] for head in heads}) == len({head["description"] for head in heads}) == len(heads)


@pytest.mark.built
@pytest.mark.parametrize("page", [TOC["root"], "404"])
def test_footer_names_licence_and_commit(page):
    text = (HTML / f"{page}.html").read_text(encoding="utf-8")
    assert f'{CONFIG["repository"]["url"]}/blob/{CONFIG["repository"]["branch"]}/LICENSE">MIT licence</a>' in text
    assert ("built from commit" in text) == (page_head.commit_of(ROOT) is not None)


@pytest.mark.built
def test_labels_of_folds_are_their_text():
    for page in PAGES:
        assert not re.search("<summary[^>]*aria-label", (HTML / f"{page}.html").read_text(encoding="utf-8")), page


@pytest.mark.built
def test_notebooks_to_download_are_whole_but_for_pictures_and_name_their_commit():
    footer = re.search(r"/commit/([0-9a-f]{40})", (HTML / f"{TOC['root']}.html").read_text(encoding="utf-8"))
    for page in PAGES:
        if (ROOT / f"{page}.ipynb").exists():
            notebook = json.loads((HTML / "_sources" / f"{page}.ipynb").read_text(encoding="utf-8"))
            text = (ROOT / f"{page}.ipynb").read_text(encoding="utf-8")
            source = json.loads(one_commit.pinned(text, footer.group(1)) if footer else text)
            assert [cell["source"] for cell in notebook["cells"]] == [cell["source"] for cell in source["cells"]]
            outputs = json.dumps([cell.get("outputs", []) for cell in notebook["cells"]])
            assert "image/png" not in outputs and "<svg" not in outputs


def test_a_default_that_is_a_folder_of_the_repository_is_named_from_there():
    there = f"(folder=PosixPath('{fields.ROOT}/book/records'), device='cpu')"
    assert fields.plain(there) == "(folder=Path('book/records'), device='cpu')"
    assert fields.plain(None) is None
