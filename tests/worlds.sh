#!/usr/bin/env bash
# The package's tests in the worlds that readers have besides the lock's, each in an environment of its own:
#   bash tests/worlds.sh oldest    every lower bound of pyproject.toml at once (Python 3.10 or 3.11: later ones never had them)
#   bash tests/worlds.sh newest    the newest of everything
#   bash tests/worlds.sh sphinx    the book by plain Sphinx, today's myst-nb and theme: the way out of Jupyter Book 1
# PYTHON=... names another interpreter. KEEP=FOLDER keeps the environment there; else it goes when all is done.
# Words after the first go to pytest, or to Sphinx.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
world=${1:-}
folder=${KEEP:-$(mktemp -d)}
[ -n "${KEEP:-}" ] || trap 'rm -rf "$folder"' EXIT
# Two, as in the Makefile; and what waits holds no core.
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive PIP_DISABLE_PIP_VERSION_CHECK=1

environment() { # requirements
  "${PYTHON:-python3}" -m venv "$folder"
  "$folder/bin/python" -m pip install --quiet --upgrade "$@"
  "$folder/bin/python" -m pip install --quiet --no-deps --no-build-isolation --editable .
  "$folder/bin/python" --version
  "$folder/bin/python" -m pip list --format freeze
}

# Left out are the files that look at the book with what builds or opens it: their imports say so.
tests() { # words for pytest
  grep -LE '^(import|from) (sphinx|docutils|bs4|nbclient|colab|test_browser)\b|axe_playwright' tests/test_*.py tests/lab/test_*.py |
    xargs "$folder/bin/python" -m pytest -rs -m "not (built or browser or slow)" "$@"
}

# To run the tests, and what notebooks have: the figures are theirs.
tools=(pytest pytest-xdist hypothesis nbformat pyyaml ipython)

bounds() { sed -nE 's/.*"([A-Za-z0-9_-]+)>=([0-9.]+)".*/\1 \2/p' pyproject.toml; }

case $world in
  oldest)
    mapfile -t pins < <(bounds | sed 's/ /==/')
    environment "${pins[@]}" "${tools[@]}"
    tests "${@:2}"
    ;;
  newest)
    mapfile -t names < <(bounds | cut -d ' ' -f 1)
    environment "${names[@]}" "${tools[@]}"
    tests "${@:2}"
    ;;
  sphinx)
    mapfile -t names < <(bounds | cut -d ' ' -f 1 | grep -v torch)
    mapfile -t torch < <(grep -E '^torch(vision)?==' requirements.txt) # the lock's: it is today's builder that is asked
    environment "${names[@]}" "${torch[@]}" sphinx myst-nb sphinx-book-theme sphinx-external-toc sphinx-togglebutton \
      sphinx-copybutton sphinx-design sphinxcontrib-bibtex sphinx-exercise sphinx-proof sphinx-mathjax-offline fonttools
    "$folder/bin/sphinx-build" --fail-on-warning --nitpicky --keep-going -c tests/plain_sphinx . "$folder/html" "${@:2}"
    ;;
  *)
    sed -n '2,/^set/s/^# //p' "${BASH_SOURCE[0]}"
    exit 2
    ;;
esac
