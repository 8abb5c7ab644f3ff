"""In the API pages a named tuple's docstring says what its fields are, and no default is a path of the machine of the build.

"Alias for field number 0" is left out, and a folder of the repository is named from there.
"""

import collections
import re
from pathlib import Path

from sphinx.application import Sphinx

FIELD = type(collections.namedtuple("Pair", "first second").first)
ROOT = Path(__file__).resolve().parents[2]


def setup(app: Sphinx) -> dict:
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-signature", lambda app, what, name, member, options, signature, returns: (plain(signature), returns))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def skip_fields(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    return True if isinstance(member, FIELD) else None


def plain(signature: str | None) -> str | None:
    """``(folder=PosixPath('.../book/records'))`` -> ``(folder=Path('book/records'))``."""
    return signature and re.sub(rf"\b\w*Path\('{re.escape(ROOT.as_posix())}/?", "Path('", signature)
