"""A lineage read once for a report: its score matrices, directions, ceilings and costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from perdure.analysis import record as analyses
from perdure.analysis.record import Analysis
from perdure.lineage import Lineage, exports, history
from perdure.lineage.rows import Cell, Row, start_of
from perdure.plan import yaml_file
from perdure.score import matrix
from perdure.score.matrix import Direction

CARRIED = {
    "delta": "weight change",
    "words": "learnt words",
    "own": "every concept's adapter",
    "pool": "every past adapter",
    "replay": "images of past concepts",
    "features": "text features of past concepts",
    "fisher": "Fisher information",
    "max": "largest value of each weight so far",
    "past_a": "sum of past A",
    "past_rows": "input directions of past A",
    "fused": "what is fused of it",
    "grams": "what inputs were like",
    "targets": "what past concepts' words are told",
}
"""Names under which memories carry tensors, in plain words; a new name is shown as it is."""
KNOWN = {"nothing": "nothing", "concept": "which concept is meant", "prompt": "the prompt"}
"""What must be told to recall, in plain words."""
BREACHES = {
    "own": "keeps every concept's adapter",
    "pool": "keeps every past adapter",
    "replay": "keeps images of past concepts",
    "max": "keeps a second set of weights beside the current one",
    "targets": "keeps what each concept's adapter says to its words",
}
"""How a carried name breaks the strict regime."""


@dataclass(frozen=True)
class Rules:
    """What was declared. `knows`: nothing, concept, prompt, or unknown in records of old; `carries`: (what, bytes)."""

    knows: str
    strict: bool
    carries: tuple[tuple[str, int], ...]
    breach: str
    """How the strict regime is broken, as the rest of a sentence; empty where it is kept."""

    @property
    def told(self) -> str:
        """What it knows when it draws, in words."""
        return KNOWN.get(self.knows, "–")


def rules_of(records: Sequence[Mapping[str, Any]], joint: bool) -> Rules:
    """The rules of a run from its lessons' records; bytes are those after the last lesson.

    `joint`: one lesson saw the images of all concepts, which no strict regime allows whatever the method is.
    """
    last = records[-1] if records else {}
    strict = not joint and all(record.get("strict", True) for record in records)
    carried = last.get("carries", {})
    ways = ["saw the images of all concepts at once"] if joint else []
    ways += [] if strict else [way for name, way in BREACHES.items() if name in carried]
    if not strict and not ways:
        ways.append("says so itself")
    if not strict and last.get("knows") == "concept":
        ways.append("is told which concept is meant")
    named = tuple((CARRIED.get(name, name), int(size)) for name, size in carried.items())
    return Rules(str(last.get("knows", "unknown")), strict, named, " and ".join(ways))


TEACHERS = ("lwf", "generative_replay", "dsc")
"""Methods that ask the model before a lesson; `training.preserve` and gradient scores of cns do so too."""


def outdated(settings: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Sentences about a run's figures; `records` are its lessons', which have no `revision` before the second."""
    old = [number for number, record in enumerate(records, start=1) if record.get("revision", 1) < 2]
    if not old:
        return ()
    training, (method, *_) = settings["training"], settings["methods"]
    name, told = method["name"], []
    gradients = name == "cns" and method.get("options", {}).get("importance") in ("saliency", "fisher")
    if old[-1] > 1 and (name in TEACHERS or gradients or training.get("preserve")):
        told.append("was held to base plus twice the past instead of the model before each lesson")
    if training.get("precision", "fp32") != "fp32":
        told.append("was drawn from weights rounded to half precision, in which small changes are lost")
    if name == "stamina" and training.get("gradient_checkpointing"):
        told.append("was trained on the gradients of other masks than those it was run with")
    return tuple(f"{sentence} (an error of the version that taught it); teach it again" for sentence in told)


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
        return [
            row for row in history.beside(self.lineage) if row.why == "refused" and row.start == start_of(self.rows)
        ]

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

    def primary(self, concept: str) -> str | None:
        """The first measure of a concept's kind that was taken."""
        wanted = self.lineage.settings["scoring"][self.facts[concept]["concept"]["kind"]]
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
    return [_read(line, label) for line, label in zip(lineages, labels, strict=True)]


def _read(lineage: Lineage, label: str) -> Run:
    names = tuple(lineage.concepts)
    scores = {measure: lineage.matrix(measure) for measure in lineage.measures}
    return Run(lineage, label, tuple(lineage.rows), names, scores)


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
        return dict.fromkeys(matrix.FORMULAS, float("nan"))
    counts = np.isfinite(S).any(axis=0)
    moved = {"shift": matrix.shift(run.distances(measure)[:, counts | (np.arange(counts.size) == counts.size - 1)])}
    if counts.all():
        return matrix.summary(S, run.direction(measure)) | moved
    result = matrix.summary(np.where(counts, S, 0.0), run.direction(measure))
    earlier = ("forgetting", "backward_transfer")
    for name, value in result.items():
        inside = counts[:-1] if name in earlier else counts[1:] if name == "forward_transfer" else counts
        result[name] = value * inside.size / inside.sum() if inside.any() else float("nan")
    return {**result, **moved, "running_average": float("nan"), "retention": float("nan")}
