"""What every measure is: pictures -> features, compared with references or prompts -> one number.

A measure is one file with a function `load(source, device) -> Measure`; its name is the measure's name. See
docs/adding_a_measure.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Measure:
    """One measure, its model loaded. Features are (n, d) float32 on the CPU, L2-normalised unless `spec`
    says not.

    name: the file's name. direction: which way is better. range: least and greatest value possible.
    against: what a picture is compared with, the features of reference pictures or those of its own prompt.
    compare: (generated (m, d), against (n, d)) -> number.
    """

    name: str
    direction: Literal["higher", "lower"]
    range: tuple[float, float]
    against: Literal["references", "prompts"]
    spec: Mapping[str, Any]
    encode_images: Callable[[Sequence[Image.Image]], Tensor]
    compare: Callable[[Tensor, Tensor], float]
    encode_prompts: Callable[[Sequence[str]], Tensor] | None = None
    without_token: bool = False
    """Whether it reads prompts without the concept's token."""
    among: Callable[[Tensor], float] | None = None
    """How reference features (n, d), n > 1, score one another: the ceiling. None where single pictures cannot be
    compared, as by a distance of sets."""
    shift: Callable[[Tensor, Tensor], float] | None = None
    """How it is also taken, between a concept's pictures right after its own lesson (m, d) and those of now (n, d), the
    same noise at the same place. None where it is not."""

    def ceiling(self, references: Tensor) -> float | None:
        """What a perfect concept would score: how its references score one another. None where that has no meaning."""
        return self.among(references) if self.among is not None and len(references) > 1 else None

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Features of RGB pictures of any size, (n, d). ValueError without pictures."""
        if not images:
            raise ValueError(f"{self.name}: no images to score")
        return self.encode_images(images)

    def reference_features(self, images: Sequence[Image.Image]) -> Tensor:
        """What `score` takes as `references`: computed once a concept. (0, 0) for prompts."""
        return self.features(images) if self.against == "references" else torch.empty(0, 0)

    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Features of prompts, (n, d); ValueError for a measure that reads no text."""
        if self.encode_prompts is None:
            raise ValueError(f"{self.name} compares pictures with pictures; it has no text features")
        return self.encode_prompts(prompts)

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str] | None, references: Tensor | None) -> float:
        """The measure of `images`, each made from the prompt of its place; the same call for every measure.

        `references` come from `reference_features`; a measure ignores what it does not compare with.
        """
        return self.score_features(self.features(images), prompts, references)

    def each(self, generated: Tensor, prompts: Sequence[str] | None, references: Tensor | None) -> list[float]:
        """The score of every picture alone, from its features (m, d); nothing where single ones cannot be compared."""
        if self.against == "references" and self.among is None:
            return []
        singles = [generated[k : k + 1] for k in range(len(generated))]
        if self.against == "prompts" and prompts is not None:
            different = list(dict.fromkeys(prompts))
            texts = dict(zip(different, self.text_features(different), strict=True))
            return [self.compare(one, texts[text][None]) for one, text in zip(singles, prompts, strict=True)]
        return [self.score_features(one, None, references) for one in singles]

    def score_features(self, generated: Tensor, prompts: Sequence[str] | None, references: Tensor | None) -> float:
        """The same of pictures whose features are known."""
        if self.against == "prompts":
            if prompts is None:
                raise ValueError(f"{self.name} compares each picture with its prompt; prompts are needed")
            return self.compare(generated, self.text_features(prompts))
        if references is None:
            raise ValueError(f"{self.name} compares with reference pictures; reference features are needed")
        return self.compare(generated, references)


def mean_pairwise_cosine(generated: Tensor, references: Tensor) -> float:
    """Mean cosine over ALL generated x reference pairs; rows L2-normalised, (m, d) and (n, d).

    DreamBooth (Ruiz et al. 2023) and arXiv 2410.04891. Its ceiling is the references' own likeness, below 1.
    """
    return float((generated.double() @ references.double().T).mean())


def mean_cosine_among(references: Tensor) -> float:
    """Mean cosine over pairs of different rows (n, d), L2-normalised."""
    likeness, count = references.double() @ references.double().T, len(references)
    return float((likeness.sum() - likeness.diagonal().sum()) / (count * (count - 1)))


def mean_paired_cosine(generated: Tensor, prompts: Tensor) -> float:
    """Mean cosine of each row with the row of the same place, both (n, d) and L2-normalised."""
    if generated.shape != prompts.shape:
        raise ValueError(f"one prompt an image is needed: {len(generated)} images, {len(prompts)} prompts")
    return float((generated.double() * prompts.double()).sum(dim=1).mean())
