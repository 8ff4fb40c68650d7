"""Whether a plan, a base and a concept are those that a lineage was made with; the first difference in words.

Settings are compared key by key. A key that a lineage of an older version lacks counts as the key's own default (not
that of a base, in defaults.yaml): a new key is a new possibility, and by default does what was done before.
Fingerprints are labels of what a version understood, and are not compared: they change with every key that is added.
"""

import os
from typing import Any

from perdure.errors import LineageError
from perdure.lineage import taught
from perdure.lineage.lineage import Lineage
from perdure.plan import TOYBOX, Plan, mistakes, portable


def on_plan(lineage: Lineage, plan: Plan) -> None:
    """Refuse a plan that did not make this lineage; one with more concepts continues it. Raises LineageError."""
    on_settings(lineage, plan)
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
    sampling = settings["sampling"]
    if settings["base"] != TOYBOX or sampling.get("negative_prompt") != "":
        return settings
    return {**settings, "sampling": {**sampling, "negative_prompt": None}}


def on_base(lineage: Lineage, identity: str) -> None:
    """Refuse other weights than the lineage was begun on. Raises LineageError."""
    base = lineage.settings["base"]
    if os.path.isabs(base) and not os.path.isdir(base):
        raise LineageError(
            f"{lineage.folder} was made on a base that is no longer in {base}; put it back, or write where it is now "
            f"into {lineage.folder / 'lineage.json'} (settings, base)"
        )
    if identity != lineage.facts["base_identity"]:
        raise LineageError(f"{lineage.folder} was made on other weights of base {base!r}; the base has changed since")
