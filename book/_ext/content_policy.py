"""Sphinx extension: every page says which scripts may run on it, and that nothing comes from anywhere but the book itself.

A Content-Security-Policy, as the first thing in the head. Scripts are the book's own files and the inline scripts of theme and
figures, each named by its checksum: what gets onto a page in a record, a class name or a file name is not run, even if somebody
forgot to escape it. Styles may be inline: MathJax writes them while it sets a page.
"""

import base64
import hashlib
import re
from pathlib import Path

POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
CHARSET = re.compile(r"<meta charset=[^>]*>", re.I)
# The theme's buttons that print and fill the screen. On every page, since search reads all others into its own.
HANDLERS = ("window.print()", "toggleFullScreen()")
# How the scripts begin that stand among a page's text: interactive figures, and the page that trains.
OPENINGS = ('(function () {\n"use strict";\nfunction each(name, start)', "NoPropTrainer.start();")


def checksum(script: str) -> str:
    """As a policy names a script: ``'sha256-...'``."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def inline_scripts(page: str) -> list[str]:
    """What runs among a page's scripts and is no file: all that the theme wrote, and in the text what the book wrote."""
    before, _, rest = page.partition("<article")
    article, _, after = rest.rpartition("</article>")
    own = [text for text in _scripts(article) if text.strip().startswith(OPENINGS)]
    return _scripts(before) + own + _scripts(after)


def _scripts(page: str) -> list[str]:
    found = re.findall(r"<script\b([^>]*)>(.*?)</script>", page, re.S | re.I)
    return [text for said, text in found if not re.search(r"\ssrc=|\stype=[\"'](?!text/javascript|module)", said)]


def policy(page: str) -> str:
    """The policy that lets a finished page do what it does, and nothing else."""
    scripts = sorted({checksum(text) for text in inline_scripts(page)})
    # 'unsafe-hashes' is the word that lets a checksum stand for what a button does; no other handler runs.
    return POLICY.format(scripts=" ".join(["'self'", *scripts, "'unsafe-hashes'", *map(checksum, HANDLERS)]))


def with_policy(page: str) -> str:
    """A page that states its policy; before anything that could load."""
    said = f'<meta http-equiv="Content-Security-Policy" content="{policy(page)}"/>'
    return CHARSET.sub(lambda charset: f"{charset.group()}\n{said}", page, count=1)


def on_finished(app, exception):
    if exception is None and app.builder.format == "html":
        for path in sorted(Path(app.outdir).rglob("*.html")):
            if "_static" not in path.relative_to(app.outdir).parts:
                path.write_text(with_policy(path.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app):
    # After everything that changes a page, light_site at 900 included.
    app.connect("build-finished", on_finished, priority=990)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
