"""DINO: likeness to the reference pictures, mean cosine of DINO ViT-S/16 class tokens.

Over all generated x reference pairs, as in DreamBooth (Ruiz et al. 2023) and arXiv 2410.04891. It tells
subjects of one class apart better than CLIP-I does. Preprocessing is the protocol's (256, crop 224), not the
checkpoint's own file's.
"""

from pathlib import Path

from perdure.score import encoders
from perdure.score.measure import Measure, mean_cosine_among, mean_pairwise_cosine
from perdure.score.preprocess import DINO_224

MODEL = "facebook/dino-vits16"
EMBEDDED = "dino"


def load(source: str | Path | None = None, device: str = "cpu") -> Measure:
    """DINO in [-1, 1], higher is better; `source`: hub id or folder of a ViTModel."""
    encoder = encoders.load_vit(source or MODEL, device, DINO_224)
    return Measure(
        name="dino",
        direction="higher",
        range=(-1.0, 1.0),
        against="references",
        spec={
            **encoder.spec,
            "features": "class token of the last hidden state",
            "averaging": "all generated x reference pairs",
        },
        encode_images=encoder.images,
        compare=mean_pairwise_cosine,
        among=mean_cosine_among,
    )
