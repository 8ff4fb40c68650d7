"""Stable Diffusion XL: two text encoders, and a UNet that is told sizes and crops (Podell et al. 2023)."""

from typing import Any

import torch

from perdure.bases import unets
from perdure.bases.family import Condition, Facts, Family, hollow, hushed


@hushed()
def encode(pipe: Any, prompts: list[str]) -> Condition:
    """text (n, tokens, width of both encoders), pooled (n, width of the second)."""
    text, _, pooled, _ = pipe.encode_prompt(
        prompts, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return {"text": text, "pooled": pooled}


def unguided(pipe: Any, empty: Condition) -> Condition:
    """Zeros where the pipeline says so, as SDXL does; else the empty prompt."""
    if not pipe.config.force_zeros_for_empty_prompt:
        return empty
    return {name: torch.zeros_like(tensor) for name, tensor in empty.items()}


def sized(condition: Condition, facts: Facts, size: tuple[int, int]) -> Condition:
    """Adds time_ids (n, 6): original height and width, crop top and left, target height and width."""
    ids = [(*fact, *size) for fact in facts]
    return {**condition, "time_ids": torch.tensor(ids, dtype=torch.float32, device=condition["text"].device)}


def unet_inputs(condition: Condition) -> dict[str, Any]:
    """Cross-attention sees the text; the time embedding is told the pooled text and the sizes."""
    added = {"text_embeds": condition["pooled"], "time_ids": condition["time_ids"].to(condition["pooled"].dtype)}
    return {"encoder_hidden_states": condition["text"], "added_cond_kwargs": added}


def pipeline_inputs(condition: Condition, negative: Condition) -> dict[str, Any]:
    """Embeddings instead of prompts, so that they are encoded once."""
    return {
        "prompt_embeds": condition["text"],
        "pooled_prompt_embeds": condition["pooled"],
        "negative_prompt_embeds": negative["text"],
        "negative_pooled_prompt_embeds": negative["pooled"],
    }


def like(pipe: Any) -> Condition:
    """All tokens that CLIP reads; the pooled text is what is told beside six numbers."""
    config = pipe.unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return {
        "text": hollow(unets.LONGEST, config.cross_attention_dim),
        "pooled": hollow(pooled),
        "time_ids": hollow(6),
    }


FAMILY = Family(
    name="sdxl",
    pipeline="StableDiffusionXLPipeline",
    network="unet",
    targets=unets.TARGETS,
    objective=unets.objective,
    encode=encode,
    predict=unets.predicting(unet_inputs),
    draw=unets.drawing(pipeline_inputs),
    unguided=unguided,
    sized=sized,
    words=unets.WORDS,
    regional=unets.regional,
    unlike=unets.unlike,
    like=like,
)
