"""Frozen image and text encoders behind the measures: loaded once, checked, run in batches.

Weights come from safetensors. Some hub repositories hold only a `.bin`: transformers then reads it with
`torch.load(weights_only=True)`, that is tensors and nothing executable.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perdure.errors import ModelError
from perdure.images import sha256_of
from perdure.score.preprocess import Preprocess, from_config
from perdure.score.sources import Located, Reading, locate

BATCH = 32
SURE = 0.4
"""How sure OWLv2 must be of a thing: what MuDI's evaluation takes (Jang et al. 2024, arXiv 2404.04243)."""
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels."""
Detector = Callable[[Sequence[Image.Image], Sequence[str]], list[list[Box]]]
"""(pictures, nouns) -> the boxes of what was found in each, the surest first."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
EXTRAS = (
    "config.json",
    "preprocessor_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer*",
    "special_tokens_map.json",
)


@dataclass(frozen=True)
class Encoder:
    """A frozen model in evaluation mode. images: RGB pictures -> (n, d) float32 on the CPU, L2-normalised.

    raw_images: the same, not normalised. prompts: texts -> (n, d), L2-normalised; None without a text tower.
    spec: model, revision, sha256 of the weights, preprocessing in words.
    """

    images: Callable[[Sequence[Image.Image]], Tensor]
    raw_images: Callable[[Sequence[Image.Image]], Tensor]
    prompts: Callable[[Sequence[str]], Tensor] | None
    spec: dict[str, Any]


@functools.lru_cache(maxsize=8)
def load_clip(source: str | Path, device: str, protocol: Preprocess) -> Encoder:
    """CLIPModel: projected image features and projected text features (Radford et al. 2021)."""
    from transformers import CLIPModel

    found = locate(source, WEIGHTS, EXTRAS)
    model = load_model(CLIPModel, found, device)
    tokenizer = _tokenizer(found, model.config.text_config.vocab_size)
    length = model.config.text_config.max_position_embeddings

    def embed_text(prompts: Sequence[str]) -> Tensor:
        batch = tokenizer(list(prompts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        text = model.text_model(batch["input_ids"].to(device), batch["attention_mask"].to(device))
        projected: Tensor = model.text_projection(text.pooler_output)
        return projected

    def embed(pixels: Tensor) -> Tensor:
        projected: Tensor = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        return projected

    def prompts_to_features(prompts: Sequence[str]) -> Tensor:
        with torch.inference_mode():
            rows = [embed_text(part).float().cpu() for part in _batches(prompts)]
            return _normalised(torch.cat(rows))

    size = model.config.vision_config.image_size
    return _encoder(embed, found, device, _choose(protocol, found, size), prompts_to_features)


@functools.lru_cache(maxsize=8)
def load_vit(source: str | Path, device: str, protocol: Preprocess) -> Encoder:
    """ViTModel: the class token of the last hidden state (DINO, Caron et al. 2021)."""
    from transformers import ViTModel

    found = locate(source, WEIGHTS, EXTRAS)
    model = load_model(ViTModel, found, device, add_pooling_layer=False)

    def embed(pixels: Tensor) -> Tensor:
        class_token: Tensor = model(pixel_values=pixels).last_hidden_state[:, 0]
        return class_token

    return _encoder(embed, found, device, _choose(protocol, found, model.config.image_size))


@functools.lru_cache(maxsize=8)
def load_clip_vision(
    source: str | Path, device: str, protocol: Preprocess, prepare: Callable[[str | Path], Located]
) -> Encoder:
    """CLIPVisionModelWithProjection: projected image features; `prepare` finds or makes the folder."""
    from transformers import CLIPVisionModelWithProjection

    found = prepare(source)
    model = load_model(CLIPVisionModelWithProjection, found, device)

    def embed(pixels: Tensor) -> Tensor:
        style: Tensor = model(pixel_values=pixels).image_embeds
        return style

    return _encoder(embed, found, device, _choose(protocol, found, model.config.image_size))


@functools.lru_cache(maxsize=2)
def load_owl(source: str | Path, device: str) -> Detector:
    """Owlv2ForObjectDetection: boxes of what is named, the surest first (Minderer et al. 2023, arXiv 2306.09683).

    Of boxes that overlap by more than half of their union only the surest is kept; pictures are looked at one by one.
    """
    from transformers import Owlv2ForObjectDetection, Owlv2Processor

    found = locate(source, WEIGHTS, EXTRAS)
    model = load_model(Owlv2ForObjectDetection, found, device)
    with Reading(lambda reason: f"{found.name}: its tokenizer or preprocessor cannot be read ({reason})."), _quiet():
        processor = Owlv2Processor.from_pretrained(found.path, local_files_only=True)

    def look(image: Image.Image, nouns: Sequence[str]) -> list[Box]:
        texts = [[f"a photo of a {noun}" for noun in dict.fromkeys(nouns)]]
        with torch.inference_mode():
            seen = model(**processor(text=texts, images=image, return_tensors="pt").to(device))
        size = [(image.height, image.width)]
        (told,) = processor.post_process_grounded_object_detection(seen, threshold=SURE, target_sizes=size)
        order = told["scores"].argsort(descending=True).tolist()
        return apart([inside(told["boxes"][k].tolist(), image.size) for k in order])

    with Reading(lambda reason: f"{found.name}: is damaged, its model cannot be run ({reason})."):
        look(Image.new("RGB", (64, 64)), ["thing"])
    return lambda images, nouns: [look(image, nouns) for image in images]


def inside(box: Sequence[float], size: tuple[int, int]) -> Box:
    """The pixels of a box that lie in a picture (width, height)."""
    (x0, y0, x1, y1), (width, height) = box, size
    return max(0, int(x0)), max(0, int(y0)), min(width, round(x1)), min(height, round(y1))


def apart(boxes: Sequence[Box]) -> list[Box]:
    """Boxes of some size, without those that overlap one before by more than half of the union of both."""
    kept: list[Box] = []
    for box in boxes:
        if box[2] > box[0] and box[3] > box[1] and all(_overlap(box, other) <= 0.5 for other in kept):
            kept.append(box)
    return kept


def _overlap(one: Box, two: Box) -> float:
    wide, tall = min(one[2], two[2]) - max(one[0], two[0]), min(one[3], two[3]) - max(one[1], two[1])
    common = max(0, wide) * max(0, tall)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return common / (sum(areas) - common)


def release() -> None:
    """Let go of every loaded encoder, to give the memory to something else."""
    for load in (load_clip, load_vit, load_clip_vision, load_owl):
        load.cache_clear()


def load_model(kind: Any, found: Located, device: str, **options: Any) -> Any:
    """A transformers model of class `kind` from a local folder, float32, frozen; ModelError unless complete."""
    weights = weights_file(found)
    with Reading(lambda reason: f"{found.name}: is not a {kind.__name__} that can be loaded ({reason})."), _quiet():
        model, loading = kind.from_pretrained(
            found.path,
            local_files_only=True,
            use_safetensors=weights.suffix == ".safetensors",
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ModelError(f"{found.name}: lacks {len(missing)} weights of a {kind.__name__}, such as {missing[0]}.")
    return model.eval().requires_grad_(False).to(device)


def _tokenizer(found: Located, rows: int) -> Any:
    """The tokenizer of a text model with so many rows of embeddings."""
    from transformers import AutoTokenizer

    # transformers makes up an empty vocabulary where there is none
    if not any((found.path / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ModelError(f"{found.name}: its tokenizer (tokenizer.json, or vocab.json) missing in {found.path}.")
    with Reading(lambda reason: f"{found.name}: its tokenizer cannot be read ({reason})."):
        tokenizer = AutoTokenizer.from_pretrained(found.path, local_files_only=True)
        most = max(tokenizer.get_vocab().values(), default=0)
    if most >= rows:
        raise ModelError(f"{found.name}: its tokenizer has a word {most}, and its text model has {rows} words.")
    return tokenizer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bar and no report of transformers: what is missing is an error here, what is left over harmless."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def weights_file(found: Located) -> Path:
    """The file of WEIGHTS in a model folder; ModelError naming what is missing."""
    if not found.path.is_dir():
        raise ModelError(f"{found.name}: is a file; a folder with config.json and {WEIGHTS[0]} is needed.")
    file = next((found.path / name for name in WEIGHTS if (found.path / name).is_file()), None)
    missing = [] if (found.path / "config.json").is_file() else ["config.json"]
    missing += [] if file else [WEIGHTS[0]]
    if missing or file is None:
        raise ModelError(f"{found.name}: {' and '.join(missing)} missing in {found.path}.")
    return file


def _choose(protocol: Preprocess, found: Located, image_size: int) -> Preprocess:
    """The published protocol for a model of its size, wherever it lies; the folder's own file for any other
    size.

    So a local copy of a published model scores as the hub's, even where its preprocessor_config.json says
    otherwise.
    """
    file = found.path / "preprocessor_config.json"
    if protocol.crop == (image_size, image_size):
        return protocol
    if not file.is_file():
        raise ModelError(f"{found.name}: preprocessor_config.json missing; needed for a model of {image_size} pixels.")
    with Reading(lambda reason: f"{file}: cannot be understood ({reason})."):
        preprocess = from_config(json.loads(file.read_text(encoding="utf-8")))
    if (preprocess.crop or preprocess.resize) not in ((image_size, image_size), None):
        raise ModelError(f"{file}: gives other than the {image_size}x{image_size} pixels that the model reads.")
    return preprocess


def _encoder(
    embed: Callable[[Tensor], Tensor],
    found: Located,
    device: str,
    preprocess: Preprocess,
    prompts: Callable[[Sequence[str]], Tensor] | None = None,
) -> Encoder:
    def raw_images(images: Sequence[Image.Image]) -> Tensor:
        with torch.inference_mode():
            rows = []
            for part in _batches(images):
                pixels = torch.from_numpy(np.stack([preprocess(image) for image in part]))
                rows.append(embed(pixels.to(device)).float().cpu())
            return torch.cat(rows)

    def images_to_features(images: Sequence[Image.Image]) -> Tensor:
        return _normalised(raw_images(images))

    with Reading(lambda reason: f"{found.name}: is damaged, its model cannot be run ({reason})."):
        tried = [raw_images([Image.new("RGB", (64, 64))]), *([prompts(["a"])] if prompts else [])]
    if not all(features.isfinite().all() for features in tried):
        raise ModelError(f"{found.name}: is damaged, its features are not finite.")
    spec = {
        "model": found.name,
        "revision": found.revision,
        "weights_sha256": found.original_sha256 or sha256_of(weights_file(found)),
        "preprocessing": preprocess.words,
    }
    return Encoder(images_to_features, raw_images, prompts, spec)


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def _normalised(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features, dim=-1)
