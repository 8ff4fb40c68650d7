"""compare.csv, compare-summary.csv and compare.tex."""

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from perdure.compare import sentences
from perdure.compare.published import Beside
from perdure.compare.statistics import Spread
from perdure.compare.study import FIGURES, Study
from perdure.report.summary import ARROWS
from perdure.report.tables import csv_text, escape, tex_arrow, tex_number
from perdure.wording import short_number

RUN_COLUMNS = ("method", "order", "seed", "measure", "figure", "better", "value", "folder", "fingerprint")
SUMMARY_COLUMNS = (
    "method", "bound", "measure", "figure", "better", "n", "orders", "mean", "std",
    "std_over_orders", "std_over_seeds", "low", "high", "squares_order", "squares_seed", "squares_residual",
    "mean_rank", "probability_best", "orders_ranked",
)  # fmt: skip


def runs_csv(study: Study) -> str:
    """Tidy: one line per run, measure and figure, unrounded; orders as concept>concept; not measured stays empty."""
    rows = []
    for entry in study.entries:
        for (measure, figure), found in study.values.items():
            value = found[entry.row][entry.pair]
            rows.append((
                entry.row, ">".join(entry.order), entry.seed, measure, figure, study.better(measure, figure),
                _exact(value), entry.folder.name, entry.run.lineage.facts.get("fingerprint", ""),
            ))  # fmt: skip
    return csv_text(RUN_COLUMNS, rows)


def summary_csv(study: Study) -> str:
    """One line per method, measure and figure; `std` (ddof = 1) is over all runs, `low` to `high` the mean's t interval
    (95 %) over the orders."""
    rows = []
    for measure, figure in study.values:
        standing = study.standing(measure, figure)
        for row in study.rows:
            s, e = study.spread(measure, figure, row), study.effects(measure, figure, row)
            squares = (e.order, e.seed, e.residual) if e else (math.nan,) * 3
            nothing = math.nan
            numbers = (s.mean, s.std, s.over_orders, s.over_seeds, s.low, s.high, *squares,
                       standing.rank.get(row, nothing), standing.best.get(row, nothing))  # fmt: skip
            facts = (row, int(row in study.bounds), measure, figure, study.better(measure, figure), s.n, s.orders)
            rows.append((*facts, *map(_exact, numbers), standing.n))
    return csv_text(SUMMARY_COLUMNS, rows)


def table_tex(study: Study, beside: Beside | None = None) -> str:
    """A booktabs table as in papers: base first, then methods; bounds, then published, below rules.

    Bold is what is settled to be better than each other method (`Study.best`), so often nothing.
    Forgetting is over T - 1 concepts, or in the published table's reading where one stands below.
    """
    reading = beside.table.forgetting if beside else "forgetting"
    columns = [*((m, "average") for m in study.measures), *((m, reading) for m in study.measures)]
    groups = [
        [
            _line(name.capitalize(), [tex_number(base[m]) if figure == "average" else "--" for m, figure in columns])
            for name, base in study.bases.items()
        ],
        [
            _line(row, [_cell(study.spread(*key, row), study.best(*key) == row) for key in columns])
            for row in study.contenders
        ],
        [_line(row, [_cell(study.spread(*key, row), False) for key in columns]) for row in study.bounds],
        _published(beside, columns) if beside else [],
    ]
    heads = [rf"{escape(m)}{'' if figure == 'average' else ' forg.'} ${tex_arrow(study.better(m, figure))}$"
             for m, figure in columns]  # fmt: skip
    body: list[str] = []
    for group in groups:
        body += [r"\midrule", *group] if group else []
    over = "T - 1" if reading == "forgetting" else "T"
    source = f"; published: {beside.table.source}, {beside.table.deviation}" if beside else ""
    return "\n".join([
        rf"% needs \usepackage{{booktabs}}; mean $\pm$ standard deviation (ddof = 1) over runs (orders and seeds): "
        rf"{_counts(study)}; bold: settled to be better than each other; forgetting over {over} concepts{source}",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule", _line("Method", heads, plain=False), *body,
        r"\bottomrule", r"\end{tabular}", "",
    ])  # fmt: skip


def _published(beside: Beside, columns: Sequence[tuple[str, str]]) -> list[str]:
    """The published rows; where they are of another model, the first one's name says so."""
    table, note = beside.table, "published" if beside.same else "published, other model and data"
    lines = []
    for method in table.methods:
        keys = [(m, "average" if figure == "average" else "forgetting") for m, figure in columns]
        values = [table.value(method, *key) for key in keys]
        if any(math.isfinite(mean) for mean, _ in values):
            name = f"{method}, {table.variant(method)}" if method in table.variants else method
            lines.append(_line(f"{name} ({note})", [_plus_minus(*value) for value in values]))
    return lines


def _counts(study: Study) -> str:
    return ", ".join(f"{row} {len(study.of(row))}" for row in study.rows)


def _cell(spread: Spread, best: bool) -> str:
    text = _plus_minus(spread.mean, spread.std)
    return rf"\textbf{{{text}}}" if best else text


def _plus_minus(mean: float, std: float) -> str:
    return tex_number(mean) + (rf" $\pm$ {tex_number(std)}" if math.isfinite(mean) and math.isfinite(std) else "")


def _line(name: str, cells: Sequence[str], plain: bool = True) -> str:
    return rf"{' & '.join([escape(name) if plain else name, *cells])} \\"


def _exact(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


SHOWN = ("average", "forgetting", "learning")


def main_table(study: Study, measure: str) -> Table:
    """The main figures of one measure, narrow enough for 80 columns: the base, contenders (best first), bounds."""
    table = Table(title=Text(f"{measure}: mean ± standard deviation (ddof 1) over all runs"))
    figures = [f for f in FIGURES if f.key in SHOWN]
    heads = [f"{f.title} {ARROWS[study.better(measure, f.key)]}" for f in figures]
    table.add_column("method")
    for column in ("runs", *heads, "rank"):
        table.add_column(Text(column), justify="right", no_wrap=True)
    ranks = study.standing(measure, "average").rank
    for bare, base in study.bases.items():
        table.add_row(Text(bare), "", short_number(base[measure]), "", "", "")
    for row in study.rows:
        cells = [sentences.plus_minus(study.spread(measure, f.key, row), short_number) for f in figures]
        rank = f"{ranks[row]:.1f}" if row in ranks else "–"
        name = Text(f"{row} (bound)" if row in study.bounds else row)
        table.add_row(name, str(len(study.of(row))), *cells, rank)
    return table


def conclusions(study: Study, beside: Beside | None) -> list[str]:
    """What can be told apart, what to beware of, and how publications compare."""
    told = [
        f"{figure.title} by {measure}: {sentences.finding(study, measure, figure.key)}"
        for measure in study.primaries
        for figure in FIGURES
        if figure.key in ("average", "forgetting") and any(study.spread(measure, figure.key, r).n for r in study.rows)
    ]
    told += sentences.cautions(study)
    if beside:
        told += [*sentences.beside_sentences(beside), *map(sentences.ranking, beside.rankings)]
    return told


def published_table(beside: Beside) -> Table:
    """The published figures, each above the one found here."""
    kind = "" if beside.same else ": another model, other data"
    table = Table(title=Text(f"published, {beside.table.name}{kind}"))
    table.add_column("method", overflow="fold")
    table.add_column("")
    for measure, figure in beside.columns:
        table.add_column(Text(f"{measure}\n{figure}"), justify="right", no_wrap=True)
    for line in beside.lines:
        name = sentences.line_name(beside, line)
        if not line.other:
            table.add_row(name, "publ.", *(sentences.published(*there) for there, _ in line.cells))
        if line.row:
            here = [sentences.plus_minus(spread, short_number) if spread else "–" for _, spread in line.cells]
            table.add_row(name if line.other else "", "here", *here)
    return table
