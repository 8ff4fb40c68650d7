"""What a plan's memory comes to, as `perdure check` tells it."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from perdure.cli import screen
from perdure.errors import ModelError
from perdure.plan import CLASSIFICATION, EMBEDDED, Plan


def show(plan: Plan) -> None:
    """A table, and what to change to fit a smaller device; a note where it cannot be reckoned."""
    if plan.task == CLASSIFICATION or plan.base in EMBEDDED:
        return
    with screen.working("reckoning with memory"):
        found = _advice(plan)
    if isinstance(found, str):
        screen.tell([f"GPU memory is not estimated: {found}"])
        return
    from perdure.bases import fitting

    names = list(found.footprint.moments)
    whose = f"{found.footprint.method}, " if len(plan.methods) > 1 else ""
    table = Table(title=Text(f"GPU memory, estimated ({whose}GB)"), box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("", *names):
        table.add_column(column, justify="right" if column else "left")
    parts = list(dict.fromkeys(part for own in found.footprint.moments.values() for part in own))
    for part in (part for part in parts if any(own.get(part) for own in found.footprint.moments.values())):
        sizes = (own.get(part, 0) for own in found.footprint.moments.values())
        table.add_row(part, *(f"{size / 1e9:.2f}" if size else "" for size in sizes))
    table.add_section()
    table.add_row("together", *(f"{sum(own.values()) / 1e9:.2f}" for own in found.footprint.moments.values()))
    screen.console.print(table)
    for line in fitting.told(found):
        screen.say(line)


def described(plan: Plan) -> dict[str, Any] | None:
    """The same as plain values, bytes; None where it cannot be reckoned."""
    found = None if plan.task == CLASSIFICATION or plan.base in EMBEDDED else _advice(plan)
    if found is None or isinstance(found, str):
        return None
    steps = [
        {
            "set": list(step.settings),
            "cost": step.cost,
            "bytes": {name: round(sum(parts.values())) for name, parts in step.footprint.moments.items()},
            "fits": list(step.fits),
        }
        for step in found.steps
    ]
    moments = {n: {part: round(size) for part, size in own.items()} for n, own in found.footprint.moments.items()}
    return {"method": found.footprint.method, "bytes": moments, "fits": list(found.fits), "to fit": steps}


def _advice(plan: Plan) -> Any:
    from perdure.bases import fitting, footprint

    try:
        ready = footprint.estimate(plan)
        return ready if isinstance(ready, str) else fitting.advise(plan, ready)
    except ModelError as error:
        return str(error)
