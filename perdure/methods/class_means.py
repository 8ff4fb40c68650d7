"""Class means: nothing is trained; a picture is of the class whose mean feature is the nearest. For classifiers only.

Rebuffi et al.: iCaRL, arXiv 1611.07725 (the nearest mean); Zhou et al.: SimpleCIL, arXiv 2303.07338 (of a frozen ViT).

The bound from below that every trained method has to pass: it forgets nothing, in any order. Cosine, as SimpleCIL.
"""

from perdure.method import Method
from perdure.parts.adapter import frozen
from perdure.parts.guard import nothing
from perdure.parts.head import nearest_mean
from perdure.parts.start import untouched

NEEDS = "classes"


def METHOD() -> Method:
    """The frozen base, and the mean of each class."""
    return Method(adapter=frozen(), start=untouched, guard=nothing, consolidate=nearest_mean)
