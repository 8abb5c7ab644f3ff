"""Pages say less and look the same: what the finished site leaves out of its markup, and what it must not."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HTML = ROOT / "_build" / "html"
sys.path.append(str(ROOT / "book" / "_ext"))

import light_markup  # noqa: E402


def code(*words):
    return f'<code class="docutils literal notranslate">{" ".join(words)}</code>'


def held(word):
    return f'<span class="pre">{word}</span>'


@pytest.mark.parametrize("word", ["alpha_bar", "training.fit()", "order=", "&quot;elbo&quot;", "0.95", "[source]", "'cpu'"])
def test_a_word_that_cannot_break_is_not_held_together(word):
    assert light_markup.without_pre(code(held("a"), held(word))) == f'<code class="literal notranslate">a {word}</code>'


@pytest.mark.parametrize("word", ["--data-root", "-1", "a/b", "f(x)-g", "[B,", "z_{t-1}", "-&gt;", "1,2", "layer-local", "()x"])
def test_a_word_that_could_break_is(word):
    assert held(word) in light_markup.without_pre(code(held(word)))


def test_classes_that_a_style_sheet_asks_for_are_known():
    css = 'a.x:not(.y-1)>b{top:.5em}.z .w,[class*="high-"] p,li[class^=toc-l]{x:1}'
    assert light_markup.asked_for(css) == ({"x", "y-1", "z", "w"}, {"high-", "toc-l"})


@pytest.mark.parametrize(
    "page, expected",
    [
        ('<p class="a b c">x</p>', '<p class="a c">x</p>'),
        ('<p id="i" class="b">x</p>', '<p id="i">x</p>'),
        ('<p class="high-python b">', '<p class="high-python">'),
        ('<span class="b">x <span class="b">y</span></span>', "x y"),
        ('<span class="b"><i>x</i></span>', "<span><i>x</i></span>"),
        ('<span class="b" id="i">x</span>', '<span id="i">x</span>'),
        ("<div><span>x</span><span></span></div>",) * 2,  # columns of a table that somebody made of them
        ('<script>write(`<b class="b">`)</script>',) * 2,
        ('<code class="notranslate">',) * 2,
        ('<section class="tex2jax_ignore mathjax_ignore">',) * 2,
        ('<pre>class="b"</pre>',) * 2,
    ],
)
def test_classes_that_nobody_asks_for_go(page, expected):
    assert light_markup.with_classes(page, {"a", "c"}, {"high-"}) == expected


def test_links_and_the_sidebar_say_what_is_asked_of_them():
    link = '<a class="reference external" href="#"></a>'
    sidebar = f'<nav class="bd-links x"><li class="toctree-l1">{link}<li class="toctree-l2 current"></nav>'
    flat = f'<nav class="bd-links x"><li>{link}<li class="current"></nav>'
    text = (
        '<article class="t"><li class="toctree-l1"><a class="reference" href="#a"><a class="quiet reference external" href="b">'
        '<a class="reference external" href="c"><a class="reference download" href="d"></article>'
    )
    plain = (
        '<article class="t"><li class="toctree-l1"><a href="#a"><a class="quiet" href="b"><a href="c">'
        '<a class="reference download" href="d"></article>'
    )
    contents = '<a class="reference nav-link" href="#e">'
    assert light_markup.with_plain_links(sidebar + text + contents) == flat + plain + '<a class="nav-link" href="#e">'


def test_signatures_mark_defaults_and_no_names():
    name, default = '<span class="n">a</span>', '<span class="o">=</span><span class="default_value">1</span>'
    page = f'{name}<dt class="sig py" id="f"><em class="sig-param">{name}{default}</em>\n</dt>{name}'
    short = '<em class="sig-param">a<span class="default_value">=1</span></em>'
    assert light_markup.with_short_signatures(page) == f'{name}<dt class="sig py" id="f">{short}\n</dt>{name}'


STYLES = """
html[data-theme="light"] .highlight .s2 { color: #00622F } /* String */
html[data-theme="light"] .highlight .si { color: #00622F } /* Interpol */
html[data-theme="light"] .highlight .o { color: #00622F } /* Operator */
html[data-theme="light"] .highlight .go { color: #00622F }
html[data-theme="dark"] .highlight .s2 { color: #ABE338 } /* String */
html[data-theme="dark"] .highlight .si { color: #ABE338 } /* Interpol */
html[data-theme="dark"] .highlight .o { color: #DCC6E0 } /* Operator */
html[data-theme="dark"] .highlight .go { color: #ABE338 }
"""


def signs(*pairs):
    return "".join(f'<span class="{sign}">{text}</span>' for sign, text in pairs)


@pytest.mark.parametrize(
    "code, expected",
    [
        (signs(("s2", '"a '), ("si", "{")) + "b", signs(("s2", '"a {')) + "b"),
        ("b" + signs(("si", "}"), ("s2", '"')), "b" + signs(("si", '}"'))),
        (signs(("s2", "a")) + "\n  " + signs(("s2", "b")), signs(("s2", "a\n  b"))),
        (signs(("s2", "a"), ("o", "+"), ("s2", "b")),) * 2,  # alike in one theme only
        (signs(("go", "1"), ("go", "2")),) * 2,  # left out of copies, one by one
        (signs(("x", "1"), ("x", "2")),) * 2,
    ],
)
def test_neighbours_that_look_alike_in_every_theme_are_joined(code, expected):
    page = '<p>{0}</p><div class="highlight"><pre>{1}</pre></div>{0}'
    outside = signs(("s2", "a"), ("s2", "b"))
    joined = light_markup.with_joined_signs(page.format(outside, code), light_markup.looks(STYLES))
    assert joined == page.format(outside, expected)


def test_a_page_says_once_how_wide_it_is():
    first, again = '<meta name="viewport" content="width=device-width" />', '<meta name="viewport" content="w"/>\n'
    assert light_markup.with_one_viewport(f"<head>{first}{again}<title>{again}") == f"<head>{first}<title>"
    assert light_markup.with_one_viewport("<head>") == "<head>"


def test_settings_of_all_pages_stand_in_one_file():
    a, b = "let toggleHint = 'Show';", "var toggleSelector = '.a, .b';"
    script, others = '<script src="t.js"></script>\n', "<script>c()</script>\n"
    page = f"<script>{a}</script>\n{script}<script>{b}</script>\n<script>{b}</script>\n{others}"
    settings = light_markup.settings_of(page)
    assert settings == f"{a}\n{b}\n"
    apart = f'<script src="../_static/settings.js"></script>\n{script}{others}'
    assert light_markup.with_settings_apart(page, "../", settings) == apart
    assert light_markup.with_settings_apart(page, "../", f"{a}\n") == page
    assert light_markup.with_settings_apart("<p>", "", "") == "<p>"


# The site that was built


@pytest.mark.built
def test_pages_ask_for_their_settings_and_have_no_second_contents_for_paper():
    page = (HTML / "book" / "api" / "lab" / "claims.html").read_text(encoding="utf-8")
    assert '<script src="../../../_static/settings.js"></script>' in page and "toggleHint" not in page
    assert "toggleHintShow" in (HTML / "_static" / "settings.js").read_text(encoding="utf-8")
    assert page.count("#noprop_helpers.lab.claims.claims") == 2  # beside the text, and on the entry itself
    assert "jb-print" not in page
