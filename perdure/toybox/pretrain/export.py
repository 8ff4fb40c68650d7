"""The shipped folder: a StableDiffusionPipeline in float16 with the scorers beside it, model card and checksums."""

import hashlib
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from torch import nn
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer, PreTrainedModel, ViTImageProcessor

from perdure.files import read_json, write_json, write_text
from perdure.toybox.pretrain.autoencoder import load_autoencoder, load_exported
from perdure.toybox.pretrain.base import build_base, build_scheduler
from perdure.toybox.pretrain.files import replace_folder
from perdure.toybox.pretrain.flow import build_flow_scheduler, build_transformer, load_tower
from perdure.toybox.pretrain.recipe import PICTURE_SIDE, Recipe
from perdure.toybox.pretrain.scorers import MEAN, STD, build_clip, build_instance_encoder, build_style_encoder
from perdure.toybox.pretrain.stages import tokenizer_of
from perdure.toybox.pretrain.trainer import latest_weights

SCORERS = ("clip", "dino", "csd")
Module = TypeVar("Module", bound=nn.Module)
_STAGE_OF = {"clip": "clip", "dino": "instance", "csd": "style"}


def export(recipe: Recipe, work: Path, target: Path, card: str = "", figures: dict[str, Any] | None = None) -> None:
    """Write the shipped folder from the newest checkpoints; readers of `target` never see it half done."""

    def fill(folder: Path) -> None:
        save_pipeline(recipe, work, folder)
        for name in SCORERS:
            save_scorer(name, recipe, work, folder / "scorers" / name)
        if card:
            write_text(folder / "MODEL_CARD.md", card)
        if figures:
            write_json(folder / "figures.json", figures)
        write_checksums(folder)

    replace_folder(target, fill)


def save_pipeline(recipe: Recipe, work: Path, folder: Path) -> None:
    """Autoencoder, text encoder, UNet (averaged weights), tokenizer and scheduler in the usual layout."""
    tokenizer = tokenizer_of()
    base = build_base(recipe.base, recipe.autoencoder.latent_channels, tokenizer)
    base.load_state_dict(latest_weights(work / "base", averaged=True))
    pipeline = StableDiffusionPipeline(
        vae=half(load_autoencoder(recipe, work)),
        text_encoder=half(base.text_encoder),
        tokenizer=tokenizer,
        unet=half(base.unet),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    _load_as_float32(folder / "text_encoder")


def export_flow(
    recipe: Recipe, work: Path, parts: Path, target: Path, card: str = "", figures: dict[str, Any] | None = None
) -> None:
    """Write the transformer's folder, a StableDiffusion3Pipeline in float16, around the parts of an exported base."""

    def fill(folder: Path) -> None:
        save_flow_pipeline(recipe, work, parts, folder)
        if card:
            write_text(folder / "MODEL_CARD.md", card)
        if figures:
            write_json(folder / "figures.json", figures)
        write_checksums(folder)

    replace_folder(target, fill)


def save_flow_pipeline(recipe: Recipe, work: Path, parts: Path, folder: Path) -> None:
    """The newest transformer (averaged weights) with the frozen parts; the text encoder stands twice."""
    tower, tokenizer = half(load_tower(parts)), load_tokenizer(parts)
    transformer = build_transformer(recipe.flow, recipe.autoencoder.latent_channels, tower.config.hidden_size)
    transformer.load_state_dict(latest_weights(work / "flow", averaged=True))
    pipeline = StableDiffusion3Pipeline(
        vae=half(load_exported(parts)),
        text_encoder=tower,
        tokenizer=tokenizer,
        text_encoder_2=tower,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
        transformer=half(transformer),
        scheduler=build_flow_scheduler(),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    for name in ("text_encoder", "text_encoder_2"):
        _load_as_float32(folder / name)


def save_scorer(name: str, recipe: Recipe, work: Path, folder: Path) -> None:
    """One scorer with the processor that prepares its pictures (and CLIP's tokenizer)."""
    model = load_scorer(name, recipe, work)
    half(cast(PreTrainedModel, model)).save_pretrained(folder)
    _load_as_float32(folder)
    settings = {"do_resize": True, "resample": 3, "do_rescale": True, "do_normalize": True,
                "image_mean": list(MEAN), "image_std": list(STD)}  # fmt: skip
    if name == "dino":
        size = {"height": PICTURE_SIDE, "width": PICTURE_SIDE}
        ViTImageProcessor(size=size, **settings).save_pretrained(folder)
    else:
        crop = {"height": PICTURE_SIDE, "width": PICTURE_SIDE}
        processor = CLIPImageProcessor(size={"shortest_edge": PICTURE_SIDE}, crop_size=crop, **settings)
        processor.save_pretrained(folder)
    if isinstance(model, CLIPModel):
        tokenizer_of().save_pretrained(folder)


def load_scorer(name: str, recipe: Recipe, work: Path) -> nn.Module:
    """The newest weights of scorer `name` ("clip", "dino" or "csd"), float32."""
    model: nn.Module
    if name == "clip":
        model = build_clip(recipe.clip, tokenizer_of())
    elif name == "dino":
        model = build_instance_encoder(recipe.instance)
    else:
        model = build_style_encoder(recipe.style)
    model.load_state_dict(latest_weights(work / _STAGE_OF[name]))
    return model.eval()


def _load_as_float32(folder: Path) -> None:
    """Make transformers load a float16 file as float32 by default, as diffusers does; a CPU wants that."""
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"dtype": "float32"})


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer of an exported folder."""
    return CLIPTokenizer.from_pretrained(folder / "tokenizer")


def half(model: Module) -> Module:
    """The model in float16; rounding moves its pictures by less than one part in 255."""
    return model.to(torch.float16)


def write_checksums(folder: Path) -> None:
    """SHA256SUMS over every other file, in the format of sha256sum."""
    for path in _files(folder):
        path.chmod(0o644)
    lines = [f"{_digest(path)}  {path.relative_to(folder).as_posix()}" for path in _files(folder)]
    write_text(folder / "SHA256SUMS", "\n".join(lines) + "\n")


def damaged(folder: Path) -> list[str]:
    """Files of an exported folder that are missing, changed or not listed in SHA256SUMS."""
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = {line[66:]: line[:64] for line in lines}
    found = {path.relative_to(folder).as_posix(): _digest(path) for path in _files(folder)}
    return sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))


def size_in_bytes(folder: Path) -> int:
    """Bytes of all files of an exported folder."""
    return sum(path.stat().st_size for path in _files(folder)) + (folder / "SHA256SUMS").stat().st_size


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seconds_spent(work: Path) -> dict[str, float]:
    """Wall-clock seconds of each stage's training, from the checkpoints."""
    found: dict[str, float] = {}
    for name in ("autoencoder", "decoder", "words", "base", "clip", "instance", "style"):
        pointer = work / name / "latest.json"
        if pointer.exists():
            state = work / name / "state" / read_json(pointer)["state"] / "state.json"
            found[name] = read_json(state)["seconds"]
    return found
