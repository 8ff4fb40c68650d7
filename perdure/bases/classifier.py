"""The frozen base that classifies: a ViT, or the image tower of a CLIP; pictures in, one feature each out."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perdure import images
from perdure.bases.network import Network
from perdure.bases.outline import vit
from perdure.bases.performing import DTYPES
from perdure.errors import ModelError, PlanError
from perdure.method import Targets
from perdure.plan import Sampling, Training
from perdure.score import encoders
from perdure.score.preprocess import from_config
from perdure.score.sources import Reading, locate

ALL = r"(.*\.)?layers\.\d+\.(attention|self_attn)\."
TARGETS: Mapping[Targets, str] = {
    "attention": rf"{ALL}(q_proj|k_proj|v_proj|o_proj|out_proj)",
    "cross": rf"{ALL}(q_proj|k_proj|v_proj|o_proj|out_proj)",
    "cross_kv": rf"{ALL}(k_proj|v_proj)",
}
"""A ViT has self-attention only, which stands for cross-attention too: keys and values are what C-LoRA and STAMINA
teach of a classifier.
"""
MIDDLE = 7 / 8
"""Side of the middle of a picture that is tested on where training cuts parts of it: 224 of 256 pixels."""


class Classifier(Network):
    """A frozen tower. Features are class tokens: of a ViT in its last hidden state, of a CLIP after its last norm."""

    def __init__(
        self, tower: Any, mean: Sequence[float], std: Sequence[float], precision: str = "fp32",
        device: torch.device | None = None,
    ) -> None:  # fmt: skip
        super().__init__(tower, TARGETS, precision, device)
        self.side, self.width = int(tower.config.image_size), int(tower.config.hidden_size)
        self._norm = tuple(torch.tensor(each, device=self.device).view(1, 3, 1, 1) for each in (mean, std))

    def check(self, training: Training, sampling: Sampling) -> None:
        """Raises PlanError with what this base cannot do of a plan's settings."""
        if training.resolution != self.side:
            told = f"training.resolution is {training.resolution}"
            raise PlanError(f"{told}, and this base reads pictures of {self.side} pixels; write {self.side}")

    def gradient_checkpointing(self, on: bool) -> None:
        """Trade time for memory: recompute activations in the backward pass."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        (self.network.activation_checkpointing_enable if on else self.network.activation_checkpointing_disable)()
        for module in self.network.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = on  # transformers asks a layer for both; nothing else of it knows of training

    def read(self, pictures: Sequence[Image.Image], training: Training, test: bool = False) -> Tensor:
        """Pictures as bytes (n, 3, h, w), squares cut as the plan says; not yet on the device.

        With `crop: resized` those to train on keep a margin: 256 pixels where the tower reads 224.
        """
        cut = training.crop == "resized"
        side = round(self.side / MIDDLE) if cut else self.side
        squares = [images.square(picture.convert("RGB"), side).image for picture in pictures]
        whole = torch.from_numpy(np.stack([np.asarray(square) for square in squares])).permute(0, 3, 1, 2)
        return (self.middle(whole) if test else whole).contiguous()

    def whole(self, pictures: Sequence[Image.Image]) -> tuple[Tensor, ...]:
        """Whole pictures as bytes (3, h, w) for `crop: resized` to cut parts of; the shorter side is that of `read`."""
        short = [images.shortened(picture.convert("RGB"), round(self.side / MIDDLE)) for picture in pictures]
        return tuple(torch.from_numpy(np.asarray(one).copy()).permute(2, 0, 1).contiguous() for one in short)

    def middle(self, pictures: Tensor) -> Tensor:
        """What the tower reads of squares (n, 3, h, w) with a margin: their middle."""
        first = (pictures.shape[-1] - self.side) // 2
        return pictures[..., first : first + self.side, first : first + self.side]

    def features(self, pictures: Tensor, training: Training) -> Tensor:
        """Features (b, width) float32 of pictures as bytes (b, 3, side, side), with their graph."""
        pixels = pictures.to(self.device).float() / 255
        if training.head is None or training.head.pixels == "base":
            mean, std = self._norm
            pixels = (pixels - mean) / std
        with self.accelerator.autocast():
            seen = self.network(pixel_values=pixels.to(self.dtype))
        feature = (
            seen.pooler_output if self.network.config.model_type.startswith("clip") else seen.last_hidden_state[:, 0]
        )
        return torch.as_tensor(feature).float()

    @torch.no_grad()
    def all_features(self, pictures: Tensor, training: Training) -> Tensor:
        """The same of many pictures, some at a time, on the CPU."""
        return torch.cat([self.features(some, training).cpu() for some in torch.split(pictures, encoders.BATCH)])


def load(base: str, precision: str = "fp32", device: torch.device | None = None) -> Classifier:
    """The classifier of a base: `toybox-vit`, a local folder or a hub id of a ViT or a CLIP. Raises ModelError."""
    from transformers import CLIPVisionModel, ViTModel

    found = locate(vit(base), encoders.WEIGHTS, encoders.EXTRAS)
    encoders.weights_file(found)
    with Reading(lambda why: f"base {base}: its config.json cannot be read ({why})"):
        kind = str(json.loads((found.path / "config.json").read_text(encoding="utf-8")).get("model_type"))
    if kind not in ("vit", "clip", "clip_vision_model"):
        raise ModelError(
            f"base {base}: its config.json says model_type {kind!r}; classes are taught on a vit or a clip"
        )
    options = {"add_pooling_layer": False} if kind == "vit" else {}
    tower = encoders.load_model(ViTModel if kind == "vit" else CLIPVisionModel, found, "cpu", **options)
    mean, std = _normal(found.path / "preprocessor_config.json", base)
    return Classifier(tower.to(DTYPES[precision]), mean, std, precision, device)


def _normal(path: Any, base: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation that pictures are normalised by, as the base's own file says."""
    if not path.is_file():
        raise ModelError(f"base {base}: preprocessor_config.json is missing, which says how pictures are normalised")
    with Reading(lambda why: f"{path}: cannot be understood ({why})."):
        known = from_config(json.loads(path.read_text(encoding="utf-8")))
    return known.mean, known.std
