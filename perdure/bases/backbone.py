"""The frozen base model of a family: encoding, loss, and drawing."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from perdure.bases import checking, engines, performing
from perdure.bases.batch import Batch
from perdure.bases.encoders import Encoders
from perdure.bases.family import Condition, Drawing, Family
from perdure.bases.network import Network
from perdure.bases.regions import Regions
from perdure.bases.words import Vocabulary
from perdure.errors import ModelError, PlanError
from perdure.method import Word
from perdure.plan import Performance, Sampling, Times, Training
from perdure.plan.performance import Decoding, Precision
from perdure.wording import Speech

DECODED = 1 << 20
"""Pixels that are decoded at a time: one image of 1024 x 1024, for which SDXL's decoder needs about 8 GB in float32."""


class Backbone(Network):
    """A frozen pipeline: what is taught of it is its network."""

    def __init__(
        self, pipe: Any, family: Family, precision: str = "fp32", device: torch.device | None = None,
        performance: Performance | None = None,
    ) -> None:  # fmt: skip
        self.family, self.performance = family, performance or Performance()
        offload = self.performance.offload is not None and family.network == "transformer"  # else `check` tells it
        super().__init__(pipe.components[family.network], family.targets, precision, device, offload)
        self.pipe = pipe if offload else pipe.to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        for module in (m for m in pipe.components.values() if isinstance(m, nn.Module)):
            if offload and module is not self.network:
                module.to(self.device)
            module.requires_grad_(False).eval()
        self.vocabulary, self.encoders = Vocabulary(pipe, family.words), Encoders(pipe, family, self.device)
        self._speech = Speech({})
        self.objective, self.units = family.objective(pipe), family.units(pipe)
        self.drawing_in: Precision = "training"
        self._origin: Backbone | None = None
        self._copies: dict[str, Any] = {}
        self.fits: dict[int, int] = {}  # side in pixels -> pictures at once that were found to fit into memory
        performing.settle(self.performance, self.network, pipe.vae)

    def drawn_in(self, precision: Precision) -> "Backbone":
        """The base for drawing in a precision: itself, or a copy of its network, made once, with all else shared."""
        if self._few_bits or precision in ("training", self._wanted[0], self.drawing_in):
            return self
        if precision not in self._copies:
            other = self._copies[precision] = copy.copy(self)
            other.pipe, other.drawing_in, other._origin = copy.copy(self.pipe), precision, self
            other.dtype = performing.DTYPES[precision]
            other.network = performing.copied(self.network, precision)
            setattr(other.pipe, self.family.network, other.network)
            other._take_apart()
        found: Backbone = self._copies[precision]
        return found

    @property
    def origin(self) -> "Backbone":
        """The base of which this is the copy for drawing; itself where it is none."""
        return self._origin or self

    def check(self, training: Training, sampling: Sampling) -> None:
        """Raises PlanError with what this base cannot do of a plan's settings."""
        if problems := checking.unfit(self.pipe, self.family, self.performance, training, sampling):
            raise PlanError(problems)

    def gradient_checkpointing(self, on: bool) -> None:
        """Trade time for memory: recompute activations in the backward pass."""
        (self.network.enable_gradient_checkpointing if on else self.network.disable_gradient_checkpointing)()

    # --- encoding -------------------------------------------------------------------------------------------------

    @contextmanager
    def speaking(self, words: Mapping[str, Callable[[], Word]]) -> Iterator[None]:
        """The text encoders with learnt words, by token; gradients reach their vectors."""
        before = self._speech
        if words:
            self.encoders.back()
        with self.vocabulary.spoken(words) as self._speech:
            try:
                yield
            finally:
                self._speech = before

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """The condition of some prompts, one row each; with a graph only while learnt words are trained."""
        return self.encoders.read(self._speech.write(prompts), learning=self._speech.used > 0)

    def spans(self, prompts: Sequence[str]) -> list[slice]:
        """Which tokens of each prompt's text are its own: from the first behind the start token to the end token."""
        numbers = self.pipe.tokenizer(self._speech.write(prompts), truncation=True).input_ids
        return [slice(int(own[0] == self.pipe.tokenizer.bos_token_id), len(own)) for own in numbers]

    def encode_negative(self, prompt: str | None) -> Condition:
        """The condition to guide away from, one row; without a prompt, what the base's own pipeline takes."""
        condition = self.encode_prompts([prompt or ""])
        return condition if prompt is not None else self.family.unguided(self.pipe, condition)

    @torch.no_grad()
    def encode_images(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Latents (n, c, h/f, w/f) in the network's units of images (n, 3, h, w) in [-1, 1], each drawn once."""
        drawn = [m + s * torch.randn(m.shape, generator=generator).to(m) for m, s in self._posteriors(images)]
        return self.units.of(torch.cat(drawn))

    @torch.no_grad()
    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations of the latents that `encode_images` draws; deviation 0 where nothing is drawn."""
        means, deviations = zip(*self._posteriors(images), strict=True)
        return self.units.of(torch.cat(means)), self.units.deviation(torch.cat(deviations))

    def _posteriors(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Mean and deviation (1, c, h/f, w/f) of each image, in the autoencoder's units."""
        for image in images.to(self.device, self.pipe.vae.dtype):
            encoded = self.pipe.vae.encode(image[None])
            if "latent_dist" in encoded:  # AutoencoderKL; the tiny autoencoder is deterministic
                yield encoded.latent_dist.mean, encoded.latent_dist.std
            else:
                yield encoded.latents, torch.zeros_like(encoded.latents)

    @torch.no_grad()
    def decode(self, latents: Tensor, precision: Decoding = "fp32") -> list[Image.Image]:
        """RGB images of latents (n, c, h/f, w/f), decoded as many at a time as `DECODED` allows."""
        if precision != "fp32" and f"vae {precision}" not in self._copies:
            self._copies[f"vae {precision}"] = performing.copied(self.pipe.vae, precision)
        vae, images = self._copies.get(f"vae {precision}", self.pipe.vae), []
        for some in torch.split(latents, max(1, DECODED // (latents.shape[-1] * self._pixels) ** 2)):
            decoded = vae.decode(self.units.back(some.to(vae.dtype))).sample
            images += self.pipe.image_processor.postprocess(decoded, output_type="pil")
        return images

    def latent_side(self, pixels: int) -> int:
        """Side of the latents of an image with that many pixels a side."""
        return pixels // self._pixels

    def pixels(self, latents: Tensor) -> tuple[int, int]:
        """Height and width of the images of latents (n, c, h, w)."""
        height, width = latents.shape[-2:]
        return height * self._pixels, width * self._pixels

    @property
    def _pixels(self) -> int:
        """Pixels a side of an image that make one latent."""
        return int(self.pipe.vae_scale_factor) * self.units.fold

    # --- loss -----------------------------------------------------------------------------------------------------

    def noised(
        self, latents: Tensor, condition: Condition, captions: Sequence[str], generator: torch.Generator,
        times: Times = "default",
    ) -> Batch:  # fmt: skip
        """A batch of latents (b, c, h, w) with their noise and times: first the noise is drawn, then the times."""
        noise = torch.randn(latents.shape, generator=generator).to(latents, non_blocking=True)
        drawn = self.objective.times(latents, times, generator)
        return Batch(latents, noise, drawn, condition, tuple(captions))

    def predict(self, batch: Batch) -> Tensor:
        """What the network predicts for the noised latents, as the base was trained to, float32."""
        noisy = self.objective.noised(batch.latents, batch.noise, batch.timesteps)
        with self.accelerator.autocast():
            output = self.family.predict(self.pipe, noisy.to(self.dtype), batch.timesteps, batch.condition)
        return output.float()

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
        return self.objective.weighted(error, batch.timesteps, min_snr)

    @contextmanager
    def training(self, optimizer: torch.optim.Optimizer) -> Iterator[Any]:
        """The optimizer of one lesson, prepared; text encoders that are not needed make room."""
        if not self._speech.used:
            self.encoders.drop()
        steps = engines.learning(self.performance, self.network, lambda: self._attaching.muted)
        with super().training(optimizer) as prepared, steps:
            yield prepared

    # --- drawing --------------------------------------------------------------------------------------------------

    def regional(self, regions: Regions | None, count: int) -> AbstractContextManager[None]:
        """The pipeline with regions in the `count` pictures that it draws at once. Raises ModelError."""
        if regions is None:
            return nullcontext()
        if self.family.regional is None:
            told = f"with bases of the family {self.family.name} no regions can be drawn; draw with how: plain"
            raise ModelError(told)
        return self.family.regional(self.pipe, regions, count)

    @torch.no_grad()
    def draw(
        self, prompts: Condition, negative: Condition, latents: Tensor, steps: int, guidance: float, scheduler: str,
        regions: Regions | None = None, until: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """Latents (n, c, h/f, w/f) in the network's units, drawn from initial noise, one for each row of prompts.

        regions: where which other prompts hold, in all of them; until: part of the steps, from the first on, that is
        guided. Raises ModelError where this base can have no regions.
        """
        if not self._speech.used:
            self.encoders.drop()
        usual, count = self.pipe.scheduler, len(latents)
        if scheduler != "default":
            self.pipe.scheduler = self.objective.solvers[scheduler].from_config(usual.config)
        asked = Drawing(latents.shape[-1] * self._pixels, steps, guidance)
        how, guiding = performing.guiding(self.network, asked, count, until, self.family.in_rows)
        casting: AbstractContextManager[None] = self.accelerator.autocast()
        if self.drawing_in != "training":
            prompts, negative = (performing.cast(condition, self.dtype) for condition in (prompts, negative))
            casting = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        kernel = performing.attending(self.performance.attention)
        plain = regions is not None or self._attaching.busy  # what hangs on layers is seen by torch alone
        engine = nullcontext() if plain else engines.running(self.performance, self.network, self._laying.placed)
        try:
            with casting, kernel, self.regional(regions, count), guiding, engine:
                drawn = self.family.draw(self.pipe, prompts, negative, latents.to(self.device, self.dtype), how)
        finally:
            self.pipe.scheduler = usual
        return drawn.float()
