"""Least squares: one matrix that answers every concept's inputs as the concept's own would, and no past adapter kept.

Ours: the ridge form of gradient fusion (Gu et al.: Mix-of-Show, arXiv 2305.18292, section 3.2), solved lesson by
lesson.

State: the fused change, and one symmetric matrix (in, in) for each input: what the concepts' inputs were like. The
result is the joint solution over all concepts, whatever their order, but for the rounding of float32.
"""

from perdure.method import Method, Targets
from perdure.parts.adapter import lora
from perdure.parts.guard import nothing
from perdure.parts.regression import least_squares
from perdure.parts.start import fresh_on_base
from perdure.plan.ranges import Count, Positive


def METHOD(
    rank: Count = 16,
    targets: Targets = "attention",
    epsilon: Positive = 1e-3,
    batches: Count = 8,
    batch_size: Count = 4,
) -> Method:
    """A new pair on the base each time, fused with the past by what enters each projection."""
    return Method(
        adapter=lora(rank, targets),
        start=fresh_on_base,
        guard=nothing,
        consolidate=least_squares(epsilon, batches, batch_size),
    )
