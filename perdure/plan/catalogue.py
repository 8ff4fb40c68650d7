"""What can be named in a plan, read from the files themselves: `ls methods/` is the catalogue of methods.

Files are parsed, not imported, so that checking a plan or printing the table needs no torch.
"""

import ast
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from perdure.errors import PlanError, did_you_mean

_HERE = Path(__file__).parent.parent
_KEPT = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}
_WORDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


@dataclass(frozen=True)
class Option:
    """One keyword of a method's METHOD function: its default, and what it may be (as written in the file).

    bounds: of a number, as pydantic calls them: ge, gt, le, lt.
    """

    name: str
    default: Any
    type: str
    choices: tuple[Any, ...] | None
    bounds: Mapping[str, float]

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        if self.choices is not None:
            return None if value in self.choices else f"is {value!r}; allowed: {', '.join(map(str, self.choices))}"
        allowed = tuple(t for part in self.type.split(" | ") for t in _TYPES.get(part, ()))
        if "None" in self.type.split(" | ") and value is None:
            return None
        if allowed and (not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed)):
            return f"is {value!r}; it must be of type {self.type}"
        return None

    def outside(self, value: Any) -> str | None:
        """What is wrong with a number that is not among those that make sense, or None."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if not math.isfinite(value):
            return f"is {value!r}; it must be a finite number"
        if all(_KEPT[bound](value, limit) for bound, limit in self.bounds.items()):
            return None
        allowed = " and ".join(f"{_WORDS[bound]} {limit:g}" for bound, limit in self.bounds.items())
        return f"is {value!r}; it must be {allowed}"

    @property
    def interval(self) -> str:
        """The numbers that make sense, such as (0, 1]; empty where any does."""
        ends = {bound: f"{limit:g}" for bound, limit in self.bounds.items()}
        if not ends:
            return ""
        low = f"[{ends['ge']}" if "ge" in ends else f"({ends.get('gt', '-inf')}"
        return f"{low}, {ends['le']}]" if "le" in ends else f"{low}, {ends.get('lt', 'inf')})"


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
    words: int
    """Vectors that it learns in the place of each concept's token; 0 where it learns no word."""
    drops_noun: bool | tuple[str, Any]
    """Whether prompts lose the class noun behind a learnt word; (option, value): where the option has that value."""

    def drops(self, options: Mapping[str, Any]) -> bool:
        """Whether prompts lose the class noun behind a learnt word, with some options given."""
        if isinstance(self.drops_noun, bool):
            return self.drops_noun
        name, value = self.drops_noun
        return bool({**{option.name: option.default for option in self.options}, **options}[name] == value)


def methods() -> tuple[str, ...]:
    """Names of all methods: the files in `methods/`."""
    return _stems("methods")


def _stems(folder: str) -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in (_HERE / folder).glob("*.py") if not p.stem.startswith("_")))


def check(name: str, options: dict[str, Any], within: bool = False) -> None:
    """Raise ValueError, in one sentence, where a method or an option of it does not exist or cannot be.

    `within`: also where a number is outside its range, which older models may have been made with.
    """
    if name not in methods():
        raise ValueError(f"no method {name!r}{did_you_mean(name, methods())} (a new one is a new file in methods/)")
    known = {option.name: option for option in card(name).options}
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"method {name!r} has no option {key!r}{did_you_mean(key, known)}")
        problem = known[key].problem(value) or (within and known[key].outside(value))
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
        **_words(factory),
    )


def _words(factory: ast.FunctionDef) -> dict[str, Any]:
    """How many starts the method's `WordSpec(inits, drop_noun=...)` names, and when nouns are dropped."""
    spec = next((n for n in ast.walk(factory) if isinstance(n, ast.Call) and ast.unparse(n.func) == "WordSpec"), None)
    if spec is None:
        return {"words": 0, "drops_noun": False}
    inits = spec.args[0] if spec.args else None
    dropping = next((keyword.value for keyword in spec.keywords if keyword.arg == "drop_noun"), ast.Constant(False))
    if isinstance(dropping, ast.Compare):  # noun == "drop"
        drops: Any = (ast.unparse(dropping.left), ast.literal_eval(dropping.comparators[0]))
    else:
        drops = ast.literal_eval(dropping)
    return {"words": len(inits.elts) if isinstance(inits, ast.Tuple) else 1, "drops_noun": drops}


def _option(argument: ast.arg, default: ast.expr) -> Option:
    """An option from its annotation, or from what a name of method.py or ranges.py stands for.

    `Literal[...]` tells the choices; `Annotated[float, Field(gt=0, le=1)]` the type and the range; `| None` may follow.
    """
    name, none, _ = (ast.unparse(argument.annotation) if argument.annotation else "").partition(" | None")
    annotation = _types().get(name) or (ast.parse(name, mode="eval").body if name else None)
    choices: tuple[Any, ...] | None = None
    bounds: dict[str, float] = {}
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        inner = ast.literal_eval(annotation.slice)
        choices = inner if isinstance(inner, tuple) else (inner,)
    elif isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        assert isinstance(annotation.slice, ast.Tuple)
        annotation, field = annotation.slice.elts
        assert isinstance(field, ast.Call)
        bounds = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in field.keywords}
    kind = (ast.unparse(annotation) if annotation else "") + none
    return Option(argument.arg, ast.literal_eval(default), kind, choices, bounds)


@cache
def _types() -> dict[str, ast.expr]:
    """Names of method.py and ranges.py that stand for types, such as `Targets` and `Fraction`."""
    bodies = [ast.parse((_HERE / file).read_text(encoding="utf-8")).body for file in ("method.py", "plan/ranges.py")]
    assigned = [node for body in bodies for node in body if isinstance(node, ast.Assign)]
    return {target.id: node.value for node in assigned for target in node.targets if isinstance(target, ast.Name)}
