"""Parts of the documentation that are made from the code."""

from collections.abc import Sequence

from perdure import method
from perdure.catalogue import MethodCard


def methods_table(cards: Sequence[MethodCard]) -> str:
    """The methods as a Markdown table: the four choices as written in the files, and what each declares."""
    rows = ["| method | adapter | start | guard | consolidate | knows | strict |", "|---|---|---|---|---|---|---|"]
    for card in cards:
        declared = method.get(card.name).consolidate
        choices = " | ".join(f"`{choice}`" for choice in (card.adapter, card.start, card.guard, card.consolidate))
        rows.append(f"| {card.name} | {choices} | {declared.knows} | {'yes' if declared.strict else 'no'} |")
    return "\n".join(rows)
