"""A study -> the plain values of compare.html, and the page itself; the template only lays out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from perdure import report
from perdure.compare import charts, sentences, statistics
from perdure.compare.charts import KeyedChart
from perdure.compare.published import Beside
from perdure.compare.statistics import Difference, Spread
from perdure.compare.study import COMPARED, COST, FAILING, FIGURES, SCENE, Study, figures_of
from perdure.report import samples
from perdure.report.charts import Look, save, themed
from perdure.report.samples import Sheet
from perdure.report.summary import ARROWS, Figure, plain
from perdure.score import accuracy
from perdure.score.matrix import FORMULAS
from perdure.wording import listed, short_number


@dataclass(frozen=True)
class Cell:
    """One entry of a table. `n`: runs behind it where these are fewer than the row's."""

    text: str
    best: bool = False
    n: int | None = None


@dataclass(frozen=True)
class Means:
    """The means of one measure, or of what runs cost: headings (figure, arrow, formula), cells of the bases, rows."""

    measure: str
    headings: tuple[tuple[Figure, str, str], ...]
    bases: tuple[tuple[str, tuple[Cell, ...]], ...]
    rows: tuple[tuple[str, int, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Contest:
    """One figure in pairs: what it says, the differences with their pictures, ranks and chances."""

    title: str
    sentence: str
    differences: tuple[tuple[str, str, Difference, str, str, Markup], ...]
    ranks: tuple[tuple[str, str, str], ...]
    n: int


@dataclass(frozen=True)
class Sources:
    """Order against seed for one figure: (row, deviation, over orders, over seeds, shares, expected, picture)."""

    title: str
    rows: tuple[tuple[str, tuple[str, ...], Markup], ...]


@dataclass(frozen=True)
class Section:
    """All of one measure."""

    measure: str
    primary: bool
    means: Means
    contests: tuple[Contest, ...]
    trade_off: KeyedChart | None
    curves: tuple[KeyedChart, ...]
    fronts: tuple[KeyedChart, ...]
    sources: tuple[Sources, ...]


@dataclass(frozen=True)
class Page:
    """Everything on the page, in its order."""

    title: str
    headline: str
    setting: str
    cautions: tuple[str, ...]
    looks: dict[str, Look]
    bounds: tuple[str, ...]
    sections: tuple[Section, ...]
    costs: Means
    failings: Means
    scenes: Means
    runs: tuple[tuple[str, str, str, str, str], ...]
    orders: tuple[str, ...]
    beside: "BesideView | None"
    sheet: Sheet | None = None
    """The first concept that was taught, by every method, from runs of one order and seed."""


@dataclass(frozen=True)
class BesideView:
    """The published table beside one's own, as text."""

    table: Beside
    sentences: tuple[str, ...]
    headings: tuple[str, ...]
    lines: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]
    rankings: tuple[str, ...]


def view(study: Study, title: str, beside: Beside | None) -> Page:
    """All values of the page."""
    first = study.measures[0] if study.measures else ""
    headline = f"Average by {first}: {sentences.finding(study, first, 'average')}" if first else "No scores yet."
    if study.murky:
        headline = f"Of {listed(list(study.murky))} scores do not hold: no finding."
    numbers = {order: k for k, order in enumerate(study.orders, start=1)}
    runs = tuple(
        (e.row, str(numbers[e.order]), str(e.seed), _place(e.folder), str(e.run.lineage.facts.get("fingerprint", "")))
        for e in sorted(study.entries, key=lambda e: (study.rows.index(e.row), numbers[e.order], e.seed))
    )
    return Page(
        title, headline, sentences.setting(study), tuple(sentences.cautions(study)), charts.looks(study), study.bounds,
        tuple(_section(study, measure) for measure in study.measures), _means(study, COST),
        _means(study, FAILING), _means(study, SCENE), runs,
        tuple(" → ".join(order) for order in study.orders), _beside(study, beside) if beside else None,
        _sheet(study),
    )  # fmt: skip


def _sheet(study: Study) -> Sheet | None:
    """The first concept of the order and seed that most methods share, a row a method; None with fewer than two."""
    pairs = [entry.pair for entry in study.entries]
    most = max(dict.fromkeys(pairs), key=pairs.count)
    runs = {entry.row: replace(entry.run, label=entry.row) for entry in study.entries if entry.pair == most}
    shown = [runs[row] for row in study.rows if row in runs]
    return samples.comparison(shown, shown[0].concepts[0], samples.ranges(shown))


def render(page: Page) -> str:
    """The page as HTML in the look of the report; every name is escaped."""
    template = report.environment("perdure.compare").get_template("compare.html.j2")
    return template.render(page=page, themed=themed)


def _place(folder: Path) -> str:
    """A run's folder by its last two names: where that lies is a matter of this machine."""
    return "/".join(folder.absolute().parts[-2:])


def _section(study: Study, measure: str) -> Section:
    primary = measure in study.primaries
    figures = [f for f in FIGURES if f.key in COMPARED]
    return Section(
        measure, primary, _means(study, measure), tuple(_contest(study, measure, f) for f in figures),
        charts.trade_off(study, measure), tuple(charts.curves(study, measure)),
        tuple(charts.fronts(study, measure)), tuple(_sources(study, measure, f) for f in figures),
    )  # fmt: skip


def _means(study: Study, measure: str) -> Means:
    known = [f for f in figures_of(measure) if (measure, f.key) in study.values]
    shown = [f for f in known if any(study.spread(measure, f.key, row).n for row in study.rows)]
    headings = tuple((f, ARROWS[study.better(measure, f.key)], _formula(measure, f.key)) for f in shown)
    bases = tuple(
        (name, tuple(Cell(plain(base[measure]) if f.key == "average" else "–") for f in shown))
        for name, base in study.bases.items() if measure in study.measures
    )  # fmt: skip
    rows = tuple((row, len(study.of(row)), tuple(_cell(study, measure, f, row) for f in shown)) for row in study.rows)
    return Means(measure, headings, bases, rows)


def _formula(measure: str, key: str) -> str:
    formulas = FORMULAS | accuracy.FORMULAS if measure in accuracy.MEASURES else FORMULAS
    return f"{formulas[key].formula} ({formulas[key].source})" if key in formulas else ""


def _cell(study: Study, measure: str, figure: Figure, row: str) -> Cell:
    spread = study.spread(measure, figure.key, row)
    fewer = spread.n if 0 < spread.n < len(study.of(row)) else None
    return Cell(sentences.plus_minus(spread, figure.show), row == study.best(measure, figure.key), fewer)


def _contest(study: Study, measure: str, figure: Figure) -> Contest:
    found = study.differences(measure, figure.key)
    reach = max((abs(v) for *_, d in found for v in (d.mean, d.low, d.high) if math.isfinite(v)), default=0.0)
    better = study.better(measure, figure.key)
    about = f"{measure}, {figure.title}"
    rows = tuple(
        (
            a,
            b,
            d,
            sentences.interval(d),
            sentences.p_value(d),
            charts.forest(f"{about}, {a} minus {b}", d, reach, better),
        )
        for a, b, d in found
    )
    standing = study.standing(measure, figure.key)
    enough = standing.n >= statistics.least_orders()
    best = {row: f"{100 * share:.0f} %" if enough else "–" for row, share in standing.best.items()}
    ranks = tuple((row, f"{rank:.2f}", best[row]) for row, rank in standing.rank.items())
    return Contest(figure.title, sentences.finding(study, measure, figure.key), rows, ranks, standing.n)


def _sources(study: Study, measure: str, figure: Figure) -> Sources:
    rows = []
    for row in study.rows:
        spread, effects = study.spread(measure, figure.key, row), study.effects(measure, figure.key, row)
        if not spread.n:
            continue
        told = [plain(spread.std), plain(spread.over_orders), plain(spread.over_seeds)]
        squares = (effects.order, effects.seed, effects.residual) if effects else (math.nan,) * 3
        told += ["–" if math.isnan(s) else f"{s:.2e}" for s in squares]
        told.append(_per_cent(effects.fractions) if effects else "–")
        told.append(_per_cent(effects.by_chance) if effects else "–")
        about = f"{measure}, {figure.title} of {row}"
        rows.append((row, tuple(told), charts.effects_bar(about, effects.fractions) if effects else Markup("")))
    return Sources(figure.title, tuple(rows))


def _per_cent(shares: Sequence[float]) -> str:
    return " / ".join("–" if math.isnan(share) else f"{100 * share:.0f}" for share in shares) + " %"


def _beside(study: Study, beside: Beside) -> BesideView:
    headings = tuple(f"{m} {f} {ARROWS[study.better(m, beside.table.own_figure(f))]}" for m, f in beside.columns)
    lines = tuple(
        (
            sentences.line_name(beside, line),
            line.row or "–",
            tuple((sentences.published(*there), _here(here)) for there, here in line.cells),
        )
        for line in beside.lines
    )
    rankings = tuple(map(sentences.ranking, beside.rankings))
    return BesideView(beside, tuple(sentences.beside_sentences(beside)), headings, lines, rankings)


def _here(spread: Spread | None) -> str:
    return sentences.plus_minus(spread, short_number) if spread else "–"


def write(study: Study, folder: Path) -> list[Path]:
    """Trade-off, curves and fronts of each measure as `KEY-MEASURE.svg`; returns their paths."""
    written = []
    for measure in study.measures:
        found = [charts.trade_off(study, measure), *charts.curves(study, measure), *charts.fronts(study, measure)]
        written += [save(chart.figure, folder / f"{chart.key}-{measure}.svg") for chart in found if chart]
    return written
