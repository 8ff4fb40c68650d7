"""How many rooms a checkout's package has and what ties them: `python -m tests.rooms [FOLDER]` (this one by default).

A room is a folder or a file directly in `perdure/`; an arrow says that one imports the other, inside functions too; a
circle is a set of rooms, or of files, that import one another in a ring.
"""

import ast
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

Graph = Mapping[str, set[str]]


def files(root: Path) -> Graph:
    """Module -> the modules of the package that it imports."""
    paths = {".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p
             for p in sorted((root / "perdure").rglob("*.py"))}  # fmt: skip
    return {name: set(_imported(path, paths)) - {name} for name, path in paths.items()}


def _imported(path: Path, known: Collection[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            each = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in each]
        yield from (name for name in names if name in known)


def rooms(graph: Graph) -> Graph:
    """Room -> the rooms that it imports; the package's own `__init__` is none."""
    found: dict[str, set[str]] = {}
    for name, imported in graph.items():
        if name != "perdure":
            own = name.split(".")[1]
            found.setdefault(own, set()).update({n.split(".")[1] for n in imported - {"perdure"}} - {own})
    return found


def circles(graph: Graph) -> list[set[str]]:
    """Sets of two or more that all reach one another."""
    reached = {start: _reached(graph, start) for start in graph}
    found = {frozenset(b for b in reached[a] if a in reached[b]) for a in graph}
    return [set(each) for each in found if len(each) > 1]


def _reached(graph: Graph, start: str) -> set[str]:
    seen, left = {start}, [start]
    while left:
        new = graph[left.pop()] - seen
        seen |= new
        left += new
    return seen


def told(root: Path) -> str:
    """The figures in a line."""
    graph = files(root)
    houses = rooms(graph)
    counts = [(len(g), sum(map(len, g.values())), len(circles(g))) for g in (houses, graph)]
    return "; ".join(f"{n} {what}, {ties} arrows, {rings} circles"
                     for (n, ties, rings), what in zip(counts, ("rooms", "files"), strict=True))  # fmt: skip


if __name__ == "__main__":
    print(told(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent))
