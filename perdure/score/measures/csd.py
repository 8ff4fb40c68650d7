"""CSD: likeness of style, mean cosine of contrastive style descriptors (Somepalli et al. 2024, CLIP ViT-L/14
trunk).

Over all generated x reference pairs, as in arXiv 2410.04891. The style vector is the trunk's output (no CLIP
projection) times `last_layer_style`.
"""

from pathlib import Path

from perdure.score import csd_checkpoint, encoders
from perdure.score.measure import Measure, mean_cosine_among, mean_pairwise_cosine
from perdure.score.preprocess import CSD_224

MODEL = "tomg-group-umd/CSD-ViT-L"
EMBEDDED = "csd"


def load(source: str | Path | None = None, device: str = "cpu") -> Measure:
    """CSD in [-1, 1], higher is better; `source`: published checkpoint, converted folder, or hub id."""
    encoder = encoders.load_clip_vision(source or MODEL, device, CSD_224, csd_checkpoint.prepare)
    return Measure(
        name="csd",
        direction="higher",
        range=(-1.0, 1.0),
        against="references",
        spec={**encoder.spec, "features": "style vector", "averaging": "all generated x reference pairs"},
        encode_images=encoder.images,
        compare=mean_pairwise_cosine,
        among=mean_cosine_among,
    )
