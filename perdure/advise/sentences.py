"""The advice in plain sentences: what to take, how sure that is, and what to beware of."""

from collections.abc import Mapping, Sequence

from perdure import wording
from perdure.advise.design import Design, Speed, most_rounds
from perdure.advise.verdict import BEHIND, Standing, Verdict
from perdure.compare.statistics import least_p
from perdure.plan import Plan
from perdure.report import summary
from perdure.report.rules import KNOWN
from perdure.wording import listed

FLOOR = "naive"
"""The method that does nothing against forgetting."""


def headline(verdict: Verdict) -> str:
    """The recommendation."""
    leader = verdict.leader
    if verdict.kind == "unsound":
        return "No recommendation: scores do not hold, so that the methods cannot be told apart by them."
    if verdict.kind == "unscored":
        blank = [name for name, measure in verdict.measures.items() if not measure]
        return f"No recommendation: of {listed(blank)} there are no scores, so that no average can be taken."
    if verdict.kind == "nothing learnt":
        return (
            f"No recommendation: no method is clearly above the untouched base (highest average {leader.average:.3f}, "
            f"base {verdict.base:.3f}); these lessons taught too little to choose by."
        )
    shares = f"ahead of all others in {percent(leader.best)} of resamples of {extent(verdict)}"
    if verdict.kind == "undecided" and not verdict.enough:
        return f"Undecided: {extent(verdict)} are too few to tell methods apart ({leader.label} is {shares})."
    if verdict.kind == "undecided":
        close = listed(list(verdict.tied))
        verb = "is" if len(verdict.tied) == 1 else "are"
        return f"Undecided: {leader.label} has the highest average and is {shares}; {close} {verb} within noise of it."
    sure = "" if verdict.kind == "clear" else "Probably "
    return f"{sure}{leader.label}: it is {shares}; no other method is within noise of it."


def reason(verdict: Verdict) -> str:
    """What the one to take costs, and what is cheaper and not worse as far as is known; what to try where none is."""
    if verdict.kind == "unsound":
        return f"{' '.join(verdict.unsound)} Take a base and scorers that were made for such pictures (--base)."
    if verdict.kind == "unscored":
        return (
            "Name a measure for each concept's kind (--set scoring.subject=..., scoring.style=...), with another --out."
        )
    if verdict.choice is None:
        longer = "a larger --budget) or another learning rate (--set training.learning_rate=..."
        return f"Try longer lessons ({longer}), with another --out."
    own = verdict.standing(verdict.choice)
    why = "is taken for its average: it" if verdict.kind == "undecided" else ""
    told = f"{own.label} {why}{' ' * bool(why)}{_costs(own)} (in lessons of this length).{_cheaper(verdict)}"
    floor = " It does nothing against forgetting: nothing here was shown to beat that." if own.label == FLOOR else ""
    return told + floor + "".join(f" Mind: {own.label} {note}." for note in notes(own.strict, own.knows, own.breach))


def _costs(standing: Standing) -> str:
    seconds = summary.seconds(standing.seconds)
    return f"carries {wording.size(standing.carried)} and takes {seconds} of training a lesson"


def _behind(standing: Standing) -> str:
    """How far a method is behind the leader: its average is 0.012 lower [-0.020, +0.043]."""
    span = f"95 % of resamples: {summary.signed(standing.low)} to {summary.signed(standing.high)}"
    return f"its average is {standing.gap:.3f} lower ({span})"


def _cheaper(verdict: Verdict) -> str:
    """What costs less and is within noise: named where it is near enough, and where it is not, that it is not."""
    leader = verdict.leader
    if (near := verdict.cheaper) is not None:
        return f" Cheaper and within noise of it: {near.label} {_costs(near)}; {_behind(near)}."
    cheap = [s for s in map(verdict.standing, verdict.tied) if s.price < leader.price]
    if not cheap or not verdict.enough:
        return ""
    told = listed([f"{s.label} ({_behind(s)})" for s in cheap])
    return (
        f" Cheaper, and not told apart by so few data, but behind by more than {percent(BEHIND)} of what "
        f"{leader.label} gained over the base ({leader.average - verdict.base:.3f}): {told}."
    )


def notes(strict: bool, knows: str, breach: str) -> list[str]:
    """How a method leaves the rules, as ends of sentences; nothing where it keeps them."""
    found = [] if strict else [breach or "is outside the strict regime"]
    return found + ([f"must be told {KNOWN.get(knows, knows)} when drawing"] if knows != "nothing" else [])


def cautions(
    verdict: Verdict, design: Design, plan: Plan, left_out: Sequence[str], failed: Mapping[str, str]
) -> list[str]:
    """What a reader must know before trusting the advice. `plan`: with all concepts and full lessons."""
    told = [_few(verdict)]
    if verdict.kind == "likely" and len(verdict.standings) == 2:
        told.append("With two equal methods, one comes out as probable in one to four of a hundred such trials.")
    if design.share < 1:
        told.append(
            f"Lessons were {percent(design.share)} as long as the plan's: longer ones teach more, and may forget more."
        )
    if len(verdict.concepts) < len(plan.concepts):
        told.append(
            f"{len(verdict.concepts)} of {len(plan.concepts)} concepts were taught ({listed(list(verdict.concepts))}); "
            "what is forgotten grows with their number."
        )
    if verdict.not_held_out:
        told.append(
            f"Training images served as references for {listed(list(verdict.not_held_out))}, which flatters methods "
            "that memorise; put a few other images into refs/ beside them."
        )
    if not any(choice.training for choice in plan.methods):
        told.append("All methods had the same learning rate; one that needs another may do better than it did here.")
    measures = list(dict.fromkeys(verdict.measures.values()))
    if len(measures) > 1:
        told.append(f"The average mixes {listed(measures)}: each concept counts by the first measure of its kind.")
    if verdict.lower:
        told.append("Scores of measures that are better when lower are shown with their sign turned.")
    if left_out:
        told.append(f"Left out for want of time: {listed(list(left_out))}.")
    told += [f"{label} is out: {why}" for label, why in failed.items()]
    return told


def _few(verdict: Verdict) -> str:
    if verdict.rounds == 1:
        return "One round says nothing about what another order or seed would change."
    needed = most_rounds(len(verdict.standings))
    if verdict.rounds < needed:
        return (
            f"{verdict.rounds} rounds are few: two equal methods would differ the same way in all of them with "
            f"probability {percent(least_p(verdict.rounds))}; with {len(verdict.standings)} methods, differences can "
            f"be settled from {needed} rounds."
        )
    return f"{len(verdict.concepts)} concepts are few: with others, or on another base, another method may lead."


def extent(verdict: Verdict) -> str:
    """2 rounds x 4 concepts."""
    return f"{verdict.rounds} round{'s' if verdict.rounds > 1 else ''} x {len(verdict.concepts)} concepts"


def percent(share: float) -> str:
    """A share; one that is not quite all or nothing never looks so."""
    shown = min(max(round(100 * share), 1), 99) if 0 < share < 1 else round(100 * share)
    return f"{shown} %"


def setting(verdict: Verdict, design: Design, speed: Speed, plan: Plan) -> str:
    """What was run, and how it is judged."""
    steps = sorted({design.steps(speed.methods[s.label].steps) for s in verdict.standings})
    span = f"{steps[0]}" if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
    return (
        f"{len(verdict.standings)} methods on {plan.base}, {extent(verdict)} ({listed(list(verdict.concepts))}), "
        f"lessons of {span} steps, {design.prompts * design.images} images per score; judged by the average "
        f"{listed(list(dict.fromkeys(verdict.measures.values())))} of all concepts after the last lesson. All methods "
        "share each round's order and seed."
    )
