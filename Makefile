PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The tests start hundreds of processes: each would compile the whole package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run install test compat compat-slow browser screenshots quick soak verify fix bench bench-guard clean

# Start a three-node cluster on this machine and say how to use it. `make run PORT=9000` runs one on other ports, in a
# directory of its own: the nodes of a cluster know each other by their ports.
PORT ?=
run: $(VENV)/.runtime
	@$(BIN)/syncline up $(if $(PORT),--port $(PORT) --data-dir syncline-data-$(PORT))

install: $(VENV)/.installed

# What a node needs at run time, and nothing else: the first `make run` is quick.
$(VENV)/.runtime: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Syncline needs Python 3.11 or newer; choose one with: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@echo "Installing Syncline into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# The tools of a contributor. Dependency groups need pip 25.1.
$(VENV)/.installed: $(VENV)/.runtime
	@echo "Installing the development tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

# Three at a time: the tests of real processes wait more than they work. A file's tests stay together and in order, and the
# files with the longest ones (chaos, integration) are not left to the end.
test: $(VENV)/.installed
	$(BIN)/python -m pytest -m 'not slow' --numprocesses 3 --dist loadfile --no-loadscope-reorder

# etcd's clients against a cluster of ours, in an environment of their own: they pin versions of what they need. With
# Debian's etcd-client and etcd-server there are more tests; what is missing is said at the end of the run.
COMPAT := .venv-compat
COMPAT_TESTS := $(COMPAT)/bin/python -m pytest -W default tests/compat/etcd

$(COMPAT)/.installed: pyproject.toml tests/compat/etcd/clients.txt
	@$(PYTHON) -c 'import sys; sys.exit("Syncline needs Python 3.11 or newer; choose one with: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@echo "Installing etcd's clients into $(COMPAT) ..."
	@$(PYTHON) -m venv $(COMPAT)
	@$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/compat/etcd/clients.txt --editable '.[etcd-api]'
	@touch $@

compat: $(COMPAT)/.installed
	$(COMPAT_TESTS) -m 'not slow'

# The test suites that the clients ship: some minutes.
compat-slow: $(COMPAT)/.installed
	$(COMPAT_TESTS) -m slow

# The web console in a real Chromium (Debian's, or the one that SYNCLINE_CHROMIUM names), in an environment of its own.
# Without Chromium the tests are left out, and the end of the run says it.
BROWSER := .venv-browser

$(BROWSER)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Syncline needs Python 3.11 or newer; choose one with: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@echo "Installing the driver of the browser into $(BROWSER) ..."
	@$(PYTHON) -m venv $(BROWSER)
	@$(BROWSER)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BROWSER)/bin/python -m pip install --quiet --disable-pip-version-check --group browser --editable .
	@touch $@

browser: $(BROWSER)/.installed
	$(BROWSER)/bin/python -m pytest tests/browser

# The pictures of the console in docs/pictures, of a cluster that this starts.
screenshots: $(BROWSER)/.installed
	$(BROWSER)/bin/python -m tests.browser.screenshots docs/pictures

# Minutes to hours: the slow tests, then simulated clusters. `make soak SEEDS=1-20000 JOBS=2`
SEEDS ?= 1-1000
JOBS ?= 2
soak: $(VENV)/.installed compat-slow
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m syncline.testing.simulate --seeds $(SEEDS) --jobs $(JOBS)

# Are all names that a user can import typed, so that no type checker has to guess? It finds the package, and what the
# package imports, through the first `python` on the path. Then: does it infer what users' programs rely on?
PYRIGHT := PATH="$(CURDIR)/$(BIN):$$PATH" PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

# Reads only: nothing in the tree is changed.
verify: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(PYRIGHT) --verifytypes syncline --ignoreexternal >$(VENV)/types.txt || { grep -v '^   syncline' $(VENV)/types.txt; exit 1; }
	@grep 'completeness' $(VENV)/types.txt
	$(PYRIGHT) tests/unit/test_raft_api.py
	$(BIN)/python -m pytest tests/unit/test_tidy.py tests/unit/test_imports.py

# Seconds, while you work: lint, types, tidiness, and the tests whose files you changed.
BASE ?= main
quick: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit/test_tidy.py $$($(BIN)/python tests/changed.py $(BASE))

fix: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Beside other systems, as far as they are installed: about an hour. See bench/README.md.
bench: $(VENV)/.installed
	$(BIN)/python -m bench --page docs/benchmarks

# A few seconds: has Syncline become slower? A report, never a failure.
bench-guard: $(VENV)/.installed
	$(BIN)/python -m bench.guard

clean:
	rm -rf $(VENV) $(COMPAT) $(BROWSER) .mypy_cache .ruff_cache .hypothesis
