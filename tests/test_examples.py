"""Examples in docstrings are true, and no public function or class of the modules that people copy is without one."""

import ast
import doctest
import importlib
from pathlib import Path

import house
import pytest
import torch

TREES = {Path(file).with_suffix("").as_posix().replace("/", "."): tree for file, tree in house.modules().items()}
EXAMPLES = doctest.DocTestFinder(recurse=True, exclude_empty=True)
# Every function and class of theirs has one; elsewhere those have that do not need a page of preparation.
WITHOUT_GAPS = (
    "__init__", *house.LEAVES, "noprop", "settings", "passes", "training", "recipes", "images", "data", "runs", "parallel",
)  # fmt: skip
WITH_EXAMPLES = [name for name, tree in TREES.items() if ">>>" in ast.unparse(tree)]


def without_example(tree):
    """Public functions and classes with no example in their docstring, methods' own included. What a function gives back, a
    named tuple, is seen in that function's; an error has none."""
    missing = []
    for node in tree.body:
        if isinstance(node, house.Definition | ast.ClassDef) and not node.name.startswith("_"):
            bases = [ast.unparse(base) for base in getattr(node, "bases", [])]
            if ">>>" not in (ast.get_docstring(node) or "") and not any(b == "NamedTuple" or b.endswith("Error") for b in bases):
                missing.append(node.name)
    return missing


def examples_of(name):
    module = importlib.import_module(f"noprop_helpers.{name}" if name != "__init__" else "noprop_helpers")
    return EXAMPLES.find(module, extraglobs={"torch": torch})


@pytest.mark.parametrize("name", WITHOUT_GAPS)
def test_no_function_is_without_its_example(name):
    assert without_example(TREES[name]) == []


# torch maps `nn.Bilinear`, a layer that the examples take because it has two inputs, over a stack one by one, and says so.
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_are_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write a file
    runner, told = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), []
    for example in examples_of(name):
        torch.manual_seed(0)
        runner.run(example, out=told.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(told)


def test_a_missing_example_and_a_wrong_one_are_found():
    tree = ast.parse('def f():\n    ">>> 1"\ndef g():\n    "."\ndef _h(): ...\nclass N(NamedTuple): ...\nclass C: ...')
    assert without_example(tree) == ["g", "C"]
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner(verbose=False).run(wrong, out=lambda text: None).failed == 1
