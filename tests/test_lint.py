"""Style and types, as configured in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import rooms, touched

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


def test_rooms_and_what_ties_them_are_counted(tmp_path):
    """Three rooms, one a folder; low and high import each other, once inside a function; errors only stands below."""
    given = {
        "__init__.py": "", "errors.py": "", "low.py": "def f():\n    from perdure.high import top\n",
        "high/__init__.py": "", "high/top.py": "from perdure import low\nfrom perdure.errors import E\nimport json\n",
    }  # fmt: skip
    for name, text in given.items():
        (tmp_path / "perdure" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "perdure" / name).write_text(text)
    assert rooms.told(tmp_path) == "3 rooms, 3 arrows, 1 circles; 5 files, 3 arrows, 1 circles"
    assert "0 circles; " in rooms.told(ROOT) and rooms.told(ROOT).endswith(", 0 circles")
