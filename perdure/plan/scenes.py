"""Scenes: pictures of several concepts, each in a region of its own, or with all of them in one prompt."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from perdure.errors import PlanError, did_you_mean
from perdure.plan import mistakes, sources, yaml_file
from perdure.plan.concept import Concept
from perdure.plan.fields import NEW, Name, Section
from perdure.plan.sections import MOST, Fraction, How, Scenes
from perdure.wording import listed, mentions, squeeze

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in fractions of the picture; y goes down."""


class Region(Section):
    """A part of a scene, and what is there."""

    concept: Name | None = None
    """The concept that is meant; by default the one whose token the prompt holds."""
    prompt: str = "a photo of a {concept}"
    """What is there; `{concept}` is filled in."""
    box: Box | None = None
    """x0, y0, x1, y1 in fractions of the picture; y goes down."""
    mask: Path | None = None
    """Instead of a box: a picture of the size of those drawn, white where the region is."""

    @model_validator(mode="after")
    def _sound(self) -> "Region":
        if (self.box is None) == (self.mask is None):
            raise ValueError("give either a `box` (x0, y0, x1, y1 in fractions of the picture) or a `mask` (a picture)")
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise ValueError(
                    f"box {[x0, y0, x1, y1]} is no part of the picture; give x0, y0, x1, y1 in fractions between 0 and "
                    "1, x0 less than x1 and y0 less than y1 (y goes down)"
                )
        if "{concept}" in self.prompt and self.concept is None:
            raise ValueError(f"prompt {self.prompt!r} has a place for a concept; give the `concept`, or write it out")
        return self


class Scene(Section):
    """One picture of several concepts."""

    prompt: str
    """What the whole picture shows; `{concepts}` stands for all of them: a zwz dog and a sbu teapot."""
    how: How = "attention"
    """`attention`: regions in cross-attention; `noise`: the base is asked for each region; `plain`: by prompt only."""
    base: Fraction = 0.0
    """Weight of the whole picture's prompt inside regions."""
    feather: int = Field(0, ge=0, le=64)
    """Cells over which a region fades at its borders."""
    until: float = Field(1.0, gt=0, le=1)
    """Part of the steps, from the first on, that have regions."""
    regions: tuple[Region, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _few(self) -> "Scene":
        if len(self.regions) > MOST:
            raise ValueError(f"{len(self.regions)} regions in one picture; at most {MOST} are drawn: leave some out")
        return self

    def named(self, concepts: Mapping[str, Concept]) -> tuple[str | None, ...]:
        """The concept of each region, of those that a model has learnt. Raises PlanError for one that it has not."""
        if unknown := [r.concept for r in self.regions if r.concept is not None and r.concept not in concepts]:
            raise PlanError(
                f"the scene shows {unknown[0]!r}, which the model has not learnt; "
                f"it knows {', '.join(concepts) or 'no concept'}"
            )
        return tuple(region.concept or _meant(region.prompt, concepts) for region in self.regions)

    def written(self, concepts: Mapping[str, Concept]) -> tuple[str, tuple[str, ...]]:
        """The prompt of the whole picture, and of each region. Raises PlanError for a concept that is not there."""
        names = self.named(concepts)
        phrases = [concepts[name].phrase if name else "" for name in names]
        prompts = tuple(squeeze(r.prompt.replace("{concept}", p)) for r, p in zip(self.regions, phrases, strict=True))
        return squeeze(self.prompt.replace("{concepts}", listed([f"a {p}" for p in phrases if p] or [""]))), prompts

    def texts(self, concepts: Mapping[str, Concept]) -> list[str]:
        """All prompts that are read to draw it. Raises PlanError for a concept that is not there."""
        prompt, others = self.written(concepts)
        return [prompt, *others] if self.how != "plain" else [prompt]


def sets(scenes: Scenes, taught: Sequence[Concept]) -> dict[str, tuple[str, ...]]:
    """The sets of which all are taught, name -> concepts; neighbours in the order in which they were taught."""
    names = [concept.name for concept in taught if concept.kind == "subject"]
    if scenes.sets:
        return {name: own for name, own in scenes.sets.items() if set(own) <= set(names)}
    pairs = list(zip(names, names[1:], strict=False))[: scenes.pairs]
    return {f"{first}-and-{second}": (first, second) for first, second in pairs}


def unshown(scenes: Scenes | None, concepts: tuple[Concept, ...]) -> list[str]:
    """What scenes show that a plan does not teach as a subject; a plan without concepts says them later."""
    subjects = [concept.name for concept in concepts if concept.kind == "subject"]
    shown = {name: own for own in scenes.sets.values() for name in own} if scenes and concepts else {}
    return [
        f"sampling.scenes: no subject is called {name!r}{did_you_mean(name, subjects)}"
        for name in shown
        if name not in subjects
    ]


def side_by_side(scenes: Scenes, names: Sequence[str], how: How) -> list[Scene]:
    """A scene for each prompt, with the concepts in columns, a tenth of the picture apart."""
    boxes = columns(len(names))

    def scene(prompt: str) -> Scene:
        own = prompt.replace("{concepts}", "a {concept}")
        return Scene(
            prompt=prompt,
            how=how,
            base=scenes.base,
            feather=scenes.feather,
            until=scenes.until,
            regions=tuple(Region(concept=n, prompt=own, box=box) for n, box in zip(names, boxes, strict=True)),
        )

    return [scene(prompt) for prompt in scenes.prompts]


def columns(count: int) -> list[Box]:
    """Boxes side by side, nine tenths of the picture high; another tenth is left between them, shared out evenly."""
    width = 0.9 / count
    step = (1 - width) / (count - 1) if count > 1 else 0.0
    return [(k * step, 0.1, min(1.0, k * step + width), 1.0) for k in range(count)]


def halves(count: int) -> list[Box]:
    """Equal columns of the whole picture: where things stand that nobody has placed."""
    return [(k / count, 0.0, (k + 1) / count, 1.0) for k in range(count)]


def _meant(prompt: str, concepts: Mapping[str, Concept]) -> str | None:
    return next((name for name, c in concepts.items() if mentions(prompt, c.token or c.phrase)), None)


def load(path: Path) -> Scene:
    """A scene from a JSON or YAML file; masks are found from its folder. Raises PlanError with every mistake."""
    data, lines = yaml_file.read(path)
    regions = data.get("regions")
    for region in regions if isinstance(regions, list) else ():
        if isinstance(region, dict) and "mask" in region:
            region["mask"] = sources.resolve(path.parent, region["mask"])
    try:
        return Scene.model_validate(data, context=NEW)
    except ValidationError as error:
        raise PlanError(mistakes.sentences(error, Scene, str(path), lines)) from None


def of_texts(prompt: str, regions: Sequence[str], how: How = "attention") -> Scene:
    """A scene of regions written as `x0,y0,x1,y1: prompt`. Raises PlanError."""
    made = []
    for text in regions:
        numbers, _, words = text.partition(":")
        box = numbers.split(",")
        if len(box) != 4 or not words.strip():
            example = "'0,.1,.45,1: a photo of a dog'"
            raise PlanError(f"region {text!r}: write x0,y0,x1,y1: prompt, in fractions, such as {example}")
        made.append({"box": [edge.strip() for edge in box], "prompt": words.strip()})
    try:
        return Scene.model_validate({"prompt": prompt, "how": how, "regions": made}, context=NEW)
    except ValidationError as error:
        raise PlanError(mistakes.sentences(error, Scene, "--region", None)) from None
