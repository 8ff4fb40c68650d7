"""FLUX.2 klein: joint attention over 2 x 2 squares of normalised latents, text by hidden layers of Qwen3."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from perdure.bases import flows, joint
from perdure.bases.families import flux
from perdure.bases.family import Condition, Drawing, Family, Units, called, hollow, hushed
from perdure.method import Targets

LONGEST = 512
"""Tokens of a prompt, as the pipeline has it by default."""
TARGETS: Mapping[Targets, str] = {
    **flows.JOINT,
    "attention": rf"{flows.JOINT['attention']}|.*\.attn\.(to_qkv_mlp_proj|to_out)",
}
"""The single blocks' queries, keys and values are one matrix with what enters their feed-forward layer."""


@hushed()
def encode(pipe: Any, prompts: list[str]) -> Condition:
    """text (n, 512, three times the width of the text encoder)."""
    text, _ = pipe.encode_prompt(list(prompts), device=pipe.device)
    return {"text": text}


def units(pipe: Any) -> Units:
    """Squares of the autoencoder's latents as channels, normalised by the numbers it has learnt."""
    norm = pipe.vae.bn
    scale = torch.rsqrt(norm.running_var.float() + pipe.vae.config.batch_norm_eps).view(-1, 1, 1)
    return Units(len(scale), scale, norm.running_mean.float().view(-1, 1, 1), fold=2)


def predict(pipe: Any, latents: Tensor, times: Tensor, condition: Condition) -> Tensor:
    """The velocity; places are (0, row, column, 0) of the picture's tokens, (0, 0, 0, number) of the text's."""
    text = condition["text"]
    count = len(text)
    numbers = torch.arange(text.shape[1], device=text.device)
    places = torch.stack([*[torch.zeros_like(numbers)] * 3, numbers], dim=-1)
    predicted = pipe.transformer(
        hidden_states=flows.tokens(latents),
        timestep=times,
        guidance=torch.full_like(times, flux.TRAINED_AT) if pipe.transformer.config.guidance_embeds else None,
        encoder_hidden_states=text,
        txt_ids=places.expand(count, -1, -1),
        img_ids=flows.places(latents, 4).expand(count, -1, -1),
        return_dict=False,
    )[0]
    return flows.as_latents(predicted, *latents.shape[-2:])


def draw(pipe: Any, prompts: Condition, negative: Condition, latents: Tensor, how: Drawing) -> Tensor:
    """Guided away from the negative prompt; distilled models are not guided."""
    inputs = {"prompt_embeds": prompts["text"], "negative_prompt_embeds": negative["text"]}
    return units(pipe).of(called(pipe, inputs, latents, how))  # the pipeline gives the autoencoder's latents


def like(pipe: Any) -> Condition:
    """All tokens, padding too."""
    return {"text": hollow(LONGEST, pipe.transformer.config.joint_attention_dim)}


def caution(pipe: Any) -> str:
    """By the pipeline's own word."""
    if not pipe.config.is_distilled:
        return ""
    return (
        " is distilled to few steps: subjects come out generic and lessons can cost it the few steps; teach a *-base-*"
    )


def turns(pipe: Any) -> int:
    """The prompt by itself, then what it is guided away from."""
    return 2 if pipe.do_classifier_free_guidance else 1


FAMILY = Family(
    name="flux2-klein",
    pipeline="Flux2KleinPipeline",
    network="transformer",
    targets=TARGETS,
    objective=flows.objective(patch=1),
    encode=encode,
    predict=predict,
    draw=draw,
    units=units,
    regional=joint.regional(joint.text, turns),
    unlike=flows.unlike(channels=4),
    caution=caution,
    like=like,
    in_rows=False,
    apart=True,
)
