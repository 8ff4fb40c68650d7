"""What plans and models start from, by base: the packaged defaults.yaml."""

import json
from functools import reduce
from pathlib import Path
from typing import Any

from perdure.plan import yaml_file
from perdure.plan.choice import CLASSIFICATION
from perdure.plan.fields import EMBEDDED, TOYBOX, TOYBOX_VIT

FILE = "defaults.yaml"


def of(base: Any, task: Any = None, pipeline: str = "") -> dict[str, Any]:
    """What a plan starts from: the embedded base's defaults, or the published protocol's with what its family changes.

    A family is told by a known hub id, or by the index of a local folder; never by what happens to be in a cache.
    """
    every = yaml_file.read_packaged(FILE)
    if task == CLASSIFICATION:
        return dict(yaml_file.merge(every["published"], every[TOYBOX_VIT if base == TOYBOX_VIT else CLASSIFICATION]))
    if base in EMBEDDED:
        return dict(yaml_file.merge(every[TOYBOX], every[base]))
    kind = pipeline or _pipeline(base)
    for family in every["families"].values():
        if base in family["bases"] or kind in family["pipelines"]:
            return dict(yaml_file.merge(every["published"], family["defaults"]))
    return dict(every["published"])


def of_model(base: str, pipeline: str, side: int | None = None) -> dict[str, Any]:
    """What a model starts from that a person goes on teaching: quick to draw and score, taught as diffusers teaches.

    pipeline: the class of the base's pipeline. side: pixels of the pictures that the base was trained on, where known.
    """
    models = yaml_file.read_packaged(FILE)["models"]
    if base in EMBEDDED:
        return dict(yaml_file.merge(of(base), models["toybox"]))
    own = {} if side is None else {"training": {"resolution": side}}
    layers = (models["every"], models["families"].get(pipeline, {}), own)
    return dict(reduce(yaml_file.merge, layers, of(base, pipeline=pipeline)))


def checkpointing_below(pipeline: str) -> float:
    """Bytes of a device's memory below which lessons of such a base need gradient checkpointing; 0 where not known."""
    known = yaml_file.read_packaged(FILE)["models"]["checkpointing_below"]
    return float(known.get(pipeline, 0)) * 1e9


def _pipeline(base: Any) -> str:
    """The class of pipeline that a local folder holds; empty where that cannot be told."""
    try:
        index = json.loads((Path(base) / "model_index.json").read_text(encoding="utf-8"))
        return str(index["_class_name"])
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return ""
