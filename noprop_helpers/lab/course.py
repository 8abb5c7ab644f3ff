"""The chapters as a course: notebooks without solutions for students, with opened ones for instructors.

    python -m noprop_helpers.lab.course OUT

writes OUT/student and OUT/instructor. Both are made from the chapters in book/, which stay the only source.
"""

import argparse
import copy
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

BOOK = Path(__file__).resolve().parents[2] / "book"
SOLUTION = re.compile(r"<details>\s*<summary>Solution [\d.]+</summary>.*?</details>", re.S)
FOLDS = ("cellView", "jupyter")  # how Colab and JupyterLab are told to fold a cell


def is_solution(cell: NotebookNode) -> bool:
    """Whether a code cell is the folded solution of an exercise."""
    return cell.cell_type == "code" and cell.source.startswith("# @title Solution ")


def student(notebook: NotebookNode) -> NotebookNode:
    """A copy without solutions and without outputs: hints and checks stay."""
    result = copy.deepcopy(notebook)
    result.cells = [cell for cell in result.cells if not is_solution(cell)]
    for cell in result.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = SOLUTION.sub("", cell.source).strip()
    result.cells = [cell for cell in result.cells if cell.source]
    return result


def instructor(notebook: NotebookNode) -> NotebookNode:
    """A copy with every solution open, outputs included."""
    result = copy.deepcopy(notebook)
    for cell in result.cells:
        if is_solution(cell):
            cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k not in (*FOLDS, "tags", "mystnb")})
        elif cell.cell_type == "markdown":
            cell.source = re.sub(r"<details>(\s*<summary>Solution )", r"<details open>\1", cell.source)
    return result


def write_course(out: Path, book: Path = BOOK) -> list[Path]:
    """Write both versions of every chapter under ``out``; returns the files written."""
    written = []
    for path in sorted(book.glob("[0-9][0-9]-*.ipynb")):
        chapter = nbformat.read(path, as_version=4)
        for kind, made in (("student", student(chapter)), ("instructor", instructor(chapter))):
            target = out / kind / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(made, target)
            written.append(target)
    return written


def main(arguments: list[str] | None = None) -> None:
    """Write the course where the command line says, and print the files; one line and exit code 2 where that fails."""
    parser = argparse.ArgumentParser(prog="course", description="Student and instructor notebooks, made from the chapters.")
    parser.add_argument("out", type=Path, help="folder to write to")
    out = parser.parse_args(arguments).out
    try:
        print(*write_course(out), sep="\n")
    except OSError as error:
        parser.error(f"cannot write to {out}: {error.strerror}")


if __name__ == "__main__":
    main()
