# Commands on a bare machine with python3 and its venv module: `make demo`, `make test`, and `make check` while working.
PYTHON ?= python3
VENV := .venv

# Processes that test side by side, each with one thread.
WORKERS ?= 2
TESTING := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE

.PHONY: demo test check mutants clean

demo: $(VENV)/.installed
	$(VENV)/bin/perdure demo

test: $(VENV)/.tested
	$(TESTING) $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: $(VENV)/.tested
	$(VENV)/bin/ruff check perdure tests
	$(VENV)/bin/mypy
	$(TESTING) $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m 'not slow' $$($(VENV)/bin/python -m tests.touched)

# Hours of work, in the background, never in CI: does a test notice where the code is wrong? Goes on where it was stopped.
# `.venv/bin/mutmut results` lists what no test has noticed so far.
mutants: $(VENV)/.tested
	$(VENV)/bin/pip install --quiet -c constraints.txt -e '.[mutants]'
	OMP_NUM_THREADS=1 nohup nice -n 15 sh -c '$(VENV)/bin/python -m tests.wrong; $(VENV)/bin/mutmut run --max-children 1' \
		> mutants.log 2>&1 &
	@echo 'running in the background; see mutants.log'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
