"""How much of a device's memory a plan takes, from configurations alone: to read, to train, to draw."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from perdure import method
from perdure.bases import hollow, offloading, quantising
from perdure.bases.attaching import Attaching
from perdure.bases.hollow import Hollow, nbytes
from perdure.bases.performing import DTYPES
from perdure.errors import ModelError
from perdure.method import Weights
from perdure.parts.adapter import LowRank, Selected
from perdure.plan import MethodChoice, Plan

MOMENTS = {"adamw": 8.0, "adamw_8bit": 2.1, "prodigy": 16.0, "schedule_free": 8.0}
"""Bytes that an optimizer keeps of a parameter: two moments in float32; in 8 bits, with a scale for each 256;
prodigy's further two numbers; an average and a moment.
"""
CHOSEN = 0.01
"""Share of entries that a method's neurons are taken to be."""
CONTEXT = 600e6
"""Bytes of a CUDA device that its driver and its libraries take, which no allocator counts (reckoned)."""

Parts = Mapping[str, float]
"""What takes room -> bytes."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of a device at the fullest moment of each kind of work.

    reading: prompts and pictures are encoded; training: a step of the last lesson; drawing: a batch after it.
    """

    reading: Parts
    training: Parts
    drawing: Parts
    method: str
    """Whose lessons these are: of several, the one that takes most."""

    @property
    def moments(self) -> dict[str, Parts]:
        """All three by name."""
        return {"reading": self.reading, "training": self.training, "drawing": self.drawing}

    @property
    def most(self) -> float:
        """Bytes that a device must have."""
        return max(sum(parts.values()) for parts in self.moments.values())


class Estimate:
    """Footprints of a base under settings that differ; what is run once on shapes is kept.

    What is not counted: what guards and starts of methods compute beside a step, gradients through text encoders of
    learnt words, and the allocator's gaps.
    """

    def __init__(self, base: Callable[[str], Hollow]) -> None:
        """base: (precision) -> the base in it."""
        self._base = cache(base)
        self._step, self._forward = cache(self._step_bytes), cache(self._forward_bytes)
        self._coded, self._read = cache(self._coded_bytes), cache(self._read_bytes)
        self._choices: dict[str, MethodChoice] = {}

    def of(self, plan: Plan) -> Footprint:
        """What a plan takes. Raises ModelError where a method aims at layers that the base lacks."""
        self._choices |= {choice.label: choice for choice in plan.methods}
        found = [self._of(plan.narrowed(choice)) for choice in plan.methods]
        return max(found, key=lambda one: sum(one.training.values()))

    def _of(self, plan: Plan) -> Footprint:
        training, sampling = plan.training, plan.sampling
        base = self._base(training.precision)
        side, drawn = training.resolution, sampling.resolution or training.resolution
        (choice,) = plan.methods
        texts = sum(nbytes(part) for name, part in base.modules.items() if name.startswith("text_encoder"))
        waits = plan.performance.offload is not None and base.family.network == "transformer"
        weights = quantising.nbytes_of(base.network, training.base_precision) - (_away(base.network) if waits else 0)
        vae: Parts = {"autoencoder": nbytes(base.pipe.vae)}
        kept = {"text encoders": texts if training.text_encoders == "keep" or choice.card.words else 0}
        adapter = _adapter(base, choice)
        past = _laid(base, adapter, len(plan.sequence) - 1, training.base_precision is not None)
        after = _laid(base, adapter, len(plan.sequence), training.base_precision is not None)
        graphs = training.batch_size * (1 + (training.prior is not None) + (training.preserve is not None))
        step = graphs * self._step(training.precision, choice.label, side, training.gradient_checkpointing)
        numbers = sum(p.numel() for p in adapter.named().values())
        own = {"adapter": 4.0 * numbers, "optimizer": MOMENTS[training.optimizer] * numbers}
        precision = training.precision if sampling.precision == "training" else sampling.precision
        copied = nbytes(base.network) * _ratio(precision, training.precision) if precision != training.precision else 0
        if training.base_precision is not None:
            precision, copied = training.precision, 0
        rows = sampling.batch_size * (1 + (base.family.negative and not base.family.apart and sampling.guidance > 1))
        forward = rows * self._forward(precision, drawn)
        decoding = self._coded(training.precision, drawn, sampling.decoding)
        spare = 0 if sampling.decoding == "fp32" else vae["autoencoder"] / 2
        prompts = max((len(plan.prompts_for(concept)) for concept in plan.sequence), default=1)
        reading = max(prompts * self._read(training.precision), self._coded(training.precision, side, ""))
        network: Parts = {"base": weights}
        unpacked = quantising.unpacked(base.network, training.base_precision)
        return Footprint(
            {**network, "text encoders": texts, **vae, "activations": reading},
            {**network, **kept, **vae, "memory's delta": past, **own, "activations and gradients": step + unpacked},
            {
                **network, **kept, **vae, "memory's delta": after, "copies in other precisions": copied + spare,
                "activations": max(forward + unpacked, decoding),
            },
            choice.label,
        )  # fmt: skip

    def _step_bytes(self, precision: str, label: str, side: int, checkpointing: bool) -> int:
        """Of forward and backward of one picture: what autograd keeps, what passes, and the gradients."""
        base, choice = self._base(precision), self._choices[label]
        network, dtype = base.network, DTYPES[precision]
        layers, adapter = _linears(base, choice), _adapter(base, choice)
        (network.enable_gradient_checkpointing if checkpointing else network.disable_gradient_checkpointing)()
        with Attaching(network, layers).attached(adapter), base.running(network, dtype) as held:
            _predicted(base, side, 1, dtype).float().square().mean().backward()  # type: ignore[no-untyped-call]
        return held.most

    def _forward_bytes(self, precision: str, side: int) -> int:
        """Of one row of a batch that is drawn."""
        base = self._base(precision)
        with torch.no_grad(), base.running(base.network, DTYPES[precision]) as held:
            _predicted(base, side, 1, DTYPES[precision])
        return held.most

    def _read_bytes(self, precision: str) -> int:
        """Of the text encoder that takes most, for one prompt of full length."""
        base, most = self._base(precision), 0
        length = base.condition(1, torch.float32)["text"].shape[1]
        for name, encoder in base.modules.items():
            if name.startswith("text_encoder"):
                places = encoder.config.get_text_config().to_dict().get("max_position_embeddings") or length
                ids = torch.zeros(1, min(length, places), dtype=torch.int64)
                mask = torch.ones_like(ids)
                mask[:, -1] = 0  # of values, for encoders look at padding
                with torch.no_grad(), base.running(encoder) as held:
                    encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True)
                most = max(most, held.most)
        return most

    def _coded_bytes(self, precision: str, side: int, decoding: str) -> int:
        """Of the autoencoder for one picture, decoded in a precision; encoded where none is given."""
        base = self._base(precision)
        vae, units = base.pipe.vae, base.family.units(base.pipe)
        cells = units.fold * _latents(base, side)
        with torch.no_grad(), base.running(vae) as held:
            if decoding:
                vae.decode(base.zeros(1, int(vae.config.latent_channels), cells, cells), return_dict=False)
            else:
                vae.encode(base.zeros(1, 3, side, side), return_dict=False)
        return held.most // (1 if decoding in ("", "fp32") else 2)


def estimate(plan: Plan, cuda: bool = True) -> Estimate | str:
    """Ready to reckon for a plan, or why it cannot be; see `hollow.of`, and what it raises."""
    first = hollow.of(plan, cuda)
    if isinstance(first, str):
        return first

    def base(precision: str) -> Hollow:
        if precision == plan.training.precision:
            return first
        other = hollow.of(
            plan.model_copy(update={"training": plan.training.model_copy(update={"precision": precision})}), cuda
        )
        assert isinstance(other, Hollow)
        return other

    return Estimate(base)


def _latents(base: Hollow, side: int) -> int:
    units = base.family.units(base.pipe)
    return side // (int(base.pipe.vae_scale_factor) * units.fold)


def _predicted(base: Hollow, side: int, rows: int, dtype: torch.dtype) -> Tensor:
    cells, channels = _latents(base, side), base.family.units(base.pipe).channels
    noisy = base.zeros(rows, channels, cells, cells, dtype=dtype)
    return base.family.predict(base.pipe, noisy, base.zeros(rows), base.condition(rows, dtype))


def _linears(base: Hollow, choice: MethodChoice) -> dict[str, nn.Linear]:
    spec = method.of(choice).adapter
    role = base.family.targets[spec.targets]
    found = {n: m for n, m in base.network.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(role, n)}
    if not found:
        raise ModelError(f"targets: {spec.targets} is nothing in this base ({type(base.network).__name__})")
    return found


def _adapter(base: Hollow, choice: MethodChoice) -> Weights:
    """A method's trainable weights, as shapes."""
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in _linears(base, choice).items()}
    made: Weights = base.made(lambda: method.of(choice).adapter.weights(shapes, torch.device("cpu")))
    if isinstance(made, Selected):
        for name, (out, into) in shapes.items():
            count = max(1, int(CHOSEN * out * into))
            made.index[name] = base.made(partial(torch.zeros, count, dtype=torch.int64))
            made.values[name] = nn.Parameter(base.made(partial(torch.zeros, count)))
    return made


def _laid(base: Hollow, adapter: Weights, lessons: int, few_bits: bool) -> float:
    """What lies under the base after so many lessons, at most: their factors side by side while these are smaller than
    the matrix; a float32 base holds moved weights beside its own.
    """
    if lessons < 1:
        return 0
    dtype = base.network.dtype
    rank = next(iter(adapter.factors.values()))[0].shape[0] if isinstance(adapter, LowRank) and adapter.factors else 0
    total = 0.0
    for name in adapter.projections:
        layer: Any = base.network.get_submodule(name)
        out, into = layer.out_features, layer.in_features
        factors = lessons * rank * (out + into)
        folds = dtype == torch.float32 and not few_bits
        total += (out * into if folds or not rank else min(factors, out * into)) * dtype.itemsize
    return total


def _away(network: nn.Module) -> int:
    """Bytes of the blocks that wait in main memory while the largest of them runs."""
    sizes = [nbytes(block) for block in offloading.blocks(network)]
    return sum(sizes) - max(sizes, default=0)


def _ratio(one: str, other: str) -> float:
    return DTYPES[one].itemsize / DTYPES[other].itemsize
