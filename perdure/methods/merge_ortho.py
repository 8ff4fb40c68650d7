"""Merge & orthogonal initialise: as merge_init, with A started orthogonal to the past A.

Staniszewski, Zaleska, Deja: Low-Rank Continual Personalization of Diffusion Models, arXiv 2410.04891, section 3.

The paper's text merges products (`merge=product`) and makes columns of A orthogonal to the sum of all past A
(`orthogonality=column`). Its code carries the sums of the factors instead (`merge=factor_sum`), cross terms included.
`orthogonality=rowspace` is our addition: input subspaces that are orthogonal, which the column reading does not give.
"""

from typing import Literal

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.consolidate import add, add_factors, carrying, fewer_rows, less_a, past_a, past_rows
from perdure.parts.guard import nothing
from perdure.parts.start import orthogonal_columns, orthogonal_rows
from perdure.plan.ranges import Count


def METHOD(
    rank: Count = 16,
    targets: Targets = "attention",
    merge: Literal["product", "factor_sum"] = "product",
    orthogonality: Literal["column", "rowspace"] = "column",
) -> Method:
    """Orthogonal start on top of the past; carries what the next start needs to know of the past A."""
    columns = orthogonality == "column"
    merged = add if merge == "product" else add_factors
    return Method(
        adapter=lora(rank, targets),
        start=orthogonal_columns if columns else orthogonal_rows,
        guard=nothing,
        consolidate=carrying(merged, past_a, "past_a", forget=less_a)
        if columns
        else carrying(merged, past_rows, "past_rows", forget=fewer_rows),
    )
