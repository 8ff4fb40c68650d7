"""The optimizer of a lesson: made as the plan says, kept in a checkpoint, put back to the bit."""

import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perdure.errors import LineageError, TrainingError
from perdure.memory import tensors
from perdure.method import Adapter
from perdure.plan import Plan, Training

CALLED = {"exp_avg": "first", "exp_avg_sq": "second"}
"""Names of AdamW's moments in a checkpoint; other state is stored under its own names."""
STORED = {called: name for name, called in CALLED.items()}
LIBRARIES = {
    "adamw_8bit": ("bitsandbytes.optim", "AdamW8bit", "bitsandbytes", "8bit"),
    "prodigy": ("prodigyopt", "Prodigy", "prodigyopt", "prodigy"),
    "schedule_free": ("schedulefree", "AdamWScheduleFree", "schedulefree", "schedule_free"),
}
"""`training.optimizer` -> module, class, what it is installed by, and perdure's extra for that."""


def make(adapter: Adapter, training: Training) -> torch.optim.Optimizer:
    """The plan's optimizer over the adapter's weights, and over its words at their own rate.

    Raises TrainingError where it needs a library that is not installed.
    """
    words = (training.word_learning_rate or training.learning_rate) / training.learning_rate
    groups = [
        {"params": list(parameters), "scale": scale}
        for scale, parameters in ((1.0, list(adapter.weights.named().values())), (words, adapter.word_parameters))
        if parameters
    ]
    settings: dict[str, Any] = {
        "lr": training.learning_rate, "betas": training.betas, "eps": training.epsilon,
        "weight_decay": training.weight_decay,
    }  # fmt: skip
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, **settings, fused=True)
    module, name, package, extra = LIBRARIES[training.optimizer]
    try:
        kind = getattr(import_module(module), name)
    except ImportError:
        raise TrainingError(
            f"training.optimizer: {training.optimizer} needs {package}; pip install 'perdure[{extra}]', or take adamw"
        ) from None
    if training.optimizer == "prodigy":  # as diffusers' scripts have it
        settings |= {"use_bias_correction": True, "safeguard_warmup": True}
    with redirect_stdout(io.StringIO()):  # prodigyopt tells its settings
        made: torch.optim.Optimizer = kind(groups, **settings)
    if _averages(made):
        made.train()  # type: ignore[attr-defined]
    return made


def learning_rate(training: Training, step: int) -> float:
    """The rate of one step (from 0): linear warm-up, then constant or a cosine down to 0."""
    if step < training.warmup:
        return training.learning_rate * (step + 1) / training.warmup
    if training.schedule == "constant":
        return training.learning_rate
    progress = (step - training.warmup) / max(1, training.steps - training.warmup)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _averages(optimizer: torch.optim.Optimizer) -> bool:
    """Whether what is trained is not what is kept: Schedule-Free keeps an average (Defazio et al. 2024)."""
    return "train_mode" in optimizer.defaults


def settle(optimizer: torch.optim.Optimizer) -> None:
    """Make the parameters what is kept of them; the optimizer takes no step afterwards."""
    if _averages(optimizer):
        optimizer.eval()  # type: ignore[attr-defined]


@contextmanager
def settled(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """The parameters as they would be kept now; afterwards what they were, to the bit."""
    if not _averages(optimizer):
        yield
        return
    held = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in held]
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter, value in zip(held, before, strict=True):
                parameter.copy_(value)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def steps_done(checkpoint: Path) -> int:
    """Steps of an unfinished lesson that its checkpoint holds; 0 without one. Raises LineageError."""
    return int(read(checkpoint).get("step", torch.tensor(0)))


def save(path: Path, step: int, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """An unfinished lesson: parameters, the optimizer's state of each by position, and numbers that it keeps of all."""
    kept = {"step": torch.tensor(step)}
    for i, parameter in enumerate(parameters):
        kept[f"{i}.value"] = parameter
        for name, part in optimizer.state[parameter].items():
            if name != "step":  # one for all
                kept[f"{i}.{CALLED.get(name, name)}"] = part
    for number, group in enumerate(optimizer.param_groups):
        for name, usual in optimizer.defaults.items():
            if name != "lr" and isinstance(usual, bool | int | float) and group.get(name, usual) != usual:
                kept[f"group.{number}.{name}"] = torch.tensor(float(group[name]), dtype=torch.float64)
    tensors.write(path, kept)


def read(path: Path | None, parameters: Sequence[Tensor] = ()) -> dict[str, Tensor]:
    """An unfinished lesson as it was saved; empty if there is none. Raises LineageError naming a damaged file."""
    if path is None or not (path.exists() or path.is_symlink()):
        return {}
    remedy = "delete it, and the lesson begins anew"
    kept = tensors.read(path, remedy)
    parts = [name.partition(".")[2] for name in kept if name.startswith("0.")]
    shapes = {"step": torch.Size(), **{f"{i}.value": parameter.shape for i, parameter in enumerate(parameters)}}
    named = [*shapes, *(f"{i}.{part}" for i in range(len(parameters)) for part in parts)]
    wrong = [name for name in named if name not in kept or kept[name].shape != shapes.get(name, kept[name].shape)]
    if wrong:
        raise LineageError(f"{path} is damaged: {wrong[0]!r} is missing or of another shape; {remedy}")
    return kept


def restore(kept: dict[str, Tensor], parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Put an unfinished lesson back; returns the number of steps already done."""
    if not kept:
        return 0
    step = int(kept["step"])
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(kept[f"{i}.value"])
            own = {name.partition(".")[2]: t for name, t in kept.items() if name.startswith(f"{i}.")}
            counts = isinstance(optimizer, torch.optim.AdamW)
            counted = torch.tensor(float(step), device=parameter.device) if counts else step
            optimizer.state[parameter] = {"step": counted} | {
                STORED.get(name, name): t.to(parameter.device) for name, t in own.items() if name != "value"
            }
    for number, group in enumerate(optimizer.param_groups):
        for name, usual in optimizer.defaults.items():
            if (found := kept.get(f"group.{number}.{name}")) is not None:
                group[name] = type(usual)(found.item())
    return step


def saving(plan: Plan, clock: Callable[[], float] = time.monotonic) -> Callable[[int], bool]:
    """Whether to save after a step, asked after each: every so many steps, and before so many seconds have passed since
    the last time if the next step is as long as this one, as the plan says of both.
    """
    every, seconds = plan.training.checkpoint_every, plan.performance.checkpoint_seconds
    saved = asked = clock()

    def due(step: int) -> bool:
        nonlocal saved, asked
        before, asked = asked, clock()
        late = bool(seconds) and asked - saved + (asked - before) > seconds
        if now := late or bool(every and step % every == 0):
            saved = asked
        return now

    return due
