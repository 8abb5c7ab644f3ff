"""Pictures of the landing page: the result drawn from its record, and every drawing once more for dark pages.

``python -m noprop_helpers.lab.landing`` writes them into book/_static; a test sees that what lies there is what it writes.
"""

import re
import sys
from pathlib import Path

from .. import NoPropError
from ..checkpoints import write_bytes
from .records import FOLDER, read_record
from .shell import Parser, in_one_line

STATIC = FOLDER.parent / "_static"
DARK = {
    "#fbfcfd": "#1b2027",  # sheet
    "#22272e": "#e3e8ed",  # ink
    "#5b6470": "#a6b0bb",
    "#9aa2ac": "#7b8591",
    "#c9ced5": "#4a5460",
    "#d9dde2": "#39424d",
    "#e4eef7": "#17344d",
    "#1f6aa5": "#5ba4dc",
    "#fff": "#fff",
    "#000": "#000",
}
FONT = "system-ui, Segoe UI, Roboto, Helvetica, DejaVu Sans, sans-serif"


def darkened(svg: str) -> str:
    """A drawing in the book's colours, light on dark. Pictures of digits, white on black, stay as they are."""
    svg = svg.replace('rx="3" fill="#22272e"', 'rx="3" fill="#000"')
    unknown = set(re.findall(r"#[0-9a-f]{3,6}\b", svg)) - DARK.keys()
    if unknown:
        raise NoPropError(f"expected colours that have a dark counterpart in DARK, got {', '.join(sorted(unknown))}")
    return re.sub(r"#[0-9a-f]{3,6}\b", lambda colour: DARK[colour.group()], svg)


def text(x: float, y: float, words: str, size: int, anchor: str = "start", weight: int = 400, colour: str = "#22272e") -> str:
    """Words of an SVG, their baseline at (x, y) in its units.

    >>> text(1, 2, "noise", size=12)
    '<text x="1" y="2" font-size="12" font-weight="400" text-anchor="start" fill="#22272e">noise</text>'
    """
    look = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{colour}"'
    return f'<text x="{x:g}" y="{y:g}" {look}>{words}</text>'


def sudoku_picture(record: dict) -> str:
    """SVG of the share of puzzles solved after each layer of the chain, from the top layer on the left to the last.

    ``record`` is that of the experiment ``sudoku``; its ``by_layer`` counts from layer 1, the last to be walked through.
    """
    shares = [layer["valid"]["mean"] for layer in reversed(record["summary"]["chain"]["by_layer"])]
    left, right, bottom, height = 24, 496, 274, 160
    step = (right - left) / len(shares)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 520 344" font-family="{FONT}" fill="#22272e">',
        "<title>Sudoku puzzles solved, layer by layer</title>",
        '<rect width="520" height="344" rx="14" fill="#fbfcfd"/>',
        text(left, 40, "Sudoku puzzles solved", 22, weight=700),
    ]
    for i, share in enumerate(shares):
        colour = "#1f6aa5" if i in (0, len(shares) - 1) else "#9aa2ac"
        corner = f'x="{left + i * step:.1f}" y="{bottom - height * share:.1f}"'
        parts.append(f'<rect {corner} width="{0.8 * step:.1f}" height="{height * share:.1f}" fill="{colour}"/>')
    ends = ((left, shares[0], "the top layer alone", "start"), (right, shares[-1], "the whole chain", "end"))
    for x, share, words, anchor in ends:
        parts.append(text(x, bottom - height * share - 46, f"{100 * share:.0f} %", 28, anchor, 700, "#1f6aa5"))
        parts.append(text(x, bottom - height * share - 22, words, 18, anchor))
    parts += [
        f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="#5b6470" stroke-width="1"/>',
        text(left, bottom + 26, f"layer {len(shares)}", 17, colour="#5b6470"),
        text((left + right) / 2, bottom + 26, "one layer after another", 17, "middle", colour="#5b6470"),
        text(right, bottom + 26, "layer 1", 17, "end", colour="#5b6470"),
        text(left, bottom + 52, "6 × 6 puzzles, half of the cells given, layers that never met", 16, colour="#5b6470"),
        "</svg>\n",
    ]
    return "\n".join(parts)


def pictures(static: Path = STATIC) -> dict[str, str]:
    """All that this module writes: file name -> SVG."""
    sudoku = sudoku_picture(read_record("sudoku"))
    drawn = {name: (static / f"{name}.svg").read_text(encoding="utf-8") for name in ("method", "method-narrow")}
    drawn["sudoku"] = sudoku
    return {"sudoku.svg": sudoku} | {f"{name}-dark.svg": darkened(svg) for name, svg in drawn.items()}


def main(arguments: list[str] | None = None) -> int:
    """Write the pictures: -> exit code, 2 after one line where that fails."""
    Parser(prog="python -m noprop_helpers.lab.landing", description="Draw the landing page's pictures.").parse_args(arguments)
    return in_one_line("landing", _write)


def _write() -> None:
    for name, svg in pictures().items():
        write_bytes(STATIC / name, svg.encode())


if __name__ == "__main__":
    sys.exit(main())
