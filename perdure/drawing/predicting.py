"""What a classifier takes the test pictures of a task for, as a memory recalls it: a cell of the matrix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from perdure.bases.classifier import Classifier
from perdure.errors import TrainingError
from perdure.memory import Memory
from perdure.method import Method, Wanted
from perdure.parts import head
from perdure.plan import Concept, Training
from perdure.score import accuracy

MISTAKES = 8
"""Pictures that were taken for something else of which a cell keeps small copies."""
BASE = "row 0: the nearest class mean of the base's features, among all classes of the plan"


@dataclass(frozen=True)
class Tests:
    """The test pictures of a task: as they are, as bytes for the base, and the class of each."""

    images: Sequence[Image.Image]
    pictures: Tensor
    labels: Sequence[str]


@dataclass(frozen=True)
class Centres:
    """The base's mean feature (classes, width) of each class's training pictures; the classes, by task."""

    means: Tensor
    tasks: Mapping[str, Sequence[str]]


def centres(base: Classifier, training: Training, tasks: Mapping[str, tuple[Tensor, Sequence[str]]]) -> Centres:
    """The class means of some tasks' training pictures: task -> (bytes, the class of each)."""
    found, classes = [], {}
    for task, (pictures, labels) in tasks.items():
        classes[task] = list(dict.fromkeys(labels))
        features = base.all_features(base.middle(pictures), training)
        found.append(head.means(features, labels, classes[task]))
    return Centres(torch.cat(found), classes)


def of_base(base: Classifier, training: Training, concept: Concept, tests: Tests, known: Centres) -> dict[str, Any]:
    """What the untouched base takes a task's pictures for: the class whose mean is nearest. A cell's record."""
    logits = head.nearest(base.all_features(tests.pictures, training), known.means)
    return _record(concept, tests, logits, known.tasks, told=False)


def remembered(
    base: Classifier, training: Training, method: Method, memory: Memory, called: str, concept: Concept, tests: Tests
) -> dict[str, Any]:
    """What a model taught by a method takes a task's pictures for. A cell's record.

    A method that must be told the task is not asked to choose among all classes. Raises TrainingError where what it
    predicts is not finite.
    """
    rules = method.consolidate
    with torch.no_grad(), base.laid(rules.recall(memory, Wanted(called))):
        features = base.all_features(tests.pictures, training)
    logits = head.classified(method, memory, features, training.head or head.PLAIN)
    if not logits.isfinite().all():
        raise TrainingError(
            f"what is predicted of {concept.name} is not finite and is not scored; try a smaller training.learning_rate"
        )
    return _record(concept, tests, logits, head.classes_of(memory), told=rules.knows != "nothing")


def _record(
    concept: Concept, tests: Tests, logits: Tensor, tasks: Mapping[str, Sequence[str]], told: bool
) -> dict[str, Any]:
    classes = [name for own in tasks.values() for name in own]
    of_task = {name: task for task, own in tasks.items() for name in own}
    mine = torch.tensor([name in concept.classes for name in classes])
    taken = {
        accuracy.CLASS_IL: [] if told else [classes[i] for i in logits.argmax(dim=1).tolist()],
        accuracy.TASK_IL: [classes[i] for i in logits.masked_fill(~mine, -torch.inf).argmax(dim=1).tolist()],
    }
    counted = {name: accuracy.counts(tests.labels, own) for name, own in taken.items() if own}
    measure, first = next(iter(counted.items()))
    spec = {name: {"what": accuracy.SPEC[name], "base": BASE} for name in counted}
    record: dict[str, Any] = {
        "concept": concept.name,
        "scores": {name: accuracy.of(own) for name, own in counted.items()},
        "measures": {name: {"direction": "higher", "model": "", "spec": spec[name]} for name in counted},
        "counts": first,
        "each": {name: [float(a == b) for a, b in zip(tests.labels, taken[name], strict=True)] for name in counted},
    }
    if len(tasks) > 1 and not told:
        elsewhere = [of_task[name] for name in taken[measure] if name not in concept.classes]
        record["confusion"] = {
            "measure": measure,
            "share": len(elsewhere) / len(tests.labels),
            "taken_for": {task: elsewhere.count(task) for task in dict.fromkeys(elsewhere)},
            "real": None,
            "among": len(tasks),
        }
    pairs = zip(tests.labels, taken[measure], strict=True)
    wrong = [(number, own, other) for number, (own, other) in enumerate(pairs) if own != other]
    record["mistakes"] = [{"picture": number, "class": own, "taken_for": other} for number, own, other in wrong]
    return record
