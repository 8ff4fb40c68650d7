"""PixArt's alpha and Sigma: transformers that predict noise and read T5 by cross-attention (Chen et al. 2023, 2024)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from perdure.bases import unets
from perdure.bases.family import Condition, Drawing, Units, called, hollow, hushed
from perdure.bases.regions import Asking, Own, Regions, Words, hooked

HIDDEN = -10000.0
"""What the transformer adds to the scores of padding."""


def encoding(longest: int) -> Callable[[Any, list[str]], Condition]:
    """A family's `encode`: text (n, longest, width of T5), and mask (n, longest), 1 where a token is a prompt's own."""

    @hushed()
    def encode(pipe: Any, prompts: list[str]) -> Condition:
        text, mask, _, _ = pipe.encode_prompt(prompts, False, device=pipe.device, max_sequence_length=longest)
        return {"text": text, "mask": mask}

    return encode


def like(longest: int) -> Callable[[Any], Condition]:
    """A family's `like`."""
    return lambda pipe: {"text": hollow(longest, pipe.transformer.config.caption_channels), "mask": hollow(longest)}


def predict(pipe: Any, latents: Tensor, times: Tensor, condition: Condition) -> Tensor:
    """The noise; the second half of what comes out is a variance, which lessons leave alone."""
    config = pipe.transformer.config
    told: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if pipe.transformer.use_additional_conditions:
        height, width = (side * int(pipe.vae_scale_factor) for side in latents.shape[-2:])
        told = {
            "resolution": latents.new_tensor([[height, width]]).expand(len(latents), 2),
            "aspect_ratio": latents.new_full((len(latents), 1), height / width),
        }
    predicted: Tensor = pipe.transformer(
        latents,
        encoder_hidden_states=condition["text"],
        encoder_attention_mask=condition["mask"],
        timestep=times,
        added_cond_kwargs=told,
        return_dict=False,
    )[0]
    return predicted[:, : config.in_channels]


def draw(pipe: Any, prompts: Condition, negative: Condition, latents: Tensor, how: Drawing) -> Tensor:
    """Guided away from the negative prompt, at the very side that is asked for."""
    inputs = {
        "prompt_embeds": prompts["text"],
        "prompt_attention_mask": prompts["mask"],
        "negative_prompt": None,
        "negative_prompt_embeds": negative["text"],
        "negative_prompt_attention_mask": negative["mask"],
        "use_resolution_binning": False,
    }
    return called(pipe, inputs, latents, how)


@contextmanager
def regional(pipe: Any, regions: Regions, count: int) -> Iterator[None]:
    """Regions as UNets have them, in every layer that reads the text."""
    transformer, handles = pipe.transformer, []
    if regions.how == "attention":  # what layers are told: the text projected, and what is added where it is padding
        text = transformer.caption_projection(regions.prompts["text"].to(transformer.dtype))
        hidden = (1 - regions.prompts["mask"].to(text)[:, None]) * HIDDEN
        regions = replace(regions, prompts={"text": text, "mask": hidden})
    asking = Asking(regions, count, lambda: len(pipe.scheduler.timesteps))
    handles.append(transformer.register_forward_pre_hook(asking.begin, with_kwargs=True))
    if regions.how == "noise":
        words = _words("encoder_attention_mask")
        handles.append(transformer.register_forward_hook(asking.network(words), with_kwargs=True))
    else:
        words = _words("attention_mask")
        layers = [module for name, module in transformer.named_modules() if name.endswith(".attn2")]
        handles += [layer.register_forward_hook(asking.layer(words), with_kwargs=True) for layer in layers]
    with hooked(handles):
        yield


def _words(mask: str) -> Words:
    def words(kwargs: Mapping[str, Any], own: Own) -> dict[str, Any]:
        text = own(kwargs["encoder_hidden_states"], "text")
        return {**kwargs, "encoder_hidden_states": text, mask: own(kwargs[mask], "mask")}

    return words


def units(pipe: Any) -> Units:
    """Latents scaled by the number that the autoencoder states; 2 x 2 of them are a token."""
    patch = int(pipe.transformer.config.patch_size)
    return Units(int(pipe.vae.config.latent_channels), float(pipe.vae.config.scaling_factor), patch=patch)


def unlike(pipe: Any) -> str:
    """Another objective than noise or velocity of a DDPM."""
    return unets.no_diffusion(pipe)
