"""Scores of pictures of several concepts: each concept in its own region, and all of them together."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor, cat, split

from perdure.score import failings
from perdure.score.measure import Measure


def crop(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """A part of a picture (x0, y0, x1, y1 in pixels), in the middle of a white square."""
    part = image.crop(box)
    side = max(part.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return square


def matched(
    measure: Measure, crops: Sequence[Tensor], references: Mapping[str, Tensor], shown: Sequence[str], whole: Tensor
) -> dict[str, Any]:
    """What pictures show in which nobody has placed the concepts: what was found is matched with them first.

    crops: of each picture the features (k, d) of the k things found in it, the surest first; of more than there should
    be, the first are matched, so that the sum of scores is best. A concept that nothing is left for scores 0 (by a
    distance, the worst there is). The result is that of `regions`, but that `right` asks for the right number too, and
    `chance` is what matching alone gives, n! / n^n; `miscounted`: share of pictures with another number.
    """
    missing = 0.0 if measure.direction == "higher" else measure.range[1]
    known = {concept: references[concept] for concept in shown}
    scores: dict[str, list[float]] = {concept: [] for concept in shown}
    taken: dict[str, list[Tensor]] = {concept: [] for concept in shown}
    right = []
    for found in crops:
        ones = _match(measure, list(split(found[: len(shown)], 1)) if len(found) else [], known)
        for concept in shown:
            own = ones.get(concept)
            scores[concept].append(missing if own is None else measure.compare(own, known[concept]))
            taken[concept] += [] if own is None else [own]
        alike = all(failings.most_alike(measure, one, known) == concept for concept, one in ones.items())
        right.append(len(found) == len(shown) and alike)
    worst: Any = np.min if measure.direction == "higher" else np.max
    return {
        "measure": measure.name,
        "crop": {concept: float(np.mean(own)) for concept, own in scores.items()},
        "least": float(worst(list(scores.values()), axis=0).mean()),
        "right": float(np.mean(right)),
        "chance": math.factorial(len(shown)) / len(shown) ** len(shown),
        "confusion": {c: failings.confusion(measure, cat(own), references, c) for c, own in taken.items() if own},
        "whole": {concept: measure.compare(whole, features) for concept, features in known.items()},
        "miscounted": float(np.mean([len(found) != len(shown) for found in crops])),
    }


def _match(measure: Measure, ones: Sequence[Tensor], known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Concept -> the crop (1, d) that is its, so that the sum of all scores is best."""
    table = np.array([[measure.compare(one, features) for features in known.values()] for one in ones])
    rows, columns = linear_sum_assignment(table.reshape(-1, len(known)), maximize=measure.direction == "higher")
    return {list(known)[column]: ones[row] for row, column in zip(rows, columns, strict=True)}


def regions(
    measure: Measure, crops: Mapping[str, Tensor], references: Mapping[str, Tensor], whole: Tensor
) -> dict[str, Any]:
    """What the regions of some pictures look like, by a measure that compares single pictures.

    crops: concept -> features (m, d) of its region in each of m pictures; references: concept -> (n, d), of those shown
    and others; whole: features (m, d) of the pictures. `crop`: concept -> mean score of its crops. `least`: mean over
    pictures of the score of the worst crop. `right`: share of pictures of which each crop is most like its own concept
    among those shown; `chance`: the same where each crop is like any of the k with one probability, k^-k. `confusion`:
    for each region, among all references. `whole`: concept -> score of whole pictures, which one concept can raise.
    """
    shown = {concept: references[concept] for concept in crops}
    scores = {c: [measure.compare(one, references[c]) for one in split(own, 1)] for c, own in crops.items()}
    taken = [[failings.most_alike(measure, one, shown) == c for one in split(own, 1)] for c, own in crops.items()]
    worst: Any = np.min if measure.direction == "higher" else np.max
    return {
        "measure": measure.name,
        "crop": {concept: float(np.mean(own)) for concept, own in scores.items()},
        "least": float(worst(list(scores.values()), axis=0).mean()),
        "right": float(np.all(taken, axis=0).mean()),
        "chance": len(crops) ** -len(crops),
        "confusion": {c: failings.confusion(measure, own, references, c) for c, own in crops.items()},
        "whole": {concept: measure.compare(whole, features) for concept, features in shown.items()},
    }
