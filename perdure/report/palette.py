"""Colours of reports: scales for values, a colour and a marker for each method, and the page's own."""

import math
from collections.abc import Sequence

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

PAPER, PANEL, INK, SOFT, RULE, MARK, HATCH = (
    "#fbfaf6", "#ffffff", "#1a2328", "#5d6970", "#e4dfd3", "#c2410c", "#d9d3c4",
)  # fmt: skip
"""Of the page: ground, raised ground, text, quiet text, thin lines, what stands out, what was not measured."""

VARIABLES = {
    PAPER: "paper", INK: "ink", SOFT: "soft", RULE: "line", MARK: "mark", HATCH: "hatch",
    **{colour: f"m{number}" for number, colour in enumerate(METHODS)},
}  # fmt: skip
"""The page's name (a CSS variable) of each colour that is another one in the dark."""


def sequential(share: float, scale: Sequence[Rgb] = SCALE) -> Rgb:
    """The colour at `share` in [0, 1] of a scale; values beyond are clipped."""
    place = min(max(share, 0.0), 1.0) * (len(scale) - 1)
    low = min(int(place), len(scale) - 2)
    part = place - low
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(scale[low], scale[low + 1], strict=True))
    return red, green, blue


def fraction_of(value: float, low: float, high: float, better: str = "higher") -> float:
    """Where a value lies in [low, high], in [0, 1]; 1 is the better end. 0.5 where the range is a point."""
    if not math.isfinite(value) or high <= low:
        return 0.5
    share = min(max((value - low) / (high - low), 0.0), 1.0)
    return share if better == "higher" else 1.0 - share


def ink_on(colour: Rgb) -> str:
    """Black or white, whichever reads better on a colour (WCAG 2 relative luminance)."""
    channels = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]
    return "#10181c" if luminance > 0.19 else "#fefefe"


def css(colour: Rgb) -> str:
    """`#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
