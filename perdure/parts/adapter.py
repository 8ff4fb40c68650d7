"""Slot 1: which weights may move, and in what form; and which words are learnt beside them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from perdure.memory.delta import Change, Delta, Pair
from perdure.method import Adapter, Shapes, Spec, Targets, Weights, WordSpec


@dataclass(frozen=True)
class LowRank:
    """Pairs A (r, in), B (out, r) on each projection: change = B @ A, alpha = rank (Hu et al. 2021, arXiv
    2106.09685).
    """

    factors: Mapping[str, Pair]
    train_a: bool = True

    @property
    def projections(self) -> Sequence[str]:
        """Names of the projections that it changes."""
        return list(self.factors)

    def named(self) -> dict[str, Tensor]:
        """All factors; without the A where they stay fixed."""
        letters = "AB" if self.train_a else "B"
        pairs = {name: dict(zip("AB", pair, strict=True)) for name, pair in self.factors.items()}
        return {f"{letter} of {name}": pair[letter] for name, pair in pairs.items() for letter in letters}

    def change(self, projection: str) -> Tensor:
        """B @ A."""
        a, b = self.factors[projection]
        return b @ a

    def delta(self) -> Delta:
        """All products, as factors."""
        return Delta({name: Change.low_rank(a, b) for name, (a, b) in self.factors.items()})


@dataclass(frozen=True)
class Masked:
    """A low-rank change times a learnt hard mask (Smith et al. 2023, STAMINA, arXiv 2311.18763; our reading).

    Mask logits Z = U @ V + open, U (out, q), V (q, in). Forward: the hard mask 1[Z + Gumbel noise > 0]; backward: the
    gradient of its softened version at temperature `tau` (two-class Gumbel-softmax, straight through).
    """

    low: LowRank
    logits: Mapping[str, Pair]
    bias: float
    state: "MaskState"

    @property
    def projections(self) -> Sequence[str]:
        """Names of the projections that it changes."""
        return self.low.projections

    def named(self) -> dict[str, Tensor]:
        """Factors of the change, then of the mask logits."""
        logits = ((name, zip("VU", pair, strict=True)) for name, pair in self.logits.items())
        return self.low.named() | {f"{letter} of {name}": factor for name, pair in logits for letter, factor in pair}

    def openness(self, projection: str) -> Tensor:
        """Probability (out, in) that an entry is open."""
        v, u = self.logits[projection]
        return torch.sigmoid(u @ v + self.bias)

    def mask(self, projection: str) -> Tensor:
        """The hard mask (out, in) with the softened mask's gradient; without noise once the lesson is over."""
        v, u = self.logits[projection]
        logit = u @ v + self.bias
        if self.state.noise is not None:
            uniform = torch.rand(logit.shape, generator=self.state.noise(projection)).clamp(1e-6, 1 - 1e-6).to(logit)
            logit = logit + torch.log(uniform) - torch.log1p(-uniform)  # the difference of two Gumbel draws
        soft = torch.sigmoid(logit / self.state.tau)
        return (logit > 0).to(soft) + (soft - soft.detach())

    def change(self, projection: str) -> Tensor:
        """(B @ A) * mask."""
        return self.low.change(projection) * self.mask(projection)

    @torch.no_grad()
    def delta(self) -> Delta:
        """The changes under the final mask 1[Z > 0]."""
        self.state.noise = None
        return Delta({name: Change.full(self.change(name)) for name in self.projections})

    @torch.no_grad()
    def density(self) -> dict[str, float]:
        """Share of open entries of each projection's final mask."""
        return {name: float((self.openness(name) > 0.5).float().mean()) for name in self.projections}


@dataclass
class MaskState:
    """What changes from step to step while masks are learnt: temperature and noise.

    Asked for a projection's generator, `noise` begins it anew: within a step a mask is one mask, in the penalty and
    where gradient checkpointing computes it again too.
    """

    tau: float = 1.0
    noise: Callable[[str], torch.Generator] | None = None


@dataclass
class Selected:
    """Free changes of some entries of each projection, and of no others: entries are chosen by the method's start.

    Only the chosen entries are parameters, so nothing else can move: not by gradients, not by weight decay.
    """

    shapes: Shapes
    device: torch.device
    index: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, nn.Parameter] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)
    """What the start has to say of its choice, for the lesson's facts."""

    def select(self, masks: Mapping[str, Tensor], values: Mapping[str, Tensor] | None = None) -> None:
        """Choose the entries where a mask (out, in) is true; they start at 0, or at `values` (out, in)."""
        for name, mask in masks.items():
            index = mask.flatten().nonzero().squeeze(1).to(self.device)
            start = torch.zeros(len(index)) if values is None else values[name].flatten()[index.cpu()]
            self.index[name] = index
            self.values[name] = nn.Parameter(start.to(self.device, torch.float32))

    @property
    def projections(self) -> Sequence[str]:
        """Names of the projections that it changes."""
        return list(self.shapes)

    def named(self) -> dict[str, Tensor]:
        """The chosen entries."""
        return {f"the chosen entries of {name}": values for name, values in self.values.items()}

    def change(self, projection: str) -> Tensor:
        """The chosen entries in their places, zero elsewhere."""
        out, into = self.shapes[projection]
        flat = torch.zeros(out * into, device=self.device)
        return flat.scatter(0, self.index[projection], self.values[projection]).view(out, into)

    @torch.no_grad()
    def delta(self) -> Delta:
        """All changes, as chosen entries while that is smaller than the whole."""
        return Delta({name: Change.full(self.change(name)) for name in self.values})


@dataclass(frozen=True)
class Frozen:
    """No change of anything."""

    @property
    def projections(self) -> Sequence[str]:
        """None is changed."""
        return ()

    def named(self) -> dict[str, Tensor]:
        """Nothing is trained."""
        return {}

    def change(self, projection: str) -> Tensor:
        """Raises KeyError: there is none."""
        raise KeyError(projection)

    def delta(self) -> Delta:
        """No change."""
        return Delta()


def frozen() -> Spec:
    """Nothing is trained: no weights, and no rows of a head."""
    return Spec("attention", lambda shapes, device: Frozen(), head=False)


def lora(rank: int, targets: Targets, train_a: bool = True) -> Spec:
    """Low-rank pairs on the target projections."""

    def build(shapes: Shapes, device: torch.device) -> Weights:
        return LowRank(_pairs(shapes, rank, device), train_a)

    return Spec(targets, build)


def masked_lora(rank: int, mask_rank: int, targets: Targets, openness: float) -> Spec:
    """Low-rank pairs times a learnt hard mask; `openness` is the probability with which entries start open."""

    def build(shapes: Shapes, device: torch.device) -> Weights:
        bias = math.log(openness / (1 - openness))
        return Masked(LowRank(_pairs(shapes, rank, device)), _pairs(shapes, mask_rank, device), bias, MaskState())

    return Spec(targets, build)


def neurons(targets: Targets) -> Spec:
    """Single entries of the target projections; which ones is for the start to say."""
    return Spec(targets, lambda shapes, device: Selected(shapes, device))


def with_words(spec: Spec, words: WordSpec) -> Spec:
    """The same, and the concept's token learnt beside it."""
    return replace(spec, words=words)


def low_rank(adapter: Adapter) -> LowRank:
    """The adapter's low-rank pairs. Raises TypeError for an adapter that has none."""
    if not isinstance(adapter.weights, LowRank | Masked):
        raise TypeError(f"this part needs low-rank pairs, not {type(adapter.weights).__name__}")
    return adapter.weights if isinstance(adapter.weights, LowRank) else adapter.weights.low


def masked(adapter: Adapter) -> Masked:
    """The adapter's masked pairs. Raises TypeError for another kind."""
    if not isinstance(adapter.weights, Masked):
        raise TypeError(f"this part needs masked pairs, not {type(adapter.weights).__name__}")
    return adapter.weights


def selected(adapter: Adapter) -> Selected:
    """The adapter's selected entries. Raises TypeError for another kind."""
    if not isinstance(adapter.weights, Selected):
        raise TypeError(f"this part needs selected entries, not {type(adapter.weights).__name__}")
    return adapter.weights


def _pairs(shapes: Shapes, rank: int, device: torch.device) -> dict[str, Pair]:
    return {
        name: (
            nn.Parameter(torch.zeros(rank, into, device=device)),
            nn.Parameter(torch.zeros(out, rank, device=device)),
        )
        for name, (out, into) in shapes.items()
    }
