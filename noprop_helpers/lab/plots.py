"""Figures that more than one page of the book draws, and how they look. Dark ink on white: the book's dark mode inverts.

Everything takes and returns plain matplotlib objects.
"""

import re
from html import escape

from torch import Tensor

from .. import needs

with needs("matplotlib", "a plot"):
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

# Told apart with any colour vision, and still when a dark page turns lightness round.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#1f6aa5", "#d95f02", "#1b8a5a", "#c1272d", "#7b4fa3", "#8a8f98"


def use_book_style() -> None:
    """Set matplotlib's defaults for the book: readable on a phone, nothing that carries no information."""
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.4),
            "figure.dpi": 160,
            "figure.constrained_layout.use": True,
            "font.size": 11,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e3e6ea",
            "legend.frameon": False,
            "lines.linewidth": 2,
            "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, GREY]),
        }
    )


def plot_state(ax: Axes, z: Tensor, true_label: int | None = None, class_names=None) -> None:
    """One label state z [D] as bars, a bar a class; the true class, if given, stands out."""
    colors = [BLUE if i == true_label else GREY for i in range(len(z))]
    ax.bar(range(len(z)), z.tolist(), color=colors)
    ax.axhline(0, color="black", linewidth=0.8)
    names = [str(name).replace("$", r"\$") for name in class_names or range(len(z))]  # a dollar would begin a formula
    ax.set_xticks(range(len(z)), names)
    ax.grid(visible=False, axis="x")


def plot_image(ax: Axes, image: Tensor) -> None:
    """An image [C, H, W] in [0, 1]: grey ones as dark ink on white, colour ones as they are."""
    if len(image) == 1:
        ax.imshow(1 - image[0].numpy(), cmap="gray", vmin=0, vmax=1)
    else:
        ax.imshow(image.permute(1, 2, 0).numpy())
    ax.axis("off")


def plot_board(ax: Axes, board, values: Tensor, given: Tensor, sure: Tensor, wrong: Tensor) -> None:
    """A Sudoku of ``board.size`` values, each table [S, S]: given cells bold on grey, the others in blue, the paler the less
    ``sure`` (0 to 1); red where ``wrong``."""
    S, (height, width) = board.size, board
    for r in range(S):
        for c in range(S):
            if given[r, c]:
                ax.add_patch(plt.Rectangle((c, r), 1, 1, color="#e3e6ea", linewidth=0))
            color = RED if wrong[r, c] else "black" if given[r, c] else BLUE
            alpha = 1.0 if given[r, c] else 0.15 + 0.85 * float(sure[r, c])
            style = {"fontweight": "bold"} if given[r, c] else {}
            ax.text(c + 0.5, r + 0.54, int(values[r, c]) + 1, ha="center", va="center", color=color, alpha=alpha, **style)
    for i in range(S + 1):
        ax.axhline(i, color="black", linewidth=1.4 if i % height == 0 else 0.4)
        ax.axvline(i, color="black", linewidth=1.4 if i % width == 0 else 0.4)
    ax.set(xlim=(0, S), ylim=(S, 0), xticks=[], yticks=[], aspect="equal")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def bars(ax: Axes, found: dict[str, dict], color: str) -> None:
    """Bars of mean fractions in per cent, each with its interval and its number: name -> ``mean_and_standard_error``.

    Raises ValueError where there is one run, which has no interval.
    """
    if alone := [name for name, one in found.items() if one["interval"] is None]:
        raise ValueError(f"expected two runs at least, for an interval; {alone[0]!r} has one")
    means, spreads = ([100 * one[key] for one in found.values()] for key in ("mean", "interval"))
    ax.barh(list(found), means, xerr=spreads, color=color, height=0.6, capsize=3)
    for row, (mean, spread) in enumerate(zip(means, spreads)):
        ax.text(mean + spread + 1.5, row, f"{mean:.1f}", va="center", fontsize=9)
    ax.invert_yaxis()
    ax.set_xlim(0, 112)
    ax.grid(visible=False, axis="y")


def table(headers: list[str], rows: list[list]) -> "Markdown":
    """A Markdown table as a cell's output. Numbers come as text, formatted by the caller.

    An entry may hold Markdown and what ``breakable`` writes; other HTML is shown as it is written, so that what stands in a
    record, in a class name or in a file's name is read and never run.
    """
    from IPython.display import Markdown

    if any(len(row) != len(headers) for row in rows):
        raise ValueError(f"expected {len(headers)} entries in every row, got {[len(row) for row in rows]}")
    lines = [headers, ["---"] * len(headers), *rows]
    return Markdown("\n".join("| " + " | ".join(map(_entry, line)) + " |" for line in lines))


def _entry(value) -> str:
    """A table's entry in one line, without HTML but for that of ``breakable``."""
    text = " ".join(str(value).splitlines())
    return re.sub(r"<(?!/?code>|wbr>)", "&lt;", text)


def breakable(text: str) -> str:
    """A name with underscores as code that may break after each of them: on a phone a table is as wide as its longest name.

    >>> breakable("mnist_audit")
    '<code>mnist_<wbr>audit</code>'
    """
    return f"<code>{escape(text).replace('_', '_<wbr>')}</code>"
