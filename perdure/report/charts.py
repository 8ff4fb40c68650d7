"""Line and step charts as inline SVG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from perdure.report.svg import frame, shortened

WIDTH, HEIGHT = 660, 330
LEFT, RIGHT, TOP, BOTTOM = 62, 132, 14, 54


@dataclass(frozen=True)
class Series:
    """One line: values at 0, 1, ... (NaN: a gap). `css`: classes of the page; `marker`: 0..7 or None."""

    name: str
    css: str
    values: tuple[float, ...]
    marker: int | None = None
    step: bool = False


@dataclass(frozen=True)
class _Frame:
    count: int
    low: float
    high: float

    def x(self, index: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * index / max(self.count - 1, 1)

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)


def line_chart(
    series: Sequence[Series],
    ticks: Sequence[str],
    title: str,
    number: Callable[[float], str] = "{:.2f}".format,
    from_zero: bool = False,
) -> Markup:
    """Series over `ticks` (one label per index), each named at its right end."""
    finite = [v for s in series for v in s.values if math.isfinite(v)]
    if not finite:
        return Markup("")
    low, high = (0.0 if from_zero else min(finite)), max(finite)
    pad = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    space = _Frame(len(ticks), 0.0 if from_zero else low - pad, high + pad)
    parts = [*_axes(space, ticks, number), *(_line(space, s) for s in series), *_names(space, series)]
    return frame(WIDTH, HEIGHT, title, parts, "chart")


def steps_of(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers between two values, at most about `most`."""
    raw = (high - low) / most
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def spark(losses: Sequence[float], title: str, width: int = 190, height: int = 70) -> Markup:
    """A training curve: raw values thin, smoothed thick; no axes."""
    values = np.array([v for v in losses if math.isfinite(v)])
    if values.size < 2:
        return Markup("")
    smooth = thin(smoothed(values), 100)
    raw = thin(values, 100)
    low, high = float(raw.min()), float(raw.max())
    scale = (height - 8) / ((high - low) or 1.0)
    paths = [
        Markup('<path class="{}" d="{}"/>').format(
            name,
            _path([(4 + (width - 8) * k / (len(line) - 1), 4 + (high - v) * scale) for k, v in enumerate(line)]),
        )
        for name, line in (("raw", raw), ("smooth", smooth))
    ]
    return frame(width, height, title, paths, "spark")


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


def marker(number: int, x: float, y: float, size: float = 4.2) -> Markup:
    """One of eight shapes, centred."""
    if number % 8 == 0:
        return Markup('<circle class="mark" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(x, y, size)
    shapes: dict[int, list[tuple[float, float]]] = {
        1: [(-1, -1), (1, -1), (1, 1), (-1, 1)], 2: [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
        3: [(0, -1.3), (1.2, 0), (0, 1.3), (-1.2, 0)], 4: [(0, 1.2), (1.15, -0.9), (-1.15, -0.9)],
        5: [(0, -1.25), (1.2, -0.35), (0.75, 1.05), (-0.75, 1.05), (-1.2, -0.35)],
        6: [(-1.3, -0.5), (1.3, -0.5), (1.3, 0.5), (-1.3, 0.5)],
        7: [(-0.5, -1.3), (0.5, -1.3), (0.5, 1.3), (-0.5, 1.3)],
    }  # fmt: skip
    points = " ".join(f"{x + size * a:.1f},{y + size * b:.1f}" for a, b in shapes[number % 8])
    return Markup('<polygon class="mark" points="{}"/>').format(points)


def _axes(space: _Frame, ticks: Sequence[str], number: Callable[[float], str]) -> list[Markup]:
    parts = []
    for value in steps_of(space.low, space.high):
        y = space.y(value)
        parts.append(Markup('<path class="rule" d="M{} {:.1f}H{}"/>').format(LEFT, y, WIDTH - RIGHT))
        parts.append(
            Markup('<text x="{}" y="{:.1f}" dy=".35em" text-anchor="end">{}</text>').format(LEFT - 8, y, number(value))
        )
    every = max(1, math.ceil(len(ticks) / 9))
    for index in range(0, len(ticks), every):
        parts.append(
            Markup('<text transform="translate({:.1f} {}) rotate(-28)" text-anchor="end">{}</text>').format(
                space.x(index) + 6, HEIGHT - BOTTOM + 18, shortened(ticks[index], 15)
            )
        )
    return parts


def _line(space: _Frame, series: Series) -> Markup:
    runs = _unbroken(series.values)
    paths = [_path(_corners(space, run) if series.step else _places(space, run)) for run in runs]
    marks = [
        marker(series.marker, *place) for run in runs for place in _places(space, run) if series.marker is not None
    ]
    return Markup('<g class="{}"><path class="line" d="{}"/>{}</g>').format(
        series.css, "".join(paths), Markup("").join(marks)
    )


def _unbroken(values: Sequence[float]) -> list[list[tuple[int, float]]]:
    """(index, value) in stretches without a gap."""
    runs: list[list[tuple[int, float]]] = [[]]
    for k, value in enumerate(values):
        if math.isfinite(value):
            runs[-1].append((k, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _places(space: _Frame, run: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    return [(space.x(k), space.y(v)) for k, v in run]


def _corners(space: _Frame, run: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """The same with a corner before each step."""
    places = _places(space, run)
    return [places[0], *(p for a, b in pairwise(places) for p in ((b[0], a[1]), b))]


def _names(space: _Frame, series: Sequence[Series]) -> list[Markup]:
    """Names at the right ends, pushed apart so that none covers another."""
    finite = [(s, [v for v in s.values if math.isfinite(v)]) for s in series]
    ends = [(space.y(values[-1]), s) for s, values in finite if values]
    texts: list[Markup] = []
    last = -math.inf
    ends.sort(key=lambda end: end[0])
    spare = HEIGHT - BOTTOM + 10 - 15 * len(ends)
    for y, one in ends:
        y = max(min(y, spare + 15 * (len(texts) + 1)), last + 15)
        last = y
        texts.append(
            Markup('<g class="{}"><text class="name" x="{}" y="{:.1f}" dy=".35em">{}</text></g>').format(
                one.css, WIDTH - RIGHT + 10, y, shortened(one.name)
            )
        )
    return texts


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
