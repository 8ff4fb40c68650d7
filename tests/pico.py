"""Folders of models with a few thousand random weights and a handful of words: Stable Diffusion, SDXL, CLIP, ViT."""

import json
from pathlib import Path

import torch

WORDS = "a photo of the dog cat clock teapot in on beach snow image zwz sbu uwu pdw style".split()


def tokenizer_files(folder: Path) -> None:
    """CLIP's format with a handful of words: single letters, their word-final forms, and merges up to each word."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary, merges = {}, []
    for symbol in [*letters, *(f"{c}</w>" for c in letters)]:
        vocabulary.setdefault(symbol, len(vocabulary))
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pair = f"{parts[0]} {parts[1]}"
            if pair not in merges:
                merges.append(pair)
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary.setdefault(parts[0], len(vocabulary))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


def text_encoder(kind, tokenizer, width: int, **extra):
    from transformers import CLIPTextConfig

    settings = {
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 16, "projection_dim": width,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    return kind(CLIPTextConfig(**{**settings, **extra}))


def pieces(folder: Path):
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

    tokenizer_files(folder / "words")
    files = [str(folder / "words" / name) for name in ("vocab.json", "merges.txt")]
    tokenizer = CLIPTokenizer(*files, model_max_length=16, pad_token="<|endoftext|>")
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.5,
    )  # fmt: skip
    return tokenizer, vae


def unet(width: int, **extra):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width, attention_head_dim=2, norm_num_groups=4, **extra,
    )  # fmt: skip


def sd(folder: Path, prediction: str = "epsilon") -> Path:
    """A Stable Diffusion pipeline of a few thousand parameters, random weights."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    tokenizer, vae = pieces(folder)
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder(CLIPTextModel, tokenizer, 24), tokenizer=tokenizer, unet=unet(24),
        scheduler=DDIMScheduler(num_train_timesteps=100, prediction_type=prediction, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder / "base")  # fmt: skip
    return folder / "base"


def sdxl(folder: Path) -> Path:
    """An SDXL pipeline of a few thousand parameters, random weights."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    tokenizer, vae = pieces(folder)
    network = unet(
        40, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16, transformer_layers_per_block=1,
    )  # fmt: skip
    StableDiffusionXLPipeline(
        vae=vae, text_encoder=text_encoder(CLIPTextModel, tokenizer, 24), tokenizer=tokenizer, unet=network,
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, tokenizer, 16), tokenizer_2=tokenizer,
        scheduler=EulerDiscreteScheduler(num_train_timesteps=100),
    ).save_pretrained(folder / "base")  # fmt: skip
    return folder / "base"


def clip(folder: Path, tokenizer_from: Path) -> Path:
    """A CLIPModel folder for clip_i and clip_t, random weights, 32 px."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    torch.manual_seed(1)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_from / "tokenizer")
    text = dict(  # noqa: C408
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = dict(  # noqa: C408
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = {
        "do_resize": True, "size": {"shortest_edge": 32}, "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32}, "resample": 3,
        "do_rescale": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return folder


def vit(folder: Path) -> Path:
    """A ViT of two layers for pictures of 16 px, random weights."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(2)
    config = ViTConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
    )  # fmt: skip
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    normal = {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", **normal})
    )
    return folder
