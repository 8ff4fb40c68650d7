"""How a base draws faster: another precision, other kernels, guidance in part of the steps, as many at once as fit."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from perdure.bases.family import Condition, Drawing, hushed
from perdure.errors import ModelError
from perdure.plan.performance import Attention, Performance

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
MISSING = ("No available kernel", "No viable backend")
"""How torch says, on CUDA and elsewhere, that none of the kernels that are allowed can serve."""
MOST = 64
"""Pictures at once that are drawn at most where memory decides."""
SPARE = 0.8
"""Share of the free memory that may be filled."""


def settle(performance: Performance, *modules: nn.Module) -> None:
    """Lay weights out in memory as they are asked for, and say how CUDA multiplies in float32."""
    torch.backends.cuda.matmul.allow_tf32 = performance.tf32
    for module in modules if performance.channels_last else ():
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@hushed()
def copied(module: Any, precision: str) -> Any:
    """A copy of a network in that precision."""
    return copy.deepcopy(module).to(DTYPES[precision])


def cast(condition: Condition, dtype: torch.dtype) -> Condition:
    """A condition as a network of that precision takes it."""
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in condition.items()}


@contextmanager
def attending(attention: Attention) -> Iterator[None]:
    """Scaled dot product attention by one of torch's kernels. Raises ModelError where that cannot serve."""
    with nullcontext() if attention == "default" else sdpa_kernel(KERNELS[attention]):
        try:
            yield
        except RuntimeError as error:
            if not any(told in str(error) for told in MISSING):
                raise
            raise ModelError(
                f"performance.attention: {attention} cannot serve this base on this device; take default"
            ) from None


def guiding(
    network: nn.Module, how: Drawing, count: int, until: float, in_rows: bool
) -> tuple[Drawing, AbstractContextManager[None]]:
    """How `count` pictures are drawn of which only part of the steps, from the first on, is guided; and the network
    meanwhile. See `Family.in_rows`.
    """
    steps = int(until * how.steps + 1e-9)  # 0.29 * 100 is a little below 29
    if steps == how.steps or how.guidance <= 1:
        return how, nullcontext()
    if steps == 0:
        return replace(how, guidance=1.0), nullcontext()
    if in_rows:
        return how, _guided(network, count, steps)
    return replace(how, ended=_ending(steps)), nullcontext()


def _guided(network: nn.Module, count: int, steps: int) -> AbstractContextManager[None]:
    """After so many calls a network is asked for the last `count` rows alone, and says the same of the rows before.

    Those are what is guided away from: guidance between equal predictions is none, to the bit.
    """
    asked = 0

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal asked
        asked += 1
        return None if asked <= steps else (_last(args, count), _last(kwargs, count))

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], said: tuple[Tensor, ...]) -> Any:
        return None if asked <= steps else tuple(torch.cat([one, one]) for one in said)

    return _hooked(
        network.register_forward_pre_hook(before, with_kwargs=True),
        network.register_forward_hook(after, with_kwargs=True),
    )


def _ending(steps: int) -> Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]:
    """A pipeline's `callback_on_step_end` after which no later step is guided, where each step asks about guidance."""

    def stop(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step + 1 >= steps:
            pipe._guidance_scale = 0.0
        return tensors

    return stop


@contextmanager
def _hooked(*handles: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _last(value: Any, count: int) -> Any:
    """The last `count` of twice as many rows of every tensor in nested values."""
    if isinstance(value, Tensor):
        return value[count:] if value.ndim and len(value) == 2 * count else value
    if isinstance(value, Mapping):
        return {key: _last(inner, count) for key, inner in value.items()}
    return tuple(_last(inner, count) for inner in value) if isinstance(value, tuple | list) else value


def fitting(draw: Callable[[int], object], device: torch.device, wanted: int) -> int:
    """How many pictures at once fit into a CUDA device; elsewhere as many as `wanted`.

    draw: (pictures) -> draws so many. One and two of them are tried: what the second takes, each further one takes.
    """
    if device.type != "cuda":
        return wanted
    peaks = []
    for count in (1, 2):
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        draw(count)
        peaks.append(torch.cuda.max_memory_allocated(device) - held)
    torch.cuda.empty_cache()
    return most(torch.cuda.mem_get_info(device)[0], *peaks)


def most(free: int, one: int, two: int) -> int:
    """The largest power of two of pictures that fill at most `SPARE` of the free bytes, from what one and two take."""
    each = max(two - one, 1)
    fit = 1 + max(0, int(SPARE * free) - one) // each
    return 1 << (min(fit, MOST).bit_length() - 1)
