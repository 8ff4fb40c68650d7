"""Training pictures: number i is a pure function of (seed, split, i); they are drawn once, in shards on disk."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from perdure.toybox.pretrain.draws import numpy_draws
from perdure.toybox.pretrain.files import write_array
from perdure.toybox.pretrain.recipe import PICTURE_SIDE, DataRecipe
from perdure.toybox.world import Scene, caption, caption_full, draw, random_scene

TRAIN, HELD_OUT = "train", "held-out"


def scene_at(seed: int, split: str, index: int, photo_share: float) -> Scene:
    """The scene of picture `index`."""
    return random_scene(numpy_draws(seed, f"scene/{split}", index), photo_share=photo_share)


def picture_at(seed: int, split: str, index: int, photo_share: float) -> NDArray[np.uint8]:
    """The pixels of picture `index`: (64, 64, 3) uint8."""
    return np.asarray(draw(scene_at(seed, split, index, photo_share), PICTURE_SIDE))


class Pictures:
    """The drawn pictures of one split, memory-mapped; shards that are missing are drawn by `prepare`."""

    def __init__(self, folder: Path, seed: int, split: str, recipe: DataRecipe) -> None:
        self.seed, self.split, self.recipe = seed, split, recipe
        self.count = recipe.count if split == TRAIN else recipe.held_out
        self._folder = folder / f"pictures-{split}-{seed}"
        self._open: dict[int, NDArray[np.uint8]] = {}

    def shard_path(self, number: int) -> Path:
        """Where shard `number` lies."""
        return self._folder / f"{number:04d}.npy"

    def missing(self) -> list[int]:
        """Numbers of the shards that are not drawn yet."""
        shards = -(-self.count // self.recipe.shard)
        return [number for number in range(shards) if not self.shard_path(number).exists()]

    def prepare(self, processes: int = 1) -> None:
        """Draw the missing shards; interrupted work loses at most one shard a process."""
        missing = self.missing()
        if processes == 1 or len(missing) < 2:
            for number in missing:
                self.draw_shard(number)
            return
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            list(pool.map(self.draw_shard, missing))

    def draw_shard(self, number: int) -> None:
        """Draw one shard and put it in its place."""
        start = number * self.recipe.shard
        indices = range(start, min(start + self.recipe.shard, self.count))
        share = self.recipe.photo_share
        pictures = [picture_at(self.seed, self.split, index, share) for index in indices]
        write_array(self.shard_path(number), np.stack(pictures))

    def drawn(self) -> int:
        """How many pictures from the start on are there without a gap."""
        missing = self.missing()
        return min(missing[0] * self.recipe.shard, self.count) if missing else self.count

    def pixels(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Pictures (len(indices), 64, 64, 3), uint8."""
        return np.stack([self._shard(i // self.recipe.shard)[i % self.recipe.shard] for i in indices])

    def tensor(self, indices: Sequence[int]) -> torch.Tensor:
        """Pictures (len(indices), 3, 64, 64), float32 in [-1, 1]."""
        return to_tensor(self.pixels(indices))

    def scene(self, index: int) -> Scene:
        """The description of picture `index`."""
        return scene_at(self.seed, self.split, index, self.recipe.photo_share)

    def caption(self, index: int, epoch: int) -> str:
        """A caption of picture `index`; each epoch words it anew."""
        return caption(self.scene(index), numpy_draws(self.seed, f"caption/{self.split}", index, epoch))

    def caption_full(self, index: int) -> str:
        """The caption that says everything."""
        return caption_full(self.scene(index))

    def _shard(self, number: int) -> NDArray[np.uint8]:
        if number not in self._open:
            self._open[number] = np.load(self.shard_path(number), mmap_mode="r", allow_pickle=False)
        return self._open[number]


def to_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(pictures: torch.Tensor) -> NDArray[np.uint8]:
    """(N, 3, H, W) in [-1, 1] to (N, H, W, 3) uint8."""
    values = (pictures.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return values.round().permute(0, 2, 3, 1).to(torch.uint8).numpy()
