"""Whether a plan, a base and a concept are those that a lineage was made with; the first difference in words.

Settings are compared key by key. A key that a lineage of an older version lacks counts as the key's own default (not
that of a base, in defaults.yaml): a new key is a new possibility, and by default does what was done before.
Fingerprints are labels of what a version understood, and are not compared: they change with every key that is added.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from perdure.errors import LineageError, PlanError
from perdure.lineage import taught
from perdure.lineage.lineage import Lineage
from perdure.plan import TOYBOX, Plan, describe, mistakes, portable, yaml_file


def on_plan(lineage: Lineage, plan: Plan) -> None:
    """Refuse a plan that did not make this lineage; one with more concepts continues it. Raises LineageError."""
    on_settings(lineage, plan)
    if gone := next((row for row in lineage.lessons if row.removed), None):
        raise LineageError(
            f"{lineage.folder}: {gone.removed[0]} was removed from it, and a plan only teaches; go on with "
            "`perdure teach`, or give another --out folder"
        )
    if alone := next((row for row in lineage.lessons if row.record.get("training")), None):
        raise LineageError(
            f"{lineage.folder}: lesson {alone.number} ({alone.title}) has settings of its own ({alone.own}), and "
            "a plan has none for single lessons; go on with `perdure teach`, or give another --out folder"
        )
    names = [concept.name for concept in plan.sequence]
    planned = [set(names)] if plan.joint else [{name} for name in names]
    if [set(row.concepts) for row in lineage.lessons] != planned[: len(lineage.lessons)]:
        raise LineageError(
            f"{lineage.folder} has learnt {', '.join(lineage.concepts)}, "
            f"which is not how the plan begins: {', '.join(names)}; give another --out folder, or delete this one"
        )
    for concept in plan.sequence:
        if concept.name in lineage.concepts:
            taught.on_concept(lineage.folder, lineage.concept_facts(concept.name)["described"], concept)


def on_settings(lineage: Lineage, plan: Plan) -> None:
    """Refuse a plan that would teach otherwise; concepts and order do not count. Raises LineageError."""
    mine, theirs = portable(completed(lineage)), portable(plan.settings())
    _on_code(lineage, mine, theirs)
    if mine != theirs:
        raise LineageError(
            f"{lineage.folder} was made by another plan: {taught.difference(mine, theirs)}; "
            "give another --out folder, or delete this one"
        )


@contextmanager
def writing(lineage: Lineage) -> Iterator[None]:
    """The only writer of a model whose plan.yaml nobody has edited. Raises LineageError."""
    with lineage.locked():
        on_file(lineage)
        yield


def on_file(lineage: Lineage) -> None:
    """Refuse a model whose plan.yaml says other settings, or other concepts that were taught, than it has.

    It is written for people, and read by nobody: who edits it would wait for an effect. Raises LineageError.
    """
    path = lineage.folder / "plan.yaml"
    if not path.is_file():
        return
    try:
        plan = Plan.model_validate({**_understood(yaml_file.read(path)[0]), "joint": False})
        known = {concept.name: describe(concept) for concept in plan.concepts}
        newest = {name for row in lineage.lessons[-1:] for name in row.concepts} - known.keys()  # written after it
        named = {name: describe(lineage.concept(name)) for name in lineage.concepts if name not in newest}
        mine, theirs = portable(completed(lineage)), portable(plan.settings())
        mine, theirs = mine | {"concepts": named}, theirs | {"concepts": {name: known.get(name) for name in named}}
        told = "" if mine == theirs else taught.difference(mine, theirs, places=("in the model", "in the file"))
    except PlanError as error:
        told = error.problems[0]
    except ValidationError as error:
        told = mistakes.sentences(error, Plan, str(path), None)[0]
    if told:
        raise LineageError(
            f"{path} was edited by hand: {told}. It only shows the settings of a model, which stay what they were, or "
            f"its scores could not be compared. For one lesson say `perdure teach {lineage.folder} IMAGES --set "
            "training.steps=N`, for all begin another model (perdure init NEW --set KEY=VALUE); "
            f"`perdure fsck {lineage.folder} --mend` writes the file again"
        )


def _on_code(lineage: Lineage, mine: Any, theirs: Any) -> None:
    """Refuse a method, measure or family whose file has changed since, in words of its own. Raises LineageError."""
    for kind, known, now in (
        *(("method", one, other) for one, other in zip(mine["methods"], theirs["methods"], strict=False)),
        ("family", mine.get("family") or {}, theirs.get("family") or {}),
        *(
            ("measure", {"name": name, "code": code}, {"name": name, "code": theirs["scoring"]["code"][name]})
            for name, code in mine["scoring"].get("code", {}).items()
            if name in theirs["scoring"].get("code", {})
        ),
    ):
        was, found = (one.get("code", {}).get("digest") for one in (known, now))
        if known.get("name") == now.get("name") and was and found and was != found:
            raise LineageError(
                f"{lineage.folder} was taught with another file of {kind} {known['name']!r}, which has changed since "
                f"(digest {found}, it was {was}); put it back as it was, or give another --out folder"
            )


def completed(lineage: Lineage) -> dict[str, Any]:
    """The settings of a lineage, with the defaults of keys that it lacks. Raises LineageError for unknown ones."""
    with mistakes.understood(lineage.folder / "lineage.json", Plan):
        return Plan.model_validate(_understood(lineage.settings)).settings()


def _understood(settings: dict[str, Any]) -> dict[str, Any]:
    """Recorded settings in today's terms: the empty negative prompt of the embedded base is its pipeline's default."""
    sampling = settings.get("sampling")
    if settings.get("base") != TOYBOX or not isinstance(sampling, dict) or sampling.get("negative_prompt") != "":
        return settings
    return {**settings, "sampling": {**sampling, "negative_prompt": None}}


def on_base(lineage: Lineage, identity: str) -> None:
    """Refuse other weights than the lineage was begun on. Raises LineageError."""
    base = lineage.settings["base"]
    if os.path.isabs(base) and not os.path.exists(base):
        raise LineageError(
            f"{lineage.folder} was made on a base that is no longer in {base}; put it back, or write where it is now "
            f"into {lineage.folder / 'lineage.json'} (settings, base)"
        )
    if identity != lineage.facts["base_identity"]:
        raise LineageError(f"{lineage.folder} was made on other weights of base {base!r}; the base has changed since")
