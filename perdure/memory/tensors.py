"""Tensors in safetensors files: their digests, and files that are checked before any of it is believed."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from perdure import files
from perdure.errors import LineageError

HEAD = 8
"""Bytes before a header that hold its length."""
MAX_HEADER = 100_000_000
"""Longest header that safetensors itself reads."""
META = "__metadata__"
REMEDY = "restore it from a copy"
"""What to do with a damaged file, unless who reads it knows better."""


def digest_of(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes."""
    tensor = tensor.detach().cpu().contiguous()
    head = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return hashlib.sha256(head + tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors with a digest of them all, atomically. Raises PerdureError."""
    whole = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    files.write_bytes(path, save(whole, metadata={"digest": _digest(whole)}))


def read(path: Path, remedy: str = REMEDY) -> dict[str, Tensor]:
    """What `write` wrote; files of earlier versions have no digest. Raises LineageError naming the file."""
    try:
        data = files.read_bytes(path)
    except LineageError as error:
        raise LineageError(f"{error}; {remedy}") from None
    noted = header(path, remedy).get(META, {}).get("digest")
    tensors = parsed(data, path, remedy)
    if noted is not None and noted != _digest(tensors):
        raise LineageError(f"{path} is damaged (its content does not match its digest); {remedy}")
    return tensors


def parsed(data: bytes, path: Path, remedy: str = REMEDY) -> dict[str, Tensor]:
    """The tensors of a safetensors file's bytes. Raises LineageError naming the file."""
    try:
        tensors: dict[str, Tensor] = load(data)
        return tensors
    except (SafetensorError, ValueError, KeyError) as error:
        raise LineageError(f"{path} is damaged: it is not a safetensors file ({error}); {remedy}") from None


def header(path: Path, remedy: str = REMEDY) -> dict[str, Any]:
    """The header of a safetensors file: name -> {dtype, shape, data_offsets}. Raises LineageError naming the file."""
    try:
        with open(files.open_plain(path), "rb") as stream:
            length = int.from_bytes(stream.read(HEAD), "little")
            if length > min(MAX_HEADER, os.fstat(stream.fileno()).st_size - HEAD):
                raise ValueError
            found = json.loads(stream.read(length))
    except OSError as error:
        raise LineageError(f"cannot read {path}: {error.strerror}; {remedy}") from None
    except (ValueError, RecursionError):
        raise LineageError(f"{path} is damaged: it has no safetensors header; {remedy}") from None
    if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
        raise LineageError(f"{path} is damaged: its header is no list of tensors; {remedy}")
    return found


def _digest(tensors: Mapping[str, Tensor]) -> str:
    each = {name: digest_of(tensor) for name, tensor in tensors.items()}
    return hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest()
