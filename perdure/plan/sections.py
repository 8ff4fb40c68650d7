"""The sections of a plan: each a frozen part with checked keys; docstrings under fields are their help."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from perdure import plugins, score
from perdure.errors import PlanError
from perdure.plan.fields import NEW, OWN, Code, Model, Name, Section, found
from perdure.plan.performance import Decoding, Precision
from perdure.plugins import Source

How = Literal["plain", "attention", "noise"]
"""How regions are drawn."""
Fraction = Annotated[float, Field(ge=0, le=1)]
MOST = 16
"""Regions of a scene at most: the noise is predicted once more for each."""


class Prompts(Section):
    """Evaluation prompts; `{concept}` is the concept's phrase."""

    subject: tuple[str, ...] = Field(min_length=1)
    style: tuple[str, ...] = Field(min_length=1)

    @field_validator("subject", "style")
    @classmethod
    def _mentions_concept(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        missing = [p for p in prompts if "{concept}" not in p]
        if missing:
            raise ValueError(f"prompt {missing[0]!r} does not contain {{concept}}")
        return prompts


class Scenes(Section):
    """Pictures of several subjects side by side, drawn after each lesson that all of a set are taught by."""

    sets: dict[Name, tuple[Name, ...]] = Field(default_factory=dict)
    """Name -> the subjects shown together; by default neighbours: each with the one that was taught after it."""
    pairs: int | None = Field(None, ge=1)
    """How many pairs of neighbours, from the first on; all by default."""
    prompts: tuple[str, ...] = Field(("a photo of {concepts} on the beach", "a photo of {concepts}"), min_length=1)
    """`{concepts}` stands for all of a set, and in the prompt of a region for its own."""
    how: How | tuple[How, ...] = "attention"
    """`attention`: regions in cross-attention; `noise`: the base is asked for each region; `plain`: by prompt only. Of
    several, each is drawn.
    """
    detector: Model | None = None
    """OWLv2 (hub id or local folder) that finds the things in `plain` pictures; without one their equal columns are
    taken for the concepts.
    """
    base: Fraction = 0.0
    """Weight of the whole picture's prompt inside regions."""
    feather: int = Field(0, ge=0, le=64)
    """Cells over which a region fades at its borders."""
    until: float = Field(1.0, gt=0, le=1)
    """Part of the steps, from the first on, that have regions."""
    images_per_prompt: int = Field(4, ge=1, le=100_000)

    @field_validator("prompts")
    @classmethod
    def _mentions_concepts(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        if missing := [p for p in prompts if "{concepts}" not in p]:
            raise ValueError(f"prompt {missing[0]!r} does not contain {{concepts}}")
        return prompts

    @property
    def hows(self) -> dict[str, How]:
        """What is added to the name of a set -> how it is drawn."""
        return {"": self.how} if isinstance(self.how, str) else {f"-{how}": how for how in self.how}

    @field_validator("how")
    @classmethod
    def _each_once(cls, how: How | tuple[How, ...]) -> How | tuple[How, ...]:
        if not isinstance(how, str) and not 0 < len(set(how)) == len(how):
            raise ValueError(f"{list(how)}: give one or several of plain, attention, noise, each once")
        return how

    @field_validator("sets")
    @classmethod
    def _several(cls, sets: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, concepts in sets.items():
            if not 2 <= len(set(concepts)) == len(concepts) <= MOST:
                raise ValueError(f"set {name!r} is {list(concepts)}; give 2 to {MOST} different concepts")
        return sets


class Budget(Section):
    """When a cell has pictures enough: once the mean of its first measure is known to a half-width."""

    half_width: float = Field(0.02, gt=0)
    """In units of the measure."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Of the interval, however often it is looked at."""
    first: int = Field(4, ge=2)
    """Images a prompt before the first look; then twice as many, and so on, up to `images_per_prompt`."""


class Sampling(Section):
    """How evaluation images are made after each lesson: fixed prompts, fixed latents."""

    prompts: Prompts
    images_per_prompt: int = Field(8, ge=1, le=100_000)
    steps: int = Field(50, ge=1)
    guidance: float = Field(5.0, ge=0)
    negative_prompt: str | None = None
    """What to guide away from; none: as the base's own pipeline does (SDXL: zeros, not the empty prompt)."""
    guidance_until: float = Field(1.0, gt=0, le=1)
    """Part of the steps, from the first on, that are guided; the rest are not, which saves half of each."""
    scheduler: Literal["default", "ddim", "euler", "dpm++", "unipc"] = "default"
    precision: Precision = "training"
    """In which pictures are drawn; in another than that of training with a second copy of the network."""
    decoding: Decoding = "fp32"
    """In which latents are made pictures."""
    resolution: int | None = Field(None, ge=16, le=16384, multiple_of=8)
    """Side in pixels; the training resolution by default."""
    batch_size: int = Field(8, ge=1)
    seed: int = Field(42, ge=0)
    unseen: bool = False
    """Also sample concepts not yet taught (forward transfer needs them)."""
    rows: Literal["all", "ends"] = "all"
    """`ends`: after a lesson only what it taught is drawn, and after the last lesson everything: the average stays what
    it is, and forgetting is told from the own lesson's score, not from the best one since.
    """
    budget: Budget | None = None
    """Draw a cell only until its mean is known well enough; all `images_per_prompt` by default."""
    scenes: Scenes | None = None
    """Pictures of several concepts, for bases of UNets; none by default."""

    @model_validator(mode="after")
    def _drawn_before(self) -> "Sampling":
        if self.unseen and self.rows == "ends":
            raise ValueError(
                "unseen draws concepts before they are taught, which rows: ends leaves out; give rows: all"
            )
        return self


class Scoring(Section):
    """Which measures are taken, by name or by the path of a file, and from which models."""

    QUIET: ClassVar[tuple[str, ...]] = ("code",)
    code: dict[str, Code] = Field(default_factory=dict)
    """Of measures that are not perdure's own: filled in by itself."""
    subject: tuple[str, ...] = Field(default=("clip_i", "dino"), min_length=1)
    style: tuple[str, ...] = Field(default=("csd", "dino"), min_length=1)
    drift: int = Field(default=8, ge=0, le=160)
    """Pictures of prompts that mention no concept, drawn after each lesson and compared with the base's; 0: none."""
    models: dict[str, Model] = Field(default_factory=dict)
    """Measure -> hub id or local folder, instead of the published model."""

    @field_validator("subject", "style", "models", mode="after")
    @classmethod
    def _known(cls, names: Any, info: ValidationInfo) -> Any:
        own: dict[str, Code] = info.data.get("code", {})
        for name in names if "code" in info.data else ():  # else that mistake is told
            if (at := found(plugins.MEASURE, name, own.get(plugins.stem(name), OWN), info)) is not None:
                _checked(at[0])
        return names

    @model_validator(mode="after")
    def _called(self, info: ValidationInfo) -> "Scoring":
        """Names for what was called by its path, each with its file."""
        if info.context is not NEW:
            return self
        code: dict[str, Code] = {}
        for name in dict.fromkeys((*self.subject, *self.style, *self.models)):
            at = found(plugins.MEASURE, name, self.code.get(plugins.stem(name), OWN), info)
            if at is not None and at[1] != OWN and code.setdefault(at[0].name, at[1]) != at[1]:
                raise ValueError(f"two measures are called {at[0].name!r}; rename one of their files")
        for key in ("subject", "style"):
            object.__setattr__(self, key, tuple(map(plugins.stem, getattr(self, key))))
        object.__setattr__(self, "models", {plugins.stem(name): model for name, model in self.models.items()})
        object.__setattr__(self, "code", code)
        return self

    def source(self, name: str) -> Source:
        """The file of a measure. Raises PlanError where it is not there."""
        return plugins.find(plugins.MEASURE, name, self.code.get(name, OWN).file)


def _checked(measure: Source) -> None:
    """ValueError where a measure's file cannot be used."""
    try:
        score.card(measure)
    except PlanError as error:
        raise ValueError(str(error)) from None
