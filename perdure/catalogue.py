"""What can be named in a plan, read from the files themselves: `ls methods/` is the catalogue of methods.

Files are parsed, not imported, so that checking a plan or printing the table needs no torch.
"""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from perdure.errors import PlanError, did_you_mean

_HERE = Path(__file__).parent
_AT_LEAST = {"rank": 1}
"""Least values of options that count something."""
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


@dataclass(frozen=True)
class Option:
    """One keyword of a method's METHOD function: its default, and what it may be (as written in the file)."""

    name: str
    default: Any
    type: str
    choices: tuple[Any, ...] | None

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        if self.choices is not None:
            return None if value in self.choices else f"is {value!r}; allowed: {', '.join(map(str, self.choices))}"
        allowed = tuple(t for part in self.type.split(" | ") for t in _TYPES.get(part, ()))
        if "None" in self.type.split(" | ") and value is None:
            return None
        if allowed and (not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)):
            return f"is {value!r}; it must be of type {self.type}"
        if self.name in _AT_LEAST and value < _AT_LEAST[self.name]:
            return f"is {value!r}; it must be at least {_AT_LEAST[self.name]}"
        return None


@dataclass(frozen=True)
class MethodCard:
    """A method as its file states it: first docstring line, source, the four choices, options."""

    name: str
    summary: str
    source: str
    adapter: str
    start: str
    guard: str
    consolidate: str
    options: tuple[Option, ...]


def methods() -> tuple[str, ...]:
    """Names of all methods: the files in `methods/`."""
    return _stems("methods")


def _stems(folder: str) -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in (_HERE / folder).glob("*.py") if not p.stem.startswith("_")))


def check(name: str, options: dict[str, Any]) -> None:
    """Raise ValueError, in one sentence, where a method or an option of it does not exist or cannot be."""
    if name not in methods():
        raise ValueError(f"no method {name!r}{did_you_mean(name, methods())} (a new one is a new file in methods/)")
    known = {option.name: option for option in card(name).options}
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"method {name!r} has no option {key!r}{did_you_mean(key, known)}")
        problem = known[key].problem(value)
        if problem:
            raise ValueError(f"option {key!r} of method {name!r} {problem}")


@cache
def card(name: str) -> MethodCard:
    """Read one method's file."""
    path = _HERE / "methods" / f"{name}.py"
    module = ast.parse(path.read_text(encoding="utf-8"))
    summary, _, rest = (ast.get_docstring(module) or "").partition("\n")
    factory = next((n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == "METHOD"), None)
    if factory is None:
        raise PlanError(f"{path} defines no function METHOD(...) -> Method")
    call = next(n for n in ast.walk(factory) if isinstance(n, ast.Call) and ast.unparse(n.func) == "Method")
    slots = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    arguments = zip(factory.args.args, factory.args.defaults, strict=True)
    return MethodCard(
        name=name,
        summary=summary.strip(),
        source=rest.strip().partition("\n\n")[0].replace("\n", " "),
        adapter=slots["adapter"],
        start=slots["start"],
        guard=slots["guard"],
        consolidate=slots["consolidate"],
        options=tuple(_option(argument, default) for argument, default in arguments),
    )


def _option(argument: ast.arg, default: ast.expr) -> Option:
    """An option from its annotation; `Literal[...]`, or a name that method.py gives to one, tells the choices."""
    annotation = _literals().get(ast.unparse(argument.annotation), argument.annotation) if argument.annotation else None
    choices: tuple[Any, ...] | None = None
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        inner = ast.literal_eval(annotation.slice)
        choices = inner if isinstance(inner, tuple) else (inner,)
    return Option(argument.arg, ast.literal_eval(default), ast.unparse(annotation) if annotation else "", choices)


@cache
def _literals() -> dict[str, ast.expr]:
    """Names of method.py that stand for types, such as `Targets`."""
    module = ast.parse((_HERE / "method.py").read_text(encoding="utf-8"))
    assigned = [node for node in module.body if isinstance(node, ast.Assign)]
    return {target.id: node.value for node in assigned for target in node.targets if isinstance(target, ast.Name)}
