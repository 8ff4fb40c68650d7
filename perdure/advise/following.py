"""What to do with the advice: the same plan with the method that was chosen, and the command that begins a model."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

from perdure import plan as plans
from perdure.plan import MethodChoice, Plan

SECTIONS = ("vae", "training", "sampling", "scoring", "seed")
"""Keys of a plan that `perdure init` needs besides base and method."""


def plan_text(plan: Plan, choice: MethodChoice) -> str:
    """The whole plan, full lessons and all concepts, with one method."""
    return plans.plan_text(plan.model_copy(update={"methods": (choice,)}))


def init_line(plan: Plan, choice: MethodChoice, name: str = "mymodel") -> str:
    """The `perdure init` command of a model that is taught like this plan, with one method."""
    words = ["perdure", "init", name]
    if plan.base != plans.TOYBOX:
        words += ["--base", plan.base]
    if choice.options:
        words += ["--set", f"method={json.dumps({'name': choice.name, **choice.options})}"]
    else:
        words += ["--method", choice.name]
    usual = plans.build({"base": plan.base, "method": choice.name}).settings()
    own = plan.narrowed(choice).settings()
    for key in SECTIONS:
        for at, value in _differing(usual[key], own[key], key):
            words += ["--set", f"{at}={json.dumps(value)}"]
    return shlex.join(words)


def _differing(usual: Any, own: Any, at: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of what is not as usual."""
    if isinstance(usual, dict) and isinstance(own, dict) and usual:
        for key, value in own.items():
            yield from _differing(usual.get(key), value, f"{at}.{key}")
    elif usual != own:
        yield at, own
