"""What the command line shows: tables, bars and texts. It reads, and decides nothing."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perdure import progress, wording
from perdure.plan.catalogue import MethodCard, Option
from perdure.plan.concept import Concept
from perdure.score import doubts
from perdure.wording import printable

if TYPE_CHECKING:
    from perdure.analysis.record import Analysis
    from perdure.compare.diff import Diff
    from perdure.lineage import Lineage
    from perdure.lineage.rows import Cell, Row
    from perdure.photos.pictures import Contents
    from perdure.plan import Plan

console = Console()
HOW = {
    "taken out": "its own change is subtracted",
    "learnt again": "what came after it was learnt again without it",
    "put back": "nothing was taught after it: the model is as it was before it",
}
"""How a concept was removed, in words."""
NOTICEABLE = 0.02
"""Changes of a score beyond this are coloured (taste)."""


def say(text: str) -> None:
    """A line as it is: no markup, no colours, no control characters, not broken, so that paths can be copied."""
    console.print(Text(printable(text)), soft_wrap=True)


def watch() -> progress.Watch:
    """Bars for long work."""
    return progress.on(console)


def working(what: str) -> Any:
    """A spinner for work of unknown length."""
    return console.status(f"{what} ...")


def amount(plan: "Plan") -> str:
    """How much a plan would do, in words."""
    labels = [choice.label for choice in plan.methods] + ["joint"] * plan.joint
    lessons, epochs = len(plan.methods) * len(plan.concepts) + plan.joint, plan.training.epochs
    return (
        f"{len(plan.concepts)} concepts, {len(labels)} {'run' if len(labels) == 1 else 'runs'} ({', '.join(labels)}), "
        f"{lessons} lessons of {epochs or plan.training.steps} {'epochs' if epochs else 'steps'}"
    )


def concepts_table(plan: "Plan", shown: list[tuple[Concept, "Contents"]]) -> Table:
    """What a plan would teach, and from what."""
    table = Table(title=Text(f"{plan.name} on {plan.base}, fingerprint {plan.fingerprint()}"))
    for column in ("#", "concept", "kind", "training prompt", "images", "held out"):
        table.add_column(column)
    for number, (concept, own) in enumerate(shown, start=1):
        captions = dict.fromkeys(own.captions)
        prompt = next(iter(captions)) + (f" ({len(captions) - 1} others)" if len(captions) > 1 else "")
        held_out = str(own.references) if own.references else "none: training images serve"
        table.add_row(
            str(number), concept.name, concept.kind, Text(printable(prompt)), str(len(own.captions)), held_out
        )
    return table


def tell(notes: Sequence[str], most: int | None = None) -> None:
    """Notes, a line each; the first few where all would be too many."""
    for note in notes[:most]:
        say(f"note: {note}")
    if left := len(notes[most:] if most is not None else ()):
        say(f"note: {left} more; `perdure check` shows them all")


def methods_table(cards: list[MethodCard]) -> Table:
    """The methods: what each does, and below it the four choices and the options, so that 80 columns are enough."""
    table = Table(show_lines=True)
    table.add_column("method", no_wrap=True)
    table.add_column("what it does, and its four choices")
    for card in cards:
        choices = {"adapter": card.adapter, "start": card.start, "guard": card.guard, "consolidate": card.consolidate}
        choices["options"] = ", ".join(map(_option, card.options))
        lines = [card.summary, *(f"{slot + ':':<13}{filler}" for slot, filler in choices.items())]
        table.add_row(card.name, Text("\n".join(lines)))
    return table


def _option(option: Option) -> str:
    """An option with its default, and with the numbers that make sense where not all do."""
    among = f" in {option.interval}" if option.bounds else ""
    return f"{option.name}={option.default}{among}"


def findings_table(findings: dict[str, Any]) -> Table:
    """What `perdure doctor` found."""
    table = Table(show_header=False)
    for key, value in findings.items():
        text = value if isinstance(value, str) else ", ".join(f"{k} {v}" for k, v in value.items())
        table.add_row(key, Text(text))
    return table


def log_entries(lineage: "Lineage") -> list[dict[str, Any]]:
    """One entry a lesson and concept: scores by measure, when learnt and now; forgotten is what was lost since; doubts,
    by measure: why the score now proves nothing.
    """
    from perdure.lineage.rows import taught_by

    rows, lesson_of = lineage.lessons, taught_by(lineage.lessons)
    entries = []
    for row in rows:
        for concept in (name for name in row.concepts if lesson_of.get(name) == row):
            learnt, now = row.cell(concept), rows[-1].cell(concept)
            then, latest = learnt.scores if learnt else {}, now.scores if now else {}
            directions = learnt.record["measures"] if learnt else {}
            lost = {m: then[m] - latest[m] for m in then if m in latest}
            entries.append(
                {
                    "lesson": row.number,
                    "concept": concept,
                    "method": row.record["method"]["label"],
                    "learnt": then,
                    "now": latest,
                    "doubts": {m: told for m in latest if (told := _doubts(lineage, now, m))},
                    "forgotten": {m: -d if directions[m]["direction"] == "lower" else d for m, d in lost.items()},
                    "bytes": row.record["bytes"],
                    "seconds": row.record["seconds"],
                    "training": row.record.get("training", {}),
                }
            )
    return entries


def _doubts(lineage: "Lineage", cell: "Cell | None", measure: str) -> list[str]:
    if cell is None:
        return []
    concept = lineage.concept_facts(cell.record["concept"])["concept"]
    return [doubt.told for doubt in doubts.of(cell.record, measure, lineage.settings, concept)]


def log_table(lineage: "Lineage") -> Table:
    """The chain of lessons; scores that prove nothing bear a question mark, and the reasons stand below."""
    entries = log_entries(lineage)
    why: dict[str, list[str]] = {}
    for entry in entries:
        for told in dict.fromkeys(told for reasons in entry["doubts"].values() for told in reasons):
            why.setdefault(told, []).append(entry["concept"])
    notes = "\n".join(f"? {wording.listed(names)}: {told}" for told, names in why.items())
    title = Text(f"{lineage.facts['name']} on {lineage.settings['base']}")
    table = Table(title=title, caption=Text(notes) or None, caption_justify="left")
    for column in ("#", "concept", "method", "measure", "learnt", "now", "lost", "carries", "s"):
        table.add_column(column, justify="left" if column in ("concept", "method", "measure") else "right")
    for entry in entries:
        facts = (str(entry["lesson"]), entry["concept"], entry["method"])
        costs = (wording.size(entry["bytes"]["carried"]), f"{entry['seconds']['train']:.0f}")
        if not entry["learnt"]:
            table.add_row(*facts, "–", "–", "–", Text("–", style="dim"), *costs)
        for measure, value in entry["learnt"].items():
            now, lost = entry["now"].get(measure), entry["forgotten"].get(measure)
            told = "–" if now is None else f"{now:.3f}" + "?" * (measure in entry["doubts"])
            table.add_row(*facts, measure, f"{value:.3f}", told, _change(lost), *costs)
            facts, costs = ("", "", ""), ("", "")
    return table


def _change(lost: float | None) -> Text:
    """What a concept has lost since its lesson, coloured; a dash where it was not drawn after the last one."""
    if lost is None:
        return Text("–", style="dim")
    colour = "red" if lost > NOTICEABLE else "green" if lost < -NOTICEABLE else "dim"
    return Text(f"{round(lost, 3) + 0.0:+.3f}", style=colour)  # adding 0 makes -0 a 0


def taught(lineage: "Lineage", row: "Row") -> None:
    """What a lesson did: the chain, its time, and whom it harmed, with the way back."""
    console.print(log_table(lineage))
    spent = row.record["seconds"]
    say(f"lesson {row.number} took {spent['train']:.0f} s of training and {spent['evaluate']:.0f} s of scoring")
    for told in row.harm:
        say(f"warning: {told}")
    if row.harm:
        say(f"to take the lesson back: perdure undo {lineage.folder}; to teach it otherwise then: perdure retry "
            f"{lineage.folder} --set training.steps=N --max-forgetting X")  # fmt: skip


def removed(lineage: "Lineage", row: "Row") -> None:
    """What is left of a removed concept, and what the others lost or won by that."""
    past = row.record["removed"]
    how = HOW[past["how"]]
    say(f"{row.removed[0]}, which lesson {past['lesson']} had taught, is out ({how}); that is lesson {row.number}")
    for measure, scores in past["likeness"].items():
        say(f"  its likeness ({measure}): " + ", ".join(f"{when} {score:.3f}" for when, score in scores.items()))
    for name, cost in row.record["cost"].items():
        say(f"  {name} ({cost['measure']}): before {cost['before']:.3f}, after {cost['after']:.3f}")
    if past["lasting"]:
        say(f"what the method keeps of all lessons together still counts it: {', '.join(past['lasting'])}")
    say(f"to take it back: perdure undo {lineage.folder}")


def notes_of(lineage: "Lineage") -> None:
    """What the chain's table has no place for: lessons with settings of their own, refused ones, what stands beside."""
    from perdure.lineage import history

    for row in lineage.lessons:
        for name in row.removed:
            past = row.record["removed"]
            say(f"lesson {row.number} removed {name}, which lesson {past['lesson']} had taught: {HOW[past['how']]}")
        if row.own:
            say(f"lesson {row.number} ({row.title}) was taught with {row.own}")
        if row.refusal:
            say(f"lesson {row.number} ({row.title}) was accepted though its gate had refused it: {row.refusal}")
    for name, one in history.tags(lineage).items():
        say(f"tag {name}: lesson {one['lesson']}")
    for row in history.beside(lineage):
        if row.why == "undone":
            say(f"undone: lesson {row.number} ({row.title}); perdure redo {lineage.folder}")
        else:
            say(f"refused: lesson {row.number} ({row.title}): {row.refusal}; perdure accept, retry or drop "
                f"{lineage.folder}")  # fmt: skip


def scores_table(found: "Diff") -> Table:
    """Scores of two states."""
    table = Table(title=Text(f"scores of {found.names[0]} and {found.names[1]}"))
    for column in ("concept", "measure", "first", "second", "difference", "95 %, as pictures vary"):
        table.add_column(column, justify="left" if column in ("concept", "measure") else "right")
    for score in found.scores:
        noise = "" if score.low is None or score.high is None else f"{score.low:+.3f} to {score.high:+.3f}"
        numbers = f"{score.a:.3f}", f"{score.b:.3f}", f"{score.b - score.a:+.3f}"
        table.add_row(score.concept, score.measure, *numbers, noise)
    return table


def pairs_table(measure: str, lessons: Sequence[str], matrix: Any) -> Table:
    """One measure of all pairs of lessons, columns by their numbers: 80 columns are enough for ten lessons."""
    table = _slim(f"{measure}: row with column")
    table.add_column(no_wrap=True, max_width=20)
    for number in range(1, len(lessons) + 1):
        table.add_column(str(number), justify="right", no_wrap=True)
    for number, (name, row) in enumerate(zip(lessons, matrix, strict=True), start=1):
        cells = ("" if k == number else _brief(value) for k, value in enumerate(row, start=1))
        table.add_row(Text(f"{number} {name}", overflow="ellipsis"), *cells)
    return table


def updates_table(found: "Analysis") -> Table:
    """How large each lesson's update is, how much it moved, and what the method noted of its choice of weights."""
    table = _slim("updates")
    table.add_column(no_wrap=True, max_width=24)
    chosen = bool(found.selection)
    for column in ("norm", "per weight", "moved", *(("chosen", "of these moved before") if chosen else ())):
        table.add_column(column, justify="right")
    whole = found.parts["all"]
    for k, name in enumerate(found.lessons):
        noted = found.selection.get(name, {})
        notes = [f"{noted[key]:.2%}" if key in noted else "" for key in ("density", "moved before")] if chosen else []
        size = f"{whole.norms[k]:.4g}", f"{whole.rms[k]:.2e}", f"{whole.moved[k]:.2%}"
        table.add_row(Text(f"{k + 1} {name}", overflow="ellipsis"), *size, *notes)
    return table


def kinds_table(found: "Analysis") -> Table:
    """Means over all pairs of lessons, for each kind of layer, and by chance."""
    table = _slim("mean over all pairs of lessons")
    for column in ("layers", *found.telling):
        table.add_column(column, justify="left" if column == "layers" else "right")
    for kind, part in found.parts.items():
        table.add_row(kind, *(_brief(part.between(m)) for m in found.telling))
    table.add_row("by chance", *(_brief(found.chance.get(m, math.nan)) for m in found.telling))
    return table


def _slim(title: str) -> Table:
    narrow: dict[str, Any] = {
        "box": box.SIMPLE_HEAD,
        "padding": (0, 1, 0, 0),
        "pad_edge": False,
        "min_width": len(title),
    }
    return Table(title=Text(title), title_justify="left", **narrow)


def _brief(value: float) -> str:
    """Two places, without the leading zero: .58, -.10, 1.00."""
    # adding 0 makes -0 a 0
    return f"{round(value, 2) + 0.0:.2f}".replace("0.", ".", 1) if math.isfinite(value) else ""
