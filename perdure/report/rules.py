"""What a method has declared of its memory, in words; and what is known to be wrong with figures of old versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CARRIED = {
    "delta": "weight change",
    "words": "learnt words",
    "own": "every concept's adapter",
    "pool": "every past adapter",
    "replay": "images of past concepts",
    "features": "text features of past concepts",
    "fisher": "Fisher information",
    "max": "largest value of each weight so far",
    "past_a": "sum of past A",
    "past_rows": "input directions of past A",
    "fused": "what is fused of it",
    "grams": "what inputs were like",
    "targets": "what past concepts' words are told",
    "heads": "the head's rows",
    "means": "class means",
    "gram": "sums of products of features",
    "projection": "random features",
}
"""Names under which memories carry tensors, in plain words; a new name is shown as it is."""
KNOWN = {"nothing": "nothing", "concept": "which concept is meant", "prompt": "the prompt"}
"""What must be told to recall, in plain words."""
BREACHES = {
    "own": "keeps every concept's adapter",
    "pool": "keeps every past adapter",
    "replay": "keeps images of past concepts",
    "max": "keeps a second set of weights beside the current one",
    "targets": "keeps what each concept's adapter says to its words",
}
"""How a carried name breaks the strict regime."""


@dataclass(frozen=True)
class Rules:
    """What was declared. `knows`: nothing, concept, prompt, or unknown in records of old; `carries`: (what, bytes)."""

    knows: str
    strict: bool
    carries: tuple[tuple[str, int], ...]
    breach: str
    """How the strict regime is broken, as the rest of a sentence; empty where it is kept."""

    @property
    def told(self) -> str:
        """What it knows when it draws, in words."""
        return KNOWN.get(self.knows, "–")


def rules_of(records: Sequence[Mapping[str, Any]], joint: bool) -> Rules:
    """The rules of a run from its lessons' records; bytes are those after the last lesson.

    `joint`: one lesson saw the images of all concepts, which no strict regime allows whatever the method is.
    """
    last = records[-1] if records else {}
    strict = not joint and all(record.get("strict", True) for record in records)
    carried = last.get("carries", {})
    ways = ["saw the images of all concepts at once"] if joint else []
    ways += [] if strict else [way for name, way in BREACHES.items() if name in carried]
    if not strict and not ways:
        ways.append("says so itself")
    if not strict and last.get("knows") == "concept":
        ways.append("is told which concept is meant")
    named = tuple((CARRIED.get(name, name), int(size)) for name, size in carried.items())
    return Rules(str(last.get("knows", "unknown")), strict, named, " and ".join(ways))


TEACHERS = ("lwf", "generative_replay", "dsc")
"""Methods that ask the model before a lesson; `training.preserve` and gradient scores of cns do so too."""


def outdated(settings: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Sentences about a run's figures; `records` are its lessons', which have no `revision` before the second."""
    told = _before_two(settings, [k for k, record in enumerate(records, start=1) if record.get("revision", 1) < 2])
    if any(record.get("revision", 1) < 3 for record in records):
        (method, *_), scoring = settings["methods"], settings.get("scoring", {})
        if method["name"] == "ranpac" and method.get("options", {}).get("ridge") is None:
            told.append("chose its ridge by sums that were rounded, which can be any where a task has few pictures")
        if len(records) > 1 and "mmd" in (*(scoring.get("subject") or ()), *(scoring.get("style") or ())):
            told.append("has a shift of mmd that is too low, as of pictures that do not come of the same noise")
    return tuple(f"{sentence} (an error of the version that taught it); teach it again" for sentence in told)


def _before_two(settings: Mapping[str, Any], old: Sequence[int]) -> list[str]:
    """What was wrong with lessons of these numbers, of the first revision."""
    if not old:
        return []
    training, (method, *_) = settings["training"], settings["methods"]
    name, told = method["name"], []
    gradients = name == "cns" and method.get("options", {}).get("importance") in ("saliency", "fisher")
    if old[-1] > 1 and (name in TEACHERS or gradients or training.get("preserve")):
        told.append("was held to base plus twice the past instead of the model before each lesson")
    if training.get("precision", "fp32") != "fp32":
        told.append("was drawn from weights rounded to half precision, in which small changes are lost")
    if name == "stamina" and training.get("gradient_checkpointing"):
        told.append("was trained on the gradients of other masks than those it was run with")
    return told
