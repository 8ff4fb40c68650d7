"""Pictures of several concepts: what a memory recalls for each region, laid and drawn together."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perdure.bases.backbone import Backbone
from perdure.bases.regions import Regions
from perdure.drawing import sample
from perdure.errors import PlanError
from perdure.images import read_image
from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.method import Method
from perdure.plan import Concept, Sampling
from perdure.plan.scenes import Box, Region, Scene
from perdure.progress import Advance


def images(
    backbone: Backbone, method: Method, memory: Memory, scene: Scene, concepts: Mapping[str, Concept],
    called: Mapping[str, str], sampling: Sampling, side: int, advance: Advance = lambda n, note: None,
) -> list[Image.Image]:  # fmt: skip
    """Pictures of a scene from the fixed latents, as the memory recalls its concepts.

    concepts: those that the memory has been taught; called: the lesson that taught each. A method that must be told the
    concept or the prompt recalls for each region by itself: in the noise all that it recalls, in attention the keys
    and values of cross-attention, over what it recalls for the whole picture: the sum of the concepts' changes, or the
    prompt's. Raises PlanError for a concept that is not among them, and ModelError where the base can have no regions.
    """
    prompt, texts = scene.written(concepts)
    lessons = [called.get(name or "") for name in scene.named(concepts)]
    masks = torch.stack([mask(region, side) for region in scene.regions]).to(backbone.device)
    with sample.spoken(backbone, memory):
        whole, own = _recalled(backbone, method, memory, lessons, prompt, texts)
        with backbone.laid(whole):
            if scene.how == "plain":
                return sample.draw(backbone, [prompt], sampling, side, advance)
            if scene.how == "attention":
                own = [_in_attention(backbone, whole, delta) for delta in own]
            regions = Regions(
                masks, backbone.encode_prompts(texts), scene.how, scene.base, scene.feather, scene.until,
                [backbone.ready(delta) for delta in own],
            )  # fmt: skip
            return sample.draw(backbone, [prompt], sampling, side, advance, regions)


def check(scene: Scene, concepts: Mapping[str, Concept], side: int) -> None:
    """All that can be wrong in a scene before anything is loaded. Raises PlanError and ImageError."""
    scene.written(concepts)
    for region in scene.regions:
        mask(region, side)


def _recalled(
    backbone: Backbone, method: Method, memory: Memory, lessons: Sequence[str | None], prompt: str, texts: Sequence[str]
) -> tuple[Delta, list[Delta]]:
    """What lies under the whole picture, and under each region where that is something else."""
    knows = method.consolidate.knows
    if knows == "nothing":
        return sample.recalled(backbone, method, memory, None, prompt), []
    if knows == "concept" and None in lessons:
        raise PlanError(
            f"region {lessons.index(None) + 1} calls no learnt concept, and this model must be told which is meant; "
            "give the region a `concept`"
        )
    own = [sample.recalled(backbone, method, memory, *each) for each in zip(lessons, texts, strict=True)]
    if knows == "prompt":
        return sample.recalled(backbone, method, memory, None, prompt), own
    return sum(dict(zip(lessons, own, strict=True)).values(), Delta()), own


def _in_attention(backbone: Backbone, whole: Delta, own: Delta) -> Delta:
    """What lies under the whole picture, with the region's own keys and values of cross-attention."""
    told = backbone.projections("cross_kv")
    kept = {name: change for name, change in whole.items() if name not in told}
    return Delta({**kept, **{name: change for name, change in own.items() if name in told}})


def mask(region: Region, side: int) -> Tensor:
    """Where a region is: (side, side) in [0, 1]; a box covers all pixels that it touches.

    Raises PlanError for a mask of another size or of nothing, ImageError for one that cannot be read.
    """
    if region.box is not None:
        x0, y0, x1, y1 = pixels(region.box, side)
        covered = torch.zeros(side, side)
        covered[y0:y1, x0:x1] = 1
        return covered
    picture = read_image(str(region.mask), background=(0, 0, 0))
    if picture.size != (side, side):
        width, height = picture.size
        raise PlanError(f"mask {region.mask} is {width} x {height} pixels, and pictures are {side} x {side}; resize it")
    if not (covered := torch.from_numpy(np.asarray(picture.convert("L"), np.float32) / 255)).any():
        raise PlanError(f"mask {region.mask} is black everywhere: its region is nowhere; paint the region white")
    return covered


def pixels(box: Box, side: int) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the pixels that a box touches, by more than the rounding of numbers."""
    x0, y0, x1, y1 = (round(edge * side, 6) for edge in box)
    return int(x0), int(y0), -int(-x1 // 1), -int(-y1 // 1)
