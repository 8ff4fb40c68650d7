"""Names and shapes of a whole pipeline's tensors in the original layout (LDM, sgm): what checkpoints in one file have.

Source: diffusers scripts/convert_diffusers_to_original_stable_diffusion.py and ..._sdxl.py, which know the full-size
models only; here block numbers come from the configuration. Read back by diffusers' `from_single_file`.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from perdure.bases.single import FIRST, OPEN, SDXL_FIRST, SDXL_OPEN, TEXT, UNET, VAE

TOP = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0", "conv_out": "out.2", "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
VAE_OLD = {"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"}
OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj", "final_layer_norm": "ln_final",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
}  # fmt: skip


def checkpoint(pipe: Any) -> dict[str, Tensor]:
    """All tensors of a Stable Diffusion 1, 2 or XL pipeline under their original names.

    v-prediction of SDXL is told by the tensor keys `v_pred` and `ztsnr`, as ComfyUI supported_models.py wants it.
    """
    tensors = {UNET + unet_name(name, pipe.unet.config): t for name, t in pipe.unet.state_dict().items()}
    levels = len(pipe.vae.config.block_out_channels)
    tensors |= {
        VAE + new: t for name, old in pipe.vae.state_dict().items() for new, t in [vae_entry(name, old, levels)]
    }
    two = pipe.components.get("text_encoder_2") is not None
    if two:
        tensors |= _under(SDXL_FIRST, prefixed(pipe.text_encoder.state_dict()))
        tensors |= _under(SDXL_OPEN, open_clip(pipe.text_encoder_2.state_dict()))
    elif pipe.unet.config.cross_attention_dim == 1024:
        tensors |= _under(OPEN, open_clip(pipe.text_encoder.state_dict()))
    else:
        tensors |= _under(FIRST, prefixed(pipe.text_encoder.state_dict()))
    if two and pipe.scheduler.config.get("prediction_type") == "v_prediction":
        tensors["v_pred"] = torch.zeros(0)
        if pipe.scheduler.config.get("rescale_betas_zero_snr"):
            tensors["ztsnr"] = torch.zeros(0)
    return tensors


def unet_name(name: str, config: Mapping[str, Any]) -> str:
    """The original name of a UNet's module or tensor: `down_blocks.1.attentions.0.x` is `input_blocks.4.1.x`."""
    layers = int(config["layers_per_block"])
    for mine, theirs in TOP.items():
        if name == mine or name.startswith(f"{mine}."):
            return _inner(theirs + name[len(mine) :], "resnets" in mine)
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(.*)", name)
    if found is None:
        return name
    way, block, kind, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.op{rest.removeprefix('.conv')}"
    if kind == "upsamplers":
        attends = "CrossAttn" in config["up_block_types"][block]
        return f"output_blocks.{block * (layers + 1) + layers}.{2 if attends else 1}{rest}"
    place = block * (layers + 1) + number + (way == "down")
    sub = 0 if kind == "resnets" else 1
    return _inner(f"{'input' if way == 'down' else 'output'}_blocks.{place}.{sub}{rest}", kind == "resnets")


def _inner(name: str, resnet: bool) -> str:
    if resnet:
        for mine, theirs in RESNET.items():
            name = re.sub(rf"\.{mine}(?=\.|$)", f".{theirs}", name)
    return name


def vae_entry(name: str, tensor: Tensor, levels: int) -> tuple[str, Tensor]:
    """The original name and shape of an autoencoder's tensor; its attention is made of convolutions (c, c, 1, 1)."""
    name = re.sub(r"^(encoder|decoder)\.mid_block\.resnets\.(\d)", lambda m: f"{m[1]}.mid.block_{int(m[2]) + 1}", name)
    name = re.sub(r"^encoder\.down_blocks\.(\d)\.resnets\.", r"encoder.down.\1.block.", name)
    name = re.sub(r"^encoder\.down_blocks\.(\d)\.downsamplers\.0\.", r"encoder.down.\1.downsample.", name)
    found = re.fullmatch(r"decoder\.up_blocks\.(\d)\.(resnets|upsamplers\.0)\.(.+)", name)
    if found is not None:
        kind = "block" if found[2] == "resnets" else "upsample"
        name = f"decoder.up.{levels - 1 - int(found[1])}.{kind}.{found[3]}"
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    attention = re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name)
    if attention is None:
        return name, tensor
    own = (VAE_ATTENTION | VAE_OLD)[attention[2]]
    linear = tensor.dim() == 2
    return f"{attention[1]}.mid.attn_1.{own}.{attention[3]}", tensor[:, :, None, None] if linear else tensor


def prefixed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder's tensors with the prefix `text_model.`, whichever version of transformers named them."""
    return {name if name.startswith((TEXT, "text_projection")) else TEXT + name: t for name, t in tensors.items()}


def open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder's tensors as OpenCLIP names them: q, k, v in one; the projection transposed."""
    made: dict[str, Tensor] = {}
    fused: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix(TEXT)
        if name == "text_projection.weight":
            made["text_projection"] = tensor.T
        elif found := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", name):
            fused.setdefault((found[1], found[3]), {})[found[2]] = tensor
        else:
            for mine, theirs in OPEN_CLIP.items():
                name = name.replace(mine, theirs)
            made[name] = tensor
    for (layer, kind), own in fused.items():
        made[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat([own[letter] for letter in "qkv"])
    return made


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}
