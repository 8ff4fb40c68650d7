"""Drift: what a lesson does to pictures that mention no concept, beside the base's of the same prompts and noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perdure import files, images
from perdure.bases import calibration
from perdure.drawing import content as contents
from perdure.drawing.tools import Tools
from perdure.lineage import Lineage
from perdure.lineage.commons import place
from perdure.lineage.rows import building
from perdure.memory import Memory
from perdure.score import failings
from perdure.score.measure import Measure


def record(tools: Tools, lineage: Lineage, memory: Memory, row: Path) -> None:
    """Draw `scoring.drift` prompts that mention no concept into a row's folder, beside the base's pictures of them.

    `drift.json` holds how far they have moved; of the base's own row, only what was drawn. Does nothing where it is
    there. A lineage that was begun without these pictures has them from here on.
    """
    count, base = tools.plan.scoring.drift, lineage.base_row.folder / "drift"
    measure = next(filter(None, map(tools.identity, tools.plan.sequence)), None)
    if not count or measure is None or (row / "drift").is_dir():
        return
    if not base.is_dir():
        _draw(tools, lineage, Memory(), calibration.captions(tools.plan.base)[:count], base, measure)
    if row != base.parent:
        _draw(tools, lineage, memory, lineage.base_row.drift["prompts"], row / "drift", measure)


def _draw(
    tools: Tools, lineage: Lineage, memory: Memory, prompts: Sequence[str], folder: Path, measure: Measure
) -> None:
    """Draw them, or link those of an earlier row that come from the same."""
    recall, base = tools.recall(memory), lineage.base_row.folder / "drift"
    content = contents.of(tools.plan, lineage, tools.backbone, recall, None, prompts)
    known = next((row.folder / "drift" for row in lineage.rows if row.drift.get("content") == content), None)
    names = [f"{number:03d}.png" for number in range(len(prompts))]
    if known is not None:
        drawn = [images.read_image(known / name) for name in names]
    else:
        sampling = tools.plan.sampling.model_copy(update={"images_per_prompt": 1})
        with tools.watch("drawing what mentions no concept", len(prompts)) as advance:
            drawn = recall.images(None, prompts, sampling, tools.side, advance)
    record: dict[str, Any] = {"prompts": list(prompts), "content": content}
    if folder != base:
        record |= failings.drift(measure, [images.read_image(base / name) for name in names], drawn)
    with building(folder) as partial:
        for name, image in zip(names, drawn, strict=True):
            place(image, partial / name, known / name if known else None)
        files.write_json(partial / "drift.json", record)
