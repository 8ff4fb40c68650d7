"""What methods there are and what can be said of each in a plan, read from their files.

Files are parsed, not imported, so that checking a plan or printing the table needs no torch.
"""

import ast
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from perdure import plugins
from perdure.errors import PlanError, did_you_mean
from perdure.plugins import Source

SLOTS = ("adapter", "start", "guard", "consolidate")
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
    file: str = ""
    """Where it lies; empty for one of perdure's own."""
    needs: str = ""
    """What it cannot do without, as its file's `NEEDS = "prompts"` or `NEEDS = "classes"` says."""

    @property
    def trains(self) -> bool:
        """Whether it has weights to train: its adapter is another one than `frozen()`."""
        return not self.adapter.startswith("frozen(")

    def drops(self, options: Mapping[str, Any]) -> bool:
        """Whether prompts lose the class noun behind a learnt word, with some options given."""
        if isinstance(self.drops_noun, bool):
            return self.drops_noun
        name, value = self.drops_noun
        return bool({**{option.name: option.default for option in self.options}, **options}[name] == value)


def methods() -> tuple[str, ...]:
    """Names of all methods that need no path: the files in `methods/`, and those of installed packages."""
    return plugins.names(plugins.METHOD)


def check(name: str, options: dict[str, Any], within: bool = False, file: Path | None = None) -> None:
    """Raise PlanError, in one sentence, where a method or an option of it does not exist or cannot be.

    `within`: also where a number is outside its range, which older models may have been made with.
    """
    known = {option.name: option for option in card(name, file).options}
    for key, value in options.items():
        if key not in known:
            raise PlanError(f"method {name!r} has no option {key!r}{did_you_mean(key, known)}")
        problem = known[key].problem(value) or (within and known[key].outside(value))
        if problem:
            raise PlanError(f"option {key!r} of method {name!r} {problem}")


def card(name: str, file: Path | None = None) -> MethodCard:
    """Read one method's file, by its name or its path. Raises PlanError naming the line of what is wrong in it."""
    source = plugins.find(plugins.METHOD, name, file)
    return _read(source, source.digest)


@cache
def _read(source: Source, digest: str) -> MethodCard:
    module = source.tree
    summary, _, rest = (ast.get_docstring(module) or "").partition("\n")
    factory = next((n for n in module.body if isinstance(n, ast.FunctionDef) and n.name == "METHOD"), None)
    if factory is None:
        raise source.wrong(1, "it defines no function METHOD(...) -> Method")
    slots = _slots(source, factory)
    return MethodCard(
        name=source.name,
        summary=summary.strip(),
        source=rest.strip().partition("\n\n")[0].replace("\n", " "),
        adapter=slots["adapter"],
        start=slots["start"],
        guard=slots["guard"],
        consolidate=slots["consolidate"],
        options=tuple(_options(source, factory, {**_types(), **_assigned(module)})),
        file="" if source.own else str(source.path),
        needs=_needs(source),
        **_words(source, factory),
    )


def _needs(source: Source) -> str:
    needs = str(source.constant("NEEDS", ""))
    if needs not in ("", "prompts", "classes"):
        raise source.wrong(1, f"NEEDS is {needs!r}; a method may need 'prompts' or 'classes'")
    return needs


def _slots(source: Source, factory: ast.FunctionDef) -> dict[str, str]:
    """The four choices, as they are written."""
    calls = [n for n in ast.walk(factory) if isinstance(n, ast.Call) and ast.unparse(n.func).endswith("Method")]
    slots = {keyword.arg: ast.unparse(keyword.value) for keyword in calls[0].keywords} if calls else {}
    if lacking := [slot for slot in SLOTS if slot not in slots]:
        written = f"Method({', '.join(f'{slot}=...' for slot in SLOTS)})"
        line = calls[0].lineno if calls else factory.lineno
        raise source.wrong(
            line, f"METHOD says no {', '.join(lacking)}; it writes its four choices out: return {written}"
        )
    return {slot: slots[slot] for slot in SLOTS}


def _words(source: Source, factory: ast.FunctionDef) -> dict[str, Any]:
    """How many starts the method's `WordSpec(inits, drop_noun=...)` names, and when nouns are dropped."""
    spec = next((n for n in ast.walk(factory) if isinstance(n, ast.Call) and ast.unparse(n.func) == "WordSpec"), None)
    if spec is None:
        return {"words": 0, "drops_noun": False}
    inits = spec.args[0] if spec.args else None
    dropping = next((keyword.value for keyword in spec.keywords if keyword.arg == "drop_noun"), ast.Constant(False))
    try:
        if isinstance(dropping, ast.Compare):  # noun == "drop"
            drops: Any = (ast.unparse(dropping.left), ast.literal_eval(dropping.comparators[0]))
        else:
            drops = ast.literal_eval(dropping)
    except ValueError:
        raise source.wrong(dropping.lineno, "write drop_noun as True, False, or OPTION == VALUE") from None
    return {"words": len(inits.elts) if isinstance(inits, ast.Tuple) else 1, "drops_noun": drops}


def _options(source: Source, factory: ast.FunctionDef, types: Mapping[str, ast.expr]) -> Iterator[Option]:
    """The keywords of METHOD, each with a default and a type. Raises PlanError naming the line of another one."""
    given = factory.args
    if given.kwonlyargs or given.posonlyargs or given.vararg or given.kwarg:
        raise source.wrong(factory.lineno, "METHOD takes plain options only, without `*`, `/` or `**`")
    for argument in given.args[: len(given.args) - len(given.defaults)]:
        raise source.wrong(argument.lineno, f"option {argument.arg!r} has no default; every option has one")
    for argument, default in zip(given.args, given.defaults, strict=True):
        where = f"option {argument.arg!r}"
        try:
            value = ast.literal_eval(default)
        except (ValueError, TypeError):
            told = f"the default of {where} is {ast.unparse(default)!r}; write its value out"
            raise source.wrong(default.lineno, told) from None
        option = _option(argument, value, types)
        if option is None or not isinstance(value, int | float | bool | str | None):
            written = ast.unparse(argument.annotation) if argument.annotation else f"not told (default {value!r})"
            told = f"the type of {where} is {written}; it may be int, float, bool, str, Literal[...], one of"
            raise source.wrong(argument.lineno, f"{told} perdure.plan.ranges, or `... | None`")
        if problem := option.problem(value) or option.outside(value):
            raise source.wrong(default.lineno, f"the default of {where} {problem}")
        yield option


def _option(argument: ast.arg, default: Any, types: Mapping[str, ast.expr]) -> Option | None:
    """An option from its annotation, or from what a name stands for; None for a type that no option has.

    `Literal[...]` tells the choices; `Annotated[float, Field(gt=0, le=1)]` the type and the range; `| None` may follow.
    """
    name, none, _ = (ast.unparse(argument.annotation) if argument.annotation else "").partition(" | None")
    annotation = types.get(name) or (ast.parse(name, mode="eval").body if name else None)
    bounds: dict[str, float] = {}
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        try:
            inner = ast.literal_eval(annotation.slice)
        except (ValueError, TypeError):
            return None
        choices = inner if isinstance(inner, tuple) else (inner,)
        return Option(argument.arg, default, f"{ast.unparse(annotation)}{none}", choices, bounds)
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        annotation, bounds = _annotated(annotation)
    kind = ast.unparse(annotation) if annotation else ""
    return Option(argument.arg, default, kind + none, None, bounds) if kind in _TYPES else None


def _annotated(annotation: ast.Subscript) -> tuple[ast.expr | None, dict[str, float]]:
    """The type and the bounds of `Annotated[type, Field(...)]`; no type where it is written otherwise."""
    if isinstance(annotation.slice, ast.Tuple) and len(annotation.slice.elts) == 2:
        kind, field = annotation.slice.elts
        known = isinstance(field, ast.Call) and all(k.arg in _KEPT for k in field.keywords)
        if known and isinstance(field, ast.Call) and all(isinstance(k.value, ast.Constant) for k in field.keywords):
            return kind, {str(k.arg): ast.literal_eval(k.value) for k in field.keywords}
    return None, {}


@cache
def _types() -> dict[str, ast.expr]:
    """Names of method.py and ranges.py that stand for types, such as `Targets` and `Fraction`."""
    files = ("method.py", "plan/ranges.py")
    found = [_assigned(ast.parse((plugins.HERE / file).read_text(encoding="utf-8"))) for file in files]
    return {name: value for each in found for name, value in each.items()}


def _assigned(module: ast.Module) -> dict[str, ast.expr]:
    """What a file's own names stand for."""
    assigned = [node for node in module.body if isinstance(node, ast.Assign)]
    return {target.id: node.value for node in assigned for target in node.targets if isinstance(target, ast.Name)}
