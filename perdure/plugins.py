"""Methods, measures and base families: each is one file, in this package, in an installed one, or anywhere.

A file is called by its name, in the package's folder or declared as an entry point by an installed package; or by its
path, `./mine/o_lora.py`. It is found and looked at (`Source.tree`) without being run; what is used is run (`load`).

A model's record names the files that it was made with, and a model may come from anywhere: a file that belongs to no
package is run on a record's word only where a plan of this user has named the same content, or `perdure trust` has.
"""

import ast
import hashlib
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module, util
from importlib.abc import SourceLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from perdure.errors import PerdureError, PlanError, did_you_mean

HERE = Path(__file__).parent
SUFFIX = ".py"


@dataclass(frozen=True)
class Kind:
    """What a file adds. `folder`: of the package's own; `group`: of entry points."""

    what: str
    folder: str
    group: str


METHOD = Kind("method", "methods", "perdure.methods")
MEASURE = Kind("measure", "score/measures", "perdure.measures")
FAMILY = Kind("base family", "bases/families", "perdure.bases")


@dataclass(frozen=True)
class Source:
    """A file that adds something. `module`: by which it is imported; empty for a file that belongs to no package."""

    kind: Kind
    name: str
    path: Path
    module: str = ""

    @property
    def own(self) -> bool:
        """Whether it is one of this package."""
        return self.path.is_relative_to(HERE / self.kind.folder)

    @property
    def content(self) -> bytes:
        """The file as it stands. Raises PlanError."""
        if not self.path.is_file():
            raise PlanError(f"{self.kind.what} {self.name!r} is the file {self.path}, which is not there; put it there")
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise PlanError(f"{self.path}: cannot be read ({error.strerror})") from None

    @property
    def digest(self) -> str:
        """16 hex digits of its content, whatever its line endings. Raises PlanError."""
        return _digest(self.content)

    @property
    def tree(self) -> ast.Module:
        """What is written in it. Raises PlanError naming the line where it is no Python."""
        try:
            return ast.parse(self.content)
        except SyntaxError as error:
            raise self.wrong(error.lineno or 1, f"{error.msg}; it is no valid Python") from None
        except (ValueError, RecursionError) as error:
            raise self.wrong(1, f"{error}; it is no valid Python") from None

    def constant(self, name: str, default: int | str) -> int | str:
        """What a line `NAME = value` of it says, of the default's type. Raises PlanError where it is something else."""
        for node in self.tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                value = node.value if isinstance(node, ast.Assign) else None
                if isinstance(value, ast.Constant) and type(value.value) is type(default):
                    return default.__class__(value.value)
                told = "a number" if isinstance(default, int) else "a text"
                raise self.wrong(node.lineno, f"write {name} out as {told}, such as {name} = {default!r}")
        return default

    def wrong(self, line: int, what: str) -> PlanError:
        """The error that tells of a mistake in it."""
        return PlanError(f"{self.path}:{line}: {what}")


def own(kind: Kind) -> tuple[str, ...]:
    """Names of the package's own, sorted: the files in the folder."""
    return tuple(sorted(p.stem for p in (HERE / kind.folder).glob(f"*{SUFFIX}") if not p.stem.startswith("_")))


def names(kind: Kind) -> tuple[str, ...]:
    """Names of all that need no path: the package's own, and those that installed packages declare."""
    mine = own(kind)
    return (*mine, *sorted({entry.name for entry in entry_points(group=kind.group)} - set(mine)))


def is_path(called: str) -> bool:
    """Whether something is called by its file, not by its name."""
    return called.endswith(SUFFIX)


def stem(called: str) -> str:
    """The name of what is called by a name or a path."""
    return Path(called).stem if is_path(called) else called


def find(kind: Kind, called: str, file: Path | None = None) -> Source:
    """The file of a name, or of a path (given as `called`, or beside its name). Raises PlanError."""
    if file is not None or is_path(called):
        return _loose(kind, Path(called) if file is None else file)
    if called in own(kind):
        module = ".".join(("perdure", *kind.folder.split("/"), called))
        return Source(kind, called, HERE / kind.folder / f"{called}{SUFFIX}", module)
    declared = [entry for entry in entry_points(group=kind.group) if entry.name == called]
    if not declared:
        near = did_you_mean(called, names(kind))
        raise PlanError(f"no {kind.what} {called!r}{near} (a new one is a file: give its path, such as ./mine/new.py)")
    if len({entry.value for entry in declared}) > 1:
        packages = " and ".join(sorted({_package(entry) for entry in declared}))
        raise PlanError(f"{packages} both declare a {kind.what} {called!r}; give the path of the file that is meant")
    return _installed(kind, declared[0])


def load(source: Source, digest: str = "") -> ModuleType:
    """The file, run; once a process. Raises PlanError, naming the line, where that fails.

    `digest`: what its content must be, as a model's record or a plan says; nothing of another one is run, and nothing
    that this user does not trust.
    """
    if source.own:
        return import_module(source.module)
    content = source.content
    if digest and _digest(content) != digest:
        raise PlanError(
            f"{source.kind.what} {source.name!r}: {source.path} has changed since it was used here "
            f"(digest {_digest(content)}, it was {digest}); put it back as it was"
        )
    if digest and not source.module and not _mark(content).is_file():
        raise PlanError(
            f"{source.kind.what} {source.name!r} is the file {source.path}, which is not run because only the model "
            f"names it; read it, and if you trust its code: perdure trust {source.path}"
        )
    with Running(source.path):
        return import_module(source.module) if source.module else _run(source, content)


def trust(source: Source) -> None:
    """From now on this content may be run on a record's word, by this user. Raises PlanError."""
    mark = _mark(source.content)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise PlanError(f"{mark}: cannot be written ({error.strerror}); it is where trusted files are kept") from None


def _mark(content: bytes) -> Path:
    """The empty file that says that a content is trusted: named by its SHA-256, below the user's configuration."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "perdure" / "trusted"
    return folder / _sha256(content)


@dataclass(frozen=True)
class Running:
    """While a file of somebody else is run: what it raises is a PlanError that names the line in it."""

    path: Path

    def __enter__(self) -> None:
        """Nothing is prepared."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, PerdureError):
            return
        line, step = 1, error.__traceback__
        while step is not None:
            if step.tb_frame.f_code.co_filename == str(self.path):
                line = step.tb_lineno
            step = step.tb_next
        told = " ".join(str(error).split())[:300]
        raise PlanError(f"{self.path}:{line}: {type(error).__name__}: {told}") from error


class _Content(SourceLoader):
    """Python's own way to run a file, from the bytes that were looked at; writes no bytecode beside it."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    def get_filename(self, fullname: str) -> str:
        """Where it lies, for messages."""
        return str(self.path)

    def get_data(self, path: str | bytes) -> bytes:
        """What is in it."""
        return self.content


def _run(source: Source, content: bytes) -> ModuleType:
    name = f"perdure_outside.{source.name}_{_digest(content)}"
    if name not in sys.modules:
        spec = util.spec_from_loader(name, loader := _Content(source.path, content))
        assert spec is not None  # the loader has a file
        with ExitStack() as undo:
            sys.modules[name] = util.module_from_spec(spec)
            undo.callback(sys.modules.pop, name)
            loader.exec_module(sys.modules[name])
            undo.pop_all()
    return sys.modules[name]


def _digest(content: bytes) -> str:
    return _sha256(content)[:16]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def _loose(kind: Kind, path: Path) -> Source:
    if path.resolve().parent == HERE / kind.folder:
        return find(kind, path.stem)
    source = Source(kind, path.stem, path)
    if not path.stem.isidentifier():
        raise PlanError(f"{path}: a file's name is the {kind.what}'s name: letters, digits and underscores")
    if path.stem in own(kind):
        raise PlanError(f"{path}: {path.stem!r} is the name of a {kind.what} of perdure's own; rename the file")
    return source


def _installed(kind: Kind, entry: EntryPoint) -> Source:
    """An entry point's file, found without importing the packages above it. Raises PlanError."""
    parts, below, spec = entry.module.split("."), None, None
    for end in range(1, len(parts) + 1):
        found = (finder.find_spec(".".join(parts[:end]), below) for finder in sys.meta_path)
        spec = next((one for one in found if one is not None), None)
        below = spec.submodule_search_locations if spec else None
        if spec is None or (below is None and end < len(parts)):
            break
    if spec is None or not spec.origin or spec.name != entry.module:
        told = f"{kind.what} {entry.name!r} of package {_package(entry)} is module {entry.module}, which is not there"
        raise PlanError(f"{told}; install the package again")
    return Source(kind, entry.name, Path(spec.origin), entry.module)


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.module.partition(".")[0]
