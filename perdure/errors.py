"""Everything that can go wrong in a way the user can mend.

PerdureError            one sentence: what was got, what is allowed, what to do
├── PlanError           a plan (or an option given on the command line) that cannot be run
├── ImageError          a picture or a folder of pictures that cannot be used
├── DataError           a data set that cannot be fetched or verified
├── ModelError          a base model or scorer that is missing, offline or of the wrong kind
├── TrainingError       a lesson that diverged, or a model that draws no pictures; the memory is as it was before
├── LineageError        a model folder that is damaged, locked or made by another plan
└── GateRefused         a lesson that harmed an older concept more than the user allows (exit code 3)
"""

import difflib
from collections.abc import Iterable


class PerdureError(Exception):
    """Root of the tree; the command line prints its message without a traceback and exits with `exit_code`."""

    exit_code = 2


class PlanError(PerdureError):
    """All the mistakes of one plan at once; `problems` holds one sentence each."""

    def __init__(self, problems: list[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class ImageError(PerdureError):
    """A picture, or a folder of pictures, that cannot be used."""


class DataError(PerdureError):
    """A data set that cannot be fetched or does not verify."""


class ModelError(PerdureError):
    """A base model or scorer that is missing, offline or of the wrong kind."""


class TrainingError(PerdureError):
    """A lesson that diverged (NaN or infinite loss), or a model that draws no pictures."""


class LineageError(PerdureError):
    """A model folder that is damaged, locked, or made by another plan."""


class GateRefused(PerdureError):
    """A lesson refused because an older concept fell by more than the gate allows."""

    exit_code = 3


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The tail of an error message: the nearest known word, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
