"""Changes that somebody else trained, from their files: a LoRA of any known layout, and the word that goes with it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from torch import nn

from perdure import files
from perdure.bases import converting
from perdure.bases.quantising import shape_of, weight_of
from perdure.errors import LineageError, ModelError
from perdure.export import layouts, original, reading, what
from perdure.export.layouts import Module
from perdure.export.metadata import TITLES
from perdure.lesson.brought import Brought
from perdure.memory.delta import Change, Delta
from perdure.method import Word
from perdure.wording import some

TEXTS = ("lora_te", "lora_te1", "lora_te2", "text_encoder", "text_encoder_2")
"""Parts of LoRA files that change text encoders, which a memory does not hold."""
NETWORKS = ("unet", "transformer")
"""What diffusers' metadata calls the networks."""
ENCODERS = {"emb_params": 0, "string_to_param.*": 0, "clip_l": 0, "clip_g": 1}
"""Tensors of embedding files -> the text encoder that they are for; any other single tensor is for the first."""


def read(path: Path, embedding: Path | None = None, unet_only: bool = False) -> tuple[Brought, list[str]]:
    """What a LoRA file teaches, with the word of an embedding file; and what is left out of it, a sentence each.

    `unet_only`: leave out what it changes of text encoders. Raises ModelError for what is no LoRA file, is damaged, not
    finite, of a form that is no sum of factors, or changes text encoders.
    """
    found = what.look(path)
    if found.kind != what.LORA:
        raise ModelError(f"{path} is no LoRA file but {found.kind}; perdure what {path} tells more")
    if broken := next((told for told in found.warnings if "NaN" in told), ""):
        raise ModelError(f"{path}: {broken}; download it again")
    modules, unknown = layouts.modules(reading.tensors_of(path))
    bundled = [name for name in unknown if name.startswith("bundle_emb.")]
    if strange := [name for name in unknown if name not in bundled]:
        raise ModelError(f"{path} holds {len(strange)} tensors that no LoRA file has: {some(strange, 3)}")
    texts = [one for one in modules.values() if one.part in TEXTS]
    if texts and not unet_only:
        raise ModelError(
            f"{path} also changes text encoders ({len(texts)} of {len(modules)} modules), which a model here does not "
            "carry; --unet-only leaves them out, and the concept may come out weaker"
        )
    notes = [f"left out: {len(texts)} modules of text encoders"] * bool(texts)
    notes += [f"left out: words bundled in it ({some(bundled, 3)}); give one as --embedding FILE"] * bool(bundled)
    own = layouts.of_network(modules.values())
    if len(own) + len(texts) != len(modules):
        raise ModelError(f"{path} tells some modules twice, under names of several layouts; export it anew under one")
    facts = {
        "file": path.name, "sha256": converting.digest(path), "layout": found.layout, "modules": len(own),
        "left_out": len(texts), "embedding": None if embedding is None else converting.digest(embedding),
    }  # fmt: skip
    fitting = Fitting(str(path), own, _config(path, found.metadata))
    return Brought(facts, fitting, None if embedding is None else word(embedding)), notes


def _config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """peft's settings of a file whose tensors tell no alpha: in diffusers' metadata, or beside the file as peft saves.

    Raises ModelError where they are there and cannot be read.
    """
    beside = path.with_name("adapter_config.json")
    try:
        if told := metadata.get("lora_adapter_metadata"):
            config = {key.partition(".")[2]: v for key, v in json.loads(told).items() if key.split(".")[0] in NETWORKS}
        else:
            config = files.read_json(beside) if path.stem == "adapter_model" and beside.is_file() else {}
        float(config.get("lora_alpha") or 1), {**(config.get("alpha_pattern") or {})}
    except (ValueError, AttributeError, TypeError, LineageError):
        raise ModelError(f"{path}: what peft notes of its alpha cannot be read; download it again") from None
    return dict(config)


@dataclass(frozen=True)
class Fitting:
    """The modules of a LoRA file, by underscored names, and how they fit a network."""

    file: str
    modules: Mapping[str, Module]
    config: Mapping[str, Any]
    """peft's settings, where the file comes with them."""

    def __call__(self, network: nn.Module) -> Delta:
        """The change of each projection. Raises ModelError where the file is for another kind of base."""
        layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        named = {name.replace(".", "_"): name for name in layers}
        config: Any = network.config
        if "down_block_types" in config:  # a UNet, for which kohya has the original names too
            named |= {original.unet_name(name, config).replace(".", "_"): name for name in layers}
        wide, reads = layouts.width(self.modules.values()), config.get("cross_attention_dim")
        if wide is not None and reads is not None and wide != reads:
            raise ModelError(
                f"{self.file} is for {_family(wide)}, whose text is {wide} wide; this base is {_family(reads)}, "
                f"{reads} wide"
            )
        if strange := [name for name in self.modules if name not in named]:
            raise ModelError(
                f"{self.file} moves {len(strange)} modules that this base lacks ({some(strange, 3)}); it is for "
                "another base"
            )
        changes = {named[name]: self._change(m, named[name], layers[named[name]]) for name, m in self.modules.items()}
        return Delta(changes)

    def _change(self, module: Module, name: str, layer: nn.Linear | nn.Conv2d) -> Change:
        """A module's change: its factors, the scale in the up factor; or the dense difference. Raises ModelError."""
        try:
            change, shape = self._given(module, name), shape_of(layer)
            if change.shape != (wanted := (shape[0], prod(shape[1:]))):
                raise ModelError(f"{name} is {change.shape}, the base's {wanted}; it is for another base")
            if (magnitudes := module.magnitudes) is None:
                return change
            weight = weight_of(layer, layer.weight.dtype).cpu().view(shape)
            return Change.full(layouts.rescaled(weight, change.matrix(), magnitudes))
        except ModelError as error:
            raise ModelError(f"{self.file}: {error}") from None

    def _given(self, module: Module, name: str) -> Change:
        pair = module.factors()
        if pair is None:
            return Change.full(module.change())
        down, up = pair
        own = module.scale if module.alpha is not None else self._scale(name, module.rank or len(down))
        return Change.low_rank(down, up * own)

    def _scale(self, name: str, rank: int) -> float:
        """alpha / rank, or alpha / sqrt(rank) (rsLoRA), as peft has it; 1 where no alpha is told."""
        patterns = self.config.get("alpha_pattern") or {}
        own = next((key for key in patterns if re.fullmatch(rf"(.*\.)?({key})", name)), None)
        alpha = float(patterns[own] if own is not None else self.config.get("lora_alpha") or rank)
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)


def _family(width: int) -> str:
    return TITLES.get(layouts.WIDTHS.get(width, ""), "of another family")


def word(path: Path) -> Word:
    """The vectors (count, width) of an embedding file, for each text encoder. Raises ModelError."""
    found = what.look(path)
    if found.kind != what.EMBEDDING or "t5xxl" in found.vectors:
        raise ModelError(f"{path} is no embedding file of a word; perdure what {path} tells what it is")
    if found.warnings and "NaN" in found.warnings[0]:
        raise ModelError(f"{path}: {found.warnings[0]}; download it again")
    tensors = reading.tensors_of(path)
    rows = {ENCODERS.get(name, 0): t.float().reshape(-1, t.shape[-1]) for name, t in tensors.items()}
    if len({len(vectors) for vectors in rows.values()}) != 1:
        raise ModelError(
            f"{path} has {some((str(len(v)) for v in rows.values()), 3)} vectors for the encoders; give one count"
        )
    return Word(rows)
