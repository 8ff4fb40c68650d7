"""Heat maps: score matrices, and how lessons meet in the weights."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from perdure.report.charts import blank, inline, room, styled, tip
from perdure.report.palette import HATCH, MARK, PAPER, SCALE, SOFT, Rgb, css, fraction_of, ink_on, sequential
from perdure.wording import short_number, shortened

NUMBERS_FROM = 34
"""Cells at least this wide (px) carry their number."""


@styled
def heat_map(
    S: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[float, float],
    better: str = "higher",
    own: Sequence[tuple[int, int]] = (),
    scale: Sequence[Rgb] = SCALE,
) -> Figure:
    """S (rows, columns) as coloured cells with their numbers; NaN stays hatched; `own` cells are outlined.

    Cells shrink with their count; small ones tell their numbers where they are pointed at.
    """
    width = max(13.0, min(54.0, 560 / max(S.shape[1], 1)))
    height = min(width, 36.0) if width >= NUMBERS_FROM else width
    left, top = _margin(rows, height), _margin(columns, width) * 0.72 + 10
    figure = blank(left + S.shape[1] * width + 46, top + S.shape[0] * height + 6)
    axes = room(figure, left, 46, top, 6)
    heat_on(axes, S, limits, better, scale, 12 if width >= NUMBERS_FROM else 0, (rows, columns))
    every = 2 if width < 16 else 1
    size = 9.5 if height < 16 else 12
    axes.set_yticks(range(len(rows)), list(map(shortened, rows)), fontsize=size)
    axes.xaxis.tick_top()
    axes.set_xticks(
        range(0, len(columns), every), list(map(shortened, columns[::every])), rotation=40, ha="left",
        rotation_mode="anchor", fontsize=size,
    )  # fmt: skip
    for i, j in own:
        inset = 1 / width, 1 / height
        axes.add_patch(Rectangle((j - 0.5 + inset[0], i - 0.5 + inset[1]), 1 - 2 * inset[0], 1 - 2 * inset[1],
                                 fill=False, edgecolor=MARK, linewidth=2, zorder=3))  # fmt: skip
    return figure


def heat_on(
    axes: Axes,
    S: np.ndarray,
    limits: tuple[float, float],
    better: str = "higher",
    scale: Sequence[Rgb] = SCALE,
    fontsize: float = 0,
    names: tuple[Sequence[str], Sequence[str]] | None = None,
) -> None:
    """The cells of a heat map, NaN hatched; with a font size they carry their numbers.

    With the `names` of rows and columns each tells them and its number where it is pointed at.
    """
    axes.set(xlim=(-0.5, S.shape[1] - 0.5), ylim=(S.shape[0] - 0.5, -0.5))
    axes.patch.set(visible=True, facecolor="none", hatch="////", edgecolor=HATCH, linewidth=0)
    colours = np.zeros((*S.shape, 4))
    for i, j in zip(*np.nonzero(np.isfinite(S)), strict=True):
        colour = sequential(fraction_of(float(S[i, j]), *limits, better), scale)
        colours[i, j] = (*(channel / 255 for channel in colour), 1)
        if names:
            cell = Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=css(colour), clip_on=False)
            cell.set(edgecolor=PAPER if fontsize else "none")
            cell.set_gid(tip(f"{names[0][i]}: {names[1][j]} {S[i, j]:.4f}"))
            axes.add_patch(cell)
        if fontsize:
            axes.text(j, i, short_number(float(S[i, j])), ha="center", va="center_baseline", color=ink_on(colour),
                      fontsize=fontsize)  # fmt: skip
    if not names:
        axes.pcolormesh(*(np.arange(count + 1) - 0.5 for count in S.shape[::-1]), colours)


@styled
def bar(limits: tuple[float, float], measure: str, better: str = "higher", scale: Sequence[Rgb] = SCALE) -> Markup:
    """The colours of a measure from one end to the other, for a page."""
    figure = blank(290, 14)
    axes = room(figure, 44, 52, 2, 2)
    for k, share in enumerate(np.linspace(0, 1, 24)):
        colour = css(sequential(float(share) if better == "higher" else 1 - float(share), scale))
        axes.add_patch(Rectangle((k, 0), 1.05, 1, facecolor=colour, linewidth=0))
    axes.set(xlim=(0, 24), ylim=(0, 1), xticks=[], yticks=[])
    for x, value, side in ((-0.7, limits[0], "right"), (24.7, limits[1], "left")):
        axes.text(x, 0.5, f"{value:.2f}", ha=side, va="center_baseline", color=SOFT)
    return inline(figure, f"Colours of {measure} from {limits[0]:.3f} to {limits[1]:.3f}")


def _margin(labels: Sequence[str], cell: float) -> float:
    size = 12 if cell >= 16 else 10
    return 14 + max((len(shortened(text)) for text in labels), default=0) * size * 0.58
