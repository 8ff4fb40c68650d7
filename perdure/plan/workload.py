"""How much work a plan is: lessons, training steps, evaluation images."""

from dataclasses import dataclass

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
    """The work of a plan that is begun from nothing.

    After each lesson every concept learnt so far is drawn, or every concept of the plan if `sampling.unseen`.
    """
    each = [len(plan.prompts_for(concept)) * plan.sampling.images_per_prompt for concept in plan.sequence]
    runs, lessons = len(plan.methods), len(plan.methods) * len(each) + plan.joint
    rows = [sum(each) if plan.sampling.unseen else sum(each[:number]) for number in range(1, len(each) + 1)]
    if (asked := plan.sampling.scenes) is not None:
        many = len(asked.prompts) * asked.images_per_prompt
        rows = [row + many * len(sets(asked, plan.sequence[:number])) for number, row in enumerate(rows, start=1)]
    return Workload(
        lessons=lessons,
        steps=(runs + plan.joint) * len(each) * plan.training.steps,  # joint: one lesson, as long as all of a run
        images=sum(each) + runs * sum(rows) + plan.joint * sum(each),
    )


def lighter(plan: Plan, prompts: int, images: int) -> Plan:
    """The plan with so many evaluation prompts at most, and images of each."""
    kept = plan.sampling.prompts
    templates = kept.model_copy(update={"subject": kept.subject[:prompts], "style": kept.style[:prompts]})
    changed = {"prompts": templates, "images_per_prompt": images, "unseen": False, "scenes": None}
    sampling = plan.sampling.model_copy(update=changed)
    concepts = tuple(concept.model_copy(update={"prompts": concept.prompts[:prompts]}) for concept in plan.concepts)
    return plan.model_copy(update={"sampling": sampling, "concepts": concepts})
