"""What the families of UNets have in common: they were trained as DDPMs on scaled latents, and read text by attn2."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DDPMScheduler, EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from torch import Tensor, nn

from perdure.bases.family import Condition, Drawing, called
from perdure.bases.objective import Diffusion
from perdure.bases.regions import Regions
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
    asking = _Asking(pipe, regions, count)
    layers = [module for name, module in pipe.unet.named_modules() if name.endswith(".attn2")]
    if not layers:
        raise ModelError("this base has no cross-attention for regions to be drawn in; draw with how: plain")
    handles = [pipe.unet.register_forward_pre_hook(asking.begin)]
    if regions.how == "noise":
        handles.append(pipe.unet.register_forward_hook(asking.in_noise, with_kwargs=True))
    else:
        handles += [layer.register_forward_hook(asking.in_attention, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Asking:
    """Asks cross-attention, or the whole UNet, again in the words of each region, and blends the answers.

    Only the last `count` rows are asked again, those of the prompt: before them come those that are guided away from.
    """

    def __init__(self, pipe: Any, regions: Regions, count: int) -> None:
        self._pipe, self._regions, self._count = pipe, regions, count
        self._step, self._sides = 0, (0, 0)

    def begin(self, unet: nn.Module, args: tuple[Any, ...]) -> None:
        self._step, self._sides = self._step + 1, args[0].shape[-2:]

    def in_attention(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], said: Tensor) -> Tensor:
        if self._over():
            return said
        answers = [said, *self._again(layer, args, kwargs)]
        sides = _cells(self._sides, said.shape[1])
        outside, *inside = (answer.transpose(1, 2).unflatten(2, sides) for answer in answers)
        return self._regions.blended(outside, inside).flatten(2).transpose(1, 2)

    def in_noise(
        self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], said: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        if self._over():
            return said
        return (self._regions.blended(said[0], [answer[0] for answer in self._again(unet, args, kwargs)]),)

    def _over(self) -> bool:
        return self._step > self._regions.until * len(self._pipe.scheduler.timesteps)

    def _again(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        for number in range(len(self._regions.masks)):
            with self._regions.within(number):
                answer = module.forward(*args, **self._in_words(kwargs, number))
            yield answer

    def _in_words(self, kwargs: dict[str, Any], number: int) -> dict[str, Any]:
        def own(rows: Tensor, name: str) -> Tensor:
            row = self._regions.prompts[name][number].to(rows)
            return torch.cat([rows[: -self._count], row.expand_as(rows[-self._count :])])

        worded = {**kwargs, "encoder_hidden_states": own(kwargs["encoder_hidden_states"], "text")}
        if added := kwargs.get("added_cond_kwargs"):
            worded["added_cond_kwargs"] = {**added, "text_embeds": own(added["text_embeds"], "pooled")}
        return worded


def _cells(latents: tuple[int, int], tokens: int) -> tuple[int, int]:
    """Rows and columns of a layer's cells: those of the latents, halved and rounded up until there are as many."""
    height, width = latents
    while height * width > tokens:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != tokens:
        raise ModelError(f"a layer of {tokens} cells is no grid over {latents[0]} x {latents[1]} latents: no regions")
    return height, width


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
    if unet.in_channels != vae.latent_channels:
        return (
            f": its UNet takes {unet.in_channels} channels and its autoencoder has {vae.latent_channels}; "
            "inpainting and editing models cannot be taught, name the text-to-image model they were made from"
        )
    return ""


def no_diffusion(pipe: Any) -> str:
    """Why a pipeline was not trained as a DDPM that predicts noise or velocity, to follow its name."""
    config, name = pipe.scheduler.config, type(pipe.scheduler).__name__
    if "FlowMatch" in name or config.get("use_flow_sigmas"):
        return f" is noised as {name} says; perdure teaches UNets of the DDPM kind only"
    if (predicts := config.get("prediction_type", "epsilon")) not in PREDICTIONS:
        return f" predicts {predicts!r}; perdure teaches bases that predict {' or '.join(PREDICTIONS)}"
    return ""
