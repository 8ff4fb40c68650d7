"""A base in one file as a diffusers folder: converted once, by diffusers' own from_single_file, into the cache."""

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from hashlib import file_digest
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import nn

from perdure import files
from perdure.bases import single
from perdure.bases.family import hushed
from perdure.bases.single import Layout
from perdure.errors import LineageError, ModelError, PerdureError
from perdure.score.sources import Reading
from perdure.wording import size

log = logging.getLogger(__name__)

FORMAT = 1
"""Raised when files are converted otherwise than before."""
MAKING = ".making-"
"""How a folder is called that is being made, before the number of its process."""
SCHEDULE = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False, "trained_betas": None,
}  # fmt: skip
"""Of all Stable Diffusion models (Rombach et al. 2022)."""
SCHEDULERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sd1": ("PNDMScheduler", {"skip_prk_steps": True}),
    "sd2": ("DDIMScheduler", {}),
    "sdxl": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "interpolation_type": "linear"}),
}
V_BIAS, V_SPREAD = "output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
"""An SD 2 that predicts velocity spreads this bias more than that (ComfyUI comfy/supported_models.py, SD20)."""


def cache() -> Path:
    """Where converted bases are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perdure" / "bases"


def digest(path: Path) -> str:
    """SHA-256 of a file's content; read once, and again where its size, time or place on the disk has changed.

    Raises ModelError.
    """
    try:
        found = path.stat()
        known = cache() / "digests.json"
        mark = [found.st_size, found.st_mtime_ns, found.st_ino]
        place = str(path.resolve())
        noted: Any = None
        with suppress(LineageError):
            noted = files.read_json(known)
        noted = noted if isinstance(noted, dict) else {}
        entry = noted.get(place)
        if isinstance(entry, list) and entry[:-1] == mark:
            return str(entry[-1])
        with path.open("rb") as stream:
            told = file_digest(stream, "sha256").hexdigest()
        with suppress(PerdureError):  # a cache that cannot be written costs time only
            files.write_json(known, {**noted, place: [*mark, told]})
        return told
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def folder(path: Path) -> Path:
    """The diffusers folder of a base in one file, from the cache, else made there.

    Where the file has no autoencoder, the folder has its configuration only. Raises ModelError for what is no base,
    is damaged, or cannot be written.
    """
    layout = single.read(path)
    made = cache() / f"{digest(path)[:32]}-{FORMAT}"
    if made.is_dir():
        return made
    needed = path.stat().st_size
    try:
        files.make_folder(made.parent)
        if needed > (free := shutil.disk_usage(made.parent).free):
            raise ModelError(
                f"base {path} is converted into {made.parent}, which takes {size(needed)}, and {size(free)} are free "
                "there; make room, or set XDG_CACHE_HOME to a folder that has it"
            )
        log.warning("base %s is converted, once, into %s (%s)", path, made, size(needed))
        _sweep(made.parent)
        work = Path(tempfile.mkdtemp(dir=made.parent, prefix=f"{MAKING}{os.getpid()}-"))
        try:
            _convert(path, layout, work)
            try:
                files.rename(work, made)
            except OSError:
                if not made.is_dir():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise ModelError(f"base {path} cannot be converted into {made}: {told}; nothing is left of it there") from None
    return made


def _sweep(where: Path) -> None:
    """Delete what killed processes left half-converted."""
    for left in where.glob(f"{MAKING}*"):
        pid = left.name.removeprefix(MAKING).partition("-")[0]
        if not (pid.isdecimal() and len(pid) < 10 and psutil.pid_exists(int(pid))):
            shutil.rmtree(left, ignore_errors=True)


def _convert(path: Path, layout: Layout, work: Path) -> None:
    """Configuration and tokenizers, by which diffusers reads the file; then its parts, each in the file's precision."""
    outline(path, layout, work)
    kinds = {name: _kind(path, prefix) for name, prefix in layout.prefixes.items()}
    widest = kinds["unet"] if len({*kinds.values()}) == 1 else torch.float32
    absent: dict[str, Any] = {} if layout.has_vae else {"vae": None}
    if layout.family != "sdxl":
        absent |= {"safety_checker": None, "requires_safety_checker": False}
    reader = getattr(import_module("diffusers"), layout.pipeline).from_single_file
    _check_count(path, layout)
    with hushed(), Reading(lambda why: f"base {path} is no checkpoint that diffusers can read ({_plainly(why)})"):
        pipe = reader(str(path), config=str(work), torch_dtype=widest, local_files_only=True, **absent)
    parts: dict[str, Any] = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    for name, part in parts.items():
        check(part, f"base {path}: its {name}")
    for name, part in parts.items():
        part.to(kinds[name]).save_pretrained(work / name, safe_serialization=True)
    for made in work.rglob("*.safetensors"):
        made.chmod(0o644)  # safetensors makes files that their owner alone can read
        with made.open("r+b") as stream:
            os.fsync(stream.fileno())


TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
"""How safetensors calls what weights are stored in."""


def _kind(path: Path, prefix: str) -> torch.dtype:
    """What a part's tensors are stored in; float32 where they are not all alike."""
    _, dtypes = single.header(path)
    kinds = {TORCH.get(kind, torch.float32) for name, kind in dtypes.items() if name.startswith(prefix)}
    return kinds.pop() if len(kinds) == 1 else torch.float32


def outline(path: Path, layout: Layout, work: Path) -> None:
    """A diffusers folder of a base in one file, without weights."""
    kind, more = SCHEDULERS[layout.family]
    told = {"_class_name": kind, **SCHEDULE, **more, **_predicts(path, layout)}
    index: dict[str, Any] = {"_class_name": layout.pipeline, "scheduler": ["diffusers", kind]}
    for name, part in layout.parts.items():
        text = name.startswith("text_encoder")
        index[name] = ["transformers", part["architectures"][0]] if text else ["diffusers", part["_class_name"]]
        files.write_json(work / name / "config.json", part)
    files.write_json(work / "scheduler" / "scheduler_config.json", told)
    for name, tokenizer in layout.tokenizers.items():
        index[name] = ["transformers", "CLIPTokenizer"]
        tokenizer.save_pretrained(work / name)
    if layout.family == "sdxl":
        index["force_zeros_for_empty_prompt"] = True
    else:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    files.write_json(work / "model_index.json", index)


def _predicts(path: Path, layout: Layout) -> dict[str, Any]:
    """What the base predicts: by ModelSpec, by the keys `v_pred` and `ztsnr`, of SD 2 by a bias; else noise."""
    with safe_open(path, framework="pt") as opened:
        names, told = set(opened.keys()), (opened.metadata() or {}).get("modelspec.prediction_type", "")
        bias = f"{single.UNET}{V_BIAS}"
        spread = layout.family == "sd2" and bias in names and float(opened.get_tensor(bias).float().std()) > V_SPREAD
    velocity = told == "v" or "v_pred" in names or (told != "epsilon" and spread)
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if "ztsnr" in names else {}
    return {"prediction_type": "v_prediction" if velocity else "epsilon", **zero}


def check(part: nn.Module, what: str) -> None:
    """Refuse a module of which a tensor was not in the file, or is not finite. Raises ModelError."""
    for name, tensor in part.state_dict().items():
        if tensor.is_meta:
            raise ModelError(f"{what} lacks {name}; the file is incomplete or of another layout")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{what} holds NaN or infinity in {name}; download it again")


def _plainly(why: str) -> str:
    """What diffusers says of tensors that no file has given it."""
    return "it lacks tensors of that layout" if "meta tensor" in why else why


def _check_count(path: Path, layout: Layout) -> None:
    """Refuse a file whose UNet has more tensors than one of its shape, or fewer. Raises ModelError."""
    with Reading(lambda why: f"base {path}: its UNet is of no known shape ({why})"), init_empty_weights():
        like = UNet2DConditionModel.from_config(dict(layout.parts["unet"]))
    shapes, _ = single.header(path)
    held, taken = sum(name.startswith(single.UNET) for name in shapes), len(like.state_dict())
    if held != taken:
        raise ModelError(f"base {path}: its UNet has {held} tensors, and a Stable Diffusion of that shape {taken}")


def autoencoder(path: Path, base: str) -> Any:
    """An autoencoder in one file, of the original layout or diffusers', scaled as the base's own, float32.

    Raises ModelError.
    """
    shapes, _ = single.header(path)
    if not any(name.removeprefix(single.VAE).startswith("decoder.conv_in.") for name in shapes):
        raise ModelError(f"vae {path} holds no autoencoder (decoder.conv_in); perdure what {path} tells what it is")
    with hushed(), Reading(lambda why: f"vae {path} does not fit base {base} ({_plainly(why)})"):
        config = dict(AutoencoderKL.load_config(base, subfolder="vae", local_files_only=True))
        if not any("_blocks." in name for name in shapes):
            config = single.vae_like(shapes, config)
        with tempfile.TemporaryDirectory() as outline:
            files.write_json(Path(outline) / "config.json", config)
            vae = AutoencoderKL.from_single_file(
                str(path), config=outline, torch_dtype=torch.float32, local_files_only=True
            )
    check(vae, f"vae {path}")
    return vae
