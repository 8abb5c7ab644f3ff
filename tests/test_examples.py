"""Examples in docstrings are true. In modules that people copy no public function or class is without one; in the lab's, none
without a reason."""

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
# Why in some modules of the lab not every function has one.
TRAINED = "trains, times or records, or looks at what came of that: tests/lab does so on small models"
DRAWN = "draws: pages show what, tests/lab and tests/test_widgets.py look at it"
FILES = "reads or writes files, of a reader or of the book"
EXACT = "answers in Decimals, one a formula or a mistake: conformance.json holds the answers"
WHY_NOT = {
    **dict.fromkeys(
        "audit bench bench_ceiling bench_cpu bench_gpu bench_parallel bench_peers chain gpu_session half_digits predict recording "
        "residual_blocks strings structured structured_study sudoku_pictures tasks walks".split(),
        TRAINED,
    ),
    **dict.fromkeys("landing plots widgets.film widgets.frame widgets.predictions widgets.schedule widgets.walk".split(), DRAWN),
    **dict.fromkeys("conformance course digits_script recheck records shell".split(), FILES),
    **dict.fromkeys("conformance_formulas conformance_mistakes conformance_vectors".split(), EXACT),
}
LAB = [name for name in TREES if name.startswith("lab.")]
WITH_EXAMPLES = [name for name in TREES if ">>>" in (house.PACKAGE / f"{name.replace('.', '/')}.py").read_text()]


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


@pytest.mark.parametrize("name", LAB)
def test_no_function_of_the_lab_is_without_its_example_or_a_reason(name):
    """A module has a reason exactly if it needs one. What its functions compute from a few numbers has an example all the same."""
    assert (without_example(TREES[name]) != []) == (name.removeprefix("lab.") in WHY_NOT), without_example(TREES[name])


# torch maps `nn.Bilinear`, a layer that the examples take because it has two inputs, over a stack one by one, and says so.
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.whole) if n == "runs" else n for n in WITH_EXAMPLES])
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
