"""The figures of the house, read off its syntax trees: ``python tests/house.py`` prints, ``test_house`` holds them.

A function's length is that of its source from ``def`` to its last line, without its docstring.
"""

import ast
import functools
import importlib.util
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parent.parent / "noprop_helpers"
LEAVES = (
    "schedules", "diffusion", "embeddings", "blocks", "features", "normal_equations", "losses", "samplers", "backprop", "graphs",
    "checkpoints", "benchmark", "augment", "layerwise", "fast_stack",
)  # fmt: skip
Definition = ast.FunctionDef | ast.AsyncFunctionDef


class Function(NamedTuple):
    """One function: its name within its module, lines, parameters, a method's own object counted like any other."""

    name: str
    length: int
    num_parameters: int
    takes_anything: bool  # by **kwargs


@functools.cache
def modules(package: Path = PACKAGE) -> dict[str, ast.Module]:
    """Syntax trees by file: "training.py", "lab/audit.py"."""
    return {str(path.relative_to(package)): ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))}


def functions(tree: ast.AST, inside: str = "") -> list[Function]:
    """All functions of a module, methods and nested ones included."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Definition):
            found.append(_function(node, inside))
        name = f"{inside}{node.name}." if isinstance(node, Definition | ast.ClassDef) else inside
        found += functions(node, name)
    return found


def _function(node: Definition, inside: str) -> Function:
    arguments = node.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    count = len(given) + (arguments.vararg is not None) + (arguments.kwarg is not None)
    return Function(inside + node.name, length(node), count, arguments.kwarg is not None)


def length(node: Definition) -> int:
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        lines -= node.body[0].end_lineno - node.body[0].lineno + 1
    return lines


def imports(file: str, tree: ast.Module) -> set[str]:
    """What a file imports, wherever in its text, by full name: "torch.nn", "noprop_helpers.lab.records"."""
    package, found = ".".join([PACKAGE.name, *Path(file).parts[:-1]]), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


def arrows(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """File -> files of the package that it imports."""
    names = {file: ".".join([PACKAGE.name, *Path(file).with_suffix("").parts]) for file in trees}
    names = {file: name.removesuffix(".__init__") for file, name in names.items() if name != f"{PACKAGE.name}.__init__"}
    words = {file: [f"{word}." for word in imports(file, tree)] for file, tree in trees.items()}
    return {
        file: {other for other, name in names.items() if any(word.startswith(f"{name}.") for word in words[file])}
        for file in trees
    }


def cycle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle; [] where there are none."""
    done = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        found = next(filter(None, (visit(other, [*path, name]) for other in sorted(arrows[name]))), [])
        done.add(name)
        return found

    return next(filter(None, (visit(name, []) for name in arrows)), [])


def loop_of(function: ast.FunctionDef) -> ast.For:
    """The one loop of a function."""
    (loop,) = [node for node in ast.walk(function) if isinstance(node, ast.For | ast.While)]
    return loop


def table(trees: dict[str, ast.Module]) -> str:
    """File, number of functions, median and longest length, most parameters; all files together in the last line."""
    rows = [(file, functions(tree)) for file, tree in trees.items()]
    rows.append(("all", [function for _, found in rows for function in found]))
    lines = [f"{'file':18} {'functions':>9} {'median':>7} {'longest':>7}  {'':40} {'parameters':>10}"]
    for name, found in rows:
        if found:
            longest = max(found, key=lambda function: function.length)
            numbers = f"{len(found):9} {statistics.median(f.length for f in found):7g} {longest.length:7}"
            lines.append(f"{name:18} {numbers}  {longest.name:40} {max(f.num_parameters for f in found):10}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(modules(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)))
