"""The choice of a method in a plan: its name, its options, and what its run is called."""

import re
from typing import Any

from pydantic import Field, ValidationInfo, field_serializer, model_validator

from perdure.plan import catalogue
from perdure.plan.fields import NEW, Section
from perdure.plan.sections import Training
from perdure.wording import check_name

OUTPUTS = re.compile(r"figures|.*\.(html|csv|tex|json|yaml|lock|partial|tmp)", re.IGNORECASE)
"""Names beside the runs of a plan that are other things than runs: reports, tables, locks, what is half done."""
LONGEST = 100
"""Characters of a label."""


class MethodChoice(Section):
    """A method by the name of its file in `methods/`, and the options that differ from its defaults."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    training: Training | None = None
    """Keys of `training` that this method wants otherwise, such as its own learning rate."""
    label: str = ""
    """Name of the run's folder and of its row in tables; by default made from name and options."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "options" not in value:
            known = {key: value[key] for key in ("name", "label", "training") if key in value}
            return {**known, "options": {k: v for k, v in value.items() if k not in known}}
        return value

    @model_validator(mode="after")
    def _known(self, info: ValidationInfo) -> "MethodChoice":
        catalogue.check(self.name, self.options, within=info.context is NEW)
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

    @field_serializer("training")
    def _only_what_differs(self, value: Training | None) -> dict[str, Any] | None:
        return None if value is None else value.model_dump(mode="json", exclude_unset=True)
