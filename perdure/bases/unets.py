"""What the families of UNets have in common: they were trained as DDPMs on scaled latents, and read text by attn2."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DDPMScheduler, EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from torch import Tensor

from perdure.bases.family import Condition, Drawing, called
from perdure.bases.objective import Diffusion
from perdure.bases.regions import Asking, Own, Regions, hooked
from perdure.errors import ModelError
from perdure.method import Targets

PREDICTIONS = ("epsilon", "v_prediction")
ALL = r"(to_q|to_k|to_v|to_out\.0)"
TARGETS: Mapping[Targets, str] = {
    "attention": rf".*\.{ALL}",
    "cross": rf".*\.attn2\.{ALL}",
    "cross_kv": r".*\.attn2\.(to_k|to_v)",
}
WORDS = ("text_encoder", "text_encoder_2")
LONGEST = 77
"""Tokens of CLIP."""
Inputs = Callable[[Condition], dict[str, Any]]


def objective(pipe: Any) -> Diffusion:
    """Noise or velocity, by the settings of the pipeline's scheduler."""
    return Diffusion(DDPMScheduler.from_config(pipe.scheduler.config))


def predicting(inputs: Inputs) -> Callable[[Any, Tensor, Tensor, Condition], Tensor]:
    """A family's `predict`, of what its UNet is told as keyword arguments."""

    def predict(pipe: Any, latents: Tensor, times: Tensor, condition: Condition) -> Tensor:
        return torch.as_tensor(pipe.unet(latents, times, **inputs(condition), return_dict=False)[0])

    return predict


def drawing(
    inputs: Callable[[Condition, Condition], dict[str, Any]],
) -> Callable[[Any, Condition, Condition, Tensor, Drawing], Tensor]:
    """A family's `draw`, of what its pipeline is given as keyword arguments."""

    def draw(pipe: Any, prompts: Condition, negative: Condition, latents: Tensor, how: Drawing) -> Tensor:
        return called(pipe, inputs(prompts, negative), latents, how)

    return draw


@contextmanager
def regional(pipe: Any, regions: Regions, count: int) -> Iterator[None]:
    """The UNet with regions in the `count` pictures that a pipeline draws; hooks, of which nothing is left.

    Raises ModelError for a UNet without cross-attention.
    """
    asking = Asking(regions, count, lambda: len(pipe.scheduler.timesteps))
    layers = [module for name, module in pipe.unet.named_modules() if name.endswith(".attn2")]
    if not layers:
        raise ModelError("this base has no cross-attention for regions to be drawn in; draw with how: plain")
    handles = [pipe.unet.register_forward_pre_hook(asking.begin, with_kwargs=True)]
    if regions.how == "noise":
        handles.append(pipe.unet.register_forward_hook(asking.network(_words), with_kwargs=True))
    else:
        handles += [layer.register_forward_hook(asking.layer(_words), with_kwargs=True) for layer in layers]
    with hooked(handles):
        yield


def _words(kwargs: Mapping[str, Any], own: Own) -> dict[str, Any]:
    worded = {**kwargs, "encoder_hidden_states": own(kwargs["encoder_hidden_states"], "text")}
    if added := kwargs.get("added_cond_kwargs"):
        worded["added_cond_kwargs"] = {**added, "text_embeds": own(added["text_embeds"], "pooled")}
    return worded


def unlike(pipe: Any) -> str:
    """Another objective, latents that are shifted, or more inputs than latents."""
    scheduler, unet, vae = pipe.scheduler, pipe.unet.config, pipe.vae.config
    name = type(scheduler).__name__
    if isinstance(scheduler, EDMEulerScheduler | EDMDPMSolverMultistepScheduler):
        return f" is noised as {name} says; perdure teaches UNets of the DDPM kind only"
    if problem := no_diffusion(pipe):
        return problem
    if vae.get("latents_mean") is not None or vae.get("latents_std") is not None:
        return ": its autoencoder shifts latents (latents_mean, latents_std), which is not known"
    return more_inputs(unet.in_channels, vae.latent_channels)


def more_inputs(takes: int | None, latent: int | None) -> str:
    """Why a UNet of so many channels does not go with an autoencoder of so many; "" where it does, or is not known."""
    if takes is None or latent is None or takes == latent:
        return ""
    return (
        f": its UNet takes {takes} channels and its autoencoder has {latent}; "
        "inpainting and editing models cannot be taught, name the text-to-image model they were made from"
    )


def no_diffusion(pipe: Any) -> str:
    """Why a pipeline was not trained as a DDPM that predicts noise or velocity, to follow its name."""
    config, name = pipe.scheduler.config, type(pipe.scheduler).__name__
    if "FlowMatch" in name or config.get("use_flow_sigmas"):
        return f" is noised as {name} says; perdure teaches UNets of the DDPM kind only"
    if (predicts := config.get("prediction_type", "epsilon")) not in PREDICTIONS:
        return f" predicts {predicts!r}; perdure teaches bases that predict {' or '.join(PREDICTIONS)}"
    return ""
