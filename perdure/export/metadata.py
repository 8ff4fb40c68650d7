"""What is written into and beside a file for other tools: ModelSpec, kohya's `ss_*`, hashes, cards, a hub page.

Sources: ModelSpec 1.0.1 and kohya's library/sai_model_spec.py; kohya train_util.py (SS_METADATA_MINIMUM_KEYS,
precalculate_safetensors_hashes); A1111 extensions-builtin/Lora/network.py `detect_version` and ui_extra_networks.py;
Forge sd_forge_lora/network.py.
"""

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from perdure import files
from perdure.errors import PerdureError
from perdure.export.choosing import ADAPTER, Content
from perdure.lineage import Lineage
from perdure.memory.delta import Delta
from perdure.plan import EMBEDDED, yaml_file

IMPLEMENTATION = "https://github.com/Stability-AI/generative-models"
FAMILIES = {
    "sd1": {"ss_base_model_version": "sd_v1", "ss_v2": "False"},
    "sd2": {"ss_base_model_version": "sd_v2", "ss_v2": "True"},
    "sd2-v": {"ss_base_model_version": "sd_v2_v", "ss_v2": "True"},
    "sdxl": {"ss_base_model_version": "sdxl_base_v1-0", "ss_v2": "False"},
}
"""A1111 takes any other metadata for SD 1, and then hides a file from SDXL's list."""
ARCHITECTURES = {
    "sd1": "stable-diffusion-v1", "sd2": "stable-diffusion-v2-512", "sd2-v": "stable-diffusion-v2-768-v",
    "sdxl": "stable-diffusion-xl-v1-base", "sd3": "stable-diffusion-3", "flux": "flux-1", "flux2": "flux-2",
    "z-image": "z-image", "pixart": "pixart",
}  # fmt: skip
SHOWN = {"sd1": "SD1", "sd2": "SD2", "sd2-v": "SD2", "sdxl": "SDXL"}
"""How A1111's cards call the families."""
TITLES = {
    "sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sd2-v": "Stable Diffusion 2 (v)", "sdxl": "SDXL",
    "sd3": "Stable Diffusion 3", "flux": "FLUX.1", "flux2": "FLUX.2", "z-image": "Z-Image", "pixart": "PixArt",
}  # fmt: skip
TRANSFORMERS = {
    "StableDiffusion3Pipeline": "sd3", "FluxPipeline": "flux", "FluxKontextPipeline": "flux",
    "Flux2KleinPipeline": "flux2", "Flux2Pipeline": "flux2", "ZImagePipeline": "z-image",
    "PixArtAlphaPipeline": "pixart", "PixArtSigmaPipeline": "pixart",
}  # fmt: skip
BASE_VERSIONS = {"flux": "flux1", "z-image": "zimage"}
"""What ai-toolkit writes as `ss_base_model_version` for transformers."""
THUMBNAIL = 256
"""Side of the picture inside a file, in pixels (ModelSpec)."""
LICENCE = re.compile(r"^[A-Za-z0-9][\w.+-]*$")


@dataclass(frozen=True)
class Shown:
    """A picture that the model drew right after the lesson: of which concept, and by which prompt, as other tools
    want it.
    """

    concept: str
    file: Path
    prompt: str


def family_of(pipe: Any) -> str:
    """sd1, sd2, sd2-v (predicts velocity) or sdxl, by the pipeline's parts and the width of its cross-attention; of
    transformers by the pipeline's class, which is the answer itself where it is none of perdure's own.
    """
    if "unet" not in pipe.components:
        return TRANSFORMERS.get(type(pipe).__name__, type(pipe).__name__)
    if pipe.components.get("text_encoder_2") is not None:
        return "sdxl"
    if pipe.unet.config.cross_attention_dim != 1024:
        return "sd1"
    return "sd2-v" if pipe.scheduler.config.get("prediction_type") == "v_prediction" else "sd2"


def shown(content: Content) -> list[Shown]:
    """The first picture of each concept that has any."""
    cells = [(concept.name, content.lesson.cell(concept.name)) for concept in content.concepts]
    return [
        Shown(name, cell.images[0], content.spoken(cell.record["images"][0]["prompt"]))
        for name, cell in cells if cell and cell.images
    ]  # fmt: skip


def thumbnail(file: Path) -> dict[str, str]:
    """A picture for inside a file: JPEG in base64, as ModelSpec has it. Raises LineageError where it is damaged."""
    picture, buffer = files.read_png(file), io.BytesIO()
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    picture.save(buffer, "jpeg", quality=90)
    return {"modelspec.thumbnail": "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()}


def base_of(lineage: Lineage) -> str:
    """What others know the base by: its hub id, or the name of its folder or file."""
    base = str(lineage.settings["base"])
    return Path(base).name if os.path.isabs(base) else base


def transformer_of(lineage: Lineage) -> str:
    """The name of the file that stands for the base's transformer; "" where it is the base's own."""
    return Path(lineage.settings.get("transformer") or "").name


def licence_of(base: str) -> str:
    """The licence in a base's own card, beside it or in the hub's cache; "" where none is told."""
    if base in EMBEDDED:
        return "apache-2.0"
    found = Path(base) / "README.md" if os.path.isabs(base) else try_to_load_from_cache(base, "README.md")
    try:
        text = files.read_text(Path(found).resolve()) if isinstance(found, str | Path) else ""  # the cache has links
        front = yaml_file.parse(text.split("---\n", 2)[1], base)[0] if text.startswith("---\n") else {}
    except (PerdureError, IndexError):
        return ""
    told = str(front.get("license", ""))
    return told if LICENCE.fullmatch(told) else ""


def own(lineage: Lineage, content: Content) -> dict[str, str]:
    """`perdure.*`: where the file comes from, and what its concepts scored right after the lesson."""
    scores = {c.name: cell.scores for c in content.concepts if (cell := content.lesson.cell(c.name))}
    facts = {
        "base": base_of(lineage), "base_identity": lineage.facts["base_identity"],
        "method": lineage.settings["methods"][0]["label"], "lesson": str(content.lesson.number),
        "memory": content.lesson.record["memory"], "concepts": json.dumps([c.name for c in content.concepts]),
        "only": content.only or "", "scores": json.dumps(scores), "triggers": json.dumps(content.triggers),
    }  # fmt: skip
    if separate := transformer_of(lineage):
        facts["transformer"] = separate
    return {f"perdure.{key}": value for key, value in facts.items()}


def spec(family: str, title: str, kind: str, content: Content, lineage: Lineage, predicts: str) -> dict[str, str]:
    """ModelSpec; `kind`: lora, textual-inversion, or "" for a checkpoint."""
    side = lineage.settings["training"]["resolution"]
    by_kohya = family == "sd1" and kind == "lora"  # its rule: diffusers for LoRA files of SD 1 alone
    unet = family in FAMILIES
    told = {"modelspec.prediction_type": "v" if predicts == "v_prediction" else "epsilon"} if unet else {}
    return told | {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": ARCHITECTURES.get(family, family) + (f"/{kind}" if kind else ""),
        "modelspec.implementation": "diffusers" if by_kohya or not unet else IMPLEMENTATION,
        "modelspec.title": title,
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.trigger_phrase": ", ".join(content.triggers),
        "modelspec.description": f"{', '.join(c.name for c in content.concepts)}, taught by perdure",
    }


def trained(family: str, title: str, content: Content, delta: Delta, lineage: Lineage) -> dict[str, str]:
    """kohya's `ss_*` of a LoRA file."""
    rank = max((change.rank or 0 for change in delta.values()), default=0)
    dense = any(change.dense is not None for change in delta.values())
    training = lineage.settings["training"]
    tags = {c.name: {trigger: 1} for c, trigger in zip(content.concepts, content.triggers, strict=True)}
    return {
        **(FAMILIES.get(family) or {"ss_base_model_version": BASE_VERSIONS.get(family, family)}),
        "ss_network_module": "lycoris.kohya" if dense else "networks.lora",
        "ss_network_dim": str(rank), "ss_network_alpha": f"{float(rank)}", "ss_network_args": "{}",
        "ss_output_name": title, "ss_tag_frequency": json.dumps(tags), "ss_sd_model_name": base_of(lineage),
        "ss_resolution": f"({training['resolution']}, {training['resolution']})", "ss_steps": str(training["steps"]),
        "ss_seed": str(lineage.settings["seed"]), "ss_training_comment": "perdure",
    }  # fmt: skip


def file_bytes(tensors: Mapping[str, Tensor], ss: Mapping[str, str], others: Mapping[str, str]) -> bytes:
    """A LoRA or embedding file with both of kohya's hashes, which are of the file with its `ss_*` alone."""
    plain = save(dict(tensors), metadata={"format": "pt", **ss})
    body = memoryview(plain)[8 + int.from_bytes(plain[:8], "little") :]
    whole = hashlib.sha256(body).hexdigest()
    hashes = {"modelspec.hash_sha256": f"0x{whole}"}
    if ss:
        old = hashlib.sha256(memoryview(plain)[0x100000:0x110000]).hexdigest()[:8]
        hashes |= {"sshs_model_hash": whole, "sshs_legacy_hash": old}
    return bytes(save(dict(tensors), metadata={"format": "pt", **ss, **others, **hashes}))


def card(family: str, content: Content, reason: str) -> dict[str, Any]:
    """A1111's and Forge's card beside a file: the triggers are put into the prompt on a click."""
    return {
        "description": f"{', '.join(c.name for c in content.concepts)}: {', '.join(content.triggers)}",
        "sd version": SHOWN[family], "activation text": ", ".join(content.triggers), "preferred weight": 1.0,
        "notes": f"perdure: {reason}",
    }  # fmt: skip


TAGS = {
    **dict.fromkeys(("sd1", "sd2", "sd2-v"), "stable-diffusion"), "sdxl": "stable-diffusion-xl",
    **{family: family for family in ("sd3", "flux", "flux2", "z-image", "pixart")},
}  # fmt: skip
"""How the hub calls the families."""


def page(lineage: Lineage, family: str, title: str, content: Content, kind: str, pictures: Mapping[str, str]) -> str:
    """README.md of a hub folder: front matter with a gallery, scores, and how to draw with diffusers.

    `pictures`: path in the folder -> the prompt that drew it.
    """
    base, adapter = base_of(lineage), kind == ADAPTER
    hub_base = "/" in base  # a name on this machine says nothing there
    tags = ["text-to-image", "diffusers", TAGS[family], f"{TAGS[family]}-diffusers"]
    front: dict[str, Any] = {
        "library_name": "diffusers", "pipeline_tag": "text-to-image", "instance_prompt": ", ".join(content.triggers),
        "tags": [*tags, *(["lora", "template:sd-lora"] if adapter else []), "perdure"],
        "widget": [{"text": prompt, "output": {"url": path}} for path, prompt in pictures.items()],
    }  # fmt: skip
    if hub_base:
        front |= {"base_model": base, "base_model_relation": "adapter" if adapter else "finetune"}
    if licence := licence_of(str(lineage.settings["base"])):
        front["license"] = licence
    made = ", ".join(f"`{trigger}`" for trigger in content.triggers)
    method, separate = lineage.settings["methods"][0]["label"], transformer_of(lineage)
    beside = f"Of the base the transformer is that of `{separate}`: load this in its place.\n\n" if separate else ""
    return (
        f"---\n{yaml_file.dump(front)}---\n\n# {title}\n\n<Gallery />\n\n"
        f"{TITLES.get(family, family)}, taught by perdure with `{method}`, lesson {content.lesson.number}. "
        f"Call it by {made}.\n\n{beside if adapter else ''}"
        f"{_script(base if hub_base else 'the base', content, adapter)}"
        f"{_scores(content)}"
    )


def _script(base: str, content: Content, adapter: bool) -> str:
    """How to draw with diffusers."""
    lines = [f'pipe = DiffusionPipeline.from_pretrained("{base if adapter else "this repository"}")']
    if adapter:
        lines.append('pipe.load_lora_weights("this repository")')
    if adapter and content.words:
        lines.append("# and its words: pipe.load_textual_inversion with each file of embeddings/")
    lines.append(f"pipe({content.triggers[0]!r}).images[0].save('it.png')")
    return "```python\nfrom diffusers import DiffusionPipeline\n\n" + "\n".join(lines) + "\n```\n\n"


def _scores(content: Content) -> str:
    """A table with a row for each concept that was scored; nothing where none was."""
    rows = [
        f"| {c.name} | " + ", ".join(f"{m} {v:.3f}" for m, v in cell.scores.items()) + " |\n"
        for c in content.concepts if (cell := content.lesson.cell(c.name)) and cell.scores
    ]  # fmt: skip
    return "".join(["| concept | scores |\n|---|---|\n", *rows]) if rows else ""
