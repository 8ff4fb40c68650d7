"""Tensors, arrays and folders that appear whole or not at all; text and JSON are written by `perdure.files`."""

import io
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save

from perdure import files


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write named tensors as safetensors; shared or strided tensors are copied first."""
    files.write_bytes(
        path, save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file into CPU memory."""
    found: dict[str, torch.Tensor] = load_file(path)
    return found


def write_array(path: Path, array: np.ndarray) -> None:
    """Write one array in npy format (object arrays are refused)."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    files.write_bytes(path, buffer.getvalue())


def replace_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Build a folder beside `target` with `fill`, then swap it in; readers see the old one or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    stale = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    fill(fresh)
    if target.exists():
        os.replace(target, stale)
    os.replace(fresh, target)
    shutil.rmtree(stale, ignore_errors=True)


def log_line(work: Path, stage: str, **values: float | int | str) -> None:
    """Append one measurement; numbers are rounded to five digits."""
    rounded = {key: round(value, 5) if isinstance(value, float) else value for key, value in values.items()}
    line = json.dumps({"time": time.strftime("%H:%M:%S"), **rounded})
    with open(work / f"{stage}.jsonl", "a", encoding="utf-8") as handle:
        handle.write(line + "\n")
    print(stage, line, flush=True)
