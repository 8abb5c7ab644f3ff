"""Sphinx extension: what a page says about itself to search engines, link previews and screen readers, and its footer; and what
the site says to language models, in llms.txt.

Adds to the context of every page ``page_title``, ``description``, ``site_url`` and ``commit``, for book/_templates to write.
The address of the site is ``html.baseurl`` in _config.yml, and nowhere else.
"""

import re
import subprocess
from pathlib import Path

from docutils import nodes

# Markup of others that a screen reader stumbles over.
MENDED = {
    # The fold's own words are its name: "Show code cell source", "Show the solution".
    '<summary aria-label="Toggle hidden content">': "<summary>",
    # A list whose children are no list items.
    '<div role="list" class="citation-list">': '<div class="citation-list">',
}
NAMELESS = {"genindex": "Index", "search": "Search"}  # pages that the theme names too late for the head
LONGEST = 200  # characters of a description that search engines still show


def page_title(title: str, book: str) -> str:
    """``"Schedule math - The NoProp Book"``, from a title that may hold HTML and a number; the first page has the book's."""
    plain = re.sub(r"^\d+\.\s+", "", re.sub(r"<[^>]*>", "", title)).strip()
    return book if plain in ("", book) else f"{plain} - {book}"


def plain_text(node: nodes.Node) -> str:
    """A paragraph as it reads: without the comments that name records, its spaces joined."""
    if isinstance(node, nodes.raw | nodes.comment):
        return ""
    text = node.astext() if isinstance(node, nodes.Text) else "".join(map(plain_text, node.children))
    return re.sub(r"\s+", " ", text)


def shortened(text: str, longest: int = LONGEST) -> str:
    """Whole sentences as far as they fit; of a single long one, whole words and an ellipsis."""
    if len(text) <= longest:
        return text
    sentences = text[: longest + 1].rsplit(". ", 1)
    if len(sentences) == 2:
        return sentences[0] + "."
    return text[:longest].rsplit(" ", 1)[0].rstrip(",;:") + "…"


def description(doctree: nodes.document) -> str:
    """The page's question and as much of its first paragraph as fits."""
    paragraphs = []
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section | nodes.document) and (text := plain_text(paragraph).strip()):
            paragraphs.append(text)
            if sum(map(len, paragraphs)) > LONGEST / 2:
                break
    return shortened(" ".join(paragraphs))


def commit_of(folder: Path) -> str | None:
    """The commit that a folder is checked out at; None where it is no checkout of its own, or there is no git."""
    git = ["git", "-C", str(folder), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        top, commit = subprocess.run(git, capture_output=True, encoding="utf-8", check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    return commit if Path(top).resolve() == Path(folder).resolve() else None


def on_page(app, pagename, templatename, context, doctree):
    context["page_title"] = page_title(context.get("title") or NAMELESS.get(pagename, ""), app.config.html_title)
    context["description"] = description(doctree) if doctree is not None else ""
    context["site_url"] = app.config.html_baseurl
    context["commit"] = app.env.commit_of_build
    if "body" in context:
        for markup, better in MENDED.items():
            context["body"] = context["body"].replace(markup, better)


def on_the_site(text: str, repository: str) -> str:
    """A Markdown file of the repository whose links lead to the site's pages, and for what is no page, to the repository."""
    text = re.sub(r"\]\((book/[\w/-]+)\.(?:ipynb|md)\)", r"](\1.html)", text)
    return re.sub(r"\]\((?!https?:|book/)([^)]+)\)", rf"]({repository}/\1)", text)


def on_finished(app, exception):
    if exception is None and app.builder.format == "html":
        options = app.config.html_theme_options
        repository = f"{options['repository_url']}/blob/{options['repository_branch']}"
        text = (Path(app.srcdir) / "llms.txt").read_text(encoding="utf-8")
        (Path(app.outdir) / "llms.txt").write_text(on_the_site(text, repository), encoding="utf-8")


def on_builder(app):
    app.env.commit_of_build = commit_of(Path(app.srcdir))


def setup(app):
    app.connect("builder-inited", on_builder)
    app.connect("html-page-context", on_page)
    app.connect("build-finished", on_finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
