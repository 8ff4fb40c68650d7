"""What changes from lesson to lesson: scores, bytes, seconds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from perdure import wording
from perdure.report import summary
from perdure.report.charts import BASE, CEILING, Chart, Series, line_chart, look_of
from perdure.report.reading import Run
from perdure.report.tables import mean_of
from perdure.wording import short_number


@dataclass(frozen=True)
class Budget:
    """What one run cost: a line of the table, and bytes carried after each lesson."""

    run: Run
    entries: tuple[str, ...]
    carried: tuple[tuple[str, str], ...]


BUDGET_HEADINGS = (
    "Lessons", "Carried after the first", "Carried at the end", "Stored in all", "Training per lesson",
    "Fusing, last lesson", "Memory of fusing", "Evaluation per lesson", "Peak memory", "Device",
)  # fmt: skip


def taught(names: Sequence[str]) -> str:
    """What a lesson taught, in few words."""
    return f"all {len(names)} at once" if len(names) > 1 else "".join(names)


def curves(runs: Sequence[Run], measures: Sequence[str], colours: dict[str, int]) -> tuple[Chart, ...]:
    """For each measure: the first concept it was taken of, the mean of all seen so far, what each lesson taught."""
    charts = []
    for measure in measures:
        chosen = [run for run in runs if measure in run.scores and run.lessons]
        if not chosen:
            continue
        longest = max(chosen, key=lambda run: run.lessons)
        first = next(name for name in longest.concepts if longest.has(measure, name))
        ticks = ["base", *(f"{i} {taught(row.concepts)}" for i, row in enumerate(longest.rows[1:], 1))]
        charts.append(_first_chart(chosen, longest, measure, first, ticks, colours))
        charts.append(_mean_chart(chosen, longest, measure, ticks, colours))
        charts.append(_learning_chart(chosen, longest, measure, ticks, colours))
    return tuple(charts)


def _first_chart(
    runs: Sequence[Run], longest: Run, measure: str, first: str, ticks: list[str], colours: dict[str, int]
) -> Chart:
    chosen = [run for run in runs if first in run.concepts]
    columns = [[run.score(measure, i, first) for i in range(len(run.rows))] for run in chosen]
    series = [_series(run, colours, v, len(ticks)) for run, v in zip(chosen, columns, strict=True)]
    base, ceiling = longest.score(measure, 0, first), longest.ceiling(measure, first)
    series += _bounds([base] * len(ticks), [ceiling] * len(ticks))
    title = f"{first}, the first concept scored: {measure} after each lesson"
    note = f"{first} is taught in lesson {longest.own_row(first)}."
    return Chart(title, note, line_chart(series, ticks, short_number))


def _mean_chart(runs: Sequence[Run], longest: Run, measure: str, ticks: list[str], colours: dict[str, int]) -> Chart:
    series = [_series(run, colours, means(run, measure), len(ticks)) for run in runs]
    base = [_mean(longest, measure, i, 0) for i in range(len(ticks))]
    ceilings = {name: longest.ceiling(measure, name) for name in longest.concepts}
    top = [mean_of([ceilings[n] for n in _seen(longest, measure, i)]) for i in range(len(ticks))]
    series += _bounds(base, top)
    title = f"Mean of the concepts seen so far: {measure} after each lesson"
    note = "The mean is over more concepts with every lesson, so base and ceiling change, too."
    return Chart(title, note, line_chart(series, ticks, short_number))


def _learning_chart(
    runs: Sequence[Run], longest: Run, measure: str, ticks: list[str], colours: dict[str, int]
) -> Chart:
    series = [_series(run, colours, learning(run, measure), len(ticks)) for run in runs]
    rows = range(len(ticks))
    base = [mean_of(_own(longest, measure, i, 0)) for i in rows]
    ceilings = {name: longest.ceiling(measure, name) for name in longest.concepts}
    top = [mean_of([ceilings[name] for name in _taught_in(longest, measure, i)]) for i in rows]
    series += _bounds(base, top)
    title = f"Each concept right after its own lesson: {measure}"
    note = "Some concepts are harder than others: compare the methods in one lesson, and their distance along the way."
    return Chart(title, note, line_chart(series, ticks, short_number))


def learning(run: Run, measure: str) -> list[float]:
    """Score of what each lesson taught, right after it, (lessons + 1,); NaN for the base."""
    return [mean_of(_own(run, measure, i, i)) for i in range(len(run.rows))]


def _own(run: Run, measure: str, lesson: int, row: int) -> list[float]:
    """Scores after a row of what a lesson taught."""
    return [run.score(measure, row, name) for name in _taught_in(run, measure, lesson)]


def _taught_in(run: Run, measure: str, lesson: int) -> list[str]:
    return [name for name in run.rows[lesson].concepts if run.has(measure, name)] if lesson else []


def means(run: Run, measure: str) -> list[float]:
    """Mean score of the concepts seen so far, (lessons + 1,); NaN before the first."""
    return [_mean(run, measure, i, i) for i in range(len(run.rows))]


def _seen(run: Run, measure: str, lesson: int) -> list[str]:
    return [n for row in run.rows[: lesson + 1] for n in row.concepts if run.has(measure, n)]


def _mean(run: Run, measure: str, lesson: int, row: int) -> float:
    return mean_of([run.score(measure, row, name) for name in _seen(run, measure, lesson)])


def _series(run: Run, colours: dict[str, int], values: list[float], count: int) -> Series:
    """A run's line; the one lesson of a joint run is drawn at the end, level all along."""
    look = look_of(colours[run.label])
    if run.joint:
        return Series(run.label, (values[-1],) * count, replace(look, marker="", line=(0, (5, 2, 1, 2))))
    return Series(run.label, tuple(values), look)


def _bounds(base: list[float], ceiling: list[float]) -> list[Series]:
    series = [Series("base", tuple(base), BASE)]
    if any(map(math.isfinite, ceiling)):
        series.append(Series("ceiling", tuple(ceiling), CEILING))
    return series


def bytes_chart(runs: Sequence[Run], colours: dict[str, int]) -> Chart | None:
    """Bytes carried after each lesson, stepwise; nothing is carried before the first."""
    chosen = [run for run in runs if run.lessons]
    if not chosen:
        return None
    longest = max(chosen, key=lambda run: run.lessons)
    ticks = ["base", *(f"{i} {taught(row.concepts)}" for i, row in enumerate(longest.rows[1:], 1))]
    series = [Series(run.label, (0.0, *_carried(run)), look_of(colours[run.label]), step=True) for run in chosen]
    return Chart("Bytes carried after each lesson", "", line_chart(series, ticks, wording.size, from_zero=True))


def _carried(run: Run) -> list[float]:
    return [float(row.record.get("bytes", {}).get("carried", math.nan)) for row in run.rows[1:]]


def _fusing(cost: Mapping[str, float]) -> tuple[str, str]:
    """Seconds and memory of consolidating one lesson, in words."""
    own, device = (cost.get(key, math.nan) for key in ("memory", "device_memory"))
    beside = f" and {wording.size(device)} on the device" if device else ""
    return summary.seconds(cost.get("seconds", math.nan)), wording.size(own) + ("" if math.isnan(own) else beside)


def budget(run: Run) -> Budget:
    """What a run cost."""
    records = [row.record for row in run.rows[1:]]
    carried, costs = _carried(run), summary.costs(run)
    evaluated = [float(r.get("seconds", {}).get("evaluate", math.nan)) for r in records]
    peaks = [float(p) for r in records if (p := r.get("peak_memory")) is not None]
    devices = dict.fromkeys(f"{r.get('device', '?')}, {r.get('precision', '?')}" for r in records)
    entries = (
        str(run.lessons), wording.size(carried[0]), wording.size(carried[-1]), wording.size(costs["stored"]),
        summary.seconds(costs["seconds"]), *_fusing(records[-1].get("fusing", {})),
        summary.seconds(mean_of(evaluated)), wording.size(max(peaks, default=math.nan)), " / ".join(devices),
    )  # fmt: skip
    names = [f"{i} {taught(row.concepts)}" for i, row in enumerate(run.rows[1:], 1)]
    return Budget(run, entries, tuple(zip(names, map(wording.size, carried), strict=True)))
