"""Files read back by another way than they were written: by diffusers' loaders, else by the layout's own rules."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perdure.bases.family import Family, quiet, reads_lora, spells
from perdure.bases.laying import Layer
from perdure.errors import LineageError, ModelError
from perdure.export import layouts
from perdure.memory import tensors as stored
from perdure.score.sources import Reading
from perdure.wording import replaced

NAME = "exported"
"""What diffusers calls a LoRA file that is read back."""


def tensors_of(path: Path) -> dict[str, Tensor]:
    """A safetensors file's tensors, its header checked first. Raises ModelError naming the file."""
    with _readable(path):
        stored.header(path)
        return stored.parsed(path.read_bytes(), path)


def metadata_of(path: Path) -> dict[str, str]:
    """A safetensors file's metadata. Raises ModelError naming the file."""
    with _readable(path):
        return {str(key): str(value) for key, value in stored.header(path).get(stored.META, {}).items()}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give a .safetensors file in it")
    try:
        yield
    except LineageError as error:
        told = str(error).replace("restore it from a copy", "download or export it again")
        told = told.replace("is damaged: it has no", "is no safetensors file, or damaged: it has no")
        raise ModelError(told) from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def _by_a_library(path: Path) -> Reading:
    return Reading(lambda reason: f"{path}: diffusers cannot read it ({reason})")


def adapter(pipe: Any, family: Family, path: Path) -> dict[str, Tensor]:
    """Put a LoRA file on a pipeline; returns the change (out, in) that each projection is now under.

    By diffusers where it reads the layout; files with `.diff` keys, and those of pipelines that read none, by the rule
    that all their readers share: the key of a module is `lora_unet_` and its name with underscores, or `transformer.`
    and its name, its weight becomes W + diff or W + (alpha / r) up down.
    """
    held, network = tensors_of(path), pipe.components[family.network]
    if reads_lora(pipe) and not any(name.endswith(".diff") for name in held):
        return _by_diffusers(pipe, network, path)
    named = {name.replace(".", "_"): (name, m) for name, m in network.named_modules() if isinstance(m, Layer)}
    found, unknown = layouts.modules(held)
    own = layouts.of_network(found.values())
    if strange := [*unknown, *(name for name in own if name not in named)]:
        raise ModelError(f"{path}: the base has no module for {strange[0]}")
    changes = {}
    for name, module in own.items():
        projection, linear = named[name]
        changes[projection] = change = module.change()
        if change.shape != (shape := linear.weight.flatten(1).shape):
            raise ModelError(f"{path}: {name} is {tuple(change.shape)}, the base's {tuple(shape)}")
        with torch.no_grad():
            moved = linear.weight.float() + change.view_as(linear.weight)
            linear.weight = nn.Parameter(moved.to(linear.weight), requires_grad=False)
    return changes


def _by_diffusers(pipe: Any, network: Any, path: Path) -> dict[str, Tensor]:
    with _by_a_library(path), quiet():
        pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=NAME)
    mark = f".lora_A.{NAME}"
    names = [name.removesuffix(mark) for name, _ in network.named_modules() if name.endswith(mark)]
    layers = {name: network.get_submodule(name) for name in names}
    return {
        name: layer.scaling[NAME]
        * layer.lora_B[NAME].weight.detach().float().flatten(1)
        @ layer.lora_A[NAME].weight.detach().float().flatten(1)
        for name, layer in layers.items()
    }


def encoders(pipe: Any, family: Family) -> dict[str, str]:
    """The parts of a pipeline that learn words, by what their vectors are called in an embedding file."""
    parts = [part for part in family.words if pipe.components.get(part) is not None]
    if len(parts) == 1:
        return {"emb_params": parts[0]}
    clips = iter(("clip_l", "clip_g"))
    return {"t5xxl" if type(pipe.components[part]).__name__.startswith("T5") else next(clips): part for part in parts}


def word(pipe: Any, family: Family, path: Path) -> None:
    """Have a pipeline know an embedding file's word, called as the file is. Raises ModelError."""
    places = {key: number for number, key in enumerate(encoders(pipe, family))}
    with _by_a_library(path):
        speak(pipe, family, path.stem, {places[key]: vectors for key, vectors in tensors_of(path).items()})


def speak(pipe: Any, family: Family, name: str, vectors: Mapping[int, Tensor]) -> None:
    """Put a word's vectors into each text encoder's table and its name into the tokenizer: by diffusers, or, beside a
    transformer, as diffusers would do it in pipelines that have no way of their own.
    """
    parts = list(encoders(pipe, family).values())
    for number, rows in vectors.items():
        encoder, tokenizer = (
            pipe.components[part] for part in (parts[number], parts[number].replace("text_encoder", "tokenizer"))
        )
        if family.network == "unet":
            with quiet(), torch.random.fork_rng():  # new rows are drawn before they are set
                pipe.load_textual_inversion(rows, token=name, text_encoder=encoder, tokenizer=tokenizer)
            continue
        _into_table(encoder, tokenizer, _names(name, len(rows)), rows)


def spelled(pipe: Any, prompt: str, words: Mapping[str, int]) -> str:
    """A prompt in which words, of so many vectors, are written out where the pipeline would not do it."""
    for name, count in () if spells(pipe) else words.items():
        prompt = replaced(prompt, name, " ".join(_names(name, count)))
    return prompt


def _names(name: str, count: int) -> list[str]:
    """What diffusers calls a word's vectors."""
    return [name, *(f"{name}_{k}" for k in range(1, count))]


def _into_table(encoder: Any, tokenizer: Any, names: list[str], rows: Tensor) -> None:
    tokenizer.add_tokens(names)
    ids = tokenizer.convert_tokens_to_ids(names)
    if max(ids) >= encoder.get_input_embeddings().num_embeddings:  # T5's has rows to spare
        with torch.random.fork_rng():
            encoder.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    with torch.no_grad():
        table[ids] = rows.to(table)


def checkpoint(path: Path, like: Any, config: str) -> Any:
    """The pipeline of a checkpoint in the original layout, float32, configured as the base is. Raises ModelError."""
    unused = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in like.components else {}
    with _by_a_library(path), quiet():
        return type(like).from_single_file(
            str(path), config=config, torch_dtype=torch.float32, local_files_only=True, **unused
        )


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative error of each tensor that was found, ||found - expected|| / ||expected||; infinite where it is none."""
    errors = {}
    for name in expected.keys() & found.keys():
        one, other = expected[name].detach().double(), found[name].detach().double()
        if one.shape != other.shape:
            errors[name] = math.inf
        elif one.any() or other.any():
            off = float((other - one).norm() / one.norm().clamp(min=1e-30))
            errors[name] = math.inf if math.isnan(off) else off
        else:
            errors[name] = 0.0
    return errors


def cast(pipe: Any, dtype: torch.dtype) -> None:
    """Everything in a dtype but the autoencoder, in place: SDXL's overflows in half precision."""
    with quiet():
        for name, part in pipe.components.items():
            if isinstance(part, nn.Module) and name != "vae":
                part.to(dtype)
