"""What all of a comparison are given: a base, scorers and photos, under names that the reference code asks for."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapes
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from perdure.bases import loading

BASE, VAE = "stabilityai/stable-diffusion-xl-base-1.0", "madebyollin/sdxl-vae-fp16-fix"
CLIP, DINO = "openai/clip-vit-base-patch32", "facebook/dino-vits16"
"""Where the reference code is started it finds folders of the names that stand in it, and takes those."""
UNET = {
    "block_out_channels": (96, 192, 384), "attention_head_dim": (3, 6, 12), "layers_per_block": 2,
    "transformer_layers_per_block": (1, 1, 2), "norm_num_groups": 32, "sample_size": 8,
}  # fmt: skip
AUTOENCODER = {"block_out_channels": (32, 64, 64, 64), "layers_per_block": 2, "norm_num_groups": 16}
"""Shapes of a small SDXL, of some forty million weights."""
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
PHOTOS, SIDE = 4, 96
"""Of a concept, and their side in pixels."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def furnish(house: Path, base: Path | None, concepts: Sequence[str], tiny: bool) -> None:
    """Fill a folder: `base` or a small SDXL, its autoencoder, CLIP and DINO of real or tiny shapes, photos of noise."""
    if base is None:
        _base(house / BASE, tiny)
    else:
        shutil.copytree(base, house / BASE)
    shutil.copytree(house / BASE / "vae", house / VAE)
    _scorers(house, tiny)
    rng = np.random.default_rng(0)
    for concept in concepts:
        (house / "data" / concept).mkdir(parents=True)
        for number in range(PHOTOS):
            pixels = (rng.integers(0, 200, 3) + rng.integers(0, 56, (SIDE, SIDE, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(house / "data" / concept / f"{number}.jpg")


def _base(folder: Path, tiny: bool) -> None:
    with loading.quiet():
        pipe = shapes.made(shapes.sdxl, True, torch.device("cpu"), torch.float32)
        if not tiny:
            torch.manual_seed(0)
            pipe.register_modules(
                unet=UNet2DConditionModel.from_config({**pipe.unet.config, **UNET}),
                vae=AutoencoderKL.from_config({**pipe.vae.config, **AUTOENCODER}),
            )
        pipe.save_pretrained(folder)
    for part in ("tokenizer", "tokenizer_2"):
        _vocabulary(folder / part)


def _vocabulary(folder: Path) -> None:
    """A tokenizer of bytes in the files that transformers of any age read."""
    words = ["<|startoftext|>", "<|endoftext|>", *shapes.BYTES, *(letter + "</w>" for letter in shapes.BYTES)]
    told = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": words[1]}
    names = {"bos_token": words[0], "eos_token": words[1], "unk_token": words[1]}
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(told | names))
    (folder / "special_tokens_map.json").write_text(json.dumps({**names, "pad_token": words[1]}))


def _scorers(house: Path, tiny: bool) -> None:
    clip, dino = CLIPConfig(), ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    if tiny:
        clip = CLIPConfig(text_config=SMALL, vision_config={**SMALL, "patch_size": 112}, projection_dim=16)
        dino = ViTConfig(**SMALL, patch_size=112)
    for name, model, mean, deviation, kind in (
        (CLIP, CLIPModel(clip), (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), "CLIP"),
        (DINO, ViTModel(dino), MEAN, DEVIATION, "ViT"),
    ):
        model.save_pretrained(house / name)
        how = {
            "image_processor_type": f"{kind}ImageProcessor", "feature_extractor_type": f"{kind}FeatureExtractor",
            "image_mean": mean, "image_std": deviation, "do_normalize": True, "do_resize": True, "resample": 3,
            "size": {"shortest_edge": 224} if kind == "CLIP" else {"height": 224, "width": 224},
            "do_center_crop": kind == "CLIP", "crop_size": {"height": 224, "width": 224}, "do_rescale": True,
            "rescale_factor": 1 / 255,
        }  # fmt: skip
        (house / name / "preprocessor_config.json").write_text(json.dumps(how))
    _vocabulary(house / CLIP)
