r"""Sphinx extension: an equation's number stands beside it, on the page itself.

Chapters number their equations with ``\tag{1.6}``, which reads well on Colab. MathJax keeps room for such a number on both
sides of an equation, and where that is not to be had, it pushes one of them out of sight. So the page takes the number out
of the formula: it stands at the right, on a line of its own where the equation needs the whole width, and stays put while a
wide equation scrolls.
"""

import re

from docutils import nodes

TAG = re.compile(r"\s*\\tag\{([^{}]+)\}")


def take_number(latex: str) -> tuple[str, str | None]:
    r"""``r"a = b \tag{1.6}"`` -> ``("a = b", "1.6")``; a formula with no number, or several, stays as it is, with None."""
    found = TAG.findall(latex)
    return (TAG.sub("", latex).strip(), found[0]) if len(found) == 1 else (latex, None)


def number_beside(formula: nodes.math_block) -> None:
    """Wrap a formula whose LaTeX has a number: the formula without it, the number as text, and the formula's places to land on
    at the whole."""
    latex, number = take_number(formula.astext())
    if number is None:
        return
    bare = nodes.math_block(latex, latex, **{**formula.attributes, "label": None, "number": None, "ids": []})
    beside = nodes.inline("", f"({number})", classes=["equation-number"])
    box = nodes.container("", bare, beside, classes=["numbered-equation"])
    box["ids"] = list(formula["ids"])
    formula.replace_self(box)


def on_doctree_resolved(app, doctree, docname):
    for formula in list(doctree.findall(nodes.math_block)):
        number_beside(formula)


def setup(app):
    app.connect("doctree-resolved", on_doctree_resolved)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
