"""The shape of the package, read from its source: who may import whom, what is never used, how long things are."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "perdure"
FILES = sorted(ROOT.rglob("*.py"))


def name_of(path):
    """perdure/parts/start.py -> perdure.parts.start"""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def typing_only(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def statements(node, inside_functions):
    """Every statement below a node; blocks for type checkers left out, functions if asked for."""
    for child in ast.iter_child_nodes(node):
        if typing_only(child) or (
            not inside_functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        ):
            continue
        yield child
        yield from statements(child, inside_functions)


@cache
def imports(module, lazy=True):
    """Modules that a module imports, by full name; `lazy`: also inside functions."""
    path, found = MODULES[module], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in statements(tree(path), lazy):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(
                [
                    *package.split(".")[: len(package.split(".")) - node.level + 1],
                    *([node.module] if node.module else []),
                ]
            )
            source = base if node.level else node.module
            found |= {f"{source}.{a.name}" if f"{source}.{a.name}" in MODULES else source for a in node.names}
    return frozenset(found)


def own(module, **how):
    return {name for name in imports(module, **how) if name.split(".")[0] == "perdure"}


def tops(module):
    return {name.split(".")[0] for name in imports(module)}


# --- layers --------------------------------------------------------------------------------------------------------


OPEN_TO_METHODS = ("method", "memory", "memory.delta", "errors", "plan", "plan.ranges", "wording")
CLOSED = {f"perdure.{name}" for name in OPEN_TO_METHODS}


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith(("perdure.methods", "perdure.parts"))])
def test_methods_and_parts_see_only_method_memory_and_torch(module):
    allowed = {name for name in MODULES if name in CLOSED or name.startswith("perdure.parts")}
    assert own(module) <= allowed
    assert tops(module) - {"perdure"} <= {"torch", "math", "collections", "dataclasses", "functools", "typing"}


LIBRARIES = {
    "diffusers": ("perdure.bases", "perdure.toybox.pretrain"),
    "peft": ("perdure.bases",),
    "accelerate": ("perdure.bases", "perdure.run.trackers"),
    "transformers": ("perdure.bases", "perdure.toybox.pretrain", "perdure.score"),
    "typer": ("perdure.cli", "perdure.toybox.pretrain.cli"),
    "rich": (
        "perdure.cli.fitting",
        "perdure.cli.screen",
        "perdure.progress",
        "perdure.toybox.pretrain",
        "perdure.compare.tables",
        "perdure.advise.page",
        "perdure.sweep.view",
    ),
    "scipy": ("perdure.compare", "perdure.score", "perdure.drawing.enough"),
    "sklearn": ("perdure.datasets.digits",),
    "ray": ("perdure.sweep.on_ray",),
    "submitit": ("perdure.sweep.on_slurm",),
}
"""Which rooms may import a library."""


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_stay_in_their_rooms(library):
    users = {module for module in MODULES if library in tops(module)}
    assert {user for user in users if not user.startswith(LIBRARIES[library])} == set()


LAYERS = [
    ["errors", "seeds", "progress", "wording"],
    ["files", "images", "plugins"],
    ["toybox"],
    ["score"],
    ["plan"],
    ["records"],
    ["photos", "memory", "datasets"],
    ["method"],
    ["parts", "lineage"],
    ["methods"],
    ["bases", "analysis"],
    ["drawing", "report"],
    ["lesson", "compare"],
    ["run"],
    ["advise", "sweep", "export"],
    ["cli"],
    ["__main__"],
]
"""From the bottom up: a room imports from the layers below its own, and from itself; docs/architecture.md draws it."""


def room_of(module):
    return module.split(".")[1] if "." in module else ""


def test_imports_point_down():
    level = {room: number for number, layer in enumerate(LAYERS) for room in layer}
    assert {room_of(module) for module in MODULES} - {""} <= set(level), "a room has no layer: give it one in this file"
    wrong = [
        f"{module} -> {target}"
        for module in MODULES
        for target in own(module)
        if room_of(module) and room_of(target) and room_of(module) != room_of(target)
        and level[room_of(target)] >= level[room_of(module)]
    ]  # fmt: skip
    assert wrong == []


def test_the_house_is_drawn_as_it_is():
    """The table of docs/architecture.md has every room in its layer."""
    text = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| \S", text, flags=re.MULTILINE)
    assert rows == [(str(number), room) for number, layer in enumerate(LAYERS, 1) for room in layer]


def test_no_circle_hides_behind_type_checking():
    """Only what must start without libraries names types of this package for the type checker alone."""
    hidden = {
        f"{module} -> {ast.unparse(node)}"
        for module, path in MODULES.items()
        for block in filter(typing_only, ast.walk(tree(path)))
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("perdure")
    }
    light = ("perdure.cli", "perdure.score ->")
    assert {line for line in hidden if not line.startswith(light)} == set()


def test_there_are_no_circles():
    """Also not through imports inside functions: `method.get` finds the files in methods/ by name, not by import."""
    graph = {module: {n for n in own(module) if n != module} for module in MODULES}
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            path.append(module)
            for target in sorted(graph.get(module, ())):
                visit(target)
            path.pop()
            done.add(module)

    for module in sorted(graph):
        visit(module)


def test_reading_plans_and_lineages_needs_no_torch():
    heavy = {"torch", "diffusers", "transformers", "peft", "accelerate", "safetensors"}
    starts = ("plan", "lineage", "cli.screen", "plan.catalogue", "report", "compare")
    for start in (f"perdure.{room}" for room in starts):
        seen, left = set(), [start]
        while left:
            module = left.pop()
            seen.add(module)
            loaded = imports(module, lazy=False) if module in MODULES else set()
            assert not {name.split(".")[0] for name in loaded} & heavy, f"{start} -> {module}"
            left += [name for name in loaded if name in MODULES and name not in seen]


# --- what is never used --------------------------------------------------------------------------------------------


def calls(path):
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


def test_no_pickle_and_no_code_from_data():
    for module, path in MODULES.items():
        assert not tops(module) & {"cPickle", "dill", "joblib", "shelve", "marshal"}, module
        used = {ast.unparse(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
        assert {name for name in used if name.startswith("pickle.")} <= {"pickle.UnpicklingError"}, module
        for call in calls(path):
            name, options = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert name not in ("eval", "exec", "torch.save", "yaml.unsafe_load", "yaml.full_load"), (
                f"{path}:{call.lineno}"
            )
            assert name != "torch.load" or options.get("weights_only") == "True", f"{path}:{call.lineno}"
            assert name not in ("np.load", "np.save") or options.get("allow_pickle") == "False", f"{path}:{call.lineno}"
            assert name != "yaml.load" or options.get("Loader") == "_Loader", f"{path}:{call.lineno}"
            assert "trust_remote_code" not in options, f"{path}:{call.lineno}"


def test_the_wrong_formulas_name_code_that_is_there():
    """`python -m tests.wrong` puts each of them in by hand; it takes too long to be run here."""
    from tests.wrong import WRONG

    assert [one.what for one in WRONG if (ROOT / one.file).read_text(encoding="utf-8").count(one.right) != 1] == []


def test_the_loader_of_yaml_is_a_safe_one():
    from yaml import SafeLoader

    from perdure.plan import yaml_file

    assert issubclass(yaml_file._Loader, SafeLoader)


def test_errors_are_caught_by_name():
    broad = []
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            ):
                broad.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert len(broad) == 1 and broad[0].startswith("cli/__init__.py:")


def test_nothing_asks_whether_it_has_an_attribute():
    assert [str(p) for p in FILES for call in calls(p) if ast.unparse(call.func) == "hasattr"] == []


# --- sizes ---------------------------------------------------------------------------------------------------------


LONG_FILES: dict[str, int] = {}
"""Files over 300 lines, and what they may reach."""

LONG_FUNCTIONS: dict[str, int] = {}
"""Functions over 40 lines, and what they may reach."""


def lines_of(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def test_files_are_short():
    long = {str(p.relative_to(ROOT)): lines_of(p) for p in FILES if lines_of(p) > 300}
    assert {name: n for name, n in long.items() if n > LONG_FILES.get(name, 300)} == {}
    assert set(LONG_FILES) <= set(long), "an exception that is no longer needed"


def test_functions_are_short():
    long = {}
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 40:
                long[f"{path.relative_to(ROOT)}:{node.name}"] = node.end_lineno - node.lineno + 1
    assert {name: n for name, n in long.items() if n > LONG_FUNCTIONS.get(name, 40)} == {}
    assert set(LONG_FUNCTIONS) <= set(long), "an exception that is no longer needed"


def test_methods_are_shorter_still():
    assert max(lines_of(path) for path in (ROOT / "methods").glob("*.py")) < 120


def test_public_things_say_what_they_are():
    """A docstring for every module, and every public function and class."""
    bare = []
    for path in FILES:
        nodes = [tree(path), *(n for n in tree(path).body if isinstance(n, ast.FunctionDef | ast.ClassDef))]
        for node in nodes:
            name = getattr(node, "name", "module")
            if not name.startswith("_") and not ast.get_docstring(node):
                bare.append(f"{path.relative_to(ROOT)}:{name}")
    assert bare == []
