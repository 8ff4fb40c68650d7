"""Compare the updates of all lessons of a lineage, one projection at a time."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from perdure import method
from perdure.analysis import record, sums
from perdure.analysis.record import ALL, KINDS, Analysis
from perdure.analysis.sums import Sums, mean, of_updates, pooled
from perdure.analysis.updates import Shelf, Stored, of_projection
from perdure.errors import LineageError
from perdure.lineage import Lineage
from perdure.plan import MethodChoice, mistakes
from perdure.progress import Watch, silent

CHEAP = 100_000_000
"""Moved weights times lessons up to which a run compares its lessons by itself: some seconds on one core."""


def analyse(lineage: Lineage, watch: Watch = silent) -> Analysis:
    """Compare all lessons. Raises LineageError for a lineage without lessons or moved weights, or a damaged one.

    Memory: one projection of every lesson at a time. Time: about T x weights x rank for the numbers, and for dense
    updates one symmetric eigenvalue problem a projection and lesson.
    """
    if not lineage.lessons:
        raise LineageError(f"{lineage.folder} has no lesson to analyse; teach it one")
    if (found := _compared(lineage, watch)) is None:
        raise LineageError(f"{lineage.folder}: no lesson has moved any weight, so there is nothing to compare")
    return found


@torch.no_grad()
def _compared(lineage: Lineage, watch: Watch) -> Analysis | None:
    """The lessons compared; None where none has moved any weight."""
    rows = lineage.lessons
    with mistakes.understood(lineage.folder / "lineage.json", MethodChoice):
        choice = MethodChoice.model_validate(lineage.settings["methods"][0])
    rules = method.get(choice.name, choice.options).consolidate
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
    return _analysis(lineage, found, apart=rules.knows != "nothing", facts=stored[-1].facts) if found else None


def _analysis(lineage: Lineage, found: dict[str, Sums], apart: bool, facts: Mapping[str, object]) -> Analysis:
    groups = {ALL: list(found), **{k: [name for name in found if k in record.kinds_of(name)] for k in KINDS}}
    off = ~np.eye(len(lineage.lessons), dtype=bool)
    random = {
        "input overlap": mean([part.random_inputs for part in found.values()])[off],
        "output overlap": mean([part.random_outputs for part in found.values()])[off],
        "shared entries": sums.shared_at_random(list(found.values()))[off],
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
    )


def after_run(lineage: Lineage) -> None:
    """Compare the lessons of a finished run and keep the outcome, unless it is there, or empty, or would take long."""
    wanted = len(lineage.lessons) > 1 and record.read(lineage) is None and work(lineage) <= CHEAP
    if wanted and (found := _compared(lineage, silent)) is not None:
        record.write(lineage, found)


def work(lineage: Lineage) -> int:
    """Moved weights times lessons."""
    rows, shelf = lineage.lessons, Shelf(lineage.store)
    return len(rows) * Stored.at(rows[-1].memory, shelf).weights(shelf) if rows else 0
