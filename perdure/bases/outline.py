"""What is known of a base without loading it: where it is, how it reads text, how many noise levels it has.

Needs no torch, so that a plan is checked quickly.
"""

import copy
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import try_to_load_from_cache
from transformers import CLIPTokenizer

from perdure.bases import single
from perdure.errors import ModelError
from perdure.plan import TOYBOX, TOYBOX_VIT, TOYFLOW
from perdure.score.sources import HUB_ID, Reading
from perdure.wording import FIRST, PLACES

EMBEDDED = Path(__file__).parent.parent / "toybox" / "weights"
"""The folder of the embedded base, its world's scorers in it."""
FOLDERS = {TOYBOX: EMBEDDED, TOYFLOW: EMBEDDED.parent / "flow"}
"""The folders of both embedded bases."""
EMBEDDED_VIT = EMBEDDED / "scorers" / "clip"
IN_CACHE = "in the hub cache"
RARE = 0.9
"""Share of a vocabulary below which its words count as common (taste): `sks` is at .97 of CLIP's."""
GENERAL = ("PixtralProcessor", "TokenizersBackend")
"""Classes whose folders say themselves how text is read: a processor of text and pictures, a tokenizer of no model."""
TIMESTEPS = 1000
"""Noise levels where a scheduler's configuration names none, as in diffusers."""


@dataclass(frozen=True)
class Cut:
    """A text of which an encoder does not read all.

    length, limit: in ids, both ends counted. kept: what is read. lost: the words of which not all is read.
    """

    length: int
    limit: int
    kept: str
    lost: str


@dataclass(frozen=True)
class Outline:
    """The tokenizers of a base, placeholders of learnt words added, and the noise levels of its schedule."""

    tokenizers: tuple[Any, ...]
    timesteps: int

    def ids(self, text: str) -> tuple[tuple[int, ...], ...]:
        """The ids of a text for each tokenizer, without those of both ends."""
        return tuple(tuple(_encoded(tokenizer, text)["input_ids"]) for tokenizer in self.tokenizers)

    def known(self, text: str) -> tuple[tuple[int, ...], ...]:
        """The ids that stand for something in the text: neither for what a tokenizer does not know nor for an end."""
        nothing = [{t.unk_token_id, t.bos_token_id, t.eos_token_id} for t in self.tokenizers]
        return tuple(tuple(i for i in ids if i not in none) for ids, none in zip(self.ids(text), nothing, strict=True))

    def common(self, word: str) -> bool:
        """Whether the first tokenizer reads a word whole, and not as one of its rarest (the last tenth of its ids)."""
        tokenizer = self.tokenizers[0]
        ids, known = self.ids(word)[0], self.known(word)[0]
        return len(ids) == 1 and ids == known and ids[0] < RARE * tokenizer.vocab_size

    def cut(self, text: str) -> Cut | None:
        """What is cut off a text by the tokenizer that keeps most of it; None where one reads all."""
        cuts = []
        for tokenizer in self.tokenizers:
            encoded, ends = _encoded(tokenizer, text), tokenizer.num_special_tokens_to_add()
            length, limit = len(encoded["input_ids"]) + ends, tokenizer.model_max_length
            if length > limit:
                first = encoded["offset_mapping"][limit - ends][0]
                cuts.append(Cut(length, limit, text[:first], text[text.rfind(" ", 0, first) + 1 :]))
        return max(cuts, key=lambda cut: len(cut.kept)) if len(cuts) == len(self.tokenizers) else None


def here(found: str) -> Path | None:
    """The folder of a base on this machine; None of a base in one file, and of a hub id that is not in the cache."""
    if os.path.isdir(found):
        return Path(found)
    cached = None if os.path.isfile(found) else try_to_load_from_cache(found, "model_index.json")
    return Path(cached).parent if isinstance(cached, str) else None


def _encoded(tokenizer: Any, text: str) -> Any:
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)


def of(base: str) -> Outline | None:
    """The outline of a base; None for a hub id of which the cache has no tokenizer.

    Raises ModelError for a local folder that is missing, no pipeline, or damaged, and for a file that is no base.
    """
    found = source(base)
    if os.path.isfile(found):
        return Outline(
            tuple(_placed(tokenizer) for tokenizer in single.read(Path(found)).tokenizers.values()), TIMESTEPS
        )
    local, folder = os.path.isdir(found), here(found) or Path(found)
    names = [name for name in ("tokenizer", "tokenizer_2", "tokenizer_3") if (folder / name).is_dir()]
    if not names and not local:
        return None
    if not names:
        raise ModelError(f"base {base} is incomplete: its folder tokenizer/ is missing; download or copy it again")
    return Outline(tuple(_tokenizer(folder / name, base) for name in names), _timesteps(folder, base))


def _tokenizer(folder: Path, base: str) -> Any:
    with Reading(lambda why: f"base {base}: its {folder.name}/ cannot be read ({why}); restore it from a copy"):
        tokenizer = _class(folder).from_pretrained(str(folder), local_files_only=True)
        if not isinstance(tokenizer.model_max_length, int):
            raise TypeError("its model_max_length is no number")
    return _placed(tokenizer)


def _placed(tokenizer: Any) -> Any:
    """A tokenizer with placeholders of learnt words."""
    own = copy.deepcopy(tokenizer)
    own.add_tokens([chr(FIRST + number) for number in range(PLACES)])
    return own


def _class(folder: Path) -> Any:
    """The class of a tokenizer by the pipeline's index; CLIP's where that names none."""
    try:
        _, name = json.loads((folder.parent / "model_index.json").read_text(encoding="utf-8"))[folder.name]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        name = ""
    if name in GENERAL:
        return transformers.AutoTokenizer
    known = isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9]+Tokenizer(Fast)?", name)
    return getattr(transformers, name, CLIPTokenizer) if known else CLIPTokenizer


def _timesteps(folder: Path, base: str) -> int:
    path = folder / "scheduler" / "scheduler_config.json"
    try:
        return int(json.loads(path.read_text(encoding="utf-8")).get("num_train_timesteps", TIMESTEPS))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        raise ModelError(f"base {base}: scheduler/{path.name} cannot be read; restore it from a copy") from None


def available(base: str) -> str:
    """In words: where a base would come from, without loading it."""
    if base in FOLDERS:
        there = (FOLDERS[base] / "model_index.json").is_file()
        return "embedded in the package" if there else "weights not in this installation"
    if os.path.exists(base):
        return f"local {'folder' if os.path.isdir(base) else 'file'} {base}"
    return IN_CACHE if isinstance(try_to_load_from_cache(base, "model_index.json"), str) else "would be downloaded"


def vit(base: str) -> str:
    """The folder of a classifier's base, or its hub id."""
    return str(EMBEDDED_VIT) if base == TOYBOX_VIT else base


def source(base: str) -> str:
    """The folder or file of a base, or its hub id. Raises ModelError for what is none of them."""
    if "://" in base or "@" in base:
        raise ModelError(
            f"base {base}: give a hub id (owner/name), a local diffusers folder or a checkpoint file; of a web address "
            "take the owner/name in it, of a revision a folder downloaded at it"
        )
    if base in FOLDERS:
        if not (FOLDERS[base] / "model_index.json").is_file():
            raise ModelError(
                f"the weights of the embedded base {base} are not in this installation; reinstall perdure, make them "
                "as docs/reproducing.md says, or name another base"
            )
        return str(FOLDERS[base])
    if single.is_file(base):
        path = Path(os.path.expanduser(base))
        if not path.is_file():
            raise ModelError(f"base {base}: no such file" if not path.exists() else f"base {base} is no plain file")
        return str(path)
    if os.path.exists(base) or base.startswith((".", "/", "~")) or base.count("/") > 1:
        folder = Path(os.path.expanduser(base))
        if not os.path.isdir(folder):
            raise ModelError(f"base {base}: no such folder")
        if not (folder / "model_index.json").is_file():
            raise ModelError(
                f"base {base} is not a diffusers pipeline (no model_index.json); give its folder, or the .safetensors "
                "file of a Stable Diffusion checkpoint"
            )
        return str(folder)
    if not HUB_ID.fullmatch(base):
        raise ModelError(f"base {base}: there is no such folder, and it is no hub id (owner/name) either")
    return base
