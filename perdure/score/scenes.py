"""Scores of pictures of several concepts: each concept in its own region, and all of them together."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, split

from perdure.score import failings
from perdure.score.measure import Measure


def crop(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """A part of a picture (x0, y0, x1, y1 in pixels), in the middle of a white square."""
    part = image.crop(box)
    side = max(part.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return square


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
