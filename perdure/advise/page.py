"""The advice as one small self-contained page in the look of the report."""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from perdure import report, wording
from perdure.advise import words
from perdure.advise.verdict import Standing, Verdict
from perdure.report import summary
from perdure.report.svg import frame

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
    costs = (wording.size(standing.carried), summary.seconds(standing.seconds))
    return [*map(summary.plain, scores), words.percent(standing.best), ahead, *costs]


def footnotes(verdict: Verdict) -> list[str]:
    """What the marks in the table mean."""
    return [
        f"* {s.label} {' and '.join(found)}"
        for s in verdict.standings
        if (found := words.notes(s.strict, s.knows, s.breach))
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
    rows = [(s, cells(s), words.notes(s.strict, s.knows, s.breach)) for s in verdict.standings]
    return report.environment("perdure.advise").get_template("advice.html.j2").render(
        advice=advice, verdict=verdict, title=title, rows=rows, columns=COLUMNS, chart=chart(verdict),
        extent=words.extent(verdict), pictures=advice.pictures.relative_to(advice.page.parent).as_posix(),
    )  # fmt: skip


def chart(verdict: Verdict) -> Markup:
    """A line a method: its average as a bar mark, its rounds as dots; the untouched base as a dashed line."""
    values = [value for s in verdict.standings for value in (*s.rounds, s.average)] + [verdict.base]
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.01
    low, high = low - pad, high + pad

    def at(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    bottom = TOP + ROW * len(verdict.standings)
    parts = [
        Markup('<path class="base" d="M{:.1f} {}V{}"/>').format(at(verdict.base), TOP - 4, bottom),
        Markup('<text class="soft" x="{:.1f}" y="{}" text-anchor="middle">base {:.3f}</text>').format(
            at(verdict.base), TOP - 10, verdict.base
        ),
    ]
    for k, s in enumerate(verdict.standings):
        y = TOP + ROW * (k + 0.5)
        css = "chosen" if s.label == verdict.choice else "tied" if _open(verdict, s.label) else "other"
        parts.append(Markup('<path class="rule" d="M{} {:.1f}H{}"/>').format(LEFT, y, WIDTH - RIGHT))
        parts.append(
            Markup('<text x="{}" y="{:.1f}" dy=".35em" text-anchor="end">{}</text>').format(LEFT - 12, y, s.label)
        )
        dots = [Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4"><title>round {}: {:.3f}</title></circle>').format(
            at(value), y, number, value) for number, value in enumerate(s.rounds, start=1)]  # fmt: skip
        bar = Markup('<path class="mean" d="M{:.1f} {:.1f}v16"/>').format(at(s.average), y - 8)
        parts.append(Markup('<g class="{}">{}{}</g>').format(css, Markup("").join(dots), bar))
        parts.append(
            Markup('<text x="{}" y="{:.1f}" dy=".35em">{:.3f}</text>').format(WIDTH - RIGHT + 12, y, s.average)
        )
    return frame(WIDTH, bottom + 8, "Average of each method, round by round", parts, "advice")


def _open(verdict: Verdict, label: str) -> bool:
    return verdict.kind == "undecided" and label in (*verdict.tied, verdict.leader.label)
