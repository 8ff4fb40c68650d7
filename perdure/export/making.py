"""The files of an export, each with its size before it is written; and how they come to their place, whole."""

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from perdure import files
from perdure.bases.family import Family, quiet, spells
from perdure.bases.laying import Layer
from perdure.errors import ModelError, PerdureError
from perdure.export import metadata, original, reading, weights
from perdure.export.choosing import ADAPTER, CHECKPOINT, Choice, Content, Wish
from perdure.lineage import Lineage
from perdure.lineage.rows import PARTIAL
from perdure.wording import size

PLACES = {
    "comfyui": ("loras/", "embeddings/"),
    "a1111": ("models/Lora/", "embeddings/"),
    "forge": ("models/Lora/", "embeddings/"),
}
"""Where a tool looks for LoRA files and words, in ComfyUI's models folder or in the web UI's own."""
WORK = f".perdure{PARTIAL}"
"""Where files are made, in a folder that is there."""
FACTS = "perdure.json"
"""What a folder says of itself; files say it in their metadata."""
HUB_FILE = "pytorch_lora_weights.safetensors"
"""What diffusers looks for in a folder."""


@dataclass(frozen=True)
class Item:
    """One file, or the whole folder (`path` ""); `write` is given where it shall stand."""

    path: str
    nbytes: int
    write: Callable[[Path], None]


@dataclass(frozen=True)
class Making:
    """All that is known when files are made."""

    lineage: Lineage
    content: Content
    choice: Choice
    wish: Wish
    pipe: Any
    """The base, float32."""
    family: Family

    @property
    def stem(self) -> str:
        """The files' name: the model's, with what is singled out."""
        name, wish = str(self.lineage.facts["name"]), self.wish
        return name + (f"-{wish.only}" if wish.only else "") + (f"-after-{wish.after}" if wish.after else "")

    @property
    def dtype(self) -> str:
        """The dtype that is written: half precision for files, a folder as exact as the model is drawn."""
        half = self.choice.kind in (ADAPTER, CHECKPOINT)
        return self.wish.dtype or ("fp16" if half else str(self.lineage.settings["training"].get("precision", "fp32")))

    @property
    def main(self) -> str:
        """The main file's path; "" for a folder."""
        if self.choice.kind == ADAPTER and self.wish.to == "hub":
            return HUB_FILE
        lora = PLACES.get(self.wish.to, ("", ""))[0] if self.choice.kind == ADAPTER else ""
        return f"{lora}{self.stem}.safetensors" if self.choice.kind in (ADAPTER, CHECKPOINT) else ""

    @property
    def words(self) -> dict[str, str]:
        """Path of each learnt word's file, by token; in a folder the tokenizer knows them."""
        inside = PLACES.get(self.wish.to, ("", "embeddings/"))[1]
        return {t: f"{inside}{self.content.names[t]}.safetensors" for t in self.content.words} if self.main else {}

    @property
    def _facts(self) -> dict[str, str]:
        """Where it comes from, what it shows, and what was asked for: proven again by that, whatever is taught then."""
        asked = json.dumps({**asdict(self.wish), "after": self.content.lesson.number})
        return metadata.own(self.lineage, self.content) | {"perdure.wish": asked}

    def items(self) -> list[Item]:
        """Every file, weights first."""
        dtype = weights.DTYPES[self.dtype]
        pictures = metadata.shown(self.content)
        family, predicts = metadata.family_of(self.pipe), self.pipe.scheduler.config.get("prediction_type", "epsilon")
        spec = partial(metadata.spec, family, self.stem, content=self.content, lineage=self.lineage, predicts=predicts)
        mine = self._facts | (metadata.thumbnail(pictures[-1].file) if pictures else {})
        made = []
        if self.choice.kind == ADAPTER and self.choice.delta:
            network = self.family.network
            tensors = weights.adapter(self.choice.delta, dtype, network, kernels(self.pipe.components[network]))
            ss = metadata.trained(family, self.stem, self.content, self.choice.delta, self.lineage)
            data = partial(metadata.file_bytes, tensors, ss, spec(kind="lora") | mine)
            made.append(_file(self.main, weights.nbytes(tensors), data))
        elif self.choice.kind != ADAPTER:
            fold(self.pipe.components[self.family.network], self.choice.delta)
            write = (
                partial(_whole, self.pipe, spec(kind="") | mine, dtype)
                if self.main
                else partial(_folder, self.pipe, self.family, self.content, dtype)
            )
            made.append(Item(self.main, _size(self.pipe, dtype), write))
        encoders = list(reading.encoders(self.pipe, self.family))
        for token, path in self.words.items():
            tensors = weights.embedding(self.content.words[token], encoders, torch.float32)
            alone = replace(self.content, concepts=tuple(c for c in self.content.concepts if c.token == token))
            extra = (
                spec(kind="textual-inversion", content=alone)
                | self._facts
                | {"modelspec.is_negative_embedding": "false"}
            )
            made.append(_file(path, weights.nbytes(tensors), partial(metadata.file_bytes, tensors, {}, extra)))
        return [*made, *self._beside(family, pictures)]

    def _beside(self, family: str, shown: list[metadata.Shown]) -> list[Item]:
        """Previews, card and text as the tool wants them; for the hub a page and its pictures."""
        made = [] if self.main else [_file(FACTS, 0, json.dumps(self._facts, indent=1).encode)]
        if self.wish.to == "hub":
            named = {f"images/{one.concept}.png": one for one in shown}
            prompts = {path: one.prompt for path, one in named.items()}
            page = metadata.page(self.lineage, family, self.stem, self.content, self.choice.kind, prompts)
            made += [_file(path, 0, one.file.read_bytes) for path, one in named.items()]
            return [*made, _file("README.md", 0, page.encode)]
        if not self.main:
            return made
        beside = self.main.removesuffix(".safetensors")
        told = f"{self.stem}: {', '.join(self.content.triggers)}\n"
        made.append(_file(f"{beside}.txt", 0, told.encode))
        previews = {one.concept: one.file for one in shown}
        if shown:
            made.append(_file(f"{beside}.preview.png", 0, shown[-1].file.read_bytes))
        for concept in self.content.concepts:
            if (path := self.words.get(concept.token)) and concept.name in previews:
                preview = f"{path.removesuffix('.safetensors')}.preview.png"
                made.append(_file(preview, 0, previews[concept.name].read_bytes))
        if self.wish.to in ("a1111", "forge"):
            card = json.dumps(metadata.card(family, self.content, self.choice.reason), indent=1)
            made.append(_file(f"{beside}.json", 0, card.encode))
        return made


def _file(path: str, nbytes: int, data: Callable[[], bytes]) -> Item:
    return Item(path, nbytes, lambda where: files.write_bytes(where, data()))


def fold(network: Any, delta: Mapping[str, Any]) -> None:
    """Add a delta to a network's own weights, in place. Raises ModelError where it does not fit or is not finite."""
    for name, change in delta.items():
        layer = network.get_submodule(name)
        if not isinstance(layer, Layer) or tuple(layer.weight.flatten(1).shape) != change.shape:
            raise ModelError(f"this memory moves {name!r} {change.shape}, which the base lacks")
        with torch.no_grad():
            layer.weight += change.matrix().view_as(layer.weight)
        weights.finite({name: layer.weight})


def kernels(network: Any) -> dict[str, tuple[int, ...]]:
    """(in, k, k) of each convolution of a network."""
    return {n: tuple(m.weight.shape[1:]) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}


def _size(pipe: Any, dtype: torch.dtype) -> int:
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return sum(
        p.numel() * (4 if name == "vae" else dtype.itemsize) for name, part in parts.items() for p in part.parameters()
    )


def _whole(pipe: Any, told: Mapping[str, str], dtype: torch.dtype, path: Path) -> None:
    reading.cast(pipe, dtype)
    tensors = weights.finite({name: tensor.contiguous() for name, tensor in original.checkpoint(pipe).items()})
    with _told(path):
        save_file(tensors, path, metadata={"format": "pt", **told})


def _folder(pipe: Any, family: Family, content: Content, dtype: torch.dtype, path: Path) -> None:
    for token, word in content.words.items():
        if len(word.vectors[0]) > 1 and not spells(pipe):
            raise ModelError(
                f"{token} is a word of {len(word.vectors[0])} vectors, which a {type(pipe).__name__} does not write "
                "out; export a LoRA file and embeddings (--to comfyui), or teach with a method of one vector a word"
            )
        reading.speak(pipe, family, content.names[token], word.vectors)
    reading.cast(pipe, dtype)
    weights.finite(pipe.components[family.network].state_dict())
    with _told(path), quiet():
        pipe.save_pretrained(path)
        if type(pipe.text_encoder).__name__ != "CLIPTextModel":
            return
        text = path / "text_encoder" / "model.safetensors"
        held = reading.tensors_of(text)  # transformers before 5.6 would draw random weights for names without prefix
        save_file({n: t.clone() for n, t in original.prefixed(held).items()}, text, metadata={"format": "pt"})


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the system refuses while a big file is written, in one sentence. Raises PerdureError."""
    try:
        with files.telling(path):
            yield
    except SafetensorError as error:
        raise PerdureError(f"cannot write {path.name}: {error}; nothing is left of it") from None


@contextmanager
def staged(out: Path, earlier: Collection[str] = ()) -> Iterator[Path]:
    """A folder beside or in `out` whose files come to their places when the block has ended well; else none is left.

    `earlier`: files in `out` that an earlier export wrote; those of them that are not written again are removed.
    """
    there = out.is_dir()
    work = out / WORK if there else out.with_name(f"{out.name}{PARTIAL}")
    shutil.rmtree(work, ignore_errors=True)
    with files.telling(out):
        files.make_folder(work)
    try:
        yield work
        with files.telling(out):
            made = [path for path in work.rglob("*") if path.is_file()]
            for path in made:
                path.chmod(work.stat().st_mode & 0o666)  # safetensors makes files that their owner alone can read
                with path.open("r+b") as stream:
                    os.fsync(stream.fileno())  # what libraries write is not on the disk yet
            named = [path.relative_to(work) for path in made] if there else []
            for name in named:
                files.make_folder((out / name).parent)
                files.rename(work / name, out / name)
            for old in {*earlier} - {path.as_posix() for path in named} if there else ():
                _inside(out, old).unlink(missing_ok=True)
            if not there:
                files.rename(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _inside(out: Path, name: str) -> Path:
    """The file of a folder that a record calls so. Raises LineageError where it may lead elsewhere."""
    for part in name.split("/"):
        out = files.within(out, part)
    return out


def refuse(out: Path, items: list[Item], force: bool, earlier: Collection[str] = ()) -> None:
    """Refuse to overwrite, and to begin what the disk cannot hold. Raises PerdureError.

    A whole folder takes the place of an empty one, or of what an earlier export wrote there, and of nothing else.
    """
    if os.path.lexists(out) and not out.is_dir():
        raise PerdureError(f"{out} is a file; give a folder to write into")
    taken = [item.path for item in items if item.path and os.path.lexists(out / item.path)]
    whole = any(not item.path for item in items)
    if whole and out.is_dir() and any(path.name != WORK for path in out.iterdir()):
        if force and not earlier:
            raise PerdureError(f"{out} holds what no export of this model to it wrote; give an empty folder")
        taken.append("a folder that is not empty")
    if taken and not force:
        raise PerdureError(f"{out} has {taken[0]} already; choose another folder, or say --force to replace it")
    above = next(path for path in (out, *out.absolute().parents) if path.is_dir())
    needed, free = sum(item.nbytes for item in items), shutil.disk_usage(above).free
    if needed > free:
        raise PerdureError(f"{out} needs {size(needed)}, and {size(free)} are free there; make room first")
