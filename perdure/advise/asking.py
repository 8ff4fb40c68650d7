"""What is asked: a folder of concepts (or a plan), the methods to choose from, and what there is to judge them by."""

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from perdure import plan as plans
from perdure.errors import PlanError, did_you_mean
from perdure.photos import pictures
from perdure.plan import Concept, MethodChoice, Plan, defaults, describe, fingerprint, portable, sources, yaml_file
from perdure.wording import name_from

CANDIDATES = ("naive", "merge_init", "merge_ortho", "magmax", "c_lora", "cns")
"""Methods that are tried by default, the most wanted first: where time is short, the last are left out."""
HOLD_OUT_FROM = 6
"""Images from which a concept without references can spare some (taste)."""
HELD_OUT_MOST = 4


def plan_of(
    target: Path, methods: Sequence[str] = (), base: str | None = None, overrides: tuple[str, ...] = ()
) -> Plan:
    """The plan that is asked about: every concept, every method to choose from, full lessons. Raises PlanError.

    `target`: a folder with one sub-folder of images per concept, a plan file, or the name of a ready plan. A method
    that the plan itself lists keeps the options it has there.
    """
    data, lines, folder, where = _read(target)
    own = [data.pop("method")] if "method" in data else data.get("methods") or []
    if not (methods or any(_key(text) in ("method", "methods") for text in overrides)):
        methods = CANDIDATES
    if methods:
        overrides = tuple(text for text in overrides if _key(text) not in ("method", "methods"))
        called = sources.code(list(dict.fromkeys(methods)), Path())
        data["methods"] = [entry for name in called for entry in _entries(own, name)]
        lines = {place: line for place, line in lines.items() if place[:1] != ("methods",)}
    if any(_key(text) == "method" for text in overrides):
        data.pop("methods", None)
    if base is not None:
        data["base"] = base
    here = tuple(map(sources.from_here, overrides))
    made = plans.build(yaml_file.override(data, here), folder, lines, where)
    for what, count in (("concepts", len(made.concepts)), ("methods", len(made.methods))):
        if count < 2:
            raise PlanError(f"{where} gives {count} {what}; at least 2 {what} are needed to compare anything")
    return made.model_copy(update={"concepts": made.sequence, "order": None, "joint": False})


def _read(target: Path) -> tuple[dict[str, Any], yaml_file.LineNumbers, Path, str]:
    if os.path.isdir(target):
        data = {"name": name_from(target.absolute().name), "concepts": {"folder": str(target.absolute())}}
        return data, {}, Path(), str(target)
    path = target
    if not os.path.isfile(target):
        ready = [p.stem for p in plans.ready("template").parent.glob("*.yaml")]
        if target.suffix or target.name not in ready:
            told = "" if target.suffix else did_you_mean(target.name, ready)
            raise PlanError(f"{target} is neither a folder of concepts, nor a plan file, nor a ready plan{told}")
        path = plans.ready(target.name)
    data, lines = yaml_file.read(path)
    return {"name": name_from(path.stem), **data}, lines, path.parent, str(path)


def _key(override: str) -> str:
    return override.partition("=")[0]


def _entries(own: Any, name: str) -> list[Any]:
    """How a plan lists a method (perhaps several times, with different options); its bare name where it does not."""
    listed = own if isinstance(own, list) else []
    return [one for one in listed if name in (one, one.get("name") if isinstance(one, dict) else None)] or [name]


def chosen(concepts: Sequence[Concept], count: int) -> tuple[Concept, ...]:
    """So many concepts, evenly spread over all of them, first and last included."""
    last = len(concepts) - 1
    return (
        tuple(concepts[round(k * last / (count - 1))] for k in range(count)) if count < len(concepts) else (*concepts,)
    )


def holding_out(concept: Concept) -> Concept:
    """The concept with a third of its images (four at most) held out, where it can spare them and has no references."""
    if concept.drawn is not None or concept.hold_out:
        return concept
    training, references = pictures.files_of(concept)
    spare = min(len(training) // 3, HELD_OUT_MOST) if len(training) >= HOLD_OUT_FROM and not references else 0
    return concept.model_copy(update={"hold_out": spare})


def mark(plan: Plan) -> str:
    """A fingerprint of all that is asked but the time."""
    return fingerprint([portable(plan.settings()), [describe(concept) for concept in plan.concepts]])


SECTIONS = ("vae", "transformer", "training", "sampling", "scoring", "seed")
"""Keys of a plan that `perdure init` needs besides base and method."""


def whole_plan(plan: Plan, choice: MethodChoice) -> str:
    """The whole plan, full lessons and all concepts, with one method."""
    return plans.plan_text(plan.model_copy(update={"methods": (choice,)}))


def init_command(plan: Plan, choice: MethodChoice, name: str = "mymodel") -> str:
    """The `perdure init` command of a model that is taught like this plan, with one method."""
    toybox = plan.base == plans.TOYBOX
    words = ["perdure", "init", name]
    if not toybox:
        words += ["--base", plan.base]
    method = choice.name if choice.code.file is None else str(choice.code.file)
    if choice.options:
        words += ["--set", f"method={json.dumps({'name': method, **choice.options})}"]
    else:
        words += ["--method", method]
    kept = defaults.of_model(plan.base, "")
    usual = plans.build({"base": plan.base, "method": method}, kept=kept).settings()
    if not toybox:  # what `init` takes from the base and the device
        usual = {**usual, "training": {}, "sampling": {}}
    own = plan.narrowed(choice).settings()
    for key in SECTIONS:
        for at, value in _differing(usual.get(key), own.get(key), key):
            words += ["--set", f"{at}={json.dumps(value)}"]
    return shlex.join(words)


def _differing(usual: Any, own: Any, at: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of what is not as usual."""
    if isinstance(usual, dict) and isinstance(own, dict) and usual:
        for key, value in own.items():
            yield from _differing(usual.get(key), value, f"{at}.{key}")
    elif usual != own:
        yield at, own
