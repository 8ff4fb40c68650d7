"""Pictures of several concepts: what a memory recalls for each region, drawn together, scored and kept."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perdure import files
from perdure.bases.backbone import Backbone
from perdure.bases.regions import Regions
from perdure.drawing import sample
from perdure.drawing.judging import kept_features
from perdure.drawing.tools import Tools
from perdure.errors import PlanError
from perdure.images import read_image
from perdure.lineage import Lineage
from perdure.lineage.rows import building
from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.method import Method
from perdure.plan import Concept, Sampling
from perdure.plan.scenes import Box, Region, Scene, halves, sets, side_by_side
from perdure.plan.sections import How
from perdure.progress import Advance
from perdure.score import encoders
from perdure.score import scenes as scores
from perdure.score.measure import Measure
from perdure.wording import without


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
    backbone = backbone.drawn_in(sampling.precision)
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
            encoded = backbone.encode_prompts(texts)
            regions = Regions(masks, encoded, scene.how, scene.base, scene.feather, scene.until)
            return sample.draw(backbone, [prompt], sampling, side, advance, regions, own)


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


# --- after a lesson ---------------------------------------------------------------------------------------------------


def prepare(tools: Tools) -> None:
    """Load what finds the things in plain scenes, if a plan names it: a lesson is not taught in vain.

    Raises ModelError.
    """
    asked = tools.plan.sampling.scenes
    if asked is not None and asked.detector is not None and "plain" in asked.hows.values():
        encoders.load_owl(asked.detector, str(tools.backbone.device))


def record(
    tools: Tools, lineage: Lineage, memory: Memory, taught: Sequence[Concept], called: Mapping[str, str], row: Path
) -> None:
    """Draw and score every set of `sampling.scenes` that is taught, each into `scenes/<set>` of a row's folder.

    Does nothing for those that are there.
    """
    if tools.plan.sampling.scenes is None:
        return
    for name, shown in sets(tools.plan.sampling.scenes, taught).items():
        for suffix, how in tools.plan.sampling.scenes.hows.items():
            if not (folder := row / "scenes" / f"{name}{suffix}").is_dir():
                _draw_set(tools, lineage, memory, taught, called, shown, how, folder)


def _draw_set(
    tools: Tools, lineage: Lineage, memory: Memory, taught: Sequence[Concept], called: Mapping[str, str],
    shown: Sequence[str], how: How, folder: Path,
) -> None:  # fmt: skip
    settings = tools.plan.sampling.scenes
    assert settings is not None
    started, concepts = time.perf_counter(), {concept.name: concept for concept in taught}
    made, count = side_by_side(settings, shown, how), settings.images_per_prompt
    sampling = tools.plan.sampling.model_copy(update={"images_per_prompt": count})
    drawn: list[Image.Image] = []
    with tools.watch(f"drawing {' and '.join(shown)}", len(made) * count) as advance:
        for scene in made:
            drawn += images(
                tools.backbone, tools.method, memory, scene, concepts, called, sampling, tools.side, advance
            )
    prompts = [scene.written(concepts)[0] for scene in made for _ in range(count)]
    scored = _scored(tools, lineage, concepts, made[0], drawn, prompts)
    with building(folder) as partial:
        listed = []
        for number, (image, prompt) in enumerate(zip(drawn, prompts, strict=True)):
            files.write_png(partial / f"{number:03d}.png", image)
            listed.append({"file": f"{number:03d}.png", "prompt": prompt, "latent": number % count})
        seconds = round(time.perf_counter() - started, 3)
        boxes = {region.concept: region.box for region in made[0].regions} if how != "plain" else {}
        record = {"concepts": list(shown), "how": how, "boxes": boxes, **scored}
        files.write_json(partial / "scene.json", {**record, "images": listed, "seconds": seconds})


def _scored(
    tools: Tools, lineage: Lineage, concepts: Mapping[str, Concept], scene: Scene, drawn: Sequence[Image.Image],
    prompts: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """What a set's pictures score, all of which have the same regions."""
    boxes = {
        region.concept: pixels(region.box, tools.side) for region in scene.regions if region.concept and region.box
    }
    shown = [concepts[name] for name in boxes]
    found: dict[str, Any] = {"scores": {}}
    told = prompts
    for concept in shown:
        told = [without(prompt, concept.token) for prompt in told]
    for measure in map(tools.measure, tools.plan.measures_for(shown[0])):
        if measure.against == "prompts":
            found["scores"][measure.name] = measure.score(drawn, told if measure.without_token else prompts, None)
    if (identity := tools.identity(shown[0])) is not None:
        alike = [concept for concept in concepts.values() if concept.kind == "subject"]
        references = {c.name: kept_features(tools, lineage, c, identity, "references") for c in alike}
        whole = identity.features(drawn)
        if scene.how == "plain":
            found["regions"] = _matched(tools, identity, drawn, shown, references, whole)
        else:
            crops = {c: identity.features([scores.crop(image, box) for image in drawn]) for c, box in boxes.items()}
            found["regions"] = scores.regions(identity, crops, references, whole)
    return found


def _matched(
    tools: Tools, identity: Measure, drawn: Sequence[Image.Image], shown: Sequence[Concept],
    references: Mapping[str, Tensor], whole: Tensor,
) -> dict[str, Any]:  # fmt: skip
    """The scores of pictures that were drawn by prompt alone, and `found`: the boxes that were cut out of each."""
    asked = tools.plan.sampling.scenes
    columns = [pixels(box, tools.side) for box in halves(len(shown))]
    found: list[list[tuple[int, int, int, int]]] = [columns for _ in drawn]
    if asked is not None and asked.detector is not None:
        detector = encoders.load_owl(asked.detector, str(tools.backbone.device))
        found = detector(drawn, [concept.noun for concept in shown])
    crops = [[scores.crop(image, box) for box in boxes] for image, boxes in zip(drawn, found, strict=True)]
    features = [identity.features(own) if own else torch.empty(0, whole.shape[1]) for own in crops]
    return {**scores.matched(identity, features, references, [c.name for c in shown], whole), "found": found}
