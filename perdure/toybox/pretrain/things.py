"""Individuals for the instance encoder: each seen in several contexts and poses, drawn once into shards."""

from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from perdure.toybox.pretrain.draws import draw_seed, numpy_draws
from perdure.toybox.pretrain.files import write_array
from perdure.toybox.pretrain.recipe import PICTURE_SIDE, ScorerRecipe
from perdure.toybox.world import CLASSES, CONTEXTS, Scene, Thing, draw, random_pose, random_scorer_thing, random_thing

_SHARD = 1024  # things


def thing_at(seed: int, index: int) -> Thing:
    """Individual `index`: two of three wear the scorer's own patterns and accessories, never the subjects'."""
    rng = numpy_draws(seed, "thing", index)
    return random_thing(rng) if index % 3 == 0 else random_scorer_thing(rng)


def view_at(seed: int, index: int, view: int) -> NDArray[np.uint8]:
    """View `view` of individual `index`: (64, 64, 3) uint8, photo style."""
    rng: Generator = numpy_draws(seed, "view", index, view)
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
