"""The API pages: one for every module, listed in their index; all that is public has a docstring."""

import ast
import re
from pathlib import Path

import house
import pytest
import yaml
from conftest import pages_of

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "book" / "api"
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


def page_of(module):
    """Where a module is shown, and the heading above it: on a page of its own, unless it is the lab's and has nothing to call."""
    if module.startswith("lab.") and not public(MODULES[module]):
        return PAGES / "lab.md", f"## {module}\n"
    return PAGES / f"{module.replace('.', '/')}.md", f"# {module}\n"


@pytest.mark.parametrize("module", DOCUMENTED)
def test_a_module_is_shown_under_its_name(module):
    page, heading = page_of(module)
    assert page.exists(), f"write {page} as its neighbours are, and list it in _toc.yml and {module} in book/api.md"
    shown = f"{heading}\n```{{eval-rst}}\n.. automodule:: noprop_helpers.{module}\n   :members:\n"
    assert page.read_text().count(shown) == 1, f"{page.name} lacks {module}"


def test_every_page_shows_a_module():
    assert set(PAGES.rglob("*.md")) == {page_of(module)[0] for module in DOCUMENTED}


def test_the_contents_list_every_page_once():
    listed = [page for page in pages_of(yaml.safe_load((ROOT / "_toc.yml").read_text())) if page.startswith("book/api/")]
    assert sorted(listed) == sorted(path.relative_to(ROOT).with_suffix("").as_posix() for path in PAGES.rglob("*.md"))


def test_the_index_lists_every_module_once():
    listed = re.findall(r"^   ([a-z][\w.]*)$", (ROOT / "book" / "api.md").read_text(), flags=re.M)
    assert sorted(listed) == DOCUMENTED


@pytest.mark.parametrize("module", MODULES)
def test_what_is_public_has_a_docstring(module):
    assert undocumented(MODULES[module]) == []


def test_a_missing_docstring_is_found():
    tree = ast.parse('"``e()``: both"\nclass A:\n    "."\n    def b(self): ...\n    def _c(self): ...\n    def e(self): ...\ndef d(): ...')
    assert undocumented(tree) == ["A.b", "d"]
