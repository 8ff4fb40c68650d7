"""FLUX.2 dev: klein's transformer, larger and told its guidance, text by hidden layers of Mistral Small 3."""

from typing import Any

from torch import Tensor

from perdure.bases import flows, joint
from perdure.bases.families import flux2_klein
from perdure.bases.family import Condition, Drawing, Family, called


def draw(pipe: Any, prompts: Condition, negative: Condition, latents: Tensor, how: Drawing) -> Tensor:
    """With guidance as the transformer is told it; this pipeline gives the tokens that it has."""
    drawn = called(pipe, {"prompt_embeds": prompts["text"]}, latents, how)
    return flows.as_latents(drawn, *latents.shape[-2:])


FAMILY = Family(
    name="flux2-dev",
    pipeline="Flux2Pipeline",
    network="transformer",
    targets=flux2_klein.TARGETS,
    objective=flows.objective(patch=1),
    encode=flux2_klein.encode,
    predict=flux2_klein.predict,
    draw=draw,
    units=flux2_klein.units,
    regional=joint.regional(joint.text),
    unlike=flows.unlike(channels=4),
    like=flux2_klein.like,
    negative=False,
)
