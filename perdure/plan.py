"""Plan: what will be done. Base, methods, ordered concepts, and how to train, sample and score them.

A plan is one YAML file. It is read once, checked whole (every mistake is reported, each with its place), frozen, and
written back in full beside every result. Precedence: defaults of the base < plan file < `--set` on the command line.
"""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from perdure import catalogue, score, sources, yaml_file
from perdure.errors import PlanError

TOYBOX = "toybox"
Kind = Literal["subject", "style"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]


NOT_SETTINGS = {"name", "description", "data", "concepts", "order", "joint"}
"""Keys of a plan that do not decide how a lesson goes."""


class Section(BaseModel):
    """A frozen part of a plan; unknown keys are mistakes; docstrings under fields are their help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True, allow_inf_nan=False
    )


class Drawn(Section):
    """A concept of the toybox world, drawn when needed instead of read from files."""

    what: Kind = "subject"
    index: int = Field(ge=0)
    """Number of the subject or style in its split, from 0."""
    split: Literal["test", "dev"] = "test"
    """`dev` concepts are for choosing hyper-parameters, `test` concepts for reporting."""
    images: int = Field(5, ge=1, le=64)
    references: int = Field(12, ge=0, le=256)


class Concept(Section):
    """One thing to learn: a name, a handful of images, and the prompt that will call it."""

    name: Name
    kind: Kind = "subject"
    images: Path | tuple[Path, ...] | None = None
    """A folder or a list of files; never written to."""
    drawn: Drawn | None = None
    """Instead of `images`: a concept of the toybox world."""
    references: Path | tuple[Path, ...] | None = None
    """Held-out images (folder or files) to score against; `refs/` inside the images' folder is found by itself."""
    hold_out: int = Field(0, ge=0)
    """Without a references folder: how many of the images (the last ones) are held out of training."""
    token: str = ""
    """The words that call the concept: a rare token for a subject, the style's name for a style."""
    noun: str = Field("", alias="class")
    """The class noun: backpack, dog, ..."""
    prompt: str = ""
    """Training prompt; `{token}` and `{class}` are filled in. Captions beside the images take precedence."""
    phrase: str = ""
    """What stands for `{concept}` in evaluation prompts; by default token + class (subject) or token (style)."""
    prompts: tuple[str, ...] = ()
    """Evaluation prompts of this concept alone, instead of `sampling.prompts`."""

    @model_validator(mode="after")
    def _complete(self) -> "Concept":
        if (self.images is None) == (self.drawn is None):
            raise ValueError("give either `images` (a folder or files) or `drawn` (a toybox concept)")
        prompt = self.prompt or ("a photo of {token} {class}" if self.kind == "subject" else "{token} image of {class}")
        phrase = self.phrase or (f"{self.token} {self.noun}" if self.kind == "subject" else self.token)
        filled = {"prompt": _squeeze(fill(prompt, token=self.token, noun=self.noun)), "phrase": _squeeze(phrase)}
        filled["phrase"] = filled["phrase"] or _without_lead(filled["prompt"])
        if not filled["phrase"]:
            raise ValueError("give a `prompt`, or a `token` and a `class`, so that the concept can be called")
        for key, value in filled.items():
            object.__setattr__(self, key, value)
        return self


class MethodChoice(Section):
    """A method by the name of its file in `methods/`, and the options that differ from its defaults."""

    name: str
    options: dict[str, Any] = {}
    label: str = ""
    """Name of the run's folder and of its row in tables; by default made from name and options."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "options" not in value:
            known = {key: value[key] for key in ("name", "label") if key in value}
            return {**known, "options": {k: v for k, v in value.items() if k not in known}}
        return value

    @model_validator(mode="after")
    def _known(self) -> "MethodChoice":
        catalogue.check(self.name, self.options)
        if not self.label:
            parts = [self.name, *(f"{key}-{value}" for key, value in sorted(self.options.items()))]
            object.__setattr__(self, "label", "_".join(parts).replace("/", "-").replace(" ", ""))
        return self


class Prior(Section):
    """Prior preservation (DreamBooth): images of the class drawn by the base and trained beside the concept's."""

    images: int = Field(50, ge=1)
    weight: float = Field(1.0, ge=0)
    prompt: str = "a photo of {class}"


class Training(Section):
    """How one lesson is trained."""

    resolution: int = Field(512, ge=16, multiple_of=8)
    """Side of the square training images in pixels."""
    steps: int = Field(850, ge=1)
    batch_size: int = Field(1, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    word_learning_rate: float | None = Field(None, gt=0)
    """Rate of learnt words; that of the weights by default."""
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = Field(0, ge=0)
    """Steps of linear warm-up."""
    weight_decay: float = Field(1e-4, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    min_snr: float | None = Field(None, gt=0)
    """Gamma of min-SNR weighting (Hang et al. 2023); 5 is usual, none by default."""
    crop: Literal["center", "random"] = "center"
    """How the first view of an image is cut to a square."""
    views: int = Field(1, ge=1)
    """Encoded views of each image; those after the first are random crops."""
    flip: bool = False
    """Also encode the mirror image of each view."""
    prior: Prior | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: bool = False
    seed_per_lesson: bool = True
    """False: every lesson draws the same numbers, as the reference code does by resetting its seed."""
    checkpoint_every: int = Field(0, ge=0)
    """Save the unfinished lesson every so many steps, so that a killed run goes on inside the lesson; 0: do not."""


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


class Sampling(Section):
    """How evaluation images are made after each lesson: fixed prompts, fixed latents."""

    prompts: Prompts
    images_per_prompt: int = Field(8, ge=1)
    steps: int = Field(50, ge=1)
    guidance: float = Field(5.0, ge=0)
    negative_prompt: str = ""
    scheduler: Literal["default", "ddim", "euler", "dpm++", "unipc"] = "default"
    resolution: int | None = Field(None, ge=16, multiple_of=8)
    """Side in pixels; the training resolution by default."""
    batch_size: int = Field(8, ge=1)
    seed: int = Field(42, ge=0)
    unseen: bool = False
    """Also sample concepts not yet taught (forward transfer needs them)."""


class Scoring(Section):
    """Which measures are taken, and from which models."""

    subject: tuple[str, ...] = ("clip_i", "dino")
    style: tuple[str, ...] = ("csd", "dino")
    models: dict[str, str] = {}
    """Measure -> hub id or local folder, instead of the published model."""

    @field_validator("subject", "style", mode="after")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in score.names():
                raise ValueError(f"no measure {name!r}{did_you_mean(name, score.names())}")
        return names


class Plan(Section):
    """The whole experiment."""

    version: Literal[1] = 1
    name: Name = "plan"
    description: str = ""
    base: str = TOYBOX
    """`toybox`, a hub id, or a local diffusers folder (Stable Diffusion 1.x, 2.x or SDXL)."""
    vae: str | None = None
    """Another autoencoder for the base: a hub id or a local folder."""
    methods: tuple[MethodChoice, ...] = Field(min_length=1)
    """`method: NAME` for one; a list for several, each run on its own copy of the base."""
    joint: bool = False
    """Also teach all concepts at once, as the upper bound."""
    data: Path | None = None
    """Folder that relative paths of images start from; the plan file's folder by default."""
    concepts: tuple[Concept, ...] = ()
    order: tuple[int, ...] | None = None
    """Positions (from 1) in which the concepts are taught; as listed by default."""
    training: Training
    sampling: Sampling
    scoring: Scoring = Scoring()
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> "Plan":
        problems = [*_clashes(self.concepts), *_doubles("method", [m.label for m in self.methods])]
        if self.order is not None and sorted(self.order) != list(range(1, len(self.concepts) + 1)):
            problems.append(f"order {list(self.order)} is not an ordering of 1..{len(self.concepts)}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def sequence(self) -> tuple[Concept, ...]:
        """The concepts in the order in which they are taught."""
        return self.concepts if self.order is None else tuple(self.concepts[i - 1] for i in self.order)

    def narrowed(self, choice: MethodChoice) -> "Plan":
        """The same plan with one method only."""
        return self.model_copy(update={"methods": (choice,), "joint": False})

    def settings(self) -> dict[str, Any]:
        """Everything that decides a lesson but the concepts: plain JSON values, no paths of concepts."""
        return self.model_dump(mode="json", by_alias=True, exclude=NOT_SETTINGS)

    def fingerprint(self) -> str:
        """16 hex digits that change with any setting that can change a result."""
        return fingerprint({**self.settings(), "concepts": [describe(c) for c in self.sequence], "joint": self.joint})

    def prompts_for(self, concept: Concept) -> tuple[str, ...]:
        """The evaluation prompts of one concept, filled in."""
        templates = concept.prompts or getattr(self.sampling.prompts, concept.kind)
        return tuple(_squeeze(t.replace("{concept}", concept.phrase)) for t in templates)

    def measures_for(self, concept: Concept) -> tuple[str, ...]:
        """The measures taken of one concept."""
        return self.scoring.subject if concept.kind == "subject" else self.scoring.style


def load(path: Path | str, overrides: tuple[str, ...] = ()) -> Plan:
    """Read and check a plan file; `overrides` are `a.b=value` strings.

    Relative paths resolve against the file's folder. Raises PlanError with every mistake found.
    """
    path = Path(path)
    data, lines = yaml_file.read(path)
    data.setdefault("name", "".join(c if c.isalnum() or c in "_-" else "-" for c in path.stem))
    return build(yaml_file.override(data, overrides), folder=path.parent, lines=lines, where=str(path))


def build(
    data: dict[str, Any], folder: Path = Path(), lines: yaml_file.Lines | None = None, where: str = "plan"
) -> Plan:
    """A plan from plain values, completed with the defaults of its base. Raises PlanError."""
    data = dict(data)
    if "method" in data:
        if "methods" in data:
            raise PlanError(f"{where}: give `method` or `methods`, not both")
        data["methods"] = [data.pop("method")]
    if data.get("data") is not None:
        data["data"] = folder / Path(str(data["data"])).expanduser()
    data["concepts"] = sources.expand(data.get("concepts", []), data.get("data") or folder)
    complete = yaml_file.merge(yaml_file.read_packaged("defaults.yaml")[base_family(data)], data)
    try:
        return Plan.model_validate(complete)
    except ValidationError as error:
        raise PlanError([_sentence(problem, where, lines) for problem in error.errors()]) from None


def ready(name: str) -> Path:
    """The file of a plan that ships with perdure. Raises PlanError."""
    here = Path(__file__).parent
    folder = here / "plans" if (here / "plans").is_dir() else here.parent / "plans"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = [p.stem for p in folder.glob("*.yaml")]
        raise PlanError(f"no plan file {name!r}, and no ready plan of that name{did_you_mean(name, known)}")
    return path


def base_family(data: dict[str, Any]) -> str:
    """Which set of defaults a plan starts from: the embedded base's or the published protocol's."""
    return TOYBOX if data.get("base", TOYBOX) == TOYBOX else "published"


def describe(concept: Concept) -> dict[str, Any]:
    """A concept without its paths: what it is, not where it lies."""
    return concept.model_dump(mode="json", by_alias=True, exclude={"images", "references"})


def fingerprint(value: Any) -> str:
    """16 hex digits of SHA-256 over the canonical JSON of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def fill(text: str, *, token: str, noun: str) -> str:
    """Replace `{token}`, `{class}`, and the trainers' trigger placeholders in a prompt or caption."""
    trigger = f"{token} {noun}".strip()
    for placeholder, value in (("{token}", token), ("{class}", noun), ("{trigger}", trigger), ("[trigger]", trigger)):
        text = text.replace(placeholder, value)
    return text


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """The tail of an error message: the nearest known word, or all of them."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}"


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def _without_lead(prompt: str) -> str:
    for lead in ("a photo of ", "a picture of ", "an image of ", "photo of "):
        prompt = prompt.removeprefix(lead)
    return prompt


def _doubles(what: str, names: list[str]) -> list[str]:
    return [f"two {what}s are called {name!r}; give each its own name" for name in {n for n in names if names.count(n) > 1}]


def _clashes(concepts: tuple[Concept, ...]) -> list[str]:
    """Concept names that occur twice, and tokens that are, or are inside, another concept's token."""
    problems = _doubles("concept", [c.name for c in concepts])
    tokens = [(c.name, c.token.lower()) for c in concepts if c.token]
    for i, (name, token) in enumerate(tokens):
        for other, longer in tokens[:i] + tokens[i + 1 :]:
            if token in longer and (token != longer or name < other):
                relation = "the same as" if token == longer else "a part of"
                problems.append(
                    f"concept {name!r}: its token {token!r} is {relation} {longer!r} of concept {other!r}; "
                    "tokens must not contain one another, or the concepts cannot be told apart"
                )
    return problems


def _sentence(problem: Any, where: str, lines: yaml_file.Lines | None) -> str:
    """One mistake: file, line, key, what is wrong, what is allowed."""
    loc = tuple(part for part in problem["loc"] if not str(part).startswith(("function-", "tuple[", "lax-or-strict")))
    key = ".".join(str(part) for part in loc).replace(".Path", "") or "plan"
    line = yaml_file.line_of(lines, loc)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = f"no such key{did_you_mean(str(loc[-1]), _keys_at(loc[:-1]))}"
    elif problem["type"] not in ("value_error", "missing"):
        message = f"{message[0].lower()}{message[1:]} (got {problem['input']!r})"
    elif problem["type"] == "missing":
        message = "is required and missing"
    return f"{where}{f':{line}' if line else ''}: {key}: {message}"


def _keys_at(loc: tuple[Any, ...]) -> list[str]:
    """The keys that a plan allows at one place."""
    section: type[BaseModel] = Plan
    for part in loc:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return [field.alias or name for name, field in section.model_fields.items()] + (
        ["method"] if section is Plan else []
    )


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in getattr(annotation, "__args__", ()) if (found := _section_in(arg))), None)
