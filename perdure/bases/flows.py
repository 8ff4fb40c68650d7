"""What the families of transformers have in common that were trained by flow matching."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from perdure.bases.family import Units
from perdure.bases.objective import Flow
from perdure.method import Targets

TEXT = r"(add_q_proj|add_k_proj|add_v_proj|to_add_out)"
JOINT: Mapping[Targets, str] = {
    "attention": rf".*\.attn2?\.(to_q|to_k|to_v|to_out\.0|{TEXT})",
    "cross": rf".*\.attn\.{TEXT}",
    "cross_kv": r".*\.attn\.(add_k_proj|add_v_proj)",
}
"""Joint attention: text has projections of its own and sees the picture, as the picture sees it. `attn2` is the
picture's own attention.
"""


def objective(patch: int) -> Callable[[Any], Flow]:
    """A family's `objective`, of the latents a side that make a token: shifted as the pipeline's scheduler says."""
    return lambda pipe: Flow(FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config), patch)


def shifted(patch: int) -> Callable[[Any], Units]:
    """A family's `units`: x = (z - shift) * scale, by numbers that the autoencoder states."""

    def units(pipe: Any) -> Units:
        vae = pipe.vae.config
        return Units(
            int(vae.latent_channels), float(vae.scaling_factor), float(vae.get("shift_factor") or 0.0), patch=patch
        )

    return units


def unlike(channels: int) -> Callable[[Any], str]:
    """A family's `unlike`: another objective, or more inputs than the `channels` that one latent channel makes."""

    def told(pipe: Any) -> str:
        name, vae = type(pipe.scheduler).__name__, int(pipe.vae.config.latent_channels)
        if "FlowMatch" not in name:
            return f" is noised as {name} says; its family is trained by flow matching"
        if (found := int(pipe.transformer.config.in_channels)) != channels * vae:
            return (
                f": its transformer takes {found} channels and its autoencoder's {vae} make {channels * vae}; "
                "inpainting and editing models cannot be taught, name the text-to-image model they were made from"
            )
        return ""

    return told


def tokens(x: Tensor) -> Tensor:
    """Latents (b, c, h, w) as a sequence (b, h w, c), row by row."""
    return x.flatten(2).transpose(1, 2)


def as_latents(sequence: Tensor, height: int, width: int) -> Tensor:
    """A sequence (b, h w, c) as latents (b, c, h, w)."""
    return sequence.transpose(1, 2).reshape(len(sequence), -1, height, width)


def places(x: Tensor, axes: int) -> Tensor:
    """Where the tokens of latents (b, c, h, w) stand: (h w, axes), whole numbers: 0, row, column, and zeros behind."""
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape[-2:])
    found = torch.zeros(len(rows) * len(columns), axes, dtype=torch.int64, device=x.device)
    found[:, 1:3] = torch.cartesian_prod(rows, columns)
    return found
