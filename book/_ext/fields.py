"""In the API pages a named tuple's docstring says what its fields are; "Alias for field number 0" is left out."""

import collections

from sphinx.application import Sphinx

FIELD = type(collections.namedtuple("Pair", "first second").first)


def setup(app: Sphinx) -> dict:
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def skip_fields(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    return True if isinstance(member, FIELD) else None
