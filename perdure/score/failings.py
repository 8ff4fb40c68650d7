"""Ways to fail that a score does not show: confusion, copying, drift, pictures that are all alike or like none known.

All but the last are taken with a measure that compares single pictures (`Measure.among`), from features that are known
already.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, cat, split

from perdure.score.measure import Measure

SIDE = 64
"""Pixels a side at which pictures are looked at: what differs in size alone counts as equal."""
FEATURES = (("darker", "brighter"), ("flatter", "harsher"), ("greyer", "more colourful"), ("smoother", "rougher"))
"""What is looked at, as words for too little and too much of it."""
ROOM = 0.5
"""How far beyond what is known a picture may lie, as a share of the range known (taste)."""
LEAST_ROOM = 0.05


def confusion(measure: Measure, generated: Tensor, references: Mapping[str, Tensor], own: str) -> dict[str, Any]:
    """Which concept do the pictures of `own` look like: the one whose references score each picture best.

    generated (m, d); references: concept -> (n, d). `share` of the pictures taken for another concept, in [0, 1];
    `taken_for`: how many for which; `real`: the same share among the concept's own references, each compared with the
    others (None for a single one); `among`: how many concepts there are to choose from.
    """
    taken = [most_alike(measure, picture, references) for picture in split(generated, 1)]
    others = [concept for concept in taken if concept != own]
    real = [most_alike(measure, picture, {**references, own: rest}) != own for picture, rest in _apart(references[own])]
    return {
        "measure": measure.name,
        "share": len(others) / len(taken),
        "taken_for": {concept: others.count(concept) for concept in dict.fromkeys(others)},
        "real": sum(real) / len(real) if real else None,
        "among": len(references),
    }


def copying(measure: Measure, generated: Tensor, training: Tensor, held_out: Tensor | None) -> dict[str, Any]:
    """How near pictures come to the training picture most like them, beside how near real pictures come to it.

    generated (m, d), training (n, d), held_out (k, d). `nearest`: mean over pictures of the best score with any one
    training picture; `real`: the same of held-out pictures, or, without any, of each training picture with the others
    (None for a single one). Nearer than real pictures is copying.
    """
    real = [(picture, training) for picture in split(held_out, 1)] if held_out is not None else _apart(training)
    return {
        "measure": measure.name,
        "nearest": float(np.mean([_nearest(measure, picture, training) for picture in split(generated, 1)])),
        "real": float(np.mean([_nearest(measure, picture, rest) for picture, rest in real])) if real else None,
    }


def drift(measure: Measure, before: Sequence[Image.Image], after: Sequence[Image.Image]) -> dict[str, Any]:
    """How far pictures of the same prompts and noise have moved: mean over pairs of one before and one after.

    `likeness`: the score of each picture after with that before; `pixels`: mean absolute difference in [0, 1].
    """
    old, new = split(measure.features(before), 1), split(measure.features(after), 1)
    pixels = [np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean() / 255
              for a, b in zip(before, after, strict=True)]  # fmt: skip
    return {
        "measure": measure.name,
        "likeness": float(np.mean([measure.compare(b, a) for a, b in zip(old, new, strict=True)])),
        "pixels": float(np.mean(pixels)),
    }


def most_alike(measure: Measure, picture: Tensor, references: Mapping[str, Tensor]) -> str:
    """The concept whose references (n, d) score a picture (1, d) best."""
    scores = {concept: measure.compare(picture, features) for concept, features in references.items()}
    return (max if measure.direction == "higher" else min)(scores, key=scores.__getitem__)


def _nearest(measure: Measure, picture: Tensor, training: Tensor) -> float:
    scores = [measure.compare(picture, one) for one in split(training, 1)]
    return max(scores) if measure.direction == "higher" else min(scores)


def _apart(features: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each row with all others; nothing for a single one."""
    count = len(features) if len(features) > 1 else 0
    return [(features[k : k + 1], cat([features[:k], features[k + 1 :]])) for k in range(count)]


def looks(images: Sequence[Image.Image]) -> np.ndarray:
    """Brightness, contrast, colour and roughness of each picture, (n, 4), each in [0, 1].

    Mean and deviation (twice) of the luminance; mean of the largest less the smallest of r, g, b; mean absolute
    difference of the luminance of neighbours, to the right and below.
    """
    found = []
    for image in images:
        rgb = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), np.float64) / 255
        luminance = rgb @ (0.299, 0.587, 0.114)
        rough = np.mean([np.abs(np.diff(luminance, axis=axis)).mean() for axis in (0, 1)])
        found.append((luminance.mean(), 2 * luminance.std(), (rgb.max(axis=2) - rgb.min(axis=2)).mean(), rough))
    return np.array(found).reshape(-1, len(FEATURES))


def outside(drawn: Sequence[Image.Image], known: Sequence[Image.Image]) -> dict[str, Any]:
    """How many pictures look like none that are known: those of the base, and the concept's own.

    `share` of the drawn ones beyond the range of the known ones, widened by `ROOM`, in any feature; `how`: word -> how
    many.
    """
    among, range_of = looks(known), looks(drawn)
    low, high = among.min(axis=0), among.max(axis=0)
    room = np.maximum(ROOM * (high - low), LEAST_ROOM)
    beyond = np.stack([range_of < low - room, range_of > high + room], axis=2)  # (n, features, too little or too much)
    counts = {word: int(beyond[:, f, k].sum()) for f, pair in enumerate(FEATURES) for k, word in enumerate(pair)}
    return {"share": float(beyond.any(axis=(1, 2)).mean()), "how": {w: n for w, n in counts.items() if n}}


def alike(measure: Measure, generated: Tensor, references: Tensor) -> dict[str, float] | None:
    """How the pictures (m, d) score one another, and the best that any reference (n, d) scores against the others.

    None where the measure compares no single pictures, or there are fewer than two on a side.
    """
    if measure.among is None or measure.against != "references" or min(len(generated), len(references)) < 2:
        return None
    own = [measure.compare(one, rest) for one, rest in _apart(references)]
    best = max(own) if measure.direction == "higher" else min(own)
    return {"among": measure.among(generated), "best": best}
