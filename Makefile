# Two commands: `make study` shows the system at work, `make test` proves it. Both set up .venv.
.PHONY: study test test-oldest test-extras check docs venv lock clean
PYTHON ?= python3
BIN := .venv/bin

study: venv
	$(BIN)/oat run quickstart

test: venv
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m 'not alone'
	$(BIN)/python -m pytest -q -m alone $$(grep -rl --include='*.py' mark.alone tests) # others need not be collected

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict oat baselines studies

# the oldest versions that pyproject.toml allows, in an environment of their own; tools as in the lock
OLDEST := .venv-oldest
test-oldest: venv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(OLDEST)
	$(BIN)/uv pip compile pyproject.toml --extra autoattack --extra cluster --extra onnx --resolution lowest-direct --python $(BIN)/python --no-annotate --no-header --quiet -o $(OLDEST)/oldest.txt
	grep -E '^(pytest|pytest-timeout|hypothesis|jsonschema|foolbox|boto3|moto|flask-cors)==' requirements.lock | sed 's/[ ;].*//' > $(OLDEST)/tools.txt
	$(BIN)/uv pip install --quiet --python $(OLDEST)/bin/python -r $(OLDEST)/oldest.txt -r $(OLDEST)/tools.txt
	$(BIN)/uv pip install --quiet --python $(OLDEST)/bin/python --no-deps --no-build-isolation -e .
	$(OLDEST)/bin/python -m pytest -q -p no:cacheprovider -m 'not slow and not browser and not postgres and not ray and not gpu and not alone' $(addprefix tests/,oat baselines $(addprefix studies/,study_file planning comparison results statistics storage tracking)) --ignore tests/studies/tracking/test_mlflow_servers.py

# the wheel with each extra in a clean environment
test-extras: venv
	.ci/extras

# the pages as a site, docs/_build/index.html; those of docs/reference/ are written from the code first
docs: venv
	$(BIN)/python -m docs.generate
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build

venv: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed; name one with `make PYTHON=python3.x`.' >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/pip install --quiet "uv==$$(sed -n 's/^uv==\([^ ;]*\).*/\1/p' requirements.lock)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q oat baselines studies benchmarks
	@touch $@

# universal: any platform and Python that pyproject.toml allows; hashes, no addresses
lock: venv
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make lock" --quiet -o requirements.lock

clean:
	rm -rf .venv .venv-oldest build dist docs/_build *.egg-info
