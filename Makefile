# Everything runs from the repository root through the environment in .venv.
# Relative paths only, so a clone path with spaces works.
PYTHON ?= python3
PY := .venv/bin/python
UV ?= uv

.DEFAULT_GOAL := help
.PHONY: help env reproduce test test-thorough replay test-slow test-lowest report docs site release lint opponents lock clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## */\t/' | expand -t 14

env: .venv/.installed  ## Create .venv from requirements.lock

.venv/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; choose another with: make PYTHON=python3.12 env")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements.lock
	@touch $@

reproduce: env  ## The main job: MNIST, theory and the microworld, then results/report.html
	$(PY) -m experiments reproduce

test: env  ## The quick tests
	$(PY) -m pytest -q

test-thorough: env  ## Whole chains and engines, mostly compilation
	$(PY) -m pytest -q -m "thorough and not slow and not gpu"

replay: env  ## Draw every checked-in figure again and compare
	$(PY) -m pytest -q -m slow tests/experiments/test_replay.py

test-slow: env  ## The statistical tests of minutes each
	$(PY) -m pytest -q -m slow

test-lowest:  ## The test suite on the lowest versions that pyproject.toml allows (needs uv)
	$(UV) venv --quiet --clear --python 3.11 .venv-lowest
	$(UV) pip install --quiet --python .venv-lowest --resolution lowest-direct -r pyproject.toml --group dev
	.venv-lowest/bin/python -m pytest -q

report: env  ## Collect results/ into results/report.html
	$(PY) -m experiments report

docs: env  ## Write README.md and docs/ from docs/templates/ and the checked-in tables
	$(PY) -m experiments docs

site: env  ## README, docs, report and the reference of theory as static pages in build/site
	$(PY) -m pip install --disable-pip-version-check --quiet "pip>=25.1"
	$(PY) -m pip install --disable-pip-version-check --quiet --group site
	$(PY) -m sphinx -q -W --keep-going -c docs/site . build/site

release: site  ## Archives of theory, site and results, with their hashes, in build/release
	@git diff --quiet HEAD || { echo "there are changes that no commit has: commit them first" >&2; exit 2; }
	rm -rf build/release && mkdir -p build/release
	cd theory && ../$(PY) -c 'from setuptools import build_meta; build_meta.build_sdist("../build/release")' >/dev/null
	rm -rf theory/*.egg-info
	git archive --prefix=results/ HEAD:experiments/results | gzip -n > build/release/results.tar.gz
	tar -C build --sort=name --mtime="$$(git log -1 --format=%cI)" --owner=0 --group=0 --numeric-owner -cf - site | gzip -n > build/release/site.tar.gz
	cd build/release && sha256sum *.tar.gz > SHA256SUMS && cat SHA256SUMS

lint: env  ## Format check, lint and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m pyright

opponents: env  ## PyTorch and PEFT, for benchmarks and parity tests
	$(PY) -m pip install --disable-pip-version-check --quiet -r requirements-opponents.txt

lock:  ## Resolve requirements.lock again (needs uv)
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --upgrade --group dev pyproject.toml -o requirements.lock

clean:  ## Remove the environment and the caches (results stay)
	rm -rf .venv .venv-lowest .pytest_cache .ruff_cache
