"""Which pictures show forgetting: a concept a row, a lesson a column, always the same prompt and latent."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from perdure import files
from perdure.errors import LineageError
from perdure.report.palette import fraction_of
from perdure.report.reading import Run

MOST = 8
"""Lessons (and concepts) shown at most in one sheet."""

State = Literal["reference", "base", "before", "own", "after", "empty"]


@dataclass(frozen=True)
class Sample:
    """One place of a sheet. `fraction`: where its score lies in the measure's range, 1 the better end."""

    state: State
    path: Path | None
    score: float
    fraction: float
    alt: str
    doubt: str = ""
    """Why the score proves nothing; empty where it holds."""


@dataclass(frozen=True)
class Line:
    """One row of a sheet. `head`: the concept, or the run's label where a sheet compares runs."""

    head: str
    kind: str
    prompt: str
    measure: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Column:
    """A column's heading."""

    title: str
    subtitle: str


@dataclass(frozen=True)
class Sheet:
    """A whole sheet; `note` says what was left out."""

    label: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    note: str


def pick(count: int, most: int = MOST) -> list[int]:
    """At most `most` of range(count), evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def ranges(runs: Sequence[Run]) -> dict[str, tuple[float, float]]:
    """Measure -> least and greatest score of all runs: the scale that their pictures and heat maps share."""
    found: dict[str, tuple[float, float]] = {}
    for measure in dict.fromkeys(m for run in runs for m in run.scores):
        values = np.concatenate([run.scores[measure].ravel() for run in runs if measure in run.scores])
        values = values[np.isfinite(values)]
        if values.size:
            found[measure] = (float(values.min()), float(values.max()))
    return found


def sheet(run: Run, limits: dict[str, tuple[float, float]], image: int = 0, most: int = MOST) -> Sheet:
    """The sheet of one run. `image`: which of a cell's fixed (prompt, latent) pairs is shown."""
    lessons = [i + 1 for i in pick(run.lessons, most)]
    taught = [name for i in lessons for name in run.rows[i].concepts]
    names = [taught[j] for j in pick(len(taught), most)]
    lines = tuple(_line(run, name, name, lessons, limits, image) for name in names)
    note = ""
    if len(lessons) < run.lessons or len(names) < len(run.concepts):
        note = (
            f"Shown: {len(names)} of {len(run.concepts)} concepts and "
            f"{len(lessons)} of {run.lessons} lessons, evenly spread."
        )
    return Sheet(run.label, _columns(run, lessons), lines, note)


def comparison(
    runs: Sequence[Run],
    concept: str,
    limits: dict[str, tuple[float, float]],
    image: int = 0,
    most: int = MOST,
) -> Sheet | None:
    """One concept, a row for each run that taught it one by one; None where these are fewer than two."""
    runs = [run for run in runs if concept in run.concepts and not run.joint]
    if len(runs) < 2:
        return None
    longest = max(runs, key=lambda run: run.lessons)
    lessons = [i + 1 for i in pick(longest.lessons, most)]
    lines = tuple(_line(run, concept, run.label, lessons, limits, image) for run in runs)
    note = ""
    if len(lessons) < longest.lessons:
        note = f"Shown: {len(lessons)} of {longest.lessons} lessons, evenly spread."
    return Sheet(concept, _columns(longest, lessons), lines, note)


def reference_of(run: Run, concept: str) -> Path | None:
    """A held-out reference picture, else a training picture."""
    folder = run.lineage.concept_folder(concept)
    return next((p for p in (folder / "ref-0.png", folder / "train-0.png") if p.is_file() and not p.is_symlink()), None)


def _columns(run: Run, lessons: Sequence[int]) -> tuple[Column, ...]:
    after = [Column(f"lesson {i}", _names(run.rows[i].concepts)) for i in lessons]
    return (Column("reference", "the real thing"), Column("base", "untouched"), *after)


def _names(names: Sequence[str]) -> str:
    return f"{len(names)} at once" if len(names) > 1 else "".join(names)


def _line(
    run: Run,
    concept: str,
    head: str,
    lessons: Sequence[int],
    limits: dict[str, tuple[float, float]],
    image: int,
) -> Line:
    measure = run.primary(concept)
    real = Sample("reference", reference_of(run, concept), float("nan"), 0.0, f"{concept}, a real picture")
    places = [real, *(sample(run, i, concept, measure, limits, image) for i in (0, *lessons))]
    drawn = [cell for (_, name), cell in run.cells.items() if name == concept and len(cell.images) > image]
    prompt = drawn[0].record["images"][image]["prompt"] if drawn else ""
    return Line(head, run.facts[concept]["concept"]["kind"], prompt, measure or "", tuple(places))


def sample(
    run: Run, row: int, concept: str, measure: str | None, limits: dict[str, tuple[float, float]], image: int
) -> Sample:
    """One place: a concept drawn after lesson `row`, or by the base."""
    cell = run.cells.get((row, concept))
    nothing = float("nan")
    if row > run.lessons or cell is None or len(cell.images) <= image:
        return Sample("empty", None, nothing, 0.0, f"{concept}: not drawn after lesson {row}")
    own = run.own_row(concept)
    state: State = "base" if row == 0 else "before" if row < own else "own" if row == own else "after"
    score = run.score(measure, row, concept)
    fraction = 0.0
    if measure in limits:
        fraction = fraction_of(score, *limits[measure], run.direction(measure))
    when = "by the untouched base" if row == 0 else f"after lesson {row}"
    alt = f"{concept} drawn {when}" + (f", {measure} {score:.3f}" if np.isfinite(score) else "")
    doubt = "; ".join(doubt.told for doubt in run.doubts(row, concept))
    return Sample(state, cell.images[image], score, fraction, alt, doubt)


CRISP = 64
"""Pictures up to this side are kept pixel by pixel and shown enlarged."""
SHRUNK = 160
"""Larger ones are shrunk to this side."""


@dataclass(frozen=True)
class InlineImage:
    """A picture ready for an `img` element. `crisp`: enlarge without smoothing."""

    uri: str
    crisp: bool
    width: int
    height: int


def inline_image(path: Path) -> InlineImage | None:
    """A file as a data URI; None where it cannot be read, for a report must not fail for one lost picture."""
    try:
        seen = path.stat()
        return _made(path, seen.st_mtime_ns, seen.st_size)
    except (OSError, LineageError):
        return None


@lru_cache(maxsize=4096)
def _made(path: Path, changed: int, size: int) -> InlineImage:
    """The picture of a file that was last `changed` then: the next report of a run shows most of them again."""
    image = files.read_png(path)
    crisp = max(image.size) <= CRISP
    image.thumbnail((SHRUNK, SHRUNK), Image.Resampling.LANCZOS)
    kind, data = _lossless(image) if crisp else ("webp", _encoded(image, "webp", quality=82, method=4))
    return InlineImage(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", crisp, *image.size)


def _lossless(image: Image.Image) -> tuple[str, bytes]:
    png = _encoded(image, "png", optimize=True)
    webp = _encoded(image, "webp", lossless=True, method=4)
    return ("webp", webp) if len(webp) < len(png) else ("png", png)


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
