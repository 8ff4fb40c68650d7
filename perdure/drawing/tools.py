"""What is loaded once and used for every lesson, and what a lineage keeps of the concepts' pictures."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from perdure import files, method, score
from perdure.bases import outline
from perdure.bases.backbone import Backbone
from perdure.bases.classifier import Classifier
from perdure.bases.loading import Base
from perdure.drawing import predicting
from perdure.drawing.content import Known
from perdure.drawing.predicting import Centres, Tests
from perdure.drawing.sample import Recall
from perdure.errors import ModelError
from perdure.lineage import Lineage
from perdure.memory import Memory
from perdure.method import Method
from perdure.parts.guard import preserving
from perdure.photos import pictures
from perdure.photos.pictures import Pictures
from perdure.plan import EMBEDDED, Concept, Plan
from perdure.plan.fields import OWN
from perdure.progress import Watch, silent
from perdure.score.measure import Measure

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
    known: Known = field(default_factory=Known)
    scoring: bool = True
    """Whether pictures are scored when they are drawn, or later by `score_later`."""
    _pictures: dict[str, Pictures] = field(default_factory=dict)
    _sketches: dict[str, Sketch] = field(default_factory=dict)
    _tests: dict[str, Tests] = field(default_factory=dict)
    _centres: list[Centres] = field(default_factory=list)
    _recall: Recall | None = field(init=False, default=None)
    _aside: Future[None] | None = field(init=False, default=None)
    _helper: ThreadPoolExecutor | None = field(init=False, default=None)

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
        if model is None and self.plan.base in EMBEDDED and (own := score.card(scoring.source(name)).embedded):
            model = str(outline.EMBEDDED / "scorers" / own)
        code = scoring.code.get(name, OWN)
        return score.load(name, model, str(self.base.device), code.file, code.digest)

    def measures(self, concept: Concept) -> dict[str, Measure]:
        """The measures of a concept by name; none where nothing is scored."""
        return {name: self.measure(name) for name in self.plan.measures_for(concept)} if self.scoring else {}

    def identity(self, concept: Concept) -> Measure | None:
        """The first of a concept's measures that compares single pictures; what it looks like is told by that."""
        return next(
            (m for m in self.measures(concept).values() if m.among is not None and m.against == "references"), None
        )

    def pictures(self, concept: Concept) -> Pictures:
        """A concept's pictures. Only those asked for last are kept: photos of all concepts would fill the memory."""
        found = self._pictures.get(concept.name)
        if found is None:
            found = pictures.of(concept)
            self._pictures.clear()
            self._pictures[concept.name] = found
        return found

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

    def recall(self, memory: Memory) -> Recall:
        """What a memory recalls; that of the memory asked for last is kept, with what it has put together."""
        if self._recall is not None and self._recall.memory is memory:
            return self._recall
        recall = Recall(self.backbone.drawn_in(self.plan.sampling.precision), self.method, memory)
        if memory.tensors:  # else it is the untouched base
            self._recall = recall
        return recall

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """While a row is drawn: a cell is scored and written aside, while the next one is drawn.

        One at a time and in their order, each as it would be alone. Raises what the last ones raise at the end; what
        was put together on the device is let go of.
        """
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(1, "scoring", torch.set_num_threads, (threads,)) as self._helper:
            try:
                yield
                self.finished()
            finally:
                self._recall = self._helper = self._aside = None

    def aside(self, work: Callable[[], None]) -> None:
        """Do it aside where a row is drawn, after what is done there already; else at once."""
        if self._helper is None or self.backbone.performance.attention != "default":  # that holds for all threads
            work()
            return
        self.finished()  # no more than two cells are held
        self._aside = self._helper.submit(work)

    def finished(self) -> None:
        """Wait for what is done aside. Raises what it raises."""
        if self._aside is not None:
            self._aside.result()

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
