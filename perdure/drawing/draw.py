"""Draw with a model from its stored memory."""

from pathlib import Path

from PIL import Image

from perdure import memory, method
from perdure.bases import loading
from perdure.drawing import sample
from perdure.errors import LineageError
from perdure.files import picture_format, write_picture
from perdure.lineage import Lineage, agreement
from perdure.memory import Memory


def draw(
    lineage: Lineage,
    prompt: str,
    out: Path,
    count: int = 4,
    seed: int = 0,
    after: int | None = None,
    concept: str | None = None,
    device: str | None = None,
) -> list[Image.Image]:
    """Images of one prompt as the model is after a lesson (by default the last), also written side by side to `out`.

    Raises LineageError where the lesson does not exist or the method must be told which concept is meant, and
    PerdureError where the ending of `out` names no format.
    """
    picture_format(out)  # before the minutes that drawing takes
    rows = lineage.lessons
    number = len(rows) if after is None else after
    if number > len(rows):
        raise LineageError(f"{lineage.folder} has {len(rows)} lessons; there is no lesson {number}")
    plan = lineage.plan()
    chosen = method.of(plan.methods[0])
    lesson_of = {name: row.name for row in rows[:number] for name in row.concepts}
    if chosen.consolidate.knows == "concept" and number and concept not in lesson_of:
        raise LineageError(
            f"method {plan.methods[0].name} must be told which concept is meant; give one of {', '.join(lesson_of)}"
        )
    agreement.on_base(lineage, loading.identity(plan.base, plan.vae))
    remembered = memory.load(rows[number - 1].memory, lineage.store) if number else Memory()
    backbone = loading.of(plan, device)
    sampling = plan.sampling.model_copy(update={"images_per_prompt": count, "seed": seed})
    side = sampling.resolution or plan.training.resolution
    images = sample.images(backbone, chosen, remembered, lesson_of.get(concept or ""), [prompt], sampling, side)
    write_picture(out, side_by_side(images))
    return images


def side_by_side(images: list[Image.Image], gap: int = 2) -> Image.Image:
    """Images of one size in a row, on white."""
    width, height = images[0].size
    row = Image.new("RGB", ((width + gap) * len(images) - gap, height), "white")
    for number, image in enumerate(images):
        row.paste(image, (number * (width + gap), 0))
    return row
