"""RanPAC: ridge regression of random features of the frozen base, from sums that only grow. For classifiers only.

McDonnell et al.: RanPAC: Random Projections and Pre-trained Models for Continual Learning, NeurIPS 2023,
arXiv 2307.02251, equations 4 to 6.

H = relu(F W), W ~ N(0, 1) fixed; G = sum H^T H and C = sum H^T Y are carried, and the head is (G + ridge I)^-1 C: the
same whatever the order of the tasks. The ridge is chosen on a fifth of each task's pictures, as published. Reading:
without the first task's tuning of the base; 1,000 features, where the paper has 10,000 (its G has 400 MB).
"""

from perdure.method import Method
from perdure.parts.adapter import frozen
from perdure.parts.guard import nothing
from perdure.parts.head import ridge_of_random_features
from perdure.parts.start import untouched
from perdure.plan.ranges import Count, Positive

NEEDS = "classes"


def METHOD(features: Count = 1000, ridge: Positive | None = None) -> Method:
    """The frozen base, and the sums of products of its random features."""
    return Method(
        adapter=frozen(), start=untouched, guard=nothing, consolidate=ridge_of_random_features(features, ridge)
    )
