"""Export: from a taught model to files that other tools load, proven before they are handed over."""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from perdure import files
from perdure.bases import loading
from perdure.bases.family import reads_lora
from perdure.errors import LineageError, ModelError, PerdureError
from perdure.export import making, metadata, reading, weights
from perdure.export.choosing import ADAPTER, CHECKPOINT, FOLDER, Choice, Content, Wish, choose, content
from perdure.export.making import FACTS, Making
from perdure.export.proof import Exhibit, Proof, prove
from perdure.lineage import Lineage, agreement, exports
from perdure.score.sources import short
from perdure.wording import size

Tell = Callable[[str], None]
MARKS = {"model.diffusion_model.": CHECKPOINT, "lora_unet_": ADAPTER, "transformer.": ADAPTER}


@dataclass(frozen=True)
class Handed:
    """What was handed over, and the proof of it. `files`: path below `out` -> bytes of weights; `all`: every path."""

    out: Path
    choice: Choice
    files: dict[str, int]
    all: tuple[str, ...]
    content: Content
    proof: Proof


def export(
    lineage: Lineage, out: Path, wish: Wish, force: bool = False, pictures: int = 2, device: str | None = None,
    tell: Tell = lambda text: None,
) -> Handed:  # fmt: skip
    """Write what is wished into the folder `out`, and prove it before it is there under its name.

    Raises PerdureError, nothing being left, where it cannot be exported, written, or is not what the memory holds.
    """
    own = content(lineage, wish.after, wish.only)
    plan = lineage.plan()
    agreement.on_base(lineage, loading.known(plan))
    pipe, family = loading.pipeline(plan.base, "fp32", plan.vae, plan.family, plan.transformer)
    chosen = choose(own, wish, plan.base, family.network, reads_lora(pipe))
    tell(f"{chosen.kind}: {chosen.reason}")
    made = Making(lineage, own, chosen, wish, pipe, family)
    place, name = str(out.absolute()), made.stem if made.main else ""
    earlier = exports.written(lineage.folder, place, name) if force else []
    with making.staged(out, earlier) as work:
        exhibit, sizes = _written(made, out, work, force, earlier, tell)
        proof = prove(exhibit, lineage, own, pictures, device)
        if proof.failings:
            told = "; ".join(proof.failings)
            raise PerdureError(f"the export is not what the memory holds, and was not handed over: {told}")
        paths = sorted(path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file())
    handed = Handed(out, chosen, sizes, tuple(paths), own, proof)
    exports.note(lineage.folder, {"place": place, "name": name, **_entry(handed)})
    return handed


def _entry(handed: Handed) -> dict[str, Any]:
    """What is noted of an export beside the model."""
    return {
        "files": list(handed.all), "kind": handed.choice.kind, "reason": handed.choice.reason,
        "lesson": handed.content.lesson.number, "concepts": [concept.name for concept in handed.content.concepts],
        "triggers": list(handed.content.triggers), "bytes": sum(handed.files.values()),
        "proof": asdict(handed.proof), "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def _written(
    made: Making, out: Path, work: Path, force: bool, earlier: Collection[str], tell: Tell
) -> tuple[Exhibit, dict[str, int]]:
    """Write everything, sizes told before; what is to be proven of it, and the sizes."""
    items = made.items()
    making.refuse(out, items, force, earlier)
    if made.wish.to == "hub" and not metadata.licence_of(str(made.lineage.settings["base"])):
        tell("the base tells no licence; write one into the front matter of README.md before anybody uses it")
    for item in (item for item in items if item.nbytes):
        tell(f"{out / item.path}: {size(item.nbytes)}")
    for item in items:
        item.write(work / item.path)
    words = tuple(work / path for path in made.words.values())
    chosen = made.choice
    exhibit = Exhibit(chosen.kind, work / made.main, words, chosen.delta, made.dtype, chosen.cut is not None)
    return exhibit, {item.path: item.nbytes for item in items if item.nbytes}


def verify(lineage: Lineage, path: Path, pictures: int = 2, device: str | None = None) -> tuple[Proof, Content]:
    """Prove a file or folder that was exported earlier. Raises PerdureError where it cannot be read or is another's."""
    facts = _facts(path)
    if facts.get("perdure.base_identity", lineage.facts["base_identity"]) != lineage.facts["base_identity"]:
        raise LineageError(f"{path} was exported from a model on another base, {facts['perdure.base']}")
    wish = Wish(**json.loads(facts.get("perdure.wish", "{}")))
    own = content(lineage, wish.after, wish.only)
    if facts.get("perdure.memory", own.lesson.record["memory"]) != own.lesson.record["memory"]:
        raise LineageError(
            f"{path} was exported from another memory than {lineage.folder} has after lesson {own.lesson.number}"
        )
    agreement.on_base(lineage, loading.known(lineage.plan()))
    kind, dtype = _kind(path)
    chosen = choose(own, wish, lineage.settings["base"])
    words = tuple(_word(path, own.names[token]) for token in own.words) if kind != FOLDER else ()
    exhibit = Exhibit(kind, path, words, chosen.delta, dtype, chosen.cut is not None)
    return prove(exhibit, lineage, own, pictures, device), own


def _facts(path: Path) -> dict[str, str]:
    """What an export says of itself."""
    if path.is_dir():
        return dict(files.read_json(path / FACTS)) if (path / FACTS).is_file() else {}
    return reading.metadata_of(path)


def _kind(path: Path) -> tuple[str, str]:
    """Kind of an export, and the dtype of its weights. Raises ModelError."""
    if path.is_dir():
        own = next((name for name in ("unet", "transformer") if (path / name).is_dir()), None)
        if own is None:
            raise ModelError(f"{path} is a folder without a pipeline (unet or transformer); give the file in it")
        shards = sorted((path / own).glob("diffusion_pytorch_model*.safetensors"))
        path, kind = shards[0] if shards else path / own / "diffusion_pytorch_model.safetensors", FOLDER
        held = reading.tensors_of(path)
    else:
        held = reading.tensors_of(path)
        kinds = [kind for mark, kind in MARKS.items() if any(name.startswith(mark) for name in held)]
        if not kinds:
            raise ModelError(f"{path} is no export: `perdure what {path}` tells what it is")
        kind = kinds[0]
    dtypes = {t.dtype for t in held.values() if t.dim() > 0}
    return kind, next((name for name, dtype in reversed(weights.DTYPES.items()) if dtype in dtypes), "fp32")


def _word(path: Path, name: str) -> Path:
    """The file of a learnt word, beside a LoRA file or where the tools want it. Raises ModelError."""
    for above in path.absolute().parents[:3]:
        for found in (above / f"{name}.safetensors", above / "embeddings" / f"{name}.safetensors"):
            if found.is_file():
                return found
    raise ModelError(f"{path} needs the learnt word {name}, and {name}.safetensors is not beside it or in embeddings/")


def push(handed: Handed, repository: str, api: Any = None) -> str:
    """Upload what was handed over, and nothing else of its folder, as a private model; its address.

    With the hub's own login; `api` instead of huggingface_hub's HfApi(). Raises ModelError.
    """
    try:
        api = api or HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        done = api.upload_folder(repo_id=repository, folder_path=handed.out, allow_patterns=list(handed.all))
        return str(done.repo_url)
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError, ValueError) as error:
        raise ModelError(f"cannot upload to {repository}: {short(error)}; the files are in {handed.out}") from None
