"""The style encoder, in CSD's role: pictures in one style lie close, whatever they show."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from perdure.toybox.pretrain.contrast import distorted, grouped_loss, same_against_other
from perdure.toybox.pretrain.data import TRAIN, Pictures, to_tensor
from perdure.toybox.pretrain.draws import numpy_draws, torch_draws
from perdure.toybox.pretrain.files import log_line
from perdure.toybox.pretrain.filters import random_filter
from perdure.toybox.pretrain.precision import half_precision
from perdure.toybox.pretrain.recipe import PICTURE_SIDE, Recipe
from perdure.toybox.pretrain.scorers import build_style_encoder, embed, image_features
from perdure.toybox.pretrain.trainer import Decay, Trainer, train_eagerly
from perdure.toybox.world import HELD_OUT_STYLES, SEEN_STYLES, Scene, draw, random_scene

_EACH = 4  # pictures of each style in a batch
_WORLD_SHARE = 0.25  # of the batch's styles that are the world's own; the others are random filters


def train_style_encoder(
    recipe: Recipe, work: Path, until: int | None = None, decay: Decay = None
) -> CLIPVisionModelWithProjection:
    """Train on the seen styles and on random filters; the held-out styles only measure."""
    own = recipe.style
    pictures = Pictures(work, recipe.seed, TRAIN, recipe.data)
    by_style = _indices_by_style(pictures, min(pictures.drawn(), 32_768))
    torch.manual_seed(recipe.seed + 3)
    model = build_style_encoder(own)
    train_eagerly(model)
    trainer = Trainer(model, own.train, work / "style")
    trainer.resume()
    trainer.plan_decay(decay)
    probe, groups = style_pictures(24)
    last = trainer.last_step(until)
    while trainer.step < last:
        pixels, labels = _batch(recipe, pictures, by_style, trainer.step)
        draws = torch_draws(recipe.seed, "style/distort", trainer.step)
        batch = distorted(to_tensor(pixels), draws, colour=0.03)
        with half_precision():
            found = image_features(model, batch)
        trainer.optimise(grouped_loss(found, labels, own.temperature))
        if trainer.step % own.train.measure_every == 0 or trainer.step == last:
            log_line(work, "style", step=trainer.step, auc=same_against_other(embed(model, probe), groups))
            model.train()
        if trainer.step % own.train.save_every == 0 or trainer.step == last:
            trainer.save()
    return model


def _indices_by_style(pictures: Pictures, count: int) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {name: [] for name in ("photo", *SEEN_STYLES)}
    for index in range(count):
        found[pictures.scene(index).style].append(index)
    return found


def _batch(recipe: Recipe, pictures: Pictures, by_style: dict[str, list[int]], step: int) -> tuple[np.ndarray, Tensor]:
    """Pictures (batch, 64, 64, 3) uint8 and the numbers of their styles (batch,)."""
    rng = numpy_draws(recipe.seed, "style/batch", step)
    count = recipe.style.train.batch // _EACH
    of_world = min(round(count * _WORLD_SHARE), len(by_style))
    names = [str(name) for name in rng.permutation(np.array(list(by_style)))[:of_world]]
    found = [pictures.pixels([int(i) for i in rng.choice(by_style[name], _EACH)]) for name in names]
    for _ in range(count - of_world):
        filtered = random_filter(rng)
        plain = pictures.pixels([int(i) for i in rng.choice(by_style["photo"], _EACH)])
        found.append(np.stack([filtered(picture, rng) for picture in plain]))
    return np.concatenate(found), torch.arange(count).repeat_interleave(_EACH)


def style_pictures(each: int, styles: tuple[str, ...] = HELD_OUT_STYLES) -> tuple[Tensor, Tensor]:
    """`each` pictures of every style: (styles * each, 3, 64, 64) in [-1, 1] and the numbers of their styles."""
    scenes: list[Scene] = []
    for style in styles:
        rng = numpy_draws(0, "style/probe", style)
        scenes += [random_scene(rng, styles=(style,), photo_share=0.0) for _ in range(each)]
    pixels = np.stack([np.asarray(draw(scene, PICTURE_SIDE)) for scene in scenes])
    return to_tensor(pixels), torch.arange(len(styles)).repeat_interleave(each)
