"""The part that all training stages share: optimisers, schedule, weight average, all-reduce, checkpoints.

Matrices and convolution kernels move by Muon (https://kellerjordan.github.io/posts/muon/), the rest by AdamW. With
several processes the gradients are averaged, each process orthogonalises its share of the matrices, and the results
are exchanged; every process then holds the same weights.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from perdure.files import read_json, write_json
from perdure.toybox.pretrain.files import read_tensors, write_tensors
from perdure.toybox.pretrain.muon import Muon
from perdure.toybox.pretrain.recipe import TrainRecipe

RateOf = Callable[[str], float]
Decay = tuple[int, int] | None  # (first step, length in steps) of the final decay of the learning rate


def wants_muon(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a hidden matrix: not an embedding, not a first or last layer, not a bias or gain."""
    if parameter.ndim < 2 or "embedding" in name or "token" in name or "logit" in name:
        return False
    return min(parameter.shape[0], parameter.shape[1]) > 16


def train_eagerly(model: nn.Module) -> None:
    """Make a transformers model compute attention in plain steps: at these sizes twice as fast on a CPU backwards."""
    cast(PreTrainedModel, model).set_attn_implementation("eager")


class Trainer:
    """Optimises `model` step by step; `self.step` counts the finished steps."""

    def __init__(self, model: nn.Module, recipe: TrainRecipe, folder: Path, rate_of: RateOf = lambda name: 1.0) -> None:
        self.model, self.recipe, self.folder = model, recipe, folder
        self.step, self.seconds = 0, 0.0
        self.decay = (recipe.steps - recipe.decay_steps, recipe.decay_steps)
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._started = time.monotonic()
        self._rank, self._world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.average = {name: p.detach().clone() for name, p in self.named.items()} if recipe.average else {}
        self._build_optimisers(rate_of)

    def _build_optimisers(self, rate_of: RateOf) -> None:
        recipe = self.recipe
        muon = [name for name, p in self.named.items() if recipe.muon_rate and wants_muon(name, p)]
        self._flat = {name: nn.Parameter(self.named[name].detach().flatten(1)) for name in muon}
        self._mine = set(_share_out(self._flat, self._world)[self._rank])
        plain = [name for name in self.named if name not in self._flat]
        groups = [{"params": [self.named[name]], "scale": rate_of(name)} for name in plain]
        self._plain = plain
        self._adam = torch.optim.AdamW(
            groups, lr=recipe.rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
        )
        mine = [{"params": [self._flat[name]], "scale": rate_of(name)} for name in self._flat if name in self._mine]
        self._muon = Muon(mine, lr=recipe.muon_rate) if mine else None

    def plan_decay(self, decay: Decay) -> None:
        """Move the final decay; the checkpoints remember it."""
        self.decay = decay or self.decay

    def last_step(self, until: int | None = None) -> int:
        """Where training stops: the end of the decay, or `until` if that is sooner."""
        end = sum(self.decay)
        return end if until is None else min(until, end)

    def rate(self) -> float:
        """Factor on the peak learning rate for the coming step: warm-up, flat, cosine to 1 %."""
        start, length = self.decay
        rising = min(1.0, (self.step + 1) / self.recipe.warmup)
        done = min(1.0, max(0.0, (self.step - start) / max(1, length)))
        return rising * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    def optimise(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`."""
        torch.autograd.backward(loss)
        self._reduce_gradients()
        nn.utils.clip_grad_norm_(list(self.named.values()), self.recipe.clip)
        factor = self.rate()
        self._set_rates(self._adam, self.recipe.rate * factor)
        self._adam.step()
        if self._flat:
            self._step_muon(self.recipe.muon_rate * factor)
        for parameter in self.named.values():
            parameter.grad = None
        self.step += 1
        if self.average:
            # A young average would remember the random start; let it follow faster at first.
            decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(list(self.average.values()), list(self.named.values()), 1 - decay)

    @staticmethod
    def _set_rates(optimiser: torch.optim.Optimizer, rate: float) -> None:
        for group in optimiser.param_groups:
            group["lr"] = rate * group["scale"]

    def _reduce_gradients(self) -> None:
        if self._world == 1:
            return
        gradients = [p.grad for p in self.named.values() if p.grad is not None]
        joined = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(joined)
        joined /= self._world
        for gradient, part in zip(gradients, torch.split(joined, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def _step_muon(self, rate: float) -> None:
        for name in self._mine:
            gradient = self.named[name].grad
            self._flat[name].grad = None if gradient is None else gradient.flatten(1)
        if self._muon is not None:
            self._set_rates(self._muon, rate)
            self._muon.step()
        if self._world > 1:
            tensors = list(self._flat.values())
            joined = torch.cat(
                [(t if n in self._mine else torch.zeros_like(t)).flatten() for n, t in self._flat.items()]
            )
            dist.all_reduce(joined)
            for tensor, part in zip(tensors, torch.split(joined, [t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the model carries the averaged weights (its own where no average is kept)."""
        own = {name: p.detach().clone() for name, p in self.named.items()} if self.average else {}
        with torch.no_grad():
            for name, value in self.average.items():
                self.named[name].copy_(value)
            try:
                yield
            finally:
                for name, value in own.items():
                    self.named[name].copy_(value)

    # --- checkpoints -------------------------------------------------------------------------------------------

    def save(self, pin: str | None = None) -> None:
        """Write the full state under a new name, then point to it; `pin` keeps it under that name as well."""
        folder = self.folder / "state" / f"{self.step:07d}"
        write_tensors(folder / f"optimiser-{self._rank}.safetensors", dict(self._optimiser_tensors()))
        if self._world > 1:
            dist.barrier()
        if self._rank:
            return
        write_tensors(folder / "weights.safetensors", self.model.state_dict())
        if self.average:
            write_tensors(folder / "average.safetensors", self.average)
        elapsed = self.seconds + time.monotonic() - self._started
        facts = {"step": self.step, "decay": list(self.decay), "processes": self._world, "seconds": round(elapsed, 1)}
        write_json(folder / "state.json", facts)
        if pin:
            shutil.copytree(folder, self.folder / "state" / pin, dirs_exist_ok=True)
        write_json(self.folder / "latest.json", {"state": folder.name})
        for old in (self.folder / "state").glob("[0-9]*"):
            if old.name != folder.name:
                shutil.rmtree(old, ignore_errors=True)

    def resume(self, pin: str | None = None) -> bool:
        """Load the newest state (or the pinned one); False when there is none. Bit-equal on the same CPU."""
        pointer = self.folder / "latest.json"
        if pin is None and not pointer.exists():
            return False
        folder = self.folder / "state" / (pin or read_json(pointer)["state"])
        facts = read_json(folder / "state.json")
        if facts["processes"] != self._world:
            raise ValueError(f"state of {facts['processes']} processes, run with {self._world}: use the same number")
        self.model.load_state_dict(read_tensors(folder / "weights.safetensors"))
        if self.average:
            stored = read_tensors(folder / "average.safetensors")
            self.average = {name: stored[name] for name in self.named}  # in the order of the parameters
        self._load_optimiser(read_tensors(folder / f"optimiser-{self._rank}.safetensors"))
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.decay = (facts["decay"][0], facts["decay"][1])
        return True

    def _owned(self) -> Iterable[tuple[str, torch.optim.Optimizer, nn.Parameter]]:
        yield from ((name, self._adam, self.named[name]) for name in self._plain)
        if self._muon is not None:
            yield from ((name, self._muon, self._flat[name]) for name in self._flat if name in self._mine)

    def _optimiser_tensors(self) -> Iterable[tuple[str, Tensor]]:
        for name, optimiser, parameter in self._owned():
            for key, value in optimiser.state.get(parameter, {}).items():
                yield f"{name}/{key}", value

    def _load_optimiser(self, tensors: dict[str, Tensor]) -> None:
        states: dict[str, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            owner, key = name.rsplit("/", 1)
            states.setdefault(owner, {})[key] = tensor
        for name, optimiser, parameter in self._owned():
            if name in states:
                optimiser.state[parameter] = states[name]


def _share_out(matrices: dict[str, nn.Parameter], world: int) -> list[list[str]]:
    """Names of the matrices in `world` lists of about equal orthogonalisation cost."""
    shares: list[list[str]] = [[] for _ in range(world)]
    costs = [0] * world

    def cost(name: str) -> int:
        rows, columns = matrices[name].shape
        return min(rows, columns) * rows * columns

    for name in sorted(matrices, key=lambda name: (-cost(name), name)):
        lightest = costs.index(min(costs))
        shares[lightest].append(name)
        costs[lightest] += cost(name)
    return shares


def latest_weights(folder: Path, *, averaged: bool = False) -> dict[str, Tensor]:
    """The newest weights of a stage; with `averaged` the moving average laid over them."""
    state = folder / "state" / read_json(folder / "latest.json")["state"]
    weights = read_tensors(state / "weights.safetensors")
    return weights | read_tensors(state / "average.safetensors") if averaged else weights
