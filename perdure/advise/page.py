"""The advice as one small self-contained page in the look of the report."""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from perdure import report, wording
from perdure.advise import sentences
from perdure.advise.verdict import Standing, Verdict
from perdure.report import summary
from perdure.report.charts import blank, inline, room, styled, tip
from perdure.report.palette import INK, METHODS, RULE, SOFT

COLUMNS = ("method", "average ↑", "forgetting ↓", "learning ↑", "first in", "behind by", "carries", "per lesson")


def table(verdict: Verdict) -> Table:
    """The methods, and the base below them; what breaks the rules is marked."""
    shown = Table(title=Text(f"{sentences.extent(verdict)}; shares are of resamples"), box=SIMPLE_HEAD, padding=0)
    for column in COLUMNS:
        first = column == COLUMNS[0]
        shown.add_column(Text(column), justify="left" if first else "right", no_wrap=first)
    for standing in verdict.standings:
        mark = "*" if sentences.notes(standing.strict, standing.knows, standing.breach) else ""
        style = "bold" if standing.label == verdict.choice else ""
        shown.add_row(Text(f"{standing.label}{mark}"), *cells(standing), style=style)
    shown.add_row("untouched base", summary.plain(verdict.base), *[""] * (len(COLUMNS) - 2), style="dim")
    return shown


def cells(standing: Standing) -> list[str]:
    """The numbers of one method as text."""
    first = standing.beaten != standing.beaten
    span = f"[{summary.signed(standing.low)}, {summary.signed(standing.high)}]"
    behind = "–" if first else f"{summary.plain(standing.gap)} {span}"
    scores = (standing.average, standing.forgetting, standing.learning)
    costs = (wording.size(standing.carried), summary.seconds(standing.seconds))
    return [*map(summary.plain, scores), sentences.percent(standing.best), behind, *costs]


def footnotes(verdict: Verdict) -> list[str]:
    """What the marks in the table mean."""
    return [
        f"* {s.label} {' and '.join(found)}"
        for s in verdict.standings
        if (found := sentences.notes(s.strict, s.knows, s.breach))
    ]


WIDTH, LEFT, RIGHT, ROW, TOP = 720, 150, 60, 34, 26
"""Of the chart, in pixels."""


@dataclass(frozen=True)
class Advice:
    """The verdict in words, and where things lie. `next`: commands to go on with; `pictures`: the last round's."""

    verdict: Verdict
    headline: str
    reason: str
    cautions: tuple[str, ...]
    setting: str
    next: tuple[str, ...]
    page: Path
    pictures: Path


def render(advice: Advice, title: str) -> str:
    """The page as HTML; every name is escaped. The pictures of the last round are linked to."""
    verdict = advice.verdict
    rows = [(s, cells(s), sentences.notes(s.strict, s.knows, s.breach)) for s in verdict.standings]
    return report.environment("perdure.advise").get_template("advice.html.j2").render(
        advice=advice, verdict=verdict, title=title, rows=rows, columns=COLUMNS, chart=chart(verdict),
        extent=sentences.extent(verdict), pictures=advice.pictures.relative_to(advice.page.parent).as_posix(),
    )  # fmt: skip


@styled
def chart(verdict: Verdict) -> Markup:
    """A line a method: its average as a bar mark, its rounds as dots; the untouched base as a dashed line."""
    count = len(verdict.standings)
    figure = blank(WIDTH, TOP + ROW * count + 8)
    axes = room(figure, LEFT, RIGHT, TOP, 8)
    axes.axvline(verdict.base, color=SOFT, linestyle=(0, (3, 4)), linewidth=1)
    axes.annotate(f"base {verdict.base:.3f}", (verdict.base, 1), (0, 8), xycoords=("data", "axes fraction"),
                  textcoords="offset points", ha="center", color=SOFT)  # fmt: skip
    for k, s in enumerate(verdict.standings):
        chosen, tied = s.label == verdict.choice, _open(verdict, s.label)
        colour = METHODS[2] if chosen else METHODS[0] if tied else SOFT
        axes.axhline(k, color=RULE, linewidth=1, zorder=0)
        for number, value in enumerate(s.rounds, start=1):
            (dot,) = axes.plot([value], [k], "o", color=colour, markersize=8, markeredgewidth=0, alpha=0.5)
            dot.set_gid(tip(f"round {number}: {value:.3f}"))
        axes.plot([s.average] * 2, [k - 0.24, k + 0.24], color=colour, linewidth=4)
        axes.annotate(f"{s.average:.3f}", (1, k), (12, 0), xycoords=("axes fraction", "data"),
                      textcoords="offset points", va="center_baseline")  # fmt: skip
    axes.set_yticks(range(count), [s.label for s in verdict.standings], color=INK, fontsize=14)
    axes.set(ylim=(count - 0.5, -0.5), xticks=[])
    axes.margins(x=0.06)
    return inline(figure, "Average of each method, round by round")


def _open(verdict: Verdict, label: str) -> bool:
    return verdict.kind == "undecided" and label in (*verdict.tied, verdict.leader.label)
