"""The chapters as a course: notebooks without solutions for students, with opened ones for instructors.

    python -m noprop_helpers.lab.course OUT

writes OUT/student and OUT/instructor. Both are made from the chapters in book/, which stay the only source. Links to pages that
are no chapters lead to the published site, and citations are written out.
"""

import copy
import re
import sys
from pathlib import Path

from .. import NoPropError, needs
from ..checkpoints import write_bytes
from .shell import Parser, in_one_line

with needs("nbformat", "the course kit"):
    import nbformat
    from nbformat import NotebookNode

BOOK = Path(__file__).resolve().parents[2] / "book"
PAGE = re.compile(r"\]\((?!\d\d-)([\w-]+)\.(?:md|ipynb)(#[^)]*)?\)")  # a link to a page that is no chapter
CITATION = re.compile(r"\{cite(:[pt])?\}`([^`]+)`")
SOLUTION = re.compile(r"<details>\s*<summary>Solution [\d.]+</summary>.*?</details>", re.S)
FOLDS = ("cellView", "jupyter")  # how Colab and JupyterLab are told to fold a cell


def is_solution(cell: NotebookNode) -> bool:
    """Whether a code cell is the folded solution of an exercise, or checks one and so gives it away."""
    return cell.cell_type == "code" and re.match(r"# @title .*\bsolution\b", cell.source, re.I) is not None


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


def away_from_home(text: str, book: Path) -> str:
    """A cell's text for a notebook that lies beside other chapters and nothing else of the book."""
    text = PAGE.sub(lambda link: f"]({site(book)}book/{link[1]}.html{link[2] or ''})", text)
    return CITATION.sub(lambda role: cited(role[2], role[1] == ":t", (book / "references.bib").read_text(encoding="utf-8")), text)


def site(book: Path) -> str:
    """Where the book is published, as its settings say."""
    return re.search(r"^ *baseurl: *(\S+)", (book.parent / "_config.yml").read_text(encoding="utf-8"), re.M)[1]


def cited(keys: str, in_text: bool, references: str) -> str:
    """Papers by their keys in a BibTeX file: "(Ho et al., 2020)", or, as a part of the sentence, "Ho et al. (2020)"."""
    said = []
    for key in keys.split(","):
        entry = re.search(rf"^@\w+\{{{re.escape(key.strip())},\n(.*?)^\}}", references, re.M | re.S)[1]
        authors, year = (re.search(rf"^ *{field} *= *\{{(.*)\}},?$", entry, re.M)[1] for field in ("author", "year"))
        *others, last = [author.split(",")[0].strip("{}") for author in authors.split(" and ")]
        who = f"{others[0]} et al." if len(others) > 2 else f"{', '.join(others)} & {last}" if others else last
        said.append(f"{who} ({year})" if in_text else f"{who}, {year}")
    return ", ".join(said) if in_text else f"({'; '.join(said)})"


def write_course(out: Path, book: Path = BOOK) -> list[Path]:
    """Write both versions of every chapter under ``out``; returns the files written.

    Raises NoPropError where there are no chapters, as beside an installed package.
    """
    written, chapters = [], sorted(book.glob("[0-9][0-9]-*.ipynb"))
    if not chapters:
        raise NoPropError(f"expected the chapters in {book}, found none: run it in a checkout of the book")
    for path in chapters:
        chapter = nbformat.read(path, as_version=4)
        for cell in chapter.cells:
            if cell.cell_type == "markdown":
                cell.source = away_from_home(cell.source, book)
        for kind, made in (("student", student(chapter)), ("instructor", instructor(chapter))):
            target = out / kind / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, f"{nbformat.writes(made)}\n".encode())
            written.append(target)
    return written


def main(arguments: list[str] | None = None) -> int:
    """Write the course where the command line says, and print the files: -> exit code, 2 after one line where that fails."""
    parser = Parser(prog="python -m noprop_helpers.lab.course", description="Notebooks for students and instructors.")
    parser.add_argument("out", help="folder to write to")
    out = parser.parse_args(arguments).out
    return in_one_line("course", lambda: _write(out))


def _write(out: str) -> None:
    if not out:
        raise NoPropError("expected the name of a folder, got an empty one")
    try:
        print(*write_course(Path(out)), sep="\n")
    except OSError as error:
        raise NoPropError(f"cannot write to {out}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
