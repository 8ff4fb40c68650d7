"""Style and types, as configured in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("tool", ["ruff check", "mypy"])
def test_the_package_is_clean(tool):
    module, *words = tool.split()
    paths = ["perdure", "tests"] if module == "ruff" else []  # mypy's packages stand in its configuration
    told = subprocess.run([sys.executable, "-m", module, *words, *paths], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
