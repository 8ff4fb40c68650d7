"""What a sweep asks of an engine: take stretches, say which have ended, stop. It is not asked when one may begin."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from perdure.sweep.status import Paces
from perdure.sweep.tree import Stretch

BUSY = "another process works on it"
"""Problem of a stretch whose run another sweep has at work: it is offered again later."""
TRIES = 3
"""How often a stretch is begun whose process dies (killed, out of memory, a node that is gone)."""


class Ended(NamedTuple):
    """A stretch that has ended: `problem` is None where it is done."""

    stretch: Stretch
    problem: str | None


class Engine(Protocol):
    """Where stretches are carried out."""

    @property
    def slots(self) -> int:
        """How many stretches it can have at work at once."""

    def paces(self, stretches: Sequence[Stretch]) -> Paces:
        """What a lesson of each method costs where stretches will be carried out; empty where that is not known."""

    def start(self, stretches: Iterable[Stretch]) -> None:
        """Take stretches; they may wait inside."""

    def ended(self, seconds: float) -> list[Ended]:
        """What has ended since, after waiting so long at most."""

    def close(self) -> None:
        """Stop everything."""


class Lives:
    """Counts the deaths of processes, and says when it is enough."""

    def __init__(self) -> None:
        self._deaths: Counter[str] = Counter()

    def lost(self, stretch: Stretch, where: str) -> Ended | None:
        """None where the stretch is to be begun again."""
        self._deaths[stretch.name] += 1
        if self._deaths[stretch.name] < TRIES:
            return None
        del self._deaths[stretch.name]
        return Ended(
            stretch, f"its process ended {TRIES} times before its work (killed, or out of memory?); see {where}"
        )


def sentence(error: BaseException) -> str:
    """An error that nobody expected, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
