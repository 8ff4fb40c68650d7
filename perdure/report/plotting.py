"""What all matplotlib figures share: their look, the project's colours, and files with the same bytes every time."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure import files
from perdure.report.colours import SCALE, Rgb, css

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(width: float, height: float) -> "Figure":
    """An empty figure; sides in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=200)


def colour_map(better: str, scale: Sequence[Rgb] = SCALE) -> Any:
    """A scale of the reports for matplotlib; its deep end is the better one."""
    from matplotlib.colors import LinearSegmentedColormap

    found = LinearSegmentedColormap.from_list("perdure", [css(colour) for colour in scale])
    return found if better == "higher" else found.reversed()


def save(figure: "Figure", path: Path) -> Path:
    """Written whole, PNG or PDF by the path's suffix, without times or versions in it."""
    kind = path.suffix.lower().lstrip(".") or "png"
    dateless = {"pdf": {"CreationDate": None, "Producer": None, "Creator": None}, "png": {"Software": None}}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=dateless.get(kind))
    files.write_bytes(path, buffer.getvalue())
    return path
