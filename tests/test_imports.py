"""The shape of the package, read from its source: who may import whom, what is never used, how long things are."""

import ast
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


CLOSED = {f"perdure.{name}" for name in ("method", "memory", "delta", "errors", "plan", "ranges", "wording")}


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith(("perdure.methods", "perdure.parts"))])
def test_methods_and_parts_see_only_method_memory_and_torch(module):
    allowed = {name for name in MODULES if name in CLOSED or name.startswith("perdure.parts")}
    assert own(module) <= allowed
    assert tops(module) - {"perdure"} <= {"torch", "math", "collections", "dataclasses", "functools", "typing"}


LIBRARIES = {
    "diffusers": ("perdure.backbones", "perdure.toybox.pretrain"),
    "peft": ("perdure.backbones",),
    "accelerate": ("perdure.backbones", "perdure.trackers"),
    "transformers": ("perdure.backbones", "perdure.toybox.pretrain", "perdure.score"),
    "typer": ("perdure.cli", "perdure.toybox.pretrain.cli"),
    "rich": (
        "perdure.screen",
        "perdure.progress",
        "perdure.toybox.pretrain",
        "perdure.compare.terminal",
        "perdure.advise.terminal",
        "perdure.sweep.view",
    ),
    "scipy": ("perdure.compare",),
    "ray": ("perdure.sweep.on_ray",),
    "submitit": ("perdure.sweep.on_slurm",),
}
"""Which rooms may import a library."""


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_stay_in_their_rooms(library):
    users = {module for module in MODULES if library in tops(module)}
    assert {user for user in users if not user.startswith(LIBRARIES[library])} == set()


LAYERS = [
    ["errors", "seeds", "share", "wording", "files", "delta", "yaml_file", "catalogue", "images", "matrix", "mistakes"]
    + ["folders", "captions", "ranges", "toybox", "score", "locks", "tensors"],
    ["fields", "sections", "choice", "sources", "records", "memory", "progress", "rows", "datasets"],
    ["plan", "method", "parts", "methods", "pictures", "workload"],
    ["agreement", "soundness", "lineage", "backbones", "examples", "report", "calibration", "analysis", "sharing"],
    ["sample", "lesson", "train", "evaluate", "drift", "trackers"],
    ["run", "pace", "spread", "drawing", "doctor", "fsck", "screen", "pages", "compare", "advise", "sweep", "export"],
    ["cli", "__main__"],
]
"""From the bottom up; within a layer imports may go anywhere that makes no circle."""


def test_imports_point_down():
    level = {f"perdure.{room}": number for number, layer in enumerate(LAYERS) for room in layer}
    wrong = []
    for module in MODULES:
        room = ".".join(module.split(".")[:2])
        if room == "perdure":
            continue
        assert room in level, f"{room} has no layer: give it one in this file"
        for target in own(module):
            other = ".".join(target.split(".")[:2])
            if other != "perdure" and level[other] > level[room]:
                wrong.append(f"{module} -> {target}")
    assert wrong == []


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
    starts = ("plan", "lineage", "screen", "catalogue", "report", "compare")
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


def test_the_loader_of_yaml_is_a_safe_one():
    from yaml import SafeLoader

    from perdure import yaml_file

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
"""Files over 250 lines, and what they may reach."""

LONG_FUNCTIONS: dict[str, int] = {}
"""Functions over 40 lines, and what they may reach."""


def lines_of(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def test_files_are_short():
    long = {str(p.relative_to(ROOT)): lines_of(p) for p in FILES if lines_of(p) > 250}
    assert {name: n for name, n in long.items() if n > LONG_FILES.get(name, 250)} == {}
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
