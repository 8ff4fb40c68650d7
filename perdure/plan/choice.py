"""What is chosen: a method in a plan, with its options and its run's label; a family; settings of a single lesson."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_serializer, model_validator

from perdure import plugins
from perdure.errors import PlanError
from perdure.plan import catalogue, yaml_file
from perdure.plan.catalogue import MethodCard
from perdure.plan.fields import NEW, OWN, Code, Section, found
from perdure.plan.sections import Scoring
from perdure.plan.training import Training
from perdure.wording import check_name

OUTPUTS = re.compile(r"figures|.*\.(html|csv|tex|json|yaml|lock|partial|tmp)", re.IGNORECASE)
"""Names beside the runs of a plan that are other things than runs: reports, tables, locks, what is half done."""
CLASSIFICATION = "classification"
"""The task of a plan that teaches a classifier new classes."""
CLASSES = "classes"
LONGEST = 100
"""Characters of a label."""


LESSONS_OWN = ("steps", "batch_size", "learning_rate", "word_learning_rate", "schedule", "warmup", "prior")
"""Keys of `training` that a lesson may have of its own: none that its scores, or another concept's, depend on else."""


def of_lesson(overrides: Sequence[str]) -> dict[str, Any]:
    """The keys of `training` that one lesson shall have of its own, from `training.key=value`. Raises PlanError."""
    keys = [text.partition("=")[0] for text in overrides]
    if wrong := [key for key in keys if key.split(".")[:2] not in (["training", own] for own in LESSONS_OWN)]:
        allowed = ", ".join(f"training.{key}" for key in LESSONS_OWN)
        raise PlanError(
            f"--set {wrong[0]}: a lesson may have of its own {allowed}; all else is the model's, so that its scores "
            "compare: begin another model for it (perdure init NEW --set KEY=VALUE)"
        )
    return dict(yaml_file.override({}, tuple(overrides)).get("training", {}))


class MethodChoice(Section):
    """A method by the name of its file in `methods/`, or the path of any; and options that differ from its defaults."""

    QUIET: ClassVar[tuple[str, ...]] = ("code",)
    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    training: Training | None = None
    """Keys of `training` that this method wants otherwise, such as its own learning rate."""
    label: str = ""
    """Name of the run's folder and of its row in tables; by default made from name and options."""
    code: Code = OWN
    """Of a method that is not perdure's own: filled in by itself."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "options" not in value:
            known = {key: value[key] for key in ("name", "label", "training", "code") if key in value}
            return {**known, "options": {k: v for k, v in value.items() if k not in known}}
        return value

    @model_validator(mode="after")
    def _known(self, info: ValidationInfo) -> "MethodChoice":
        self._look(info)
        if not self.label:
            parts = [self.name, *(f"{key}-{value}" for key, value in sorted(self.options.items()))]
            object.__setattr__(self, "label", re.sub(r"[^A-Za-z0-9_.-]+", "-", "_".join(parts)))
        elif not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.label):
            raise ValueError(f"label {self.label!r} names a folder: use letters, digits, dots, dashes and underscores")
        if info.context is NEW:
            check_name(self.label)
        if info.context is NEW and OUTPUTS.fullmatch(self.label):
            raise ValueError(f"label {self.label!r} is the name of another file beside the runs; give another `label`")
        if info.context is NEW and len(self.label) > LONGEST:
            raise ValueError(f"label {self.label!r} has more than {LONGEST} characters; give another `label`")
        return self

    def unfit(self, task: str | None) -> str:
        """Why it cannot be taught in a plan of this task, in a sentence; empty where it can."""
        needs = self.card.needs
        if needs == "prompts" and task == CLASSIFICATION:
            return f"method {self.name!r} needs prompts, and a classifier reads none; leave it out"
        if needs == CLASSES and task != CLASSIFICATION:
            return f"method {self.name!r} is for classes; it needs a plan with `task: classification`"
        return ""

    @property
    def card(self) -> MethodCard:
        """What the method's file says of itself. Raises PlanError where it is not there or faulty."""
        return catalogue.card(self.name, self.code.file)

    def _look(self, info: ValidationInfo) -> None:
        """Find the method's file, and check what is asked of it."""
        if (at := found(plugins.METHOD, self.name, self.code, info)) is None:
            return
        source, code = at
        try:
            catalogue.check(source.name, self.options, within=info.context is NEW, file=code.file)
        except PlanError as error:
            raise ValueError(str(error)) from None
        object.__setattr__(self, "name", source.name)
        object.__setattr__(self, "code", code)

    @field_serializer("training")
    def _only_what_differs(self, value: Training | None) -> dict[str, Any] | None:
        return None if value is None else value.model_dump(mode="json", exclude_unset=True)


class FamilyChoice(Section):
    """A family of bases, by the name or the path of its file."""

    QUIET: ClassVar[tuple[str, ...]] = ("code",)
    name: str
    code: Code = OWN
    """Of a family that is not perdure's own: filled in by itself."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _look(self, info: ValidationInfo) -> "FamilyChoice":
        if (at := found(plugins.FAMILY, self.name, self.code, info)) is not None:
            object.__setattr__(self, "name", at[0].name)
            object.__setattr__(self, "code", at[1])
        return self


def trust(methods: Iterable[MethodChoice], scoring: Scoring, family: FamilyChoice | None) -> None:
    """Note that files which a new plan calls by their paths may be run: who names them wants it. Raises PlanError."""
    called = [(plugins.METHOD, choice.name, choice.code.file) for choice in methods]
    called += [(plugins.MEASURE, name, code.file) for name, code in scoring.code.items()]
    called += [(plugins.FAMILY, family.name, family.code.file)] if family else []
    for kind, name, file in called:
        if file is not None:
            plugins.trust(plugins.find(kind, name, file))
