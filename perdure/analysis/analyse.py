"""Compare the updates of all lessons of a lineage, one projection at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perdure import method
from perdure.analysis import record
from perdure.analysis.record import ALL, CROSS, KINDS, Analysis, Part
from perdure.analysis.updates import Shelf, Stored, Update, of_projection
from perdure.errors import LineageError
from perdure.lineage import Lineage
from perdure.plan import MethodChoice, mistakes
from perdure.progress import Watch, silent

DIRECTIONS = 16
"""Singular directions of an update that are compared as its subspace (taste: the usual rank of an adapter)."""
BLOCK = 4_000_000
"""Entries of all updates that are held as numbers at a time."""


@dataclass(frozen=True)
class Sums:
    """One projection with `weights` entries; every array is (T, T) over the lessons i, j.

    dot: <u_i, u_j>. both: entries that both moved. opposed: of these, moved in opposite directions. turned (i < j):
    entries where u_i and u_i + ... + u_j have opposite signs. inputs, outputs: overlaps of the leading subspaces, and
    what random subspaces of that many directions would give.
    """

    weights: int
    dot: np.ndarray
    both: np.ndarray
    opposed: np.ndarray
    turned: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    random_inputs: np.ndarray
    random_outputs: np.ndarray


def of_updates(updates: Sequence[Update | None]) -> Sums:
    """Count one projection; an update that is None moved nothing. At least one must not be None."""
    moved = [u for u in updates if u is not None]
    out, into = moved[0].shape
    count = len(updates)
    dot, both, opposed = (torch.zeros(count, count, dtype=torch.float64) for _ in range(3))
    turned = torch.full((count, count), torch.nan, dtype=torch.float64).tril(-1)
    step = max(1, BLOCK // (count * into))
    for first in range(0, out, step):
        last = min(first + step, out)
        still = torch.zeros(last - first, into, dtype=torch.float64)
        block = torch.stack([still if u is None else u.rows(first, last) for u in updates]).flatten(1)
        signs = block.sign()
        met = signs.abs() @ signs.abs().T
        dot += block @ block.T
        both += met
        opposed += (met - signs @ signs.T) / 2  # sign products: agreeing minus opposed
        for i in range(count):
            turned[i, i:] += ((signs[i] * block[i:].cumsum(dim=0).sign()) < 0).sum(dim=1)
    found = [None if u is None else u.directions(DIRECTIONS) for u in updates]
    sides = [[None if pair is None else pair[side] for pair in found] for side in (0, 1)]
    overlaps = [_overlaps(bases) for bases in sides]
    values = (dot, both, opposed, turned, overlaps[0][0], overlaps[1][0], overlaps[0][1], overlaps[1][1])
    return Sums(out * into, *(tensor.numpy() for tensor in values))


def overlap(one: Tensor, two: Tensor) -> float:
    """Mean squared cosine of the principal angles between two orthonormal bases (n, k) and (n, l), in [0, 1].

    The cosines are the singular values of one' two (Björck & Golub 1973, theorem 1), so their squares sum to its
    squared Frobenius norm. NaN where a basis is empty.
    """
    count = min(one.shape[1], two.shape[1])
    return float((one.T @ two).square().sum() / count) if count else float("nan")


def _overlaps(bases: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Overlaps (T, T), and their mean for random subspaces: the larger count of directions over all there are."""
    found = torch.full((2, len(bases), len(bases)), torch.nan, dtype=torch.float64)
    for i, one in enumerate(bases):
        for j, two in enumerate(bases):
            if one is not None and two is not None:
                found[0, i, j] = overlap(one, two)
                found[1, i, j] = max(one.shape[1], two.shape[1]) / one.shape[0]
    return found[0], found[1]


def pooled(parts: Sequence[Sums], apart: bool = False) -> Part:
    """Several projections as one: counts and products are added up; overlaps of subspaces are averaged.

    `apart`: updates do not follow upon one another, so nothing was overturned.
    """
    weights = sum(part.weights for part in parts)
    dot, both, opposed, turned = (
        np.sum([getattr(part, name) for part in parts], axis=0) for name in ("dot", "both", "opposed", "turned")
    )
    norms = np.sqrt(np.diagonal(dot))
    moved = np.diagonal(both)
    with np.errstate(invalid="ignore", divide="ignore"):  # nothing to compare: 0 / 0 is NaN
        pairs = {
            "sign conflict": opposed / both,
            "overturned": np.full_like(turned, np.nan) if apart else turned / weights,
            "cosine": np.clip(dot / np.outer(norms, norms), -1.0, 1.0),
            "input overlap": mean([part.inputs for part in parts]),
            "output overlap": mean([part.outputs for part in parts]),
            "shared entries": both / moved[:, None],
        }
    return Part(weights, norms, moved / weights, pairs)


def shared_at_random(parts: Sequence[Sums]) -> np.ndarray:
    """Shared entries (T, T) of lessons that move as many entries of each projection as they did, drawn at random."""
    moved = [np.diagonal(part.both) for part in parts]
    shared = np.sum([np.outer(own, own) / part.weights for own, part in zip(moved, parts, strict=True)], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):  # a lesson that moved nothing: 0 / 0 is NaN
        result: np.ndarray = shared / np.sum(moved, axis=0)[:, None]
    return result


def mean(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of matrices, entry by entry, leaving out NaN; NaN where nothing is left."""
    stacked = np.stack(matrices)
    counted = np.isfinite(stacked).sum(axis=0)
    total = np.nansum(stacked, axis=0)
    result: np.ndarray = np.where(counted > 0, total / np.maximum(counted, 1), np.nan)
    return result


CHEAP = 100_000_000
"""Moved weights times lessons up to which a run compares its lessons by itself: some seconds on one core."""


def analyse(lineage: Lineage, watch: Watch = silent, cross: str = CROSS) -> Analysis:
    """Compare all lessons; cross: the names of layers that read text, as the base's family tells them.

    Raises LineageError for a lineage without lessons or moved weights, or a damaged one.

    Memory: one projection of every lesson at a time. Time: about T x weights x rank for the numbers, and for dense
    updates one symmetric eigenvalue problem a projection and lesson.
    """
    if not lineage.lessons:
        raise LineageError(f"{lineage.folder} has no lesson to analyse; teach it one")
    if (found := _compared(lineage, watch, cross)) is None:
        raise LineageError(f"{lineage.folder}: no lesson has moved any weight, so there is nothing to compare")
    return found


@torch.no_grad()
def _compared(lineage: Lineage, watch: Watch, cross: str) -> Analysis | None:
    """The lessons compared; None where none has moved any weight."""
    rows = lineage.lessons
    with mistakes.understood(lineage.folder / "lineage.json", MethodChoice):
        choice = MethodChoice.model_validate(lineage.settings["methods"][0])
    rules = method.of(choice).consolidate
    shelf = Shelf(lineage.store)
    stored = [Stored.at(row.memory, shelf) for row in rows]
    called = [row.name for row in rows]
    projections = list(dict.fromkeys(name for memory in stored for name in memory.places))
    found: dict[str, Sums] = {}
    with watch("comparing updates", len(projections)) as advance:
        for name in projections:
            held: dict[str, Tensor] = {}  # lessons share most of their tensors
            slices = [memory.slice(name, shelf, held) for memory in stored]
            updates = of_projection(slices, called, rules, name)
            if any(update is not None for update in updates):
                found[name] = of_updates(updates)
            advance(1, "")
    kinds = {name: record.kinds_of(name, cross) for name in found}
    return _analysis(lineage, found, kinds, rules.knows != "nothing", stored[-1].facts) if found else None


def _analysis(
    lineage: Lineage,
    found: dict[str, Sums],
    kinds: Mapping[str, Sequence[str]],
    apart: bool,
    facts: Mapping[str, object],
) -> Analysis:
    groups = {ALL: list(found), **{k: [name for name in found if k in kinds[name]] for k in KINDS}}
    off = ~np.eye(len(lineage.lessons), dtype=bool)
    random = {
        "input overlap": mean([part.random_inputs for part in found.values()])[off],
        "output overlap": mean([part.random_outputs for part in found.values()])[off],
        "shared entries": shared_at_random(list(found.values()))[off],
    }
    return Analysis(
        lessons=tuple(record.names(lineage)),
        memories=tuple(record.digests(lineage)),
        apart=apart,
        parts={k: pooled([found[name] for name in names], apart) for k, names in groups.items() if names},
        chance={"sign conflict": 0.5, "cosine": 0.0}
        | {m: float(np.nanmean(values)) for m, values in random.items() if np.isfinite(values).any()},
        selection=record.selection_of(facts),
        layers={name: pooled([part], apart) for name, part in found.items()},
        kinds=kinds,
    )


def after_run(lineage: Lineage, cross: str = CROSS) -> None:
    """Compare the lessons of a finished run and keep the outcome, unless it is there, or empty, or would take long."""
    wanted = len(lineage.lessons) > 1 and record.read(lineage) is None and work(lineage) <= CHEAP
    if wanted and (found := _compared(lineage, silent, cross)) is not None:
        record.write(lineage, found)


def work(lineage: Lineage) -> int:
    """Moved weights times lessons."""
    rows, shelf = lineage.lessons, Shelf(lineage.store)
    return len(rows) * Stored.at(rows[-1].memory, shelf).weights(shelf) if rows else 0
