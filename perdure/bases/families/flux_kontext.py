"""FLUX.1 Kontext as a plain text-to-image base: what it makes without a picture to edit."""

from typing import Any

from torch import Tensor

from perdure.bases import flows, joint
from perdure.bases.families import flux
from perdure.bases.family import Condition, Drawing, Family


def draw(pipe: Any, prompts: Condition, negative: Condition, latents: Tensor, how: Drawing) -> Tensor:
    """At the very side that is asked for, where the pipeline would take 1024 pixels."""
    return flux.drawn(pipe, prompts, latents, how, max_area=how.side**2)


FAMILY = Family(
    name="flux-kontext",
    pipeline="FluxKontextPipeline",
    network="transformer",
    targets=flows.JOINT,
    objective=flows.objective(patch=2),
    encode=flux.encode,
    predict=flux.predict,
    draw=draw,
    units=flows.shifted(patch=2),
    words=flux.WORDS,
    regional=joint.regional(joint.pooled),
    unlike=flows.unlike(channels=4),
    negative=False,
    like=flux.like,
)
