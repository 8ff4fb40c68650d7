"""The drawn pictures as latents of the trained autoencoder, encoded once and kept as float16."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from perdure.toybox.pretrain.data import Pictures
from perdure.toybox.pretrain.files import write_array
from perdure.toybox.pretrain.recipe import Recipe


class Latents:
    """Scaled latents (deviation about 1) of one split's pictures, by shard."""

    def __init__(self, work: Path, recipe: Recipe, split: str) -> None:
        self._pictures = Pictures(work, recipe.seed, split, recipe.data)
        self._folder = work / f"latents-{split}-{recipe.seed}"
        self._shard = recipe.data.shard
        self._open: dict[int, np.ndarray] = {}

    def shards(self) -> range:
        """Numbers of all shards."""
        return range(-(-self._pictures.count // self._shard))

    def path(self, number: int) -> Path:
        """Where shard `number` lies."""
        return self._folder / f"{number:04d}.npy"

    @torch.no_grad()
    def prepare(self, model: AutoencoderTiny, part: int = 0, parts: int = 1) -> None:
        """Encode the missing shards; process `part` of `parts` takes every `parts`-th one."""
        for number in list(self.shards())[part::parts]:
            if self.path(number).exists():
                continue
            start = number * self._shard
            indices = range(start, min(start + self._shard, self._pictures.count))
            chunks = [self._pictures.tensor(indices[i : i + 64]) for i in range(0, len(indices), 64)]
            found = torch.cat([model.encode(chunk).latents for chunk in chunks]) * model.config.scaling_factor
            write_array(self.path(number), found.half().numpy())

    def take(self, indices: Sequence[int]) -> Tensor:
        """Latents (len(indices), C, 16, 16), float32."""
        rows = [self._load(index // self._shard)[index % self._shard] for index in indices]
        return torch.from_numpy(np.stack(rows)).float()

    def _load(self, number: int) -> np.ndarray:
        if number not in self._open:
            self._open[number] = np.load(self.path(number), mmap_mode="r", allow_pickle=False)
        return self._open[number]
