"""CLIP-T by class: fit to the prompt without the concept's token, as Custom Diffusion's evaluation reads it.

Kumari et al. 2023: a picture made from "a zwz dog in the snow" is compared with "a dog in the snow", for CLIP does not
know what the rare token means; `clip_t` reads the prompt as it was drawn. A style's prompts keep its name, which is
words. The plain cosine, as in `clip_t`; CustomConcept101 reports 2.5 * max(cosine, 0).
"""

from dataclasses import replace
from pathlib import Path

from perdure.score.measure import Measure
from perdure.score.measures import clip_t

EMBEDDED = "clip"


def load(source: str | Path | None = None, device: str = "cpu") -> Measure:
    """CLIP-T without the token in [-1, 1], higher is better; `source`: hub id or folder of a CLIPModel."""
    plain = clip_t.load(source, device)
    return replace(
        plain,
        name="clip_t_class",
        spec={**plain.spec, "prompts": "without the concept's token (Custom Diffusion)"},
        without_token=True,
    )
