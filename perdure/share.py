"""A part of a batch: several processes can share out the batches of a lesson, each computing on its own rows."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Share:
    """Which of `count` equal parts of a batch is at hand: by default, and on one process, all of it.

    Gradients are averaged over the parts, so a loss that is a mean over rows is right as it is, and so is a term of the
    weights alone. What is drawn at random for each row is drawn for the whole batch, and `of` it is taken.
    """

    number: int = 0
    count: int = 1

    def of(self, whole: Any) -> Any:
        """The own rows of something that was made for the whole batch: a batch, a tensor, a list."""
        size = len(whole) // self.count
        return whole if self.count == 1 else whole[self.number * size : (self.number + 1) * size]

    def whole(self, rows: Any) -> int:
        """How many rows the whole batch has of which these are the own."""
        return len(rows) * self.count


WHOLE = Share()
"""All of it."""
