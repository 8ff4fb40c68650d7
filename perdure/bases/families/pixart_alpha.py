"""PixArt-alpha (see bases/pixart.py)."""

from perdure.bases import pixart, unets
from perdure.bases.family import Family

FAMILY = Family(
    name="pixart-alpha",
    pipeline="PixArtAlphaPipeline",
    network="transformer",
    targets=unets.TARGETS,
    objective=unets.objective,
    encode=pixart.encoding(longest=120),
    predict=pixart.predict,
    draw=pixart.draw,
    units=pixart.units,
    regional=pixart.regional,
    unlike=pixart.unlike,
    like=pixart.like(longest=120),
)
