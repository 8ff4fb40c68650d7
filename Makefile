# Two commands on a bare machine with python3 and its venv module: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
export OMP_NUM_THREADS ?= 2

.PHONY: demo test clean

demo: $(VENV)/.installed
	$(VENV)/bin/perdure demo

test: $(VENV)/.tested
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
