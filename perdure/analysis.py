"""How the updates of a lineage's lessons meet in the weights: norms, cosines, signs, subspaces, shared entries.

The update of a lesson is what it changed of what lies under the base: recall after it minus recall before it, or, for
methods that keep each concept apart, the concept's own delta. Figures are means over projections unless they say which.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure import memory as memories
from perdure import method
from perdure.delta import Delta
from perdure.lineage import Lineage
from perdure.memory import Memory
from perdure.method import Wanted
from perdure.plan import MethodChoice

DIRECTIONS = 16
"""Singular directions of an update that are compared as its subspace."""


def sign_conflict(a: Tensor, b: Tensor) -> float:
    """Share of entries moved by both updates that they move in opposite directions; NaN where none is shared."""
    both = (a != 0) & (b != 0)
    return float(((a * b) < 0)[both].float().mean()) if both.any() else float("nan")


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two updates as vectors; NaN where one is zero."""
    norms = a.norm() * b.norm()
    return float((a * b).sum() / norms) if norms > 0 else float("nan")


def input_overlap(a: Tensor, b: Tensor) -> float:
    """Overlap of the input subspaces, in [0, 1]: mean squared cosine of the leading principal angles."""
    one, two = _leading(a), _leading(b)
    count = min(one.shape[1], two.shape[1])
    return float((one.T @ two).square().sum() / count) if count else float("nan")


def shared_entries(a: Tensor, b: Tensor) -> float:
    """Share of the entries that the first update moved which the second moved too; NaN where the first moved none."""
    moved = a != 0
    return float((b != 0)[moved].float().mean()) if moved.any() else float("nan")


PAIRS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "sign conflict": sign_conflict,
    "cosine": cosine,
    "input overlap": input_overlap,
    "shared entries": shared_entries,
}


@dataclass(frozen=True)
class Analysis:
    """Pairs of lessons: measure -> (lessons, lessons), means over projections; norms (lessons, projections)."""

    concepts: tuple[str, ...]
    projections: tuple[str, ...]
    norms: np.ndarray
    pairs: dict[str, np.ndarray]
    by_projection: dict[str, np.ndarray]
    """Measure -> (projections, lessons, lessons)."""

    def as_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes null."""

        def plain(array: np.ndarray) -> Any:
            if array.ndim:
                return [plain(part) for part in array]
            return None if np.isnan(array) else round(float(array), 6)

        return {
            "concepts": list(self.concepts),
            "projections": list(self.projections),
            "norms": plain(self.norms),
            "pairs": {name: plain(matrix) for name, matrix in self.pairs.items()},
            "by projection": {name: plain(cube) for name, cube in self.by_projection.items()},
        }


def analyse(lineage: Lineage) -> Analysis:
    """Compare the updates of all lessons, one projection at a time."""
    updates = list(_updates(lineage))
    concepts = tuple("+".join(row.concepts) for row in lineage.lessons)
    projections = tuple(dict.fromkeys(name for before, after in updates for name in (*before, *after)))
    count = len(updates)
    norms = np.zeros((count, len(projections)))
    cubes = {name: np.full((len(projections), count, count), np.nan) for name in PAIRS}
    for p, projection in enumerate(projections):
        matrices = [_difference(before, after, projection) for before, after in updates]
        norms[:, p] = [0.0 if m is None else float(m.norm()) for m in matrices]
        for i, one in enumerate(matrices):
            for j, two in enumerate(matrices):
                if one is not None and two is not None:
                    for name, compare in PAIRS.items():
                        cubes[name][p, i, j] = compare(one, two)
    pairs = {name: _mean_over_projections(cube) for name, cube in cubes.items()}
    return Analysis(concepts, projections, norms, pairs, cubes)


def _updates(lineage: Lineage) -> Iterator[tuple[Delta, Delta]]:
    """What lay under the base before and after each lesson."""
    choice = MethodChoice.model_validate(lineage.settings["methods"][0])
    consolidate = method.get(choice.name, choice.options).consolidate
    before = Memory()
    for row in lineage.lessons:
        after = memories.load(row.memory, lineage.store)
        wanted = Wanted(row.concepts[0])
        if consolidate.knows == "nothing":
            yield consolidate.recall(before, wanted), consolidate.recall(after, wanted)
        else:
            yield Delta(), consolidate.recall(after, wanted)
        before = after


def _difference(before: Delta, after: Delta, projection: str) -> Tensor | None:
    if projection not in after:
        return None
    new = after[projection].matrix()
    return new - before[projection].matrix() if projection in before else new


def _leading(matrix: Tensor) -> Tensor:
    """Leading right singular vectors (in, k) that carry the update."""
    _, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = int((values[:DIRECTIONS] > 1e-6 * values[0].clamp(min=1e-30)).sum())
    leading: Tensor = right[:kept].T
    return leading


def _mean_over_projections(cube: np.ndarray) -> np.ndarray:
    """Mean over the first axis, leaving out NaN; NaN where nothing is left."""
    counted = (~np.isnan(cube)).sum(axis=0)
    total = np.nansum(cube, axis=0)
    mean: np.ndarray = np.where(counted > 0, total / np.maximum(counted, 1), np.nan)
    return mean
