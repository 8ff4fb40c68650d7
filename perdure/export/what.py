"""What a file of any tool is: kind, base, rank, key layout, who reads it, triggers, and what is wrong with it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from perdure.bases import single, transformer
from perdure.errors import ModelError
from perdure.export import layouts, reading
from perdure.export.metadata import ARCHITECTURES, FAMILIES, TITLES
from perdure.wording import some

LORA, EMBEDDING, CHECKPOINT, PART, OTHER = "LoRA", "embedding", "checkpoint", "part of a diffusers pipeline", "unknown"
TRANSFORMER = "transformer"
EMBEDDINGS = ("emb_params", "clip_l", "clip_g", "string_to_param.*", "t5xxl")
"""Tensors of embedding files; a single tensor of any other name is one too (diffusers)."""
FORGE_MOST = 12
"""More unmatched keys than these and Forge refuses a LoRA file (sd_forge_lora/networks.py)."""
PARTS = (
    "down_blocks.", "encoder.down_blocks.", "text_model.", "transformer_blocks.", "single_transformer_blocks.",
    "context_refiner.",
)  # fmt: skip
"""How names of tensors begin in parts of a diffusers pipeline."""
SHOWN = ("ss_", "sshs_", "modelspec.", "perdure.")
THUMBNAIL = "modelspec.thumbnail"
LONG = 200


@dataclass(frozen=True)
class Found:
    """What was found. `family`: a key of TITLES, or "" where it cannot be told; ranks and alphas: value -> modules."""

    file: str
    nbytes: int
    kind: str
    family: str
    layout: str
    readers: tuple[str, ...]
    modules: int
    ranks: Mapping[int, int]
    alphas: Mapping[float, int]
    dense: int
    vectors: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, int]
    triggers: tuple[str, ...]
    pictures: int
    warnings: tuple[str, ...]
    metadata: Mapping[str, str]
    base: str
    """Of a checkpoint or transformer: that it can be taught as a base, or beside one, or why not."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same in words."""
        base = f" for {TITLES[self.family]}" if self.family else ", of what base cannot be told"
        told = [f"{self.file}: {self.kind}{base if self.kind != OTHER else ''}, {self.nbytes / 1e6:.4g} MB"]
        kinds = ", ".join(f"{count} x {dtype}" for dtype, count in self.dtypes.items())
        told.append(f"tensors: {kinds}")
        if self.kind == LORA:
            dense = f", {self.dense} of them dense" if self.dense else ""
            told.append(
                f"layout: {self.layout}; {self.modules} modules{dense}; {_of('rank', self.ranks)}; "
                f"{_of('alpha', self.alphas)}"
            )
        told += [
            f"{name}: {shape[0]} {'vector' if shape[0] == 1 else 'vectors'} of {shape[-1]}"
            for name, shape in self.vectors.items()
        ]
        if self.kind in (LORA, EMBEDDING, CHECKPOINT):
            told.append(f"read by: {', '.join(self.readers) or 'none of ComfyUI, A1111, Forge, InvokeAI, diffusers'}")
        if self.base:
            told.append(f"as a base: {self.base}")
        if self.triggers:
            told.append(f"triggers: {', '.join(self.triggers)}")
        if self.pictures:
            told.append(f"pictures in it: {self.pictures}")
        shown = sorted(key for key in self.metadata if key.startswith(SHOWN) and key != THUMBNAIL)
        told += [f"{key}: {self.metadata[key][:LONG]}" for key in shown]
        return told + [f"warning: {warning}" for warning in self.warnings]


def _of(what: str, counts: Mapping[Any, int]) -> str:
    return f"{what} " + (", ".join(f"{value:g}" for value in sorted(counts)) or "none")


def look(path: Path) -> Found:
    """Look into a safetensors file; tensors are read one at a time. Raises ModelError where it is none.

    Nothing is unpickled, and no code of the file is run.
    """
    metadata = _checked(path)
    shapes, dtypes, bad = {}, Counter[str](), []
    small: dict[str, Tensor] = {}
    for name, tensor in _each(path):
        shapes[name] = tuple(tensor.shape)
        dtypes[str(tensor.dtype).removeprefix("torch.")] += 1
        if tensor.is_floating_point() and not tensor.float().isfinite().all():  # no kernel for 8 bits
            bad.append(name)
        if layouts.parse(name) is not None:
            small[name] = tensor
    modules, _ = layouts.modules(small)
    kind = _kind(shapes, modules)
    warnings = [f"{len(bad)} tensors hold NaN or infinity, {bad[0]} first: it draws black or noise"] if bad else []
    own_family, base = BASES[kind](path) if kind in BASES else ("", "")
    family = own_family or _family(kind, shapes, modules, metadata)
    warnings += _mixed(shapes)
    own = _lora(shapes, modules, family, warnings) if kind == LORA else {}
    readers = own.get("readers", _readers(kind, shapes, warnings))
    warnings += _hidden(kind, family, metadata)
    vectors = dict(shapes) if kind == EMBEDDING else {}
    return Found(
        str(path), path.stat().st_size, kind, family, own.get("layout", ""), readers, len(modules),
        own.get("ranks", {}), own.get("alphas", {}), own.get("dense", 0), vectors, dict(dtypes), _triggers(metadata),
        _pictures(metadata), tuple(warnings), metadata, base,
    )  # fmt: skip


def _as_base(path: Path) -> tuple[str, str]:
    """A checkpoint's family, "" where it is none that can be taught; and whether it can, in words."""
    try:
        layout = single.read(path)
    except ModelError as error:
        return "", str(error).removeprefix(f"base {path} is ").removeprefix(f"base {path} ")
    return layout.family, f"--base {path}" + ("" if layout.has_vae else ", with a vae beside (it has none)")


BASES = {CHECKPOINT: _as_base, TRANSFORMER: transformer.beside}


def _checked(path: Path) -> dict[str, str]:
    """The metadata of a file that is safetensors. Raises ModelError."""
    if path.is_file():
        with path.open("rb") as stream:
            if single.pickled(stream.read(9)):
                raise ModelError(
                    f"{path} is a pickle, which can run any code when it is read, and is not read here; ask for it as "
                    ".safetensors"
                )
    return reading.metadata_of(path)


def _each(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as opened:
            for name in sorted(opened.keys()):
                yield name, opened.get_tensor(name)
    except SafetensorError as error:
        raise ModelError(
            f"{path} is damaged: it is not a safetensors file ({error}); download or export it again"
        ) from None


def _kind(shapes: Mapping[str, tuple[int, ...]], modules: Mapping[str, layouts.Module]) -> str:
    if modules:
        return LORA
    if transformer.family(shapes):
        return TRANSFORMER
    if any(name.startswith((single.UNET, single.FIRST, "conditioner.")) for name in shapes):
        return CHECKPOINT
    if set(shapes) <= set(EMBEDDINGS) or (len(shapes) == 1 and len(next(iter(shapes.values()))) <= 2):
        return EMBEDDING
    return PART if any(name.startswith(PARTS) for name in shapes) else OTHER


def _lora(
    shapes: Mapping[str, tuple[int, ...]], modules: Mapping[str, layouts.Module], family: str, warnings: list[str]
) -> dict[str, Any]:
    found = modules.values()
    layout = Counter(one.layout for one in found).most_common(1)[0][0]
    ranks = Counter(one.rank for one in found if one.rank is not None)
    alphas = Counter(one.alpha for one in found if one.alpha is not None)
    dense = sum("diff" in one.pieces for one in found)
    readers = set(layouts.READERS[layout])
    if layout == layouts.MODEL and family in ("flux2", "z-image"):
        readers |= {"diffusers"}
    if layout == layouts.KOHYA and family and family not in FAMILIES:
        readers -= {"A1111"}
    if dense or family == "pixart":
        readers -= {"diffusers"}
    forms = Counter(one.form for one in found)
    if others := [form for form in forms if form not in ("LoRA", "full")]:
        warnings.append(f"of another form than up times down ({some(others, 2)}): which tools read it was not tried")
    if len(alphas) > 1:
        warnings.append(
            f"{len(alphas)} different alphas: diffusers 0.42 takes the commonest for all modules, silently; export it "
            "anew with one alpha"
        )
    keys = {name: layouts.parse(name) for name in shapes}
    unknown = [name for name, key in keys.items() if key is None]
    words = {key.module for key in keys.values() if key and key.layout == layouts.WORDS}
    if unknown:
        refused = "; Forge refuses the file" if len(unknown) > FORGE_MOST else ""
        warnings.append(f"{len(unknown)} keys that no loader knows, {unknown[0]} first{refused}")
    if words:
        warnings.append(f"words bundled in it ({', '.join(sorted(words))}): A1111 alone reads them")
    return {
        "layout": layout, "ranks": dict(ranks), "alphas": dict(alphas), "dense": dense,
        "readers": tuple(tool for tool in layouts.READERS[layouts.KOHYA] if tool in readers),
    }  # fmt: skip


def _mixed(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Of files whose factors have two kinds of names, as diffusers' training recipe writes them: its loader asks the
    first name which kind it is.
    """
    downs = [name for name in sorted(shapes) if name.endswith((".lora.down.weight", ".lora_A.weight"))]
    others = [name for name in downs if name.endswith(".lora.down.weight")]
    if not others or not downs[0].endswith(".lora_A.weight"):
        return []
    return [
        f"{len(others)} of {len(downs)} modules are called lora.down and not lora_A, as the first is: diffusers 0.42 "
        "leaves them out, silently; export it anew under one name"
    ]


def _readers(kind: str, shapes: Mapping[str, tuple[int, ...]], warnings: list[str]) -> tuple[str, ...]:
    everyone = layouts.READERS[layouts.KOHYA]
    if kind == CHECKPOINT:
        first = [name for name in shapes if name.startswith((single.FIRST, single.SDXL_FIRST))]
        if first and not any(f".{single.TEXT}" in name for name in first):
            warnings.append("the first text encoder's keys lack `text_model.`: ComfyUI and A1111 draw without it")
        return everyone
    if kind == EMBEDDING:
        named = set(shapes) <= {"emb_params", "clip_l", "clip_g"}
        return everyone if named else tuple(tool for tool in everyone if tool != "InvokeAI")
    return ()


def _family(
    kind: str, shapes: Mapping[str, tuple[int, ...]], modules: Mapping[str, layouts.Module], told: Mapping[str, str]
) -> str:
    said = told.get("modelspec.architecture", "").split("/")[0]
    named = next((family for family, name in ARCHITECTURES.items() if name == said), "")
    if kind == LORA:
        own = layouts.of_network(modules.values())
        if family := layouts.transformer(own):
            return family
        if any("_add_k_proj" in name or "_add_v_proj" in name for name in own):  # of several families, of one form
            return named
        return layouts.WIDTHS.get(layouts.width(modules.values()) or 0, named)
    if kind == EMBEDDING:
        widths = {shape[-1] for shape in shapes.values() if shape}
        return "sdxl" if "clip_g" in shapes or 1280 in widths else layouts.WIDTHS.get(max(widths, default=0), named)
    wide = (shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight"))
    return layouts.WIDTHS.get(next(wide, 0), "")


def _hidden(kind: str, family: str, metadata: Mapping[str, str]) -> list[str]:
    """What A1111 makes of a LoRA file's metadata (network.py `detect_version`), where that is wrong."""
    if kind != LORA or not metadata or family not in FAMILIES:
        return []
    if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        taken = "sdxl"
    else:
        taken = "sd2" if metadata.get("ss_v2") == "True" else "sd1"
    if taken == family:
        return []
    wanted = FAMILIES[family]["ss_base_model_version"]
    return [
        f"A1111 takes it for {TITLES[taken]} and hides it from {TITLES[family]}'s list: "
        f"its ss_base_model_version is not {wanted}"
    ]


def _triggers(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Trigger words: what the file says, else the commonest tags of its training."""
    if said := metadata.get("modelspec.trigger_phrase"):
        return tuple(word.strip() for word in said.split(",") if word.strip())
    try:
        counted = json.loads(metadata.get("ss_tag_frequency", "{}"))
        tags = Counter({tag: int(n) for folder in counted.values() for tag, n in folder.items()})
    except (ValueError, AttributeError, TypeError):
        return ()
    return tuple(tag for tag, _ in tags.most_common(5))


def _pictures(metadata: Mapping[str, str]) -> int:
    try:
        covers = len(json.loads(metadata.get("ssmd_cover_images", "[]")))
    except (ValueError, TypeError):
        covers = 0
    return covers + (THUMBNAIL in metadata)
