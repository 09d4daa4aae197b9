# make demo: train, look, score, in three to five minutes. make test: the ordinary tests. make setup: the set-up alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
FUZZ := .venv-fuzz
PEERS := .venv-peers
READY := $(VENV)/.ready

.PHONY: setup demo test test-kill soak fuzz lint types check bench gpu peers scale samplers simplifications agreement objectives weights pictures studio guidance anomalies classify estimators gamma inference editing codec targets figures course course-test course-long docs clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("nelbo needs Python 3.11 or later; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

demo: setup
	@set -e; \
	run=$$($(BIN)/nelbo train ddpm --data digits --minutes 2); \
	picture=$$($(BIN)/nelbo sample $$run -n 64 --real); \
	$(BIN)/nelbo score $$run; \
	echo; \
	echo "Look at $$picture: real digits on the left, drawn ones on the right."; \
	echo "Then try, after '. $(BIN)/activate':"; \
	echo "  nelbo sample $$run -n 16 --out denoising.gif     watch them appear"; \
	echo "  nelbo train ddpm --data digits --minutes 5 --resume --out $$run     train on"; \
	echo "  nelbo train ddpm --data mnist                    28×28 digits, 10 minutes"; \
	echo "  nelbo train ddpm --data FOLDER                   your own images"

# The files of tests are shared out between two processes.
test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-kill: setup
	NELBO_KILLS=100 $(BIN)/python -m pytest tests/machine/test_machine_kill.py tests/machine/test_machine_processes.py -s

# 20 minutes of training, killed every 30 seconds.
soak: setup
	$(BIN)/python tests/soak/soak.py

fuzz: $(FUZZ)/.ready
	$(FUZZ)/bin/python tests/fuzz/fuzz.py

# atheris beside nelbo, in an environment of its own.
$(FUZZ)/.ready: pyproject.toml constraints.txt
	test -x $(FUZZ)/bin/python || $(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable . atheris==3.0.0
	@touch $@

# The course's notebooks, in build/course.
course: setup
	$(BIN)/python docs/course/notebooks.py

# Tests of all chapters; the ordinary ones leave out the longest two.
course-test: setup
	NELBO_COURSE_ALL=1 $(BIN)/python -m pytest tests/course

# Chapter 16 on MNIST, about ten minutes.
course-long: setup
	NELBO_COURSE_LONG=1 $(BIN)/python docs/course/16-mnist.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

check: lint types test

# Ten minutes on a machine with a GPU: correctness first, then speed, into bench/GPU.md.
gpu: $(BENCH)/.ready
	NELBO_TEST_DEVICE=cuda $(BENCH)/bin/python -m pytest tests/device
	$(BENCH)/bin/python bench/run.py gpu

bench: $(BENCH)/.ready
	$(BENCH)/bin/python bench/run.py results

# diffusers beside nelbo, in an environment of its own.
$(BENCH)/.ready: pyproject.toml constraints.txt
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,hub]' diffusers pillow-jxl-plugin==1.3.8
	@touch $@

# Environment of "bench/run.py peers": other diffusion libraries, one of them without torchvision, which it can do without.
peers: $(PEERS)/.ready
	$(PEERS)/bin/python bench/run.py peers --help

$(PEERS)/.ready: pyproject.toml constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,hub]' diffusers accelerate einops==0.8.1
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps denoising-diffusion-pytorch==2.2.5 ema-pytorch==0.7.7
	@touch $@

# The site, in build/site. The course is run; what has not changed since is read from build/notebooks.
docs: setup
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m sphinx -q -W --keep-going -j auto -b html docs build/site
	@echo "Open build/site/index.html; its search needs: $(BIN)/python -m http.server --directory build/site"

# The pictures of the studio for docs, from its tests.
studio: setup
	NELBO_STUDIO_PICTURES=$(CURDIR)/docs/images $(BIN)/python -m pytest tests/studio

# Every study whose page is not of the present code, one after the other. Hours; run it again after an interruption.
figures: setup
	$(BIN)/python bench/figures.py

# Studies without arguments; each writes its page of docs/.
scale simplifications targets anomalies classify gamma objectives weights pictures guidance inference: setup
	$(BIN)/python bench/run.py $@

agreement: setup
	$(BIN)/python bench/run.py forms

# A run of "make targets".
runs/target-vdm-labels: | setup
	$(BIN)/nelbo train vdm --data mnist --labels --minutes 10 --out $@

samplers: setup | runs/target-vdm-labels
	for steps in 1 2 4; do \
		test -d runs/vdm-$$steps || $(BIN)/nelbo distill runs/target-vdm-labels --steps $$steps --out runs/vdm-$$steps; \
	done
	$(BIN)/python bench/run.py samplers runs/target-vdm-labels --students runs/vdm-1 runs/vdm-2 runs/vdm-4

estimators: setup | runs/target-vdm-labels
	$(BIN)/python bench/run.py estimators runs/target-vdm-labels

# With a run of digits of four minutes for the table of imputation, and that of photographs if it is there.
editing: setup | runs/target-vdm-labels
	test -d runs/digits-vdm || $(BIN)/nelbo train vdm --data digits --minutes 4 --out runs/digits-vdm
	$(BIN)/python bench/run.py editing runs/digits-vdm runs/target-vdm-labels $(wildcard runs/target-cifar10-jpeg)

# With JPEG XL, in the environment of the benchmarks. Trains the runs that are missing.
codec: $(BENCH)/.ready
	$(BENCH)/bin/python bench/run.py codec

clean:
	rm -rf $(VENV) $(BENCH) $(FUZZ) $(PEERS) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
