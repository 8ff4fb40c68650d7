"""Several processes of one run, as `accelerate launch` starts them: the first leads, the others help when called.

Only the first runs the story and writes files. Where work can be spread, it calls a function on the others, with plain
values and tensors on the CPU, and all carry it out together. So there is nothing on which the others could disagree:
what they draw with, they are sent. Messages have a group of their own that waits as long as the first is busy.
"""

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, parse_flag_from_env, reduce
from torch import Tensor

from perdure.errors import ModelError, TrainingError
from perdure.method import WHOLE, Portion

PATIENCE = timedelta(days=30)
"""How long a process waits for a call: the first may train alone in the meantime."""


class Processes:
    """The processes of this run: this one alone, unless a launcher says otherwise."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
        self.number = 0
        self.device = ""
        """Kind of device that the launcher chose, for several."""
        self.joined = False
        """Whether all are in the middle of the same work."""
        self.helping: object = None
        """The backbone that the others have loaded too."""
        self._left_alone = False
        if self.count > 1:
            found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or found is None or found.type == "mps")
            self.number, self.device = state.process_index, state.device.type
            self._messages = dist.new_group(backend="gloo", timeout=PATIENCE)
            if self.number == 0:
                atexit.register(self._dismiss)

    def available(self, backbone: object) -> bool:
        """Whether others wait to be called to work on this backbone."""
        return self.helping is backbone and not self.joined

    @property
    def portion(self) -> Portion:
        """This process's share of a batch."""
        return Portion(self.number, self.count) if self.joined else WHOLE

    # --- calling --------------------------------------------------------------------------------------------------

    def call(self, function: Callable[..., object], *values: Any) -> None:
        """Have the others call a function of a module; what they do together comes next, in `together`."""
        if self._left_alone:
            raise ModelError("work that was spread over the processes has failed halfway; start the run again")
        self._from_first((function, values))

    def calls(self) -> Iterator[tuple[Callable[..., object], tuple[Any, ...]]]:
        """On the others: what the first calls, until it ends."""
        while (message := self._from_first(None)) is not None:
            yield message
        dist.destroy_process_group()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work that all do in step. TrainingError is raised by all alike; after any other error no call can follow."""
        self.joined = self._left_alone = True
        try:
            yield
            self._left_alone = False
        except TrainingError:
            self._left_alone = False
            raise
        finally:
            self.joined = False

    def _from_first(self, message: Any) -> Any:
        box = [message]
        dist.broadcast_object_list(box, src=0, group=self._messages)
        return box[0]

    def _dismiss(self) -> None:
        """The others may go. After a failure halfway they listen elsewhere: they are ended by the launcher."""
        if not self._left_alone:
            with suppress(RuntimeError):  # a process that has died
                self._from_first(None)
            dist.destroy_process_group()

    # --- sharing, in the middle of the same work ------------------------------------------------------------------

    def gathered(self, value: Any) -> list[Any]:
        """What all have: on the first only, in their order."""
        everything: list[Any] = [None] * self.count
        dist.gather_object(value, everything if self.number == 0 else None, dst=0, group=self._messages)
        return everything

    def agreed(self, value: Any) -> Any:
        """The first's value."""
        return self._from_first(value) if self.joined else value

    def align(self, tensors: Sequence[Tensor]) -> None:
        """Make tensors the first's, in place."""
        if self.joined:
            for tensor in tensors:
                broadcast(tensor.data)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all processes."""
        averaged: Tensor = reduce(tensor, "mean") if self.joined else tensor
        return averaged

    def average(self, parameters: Sequence[Tensor]) -> None:
        """Make the gradients of some parameters their means over all processes, in one message."""
        if not self.joined:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        averaged = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(averaged, [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)


def clip(accelerator: Accelerator, parameters: Sequence[Tensor], most: float) -> Tensor:
    """Scale gradients down to a norm of `most` together; returns the norm that they had, which may be not finite.

    In fp16, whose loss is scaled, some are not from time to time: the scaler leaves that step out, and 0 is returned.
    """
    accelerator.unscale_gradients()
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    sound = norm.where(norm.isfinite(), 0)  # else all gradients are spoilt by the one that is to be named
    torch.nn.utils.clip_grads_with_norm_(list(parameters), most, sound)
    return norm if accelerator.scaler is None else torch.zeros_like(norm)


@cache
def several() -> Processes:
    """The processes of this run; asked for before anything else is loaded, so that they have found one another."""
    return Processes()


def accelerator(precision: str, device: torch.device | None) -> Accelerator:
    """Accelerate keeps one precision and one device a process; start it anew where others are wanted."""
    mixed = "no" if precision == "fp32" else precision
    if AcceleratorState._shared_state:
        state = AcceleratorState()
        if state.mixed_precision != mixed or (device is not None and state.device.type != device.type):
            AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=mixed, cpu=device is not None and device.type == "cpu")
