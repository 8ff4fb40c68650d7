"""What the JSON files of a model must hold; keys of later versions are no damage, names that become paths are names."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from perdure import files
from perdure.errors import LineageError
from perdure.plan.concept import Kind
from perdure.plan.fields import Name

_adapter = cache(TypeAdapter)
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Pack = Annotated[str, Field(pattern=r"^[0-9a-f]{32}\.safetensors$")]
Place = Annotated[tuple[str, Pack], Field(strict=False)]  # a tensor's digest and pack; strictly, JSON has no tuples
Numbers = list[float | None]
ANALYSIS_FILE, ANALYSIS_FORMAT = "analysis.json", 1


class Record(BaseModel):
    """A JSON object with some keys that must be there."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())


class _Labelled(Record):
    label: str


class _Method(_Labelled):
    name: str
    options: dict[str, Any]


class _Training(Record):
    steps: int
    resolution: int = Field(gt=0)
    buckets: int | None = Field(None, gt=0)


class _Measures(Record):
    subject: list[str]
    style: list[str]
    models: dict[str, str | None] = {}


class _Settings(Record):
    base: str
    vae: str | None = None
    transformer: str | None = None
    seed: int
    methods: list[_Method] = Field(min_length=1)
    scoring: _Measures
    training: _Training
    sampling: dict[str, Any]


class Model(Record):
    """lineage.json."""

    name: Name
    settings: _Settings
    base_identity: str
    versions: dict[str, str] = {}


class _Taught(Record):
    name: Name
    kind: Kind = "subject"
    noun: str = Field("", alias="class")
    prompt: str = ""
    classes: list[str] = []


class Concept(Record):
    """concepts/<name>/concept.json; `concept`: as in the plan, `described`: without its paths."""

    concept: _Taught
    described: dict[str, Any]
    digest: str
    held_out: bool


class _Seconds(Record):
    train: float
    evaluate: float


class _Bytes(Record):
    carried: int
    stored: int


class _Cost(Record):
    measure: str
    before: float
    after: float
    low: float | None
    high: float | None
    pictures: int


class _Removal(Record):
    concepts: list[Name] = Field(min_length=1, max_length=1)
    lesson: int
    how: Literal["taken out", "learnt again", "put back"]


class _Refusal(Record):
    gate: float
    told: list[str]


class Lesson(Record):
    """lessons/<number>-<name>/lesson.json; `memory`: its digest, `carries`: bytes by name.

    `training`: its own settings; `removed`: a concept, its lesson, how, measure -> likeness by the base, before, after;
    `fusing`: `seconds` of consolidating, bytes of `memory` and `device_memory`; `shared`: cells and an adapter taken
    over, and how many of all `seconds` this spared.
    """

    concepts: list[Name]
    removed: _Removal | None = None
    training: dict[str, Any] = {}
    cost: dict[Name, _Cost] = {}
    refusal: _Refusal | None = None
    brought: dict[str, Any] = {}
    method: _Labelled
    memory: str
    steps: int
    fingerprint: str = ""
    device: str = ""
    precision: str = ""
    peak_memory: float | None = None
    seconds: _Seconds
    bytes: _Bytes
    fusing: dict[str, float] = {}
    knows: str = ""
    strict: bool = True
    carries: dict[str, int] = {}
    revision: int = 1
    shared: dict[str, list[str] | str | float] = {}


class Step(Record):
    """A line of train.jsonl; `parts`: what the loss is the sum of."""

    step: int
    loss: float
    rate: float
    seconds: float
    parts: dict[str, float] = {}


class Memory(Record):
    """memory.json; `tensors`: name -> [digest, pack]."""

    digest: str
    tensors: dict[str, Place]
    facts: dict[str, Any]


class _Drawn(Record):
    file: FileName
    prompt: str
    latent: int


class _Measured(Record):
    direction: Literal["higher", "lower"]
    spec: dict[str, Any] = {}


class _Confusion(Record):
    share: float
    taken_for: dict[Name, int]
    real: float | None


class _Copying(Record):
    nearest: float
    real: float | None


class _Outside(Record):
    share: float
    how: dict[str, int]


class _Alike(Record):
    among: float
    best: float


class Drift(Record):
    """drift/drift.json; of the base's row, only what was drawn."""

    prompts: list[str]
    content: str = ""
    likeness: float | None = None
    pixels: float | None = None


class Cell(Record):
    """cells/<concept>/cell.json; `each`: measure -> score of every picture alone; `drawn`: how the machine was used.

    `shift`: measure -> distance from what was drawn right after the own lesson. `counts`, of a classifier: class ->
    what its test pictures were taken for -> how many; `images` are mistakes then.
    """

    concept: Name
    scores: dict[str, float]
    images: list[_Drawn]
    measures: dict[str, _Measured]
    ceiling: dict[str, float | None] = {}
    each: dict[str, list[float]] = {}
    confusion: _Confusion | None = None
    copying: _Copying | None = None
    shift: dict[str, float] = {}
    drawn: dict[str, Any] = {}
    counts: dict[str, dict[str, int]] = {}
    outside: _Outside | None = None
    alike: dict[str, _Alike | None] = {}
    content: str = ""
    shared: dict[str, float] = {}
    budget: dict[str, str | float | None] = {}

    @model_validator(mode="after")
    def _measured(self) -> "Cell":
        if unknown := sorted(self.scores.keys() - self.measures.keys()):
            raise ValueError(f"measures say nothing of the score {unknown[0]!r}")
        return self


class _Regions(Record):
    measure: str
    crop: dict[Name, float]
    least: float
    right: float
    chance: float
    confusion: dict[Name, _Confusion]
    whole: dict[Name, float]
    miscounted: float | None = None


class Scene(Record):
    """scenes/<set>/scene.json; `boxes`: concept -> x0, y0, x1, y1 in fractions, `scores`: of prompts."""

    concepts: list[Name]
    how: str
    boxes: dict[Name, list[float]]
    scores: dict[str, float]
    regions: _Regions | None = None
    images: list[_Drawn]


class _Part(Record):
    weights: int
    norms: Numbers
    moved: Numbers
    pairs: dict[str, list[Numbers]]


class Analysis(Record):
    """analysis.json; all lists have the lessons' length."""

    lessons: list[str]
    memories: list[str]
    apart: bool
    parts: dict[str, _Part]
    chance: dict[str, float | None]
    selection: dict[str, dict[str, float]]


def read(path: Path, shape: type[Record], format: int | None = None) -> dict[str, Any]:
    """A JSON file of a known shape (and `format`), as it is. Raises LineageError: the file, the key, what is wrong."""
    value = files.read_json(path)
    found = value.get("format") if isinstance(value, dict) else format
    if format is not None and found != format:
        raise LineageError(f"{path} has format {found!r}; this version of perdure reads format {format}")
    return dict(checked(value, shape, path))


def checked(value: Any, shape: Any, path: Path) -> Any:
    """A value that a file holds, as it is, if it has the shape. Raises LineageError naming the file."""
    made(value, shape, path)
    return value


def made(value: Any, shape: Any, path: Path) -> Any:
    """A value that a file holds, as the shape makes it: a dataclass, say. Raises LineageError naming the file."""
    try:
        return _adapter(shape).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "it"
        told = first["msg"].removeprefix("Value error, ")
        raise LineageError(f"{path} is damaged: {key}: {told[0].lower()}{told[1:]}") from None
