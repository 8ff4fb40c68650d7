"""What a sweep asks of an engine: take orders, say which have ended, stop. It is not asked when an order may begin."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from perdure.sweep.status import Paces
from perdure.sweep.tree import Order

BUSY = "another process works on it"
"""Problem of an order whose run another sweep has at work: it is offered again later."""
TRIES = 3
"""How often an order is begun whose process dies (killed, out of memory, a node that is gone)."""


class Ended(NamedTuple):
    """An order that has ended: `problem` is None where it is done."""

    order: Order
    problem: str | None


class Engine(Protocol):
    """Where orders are carried out."""

    @property
    def slots(self) -> int:
        """How many orders it can have at work at once."""

    def paces(self, orders: Sequence[Order]) -> Paces:
        """What a lesson of each method costs where orders will be carried out; empty where that is not known."""

    def start(self, orders: Iterable[Order]) -> None:
        """Take orders; they may wait inside."""

    def ended(self, seconds: float) -> list[Ended]:
        """What has ended since, after waiting so long at most."""

    def close(self) -> None:
        """Stop everything."""


class Lives:
    """Counts the deaths of processes, and says when it is enough."""

    def __init__(self) -> None:
        self._deaths: Counter[str] = Counter()

    def lost(self, order: Order, where: str) -> Ended | None:
        """None where the order is to be begun again."""
        self._deaths[order.name] += 1
        if self._deaths[order.name] < TRIES:
            return None
        del self._deaths[order.name]
        return Ended(order, f"its process ended {TRIES} times before its work (killed, or out of memory?); see {where}")


def sentence(error: BaseException) -> str:
    """An error that nobody expected, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
