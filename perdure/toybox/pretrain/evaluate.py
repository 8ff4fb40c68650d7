"""The figures of an exported folder, measured through the standard classes as any user would load them."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer, CLIPVisionModelWithProjection, ViTModel

from perdure.toybox.pretrain.autoencoder import psnr, reconstruct
from perdure.toybox.pretrain.clip import answers_right
from perdure.toybox.pretrain.contrast import same_against_other
from perdure.toybox.pretrain.data import HELD_OUT, scene_at, to_tensor
from perdure.toybox.pretrain.draws import torch_draws
from perdure.toybox.pretrain.flow import load_flow_pipeline
from perdure.toybox.pretrain.instance import subject_auc, subject_pictures
from perdure.toybox.pretrain.photos import HELD_OUT_PHOTOS, TRAINING_PHOTOS, centre_picture, load_photos
from perdure.toybox.pretrain.recipe import LATENT_SIDE, PICTURE_SIDE, DataRecipe
from perdure.toybox.pretrain.scorers import embed
from perdure.toybox.pretrain.style import style_pictures
from perdure.toybox.world import HELD_OUT_STYLES, Scene, caption_full, draw

PROMPTS = 200


@dataclass(frozen=True)
class Sampling:
    """How pictures are made for the figures."""

    steps: int = 20
    guidance: float = 3.5


class Shipped:
    """A pipeline and the judges in the folder `scorers`, float32, on the CPU; `options` go with every call to draw."""

    def __init__(self, pipeline: DiffusionPipeline, scorers: Path, options: dict[str, Any] | None = None) -> None:
        self.pipeline, self._options = pipeline, options or {}
        self.pipeline.set_progress_bar_config(disable=True)
        self.clip = CLIPModel.from_pretrained(scorers / "clip", dtype=torch.float32).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(scorers / "clip")
        self.dino = ViTModel.from_pretrained(scorers / "dino", add_pooling_layer=False, dtype=torch.float32).eval()
        self.csd = CLIPVisionModelWithProjection.from_pretrained(scorers / "csd", dtype=torch.float32).eval()

    def sample(self, prompts: list[str], sampling: Sampling, part: int = 20) -> Tensor:
        """One picture a prompt, (N, 3, 64, 64) in [-1, 1]; picture i starts from noise that only i decides."""
        channels = self.pipeline.vae.config.latent_channels
        shape = (1, channels, LATENT_SIDE, LATENT_SIDE)
        noise = torch.cat([torch.randn(shape, generator=torch_draws(0, "evaluate", i)) for i in range(len(prompts))])
        found: list[NDArray[np.float32]] = []
        for start in range(0, len(prompts), part):
            made = self.pipeline(
                prompts[start : start + part],
                latents=noise[start : start + part],
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                output_type="np",
                **self._options,
            )
            found.append(made.images)
        return torch.from_numpy(np.concatenate(found)).permute(0, 3, 1, 2) * 2 - 1

    def round_trip(self, pictures: Tensor) -> Tensor:
        """Pictures through the autoencoder and back."""
        return reconstruct(self.pipeline.vae, pictures)


def held_out_scenes(count: int, seed: int = 0) -> list[Scene]:
    """Scenes that no training saw, styles and photos mixed as in training."""
    return [scene_at(seed, HELD_OUT, index, DataRecipe().photo_share) for index in range(count)]


def drawn(scenes: list[Scene]) -> Tensor:
    """Their pictures, (N, 3, 64, 64) in [-1, 1]."""
    return to_tensor(np.stack([np.asarray(draw(scene, PICTURE_SIDE)) for scene in scenes]))


def autoencoder_figures(shipped: Shipped, photos: Path | None, count: int = 512) -> dict[str, Any]:
    """PSNR in dB on held-out drawings by style, on held-out styles, on real photos of training and held-out folders."""
    scenes = held_out_scenes(count)
    pictures = drawn(scenes)
    values = psnr(pictures, shipped.round_trip(pictures))
    by_style: dict[str, list[float]] = defaultdict(list)
    for scene, value in zip(scenes, values.tolist(), strict=True):
        by_style[scene.style].append(value)
    strange, numbers = style_pictures(16)
    strange_values = psnr(strange, shipped.round_trip(strange))
    figures: dict[str, Any] = {
        "held_out_drawings": float(values.mean()),
        "by_seen_style": {name: float(np.mean(found)) for name, found in sorted(by_style.items())},
        "held_out_styles": float(strange_values.mean()),
        "by_held_out_style": {
            name: float(strange_values[numbers == number].mean()) for number, name in enumerate(HELD_OUT_STYLES)
        },
    }
    for key, names in (("photos_held_out", HELD_OUT_PHOTOS), ("photos_of_training", TRAINING_PHOTOS)):
        if photos:
            real = photo_pictures(photos, names)
            figures[key] = float(psnr(real, shipped.round_trip(real)).mean())
    return figures


def photo_pictures(photos: Path, names: tuple[str, ...]) -> Tensor:
    """Real photos, middle square, (N, 3, 64, 64) in [-1, 1]."""
    return to_tensor(np.stack([centre_picture(photo) for photo in load_photos(photos, names)]))


def base_figures(shipped: Shipped, sampling: Sampling, count: int = PROMPTS) -> tuple[dict[str, Any], Tensor]:
    """Zero-shot accuracies in percent on pictures of held-out prompts, and on real drawings of the same scenes."""
    scenes = held_out_scenes(count)
    made = shipped.sample([caption_full(scene) for scene in scenes], sampling)
    right = answers_right(shipped.clip, shipped.tokenizer, made, scenes)
    of_real = answers_right(shipped.clip, shipped.tokenizer, drawn(scenes), scenes)
    return {
        "prompts": count,
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "generated": _percent(right),
        "real_drawings": _percent(of_real),
    }, made


def clip_figures(shipped: Shipped, count: int = 1024) -> dict[str, float]:
    """The judge's own zero-shot accuracies in percent, on held-out drawings (not those of the prompts)."""
    scenes = held_out_scenes(PROMPTS + count)[PROMPTS:]
    return _percent(answers_right(shipped.clip, shipped.tokenizer, drawn(scenes), scenes))


def _percent(right: dict[str, Tensor]) -> dict[str, float]:
    return {name: 100 * float(values.double().mean()) for name, values in right.items()}


def scorer_figures(shipped: Shipped, count: int = 50) -> dict[str, Any]:
    """AUCs of the instance encoder on held-out subjects and of the style encoder on held-out styles.

    "round_trip" repeats them on pictures that went through the autoencoder.
    """
    pictures, groups, classes = subject_pictures(count)
    styled, styles = style_pictures(24)
    return {
        "subjects": count,
        "dino": subject_auc(shipped.dino, pictures, groups, classes),
        "dino_round_trip": subject_auc(shipped.dino, shipped.round_trip(pictures), groups, classes),
        "clip_same_subject": same_against_other(embed(shipped.clip, pictures), groups),
        "csd": same_against_other(embed(shipped.csd, styled), styles),
        "csd_round_trip": same_against_other(embed(shipped.csd, shipped.round_trip(styled)), styles),
    }


def all_figures(folder: Path, photos: Path | None, sampling: Sampling) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Every figure; besides, the pictures of the prompts, and (originals, reconstructions) for a sheet."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    shipped = Shipped(pipeline, folder / "scorers")
    base, made = base_figures(shipped, sampling)
    figures = {
        "autoencoder": autoencoder_figures(shipped, photos),
        "base": base,
        "clip": clip_figures(shipped),
        "scorers": scorer_figures(shipped),
    }
    strange, _ = style_pictures(1)
    rows = [drawn(held_out_scenes(14)), strange]
    if photos:
        rows.append(photo_pictures(photos, HELD_OUT_PHOTOS)[::6][:14])
    pairs = torch.stack([torch.cat(rows), shipped.round_trip(torch.cat(rows))])
    return _rounded(figures), made, pairs


def flow_figures(folder: Path, judges: Path, sampling: Sampling) -> tuple[dict[str, Any], Tensor]:
    """The figures of an exported transformer by the judges of the base `judges`, and the pictures of the prompts.

    They are drawn without the pipeline's rows of zeros, which cost three quarters of the time and say nothing.
    """
    shipped = Shipped(load_flow_pipeline(folder), judges / "scorers", {"max_sequence_length": 0})
    base, made = base_figures(shipped, sampling)
    return _rounded({"base": base}), made


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value
