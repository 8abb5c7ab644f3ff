"""A Sudoku being solved: what the layers say of it, one after another, beside the top layer alone (chapter 7)."""

from html import escape

import torch
from IPython.display import HTML

from ..structured_study import BOARD
from ..sudoku import conflicts
from . import frame

WAYS = {"quiet": "no noise", "noisy": "noise"}
TITLES = {"one": "one solution", "several": "several solutions", "unsolved": "no answer by the chain"}
CELL = 44
SURE = "0123456789abcdefghijklmnopqrstuvwxyz"


def sudoku_film(record: dict, name: str = "sudoku", chosen: int = 0, step: int | None = None) -> HTML:
    """The recorded puzzles of ``read_record("sudoku_walks")``: at first the ``chosen`` one, without noise,
    after ``step`` layers, else after all of them."""
    puzzles = record["runs"][0]["shown"]["puzzles"]
    num_layers = len(puzzles[0]["quiet"]["values"])
    step = num_layers if step is None else step
    if not (0 <= chosen < len(puzzles) and 1 <= step <= num_layers):
        raise ValueError(f"expected chosen below {len(puzzles)} and step from 1 to {num_layers}, got {chosen} and {step}")
    one = puzzles[chosen]
    parts = [
        frame.body(
            _board(name, "chain", "the chain", one["puzzle"], *frame_of(one, "quiet", step)),
            _board(name, "top", "top layer alone", one["puzzle"], *frame_of(one, "quiet", 1)),
            frame.controls([frame.choice("puzzle", "a puzzle with", [TITLES[puzzle["why"]] for puzzle in puzzles], chosen),
                            frame.toggle("way", "the walk adds", name, list(WAYS.values()))]),
            frame.controls(frame.stepper("step", "step:", 1, num_layers, step)),
        ),
    ]  # fmt: skip
    data = {"puzzles": [[puzzle["puzzle"], *(_frames(puzzle[way]) for way in WAYS)] for puzzle in puzzles]}
    help = (
        "Bold on grey are the given cells. The others are the paler the less sure the layer is. "
        "A red, underlined value stands twice in its row, column or box."
    )
    return frame.figure("film", name, says(one, "quiet", step, num_layers), parts, data, help)


def frame_of(one: dict, way: str, step: int) -> tuple[str, str]:
    """What the layer says that speaks at this step: values and how sure of each, 36 characters each."""
    return one[way]["values"][step - 1], one[way]["sure"][step - 1]


def wrong(values: str) -> list[bool]:
    """Which of 36 cells hold a value that stands again in their row, column or box.

    >>> sum(wrong("123456" * 6))  # all of them, in columns of one value
    36
    """
    return conflicts(BOARD, torch.tensor([int(value) - 1 for value in values]).view(1, 6, 6)).flatten().tolist()


def says(one: dict, way: str, step: int, num_layers: int) -> str:
    """What has come of a puzzle, in words."""
    said = [sum(wrong(frame_of(one, way, at)[0])) for at in (step, 1)]
    found = [f"{count} cells break the rules" if count else "no cell breaks the rules" for count in said]
    return f"Layer {num_layers + 1 - step} of {num_layers}: {found[0]}. In what the top layer says alone, {found[1]}."


def _frames(walk: dict) -> list[str]:
    """Values and sureness of every layer in 72 characters; nothing where they are as before."""
    frames = [values + sure for values, sure in zip(walk["values"], walk["sure"])]
    return [new if new != old else "" for old, new in zip(["", *frames], frames)]


def opacity(sure: str) -> str:
    """How dark a value is that a layer is this sure of: a character of ``SURE``.

    >>> opacity(SURE[0]), opacity(SURE[-1])
    ('0.40', '1.00')
    """
    return f"{0.4 + 0.017 * SURE.index(sure):.2f}"


def _board(name: str, key: str, title: str, puzzle: str, values: str, sure: str) -> str:
    """A board: given cells bold on grey, the others as sure as they are said, a line under each that breaks the rules."""
    size = 6 * CELL
    cells, shade, lines = [], [], []
    bad = wrong(values)
    for i, value in enumerate(values):
        x, y = i % 6 * CELL, i // 6 * CELL
        given = puzzle[i] != "0"
        kind = "nph-given" if given else "nph-open"
        dark = "1.00" if given or bad[i] else opacity(sure[i])
        cells.append(
            f'<text class="{kind}{" nph-bad" * bad[i]}" x="{x + CELL / 2:g}" y="{y + 31:g}" opacity="{dark}">{escape(value)}</text>'
        )
        shade += [f"M{x:g} {y:g}h{CELL}v{CELL}h-{CELL}z"] if given else []
        lines += [f"M{x + 12:g} {y + 38:g}h20"] if bad[i] else []
    thin = "".join(f"M0 {i * CELL}h{size}M{i * CELL} 0v{size}" for i in range(7))
    thick = "".join(f"M0 {i * 2 * CELL}h{size}" for i in range(4)) + "".join(f"M{i * 3 * CELL} 0v{size}" for i in range(3))
    drawing = frame.svg(
        key, name, f"A Sudoku as {title} fills it in", "A board of 6 by 6 cells, in boxes of 2 rows and 3 columns.", size,
        f'<path class="nph-shade" d="{"".join(shade)}"/>',
        f'<path class="nph-grid" d="{thin}"/><path class="nph-boxes" d="{thick}"/>',
        f'<g class="nph-cells">{"".join(cells)}</g><path class="nph-under" d="{"".join(lines)}"/>', width=size,
    )  # fmt: skip
    return f'<div><p class="nph-title">{title}</p>{drawing}</div>'
