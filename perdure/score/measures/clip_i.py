"""CLIP-I: likeness to the reference pictures, mean cosine of projected CLIP ViT-B/32 image features.

Over all generated x reference pairs, as in DreamBooth (Ruiz et al. 2023) and arXiv 2410.04891.
"""

from pathlib import Path

from perdure.score import encoders
from perdure.score.measure import Measure, mean_cosine_among, mean_pairwise_cosine
from perdure.score.preprocess import CLIP_224

MODEL = "openai/clip-vit-base-patch32"
EMBEDDED = "clip"


def load(source: str | Path | None = None, device: str = "cpu") -> Measure:
    """CLIP-I in [-1, 1], higher is better; `source`: hub id or folder of a CLIPModel."""
    encoder = encoders.load_clip(source or MODEL, device, CLIP_224)
    return Measure(
        name="clip_i",
        direction="higher",
        range=(-1.0, 1.0),
        against="references",
        spec={
            **encoder.spec,
            "features": "projected image features",
            "averaging": "all generated x reference pairs",
        },
        encode_images=encoder.images,
        compare=mean_pairwise_cosine,
        among=mean_cosine_among,
    )
