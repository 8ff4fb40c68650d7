"""The tensors of files for other tools: LoRA factors with one alpha, dense differences, cuts to a lower rank, words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perdure.errors import ModelError
from perdure.export import layouts
from perdure.memory.delta import Change, Delta, balanced
from perdure.method import Word

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Cut:
    """What was lost by cutting a delta to lower ranks: Frobenius errors relative to the delta."""

    rank: int
    """The largest rank that is left."""
    whole: float
    worst: float
    where: str
    """The projection of the worst."""


def lowered(delta: Delta, rank: int | None = None, error: float | None = None) -> tuple[Delta, Cut]:
    """The best factors of each change: at most `rank`, or the fewest with ||D - D_r|| <= error ||D||.

    Truncated singular value decomposition in float64 (Eckart & Young 1936), A = sqrt(S) V', B = U sqrt(S).
    """
    changes, lost, all_of_it, worst = {}, 0.0, 0.0, (0.0, next(iter(delta), ""))
    for name, change in delta.items():
        u, s, vh = _decomposed(change)
        tail = (s.square().flip(0).cumsum(0).flip(0)).tolist() + [0.0]  # tail[r]: squared error of rank r
        enough = len(s) if error is None else next(r for r, left in enumerate(tail) if left <= error**2 * tail[0])
        kept = max(1, min(enough, len(s) if rank is None else rank))
        root = s[:kept].sqrt()
        changes[name] = Change((((root[:, None] * vh[:kept]).float(), (u[:, :kept] * root).float()),))
        lost, all_of_it = lost + tail[kept], all_of_it + tail[0]
        worst = max(worst, (math.sqrt(tail[kept] / tail[0]) if tail[0] else 0.0, name))
    largest = max((change.rank or 0 for change in changes.values()), default=0)
    return Delta(changes), Cut(largest, math.sqrt(lost / all_of_it) if all_of_it else 0.0, *worst)


def _decomposed(change: Change) -> tuple[Tensor, Tensor, Tensor]:
    """U (out, k), S (k), V' (k, in) of a change in float64; of a stack of pairs by its small core."""
    if change.dense is not None:
        u, s, vh = torch.linalg.svd(change.dense.double(), full_matrices=False)
        return u, s, vh
    a, b = (t.double() for t in change.stacked())
    right, left = torch.linalg.qr(a.T), torch.linalg.qr(b)
    u, s, vh = torch.linalg.svd(left.R @ right.R.T, full_matrices=False)
    return left.Q @ u, s, vh @ right.Q.T


def adapter(
    delta: Delta, dtype: torch.dtype, network: str = "unet", kernels: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Tensor]:
    """A delta as the tensors of a LoRA file; dense changes as `.diff`. Of a UNet in kohya's layout, of a transformer
    under its modules' own names, A and B with no alpha.

    One alpha in the whole file, its largest rank R: diffusers 0.42 reads a file of several alphas with the commonest
    one everywhere. A module of rank r has its up factor times r / R, so that (alpha / r) up down is the change.
    `kernels`: projection -> (in, k, k) where it is a convolution, whose factors are (r, in, k, k) and (out, r, 1, 1).
    Raises ModelError where a number is not finite, or not in the dtype.
    """
    largest = max((change.rank or 0 for change in delta.values()), default=0)
    tensors = {}
    for projection, change in delta.items():
        name = layouts.kohya(projection) if network == "unet" else layouts.diffusers(projection)
        kernel = (kernels or {}).get(projection, change.shape[1:])
        if change.dense is not None:
            tensors[f"{name}.diff"] = change.dense.to(dtype).view(len(change.dense), *kernel)
            continue
        a, b = change.stacked()
        if network != "unet":
            a, b = balanced(a, b)
            tensors[f"{name}.lora_A.weight"] = a.to(dtype).contiguous()
            tensors[f"{name}.lora_B.weight"] = b.to(dtype).contiguous()
            continue
        down, up = balanced(a, b * (a.shape[0] / largest))
        tensors[f"{name}.lora_down.weight"] = down.to(dtype).contiguous().view(len(down), *kernel)
        tensors[f"{name}.lora_up.weight"] = up.to(dtype).contiguous().view(*up.shape, *(1 for _ in kernel[1:]))
        tensors[f"{name}.alpha"] = torch.tensor(float(largest))
    return finite(tensors)


def embedding(word: Word, names: Sequence[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """A learnt word as the tensors of an embedding file, (vectors, width) each, by the names of its encoders' vectors.

    ComfyUI comfy/sd1_clip.py `load_embed`, A1111 textual_inversion.py `create_embedding_from_data`, InvokeAI's and
    diffusers' (SDXL: one call for each key) all read `emb_params`, and `clip_l` with `clip_g`; ComfyUI reads `t5xxl`.
    """
    return finite({names[number]: vectors.to(dtype).contiguous() for number, vectors in word.vectors.items()})


def finite(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors. Raises ModelError naming the first that holds NaN or infinity."""
    if wrong := next((name for name, t in tensors.items() if not t.isfinite().all()), None):
        kind = str(tensors[wrong].dtype).removeprefix("torch.")
        raise ModelError(f"{wrong} is not finite in {kind}; undo the lesson that broke it, or write --dtype fp32")
    return dict(tensors)


def nbytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(t.numel() * t.element_size() for t in tensors.values())
