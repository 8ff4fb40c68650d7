"""What is run in the time there is: how many methods, concepts, steps, images and rounds. Pure arithmetic.

A round runs every method once with one order of the concepts and one seed, so that methods are compared in pairs.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from perdure.compare.statistics import least_orders
from perdure.errors import PlanError
from perdure.plan import MethodChoice, Plan, fingerprint
from perdure.plan.workload import lengths, lighter

UNITS = {"": 60.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
"""Unit -> seconds; a plain number means minutes."""


def seconds_of(text: str) -> float:
    """Seconds in `90s`, `20min`, `2h`, or a plain number of minutes. Raises PlanError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if found is None or found[2] not in UNITS or not float(found[1]) > 0:
        raise PlanError(
            f"--budget {text!r} is not a span of time; write 90s, 20min or 2h (a plain number means minutes)"
        )
    return float(found[1]) * UNITS[found[2]]


def duration(seconds: float) -> str:
    """A span in the form that `seconds_of` reads, rounded up: 45s, 17min, 2.5h."""
    if seconds <= 90:
        return f"{math.ceil(seconds)}s"
    if seconds <= 90 * 60:
        return f"{math.ceil(seconds / 60)}min"
    return f"{math.ceil(seconds / 360) / 10:g}h"


MARGIN = 0.9
"""Share of the time that the runs are to fill; the rest is for what measuring did not see."""


class Level(NamedTuple):
    """How thorough the runs are: share of the plan's steps, concepts, images per cell of the score matrix."""

    share: float
    concepts: int
    images: int


LEVELS = (
    Level(1.0, 5, 16), Level(0.8, 5, 16), Level(0.8, 4, 12), Level(0.6, 4, 8), Level(0.6, 3, 8), Level(0.4, 3, 4),
    Level(0.4, 2, 4),
)  # fmt: skip
"""From what one would wish for down to the least that says anything about full lessons (taste)."""


@dataclass(frozen=True)
class Cost:
    """What a method takes: seconds per step, seconds per lesson beside its steps, and steps of a full lesson."""

    step: float
    lesson: float
    steps: int


@dataclass(frozen=True)
class Speed:
    """What was measured on this machine and base: each method's cost, and seconds per evaluation image."""

    methods: Mapping[str, Cost]
    image: float


@dataclass(frozen=True)
class Design:
    """The runs. `prompts` x `images`: images per cell; `seconds`: what all rounds are expected to take."""

    methods: tuple[str, ...]
    share: float
    concepts: int
    prompts: int
    images: int
    rounds: int
    seconds: float

    def steps(self, full: int) -> int:
        """Steps of a lesson whose full length is given."""
        return max(1, round(self.share * full))


def most_rounds(methods: int) -> int:
    """Rounds after which more time is not spent: with these, differences of so many methods can be settled."""
    return least_orders(methods * (methods - 1) // 2)


def choose(speed: Speed, plan: Plan, seconds: float, used: float = 0.0) -> Design:
    """The most thorough design that fits into the seconds left after those `used`. Raises PlanError where none does.

    Two rounds are wanted before anything else, for one says nothing about order and seed: for them lessons are
    shortened, then methods left out from the end of the list. Time that is left over goes into further rounds.
    """
    labels, room = tuple(speed.methods), MARGIN * (seconds - used)
    for rounds in (2, 1):
        for count in range(len(labels), 1, -1):
            for level in LEVELS:
                one, two = (_design(speed, plan, labels[:count], level, n) for n in (1, 2))
                if (one if rounds == 1 else two).seconds <= room:
                    each = max(two.seconds - one.seconds, 1e-9)
                    most = 1 + int((room - one.seconds) / each + 1e-9)
                    return _design(speed, plan, labels[:count], level, max(rounds, min(most, most_rounds(count))))
    raise PlanError(
        f"--budget {duration(seconds)} is too short: 2 methods on 2 concepts, once, would take about "
        f"{duration(needed(speed, plan, 2, 1) + used)} on this machine; give that or more"
    )


def needed(speed: Speed, plan: Plan, methods: int, rounds: int) -> float:
    """The budget in seconds that so many methods and rounds take at the least."""
    return _design(speed, plan, tuple(speed.methods)[:methods], LEVELS[-1], rounds).seconds / MARGIN


def _design(speed: Speed, plan: Plan, labels: tuple[str, ...], level: Level, rounds: int) -> Design:
    concepts = min(level.concepts, len(plan.concepts))
    prompts = min(max(len(plan.prompts_for(concept)) for concept in plan.concepts), level.images)
    images = min(plan.sampling.images_per_prompt, max(1, level.images // prompts))
    cell = prompts * images * speed.image
    made = Design(labels, level.share, concepts, prompts, images, rounds, 0.0)
    lessons = sum(cost.lesson + made.steps(cost.steps) * cost.step for cost in map(speed.methods.__getitem__, labels))
    drawn = len(labels) * cell * concepts * (concepts + 1) / 2  # after each lesson, every concept learnt so far
    seconds = concepts * cell + rounds * (concepts * lessons + drawn)  # the base's row is drawn once for all
    return Design(labels, level.share, concepts, prompts, images, rounds, seconds)


def order(seed: int, number: int, count: int) -> tuple[int, ...]:
    """The order of a round (from 1) as positions from 1: odd rounds draw one, even rounds turn the last one round.

    So every concept is taught as often early as late. The same on every machine.
    """
    pair = (number - 1) // 2
    drawn = sorted(range(1, count + 1), key=lambda position: fingerprint(["advise", seed, pair, position]))
    return tuple(drawn if number % 2 else reversed(drawn))


def round_plan(plan: Plan, choice: MethodChoice, design: Design, number: int) -> Plan:
    """The plan of one run: a method in a round (from 1); `plan` has the concepts that are taught."""
    own = plan.narrowed(choice)
    steps = design.steps(max(lengths(own)))  # of classes, instead of epochs
    training = own.training.model_copy(update={"steps": steps, "epochs": None})
    return lighter(own, design.prompts, design.images).model_copy(
        update={
            "training": training,
            "order": order(plan.seed, number, len(plan.concepts)),
            "seed": plan.seed + number - 1,
        }
    )


def told(design: Design, speed: Speed) -> str:
    """The design in one line: 6 methods x 4 concepts x 180 steps, 2 rounds, about 17min."""
    found = {design.steps(speed.methods[label].steps) for label in design.methods}
    return (
        f"{len(design.methods)} methods x {design.concepts} concepts x {_span(found)} steps, "
        f"{design.rounds} round{'s' if design.rounds > 1 else ''}, about {duration(design.seconds)}"
    )


def _span(values: Iterable[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
