"""An analysis as files: figures for papers and two CSV tables, layer by layer. Same analysis, same bytes."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from perdure import files
from perdure.analysis.record import ALL, PAIR_FIGURES, Analysis, Part
from perdure.report.charts import blank, save, styled
from perdure.report.heat import heat_on
from perdure.report.palette import DIVERGING, SCALE
from perdure.report.tables import csv_text
from perdure.wording import shortened

NUMBERS_UP_TO = 10
"""Lessons up to which cells carry their numbers."""
NAMES_UP_TO = 80
"""Layers up to which each is named."""


def write(found: Analysis, folder: Path) -> list[Path]:
    """All files of an analysis that knows its layers; returns their paths."""
    paths = [folder / "pairs.csv", folder / "lessons.csv"]
    files.write_text(paths[0], pairs_csv(found))
    files.write_text(paths[1], lessons_csv(found))
    paths.append(sizes(found, folder / "sizes.png"))
    if found.telling:
        paths += [pairs(found, folder / "pairs.png"), layers(found, folder / "layers.png")]
    return paths


def pairs_csv(found: Analysis) -> str:
    """One line for each pair of different lessons in all layers, each kind of layer, and each layer."""
    rows = (
        (where, found.lessons[i], found.lessons[j], *(_text(part.pairs[m][i, j]) for m in PAIR_FIGURES))
        for where, part in _everywhere(found)
        for i in range(len(found.lessons))
        for j in range(len(found.lessons))
        if i != j
    )
    return csv_text(("where", "lesson", "other", *PAIR_FIGURES), rows)


def lessons_csv(found: Analysis) -> str:
    """One line for each lesson in all layers, each kind of layer, and each layer."""
    rows = (
        (where, name, part.weights, _text(part.norms[k]), _text(part.rms[k]), _text(part.moved[k]))
        for where, part in _everywhere(found)
        for k, name in enumerate(found.lessons)
    )
    return csv_text(("where", "lesson", "weights", "norm", "rms", "moved"), rows)


@styled
def pairs(found: Analysis, path: Path) -> Path:
    """One heat map of all pairs of lessons for each measure, over all layers."""
    shown = found.telling
    side = 80 + (33 if len(found.lessons) <= NUMBERS_UP_TO else 17) * len(found.lessons)
    rows = -(-len(shown) // 3)
    figure = blank(3 * (side + 65), rows * (side + 15), "constrained")
    for k, measure in enumerate(shown):
        axes = figure.add_subplot(rows, 3, k + 1)
        matrix = np.where(np.eye(len(found.lessons), dtype=bool), np.nan, found.parts[ALL].pairs[measure])
        names = [f"{n} {shortened(name, 14)}" for n, name in enumerate(found.lessons, 1)]
        _heat(axes, matrix, names, names, measure, numbers=len(names) <= NUMBERS_UP_TO)
    return save(figure, path)


@styled
def sizes(found: Analysis, path: Path) -> Path:
    """Size per weight (root mean square) of each lesson's update, over all layers and in each kind of layer."""
    names = [f"{n} {shortened(name, 14)}" for n, name in enumerate(found.lessons, 1)]
    matrix = np.stack([part.rms for part in found.parts.values()], axis=1)
    scale = 10.0 ** np.floor(np.log10(np.nanmax(matrix))) if np.nanmax(matrix) > 0 else 1.0
    figure = blank(187 + 33 * len(found.parts), 100 + 22 * len(names), "constrained")
    numbers = len(names) <= 2 * NUMBERS_UP_TO
    _heat(figure.add_subplot(), matrix / scale, names, list(found.parts), f"size per weight / {scale:.0e}", numbers)
    return save(figure, path)


@styled
def layers(found: Analysis, path: Path) -> Path:
    """Every layer (rows, in the memory's order) and pair of lessons (columns, earlier-later), a panel a measure."""
    shown = found.telling
    both = list(found.pairs())
    columns = [f"{i + 1}-{j + 1}" for i, j in both]
    rows = [layer_name(projection, found.kinds.get(projection, ())) for projection in found.layers]
    height = 9.4 * min(len(rows), NAMES_UP_TO)
    figure = blank(158 + len(shown) * max(108, 9.4 * len(both)), 86 + height, "constrained")
    for k, (measure, axes) in enumerate(zip(shown, np.atleast_1d(figure.subplots(1, len(shown))), strict=True)):
        matrix = np.array([[part.pairs[measure][pair] for pair in both] for part in found.layers.values()])
        _heat(axes, matrix, rows if k == 0 else [""] * len(rows), columns, measure, numbers=False)
        axes.tick_params(labelsize=5)
    return save(figure, path)


def layer_name(projection: str, kinds: Sequence[str]) -> str:
    """A projection's name as diffusers writes it, shortened by its kinds: "down 1.0.0 cross k"."""
    numbers = ".".join(re.findall(r"\.(\d+)(?=\.)", projection.replace("to_out.0", "to_out")))
    places = {"single_transformer_blocks": "single", "noise_refiner": "noise", "context_refiner": "context"}
    place = next(
        (p for p in ("down", "mid", "up") if projection.startswith(p)), places.get(projection.split(".")[0], "")
    )
    kind = next((k for k in ("self", "cross") if k in kinds), "")
    last = re.search(r"\.(?:to|add)_(\w+?)(?:_proj)?(?:\.0)?$", projection)
    words = [place, numbers, kind, last[1] if last else ""]
    return " ".join(word for word in words if word) if last else projection


def _heat(
    axes: Axes, matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, numbers: bool
) -> None:
    """A heat map on a scale of its own, which its title tells."""
    finite = matrix[np.isfinite(matrix)]
    signed = title in PAIR_FIGURES and PAIR_FIGURES[title].signed
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if signed:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    heat_on(axes, matrix, (low, high), scale=DIVERGING if signed else SCALE, fontsize=5.5 if numbers else 0)
    axes.set_title(f"{title}\n{low:.2f} to {high:.2f}", fontsize=8)
    step = 1 if len(rows) <= NAMES_UP_TO else len(rows) // 40
    axes.set_yticks(range(0, len(rows), step), rows[::step], fontsize=6)
    axes.set_xticks(range(len(columns)), columns, rotation=45 if len(columns) < 25 else 90, ha="right", fontsize=6)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _everywhere(found: Analysis) -> list[tuple[str, Part]]:
    return [*found.parts.items(), *found.layers.items()]


def _text(value: float) -> str:
    """A number with six digits; empty for NaN."""
    return f"{value:.6g}" if np.isfinite(value) else ""
