"""Several concepts in one picture: sets drawn after each lesson, what their regions look like, and how they fade."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from perdure import files
from perdure.plan.sections import How
from perdure.report import heat, samples
from perdure.report.charts import inline
from perdure.report.palette import fraction_of
from perdure.report.reading import Run
from perdure.report.samples import Column, Line, Sample, Sheet
from perdure.report.tables import mean_of
from perdure.wording import short_number

HEADINGS = (
    ("Worst region", "mean over pictures and sets of the score of the region that is least like its concept"),
    ("All right", "share of pictures in which every region is most like its own concept among those shown"),
    ("By chance", "the same where each region is like any of those shown"),
    ("Taken for another", "share of regions that are most like another concept, of all that are taught"),
    ("Wrong count", "share of pictures in which another number of things was found than there should be"),
    ("Prompt", "likeness of the whole picture to the whole prompt"),
    ("Whole picture", "likeness of whole pictures to each concept, which one concept alone can raise"),
    ("Forgetting", "best score of the worst region after any lesson, less that after the last, mean over sets"),
)  # fmt: skip
"""(column, what it is), after the last lesson."""
LOWER = ("Taken", "Wrong", "Forgetting")
"""What columns begin with of which less is better."""
HOWS: tuple[How, ...] = ("plain", "attention", "noise")


@dataclass(frozen=True)
class Scenes:
    """The section of a page. `table`: a line for each run and way of drawing; `measure`: what regions are scored by."""

    measure: str
    table: tuple[tuple[Run, str, tuple[str, ...]], ...]
    sheets: tuple[Sheet, ...]
    legend: Markup
    maps: tuple[tuple[Run, Markup], ...]


def section(runs: Sequence[Run]) -> Scenes | None:
    """What runs with scenes show of them; None where no run has any."""
    runs = [run for run in runs if run.scenes]
    if not runs:
        return None
    measure, limits = _scale(runs)
    better = runs[0].direction(measure)
    return Scenes(
        measure=measure,
        table=tuple((run, how, _entries(run, how)) for how in HOWS for run in runs if _drawn(run, how)),
        sheets=tuple(_sheet(run, limits, measure) for run in runs),
        legend=heat.bar(limits, measure, better),
        maps=tuple((run, _map(run, limits, better, measure)) for run in runs) if measure else (),
    )


def _scale(runs: Sequence[Run]) -> tuple[str, tuple[float, float]]:
    """What regions are scored by ("" where they are not), and the least and greatest score of a worst region."""
    records = [record for run in runs for own in run.scenes.values() for record in own.values()]
    values = [value for record in records if math.isfinite(value := _least(record))]
    measure = next((r["regions"]["measure"] for r in records if r.get("regions")), "")
    return measure, (min(values, default=0.0), max(values, default=1.0))


def figures(run: Run, how: str) -> dict[str, float]:
    """After the last lesson that drew any in a way, means over its sets, by column of `HEADINGS`; NaN where not
    measured.
    """
    sets = _drawn(run, how)
    last = max((number for own in sets.values() for number in own), default=0)
    records = [own[last] for own in sets.values() if last in own]
    regions = [record["regions"] for record in records if record.get("regions")]
    fallen = []
    for own in sets.values():
        series = [value for record in own.values() if math.isfinite(value := _least(record))]
        if len(series) > 1:
            falling = run.direction(regions[0]["measure"]) == "lower" if regions else False
            fallen.append(series[-1] - min(series) if falling else max(series) - series[-1])
    confused = [one["share"] for region in regions for one in region["confusion"].values()]
    counted = [r["miscounted"] for r in regions if r.get("miscounted") is not None]
    found = (
        mean_of([r["least"] for r in regions]), mean_of([r["right"] for r in regions]),
        mean_of([r["chance"] for r in regions]), mean_of(confused), mean_of(counted),
        mean_of([float(np.mean(list(r["scores"].values()))) for r in records if r["scores"]]),
        mean_of([value for r in regions for value in r["whole"].values()]), mean_of(fallen),
    )  # fmt: skip
    return {title: value for (title, _), value in zip(HEADINGS, found, strict=True)}


def compared(runs: Sequence[Run], sets: int = 2) -> Sheet | None:
    """Runs downwards; of the first sets their real pictures, and what was drawn last in each way. None without scenes.

    Always the same prompt and latent.
    """
    runs = [run for run in runs if run.scenes]
    if not runs:
        return None
    measure, limits = _scale(runs)
    ways = [how for how in HOWS if any(_drawn(run, how) for run in runs)]
    records = [next(iter(own.values())) for own in runs[0].scenes.values()]
    shown = list(dict.fromkeys(tuple(record["concepts"]) for record in records))[:sets]
    heads = [(title, " and ".join(names)) for names in shown for title in (*["reference"] * len(names), *ways)]
    lines = []
    for run in runs:
        places: list[Sample] = []
        for names in shown:
            own = {how: name for how in ways for name, drawn in _drawn(run, how).items() if _concepts(drawn) == names}
            places += _real(run, names)
            places += [_last(run, own[how], limits, measure) if how in own else _EMPTY for how in ways]
        lines.append(Line(run.label, "", "", measure, tuple(places)))
    return Sheet("scenes", tuple(Column(*head) for head in heads), tuple(lines), "")


def _drawn(run: Run, how: str) -> dict[str, dict[int, dict[str, Any]]]:
    return {name: own for name, own in run.scenes.items() if all(record["how"] == how for record in own.values())}


def _entries(run: Run, how: str) -> tuple[str, ...]:
    return tuple(short_number(value) if math.isfinite(value) else "–" for value in figures(run, how).values())


def _least(record: dict[str, Any]) -> float:
    return float((record.get("regions") or {}).get("least", math.nan))


def _map(run: Run, limits: tuple[float, float], better: str, measure: str) -> Markup:
    """The matrix of scenes: lessons downwards from the second, sets across."""
    sets, lessons = run.scenes, range(2, run.lessons + 1)
    S = np.array([[_least(own.get(i, {})) for own in sets.values()] for i in lessons]).reshape(-1, len(sets))
    rows = [f"{i} {run.rows[i].name}" for i in lessons]
    own = [(min(records) - 2, j) for j, records in enumerate(sets.values()) if min(records) >= 2]
    title = f"{measure} of the worst region, of {run.label}: rows are the lessons, columns the sets"
    return inline(heat.heat_map(S, rows, list(sets), limits, better, [o for o in own if np.isfinite(S[o])]), title)


def _sheet(run: Run, limits: tuple[float, float], measure: str) -> Sheet:
    """Sets downwards, lessons across: the first picture of each, always the same prompt and latent."""
    sets = run.scenes
    all_lessons = sorted({number for own in sets.values() for number in own})
    lessons = [all_lessons[k] for k in samples.pick(len(all_lessons))]
    names = [list(sets)[k] for k in samples.pick(len(sets))]
    most = max(len(record["concepts"]) for own in sets.values() for record in own.values())
    lines = tuple(_line(run, name, sets[name], lessons, limits, measure, most) for name in names)
    note = ""
    if len(lessons) < len(all_lessons) or len(names) < len(sets):
        note = f"Shown: {len(names)} of {len(sets)} sets and {len(lessons)} of {len(all_lessons)} lessons."
    real = [Column("reference", f"concept {number} of the set") for number in range(1, most + 1)]
    return Sheet(run.label, (*real, *(Column(f"lesson {i}", run.rows[i].name) for i in lessons)), lines, note)


def _line(
    run: Run, name: str, own: dict[int, dict[str, Any]], lessons: Sequence[int], limits: tuple[float, float],
    measure: str, most: int,
) -> Line:  # fmt: skip
    first = next(iter(own.values()))
    places = _real(run, first["concepts"])
    places += [Sample("empty", None, math.nan, 0.0, f"{name} has no more concepts")] * (most - len(places))
    for number in lessons:
        if number not in own or not own[number]["images"]:
            places.append(Sample("empty", None, math.nan, 0.0, f"{name}: not drawn after lesson {number}"))
            continue
        places.append(_shown(run, name, own, number, limits, measure))
    return Line(name, "set", first["images"][0]["prompt"] if first["images"] else "", measure, tuple(places))


def _real(run: Run, names: Sequence[str]) -> list[Sample]:
    return [
        Sample("reference", samples.reference_of(run, concept), math.nan, 0.0, f"{concept}, a real picture")
        for concept in names
    ]


def _shown(
    run: Run, name: str, own: dict[int, dict[str, Any]], number: int, limits: tuple[float, float], measure: str
) -> Sample:
    """The first picture of a set after a lesson, with the score of its worst region."""
    score = _least(own[number])
    path: Path = files.within(run.rows[number].folder / "scenes" / name, own[number]["images"][0]["file"])
    fraction = fraction_of(score, *limits, run.direction(measure)) if math.isfinite(score) else 0.0
    state: samples.State = "own" if number == min(own) else "after"
    return Sample(state, path, score, fraction, f"{name} drawn after lesson {number}")


_EMPTY = Sample("empty", None, math.nan, 0.0, "not drawn so")


def _concepts(drawn: dict[int, dict[str, Any]]) -> tuple[str, ...]:
    return tuple(next(iter(drawn.values()))["concepts"])


def _last(run: Run, name: str, limits: tuple[float, float], measure: str) -> Sample:
    return _shown(run, name, run.scenes[name], max(run.scenes[name]), limits, measure)
