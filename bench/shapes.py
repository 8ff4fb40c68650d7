"""Pipelines of diffusers with random weights: networks of SDXL's and FLUX.2 klein's real shapes, or tiny ones.

Text encoders have the real widths and few layers: prompts are encoded once, and are no part of what is measured.
Shapes as in the configurations of stabilityai/stable-diffusion-xl-base-1.0 and black-forest-labs/FLUX.2-klein-base-4B.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SDXL = {False: (768, 1280), True: (16, 24)}
"""Widths of both text encoders, by tiny or not."""
KLEIN = {False: 2560, True: 32}
BYTES = sorted(ByteLevel.alphabet())
TALK = "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"


def _clip(kind: Any, width: int) -> tuple[Any, Any]:
    words = ["<|startoftext|>", "<|endoftext|>", *BYTES, *(letter + "</w>" for letter in BYTES)]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=width, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=width, max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return tokenizer, kind(config)


def unet(tiny: bool) -> Any:
    """SDXL's UNet, of 2.6 billion weights."""
    first, second = SDXL[tiny]
    shape: dict[str, Any] = {
        "block_out_channels": (320, 640, 1280), "attention_head_dim": (5, 10, 20), "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 10), "addition_time_embed_dim": 256,
    }  # fmt: skip
    if tiny:
        shape = {
            "block_out_channels": (8, 16, 16), "attention_head_dim": 2, "layers_per_block": 1, "norm_num_groups": 4,
            "transformer_layers_per_block": 1, "addition_time_embed_dim": 4,
        }  # fmt: skip
    return UNet2DConditionModel(
        sample_size=128, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=first + second,
        addition_embed_type="text_time", use_linear_projection=True,
        projection_class_embeddings_input_dim=second + 6 * shape["addition_time_embed_dim"], **shape,
    )  # fmt: skip


def sdxl(tiny: bool) -> Any:
    """Two text encoders, the UNet, an autoencoder that makes 8 x 8 pixels one latent."""
    kinds = zip((CLIPTextModel, CLIPTextModelWithProjection), SDXL[tiny], strict=True)
    (tokenizer, one), (tokenizer_2, two) = (_clip(kind, width) for kind, width in kinds)
    return StableDiffusionXLPipeline(
        vae=_autoencoder(AutoencoderKL, tiny, latent_channels=4, scaling_factor=0.13025), text_encoder=one,
        text_encoder_2=two, tokenizer=tokenizer, tokenizer_2=tokenizer_2, unet=unet(tiny), add_watermarker=False,
        scheduler=_scheduler(EulerDiscreteScheduler, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )  # fmt: skip


def transformer(tiny: bool) -> Any:
    """FLUX.2 klein's, of 3.9 billion weights: 5 double and 20 single blocks."""
    heads, wide, double, single = (2, 16, 1, 1) if tiny else (24, 128, 5, 20)
    return Flux2Transformer2DModel(
        in_channels=128, num_layers=double, num_single_layers=single, attention_head_dim=wide,
        joint_attention_dim=3 * KLEIN[tiny], num_attention_heads=heads, axes_dims_rope=(wide // 4,) * 4,
        guidance_embeds=False,
    )  # fmt: skip


def klein(tiny: bool) -> Any:
    """The transformer, which reads 512 tokens of Qwen3, and an autoencoder."""
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTES]
    tokenizer = Qwen2Tokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": words[1:3]})
    tokenizer.chat_template = TALK
    width = KLEIN[tiny]
    text_encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(words), hidden_size=width, intermediate_size=64, num_attention_heads=2, head_dim=16,
            num_key_value_heads=2, max_position_embeddings=512, num_hidden_layers=28,
        )
    )  # fmt: skip
    return Flux2KleinPipeline(
        transformer=transformer(tiny), text_encoder=text_encoder, tokenizer=tokenizer,
        vae=_autoencoder(AutoencoderKLFlux2, tiny, latent_channels=32),
        scheduler=_scheduler(FlowMatchEulerDiscreteScheduler, use_dynamic_shifting=True),
    )  # fmt: skip


def _autoencoder(kind: Any, tiny: bool, **extra: Any) -> Any:
    channels = (4, 4, 4, 4) if tiny else (128, 256, 512, 512)
    return kind(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=channels, layers_per_block=1 if tiny else 2, norm_num_groups=2 if tiny else 32, **extra,
    )  # fmt: skip


def _scheduler(kind: Any, **options: Any) -> Any:
    """Numbers, not weights: on the CPU, wherever the rest is made."""
    with torch.device("cpu"):
        return kind(**options)


def made(make: Callable[[bool], Any], tiny: bool, device: torch.device, dtype: torch.dtype) -> Any:
    """A pipeline on a device, its weights drawn there: small normal numbers, so that values neither vanish nor grow."""
    torch.manual_seed(0)
    with torch.device(device):
        pipe = make(tiny)
    for part in (part for part in pipe.components.values() if isinstance(part, torch.nn.Module)):
        with torch.no_grad():
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.02)
        part.to(dtype)
    pipe.vae.to(torch.float32)
    return pipe
