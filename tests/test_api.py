"""The API pages: one for every module of the package, listed in their index, and all that is public has its docstring."""

import ast
import re
from pathlib import Path

import house
import pytest

ROOT = Path(__file__).parent.parent
LEFT_OUT = {"__init__", "__main__", "lab"}  # the index shows the first; the second is a command line; the third is empty
NAMES = {file: Path(file).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__") for file in house.modules()}
MODULES = {NAMES[file]: tree for file, tree in house.modules().items()}
DOCUMENTED = sorted(set(MODULES) - LEFT_OUT)


def public(tree, inside=""):
    """Functions, classes and methods that a user may call: name -> node."""
    found = {}
    for node in tree.body:
        if isinstance(node, house.Definition | ast.ClassDef) and not node.name.startswith("_"):
            found[inside + node.name] = node
            if isinstance(node, ast.ClassDef):
                found |= public(node, f"{inside}{node.name}.")
    return found


def undocumented(tree):
    """What is public and has no docstring; what several classes have in common may stand in the module's, as ``name(...)``."""
    in_common = ast.get_docstring(tree) or ""
    return [
        name for name, node in public(tree).items()
        if not ast.get_docstring(node) and not ("." in name and f"``{node.name}(" in in_common)
    ]  # fmt: skip


@pytest.mark.parametrize("module", DOCUMENTED)
def test_a_module_has_its_page(module):
    page = ROOT / "book" / "api" / f"{module.replace('.', '-')}.md"
    assert page.exists(), f"write {page.name} as its neighbours are, and list it in _toc.yml and {module} in book/api.md"
    text = page.read_text()
    assert text.startswith(f"# {module}\n") and f"automodule:: noprop_helpers.{module}\n   :members:" in text


def test_every_page_shows_a_module():
    assert sorted(path.stem.replace("-", ".") for path in (ROOT / "book" / "api").iterdir()) == DOCUMENTED


def test_the_index_lists_every_module_once():
    listed = re.findall(r"^   ([a-z][\w.]*)$", (ROOT / "book" / "api.md").read_text(), flags=re.M)
    assert sorted(listed) == DOCUMENTED


@pytest.mark.parametrize("module", MODULES)
def test_what_is_public_has_a_docstring(module):
    assert undocumented(MODULES[module]) == []


def test_a_missing_docstring_is_found():
    tree = ast.parse('"``e()``: both"\nclass A:\n    "."\n    def b(self): ...\n    def _c(self): ...\n    def e(self): ...\ndef d(): ...')
    assert undocumented(tree) == ["A.b", "d"]
