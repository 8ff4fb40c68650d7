"""The autoencoder: diffusers' AutoencoderTiny, four times smaller each way, its latents centred and scaled."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from numpy.typing import NDArray
from torch import Tensor

from perdure.toybox.pretrain.data import HELD_OUT, TRAIN, Pictures, to_pixels, to_tensor
from perdure.toybox.pretrain.draws import Shuffle, numpy_draws, torch_draws
from perdure.toybox.pretrain.files import log_line
from perdure.toybox.pretrain.filters import random_filter
from perdure.toybox.pretrain.photos import TRAINING_PHOTOS, load_photos, random_picture
from perdure.toybox.pretrain.precision import half_precision
from perdure.toybox.pretrain.recipe import AutoencoderRecipe, Recipe
from perdure.toybox.pretrain.trainer import Decay, Trainer, latest_weights

LATENT_SPREAD = 0.5  # deviation of each latent channel before scaling; the decoder squashes at 3
_MEASURED = 512  # held-out pictures in the regular measurement


def build_autoencoder(recipe: AutoencoderRecipe) -> AutoencoderTiny:
    """An untrained autoencoder; all channel counts are equal, as the class demands."""
    return AutoencoderTiny(
        encoder_block_out_channels=(recipe.channels,) * len(recipe.encoder_blocks),
        decoder_block_out_channels=(recipe.channels,) * len(recipe.decoder_blocks),
        num_encoder_blocks=recipe.encoder_blocks,
        num_decoder_blocks=recipe.decoder_blocks,
        latent_channels=recipe.latent_channels,
    )


def train_autoencoder(
    recipe: Recipe, work: Path, photos: Path | None, until: int | None = None, decay: Decay = None
) -> AutoencoderTiny:
    """Train to the end of the schedule (or to step `until`) and return the autoencoder."""
    own = recipe.autoencoder
    torch.manual_seed(recipe.seed)  # the initial weights; nothing later draws from the global generator
    model = build_autoencoder(own)
    trainer = Trainer(model, own.train, work / "autoencoder")
    trainer.resume()
    trainer.plan_decay(decay)
    batches = Batches(recipe, work, photos)
    held_out = Pictures(work, recipe.seed, HELD_OUT, recipe.data)
    probe = held_out.tensor(range(min(_MEASURED, held_out.count)))
    last = trainer.last_step(until)
    while trainer.step < last:
        pictures = batches.at(trainer.step)
        noise = torch.randn(
            (len(pictures), own.latent_channels, pictures.shape[2] // 4, pictures.shape[3] // 4),
            generator=torch_draws(recipe.seed, "autoencoder/noise", trainer.step),
        )
        trainer.optimise(autoencoder_loss(model, pictures, noise * own.latent_noise))
        if trainer.step % own.train.measure_every == 0 or trainer.step == last:
            log_line(work, "autoencoder", step=trainer.step, psnr=mean_psnr(model, probe))
        if trainer.step % own.train.save_every == 0 or trainer.step == last:
            trainer.save()
    return set_latent_scale(model, batches.toy(0, 1024))


def train_decoder(
    recipe: Recipe, work: Path, photos: Path | None, until: int | None = None, decay: Decay = None
) -> AutoencoderTiny:
    """Go on with the decoder alone; the encoder, and with it every cached latent, stays as it is."""
    own = recipe.autoencoder
    model = load_autoencoder(recipe, work)
    model.encoder.requires_grad_(False)
    trainer = Trainer(model, own.decoder_train, work / "decoder")
    trainer.resume()
    trainer.plan_decay(decay)
    batches = Batches(recipe, work, photos)
    held_out = Pictures(work, recipe.seed, HELD_OUT, recipe.data)
    probe = held_out.tensor(range(min(_MEASURED, held_out.count)))
    last = trainer.last_step(until)
    while trainer.step < last:
        # Other batches than the autoencoder's: its schedule ends where this one starts.
        pictures = batches.at(own.train.steps + trainer.step)
        with torch.no_grad():
            latents = model.encode(pictures).latents
        draws = torch_draws(recipe.seed, "decoder/noise", trainer.step)
        noise = torch.randn(latents.shape, generator=draws) * own.latent_noise / 2
        with half_precision():
            back = model.decode(latents + noise).sample
        trainer.optimise(reconstruction_loss(back.float() - pictures))
        if trainer.step % own.train.measure_every == 0 or trainer.step == last:
            log_line(work, "decoder", step=trainer.step, psnr=mean_psnr(model, probe))
        if trainer.step % own.train.save_every == 0 or trainer.step == last:
            trainer.save()
    return model


def load_autoencoder(recipe: Recipe, work: Path) -> AutoencoderTiny:
    """The autoencoder as last saved (the decoder of its own stage laid over it), its scale set."""
    model = build_autoencoder(recipe.autoencoder)
    model.load_state_dict(latest_weights(work / "autoencoder"))
    if (work / "decoder" / "latest.json").exists():
        model.load_state_dict(latest_weights(work / "decoder"))
    return set_latent_scale(model, Batches(recipe, work, None).toy(0, 1024)).eval()


def load_exported(folder: Path) -> AutoencoderTiny:
    """The autoencoder of an exported base, float32."""
    model: AutoencoderTiny = AutoencoderTiny.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    return model


def autoencoder_loss(model: AutoencoderTiny, pictures: Tensor, noise: Tensor) -> Tensor:
    """Reconstruction loss; every latent channel is kept near mean 0, deviation .5."""
    with half_precision():
        latents = model.encode(pictures).latents.float()
        back = model.decode(latents + noise).sample
    spread, mean = torch.std_mean(latents, dim=(0, 2, 3))
    shape = (spread - LATENT_SPREAD).square().mean() + mean.square().mean()
    return reconstruction_loss(back.float() - pictures) + 0.02 * shape


def reconstruction_loss(error: Tensor) -> Tensor:
    """Squared error, a little absolute error and a little error of edges; `error` is (N, 3, H, W)."""
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    loss: Tensor = error.square().mean() + 0.03 * error.abs().mean() + 0.01 * edges
    return loss


class Batches:
    """Training batches: drawn pictures, some of them under random filters, and crops of real photos."""

    def __init__(self, recipe: Recipe, work: Path, photos: Path | None) -> None:
        self._recipe = recipe
        self._pictures = Pictures(work, recipe.seed, TRAIN, recipe.data)
        self._order = Shuffle(recipe.seed, "autoencoder/order", recipe.data.count)
        self._photos = load_photos(photos, TRAINING_PHOTOS) if photos else []

    def toy(self, start: int, count: int) -> Tensor:
        """Drawn pictures as they are, (count, 3, 64, 64) in [-1, 1]."""
        return self._pictures.tensor([index for index, _ in self._order.take(start, count)])

    def at(self, step: int) -> Tensor:
        """The batch of one step, (batch, 3, 64, 64) in [-1, 1]; a pure function of the recipe and `step`."""
        own = self._recipe.autoencoder
        rng = numpy_draws(self._recipe.seed, "autoencoder/batch", step)
        real = own.photos_per_batch if self._photos else 0
        count = own.train.batch - real
        pixels = self._pictures.pixels([index for index, _ in self._order.take(step * count, count)])
        filtered = [random_filter(rng)(picture, rng) for picture in pixels[: own.textures_per_batch]]
        chosen = rng.integers(max(1, len(self._photos)), size=real).tolist()
        crops = [random_picture(rng, self._photos[number]) for number in chosen]
        batch = np.stack([*filtered, *pixels[own.textures_per_batch :], *crops])
        return to_tensor(np.stack([_turned(rng, picture) for picture in batch]))


def _turned(rng: np.random.Generator, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Sometimes mirror and swap colour channels, so that no colour or direction is special."""
    picture = picture[:, ::-1] if rng.random() < 0.5 else picture
    return picture[..., rng.permutation(3)] if rng.random() < 0.25 else picture


@torch.no_grad()
def set_latent_scale(model: AutoencoderTiny, pictures: Tensor) -> AutoencoderTiny:
    """Set `scaling_factor` to one over the deviation of the latents of `pictures`.

    Their mean needs no shift (a StableDiffusionPipeline would not apply one): the loss keeps it at zero.
    """
    latents = torch.cat([model.encode(part).latents for part in torch.split(pictures, 64)])
    model.register_to_config(scaling_factor=float(1 / latents.std()), shift_factor=0.0)
    return model


@torch.no_grad()
def mean_psnr(model: AutoencoderTiny, pictures: Tensor) -> float:
    """Mean over pictures (N, 3, H, W in [-1, 1]) of the PSNR in dB of reconstructions rounded to bytes."""
    return float(psnr(pictures, reconstruct(model, pictures)).mean())


@torch.no_grad()
def reconstruct(model: AutoencoderTiny, pictures: Tensor) -> Tensor:
    """Encode and decode, (N, 3, H, W) in [-1, 1]."""
    parts = [model.decode(model.encode(part).latents).sample for part in torch.split(pictures, 64)]
    return to_tensor(to_pixels(torch.cat(parts)))


def psnr(truth: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture, peak-to-peak 2 (the range -1..1); capped at 60."""
    error = ((truth - other) / 2).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp(min=1e-6).log10()
