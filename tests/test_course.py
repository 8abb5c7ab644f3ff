"""The course's notebooks: students get every exercise and no solution, instructors get them open."""

import re
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from noprop_helpers import NoPropError
from noprop_helpers.lab.course import BOOK, cited, main, write_course

CHAPTERS = sorted(BOOK.glob("[0-9][0-9]-*.ipynb"))
EXERCISE = re.compile(r"\*\*Exercise (\d+\.\d+)\*\*")


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    out = tmp_path_factory.mktemp("course")
    write_course(out)
    return out


def text(path):
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)


@pytest.mark.parametrize("name", [path.name for path in CHAPTERS])
def test_students_get_exercises_and_no_solutions(course, name):
    given = nbformat.read(course / "student" / name, as_version=4)
    nbformat.validate(given)
    assert EXERCISE.findall(text(course / "student" / name)) == EXERCISE.findall(text(BOOK / name)) != []
    for line in text(course / "student" / name).splitlines():
        assert not re.search(r"(@title|<summary>).*solution", line, re.I), line
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in given.cells)


@pytest.mark.parametrize("name", [path.name for path in CHAPTERS])
def test_of_an_exercise_students_get_no_code_but_hints_and_checks(course, name):
    """A cell behind an exercise either asks for the answer or says where to put it."""
    cells = nbformat.read(course / "student" / name, as_version=4).cells
    first = next(i for i, cell in enumerate(cells) if EXERCISE.search(cell.source))
    for cell in cells[first:]:
        if cell.cell_type == "code":
            assert "..." in cell.source, cell.source


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.name for path in CHAPTERS[1:3]])
def test_a_students_notebook_runs_as_it_is(course, name, tmp_path):
    notebook = nbformat.read(course / "student" / name, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "stream")
    assert "put your answer in the place of the dots" in printed


@pytest.mark.parametrize("kind", ["student", "instructor"])
def test_what_the_kit_does_not_hold_is_on_the_site(course, kind):
    """Relative links lead to another notebook of the kit; all other pages of the book, to where it is published."""
    site, addresses = yaml.safe_load((BOOK.parent / "_config.yml").read_text())["html"]["baseurl"], []
    for path in sorted((course / kind).iterdir()):
        prose = "".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
        for target in re.findall(r"\]\(([^)#]+)", prose):
            if target.startswith(site):
                name = Path(target.removeprefix(site)).with_suffix("")
                assert any((BOOK.parent / name.with_suffix(suffix)).is_file() for suffix in (".md", ".ipynb")), target
                addresses.append(target)
            elif not target.startswith("https://"):
                assert (path.parent / target).is_file(), (path, target)
        assert not re.search(r"\{[\w:]+\}`", prose), path
    assert {f"{site}book/notation.html", f"{site}book/records-ledger.html"} <= set(addresses)


@pytest.mark.parametrize("keys, in_text, said", [
    ("page2018resnet", False, "(Page, 2018)"), ("jordan2024airbench", True, "Jordan (2024)"),
    ("coates2011importance", False, "(Coates & Ng, 2011)"), ("li2025noprop", False, "(Li, Teh & Pascanu, 2025)"),
    ("song2021score, nvidia2023h100", False, "(Song et al., 2021; NVIDIA Corporation, 2023)"),
])  # fmt: skip
def test_papers_are_cited_by_name_and_year(keys, in_text, said):
    assert cited(keys, in_text, (BOOK / "references.bib").read_text()) == said


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.name for path in CHAPTERS])
def test_instructors_get_every_solution_open(course, name):
    opened = nbformat.read(course / "instructor" / name, as_version=4)
    nbformat.validate(opened)
    solutions = [cell for cell in opened.cells if cell.source.startswith("# @title Solution ")]
    assert not any("cellView" in cell.metadata or "tags" in cell.metadata for cell in solutions)
    assert "<details>\n<summary>Solution" not in text(course / "instructor" / name)
    asked = set(EXERCISE.findall(text(BOOK / name)))
    assert asked <= set(re.findall(r"Solution (\d+\.\d+)", text(course / "instructor" / name)))


def plans():
    """The rows of the two plans: [(empty, session, before, in class, to hand in, empty)]."""
    return [line.split("|") for line in (BOOK / "teaching.md").read_text().splitlines() if re.match(r"\| \d\. ", line)]


def test_the_plans_fill_every_session():
    """Minutes in class add up to ninety in each row of the plans, and exercises that they name are in their chapters."""
    rows = plans()
    assert len(rows) == 8 + 4
    for _, session, _, in_class, _, _ in rows:
        assert sum(map(int, re.findall(r"(?<=[:?] )\d+(?= min|\.|$| )", in_class.strip()))) == 90, session
    named = {name for row in rows for name in re.findall(r"\b\d+\.\d\b", row[3] + row[4]) if f"({name})" not in row[3]}
    assert {name.split(".")[0] for name in named} == {str(chapter) for chapter in range(16)}  # every chapter has its turn
    assert named <= {name for path in CHAPTERS for name in EXERCISE.findall(text(path))}


def test_students_are_told_how_long_a_chapter_takes():
    chapters = 0
    for row in plans():
        for name, minutes in re.findall(r"\((\d\d-[\w-]+\.ipynb)\):? ?(\d*)", row[2]):
            assert f"**Time** {minutes} minutes" in text(BOOK / name), row
            chapters += 1
    assert chapters == 6 + 4


def test_the_command_names_its_files(tmp_path, capsys):
    main([str(tmp_path)])
    assert len(capsys.readouterr().out.splitlines()) == 2 * len(CHAPTERS)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == f"course: cannot write to {tmp_path / 'file'}: Not a directory\n"


def test_without_a_book_there_is_no_course(tmp_path):
    with pytest.raises(NoPropError, match="found none: run it in a checkout of the book"):
        write_course(tmp_path / "out", tmp_path)
    assert list(tmp_path.iterdir()) == []
