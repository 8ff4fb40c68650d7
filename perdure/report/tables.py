"""scores.csv and table.tex."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from perdure.lineage.rows import Cell
from perdure.report.reading import Run, figures, measures_of
from perdure.report.summary import contenders, plain

CSV_COLUMNS = (
    "run",
    "method",
    "lesson",
    "lesson_concept",
    "concept",
    "measure",
    "score",
    "fingerprint",
    "knows",
    "strict",
    "doubts",
)
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def scores_csv(runs: Sequence[Run]) -> str:
    """One line per measured entry of S (RFC 4180), scores unrounded; lesson 0 is the untouched base.

    `knows` and `strict`: what the method must be told to draw, and whether it keeps to the strict regime. `doubts`: the
    kinds of reasons why the score proves nothing.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(CSV_COLUMNS)
    for run in runs:
        declared = (run.rules.knows, "yes" if run.rules.strict else "no")
        name, own = run.lineage.facts.get("name", ""), run.lineage.facts.get("fingerprint", "")
        for measure, S in run.scores.items():
            for i, row in enumerate(run.rows):
                taught = " + ".join(row.concepts) if i else "base"
                mark = row.record.get("fingerprint", own)
                for j, concept in enumerate(run.concepts):
                    if math.isfinite(S[i, j]):
                        score = repr(float(S[i, j]))
                        why = " ".join(doubt.kind for doubt in run.doubts(i, concept, measure))
                        writer.writerow((name, run.label, i, taught, concept, measure, score, mark, *declared, why))
    return stream.getvalue()


def table_tex(runs: Sequence[Run]) -> str:
    """A booktabs table: a row a method, for each measure the average and the forgetting, the best run's in bold.

    Bounds (all at once, one adapter per concept) stand below a rule and are never bold. A dagger marks what breaks the
    strict regime; a note under the table says how.
    """
    measures = measures_of(runs)
    keys = [(m, figure) for m in measures for figure in ("average", "forgetting")]
    values = {run.label: {key: figures(run, key[0])[key[1]] for key in keys} for run in runs}
    best = {key: _best(runs, values, key) for key in keys}
    above = [run for run in runs if not run.bound]
    below = [run for run in runs if run.bound]
    rule = [r"\midrule"] if above and below else []
    body = [
        *(_row(r, values[r.label], best) for r in above),
        *rule,
        *(_row(r, values[r.label], {}) for r in below),
    ]
    heads = " & ".join(rf"\multicolumn{{2}}{{c}}{{{escape(m)}}}" for m in measures)
    rules = "".join(rf"\cmidrule(lr){{{2 * k + 2}-{2 * k + 3}}}" for k in range(len(measures)))
    turn = {m: next(r.direction(m) for r in runs if m in r.scores) for m in measures}
    arrows = " & ".join(rf"Average ${tex_arrow(turn[m])}$ & Forgetting $\downarrow$" for m in measures)
    return "\n".join([
        r"% needs \usepackage{booktabs}; average after the last lesson, forgetting over the T - 1 before",
        r"% bold: the best of these runs, one a method, which settles nothing about the methods",
        rf"\begin{{tabular}}{{l{'rr' * len(measures)}}}", r"\toprule",
        *([rf" & {heads} \\", rules] if measures else []),
        rf"Method{' & ' + arrows if measures else ''} \\", r"\midrule", *body,
        r"\bottomrule", *_notes(runs, 1 + 2 * len(measures)), r"\end{tabular}", "",
    ])  # fmt: skip


def escape(text: str) -> str:
    """Text for LaTeX: its special characters made plain."""
    return "".join(_LATEX.get(character, character) for character in text)


def tex_arrow(direction: str) -> str:
    """Which way is better."""
    return r"\uparrow" if direction == "higher" else r"\downarrow"


def _row(run: Run, values: dict[tuple[str, str], float], best: dict[tuple[str, str], str]) -> str:
    cells = [_bold(tex_number(value), best.get(key)) for key, value in values.items()]
    name = escape(run.label) + ("" if run.rules.strict else r"$^{\dagger}$")
    return rf"{' & '.join([name, *cells])} \\"


def _notes(runs: Sequence[Run], columns: int) -> list[str]:
    """What the daggers mean, under the table; nothing where there is none."""
    broken = [f"{escape(run.label)} {escape(run.rules.breach)}" for run in runs if not run.rules.strict]
    if not broken:
        return []
    lines = [r"$^{\dagger}$ Outside the strict regime (no past data, no past adapters):", *broken]
    return [
        rf"\multicolumn{{{columns}}}{{l}}{{\footnotesize {line}{'.' if k == len(broken) else ';' if k else ''}}} \\"
        for k, line in enumerate(lines)
    ]


def _bold(text: str, best: str | None) -> str:
    return rf"\textbf{{{text}}}" if text == best else text


def tex_number(value: float) -> str:
    """A figure in three digits, for text; NaN is a dash."""
    return (f"{value:.3f}" if value >= 0 else f"$-${-value:.3f}") if math.isfinite(value) else "--"


def _best(runs: Sequence[Run], values: dict[str, dict[tuple[str, str], float]], key: tuple[str, str]) -> str:
    """The best value as printed; empty where there is nothing to compare."""
    found = [v for run in contenders(runs) if math.isfinite(v := values[run.label][key])]
    if len(found) < 2 or len({tex_number(v) for v in found}) == 1:
        return ""
    higher = key[1] == "average" and next(r.direction(key[0]) for r in runs if key[0] in r.scores) == "higher"
    return tex_number(max(found) if higher else min(found))


FAILING_HEADINGS = (
    ("Taken for another ↓", "share of pictures that look most like another concept of the same kind"),
    ("Real ones taken so", "the same share among the references themselves"),
    ("Nearest training picture", "likeness of each picture to the training picture most like it"),
    ("Real to real", "the same of real pictures that were not trained on: above it is copying"),
    ("Drift: likeness ↑", "of pictures that mention no concept to the base's, same prompt and noise"),
    ("Drift: pixels ↓", "mean absolute difference of these pictures, from 0 to 1"),
)


@dataclass(frozen=True)
class Failings:
    """A line of the table, and in words what was taken for what."""

    run: Run
    entries: tuple[str, ...]
    mistaken: tuple[str, ...]


def failings(runs: Sequence[Run]) -> tuple[Failings, ...]:
    """A line for each run of which something of the kind was measured."""
    return tuple(_failings_of(run) for run in runs if any(map(math.isfinite, failing_figures(run).values())))


def failing_figures(run: Run) -> dict[str, float]:
    """After the last lesson: `confusion`, `confusion_real`, `nearest`, `nearest_real`, `copying` (nearest less real),
    means over concepts; `drift` (1 - likeness), `drift_pixels`. NaN where not measured, as in older lineages.
    """
    confused = [found for cell in _last(run) if (found := cell.record.get("confusion"))]
    copied = [found for cell in _last(run) if (found := cell.record.get("copying"))]
    moved = run.rows[-1].drift
    against = [one for one in copied if one["real"] is not None]
    return {
        "confusion": mean_of([one["share"] for one in confused]),
        "confusion_real": mean_of([one["real"] for one in confused if one["real"] is not None]),
        "nearest": mean_of([one["nearest"] for one in copied]),
        "nearest_real": mean_of([one["real"] for one in against]),
        "copying": mean_of([one["nearest"] - one["real"] for one in against]),
        "drift": 1 - float(moved.get("likeness", math.nan)),
        "drift_pixels": float(moved.get("pixels", math.nan)),
    }


def _failings_of(run: Run) -> Failings:
    found = failing_figures(run)
    shown = ("confusion", "confusion_real", "nearest", "nearest_real")
    entries = (*(plain(found[key]) for key in shown), plain(1 - found["drift"]), plain(found["drift_pixels"]))
    mistaken = tuple(
        f"{cell.record['concept']} for {other} ({count} of {len(cell.record['images'])})"
        for cell in _last(run)
        for other, count in (cell.record.get("confusion") or {}).get("taken_for", {}).items()
    )
    return Failings(run, entries, mistaken)


def _last(run: Run) -> list[Cell]:
    return [cell for (row, _), cell in run.cells.items() if row == run.lessons and run.lessons]


def mean_of(values: Sequence[float]) -> float:
    """The mean; NaN of nothing."""
    return float(np.mean(values)) if values else math.nan


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV table with its head."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(columns)
    writer.writerows(rows)
    return stream.getvalue()
