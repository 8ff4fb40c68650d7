"""FLUX.1: double and single blocks of joint attention; dev is told its guidance, schnell draws in four steps."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perdure.bases import flows, joint
from perdure.bases.family import Condition, Drawing, Family, called, hollow, hushed

WORDS = ("text_encoder", "text_encoder_2")
"""CLIP, of which one pooled vector is read, and T5."""
LONGEST = 512
"""Tokens of T5, as the pipeline has it by default."""
TRAINED_AT = 1.0
"""Guidance that dev is told while it is trained, as kohya's scripts do; diffusers' tell 3.5."""


@hushed()
def encode(pipe: Any, prompts: list[str]) -> Condition:
    """text (n, 512, width of T5), pooled (n, width of CLIP)."""
    text, pooled, _ = pipe.encode_prompt(prompts, None, device=pipe.device)
    return {"text": text, "pooled": pooled}


def predict(pipe: Any, latents: Tensor, times: Tensor, condition: Condition) -> Tensor:
    """The velocity; squares of 2 x 2 latents are tokens, and text has no place."""
    x, text, told = F.pixel_unshuffle(latents, 2), condition["text"], None
    if pipe.transformer.config.guidance_embeds:
        told = torch.full_like(times, TRAINED_AT)
    predicted = pipe.transformer(
        hidden_states=flows.tokens(x),
        timestep=times,
        guidance=told,
        pooled_projections=condition["pooled"],
        encoder_hidden_states=text,
        txt_ids=text.new_zeros(text.shape[1], 3),
        img_ids=flows.places(x, 3).to(text.dtype),
        return_dict=False,
    )[0]
    return F.pixel_shuffle(flows.as_latents(predicted, *x.shape[-2:]), 2)


def draw(pipe: Any, prompts: Condition, negative: Condition, latents: Tensor, how: Drawing) -> Tensor:
    """With guidance as the transformer is told it."""
    return drawn(pipe, prompts, latents, how)


def drawn(pipe: Any, prompts: Condition, latents: Tensor, how: Drawing, **extra: Any) -> Tensor:
    """What a pipeline of FLUX.1's kind draws; `extra` is what it is given beside."""
    x = F.pixel_unshuffle(latents, 2)
    inputs = {"prompt_embeds": prompts["text"], "pooled_prompt_embeds": prompts["pooled"], **extra}
    return F.pixel_shuffle(flows.as_latents(called(pipe, inputs, flows.tokens(x), how), *x.shape[-2:]), 2)


def like(pipe: Any) -> Condition:
    """T5's tokens, and CLIP's pooled text."""
    config = pipe.transformer.config
    return {"text": hollow(LONGEST, config.joint_attention_dim), "pooled": hollow(config.pooled_projection_dim)}


def caution(pipe: Any) -> str:
    """Schnell has no guidance."""
    if pipe.transformer.config.guidance_embeds:
        return ""
    return " is distilled to few steps, which lessons can cost it; FLUX.1-dev is the one to teach"


FAMILY = Family(
    name="flux",
    pipeline="FluxPipeline",
    network="transformer",
    targets=flows.JOINT,
    objective=flows.objective(patch=2),
    encode=encode,
    predict=predict,
    draw=draw,
    units=flows.shifted(patch=2),
    words=WORDS,
    regional=joint.regional(joint.pooled),
    unlike=flows.unlike(channels=4),
    caution=caution,
    like=like,
    negative=False,
)
