"""What every part of a plan is: frozen, its keys checked; and the kinds of values that its keys have."""

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from perdure import plugins
from perdure.errors import PlanError
from perdure.plugins import Kind, Source
from perdure.score.sources import HUB_ID
from perdure.wording import check_name, unwritable

NEW = {"new": True}
"""Validation context of what is new: what older models may have been made with is refused."""
TOYBOX, TOYFLOW = "toybox", "toyflow"
EMBEDDED = (TOYBOX, TOYFLOW)
"""The names of the embedded bases: of a UNet, and of a transformer in the same world."""
TOYBOX_VIT = "toybox-vit"
"""The name of the embedded base that classifies: the image tower of the embedded CLIP scorer."""


def _for_every_system(name: str, info: ValidationInfo) -> str:
    return check_name(name) if info.context is NEW else name


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64), AfterValidator(_for_every_system)]


def _paths(value: Any) -> Any:
    if not all(isinstance(path, str | Path) for path in (value if isinstance(value, list | tuple) else (value,))):
        raise ValueError(f"give a folder, or a list of files (got {value!r})")
    return value


def _somewhere(name: str, info: ValidationInfo) -> str:
    """A model's name; of a new plan, one that a path here or the hub can have."""
    embedded = (*EMBEDDED, TOYBOX_VIT)
    if info.context is not NEW or name in embedded or HUB_ID.fullmatch(name) or os.path.exists(name):
        return name
    folder, own = os.path.split(name)
    readable = os.path.isdir(folder) and os.access(folder, os.R_OK)
    known = list(embedded) if own == name else os.listdir(folder) if readable else []
    near = difflib.get_close_matches(own, known, n=1)
    hint = f"; did you mean {os.path.join(folder, near[0])!r}?" if near else ""
    raise ValueError(f"{name!r} is neither a path on this machine nor a hub id (owner/name){hint}")


MODELS = ("base", "vae", "transformer")
"""Keys of a plan that name models."""
Model = Annotated[str, AfterValidator(_somewhere)]
"""A model's name: a hub id, or a path on this machine."""
ClassName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$", max_length=64)]
"""The name of a class, which is that of its folder of pictures too."""
Beta = Annotated[float, Field(ge=0, lt=1)]
Files = Annotated[Path | tuple[Path, ...], BeforeValidator(_paths)]
"""A folder or a list of files."""


def _texts(value: Any) -> Iterator[str]:
    """All text in plain nested values."""
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, dict | list | tuple):
        for inner in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _texts(inner)


LARGEST = 2**63 - 1
"""The largest whole number of a plan, seeds included: the largest that tensors and generators take."""


class Section(BaseModel):
    """A frozen part of a plan; unknown keys are mistakes; docstrings under fields are their help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True, allow_inf_nan=False
    )
    QUIET: ClassVar[tuple[str, ...]] = ()
    """Keys that are written only where they say something; without them all is as it was before there were any."""

    @field_validator("*")
    @classmethod
    def _written(cls, value: Any) -> Any:
        """Text that files and tokenizers can hold, whole numbers that tensors can."""
        if isinstance(value, int) and value > LARGEST:
            raise ValueError(f"the largest whole number that a plan can hold is {LARGEST}")
        if (bad := next(filter(None, map(unwritable, _texts(value))), None)) is not None:
            raise ValueError(f"{bad!a} is a character that no file can hold; write the text without it")
        return value

    @model_serializer(mode="wrap")
    def _unless_quiet(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told: dict[str, Any] = handler(self)
        return {key: value for key, value in told.items() if value or key not in self.QUIET}


class Code(Section):
    """A file that is not perdure's own: where it lies, unless an installed package says so; its content's digest."""

    QUIET: ClassVar[tuple[str, ...]] = ("file", "digest")
    file: Path | None = None
    digest: str = Field(default="", pattern=r"^([0-9a-f]{16})?$")


OWN = Code()
"""Of what is perdure's own."""


def found(kind: Kind, called: str, code: Code, info: ValidationInfo) -> tuple[Source, Code] | None:
    """The file that a new plan calls by a name or a path, and what the plan keeps of it. ValueError where it cannot be.

    None for what a model that exists was made with, where that was not perdure's own: it may be gone by now.
    """
    if info.context is not NEW and code != OWN:
        return None
    try:
        source = plugins.find(kind, called, code.file)
        if source.own:
            return source, OWN
        digest = source.digest
    except PlanError as error:
        raise ValueError(str(error)) from None
    if code.digest not in ("", digest):
        raise ValueError(f"{source.path} is another file than that of this plan (digest {digest}, not {code.digest})")
    return source, Code(file=None if source.module else source.path, digest=digest)
