"""The report of one or several lineages: one self-contained page, the scores as CSV, a table for papers."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import BytecodeCache, ChoiceLoader, Environment, PackageLoader, StrictUndefined
from jinja2.bccache import Bucket

from perdure import files, wording
from perdure.lineage import Lineage
from perdure.photos import buckets
from perdure.report import classes, reading, samples, scenes, tables, trends, view
from perdure.score.matrix import FORMULAS


def build(lineages: Sequence[Lineage], out: Path, title: str) -> Path:
    """Write report.html, scores.csv and table.tex into `out`, of classifiers accuracy.csv too; returns the page's path.

    The lineages (one per method) are shown side by side in the given order, unfinished ones with their
    lessons so far. Same lineages, same bytes. ValueError for no lineage, LineageError for a damaged one.
    """
    if not lineages:
        raise ValueError("a report needs at least one lineage")
    runs = reading.read(lineages)
    files.write_text(out / "scores.csv", tables.scores_csv(runs))
    files.write_text(out / "table.tex", tables.table_tex(runs))
    if any(run.classifies for run in runs):
        files.write_text(out / "accuracy.csv", classes.accuracy_csv(runs))
    path = out / "report.html"
    files.write_text(path, render(view.page(runs, title)))
    return path


class _Compiled(BytecodeCache):
    """Templates are compiled once a process; each page has an environment of its own, for the pictures it keeps."""

    codes: ClassVar[dict[str, Any]] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Take the code of a template with this name and source, where there is one."""
        bucket.code = self.codes.get(bucket.key + bucket.checksum)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep it."""
        self.codes[bucket.key + bucket.checksum] = bucket.code


def environment(*packages: str) -> Environment:
    """Where templates are found: in these packages, then in the report's own. Every name in them is escaped."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "perdure.report")]), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, bytecode_cache=_Compiled(),
    )  # fmt: skip
    made.globals.update(picture=cache(samples.inline_image), number=wording.short_number, bar=_bar)
    return made


def render(page: view.Page) -> str:
    """The page as HTML; every name, prompt and label is escaped."""
    own = environment()
    own.globals.update(
        formulas=FORMULAS, failing_headings=tables.FAILING_HEADINGS, scene_headings=scenes.HEADINGS,
        budget_headings=trends.BUDGET_HEADINGS, size=wording.size, trained_on=_frame,
    )  # fmt: skip
    return own.get_template("report.html.j2").render(page=page)


def _frame(shape: buckets.Size, resolution: int, multiple: int | None) -> str:
    """Inline style of the frame around the middle that is trained on of a picture; empty where that is all of it.

    In parts of the square that the whole picture is shown in.
    """
    kept = buckets.kept(shape, buckets.nearest(shape, resolution, multiple))
    width, height = (100 * share * side / max(shape) for share, side in zip(kept, shape, strict=True))
    return f"width:{width:.1f}%;height:{height:.1f}%" if min(kept) < 1 else ""


def _bar(share: float) -> str:
    """Inline style of the small bar under a picture."""
    return f"width:{100 * max(share, 0.03):.0f}%"
