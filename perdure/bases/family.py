"""What differs between families of base models: how prompts are encoded and what the UNet and the pipeline want."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers.utils import logging as transformers_logging

from perdure.bases.objective import Objective

Condition = Mapping[str, Tensor]
"""Everything the UNet is told beside latents and time, each tensor with a leading batch dimension."""


@contextmanager
def hushed() -> Iterator[None]:
    """No advice, deprecations and reminders of the libraries; that a prompt is too long is told by `reading`."""
    levels = [(module, module.get_verbosity()) for module in (diffusers_logging, transformers_logging)]
    try:
        for module, _ in levels:
            module.set_verbosity(logging.CRITICAL)  # what goes wrong is raised as well
        yield
    finally:
        for module, level in levels:
            module.set_verbosity(level)


@dataclass(frozen=True)
class Family:
    """One family of latent diffusion UNets."""

    name: str
    pipeline: str
    """Class name in the folder's model_index.json."""
    encode: Callable[[Any, list[str]], Condition]
    """(pipeline, prompts) -> condition of the prompts, on the pipeline's device."""
    unguided: Callable[[Any, Condition], Condition]
    """(pipeline, condition of "") -> what the pipeline guides away from where no negative prompt is given."""
    sized: Callable[[Condition, list[tuple[int, int, int, int]], int], Condition]
    """(condition, (height, width, top, left) of each original image and crop, training side) -> condition."""
    unet_inputs: Callable[[Condition], dict[str, Any]]
    """Keyword arguments of the UNet's forward."""
    pipeline_inputs: Callable[[Condition, Condition], dict[str, Any]]
    """(prompts, negative prompts) -> keyword arguments of the sampling pipeline."""
    objective: Callable[[Any], Objective]
    """(pipeline) -> what its network was trained to do."""
    unlike: Callable[[Any], str]
    """(pipeline) -> why it cannot be taught although it is of this class, to follow "base NAME"; "" where it can."""
