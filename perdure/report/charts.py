"""Charts by matplotlib: inline SVG that follows a page's colours, and files for papers.

One unit of a figure is one pixel of the page. An artist whose gid is `tip(...)` tells that text where it is pointed at.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from perdure import files
from perdure.report.palette import HATCH, INK, MARKERS, METHODS, PAPER, RULE, SOFT, VARIABLES
from perdure.wording import shortened

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 12, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": RULE, "xtick.labelcolor": SOFT, "ytick.labelcolor": SOFT, "xtick.color": RULE,
    "ytick.color": RULE, "axes.facecolor": "none", "hatch.color": HATCH, "hatch.linewidth": 1.2,
    "lines.solid_joinstyle": "round", "lines.solid_capstyle": "round",
}  # fmt: skip
styled = rc_context(STYLE)
"""Decorates what draws: artists take their defaults when they are made."""
DATELESS = {
    "pdf": ("CreationDate", "Producer", "Creator"),
    "png": ("Software",),
    "svg": ("Date", "Creator", "Format", "Type"),
}
"""Notes that matplotlib would write into files, by kind: left out, so that the same figure is the same bytes."""
WIDTH, HEIGHT = 660, 330
"""Of a chart, px."""


@dataclass(frozen=True)
class Look:
    """How something is drawn everywhere."""

    colour: str
    marker: str = ""
    line: Any = "-"
    width: float = 2.2
    hollow: bool = False


BASE, CEILING = Look(SOFT, line=(0, (1, 2)), width=1.7), Look(SOFT, line=(0, (5, 3)), width=1.7)
"""Levels that no method moves."""


def look_of(number: int, hollow: bool = False) -> Look:
    """A method's look, by its number in the report; beyond eight, colours meet other markers. Bounds are hollow."""
    count = len(METHODS)
    marker = MARKERS[(number + number // count) % count]
    return Look(METHODS[number % count], marker, (0, (4, 2.4)) if hollow else "-", hollow=hollow)


@dataclass(frozen=True)
class Series:
    """One line: values at 0, 1, ... (NaN: a gap)."""

    name: str
    values: tuple[float, ...]
    look: Look
    step: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart and what it shows."""

    title: str
    note: str
    figure: Figure

    @property
    def svg(self) -> Markup:
        """The chart inside a page."""
        return inline(self.figure, self.title)


# --- figures and where they go ---------------------------------------------------------------------------------------


def blank(width: float, height: float, layout: Literal["constrained"] | None = None) -> Figure:
    """An empty figure of so many pixels; `layout` as matplotlib has it."""
    return Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none", layout=layout)


def room(figure: Figure, left: float, right: float, top: float, bottom: float) -> Axes:
    """Axes with so many pixels around them; only what is asked for is drawn."""
    width, height = figure.get_size_inches() * 72
    axes = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return axes


def tip(text: str) -> str:
    """The gid of an artist that tells a text."""
    return f"tip {text}"


@styled
def save(figure: Figure, path: Path) -> Path:
    """Written whole: PNG, PDF or SVG by the path's suffix, without times or versions in it."""
    kind = path.suffix.lower().lstrip(".") or "png"
    buffer = io.BytesIO()
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "perdure"}):
        warnings.filterwarnings("ignore", "Glyph")  # names of concepts may be in any script
        figure.savefig(buffer, format=kind, dpi=200, facecolor=PAPER, metadata=dict.fromkeys(DATELESS.get(kind, ())))
    files.write_bytes(path, buffer.getvalue())
    return path


@styled
def inline(figure: Figure, title: str) -> Markup:
    """An `svg` element that scales down with the page, takes its colours and fonts, and names itself to readers."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(DATELESS["svg"]))
    width, height = figure.get_size_inches() * 72
    body = buffer.getvalue().partition("<svg")[2].partition(">")[2]
    body = re.sub(r"<!--.*?-->|<style.*?</style>|\n\s*", " ", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", _slim, body)
    body = re.sub(r'<g id="tip ([^"]*)">', r"<g><title>\1</title>", body)
    head = f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
    return Markup(f'{head} height="{height:.0f}">{body}')


def _slim(tag: re.Match[str]) -> str:
    """A tag with as many digits as a screen shows, the page's fonts and colours, and no name that nothing refers to."""
    if tag[0].startswith('<g id="tip '):
        return tag[0]
    text = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", tag[0])
    text = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"; stroke-linejoin: miter|stroke: none; ?| ?z(?=\")", "", text)
    return re.sub("#[0-9a-f]{6}", lambda colour: themed(colour[0]), text)


def themed(colour: str) -> str:
    """A colour as the page has it, in the dark too."""
    return f"var(--{VARIABLES[colour]}, {colour})" if colour in VARIABLES else colour


# --- lines -----------------------------------------------------------------------------------------------------------


@styled
def line_chart(
    series: Sequence[Series],
    ticks: Sequence[str],
    number: Callable[[float], str] = "{:.2f}".format,
    from_zero: bool = False,
) -> Figure:
    """Series over `ticks` (one label per index), each named at its right end; empty where there is no value."""
    figure = blank(WIDTH, HEIGHT)
    beside = max(132, margin([one.name for one in series], marked=False))
    axes = room(figure, 62, beside, 14, 70)  # the longest label that `shortened` leaves, at its slant
    lines_on(axes, series, ticks, number, from_zero)
    ends = [(s, [v for v in s.values if math.isfinite(v)]) for s in series]
    name_at_the_right(axes, [(s.name, s.look, values[-1]) for s, values in ends if values], marked=False)
    return figure


def lines_on(
    axes: Axes, series: Sequence[Series], ticks: Sequence[str], number: Callable[[float], str], from_zero: bool
) -> None:
    """The lines of a chart and its axes."""
    for one in series:
        draw = axes.step if one.step else axes.plot
        more: dict[str, Any] = {"where": "post"} if one.step else {}
        draw(range(len(one.values)), one.values, **more, **stroke(one.look), label=one.name, clip_on=False)
    every = max(1, math.ceil(len(ticks) / 9))
    labels = [shortened(text, 15) for text in ticks[::every]]
    axes.set_xticks(range(0, len(ticks), every), labels, rotation=28, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", pad=9)
    axes.set_xlim(0, max(len(ticks) - 1, 1))
    if from_zero:
        axes.set_ylim(bottom=0)
    ruled(axes, number)


def ruled(axes: Axes, number: Callable[[float], str]) -> None:
    """Thin lines across at round values, written by `number`."""
    axes.yaxis.set_major_locator(MaxNLocator(7))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: number(value)))
    axes.grid(axis="y", color=RULE, linewidth=1)
    axes.set_axisbelow(True)


def stroke(look: Look) -> dict[str, Any]:
    """A look in matplotlib's words for lines."""
    return {
        "color": look.colour, "linestyle": look.line, "linewidth": look.width, "marker": look.marker or None,
        "markersize": 8, "markeredgecolor": look.colour if look.hollow else PAPER, "markeredgewidth": 1.2,
        "markerfacecolor": PAPER if look.hollow else look.colour,
    }  # fmt: skip


NAMED = {True: (22, 22), False: (10, 18)}
"""Where a name at the right begins, in pixels from the axes, and its characters at most; with a mark and without."""


def margin(names: Iterable[str], marked: bool = True) -> float:
    """Pixels at the right of the axes that the longest name takes, in a wide fallback font as in a narrow one."""
    start, most = NAMED[marked]
    return start + 8.9 * max((len(shortened(name, most)) for name in names), default=0)


def name_at_the_right(axes: Axes, names: Sequence[tuple[str, Look, float]], marked: bool = True) -> None:
    """Names beside the heights (in data) of what they name, pushed apart so that none covers another."""
    low, high = axes.get_ylim()
    height = axes.get_position().height * axes.figure.get_figheight() * 72  # type: ignore[union-attr]
    (start, most), gap, last = NAMED[marked], 15.5, -math.inf
    ordered = sorted(names, key=lambda one: -one[2])
    spare = height + 10 - gap * len(ordered)
    for number, (name, look, value) in enumerate(ordered, 1):
        last = max(min(height * (high - value) / (high - low), spare + gap * number), last + gap)
        axes.annotate(
            shortened(name, most), (1, 1 - last / height), (start, 0), "axes fraction", "offset points",
            annotation_clip=False, va="center_baseline", color=look.colour, fontsize=12.5,
            fontweight="bold" if look.marker else "normal",
        )  # fmt: skip
        if marked:
            width = axes.get_position().width * axes.figure.get_figwidth() * 72  # type: ignore[union-attr]
            axes.plot([1 + 14 / width], [1 - last / height], **stroke(look), transform=axes.transAxes, clip_on=False)


@styled
def spark(losses: Sequence[float], colour: str) -> Figure | None:
    """A training curve: raw values thin, smoothed thick and in a run's colour; no axes. None below two values."""
    values = np.array([v for v in losses if math.isfinite(v)])
    if values.size < 2:
        return None
    figure = blank(190, 70)
    axes = room(figure, 4, 4, 4, 4)
    axes.set(xticks=[], yticks=[])
    for line, ink, width, alpha in ((values, SOFT, 1, 0.35), (smoothed(values), colour, 2, 1)):
        axes.plot(np.linspace(0, 1, min(len(line), 100)), thin(line, 100), color=ink, linewidth=width, alpha=alpha)
    return figure


def smoothed(values: np.ndarray) -> np.ndarray:
    """Running mean over a tenth of the steps, centred, shorter at the ends; (n,) -> (n,)."""
    half = max(len(values) // 20, 1)
    total = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    result: np.ndarray = (total[last] - total[first]) / (last - first)
    return result


def thin(values: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the values, evenly spread."""
    if len(values) <= most:
        return values
    thinned: np.ndarray = values[np.linspace(0, len(values) - 1, most).round().astype(int)]
    return thinned
