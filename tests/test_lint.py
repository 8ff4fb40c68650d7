"""Style and types, as configured in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import touched

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("tool", ["ruff check", "mypy"])
def test_the_package_is_clean(tool):
    module, *words = tool.split()
    paths = ["perdure", "tests"] if module == "ruff" else []  # mypy's packages stand in its configuration
    told = subprocess.run([sys.executable, "-m", module, *words, *paths], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr


def test_what_is_touched_has_its_tests():
    """Those of a module's name, else of its room's, else those that import it; a changed test itself."""
    shape, docs = "tests/test_imports.py", "tests/test_docs.py"
    assert touched.tests_of(["perdure/parts/neurons.py", "README.md"]) == [shape, "tests/test_neurons.py"]
    assert touched.tests_of(["perdure/plan/sections.py", docs]) == [docs, shape, "tests/test_plan.py"]
    assert {shape, "tests/test_methods_contract.py"} < set(touched.tests_of(["perdure/method.py"]))
