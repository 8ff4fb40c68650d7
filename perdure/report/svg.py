"""Heat maps as inline SVG, written by hand so that a page needs nothing else."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

Rgb = tuple[int, int, int]

SCALE: tuple[Rgb, ...] = (
    (246, 238, 220), (232, 208, 156), (156, 188, 158), (72, 146, 146), (22, 94, 114), (10, 48, 76),
)  # fmt: skip
"""Sequential, pale to deep: the lightness falls all the way, so that it reads in grey, too."""

DIVERGING: tuple[Rgb, ...] = (
    (118, 42, 12), (196, 98, 46), (236, 184, 140), (246, 241, 230), (150, 188, 178), (48, 124, 138), (10, 48, 76),
)  # fmt: skip
"""For signed values, from below 0 over pale 0 to above: orange and blue, which no common colour blindness mixes up."""

METHODS = ("#0a6fb0", "#d1500a", "#0b8a63", "#a8407f", "#8a6d00", "#5b4bb5", "#2a8fa8", "#7a4a2a")
"""Lines of methods on white; each also has a marker of its own."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""matplotlib's names of the methods' markers."""


def sequential(share: float, scale: Sequence[Rgb] = SCALE) -> Rgb:
    """The colour at `share` in [0, 1] of a scale; values beyond are clipped."""
    place = min(max(share, 0.0), 1.0) * (len(scale) - 1)
    low = min(int(place), len(scale) - 2)
    part = place - low
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(scale[low], scale[low + 1], strict=True))
    return red, green, blue


def share_of(value: float, low: float, high: float, better: str = "higher") -> float:
    """Where a value lies in [low, high], in [0, 1]; 1 is the better end. 0.5 where the range is a point."""
    if not math.isfinite(value) or high <= low:
        return 0.5
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    return share if better == "higher" else 1.0 - share


def ink_on(colour: Rgb) -> str:
    """Black or white, whichever reads better on a colour (WCAG 2 relative luminance)."""
    channels = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]
    return "#10181c" if luminance > 0.19 else "#ffffff"


def css(colour: Rgb) -> str:
    """`#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


NUMBERS_FROM = 34
"""Cells at least this wide carry their number."""


def heat_map(
    S: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    own: Sequence[tuple[int, int]],
    limits: tuple[float, float],
    better: str,
    title: str,
    scale: Sequence[Rgb] = SCALE,
) -> Markup:
    """S (rows, columns) as coloured cells with their numbers; NaN stays hatched; `own` cells are outlined.

    Cells shrink with their count; small ones keep their numbers in tooltips only.
    """
    width = max(13.0, min(54.0, 560 / max(S.shape[1], 1)))
    height = min(width, 36.0) if width >= NUMBERS_FROM else width
    left, top = _margin(rows, height), _margin(columns, width) * 0.72 + 10
    across, down = left + S.shape[1] * width + 46, top + S.shape[0] * height + 6
    parts = [_hatched(left, top, S.shape[1] * width, S.shape[0] * height)]
    parts += _labels(rows, columns, left, top, width, height)
    for i, j in zip(*np.nonzero(np.isfinite(S)), strict=True):
        place = (left + j * width, top + i * height, width, height)
        colour = sequential(share_of(S[i, j], *limits, better), scale)
        parts.append(_cell(place, float(S[i, j]), colour, f"{rows[i]}: {columns[j]}"))
    parts += [
        Markup('<rect class="own" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            left + j * width + 1, top + i * height + 1, width - 2, height - 2
        )
        for i, j in own
    ]
    return frame(across, down, title, parts, "heat")


def legend(limits: tuple[float, float], better: str, measure: str, scale: Sequence[Rgb] = SCALE) -> Markup:
    """The colour bar of a measure."""
    shares = np.linspace(0, 1, 24)
    colours = [css(sequential(float(s) if better == "higher" else 1 - float(s), scale)) for s in shares]
    bars = [Markup('<rect x="{:.1f}" y="0" width="9" height="10" fill="{}"/>').format(44 + 8 * k, c)
            for k, c in enumerate(colours)]  # fmt: skip
    ends = [
        Markup('<text x="38" y="9" text-anchor="end">{:.2f}</text>').format(limits[0]),
        Markup('<text x="244" y="9">{:.2f}</text>').format(limits[1]),
    ]
    return frame(290, 14, f"Colours of {measure} from {limits[0]:.3f} to {limits[1]:.3f}", [*bars, *ends], "scale")


def frame(width: float, height: float, title: str, parts: Sequence[Markup], kind: str) -> Markup:
    """An `svg` element that scales down with the page and names itself to screen readers."""
    return Markup(
        '<svg class="{}" role="img" aria-label="{}" viewBox="0 0 {:.0f} {:.0f}" width="{:.0f}" height="{:.0f}">{}</svg>'
    ).format(kind, title, width, height, width, height, Markup("").join(parts))


def shortened(text: str, most: int = 18) -> str:
    """A label cut to `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _margin(labels: Sequence[str], cell: float) -> float:
    size = 12 if cell >= 16 else 10
    return 14 + max((len(shortened(text)) for text in labels), default=0) * size * 0.58


def _hatched(x: float, y: float, width: float, height: float) -> Markup:
    return Markup(
        '<rect class="unmeasured" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="url(#hatch)"/>'
    ).format(x, y, width, height)


def _labels(
    rows: Sequence[str], columns: Sequence[str], left: float, top: float, width: float, height: float
) -> list[Markup]:
    small = Markup(' class="small"') if height < 16 else Markup("")
    texts = [
        Markup('<text{} x="{:.1f}" y="{:.1f}" text-anchor="end" dy=".35em">{}</text>').format(
            small, left - 7, top + (i + 0.5) * height, shortened(text)
        )
        for i, text in enumerate(rows)
    ]
    for j, text in enumerate(columns):
        if width < 16 and j % 2:
            continue
        x, y = left + (j + 0.5) * width, top - 7
        texts.append(
            Markup('<text{} transform="translate({:.1f} {:.1f}) rotate(-40)">{}</text>').format(
                small, x - 2, y, shortened(text)
            )
        )
    return texts


def _cell(place: tuple[float, float, float, float], value: float, colour: tuple[int, int, int], name: str) -> Markup:
    x, y, width, height = place
    box = Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}"><title>{} {:.4f}</title></rect>'
    ).format(x + 0.5, y + 0.5, width - 1, height - 1, css(colour), name, value)
    if width < NUMBERS_FROM:
        return box
    return box + Markup(
        '<text class="number" x="{:.1f}" y="{:.1f}" text-anchor="middle" dy=".35em" fill="{}">{}</text>'
    ).format(x + width / 2, y + height / 2, ink_on(colour), short_number(value))


def short_number(value: float) -> str:
    """Three significant places in as little room as possible: .713, -.042, 12.3."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 10:
        return f"{value:.1f}"
    text = f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"
    return text.replace("0.", ".", 1).replace("-", "−") if abs(value) < 1 else text.replace("-", "−")
