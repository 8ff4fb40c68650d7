"""A concept taken out of a model: a new row of the chain, in whose memory its lesson's change is no more."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from perdure import files
from perdure import memory as memories
from perdure import method as methods
from perdure.bases import loading
from perdure.drawing import evaluate
from perdure.drawing.tools import Tools, record_concept
from perdure.errors import LineageError, did_you_mean
from perdure.lineage import Lineage, agreement
from perdure.lineage.rows import Row, start_of, taught_by
from perdure.memory import Memory
from perdure.photos import pictures
from perdure.plan import fingerprint
from perdure.progress import Watch, silent
from perdure.run import harm, helpers, teaching
from perdure.run.trackers import NOBODY

TAKEN, AGAIN, BACK = "taken out", "learnt again", "put back"
"""How: its change is subtracted; what was taught after it is learnt again without it; nothing was taught after it."""


def remove(lineage: Lineage, name: str, watch: Watch = silent, device: str | None = None) -> Row:
    """Take a concept out of a model, and draw and score the rest without it, and what is left of its likeness.

    Where lessons are added, its own change is subtracted, exactly; else what was taught after it is learnt again from
    before it, for which those concepts' pictures are needed. Raises LineageError where neither can be done.
    """
    with agreement.writing(lineage):
        lesson = taught_by(lineage.lessons).get(name)
        if lesson is None:
            raise LineageError(f"{lineage.folder} knows no concept {name!r}{did_you_mean(name, lineage.concepts)}")
        if len(lesson.concepts) > 1:
            told = f"{name} was taught together with others, in one change"
            raise LineageError(f"{lineage.folder}: {told}; nothing of it can be taken out alone")
        plan = lineage.plan()
        if plan.task:
            raise LineageError(f"{lineage.folder} is a classifier, of which only whole lessons can be taken back: undo")
        agreement.on_base(lineage, loading.known(plan))
        start, count, again = _kept(lineage, name)
        forget = methods.of(plan.methods[0]).consolidate.forget
        if again and forget is None:
            _check_pictures(lineage, name, again)
        tools = Tools(plan, helpers.load(plan, device), watch)
        begun = fingerprint([start_of(lineage.rows), name])
        staged = lineage.stage(len(lineage.lessons) + 1, f"without-{name}", begun)
        how = BACK if not again else AGAIN if forget is None else TAKEN
        if not staged.memory.is_file():
            relearn = partial(_learnt_again, tools, lineage, staged, start, count, again)
            memory = _taken_out(tools, lineage, lesson) if how == TAKEN else relearn()
            memories.save(memory, staged.memory, lineage.store)
        return _committed(tools, lineage, staged, lesson, how)


def _kept(lineage: Lineage, name: str) -> tuple[Memory, int, list[Row]]:
    """The last memory that knows the first of the concepts that stay and no other, its lessons, and those after it."""
    rows = lineage.lessons
    stay = {known: row for known, row in taught_by(rows).items() if known != name}
    names, lessons = list(stay), list(dict.fromkeys(stay.values()))
    for number in range(len(rows), 0, -1):
        known = list(taught_by(rows[:number]))
        if known == names[: len(known)]:
            count = len({stay[one] for one in known})
            return memories.load(rows[number - 1].memory, lineage.store), count, lessons[count:]
    return Memory(), 0, lessons


def _check_pictures(lineage: Lineage, name: str, again: Sequence[Row]) -> None:
    """Refuse where what is to be learnt again has lost its pictures. Raises LineageError."""
    plan = lineage.plan()
    if brought := next((row for row in again if row.record.get("brought")), None):
        raise LineageError(
            f"{lineage.folder}: {name} can only be removed by learning {brought.title} again, which was not trained "
            f"here but brought from a file; undo down to lesson {again[0].number} and teach the rest anew"
        )
    concepts = [lineage.concept(known) for row in again for known in row.concepts]
    if problems := pictures.check(concepts, [plan]):
        raise LineageError(
            f"{lineage.folder}: method {plan.methods[0].name} does not add lessons to one another, so that {name} can "
            f"only be removed by learning {', '.join(c.name for c in concepts)} again, whose pictures are needed: "
            f"{problems[0]}"
        )


def _taken_out(tools: Tools, lineage: Lineage, lesson: Row) -> Memory:
    """The memory without what one lesson has added to it."""
    rows, (name,) = lineage.lessons, lesson.concepts
    now, after = (memories.load(row.memory, lineage.store) for row in (rows[-1], lesson))
    before = memories.load(rows[lesson.number - 2].memory, lineage.store) if lesson.number > 1 else Memory()
    forget = tools.method.consolidate.forget
    assert forget is not None
    left, token = forget(now.without(name), before, after), lineage.concept(name).token
    words = {known: dropped for known, dropped in left.facts.get("words", {}).items() if known != token}
    return left.with_tensors(f"words/{token}", {}).with_facts(words=words) if words != left.facts.get("words") else left


def _learnt_again(
    tools: Tools, lineage: Lineage, staged: Row, memory: Memory, count: int, again: Sequence[Row]
) -> Memory:
    """What a memory of so many lessons becomes by these, with their own settings; their logs lie beside it."""
    for number, row in enumerate(again, start=count + 1):
        own = replace(tools, plan=teaching.with_training(tools.plan, row.record.get("training", {})))
        inside = Row(staged.folder / f"{number:03d}-{row.name}")
        files.make_folder(inside.folder)
        concepts = tuple(concept for concept in tools.plan.concepts if concept.name in row.concepts)
        for concept in concepts:
            record_concept(tools, lineage, concept)  # refuses pictures that have changed
        memory = teaching.learn_lesson(own, inside, memory, concepts, NOBODY, None)
    return memory


def _committed(tools: Tools, lineage: Lineage, staged: Row, lesson: Row, how: str) -> Row:
    """Draw and score every concept, the removed one too, and make the row part of the chain."""
    started, (name,) = time.perf_counter(), lesson.concepts
    memory = memories.load(staged.memory, lineage.store)
    stay = [lineage.concept(known) for known in lineage.concepts if known != name]
    lesson_of = {known: row.name for known, row in taught_by(lineage.lessons).items() if known != name}
    evaluate.row(tools, lineage, memory, (*stay, lineage.concept(name)), lesson_of, staged, stay, whole=True)
    cost = harm.costs(tools, lineage, lineage.rows[-1], staged)
    removed: dict[str, Any] = {"concepts": [name], "lesson": lesson.number, "how": how}
    lasting = sorted(tools.method.consolidate.lasting) if how == TAKEN else []
    removed |= {"lasting": lasting, "likeness": _likeness(lineage, staged, name)}
    others = {known: lost for known, lost in cost.items() if known != name}
    teaching.write_record(tools, lineage, staged, memory, (), started, {"cost": others, "removed": removed})
    done = lineage.commit(staged)
    lineage.write_plan(lineage.plan())
    return done


def _likeness(lineage: Lineage, staged: Row, name: str) -> dict[str, dict[str, float]]:
    """Measure -> what the removed concept scores by the base, before and after; where it was drawn."""
    when = {"base": lineage.base_row, "before": lineage.rows[-1], "after": staged}
    cells = {key: cell for key, row in when.items() if (cell := row.cell(name)) is not None}
    measures = cells["after"].scores
    return {m: {key: cell.scores[m] for key, cell in cells.items() if m in cell.scores} for m in measures}
