"""The conformance pack: its vectors are what the equations say, ours passes, and every known mistake is called by its name."""

import ast
import inspect
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import house
import pytest
from test_equations import shown

from noprop_helpers.lab.conformance import examine, main, read_vectors
from noprop_helpers.lab.conformance_formulas import GROUPS
from noprop_helpers.lab.conformance_mistakes import MISTAKES
from noprop_helpers.lab.conformance_vectors import FILE, answer, document, leaves

ROOT = Path(__file__).parent.parent.parent
OURS = ROOT / "book" / "conformance_adapter.py"
VECTORS = read_vectors()
NAMED = [(group, name) for group, mistakes in MISTAKES.items() for name in mistakes]


@pytest.fixture
def verdict(tmp_path, capsys):
    """verdict(text of an adapter) -> (exit code, standard output, standard error)."""

    def run(text):
        (tmp_path / "adapter.py").write_text(text)
        code = main([str(tmp_path / "adapter.py")])
        return code, *capsys.readouterr()

    return run


# --- The vectors ------------------------------------------------------------------------------------------------------


def test_the_file_is_what_the_formulas_say():
    assert FILE.read_text(encoding="utf-8") == document()


def test_there_are_enough_vectors_of_every_kind_in_a_small_file():
    vectors = [vector for group in VECTORS.values() for vector in group]
    assert len(vectors) >= 250 and len({vector["id"] for vector in vectors}) == len(vectors)
    assert list(VECTORS) == [*GROUPS] and all(len(group) >= 5 for group in VECTORS.values())
    assert FILE.stat().st_size < 80_000
    for vector in vectors:
        assert set(vector) == {"id", "group", "inputs", "expected", "tolerance", "equation"}
        assert 1e-6 <= vector["tolerance"] <= 1e-3, vector["id"]
        assert all(type(number) in (int, float) for value in vector["inputs"].values() for number in leaves(value))


def test_equations_that_vectors_name_are_in_the_book():
    assert {group.book for group in GROUPS.values()} - {""} <= set(shown())
    assert VECTORS["posterior"][0]["equation"] == "book (1.6), paper Eq. 6"


@pytest.mark.parametrize("module", ["conformance", "conformance_formulas", "conformance_mistakes", "conformance_vectors"])
def test_the_oracle_is_independent_of_what_it_checks(module):
    """Nothing but the standard library, and one another; the formulas not even that. The command then starts at once, too."""
    file = f"lab/{module}.py"
    imported = house.imports(file, ast.parse((house.PACKAGE / file).read_text(encoding="utf-8")))
    own = {name for name in imported if name.startswith("noprop_helpers.")}
    assert {name.split(".")[0] for name in imported - own} <= sys.stdlib_module_names
    assert all(name.startswith(("noprop_helpers.lab.conformance_", "noprop_helpers.NoPropError")) for name in own), own
    assert own == set() or module != "conformance_formulas"


def test_coefficients_are_bayes_rule_in_fractions():
    """Eq. (1.6): precisions add up. a, b and c are rational where the roots of the levels are."""
    before, after = Fraction(16, 25), Fraction(4, 25)  # roots 4/5 and 2/5, alpha_t = 1/4
    alpha = after / before
    c = 1 / (alpha / (1 - alpha) + 1 / (1 - before))
    a, b = Fraction(4, 5) / (1 - before) * c, Fraction(1, 2) / (1 - alpha) * c
    given = answer(GROUPS["posterior"].formula, {"alpha_bar": [1.0, 0.64, 0.16], "t": 2})
    assert given == pytest.approx([float(a), float(b), float(c)], rel=1e-11)


# --- Ours passes, mistakes are named ----------------------------------------------------------------------------------


def test_ours_passes(capsys):
    assert main([str(OURS)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"groups: {len(GROUPS)} pass, 0 fail, 0 not checked"
    assert [line.split()[:2] for line in lines[:-1]] == [[group, "passes,"] for group in GROUPS]


@pytest.mark.parametrize("group", GROUPS)
def test_every_known_mistake_and_no_other_is_named(group):
    for name, mistake in MISTAKES[group].items():
        found = examine(group, lambda **inputs: answer(mistake, inputs), VECTORS[group])
        assert found.mistakes == [name] and found.right < found.asked


def step_with(line):
    return f"""
def posterior_step(u_hat, z, alpha_bar, t, noise):
    alpha, before, after = alpha_bar[t] / alpha_bar[t - 1], alpha_bar[t - 1], alpha_bar[t]
    a = before**0.5 * (1 - alpha) / (1 - after)
    b = alpha**0.5 * (1 - before) / (1 - after)
    c = (1 - before) * (1 - alpha) / (1 - after)
    return [{line} for u, x, e in zip(u_hat, z, noise)]
"""


ADAPTERS = {
    "the level without its root, in torch": (
        "import torch\ndef q_sample(u, alpha_bar, t, noise):\n"
        "    level = torch.tensor(alpha_bar)[t]\n"
        "    return level * torch.tensor(u) + (1 - level).sqrt() * torch.tensor(noise)\n",
        "q_sample",
        "wrong marginals: the square root of the signal's share is forgotten",
    ),
    "the table turned round, in NumPy": (
        "import numpy as np\ndef q_sample(u, alpha_bar, t, noise):\n"
        "    level = np.array(alpha_bar, dtype=np.float32)[::-1][t]\n"
        "    return np.sqrt(level) * np.array(u) + np.sqrt(1 - level) * np.array(noise)\n",
        "q_sample",
        "wrong direction of time: time t is taken for T - t",
    ),
    "one step too early": (
        "def q_sample(u, alpha_bar, t, noise):\n"
        "    return [alpha_bar[t - 1]**0.5 * x + (1 - alpha_bar[t - 1])**0.5 * e for x, e in zip(u, noise)]\n",
        "q_sample",
        "wrong time: shifted by one, t - 1 in the place of t",
    ),
    "a step without its state": (
        step_with("a * u + c**0.5 * e"),
        "posterior_step",
        "missing skip term: b_t z_t is left out",
    ),
    "a step whose noise is too small": (
        step_with("a * u + b * x + c * e"),
        "posterior_step",
        "wrong noise: variance in the place of the standard deviation",
    ),
    "the published notebook's step": (
        step_with("alpha**0.5 * u + (1 - alpha)**0.5 * e"),
        "posterior_step",
        "wrong step: the published notebook's, noised anew to alpha_t",
    ),
    "the flow of a walk with noise": (
        "from math import exp\ndef probability_flow(u_hat, z, gamma, rate):\n    alpha_bar = 1 / (1 + exp(gamma))\n"
        "    return [rate * ((1 + alpha_bar) / 2 * x - alpha_bar**0.5 * u) for x, u in zip(z, u_hat)]\n",
        "probability_flow",
        "wrong ODE: the drift of walks with fresh noise, and none is added",
    ),
    "the flow in the paper's time": (
        "from math import exp\ndef probability_flow(u_hat, z, gamma, rate):\n    alpha = (1 + exp(gamma)) ** -0.5\n"
        "    return [0.5 * rate * alpha * (u - alpha * x) for x, u in zip(z, u_hat)]\n",
        "probability_flow",
        "wrong ODE: the sign, or the paper's time",
    ),
    "a loss that weighs all layers alike": (
        "def dt_loss(u_hat, u, alpha_bar, t, eta):\n    T = len(alpha_bar) - 1\n"
        "    return 0.5 * T * eta * sum((a - b)**2 for a, b in zip(u_hat, u))\n",
        "dt_loss",
        "loss without its SNR weight",
    ),
    "a velocity towards the label": (
        "def flow_velocity(u, noise):\n    return [x - e for x, e in zip(u, noise)]\n",
        "flow_velocity",
        "wrong direction of time: that of the paper, where t = 0 is noise",
    ),
    "a table without its clean end": (
        "def alpha_bar_from_alphas(alphas):\n    import itertools, operator\n"
        "    return list(itertools.accumulate(alphas, operator.mul))\n",
        "alpha_bar_from_alphas",
        "wrong time: the clean end, alpha_bar_0 = 1, is left out",
    ),
}


@pytest.mark.parametrize("mistake", ADAPTERS)
def test_adapters_with_a_mistake_fail_under_its_name(mistake, verdict):
    text, group, name = ADAPTERS[mistake]
    code, out, err = verdict(text)
    lines = out.splitlines()
    place = next(i for i, line in enumerate(lines) if "FAILS" in line)
    assert (code, err) == (1, "") and lines[place].startswith(f"{group} ") and lines[place + 1] == f"    {name}"
    assert lines[-1] == f"groups: 0 pass, 1 fail, {len(GROUPS) - 1} not checked"


def test_the_same_adapter_without_its_mistake_passes(verdict):
    code, out, _ = verdict(step_with("a * u + b * x + c**0.5 * e"))
    assert code == 0 and "posterior_step         passes, 18 of 18\n" in out
    assert out.count("not checked, the adapter has no function of this name") == len(GROUPS) - 1


def test_a_mistake_that_nobody_knows_is_shown(verdict):
    code, out, _ = verdict("def flow_velocity(u, noise):\n    return [e - 1.01 * x for x, e in zip(u, noise)]\n")
    first = VECTORS["flow_velocity"][0]
    got = first["inputs"]["noise"][0] - 1.01 * first["inputs"]["u"][0]
    assert code == 1
    assert f"no mistake that we know; flow_velocity-01, number 0: expected {first['expected'][0]:.6g}, got {got:.6g}\n" in out


@pytest.mark.parametrize(
    "text, said",
    [
        ("def flow_velocity(u, noise): return u[:1]\n", "flow_velocity-01 expects 2 numbers, got 1"),
        ("def flow_velocity(u, noise): return [float('nan')] * len(u)\n", "flow_velocity-01, number 0: expected"),
        (
            "def flow_velocity(u, noise):\n    if len(u) > 2: return [e - x for x, e in zip(u, noise)]\n    1 / 0\n",
            "flow_velocity-01 raises ZeroDivisionError: division by zero",
        ),
        # Right at most of the questions, and no mistake that fits only the wrong ones is named.
        ("def flow_velocity(u, noise): return u if len(u) == 2 else [e - x for x, e in zip(u, noise)]\n", "4 of 6 right"),
    ],
)  # fmt: skip
def test_answers_that_are_no_answers_fail(text, said, verdict):
    code, out, _ = verdict(text)
    assert code == 1 and said in out and "no mistake that we know" in out


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "has none of the functions that can be checked: linear_alpha_bar, "),
        ("def f(:\n", "can't be run: SyntaxError: "),
        ("import no_such_module\n", "can't be run: ModuleNotFoundError: "),
        ("raise SystemExit(0)\n", "can't be run: SystemExit: 0"),
        ("snr = 3\n", "snr must be a function, got int"),
        ("def snr(levels): return levels\n", "snr answers nothing, its first vector raises TypeError: "),
        ("def snr(alpha_bar): pass\n", "snr must return a number or lists of numbers, got None"),
        ("def snr(alpha_bar): return [str(x) for x in alpha_bar]\n", "snr must return a number or lists of numbers, got ['0"),
    ],
)
def test_a_bad_adapter_is_one_clear_line(text, said, verdict):
    code, _, err = verdict(text)
    assert code == 2 and err.startswith("conformance: ") and said in err and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["a.py", "b.py"], ["--help"], ["nowhere.py"]])
def test_a_bad_command_line_is_one_clear_line(arguments, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and ("usage: " in err or "nowhere.py is not a file" in err)


def test_an_adapter_may_import_its_neighbours_and_change_what_it_is_given(tmp_path, capsys):
    (tmp_path / "neighbour_of_mine.py").write_text("def minus(x, e): return e - x\n")
    (tmp_path / "adapter.py").write_text(
        "from neighbour_of_mine import minus\n"
        "def flow_velocity(u, noise):\n    while u: noise.append(minus(u.pop(0), noise.pop(0)))\n    return tuple(noise)\n"
    )
    path = list(sys.path)
    assert main([str(tmp_path / "adapter.py")]) == 0 and sys.path == path
    assert read_vectors() == VECTORS
    capsys.readouterr()


def test_it_runs_as_a_command():
    command = [sys.executable, "-m", "noprop_helpers.lab.conformance", str(ROOT / "no" / "adapter.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "is not a file" in done.stderr and done.stdout == ""


# --- The page ---------------------------------------------------------------------------------------------------------


def test_the_page_lists_all_that_can_be_asked():
    page = (ROOT / "book" / "conformance.md").read_text(encoding="utf-8")
    for name, group in GROUPS.items():
        arguments, computes = ", ".join(inspect.signature(group.formula).parameters), group.computes.replace("|", r"\|")
        book = f"({group.book})" if group.book else ""
        assert f"| `{name}({arguments})` | `{computes}` | {book} | {group.paper} |\n" in page, name
        assert arguments == ", ".join(VECTORS[name][0]["inputs"])
    assert page.count("275") == 2 and sum(map(len, VECTORS.values())) == 275
    assert f"For each of {len(NAMED)} mistakes" in page


def test_the_file_tells_what_its_groups_are():
    pack = json.loads(FILE.read_text(encoding="utf-8"))
    assert pack["groups"] == {name: group.computes for name, group in GROUPS.items()}
    assert "t counts noise" in pack["about"]["time"] and pack["about"]["licence"] == "MIT"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_verdicts_that_cannot_be_written_are_no_failure_of_the_adapter(tmp_path):
    (tmp_path / "mine.py").write_text("def fm_loss(**inputs):\n    return 0.0")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "noprop_helpers.lab.conformance", str(tmp_path / "mine.py")]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.splitlines() == ["conformance: cannot write the verdicts: No space left on device"]


def test_an_adapter_that_leaves_has_not_answered(verdict):
    code, _, said = verdict("def dt_loss(**inputs):\n    raise SystemExit(0)")
    assert code == 2 and "dt_loss answers nothing, its first vector raises SystemExit" in said
