"""The frozen base model: adapters on top, deltas underneath, loss, and drawing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image
from torch import Tensor, nn

from perdure.bases.attaching import Attaching, input_norms
from perdure.bases.batch import Batch
from perdure.bases.family import Condition, Family
from perdure.bases.laying import Laying, Moved
from perdure.bases.processes import accelerator, several
from perdure.bases.words import Vocabulary
from perdure.errors import ModelError
from perdure.memory.delta import Delta
from perdure.method import Weights, Word
from perdure.wording import Speech

SCHEDULERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
DECODED = 1 << 20
"""Pixels that are decoded at a time: one image of 1024 x 1024, for which SDXL's decoder needs about 8 GB in float32."""
ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")
TARGETS = {
    "attention": ATTENTION,
    "cross": tuple(f".attn2{end}" for end in ATTENTION),
    "cross_kv": (".attn2.to_k", ".attn2.to_v"),
}


class Backbone:
    """A frozen pipeline. Weights under a context manager are swapped and restored, never written to."""

    def __init__(self, pipe: Any, family: Family, precision: str = "fp32", device: torch.device | None = None) -> None:
        self.family = family
        self.processes = several()
        self._wanted = precision, device
        self.accelerator = accelerator(*self._wanted)
        found: torch.device = self.accelerator.device
        self.device = torch.device("cpu") if found.type == "cpu" else found  # a move to "cpu:0" copies: other last bits
        self.pipe = pipe.to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        for module in (m for m in pipe.components.values() if isinstance(m, nn.Module)):
            module.requires_grad_(False).eval()
        self.unet = pipe.unet
        self.dtype: torch.dtype = pipe.unet.dtype  # asked once: diffusers walks all modules to answer
        self.vocabulary = Vocabulary(pipe)
        self._speech = Speech({})
        self.objective = family.objective(pipe)
        self._linears = {
            name: module
            for name, module in self.unet.named_modules()
            if isinstance(module, nn.Linear) and name.endswith(ATTENTION)
        }
        self._attaching = Attaching(self.unet, self._linears)
        self._laying = Laying(self._linears)

    # --- projections, adapters, deltas ----------------------------------------------------------------------------

    def projections(self, targets: str) -> dict[str, tuple[int, int]]:
        """Names and shapes (out, in) of the target projections. Raises ModelError where there are none."""
        names = [name for name in self._linears if name.endswith(TARGETS[targets])]
        if not names:
            raise ModelError(f"targets: {targets} is nothing in this base ({type(self.unet).__name__})")
        return {name: (self._linears[name].out_features, self._linears[name].in_features) for name in names}

    def attached(self, weights: Weights) -> AbstractContextManager[None]:
        """The UNet with trainable changes of some projections on top."""
        return self._attaching.attached(weights)

    def bare(self) -> AbstractContextManager[None]:
        """The UNet with what is attached to it switched off."""
        return self._attaching.bare()

    def weight(self, projection: str) -> Tensor:
        """The weight (out, in) of a projection as it now is, with whatever is laid under it, float32."""
        return self._laying.weight(projection)

    def gradients(self, loss: Callable[[], Tensor], projections: Sequence[str]) -> dict[str, Tensor]:
        """Gradient (out, in) of a loss with respect to the weights of some projections, as if they were free."""
        weights = [self._linears[name].weight.requires_grad_(True) for name in projections]
        try:
            gradients = torch.autograd.grad(loss(), weights)
        finally:
            for weight in weights:
                weight.requires_grad_(False)
        return dict(zip(projections, (g.float() for g in gradients), strict=True))

    def input_norms(self, run: Callable[[], object], projections: Sequence[str]) -> dict[str, Tensor]:
        """Norm (in,) of all rows that enter each of some projections while something runs, float32."""
        return input_norms(run, {name: self._linears[name] for name in projections})

    def laid(self, delta: Delta) -> AbstractContextManager[None]:
        """The UNet with this delta under it and no other. Raises ModelError where it does not fit the base."""
        return self._laying.laid(delta)

    def moved(self) -> Moved:
        """What lies under the UNet now, as shapes."""
        return self._laying.moved()

    def as_first(self, moved: Moved) -> AbstractContextManager[None]:
        """On all processes: the UNet with what the first has under it."""
        return self._laying.as_first(moved)

    def gradient_checkpointing(self, on: bool) -> None:
        """Trade time for memory: recompute activations in the backward pass."""
        (self.unet.enable_gradient_checkpointing if on else self.unet.disable_gradient_checkpointing)()

    # --- encoding -------------------------------------------------------------------------------------------------

    @contextmanager
    def speaking(self, words: Mapping[str, Callable[[], Word]]) -> Iterator[None]:
        """The text encoders with learnt words, by token; gradients reach their vectors."""
        before = self._speech
        with self.vocabulary.spoken(words) as self._speech:
            try:
                yield
            finally:
                self._speech = before

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """The condition of some prompts, one row each; with a graph only while learnt words are trained."""
        return dict(self.family.encode(self.pipe, self._speech.write(prompts)))

    def encode_negative(self, prompt: str | None) -> Condition:
        """The condition to guide away from, one row; without a prompt, what the base's own pipeline takes."""
        condition = self.encode_prompts([prompt or ""])
        return condition if prompt is not None else self.family.unguided(self.pipe, condition)

    @torch.no_grad()
    def encode_images(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Latents (n, c, h/f, w/f) in the UNet's units of images (n, 3, h, w) in [-1, 1], each drawn once."""
        drawn = [m + s * torch.randn(m.shape, generator=generator).to(m) for m, s in self._posteriors(images)]
        return torch.cat(drawn).float() * float(self.pipe.vae.config.scaling_factor)

    @torch.no_grad()
    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations of the latents that `encode_images` draws; deviation 0 where nothing is drawn."""
        means, deviations = zip(*self._posteriors(images), strict=True)
        scale = float(self.pipe.vae.config.scaling_factor)
        return torch.cat(means).float() * scale, torch.cat(deviations).float() * scale

    def _posteriors(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Mean and deviation (1, c, h/f, w/f) of each image, in the autoencoder's units."""
        for image in images.to(self.device, self.pipe.vae.dtype):
            encoded = self.pipe.vae.encode(image[None])
            if "latent_dist" in encoded:  # AutoencoderKL; the tiny autoencoder is deterministic
                yield encoded.latent_dist.mean, encoded.latent_dist.std
            else:
                yield encoded.latents, torch.zeros_like(encoded.latents)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """RGB images of latents (n, c, h/f, w/f), decoded as many at a time as `DECODED` allows."""
        vae, images = self.pipe.vae, []
        pixels = latents.shape[-2] * latents.shape[-1] * int(self.pipe.vae_scale_factor) ** 2
        for some in torch.split(latents, max(1, DECODED // pixels)):
            decoded = vae.decode(some.to(vae.dtype) / vae.config.scaling_factor).sample
            images += self.pipe.image_processor.postprocess(decoded, output_type="pil")
        return images

    @property
    def latent_channels(self) -> int:
        """Channels of the UNet's latents."""
        return int(self.unet.config.in_channels)

    def latent_side(self, pixels: int) -> int:
        """Side of the latents of an image with that many pixels a side."""
        return pixels // int(self.pipe.vae_scale_factor)

    # --- loss -----------------------------------------------------------------------------------------------------

    def noised(
        self, latents: Tensor, condition: Condition, captions: Sequence[str], generator: torch.Generator
    ) -> Batch:
        """A batch of latents (b, c, h, w) with their noise and times: first the noise is drawn, then the times."""
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        return Batch(latents, noise, self.objective.times(latents, generator), condition, tuple(captions))

    def predict(self, batch: Batch) -> Tensor:
        """The UNet's output for the noised latents, in what the base was trained to predict, float32."""
        noisy = self.objective.noised(batch.latents, batch.noise, batch.timesteps)
        with self.accelerator.autocast():
            output = self.unet(
                noisy.to(self.dtype), batch.timesteps, **self.family.unet_inputs(batch.condition), return_dict=False
            )[0]
        return torch.as_tensor(output).float()

    def reworded(self, batch: Batch, prompts: Sequence[str]) -> Batch:
        """The same noised images under other prompts, one for each image; sizes and crops stay."""
        return replace(batch, condition={**batch.condition, **self.encode_prompts(prompts)}, captions=tuple(prompts))

    def loss(self, batch: Batch, min_snr: float | None = None) -> Tensor:
        """Mean squared error of the prediction, a scalar."""
        return self.error(batch, self.predict(batch), min_snr).mean()

    def error(self, batch: Batch, predicted: Tensor, min_snr: float | None = None) -> Tensor:
        """Mean squared error of a prediction for each image (b,), weighted by min-SNR where that is given."""
        target = self.objective.target(batch.latents, batch.noise, batch.timesteps)
        error = F.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3))
        return error if min_snr is None else self.objective.weighted(error, batch.timesteps, min_snr)

    @contextmanager
    def training(self, optimizer: torch.optim.Optimizer) -> Iterator[Any]:
        """The optimizer of one lesson, prepared; neither it nor its loss scale is left to the next."""
        try:
            yield self.accelerator.prepare(optimizer)
        finally:
            self.accelerator = accelerator(*self._wanted)

    # --- drawing --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def draw(
        self, prompts: Condition, negative: Condition, latents: Tensor, steps: int, guidance: float, scheduler: str
    ) -> Tensor:
        """Latents (n, c, h/f, w/f) in the UNet's units, drawn from initial noise, one for each row of the condition."""
        usual = self.pipe.scheduler
        self.pipe.scheduler = usual if scheduler == "default" else SCHEDULERS[scheduler].from_config(usual.config)
        side = latents.shape[-1] * int(self.pipe.vae_scale_factor)
        try:
            with self.accelerator.autocast():
                drawn = self.pipe(
                    **self.family.pipeline_inputs(prompts, negative),
                    latents=latents.to(self.device, self.dtype),
                    height=side,
                    width=side,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    output_type="latent",
                ).images
        finally:
            self.pipe.scheduler = usual
        return torch.as_tensor(drawn).float()
