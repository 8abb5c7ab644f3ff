"""A paragraph "*Figure.* ..." under a cell that drew a figure becomes the figure's caption.

So a caption is written once, in a Markdown cell, where a reader of the notebook sees it too; in the book the figure is numbered
and the caption stands in it.
"""

from docutils import nodes
from sphinx.transforms import SphinxTransform

OPENING = "Figure."


def is_caption(node: nodes.Node) -> bool:
    """Whether a node is a paragraph that opens with *Figure.*"""
    opening = node[0] if len(node) else None
    return isinstance(node, nodes.paragraph) and isinstance(opening, nodes.emphasis) and opening.astext() == OPENING


def figure_above(paragraph: nodes.paragraph) -> nodes.figure | None:
    """The last figure that the cell directly above put out; None where it put out none."""
    siblings = paragraph.parent
    above = siblings[siblings.index(paragraph) - 1]
    return next(iter(reversed(list(above.findall(nodes.figure)))), None)


class Captions(SphinxTransform):
    """Moves captions into their figures, before figures are numbered."""

    default_priority = 210

    def apply(self) -> None:
        for paragraph in [node for node in self.document.findall(nodes.paragraph) if is_caption(node)]:
            figure = figure_above(paragraph)
            if figure is None:
                continue  # an interactive figure: its paragraph stays where it is
            text = paragraph[1:]
            text[0] = nodes.Text(text[0].astext().lstrip())
            caption = nodes.caption("", "", *text)
            caption.source, caption.line = paragraph.source, paragraph.line
            figure += caption
            paragraph.parent.remove(paragraph)


def setup(app) -> dict:
    app.add_transform(Captions)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
