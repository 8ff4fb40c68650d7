"""The whole story: measure, design, run, judge, write."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perdure import files, report
from perdure.advise import asking, design, page, sentences, trial, verdict
from perdure.advise.page import Advice
from perdure.advise.trial import Trial
from perdure.advise.verdict import Verdict
from perdure.drawing.content import Known
from perdure.drawing.tools import Tools
from perdure.errors import PlanError
from perdure.lineage import Lineage
from perdure.lineage.commons import Commons
from perdure.photos import pictures
from perdure.plan import Plan
from perdure.progress import Watch, silent
from perdure.run import helpers

PLAN = "plan.yaml"
MEASURING = 0.15
"""Share of the budget after which no further method is measured."""


def advise(
    plan: Plan,
    seconds: float,
    out: Path,
    device: str | None = None,
    watch: Watch = silent,
    tell: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
) -> Advice:
    """Try the plan's methods on its concepts for so many seconds and write advice.json, advice.html and plan.yaml.

    What an earlier call with the same plan and folder has run counts, and so does its time. Raises PerdureError; as
    PlanError where the time does not suffice for one round.
    """
    began = clock()
    problems = pictures.check(plan.concepts, [plan])
    if problems:
        raise PlanError(problems)
    mark = asking.mark(plan)
    known = trial.read(out, mark)
    before = known.used if known else 0.0

    def used() -> float:
        return before + clock() - began

    if known is None or used() < seconds:
        tools = Tools(plan, helpers.load(plan, device), watch, Known(Commons(out)))
        known = known or _begun(tools, plan, mark, seconds, used, out, tell)
        tell(f"{design.told(known.design, known.speed)} ({', '.join(known.labels)})")
        known = trial.conduct(known, taught(plan, known), tools, out, seconds, used, tell)
    return _written(plan, known, out, seconds)


def taught(plan: Plan, known: Trial) -> Plan:
    """The plan with the concepts that are taught."""
    return _with(plan, known.design.concepts)


def _with(plan: Plan, concepts: int) -> Plan:
    some = asking.chosen(plan.concepts, min(concepts, len(plan.concepts)))
    return plan.model_copy(update={"concepts": tuple(map(asking.holding_out, some))})


def _begun(
    tools: Tools, plan: Plan, mark: str, seconds: float, used: Callable[[], float], out: Path,
    tell: Callable[[str], None],
) -> Trial:  # fmt: skip
    """Measure and design. Raises PlanError where the budget is too short."""
    speed, failed = trial.speeds(
        tools, _with(plan, len(plan.concepts)), tell, enough=lambda: used() > MEASURING * seconds
    )
    made = design.choose(speed, plan, seconds, used())
    if len(made.methods) < len(speed.methods):
        left, all_of_them = len(speed.methods) - len(made.methods), len(speed.methods)
        needed = design.duration(design.needed(speed, plan, all_of_them, 2) + used())
        tell(f"{left} of {all_of_them} methods are left out for want of time; all need about --budget {needed}")
    known = Trial(mark, made, speed, failed, {}, used())
    trial.write(known, out)
    return known


def _written(plan: Plan, known: Trial, out: Path, seconds: float) -> Advice:
    """Judge the complete rounds, and write everything."""
    complete = trial.rounds(known, out)
    if len(known.labels) < 2:
        raise PlanError([f"method {label} is out: {why}" for label, why in known.failed.items()])
    if not complete:
        raise PlanError(
            f"--budget {design.duration(seconds)} ended before every method was run once; the same command with a "
            f"larger --budget goes on from there (about {design.duration(known.used + _missing(known, out))} in all)"
        )
    Commons(out).forget()
    lineages = [{label: Lineage(trial.folder_of(out, n, label)) for label in known.labels} for n in complete]
    found = verdict.of(lineages)
    shown = report.build(list(lineages[-1].values()), out / f"round-{complete[-1]}", title=f"{plan.name}, last round")
    left_out = [label for label in known.speed.methods if label not in known.design.methods]
    advice = Advice(
        found, sentences.headline(found), sentences.reason(found),
        tuple(sentences.cautions(found, known.design, plan, left_out, known.failed)),
        sentences.setting(found, known.design, known.speed, plan), _next(plan, found, out), out / "advice.html", shown,
    )  # fmt: skip
    files.write_json(out / "advice.json", as_json(advice, known))
    files.write_text(advice.page, page.render(advice, plan.name))
    return advice


def _missing(known: Trial, out: Path) -> float:
    """Seconds that the first round still needs, as far as measured."""
    costs, made = known.speed.methods, known.design
    left = [label for label in known.labels if not trial.finished(out, 1, label, made.concepts)]
    each = made.seconds / made.rounds / len(made.methods)
    spent = [known.spent[f"1/{label}"] for label in known.labels if label not in left and f"1/{label}" in known.spent]
    return len(left) * max([each, *spent]) if costs else 0.0


def _next(plan: Plan, found: Verdict, out: Path) -> tuple[str, ...]:
    """Commands to go on with; the plan of the chosen method is written. None of either without a choice."""
    if found.choice is None:
        (out / PLAN).unlink(missing_ok=True)
        return ()
    choice = next(choice for choice in plan.methods if choice.label == found.choice)
    files.write_text(out / PLAN, asking.whole_plan(plan, choice))
    return f"perdure run {out / PLAN}", asking.init_command(plan, choice)


def as_json(advice: Advice, known: Trial) -> dict[str, Any]:
    """Plain values for other programs; NaN becomes null."""
    found = advice.verdict

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and value != value else value

    return {
        "verdict": found.kind, "choice": found.choice, "leader": found.leader.label, "within_noise": list(found.tied),
        "cheaper": found.cheaper.label if found.cheaper else None,
        "headline": advice.headline, "reason": advice.reason, "cautions": list(advice.cautions),
        "next": list(advice.next), "rounds": found.rounds, "concepts": list(found.concepts),
        "measures": dict(found.measures), "base_average": plain(found.base), "not_held_out": list(found.not_held_out),
        "methods": [{key: plain(value) for key, value in asdict(s).items()} for s in found.standings],
        "design": asdict(known.design), "seconds_used": round(known.used, 1), "out": known.failed,
    }  # fmt: skip
