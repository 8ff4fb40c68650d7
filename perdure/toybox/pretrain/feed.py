"""What both generators share: the batches that they learn from, and the loop around their trainer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from transformers import CLIPTokenizer

from perdure.toybox.pretrain.data import HELD_OUT, TRAIN, Pictures
from perdure.toybox.pretrain.draws import Shuffle, torch_draws
from perdure.toybox.pretrain.files import log_line, write_array
from perdure.toybox.pretrain.processes import rank_and_count
from perdure.toybox.pretrain.recipe import Recipe
from perdure.toybox.pretrain.tokenizer import encode
from perdure.toybox.pretrain.trainer import Trainer


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


_MEASURED = 256  # held-out pairs in the regular measurement

Batch = tuple[Tensor, Tensor, Tensor, Tensor]  # latents, token ids, times, noise
TimesOf = Callable[[int, torch.Generator], Tensor]
#: (model, latents, ids, times, noise) -> (the loss to train on, the plain mean squared error to report)
LossOf = Callable[[Any, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def stratified(count: int, draws: torch.Generator) -> Tensor:
    """One uniform draw from each of the `count` unit parts of [0, count), in random order."""
    return torch.randperm(count, generator=draws) + torch.rand(count, generator=draws)


class Feed:
    """What a step of stage `name` learns from; pure in (recipe, step, process).

    With `in_order` the first epoch takes the pictures by their numbers, which are as good as shuffled, so that training
    can begin while later shards are still being drawn.
    """

    def __init__(
        self,
        recipe: Recipe,
        work: Path,
        tokenizer: CLIPTokenizer,
        name: str,
        batch: int,
        caption_drop: float,
        times_of: TimesOf,
        in_order: bool = False,
    ) -> None:
        self._recipe, self._tokenizer, self._name = recipe, tokenizer, name
        self._batch, self._drop, self._times_of = batch, caption_drop, times_of
        self._latents = Latents(work, recipe, TRAIN)
        self._pictures = Pictures(work, recipe.seed, TRAIN, recipe.data)
        self._order = Shuffle(recipe.seed, f"{name}/order", recipe.data.count, in_order)
        self._rank, self._count = rank_and_count()
        self.probe = self._held_out(work)

    def images(self, step: int) -> int:
        """How many pictures all processes together have seen after `step` steps."""
        return step * self._batch * self._count

    def at(self, step: int) -> Batch:
        """This process's part of a step's batch."""
        batch = self._batch
        chosen = self._order.take((step * self._count + self._rank) * batch, batch)
        draws = torch_draws(self._recipe.seed, f"{self._name}/step", step, self._rank)
        dropped = (torch.rand(batch, generator=draws) < self._drop).tolist()
        words = ["" if drop else self._pictures.caption(index, epoch)
                 for (index, epoch), drop in zip(chosen, dropped, strict=True)]  # fmt: skip
        latents = self._latents.take([index for index, _ in chosen])
        noise = torch.randn(latents.shape, generator=draws)
        return latents, encode(self._tokenizer, words), self._times_of(batch, draws), noise

    def _held_out(self, work: Path) -> Batch:
        count = min(_MEASURED, self._recipe.data.held_out)
        pictures = Pictures(work, self._recipe.seed, HELD_OUT, self._recipe.data)
        latents = Latents(work, self._recipe, HELD_OUT).take(range(count))
        draws = torch_draws(self._recipe.seed, f"{self._name}/probe")
        noise = torch.randn(latents.shape, generator=draws)
        words = [pictures.caption(index, 0) for index in range(count)]
        return latents, encode(self._tokenizer, words), self._times_of(count, draws), noise


def train_generator(trainer: Trainer, name: str, work: Path, feed: Feed, loss_of: LossOf, last: int) -> None:
    """Train to step `last`; measurements go to `<work>/<name>.jsonl`, the state from before the decay is kept."""
    own, running = trainer.recipe, 0.0
    rank, _ = rank_and_count()
    while trainer.step < last:
        if trainer.step == trainer.decay[0]:
            trainer.save(pin="before-decay")
        loss, plain = loss_of(trainer.model, *feed.at(trainer.step))
        trainer.optimise(loss)
        running += (float(plain) - running) * 0.01 if running else float(plain)
        if rank == 0 and (trainer.step % own.measure_every == 0 or trainer.step == last):
            measured = held_out_loss(trainer, loss_of, feed.probe)
            log_line(work, name, step=trainer.step, images=feed.images(trainer.step), train=running, held_out=measured)
        if trainer.step % own.save_every == 0 or trainer.step == last:
            trainer.save()


@torch.no_grad()
def held_out_loss(trainer: Trainer, loss_of: LossOf, probe: Batch) -> float:
    """Mean squared velocity error of the averaged weights on the held-out pairs."""
    with trainer.averaged():
        parts = zip(*(torch.split(tensor, 64) for tensor in probe), strict=True)
        errors = [loss_of(trainer.model, latents, ids, times, noise)[1] for latents, ids, times, noise in parts]
    return float(torch.stack(errors).mean())
