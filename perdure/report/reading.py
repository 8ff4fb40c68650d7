"""A lineage read once for a report: its score matrices, directions, ceilings and costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from perdure.analysis import record as analyses
from perdure.analysis.record import Analysis
from perdure.lineage import Lineage, exports, history
from perdure.lineage.rows import Cell, Row, start_of
from perdure.plan import yaml_file
from perdure.report.rules import Rules, outdated, rules_of
from perdure.score import accuracy, doubts, matrix
from perdure.score.doubts import Doubt
from perdure.score.matrix import Direction

JOINT = "joint"
BOUNDS = ("independent", JOINT)
"""Methods that mark what is attainable at any price, not contenders: never marked as best."""


@dataclass(frozen=True)
class Run:
    """One lineage and what a report needs of it. `label` is unique in the report."""

    lineage: Lineage
    label: str
    rows: tuple[Row, ...]
    concepts: tuple[str, ...]
    scores: dict[str, np.ndarray]
    """Measure -> S (lessons + 1, concepts)."""

    @property
    def lessons(self) -> int:
        """Finished lessons."""
        return len(self.rows) - 1

    @cached_property
    def classifies(self) -> bool:
        """Whether it is a classifier that learns classes."""
        return any(facts["concept"]["kind"] == "classes" for facts in self.facts.values())

    @property
    def joint(self) -> bool:
        """Whether one lesson taught several concepts at once."""
        return any(len(row.concepts) > 1 for row in self.rows)

    @property
    def bound(self) -> bool:
        """Whether this run is a bound to compare with."""
        return self.joint or self.label in BOUNDS or self.lineage.settings["methods"][0]["name"] in BOUNDS

    @cached_property
    def ends(self) -> bool:
        """Whether the rows between were left out: each lesson's own cell was drawn, and the last row (`rows: ends`)."""
        return bool(self.lineage.settings["sampling"].get("rows") == "ends")

    @cached_property
    def whole(self) -> bool:
        """Whether every concept learnt so far has a cell in the last row."""
        return all((self.lessons, name) in self.cells for name in self.concepts)

    @cached_property
    def rules(self) -> Rules:
        """What its method has declared, over all lessons."""
        return rules_of([row.record for row in self.rows[1:]], self.joint)

    @cached_property
    def outdated(self) -> tuple[str, ...]:
        """What is known to be wrong with its lessons, as the rest of sentences."""
        return outdated(self.lineage.settings, [row.record for row in self.rows[1:]])

    @cached_property
    def analysis(self) -> Analysis | None:
        """How its lessons meet in the weights, where that was computed for just these lessons."""
        return analyses.read(self.lineage) if self.lessons else None

    @cached_property
    def exports(self) -> list[dict[str, Any]]:
        """What was exported of it, with the proof of each."""
        return exports.read(self.lineage.folder)

    @cached_property
    def refused(self) -> list[Row]:
        """The lesson that its gate refused, where one stands beside the chain and can go into it now."""
        start, beside = start_of(self.lineage.rows), history.beside(self.lineage)
        return [row for row in beside if row.why == "refused" and row.start == start]

    @cached_property
    def facts(self) -> dict[str, dict[str, Any]]:
        """What is recorded of each concept."""
        return {name: self.lineage.concept_facts(name) for name in self.concepts}

    @cached_property
    def planned(self) -> int:
        """Concepts that the plan wants taught (at least those that were)."""
        concepts = yaml_file.kept(self.lineage.folder / "plan.yaml").get("concepts")
        return max(len(concepts) if isinstance(concepts, list) else 0, len(self.concepts))

    @cached_property
    def cells(self) -> dict[tuple[int, str], Cell]:
        """(row, concept) -> cell, where drawn."""
        found = ((i, name, row.cell(name)) for i, row in enumerate(self.rows) for name in self.concepts)
        return {(i, name): cell for i, name, cell in found if cell is not None}

    @cached_property
    def scenes(self) -> dict[str, dict[int, dict[str, Any]]]:
        """Set -> number of a lesson -> what is recorded of its pictures; sets as they were first drawn."""
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for number, row in enumerate(self.rows):
            for name, record in row.scenes.items():
                found.setdefault(name, {})[number] = record
        return found

    @cached_property
    def sizes(self) -> list[int]:
        """Of a classifier: how many test pictures each task has."""
        found = {name: accuracy.size(cell.record.get("counts", {})) for (_, name), cell in self.cells.items()}
        return [found.get(name, 0) for name in self.concepts]

    @cached_property
    def measure_records(self) -> dict[str, dict[str, Any]]:
        """Measure -> {direction, model, spec} as recorded with its first score."""
        records: dict[str, dict[str, Any]] = {}
        for cell in self.cells.values():
            for measure, record in cell.record.get("measures", {}).items():
                records.setdefault(measure, record)
        return records

    def direction(self, measure: str) -> Direction:
        """Which way a measure is better."""
        return "lower" if self.measure_records.get(measure, {}).get("direction") == "lower" else "higher"

    def ceiling(self, measure: str, concept: str) -> float:
        """Likeness of the references to one another; NaN where there is none."""
        for (_, name), cell in self.cells.items():
            value = cell.record.get("ceiling", {}).get(measure) if name == concept else None
            if value is not None:
                return float(value)
        return float("nan")

    def distances(self, measure: str) -> np.ndarray:
        """D (lessons + 1, concepts): how far pictures have moved since right after the concept's own lesson, or NaN."""
        D = np.full((len(self.rows), len(self.concepts)), np.nan)
        for (row, name), cell in self.cells.items():
            D[row, self.concepts.index(name)] = cell.record.get("shift", {}).get(measure, np.nan)
        return D

    def doubts(self, row: int, concept: str, measure: str | None = None) -> tuple[Doubt, ...]:
        """Why the score of a cell proves nothing, by default that of the concept's first measure; () where it holds."""
        named, cell = measure or self.primary(concept) or "", self.cells.get((row, concept))
        taught = self.facts[concept]["concept"]
        return doubts.of(cell.record, named, self.lineage.settings, taught) if cell else ()

    @cached_property
    def murky(self) -> tuple[str, ...]:
        """Concepts whose last scores mean nothing."""
        return tuple(name for name in self.concepts if any(d.murk for d in self.doubts(self.lessons, name)))

    def primary(self, concept: str) -> str | None:
        """The first measure of a concept's kind that was taken."""
        kind = self.facts[concept]["concept"]["kind"]
        wanted = accuracy.MEASURES if kind == "classes" else self.lineage.settings["scoring"][kind]
        taken = [m for m in wanted if m in self.scores and self.has(m, concept)]
        return taken[0] if taken else None

    def has(self, measure: str, concept: str) -> bool:
        """Whether a measure was ever taken of a concept."""
        return bool(np.isfinite(self.scores[measure][:, self.concepts.index(concept)]).any())

    def own_row(self, concept: str) -> int:
        """Number of the lesson that taught a concept."""
        return next(i for i, row in enumerate(self.rows) if concept in row.concepts)

    def score(self, measure: str | None, row: int, concept: str) -> float:
        """An entry of S."""
        if measure not in self.scores:
            return float("nan")
        return float(self.scores[measure][row, self.concepts.index(concept)])


def read(lineages: Sequence[Lineage]) -> list[Run]:
    """Read lineages in the given order; labels that occur twice become the folders' names."""
    labels = [str(line.settings["methods"][0]["label"]) for line in lineages]
    if len(set(labels)) < len(labels):
        labels = [line.folder.name for line in lineages]
    if len(set(labels)) < len(labels):
        labels = [f"{line.folder.parent.name}/{line.folder.name}" for line in lineages]
    return [
        Run(line, label, tuple(line.standing), tuple(line.concepts), {m: line.matrix(m) for m in line.measures})
        for line, label in zip(lineages, labels, strict=True)
    ]


def measures_of(runs: Sequence[Run]) -> list[str]:
    """All measures taken, each kind's first one in front."""
    taken = list(dict.fromkeys(m for run in runs for m in run.scores))
    first = primaries(runs)
    return [*first, *(m for m in taken if m not in first)]


def primaries(runs: Sequence[Run]) -> list[str]:
    """The measures that the page is about: the first one of each kind of concept at hand."""
    found = [run.primary(name) for run in runs for name in run.concepts]
    return list(dict.fromkeys(m for m in found if m is not None))


def figures(run: Run, measure: str) -> dict[str, float]:
    """`matrix.summary` of one measure; its sums run over the concepts that the measure was taken of.

    A column that was never measured is laid to 0, which adds nothing to a sum, and the means are taken again
    over the columns that count. With every column measured this is `matrix.summary` itself.
    """
    S = run.scores.get(measure)
    if S is None or S.shape[1] == 0 or S.shape[0] < 2:
        return dict.fromkeys((*matrix.FORMULAS, *accuracy.FORMULAS), float("nan"))
    counts = np.isfinite(S).any(axis=0)
    moved = {"shift": matrix.shift(run.distances(measure)[:, counts | (np.arange(counts.size) == counts.size - 1)])}
    moved |= dict.fromkeys(("forgetting_per_step", "forgetting_own"), float("nan"))
    if measure in accuracy.MEASURES:
        moved |= accuracy.figures(S, run.sizes)
    if counts.all():
        return matrix.summary(S, run.direction(measure)) | moved
    result = matrix.summary(np.where(counts, S, 0.0), run.direction(measure))
    earlier = ("forgetting", "backward_transfer")
    for name, value in result.items():
        inside = counts[:-1] if name in earlier else counts[1:] if name == "forward_transfer" else counts
        result[name] = value * inside.size / inside.sum() if inside.any() else float("nan")
    return {**result, **moved, "running_average": float("nan"), "retention": float("nan")}
