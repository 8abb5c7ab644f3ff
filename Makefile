# Everything runs in .venv, which is made on first use and brought up to date when the requirements change.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
EXECUTED := _build/.jupyter_cache

# Stored outputs are compared as text, and the order of a floating-point sum depends on the
# number of threads: two on every machine, whatever it has.
export OMP_NUM_THREADS := 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Compiled files are kept, whatever the shell says: without them every process of pytest rewrites the assertions of all tests anew.
unexport PYTHONDONTWRITEBYTECODE
# What a chapter's text says of its numbers must hold here; a reader who changes a setting gets a line instead of an error.
export NOPROP_CLAIMS := 1

.DELETE_ON_ERROR:
.PHONY: help setup book book-as-stored test test-built test-fast test-package test-parts test-pages test-everything coverage serve lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv and install the pinned requirements

# The stamp is written last, so an interrupted set-up is done again.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: '$(PYTHON)' is not Python 3.10 or newer. Give one that is: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' cannot make virtual environments (on Debian: apt-get install python3-venv)"; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# From scratch each time: a warm _build keeps silent about warnings on pages that did not change. Chapters are executed side by
# side, on a thread each; the build takes what came out, and executes again, and says why, what failed.
book: export OMP_NUM_THREADS := 1
book: $(STAMP) ## execute every chapter and build the book into _build/html/index.html
	rm -rf _build
	mkdir -p $(EXECUTED)
	$(BIN)/jcache notebook --cache-path $(EXECUTED) add book/*.ipynb
	$(BIN)/jcache project --cache-path $(EXECUTED) execute --executor local-parallel --timeout 300
	sed 's/execute_notebooks: force/execute_notebooks: cache/' _config.yml > .config-executed.yml
	$(BIN)/jupyter-book build . --config .config-executed.yml --warningiserror --nitpick --keep-going

# The tests execute every chapter once, and hold what comes out to what is stored: the book beside them is built of that.
book-as-stored: $(STAMP)
	rm -rf _build
	sed 's/execute_notebooks: force/execute_notebooks: "off"/' _config.yml > .config-as-stored.yml
	$(BIN)/jupyter-book build . --config .config-as-stored.yml --warningiserror --nitpick --keep-going

# Two threads each, they would mostly wait for one another on two cores. Stored outputs are those of one thread, too.
test-parts test-pages test-fast test-package coverage: export OMP_NUM_THREADS := 1

# Two tests at a time: see tests/conftest.py for which may be apart. One that hangs is named and fails.
PYTEST := -m pytest -rs --durations 25 --numprocesses 2 --dist loadscope --no-loadscope-reorder --timeout 600

test: $(STAMP) ## build the book, and run all tests: package, notebooks, pages in a browser
	$(MAKE) --jobs 2 test-built test-parts

# Package and notebooks do not wait for the book; and while a browser waits, or one of them has come to its last long file, the
# others use the time.
test-built: book-as-stored
	$(MAKE) test-pages

test-parts: $(STAMP)
	$(BIN)/python $(PYTEST) -m "not built" --nbval --nbval-cell-timeout 600 --nbval-sanitize-with tests/nbval_sanitize.cfg

# On other Pythons than the one whose outputs are stored.
test-package: $(STAMP)
	$(BIN)/python $(PYTEST) -m "not built" tests

# Only files with such tests are read.
test-pages: $(STAMP)
	$(BIN)/python $(PYTEST) -m built $$(grep -rl --include '*.py' 'mark\.built' tests)

# What every night has time for: data sets whole, every page in every way.
test-everything: export NOPROP_EVERYTHING := 1
test-everything: test

# No floor for a contributor to trip over at every change: it runs every night.
coverage: $(STAMP)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run $(PYTEST) -m "not built" tests
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python tests/covered.py

test-fast: $(STAMP) ## a contributor's minute: no book, notebook or browser, no whole training
	$(BIN)/python $(PYTEST) -m "not (built or browser or slow or whole)" tests

serve: ## show the built book on http://127.0.0.1:8000
	$(PYTHON) -m http.server --bind 127.0.0.1 --directory _build/html 8000

# CUDA's libraries are left out: pip takes those of the torch build that it finds, which may need none.
lock: requirements.in ## pin requirements.in and all it needs in requirements.txt
	$(PYTHON) -m venv --clear .venv/lock
	.venv/lock/bin/python -m pip install --quiet uv
	.venv/lock/bin/uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate requirements.in \
	  | { echo "# Made by 'make lock' from requirements.in; holds for Python 3.10 and newer. Without CUDA's libraries: pip adds torch's own."; \
	      grep -vE '^(nvidia|cuda|triton)'; } > requirements.txt.new
	mv requirements.txt.new requirements.txt
	grep -vE '^(torch|torchvision)==' requirements.txt | .venv/lock/bin/uv pip compile --quiet --universal --python-version 3.10 \
	  --no-header --no-annotate --no-deps --generate-hashes - \
	  | { echo "# Made by 'make lock': requirements.txt with the checksums of its files, but for torch, whose builds differ."; cat; } \
	  > requirements-hashed.txt

clean: ## remove the built book and the virtual environment
	rm -rf _build .venv
