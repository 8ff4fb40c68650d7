"""What is done to a chain of lessons beside teaching: taken back, put back, refused, kept after all, dropped, named.

A lesson that leaves the chain stands beside it until the next lesson (`aside/` in the model's folder), whole: its
memory, pictures and scores. Each way is one rename, so a kill leaves it on this side or on that. All but the readers
need the lineage's lock.
"""

import re
from typing import Any

from perdure import files, records
from perdure.errors import LineageError, did_you_mean
from perdure.lineage.lineage import Lineage
from perdure.lineage.rows import ASIDE, Row, aside, drop_aside, reachable, start_of
from perdure.plan.fields import Name
from perdure.records import Record


def undo(lineage: Lineage) -> Row:
    """Take back the last lesson, which stands aside from then on. Raises LineageError where there is none."""
    if not lineage.lessons:
        raise LineageError(f"{lineage.folder} has no lesson to undo")
    last = _moved(lineage, lineage.lessons[-1], "undone", start_of(lineage.rows[:-1]))
    _settle(lineage)
    return last


def redo(lineage: Lineage) -> Row:
    """Put back the lesson that was undone last. Raises LineageError where there is none."""
    row = next((row for row in _next(lineage) if row.why == "undone"), None)
    if row is None:
        raise LineageError(
            f"{lineage.folder} has no undone lesson to put back; `perdure undo` keeps what it takes until the next one"
        )
    return _restored(lineage, row)


def refuse(lineage: Lineage, staged: Row) -> Row:
    """Set a staged lesson aside, whole, instead of the one refused before it."""
    drop_aside(lineage.folder, [row for row in aside(lineage.folder) if row.why == "undone"])
    kept = _moved(lineage, staged, "refused", start_of(lineage.rows))
    lineage.tidy()
    return kept


def accept(lineage: Lineage) -> Row:
    """Make the refused lesson part of the chain; what was undone is dropped. Raises LineageError for none."""
    row = _restored(lineage, candidate(lineage))
    drop_aside(lineage.folder)
    lineage.tidy()
    return row


def drop(lineage: Lineage) -> list[Row]:
    """Drop all that stands beside the chain; returns what it was. Raises LineageError where there is nothing."""
    beside = aside(lineage.folder)
    if not beside:
        raise LineageError(f"{lineage.folder} has no refused and no undone lesson to drop")
    for row in beside:
        assert row.record  # read before the folder is gone
    drop_aside(lineage.folder)
    _settle(lineage)
    return beside


def candidate(lineage: Lineage) -> Row:
    """The lesson that was refused. Raises LineageError where there is none, or where it starts from another past."""
    rows = aside(lineage.folder)
    row = next((row for row in rows if row.why == "refused"), None)
    if row is None:
        raise LineageError(
            f"{lineage.folder} has no refused lesson; `perdure teach --max-forgetting X` keeps what it refuses"
        )
    if row not in _next(lineage):
        raise LineageError(
            f"{lineage.folder}: the refused lesson {row.number} ({row.title}) starts from lesson {row.number - 1}, "
            f"which is not the model's last now; `perdure redo {lineage.folder}` puts back what was undone since"
        )
    return row


def again(lineage: Lineage) -> Row:
    """The lesson to teach again: the refused one, else the one undone last. Raises LineageError where there is none."""
    rows = _next(lineage)
    if not rows:
        return candidate(lineage)  # raises, saying why
    return next((row for row in rows if row.why == "refused"), rows[0])


def _next(lineage: Lineage) -> list[Row]:
    """The lessons beside the chain that could be its next."""
    number, start = len(lineage.lessons) + 1, start_of(lineage.rows)
    return [row for row in aside(lineage.folder) if (row.number, row.start) == (number, start)]


def _moved(lineage: Lineage, row: Row, why: str, start: str) -> Row:
    place = files.within(lineage.folder, ASIDE) / f"{why}-{start}"
    target = Row(place / row.folder.name.partition(".")[0])
    with files.telling(target.folder):
        files.make_folder(place)
        files.rename(row.folder, target.folder)
    return target


def _restored(lineage: Lineage, row: Row) -> Row:
    final = lineage.base_row.folder.with_name(row.folder.name)
    with files.telling(final):
        files.rename(row.folder, final)
    drop_aside(lineage.folder, aside(lineage.folder))
    _settle(lineage)
    return Row(final)


def _settle(lineage: Lineage) -> None:
    """What follows from another chain: what nothing refers to is dropped, plan.yaml tells of the lessons that are."""
    lineage.tidy()
    lineage.write_plan(lineage.plan())


def beside(lineage: Lineage) -> list[Row]:
    """The lessons beside the chain that can go back into it, for those who look."""
    return reachable(lineage.lessons, aside(lineage.folder))


# --- names of lessons ------------------------------------------------------------------------------------------------

TAGS = "tags.json"
FORMAT = 1


class _Tag(Record):
    lesson: int
    memory: str


class Tags(Record):
    """tags.json; name -> the lesson's number, and the digest of its memory: a lesson taught anew is another one."""

    tags: dict[Name, _Tag]


def tags(lineage: Lineage) -> dict[str, dict[str, Any]]:
    """The names of lessons, with `lesson` and `memory`. Raises LineageError where the file is damaged."""
    path = lineage.folder / TAGS
    return dict(records.read(path, Tags, FORMAT)["tags"]) if path.is_file() else {}


def tag(lineage: Lineage, name: str, number: int | None) -> None:
    """Name a lesson, or with None take its name away. Raises LineageError for a name or lesson that cannot be."""
    known = tags(lineage)
    if number is None:
        if name not in known:
            raise LineageError(f"{lineage.folder} has no tag {name!r}{did_you_mean(name, known) if known else ''}")
        del known[name]
    else:
        if name.isdecimal() or not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
            raise LineageError(f"{name!r} cannot be a tag: letters, digits, dashes and underscores, not digits alone")
        if not 0 < number <= len(lineage.lessons):
            raise LineageError(
                f"{lineage.folder} has {len(lineage.lessons)} lessons; there is no lesson {number} to tag"
            )
        known[name] = {"lesson": number, "memory": lineage.lessons[number - 1].record["memory"]}
    files.write_json(lineage.folder / TAGS, {"format": FORMAT, "tags": known})


def numbered(lineage: Lineage, after: str | None) -> int | None:
    """The number of a lesson that is given by number or by tag. Raises LineageError for a name of no lesson."""
    if after is None or after.isdecimal():
        return None if after is None else int(after)
    known = tags(lineage)
    if after not in known:
        hint = did_you_mean(after, known) if known else f"; `perdure tag {lineage.folder} {after}` makes one"
        raise LineageError(f"{lineage.folder} has no lesson {after!r}: it is neither a number nor a tag{hint}")
    number, rows = known[after]["lesson"], lineage.lessons
    if number > len(rows) or rows[number - 1].record["memory"] != known[after]["memory"]:
        raise LineageError(f"{lineage.folder}: tag {after!r} is of a lesson {number} that is undone or was taught anew")
    return int(number)
