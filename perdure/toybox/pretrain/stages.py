"""The stages in order, each a function of (recipe, work folder); finished work is found on disk and not done again."""

import json
import shutil
from pathlib import Path

from transformers import CLIPTokenizer

from perdure.files import read_json, write_json
from perdure.toybox.pretrain.autoencoder import load_autoencoder, load_exported, train_autoencoder, train_decoder
from perdure.toybox.pretrain.data import HELD_OUT, TRAIN, Pictures
from perdure.toybox.pretrain.feed import Latents
from perdure.toybox.pretrain.processes import run_together
from perdure.toybox.pretrain.recipe import Recipe
from perdure.toybox.pretrain.tokenizer import build_tokenizer
from perdure.toybox.pretrain.trainer import Decay
from perdure.toybox.pretrain.words import train_words
from perdure.toybox.world import VOCABULARY

#: The stages of the first base, and those of the transformer that builds on its exported folder.
STAGES = ("draw", "autoencoder", "latents", "decoder", "clip", "instance", "style", "words", "base")
FLOW_STAGES = ("draw", "latents", "flow")


def tokenizer_of() -> CLIPTokenizer:
    """The tokenizer over the world's words."""
    return build_tokenizer(VOCABULARY)


def draw_pictures(recipe: Recipe, work: Path) -> None:
    """Draw the missing shards of both splits."""
    for split in (HELD_OUT, TRAIN):
        Pictures(work, recipe.seed, split, recipe.data).prepare(recipe.processes)


def encode_pictures(recipe: Recipe, work: Path, parts: Path | None = None) -> None:
    """Encode the missing shards of latents of both splits, with the autoencoder trained here or that of `parts`."""
    model = load_autoencoder(recipe, work) if parts is None else load_exported(parts)
    for split in (HELD_OUT, TRAIN):
        Latents(work, recipe, split).prepare(model)


def train_generator(
    recipe: Recipe, work: Path, until: int | None = None, decay: Decay = None, parts: Path | None = None
) -> None:
    """Train the UNet and its text encoder, or on `parts` the transformer, in `recipe.processes` processes."""
    where = {"work": str(work.resolve()), "parts": None if parts is None else str(parts.resolve())}
    order = {"recipe": recipe.name, "seed": recipe.seed, **where, "until": until, "decay": decay}
    run_together([json.dumps(order)], recipe.processes)


def train_scorer(name: str, recipe: Recipe, work: Path, until: int | None = None, decay: Decay = None) -> None:
    """Train one of "clip", "instance" and "style"."""
    if name == "clip":
        from perdure.toybox.pretrain.clip import train_clip

        train_clip(recipe, work, tokenizer_of(), until, decay)
    elif name == "instance":
        from perdure.toybox.pretrain.instance import train_instance_encoder

        train_instance_encoder(recipe, work, until, decay)
    else:
        from perdure.toybox.pretrain.style import train_style_encoder

        train_style_encoder(recipe, work, until, decay)


def run_stage(
    name: str,
    recipe: Recipe,
    work: Path,
    photos: Path | None = None,
    until: int | None = None,
    decay: Decay = None,
    parts: Path | None = None,
) -> None:
    """Run one stage of STAGES or FLOW_STAGES; it resumes where it stopped. The flow needs `parts`, an exported base."""
    if name == "draw":
        draw_pictures(recipe, work)
    elif name == "autoencoder":
        train_autoencoder(recipe, work, photos, until, decay)
    elif name == "decoder":
        train_decoder(recipe, work, photos, until, decay)
    elif name == "latents":
        encode_pictures(recipe, work, parts)
    elif name == "words":
        train_words(recipe, work, tokenizer_of(), until, decay)
    elif name == "base":
        train_generator(recipe, work, until, decay)
    elif name == "flow":
        train_generator(recipe, work, until, decay, parts)
    else:
        train_scorer(name, recipe, work, until, decay)


def rewind(folder: Path, pin: str) -> int:
    """Make the state kept under the name `pin` the newest one of a stage again; returns its step."""
    step = int(read_json(folder / "state" / pin / "state.json")["step"])
    target = folder / "state" / f"{step:07d}"
    if not target.exists():
        shutil.copytree(folder / "state" / pin, target)
    write_json(folder / "latest.json", {"state": target.name})
    return step
