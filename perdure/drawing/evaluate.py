"""One cell of the score matrix: a concept drawn from a memory, and scored."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from perdure import files, images, method, score
from perdure.bases.backbone import Backbone
from perdure.bases.classifier import Classifier
from perdure.bases.loading import Base
from perdure.bases.outline import EMBEDDED
from perdure.drawing import predicting, sample
from perdure.drawing.predicting import Centres, Tests
from perdure.errors import LineageError, ModelError
from perdure.lineage import Lineage
from perdure.lineage.rows import building
from perdure.memory import Memory, tensors
from perdure.method import Method
from perdure.parts.guard import preserving
from perdure.photos import pictures
from perdure.photos.pictures import Pictures
from perdure.plan import TOYBOX, Concept, Plan, fingerprint
from perdure.plan.fields import OWN
from perdure.progress import Watch, silent
from perdure.score import failings
from perdure.score.measure import Measure
from perdure.wording import without

THUMBNAIL = 192
KEPT = 4


@dataclass(frozen=True)
class Sketch:
    """What a lineage keeps of a concept's pictures: facts on them, and small copies of the first few by file name."""

    facts: dict[str, Any]
    small: dict[str, Image.Image]


@dataclass
class Tools:
    """What is loaded once and used for every lesson: the base model, the measures, the concepts' pictures."""

    plan: Plan
    base: Base
    watch: Watch = silent
    _pictures: dict[str, Pictures] = field(default_factory=dict)
    _sketches: dict[str, Sketch] = field(default_factory=dict)
    _tests: dict[str, Tests] = field(default_factory=dict)
    _centres: list[Centres] = field(default_factory=list)

    @property
    def backbone(self) -> Backbone:
        """The base where it draws. Raises ModelError for a classifier."""
        if not isinstance(self.base, Backbone):
            raise ModelError(f"base {self.plan.base} is a classifier, and draws nothing")
        return self.base

    def measure(self, name: str) -> Measure:
        """A measure with the model that the plan names for it (loaded once a process)."""
        scoring = self.plan.scoring
        model = scoring.models.get(name)
        if model is None and self.plan.base == TOYBOX and (own := score.card(scoring.source(name)).embedded):
            model = str(EMBEDDED / "scorers" / own)
        code = scoring.code.get(name, OWN)
        return score.load(name, model, str(self.base.device), code.file, code.digest)

    def identity(self, concept: Concept) -> Measure | None:
        """The first of a concept's measures that compares single pictures; what it looks like is told by that."""
        measures = map(self.measure, self.plan.measures_for(concept))
        return next((m for m in measures if m.among is not None and m.against == "references"), None)

    def pictures(self, concept: Concept) -> Pictures:
        """A concept's pictures. Only those asked for last are kept: photos of all concepts would fill the memory."""
        if concept.name not in self._pictures:
            self._pictures.clear()
            self._pictures[concept.name] = pictures.of(concept)
        return self._pictures[concept.name]

    def sketch(self, concept: Concept) -> Sketch:
        """What is kept of a concept's pictures, which are read for it once."""
        if concept.name not in self._sketches:
            self._sketches[concept.name] = _sketched(self.pictures(concept))
        return self._sketches[concept.name]

    def tests(self, concept: Concept, base: Classifier) -> Tests:
        """A task's test pictures, which are read for all lessons once."""
        if concept.name not in self._tests:
            own, training = self.pictures(concept), self.plan.training
            self._tests[concept.name] = Tests(own.references, base.read(own.references, training, True), own.labels)
        return self._tests[concept.name]

    def centres(self, base: Classifier) -> Centres:
        """The base's class means of all tasks of the plan."""
        if not self._centres:
            tasks = {}
            for concept in self.plan.sequence:
                shown = self.pictures(concept).training
                read = base.read([picture.image for picture in shown], self.plan.training)
                tasks[concept.name] = read, [picture.caption for picture in shown]
            self._centres.append(predicting.centres(base, self.plan.training, tasks))
        return self._centres[0]

    @property
    def method(self) -> Method:
        """The plan's method (of a plan of one)."""
        choice, preserve = self.plan.methods[0], self.plan.training.preserve
        chosen = method.of(choice)
        return preserving(chosen, preserve.weight, preserve.prompts) if preserve else chosen

    @property
    def side(self) -> int:
        """Side of the evaluation images in pixels."""
        return self.plan.sampling.resolution or self.plan.training.resolution


def evaluate(
    tools: Tools, lineage: Lineage, concept: Concept, memory: Memory, called: str, folder: Path,
    taught: Sequence[Concept] = (),
) -> None:  # fmt: skip
    """Draw and score one concept into `folder`, which appears when it is whole. Does nothing where it is there.

    `taught`: the concepts that the memory has been taught, which one may be taken for another.
    """
    if folder.is_dir():
        return
    if isinstance(tools.base, Classifier):
        _predict(tools, tools.base, concept, memory, called, folder)
        return
    started = time.perf_counter()
    prompts = tools.plan.prompts_for(concept)
    count = tools.plan.sampling.images_per_prompt
    measures = {name: tools.measure(name) for name in tools.plan.measures_for(concept)}  # what is missing shows first
    references = {
        name: kept_features(tools, lineage, concept, measure, "references") for name, measure in measures.items()
    }
    with tools.watch(f"drawing {concept.name}", len(prompts) * count) as advance:
        drawn = sample.images(
            tools.backbone, tools.method, memory, called, prompts, tools.plan.sampling, tools.side, advance
        )
    per_image = [prompt for prompt in prompts for _ in range(count)]
    features = {name: measure.features(drawn) for name, measure in measures.items()}
    record = _scored(concept, per_image, measures, features, references)
    record |= _failings(tools, lineage, concept, features, taught)
    record["drawn"] = sample.in_force(tools.backbone, tools.plan.sampling, tools.side)
    with building(folder) as partial:
        listed = []
        for number, (image, prompt) in enumerate(zip(drawn, per_image, strict=True)):
            file = f"{number:03d}.png"
            files.write_png(partial / file, image)
            listed.append({"file": file, "prompt": prompt, "latent": number % count})
        seconds = round(time.perf_counter() - started, 3)
        files.write_json(partial / "cell.json", {**record, "images": listed, "seconds": seconds})


def _predict(tools: Tools, base: Classifier, concept: Concept, memory: Memory, called: str, folder: Path) -> None:
    """The cell of a task: what its test pictures were taken for, and small copies of the first that were mistaken."""
    started = time.perf_counter()
    training, tests = tools.plan.training, tools.tests(concept, base)
    with tools.watch(f"predicting {concept.name}", len(tests.labels)) as advance:
        if memory.facts:
            record = predicting.remembered(base, training, tools.method, memory, called, concept, tests)
        else:
            record = predicting.of_base(base, training, concept, tests, tools.centres(base))
        advance(len(tests.labels), "")
    with building(folder) as partial:
        listed = []
        for place, wrong in enumerate(record.pop("mistakes")[: predicting.MISTAKES]):
            small = tests.images[wrong["picture"]].copy()
            small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
            files.write_png(partial / f"{place:03d}.png", small)
            prompt = f"{wrong['class']}, taken for {wrong['taken_for']}"
            listed.append({"file": f"{place:03d}.png", "prompt": prompt, "latent": wrong["picture"]})
        seconds = round(time.perf_counter() - started, 3)
        files.write_json(partial / "cell.json", {**record, "images": listed, "seconds": seconds})


def _scored(
    concept: Concept, per_image: Sequence[str], measures: Mapping[str, Measure], features: Mapping[str, Tensor],
    references: Mapping[str, Tensor],
) -> dict[str, Any]:  # fmt: skip
    """What a cell records of its scores."""
    record: dict[str, Any] = {"concept": concept.name, "scores": {}, "each": {}, "ceiling": {}, "measures": {}}
    for name, measure in measures.items():
        prompts = told(concept, measure, per_image)
        record["scores"][name] = measure.score_features(features[name], prompts, references[name])
        record["each"][name] = [round(one, 6) for one in measure.each(features[name], prompts, references[name])]
        record["ceiling"][name] = measure.ceiling(references[name])
        model = _without_path(measure.spec.get("model", ""))
        spec = {**measure.spec, "model": model}
        record["measures"][name] = {"direction": measure.direction, "model": model, "spec": spec}
    return record


def told(concept: Concept, measure: Measure, prompts: Sequence[str]) -> list[str]:
    """The prompts of a concept's pictures as a measure reads them: without a subject's token, where it wants that."""
    plain = measure.without_token and concept.kind == "subject"
    return [without(prompt, concept.token) if plain else prompt for prompt in prompts]


def _failings(
    tools: Tools, lineage: Lineage, concept: Concept, features: Mapping[str, Tensor], taught: Sequence[Concept]
) -> dict[str, Any]:
    """What a cell records beside its scores: `confusion`, `copying` and `shift`, each where it can be told."""
    found: dict[str, Any] = {}
    measure = tools.identity(concept)
    if measure is not None:
        generated, kind = features[measure.name], [c for c in taught if c.kind == concept.kind]
        if len(kind) > 1 and concept.name in {c.name for c in kind}:
            alike = {c.name: kept_features(tools, lineage, c, measure, "references") for c in kind}
            found["confusion"] = failings.confusion(measure, generated, alike, concept.name)
        # not of a concept that was taught when these features were not kept: its photos may be gone
        if concept.name not in lineage.concepts or _features_file(lineage, concept, measure, "training").is_file():
            training = kept_features(tools, lineage, concept, measure, "training")
            held = lineage.concept_facts(concept.name)["held_out"]
            real = kept_features(tools, lineage, concept, measure, "references") if held else None
            found["copying"] = failings.copying(measure, generated, training, real)
    first = next((row.cell(concept.name) for row in lineage.lessons if concept.name in row.concepts), None)
    shifting = [tools.measure(name) for name in features if tools.measure(name).shifts]
    if first is not None and shifting:
        then = [images.read_image(path) for path in first.images]
        found["shift"] = {m.name: m.compare(m.features(then), features[m.name]) for m in shifting}
    return found


def kept_features(
    tools: Tools, lineage: Lineage, concept: Concept, measure: Measure, which: Literal["references", "training"]
) -> Tensor:
    """Features of a concept's references or training images, kept in the lineage: photos are needed only once."""
    path = _features_file(lineage, concept, measure, which)
    if not path.exists():
        own = tools.pictures(concept)
        shown = own.references if which == "references" else [picture.image for picture in own.training]
        tensors.write(path, {"features": measure.reference_features(shown)})
    remedy = "delete it, and it is made again from the photos"
    kept = tensors.read(path, remedy)
    if "features" not in kept or not kept["features"].isfinite().all():
        raise LineageError(f"{path} is damaged: it holds no finite `features`; {remedy}")
    return kept["features"]


def _features_file(lineage: Lineage, concept: Concept, measure: Measure, which: str) -> Path:
    kind = "" if which == "references" else f"-{which}"
    by_content, with_place = (
        lineage.concept_folder(concept.name) / f"{measure.name}-{tag}{kind}.safetensors" for tag in _tags(measure)
    )
    return by_content if by_content.exists() or not with_place.exists() else with_place


def record_concept(tools: Tools, lineage: Lineage, concept: Concept) -> None:
    """Write what a concept is into the lineage: facts and small pictures. Raises LineageError where it has changed."""
    sketch = tools.sketch(concept)
    lineage.adopt_concept(concept, sketch.facts)
    for file, small in sketch.small.items():
        path = lineage.concept_folder(concept.name) / file
        if not path.is_file():
            files.write_png(path, small)


def _sketched(own: Pictures) -> Sketch:
    facts = {
        "digest": own.digest,
        "held_out": own.held_out,
        "training_images": len(own.training),
        "reference_images": len(own.references) if own.held_out else 0,
    }
    facts |= {"digests": dict(own.digests)} if own.digests else {}
    shown = {"train": [p.image for p in own.training[:KEPT]], "ref": own.references[:KEPT] if own.held_out else []}
    small = {f"{kind}-{k}.png": image.copy() for kind, each in shown.items() for k, image in enumerate(each)}
    for image in small.values():
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return Sketch(facts, small)


def _tags(measure: Measure) -> tuple[str, str]:
    """Features of one model or preprocessing are never taken for another's; where known weights lie does not count.

    The second is as lineages had it in which the place did count.
    """
    spec = {key: str(value) for key, value in measure.spec.items()}
    places = ("model", "revision") if "weights_sha256" in spec else ()
    content = {key: value for key, value in spec.items() if key not in places}
    return fingerprint(content)[:8], fingerprint(spec)[:8]


def _without_path(model: str) -> str:
    """What a model is called in a record: its hub id, or the name of its folder."""
    return Path(model).name if os.path.isabs(model) else model
