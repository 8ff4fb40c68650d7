"""Draw with a model from its stored memory."""

import json
import os
from pathlib import Path

from PIL import Image

from perdure import __version__, memory, method
from perdure.bases import loading
from perdure.drawing import sample, scenes
from perdure.errors import LineageError
from perdure.files import picture_format, write_picture
from perdure.lineage import Lineage, agreement
from perdure.lineage.rows import taught_by
from perdure.memory import Memory
from perdure.plan import Sampling
from perdure.plan.scenes import Scene


def draw(
    lineage: Lineage, what: str | Scene, out: Path, count: int = 4, seed: int = 0, after: int | None = None,
    concept: str | None = None, device: str | None = None,
) -> list[Image.Image]:  # fmt: skip
    """Images of a prompt or a scene as the model is after a lesson (by default the last), side by side in `out` too.

    Raises LineageError where the lesson does not exist or the method must be told which concept is meant, and
    PerdureError where the ending of `out` names no format, or a scene cannot be drawn.
    """
    picture_format(out)  # before the minutes that drawing takes
    rows = lineage.lessons
    number = len(rows) if after is None else after
    if number > len(rows):
        raise LineageError(f"{lineage.folder} has {len(rows)} lessons; there is no lesson {number}")
    plan = lineage.plan()
    chosen = method.of(plan.methods[0])
    lesson_of = {name: row.name for name, row in taught_by(rows[:number]).items()}
    concepts = {name: lineage.concept(name) for name in lesson_of}
    side = plan.sampling.resolution or plan.training.resolution
    if isinstance(what, Scene):
        scenes.check(what, concepts, side)
    elif chosen.consolidate.knows == "concept" and number and concept not in lesson_of:
        raise LineageError(
            f"method {plan.methods[0].name} must be told which concept is meant; give one of {', '.join(lesson_of)}"
        )
    agreement.on_base(lineage, loading.known(plan))
    remembered = memory.load(rows[number - 1].memory, lineage.store) if number else Memory()
    backbone = loading.of(plan, device)
    sampling = plan.sampling.model_copy(update={"images_per_prompt": count, "seed": seed})
    if isinstance(what, Scene):
        images = scenes.images(backbone, chosen, remembered, what, concepts, lesson_of, sampling, side)
    else:
        images = sample.images(backbone, chosen, remembered, lesson_of.get(concept or ""), [what], sampling, side)
    write_picture(out, side_by_side(images), _made_with(lineage, number, what, sampling, side))
    return images


def _made_with(lineage: Lineage, number: int, what: str | Scene, sampling: Sampling, side: int) -> str:
    """What a picture was drawn with, in the form of A1111: the prompt, then its settings; no path of this machine."""
    base = lineage.settings["base"]
    prompt = (
        what
        if isinstance(what, str)
        else json.dumps(what.model_dump(mode="json", exclude_defaults=True, exclude={"regions": {"__all__": {"mask"}}}))
    )
    negative = f"\nNegative prompt: {sampling.negative_prompt}" if sampling.negative_prompt else ""
    facts = {
        "Steps": sampling.steps, "Sampler": sampling.scheduler, "CFG scale": sampling.guidance, "Seed": sampling.seed,
        "Size": f"{side}x{side}", "Pictures": sampling.images_per_prompt,
        "Model": lineage.facts["name"],
        "Lessons": number, "Base": Path(base).name if os.path.isabs(base) else base,
        "Version": f"perdure {__version__}",
    }  # fmt: skip
    return f"{prompt}{negative}\n{', '.join(f'{key}: {value}' for key, value in facts.items())}"


def side_by_side(images: list[Image.Image], gap: int = 2) -> Image.Image:
    """Images of one size in a row, on white."""
    width, height = images[0].size
    row = Image.new("RGB", ((width + gap) * len(images) - gap, height), "white")
    for number, image in enumerate(images):
        row.paste(image, (number * (width + gap), 0))
    return row
