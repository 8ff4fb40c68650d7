"""Rows of the score matrix, cell by cell: a concept is drawn from a memory, its pictures are judged and written."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from perdure import files, images
from perdure.bases.classifier import Classifier
from perdure.drawing import content as contents
from perdure.drawing import drift, enough, judging, predicting, scenes
from perdure.drawing.content import Drawn
from perdure.drawing.sample import in_force
from perdure.drawing.tools import THUMBNAIL, Tools
from perdure.lineage import Lineage
from perdure.lineage.commons import place
from perdure.lineage.rows import Row, building
from perdure.memory import Memory
from perdure.plan import Concept


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
    stopped_by = enough.stopped_by(tools, lineage, concept) if tools.plan.sampling.budget else []
    content = contents.of(tools.plan, lineage, tools.backbone, recall, called, prompts, stopped_by)
    known = tools.known.cell(lineage, concept, content)
    if known is None:
        drawn, looked = enough.drawn(tools, concept, recall, called, references)
    else:
        drawn, looked = known.pictures, known.looked
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
    """Place a cell's pictures; what is recorded of each."""
    listed, count = [], len(drawn) // len(prompts)
    for number, image in enumerate(drawn):
        file = f"{number:03d}.png"
        place(image, folder / file, known.cell.images[number] if known else None)
        listed.append({"file": file, "prompt": prompts[number // count], "latent": number % count})
    return listed


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
