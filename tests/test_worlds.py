"""Nothing of one machine is taken for granted: not its Python, its line ends, its letters, nor what only some systems have.

What this cannot show is run for real by ``tests/worlds.sh``.
"""

import ast
import functools
import importlib
import pkgutil
import re
import runpy
import subprocess
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

import noprop_helpers
from noprop_helpers.images import split_files

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("noprop_helpers", "book/_ext", "tests") for path in (ROOT / folder).rglob("*.py"))
PACKAGE = [path for path in SOURCES if (ROOT / "tests") not in path.parents]
OLDEST = tuple(map(int, re.search(r'requires-python = ">=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text()).groups()))
NOT_ON_WINDOWS = {"curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
TEXT = {"open", "read_text", "write_text"}
PROCESSES = {"run", "Popen", "check_output"}


def files() -> list[str]:
    """What git keeps, relative to the repository."""
    try:
        listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no git, or no checkout of its own")
    return sorted(set(listed.split("\0")[:-1]))  # in a merge that is not done, some stand there thrice


# --- Python's grammar -------------------------------------------------------------------------------------------------


@functools.cache
def tree(path: Path) -> ast.Module:
    """A source in the grammar of the oldest Python that is promised; SyntaxError where it is newer."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=OLDEST)


@pytest.mark.slow
def test_all_sources_are_in_the_grammar_of_the_oldest_python():
    assert OLDEST == (3, 10) and len(SOURCES) > 100
    for path in SOURCES:
        tree(path)


@pytest.mark.parametrize("later", ["try: x\nexcept* OSError: pass", "type Pair = int", "def first[T](x: T): pass"])
def test_newer_grammar_is_seen(later, tmp_path):
    (tmp_path / "a.py").write_text(later)
    with pytest.raises(SyntaxError):
        tree(tmp_path / "a.py")


# --- Letters and line ends --------------------------------------------------------------------------------------------


def calls_without_encoding(code: ast.AST) -> list[str]:
    """Calls that read or write text in whatever letters this machine is set to."""
    found = []
    for call in [node for node in ast.walk(code) if isinstance(node, ast.Call)]:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
        owner = ast.unparse(call.func).rpartition(".")[0]
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        mode = [argument.value for argument in call.args[1:2] if isinstance(argument, ast.Constant)] or [keywords.get("mode", "")]
        text = name in TEXT and owner not in ("os", "Image", "gzip", "tarfile", "zipfile") and "b" not in str(mode[0])
        text |= owner == "subprocess" and name in PROCESSES and keywords.keys() & {"text", "universal_newlines"} != set()
        if text and "encoding" not in keywords:
            found.append(ast.unparse(call))
    return found


@pytest.mark.whole
def test_text_is_read_and_written_in_utf_8():
    assert {path.name: calls for path in PACKAGE if (calls := calls_without_encoding(tree(path)))} == {}


def test_text_in_unknown_letters_is_seen():
    for call in ("open(a)", "open(a, 'w')", "path.read_text()", "p.open(mode='a')", "subprocess.run(a, text=True)"):
        assert calls_without_encoding(ast.parse(call)) == [call]
    for call in ("open(a, 'rb')", "open(a, encoding='utf-8')", "os.open(a, 1)", "subprocess.run(a)"):
        assert calls_without_encoding(ast.parse(call)) == []


def test_files_have_one_line_end_and_names_that_every_system_can_hold():
    names = files()
    text = [(ROOT / name).read_bytes() for name in names if not re.search(r"\.(npz|png|webp|ico|woff2?)$", name)]
    assert not any(b"\r\n" in content for content in text)
    assert "* text=auto eol=lf" in (ROOT / ".gitattributes").read_text().splitlines()
    assert len({name.lower() for name in names}) == len(names)
    reserved = r'[<>:"|?*\\\x00-\x1f]|[. ](/|$)|(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)'
    assert [name for name in names if re.search(reserved, name, re.I) or len(name) > 100 or not name.isascii()] == []


# --- Other versions ---------------------------------------------------------------------------------------------------


def test_every_requirement_has_a_lower_bound_alone():
    """So tests/worlds.sh finds them all, and what a host brings may stay."""
    lists = re.findall(r'^(?:requires|dependencies|adjoint) = (\[[^]]*\])', (ROOT / "pyproject.toml").read_text(), re.M)
    wanted = [name for names in lists for name in ast.literal_eval(names)]
    assert len(lists) == 3 and len(wanted) > 8
    assert [name for name in wanted if not re.fullmatch(r"[\w-]+>=\d[\d.]*", name)] == []


def test_plain_sphinx_is_led_to_what_is_there(monkeypatch):
    pytest.importorskip("yaml")
    monkeypatch.setattr(sys, "path", list(sys.path))
    told = runpy.run_path(str(ROOT / "tests" / "plain_sphinx" / "conf.py"))
    paths = [told[name] for name in ("external_toc_path", "html_logo", "html_favicon")]
    for path in [*paths, *told["bibtex_bibfiles"], *told["html_static_path"], *told["templates_path"]]:
        assert Path(path).is_absolute() and Path(path).exists()
    assert told["html_theme_options"]["repository_url"].startswith("https://") and told["default_role"] == "code"


# --- What only some systems have --------------------------------------------------------------------------------------


@pytest.mark.whole
def test_what_windows_lacks_is_imported_where_it_may_be_missing():
    for path in PACKAGE:
        guarded = {id(line) for node in ast.walk(tree(path)) if isinstance(node, ast.Try) for line in node.body}
        for node in ast.walk(tree(path)):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else {getattr(node, "module", "")}
            assert id(node) in guarded or not names & NOT_ON_WINDOWS, (path, ast.unparse(node))


@pytest.fixture
def without(monkeypatch):
    """The package imported afresh where some modules are missing; afterwards it is as it was."""
    ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] == noprop_helpers.__name__}

    def imported(*missing: str):
        for name in missing:
            monkeypatch.setitem(sys.modules, name, None)
        for name in ours:
            del sys.modules[name]
        return importlib.import_module(noprop_helpers.__name__)

    yield imported
    for name in [name for name in sys.modules if name.split(".")[0] == noprop_helpers.__name__]:
        del sys.modules[name]
    sys.modules.update(ours)


def test_every_module_imports_and_a_run_is_written_where_windows_lacks_modules(without, tmp_path, monkeypatch, capsys):
    package = without(*NOT_ON_WINDOWS)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    monkeypatch.chdir(tmp_path)
    command = sys.modules["noprop_helpers.__main__"].main
    words = ["train", "--epochs", "1", "--set", "num_steps=2", "--set", "hidden_dim=8", "--json", "a.json", "--checkpoint", "a.pt"]
    assert command(words) == 0, capsys.readouterr().err
    assert '"peak_memory_mib": null' in Path("a.json").read_text() and Path("a.pt").exists()


def test_a_python_without_what_the_package_needs_is_told_so_in_one_line(without, capsys):
    without("torch", "tqdm")
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("noprop_helpers.__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "noprop_helpers needs torch and tqdm: pip install torch tqdm\n"


def test_a_folder_is_split_alike_on_every_system():
    """Paths of Windows sort as if all letters were small."""
    names = [f"{letter}{i}.png" for i in range(10) for letter in "aB"]
    posix, windows = (split_files([kind(f"k/{name}") for name in names]) for kind in (PurePosixPath, PureWindowsPath))
    assert [[file.name for file in part] for part in posix] == [[file.name for file in part] for part in windows]
    assert [file.name for file in posix[0]] == sorted(file.name for file in posix[0])
