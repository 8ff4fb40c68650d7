"""Rows of the score matrix, cell by cell: a concept is drawn from a memory, its pictures are judged and written."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from perdure import files, images
from perdure.bases.classifier import Classifier
from perdure.drawing import content as contents
from perdure.drawing import drift, judging, predicting, scenes
from perdure.drawing.content import Drawn
from perdure.drawing.sample import Recall, in_force
from perdure.drawing.tools import THUMBNAIL, Tools
from perdure.lineage import Lineage
from perdure.lineage.commons import linked
from perdure.lineage.rows import Row, building
from perdure.memory import Memory
from perdure.plan import Concept
from perdure.score import budget as budgets
from perdure.score.measure import Measure


def row(
    tools: Tools, lineage: Lineage, memory: Memory, concepts: Sequence[Concept], called: Mapping[str, str], into: Row,
    taught: Sequence[Concept] = (), whole: bool = False,
) -> None:  # fmt: skip
    """Draw concepts from a memory, score and write them, cell by cell, into a row; nothing of what is there already.

    called: the lesson that taught each, if one did; taught: the concepts that the memory has been taught, which one may
    be taken for another; whole: also several of these together, and what none is in.
    """
    with tools.drawing():
        for concept in concepts:
            _cell(tools, lineage, memory, concept, called.get(concept.name, concept.name), into, taught)
        tools.finished()
        if whole and not isinstance(tools.base, Classifier):  # which draws nothing
            scenes.record(tools, lineage, memory, taught, called, into.folder)
            drift.record(tools, lineage, memory, into.folder)


def _cell(
    tools: Tools, lineage: Lineage, memory: Memory, concept: Concept, called: str, into: Row, taught: Sequence[Concept]
) -> None:
    """One concept: its folder appears when it is whole. Pictures that were drawn alike before are linked."""
    folder = into.cells / concept.name
    if folder.is_dir():
        return
    if isinstance(tools.base, Classifier):
        _predict(tools, tools.base, concept, memory, called, folder)
        return
    started, prompts = time.perf_counter(), tools.plan.prompts_for(concept)
    references = judging.references(tools, lineage, concept)  # what is missing shows first
    recall = tools.recall(memory)
    enough = _stopped_by(tools, lineage, concept) if tools.plan.sampling.budget else []
    content = contents.of(tools.plan, lineage, tools.backbone, recall, called, prompts, enough)
    known = tools.known.cell(lineage, concept, content)
    drawn, looked = (
        _drawn(tools, concept, recall, called, references) if known is None else (known.pictures, known.looked)
    )
    used, spent = in_force(tools.backbone, tools.plan.sampling, tools.side), time.perf_counter() - started

    def finish() -> None:
        began = time.perf_counter()
        per_image = [prompt for prompt in prompts for _ in range(len(drawn) // len(prompts))]
        record = judging.judged(tools, lineage, concept, per_image, drawn, references, taught, content)
        record |= {"content": content, **judging.unlike_any(lineage, concept, drawn), "drawn": used, **looked}
        tools.known.note(content, lineage, folder)  # first: what is killed in between is done again, and noted again
        with building(folder) as partial:
            record["images"] = _written(partial, drawn, known, prompts)
            record |= _seconds(spent + time.perf_counter() - began, known)
            files.write_json(partial / "cell.json", record)

    tools.aside(finish)


def _predict(tools: Tools, base: Classifier, concept: Concept, memory: Memory, called: str, folder: Path) -> None:
    """The cell of a task: what its test pictures were taken for, and small copies of the first that were mistaken."""
    started = time.perf_counter()
    training, tests = tools.plan.training, tools.tests(concept, base)
    with tools.watch(f"predicting {concept.name}", len(tests.labels)) as advance:
        if memory.facts:
            record = predicting.remembered(base, training, tools.method, memory, called, concept, tests)
        else:
            record = predicting.of_base(base, training, concept, tests, tools.centres(base))
        advance(len(tests.labels), "")
    with building(folder) as partial:
        listed = []
        for place, wrong in enumerate(record.pop("mistakes")[: predicting.MISTAKES]):
            small = tests.images[wrong["picture"]].copy()
            small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
            files.write_png(partial / f"{place:03d}.png", small)
            prompt = f"{wrong['class']}, taken for {wrong['taken_for']}"
            listed.append({"file": f"{place:03d}.png", "prompt": prompt, "latent": wrong["picture"]})
        seconds = round(time.perf_counter() - started, 3)
        files.write_json(partial / "cell.json", {**record, "images": listed, "seconds": seconds})


def _written(
    folder: Path, drawn: Sequence[Image.Image], known: Drawn | None, prompts: Sequence[str]
) -> list[dict[str, Any]]:
    """Write a cell's pictures, or link those that are known; what is recorded of each."""
    listed, count = [], len(drawn) // len(prompts)
    for number, image in enumerate(drawn):
        file = f"{number:03d}.png"
        if known:
            linked(known.cell.images[number], folder / file)
        else:
            files.write_png(folder / file, image)
        listed.append({"file": file, "prompt": prompts[number // count], "latent": number % count})
    return listed


def _drawn(
    tools: Tools, concept: Concept, recall: Recall, called: str, references: Mapping[str, Tensor]
) -> tuple[Sequence[Image.Image], dict[str, Any]]:
    """A cell's pictures, prompt by prompt; what is recorded of the looks after which they were enough, where asked."""
    prompts, sampling, budget = tools.plan.prompts_for(concept), tools.plan.sampling, tools.plan.sampling.budget
    measure = _looked_at(tools, concept) if budget else None
    most = sampling.images_per_prompt
    looks = budgets.looks(budget.first, most) if budget and measure else [most]
    groups: list[list[list[Image.Image]]] = []
    scores, width, done = np.empty(0), float("inf"), 0
    with tools.watch(f"drawing {concept.name}", len(prompts) * most) as advance:
        for upto in looks:
            some = sampling.model_copy(update={"images_per_prompt": upto - done})
            drawn = recall.images(called, prompts, some, tools.side, advance, done)
            groups.append([drawn[k * (upto - done) :][: upto - done] for k in range(len(prompts))])
            done = upto
            if budget and measure:
                scores = np.append(scores, _by_noise(tools, concept, measure, groups[-1], references[measure.name]))
                width = budgets.half_width(scores, len(looks), budget.confidence)
                if width <= budget.half_width:
                    break
    images = [image for k in range(len(prompts)) for group in groups for image in group[k]]
    if not budget or not measure:
        return images, {}
    record = {"measure": measure.name, "noises": done, "most": most, "confidence": budget.confidence}
    return images, {"budget": {**record, "half_width": round(width, 6) if np.isfinite(width) else None}}


def _looked_at(tools: Tools, concept: Concept) -> Measure | None:
    """The concept's first measure, if it scores single pictures."""
    measure = next(iter(tools.measures(concept).values()), None)
    single = measure is not None and (measure.among is not None or measure.against == "prompts")
    return measure if single else None


def _stopped_by(tools: Tools, lineage: Lineage, concept: Concept) -> list[Any]:
    """What decides how many pictures of a concept are enough."""
    first = next(iter(tools.measures(concept).values()), None)
    spec = {key: str(value) for key, value in first.spec.items()} if first else {}
    return [spec, lineage.concept_facts(concept.name)["digest"]]


def _by_noise(
    tools: Tools, concept: Concept, measure: Measure, groups: Sequence[Sequence[Image.Image]], references: Tensor
) -> np.ndarray:
    """Score of each noise (n,): the mean over prompts, of which each has a group of n pictures."""
    prompts = [p for p, group in zip(tools.plan.prompts_for(concept), groups, strict=True) for _ in group]
    with tools.known.alone:
        features = measure.features([image for group in groups for image in group])
        each = measure.each(features, judging.told(concept, measure, prompts), references)
    scores: np.ndarray = np.array(each).reshape(len(groups), -1).mean(axis=0)
    return scores


def _seconds(spent: float, known: Drawn | None) -> dict[str, Any]:
    """What a cell took: where its pictures were drawn, and how much of that was spared here."""
    took = float(known.cell.record.get("seconds", 0.0)) if known else spent
    spared = {"shared": {"spared": round(max(0.0, took - spent), 3)}} if known else {}
    return {"seconds": round(took, 3), **spared}


def score_later(tools: Tools, lineage: Lineage, concept: Concept, row: Row, taught: Sequence[Concept]) -> bool:
    """Score a cell that was drawn without scorers, from its pictures; whether there was anything to do.

    `taught`: the concepts that the row's memory has been taught. Raises ImageError where the photos are gone.
    """
    cell = row.cell(concept.name)
    if cell is None or cell.record["measures"].keys() >= set(tools.plan.measures_for(concept)):
        return False
    references = judging.references(tools, lineage, concept)
    if (own := tools.identity(concept)) is not None:
        judging.kept_features(tools, lineage, concept, own, "training")  # for copying
    drawn = [images.read_image(path) for path in cell.images]
    prompts = [image["prompt"] for image in cell.record["images"]]
    content = cell.record.get("content", "")
    record = judging.judged(tools, lineage, concept, prompts, drawn, references, taught, content)
    files.write_json(cell.folder / "cell.json", {**cell.record, **record})
    return True
