"""Stable Diffusion 3 and 3.5: a transformer whose text and picture attend jointly (Esser et al. 2024)."""

from typing import Any

import torch
from torch import Tensor

from perdure.bases import flows, joint, unets
from perdure.bases.family import Condition, Drawing, Family, called, hollow, hushed

LONGEST = 256
"""Tokens of T5, as the pipeline has it by default."""


@hushed()
def encode(pipe: Any, prompts: list[str]) -> Condition:
    """text (n, tokens of CLIP and T5, width), pooled (n, width of both CLIPs)."""
    text, _, pooled, _ = pipe.encode_prompt(
        prompts, None, None, device=pipe.device, do_classifier_free_guidance=False, max_sequence_length=longest(pipe)
    )
    return {"text": text, "pooled": pooled}


def longest(pipe: Any) -> int:
    """Tokens of T5, or the rows of zeros in its place; none where both CLIPs fill the width: it never had a T5."""
    clips = pipe.text_encoder.config.hidden_size + pipe.text_encoder_2.config.hidden_size
    return LONGEST if pipe.text_encoder_3 is not None or clips < pipe.transformer.config.joint_attention_dim else 0


def predict(pipe: Any, latents: Tensor, times: Tensor, condition: Condition) -> Tensor:
    """The velocity; the transformer is told times in thousandths."""
    return torch.as_tensor(
        pipe.transformer(
            hidden_states=latents,
            timestep=1000 * times,
            encoder_hidden_states=condition["text"],
            pooled_projections=condition["pooled"],
            return_dict=False,
        )[0]
    )


def draw(pipe: Any, prompts: Condition, negative: Condition, latents: Tensor, how: Drawing) -> Tensor:
    """Guided away from the negative prompt."""
    inputs = {
        "prompt_embeds": prompts["text"],
        "pooled_prompt_embeds": prompts["pooled"],
        "negative_prompt_embeds": negative["text"],
        "negative_pooled_prompt_embeds": negative["pooled"],
    }
    return called(pipe, inputs, latents, how)


def like(pipe: Any) -> Condition:
    """CLIP's tokens, then T5's."""
    config = pipe.transformer.config
    text = hollow(unets.LONGEST + longest(pipe), config.joint_attention_dim)
    return {"text": text, "pooled": hollow(config.pooled_projection_dim)}


FAMILY = Family(
    name="sd3",
    pipeline="StableDiffusion3Pipeline",
    network="transformer",
    targets=flows.JOINT,
    objective=flows.objective(patch=2),
    encode=encode,
    predict=predict,
    draw=draw,
    units=flows.shifted(patch=2),
    words=("text_encoder", "text_encoder_2", "text_encoder_3"),
    regional=joint.regional(joint.pooled),
    unlike=flows.unlike(channels=1),
    like=like,
)
