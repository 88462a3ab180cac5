# Each target makes what it needs: an environment of its own in .venv, from any Python >= 3.10.
#   make demo PYTHON=python3.12     another interpreter
#   make demo TORCH=torch           your own choice of torch, for example a build for your GPU
#   make test TESTS=tests/engine    some of the tests
#   make test PINS=/dev/null        the newest release of everything but torch, which then has to be named

PYTHON ?= python3
TORCH ?=
OUT ?= demo
N ?= 1000
SEED ?= 0
ROUNDS ?= 50
PINS ?= constraints.txt
TESTS ?=
DEV ?= dev
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PIN := $(shell sed -n 's/^torch==/torch==/p' $(PINS))
CPU_INDEX := https://download.pytorch.org/whl/cpu
CONSTRAINTS := $(if $(TORCH),$(VENV)/constraints.txt,$(PINS))

export NO_MKDOCS_2_WARNING ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-ray test-torchao test-servers load-serve fuzz kills oldest check docs dist clean

help:  ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 16

demo: $(VENV)/.installed  ## install, and make the same videos with and without caching, by two methods: results in demo/
	$(BIN)/bwcache compare --out $(OUT)/paper --overwrite
	$(BIN)/bwcache compare --grade near --out $(OUT)/near --overwrite

# One worker per core, one thread each: torch processes on few cores must not spin against each other.
test: $(VENV)/.installed-dev  ## install, and run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(TESTS)

test-servers:  ## the plugins' tests with the sglang or vllm-omni of an environment of yours: make test-servers PYTHON=…
	BWCACHE_SERVERS=1 PYTHONPATH=src $(PYTHON) -m pytest -W default tests/servers

fuzz: $(VENV)/.installed-dev  ## play N random scenarios, and make those that fail small: make fuzz N=10000
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -W ignore -m tests.fuzz --n $(N) --seed $(SEED)

kills: $(VENV)/.installed-dev  ## kill workers of generate in ROUNDS folders of videos; goes on with kills.jsonl
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.fleet.kill --rounds $(ROUNDS)

check: $(VENV)/.installed-dev  ## lint, format, types, spelling, documentation
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy tests
	$(BIN)/python -m codespell_lib
	$(BIN)/python -m mkdocs build --strict --quiet

# Of the tests, those that ask for little which old releases do not have: what needs more is skipped, and says so. What old
# releases warn of each other is no fault.
OLDEST := $(addprefix tests/,core features policies shapes engine measure report cli test_extras.py) \
  --ignore tests/engine/test_discovery.py -W default
oldest:  ## the tests that hold on the oldest torch and diffusers that are claimed, in an environment of its own
	$(MAKE) test VENV=.venv-oldest PINS=constraints-oldest.txt DEV=all,test TESTS="$(OLDEST)"

# A cluster on this machine. Ray is large, and no part of the other tests' environment.
test-ray:  ## the tests that start a Ray cluster, in an environment of its own
	$(MAKE) test VENV=.venv-ray DEV=test,ray TESTS="-m ray tests/ray tests/test_examples.py -n 0"

# What the command writes to stderr is tested, and torchao writes there when it is imported.
test-torchao:  ## the tests beside torchao's weights of 8 bits, in an environment of its own
	$(MAKE) test VENV=.venv-torchao DEV=test,torchao TESTS=tests/beside/test_quantized.py

load-serve: $(VENV)/.installed-dev  ## 200 requests at a server on this machine, some of them cancelled: prints JSON
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.load_serve

dist: $(VENV)/.installed-dev  ## the wheel and the source distribution, in dist/
	rm -rf dist
	$(BIN)/python -m build

docs: $(VENV)/.installed-dev  ## the documentation, served at http://127.0.0.1:8000
	$(BIN)/python -m mkdocs serve

clean:  ## remove everything that was made, the environment too
	rm -rf .venv .venv-oldest .venv-ray .venv-torchao demo site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made again only when what it is made of changes. torch comes first and alone: a bare
# requirement would let pip take a build with gigabytes of CUDA on a machine that cannot use it.
$(VENV)/.installed: pyproject.toml $(PINS:/dev/null=)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "found $$($(PYTHON) --version 2>&1); expected Python 3.10 or newer; name another with PYTHON="; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "found no venv in $(PYTHON); expected Python with venv; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "installing into $(VENV): some minutes the first time"
	@$(if $(TORCH),sed '/^torch==/d' $(PINS) > $(CONSTRAINTS))
	@$(install-torch)
	@$(PIP) install -qq --constraint $(CONSTRAINTS) --editable '.[all]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing what tests and documentation need"
	@$(PIP) install -qq --constraint $(CONSTRAINTS) --editable '.[$(DEV)]'
	@touch $@

# The CPU build has a name of its own ("+cpu"); it is on torch's index and on some mirrors of the package index.
define install-torch
if [ -n "$(TORCH)" ]; then $(PIP) install -qq --constraint $(CONSTRAINTS) $(TORCH); \
elif [ "$$(uname -s)" != Linux ] || command -v nvidia-smi > /dev/null; then \
  $(PIP) install -qq --constraint $(CONSTRAINTS) $(PIN); \
else \
  $(PIP) install -qq --constraint $(CONSTRAINTS) $(PIN)+cpu 2> /dev/null || \
  $(PIP) install -qq --constraint $(CONSTRAINTS) --retries 1 --extra-index-url $(CPU_INDEX) $(PIN)+cpu || \
  { echo "found no CPU build of $(PIN) for $(PYTHON); taking the package index's own, which may be large" && \
    $(PIP) install -qq --constraint $(CONSTRAINTS) $(PIN); }; \
fi
endef
