"""The bundled digits as a script for the page that trains in the browser: ``python -m noprop_helpers.lab.digits_script``.

A page opened from disk may run a script but not fetch a file, so the data come as one. It holds what
``load_dataset("digits")`` gives: the training images first, then the test images.
"""

import itertools
import sys
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints import write_bytes
from ..data import Dataset, load_dataset
from .shell import Parser, in_one_line

FILE = Path(__file__).resolve().parents[2] / "book" / "_static" / "digits.js"
INK = "ABCDEFGHIJKLMNOP"  # 1 to 16 of the 16 levels of ink
BLANKS = "abcdefghijklmnopqrstuvwxyz"  # 1 to 26 blank pixels in a row

HEADER = """\
// Written by `python -m noprop_helpers.lab.digits_script`: not to be edited.
// 1,797 handwritten digits, the test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (UCI
// Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0), as scikit-learn bundles them, in another
// order. A to P are pixels of 1 to 16 levels of ink, a to z are 1 to 26 blank ones; images of 8 x 8 one after another, each
// down its columns, since strokes stand upright and blanks then come in longer runs.
"""


def digits_script(dataset: Dataset) -> str:
    """The script that gives ``NoPropTrainer`` the digits: pixels and labels of both splits as text, and where they part."""
    images = torch.cat([dataset.train_images, dataset.test_images])  # [N, 1, 8, 8]
    labels = torch.cat([dataset.train_labels, dataset.test_labels])
    down_the_columns = (images[:, 0] * 16).round().long().transpose(1, 2)
    fields = {
        "numTrain": len(dataset.train_labels),
        "labels": f'"{"".join(map(str, labels.tolist()))}"',
        "pixels": f'"{packed(down_the_columns)}"',
    }
    body = "".join(f"  {name}: {value},\n" for name, value in fields.items())
    return f"{HEADER}NoPropTrainer.packedDigits = {{\n{body}}};\n"


def packed(levels: Tensor) -> str:
    """Levels of ink 0 to 16, of any shape, as letters: one a level, and one for up to 26 blank ones together.

    >>> packed(torch.tensor([0, 0, 0, 16, 16, 1]))
    'cPPA'
    """
    text = []
    for level, run in itertools.groupby(levels.flatten().tolist()):
        length = len(list(run))
        if level > 0:
            text.append(INK[level - 1] * length)
        else:
            whole, rest = divmod(length, len(BLANKS))
            text.append(BLANKS[-1] * whole + (BLANKS[rest - 1] if rest else ""))
    return "".join(text)


def main(arguments: list[str] | None = None) -> int:
    """Write the file: -> exit code, 2 after one line where that fails."""
    Parser(prog="python -m noprop_helpers.lab.digits_script", description="Pack the digits for the book.").parse_args(arguments)
    return in_one_line("digits_script", _write)


def _write() -> None:
    write_bytes(FILE, digits_script(load_dataset("digits")).encode())
    print(f"{FILE.name}: {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
