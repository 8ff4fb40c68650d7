"""PixArt-Sigma (see bases/pixart.py)."""

from perdure.bases import pixart, unets
from perdure.bases.family import Family

FAMILY = Family(
    name="pixart-sigma",
    pipeline="PixArtSigmaPipeline",
    network="transformer",
    targets=unets.TARGETS,
    objective=unets.objective,
    encode=pixart.encoding(longest=300),
    predict=pixart.predict,
    draw=pixart.draw,
    units=pixart.units,
    regional=pixart.regional,
    unlike=pixart.unlike,
    like=pixart.like(longest=300),
)
