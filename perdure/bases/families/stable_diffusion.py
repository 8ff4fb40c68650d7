"""Stable Diffusion 1.x and 2.x, and every model of the same pipeline class (the embedded base is one)."""

from typing import Any

from perdure.bases import unets
from perdure.bases.family import Condition, Family, hollow, hushed


@hushed()
def encode(pipe: Any, prompts: list[str]) -> Condition:
    """Hidden states of the text encoder: text (n, tokens, width)."""
    text, _ = pipe.encode_prompt(
        prompts, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return {"text": text}


def unet_inputs(condition: Condition) -> dict[str, Any]:
    """Cross-attention sees the text."""
    return {"encoder_hidden_states": condition["text"]}


def pipeline_inputs(condition: Condition, negative: Condition) -> dict[str, Any]:
    """Embeddings instead of prompts, so that they are encoded once."""
    return {"prompt_embeds": condition["text"], "negative_prompt_embeds": negative["text"]}


def like(pipe: Any) -> Condition:
    """All tokens that CLIP reads."""
    return {"text": hollow(unets.LONGEST, pipe.unet.config.cross_attention_dim)}


FAMILY = Family(
    name="stable-diffusion",
    pipeline="StableDiffusionPipeline",
    network="unet",
    targets=unets.TARGETS,
    objective=unets.objective,
    encode=encode,
    predict=unets.predicting(unet_inputs),
    draw=unets.drawing(pipeline_inputs),
    words=unets.WORDS,
    regional=unets.regional,
    unlike=unets.unlike,
    like=like,
    loading={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
)
