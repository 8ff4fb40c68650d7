"""Transformers under the names that their publishers gave them, written by hand from diffusers' tensors.

Sources: the modules of black-forest-labs/flux and flux2 (model.py, layers.py), Stability-AI/sd3.5 (mmditx.py) and
Tongyi-MAI/Z-Image (transformer.py) as their published files name them.
"""

import re

import torch

FLUX_IN = {"linear_1": "in_layer", "linear_2": "out_layer"}
FLUX = {
    r"time_text_embed\.timestep_embedder\.(linear_[12])": lambda m: f"time_in.{FLUX_IN[m[1]]}",
    r"time_text_embed\.guidance_embedder\.(linear_[12])": lambda m: f"guidance_in.{FLUX_IN[m[1]]}",
    r"time_text_embed\.text_embedder\.(linear_[12])": lambda m: f"vector_in.{FLUX_IN[m[1]]}",
    r"time_guidance_embed\.timestep_embedder\.(linear_[12])": lambda m: f"time_in.{FLUX_IN[m[1]]}",
    r"time_guidance_embed\.guidance_embedder\.(linear_[12])": lambda m: f"guidance_in.{FLUX_IN[m[1]]}",
    r"(double|single)_stream_modulation(_img|_txt)?\.linear": lambda m: f"{m[1]}_stream_modulation{m[2] or ''}.lin",
    r"x_embedder": lambda m: "img_in",
    r"context_embedder": lambda m: "txt_in",
    r"norm_out\.linear": lambda m: "final_layer.adaLN_modulation.1",
    r"proj_out": lambda m: "final_layer.linear",
    r"transformer_blocks\.(\d+)\.norm1\.linear": lambda m: f"double_blocks.{m[1]}.img_mod.lin",
    r"transformer_blocks\.(\d+)\.norm1_context\.linear": lambda m: f"double_blocks.{m[1]}.txt_mod.lin",
    r"transformer_blocks\.(\d+)\.attn\.norm_(q|k)": lambda m: f"double_blocks.{m[1]}.img_attn.norm.{NORM[m[2]]}",
    r"transformer_blocks\.(\d+)\.attn\.norm_added_(q|k)": lambda m: f"double_blocks.{m[1]}.txt_attn.norm.{NORM[m[2]]}",
    r"transformer_blocks\.(\d+)\.attn\.to_out\.0": lambda m: f"double_blocks.{m[1]}.img_attn.proj",
    r"transformer_blocks\.(\d+)\.attn\.to_add_out": lambda m: f"double_blocks.{m[1]}.txt_attn.proj",
    r"transformer_blocks\.(\d+)\.ff\.(net\.0\.proj|linear_in)": lambda m: f"double_blocks.{m[1]}.img_mlp.0",
    r"transformer_blocks\.(\d+)\.ff\.(net\.2|linear_out)": lambda m: f"double_blocks.{m[1]}.img_mlp.2",
    r"transformer_blocks\.(\d+)\.ff_context\.(net\.0\.proj|linear_in)": lambda m: f"double_blocks.{m[1]}.txt_mlp.0",
    r"transformer_blocks\.(\d+)\.ff_context\.(net\.2|linear_out)": lambda m: f"double_blocks.{m[1]}.txt_mlp.2",
    r"single_transformer_blocks\.(\d+)\.norm\.linear": lambda m: f"single_blocks.{m[1]}.modulation.lin",
    r"single_transformer_blocks\.(\d+)\.attn\.norm_(q|k)": lambda m: f"single_blocks.{m[1]}.norm.{NORM[m[2]]}",
    r"single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj": lambda m: f"single_blocks.{m[1]}.linear1",
    r"single_transformer_blocks\.(\d+)\.(proj_out|attn\.to_out)": lambda m: f"single_blocks.{m[1]}.linear2",
}
NORM = {"q": "query_norm", "k": "key_norm"}
SD3 = {
    r"pos_embed\.proj": lambda m: "x_embedder.proj",
    r"time_text_embed\.timestep_embedder\.linear_([12])": lambda m: f"t_embedder.mlp.{2 * (m[1] == '2')}",
    r"time_text_embed\.text_embedder\.linear_([12])": lambda m: f"y_embedder.mlp.{2 * (m[1] == '2')}",
    r"context_embedder": lambda m: "context_embedder",
    r"norm_out\.linear": lambda m: "final_layer.adaLN_modulation.1",
    r"proj_out": lambda m: "final_layer.linear",
    r"transformer_blocks\.(\d+)\.norm1\.linear": lambda m: f"joint_blocks.{m[1]}.x_block.adaLN_modulation.1",
    r"transformer_blocks\.(\d+)\.norm1_context\.linear": (
        lambda m: f"joint_blocks.{m[1]}.context_block.adaLN_modulation.1"
    ),
    r"transformer_blocks\.(\d+)\.attn(2?)\.norm_(q|k)": lambda m: f"joint_blocks.{m[1]}.x_block.attn{m[2]}.ln_{m[3]}",
    r"transformer_blocks\.(\d+)\.attn\.norm_added_(q|k)": (
        lambda m: f"joint_blocks.{m[1]}.context_block.attn.ln_{m[2]}"
    ),
    r"transformer_blocks\.(\d+)\.attn(2?)\.to_out\.0": lambda m: f"joint_blocks.{m[1]}.x_block.attn{m[2]}.proj",
    r"transformer_blocks\.(\d+)\.attn\.to_add_out": lambda m: f"joint_blocks.{m[1]}.context_block.attn.proj",
    r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj": lambda m: f"joint_blocks.{m[1]}.x_block.mlp.fc1",
    r"transformer_blocks\.(\d+)\.ff\.net\.2": lambda m: f"joint_blocks.{m[1]}.x_block.mlp.fc2",
    r"transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj": lambda m: f"joint_blocks.{m[1]}.context_block.mlp.fc1",
    r"transformer_blocks\.(\d+)\.ff_context\.net\.2": lambda m: f"joint_blocks.{m[1]}.context_block.mlp.fc2",
}
Z_IMAGE = {
    r"all_final_layer\.2-1\.(.+)": lambda m: f"final_layer.{m[1]}",
    r"all_x_embedder\.2-1": lambda m: "x_embedder",
    r"(.+\.attention)\.norm_(q|k)": lambda m: f"{m[1]}.{m[2]}_norm",
    r"(.+\.attention)\.to_out\.0": lambda m: f"{m[1]}.out",
}


def flux(tensors):
    """Also FLUX.2, whose single blocks diffusers leaves as they are."""
    left, made = dict(tensors), {}
    for block in sorted({n.rpartition(".attn.")[0] for n in tensors if ".attn." in n}):
        own = block.replace("single_transformer_blocks", "single_blocks").replace("transformer_blocks", "double_blocks")
        for end in ("weight", "bias"):
            for into, parts in (
                ("img_attn.qkv", ["attn.to_q", "attn.to_k", "attn.to_v"]),
                ("txt_attn.qkv", ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
            ):
                names = [f"{block}.{part}.{end}" for part in parts]
                if block.startswith("single"):
                    names, into = [*names, f"{block}.proj_mlp.{end}"], "linear1"
                if names[0] in left:
                    made[f"{own}.{into}.{end}"] = torch.cat([left.pop(name) for name in names])
    return made | renamed(left, FLUX)


def sd3(tensors):
    left = dict(tensors)
    made = {"pos_embed": left.pop("pos_embed.pos_embed")}
    last = max(int(n.split(".")[1]) for n in tensors if n.startswith("transformer_blocks."))
    swapped = left[f"transformer_blocks.{last}.norm1_context.linear.weight"], left["norm_out.linear.weight"]
    assert all(len(t) % 2 == 0 for t in swapped)
    for end in ("weight", "bias"):  # scale and shift the other way round, in a block whose text goes no further
        name = f"transformer_blocks.{last}.norm1_context.linear.{end}"
        left[name] = torch.cat(left[name].chunk(2)[::-1])
    for block in sorted({n.rpartition(".attn")[0] for n in tensors if ".attn" in n}):
        own = block.replace("transformer_blocks", "joint_blocks")
        for into, parts in (
            ("x_block.attn.qkv", ["attn.to_q", "attn.to_k", "attn.to_v"]),
            ("x_block.attn2.qkv", ["attn2.to_q", "attn2.to_k", "attn2.to_v"]),
            ("context_block.attn.qkv", ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
        ):
            for end in ("weight", "bias"):
                names = [f"{block}.{part}.{end}" for part in parts]
                if names[0] in left:
                    made[f"{own}.{into}.{end}"] = torch.cat([left.pop(name) for name in names])
    return made | renamed(left, SD3)


def z_image(tensors):
    left, made = dict(tensors), {}
    for name in [n for n in tensors if n.endswith(".attention.to_q.weight")]:
        block = name.removesuffix(".to_q.weight")
        made[f"{block}.qkv.weight"] = torch.cat([left.pop(f"{block}.to_{part}.weight") for part in "qkv"])
    return made | renamed(left, Z_IMAGE, rest=True)


def renamed(tensors, rules, rest=False):
    """By the first rule that fits a module's whole name; final modulation with shift before scale."""
    made = {}
    for name, tensor in tensors.items():
        module, _, end = name.rpartition(".")
        found = next((rule(m) for pattern, rule in rules.items() if (m := re.fullmatch(pattern, module))), None)
        assert found or rest, name
        if module == "norm_out.linear":
            tensor = torch.cat(tensor.chunk(2)[::-1])
        scale = found and (found.endswith(("query_norm", "key_norm")) and "norm." in found)
        made[f"{found or module}.{'scale' if scale else end}" if module else name] = tensor.contiguous()
    return made


MADE = {"sd3": sd3, "flux": flux, "flux2_klein": flux, "z_image": z_image}
"""name of a maker in tiny.py -> (tensors by diffusers' names) -> tensors by the publisher's."""
