"""bfloat16 arithmetic where the processor has it; weights and sums stay float32."""

from contextlib import AbstractContextManager

import torch


def has_bfloat16() -> bool:
    """Whether this processor has bfloat16 instructions; where it only emulates them they are slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def half_precision(device: str = "cpu") -> AbstractContextManager[None]:
    """Autocast to bfloat16 on processors with bfloat16 instructions and on GPUs, else no change."""
    fast = device != "cpu" or has_bfloat16()
    context: AbstractContextManager[None] = torch.autocast(device, torch.bfloat16, enabled=fast)
    return context
