"""Classes cut into tasks: what a classifier is taught one set after another, and what such a plan cannot have."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perdure.errors import PlanError
from perdure.plan import folders
from perdure.plan.choice import CLASSES, CLASSIFICATION, MethodChoice
from perdure.plan.concept import Concept
from perdure.plan.sections import Sampling
from perdure.plan.training import Training
from perdure.toybox import world

KEYS = frozenset(("tasks", "seed"))
TRAIN, TEST = "train", "test"
"""Sub-folders of a data set of classes; each holds a folder a class."""


def asked(concepts: Any) -> bool:
    """Whether a plan's `concepts` are classes to be cut into tasks."""
    if not isinstance(concepts, dict):
        return False
    toybox = concepts.get("toybox")
    return ("folder" in concepts and "tasks" in concepts) or (isinstance(toybox, dict) and "classes" in toybox)


def expand(concepts: dict[str, Any], resolve: Callable[[str], Any], seed: Any) -> list[dict[str, Any]]:
    """The tasks as concepts: `task-1` and so on, each with its classes. Raises PlanError.

    The classes are sorted by name, put into the order of numpy's `RandomState(seed).permutation` (as PILOT and InfLoRA
    shuffle them) and cut into `tasks` equal parts.
    """
    toybox = concepts.get("toybox")
    given, more = (
        (toybox, ("classes", "split", "images", "references")) if toybox else (concepts, ("folder", "classes"))
    )
    if unknown := sorted(set(given) - KEYS - set(more)):
        allowed = ", ".join((*more, *sorted(KEYS)))
        raise PlanError(f"concepts: {unknown[0]!r} is not known where classes are cut into tasks; allowed: {allowed}")
    seed = seed if given.get("seed") is None else given["seed"]
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise PlanError(f"concepts.seed is {seed!r}; classes are shuffled by a whole number from 0 to 2^32 - 1")
    names: Any
    if toybox:
        shared = {key: toybox[key] for key in ("split", "images", "references") if key in toybox}
        source: dict[str, Any] = {"drawn": {"what": "classes", "index": 0, "images": 40, "references": 40, **shared}}
        names = _drawn(toybox["classes"])
    else:
        root = Path(resolve(str(concepts["folder"])))
        names = concepts.get("classes")
        if names is None:
            names = folders.classes_in(root / TRAIN if (root / TRAIN).is_dir() else root)
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise PlanError(f"concepts.classes is {names!r}; give a list of names, each that of a folder of pictures")
        source, names = _stored(root, bool(concepts.get("classes"))), sorted(map(str, names))
    count = given.get("tasks", 1)
    if type(count) is not int or not 1 <= count <= len(names) or len(names) % count:
        raise PlanError(
            f"concepts.tasks is {count!r}, and there are {len(names)} classes; give a number that divides them equally"
        )
    order = np.random.RandomState(seed).permutation(len(names))
    shuffled, size = [names[i] for i in order], len(names) // count
    return [
        {"name": f"task-{k + 1}", "kind": CLASSES, "classes": shuffled[k * size : (k + 1) * size], **source}
        for k in range(count)
    ]


def _drawn(count: Any) -> list[str]:
    if type(count) is not int or not 2 <= count <= len(world.CLASSES):
        raise PlanError(f"concepts.toybox.classes is {count!r}; the world has {len(world.CLASSES)} classes, from 2 on")
    return sorted(world.CLASSES)[:count]


def _stored(root: Path, named: bool) -> dict[str, Any]:
    """Where the pictures of each class lie: below train/ and test/ where these are there, or classes are `named`."""
    if named or (root / TRAIN).is_dir():
        return {"images": root / TRAIN, "references": root / TEST}
    return {"images": root}


def stored(root: Path) -> dict[str, Any]:
    """A folder's classes, all in one task, and where their pictures lie. Raises ImageError where there are none."""
    train = root / TRAIN
    return {**_stored(root, False), "classes": folders.classes_in(train if train.is_dir() else root)}


def steps(training: Training, count: int) -> int:
    """Training steps of a lesson with so many pictures."""
    return (
        training.steps
        if training.epochs is None
        else training.epochs * math.ceil(count / (training.batch_size * training.accumulate))
    )


def pictures(concept: Concept) -> int:
    """Pictures of a task to train on."""
    if concept.drawn is not None:
        return len(concept.classes) * concept.drawn.images
    return sum(len(training) for training, _ in files(concept).values())


def files(concept: Concept) -> dict[str, tuple[tuple[Path, ...], tuple[Path, ...]]]:
    """Class -> its files to train on and to test on. Raises ImageError, and PlanError where none is left to train on.

    Without a folder of references, the last `hold_out` of each class are those to test on.
    """
    assert isinstance(concept.images, Path)  # Concept checks it
    found = {}
    for name in concept.classes:
        own = folders.list_images(concept.images / name)
        if isinstance(concept.references, Path):
            found[name] = own, folders.list_images(concept.references / name)
            continue
        if not 0 < concept.hold_out < len(own):
            raise PlanError(
                f"class {name!r} has {len(own)} images, and hold_out is {concept.hold_out}; give `references`: "
                "a folder with a folder of test pictures for each class, or hold out some and leave some to train on"
            )
        found[name] = own[: -concept.hold_out], own[-concept.hold_out :]
    return found


def unfit(
    task: str | None, concepts: Sequence[Concept], methods: Sequence[MethodChoice], training: Training,
    sampling: Sampling,
) -> list[str]:  # fmt: skip
    """What a plan of a task cannot have, a sentence each."""
    problems = [told for choice in methods if (told := choice.unfit(task))]
    classes = [(name.lower(), concept.name) for concept in concepts for name in concept.classes]
    if task != CLASSIFICATION:
        told = "concept {!r} is of classes; write `task: classification`"
        problems += [told.format(concept.name) for concept in concepts if concept.classes][:1]

        if training.epochs or training.head or training.crop == "resized":
            problems.append("training.epochs, training.head and crop: resized are for `task: classification` only")
        return problems
    problems += [
        f"concept {concept.name!r} is a {concept.kind}; with task: classification every concept is of kind: classes"
        for concept in concepts
        if not concept.classes
    ]
    seen = dict(reversed(classes))
    problems += [
        f"class {name!r} is in {seen[name]!r} and in {concept!r}; a class is taught once"
        for name, concept in classes
        if seen[name] != concept
    ]
    unmeant = {
        "training.prior": training.prior, "training.preview": training.preview,
        "training.min_snr": training.min_snr, "sampling.scenes": sampling.scenes,
        "sampling.unseen": sampling.unseen,
        "training.buckets": training.buckets, "training.views": training.views > 1,
        "training.crop: random": training.crop == "random",
    }  # fmt: skip
    problems += [f"{key} is not for classifiers; leave it out" for key, value in unmeant.items() if value]
    return problems
