"""Slot 3: what protects the past while learning. A guard is asked once a lesson for what to do at each step."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from perdure.memory import Memory
from perdure.method import Adapter, Context, Guard, Method, Protection, Step
from perdure.parts.adapter import Selected, masked, selected
from perdure.parts.consolidate import captions, carrying


def nothing(adapter: Adapter, memory: Memory, context: Context) -> Protection:
    """No protection."""
    return Protection()


def every(*guards: Guard) -> Guard:
    """Several guards at once: penalties add up, each under its name; projections follow one another."""

    def guard(adapter: Adapter, memory: Memory, context: Context) -> Protection:
        asked = [g(adapter, memory, context) for g in guards]
        begins = [p.begin for p in asked if p.begin is not None]
        penalties: dict[str, Callable[[Step], Tensor]] = {}
        for name, price in ((name, price) for p in asked for name, price in p.penalties.items()):
            again = sum(known.partition(" ")[0] == name for known in penalties)
            penalties[f"{name} {again + 1}" if again else name] = price
        projections = [p.project for p in asked if p.project is not None]

        def begin(number: int) -> None:
            for prepare in begins:
                prepare(number)

        def project() -> None:
            for edit in projections:
                edit()

        return Protection(begin if begins else None, penalties, project if projections else None)

    return guard


def on_change(name: str, weight: float, prepare: Callable[[Adapter, Memory, Context], Mapping[str, Tensor]]) -> Guard:
    """weight * sum over projections of || importance * change ||^2, the importances (out, in) prepared once a lesson.

    Projections without an importance are free. With `weight` 0 there is no guard.
    """

    def guard(adapter: Adapter, memory: Memory, context: Context) -> Protection:
        importance = prepare(adapter, memory, context) if weight else {}

        def penalty(step: Step) -> Tensor:
            changes = {n: adapter.weights.change(n) for n in importance}
            return weight * torch.stack([(importance[n].to(c) * c).square().sum() for n, c in changes.items()]).sum()

        return Protection(penalties={name: penalty} if importance else {})

    return guard


def past_changes(adapter: Adapter, memory: Memory, context: Context) -> dict[str, Tensor]:
    """| sum of past changes |: where the past moved a weight, moving it again is dear (C-LoRA, equation 3)."""
    moved = memory.delta()
    return {name: moved[name].matrix().abs() for name in adapter.weights.projections if name in moved}


def root_fisher(adapter: Adapter, memory: Memory, context: Context) -> dict[str, Tensor]:
    """sqrt(F / 2) of the carried diagonal Fisher: || sqrt(F / 2) * change ||^2 is EWC's F / 2 (theta - theta*)^2."""
    return {name: (fisher / 2).sqrt() for name, fisher in memory.under("fisher").items()}


def root_half(adapter: Adapter, memory: Memory, context: Context) -> dict[str, Tensor]:
    """sqrt(1 / 2) everywhere, once there is a past: plain L2, which is EWC with a Fisher of 1."""
    if context.lesson == 1:
        return {}
    return {name: torch.full_like(context.model.weight(name), 0.5).sqrt() for name in adapter.weights.projections}


def self_regularised(weight: float) -> Guard:
    """C-LoRA: weight * sum || |past| * change ||_F^2 (Smith et al. 2023, arXiv 2304.06027, equation 3)."""
    return on_change("self_regularised", weight, past_changes)


def elastic(weight: float) -> Guard:
    """EWC: weight * sum F / 2 * change^2 with the carried Fisher (Kirkpatrick et al. 2017, arXiv 1612.00796)."""
    return on_change("elastic", weight, root_fisher)


def close(weight: float) -> Guard:
    """L2: weight / 2 * || change ||^2."""
    return on_change("close", weight, root_half)


def continual(form: str, weight: float) -> Guard:
    """CNS's regulariser towards earlier concepts and the pretrained weights, in one of three readings.

    `both`: || U * change ||^2 + || M * (past + change) ||^2, U what the past moved, M what may move now.
    `past`: || |past| * change ||^2, C-LoRA's form. `features`: || change C_past^T ||^2 + || (past + change) C_cal^T
    ||^2 on the text features C of past captions and of calibration captions, means over features.
    """

    def guard(adapter: Adapter, memory: Memory, context: Context) -> Protection:
        if weight == 0:
            return Protection()
        if form == "past":
            return self_regularised(weight)(adapter, memory, context)
        moved, device = memory.delta(), adapter.parameters()[0].device
        past = {n: moved[n].matrix().to(device) for n in adapter.weights.projections if n in moved}
        if form == "both":
            term = _by_entries(selected(adapter), past)
        else:
            own = [c for captions in memory.facts.get("captions", {}).values() for c in captions]
            features = context.model.features
            term = _by_features(past, features(own) if own else None, features(context.model.calibration))
        names = adapter.weights.projections

        def penalty(step: Step) -> Tensor:
            return weight * torch.stack([term(name, adapter.weights.change(name)) for name in names]).sum()

        return Protection(penalties={"continual": penalty})

    return guard


def _by_entries(entries: Selected, past: Mapping[str, Tensor]) -> Callable[[str, Tensor], Tensor]:
    def term(name: str, change: Tensor) -> Tensor:
        if name not in past:
            return change.square().sum()
        at = entries.index[name]
        before, now = past[name].flatten()[at], change.flatten()[at]
        return (now * (before != 0)).square().sum() + (before + now).square().sum()

    return term


def _by_features(past: Mapping[str, Tensor], own: Tensor | None, general: Tensor) -> Callable[[str, Tensor], Tensor]:
    def term(name: str, change: Tensor) -> Tensor:
        whole = change + past[name] if name in past else change
        kept = (general @ whole.T).square().mean()
        return kept if own is None else kept + (own @ change.T).square().mean()

    return term


def distil(weight: float, prompts: str = "both") -> Guard:
    """Match the prediction of the model before this lesson (Li & Hoiem 2016, LwF, arXiv 1606.09282).

    On the current noised images, under the lesson's own captions (`current`), a past concept's prompt (`past`), or
    both in turn. There is nothing to match in the first lesson.
    """

    def guard(adapter: Adapter, memory: Memory, context: Context) -> Protection:
        past = [caption for captions in memory.facts.get("captions", {}).values() for caption in captions]
        if weight == 0 or context.lesson == 1:
            return Protection()

        def penalty(step: Step) -> Tensor:
            use_past = bool(past) and (prompts == "past" or (prompts == "both" and step.number % 2 == 1))
            if not use_past:
                return weight * context.model.difference(step.predicted, context.model.before(step.batch))
            picked = torch.randint(
                len(past), (step.portion.whole(step.predicted),), generator=context.generator("distil", step.number)
            )
            others = [past[i] for i in step.portion.of(picked).tolist()]
            now = context.model.predict(step.batch, others)
            return weight * context.model.difference(now, context.model.before(step.batch, others))

        return Protection(penalties={"distil": penalty})

    return guard


def preserving(method: Method, weight: float, prompts: str) -> Method:
    """Any method with distillation added: `distil` beside its own guard, and the captions that it needs carried."""
    return replace(
        method,
        guard=every(method.guard, distil(weight, prompts)),
        consolidate=carrying(method.consolidate, captions, brings=True),
    )


def annealed_masks(tau: float) -> Guard:
    """Gumbel noise while masks are learnt, their temperature falling from 1 to `tau` over the lesson, exponentially."""

    def guard(adapter: Adapter, memory: Memory, context: Context) -> Protection:
        state = masked(adapter).state

        def begin(number: int) -> None:
            state.tau = tau ** (number / max(1, context.steps - 1))
            state.noise = lambda projection: context.generator(f"mask {projection}", number)

        return Protection(begin=begin)

    return guard


def sparse(weight: float) -> Guard:
    """weight * mean probability of an open entry: masks that close what they can."""

    def guard(adapter: Adapter, memory: Memory, context: Context) -> Protection:
        if weight == 0:
            return Protection()

        def penalty(step: Step) -> Tensor:
            open_now = [masked(adapter).openness(name).mean() for name in adapter.weights.projections]
            return weight * torch.stack(open_now).mean()

        return Protection(penalties={"sparse": penalty})

    return guard
