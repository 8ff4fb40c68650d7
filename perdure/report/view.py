"""Lineages -> the plain values of the page. All computing is here or below; the template only lays out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from perdure.lineage.rows import Row
from perdure.plan import portable, yaml_file
from perdure.report import classes, heat, samples, scenes, states, summary, tables, trends, weights
from perdure.report.charts import Chart, inline, look_of, spark
from perdure.report.reading import Run, measures_of, primaries
from perdure.report.sentences import Finding, finding, lacking, shared
from perdure.report.tables import Failings

KEPT = 4
"""Pictures of a concept's training and reference sets that a lineage keeps."""


@dataclass(frozen=True)
class Heat:
    """The heat maps of one measure, one a run, on one scale."""

    measure: str
    better: str
    legend: Markup
    maps: tuple[tuple[Run, Markup], ...]


@dataclass(frozen=True)
class ConceptView:
    """What is known of a concept."""

    name: str
    kind: str
    prompt: str
    held_out: bool
    counts: str
    training: tuple[Path, ...]
    references: tuple[Path, ...]
    prompts: tuple[str, ...]
    resolution: int
    buckets: int | None
    """`training.buckets`, by which pictures are cut."""


@dataclass(frozen=True)
class Page:
    """Everything on the page, in its order."""

    title: str
    finding: Finding
    runs: tuple[Run, ...]
    colours: dict[str, int]
    tables: tuple[summary.Table, ...]
    failings: tuple[Failings, ...]
    other_tables: tuple[summary.Table, ...]
    confusions: tuple[classes.Confusion, ...]
    comparison: samples.Sheet | None
    sheets: tuple[samples.Sheet, ...]
    refused: tuple[tuple[Run, Row, samples.Sheet], ...]
    pictures_per_cell: int
    scenes: scenes.Scenes | None
    heats: tuple[Heat, ...]
    curves: tuple[Chart, ...]
    weights: weights.Weights | None
    exported: tuple[Run, ...]
    lacking: tuple[str, ...]
    shared: tuple[str, ...]
    concepts: tuple[ConceptView, ...]
    bytes_chart: Chart | None
    budget: tuple[trends.Budget, ...]
    losses: tuple[tuple[Run, tuple[tuple[str, str, Markup], ...]], ...]
    measures: dict[str, dict[str, Any]]
    sampling: dict[str, Any]
    plan: str


def page(runs: Sequence[Run], title: str) -> Page:
    """All values of the page for runs in the given order."""
    limits = samples.ranges(runs)
    first, measures = primaries(runs), measures_of(runs)
    colours = {run.label: number % 8 for number, run in enumerate(runs)}
    drawing = [run for run in runs if not run.classifies]
    started = next((run for run in runs if run.concepts), None)
    return Page(
        title=title,
        finding=finding(runs),
        runs=tuple(runs),
        colours=colours,
        tables=tuple(summary.table(runs, m) for m in first),
        failings=tables.failings(runs),
        other_tables=tuple(summary.table(runs, m) for m in measures if m not in first),
        confusions=classes.confusions(runs),
        comparison=samples.comparison(drawing, started.concepts[0], limits) if started else None,
        sheets=tuple(samples.sheet(run, limits) for run in drawing if run.lessons),
        refused=tuple(
            (r, row, states.of_lesson(r.lineage, r.lineage.rows[-1], row)) for r in drawing for row in r.refused
        ),
        pictures_per_cell=max((len(cell.images) for run in runs for cell in list(run.cells.values())[:1]), default=0),
        scenes=scenes.section(runs),
        heats=tuple(_heat(runs, m, limits[m]) for m in measures if m in limits),
        curves=trends.curves(runs, first, colours),
        weights=weights.section(runs, colours),
        exported=tuple(run for run in runs if run.exports),
        lacking=lacking(runs),
        shared=shared(runs),
        concepts=_concepts(runs),
        bytes_chart=trends.bytes_chart(runs, colours),
        budget=tuple(trends.budget(run) for run in runs if run.lessons),
        losses=tuple((run, _losses(run, look_of(colours[run.label]).colour)) for run in runs if run.lessons),
        measures={m: record for run in reversed(runs) for m, record in run.measure_records.items()},
        sampling=runs[0].lineage.settings.get("sampling", {}),
        plan=yaml_file.dump(_plan(runs)),
    )


def _heat(runs: Sequence[Run], measure: str, limits: tuple[float, float]) -> Heat:
    chosen = [run for run in runs if measure in run.scores]
    better = chosen[0].direction(measure)
    maps = tuple((run, _heat_map(run, measure, limits)) for run in chosen)
    return Heat(measure, better, heat.bar(limits, measure, better), maps)


def _heat_map(run: Run, measure: str, limits: tuple[float, float]) -> Markup:
    title = f"{measure} of {run.label}: rows are the base and the lessons, columns the concepts"
    return inline(matrix(run, measure, limits), title)


def matrix(run: Run, measure: str, limits: tuple[float, float]) -> Figure:
    """The score matrix of a run: rows the base and the lessons, columns the concepts that the measure was taken of."""
    shown = [j for j, name in enumerate(run.concepts) if run.has(measure, name)]
    S = run.scores[measure][:, shown]
    names = [run.concepts[j] for j in shown]
    rows = ["base", *(f"{i} {trends.taught(row.concepts)}" for i, row in enumerate(run.rows[1:], 1))]
    own = [(run.own_row(name), j) for j, name in enumerate(names) if np.isfinite(S[run.own_row(name), j])]
    return heat.heat_map(S, rows, names, limits, run.direction(measure), own)


def _concepts(runs: Sequence[Run]) -> tuple[ConceptView, ...]:
    holders = {name: run for run in reversed(runs) for name in run.concepts}
    order = dict.fromkeys(name for run in runs for name in run.concepts)
    return tuple(_concept(holders[name], name) for name in order)


def _concept(run: Run, name: str) -> ConceptView:
    facts = run.facts[name]
    concept, folder = facts["concept"], run.lineage.concept_folder(name)
    training, references = (
        tuple(p for k in range(KEPT) if (p := folder / f"{kind}-{k}.png").is_file()) for kind in ("train", "ref")
    )
    held = facts.get("reference_images", 0)
    counts = f"{facts.get('training_images', len(training))} training images"
    counts += f", {held} held-out references" if facts.get("held_out") else ""
    cell = next((cell for (_, n), cell in run.cells.items() if n == name), None)
    prompts = tuple(dict.fromkeys(i["prompt"] for i in cell.record["images"])) if cell else ()
    return ConceptView(
        name,
        concept["kind"],
        concept["prompt"] or ", ".join(concept.get("classes", ())),
        bool(facts.get("held_out")),
        counts,
        training,
        references,
        prompts,
        run.lineage.settings["training"]["resolution"],
        run.lineage.settings["training"].get("buckets"),
    )


def _losses(run: Run, colour: str) -> tuple[tuple[str, str, Markup], ...]:
    """(lesson, facts, curve) of at most `samples.MOST` lessons."""
    shown = []
    for i in (k + 1 for k in samples.pick(run.lessons)):
        row = run.rows[i]
        losses = [float(step["loss"]) for step in row.losses()]
        name = f"{i} {trends.taught(row.concepts)}"
        tail = f", last {losses[-1]:.3f}" if losses and math.isfinite(losses[-1]) else ""
        drawn = spark(losses, colour)
        curve = inline(drawn, f"Training loss of lesson {name}, {run.label}") if drawn else Markup("")
        shown.append((name, f"{len(losses)} steps{tail}", curve))
    return tuple(shown)


def _plan(runs: Sequence[Run]) -> dict[str, Any]:
    """The settings that the runs share, with all their methods and concepts."""
    methods = [run.lineage.settings["methods"][0] for run in runs]
    facts = {name: run.facts[name]["described"] for run in runs for name in run.concepts}
    whole: dict[str, Any] = portable({**runs[0].lineage.settings, "methods": methods})
    return {**whole, "concepts": list(facts.values())}
