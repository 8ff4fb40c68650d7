"""Methods compared over orders and seeds: means, paired differences, figures, tables; published numbers beside."""

import math
from pathlib import Path
from typing import Any

from perdure import files
from perdure.compare import page, tables
from perdure.compare.published import Beside
from perdure.compare.study import COMPARED, Study


def write(study: Study, out: Path, title: str, beside: Beside | None = None) -> Path:
    """Write compare.html, compare.csv, compare-summary.csv and compare.tex into `out`; returns the page's path.

    Same runs, same bytes.
    """
    files.write_text(out / "compare.csv", tables.runs_csv(study))
    files.write_text(out / "compare-summary.csv", tables.summary_csv(study))
    files.write_text(out / "compare.tex", tables.table_tex(study, beside))
    path = out / "compare.html"
    files.write_text(path, page.render(page.view(study, title, beside)))
    return path


def as_json(study: Study, beside: Beside | None = None) -> dict[str, Any]:
    """Plain values for other programs; NaN becomes null."""
    compared = [(m, f) for m in study.measures for f in COMPARED]
    return {
        "runs": [
            {"method": e.row, "order": list(e.order), "seed": e.seed, "folder": str(e.folder)} for e in study.entries
        ],
        "unfinished": list(study.unfinished),
        "bounds": list(study.bounds),
        "bases": _plain(study.bases),
        "means": [_mean(study, m, f, row) for m, f in study.values for row in study.rows],
        "differences": [_difference(study, m, f) for m, f in compared],
        "published": _published(beside) if beside else None,
    }


def _mean(study: Study, measure: str, figure: str, row: str) -> dict[str, Any]:
    found, effects = study.spread(measure, figure, row), study.effects(measure, figure, row)
    squares = {"order": effects.order, "seed": effects.seed, "residual": effects.residual} if effects else None
    return _plain({
        "measure": measure, "figure": figure, "method": row, "n": found.n, "mean": found.mean, "std": found.std,
        "ddof": 1, "std_over_orders": found.over_orders, "std_over_seeds": found.over_seeds, "orders": found.orders,
        "low": found.low, "high": found.high, "squares": squares,
    })  # fmt: skip


def _difference(study: Study, measure: str, figure: str) -> dict[str, Any]:
    standing = study.standing(measure, figure)
    pairs = [
        {"a": a, "b": b, "n": d.n, "mean": d.mean, "low": d.low, "high": d.high, "interval": d.interval, "p": d.p,
         "p_holm": d.corrected, "comparisons": d.comparisons, "a_better": d.share, "verdict": d.verdict}
        for a, b, d in study.differences(measure, figure)
    ]  # fmt: skip
    return _plain({
        "measure": measure, "figure": figure, "better": study.better(measure, figure), "pairs": pairs,
        "over": "orders", "tiers": study.tiers(measure, figure), "common": standing.n, "mean_rank": standing.rank,
        "probability_best": standing.best,
    })  # fmt: skip


def _published(beside: Beside) -> dict[str, Any]:
    orders = [
        {"measure": o.measure, "figure": o.figure, "published": list(o.there), "here": list(o.tiers), "tau": o.tau}
        for o in beside.rankings
    ]
    table, others = beside.table, [line.row for line in beside.lines if line.other]
    return _plain({
        "protocol": table.name, "source": table.source, "same": beside.same, "variants": table.variants,
        "other_variants": others, "orders": orders,
    })  # fmt: skip


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _finite(value) for key, value in values.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return _plain(value)
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
