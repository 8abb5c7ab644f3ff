"""Sphinx extension: whoever opens a chapter on Colab, or downloads it, gets the package of the same commit.

A chapter's first cell fetches a version of the book. In the repository that is its branch; nobody can write a commit's name
into the commit itself. So the chapters are published once more, with the name of their commit in place of the branch: on a
branch of their own, to which the pages' Colab buttons lead, and as the site's notebooks to download.
``python book/_ext/one_commit.py COMMIT`` writes the name into this checkout's chapters.
"""

import re
import sys
from pathlib import Path

BRANCH = "colab"
VERSION = re.compile(r'(BOOK, VERSION = \\"[^"]*\\", \\")([^"\\]*)')  # in a notebook's JSON


def pinned(notebook: str, commit: str) -> str:
    """A notebook's text whose first cell asks for a commit."""
    text, number = VERSION.subn(rf"\g<1>{commit}", notebook)
    if number != 1:
        raise ValueError(f"expected one line 'BOOK, VERSION = ...' in a notebook, found {number}")
    return text


def pin(folder: Path, commit: str) -> None:
    """Write a commit into the first cells of all chapters of a folder."""
    for file in sorted(folder.glob("*.ipynb")):
        file.write_text(pinned(file.read_text(encoding="utf-8"), commit), encoding="utf-8")


def on_page(app, pagename, templatename, context, doctree):
    branch = app.config.html_theme_options["repository_branch"]
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("text") == "Colab":
                button["url"] = button["url"].replace(f"/blob/{branch}/", f"/blob/{BRANCH}/")


def on_finished(app, exception):
    if exception is None and app.builder.format == "html" and app.env.commit_of_build:
        pin(Path(app.outdir) / "_sources" / "book", app.env.commit_of_build)


def setup(app):
    app.connect("html-page-context", on_page, priority=502)  # after the theme has made its buttons
    app.connect("build-finished", on_finished, priority=800)  # before light_site writes the notebooks again
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    pin(Path(__file__).parent.parent, sys.argv[1])
