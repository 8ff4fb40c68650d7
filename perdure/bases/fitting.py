"""What to change of a plan so that it fits a smaller device: settings in the order of what they cost."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from perdure.bases.footprint import CONTEXT, Estimate, Footprint
from perdure.plan import Plan

SIZES = (24, 16, 12, 8)
"""GiB of the devices that are looked at, as their makers call them GB."""
FULL = 0.95
"""Share of a device that may be filled: the rest is lost between the allocator's blocks (taste)."""
WORTH = 0.02
"""Part of what takes too much by which a setting must lower it to be named."""
Change = dict[str, dict[str, Any]]
"""Section -> key -> value."""


@dataclass(frozen=True)
class Step:
    """Settings that are changed, what they cost, and what a plan takes with them and all before."""

    settings: tuple[str, ...]
    cost: str
    footprint: Footprint
    fits: tuple[int, ...]
    """Sizes that it fits now, and did not before."""


@dataclass(frozen=True)
class Advice:
    """What a plan takes as it is, the sizes that it fits, and what to change to fit the others, as far as that goes."""

    footprint: Footprint
    fits: tuple[int, ...]
    steps: tuple[Step, ...]

    @property
    def never(self) -> tuple[int, ...]:
        """Sizes that it does not fit even so."""
        fitting = {*self.fits, *(size for step in self.steps for size in step.fits)}
        return tuple(size for size in SIZES if size not in fitting)


def advise(plan: Plan, estimate: Estimate) -> Advice:
    """Settings for a plan, those that cost least first. Raises as `Estimate.of`."""
    begun = estimate.of(plan)
    left = [size for size in SIZES if not fits(begun, size)]
    steps: list[Step] = []
    for make, cost in REMEDIES:
        change = make(plan) if left else None
        if change is None:
            continue
        changed, before = _with(plan, change), steps[-1].footprint if steps else begun
        after = estimate.of(changed)
        if not _helps(before, after, left[0]):
            continue
        done = tuple(size for size in left if fits(after, size))
        settings = tuple(f"{section}.{key}={_written(v)}" for section, own in change.items() for key, v in own.items())
        steps.append(Step(settings, cost, after, done))
        plan, left = changed, [size for size in left if size not in done]
    return Advice(begun, tuple(size for size in SIZES if fits(begun, size)), tuple(steps))


def fits(footprint: Footprint, size: int) -> bool:
    """Whether a device of so many GiB is large enough."""
    return footprint.most + CONTEXT <= FULL * size * 2**30


def _helps(before: Footprint, after: Footprint, size: int) -> bool:
    """Whether a moment that is too full for a size is emptier."""
    room = FULL * size * 2**30 - CONTEXT
    pairs = [(sum(before.moments[name].values()), sum(after.moments[name].values())) for name in before.moments]
    return any(then > room and now < (1 - WORTH) * then for then, now in pairs)


def _with(plan: Plan, change: Change) -> Plan:
    made = {name: getattr(plan, name).model_copy(update=own) for name, own in change.items()}
    return plan.model_copy(update=made)


def _written(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _drop(plan: Plan) -> Change | None:
    kept = plan.training.text_encoders == "keep" and not all(choice.card.words for choice in plan.methods)
    return {"training": {"text_encoders": "drop"}} if kept else None


def _half(plan: Plan) -> Change | None:
    return {"training": {"precision": "bf16"}} if plan.training.precision == "fp32" else None


def _one_picture(plan: Plan) -> Change | None:
    return {"sampling": {"batch_size": 1}} if plan.sampling.batch_size > 1 else None


def _checkpointing(plan: Plan) -> Change | None:
    return None if plan.training.gradient_checkpointing else {"training": {"gradient_checkpointing": True}}


def _accumulate(plan: Plan) -> Change | None:
    own = plan.training
    changed = {"batch_size": 1, "accumulate": own.accumulate * own.batch_size}
    return {"training": changed} if own.batch_size > 1 else None


def _decoding(plan: Plan) -> Change | None:
    return {"sampling": {"decoding": "bf16"}} if plan.sampling.decoding == "fp32" else None


def _eight_bits(plan: Plan) -> Change | None:
    return {"training": {"base_precision": "int8"}} if plan.training.base_precision is None else None


def _four_bits(plan: Plan) -> Change | None:
    return None if plan.training.base_precision == "nf4" else {"training": {"base_precision": "nf4"}}


def _offload(plan: Plan) -> Change | None:
    own, machine = plan.training, plan.performance
    if machine.offload or machine.compile or machine.engine == "onnx" or plan.sampling.precision != "training":
        return None
    wanted = {"gradient_checkpointing": True, "base_precision": None}
    changed = {key: value for key, value in wanted.items() if getattr(own, key) != value}
    return {**({"training": changed} if changed else {}), "performance": {"offload": "blocks"}}


def _pixels(plan: Plan) -> Change | None:
    return {"training": {"resolution": 512}} if plan.training.resolution > 512 else None


REMEDIES: tuple[tuple[Callable[[Plan], Change | None], str], ...] = (
    (_drop, "prompts are read once, then the text encoders go; the same results"),
    (_half, "the base in half precision; what is learnt stays in float32"),
    (_one_picture, "pictures one at a time; slower drawing"),
    (_checkpointing, "activations are computed twice; a quarter slower, the same results"),
    (_accumulate, "the same mean over pictures, one after another; slower"),
    (_decoding, "pictures are decoded in half precision"),
    (_eight_bits, "the base in 8 bits, by torchao"),
    (_four_bits, "the base in 4 bits, by bitsandbytes"),
    (_offload, "the base in full, its blocks copied to the device as they run; the same results, slower"),
    (_pixels, "smaller pictures: another task"),
)  # fmt: skip
"""(plan) -> what can be changed of it, if anything; and what that costs."""


def told(advice: Advice) -> Iterator[str]:
    """The advice in lines."""
    whole = [size for size in SIZES if size not in advice.fits]
    if advice.fits:
        yield f"fits a GPU of {', '.join(f'{size} GB' for size in sorted(advice.fits))} as it is"
    if whole and advice.steps:
        yield f"to fit {', '.join(f'{size} GB' for size in whole)}, change in this order:"
    for step in advice.steps:
        settings = " ".join(f"--set {setting}" for setting in step.settings)
        moments = ", ".join(f"{name} {sum(parts.values()) / 1e9:.1f}" for name, parts in step.footprint.moments.items())
        fitting = "".join(f"; fits {size} GB" for size in step.fits)
        yield f"  {settings}  ({moments} GB{fitting}): {step.cost}"
    if advice.never:
        last = (advice.steps[-1] if advice.steps else advice).footprint
        name, parts = max(last.moments.items(), key=lambda moment: sum(moment[1].values()))
        sizes = ", ".join(f"{size} GB" for size in advice.never)
        yield f"not to fit {sizes}: {name} takes {sum(parts.values()) / 1e9:.1f} GB even so; take a smaller base"
