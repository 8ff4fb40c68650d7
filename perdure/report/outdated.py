"""What is known to be wrong with lessons that an older version taught, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

TEACHERS = ("lwf", "generative_replay", "dsc")
"""Methods that ask the model before a lesson; `training.preserve` and gradient scores of cns do so too."""


def outdated(settings: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Sentences about a run's figures; `records` are its lessons', which have no `revision` before the second."""
    old = [number for number, record in enumerate(records, start=1) if record.get("revision", 1) < 2]
    if not old:
        return ()
    training, (method, *_) = settings["training"], settings["methods"]
    name, told = method["name"], []
    gradients = name == "cns" and method.get("options", {}).get("importance") in ("saliency", "fisher")
    if old[-1] > 1 and (name in TEACHERS or gradients or training.get("preserve")):
        told.append("was held to base plus twice the past instead of the model before each lesson")
    if training.get("precision", "fp32") != "fp32":
        told.append("was drawn from weights rounded to half precision, in which small changes are lost")
    if name == "stamina" and training.get("gradient_checkpointing"):
        told.append("was trained on the gradients of other masks than those it was run with")
    return tuple(f"{sentence} (an error of the version that taught it); teach it again" for sentence in told)
