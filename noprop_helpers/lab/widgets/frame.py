"""What the figures share: the frame with its controls, how it looks, and small drawings as SVG text.

Colours are classes, so that a figure follows the page from light to dark. Drawings are 320 units wide: side by side on a desk,
one below the other on a phone, the writing as large in both.
"""

import json
import re
from html import escape
from pathlib import Path
from typing import Iterable, Sequence

from IPython.display import HTML

from .. import plots

HERE = Path(__file__).parent
WIDTH = 320
BELIEF = 118, 92, 134  # the line that bars of probabilities stand on, how high a 1 is, and where their names are
DARK = {"blue": "#7cbcf0", "orange": "#ffb454", "green": "#6fd3a2", "red": "#ff9086", "grey": "#8a8f98"}
LIGHT = {name: getattr(plots, name.upper()) for name in DARK}
LEVELS = "0123456789abcdefg"  # how dark a pixel of a digit is, in sixteenths


# --- The frame --------------------------------------------------------------------------------------------------------


def figure(kind: str, name: str, says: str, parts: Iterable[str], data: dict, help: str = "") -> HTML:
    """One figure of a kind, a script of this folder. Its ``name`` is that of no other figure on the page.

    ``parts``: drawings and controls, in order; ``says``: what the figure says at first in words, as the script would;
    ``help``: a line of explanation below.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ValueError(f"expected a name of small letters, digits and dashes, got {name!r}")
    script = "\n".join(_read(file) for file in ("frame.js", f"{kind}.js"))
    contents = [
        f"<style>{style(kind)}</style>",
        *parts,
        f'<output class="nph-says" aria-live="polite">{escape(says)}</output>',
        f'<p class="nph-help">{escape(help)}</p>' if help else "",
        f'<script type="application/json">{inline(data)}</script>',
        f'<script>(function () {{\n"use strict";\n{script}each({json.dumps(name)}, start);\n}})();</script>',
    ]
    text = "\n".join(part for part in contents if part)
    return HTML(f'<div class="nph nph-{kind}" id="nph-{name}" data-nph="{name}">\n{text}\n</div>')


def inline(data: dict) -> str:
    """Data as JSON in which no HTML parser finds a tag, a comment or the end of a script."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def style(kind: str) -> str:
    """The style sheet of a kind of figure, with the book's colours for light and dark in their places."""
    text = _read("frame.css") + _read(f"{kind}.css")
    for mode, colours in (("LIGHT", LIGHT), ("DARK", DARK)):
        text = text.replace(f"--{mode}: 0;", " ".join(f"--nph-{name}: {colour};" for name, colour in colours.items()))
    return re.sub(r"\s*([{};,])\s*|(?<=:) ", r"\1", text).strip()


def _read(file: str) -> str:
    """A file of this folder, without its comments and indentation."""
    text = re.sub(r"/\*.*?\*/", "", (HERE / file).read_text(encoding="utf-8"), flags=re.S)
    lines = (re.sub(r"^\s*//.*|\s+// .*", "", line).strip() for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line)


# --- Controls ---------------------------------------------------------------------------------------------------------


def controls(*rows: Sequence[str]) -> str:
    """Rows of controls; they show themselves where the script runs."""
    lines = "".join(f'<div class="nph-row">{"".join(row)}</div>' for row in rows)
    return f'<div class="nph-controls">{lines}</div>'


def slider(key: str, label: str, low: int, high: int, value: int) -> str:
    """A range input with its label and its value in words."""
    place = f'min="{low}" max="{high}" value="{value}" autocomplete="off"'
    return (
        f'<label class="nph-slider"><span>{escape(label)} <b data-of="{key}">{value}</b></span>'
        f'<input type="range" data-key="{key}" {place}></label>'
    )


def choice(key: str, label: str, options: Sequence[str], value: int = 0) -> str:
    """A list of which one is chosen, by its number."""
    items = "".join(f'<option value="{i}"{" selected" * (i == value)}>{escape(o)}</option>' for i, o in enumerate(options))
    return f'<label><span>{escape(label)}</span><select data-key="{key}" autocomplete="off">{items}</select></label>'


def toggle(key: str, label: str, name: str, options: Sequence[str], value: int = 0) -> str:
    """A few choices, all of them seen, of which one is made."""
    items = "".join(
        f'<label><input type="radio" name="nph-{name}-{key}" data-key="{key}" value="{i}" autocomplete="off"'
        f'{" checked" * (i == value)}><span>{escape(option)}</span></label>'
        for i, option in enumerate(options)
    )
    return f'<fieldset class="nph-toggle"><legend>{escape(label)}</legend>{items}</fieldset>'


def button(key: str, text: str, label: str = "") -> str:
    """A button; ``label`` says more than its text where that is a sign."""
    said = f' aria-label="{escape(label)}"' if label else ""
    return f'<button type="button" data-do="{key}"{said}>{escape(text)}</button>'


def stepper(key: str, label: str, low: int, high: int, value: int, plays: bool = True) -> list[str]:
    """A slider between a button back and a button on, and perhaps one that plays."""
    back = button(f"{key}-back", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", "one back")
    on = button(f"{key}-on", "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}", "one on")
    return [back, slider(key, label, low, high, value), on, *([button(f"{key}-play", "Play")] if plays else [])]


# --- Drawings ---------------------------------------------------------------------------------------------------------


def svg(key: str, name: str, title: str, description: str, height: float, *shapes: str, width: float = WIDTH) -> str:
    """A drawing that names and describes itself."""
    title_id, description_id = f"nph-{name}-{key}-title", f"nph-{name}-{key}-desc"
    return (
        f'<svg class="nph-svg nph-{key}" data-svg="{key}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-labelledby="{title_id}" aria-describedby="{description_id}">'
        f'<title id="{title_id}">{escape(title)}</title><desc id="{description_id}">{escape(description)}</desc>'
        f"{''.join(shapes)}</svg>"
    )


def body(*parts: str) -> str:
    """Drawings and controls, two in a row where there is room."""
    return f'<div class="nph-body">{"".join(parts)}</div>'


def text(x: float, y: float, said: str, kind: str = "", anchor: str = "middle") -> str:
    """Text at a point; ``kind`` are classes.

    >>> text(8, 16, "t = 0", "nph-small")
    '<text x="8" y="16" text-anchor="middle" class="nph-small">t = 0</text>'
    """
    classes = f' class="{kind}"' if kind else ""
    placed = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:g}" y="{y:g}"{placed}{classes}>{escape(said)}</text>'


def head(said: str, x: float = 0, kind: str = "") -> str:
    """What a drawing is of, above it.

    >>> head("the state")
    '<text x="0" y="14" class="nph-head">the state</text>'
    """
    return text(x, 14, said, f"nph-head {kind}".strip(), "start")


def scale(said: str) -> str:
    """What the height of the bars is, above them on the right.

    >>> scale("around 0")
    '<text x="320" y="14" text-anchor="end" class="nph-small">around 0</text>'
    """
    return text(WIDTH, 14, said, "nph-small", "end")


def digit(word: str, x: float = 0, y: float = 0, size: float = 64) -> str:
    """A digit of 8 x 8 pixels, each a character of ``LEVELS``, as strokes of one level each: dark ink on the page's paper."""
    strokes = []
    for level, character in enumerate(LEVELS[1:], 1):
        at = "".join(f"M{i % 8} {i // 8}h1" for i, pixel in enumerate(word) if pixel == character)
        strokes += [f'<path opacity="{level / 16:g}" d="{at}"/>'] if at else []
    place = f"translate({x:g} {y + size / 16:g}) scale({size / 8:g})"  # a stroke lies around the middle of its row
    return f'<g class="nph-digit" transform="{place}">{"".join(strokes)}</g>'


def bar(value: float, zero: float, unit: float) -> tuple[str, str]:
    """Top and height of a bar of this value above, or below, the line at ``zero``: units a 1 is high.

    >>> bar(0.5, zero=100, unit=40)
    ('80.0', '20.0')
    """
    height = abs(value) * unit
    return f"{zero - height if value > 0 else zero:.1f}", f"{height:.1f}"


def bars(key: str, values: Sequence[float], marked: int, zero: float, unit: float, bottom: float) -> str:
    """Ten bars and the line that they stand on, a class under each; the ``marked`` one stands out."""
    shapes, step = [], WIDTH / len(values)
    for i, value in enumerate(values):
        top, height = bar(value, zero, unit)
        kind = "nph-bar nph-marked" if i == marked else "nph-bar"
        shapes.append(f'<rect class="{kind}" x="{i * step + 4:g}" width="{step - 8:g}" y="{top}" height="{height}"/>')
    names = "".join(text((i + 0.5) * step, bottom, str(i)) for i in range(len(values)))
    line = f'<path class="nph-axis" d="M0 {zero:g}h{WIDTH}"/>'
    return f'<g data-bars="{key}">{"".join(shapes)}</g>{line}{names}'


def answer(name: str, title: str, word: str, is_what: str, says: str, said: str) -> str:
    """An image and, large beside it, what is ``said`` of it; a headline over each."""
    return svg(
        "answer", name, title, "An image of 8 by 8 pixels and, large beside it, the likeliest class.", 138,
        head(is_what, 2, "nph-what"), digit(word, 2, 24, 112), '<path class="nph-grid" d="M2 24h112v112h-112z"/>',
        head(says, 186), text(240, 118, said, "nph-big"), text(158, 90, "→", "nph-arrow"),
    )  # fmt: skip


def belief(name: str, title: str, says: str, values: Sequence[float], label: int) -> str:
    """Probabilities of ten classes as bars; that of the true class stands out."""
    description = "Ten bars, one a class: probabilities. That of the true class is blue."
    return svg("belief", name, title, description, 138, head(says), scale("0 to 1"), bars("belief", values, label, *BELIEF))


def a(label: int) -> str:
    """A digit with its article.

    >>> a(8), a(3)
    ('an 8', 'a 3')
    """
    return f"an {label}" if label == 8 else f"a {label}"


def points(values: str) -> list[float]:
    """Numbers of a record's line of text.

    >>> points("0 0.998 -1.2")
    [0.0, 0.998, -1.2]
    """
    return [float(value) for value in values.split()]
