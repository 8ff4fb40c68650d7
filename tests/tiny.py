"""Pipelines of the transformer families, of the real classes with a few thousand random weights."""

import torch
from tokenizers.pre_tokenizers import ByteLevel

BYTES = sorted(ByteLevel.alphabet())
FLOW = {"num_train_timesteps": 1000}


def clip(width, projected=False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    words = ["<|startoftext|>", "<|endoftext|>", *BYTES, *(letter + "</w>" for letter in BYTES)]
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=width, max_position_embeddings=77, bos_token_id=0, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip
    return tokenizer, (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5():
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((chr(c), -3.0) for c in range(33, 127))]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0, additional_special_tokens=[], model_max_length=512)
    config = T5Config(
        vocab_size=100, d_model=48, d_kv=8, d_ff=96, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return tokenizer, T5EncoderModel(config).eval()


def vae(kind=None, channels=16, **extra):
    from diffusers import AutoencoderKL

    return (kind or AutoencoderKL)(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, latent_channels=channels, norm_num_groups=4,
        use_quant_conv=False, use_post_quant_conv=False, **extra,
    )  # fmt: skip


def sd3():
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    (tokenizer, one), (tokenizer_2, two), (tokenizer_3, three) = clip(16, True), clip(24, True), t5()
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=16, out_channels=16, num_layers=3, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=48, caption_projection_dim=32, pooled_projection_dim=40,
        pos_embed_max_size=24, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, **FLOW),
        vae=vae(shift_factor=0.0609, scaling_factor=1.5305), text_encoder=one, tokenizer=tokenizer, text_encoder_2=two,
        tokenizer_2=tokenizer_2, text_encoder_3=three, tokenizer_3=tokenizer_3,
    )  # fmt: skip


def flux(kind=None):
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    (tokenizer, one), (tokenizer_2, two) = clip(16), t5()
    transformer = FluxTransformer2DModel(
        in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return (kind or FluxPipeline)(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **FLOW),
        vae=vae(shift_factor=0.1159, scaling_factor=0.3611), text_encoder=one, tokenizer=tokenizer, text_encoder_2=two,
        tokenizer_2=tokenizer_2,
    )  # fmt: skip


def flux_kontext():
    from diffusers import FluxKontextPipeline

    return flux(FluxKontextPipeline)


CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


def qwen(kind, layers):
    from transformers import Qwen2Tokenizer, Qwen3Config

    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTES]
    tokenizer = Qwen2Tokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": words[1:3]})
    tokenizer.chat_template = CHAT
    config = Qwen3Config(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=2,
        head_dim=16, max_position_embeddings=512, num_hidden_layers=layers,
    )  # fmt: skip
    return tokenizer, kind(config).eval()


def flux2_klein():
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )
    from transformers import Qwen3ForCausalLM

    tokenizer, text_encoder = qwen(Qwen3ForCausalLM, 28)
    transformer = Flux2Transformer2DModel(
        in_channels=128, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=96, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    autoencoder = vae(AutoencoderKLFlux2, 32)
    autoencoder.bn.running_mean.normal_()
    autoencoder.bn.running_var.uniform_(0.5, 2.0)
    return Flux2KleinPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **FLOW),
        vae=autoencoder, text_encoder=text_encoder, tokenizer=tokenizer,
    )  # fmt: skip


def mistral():
    """A model for text and pictures, of 31 layers, of which three are read; its processor wants torchvision, and does
    with text what its tokenizer does.
    """
    from tokenizers import Tokenizer, models
    from tokenizers.pre_tokenizers import ByteLevel as Bytes
    from transformers import (
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        PreTrainedTokenizerFast,
    )

    special = ["<pad>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    own = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate([*special, *BYTES])}, merges=[]))
    own.pre_tokenizer = Bytes(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, pad_token="<pad>", model_max_length=512)
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}"
    )
    config = Mistral3Config(
        text_config={
            "model_type": "mistral", "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 31, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
            "max_position_embeddings": 1024, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
        },
        vision_config={
            "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 1, "image_size": 32, "patch_size": 16,
        },
        image_token_index=1,
    )  # fmt: skip
    return tokenizer, Mistral3ForConditionalGeneration(config).eval()


def flux2_dev():
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Pipeline, Flux2Transformer2DModel

    tokenizer, text_encoder = mistral()
    transformer = Flux2Transformer2DModel(
        in_channels=128, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=96, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=True,
    )  # fmt: skip
    autoencoder = vae(AutoencoderKLFlux2, 32)
    autoencoder.bn.running_mean.normal_()
    autoencoder.bn.running_var.uniform_(0.5, 2.0)
    return Flux2Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **FLOW),
        vae=autoencoder, text_encoder=text_encoder, tokenizer=tokenizer,
    )  # fmt: skip


def z_image():
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Model

    tokenizer, text_encoder = qwen(Qwen3Model, 3)
    transformer = ZImageTransformer2DModel(
        in_channels=16, dim=48, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
        axes_dims=[8, 8, 8], axes_lens=[1024, 64, 64],
    )  # fmt: skip
    return ZImagePipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, **FLOW),
        vae=vae(shift_factor=0.1159, scaling_factor=0.3611), text_encoder=text_encoder, tokenizer=tokenizer,
    )  # fmt: skip


def pixart(pipeline, **extra):
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

    tokenizer, text_encoder = t5()
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=48, caption_channels=48, **extra,
    )  # fmt: skip
    return pipeline(
        transformer=transformer, scheduler=DPMSolverMultistepScheduler(), vae=vae(channels=4, scaling_factor=0.5),
        text_encoder=text_encoder, tokenizer=tokenizer,
    )  # fmt: skip


def pixart_alpha():
    from diffusers import PixArtAlphaPipeline

    return pixart(PixArtAlphaPipeline, sample_size=128)  # so large ones are told resolution and aspect ratio


def pixart_sigma():
    from diffusers import PixArtSigmaPipeline

    return pixart(PixArtSigmaPipeline, sample_size=16)


def saved(make, folder):
    """A pipeline in a folder, with weights that every part of a result depends on."""
    torch.manual_seed(0)
    pipe = make()
    with torch.no_grad():
        for parameter in pipe.transformer.parameters():  # some begin at zero
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    pipe.save_pretrained(folder)
    return folder
