"""One cell of the score matrix: a concept drawn from a memory, and scored."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from perdure import files, images
from perdure.bases.classifier import Classifier
from perdure.drawing import content as contents
from perdure.drawing import predicting
from perdure.drawing.content import Drawn
from perdure.drawing.sample import Recall, in_force
from perdure.drawing.tools import THUMBNAIL, Tools, features_file
from perdure.errors import LineageError
from perdure.lineage import Lineage
from perdure.lineage.commons import linked
from perdure.lineage.rows import Row, building, taught_by
from perdure.memory import Memory, tensors
from perdure.plan import Concept
from perdure.score import budget as budgets
from perdure.score import failings
from perdure.score.measure import Measure
from perdure.wording import without


def evaluate(
    tools: Tools, lineage: Lineage, concept: Concept, memory: Memory, called: str, folder: Path,
    taught: Sequence[Concept] = (),
) -> None:  # fmt: skip
    """Draw and score one concept into `folder`, which appears when it is whole. Does nothing where it is there.

    Pictures that were drawn alike before are linked. `taught`: the concepts that the memory has been taught, which one
    may be taken for another.
    """
    if folder.is_dir():
        return
    if isinstance(tools.base, Classifier):
        _predict(tools, tools.base, concept, memory, called, folder)
        return
    started, prompts = time.perf_counter(), tools.plan.prompts_for(concept)
    for measure in tools.measures(concept).values():  # what is missing shows first
        kept_features(tools, lineage, concept, measure, "references")
    recall = tools.recall(memory)
    enough = _stopped_by(tools, lineage, concept) if tools.plan.sampling.budget else []
    content = contents.of(tools.plan, lineage, tools.backbone, recall, called, prompts, enough)
    known = tools.known.cell(lineage, concept, content)
    drawn, looked = _drawn(tools, lineage, concept, recall, called) if known is None else (known.pictures, known.looked)
    used, spent = in_force(tools.backbone, tools.plan.sampling, tools.side), time.perf_counter() - started

    def finish() -> None:
        began = time.perf_counter()
        record = _judged(tools, lineage, concept, content, drawn, taught) | {"drawn": used, **looked}
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


def _judged(
    tools: Tools, lineage: Lineage, concept: Concept, content: str, drawn: Sequence[Image.Image],
    taught: Sequence[Concept],
) -> dict[str, Any]:  # fmt: skip
    """What a cell records of its pictures."""
    measures, prompts = tools.measures(concept), tools.plan.prompts_for(concept)
    references = {name: kept_features(tools, lineage, concept, m, "references") for name, m in measures.items()}
    per_image = [prompt for prompt in prompts for _ in range(len(drawn) // len(prompts))]
    record = _taken(tools, lineage, concept, per_image, drawn, measures, references, taught, content)
    return record | {"content": content} | _unlike_any(lineage, concept, drawn)


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
    tools: Tools, lineage: Lineage, concept: Concept, recall: Recall, called: str
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
                scores = np.append(scores, _by_noise(tools, lineage, concept, measure, groups[-1]))
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
    tools: Tools, lineage: Lineage, concept: Concept, measure: Measure, groups: Sequence[Sequence[Image.Image]]
) -> np.ndarray:
    """Score of each noise (n,): the mean over prompts, of which each has a group of n pictures."""
    prompts = [p for p, group in zip(tools.plan.prompts_for(concept), groups, strict=True) for _ in group]
    references = kept_features(tools, lineage, concept, measure, "references")
    with tools.known.alone:
        features = measure.features([image for group in groups for image in group])
        each = measure.each(features, told(concept, measure, prompts), references)
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
    measures = tools.measures(concept)
    references = {name: kept_features(tools, lineage, concept, m, "references") for name, m in measures.items()}
    if (own := tools.identity(concept)) is not None:
        kept_features(tools, lineage, concept, own, "training")  # for copying
    drawn = [images.read_image(path) for path in cell.images]
    prompts = [image["prompt"] for image in cell.record["images"]]
    content = cell.record.get("content", "")
    record = _taken(tools, lineage, concept, prompts, drawn, measures, references, taught, content)
    files.write_json(cell.folder / "cell.json", {**cell.record, **record})
    return True


def _taken(
    tools: Tools, lineage: Lineage, concept: Concept, per_image: Sequence[str], drawn: Sequence[Image.Image],
    measures: Mapping[str, Measure], references: Mapping[str, Tensor], taught: Sequence[Concept], content: str,
) -> dict[str, Any]:  # fmt: skip
    """What a cell records of its pictures by the measures; `content`: what the pictures come from."""
    features = {name: tools.known.features(content, measure, drawn) for name, measure in measures.items()}
    record = _scored(concept, per_image, measures, features, references)
    record |= _failings(tools, lineage, concept, features, taught)
    return record | {
        "alike": {name: failings.alike(m, features[name], references[name]) for name, m in measures.items()}
    }


def _scored(
    concept: Concept, per_image: Sequence[str], measures: Mapping[str, Measure], features: Mapping[str, Tensor],
    references: Mapping[str, Tensor],
) -> dict[str, Any]:  # fmt: skip
    """What a cell records of its scores."""
    record: dict[str, Any] = {"concept": concept.name, "scores": {}, "each": {}, "ceiling": {}, "measures": {}}
    for name, measure in measures.items():
        prompts = told(concept, measure, per_image)
        record["scores"][name] = measure.score_features(features[name], prompts, references[name])
        record["each"][name] = [round(one, 6) for one in measure.each(features[name], prompts, references[name])]
        record["ceiling"][name] = measure.ceiling(references[name])
        model = _without_path(measure.spec.get("model", ""))
        spec = {**measure.spec, "model": model}
        record["measures"][name] = {"direction": measure.direction, "model": model, "spec": spec}
    return record


def told(concept: Concept, measure: Measure, prompts: Sequence[str]) -> list[str]:
    """The prompts of a concept's pictures as a measure reads them: without a subject's token, where it wants that."""
    plain = measure.without_token and concept.kind == "subject"
    return [without(prompt, concept.token) if plain else prompt for prompt in prompts]


def _failings(
    tools: Tools, lineage: Lineage, concept: Concept, features: Mapping[str, Tensor], taught: Sequence[Concept]
) -> dict[str, Any]:
    """What a cell records beside its scores: `confusion`, `copying` and `shift`, each where it can be told."""
    found: dict[str, Any] = {}
    measure = tools.identity(concept)
    if measure is not None:
        generated, kind = features[measure.name], [c for c in taught if c.kind == concept.kind]
        if len(kind) > 1 and concept.name in {c.name for c in kind}:
            alike = {c.name: kept_features(tools, lineage, c, measure, "references") for c in kind}
            found["confusion"] = failings.confusion(measure, generated, alike, concept.name)
        # not of a concept that was taught when these features were not kept: its photos may be gone
        if concept.name not in lineage.concepts or features_file(lineage, concept, measure, "training").is_file():
            training = kept_features(tools, lineage, concept, measure, "training")
            held = lineage.concept_facts(concept.name)["held_out"]
            real = kept_features(tools, lineage, concept, measure, "references") if held else None
            found["copying"] = failings.copying(measure, generated, training, real)
    lesson = taught_by(lineage.lessons).get(concept.name)
    first = lesson.cell(concept.name) if lesson else None
    shifting = [tools.measure(name) for name in features if tools.measure(name).shifts]
    if first is not None and shifting:
        then = [images.read_image(path) for path in first.images]
        before = {m.name: tools.known.features(first.record.get("content", ""), m, then) for m in shifting}
        found["shift"] = {m.name: m.compare(before[m.name], features[m.name]) for m in shifting}
    return found


def _unlike_any(lineage: Lineage, concept: Concept, drawn: Sequence[Image.Image]) -> dict[str, Any]:
    """What a cell records of pictures beyond all that the base drew of the concept, and its own; not of the base's."""
    base = lineage.base_row.cell(concept.name)
    if base is None:
        return {}
    folder = lineage.concept_folder(concept.name)
    known = [*base.images, *sorted(folder.glob("train-*.png")), *sorted(folder.glob("ref-*.png"))]
    return {"outside": failings.outside(drawn, [files.read_png(path) for path in known])}


def kept_features(
    tools: Tools, lineage: Lineage, concept: Concept, measure: Measure, which: Literal["references", "training"]
) -> Tensor:
    """Features of a concept's references or training images, kept in the lineage: photos are needed only once."""
    path = features_file(lineage, concept, measure, which)
    with tools.known.alone:
        if not path.exists():
            own = tools.pictures(concept)
            shown = own.references if which == "references" else [picture.image for picture in own.training]
            tensors.write(path, {"features": measure.reference_features(shown)})
    remedy = "delete it, and it is made again from the photos"
    kept = tensors.read(path, remedy)
    if "features" not in kept or not kept["features"].isfinite().all():
        raise LineageError(f"{path} is damaged: it holds no finite `features`; {remedy}")
    return kept["features"]


def _without_path(model: str) -> str:
    """What a model is called in a record: its hub id, or the name of its folder."""
    return Path(model).name if os.path.isabs(model) else model
