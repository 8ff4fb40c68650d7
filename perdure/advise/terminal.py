"""What `perdure advise` prints: a table of the methods, highest average first."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from perdure.advise import words
from perdure.advise.verdict import Standing, Verdict
from perdure.report import summary

COLUMNS = ("method", "average ↑", "forgetting ↓", "learning ↑", "first in", "behind in", "carries", "per lesson")


def table(verdict: Verdict) -> Table:
    """The methods, and the base below them; what breaks the rules is marked."""
    shown = Table(title=Text(f"{words.extent(verdict)}; shares are of resamples"), box=SIMPLE_HEAD, padding=0)
    for column in COLUMNS:
        first = column == COLUMNS[0]
        shown.add_column(Text(column), justify="left" if first else "right", no_wrap=first)
    for standing in verdict.standings:
        mark = "*" if words.notes(standing.strict, standing.knows, standing.breach) else ""
        style = "bold" if standing.label == verdict.choice else ""
        shown.add_row(Text(f"{standing.label}{mark}"), *cells(standing), style=style)
    shown.add_row("untouched base", summary.plain(verdict.base), *[""] * (len(COLUMNS) - 2), style="dim")
    return shown


def cells(standing: Standing) -> list[str]:
    """The numbers of one method as text."""
    ahead = words.percent(standing.beaten) if standing.beaten == standing.beaten else "–"
    scores = (standing.average, standing.forgetting, standing.learning)
    costs = (summary.size(standing.carried), summary.seconds(standing.seconds))
    return [*map(summary.plain, scores), words.percent(standing.best), ahead, *costs]


def footnotes(verdict: Verdict) -> list[str]:
    """What the marks in the table mean."""
    return [
        f"* {s.label} {' and '.join(found)}"
        for s in verdict.standings
        if (found := words.notes(s.strict, s.knows, s.breach))
    ]
