"""How much of the package its tests run: ``python tests/covered.py``, after ``coverage run`` and ``coverage combine``.

Code 1 where lines or branches are below their floors. Much of what is missing runs on a GPU alone.
"""

import json
import subprocess
import sys

FLOORS = {"lines": 97.0, "branches": 92.0}  # per cent


def shares(totals: dict) -> dict[str, float]:
    """Per cent of lines and of branches, from the totals of a report."""
    found = {"lines": ("covered_lines", "num_statements"), "branches": ("covered_branches", "num_branches")}
    return {kind: 100 * totals[part] / totals[whole] for kind, (part, whole) in found.items()}


def main() -> int:
    command = [sys.executable, "-m", "coverage", "json", "--quiet", "-o", "-"]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    files = sorted(report["files"].items(), key=lambda item: -item[1]["summary"]["missing_lines"])
    for name, file in files[:10]:
        print(f"{file['summary']['missing_lines']:5} lines missing in {name}: {file['missing_lines'][:12]}")
    found = shares(report["totals"])
    for kind, share in found.items():
        print(f"{share:.2f} % of {kind}; at least {FLOORS[kind]:.0f} are asked for")
    return int(any(share < FLOORS[kind] for kind, share in found.items()))


if __name__ == "__main__":
    sys.exit(main())
