"""Markup that a page can lose and look, read and print the same. For light_site: functions from text to text.

Sphinx and its themes say with every word what it is to whoever may want to style it. Where no style sheet and no script of the
site asks, the site does not repeat it ten thousand times.
"""

import re

# Words that no browser breaks, whether or not a style sheet forbids it: letters, digits and signs between which there is no place
# to break (UAX 14: AL, NU, IS, QU, and an opening bracket with its closing one).
UNBREAKABLE = re.compile(r"""<span class="pre">((?:[\w.='"]|&quot;|&\#39;|&\#x27;)*(?:\(\))?|\[source\])</span>""")
CLASSES = re.compile(r'(<[a-zA-Z][^<>]*?)\sclass="([^"<>]*)"')
NONE = "\0"  # marks a span that has lost its classes
SIGN = re.compile(r'<span class="(\w+)">([^<]*)</span>')
VIEWPORT = re.compile(r'<meta name="viewport" content="[^"]*" ?/>\s*')
LINK_OUT = re.compile(r'<a class="(quiet )?reference external" ')
# `let toggleHintShow = 'Click to show';` in a script of its own, as sphinx-togglebutton says it.
SETTING = re.compile(r"<script>((?:let|var) toggle\w+ = '[^'\n]*';)</script>\n")
SETTINGS = "_static/settings.js"
# Read by those who look at a page from outside: "do not translate" to browsers, "no mathematics here" to MathJax, whose files
# are too many words to be asked. Our own say to readers of the source what a cell is.
KEPT = {"notranslate", "tex2jax_ignore", "mathjax_ignore", "tex2jax_process", "mathjax_process", "math"}


def without_pre(page: str) -> str:
    """A page that holds words of code together only where they could fall apart: ``--data-root``, not ``alpha_bar``. Nor does it
    say whose the code is: ``docutils`` is something that style sheets ask of tables and cells."""
    return UNBREAKABLE.sub(r"\1", page).replace('<code class="docutils literal', '<code class="literal')


def asked_for(css: str) -> tuple[set[str], set[str]]:
    """What style sheets ask of classes: whole names, and pieces of names, as in ``[class*=highlight-]``."""
    pieces = re.findall(r"""\[class[*^$~|]?=["']?([^"'\]]+)""", css)
    return set(re.findall(r"\.(-?[A-Za-z_][\w-]*)", css)), {piece.strip() for piece in pieces}


def with_classes(page: str, names: set[str], pieces: set[str] = frozenset()) -> str:
    """A page whose elements keep of their classes those that are ``names``, or hold one of the ``pieces``. A span that loses all
    its classes goes, and its text stays; one that never had any may be there for its own sake."""
    holds = re.compile("|".join(map(re.escape, sorted(pieces)))) if pieces else re.compile("(?!)")

    def kept(match: re.Match) -> str:
        said = match[2].split()
        classes = [name for name in said if name in names or name in KEPT or holds.search(name)]
        if classes == said:
            return match[0]
        return match[1] + (f' class="{" ".join(classes)}"' if classes else NONE if match[1] == "<span" else "")

    # What a script writes is for the script to say.
    parts = re.split(r"(<script\b.*?</script>)", page, flags=re.S)
    return "".join(part if i % 2 else _without(NONE, CLASSES.sub(kept, part)) for i, part in enumerate(parts))


def _without(mark: str, page: str) -> str:
    """A page without its marked spans, as far as they hold text alone."""
    before = None
    while page != before:
        before, page = page, re.sub(rf"<span{mark}>([^<]*)</span>", r"\1", page)
    return page.replace(mark, "")


def with_plain_links(page: str) -> str:
    """A page whose links do not say that they are references: style sheets ask that of downloads alone, and of what in the
    sidebar leads out of the book. Nor do the sidebar's entries say how deep they stand, which matters in contents on a page."""
    page = re.sub(r'<a class="(quiet )?reference( nav-link)?" ', _plain, page)
    page = re.sub(r"<article\b.*</article>", lambda text: LINK_OUT.sub(_plain, text.group()), page, flags=re.S)
    return re.sub(r'<nav class="bd-links.*?</nav>', lambda text: _as_flat(text.group()), page, flags=re.S)


def _as_flat(sidebar: str) -> str:
    return re.sub(r'<li class="toctree-l\d ', '<li class="', re.sub(r'<li class="toctree-l\d">', "<li>", sidebar))


def _plain(link: re.Match) -> str:
    names = "".join(name or "" for name in link.groups()).strip()
    return f'<a class="{names}" ' if names else "<a "


def with_short_signatures(page: str) -> str:
    """A page whose signatures mark what has a look of its own: not a parameter's name, and a default with its sign as one."""
    return re.sub(r'<dt class="sig\b.*?</dt>', lambda signature: _short(signature.group()), page, flags=re.S)


def _short(signature: str) -> str:
    signature = re.sub(r'<span class="[nw]">([^<]*)</span>', r"\1", signature)
    return signature.replace('<span class="o">=</span><span class="default_value">', '<span class="default_value">=')


def looks(css: str) -> dict[str, tuple]:
    """The highlighter's classes -> how each looks, in every theme. Without prompts and outputs, which a copy leaves out."""
    found: dict[str, list] = {}
    for theme, sign, body in re.findall(r'html\[data-theme="(\w+)"\] \.highlight \.(\w+) \{ *([^}]*?) *\}', css):
        if not sign.startswith("g"):
            found.setdefault(sign, []).append((theme, body))
    return {sign: tuple(sorted(rules)) for sign, rules in found.items()}


def with_joined_signs(page: str, look: dict[str, tuple]) -> str:
    """A page whose code has one span for neighbours that look alike: a string in its quotes, with the letter before it."""
    return re.sub(r'<div class="highlight">.*?</pre>', lambda code: _joined(code.group(), look), page, flags=re.S)


def _joined(code: str, look: dict[str, tuple]) -> str:
    pieces, end, last = [], 0, None
    for match in SIGN.finditer(code):
        between, (sign, text) = code[end : match.start()], match.groups()
        if last is not None and look.get(sign) is not None and look.get(sign) == look.get(last) and not between.strip():
            pieces[-1] = pieces[-1].removesuffix("</span>") + f"{between}{text}</span>"
        else:
            pieces += [between, match[0]]
            last = sign
        end = match.end()
    return "".join(pieces) + code[end:]


def with_one_viewport(page: str) -> str:
    """A page that says once how wide it is: what docutils, Sphinx and theme each say."""
    first = VIEWPORT.search(page)
    return page[: first.end()] + VIEWPORT.sub("", page[first.end() :]) if first else page


def settings_of(page: str) -> str:
    """What a page sets for the scripts that follow, each line once."""
    return "".join(f"{setting}\n" for setting in dict.fromkeys(SETTING.findall(page)))


def with_settings_apart(page: str, root: str, settings: str) -> str:
    """A page that reads its settings from a file of the site, whose folder is ``root`` from here, if they are those of the file."""
    if not settings or settings_of(page) != settings:
        return page
    return SETTING.sub("", SETTING.sub(f'<script src="{root}{SETTINGS}"></script>\n', page, count=1))
