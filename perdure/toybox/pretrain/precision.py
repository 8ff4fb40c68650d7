"""bfloat16 arithmetic where the processor has it; weights and sums stay float32."""

from contextlib import AbstractContextManager

import torch


def half_precision(device: str = "cpu") -> AbstractContextManager[None]:
    """Autocast to bfloat16 on processors with bfloat16 instructions and on GPUs, else no change."""
    fast = device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    context: AbstractContextManager[None] = torch.autocast(device, torch.bfloat16, enabled=fast)
    return context
