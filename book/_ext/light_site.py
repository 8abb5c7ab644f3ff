"""Sphinx extension: of the finished site only what its pages use stays. Works on files alone, the same every time.

Themes and MathJax come with many times what a page asks for: other bundles, other languages, maps of their sources. What no
page leads to is deleted; MathJax keeps the fonts and extensions that some formula needs; style sheets and icon fonts keep what
some page may show; pictures are stored again, pixel for pixel; pages lose what no style sheet colours and no script reads
(light_markup); notebooks to download leave their pictures to be drawn by the reader. Last, sitemap.xml lists the pages.
"""

import json
import logging
import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urljoin
from xml.sax.saxutils import escape

import light_markup
from fontTools import subset
from fontTools.ttLib import TTFont
from PIL import Image

# What MathJax's loader asks for while a page is open: the parts named in _config.yml, and the fonts of letters and signs.
MATHJAX = [
    "core.js", "input/tex.js", "output/chtml.js", "output/chtml/fonts/*.js", "a11y/assistive-mml.js",
    *(
        f"output/chtml/fonts/woff-v2/MathJax_{font}.woff"
        for font in ("AMS-Regular", "Main-Regular", "Math-Italic", "Size*", "Vector-Regular", "Zero")
    ),
]  # fmt: skip
# Fonts in which a formula is set only by a command of this name.
BOLD = "bf|bold|pmb"
FONTS = {
    "Main-Bold": BOLD, "Math-BoldItalic": BOLD, "Vector-Bold": BOLD, "Main-Italic": "^(math|text)?it$|emph|sl$",
    "Calligraphic-Regular": "cal$|oldstyle", "Calligraphic-Bold": f"{BOLD}|oldstyle", "Script-Regular": "scr$",
    "Fraktur-*": "frak", "SansSerif-*": "sf", "Typewriter-Regular": "tt$|verb",
}  # fmt: skip
# `cancel:["cancel","bcancel"]` in input/tex.js: an extension, and the commands and environments that load it.
AUTOLOAD = re.compile(r'\b(\w+):((?:\[(?:"\w+",?)*\],?)+|\[\[\],\["\w+"\]\])(?=[,}])')
OWNER = re.compile(r"^/\*!|copyright|licen[cs]e", re.I)  # a style sheet's comment that says whose it is
CARD = "_static/card.png"  # which pages name by its address on the published site
ICONS = "_static/vendor/fontawesome"
NO_CONTENT = {"404", "genindex", "index", "search"}  # pages that a search engine need not list


def pages(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if "_static" not in path.relative_to(site).parts)


def references(file: Path) -> set[str]:
    """Addresses that a page or a style sheet names, relative to it, without query and place."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".css":
        found = re.findall(r"""(?:url\(\s*["']?|@import\s*["'])([^"')]+)""", text)
    else:
        found = re.findall(r"""\b(?:src|href)=["']([^"'<>]+)["']""", text)
    addresses = {unquote(unescape(address)).split("#")[0].split("?")[0] for address in found}
    return {address for address in addresses if address and not re.match(r"[a-z]+:|//", address)}


def reachable(site: Path) -> set[Path]:
    """The files of the site that its pages name, directly or through a style sheet."""
    seen, to_read = set(), pages(site)
    while to_read:
        file = to_read.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        if file.suffix in {".html", ".css"}:
            to_read += [(file.parent / address).resolve() for address in references(file)]
    return seen


def delete_unused(site: Path) -> None:
    """Delete what no page leads to from the folders of static files, pictures and sources."""
    site = site.resolve()
    mathjax = site / "_static" / "mathjax"
    kept = reachable(site) | {path for pattern in MATHJAX for path in mathjax.glob(pattern)}
    kept |= mathematics(site, mathjax) | {site / CARD}
    for folder in ("_static", "_images", "_sources"):
        for path in sorted((site / folder).rglob("*"), reverse=True):
            if path.is_file() and path not in kept:
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def mathematics(site: Path, mathjax: Path) -> set[Path]:
    """MathJax's fonts and extensions that some page's command or environment asks for."""
    texts = (page.read_text(encoding="utf-8") for page in pages(site))
    commands = {word.removeprefix("begin{") for text in texts for word in re.findall(r"\\(begin\{\w+|[A-Za-z]+)", text)}
    tex = mathjax / "input" / "tex.js"
    loads = AUTOLOAD.findall(tex.read_text(encoding="utf-8")) if tex.exists() else []
    extensions = [name for name, called in loads if commands & set(re.findall(r"\w+", called))]
    fonts = [name for name, called in FONTS.items() if any(re.search(called, command) for command in commands)]
    folder = mathjax / "output" / "chtml" / "fonts" / "woff-v2"
    return {mathjax / "input" / "tex" / "extensions" / f"{name}.js" for name in extensions} | {
        path for font in fonts for path in folder.glob(f"MathJax_{font}.woff")
    }


def words(site: Path) -> set[str]:
    """The classes that pages name, and all words of scripts: every class that an element can come to have is among them."""
    scripts = [path.read_text(encoding="utf-8") for path in reachable(site.resolve()) if path.suffix == ".js"]
    named = []
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        scripts += re.findall(r"<script\b[^>]*>(.*?)</script>", text, re.S)
        named += re.findall(r"""\bclass=["']([^"'<>]*)""", text)
    return {word for text in named for word in text.split()}.union(*(re.findall(r"[\w-]+", text) for text in scripts))


def used_rules(css: str, known: set[str]) -> str:
    """A style sheet without the rules each of whose selectors asks for a class that is not ``known``, and without comments, but
    for those that say whose it is."""
    kept, position = [], 0
    css = re.sub(r"/\*.*?\*/", lambda said: said.group() if OWNER.search(said.group()) else "", css, flags=re.S)
    for match in re.finditer(r"/\*.*?\*/|@[^{};]+;|((?:[^{}/]|/(?!\*))+)\{((?:[^{}]|\{[^{}]*\})*)\}", css, re.S):
        kept.append(css[position : match.start()])
        position = match.end()
        head, body = match.groups()
        if head is None:  # a comment or a one-line statement
            kept.append(match.group())
        elif head.strip().startswith("@"):
            whole = re.match(r"@(font-face|(-\w+-)?keyframes|page|property)", head.strip())
            inner = body if whole else used_rules(body, known)
            kept.append(f"{head}{{{inner}}}" if inner.strip() else "")
        else:
            selectors = [selector for selector in _split(head) if _classes(selector) <= known]
            kept.append(f"{','.join(selectors)}{{{body}}}" if selectors else "")
    return "".join(kept) + css[position:]


def _split(selectors: str) -> list[str]:
    """At the commas between selectors, not at those inside ``:is(a, b)``."""
    pieces, depth, start = [], 0, 0
    for at, sign in enumerate(selectors):
        depth += (sign == "(") - (sign == ")")
        if sign == "," and depth == 0:
            pieces.append(selectors[start:at])
            start = at + 1
    return [*pieces, selectors[start:]]


def _classes(selector: str) -> set[str]:
    """The classes without which nothing is selected: those in brackets may be alternatives, or what must not be."""
    before = None
    while before != selector:
        before, selector = selector, re.sub(r"\([^()]*\)", "", selector)
    return set(re.findall(r"\.(-?[A-Za-z_][\w-]*)", selector))


def slim_styles(site: Path) -> None:
    known = words(site)
    known |= {"bs-tooltip-auto", "fa-solid", "fa-regular", "fa-brands"}  # put together by a script
    for file in sorted(path for path in reachable(site.resolve()) if path.suffix == ".css"):
        file.write_text(used_rules(file.read_text(encoding="utf-8"), known), encoding="utf-8")


def slim_icons(site: Path) -> None:
    """Icon fonts keep the signs that the slimmed style sheet names, as TrueType: small enough not to be compressed."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it reports every table
    for sheet in site.glob(f"{ICONS}/*/css/all.min.css"):
        css = re.sub(r'url\([^)]*\.woff2\) format\("woff2"\),', "", sheet.read_text(encoding="utf-8"))
        sheet.write_text(css, encoding="utf-8")
        signs = {int(code, 16) for code in re.findall(r'content:"\\([0-9a-f]+)', css)}
        for file in sheet.parent.parent.glob("webfonts/*.ttf"):
            font = TTFont(file, recalcTimestamp=False)
            subsetter = subset.Subsetter(subset.Options(hinting=False, layout_features=[], name_IDs=["*"]))
            subsetter.populate(unicodes=signs)
            subsetter.subset(font)
            font.save(file)


def as_webp(file: Path) -> Path | None:
    """Store a still picture again as lossless WebP beside it; None if it moves or would not get smaller."""
    with Image.open(file) as image:
        if getattr(image, "n_frames", 1) > 1:
            return None
        new = file.with_suffix(".webp")
        image.convert("RGBA").save(new, lossless=True, exact=True, quality=100, method=4)
    if new.stat().st_size >= file.stat().st_size:
        new.unlink()
        return None
    return new


def slim_pictures(site: Path) -> None:
    renamed = {}
    for file in sorted((site / "_images").glob("*.png")):
        if new := as_webp(file):
            renamed[f"_images/{file.name}"] = f"_images/{new.name}"
            file.unlink()
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        new = re.sub(r"_images/[\w.@-]+\.png", lambda name: renamed.get(name.group(), name.group()), text)
        if new != text:
            page.write_text(new, encoding="utf-8")


def without_pictures(notebook: dict) -> dict:
    """A notebook to download: its outputs but for the pictures, also those that move, which running it draws."""
    for cell in notebook["cells"]:
        outputs = cell.get("outputs", [])
        cell |= {"outputs": [o for o in outputs if not _is_picture(o.get("data", {}))]} if outputs else {}
    return notebook


def _is_picture(data: dict) -> bool:
    return "image/png" in data or "<svg" in "".join(data.get("text/html", []))


def slim_notebooks(site: Path) -> None:
    for file in sorted((site / "_sources").rglob("*.ipynb")):
        notebook = without_pictures(json.loads(file.read_text(encoding="utf-8")))
        file.write_text(json.dumps(notebook, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def without_indentation(page: str) -> str:
    """A page whose lines begin at their first sign, but for what shows its lines as they are, and scripts."""
    parts = re.split(r"(<(pre|textarea|script)\b.*?</\2>)", page, flags=re.S)
    # The split gives text, what stays, its tag, text, ...
    return "".join(re.sub(r"\n\s+", "\n", part) if i % 3 == 0 else part for i, part in enumerate(parts) if i % 3 != 2)


# Settings of Thebe and a word to a search service, which are not used, what every style sheet is, and the theme's notes to itself.
# Comments that name a number's source stay.
LEFTOVERS = re.compile(
    r"""<meta name="docsearch:language"[^>]*>\s*|(?<=rel="stylesheet") type="text/css"|"""
    r"""<script type="text/x-thebe-config">.*?</script>\s*|<script>kernelName = '\w+'</script>\s*"""
    r"|<!-- (?:Loaded before|Pre-loaded scripts|Scripts loaded after|Table of contents)[^>]*?(?:<body>[^>]*?)?-->\s*",
    re.S,
)


def plain_signs(css: str) -> set[str]:
    """The highlighter's classes whose rules, in every theme, set the colour that code has anyway: names, brackets, spaces."""
    rules = re.findall(r'(html\[data-theme="\w+"\]) \.highlight( \.\w+)? \{ *([^}]*?) *\}', css)
    colours = {theme: re.search(r"\bcolor: (\S+)$", body)[1] for theme, sign, body in rules if not sign}
    coloured = {sign for theme, sign, body in rules if sign and body != f"color: {colours[theme]}"}
    return {sign.strip(" .") for _, sign, _ in rules if sign and sign not in coloured}


def without_plain_signs(page: str, signs: set[str]) -> str:
    """A page whose code wraps in spans only what has a colour of its own."""
    plain = re.compile(rf'<span class="(?:{"|".join(sorted(signs))})">([^<]*)</span>')
    return re.sub(r'<div class="highlight">.*?</pre>', lambda code: plain.sub(r"\1", code.group()), page, flags=re.S)


def light_at_first(page: str) -> str:
    """A page that is light until its script has asked for the reader's colours. Where no script runs it stays so, and with
    it what follows the page: figures, and drawings that come once for light pages and once for dark ones."""
    return page.replace(' data-theme="auto">', ' data-theme="light">', 1)


def read_classes(site: Path) -> tuple[set[str], set[str]]:
    """The classes that style sheets and scripts of the site know, inline ones included: names, and pieces of names."""
    files = [path for path in reachable(site.resolve()) if path.suffix in {".css", ".js"}]
    texts = {".css": [], ".js": []}
    for file in files:
        texts[file.suffix].append(file.read_text(encoding="utf-8"))
    for page in pages(site):
        for tag, text in re.findall(r"<(script|style)\b[^>]*>(.*?)</\1>", page.read_text(encoding="utf-8"), re.S):
            texts[".css" if tag == "style" else ".js"].append(text)
    names, pieces = light_markup.asked_for("\n".join(texts[".css"]))
    said = {word for text in texts[".js"] for word in re.findall(r"[\w-]+", text)}
    # `".nph-" + kind`: what a script puts a name together from.
    return names | said, pieces | {word for word in said if re.fullmatch(r"[a-z]{3,}-", word)}


def up_from(page: Path, site: Path) -> str:
    """From a page to the site's folder: "../../"."""
    return "../" * (len(page.relative_to(site).parts) - 1)


def slim_pages(site: Path) -> None:
    sheet = site / "_static" / "pygments.css"
    css = sheet.read_text(encoding="utf-8") if sheet.exists() else ""
    signs, look, (names, pieces) = plain_signs(css), light_markup.looks(css), read_classes(site)
    settings = ""
    for page in pages(site):
        text = light_at_first(LEFTOVERS.sub("", page.read_text(encoding="utf-8")))
        text = light_markup.with_joined_signs(without_plain_signs(text, signs), look)
        text = light_markup.with_short_signatures(light_markup.without_pre(text))
        text = light_markup.with_plain_links(light_markup.with_classes(text, names, pieces))
        settings = settings or light_markup.settings_of(text)
        text = light_markup.with_settings_apart(light_markup.with_one_viewport(text), up_from(page, site), settings)
        page.write_text(without_indentation(text), encoding="utf-8")
    if settings:
        (site / light_markup.SETTINGS).write_text(settings, encoding="utf-8")


def sitemap(site: Path, base: str) -> str:
    names = [page.relative_to(site).as_posix() for page in pages(site)]
    urls = [urljoin(base, name) for name in names if name.removesuffix(".html") not in NO_CONTENT]
    rows = "".join(f"  <url><loc>{escape(url)}</loc></url>\n" for url in urls)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
    return f"{head}{rows}</urlset>\n"


def on_finished(app, exception):
    if exception is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    slim_styles(site)
    slim_icons(site)
    delete_unused(site)
    slim_pictures(site)
    slim_notebooks(site)
    slim_pages(site)
    (site / "sitemap.xml").write_text(sitemap(site, app.config.html_baseurl), encoding="utf-8")


def on_config(app, config):
    config.mathjax_path = "mathjax/startup.js"  # in place of the bundle that sphinx-mathjax-offline names


def setup(app):
    app.connect("config-inited", on_config)
    # After sphinx-mathjax-offline has copied its files, at 500.
    app.connect("build-finished", on_finished, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
