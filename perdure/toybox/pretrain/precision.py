"""bfloat16 arithmetic where the processor has it; weights and sums stay float32."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def half_precision(device: str = "cpu") -> AbstractContextManager:
    """Autocast to bfloat16 on processors with bfloat16 instructions and on GPUs, else no change."""
    fast = device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device, torch.bfloat16, enabled=fast)
