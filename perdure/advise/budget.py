"""Spans of time as people write and read them: `20min` -> seconds -> "about 20 min"."""

import math
import re

from perdure.errors import PlanError

UNITS = {"": 60.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
"""Unit -> seconds; a plain number means minutes."""


def parse(text: str) -> float:
    """Seconds in `90s`, `20min`, `2h`, or a plain number of minutes. Raises PlanError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if found is None or found[2] not in UNITS or not float(found[1]) > 0:
        raise PlanError(
            f"--budget {text!r} is not a span of time; write 90s, 20min or 2h (a plain number means minutes)"
        )
    return float(found[1]) * UNITS[found[2]]


def show(seconds: float) -> str:
    """A span in the form that `parse` reads, rounded up: 45s, 17min, 2.5h."""
    if seconds <= 90:
        return f"{math.ceil(seconds)}s"
    if seconds <= 90 * 60:
        return f"{math.ceil(seconds / 60)}min"
    return f"{math.ceil(seconds / 360) / 10:g}h"
