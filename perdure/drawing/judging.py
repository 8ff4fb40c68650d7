"""What a cell records of its pictures: scores, and where they fail; features of photos are kept in the lineage."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from torch import Tensor

from perdure import files, images
from perdure.drawing.tools import Tools
from perdure.errors import LineageError
from perdure.lineage import Lineage
from perdure.lineage.rows import taught_by
from perdure.memory import tensors
from perdure.plan import Concept, fingerprint
from perdure.score import failings
from perdure.score.measure import Measure
from perdure.wording import without


def references(tools: Tools, lineage: Lineage, concept: Concept) -> dict[str, Tensor]:
    """Measure -> features of a concept's references, of all its measures. Raises ModelError where one is missing."""
    measures = tools.measures(concept).items()
    return {name: kept_features(tools, lineage, concept, measure, "references") for name, measure in measures}


def judged(
    tools: Tools, lineage: Lineage, concept: Concept, prompts: Sequence[str], drawn: Sequence[Image.Image],
    references: Mapping[str, Tensor], taught: Sequence[Concept], content: str,
) -> dict[str, Any]:  # fmt: skip
    """What a cell records of its pictures by the measures.

    prompts: one a picture; taught: the concepts that the memory has been taught, which one may be taken for another;
    content: what the pictures come from.
    """
    measures = tools.measures(concept)
    features = {name: tools.known.features(content, measure, drawn) for name, measure in measures.items()}
    record = _scored(concept, prompts, measures, features, references)
    record |= _failings(tools, lineage, concept, features, references, taught)
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
    tools: Tools, lineage: Lineage, concept: Concept, features: Mapping[str, Tensor], references: Mapping[str, Tensor],
    taught: Sequence[Concept],
) -> dict[str, Any]:  # fmt: skip
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
            real = references[measure.name] if held else None
            found["copying"] = failings.copying(measure, generated, training, real)
    lesson = taught_by(lineage.lessons).get(concept.name)
    first = lesson.cell(concept.name) if lesson else None
    shifting = {name: shift for name in features if (shift := tools.measure(name).shift) is not None}
    if first is not None and shifting:
        then, content = [images.read_image(path) for path in first.images], first.record.get("content", "")
        before = {name: tools.known.features(content, tools.measure(name), then) for name in shifting}
        found["shift"] = {name: shift(before[name], features[name]) for name, shift in shifting.items()}
    return found


def unlike_any(lineage: Lineage, concept: Concept, drawn: Sequence[Image.Image]) -> dict[str, Any]:
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


def _features_file(lineage: Lineage, concept: Concept, measure: Measure, which: str) -> Path:
    """Where features of a concept's references or training images are kept."""
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
