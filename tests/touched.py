"""The tests of what was changed: `python -m tests.touched` prints their files, for `make check`.

A changed test is one of them. A changed module has those that are named after it or, if there are none, after its room,
then its room's room; where no test bears such a name, those that import it.
"""

import ast
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
ALWAYS = "tests/test_imports.py"
"""The shape of the package, which any change may spoil."""


def changed() -> list[str]:
    """Files that differ from where the branch left main (on main: from the last commit), and new ones."""
    base = _git("merge-base", "HEAD", "main") or ["HEAD"]
    return [*_git("diff", "--name-only", base[0]), *_git("ls-files", "--others", "--exclude-standard")]


def _git(*words: str) -> list[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


def tests_of(paths: Iterable[str]) -> list[str]:
    """The files of tests of some changed files, all named from the project's root."""
    found = {ALWAYS}
    for path in map(Path, paths):
        if path.parts[0] == "tests" and path.name.startswith("test_") and (ROOT / path).is_file():
            found.add(path.as_posix())
        elif path.parts[0] == "perdure" and path.suffix == ".py":
            found |= _named(path) or _importing(path)
    return sorted(found)


def _files() -> list[Path]:
    return sorted((ROOT / "tests").rglob("test_*.py"))


def _named(path: Path) -> set[str]:
    """Tests called after a module, else after the nearest room around it."""
    for name in (path.stem, *reversed(path.parts[1:-1])):
        if found := {test.relative_to(ROOT).as_posix() for test in _files() if test.stem == f"test_{name}"}:
            return found
    return set()


def _importing(path: Path) -> set[str]:
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    return {test.relative_to(ROOT).as_posix() for test in _files() if module in _imports(test)}


@cache
def _imports(test: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(test.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


if __name__ == "__main__":
    print(*tests_of(changed()))
