"""Whether a base can be taught: its index and its files before anything of it is loaded, its settings after."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from perdure.bases.family import Family
from perdure.bases.processes import several
from perdure.errors import ModelError
from perdure.plan import Performance, Sampling, Training
from perdure.score.sources import Reading

LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
"""Where the parts of a pipeline may come from (the last is diffusers' own name for its safety checker)."""
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
WEIGHED = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
"""Parts of a pipeline that have weights."""


def check_index(index: Mapping[str, Any], base: str) -> None:
    """Refuse an index that names anything but classes of diffusers and transformers: a base brings no code."""
    for part, value in index.items():
        if part == "_class_name":
            known = isinstance(value, str) and value.isidentifier()
        elif isinstance(value, list):
            library, name = (*value, None)[:2] if value else (None, None)
            absent = library is None and name is None
            known = absent or (library in LIBRARIES and isinstance(name, str) and name.isidentifier())
        else:
            continue
        if not known:
            raise ModelError(
                f"base {base}: model_index.json names {value!r} as its {part}, which is no class of diffusers or "
                "transformers; perdure runs no code that comes with a base"
            )


def check_files(folder: Path, index: Mapping[str, Any], base: str, without: Collection[str] = ()) -> str | None:
    """The variant of a local folder's weights: "fp16" where it has no others. Raises ModelError for what is missing."""
    plain = True
    for part, value in index.items():
        if part in (*without, *UNUSED) or not isinstance(value, list) or None in value:
            continue
        own = folder / part
        if not own.is_dir():
            raise _incomplete(base, f"its folder {part}/")
        if part in WEIGHED:
            if not (own / "config.json").is_file():
                raise _incomplete(base, f"{part}/config.json")
            names = {path.name for path in own.iterdir() if path.is_file()}
            if not any(name.endswith(".safetensors") for name in names):
                if any(name.endswith((".bin", ".ckpt", ".pt")) for name in names):
                    raise ModelError(
                        f"base {base}: {part}/ has weights as pickles only, which perdure does not read; load it once "
                        "with diffusers and save it with save_pretrained(..., safe_serialization=True)"
                    )
                if part == "vae":
                    raise ModelError(f"base {base} has no autoencoder in it; give one: vae, a hub id, folder or file")
                raise _incomplete(base, f"the weights of {part}/ (*.safetensors)")
            _check_shards(own, names, base)
            plain = plain and any(name.endswith(".safetensors") and ".fp16." not in name for name in names)
    return None if plain else "fp16"


def _check_shards(folder: Path, names: Collection[str], base: str) -> None:
    for name in (name for name in names if name.endswith(".safetensors.index.json")):
        try:
            shards = set(json.loads((folder / name).read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise ModelError(f"base {base}: {folder.name}/{name} cannot be read; download the base again") from None
        if lacking := sorted(shards - set(names)):
            raise _incomplete(base, f"{folder.name}/{lacking[0]}")


def _incomplete(base: str, what: str) -> ModelError:
    return ModelError(f"base {base} is incomplete: {what} is missing; download or copy it again")


def check_pipeline(pipe: Any, family: Family, base: str) -> None:
    """Refuse a base whose objective or latents are not those that lessons are trained with, or that is damaged."""
    if problem := family.unlike(pipe):
        raise ModelError(f"base {base}{problem}")
    with Reading(lambda why: f"base {base}: its configuration does not fit together ({why}); restore it from a copy"):
        family.objective(pipe), family.units(pipe)
    for part in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        if (tokenizer := pipe.components.get(part)) is not None:
            words = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor for text and pictures, the text's part
            most, encoder = max(words.get_vocab().values(), default=0), part.replace("tokenizer", "text_encoder")
            rows = pipe.components[encoder].get_input_embeddings().num_embeddings
            if most >= rows:
                raise ModelError(f"base {base} is damaged: {part}/ has a word {most}, and {encoder}/ has {rows} words")


def unfit(pipe: Any, family: Family, performance: Performance, training: Training, sampling: Sampling) -> list[str]:
    """What a base cannot do of a plan's settings, a sentence each."""
    objective, units = family.objective(pipe), family.units(pipe)
    problems = [problem for problem in (objective.unfit(training.min_snr, training.times),) if problem]
    if sampling.scheduler not in ("default", *objective.solvers):
        known = ", ".join(("default", *objective.solvers))
        problems.append(f"sampling.scheduler: {sampling.scheduler} does not fit this base; allowed: {known}")
    if sampling.negative_prompt is not None and not family.negative:
        problems.append(
            "sampling.negative_prompt does nothing here: this base is told its guidance and draws without a "
            "negative prompt; leave it null"
        )
    if sampling.guidance_until < 1 and not family.negative:
        problems.append("sampling.guidance_until does nothing here: this base is told its guidance; leave it at 1")
    if sampling.decoding == "fp16" and pipe.vae.config.get("force_upcast"):
        problems.append("sampling.decoding: this base's autoencoder overflows in fp16; take bf16 or fp32")
    precision = training.precision if sampling.precision == "training" else sampling.precision
    if precision != "fp32" and (performance.compile or performance.engine == "onnx"):
        problems.append(
            f"performance: compiled code and onnx draw in fp32, where a memory lies in the weights; this plan draws in "
            f"{precision}: take sampling.precision: fp32"
        )
    problems += _offloaded(family, performance, training, sampling)
    multiple = int(pipe.vae_scale_factor) * units.multiple
    sides = {
        "training.resolution": training.resolution, "sampling.resolution": sampling.resolution or 0,
        "training.buckets": training.buckets or 0,
    }  # fmt: skip
    problems += [
        f"{key}: {side} pixels cannot be divided among the tokens of this base; give a multiple of {multiple}"
        for key, side in sides.items()
        if units.multiple > 1 and side % multiple
    ]
    return problems


def _offloaded(family: Family, performance: Performance, training: Training, sampling: Sampling) -> list[str]:
    """What does not go together with blocks that wait in main memory."""
    if performance.offload is None:
        return []
    against = {
        f"this base's network is a {family.network}, whose parts are computed again one by one; leave it null": (
            family.network != "transformer"
        ),
        "training.base_precision keeps the base on the device, in few bits; take one of them": (
            training.base_precision is not None
        ),
        f"sampling.precision: {sampling.precision} draws with a copy of the network; take training": (
            sampling.precision not in ("training", training.precision)
        ),
        "without training.gradient_checkpointing all blocks are on the device before the backward pass; set it true": (
            not training.gradient_checkpointing
        ),
        "processes that share out a lesson need the whole network each; start one process": several().count > 1,
    }  # fmt: skip
    return [f"performance.offload: {told}" for told, found in against.items() if found]
