"""What is wrong with a plan, one sentence each: file, line, key, what was got, what is allowed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from perdure.errors import LineageError, did_you_mean
from perdure.plan.concept import Concept
from perdure.plan.yaml_file import LineNumbers, line_of
from perdure.wording import mentions, squeeze

SHOWN = 200
"""Characters of a value that a message repeats."""
PHRASES = {
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "string_type": "must be text",
    "path_type": "must be a path",
    "too_short": "needs at least one entry",
    "string_pattern_mismatch": "may hold letters, digits, dashes and underscores only",
    "missing": "is required and missing",
}
"""Plain words for kinds of mistakes that pydantic names by Python's types."""


def sentences(
    error: ValidationError, root: type[BaseModel], where: str, lines: LineNumbers | None, single: bool = False
) -> list[str]:
    """All mistakes that one validation of the section `root` found; `single`: `method: NAME` was written for a list."""
    problems = error.errors()
    told = []
    for problem in problems:
        if not _follows(problem, problems):
            told += _sentences(problem, root, where, lines, single)
    return told


@contextmanager
def understood(path: Path, root: type[BaseModel]) -> Iterator[None]:
    """What was written into a model, read by this version's section `root`. Raises LineageError naming the file."""
    try:
        yield
    except ValidationError as error:
        told = "; ".join(sentences(error, root, str(path), None))
        raise LineageError(f"{told} (was it made by a later version of perdure?)") from None


def _follows(problem: Any, problems: list[Any]) -> bool:
    """Whether a mistake is the echo of another: a list short of its faulty items, a name that could not be made."""
    loc = problem["loc"]
    if problem["type"] == "too_short":
        return any(other["loc"][: len(loc)] == loc and len(other["loc"]) > len(loc) for other in problems)
    if problem["type"] == "missing" and loc[-1] == "name":
        return any(other["loc"][: len(loc)] == (*loc[:-1], "drawn") for other in problems)
    return False


def _sentences(problem: Any, root: type[BaseModel], where: str, lines: LineNumbers | None, single: bool) -> list[str]:
    loc = problem["loc"]
    if single and loc[:1] == ("methods",):
        loc = ("method", *loc[2:])
    line = line_of(lines, loc)
    place = f"{where}{f':{line}' if line else ''}: "
    key = f"{'.'.join(map(str, loc))}: " if loc else ""
    kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        message = f"no such key{did_you_mean(str(loc[-1]), _keys_at(root, loc[:-1]))}"
    elif kind != "value_error":
        message = PHRASES.get(kind, f"{message[0].lower()}{message[1:]}")
        message += "" if kind == "missing" else f" (got {_shown(problem['input'])})"
    return [f"{place}{key}{part}" for part in message.splitlines()]


def _shown(value: Any) -> str:
    """A value as it was written, or its beginning."""
    told = repr(value)
    return told if len(told) <= SHOWN else f"{told[:SHOWN]} ..."


def _keys_at(root: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """The keys that a plan allows at one place."""
    section = root
    for part in loc:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    keys = [field.alias or name for name, field in section.model_fields.items()]
    return [*keys, "method"] if "methods" in keys else keys


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in getattr(annotation, "__args__", ()) if (found := _section_in(arg))), None)


def doubles(what: str, names: list[str], new: bool) -> list[str]:
    """Names that occur twice, for each names a folder; `new`: those too that only some systems tell apart."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.lower() if new else name, []).append(name)
    doubles = [" and ".join(map(repr, dict.fromkeys(same))) for same in groups.values() if len(same) > 1]
    where = " (one folder on Windows and macOS)"
    return [f"two {what}s are called {n}{where if ' and ' in n else ''}; give each its own name" for n in doubles]


def clashes(concepts: tuple[Concept, ...]) -> list[str]:
    """Tokens that are, or are words of, another's token (or its phrase)."""
    problems = []
    tokens = [(c.name, squeeze((c.token or c.phrase).lower())) for c in concepts if not c.classes]
    for i, (name, token) in enumerate(tokens):
        for other, longer in tokens[:i] + tokens[i + 1 :]:
            if mentions(longer, token) and (token != longer or name < other):
                relation = "the same as" if token == longer else "a part of"
                problems.append(
                    f"concept {name!r}: its token {token!r} is {relation} {longer!r} of concept {other!r}; "
                    "tokens must not contain one another, or the concepts cannot be told apart"
                )
    return problems
