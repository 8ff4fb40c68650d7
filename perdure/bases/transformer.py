"""A transformer in a file of its own in the place of a base's: under its publisher's names or those of diffusers.

diffusers renames and reads it. Whether it fits the base is told before, by the file's header and the configuration in
the base: the renaming is tried on shapes.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from safetensors import safe_open

from perdure import files
from perdure.bases import checking, converting, families, outline, single
from perdure.bases.family import hushed
from perdure.errors import ModelError, PerdureError
from perdure.plan import Plan
from perdure.score.sources import Reading, offline, short

Shapes = Mapping[str, tuple[int, ...]]
MARKS = {
    "flux2": r"^(double|single)_stream_modulation", "sd3": r"^(joint_blocks\.|pos_embed\.pos_embed$)",
    "flux": r"^single_(transformer_)?blocks\.", "z-image": r"^context_refiner\.", "pixart": r"^adaln_single\.",
}  # fmt: skip
"""What names of tensors tell a family by, the first that fits (keys as in export/metadata.py, TITLES)."""
CLASSES = {
    "flux2": "Flux2Transformer2DModel", "sd3": "SD3Transformer2DModel", "flux": "FluxTransformer2DModel",
    "z-image": "ZImageTransformer2DModel",
}  # fmt: skip
"""Those that are read from one file, by family."""
PRECISE = ("F64", "F32", "F16", "BF16")
UNET = rf"^({re.escape(single.UNET)})?(input|output)_blocks\."
"""Names of tensors of a Stable Diffusion checkpoint's UNet."""


def family(names: Iterable[str]) -> str:
    """The family whose transformer has tensors of such names, alone or in a whole checkpoint; "" where none has."""
    own = [name.removeprefix(single.UNET) for name in names]
    return next((key for key, mark in MARKS.items() if any(re.search(mark, name) for name in own)), "")


def unfit(plan: Plan) -> str:
    """What speaks against the file of a plan's transformer, "" where nothing does: by its header, and by the base's
    configuration as far as that is on this machine. No weights are read.
    """
    if plan.transformer is None:
        return ""
    path = Path(plan.transformer)
    try:
        found = outline.source(plan.base)
        folder = outline.here(found)
        if folder is None and not os.path.isfile(found):
            read(path)
            return ""
        index: dict[str, Any] = files.read_json(folder / families.INDEX) if folder else {}
        checking.check_index(index, plan.base)
        own = families.get(plan.family) if plan.family else families.of_pipeline(index["_class_name"], plan.base)
        kind = kind_of(index, own.network, plan.base)
        check(path, plan.base, kind, configuration(plan.base, str(folder), kind))
    except PerdureError as error:
        return str(error)
    return ""


def read(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a transformer's tensors by name; what else a whole checkpoint holds is left out.

    Raises ModelError for what is no transformer, is damaged, or is too coarse to be taught.
    """
    if path.is_dir():
        raise ModelError(
            f"transformer {path} is a folder; give a .safetensors file, or the folder of a whole pipeline as the base"
        )
    shapes, dtypes = single.header(path)
    if told := _other(shapes):
        raise ModelError(f"transformer {path} is {told}")
    own = _own(shapes)
    if odd := next((dtypes[name] for name in own if dtypes[name] not in PRECISE), ""):
        raise ModelError(
            f"transformer {path} is stored in {odd}, which is too coarse to be taught; take its file in half precision "
            "(training.base_precision keeps that in few bits)"
        )
    return {name: shapes[there] for there, name in own.items()}


def beside(path: Path) -> tuple[str, str]:
    """The family of a file with a transformer; and how it can be taught, or why not, in words."""
    found = family(single.header(path)[0])
    try:
        read(path)
    except ModelError as error:
        return found, str(error).removeprefix(f"transformer {path} is ")
    if found not in CLASSES:
        return found, "only in its diffusers folder"
    return found, f"beside the folder or hub id of its model: --base MODEL --set transformer={path}"


def _own(names: Collection[str]) -> dict[str, str]:
    """Names of a transformer's tensors in a file -> in the transformer."""
    whole = any(name.startswith(single.UNET) for name in names)
    return {n: n.removeprefix(single.UNET) for n in names if not whole or n.startswith(single.UNET)}


def _other(shapes: Shapes) -> str:
    """What a file is that holds no transformer, to follow "is"; "" where it holds one."""
    if any(re.search(UNET, name) for name in shapes):
        return "a Stable Diffusion checkpoint, whose network is a UNet: give it as the `base`"
    for pattern, told in single.OTHERS.items():
        if any(re.search(pattern, name) for name in shapes):
            return "" if pattern == single.TRANSFORMER else f"no transformer but {told}"
    return f"of a layout that is not known (its first tensor is {min(shapes, default='none')})"


def check(path: Path, base: str, kind: Any, config: Mapping[str, Any]) -> None:
    """Hold a file's header against the class and the configuration of a base's transformer.

    Raises ModelError where a tensor is missing, superfluous or of another shape, and as `read`.
    """
    shapes = read(path)
    found = family(shapes)
    if kind.__name__ not in CLASSES.values():
        raise ModelError(
            f"transformer {path}: base {base} has a {kind.__name__}, of which diffusers reads no single files, only of "
            f"{', '.join(CLASSES.values())}; give the weights in a diffusers folder, as the base"
        )
    if found and CLASSES.get(found) != kind.__name__:
        other = CLASSES.get(found, "PixArtTransformer2DModel")
        raise ModelError(f"transformer {path} is a {other}, and base {base} has a {kind.__name__}; give one of that")
    told = "base {}: its transformer's configuration cannot be read ({})"
    with Reading(lambda why: told.format(base, why)), torch.device("meta"):
        wanted = {n: tuple(t.shape) for n, t in kind.from_config(dict(config)).state_dict().items()}
    have, why = _renamed(shapes, wanted, kind, config)
    unlike = f"transformer {path} is incomplete, or of another model than base {base}'s"
    if lacking := why or next((f"it lacks {name}" for name in sorted(wanted.keys() - have)), ""):
        raise ModelError(f"{unlike}: {lacking}")
    if more := sorted(have.keys() - wanted):
        raise ModelError(f"{unlike}: it has {more[0]}, and that has not")
    if other := next((n for n in sorted(wanted) if have[n] != wanted[n]), ""):
        raise ModelError(f"{unlike}: its {other} is of shape {have[other]}, and there of {wanted[other]}")


def _renamed(
    shapes: Shapes, wanted: Shapes, kind: Any, config: Mapping[str, Any]
) -> tuple[dict[str, tuple[int, ...]], str]:
    """Shapes by diffusers' names, what it does not know under its own; or why it cannot rename them."""
    given = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    plain, why, made = dict(shapes), "", {}
    try:
        made = SINGLE_FILE_LOADABLE_CLASSES[kind.__name__]["checkpoint_mapping_fn"](given, config=dict(config))
    except KeyError as error:
        why = f"it lacks {error.args[0]}"
    except (LookupError, RuntimeError, ValueError) as error:
        why = f"diffusers does not know its layout ({short(error)})"
    renamed = {name: tuple(t.shape) for name, t in (given | made).items()} if made else {}
    if len(plain.keys() & wanted) >= max(len(renamed.keys() & wanted), len(wanted) / 2):
        return plain, ""
    return renamed, why


def load(path: Path, base: str, found: str, kind: Any, dtype: torch.dtype) -> Any:
    """The transformer of a file, configured as that of a base (`found`: its folder, or hub id), which fits it.

    Raises ModelError as `check`, and where a tensor is not finite.
    """
    check(path, base, kind, configuration(base, found, kind))
    with Reading(lambda why: f"transformer {path} cannot be read ({why})"), hushed():
        with safe_open(path, framework="pt") as opened:
            own = {name: opened.get_tensor(there) for there, name in _own(opened.keys()).items()}
        made = kind.from_single_file(
            own, config=found, subfolder="transformer", torch_dtype=dtype, local_files_only=offline()
        )
    converting.check(made, f"transformer {path}")
    return made


def configuration(base: str, found: str, kind: Any) -> dict[str, Any]:
    """How a base's own transformer is configured. Raises ModelError where that is missing or cannot be had."""
    with hushed(), Reading(lambda why: f"base {base}: its transformer/config.json cannot be read ({why})"):
        return dict(kind.load_config(found, subfolder="transformer", local_files_only=offline()))


def kind_of(index: Mapping[str, Any], network: str, base: str) -> Any:
    """The class of a base's transformer, by its index. Raises ModelError where its network is another."""
    if network != "transformer":
        raise ModelError(f"base {base} is taught in its {network}; `transformer` is for bases that have one")
    library, name = index[network]
    return getattr(import_module(library), name)
