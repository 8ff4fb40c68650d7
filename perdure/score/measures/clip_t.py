"""CLIP-T: fit to the prompt, mean cosine of each picture with its own prompt in CLIP ViT-B/32.

The plain cosine, around 0.2 to 0.35 for good pictures. CLIPScore (Hessel et al. 2021) and the evaluation of
CustomConcept101 report 2.5 * max(cosine, 0) instead, whence figures above 0.7: do not mix the two scales.
Prompts beyond the text tower's length (77 tokens) are cut off.
"""

from pathlib import Path

from perdure.score import encoders
from perdure.score.measure import Measure, mean_paired_cosine
from perdure.score.preprocess import CLIP_224

MODEL = "openai/clip-vit-base-patch32"
EMBEDDED = "clip"


def load(source: str | Path | None = None, device: str = "cpu") -> Measure:
    """CLIP-T in [-1, 1], higher is better; `source`: hub id or folder of a CLIPModel."""
    encoder = encoders.load_clip(source or MODEL, device, CLIP_224)
    return Measure(
        name="clip_t",
        direction="higher",
        range=(-1.0, 1.0),
        against="prompts",
        spec={
            **encoder.spec,
            "features": "projected image and text features",
            "averaging": "each picture with its own prompt, plain cosine (not 2.5 x)",
        },
        encode_images=encoder.images,
        encode_prompts=encoder.prompts,
        compare=mean_paired_cosine,
    )
