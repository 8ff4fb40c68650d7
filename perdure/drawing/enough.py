"""How many pictures a cell needs: until its mean score is known to a stated half-width, looked at a few times only.

A look is an interval of Student's t over the starting noises: the score of one is the mean over the prompts, which are
fixed, so noises are independent draws and prompts are not. With K looks each has the error (1 - confidence) / K, so
that by Bonferroni all intervals hold together, and that at which drawing stops holds whenever it stops (Pocock 1977
spends the error evenly too; his bounds are a little closer). For normal scores the confidence is at least what is said.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import stats
from torch import Tensor

from perdure.drawing.judging import told
from perdure.drawing.sample import Recall
from perdure.drawing.tools import Tools
from perdure.lineage import Lineage
from perdure.plan import Concept
from perdure.score.measure import Measure


def drawn(
    tools: Tools, concept: Concept, recall: Recall, called: str, references: Mapping[str, Tensor]
) -> tuple[Sequence[Image.Image], dict[str, Any]]:
    """A cell's pictures, prompt by prompt; what is recorded of the looks after which they were enough, where asked."""
    prompts, sampling, budget = tools.plan.prompts_for(concept), tools.plan.sampling, tools.plan.sampling.budget
    measure = _looked_at(tools, concept) if budget else None
    most = sampling.images_per_prompt
    stops = looks(budget.first, most) if budget and measure else [most]
    groups: list[list[list[Image.Image]]] = []
    scores, width, done = np.empty(0), float("inf"), 0
    with tools.watch(f"drawing {concept.name}", len(prompts) * most) as advance:
        for upto in stops:
            some = sampling.model_copy(update={"images_per_prompt": upto - done})
            more = recall.images(called, prompts, some, tools.side, advance, done)
            groups.append([more[k * (upto - done) :][: upto - done] for k in range(len(prompts))])
            done = upto
            if budget and measure:
                scores = np.append(scores, _by_noise(tools, concept, measure, groups[-1], references[measure.name]))
                width = half_width(scores, len(stops), budget.confidence)
                if width <= budget.half_width:
                    break
    images = [image for k in range(len(prompts)) for group in groups for image in group[k]]
    if not budget or not measure:
        return images, {}
    record = {"measure": measure.name, "noises": done, "most": most, "confidence": budget.confidence}
    return images, {"budget": {**record, "half_width": round(width, 6) if np.isfinite(width) else None}}


def stopped_by(tools: Tools, lineage: Lineage, concept: Concept) -> list[Any]:
    """What decides how many pictures of a concept are enough."""
    first = next(iter(tools.measures(concept).values()), None)
    spec = {key: str(value) for key, value in first.spec.items()} if first else {}
    return [spec, lineage.concept_facts(concept.name)["digest"]]


def _looked_at(tools: Tools, concept: Concept) -> Measure | None:
    """The concept's first measure, if it scores single pictures."""
    measure = next(iter(tools.measures(concept).values()), None)
    single = measure is not None and (measure.among is not None or measure.against == "prompts")
    return measure if single else None


def _by_noise(
    tools: Tools, concept: Concept, measure: Measure, groups: Sequence[Sequence[Image.Image]], references: Tensor
) -> np.ndarray:
    """Score of each noise (n,): the mean over prompts, of which each has a group of n pictures."""
    prompts = [p for p, group in zip(tools.plan.prompts_for(concept), groups, strict=True) for _ in group]
    with tools.known.alone:
        features = measure.features([image for group in groups for image in group])
        each = measure.each(features, told(concept, measure, prompts), references)
    scores: np.ndarray = np.array(each).reshape(len(groups), -1).mean(axis=0)
    return scores


def looks(first: int, most: int) -> list[int]:
    """Numbers of noises after which is looked: `first`, twice as many, and so on, and `most`."""
    found = []
    while first < most:
        found.append(first)
        first *= 2
    return [*found, most]


def half_width(scores: np.ndarray, looks: int, confidence: float) -> float:
    """Half the interval of the mean of scores (n,), one a noise, at one of so many looks; inf for fewer than two."""
    if len(scores) < 2:
        return float("inf")
    quantile = stats.t.ppf(1 - (1 - confidence) / looks / 2, len(scores) - 1)
    return float(quantile * np.std(scores, ddof=1) / len(scores) ** 0.5)
