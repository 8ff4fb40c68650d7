"""MagMax as first published: full fine-tuning on and on, recalled as each entry's largest value so far.

Marczak et al.: MagMax: Leveraging Model Merging for Seamless Continual Learning, arXiv 2407.06322.

Changes are cumulative against the base; the merged model is not where the next lesson starts. Carries the current
weights and the running maximum: two dense matrices for each projection.
"""

from perdure.method import Method, Targets
from perdure.parts.adapter import neurons
from perdure.parts.consolidate import running_max
from perdure.parts.guard import nothing
from perdure.parts.start import everything
from perdure.plan.ranges import Positive


def METHOD(targets: Targets = "attention", scale: Positive = 0.5) -> Method:
    """All entries of the target projections, from where the last lesson left them."""
    return Method(adapter=neurons(targets), start=everything, guard=nothing, consolidate=running_max(scale))
