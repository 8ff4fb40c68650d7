"""YAML as people write it: `1e-4` is a number, duplicate keys are mistakes, every key knows its line."""

import re
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from perdure.errors import PlanError

LineNumbers = dict[tuple[str | int, ...], int]
LENGTH = 1_000_000
"""Characters of a file at most."""
NODES = 10_000
"""Values in it at most, each alias counted as all that it stands for; a plan of 50 concepts has about 1,000."""
DEPTH = 50
"""How deep they may stand inside one another."""
DIGITS = 100
"""Of a number; Python takes its time with longer ones, or refuses them."""
PLAIN = {"null": "null", "bool": "boolean", "int": "integer", "float": "number", "str": "text", "seq": "list",
         "map": "mapping"}  # fmt: skip
"""The kinds of values that YAML and JSON share, by the ends of their tags."""


class _Loader(yaml.SafeLoader):
    """Safe loader of plain values within bounds: YAML 1.2 floats (1.1 reads 1e-4 as text), and dates are text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0
        self._sizes: dict[int, int] = {}
        """Values inside each node that is read to its end."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A value with all that it holds. Raises MarkedYAMLError beyond the bounds."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        alias, before = isinstance(event, yaml.AliasEvent), self._nodes
        self._depth += 1
        node = super().compose_node(parent, index) if self._depth <= DEPTH else None
        self._depth -= 1
        if node is None:
            raise _refused(f"more than {DEPTH} values inside one another", event)
        if alias and id(node) not in self._sizes:
            raise _refused(f"*{event.anchor} stands inside what it stands for", event)
        self._nodes += self._sizes[id(node)] if alias else 1
        if self._nodes > NODES:
            raise _refused(f"more than {NODES:,} values", event)
        self._sizes.setdefault(id(node), self._nodes - before)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node. Raises MarkedYAMLError where it is none of its kind, such as `!!int ""`."""
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind not in (*PLAIN, "merge", "value"):
            raise _refused(f"!{kind[:DIGITS]} is no plain value; write text, numbers, lists and mappings", node)
        if kind in ("int", "float") and len(node.value) > DIGITS:
            raise _refused(f"a number of {len(node.value):,} characters; at most {DIGITS} are read", node)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError):
            raise _refused(f"{node.value[:DIGITS]!r} is no {PLAIN[kind]}", node) from None


def _refused(problem: str, at: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)
# The resolver above also matches plain integers; they must stay integers.
_Loader.yaml_implicit_resolvers = {
    first: sorted((r for r in resolvers if r[0][-9:] != "timestamp"), key=lambda r: r[0].endswith(":float"))
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Safe dumper that quotes whatever the loader above would not read as text."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def read(path: Path) -> tuple[dict[str, Any], LineNumbers]:
    """The mapping in a YAML (or JSON) file and the line of each of its keys. Raises PlanError."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LENGTH + 1)
    except OSError as error:
        raise PlanError(f"cannot read the plan {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PlanError(f"cannot read the plan {path}: it is not a text file") from None
    return parse(text, str(path))


def kept(path: Path) -> dict[str, Any]:
    """The plan that is kept beside a model, for people; empty where it is no plain file or cannot be read."""
    try:
        return read(path)[0] if path.is_file() else {}  # a pipe would be waited for
    except PlanError:
        return {}


def parse(text: str, where: str) -> tuple[dict[str, Any], LineNumbers]:
    """As `read`, from text."""
    lines: LineNumbers = {}
    problems: list[str] = []
    try:
        data = _loaded(text, lambda node: _walk(node, (), lines, problems, where))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        raise PlanError(f"{place}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(data, dict):
        raise PlanError(f"{where}: a plan is a mapping of keys to values, such as `base: toybox`")
    if problems:
        raise PlanError(problems)
    return data, lines


def _loaded(text: str, look: Callable[[yaml.Node | None], None] = lambda node: None) -> Any:
    """The value of a text, which is one document; `look` is shown its nodes as they are written. Raises YAMLError."""
    if len(text) > LENGTH:
        raise yaml.MarkedYAMLError(problem=f"it has more than {LENGTH:,} characters")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        look(node)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _walk(
    node: yaml.Node | None, at: tuple[str | int, ...], lines: LineNumbers, problems: list[str], where: str
) -> None:
    """Note the line of every key; a key given twice is a mistake (YAML would silently keep the last)."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, str(key.value))  # of a key that is a list, its nodes; constructing refuses it
            if here in lines:
                problems.append(f"{where}:{key.start_mark.line + 1}: {'.'.join(map(str, here))}: given twice")
            lines[here] = key.start_mark.line + 1
            _walk(value, here, lines, problems, where)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*at, index)] = value.start_mark.line + 1
            _walk(value, (*at, index), lines, problems, where)


def line_of(lines: LineNumbers | None, loc: tuple[str | int, ...]) -> int | None:
    """Line of a key, or of the nearest enclosing one that stands in the file."""
    for end in range(len(loc), 0, -1):
        if lines and loc[:end] in lines:
            return lines[loc[:end]]
    return None


def override(data: dict[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """Apply `a.b=value` strings; values are read as YAML, list positions count from 0."""
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise PlanError(f"--set {text!r}: write KEY=VALUE, for example training.steps=200")
        try:
            read = _loaded(value)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", error)
            raise PlanError(f"--set {text!r}: the value is not valid YAML: {problem}") from None
        data = put(data, key, read, f"--set {text!r}")
    return data


def put(data: dict[str, Any], key: str, value: Any, where: str) -> dict[str, Any]:
    """`data` with another value under a dotted key; list positions count from 0. Raises PlanError."""
    path = key.split(".")
    if len(path) > DEPTH:
        raise PlanError(f"{where}: no plan has a key of {len(path):,} parts")
    changed: dict[str, Any] = _with(data, path, value, where)
    return changed


def _with(data: Any, path: list[str], value: Any, text: str) -> Any:
    head, rest = path[0], path[1:]
    if isinstance(data, list):
        if not head.isdigit() or int(head) >= len(data):
            raise PlanError(f"{text}: {head!r} is not a position in a list of {len(data)} (from 0)")
        return [
            _with(v, rest, value, text) if rest and i == int(head) else value if i == int(head) else v
            for i, v in enumerate(data)
        ]
    if data is not None and not isinstance(data, dict):
        raise PlanError(f"{text}: {head!r} lies below a plain value")
    data = dict(data or {})
    data[head] = _with(data.get(head), rest, value, text) if rest else value
    return data


def merge(under: Any, over: Any) -> Any:
    """Mappings merged key by key, anything else replaced; neither argument is changed."""
    if isinstance(under, dict) and isinstance(over, dict):
        return {**under, **{key: merge(under.get(key), value) for key, value in over.items()}}
    return over


def read_packaged(name: str) -> dict[str, Any]:
    """A YAML file that ships inside the package; the caller's to change."""
    return deepcopy(_packaged(name))


@cache
def _packaged(name: str) -> dict[str, Any]:
    """The same, parsed once a process: every plan begins from one."""
    return parse(resources.files("perdure").joinpath(name).read_text(encoding="utf-8"), name)[0]


def dump(data: dict[str, Any]) -> str:
    """YAML text in the order of the keys."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
