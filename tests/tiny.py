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


def saved(make, folder):
    """A pipeline in a folder, with weights that every part of a result depends on."""
    torch.manual_seed(0)
    pipe = make()
    with torch.no_grad():
        for parameter in pipe.transformer.parameters():  # some begin at zero
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    pipe.save_pretrained(folder)
    return folder
