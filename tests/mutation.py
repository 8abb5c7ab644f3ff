"""How well the tests bite: mutmut changes a module in one small way after another, and the tests of its name must notice.

::

    pip install mutmut==3.8.1
    python tests/mutation.py run schedules losses    goes on where it was broken off; survivors are tried again
    python tests/mutation.py record                  writes what came out to tests/mutation.json

A survivor is a change that no test noticed. tests/mutation.json gives the reason of each; one that is new has none yet, and
``test_mutation`` asks for it.
"""

import argparse
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER, RECORD = ROOT / "mutants", ROOT / "tests" / "mutation.json"
# Of a module's mutants, at least so many in a hundred are to be found by the tests.
FLOORS = {
    "schedules": 95, "diffusion": 95, "embeddings": 95, "losses": 95, "samplers": 95, "layerwise": 95, "features": 95,
    "checkpoints": 95, "blocks": 90, "noprop": 90, "passes": 90, "training": 90, "runs": 90,
}  # fmt: skip
SETTINGS = """
[tool.mutmut]
source_paths = ["noprop_helpers"]
only_mutate = ["noprop_helpers/{module}.py"]
pytest_add_cli_args_test_selection = ["tests/test_{module}.py"]
# Its process would run the mutant a second time, and is by far the slowest.
pytest_add_cli_args = ["--deselect", "tests/test_checkpoints.py::test_standard_output_is_a_file_too", "-m", "not slow"]
"""
# The quickest tests first: most mutants are found by one of them. Those that take more than two seconds are left out, so that
# a survivor does not cost a minute; the score is a lower one than all tests would have.
QUICKEST_FIRST = """

def pytest_collection_modifyitems(items):
    import json
    known = Path("mutmut-stats.json")
    seconds = json.loads(known.read_text())["duration_by_test"] if known.exists() else {}
    items.sort(key=lambda item: seconds.get(item.nodeid, 0.0))
    items[1:] = [item for item in items[1:] if seconds.get(item.nodeid, 0.0) < 2.0]
"""
NOTICED = {1, 3, 24, -24, 36, 152, 255}  # exit statuses of pytest: a test failed, or the mutant ran for ever


def prepare(module: str) -> Path:
    """A folder with the package, the module's tests and mutmut's settings; what it knows from before stays."""
    folder = FOLDER / module
    shutil.rmtree(folder / "tests", ignore_errors=True)
    (folder / "tests").mkdir(parents=True)
    shutil.copytree(ROOT / "noprop_helpers", folder / "noprop_helpers", dirs_exist_ok=True)
    for name in ("conftest.py", f"test_{module}.py"):
        shutil.copy2(ROOT / "tests" / name, folder / "tests")
    with open(folder / "tests" / "conftest.py", "a") as file:
        file.write(QUICKEST_FIRST)
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + SETTINGS.format(module=module))
    return folder


def try_survivors_again(folder: Path, module: str) -> None:
    """The tests may be better by now: forget which test saw which function, and who survived."""
    (folder / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    meta = folder / "mutants" / "noprop_helpers" / f"{module}.py.meta"
    if meta.exists():
        content = json.loads(meta.read_text())
        statuses = content["exit_code_by_key"]
        content["exit_code_by_key"] = {name: status if status in NOTICED else None for name, status in statuses.items()}
        meta.write_text(json.dumps(content))


def run(module: str, processes: int) -> bool:
    """Try all mutants of a module that have not been noticed yet: -> whether mutmut came to its end."""
    folder = prepare(module)
    try_survivors_again(folder, module)
    # One thread, and none of the plugins that happen to be installed: a mutant then takes a fraction of a second.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", str(processes)]
    log = folder / "mutmut.log"
    with open(log, "w") as file:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode or not (statuses := statuses_of(module)) or None in statuses.values():
        print(f"{module}: mutmut did not come to its end, see {log}")
        return False
    print(f"{module}: {sum(status in NOTICED for status in statuses.values())} of {len(statuses)} noticed")
    return True


def statuses_of(module: str) -> dict[str, int | None]:
    """mutmut's name of every mutant -> exit status of the tests, None where it was not tried."""
    meta = FOLDER / module / "mutants" / "noprop_helpers" / f"{module}.py.meta"
    return json.loads(meta.read_text())["exit_code_by_key"] if meta.exists() else {}


def survivor(module: str, name: str) -> dict[str, str]:
    """Where a mutant is, and its changed lines: what stays the same when mutmut numbers anew."""
    command = [str(Path(sys.executable).with_name("mutmut")), "show", name]
    shown = subprocess.run(command, cwd=FOLDER / module, capture_output=True, text=True, check=True).stdout
    lines = {sign: [line[1:].strip() for line in shown.splitlines() if re.match(rf"\{sign}(?!\{sign})", line)] for sign in "-+"}
    function = re.sub(r"^x_", "", name.split(".")[-1].rpartition("__mutmut_")[0]).replace("xǁ", "").replace("ǁ", ".")
    return {"function": function, "from": " ".join(lines["-"]), "to": " ".join(lines["+"])}


def source_of(module: str) -> str:
    """What a module's text is now: a record of another text is an old one."""
    return hashlib.sha256((ROOT / "noprop_helpers" / f"{module}.py").read_bytes()).hexdigest()[:16]


def recorded(module: str, old: dict) -> dict:
    """What came out for a module, of the mutants that were tried; survivors keep the reasons that they have."""
    reasons = {(one["function"], one["from"], one["to"]): one["reason"] for one in old.get("survivors", [])}
    statuses, survivors = statuses_of(module), []
    tried = {name: status for name, status in statuses.items() if status is not None}
    for name in (name for name, status in tried.items() if status not in NOTICED):
        one = survivor(module, name)
        survivors.append(one | {"reason": reasons.get(tuple(one.values()), "")})
    numbers = {"mutants": len(statuses), "tried": len(tried), "noticed": len(tried) - len(survivors)}
    return {"source": source_of(module)} | numbers | {"survivors": survivors}


def record() -> None:
    """Write tests/mutation.json from all modules that were run here; of the others the old result stays."""
    old = json.loads(RECORD.read_text()) if RECORD.exists() else {"modules": {}}
    modules = dict(old["modules"])
    for module in FLOORS:
        if any(status is not None for status in statuses_of(module).values()):
            modules[module] = recorded(module, modules.get(module, {}))
    content = {"mutmut": "3.8.1", "date": datetime.date.today().isoformat(), "modules": modules}
    RECORD.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=["run", "record"])
    parser.add_argument("module", nargs="*", help=f"of {', '.join(FLOORS)}; all if none is named")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if unknown := [module for module in arguments.module if module not in FLOORS]:
        parser.error(f"there are no mutants of {unknown[0]}; choose of {', '.join(FLOORS)}")
    if arguments.do == "record":
        record()
        return 0
    return int(not all([run(module, arguments.processes) for module in arguments.module or FLOORS]))


if __name__ == "__main__":
    sys.exit(main())
