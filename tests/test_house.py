"""The house rules, read off the syntax trees: short functions, few parameters, arrows one way, a straight loop."""

import ast
import subprocess
import sys
from pathlib import Path

import house
import pytest

TREES = house.modules()
FILES = pytest.mark.parametrize("file", TREES)


def as_functions(text):
    return house.functions(ast.parse(text))


@FILES
def test_functions_are_short_and_take_few_and_named_things(file):
    for function in house.functions(TREES[file]):
        assert function.length <= 40, function
        assert function.num_parameters <= 10, function
        assert not function.takes_anything, function


@pytest.mark.parametrize("leaf", house.LEAVES)
def test_a_leaf_imports_torch_and_the_standard_library_alone(leaf):
    for name in house.imports(f"{leaf}.py", TREES[f"{leaf}.py"]):
        root = name.split(".")[0]
        assert root == "torch" or root in sys.stdlib_module_names, name


def test_arrows_go_one_way():
    arrows = house.arrows(TREES)
    assert house.cycle(arrows) == []
    assert not arrows["noprop.py"] - {f"{leaf}.py" for leaf in house.LEAVES}  # the models know nothing above them
    for file, imported in arrows.items():
        if not file.startswith(("lab/", "__main__")):
            assert not any(other.startswith("lab/") for other in imported), file


def test_the_loop_reads_straight():
    (fit,) = [node for node in ast.walk(TREES["training.py"]) if getattr(node, "name", None) == "fit"]
    assert house.length(fit) <= 40
    loop = house.loop_of(fit)
    branches = [node for node in ast.walk(loop) if isinstance(node, ast.If | ast.IfExp | ast.Match | ast.BoolOp)]
    # One callback that may be given or not; nothing asks what kind of model, of order or of schedule this is.
    assert [ast.unparse(branch.test) for branch in branches] == ["after_epoch is not None"]


@pytest.mark.whole
def test_the_script_prints_a_line_for_every_file():
    script = [sys.executable, str(Path(house.__file__))]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0].split() == ["file", "functions", "median", "longest", "parameters"]
    assert [line.split()[0] for line in lines[1:]] == [*(f for f in TREES if house.functions(TREES[f])), "all"]


def test_the_figures_are_counted_as_they_say():
    text = '''
class A:
    def method(self, a, *b, c=1, **d):
        """Two lines
        of text."""
        def inner(x, /, y):
            return x
        return inner

    @staticmethod
    def bare(a): return a
'''
    assert as_functions(text) == [
        ("A.method", 4, 5, True), ("A.method.inner", 2, 2, False), ("A.bare", 1, 1, False),
    ]  # fmt: skip


def test_imports_are_found_wherever_they_hide():
    hidden = "def f():\n    from .lab.records import today\n    import numpy.linalg"
    tree = ast.parse(f"from . import noprop, NoPropError\n{hidden}")
    assert house.imports("runs.py", tree) == {
        "noprop_helpers.noprop", "noprop_helpers.NoPropError", "noprop_helpers.lab.records.today", "numpy.linalg",
    }  # fmt: skip
    assert house.imports("lab/audit.py", ast.parse("from .. import runs\nfrom . import chain")) == {
        "noprop_helpers.runs", "noprop_helpers.lab.chain",
    }  # fmt: skip
    others = ("noprop.py", "training.py", "lab/__init__.py", "lab/records.py")
    trees = {"runs.py": tree} | {file: ast.parse("") for file in others}
    assert house.arrows(trees)["runs.py"] == {"noprop.py", "lab/__init__.py", "lab/records.py"}


def test_a_circle_is_found():
    assert house.cycle({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"c"}}) == []
    assert house.cycle({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d", "b"]
