"""From a name to a backbone: the embedded base, a local diffusers folder or checkpoint file, or a hub id."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from perdure.bases import checking, classifier, converting, families, single, transformer
from perdure.bases.backbone import Backbone
from perdure.bases.classifier import Classifier
from perdure.bases.family import Family, hushed, quiet
from perdure.bases.outline import EMBEDDED_VIT, FOLDERS, IN_CACHE, available, source
from perdure.bases.performing import DTYPES
from perdure.bases.quantising import quantise
from perdure.errors import ModelError
from perdure.plan import CLASSIFICATION, EMBEDDED, TOYBOX_VIT, FamilyChoice, Performance, Plan
from perdure.plan.training import BasePrecision
from perdure.score.sources import Reading, offline, short

log = logging.getLogger(__name__)

Base = Backbone | Classifier
"""What is taught: a generator of pictures, or a classifier of them."""


def of(plan: Plan, device: str | None = None) -> Backbone:
    """The backbone of a plan's base, to draw with. Raises as `load`, and for a plan of classifiers."""
    if plan.task == CLASSIFICATION:
        raise ModelError(
            f"this model is a classifier (base {plan.base}): it draws nothing, and nothing of it is exported"
        )
    return load(*_asked(plan, device))


def _asked(plan: Plan, device: str | None) -> tuple[Any, ...]:
    own = plan.training
    wanted = (own.base_precision, own.text_encoders == "drop")
    return (plan.base, own.precision, device, plan.vae, plan.family, plan.performance, *wanted, plan.transformer)


def how(plan: Plan, device: str | None = None) -> tuple[Callable[..., Base], tuple[Any, ...]]:
    """The one of `LOADERS` that loads a plan's base, of whatever task, and what it takes."""
    if plan.task == CLASSIFICATION:
        return load_classifier, (plan.base, plan.training.precision, device)
    return load, _asked(plan, device)


def load_classifier(base: str, precision: str = "fp32", device: str | None = None) -> Classifier:
    """The classifier of a base, on the best device there is unless one is named. Raises ModelError."""
    with quiet():
        return classifier.load(base, precision, _device(device) if device else None)


def load(
    base: str, precision: str = "fp32", device: str | None = None, vae: str | None = None,
    chosen: FamilyChoice | None = None, performance: Performance | None = None, few_bits: BasePrecision | None = None,
    dropping: bool = False, instead: str | None = None,
) -> Backbone:  # fmt: skip
    """The backbone of a base model, on the best device there is unless one is named; of the family of its pipeline's
    class, unless another one is chosen; using the machine as `performance` says. `instead`: the file of a transformer.

    Raises ModelError where it is missing, not a pipeline, of an unsupported kind, or not to be had offline, and
    PlanError where its linear layers shall be in few bits and the library for it is missing.
    """
    where = _device(device) if device else None
    if base in EMBEDDED and not threads_told():
        torch.set_num_threads(1)  # its operations are too small to be shared out
    pipe, family = pipeline(base, precision, vae, chosen, instead)
    if few_bits is not None:
        quantise(pipe.components[family.network], few_bits)
    backbone = Backbone(pipe, family, precision, where, performance)
    if dropping:
        backbone.encoders.give_up(lambda name: _encoder(base, name, precision))
    return backbone


def _encoder(base: str, name: str, precision: str) -> Any:
    """A text encoder of a base, read by itself as its pipeline reads it."""
    found = located(base)
    library, kind = _index(base, found)[name]
    with quiet():
        return _from_pretrained(
            getattr(import_module(library), kind), found, base, subfolder=name, dtype=DTYPES[precision]
        )


def threads_told() -> bool:
    """Whether the environment says how many threads torch has (OMP_NUM_THREADS)."""
    return bool(os.environ.get("OMP_NUM_THREADS"))


def pipeline(
    base: str, precision: str = "fp32", vae: str | None = None, chosen: FamilyChoice | None = None,
    instead: str | None = None,
) -> tuple[Any, Family]:  # fmt: skip
    """A base model as the pipeline of diffusers that it is, on the CPU, and its family; with another autoencoder, and
    with the transformer of a file instead of its own. Raises ModelError.
    """
    found = located(base)
    _files(Path(found))
    fetching = not os.path.isdir(found) and available(base) != IN_CACHE
    with quiet(fetching):
        index = _index(base, found)
    family = _family(index, base, chosen)
    extra: dict[str, Any] = {"vae": _autoencoder(vae, found)} if vae else {}
    if instead:
        kind = transformer.kind_of(index, family.network, base)
        extra["transformer"] = transformer.load(Path(instead), base, found, kind, DTYPES[precision])
    if os.path.isdir(found):
        extra["variant"] = checking.check_files(Path(found), index, base, without=tuple(extra))
    extra |= {part: None for part, value in index.items() if value == [None, None]} | dict(family.loading)
    with quiet(fetching):
        pipe = _from_pretrained(DiffusionPipeline, found, base, torch_dtype=DTYPES[precision], **extra)
        checking.check_pipeline(pipe, family, base)
        pipe.vae.to(torch.float32)  # encoding and decoding are a small part of the work and overflow in half precision
    if told := family.caution(pipe):
        log.warning("base %s%s", base, told)
    return pipe, family


def located(base: str) -> str:
    """The folder of a base, or its hub id; of a base in one file, the folder that it was converted into.

    Raises ModelError.
    """
    found = source(base)
    if not os.path.isfile(found):
        return found
    with quiet():
        return str(converting.folder(Path(found)))


def _family(index: dict[str, Any], base: str, chosen: FamilyChoice | None) -> Family:
    name = str(index.get("_class_name", "?"))
    if chosen is None:
        return families.of_pipeline(name, base)
    found = families.get(chosen)
    if found.pipeline != name:
        raise ModelError(f"base {base} is a {name}; family {chosen.name!r} is for a {found.pipeline}")
    return found


def _device(name: str) -> torch.device:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(name):
        known = ", ".join(device for device, found in there.items() if found)
        raise ModelError(f"no device {name!r} on this machine; there is: {known}")
    return torch.device(name)


def known(plan: Plan) -> str:
    """The `identity` of a plan's base."""
    return identity(plan.base, plan.vae, plan.transformer)


def identity(base: str, vae: str | None = None, instead: str | None = None) -> str:
    """16 hex digits that tell bases apart: file names, sizes, and contents up to 64 MB, of the pipeline's own files.

    For a base in one file, its content; for a hub id, the id itself.

    Another autoencoder makes another base, and so does the content of a transformer's file; scorers and figures beside
    it do not, nor the weights that the file stands for.
    """
    folder = {**FOLDERS, TOYBOX_VIT: EMBEDDED_VIT}.get(base, Path(base))
    digest = hashlib.sha256(f"{identity(vae)}+".encode() if vae else b"")
    if not os.path.isdir(folder):
        digest.update((converting.digest(folder) if os.path.isfile(folder) else base).encode())
    if instead:
        digest.update(f"transformer:{converting.digest(Path(instead))}".encode())
    for path in _files(folder):
        if instead and path.parent.name == "transformer" and ".safetensors" in path.name:
            continue
        try:
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder).as_posix()}:{size}".encode())
            if size <= 64 << 20:
                digest.update(path.read_bytes())
        except OSError as error:
            raise ModelError(f"base {base}: {path.name} cannot be read ({error.strerror})") from None
    return digest.hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    """A pipeline's own files. Raises ModelError where one is a pipe, a folder or a link to nothing."""
    own = [p for p in (*folder.glob("*"), *folder.glob("*/*")) if p.suffix in (".safetensors", ".json", ".txt")]
    if odd := next((p for p in own if not p.is_file()), None):
        raise ModelError(f"base {folder}: {odd.relative_to(folder)} is not a plain file; restore it from a copy")
    return sorted(p for p in own if p.name != "figures.json")


def _index(base: str, found: str) -> dict[str, Any]:
    """The pipeline's model_index.json."""
    if os.path.isdir(found):
        try:
            index = json.loads((Path(found) / "model_index.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"base {base}: model_index.json cannot be read ({short(error)})") from None
        if not isinstance(index, dict):
            raise ModelError(f"base {base}: model_index.json cannot be read (it is no JSON object)")
    else:
        index = dict(_from_pretrained(DiffusionPipeline, found, base, config_only=True))
    checking.check_index(index, base)
    return index


def _autoencoder(name: str, base: str) -> Any:
    if single.is_file(name):
        return converting.autoencoder(Path(os.path.expanduser(name)), base)
    return _from_pretrained(AutoencoderKL, name, name)


def _from_pretrained(cls: Any, found: str, name: str, config_only: bool = False, **options: Any) -> Any:
    """`cls.from_pretrained`, or only its configuration, with the hub's many errors told in one sentence."""
    local = os.path.isdir(found)
    if not local and available(name) == "would be downloaded" and not offline():
        log.warning("%s is not in the hub cache; it will be downloaded", name)

    with hushed(), Reading(lambda why: f"base {name} cannot be loaded: {why}" if local else unfetched(name, why)):
        if config_only:
            return cls.load_config(found, local_files_only=offline())
        return cls.from_pretrained(found, local_files_only=local or offline(), use_safetensors=True, **options)


def unfetched(name: str, reason: str) -> str:
    """What is told of a base that is not here, and cannot be fetched for a reason."""
    reason = "HF_HUB_OFFLINE is set" if offline() else f"it could not be fetched: {reason}"
    return (
        f"base {name} is neither a local folder nor in the hub cache, and {reason}; "
        "go online once, or give a local diffusers folder"
    )


LOADERS = (load, load_classifier)


def versions() -> dict[str, str]:
    """Versions of the libraries that decide a result."""
    names = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "PIL", "numpy")
    return {name: import_module(name).__version__ for name in names}
