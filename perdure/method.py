"""A method is four choices. Everything else (the loop, sampling, scores) is shared by all methods.

    adapter      which weights may move, and in what form
    start        where learning begins, and what lies under the adapter     (adapter, memory, context) -> Delta
    guard        what protects the past while learning                      penalty -> scalar; project edits gradients
    consolidate  what is remembered                                         remember(adapter, memory, context) -> Memory
                 and how it is called back                                  recall(memory, concept) -> Delta

A method is one file in `methods/`; its name is the file's name. See docs/adding_a_method.md.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from perdure import catalogue
from perdure.delta import Change, Delta, Pair
from perdure.memory import Memory

Targets = Literal["attention", "cross_kv"]
"""`attention`: q, k, v, out of every self- and cross-attention; `cross_kv`: cross-attention keys and values only."""


@dataclass(frozen=True)
class Lora:
    """Low-rank pairs on the targets: delta = B @ A, A (rank, in), B (out, rank); alpha = rank (Hu et al. 2021)."""

    rank: int
    targets: Targets


@dataclass(frozen=True)
class Adapter:
    """The trainable thing while one concept is learnt; `factors` are live parameters, projection -> (A, B)."""

    factors: Mapping[str, Pair]

    def parameters(self) -> list[Tensor]:
        """All trainable tensors, in a fixed order."""
        return [tensor for pair in self.factors.values() for tensor in pair]

    def delta(self) -> Delta:
        """What the adapter adds to each projection, detached from the graph."""
        return Delta({name: Change.low_rank(a, b) for name, (a, b) in self.factors.items()})


@dataclass(frozen=True)
class Context:
    """What a part may use besides its arguments: the lesson in hand, and random numbers with an owner."""

    concept: str
    lesson: int
    """Number of this lesson, from 1."""
    generator: Callable[[str], torch.Generator]
    """A CPU generator for one purpose of this lesson; asking again starts it anew."""


@dataclass(frozen=True)
class Guard:
    """Protection of the past; both verbs are optional."""

    penalty: Callable[[Adapter, Memory, Context], Tensor] | None = None
    project: Callable[[Adapter, Memory, Context], None] | None = None


@dataclass(frozen=True)
class Consolidate:
    """The two verbs of memory, and what must be known to recall: nothing, or which concept is wanted."""

    remember: Callable[[Adapter, Memory, Context], Memory]
    recall: Callable[[Memory, str | None], Delta]
    knows: Literal["nothing", "concept"] = "nothing"


@dataclass(frozen=True)
class Method:
    """The four choices."""

    adapter: Lora
    start: Callable[[Adapter, Memory, Context], Delta]
    guard: Guard
    consolidate: Consolidate


def get(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """The method of `methods/<name>.py`. Raises ValueError where name or options do not exist."""
    catalogue.check(name, dict(options or {}))
    method: Method = importlib.import_module(f"perdure.methods.{name}").METHOD(**(options or {}))
    return method
