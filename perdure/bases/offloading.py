"""Blocks of a transformer that wait in main memory, each brought to the device while it runs.

A frozen weight is copied for the time of a forward, never swapped: what autograd keeps for the backward pass is the
copy, so that gradients hold. Under gradient checkpointing, which runs a block again for its own backward pass, the
copies of one block at a time are kept. (diffusers' group offloading puts other data under the same weight after each
forward, of which autograd learns nothing.)
"""

from typing import Any

import torch
from torch import Tensor, nn

Own = tuple[dict[str, Any], str, Tensor]
"""A module's weights or buffers, a name among them, and what it stands for."""


def blocks(network: nn.Module) -> list[nn.Module]:
    """The parts of a network that follow one another: what its lists hold."""
    return [block for child in network.children() if isinstance(child, nn.ModuleList) for block in child]


def place(network: Any, device: torch.device) -> None:
    """Everything of a network on a device, its blocks in main memory but while they run."""
    away = {id(t) for block in blocks(network) for t in (*block.parameters(), *block.buffers())}
    network._apply(lambda t: _stored(t, device) if id(t) in away else t.to(device))
    for block in blocks(network):
        _Brought(block, device)


def _stored(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor in main memory, from where CUDA devices copy it while others are at work."""
    return tensor.cpu().pin_memory() if device.type == "cuda" else tensor.cpu()


def brought(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device."""
    return tensor.to(device, non_blocking=True)


class _Brought:
    """Hooks of a block: its own tensors are those on the device from before its forward until after it."""

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        self._device, self._held = device, list[Own]()
        block.register_forward_pre_hook(self._enter)
        block.register_forward_hook(self._leave, always_call=True)  # a forward that is computed again ends in an error

    def _enter(self, block: nn.Module, args: Any) -> None:
        for part in block.modules():
            for own in (part._parameters, part._buffers):
                for name, tensor in own.items():
                    if tensor is not None and not _learnt(tensor):
                        self._held.append((own, name, tensor))
                        own[name] = brought(tensor, self._device)  # type: ignore[assignment]

    def _leave(self, block: nn.Module, args: Any, output: Any) -> None:
        while self._held:
            own, name, tensor = self._held.pop()
            own[name] = tensor


def _learnt(tensor: Tensor) -> bool:
    """Whether a lesson learns it, which is on the device already."""
    return tensor.requires_grad and tensor.device.type != "cpu"
