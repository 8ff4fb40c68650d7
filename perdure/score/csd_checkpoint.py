"""The published CSD checkpoint, a pickle in OpenAI's CLIP layout -> a safetensors folder in transformers'
layout, once.

Read with `weights_only=True`; the original is never modified. The converted folder lies in the user's cache
(XDG_CACHE_HOME/perdure, else ~/.cache/perdure) under the checkpoint's SHA-256.
"""

import argparse
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from perdure.errors import ModelError
from perdure.images import sha256_of
from perdure.score.encoders import EXTRAS
from perdure.score.preprocess import CLIP_MEAN, CLIP_STD
from perdure.score.sources import Located, Reading, locate

CHECKPOINTS = ("model.safetensors", "checkpoint.pth", "pytorch_model.bin")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
HEAD_WIDTH = 64  # of every CLIP vision transformer; the checkpoint does not say how many heads there are

# OpenAI's names within a residual block -> transformers' names within an encoder layer
BLOCK = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
TRUNK = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",  # transformers' own spelling
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}


def prepare(source: str | Path) -> Located:
    """Folder in transformers' layout for `source`: a checkpoint, a folder of one, a converted
    folder, a hub id.

    Raises ModelError where nothing of the kind is found.
    """
    found = locate(source, CHECKPOINTS, EXTRAS)
    checkpoint = found.path if found.path.is_file() else _checkpoint_in(found.path)
    if checkpoint is None:
        return found
    digest = sha256_of(checkpoint)
    return replace(found, path=convert(checkpoint, digest), original_sha256=digest)


def _checkpoint_in(folder: Path) -> Path | None:
    """The file to convert; None where the folder needs no conversion, or holds no weights at all."""
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES and file.is_file())
    for file in files:
        if file.suffix == ".safetensors" and "visual_projection.weight" in _keys(file):
            return None
    return files[0] if files else None


def _keys(file: Path) -> set[str]:
    damaged = Reading(lambda reason: f"{file}: is not a sound safetensors file ({reason}).")
    with damaged, safe_open(file, framework="pt") as tensors:
        return set(tensors.keys())


def convert(checkpoint: Path, digest: str) -> Path:
    """Converted folder of `checkpoint` (SHA-256 `digest`), made unless it is in the cache already."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perdure"
    folder = cache / f"csd-{digest[:16]}"
    if folder.is_dir():
        return folder
    state = read_state(checkpoint)
    with Reading(lambda reason: f"{checkpoint}: is no CSD checkpoint (its tensors do not fit: {reason})."):
        config, weights = to_transformers(state, checkpoint)
    preprocessor = {"image_processor_type": "CLIPImageProcessor", "resample": 3}
    size = config["image_size"]
    preprocessor |= {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    preprocessor |= {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=cache, prefix=".csd-"))
        try:
            save_file(weights, fresh / "model.safetensors", metadata={"format": "pt", "checkpoint_sha256": digest})
            (fresh / "config.json").write_text(json.dumps(config, indent=2))
            (fresh / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))
            if not folder.is_dir():  # another process may have been faster
                fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise ModelError(f"{cache}: the converted CSD model cannot be written there ({error.strerror}).") from error
    return folder


def read_state(checkpoint: Path) -> dict[str, Tensor]:
    """Tensors of the checkpoint by name, `module.` stripped; ModelError if it is no CSD checkpoint."""
    content: Any
    # the training script's options sit beside the weights as an argparse.Namespace, a plain bag of values
    with (
        Reading(lambda reason: f"{checkpoint}: cannot be read as tensors only ({reason})."),
        torch.serialization.safe_globals([argparse.Namespace]),
    ):
        if checkpoint.suffix == ".safetensors":
            content = load_file(checkpoint)
        else:
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    for key in ("model_state_dict", "state_dict"):
        content = content.get(key, content) if isinstance(content, dict) else {}
    named = content.items() if isinstance(content, dict) else ()
    state = {str(k).removeprefix("module."): v.float() for k, v in named if isinstance(v, Tensor)}
    lacking = [key for key in ("last_layer_style", "backbone.conv1.weight") if key not in state]
    if lacking:
        raise ModelError(f"{checkpoint}: is no CSD checkpoint (it has no {' and no '.join(lacking)}).")
    return state


def to_transformers(state: Mapping[str, Tensor], checkpoint: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(config, weights) of a CLIPVisionModelWithProjection; the style matrix (width, d) becomes its
    projection (d, width).

    OpenAI keeps q, k, v stacked in one `in_proj` of three times the width; transformers has one layer for
    each.
    """
    weights = {"visual_projection.weight": state["last_layer_style"].T.contiguous()}
    try:
        for key, name in TRUNK.items():
            weights[f"vision_model.{name}"] = state[f"backbone.{key}"].contiguous()
        blocks = {key.split(".")[3] for key in state if key.startswith("backbone.transformer.resblocks.")}
        for block in blocks:
            weights.update(
                _layer(state, f"backbone.transformer.resblocks.{block}.", f"vision_model.encoder.layers.{block}.")
            )
    except KeyError as error:
        raise ModelError(f"{checkpoint}: is no CSD checkpoint (it has no {error.args[0]}).") from error
    width, _, patch, _ = state["backbone.conv1.weight"].shape
    config = {
        "model_type": "clip_vision_model",
        "architectures": ["CLIPVisionModelWithProjection"],
        "hidden_size": width,
        "intermediate_size": weights["vision_model.encoder.layers.0.mlp.fc1.bias"].shape[0],
        "num_hidden_layers": len(blocks),
        "num_attention_heads": width // HEAD_WIDTH,
        "patch_size": patch,
        "image_size": patch * math.isqrt(state["backbone.positional_embedding"].shape[0] - 1),
        "projection_dim": state["last_layer_style"].shape[1],
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
    return config, weights


def _layer(state: Mapping[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    layer = {}
    for old_part, new_part in BLOCK.items():
        for kind in ("weight", "bias"):
            layer[f"{new}{new_part}{kind}"] = state[f"{old}{old_part}{kind}"].contiguous()
    for kind in ("weight", "bias"):
        for letter, part in zip("qkv", state[f"{old}attn.in_proj_{kind}"].chunk(3), strict=True):
            layer[f"{new}self_attn.{letter}_proj.{kind}"] = part.contiguous().clone()
    return layer
