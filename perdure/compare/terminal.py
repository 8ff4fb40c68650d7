"""What `perdure compare` prints: a table of the main figures, and what they do and do not say."""

from rich.table import Table
from rich.text import Text

from perdure.compare import words
from perdure.compare.published import Beside
from perdure.compare.study import FIGURES, Study
from perdure.report.summary import ARROWS
from perdure.report.svg import short_number

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
        cells = [words.plus_minus(study.spread(measure, f.key, row), short_number) for f in figures]
        rank = f"{ranks[row]:.1f}" if row in ranks else "–"
        name = Text(f"{row} (bound)" if row in study.bounds else row)
        table.add_row(name, str(len(study.of(row))), *cells, rank)
    return table


def sentences(study: Study, beside: Beside | None) -> list[str]:
    """What can be told apart, what to beware of, and how publications compare."""
    told = [
        f"{figure.title} by {measure}: {words.finding(study, measure, figure.key)}"
        for measure in study.primaries
        for figure in FIGURES
        if figure.key in ("average", "forgetting") and any(study.spread(measure, figure.key, r).n for r in study.rows)
    ]
    told += words.cautions(study)
    if beside:
        told += [*words.beside_sentences(beside), *map(words.order_sentence, beside.orders)]
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
        name = words.line_name(beside, line)
        if not line.other:
            table.add_row(name, "publ.", *(words.published(*there) for there, _ in line.cells))
        if line.row:
            here = [words.plus_minus(spread, short_number) if spread else "–" for _, spread in line.cells]
            table.add_row(name if line.other else "", "here", *here)
    return table
