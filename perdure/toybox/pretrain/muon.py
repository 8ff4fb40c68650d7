"""Muon (https://kellerjordan.github.io/posts/muon/) as torch has it, in the precision that the processor is fast in.

torch's own orthogonalises in bfloat16 everywhere; where the processor only emulates it that takes six times as long as
float32, and most of a training step.
"""

import math

import torch
from torch import Tensor

from perdure.toybox.pretrain.precision import has_bfloat16

_MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.775, 2.0315)
_STEPS = 5


def orthogonalised(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """About U V^T of the matrix U S V^T (singular values of .7 to 1.2), by Newton-Schulz steps in `dtype`."""
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.to(dtype, copy=True)
    found = found.T if tall else found
    found /= found.norm().clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found


class Muon(torch.optim.Optimizer):
    """Momentum .95 (Nesterov's), the step orthogonalised and scaled by max(1, rows / columns)^.5; matrices only."""

    def __init__(self, groups: list[dict[str, object]], lr: float) -> None:
        super().__init__(groups, {"lr": lr})
        self._dtype = torch.bfloat16 if has_bfloat16() else torch.float32

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step for every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                momentum = state.setdefault("momentum_buffer", torch.zeros_like(matrix.grad))
                momentum.lerp_(matrix.grad, 1 - _MOMENTUM)
                update = orthogonalised(matrix.grad.lerp(momentum, _MOMENTUM), self._dtype)
                rows, columns = matrix.shape
                matrix.add_(update, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))
