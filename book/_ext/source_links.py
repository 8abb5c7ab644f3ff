"""Sphinx extension: entries of the API lead to their lines of source in the repository."""

import importlib
import inspect
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]


def lines_of(module: str, name: str) -> tuple[str, int, int] | None:
    """File, relative to the repository, and first and last line of a function, class or method; None for what has no source."""
    found = importlib.import_module(module)
    try:
        for part in name.split("."):
            found = getattr(found, part)
        found = inspect.unwrap(found)
        source, first = inspect.getsourcelines(found)
        file = Path(inspect.getsourcefile(found)).resolve().relative_to(ROOT)
    except (AttributeError, TypeError, OSError, ValueError):
        return None
    return file.as_posix(), first, first + len(source) - 1


def set_resolver(app: Sphinx, config) -> None:
    repository = f"{config.html_theme_options['repository_url']}/blob/{config.html_theme_options['repository_branch']}"

    def address(domain: str, info: dict) -> str | None:
        found = lines_of(info["module"], info["fullname"]) if domain == "py" and info["module"] else None
        return found and "{}/{}#L{}-L{}".format(repository, *found)

    config.linkcode_resolve = address


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", set_resolver)
    app.setup_extension("sphinx.ext.linkcode")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
