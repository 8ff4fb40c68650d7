"""A base before a model is begun on it: what it is, what has to be fetched, what fits the device, whether it works."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

from perdure import plan as plans
from perdure import score, seeds, wording
from perdure.bases import checking, families, loading, unets
from perdure.bases.backbone import Backbone
from perdure.bases.family import hushed
from perdure.errors import ModelError
from perdure.plan import EMBEDDED, TOYBOX, Plan, defaults, yaml_file
from perdure.plan.choice import CLASSIFICATION
from perdure.score.sources import HUB_ID, Reading, hub_failures, offline, short

INDEX = "model_index.json"
VARIANT = re.compile(r"\.(fp16|bf16|ema|non_ema)\.")
SCORERS = ("model.safetensors", "checkpoint.pth", "pytorch_model.bin")
"""Files of a scorer's weights, the one that is fetched first."""
SIDES = range(64, 2049, 8)
"""Sides in pixels that a base can have been trained on."""
CELLS = 8
"""Tokens a side of the picture that a base is tried with: as few as a UNet can halve three times."""


@dataclass(frozen=True)
class Look:
    """`pipeline`: its class, empty where the base's index names none; `side`: in pixels, of the
    pictures that it was trained on; `parts`: folders of the pipeline that are loaded."""

    pipeline: str = ""
    side: int | None = None
    parts: tuple[str, ...] = ()


class Download(NamedTuple):
    """What is not on this machine yet: what it is for, its hub id, bytes (None where the hub does not tell)."""

    what: str
    repo: str
    nbytes: int | None


def look(base: str, foreign: bool = False) -> Look:
    """A base by its configurations, which are small; its weights are not read.

    foreign: whether a family of one's own is chosen for it. Raises ModelError for what cannot be taught.
    """
    found = loading.located(base)
    index = _config(found, INDEX)
    checking.check_index(index, base)
    name = str(index.get("_class_name", ""))
    if name and not foreign:
        families.of_pipeline(name, base)
    parts = tuple(p for p, v in index.items() if isinstance(v, list) and None not in v and p not in checking.UNUSED)
    if "unet" not in parts:
        return Look(name, None, parts)
    unet, vae = _config(found, "unet/config.json"), _config(found, "vae/config.json")
    if not foreign and (problem := unets.more_inputs(unet.get("in_channels"), vae.get("latent_channels"))):
        raise ModelError(f"base {base}{problem}")
    return Look(name, _side(unet, vae), parts)


def plan_of(data: Mapping[str, Any]) -> tuple[Plan, list[str]]:
    """The plan of a model to be begun, from what is asked for and what a person would keep; and what is to come.

    Raises PlanError, and ModelError for what cannot be taught.
    """
    if data.get("task") == CLASSIFICATION:
        return plans.build(dict(data), where="perdure init"), []
    base = str(data.get("base", TOYBOX))
    plan = plans.build(dict(data), where="perdure init", kept=defaults.of_model(base, ""))  # its mistakes come first
    found = look(base, plan.family is not None)
    fit = fitting(found.pipeline, *device_memory()) if base not in EMBEDDED else {}
    kept = yaml_file.merge(defaults.of_model(base, found.pipeline, found.side), {"training": fit})
    plan = plans.build(dict(data), where="perdure init", kept=kept)
    told = [f"to be fetched: {d.what}, {d.repo} ({size_of(d)})" for d in downloads(plan, found.parts)]
    return plan, told


def size_of(download: Download) -> str:
    """How much is to be fetched, in words."""
    return "its size could not be asked for" if download.nbytes is None else wording.size(download.nbytes)


def _side(unet: Mapping[str, Any], vae: Mapping[str, Any]) -> int | None:
    cells, channels = unet.get("sample_size"), vae.get("block_out_channels")
    if not isinstance(cells, int) or not isinstance(channels, list):
        return None
    side = cells * 2 ** (len(channels) - 1)
    return side if side in SIDES else None


def _config(found: str, name: str) -> dict[str, Any]:
    """A configuration of a base; {} where it is not here and cannot be fetched, or read, which loading tells better.

    Raises ModelError where the first of them cannot be fetched: the hub's client tries for half a minute.
    """
    path: Any = Path(found) / name
    if not os.path.isdir(found):
        failures: tuple[type[Exception], ...] = (*hub_failures(), ValueError)
        try:
            with hushed():
                path = hf_hub_download(found, name, local_files_only=offline())
        except failures as error:
            if name == INDEX:
                raise ModelError(loading.unfetched(found, short(error))) from None
            return {}
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def downloads(plan: Plan, parts: Iterable[str]) -> list[Download]:
    """Everything that a model of this plan will fetch, base and scorers, as far as it is not in the cache."""
    wanted = tuple(f"{part}/" for part in parts if part != "transformer" or plan.transformer is None)
    found = [_missing("base", plan.base, wanted)] if plan.base not in EMBEDDED else []
    if plan.vae is not None:
        found.append(_missing("autoencoder", plan.vae, ("",)))
    for measure in dict.fromkeys((*plan.scoring.subject, *plan.scoring.style)):
        source = plan.scoring.source(measure)
        embedded = plan.base in EMBEDDED and score.card(source).embedded
        model = plan.scoring.models.get(measure) or ("" if embedded else str(source.constant("MODEL", "")))
        if model:
            found.append(_missing(measure, model, SCORERS))
    return [one for one in found if one is not None]


def _missing(what: str, repo: str, wanted: tuple[str, ...]) -> Download | None:
    """What is to be fetched of a hub repository; None where it is all here, or a folder."""
    if os.path.exists(os.path.expanduser(repo)) or not HUB_ID.fullmatch(repo):
        return None
    try:
        sizes = (
            {}
            if offline()
            else {f.rfilename: f.size for f in HfApi().model_info(repo, files_metadata=True).siblings or []}
        )
    except hub_failures():
        sizes = {}
    if not sizes:
        here = any(isinstance(try_to_load_from_cache(repo, name), str) for name in (*SCORERS, INDEX))
        return None if here else Download(what, repo, None)
    names = _scorer(sizes) if wanted == SCORERS else _base(sizes, wanted)
    lacking = [name for name in names if not isinstance(try_to_load_from_cache(repo, name), str)]
    return Download(what, repo, sum(sizes[name] or 0 for name in lacking)) if lacking else None


def _scorer(names: Iterable[str]) -> list[str]:
    return [name for name in SCORERS if name in names][:1]


def _base(names: Iterable[str], folders: tuple[str, ...]) -> list[str]:
    """The safetensors of a pipeline's parts, without variants where there are plain ones."""
    weights = [name for name in names if name.startswith(folders) and name.endswith(".safetensors")]
    plain = [name for name in weights if not VARIANT.search(name)]
    return plain or weights


def fitting(pipeline: str, memory: int | None, bf16: bool) -> dict[str, Any]:
    """Settings of `training` that fit a CUDA device with so many bytes; none for other devices (memory None)."""
    if memory is None:
        return {}
    below = defaults.checkpointing_below(pipeline)
    return {"precision": "bf16" if bf16 else "fp32", "gradient_checkpointing": memory < below}


def device_memory() -> tuple[int | None, bool]:
    """Bytes of the first CUDA device and whether it computes in bfloat16; (None, False) without one."""
    if not torch.cuda.is_available():
        return None, False
    return int(torch.cuda.get_device_properties(0).total_memory), bool(torch.cuda.is_bf16_supported())


@torch.no_grad()
def try_out(backbone: loading.Base, base: str) -> None:
    """One forward pass and one decoded picture, as small as the base allows. Raises ModelError where it cannot.

    A classifier, which draws nothing, is taken as it is.
    """
    if not isinstance(backbone, Backbone):
        return
    cells = CELLS * backbone.units.patch
    side = next(side for side in range(8, SIDES[-1], 8) if backbone.latent_side(side) >= cells)
    generator = seeds.generator(0, "first look")
    with Reading(lambda why: f"base {base} cannot be taught: a first step of it failed ({why})"):
        text = backbone.encode_prompts(["a photo"])
        condition = backbone.family.sized(text, [(side, side, 0, 0)], (side, side))
        latents = torch.randn((1, backbone.units.channels, cells, cells), generator=generator).to(backbone.device)
        batch = backbone.noised(latents, condition, ["a photo"], generator)
        predicted, (picture,) = backbone.predict(batch), backbone.decode(latents)
    if predicted.shape != latents.shape or not predicted.isfinite().all():
        raise ModelError(
            f"base {base} cannot be taught: of latents {tuple(latents.shape)} it predicts {tuple(predicted.shape)}, "
            f"{int(predicted.isfinite().sum())} of {predicted.numel()} numbers finite; name another base or precision"
        )
    if picture.size != (side, side):
        raise ModelError(f"base {base} cannot be taught: latents of {side} pixels a side are decoded to {picture.size}")
