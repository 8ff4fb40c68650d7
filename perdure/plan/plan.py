"""Plan: what will be done. Base, methods, ordered concepts, and how to train, sample and score them.

A plan is one YAML file. It is read once, checked whole (every mistake is reported, each with its place), frozen, and
written back in full beside every result. Precedence: defaults of the base < plan file < `--set` on the command line.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, model_validator

from perdure.errors import PlanError, did_you_mean
from perdure.plan import defaults, mistakes, sources, tasks, yaml_file
from perdure.plan.choice import FamilyChoice, MethodChoice, trust
from perdure.plan.concept import Concept
from perdure.plan.fields import MODELS, NEW, TOYBOX, Model, Name, Section
from perdure.plan.performance import Performance
from perdure.plan.scenes import unshown
from perdure.plan.sections import Sampling, Scoring
from perdure.plan.training import Prior, Training
from perdure.score import accuracy
from perdure.wording import name_from, squeeze

JOINT = "joint"
"""Label of the run that is taught all concepts at once."""
NOT_SETTINGS: dict[str, Any] = dict.fromkeys(
    ("name", "description", "data", "concepts", "order", "joint", "protocol", "performance"), True
)
NOT_SETTINGS["training"] = {"prompts": True, "preview": True}
"""Keys of a plan that do not decide how a lesson goes: each concept says by itself what prompt it has."""


class Plan(Section):
    """The whole experiment."""

    QUIET: ClassVar[tuple[str, ...]] = ("family", "task", "transformer")
    version: Literal[1] = 1
    name: Name = "plan"
    description: str = ""
    protocol: str | None = None
    """The published protocol that the plan follows; `perdure compare` shows its numbers beside."""
    task: Literal["classification"] | None = None
    """`classification`: the base is a classifier, and each concept a task, a set of new classes."""
    base: Model = TOYBOX
    """`toybox`, a hub id, a local diffusers folder or checkpoint file (docs/usage.md lists what can be taught)."""
    vae: Model | None = None
    """Another autoencoder for the base: a hub id, a local folder or a file."""
    transformer: Model | None = None
    """A file of another transformer for the base, of the same model."""
    family: FamilyChoice | None = None
    """How the base is used, by the name or path of a family's file; by default as the class of its pipeline says."""
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
    performance: Performance = Performance()
    seed: int = Field(0, ge=0)
    _notes: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> "Plan":
        labels = [m.label for m in self.methods] + [JOINT] * self.joint
        new = info.context is NEW
        problems = mistakes.doubles("concept", [c.name for c in self.concepts], new) + mistakes.clashes(self.concepts)
        problems += mistakes.doubles("method", labels, new)
        if self.order is not None and sorted(self.order) != list(range(1, len(self.concepts) + 1)):
            problems.append(f"order {list(self.order)} is not an ordering of 1..{len(self.concepts)}")
        if self.protocol and self.protocol not in (known := yaml_file.read_packaged("compare/published.yaml")):
            problems.append(f"no published protocol is called {self.protocol!r}{did_you_mean(self.protocol, known)}")
        if new:
            if self.joint and not any(choice.card.trains for choice in self.methods):
                told = "joint: it trains as the first method does that trains weights, and none here does"
                problems.append(f"{told}; list one, or write joint: false")
            problems += unshown(self.sampling.scenes, self.concepts)
            each = [(choice, self.narrowed(choice).training) for choice in self.methods]
            problems += dict.fromkeys(told for _, training in each for told in training.unfit)
            if self.performance.compile_training:
                uncompiled = (self.performance.unfit(self.task, own, choice.card) for choice, own in each)
                problems += dict.fromkeys(told for some in uncompiled for told in some)
            problems += tasks.unfit(self.task, self.concepts, self.methods, self.training, self.sampling)
            problems += ["transformer is not for classifiers; leave it out"] * bool(self.task and self.transformer)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out or guessed where the concepts came from a folder: told once, and no part of the plan."""
        return self._notes

    @property
    def sequence(self) -> tuple[Concept, ...]:
        """The concepts in the order in which they are taught."""
        return self.concepts if self.order is None else tuple(self.concepts[i - 1] for i in self.order)

    def narrowed(self, choice: MethodChoice) -> "Plan":
        """The same plan with one method only, trained as that method wants it."""
        own = choice.training
        wanted = {key: getattr(own, key) for key in own.model_fields_set} if own else {}
        if own and own.head and self.training.head:
            theirs = {key: getattr(own.head, key) for key in own.head.model_fields_set}
            wanted["head"] = self.training.head.model_copy(update=theirs)
        training = self.training.model_copy(update=wanted)
        return self.model_copy(update={"methods": (choice,), "joint": False, "training": training})

    def joined(self) -> "Plan":
        """All concepts in one lesson with the first adapter that is trained, and the steps of all lessons together."""
        first = next((choice for choice in self.methods if choice.card.trains), self.methods[0])
        own = self.narrowed(first.model_copy(update={"label": JOINT}))
        longer = own.training.model_copy(update={"steps": own.training.steps * len(self.concepts)})
        return own.model_copy(update={"training": longer, "joint": True})

    @property
    def runs(self) -> tuple["Plan", ...]:
        """A plan of one method for each run, the joint one last."""
        return (*map(self.narrowed, self.methods), *([self.joined()] if self.joint else ()))

    @property
    def priors(self) -> tuple[Prior, ...]:
        """Prior preservation as any of the methods has it."""
        return tuple(prior for choice in self.methods if (prior := self.narrowed(choice).training.prior))

    def settings(self) -> dict[str, Any]:
        """Everything that decides a lesson but the concepts: plain JSON values, no paths of concepts."""
        return self.model_dump(mode="json", by_alias=True, exclude=NOT_SETTINGS)

    def fingerprint(self) -> str:
        """16 hex digits that change with any setting that can change a result; not with where files lie."""
        concepts = [describe(c) for c in self.sequence]
        return fingerprint({**portable(self.settings()), "concepts": concepts, "joint": self.joint})

    def prompts_for(self, concept: Concept) -> tuple[str, ...]:
        """The evaluation prompts of one concept, filled in."""
        if concept.kind == "classes":
            return ()
        templates = concept.prompts or getattr(self.sampling.prompts, concept.kind)
        return tuple(squeeze(t.replace("{concept}", concept.phrase)) for t in templates)

    def measures_for(self, concept: Concept) -> tuple[str, ...]:
        """The measures taken of one concept."""
        return {"classes": accuracy.MEASURES, "style": self.scoring.style}.get(concept.kind, self.scoring.subject)


def load(path: Path | str, overrides: tuple[str, ...] = ()) -> Plan:
    """Read and check a plan file; `overrides` are `a.b=value` strings. `like: NAME` in it begins from a ready plan.

    Relative paths resolve against the file's folder, and where a ready plan's data is not beside it, against the
    working folder, in which `perdure data get` lays it out. Raises PlanError with every mistake found.
    """
    path = Path(path)
    data, lines = values(path)
    data.setdefault("name", name_from(path.stem))
    overrides = tuple(map(sources.from_here, overrides))
    for text in overrides:
        if other := {"method": "methods", "methods": "method"}.get(text.partition("=")[0]):
            data.pop(other, None)
    return build(yaml_file.override(data, overrides), folder=path.parent, lines=lines, where=str(path))


def values(path: Path) -> tuple[dict[str, Any], yaml_file.LineNumbers]:
    """The values of a plan file on top of those it begins from (`like`), a ready plan's data found; its own lines.

    Raises PlanError.
    """
    data, lines = yaml_file.read(path)
    source, shipped = data.get("data"), ready("template").parent.resolve()
    if isinstance(source, str) and source.startswith("..") and path.resolve().parent == shipped:
        beside = Path(os.path.abspath(path.parent / source))
        data["data"] = str(beside if beside.is_dir() else Path.cwd() / Path(source).relative_to(".."))
    if (like := data.pop("like", None)) is not None:
        data = yaml_file.merge(values(ready(str(like)))[0], data)
    return data, lines


def build(
    data: dict[str, Any],
    folder: Path = Path(),
    lines: yaml_file.LineNumbers | None = None,
    where: str = "plan",
    new: bool = True,
    kept: Mapping[str, Any] | None = None,
) -> Plan:
    """A plan from plain values, completed with the defaults of its base. Raises PlanError.

    `new`: False for the plan of a model that exists, whose settings may be such as are refused by now. `kept`: other
    defaults than those of runs, as `defaults.of_model` gives them.
    """
    data = dict(data)
    single = "method" in data
    if single:
        if "methods" in data:
            raise PlanError(f"{where}: give `method` or `methods`, not both")
        data["methods"] = [data.pop("method")]
    if data.get("data") is not None:
        data["data"] = sources.resolve(folder, data["data"])
    prompts = _mapping(_mapping(data.get("training")).get("prompts"))
    source, start = data.get("concepts", []), data.get("data") or folder
    data["concepts"] = sources.expand(source, start, prompts, data.get("seed", 0))
    data = sources.located(data, folder)
    try:
        made = Plan.model_validate(
            yaml_file.merge(kept or defaults.of(data.get("base", TOYBOX), data.get("task")), data),
            context=NEW if new else None,
        )
    except ValidationError as error:
        raise PlanError(mistakes.sentences(error, Plan, where, lines, single)) from None
    made._notes = tuple(sources.notes(source, start))
    if new:
        trust(made.methods, made.scoring, made.family)
    return made


def _mapping(value: Any) -> dict[str, Any]:
    """A value that is a mapping; an empty one for any other, which the plan's own checks refuse."""
    return value if isinstance(value, dict) else {}


def concept(data: dict[str, Any], folder: Path = Path(), where: str = "concept") -> Concept:
    """One concept from plain values. Raises PlanError."""
    try:
        return Concept.model_validate(sources.expand([data], folder)[0], context=NEW)
    except ValidationError as error:
        raise PlanError(mistakes.sentences(error, Concept, where, None)) from None


def ready(name: str) -> Path:
    """The file of a plan that ships with perdure. Raises PlanError."""
    here = Path(__file__).parent.parent
    folder = here / "plans" if (here / "plans").is_dir() else here.parent / "plans"
    path = folder / f"{name}.yaml"
    if not os.path.isfile(path):
        known = [p.stem for p in folder.glob("*.yaml")]
        raise PlanError(f"no plan file {name!r}, and no ready plan of that name{did_you_mean(name, known)}")
    return path


def describe(concept: Concept) -> dict[str, Any]:
    """A concept without its paths: what it is, not where it lies."""
    return concept.model_dump(mode="json", by_alias=True, exclude={"images", "references"})


def plan_text(plan: Plan) -> str:
    """The resolved plan as YAML; read back it has the same fingerprint."""
    text = yaml_file.dump(plan.model_dump(mode="json", by_alias=True))
    return f"# Resolved plan, fingerprint {plan.fingerprint()}\n{text}"


def portable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings in which a local model counts by its folder's name and a Python file by its content."""

    def name(model: str | None) -> str | None:
        return Path(model).name if model and os.path.isabs(model) else model

    scoring = settings["scoring"]
    models = {measure: name(model) for measure, model in scoring.get("models", {}).items()}
    named = {key: name(settings[key]) for key in MODELS if key in settings}
    moved: dict[str, Any] = _nowhere({**settings, **named, "scoring": {**scoring, "models": models}})
    return moved


def _nowhere(value: Any) -> Any:
    """Settings in which a Python file counts by its content, not by where it lies."""
    if isinstance(value, dict):
        return {k: _nowhere(v) for k, v in value.items() if not (k == "file" and "digest" in value)}
    return [_nowhere(inner) for inner in value] if isinstance(value, list) else value


def fingerprint(value: Any) -> str:
    """16 hex digits of SHA-256 over the canonical JSON of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
