"""One cell of the score matrix: a concept drawn from a memory, and scored."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from perdure import files, images
from perdure.bases.classifier import Classifier
from perdure.drawing import predicting, sample
from perdure.drawing.tools import THUMBNAIL, Tools
from perdure.errors import LineageError
from perdure.lineage import Lineage
from perdure.lineage.rows import Row, building, taught_by
from perdure.memory import Memory, tensors
from perdure.plan import Concept, fingerprint
from perdure.score import failings
from perdure.score.measure import Measure
from perdure.wording import without


def evaluate(
    tools: Tools, lineage: Lineage, concept: Concept, memory: Memory, called: str, folder: Path,
    taught: Sequence[Concept] = (),
) -> None:  # fmt: skip
    """Draw and score one concept into `folder`, which appears when it is whole. Does nothing where it is there.

    `taught`: the concepts that the memory has been taught, which one may be taken for another.
    """
    if folder.is_dir():
        return
    if isinstance(tools.base, Classifier):
        _predict(tools, tools.base, concept, memory, called, folder)
        return
    started = time.perf_counter()
    prompts = tools.plan.prompts_for(concept)
    count = tools.plan.sampling.images_per_prompt
    measures = tools.measures(concept)  # what is missing shows first
    references = {
        name: kept_features(tools, lineage, concept, measure, "references") for name, measure in measures.items()
    }
    with tools.watch(f"drawing {concept.name}", len(prompts) * count) as advance:
        drawn = sample.images(
            tools.backbone, tools.method, memory, called, prompts, tools.plan.sampling, tools.side, advance
        )
    per_image = [prompt for prompt in prompts for _ in range(count)]
    record = _taken(tools, lineage, concept, per_image, drawn, measures, references, taught)
    record["drawn"] = sample.in_force(tools.backbone, tools.plan.sampling, tools.side)
    record |= _unlike_any(lineage, concept, drawn)
    with building(folder) as partial:
        listed = []
        for number, (image, prompt) in enumerate(zip(drawn, per_image, strict=True)):
            file = f"{number:03d}.png"
            files.write_png(partial / file, image)
            listed.append({"file": file, "prompt": prompt, "latent": number % count})
        seconds = round(time.perf_counter() - started, 3)
        files.write_json(partial / "cell.json", {**record, "images": listed, "seconds": seconds})


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
    record = _taken(tools, lineage, concept, prompts, drawn, measures, references, taught)
    files.write_json(cell.folder / "cell.json", {**cell.record, **record})
    return True


def _taken(
    tools: Tools, lineage: Lineage, concept: Concept, per_image: Sequence[str], drawn: Sequence[Image.Image],
    measures: Mapping[str, Measure], references: Mapping[str, Tensor], taught: Sequence[Concept],
) -> dict[str, Any]:  # fmt: skip
    """What a cell records of its pictures by the measures."""
    features = {name: measure.features(drawn) for name, measure in measures.items()}
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
        if concept.name not in lineage.concepts or _features_file(lineage, concept, measure, "training").is_file():
            training = kept_features(tools, lineage, concept, measure, "training")
            held = lineage.concept_facts(concept.name)["held_out"]
            real = kept_features(tools, lineage, concept, measure, "references") if held else None
            found["copying"] = failings.copying(measure, generated, training, real)
    lesson = taught_by(lineage.lessons).get(concept.name)
    first = lesson.cell(concept.name) if lesson else None
    shifting = [tools.measure(name) for name in features if tools.measure(name).shifts]
    if first is not None and shifting:
        then = [images.read_image(path) for path in first.images]
        found["shift"] = {m.name: m.compare(m.features(then), features[m.name]) for m in shifting}
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
    path = _features_file(lineage, concept, measure, which)
    if not path.exists():
        own = tools.pictures(concept)
        shown = own.references if which == "references" else [picture.image for picture in own.training]
        tensors.write(path, {"features": measure.reference_features(shown)})
    remedy = "delete it, and it is made again from the photos"
    kept = tensors.read(path, remedy)
    if "features" not in kept or not kept["features"].isfinite().all():
        raise LineageError(f"{path} is damaged: it holds no finite `features`; {remedy}")
    return kept["features"]


def _features_file(lineage: Lineage, concept: Concept, measure: Measure, which: str) -> Path:
    kind = "" if which == "references" else f"-{which}"
    by_content, with_place = (
        lineage.concept_folder(concept.name) / f"{measure.name}-{tag}{kind}.safetensors" for tag in _tags(measure)
    )
    return by_content if by_content.exists() or not with_place.exists() else with_place


def _tags(measure: Measure) -> tuple[str, str]:
    """Features of one model or preprocessing are never taken for another's; where known weights lie does not count.

    The second is as lineages had it in which the place did count.
    """
    spec = {key: str(value) for key, value in measure.spec.items()}
    places = ("model", "revision") if "weights_sha256" in spec else ()
    content = {key: value for key, value in spec.items() if key not in places}
    return fingerprint(content)[:8], fingerprint(spec)[:8]


def _without_path(model: str) -> str:
    """What a model is called in a record: its hub id, or the name of its folder."""
    return Path(model).name if os.path.isabs(model) else model
