#!/usr/bin/env bash
# Build the book without the lock: what requirements.in names, each in its newest version. Two pins stay, since what comes after
# them is known to break: jupyter-book 2 is another program, and newer themes draw a second search box.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS=2 NOPROP_CLAIMS=1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
sed -E '/^(jupyter-book|sphinx-book-theme)==/!s/==.*//' requirements.in > "$folder/unlocked.txt"
"$folder/venv/bin/python" -m pip install --quiet -r "$folder/unlocked.txt"
"$folder/venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable .
"$folder/venv/bin/jupyter-book" build . --path-output "$folder/site" --warningiserror --nitpick --keep-going
test -s "$folder/site/_build/html/book/index.html"
