"""Proof that a file holds what the memory holds: read back, weights compared, the same seeds drawn from both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from perdure.bases import loading
from perdure.bases.backbone import Backbone
from perdure.bases.performing import DTYPES
from perdure.drawing import sample
from perdure.export import reading
from perdure.export.choosing import ADAPTER, CHECKPOINT, Content
from perdure.lineage import Lineage
from perdure.memory.delta import Delta
from perdure.method import Word
from perdure.plan import Plan

ROUNDING = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 1e-2}
"""Largest relative error of a projection that is rounding: three times what was measured of all loaders."""
PIXELS = {"fp32": 0.5, "fp16": 4.0, "bf16": 8.0}
"""Largest mean difference of pixels, of 255 (taste): half a step, and what half precision does to many steps."""
TABLES = ("token_embedding", "shared.weight", "embed_tokens")
"""Parts of the names of tables to which learnt words add rows."""
LOST = 0.05
"""Share of a change that rounding whole weights may take before it is told (taste)."""


@dataclass(frozen=True)
class Proof:
    """What was found of what was expected, and how far off: relative errors of projections, differences of pixels."""

    what: str
    """What was compared: projections of a LoRA file, all tensors of a whole model."""
    found: int
    expected: int
    error: float
    where: str
    bound: float
    pictures: int
    largest: int
    mean: float
    mean_bound: float | None
    """None where a cut was asked for, which the pictures may show."""
    notes: tuple[str, ...] = ()

    @property
    def failings(self) -> list[str]:
        """What is beyond its bound; nothing where the file is what it should be."""
        told = []
        if self.found != self.expected:
            told.append(f"{self.found} of {self.expected} {self.what} arrive")
        if not self.error <= self.bound:
            told.append(f"the weights of {self.where} are off by {self.error:.1e} (rounding: {self.bound:.0e})")
        if self.mean_bound is not None and not self.mean <= self.mean_bound:
            told.append(f"pictures differ by {self.mean:.2f}/255 in the mean (bound: {self.mean_bound:g})")
        return told

    def __str__(self) -> str:
        pictures = "picture differs" if self.pictures == 1 else "pictures differ"
        drawn = f"; {self.pictures} {pictures} by {self.mean:.2f}/255 in the mean, {self.largest} at most"
        told = f"{self.found} of {self.expected} {self.what}, largest error {self.error:.1e}"
        return told + (drawn if self.pictures else "; no pictures drawn")


@dataclass(frozen=True)
class Exhibit:
    """What is to be proven: a file or folder, the words' files, and the changes that it should hold."""

    kind: str
    path: Path
    words: tuple[Path, ...]
    delta: Delta
    dtype: str
    cut: bool


def prove(exhibit: Exhibit, lineage: Lineage, content: Content, pictures: int, device: str | None) -> Proof:
    """Read an export back and compare. Raises ModelError where it cannot be read."""
    plan = _in_full(lineage.plan())
    precision = plan.training.precision
    prompts = [plan.prompts_for(concept)[0] for concept in content.concepts][: max(pictures, 0)]
    backbone = loading.of(plan, device)
    words = {token: partial(_same, word) for token, word in content.words.items()}
    with backbone.speaking(words), backbone.laid(content.delta):
        expected = _drawn(backbone, plan, prompts)
    del backbone
    pipe, family = loading.pipeline(plan.base, "fp32", plan.vae, plan.family, plan.transformer)
    like = pipe
    if exhibit.kind == ADAPTER:
        want = {name: change.matrix() for name, change in exhibit.delta.items()}
        have = reading.adapter(pipe, family, exhibit.path) if exhibit.delta else {}
    else:
        want = _whole(pipe, family.network, exhibit.delta)
        if exhibit.kind == CHECKPOINT:
            pipe = reading.checkpoint(exhibit.path, like, loading.located(plan.base))
        else:
            pipe = loading.pipeline(str(exhibit.path), chosen=plan.family)[0]
        want, have = _known(like, want), _known(like, _whole(pipe, family.network, Delta()))
    for path in exhibit.words:
        reading.word(pipe, family, path)
    errors = reading.differences(want, have)
    error, where = max(((value, name) for name, value in errors.items()), default=(0.0, ""))
    right = exhibit.kind != ADAPTER and error <= ROUNDING[exhibit.dtype]
    notes = _lost(exhibit, family.network, like, have) if right else ()
    if not math.isfinite(error):
        expected, prompts = [], []  # there is nothing to see in a broken file
    reading.cast(pipe, DTYPES[precision])
    reader = Backbone(pipe, family, precision, torch.device(device) if device else None)
    asked = [_spelled(pipe, content, prompt) for prompt in prompts]
    largest, mean = _compared(expected, _drawn(reader, plan, asked))
    coarsest = max(exhibit.dtype, precision, key=list(ROUNDING).index)
    bound = None if exhibit.cut else PIXELS[coarsest]
    what = "projections" if exhibit.kind == ADAPTER else "tensors"
    return Proof(
        what, len(errors), len(want), error, where, ROUNDING[exhibit.dtype], len(prompts), largest, mean, bound, notes
    )  # fmt: skip


def _in_full(plan: Plan) -> Plan:
    """A plan on its base as it is: files hold changes of that, whatever few bits it was taught and drawn in."""
    return plan.model_copy(update={"training": plan.training.model_copy(update={"base_precision": None})})


def _spelled(pipe: Any, content: Content, prompt: str) -> str:
    counts = {content.names[token]: len(word.vectors[0]) for token, word in content.words.items()}
    return reading.spelled(pipe, content.spoken(prompt), counts)


def _same(word: Word) -> Word:
    return word


def _drawn(backbone: Backbone, plan: Plan, prompts: Sequence[str]) -> list[Image.Image]:
    """One picture of each prompt, from the first of the fixed latents."""
    sampling = plan.sampling.model_copy(update={"images_per_prompt": 1})
    side = sampling.resolution or plan.training.resolution
    return sample.draw(backbone, prompts, sampling, side) if prompts else []


def _compared(some: Sequence[Image.Image], others: Sequence[Image.Image]) -> tuple[int, float]:
    """Largest and mean difference of pixels, 0 to 255."""
    gaps = [np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)) for a, b in zip(some, others, strict=True)]
    return (int(max(gap.max() for gap in gaps)), float(np.mean(gaps))) if gaps else (0, 0.0)


def _whole(pipe: Any, network: str, delta: Delta) -> dict[str, Tensor]:
    """All weights of a pipeline by part and name, with a delta on them."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    tensors = {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}
    moved = {f"{network}.{name}.weight": change for name, change in delta.items()}
    return {name: t + moved[name].matrix().view_as(t) if name in moved else t for name, t in tensors.items()}


def _known(base: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All of them, of tables of words the rows that the base's own words have: learnt words stand behind them."""
    rows = {
        part: len(tokenizer)
        for part in base.components
        if (tokenizer := base.components.get(part.replace("text_encoder", "tokenizer"))) and part.startswith("text_")
    }
    return {
        name: t[: rows[name.split(".")[0]]] if any(table in name for table in TABLES) else t
        for name, t in tensors.items()
    }


def _lost(exhibit: Exhibit, network: str, base: Any, have: Mapping[str, Tensor]) -> tuple[str, ...]:
    """What rounding the moved weights takes of the change, if it is worth telling."""
    gone = all_of_it = 0.0
    for name, change in exhibit.delta.items():
        d, before = change.matrix(), base.components[network].get_submodule(name).weight.detach()
        gone += float((have[f"{network}.{name}.weight"] - before - d.view_as(before)).norm() ** 2)
        all_of_it += float(d.norm() ** 2)
    share = (gone / all_of_it) ** 0.5 if all_of_it else 0.0
    told = f"rounding whole weights to {exhibit.dtype} takes {share:.0%} of the change"
    return (f"{told}; --dtype fp32 keeps it, and so does a LoRA file",) if share > LOST else ()
