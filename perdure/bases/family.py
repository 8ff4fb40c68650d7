"""What differs between families of base models: everything that the lesson, methods, drawing and scores do not know.

A family is one file in `families/` that makes a FAMILY. See docs/adding_a_base.md.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.loaders import TextualInversionLoaderMixin
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.utils import logging as hub_logging
from torch import Tensor
from transformers.utils import logging as transformers_logging

from perdure.bases.objective import Objective
from perdure.bases.regions import Regions
from perdure.method import Targets

Condition = Mapping[str, Tensor]
"""Everything the network is told beside latents and time, each tensor with a leading batch dimension."""
Facts = list[tuple[int, int, int, int]]
"""(height, width) of original images, and (top, left) of the crops that were taken of them."""


@contextmanager
def hushed() -> Iterator[None]:
    """No advice, deprecations and reminders of the libraries; that a prompt is too long is told by `reading`."""
    levels = [(module, module.get_verbosity()) for module in (diffusers_logging, transformers_logging, hub_logging)]
    try:
        for module, _ in levels:
            module.set_verbosity(logging.CRITICAL)  # what goes wrong is raised as well
        yield
    finally:
        for module, level in levels:
            module.set_verbosity(level)


@contextmanager
def quiet(fetching: bool = False) -> Iterator[None]:
    """No advice and deprecations of the libraries while a model is read, and bars only for what is fetched."""
    bars = [(module, module.is_progress_bar_enabled()) for module in (diffusers_logging, transformers_logging)]
    try:
        for module, _ in bars:
            if not fetching:
                module.disable_progress_bar()
        with hushed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for module, on in bars:
            if on:
                module.enable_progress_bar()


@dataclass(frozen=True)
class Units:
    """Latents x (b, c, h, w) as the network takes them, of the autoencoder's z: x = (folded z - shift) * scale.

    channels: c. shift, scale: numbers, or tensors (c, 1, 1). fold: latents a side of z that become channels of one of
    x. patch: latents a side of x that make one token of the network.
    """

    channels: int
    scale: Tensor | float = 1.0
    shift: Tensor | float = 0.0
    fold: int = 1
    patch: int = 1

    def of(self, z: Tensor) -> Tensor:
        """x, float32."""
        return (F.pixel_unshuffle(z, self.fold).float() - self.shift) * self.scale

    def deviation(self, deviation: Tensor) -> Tensor:
        """The deviation of x where that of z is known, float32."""
        return F.pixel_unshuffle(deviation, self.fold).float() * self.scale

    def back(self, x: Tensor) -> Tensor:
        """z."""
        return F.pixel_shuffle(x / self.scale + self.shift, self.fold)

    @property
    def multiple(self) -> int:
        """What the side of z must be a multiple of."""
        return self.fold * self.patch


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn: their side in pixels, denoising steps, and guidance, of which 1 is none.

    ended: where only part of the steps is guided, what a pipeline calls after each (`callback_on_step_end`).
    """

    side: int
    steps: int
    guidance: float
    ended: Callable[..., dict[str, Any]] | None = None


def hollow(*shape: int) -> Tensor:
    """A row of that shape (1, *shape) of which nothing but the shape is there."""
    return torch.empty(1, *shape, device="meta")


def plain_units(pipe: Any) -> Units:
    """Latents scaled by the number that the autoencoder states."""
    return Units(int(pipe.vae.config.latent_channels), float(pipe.vae.config.scaling_factor))


def empty_prompt(pipe: Any, empty: Condition) -> Condition:
    """The empty prompt."""
    return empty


def unsized(condition: Condition, facts: Facts, size: tuple[int, int]) -> Condition:
    """These models are not told about sizes and crops."""
    return condition


def nothing(pipe: Any) -> str:
    """Nothing to say."""
    return ""


def reads_lora(pipe: Any) -> bool:
    """Whether a pipeline loads LoRA files."""
    return isinstance(pipe, LoraBaseMixin)


def spells(pipe: Any) -> bool:
    """Whether a pipeline writes a word of several vectors out by itself."""
    return isinstance(pipe, TextualInversionLoaderMixin)


def called(pipe: Any, inputs: Mapping[str, Any], latents: Tensor, how: Drawing) -> Tensor:
    """What a pipeline of diffusers draws from initial latents, as latents."""
    ended = {} if how.ended is None else {"callback_on_step_end": how.ended}
    return torch.as_tensor(
        pipe(
            **inputs,
            **ended,
            latents=latents,
            height=how.side,
            width=how.side,
            num_inference_steps=how.steps,
            guidance_scale=how.guidance,
            output_type="latent",
        ).images
    )


@dataclass(frozen=True)
class Family:
    """One family of latent generators. `pipe` is the pipeline of diffusers; latents (b, c, h, w) are in `units`."""

    name: str
    pipeline: str
    """Class name in the folder's model_index.json."""
    network: str
    """The part of the pipeline that is taught: unet or transformer."""
    targets: Mapping[Targets, str]
    """Role -> regular expression of the whole names of the linear layers that play it; `attention` holds the others."""
    objective: Callable[[Any], Objective]
    """(pipe) -> what its network was trained to do."""
    encode: Callable[[Any, list[str]], Condition]
    """(pipe, prompts) -> condition of the prompts, with `text` (b, tokens, width) in it, on the pipeline's device."""
    predict: Callable[[Any, Tensor, Tensor, Condition], Tensor]
    """(pipe, noised latents, times (b,), condition) -> what the network predicts, (b, c, h, w)."""
    draw: Callable[[Any, Condition, Condition, Tensor, Drawing], Tensor]
    """(pipe, prompts, negative prompts, initial latents, how) -> latents."""
    unguided: Callable[[Any, Condition], Condition] = empty_prompt
    """(pipe, condition of "") -> what the pipeline guides away from where no negative prompt is given."""
    sized: Callable[[Condition, Facts, tuple[int, int]], Condition] = unsized
    """(condition, facts of each image, height and width of the crops) -> condition."""
    units: Callable[[Any], Units] = plain_units
    """(pipe) -> how the network's latents follow from the autoencoder's."""
    words: tuple[str, ...] = ()
    """The text encoders that can learn words, as far as a pipeline has them."""
    unlike: Callable[[Any], str] = nothing
    """(pipe) -> why it cannot be taught although it is of this class, to follow "base NAME"; "" where it can."""
    caution: Callable[[Any], str] = nothing
    """(pipe) -> what should be known before it is taught, to follow "base NAME"; "" where nothing."""
    regional: Callable[[Any, Regions, int], AbstractContextManager[None]] | None = None
    """(pipe, regions, pictures drawn at once) -> the pipeline with regions; None where there can be none."""
    negative: bool = True
    """Whether a negative prompt does anything."""
    in_rows: bool = True
    """Whether a guided step asks the network once, for what is guided away from and then for the prompts, in as many
    rows; else its pipeline asks at each step whether it is guided, and calls back after it.
    """
    like: Callable[[Any], Condition] | None = None
    """(pipe) -> the condition of one prompt as shapes (`hollow`), real tensors where the network asks for values, none
    of the text encoders asked; without it memory is not estimated.
    """
    apart: bool = False
    """Whether what is guided away from has a call of its own, so that a batch has no rows for it."""
    loading: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments with which diffusers reads the pipeline, such as parts that are left out."""
