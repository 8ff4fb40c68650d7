"""The instance encoder, in DINO's role: two pictures of one individual lie close, those of two lie apart.

It learns from individuals that are each seen in several contexts and poses, drawn once into shards.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import ViTModel

from perdure.toybox.pretrain.contrast import distorted, paired_loss, same_against_other
from perdure.toybox.pretrain.data import to_tensor
from perdure.toybox.pretrain.draws import draw_seed, numpy_draws, torch_draws
from perdure.toybox.pretrain.files import log_line, write_array
from perdure.toybox.pretrain.precision import half_precision
from perdure.toybox.pretrain.recipe import PICTURE_SIDE, Recipe, ScorerRecipe
from perdure.toybox.pretrain.scorers import build_instance_encoder, embed, image_features
from perdure.toybox.pretrain.trainer import Decay, Trainer, train_eagerly
from perdure.toybox.world import (
    CLASSES,
    CONTEXTS,
    Scene,
    Thing,
    draw,
    random_pose,
    random_scorer_thing,
    random_thing,
    subjects,
)

_SHARD = 1024  # things


def thing_at(seed: int, index: int) -> Thing:
    """Individual `index`: two of three wear the scorer's own patterns and accessories, never the subjects'."""
    rng = numpy_draws(seed, "thing", index)
    return random_thing(rng) if index % 3 == 0 else random_scorer_thing(rng)


def view_at(seed: int, index: int, view: int) -> NDArray[np.uint8]:
    """View `view` of individual `index`: (64, 64, 3) uint8, photo style."""
    rng = numpy_draws(seed, "view", index, view)
    context = CONTEXTS[int(rng.integers(len(CONTEXTS)))]
    scene = Scene(thing_at(seed, index), context, "photo", random_pose(rng), draw_seed(seed, "view", index, view))
    return np.asarray(draw(scene, PICTURE_SIDE))


class Things:
    """The drawn views of all individuals."""

    def __init__(self, folder: Path, seed: int, recipe: ScorerRecipe) -> None:
        self._folder, self._seed, self._recipe = folder / f"things-{seed}", seed, recipe
        self._open: dict[int, NDArray[np.uint8]] = {}

    def prepare(self) -> None:
        """Draw the missing shards."""
        for start in range(0, self._recipe.things, _SHARD):
            path = self._folder / f"{start // _SHARD:04d}.npy"
            if path.exists():
                continue
            things = range(start, min(start + _SHARD, self._recipe.things))
            views = [[view_at(self._seed, thing, view) for view in range(self._recipe.views)] for thing in things]
            write_array(path, np.array(views))

    def view(self, index: int, view: int) -> NDArray[np.uint8]:
        """(64, 64, 3) uint8."""
        number = index // _SHARD
        if number not in self._open:
            path = self._folder / f"{number:04d}.npy"
            self._open[number] = np.load(path, mmap_mode="r", allow_pickle=False)
        found: NDArray[np.uint8] = self._open[number][index % _SHARD, view]
        return found

    def by_class(self) -> dict[str, list[int]]:
        """Indices of the individuals of each class."""
        found: dict[str, list[int]] = {name: [] for name in CLASSES}
        for index in range(self._recipe.things):
            found[thing_at(self._seed, index).class_name].append(index)
        return found


def train_instance_encoder(recipe: Recipe, work: Path, until: int | None = None, decay: Decay = None) -> ViTModel:
    """Train on pairs of views; a batch takes its individuals from few classes, so that classes do not help."""
    own = recipe.instance
    things = Things(work, recipe.seed, own)
    things.prepare()
    by_class = things.by_class()
    torch.manual_seed(recipe.seed + 2)
    model = build_instance_encoder(own)
    train_eagerly(model)
    trainer = Trainer(model, own.train, work / "instance")
    trainer.resume()
    trainer.plan_decay(decay)
    pictures, groups, classes = subject_pictures(30)
    last = trainer.last_step(until)
    while trainer.step < last:
        pixels = _pairs(recipe, things, by_class, trainer.step)
        draws = torch_draws(recipe.seed, "instance/distort", trainer.step)
        # No mirror of its own: poses are drawn mirrored or not already.
        batch = distorted(to_tensor(pixels), draws, colour=0.06, flip=False)
        with half_precision():
            found = image_features(model, batch)
        left, right = found.chunk(2)
        trainer.optimise(paired_loss(left, right, own.temperature))
        if trainer.step % own.train.measure_every == 0 or trainer.step == last:
            log_line(work, "instance", step=trainer.step, **subject_auc(model, pictures, groups, classes))
            model.train()
        if trainer.step % own.train.save_every == 0 or trainer.step == last:
            trainer.save()
    return model


def _pairs(recipe: Recipe, things: Things, by_class: dict[str, list[int]], step: int) -> np.ndarray:
    """First all left views, then all right ones: (batch, 64, 64, 3) uint8."""
    own = recipe.instance
    rng = numpy_draws(recipe.seed, "instance/pairs", step)
    pool = [index for name in rng.permutation(np.array(CLASSES))[:4] for index in by_class[str(name)]]
    chosen = rng.choice(pool, own.train.batch // 2, replace=False)
    views = [rng.permutation(own.views)[:2] for _ in chosen]
    return np.stack([things.view(int(i), int(v[side])) for side in (0, 1) for i, v in zip(chosen, views, strict=True)])


def subject_pictures(count: int, views: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of held-out subjects (count * views, 3, 64, 64), their subject numbers and class numbers."""
    found = [(number, subject, scene) for number, subject in enumerate(subjects(count))
             for scene in subject.reference_scenes(views)]  # fmt: skip
    pictures = to_tensor(np.stack([np.asarray(draw(scene, PICTURE_SIDE)) for _, _, scene in found]))
    groups = torch.tensor([number for number, _, _ in found])
    classes = torch.tensor([CLASSES.index(subject.class_name) for _, subject, _ in found])
    return pictures, groups, classes


def subject_auc(model: ViTModel, pictures: Tensor, groups: Tensor, classes: Tensor) -> dict[str, float]:
    """Same subject against any other subject, and against other subjects of its class."""
    rows = embed(model, pictures)
    return {
        "auc": same_against_other(rows, groups),
        "auc_same_class": same_against_other(rows, groups, apart=classes),
    }
