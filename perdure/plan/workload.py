"""How much work a plan is: lessons, training steps, evaluation images."""

from dataclasses import dataclass
from functools import lru_cache

from perdure.plan import tasks
from perdure.plan.concept import Concept
from perdure.plan.plan import Plan
from perdure.plan.scenes import sets


@dataclass(frozen=True)
class Workload:
    """Totals over all runs of a plan.

    images: drawn for the score matrices, row 0 (which the runs share) included; what a method or prior preservation
    draws to train on is not.
    """

    lessons: int
    steps: int
    images: int


def of(plan: Plan) -> Workload:
    """The work of a plan that is begun from nothing, with every picture drawn by itself."""
    count, runs = len(plan.sequence), len(plan.methods)
    base, rows = images(plan, 0), sum(images(plan, number) for number in range(1, count + 1))
    if (asked := plan.sampling.scenes) is not None:
        taught = [plan.sequence[:number] for number in range(1, count + 1) if whole(plan, number)]
        each = len(asked.hows) * len(asked.prompts) * asked.images_per_prompt
        rows += each * sum(len(sets(asked, known)) for known in taught)
    return Workload(
        lessons=runs * count + plan.joint,
        steps=sum(sum(lengths(run)) for run in plan.runs),
        images=base + runs * rows + plan.joint * base,
    )


def whole(plan: Plan, lesson: int) -> bool:
    """Whether after a lesson (from 1) of a run all that it has learnt is drawn; the last one's row always is whole."""
    return plan.sampling.rows == "all" or lesson == len(plan.sequence)


def row(plan: Plan, lesson: int) -> tuple[Concept, ...]:
    """The concepts that are drawn after a lesson of a run (0: by the untouched base)."""
    if not lesson or plan.sampling.unseen:
        return plan.sequence
    return plan.sequence[:lesson] if whole(plan, lesson) else plan.sequence[lesson - 1 : lesson]


def images(plan: Plan, lesson: int) -> int:
    """How many images of single concepts these are."""
    return sum(len(plan.prompts_for(concept)) for concept in row(plan, lesson)) * plan.sampling.images_per_prompt


def lengths(plan: Plan) -> tuple[int, ...]:
    """Training steps of each lesson of one run; the joint run has one. Raises ImageError for empty classes."""
    lessons = [plan.sequence] if plan.joint else [(concept,) for concept in plan.sequence]
    if plan.training.epochs is None:
        return (plan.training.steps,) * len(lessons)
    return tuple(tasks.steps(plan.training, sum(map(_pictures, concepts))) for concepts in lessons)


@lru_cache(maxsize=1024)
def _pictures(concept: Concept) -> int:
    """Kept, for whoever follows a sweep asks again and again."""
    return tasks.pictures(concept)


def lighter(plan: Plan, prompts: int, images: int) -> Plan:
    """The plan with so many evaluation prompts at most, and images of each."""
    kept = plan.sampling.prompts
    templates = kept.model_copy(update={"subject": kept.subject[:prompts], "style": kept.style[:prompts]})
    changed = {"prompts": templates, "images_per_prompt": images, "unseen": False, "rows": "all", "scenes": None}
    sampling = plan.sampling.model_copy(update=changed)
    concepts = tuple(concept.model_copy(update={"prompts": concept.prompts[:prompts]}) for concept in plan.concepts)
    return plan.model_copy(update={"sampling": sampling, "concepts": concepts})
