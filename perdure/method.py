"""A method is four choices. Everything else (the loop, sampling, scores) is shared by all methods.
    adapter      which weights may move, in what form, and which words are learnt beside them
    start        where learning begins, and what lies under the adapter     (adapter, memory, context) -> Delta
    guard        what protects the past while learning                      (adapter, memory, context) -> Protection
    consolidate  what is remembered                                         remember(adapter, memory, context) -> Memory
                 and how it is called back                                  recall(memory, wanted) -> Delta

A method is one file in `methods/`, whose name is its own. See docs/adding_a_method.md.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from perdure import plugins
from perdure.memory import Memory
from perdure.memory.delta import Delta
from perdure.plan import Concept, MethodChoice, catalogue

Targets = Literal["attention", "cross", "cross_kv"]
"""`attention`: q, k, v, out of self- and cross-attention; `cross`: of cross-attention; `cross_kv`: its k and v."""
Shapes = Mapping[str, tuple[int, int]]
"""Projection -> (out, in)."""


class Weights(Protocol):
    """Trainable changes of some projections, live while one concept is learnt."""

    @property
    def projections(self) -> Sequence[str]:
        """Names of the projections that it changes."""

    def named(self) -> Mapping[str, Tensor]:
        """All trainable tensors by name, in a fixed order."""

    def change(self, projection: str) -> Tensor:
        """The change (out, in) of one projection as it stands, with its graph."""

    def delta(self) -> Delta:
        """All changes as they will be remembered, detached."""


@dataclass(frozen=True)
class WordSpec:
    """Learnt token embeddings for the concept's token, in every text encoder (Gal et al. 2022)."""

    inits: tuple[Literal["random", "class", "token"], ...] = ("class",)
    """Where each vector begins: at random, at the class noun's embedding, or at that of the token as written."""
    mlp: bool = False
    """Train a small MLP of a fixed input instead of the vectors themselves; folded into vectors after the lesson."""
    drop_noun: bool = False
    """Whether prompts lose the class noun behind the token."""


@dataclass(frozen=True)
class Spec:
    """What a method trains: `weights` builds live changes of the target projections; `words` are learnt beside them."""

    targets: Targets
    weights: Callable[[Shapes, torch.device], Weights]
    words: WordSpec | None = None
    head: bool = True  # whether a classifier's rows for new classes are learnt beside them


@dataclass(frozen=True)
class Word:
    """The vectors that stand for one token: text encoder number -> (count, width); and the class noun it swallows."""

    vectors: Mapping[int, Tensor]
    dropped: str = ""


@dataclass(frozen=True)
class Adapter:
    """The trainable thing while one concept is learnt: changes of weights, and the concept's word if it has one."""

    weights: Weights
    word_parameters: Sequence[Tensor] = ()
    word: Callable[[], Word] | None = None
    """The word as it stands, with its graph."""

    def parameters(self) -> list[Tensor]:
        """All trainable tensors, in a fixed order."""
        return [*self.weights.named().values(), *self.word_parameters]


@dataclass(frozen=True)
class Portion:
    """Which of `count` equal parts of a batch is at hand: several processes can share out the batches of a lesson.

    By default, and on one process, all of it. Gradients are averaged over the parts, so a loss that is a mean over
    rows is right as it is, and so is a term of the weights alone. What is drawn at random for each row is drawn for the
    whole batch, and `of` it is taken.
    """

    number: int = 0
    count: int = 1

    def of(self, whole: Any) -> Any:
        """The own rows of something that was made for the whole batch: a batch, a tensor, a list."""
        size = len(whole) // self.count
        return whole if self.count == 1 else whole[self.number * size : (self.number + 1) * size]

    def whole(self, rows: Any) -> int:
        """How many rows the whole batch has of which these are the own."""
        return len(rows) * self.count


WHOLE = Portion()


@dataclass(frozen=True)
class Step:
    """One training step: its number from 0, the batch, and what the model predicts for it (b, c, h, w)."""

    number: int
    batch: Any
    predicted: Tensor
    portion: Portion = WHOLE
    """The part of the step's batch that is at hand."""


class Model(Protocol):
    """The model in the middle of a lesson, as far as a part may use it. Batches are handed around, not looked into."""

    @property
    def latents(self) -> Tensor:
        """Latents (n, c, h, w) of the concept's own examples."""

    @property
    def captions(self) -> Sequence[str]:
        """The caption of each."""

    @property
    def calibration(self) -> Sequence[str]:
        """Diverse captions that mention no concept, in words that the base knows."""

    def weight(self, projection: str) -> Tensor:
        """A projection's weight (out, in) with what is laid under it."""

    def laid(self, delta: Delta) -> AbstractContextManager[None]:
        """The model with another delta under it."""

    @property
    def told(self) -> Sequence[str]:
        """The target projections that read text: keys and values of cross-attention."""

    def replaced(self, weights: Weights) -> AbstractContextManager[None]:
        """The untouched base with these live changes in the place of the lesson's."""

    def features(self, prompts: Sequence[str]) -> Tensor:
        """Text features (prompts, tokens, width): what cross-attention keys and values are computed from."""

    def tokens(self, prompts: Sequence[str]) -> Sequence[Tensor]:
        """Text features (tokens, width) of each prompt, from its first own token to its end token."""

    def batches(self, purpose: str, count: int, size: int) -> Sequence[Any]:
        """Noised batches of the concept's own examples."""

    def batch_of(self, latents: Tensor, captions: Sequence[str], purpose: str, step: int) -> Any:
        """A noised batch of other images (b, c, h, w)."""

    def predict(self, batch: Any, prompts: Sequence[str] | None = None) -> Tensor:
        """What the model predicts for a batch, with its graph; under other prompts where some are given."""

    def before(self, batch: Any, prompts: Sequence[str] | None = None) -> Tensor:
        """What the model predicted before this lesson."""

    def under(self, delta: Delta, batch: Any, prompts: Sequence[str] | None = None) -> Tensor:
        """What the base predicts with a delta under it and nothing else."""

    def error(self, batch: Any, predicted: Tensor) -> Tensor:
        """Mean squared error of a prediction, for each image of the batch (b,)."""

    def loss(self, batch: Any) -> Tensor:
        """The lesson's own loss of a batch, a scalar: its mean error, weighted as `training.min_snr` says."""

    def gradients(self, loss: Callable[[], Tensor]) -> Mapping[str, Tensor]:
        """Gradient (out, in) of a loss with respect to each target projection's weight."""

    def input_norms(self, batch: Any) -> Mapping[str, Tensor]:
        """Norm (in,) of all rows that enter each target projection for a batch."""

    def difference(self, now: Tensor, before: Tensor) -> Tensor:
        """How far a prediction is from one of an earlier model, a scalar: mean squared, over what both predict."""

    def general(self, count: int, copies: int) -> Sequence[Sequence[Any]]:
        """At most `count` groups of `copies` batches, each group of one picture of no concept in particular."""

    def embedded(self) -> tuple[Tensor, Sequence[str]]:
        """A classifier's features (n, width) of the lesson's own pictures as it now is, and the class of each."""

    def grams(self, run: Callable[[], object]) -> Mapping[str, Tensor]:
        """X^T X (in, in) of all rows that enter each target projection while something runs; one tensor an input."""

    def draw(self, prompts: Sequence[str], count: int, under: Delta | None = None, **sampling: Any) -> Tensor:
        """Latents (prompts x count, c, h, w) as drawn before this lesson, or under a delta; `sampling` as in a plan."""


@dataclass(frozen=True)
class Context:
    """The lesson in hand, the model, and random numbers with an owner."""

    concept: str
    lesson: int
    """Number of this lesson, from 1."""
    steps: int
    """Training steps of this lesson."""
    phrase: str
    """How prompts call the concept: token and class noun."""
    token: str
    model: Model
    generator: Callable[..., torch.Generator]
    """(purpose, number) -> a CPU generator of this lesson; asking again starts it anew."""
    common: Callable[[str], torch.Generator]
    """(purpose) -> a CPU generator that all lessons of the plan share."""
    others: Sequence[Concept] = ()
    """The further concepts that a joint lesson teaches."""


@dataclass(frozen=True)
class Protection:
    """What a guard does at each step: something before it, penalties added to its loss, an edit of gradients."""

    begin: Callable[[int], None] | None = None
    penalties: Mapping[str, Callable[[Step], Tensor]] = field(default_factory=dict)
    """Name, as the log calls it -> a price of the step, a scalar of at least 0."""
    project: Callable[[], None] | None = None


Guard = Callable[[Adapter, Memory, Context], Protection]


@dataclass(frozen=True)
class Wanted:
    """What is known when a model is asked to draw: the concept meant, and the prompt."""

    concept: str | None = None
    features: Callable[[], Tensor] | None = None
    """Text features (tokens, width) of the prompt, where one is known."""


@dataclass(frozen=True)
class Consolidate:
    """The verbs of memory, and what the method declares about them; the contract test holds it to that."""

    remember: Callable[[Adapter, Memory, Context], Memory]
    recall: Callable[[Memory, Wanted], Delta]
    knows: Literal["nothing", "concept", "prompt"] = "nothing"
    """What must be told to recall."""
    strict: bool = True
    """Whether no past data and no past adapters are kept: one model is carried, and statistics of it."""
    adds: bool = False
    """Whether a lesson's own change is what the delta has gained by it."""
    brings: bool = False
    """Whether a change that was learnt elsewhere can be remembered: of the adapter only its `delta()` is asked."""
    forget: Callable[[Memory, Memory, Memory], Memory] | None = None
    """(memory, before, after) -> without the lesson between, exactly; None where what came later is learnt again."""
    lasting: frozenset[str] = frozenset()
    """Names of what is carried that `forget` leaves as it is: statistics of all lessons together."""
    carries: frozenset[str] = frozenset({"delta"})
    """Names of what is carried from lesson to lesson; learnt words and rows of a head come to that by themselves."""
    classify: Callable[[Memory, Tensor], Tensor] | None = None
    """(memory, features (n, width)) -> logits (n, classes) of a classifier; None: by the learnt rows."""


@dataclass(frozen=True)
class Method:
    """The four choices."""

    adapter: Spec
    start: Callable[[Adapter, Memory, Context], Delta]
    guard: Guard
    consolidate: Consolidate


def get(name: str, options: Mapping[str, Any] | None = None, file: Path | None = None, digest: str = "") -> Method:
    """A method by its name or its file's path. Raises PlanError where it or an option does not exist, or it is faulty.

    `file`: where it lies, if it has no name to be found by; `digest`: what its content must be.
    """
    source = plugins.find(plugins.METHOD, name, file)
    catalogue.check(name, dict(options or {}), file=file)
    module = plugins.load(source, digest)
    with plugins.Running(source.path):
        method: Method = module.METHOD(**(options or {}))
    return method


def of(choice: MethodChoice) -> Method:
    """The method that a plan has chosen. Raises PlanError, also where its file is gone or has changed since."""
    return get(choice.name, choice.options, choice.code.file, choice.code.digest)
