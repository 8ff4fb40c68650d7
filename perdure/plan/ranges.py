"""Numbers that make sense, by name: types for the options of methods. `catalogue` reads them from this file."""

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
"""How many of something: ranks, images, steps."""
Weight = Annotated[float, Field(ge=0)]
"""What a term of the loss counts for; 0 switches it off."""
Positive = Annotated[float, Field(gt=0)]
"""A scale, a rate, a temperature."""
Fraction = Annotated[float, Field(gt=0, le=1)]
"""A share of some whole that must not be empty."""
Decay = Annotated[float, Field(ge=0, le=1)]
"""What is left of the past: 0 forgets it, 1 keeps all."""
Probability = Annotated[float, Field(gt=0, lt=1)]
"""A probability of which a logit can be taken."""
