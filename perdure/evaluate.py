"""One cell of the score matrix: a concept drawn from a memory, and scored."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from perdure import files, method, pictures, sample, score, tensors
from perdure.backbones.backbone import Backbone
from perdure.backbones.loading import EMBEDDED
from perdure.errors import LineageError, PlanError
from perdure.lineage import Lineage
from perdure.memory import Memory
from perdure.method import Method
from perdure.parts.guard import preserving
from perdure.pictures import Pictures
from perdure.plan import TOYBOX, Concept, Plan, fingerprint
from perdure.progress import Watch, silent
from perdure.rows import building
from perdure.score.measure import Measure
from perdure.trackers import Tracker

EMBEDDED_SCORERS = {"clip_i": "clip", "clip_t": "clip", "mmd": "clip", "dino": "dino", "csd": "csd"}
"""Which of the embedded scorers plays which measure's role on the embedded base."""
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
    backbone: Backbone
    watch: Watch = silent
    tracker: Tracker = field(default_factory=Tracker)
    _pictures: dict[str, Pictures] = field(default_factory=dict)
    _sketches: dict[str, Sketch] = field(default_factory=dict)

    def measure(self, name: str) -> Measure:
        """A measure with the model that the plan names for it (loaded once a process)."""
        source = self.plan.scoring.models.get(name)
        if source is None and self.plan.base == TOYBOX and name in EMBEDDED_SCORERS:
            source = str(EMBEDDED / "scorers" / EMBEDDED_SCORERS[name])
        return score.load(name, source, str(self.backbone.device))

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

    @property
    def method(self) -> Method:
        """The plan's method (of a plan of one)."""
        choice, preserve = self.plan.methods[0], self.plan.training.preserve
        chosen = method.get(choice.name, choice.options)
        return preserving(chosen, preserve.weight, preserve.prompts) if preserve else chosen

    def check_tokens(self) -> None:
        """Raises PlanError where the method learns a word and a concept has no token that could become it."""
        if self.method.adapter.words and (bare := [c.name for c in self.plan.concepts if not c.token]):
            learns = f"method {self.plan.methods[0].name!r} learns a word for each concept's token"
            raise PlanError(f"{learns}; give a `token` to {', '.join(map(repr, bare))}")

    @property
    def side(self) -> int:
        """Side of the evaluation images in pixels."""
        return self.plan.sampling.resolution or self.plan.training.resolution


def evaluate(tools: Tools, lineage: Lineage, concept: Concept, memory: Memory, called: str, folder: Path) -> None:
    """Draw and score one concept into `folder`, which appears when it is whole. Does nothing where it is there."""
    if folder.is_dir():
        return
    started = time.perf_counter()
    prompts = tools.plan.prompts_for(concept)
    count = tools.plan.sampling.images_per_prompt
    measures = {name: tools.measure(name) for name in tools.plan.measures_for(concept)}  # what is missing shows first
    references = {name: reference_features(tools, lineage, concept, measure) for name, measure in measures.items()}
    with tools.watch(f"drawing {concept.name}", len(prompts) * count) as advance:
        images = sample.images(
            tools.backbone, tools.method, memory, called, prompts, tools.plan.sampling, tools.side, advance
        )
    per_image = [prompt for prompt in prompts for _ in range(count)]
    scores: dict[str, float] = {}
    ceilings: dict[str, float | None] = {}
    specs: dict[str, Any] = {}
    for name, measure in measures.items():
        scores[name] = measure.score(images, per_image, references[name])
        ceilings[name] = ceiling(measure, references[name])
        spec = dict(measure.spec)
        specs[name] = {"direction": measure.direction, "model": spec.get("model", ""), "spec": spec}
    with building(folder) as partial:
        listed = []
        for number, (image, prompt) in enumerate(zip(images, per_image, strict=True)):
            file = f"{number:03d}.png"
            files.write_png(partial / file, image)
            listed.append({"file": file, "prompt": prompt, "latent": number % count})
        record = {"concept": concept.name, "scores": scores, "ceiling": ceilings, "measures": specs, "images": listed}
        files.write_json(partial / "cell.json", {**record, "seconds": round(time.perf_counter() - started, 3)})


def reference_features(tools: Tools, lineage: Lineage, concept: Concept, measure: Measure) -> Tensor:
    """Features of a concept's references, kept in the lineage so that photos are needed only once."""
    path = lineage.concept_folder(concept.name) / f"{measure.name}-{_tag(measure)}.safetensors"
    if not path.exists():
        tensors.write(path, {"features": measure.reference_features(tools.pictures(concept).references)})
    remedy = "delete it, and it is made again from the photos"
    kept = tensors.read(path, remedy)
    if "features" not in kept or not kept["features"].isfinite().all():
        raise LineageError(f"{path} is damaged: it holds no finite `features`; {remedy}")
    return kept["features"]


def ceiling(measure: Measure, references: Tensor) -> float | None:
    """Likeness of the references to one another (pairs of different images): what a perfect concept would score.

    None for measures that compare with prompts or are not likenesses, and for a single reference.
    """
    if measure.against != "references" or measure.direction != "higher" or len(references) < 2:
        return None
    likeness = references.double() @ references.double().T
    count = len(references)
    return float((likeness.sum() - likeness.diagonal().sum()) / (count * (count - 1)))


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
    shown = {"train": [p.image for p in own.training[:KEPT]], "ref": own.references[:KEPT] if own.held_out else []}
    small = {f"{kind}-{k}.png": image.copy() for kind, images in shown.items() for k, image in enumerate(images)}
    for image in small.values():
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return Sketch(facts, small)


def _tag(measure: Measure) -> str:
    """Features of one model or preprocessing are never taken for another's."""
    return fingerprint({k: str(v) for k, v in measure.spec.items()})[:8]
