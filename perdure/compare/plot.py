"""Numeric axes as inline SVG: the frame that scatters, bands and fronts are drawn in."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from perdure.report.charts import marker, steps_of
from perdure.report.svg import frame, shortened

WIDTH, HEIGHT = 660, 360
LEFT, RIGHT, TOP, BOTTOM = 58, 168, 34, 52
LOG_FROM = 20.0
"""Ratio of the largest to the smallest value from which an axis of amounts is logarithmic."""


@dataclass(frozen=True)
class Axis:
    """What an axis shows: its ends, its name, how a value is written, whether it is logarithmic or of whole numbers."""

    low: float
    high: float
    name: str
    show: Callable[[float], str]
    log: bool = False
    whole: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 at the low end, 1 at the high end."""
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)

    @property
    def ticks(self) -> list[float]:
        """Round values."""
        if self.whole:
            return [float(k) for k in range(int(self.low), int(self.high) + 1, math.ceil((self.high - self.low) / 11))]
        if not self.log:
            return steps_of(self.low, self.high, 6)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        factors = (1, 2, 5) if self.high / self.low < 300 else (1,)
        return [v for p in powers for k in factors if self.low <= (v := k * 10.0**p) <= self.high]


@dataclass(frozen=True)
class Name:
    """A label at the right of a chart, as near as can be to the height `y` of what it names."""

    text: str
    css: str
    marker: int
    y: float


def axis(values: Sequence[float], name: str, show: Callable[[float], str], amounts: bool = False) -> Axis:
    """An axis that holds all finite values with some room; `amounts` (bytes, seconds) may become logarithmic."""
    finite = [v for v in values if math.isfinite(v)]
    low, high = min(finite), max(finite)
    if amounts and low > 0 and high / low >= LOG_FROM:
        return Axis(low / 1.6, high * 1.6, name, show, log=True)
    pad = 0.08 * (high - low) or 0.1 * max(abs(high), 1e-3)
    return Axis(0.0 if amounts else low - pad, high + pad, name, show)


def x_of(axis: Axis, value: float) -> float:
    """Pixels from the left."""
    return LEFT + (WIDTH - LEFT - RIGHT) * axis.share(value)


def y_of(axis: Axis, value: float) -> float:
    """Pixels from the top."""
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - axis.share(value))


def chart(x: Axis, y: Axis, parts: Sequence[Markup], names: Sequence[Name], title: str) -> Markup:
    """Axes below, parts on top, names at the right."""
    return frame(WIDTH, HEIGHT, title, [*_rules(x, y), *parts, *_names(names)], "chart")


def mark(x: float, y: float, css: str, number: int, size: float, title: str = "") -> Markup:
    """A marker in the colour of a class, with a tooltip."""
    tip = Markup("<title>{}</title>").format(title) if title else Markup("")
    return Markup('<g class="{}">{}{}</g>').format(css, tip, marker(number, x, y, size))


def line(points: Sequence[tuple[float, float]], css: str) -> Markup:
    """A line through points given in pixels."""
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return Markup('<g class="{}"><path class="line" d="{}"/></g>').format(css, path)


def band(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], css: str) -> Markup:
    """The area between two lines given in pixels."""
    around = [*upper, *reversed(lower)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in around)
    return Markup('<g class="{}"><polygon class="band" points="{}"/></g>').format(css, points)


def _rules(x: Axis, y: Axis) -> list[Markup]:
    parts = []
    for value in y.ticks:
        at = y_of(y, value)
        parts.append(Markup('<path class="rule" d="M{} {:.1f}H{}"/>').format(LEFT, at, WIDTH - RIGHT))
        parts.append(
            Markup('<text x="{}" y="{:.1f}" dy=".35em" text-anchor="end">{}</text>').format(LEFT - 8, at, y.show(value))
        )
    for value in x.ticks:
        at = x_of(x, value)
        parts.append(Markup('<path class="rule" d="M{:.1f} {}v5"/>').format(at, HEIGHT - BOTTOM))
        parts.append(
            Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                at, HEIGHT - BOTTOM + 19, x.show(value)
            )
        )
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(Markup('<path class="rule" d="M{} {}H{}"/>').format(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT))
    parts.append(
        Markup('<text class="axis" x="{:.0f}" y="{}" text-anchor="middle">{}</text>').format(
            middle, HEIGHT - 10, x.name
        )
    )
    parts.append(Markup('<text class="axis" x="{}" y="{}">{}</text>').format(LEFT - 46, 14, y.name))
    return parts


def _names(names: Sequence[Name]) -> list[Markup]:
    """Pushed apart so that none covers another, and kept inside the picture."""
    texts: list[Markup] = []
    last = -math.inf
    spare = HEIGHT - BOTTOM + 10 - 16 * len(names)
    for number, name in enumerate(sorted(names, key=lambda n: n.y), start=1):
        last = max(min(name.y, spare + 16 * number), last + 16)
        x = WIDTH - RIGHT + 14
        texts.append(
            Markup('<g class="{}">{}<text class="name" x="{}" y="{:.1f}" dy=".35em">{}</text></g>').format(
                name.css, marker(name.marker, x, last), x + 10, last, shortened(name.text, 22)
            )
        )
    return texts
