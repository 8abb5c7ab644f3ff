"""The book without Jupyter Book: what it makes of _config.yml, said to Sphinx directly. Chapters are shown as stored.

``sphinx-build -c tests/plain_sphinx . OUT`` needs the extensions below and sphinx-book-theme; see tests/worlds.sh.
"""

import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
BOOK = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
sys.path += [str(ROOT / "book" / "_ext"), str(ROOT)]

project = html_title = BOOK["title"]
author, copyright = BOOK["author"], BOOK["copyright"]
extensions = [
    "myst_nb", "sphinx_external_toc", "sphinx_togglebutton", "sphinx_copybutton", "sphinx_design", "sphinxcontrib.bibtex",
    *BOOK["sphinx"]["extra_extensions"], *BOOK["sphinx"]["local_extensions"],
]  # fmt: skip
globals().update(BOOK["sphinx"]["config"])

external_toc_path = str(ROOT / "_toc.yml")
external_toc_exclude_missing = True
exclude_patterns = [".*", "_build", "mutants"]
nb_execution_mode = "off"
numfig = True
myst_enable_extensions = BOOK["parse"]["myst_enable_extensions"]
bibtex_bibfiles = [str(ROOT / file) for file in BOOK["bibtex_bibfiles"]]
# Paths are from this folder.
html_static_path, templates_path = ([str(ROOT / folder) for folder in folders] for folders in (html_static_path, templates_path))
html_logo, html_favicon = str(ROOT / BOOK["logo"]), str(ROOT / BOOK["html"]["favicon"])
html_theme = "sphinx_book_theme"
html_baseurl = BOOK["html"]["baseurl"]
html_sourcelink_suffix = ""
html_theme_options |= {
    "repository_url": BOOK["repository"]["url"],
    "repository_branch": BOOK["repository"]["branch"],
    "path_to_docs": "",
    "launch_buttons": {"notebook_interface": "classic", **BOOK["launch_buttons"]},
    "use_repository_button": True,
    "use_issues_button": True,
    "use_edit_page_button": True,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # else today's theme draws a second search box across the top of every page
}
